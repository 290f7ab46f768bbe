"""The documentation: hand-written pages, generators of pages, and the build (`python -m docs`)."""
