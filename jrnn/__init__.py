"""Recurrent networks in JAX: write one step as a pure function, jrnn does the rest."""

from jrnn import _exports

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = _exports.attach(__name__)
