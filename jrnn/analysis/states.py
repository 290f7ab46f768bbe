"""A step of a cell as a map of real vectors, and its derivative: the basis of all of `analysis`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._states import float_state, ravel, state_of, unravel, updated
from jrnn.cell import Shape, carry_spec, in_ndim, is_layer
from jrnn.unrolling import Scan
from jrnn.unrolling._boundary import check_inputs, check_runs, promote_carry, starting_carry

Push = Callable[[Array], Array]  # (D,) -> (D,)


def begin(cell: Any, params: Any, xs: Any, carry: Any = None, key: Array | None = None) -> Any:
    """The initial carry of one sequence, in the dtypes that a step returns.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs of one sequence, (time, features), without batch axes; for a convolutional cell
        (time, *spatial, features).
      carry: initial carry; defaults to `cell.initial_carry`.
      key: draws the noise; without a key there is none.

    Returns:
      The carry.

    Raises:
      TypeError: a layer, or not a cell.
      ValueError: xs has a batch axis, a cell without a real-valued state, or inputs that `unroll` rejects.
    """
    if is_layer(cell):
        raise TypeError(f"analysis of states takes cells, and {cell} is a layer: pass one of its cells")
    check_runs(cell, Scan(), key)
    shape = check_inputs(cell, xs)[1]
    if len(shape) != _spatial(cell):
        given = jax.tree.leaves(xs)[0].shape
        needed = "(time,)" if in_ndim(cell) == 0 else "(time, features)"
        raise ValueError(f"xs has shape {given}, needs one sequence, {needed}; from a batch, take xs[:, b]")
    with jax.transfer_guard_host_to_device("allow"):  # the zeros of an initial state come from the host
        carry = promote_carry(cell, params, starting_carry(cell, params, carry, shape, key), xs)
    if not state_leaves(cell, params, carry):
        raise ValueError(f"{cell} has no real-valued state to analyze")
    return carry


def linear_step(cell: Any, params: Any, carry: Any, x: Any) -> tuple[Any, Push]:
    """Take a step, and linearize it with respect to the state.

        hₜ = F(hₜ₋₁, xₜ),   push(v) = J v,   J = ∂hₜ/∂hₜ₋₁

    h is the state as one real vector of length D (`to_vector`). `jax.vmap(push)` shares the linearization;
    `jax.linear_transpose` gives the pullback.

    Args:
      cell: the cell.
      params: its parameters.
      carry: the carry before the step, of one sequence.
      x: the input of the step.

    Returns:
      `(after, push)`: the carry after the step, and the map of tangents, (D,) to (D,).

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.analysis import linear_step
    >>> cell = jrnn.Elman(3, activation="identity")
    >>> params = cell.init(jax.random.key(0), 2)
    >>> after, push = linear_step(cell, params, jnp.zeros(3), jnp.ones(2))
    >>> bool(jnp.allclose(jax.vmap(push)(jnp.eye(3)), params.w_hh))
    True
    """

    def advance(h: Array) -> tuple[Array, Any]:
        after, _ = cell.step(params, from_vector(cell, params, h, carry), x)
        return to_vector(cell, params, after), after

    _, push, after = jax.linearize(advance, to_vector(cell, params, carry), has_aux=True)
    return after, push


def fixed_normal(seed: int, shape: Shape, dtype: Any) -> Array:
    """Standard normal numbers that do not depend on the default key type and dtype."""
    with jax.threefry_partitionable(True):
        return jax.random.normal(jax.random.key(seed, impl="threefry2x32"), shape, jnp.float32).astype(dtype)


def to_vector(cell: Any, params: Any, carry: Any) -> Array:
    """Flatten the state of one sequence to a real vector.

    Entries are in the order of the carry; for a complex entry, the real parts precede the imaginary parts.
    Integers (a clock) and slots are not included.

    Args:
      cell: the cell.
      params: its parameters.
      carry: a carry of one sequence.

    Returns:
      (D,).

    >>> import jax, jrnn
    >>> from jrnn.analysis import to_vector
    >>> cell = jrnn.LSTM(4)
    >>> params = cell.init(jax.random.key(0), 2)
    >>> to_vector(cell, params, cell.initial_carry(params)).shape  # h and c
    (8,)
    """
    return ravel(float_state(carry_spec(cell, params), carry))


def from_vector(cell: Any, params: Any, vector: Array, carry: Any) -> Any:
    """Invert `to_vector`: replace the state of a carry.

    Args:
      cell: the cell.
      params: its parameters.
      vector: (D,), the new state.
      carry: a carry of one sequence, whose integers and slots are kept.

    Returns:
      The carry.
    """
    return updated(carry, unravel(vector, float_state(carry_spec(cell, params), carry)))


def state_leaves(cell: Any, params: Any, carry: Any) -> dict[str, Any]:
    """The float and complex leaves of the state of a carry, by path: "c", "cells[0].h".

    A carry that is a single array has the path "h".
    """
    state = float_state(carry_spec(cell, params), carry)
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def state_places(cell: Any, params: Any, carry: Any) -> dict[str, int]:
    """Indices of the `state_leaves` among the leaves of a carry."""
    leaves, structure = jax.tree.flatten(carry)
    numbers = jax.tree.unflatten(structure, range(len(leaves)))
    places = state_of(float_state(carry_spec(cell, params), carry), numbers)
    return {_name(path): place for path, place in jax.tree_util.tree_leaves_with_path(places)}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path).lstrip(".") or "h"


def _spatial(cell: Any) -> int:
    """Number of spatial axes of the inputs of a cell: those of a convolutional cell inside it."""
    if not dataclasses.is_dataclass(cell):
        return 0
    values = [getattr(cell, field.name) for field in dataclasses.fields(cell)]
    inner = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
    return max([int(getattr(cell, "spatial", 0)), *map(_spatial, inner)])
