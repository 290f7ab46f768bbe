"""Recurrent networks in JAX: write one step as a pure function, jrnn does the rest."""

from jrnn._exports import attach

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = attach(__name__)
