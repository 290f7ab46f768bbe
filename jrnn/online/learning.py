"""Gradients forward in time: a loss at every step, its gradient at once, in constant memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import select
from jrnn._checks import brief, require_cell, require_key
from jrnn.cell import batch_shape_of
from jrnn.online._moments import Moment
from jrnn.online._rows import Flags, Row, learned, start_learns, vector_of, whole_step, with_learned
from jrnn.online.exact import RTRL
from jrnn.unrolling._boundary import promote_carry, starting_carry


class Influence(NamedTuple):
    """x"""

    first: Array | None
    memory: Any


@dataclass(frozen=True)
class Online:
    """x"""

    cell: Any
    loss: Callable[..., Array]
    method: Any = RTRL()

    def init(self, params: Any, x: Any, *, carry: Any = None, key: Array | None = None) -> tuple[Influence, Any]:
        """x"""
        require_key(key)
        shape = batch_shape_of(self.cell, x)
        batched, inner = bool(shape), shape[1:]
        first = None
        if carry is None:
            carry = self._carry(params, x, key)
            if start_learns(self.cell, params, inner):
                first = jnp.ones(shape[:1], bool)
        moment = self._moment(params, carry, x, Flags(None, None, first))
        return Influence(first, self.method.start(moment)), carry

    def step(
        self, influence: Influence, carry: Any, params: Any, x: Any, target: Any, *,
        valid: Array | None = None, reset: Array | None = None,
    ) -> tuple[Influence, Any, Array, Any]:
        """x"""
        first = influence.first
        moment = self._moment(params, carry, x, Flags(valid, reset, first), target)

        def objective(theta: list[Array], v: Array) -> Any:
            step = whole_step(self.cell, moment.shape)
            after, y = moment.at(v, moment.row).each(lambda v, row: step(theta, v, row))
            return moment.loss(y), after

        derivative = jax.value_and_grad(objective, (0, 1), has_aux=True)
        (loss, after), (direct, adjoint) = derivative(moment.theta, moment.v)
        memory, theta_gradient = self.method.learn(moment, influence.memory, direct, adjoint)
        gradient = with_learned(params, theta_gradient, jnp.zeros_like)
        if first is not None:
            first = first & ~valid if valid is not None else jnp.zeros_like(first)
        return Influence(first, memory), after, loss, gradient

    def _carry(self, params: Any, x: Any, key: Array | None) -> Any:
        shape = batch_shape_of(self.cell, x)
        lead = 1 if shape else 0
        xs = jax.tree.map(lambda a: jnp.zeros((1, *a.shape[lead:]), a.dtype), x)

        def start(key: Array | None) -> Any:
            carry = starting_carry(self.cell, params, None, shape[1:], key)
            return promote_carry(self.cell, params, carry, xs, 1)

        if not shape:
            return start(key)
        if key is not None:
            return jax.vmap(start)(jax.random.split(key, shape[0]))
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (shape[0], *a.shape)), start(None))

    def _moment(self, params: Any, carry: Any, x: Any, flags: Flags, target: Any = None) -> Moment:
        shape = batch_shape_of(self.cell, x)
        inner = shape[1:]

        def vector(carry: Any) -> Array:
            return vector_of(self.cell, params, inner, carry)

        v = jax.vmap(vector, axis_size=shape[0])(carry) if shape else vector(carry)
        theta = learned(params)
        row = Row(params, carry, x, flags)

        def loss(y: Any) -> Array:
            return self.loss(y, target, flags.valid)

        return Moment(self.cell, inner, bool(shape), theta, v, row, loss)
