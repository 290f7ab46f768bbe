"""The contract between `unroll` and a method, which runs a loop."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import select
from jrnn._caching import cached
from jrnn.cell import C, CellOf, P, Y, carry_spec, map_state, structure_of

Body = Callable[[Any, Any, Any], tuple[Any, Any]]  # (consts, carry, inputs of a step) -> (carry, y)
Run = Callable[[Any, Any, Any], tuple[Any, Any]]  # (consts, carry, inputs of all steps) -> (carry, ys)


class LoopConsts(NamedTuple):
    """Constants of a loop: the same at every step."""

    params: Any
    reset_state: Any  # None without resets


class StepInputs(NamedTuple):
    """Inputs of a loop: of one step, or of all steps with a leading axis of time."""

    x: Any
    valid: Array | None
    reset: Array | None


# Fields that are arrays; under jit, grad or `eval_shape` these are traced, and the others stay as they are.
_DATA = ["params", "reset_state", "carry", "xs", "valid", "reset"]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=_DATA, meta_fields=["cell", "length", "reverse"]
)
@dataclass(frozen=True, eq=False)
class Loop(Generic[P, C, Y]):
    """A cell with everything needed to run it over a sequence: the argument of a method.

        carryₜ, ysₜ = body(consts, carryₜ₋₁, inputsₜ),   t = 0 … length − 1, from the end if `reverse`

    `body` is the step of the cell with masks and resets applied. It is the same function for equal cells, so
    that a method that passes it to `lax.scan` is compiled once. A loop is a pytree of its arrays.

    Args:
      cell: the cell.
      params: its parameters.
      reset_state: the state that a reset restores, (batch..., ...); None without resets.
      carry: the carry before the first visited step, in the dtypes that a step returns.
      xs: inputs, a tree of (time, ...), with padding already replaced.
      valid: (time, leading batch axes), False at steps to skip; None: all are valid.
      reset: (time, leading batch axes), True where the state is set to `reset_state` before the step;
        None: nowhere.
      length: number of steps.
      reverse: visit the last step first. The outputs stay in the order of xs.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class OneByOne:
    ...     def run(self, loop):
    ...         return jax.lax.scan(lambda carry, inputs: loop.body(loop.consts, carry, inputs),
    ...                             loop.carry, loop.inputs, loop.length, loop.reverse)
    >>> cell = jrnn.GRU(3)
    >>> params = cell.init(jax.random.key(0), in_features=2)
    >>> jrnn.unroll(cell, params, jnp.ones((5, 2)), method=OneByOne())[1].shape
    (5, 3)
    """

    cell: CellOf[P, C, Y]
    params: P
    reset_state: C | None
    carry: C
    xs: Any
    valid: Array | None
    reset: Array | None
    length: int
    reverse: bool

    @property
    def body(self) -> Body:
        """The step with masks and resets: `(consts, carry, inputs) -> (carry, y)`."""
        return body_of(self.cell)

    @property
    def consts(self) -> LoopConsts:
        """The constants, as arguments of `body`."""
        return LoopConsts(self.params, self.reset_state)

    @property
    def inputs(self) -> StepInputs:
        """The inputs of all steps; entry t of each leaf is the argument of `body` at step t."""
        return StepInputs(self.xs, self.valid, self.reset)


class Method(Protocol):
    """A way to run a loop: a frozen dataclass with one method, `run(loop) -> (carry, ys)`.

    It is traced, also by an eager call. It returns what `lax.scan` over `loop.body` does, up to rounding:
    the carry after the last visited step, and the outputs of all steps in the order of `loop.xs`.

    >>> import jrnn
    >>> from jrnn.unrolling import Loop, Method
    >>> method: Method = jrnn.Scan(memory="sqrt")
    """

    def run(self, loop: Loop[P, C, Y]) -> tuple[C, Y]:
        """Run a loop; return the carry after its last step, and the outputs of all steps."""
        ...


@cached
def body_of(cell: Any) -> Body:
    """The step of a cell with masks and resets; cached, since `lax.scan` recompiles for each function."""

    def body(consts: Any, carry: Any, inputs: Any) -> tuple[Any, Any]:
        # without masks and resets, valid and reset are None, and the body is the step of the cell
        params, reset_state = consts
        x, valid, reset = inputs
        # Flags affect only state, so `map_state` leaves noise and context, None in `carry_spec`, as they are.
        spec = carry_spec(cell, params)
        if reset is not None:
            carry = map_state(functools.partial(_where, ~reset), spec, carry, reset_state)
        returned: tuple[Any, Any] = cell.step(params, carry, x)
        # `promote_carry` says what is wrong with a return that is no step
        if valid is None or not is_step(carry, returned):
            return returned
        after, y = returned
        after = map_state(functools.partial(_where, valid), spec, after, carry)
        y = jax.tree.map(lambda leaf: _where(valid, jnp.asarray(leaf), jnp.zeros_like(leaf)), y)
        return after, y

    return body


def is_step(given: Any, returned: Any) -> bool:
    """True if a step returned a pair, the first of which is like the given carry."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        return False
    after = returned[0]
    same = structure_of(given) == structure_of(after)
    pairs = zip(jax.tree.leaves(given), jax.tree.leaves(after), strict=same)
    return same and all(a.shape == b.shape for a, b in pairs)


def types_of_step(inputs: Any) -> Any:
    """The types of the inputs of one step, from the arrays or types of all steps, also of none."""
    return jax.eval_shape(_first_step, inputs)


def _first_step(inputs: Any) -> Any:
    def first(x: Array) -> Array:
        return lax.index_in_dim(x, 0, keepdims=False) if x.shape[0] else jnp.zeros(x.shape[1:], x.dtype)

    return jax.tree.map(first, inputs)


def _where(flags: Array, chosen: Array, other: Array) -> Array:
    """`jnp.where` with flags for the leading axes, (batch...), of arrays (batch..., ...)."""
    # An entry that the step returns unchanged is the very object that it was given. Without a select it
    # remains that, and so a constant of the loop: see `StepSignature.changing_pairs`.
    return chosen if chosen is other else select(flags, chosen, other)
