"""One step of a cell as a map of real vectors, and its derivative: what all of `analysis` is made of."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn.cell import Shape, carry_spec, in_ndim, is_layer, is_slot
from jrnn.unrolling import Scan
from jrnn.unrolling._boundary import check_inputs, check_runs, promote_carry, starting_carry

Push = Callable[[Array], Array]  # (D,) -> (D,)


def begin(cell: Any, params: Any, xs: Any, carry: Any = None, key: Array | None = None) -> Any:
    """The carry that one sequence starts from, in the dtypes that a step returns.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs of one sequence, (time, features), without batch axes; of a convolutional cell
        (time, *spatial, features), and its state is that of all places.
      carry: carry to start from; a new one if left out.
      key: draws the noise; without one there is none.

    Returns:
      The carry.

    Raises:
      TypeError: a layer, or what is no cell.
      ValueError: xs has a batch axis, a state that holds no real numbers, or as of `unroll`.
    """
    if is_layer(cell):
        raise TypeError(f"analysis of states takes cells, and {cell} is a layer: give one of its cells")
    check_runs(cell, Scan(), key)
    steps, shape = check_inputs(cell, xs)
    if len(shape) != _spatial(cell):
        given = jax.tree.leaves(xs)[0].shape
        needed = "(time,)" if in_ndim(cell) == 0 else "(time, features)"
        raise ValueError(f"xs has shape {given}, needs one sequence, {needed}: of a batch, xs[:, b]")
    with jax.transfer_guard_host_to_device("allow"):  # of the zeros that a state starts from
        carry = promote_carry(cell, params, starting_carry(cell, params, carry, shape, key), xs, steps)
    if not state_leaves(cell, params, carry):
        raise ValueError(f"{cell} has no state of real numbers to look at")
    return carry


def linear_step(cell: Any, params: Any, carry: Any, x: Any) -> tuple[Any, Push]:
    """Take a step, and linearise it in the state.

        hₜ = F(hₜ₋₁, xₜ),   push(v) = J v,   J = ∂hₜ/∂hₜ₋₁

    h is the state as one real vector of length D (`to_vector`). `jax.vmap(push)` shares the step;
    `jax.linear_transpose` of it pulls back.

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
    """Standard normal numbers, the same whatever kind of key and dtype is the default."""
    with jax.threefry_partitionable(True):
        return jax.random.normal(jax.random.key(seed, impl="threefry2x32"), shape, jnp.float32).astype(dtype)


def to_vector(cell: Any, params: Any, carry: Any) -> Array:
    """The state of one sequence as one real vector.

    Its real entries in the order of the carry; of complex ones the real parts, then the imaginary ones.
    Integers (a clock) and slots are no part of it.

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
    leaves = state_leaves(cell, params, carry).values()
    return jnp.concatenate([part.ravel() for leaf in leaves for part in _parts(leaf)])


def from_vector(cell: Any, params: Any, vector: Array, carry: Any) -> Any:
    """The inverse of `to_vector`: the carry with another state.

    Args:
      cell: the cell.
      params: its parameters.
      vector: (D,), the state.
      carry: a carry of one sequence, of which all but the state is kept.

    Returns:
      The carry.
    """
    sizes = [part.size for leaf in state_leaves(cell, params, carry).values() for part in _parts(leaf)]
    parts = iter(jnp.split(vector, np.cumsum(sizes)[:-1]))

    def visit(state: Any, given: Any) -> Any:
        if state is None or not _moves(given):
            return given
        if not jnp.issubdtype(given.dtype, jnp.complexfloating):
            return next(parts).reshape(given.shape).astype(given.dtype)
        real, imaginary = next(parts).reshape(given.shape), next(parts).reshape(given.shape)
        return jax.lax.complex(real, imaginary).astype(given.dtype)

    return jax.tree.map(visit, carry_spec(cell, params), carry, is_leaf=is_slot)


def state_leaves(cell: Any, params: Any, carry: Any) -> dict[str, Any]:
    """The leaves of a carry that hold real or complex state, by their paths: "c", "cells[0].h".

    A carry that is one array has the path "h".
    """
    places = state_places(cell, params, carry)
    leaves = jax.tree.leaves(carry)
    return {name: leaves[place] for name, place in places.items()}


def state_places(cell: Any, params: Any, carry: Any) -> dict[str, int]:
    """Where `state_leaves` stand among the leaves of a carry."""
    places: dict[str, int] = {}
    count = 0

    def visit(path: tuple[Any, ...], state: Any, given: Any) -> None:
        nonlocal count
        if state is not None and _moves(given):
            places[_name(path)] = count
        count += len(jax.tree.leaves(given))

    jax.tree_util.tree_map_with_path(visit, carry_spec(cell, params), carry, is_leaf=is_slot)
    return places


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path).lstrip(".") or "h"


def _moves(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def _parts(leaf: Array) -> tuple[Array, ...]:
    return (leaf.real, leaf.imag) if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else (leaf,)


def _spatial(cell: Any) -> int:
    """Spatial axes of the inputs of a cell: those of a convolutional cell inside."""
    if not dataclasses.is_dataclass(cell):
        return 0
    values = [getattr(cell, field.name) for field in dataclasses.fields(cell)]
    inner = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
    return max([int(getattr(cell, "spatial", 0)), *map(_spatial, inner)])
