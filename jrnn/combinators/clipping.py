"""Gradients kept short where they pass from a step to the one before."""

import functools
from dataclasses import dataclass
from typing import Annotated, Any, Generic

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import expand, select
from jrnn._checks import require_cell
from jrnn._fields import Positive, checked
from jrnn.cell import C, Cell, P, Shape, carry_spec, in_ndim, is_slot
from jrnn.cells._gating import widened


@checked
@dataclass(frozen=True)
class ClipGradient(Generic[P, C]):
    """A cell whose gradient is clipped at every step of the recurrence.

        sₜ, yₜ = cell(sₜ₋₁, xₜ)                            forwards as ever
        λₜ₋₁ ← λₜ₋₁ · min(1, max_norm / ‖λₜ₋₁‖)           backwards, λ = ∂L/∂s of each sequence

    The norm is that of the whole state of a sequence, so that its direction stays (clipping entry by entry
    turns it). What flows on to the weights of earlier steps cannot explode on its way; optax's
    `clip_by_global_norm` bounds only the sum of all steps, after the fact. Where nothing is clipped the
    gradient is exact; where something is, it is not the gradient of the loss, forward-mode derivatives stay
    exact, and second derivatives take the clip for linear. Parameters and carry are those of the cell.

    Args:
      cell: any cell.
      max_norm: longest gradient of the state of a sequence that passes from a step to the one before, in
        units of the loss per unit of state. With a mean loss over a batch of B, 1/B of that of one sequence.

    Raises:
      ValueError: a `max_norm` that is not above 0.

    Reference: clipping within the recurrence: Graves, Generating sequences with recurrent neural networks,
    2013, arXiv:1308.0850; by norm: Pascanu, Mikolov, Bengio, 2013, arXiv:1211.5063.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.ClipGradient(jrnn.Elman(3, activation="identity"), max_norm=0.1)
    >>> params = cell.init(jax.random.key(0), 2)
    >>> def last(h): return jrnn.unroll(cell, params, jnp.ones((5, 2)), h)[0].sum()
    >>> round(float(jnp.linalg.norm(jax.grad(last)(jnp.ones(3)))), 6)
    0.1
    """

    cell: Annotated[Cell[P, C], require_cell]
    max_norm: Positive

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> P:
        return self.cell.init(key, in_features)

    def initial_carry(self, params: P, batch_shape: Shape = (), *, key: Array | None = None) -> C:
        return self.cell.initial_carry(params, batch_shape, key=key)

    def step(self, params: P, carry: C, x: Any) -> tuple[C, Any]:
        spec = carry_spec(self.cell, params)
        moving: list[tuple[Array, int]] = []  # state, and how many axes of it stand behind the batch

        def collect(state: Any, given: Any) -> None:
            if state is not None and jnp.issubdtype(given.dtype, jnp.inexact):
                moving.append((given, state.ndim))

        jax.tree.map(collect, spec, carry, is_leaf=is_slot)
        clipped = iter(_clipped([leaf for leaf, _ in moving], [rank for _, rank in moving], self.max_norm))

        def replace(state: Any, given: Any) -> Any:
            moves = state is not None and jnp.issubdtype(given.dtype, jnp.inexact)
            return next(clipped) if moves else given

        return self.cell.step(params, jax.tree.map(replace, spec, carry, is_leaf=is_slot), x)


def _clipped(leaves: list[Array], ranks: list[int], max_norm: float) -> list[Array]:
    """Leaves as they are, whose gradients are scaled together to `max_norm` at most, each sequence alone."""

    def backwards(_: Any, gradients: list[Array]) -> list[Array]:
        lengths = [widened(jnp.abs(g)) for g in gradients]
        axes = [tuple(range(g.ndim - rank, g.ndim)) for g, rank in zip(gradients, ranks, strict=True)]
        own = list(zip(lengths, axes, strict=True))
        top = functools.reduce(jnp.maximum, [a.max(axis, initial=0) for a, axis in own])
        # squares of large numbers are inf, of small ones 0: all are divided by the largest, in two steps, as
        # 1 / 1e38 is 0, too
        half = jax.lax.rsqrt(jnp.where(top > 0, top, 1))
        units = ((a * expand(half, a.ndim) * expand(half, a.ndim), axis) for a, axis in own)
        squares = sum(jnp.square(a).sum(axis) for a, axis in units)
        rest = half * (max_norm / jnp.sqrt(jnp.where(squares > 0, squares, 1)))

        def clip(g: Array) -> Array:
            first, second = (expand(a, g.ndim).astype(g.dtype) for a in (half, rest))
            return select(half * rest < 1, g * first * second, g)

        return [clip(g) for g in gradients]

    # a linear map with a transpose of one's own that works in all modes: custom_vjp has no forward mode
    return list(lax.custom_linear_solve(lambda x: x, leaves, lambda _, x: x, backwards)) if leaves else []
