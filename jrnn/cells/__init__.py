"""Recurrent cells, one architecture family per file; `jrnn` exports them too."""

from jrnn import _exports

__getattr__, __dir__, __all__ = _exports.attach(__name__)
