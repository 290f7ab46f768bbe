"""Calls of `unroll` outside of jit, compiled: a program for each shape, and a few for all further lengths."""

import collections
import contextlib
import contextvars
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrnn._jaxprs.programs import trace
from jrnn.unrolling._boundary import check_inputs
from jrnn.unrolling._inputs import check_tokens
from jrnn.unrolling._masking import as_array, check_range
from jrnn.unrolling._rounding import can_round, lengthened, rounded, shortened

EXACT = 16  # lengths with a program of their own: padding costs time in each call, a new program seconds once


OFTEN = 8  # calls of a length that is rounded up, before it gets its program after all
_KNOWN = frozenset(map(np.dtype, "?bhilqBHILQefdFD"))


class Call(NamedTuple):
    """The arrays of a call of `unroll`."""

    params: Any
    xs: Any
    carry: Any
    lengths: Any
    mask: Any
    resets: Any
    key: Any


# cell, method, reverse, while a call is traced. If the function under `jit` held the cell, JAX's caches,
# which hold the function's jaxpr, could keep alive what the cell of a user closes over.
_CALLED: contextvars.ContextVar[tuple[Any, Any, bool]] = contextvars.ContextVar("_CALLED")


class CompiledCalls:
    """The compiled calls of one cell, in one direction, by one method.

    Args:
      unroll: a call as a function of its arrays, cell, method and direction.
      rounds: whether a call may be given more steps, behind a mask.
    """

    def __init__(self, unroll: Callable[..., Any], rounds: bool):
        def function(call: Call) -> Any:
            return unroll(call, *_CALLED.get())

        self.compiled = jax.jit(function)
        self.rounds = rounds
        self.pure: bool | None = None  # not known yet
        self.lengths: set[int] = set()  # with a program of their own
        self.again: collections.Counter[int] = collections.Counter()  # calls of other lengths

    def __call__(self, call: Call, cell: Any, method: Any, reverse: bool) -> tuple[Any, Any]:
        """Run a call: return the carry and the outputs.

        Lengths and tokens are checked meanwhile, while the device computes.
        """
        steps, _ = check_inputs(cell, call.xs)
        token = _CALLED.set((cell, method, reverse))
        try:
            # JAX would confuse the programs of 64-bit arrays of NumPy with and without x64
            given = jax.tree.map(_canonical, call)
            result = self._call_longer(cell, given, steps) if self._is_new(steps) else None
            if result is None:
                result = self.compiled(given)
                self.lengths.add(steps)
        finally:
            _CALLED.reset(token)
        if call.lengths is not None:
            check_range(call.lengths, steps)
        check_tokens(cell, call.params, call.xs, call.lengths, call.mask)
        return result

    def _is_new(self, steps: int) -> bool:
        if not self.rounds or len(self.lengths) < EXACT or steps in self.lengths:
            return False
        self.again[steps] += 1
        return self.again[steps] <= OFTEN

    def _call_longer(self, cell: Any, call: Call, steps: int) -> tuple[Any, Any] | None:
        """Run a call with steps added behind a mask; None if that would be noticed, or fails."""
        weak = any(getattr(leaf, "weak_type", False) for leaf in jax.tree.leaves(call))
        if weak or call.key is not None or not can_round(cell, call.params, call.carry, call[1:]):
            return None
        if not self._is_pure(call):
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

    def _is_pure(self, call: Call) -> bool:
        """False if the step prints or calls back, which steps behind a mask would do too."""
        if self.pure is None:
            self.pure = trace(self.compiled, call)[0].pure
        return self.pure


def eager_or_none(call: Call) -> Call | None:
    """A call outside of jit, of arrays alone; None if some leaves are none, or a program is being traced.

    Arrays of `jax.grad`, `jax.jvp` or `jax.vmap` outside of jit will do: JAX would compile the loops of such
    a call each time, but differentiates a compiled function as often as one likes. Lists of flags are
    converted.

    Raises:
      TypeError: lengths, a mask or resets that no array can hold.
    """
    for name in ("lengths", "mask", "resets"):
        given = getattr(call, name)
        if given is not None and not isinstance(given, jax.Array):
            call = call._replace(**{name: as_array(name, given)})
    leaves = jax.tree.leaves(call)
    if not all(map(_is_array, leaves)):
        return None
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    return None if traced and _traces_a_program() else call


def _traces_a_program() -> bool:
    """True under jit and its like, where what is computed from constants is not known either."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def _canonical(leaf: Any) -> Any:
    """An array of NumPy in the dtype that JAX gives it."""
    if isinstance(leaf, jax.Array):
        return leaf
    return leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False)


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array):
        return True
    if type(leaf) is not np.ndarray or not leaf.dtype.isnative:  # of other bytes JAX makes other numbers
        return False
    return leaf.dtype in _KNOWN or leaf.dtype == jnp.bfloat16
