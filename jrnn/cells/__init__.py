"""Recurrent cells, one architecture family per file; `jrnn` exports them too.

Docstrings of cells say in which way a cell differs. Unless they say otherwise,

Args:
  hidden: number of units, the width of h and of y.

Raises:
  ValueError: a width below 1, an unknown name, or a number out of its range.
  TypeError: a value of another type, or an option given by position.
"""

from jrnn import _exports

__getattr__, __dir__, __all__ = _exports.attach(__name__)
