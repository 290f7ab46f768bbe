"""The laws that every cell keeps, to certify a user's own."""

from jrnn._exports import public_names
from jrnn.testing.checking import check_cell as check_cell
from jrnn.testing.laws import LAWS as LAWS
from jrnn.testing.subject import LawError as LawError

__all__ = public_names(globals())
