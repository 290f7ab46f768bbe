"""The laws of cells, and a function to check them for your own cells."""

from jrnn._exports import public_names
from jrnn.testing.checking import check_cell as check_cell
from jrnn.testing.laws import LAWS as LAWS
from jrnn.testing.subject import LawError as LawError

__all__ = public_names(globals())
