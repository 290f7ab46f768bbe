"""Calls of `unroll` outside of jit, as compiled programs: one for each shape, a few for ever new lengths."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrnn.unrolling._inputs import check_tokens
from jrnn.unrolling._masking import as_array, check_range
from jrnn.unrolling._rounding import can_round, lengthened, rounded, shortened

EXACT = 16  # lengths with a program of their own: padding costs time in each call, a new program seconds once


class Call(NamedTuple):
    """The arrays of a call of `unroll`."""

    params: Any
    xs: Any
    carry: Any
    lengths: Any
    mask: Any
    resets: Any
    key: Any


class CompiledCalls:
    """The compiled calls of one cell, in one direction, by one method.

    Args:
      function: the call, as a function of its arrays.
      rounds: whether a call may be given more steps, behind a mask.
    """

    def __init__(self, function: Callable[[Call], Any], rounds: bool):
        self.compiled = jax.jit(function)
        self.rounds = rounds
        self.lengths: set[int] = set()

    def __call__(self, cell: Any, call: Call, steps: int) -> tuple[Any, Any]:
        """Return the carry and the outputs, whose arguments are checked while the device computes."""
        result = self._call_longer(cell, call, steps) if self._is_new(steps) else None
        if result is None:
            result = self.compiled(call)
            self.lengths.add(steps)
        if call.lengths is not None:
            check_range(call.lengths, steps)
        check_tokens(cell, call.params, call.xs, call.lengths, call.mask)
        return result

    def _is_new(self, steps: int) -> bool:
        return self.rounds and len(self.lengths) >= EXACT and steps not in self.lengths

    def _call_longer(self, cell: Any, call: Call, steps: int) -> tuple[Any, Any] | None:
        """Run a call with steps added behind a mask; None if that would draw noise, or fails."""
        if call.key is not None or not can_round(cell, call.params, call.carry, call[1:]):
            return None
        size = rounded(steps)
        mask = np.ones(steps, bool) if call.mask is None else call.mask
        with contextlib.suppress(TypeError, ValueError):  # raised by the call as it was given
            longer = {"xs": call.xs, "mask": mask, "resets": call.resets}
            for leaf in jax.tree.leaves(longer):
                if leaf.shape[:1] != (steps,):
                    return None
            longer = jax.tree.map(lambda leaf: lengthened(leaf, size), longer)
            carry, ys = self.compiled(call._replace(**longer))
            return carry, shortened(ys, steps)
        return None


def if_concrete(call: Call) -> Call | None:
    """A call if all its leaves are arrays with known values; None if some are no arrays, or are traced.

    Lists of flags are converted.

    Raises:
      TypeError: lengths, a mask or resets that no array can hold.
    """
    for name in ("lengths", "mask", "resets"):
        given = getattr(call, name)
        if given is not None and not isinstance(given, jax.Array):
            call = call._replace(**{name: as_array(name, given)})
    return call if all(map(_is_concrete, jax.tree.leaves(call))) else None


def _is_concrete(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array):
        return not isinstance(leaf, jax.core.Tracer)
    return type(leaf) is np.ndarray and (leaf.dtype.kind in "biufc" or leaf.dtype == jnp.bfloat16)
