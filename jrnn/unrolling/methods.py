"""What a method of running the loop is given, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Body = Callable[[Any, Any, Any], tuple[Any, Any]]  # (constants, carry, x) -> (carry, y)


@dataclass(frozen=True, eq=False)
class Loop:
    """What a method is given to run: `body` over the leading axis of `xs`, from the far end if `reverse`."""

    cell: Any
    body: Body
    constants: Any  # the parameters, and the state of a reset
    carry: Any
    xs: Any  # the inputs; which steps are valid, and which are resets, or None
    length: int
    reverse: bool


class Method(Protocol):
    """How a loop is run: a frozen dataclass with one method."""

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Return the carry after the last step, and the outputs of all steps."""
        ...
