"""Recurrent cells, one architecture family per file; `jrnn` exports them too."""

from jrnn._exports import attach

__getattr__, __dir__, __all__ = attach(__name__)
