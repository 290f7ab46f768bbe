"""The contract of a cell, and the functions of cells and carries that the library is built on."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import promoted
from jrnn._caching import cached
from jrnn._checks import require_key, require_tuple

PyTree = Any
Shape = tuple[int, ...]

P = TypeVar("P")
C = TypeVar("C")
Y = TypeVar("Y", covariant=True)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@runtime_checkable
class Cell(Protocol[P, C]):
    """One step of a recurrent network: a value with pure methods, without a base class.

        (carryₜ, yₜ) = step(params, carryₜ₋₁, xₜ)

    A cell is a frozen dataclass of hyper-parameters, so equal configurations are equal values with equal
    hashes. The last axis of `x` and `y` is features, all axes before it are batch axes. A cell whose `x`
    has no feature axis (tokens) has a field or class attribute `in_ndim = 0`.

    **Carry.** The entries that `initial_carry(params, batch_shape)` fills are *state*; every state leaf
    starts with the axes `batch_shape`, the batch shape of `x`. `unroll` rejects a carry of another batch
    shape, even 1; a bare `step` checks nothing and broadcasts as its operations do. A field left `None` is a
    *slot*: *noise*, filled when a key is given, or *context*, filled by a combinator. Masks and resets
    affect state only.

    **Optional attributes.** `linear = True`: the next state is elementwise affine in the state, and
    `Associative` solves for all steps at once. `diagonal = True`: no unit's next state depends on another's.
    `timed = True`: x may be `(values, dt)` with the time dt since the step visited before. Combinators and
    layers declare it if a cell inside does, and hand dt on to each that does.

    Members:
      out_features: width of `y`.
      init: `(key, in_features) -> params`, a NamedTuple of arrays (any pytree is accepted).
      initial_carry: `(params, batch_shape=(), *, key=None) -> carry`; `key` draws the noise of one
        sequence, `None` means no noise (evaluation).
      step: `(params, carry, x) -> (carry, y)`, in the order of `jax.lax.scan`.

    >>> import jrnn
    >>> isinstance(jrnn.LSTM(8), jrnn.Cell)
    True
    """

    @property
    def out_features(self) -> int: ...

    def init(self, key: Array, in_features: int) -> P: ...

    def initial_carry(self, params: P, batch_shape: Shape = (), *, key: Array | None = None) -> C: ...

    def step(self, params: P, carry: C, x: Any) -> tuple[C, Any]: ...


class CellOf(Protocol[P, C, Y]):
    """A `Cell` with outputs of a known type, for signatures that return them."""

    @property
    def out_features(self) -> int: ...

    def init(self, key: Array, in_features: int) -> P: ...

    def initial_carry(self, params: P, batch_shape: Shape = (), *, key: Array | None = None) -> C: ...

    def step(self, params: P, carry: C, x: Any) -> tuple[C, Y]: ...


@dataclass(frozen=True)
class FunctionCell:
    """The cell that `from_functions` returns."""

    init: Callable[[Array, int], Any]
    initial_carry: Callable[..., Any]
    step: Callable[[Any, Any, Any], tuple[Any, Any]]
    out_features: int
    in_ndim: int = 1


def from_functions(
    init: Callable[[Array, int], Any],
    initial_carry: Callable[..., Any],
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    out_features: int,
    in_ndim: int = 1,
) -> FunctionCell:
    """Make a cell of three plain functions, for a notebook.

    Functions compare by identity, so such a cell does not pickle, and running the definition again makes a
    different cell, which compiles again. A frozen dataclass with the same three methods has neither drawback.

    Args:
      init: `(key, in_features) -> params`.
      initial_carry: `(params, batch_shape=(), *, key=None) -> carry`.
      step: `(params, carry, x) -> (carry, y)`.
      out_features: width of `y`.
      in_ndim: feature axes of one `x`: 1, or 0 for a cell that takes tokens.

    Returns:
      A cell.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> leaky = jrnn.from_functions(
    ...     init=lambda key, in_features: jax.random.normal(key, (in_features, 3)),
    ...     initial_carry=lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3)),
    ...     step=lambda params, h, x: 2 * (0.9 * h + jnp.tanh(x @ params),), out_features=3)
    >>> jrnn.unroll(leaky, leaky.init(jax.random.key(0), 2), jnp.ones((5, 2)))[1].shape
    (5, 3)
    """
    return FunctionCell(init, initial_carry, step, out_features, in_ndim)


def in_ndim(cell: Any) -> int:
    """Feature axes of one `x`: 1 unless the cell declares 0 (tokens)."""
    return int(getattr(cell, "in_ndim", 1))


def is_linear(cell: Any) -> bool:
    """True if a cell declares that its next state is elementwise affine in its state."""
    return getattr(cell, "linear", False) is True


def batch_shape_of(cell: Any, x: Any) -> Shape:
    """Batch shape of one step's `x`: its first leaf without features; for a sequence, time comes first."""
    shape = jax.tree.leaves(x)[0].shape
    return tuple(shape[: len(shape) - in_ndim(cell)])


def is_layer(value: Any) -> bool:
    """True for a layer, False for a cell."""
    return hasattr(value, "apply") and not hasattr(value, "step") and not isinstance(value, type)


def is_slot(leaf: Any) -> bool:
    """True for a leaf of a `carry_spec` that marks a slot."""
    return leaf is None


def broadcasting(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a step add a bias (n,) to a batch (..., n), whatever `jax_numpy_rank_promotion` says.

    In a step, all axes but the last are batch axes, so this promotion is intended. Only decorated functions
    are exempt: a user's own cell follows the user's setting.
    """

    @functools.wraps(function)
    def broadcast(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return broadcast


@cached
def _carry_function(cell: Any, batch_shape: Shape) -> Callable[..., Any]:
    return lambda params, key: cell.initial_carry(params, batch_shape, key=key)


def carry_spec(cell: Any, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Any:
    """Shapes and dtypes of `cell.initial_carry(params, batch_shape, key=key)`, with `None` for slots.

    Costs one abstract call the first time and a cache look-up after that.
    """
    return jax.eval_shape(_carry_function(cell, batch_shape), params, key)


def structure_of(tree: Any, *, slots: bool = False) -> Any:
    """Tree structure; with `slots`, None counts as a leaf."""
    return jax.tree.structure(tree, is_leaf=is_slot if slots else None)


def map_state(f: Callable[..., Any], spec: Any, carry: Any, *rest: Any) -> Any:
    """Apply `f(leaf, *leaves of rest)` to the state of `carry`, and keep its slots.

    Args:
      f: function of state leaves.
      spec: `carry_spec(...)` without a key, which has `None` in place of slots.
      carry: the carry to map over.
      *rest: further trees of the same structure; their slots are ignored.
    """

    def visit(leaf: Any, given: Any, *others: Any) -> Any:
        return given if leaf is None else f(given, *others)

    return jax.tree.map(visit, spec, carry, *rest, is_leaf=is_slot)


def _some_key() -> Array:
    return jax.random.key(0)


def quiet(cell: Cell[Any, Any], params: Any, carry: Any) -> Any:
    """Remove the noise from a carry: its noise slots become `None`, state and context are kept.

    Args:
      cell: the cell that the carry belongs to.
      params: its parameters.
      carry: a carry of any batch shape.

    Returns:
      The carry with which `step` runs in evaluation mode.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Dropout(jrnn.Elman(3), output=0.5)
    >>> params = cell.init(jax.random.key(0), 2)
    >>> carry = cell.initial_carry(params, (4,), key=jax.random.key(1))
    >>> jrnn.quiet(cell, params, carry).key is None
    True
    """
    plain = carry_spec(cell, params)
    noisy = carry_spec(cell, params, key=jax.eval_shape(_some_key))

    def visit(state: Any, drawn: Any, given: Any) -> Any:
        return None if state is None and drawn is not None else given

    return jax.tree.map(visit, plain, noisy, carry, is_leaf=is_slot)


def trainable(params: Any) -> Any:
    """Boolean tree for optax: `False` for all leaves under a field or key named `fixed`.

    Args:
      params: parameters of any cell or layer.

    Returns:
      A tree of the structure of `params`, `True` where an optimizer may change the leaf.

    >>> import jrnn
    >>> jrnn.trainable({"w": 1.0, "fixed": {"reservoir": 2.0}})
    {'fixed': {'reservoir': False}, 'w': True}
    """

    def visit(path: tuple[Any, ...], _: Any) -> bool:
        return not any(getattr(k, "name", getattr(k, "key", None)) == "fixed" for k in path)

    return jax.tree_util.tree_map_with_path(visit, params)


def float_dtype(params: Any) -> Any:
    """The dtype that the float leaves of `params` promote to; the default float if there are none."""
    floats = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return promoted(*floats) if floats else jnp.result_type(float)


def zero_state(params: Any, batch_shape: Shape, features: int) -> Array:
    """Zeros of shape `(*batch_shape, features)` in the dtype of `params`: the initial state of most cells."""
    shape = (*require_tuple("batch_shape", batch_shape), features)
    return jnp.zeros(shape, float_dtype(params))


def complex_state(params: Any, batch_shape: Shape, features: int) -> Array:
    """Zeros of shape `(*batch_shape, features)`, complex: single precision, double for float64 params."""
    zero = zero_state(params, batch_shape, features)
    return zero.astype(jnp.complex128 if zero.dtype == jnp.float64 else jnp.complex64)


def zero_carry(self: Any, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Array:
    """The `initial_carry` of a cell whose state is one array of `hidden` zeros, set as a class attribute."""
    del key
    return zero_state(params, batch_shape, self.hidden)


def zero_complex_carry(self: Any, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Array:
    """Like `zero_carry`, for a state of `hidden` complex zeros."""
    del key
    return complex_state(params, batch_shape, self.hidden)


def key_or_none(key: Array | None, count: int) -> list[Array | None]:
    """Split a key for `count` inner cells, or return a `None` for each."""
    require_key(key)
    return [None] * count if key is None else list(jax.random.split(key, count))
