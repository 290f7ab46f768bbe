"""The contract: what a cell is, and the words that the rest of the library uses about one."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import promoted
from jrnn._caching import cached
from jrnn._checks import require_key

PyTree = Any
Shape = tuple[int, ...]

P = TypeVar("P")
C = TypeVar("C")
Y = TypeVar("Y", covariant=True)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@runtime_checkable
class Cell(Protocol[P, C]):
    """One step of a recurrent network: a value with pure methods, no base class needed.

        (carryₜ, yₜ) = step(params, carryₜ₋₁, xₜ)

    A cell is a frozen dataclass of hyper-parameters, so equal configuration is an equal value with an
    equal hash. The last axis of `x` and `y` is features, all axes before it are batch. A cell whose `x`
    has no feature axis (tokens) has a field or class attribute `in_ndim = 0`.

    **Carry.** What `initial_carry(params, batch_shape)` fills is *state*; every state leaf leads with
    `batch_shape`, the batch shape of `x`. `unroll` refuses a carry of another batch shape, of 1 too; a bare
    `step` checks nothing, and broadcasts as its operations do. A field that it leaves `None` is a *slot*:
    *noise*, filled when a key is given, or *context*, filled by a combinator. Masks and resets touch state
    only.

    **More can be said.** `linear = True`: the next state is elementwise affine in the state, and
    `Associative` solves for all steps at once. `diagonal = True`: no unit's next state depends on another's.

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
    """A cell whose outputs have a known type: what type checkers see of `Cell` where they matter."""

    @property
    def out_features(self) -> int: ...

    def init(self, key: Array, in_features: int) -> P: ...

    def initial_carry(self, params: P, batch_shape: Shape = (), *, key: Array | None = None) -> C: ...

    def step(self, params: P, carry: C, x: Any) -> tuple[C, Y]: ...


@dataclass(frozen=True)
class FunctionCell:
    """What `from_functions` returns: three functions that stand for a cell."""

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

    Functions compare by identity, so such a cell does not pickle, and running the defining lines again
    makes a new value that compiles anew. A frozen dataclass with the same three methods has neither cost.

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
    """Feature axes of one `x`: 1 unless the cell says otherwise (0: tokens without a feature axis)."""
    return int(getattr(cell, "in_ndim", 1))


def is_linear(cell: Any) -> bool:
    """Whether a cell says that its next state is elementwise affine in its state."""
    return getattr(cell, "linear", False) is True


def batch_shape_of(cell: Any, x: Any) -> Shape:
    """Batch shape of one step's `x`: its first leaf's shape less the features; of a sequence, after time."""
    shape = jax.tree.leaves(x)[0].shape
    return tuple(shape[: len(shape) - in_ndim(cell)])


def is_layer(value: Any) -> bool:
    """Whether a value is a layer rather than a cell."""
    return hasattr(value, "apply") and not hasattr(value, "step") and not isinstance(value, type)


def is_slot(leaf: Any) -> bool:
    """Whether a leaf of a carry without noise stands for a slot."""
    return leaf is None


def broadcasting(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a step add a bias (n,) to a batch (..., n), whatever `jax_numpy_rank_promotion` says.

    All axes of a step but the last are batch, so in it that is meant, as elsewhere it need not be. Only
    what is decorated is exempt: a user's own cell is held to the mode that its user chose.
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
    """Tree structure, with `slots` counted as leaves where they are None."""
    return jax.tree.structure(tree, is_leaf=is_slot if slots else None)


def map_state(f: Callable[..., Any], spec: Any, carry: Any, *rest: Any) -> Any:
    """Apply `f(leaf, *leaves of rest)` to the state of `carry`; its slots stay as they are.

    Args:
      f: function of state leaves.
      spec: `carry_spec(...)` without a key: `None` where a slot is.
      carry: the carry to map over.
      *rest: further carries of the same structure (slots in them are not looked at).
    """

    def visit(leaf: Any, given: Any, *others: Any) -> Any:
        return given if leaf is None else f(given, *others)

    return jax.tree.map(visit, spec, carry, *rest, is_leaf=is_slot)


def _some_key() -> Array:
    return jax.random.key(0)


def quiet(cell: Cell[Any, Any], params: Any, carry: Any) -> Any:
    """Take the noise out of a carry: its noise slots become `None`, state and context stay.

    Args:
      cell: the cell that the carry belongs to.
      params: its parameters.
      carry: a carry of any batch shape.

    Returns:
      The carry with which `step` runs as in evaluation.

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
    """Boolean tree for optax: `False` for what stands under a field or key named `fixed`.

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
    """Zeros of shape `(*batch_shape, features)` in the dtype of `params`: where most states start."""
    return jnp.zeros((*batch_shape, features), float_dtype(params))


def zero_carry(self: Any, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Array:
    """The `initial_carry` of a cell whose state is one array of `hidden` zeros, set as a class attribute."""
    del key
    return zero_state(params, batch_shape, self.hidden)


def key_or_none(key: Array | None, count: int) -> list[Array | None]:
    """Split a key for `count` inner cells, or hand each of them `None`."""
    require_key(key)
    return [None] * count if key is None else list(jax.random.split(key, count))
