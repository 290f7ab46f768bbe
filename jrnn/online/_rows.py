"""One row of a batch as a function of two vectors: its parameters that learn, and the numbers of its state.

    row_step      (params, carry, Flags, x) -> (carry, y), a step with masks and resets
    state_step    (theta, v, row) -> v, the same from the state as a vector of real numbers to the next
    tangent_step  (theta, v, row, theta tangents, v tangent) -> v tangent

Each row is a stream of its own, with its own noise; a batch is these functions under `vmap`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import match_type, select
from jrnn._caching import cached
from jrnn._jaxprs.programs import dce, inputs_of, is_inexact, trace
from jrnn._states import float_state, ravel, size_of, unravel, updated
from jrnn.cell import Shape, carry_spec, map_state, trainable
from jrnn.unrolling.methods import LoopConsts, StepInputs, body_of


class Flags(NamedTuple):
    """Flags of a row, or of all rows; each is None if it holds nowhere.

    Fields:
      valid: False: nothing happens at this step.
      reset: True: the state starts anew before this step.
      first: True: the carry is still the initial one, so that its derivative is that of `initial_carry`.
    """

    valid: Array | None
    reset: Array | None
    first: Array | None


class Row(NamedTuple):
    """All that a step reads."""

    params: Any
    carry: Any
    x: Any
    flags: Flags


@cached
def row_step(cell: Any, batch_shape: Shape) -> Callable[[Row], tuple[Any, Any]]:
    """The step of a cell with masks and resets, for one row; `batch_shape`: the batch axes inside of it."""

    def step(row: Row) -> tuple[Any, Any]:
        params, carry, x, (valid, reset, first) = row
        spec = carry_spec(cell, params, batch_shape)
        start = None
        if reset is not None or first is not None:
            start = cell.initial_carry(params, batch_shape)
            start = map_state(lambda own, given: match_type(own, jax.typeof(given)), spec, start, carry)
        if valid is not None:
            reset, first = (None if flag is None else flag & valid for flag in (reset, first))
        if first is not None:  # the carry as it stands, with the derivative of the initial one
            carry = map_state(lambda a, own: select(first, _with_derivative(a, own), a), spec, carry, start)
        return body_of(cell)(LoopConsts(params, start), carry, StepInputs(x, valid, reset))

    return step


def _with_derivative(value: Array, of: Array) -> Array:
    if not is_inexact(value):
        return value
    return lax.stop_gradient(value) + (of - lax.stop_gradient(of)).astype(value.dtype)


def filled(valid: Array | None, x: Any) -> Any:
    """Inputs of all rows, those of invalid ones replaced: by the first that is valid, or zero if none is.

    A derivative where nothing happens is multiplied by zero, so that it must be finite.
    """
    if valid is None or not valid.size:
        return x

    def fill(leaf: Array) -> Array:
        first = leaf[jnp.argmax(valid)] if valid.ndim else leaf
        other = jnp.where(valid.any(), first, jnp.zeros_like(first))
        return select(valid, leaf, jnp.broadcast_to(other, leaf.shape))

    return jax.tree.map(fill, x)


def unmasked(row: Row) -> Row:
    """A row whose step is taken."""
    return row._replace(flags=Flags(None, row.flags.reset, row.flags.first))


def where_valid(valid: Array | None, found: Any, other: Any) -> Any:
    """The arrays found at a step of one row; at an invalid one `other`."""
    return found if valid is None else jax.tree.map(lambda a, b: jnp.where(valid, a, b), found, other)


def learned(params: Any) -> list[Array]:
    """The leaves of params that learn: floats that are not `fixed`."""
    return [leaf for leaf, free in _marked(params) if free]


def with_learned(params: Any, theta: list[Any], other: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """Replace the leaves that learn, and apply `other` to the rest."""
    values = iter(theta)
    leaves = [next(values) if free else other(leaf) for leaf, free in _marked(params)]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _marked(params: Any) -> list[tuple[Any, bool]]:
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(trainable(params)), strict=True)
    return [(leaf, free and is_inexact(leaf)) for leaf, free in pairs]


@cached
def state_step(cell: Any, batch_shape: Shape) -> Callable[[list[Array], Array, Row], Array]:
    """One step of the state of a row as a vector."""

    def step(theta: list[Array], v: Array, row: Row) -> Array:
        after, _ = whole_step(cell, batch_shape)(theta, v, row)
        return vector_of(cell, row.params, batch_shape, after)

    return step


@cached
def whole_step(cell: Any, batch_shape: Shape) -> Callable[[list[Array], Array, Row], tuple[Any, Any]]:
    """One step, `(theta, v, row) -> (carry, y)`, in which theta and v take the place of those in `row`."""

    def step(theta: list[Array], v: Array, row: Row) -> tuple[Any, Any]:
        spec = carry_spec(cell, row.params, batch_shape)
        state = float_state(spec, row.carry)
        carry = updated(row.carry, unravel(v, state)) if size_of(state) else row.carry
        fixed = with_learned(row.params, theta, lax.stop_gradient)
        return row_step(cell, batch_shape)(row._replace(params=fixed, carry=carry))

    return step


@cached
def tangent_step(cell: Any, batch_shape: Shape) -> Callable[..., Array]:
    """The forward derivative of `state_step`."""

    def tangent(theta: list[Array], v: Array, row: Row, theta_dot: list[Array], v_dot: Array) -> Array:
        step = state_step(cell, batch_shape)
        found: Array = jax.jvp(lambda a, b: step(a, b, row), (theta, v), (theta_dot, v_dot))[1]
        return found

    return tangent


@cached
def pulled_step(cell: Any, batch_shape: Shape) -> Callable[[list[Array], Array, Row], Any]:
    """The backward derivative of one step, of itself, for its types alone."""

    def pulled(theta: list[Array], v: Array, row: Row) -> Any:
        def step(theta: list[Array], v: Array) -> Any:
            after, y = whole_step(cell, batch_shape)(theta, v, row)
            return vector_of(cell, row.params, batch_shape, after), [*filter(is_inexact, jax.tree.leaves(y))]

        found, pull = jax.vjp(step, theta, v)
        return pull(found)

    return pulled


def vector_of(cell: Any, params: Any, batch_shape: Shape, carry: Any) -> Array:
    """The floats of the state of a row as a vector of real numbers, (D,)."""
    state = float_state(carry_spec(cell, params, batch_shape), carry)
    return ravel(state) if size_of(state) else jnp.zeros(0)


def start_learns(cell: Any, params: Any, batch_shape: Shape) -> bool:
    """True if the initial state depends on the parameters."""
    program, closed_over, _ = trace(_start(cell, batch_shape), learned(params), params)
    first = len(closed_over)
    theta = program.inputs[first : first + len(learned(params))]
    read = {*inputs_of(dce(program.ops, program.outputs)), *program.outputs}
    return bool(read.intersection(theta))


@cached
def _start(cell: Any, batch_shape: Shape) -> Callable[[list[Array], Any], Any]:
    def start(theta: list[Array], params: Any) -> Any:
        carry = cell.initial_carry(with_learned(params, theta), batch_shape)
        return float_state(carry_spec(cell, params, batch_shape), carry)

    return start
