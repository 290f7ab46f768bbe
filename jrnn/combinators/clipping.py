"""Gradient clipping at every step of backpropagation through time."""

import functools
from dataclasses import dataclass
from typing import Annotated, Any, Generic

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import expand, select
from jrnn._checks import require_cell
from jrnn._fields import Positive, checked
from jrnn._states import float_state, updated
from jrnn._timing import timed_inside
from jrnn.cell import C, Cell, P, Shape, carry_spec, in_ndim
from jrnn.cells._gating import widened


@checked
@dataclass(frozen=True)
class ClipGradient(Generic[P, C]):
    """A cell whose gradient is clipped at every step of the recurrence.

        sₜ, yₜ = cell(sₜ₋₁, xₜ)                            forward, unchanged
        λₜ₋₁ ← λₜ₋₁ · min(1, max_norm / ‖λₜ₋₁‖)           backward, λ = ∂L/∂s of each sequence

    The norm is taken over the whole state of a sequence, which preserves the direction (elementwise clipping
    changes it). So the gradient cannot explode on its way to earlier steps; optax's `clip_by_global_norm`
    only bounds the sum over all steps, after the fact. Where nothing is clipped, the gradient is exact.
    Where something is, it is no longer the gradient of the loss; forward-mode derivatives stay exact, and
    second derivatives treat the clip as linear. Parameters and carry are those of the cell.

    Args:
      cell: any cell.
      max_norm: largest norm of the gradient with respect to the state of one sequence, in units of loss per
        unit of state. For a loss that is a mean over a batch of B, divide by B.

    Raises:
      ValueError: `max_norm` is not positive.

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
    timed = timed_inside

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
        leaves, structure = jax.tree.flatten(float_state(spec, carry))
        ranks = [leaf.ndim for leaf in jax.tree.leaves(float_state(spec, spec))]  # axes after the batch
        clipped = jax.tree.unflatten(structure, _clipped(leaves, ranks, self.max_norm))
        return self.cell.step(params, updated(carry, clipped), x)


def _clipped(leaves: list[Array], ranks: list[int], max_norm: float) -> list[Array]:
    """The identity, with gradients scaled jointly to norm `max_norm` at most, each sequence separately."""

    def backwards(_: Any, gradients: list[Array]) -> list[Array]:
        lengths = [widened(jnp.abs(g)) for g in gradients]
        axes = [tuple(range(g.ndim - rank, g.ndim)) for g, rank in zip(gradients, ranks, strict=True)]
        own = list(zip(lengths, axes, strict=True))
        top = functools.reduce(jnp.maximum, [a.max(axis, initial=0) for a, axis in own])
        # squares of large numbers overflow and those of small ones underflow, so divide by the largest first;
        # in two steps, since 1 / 1e38 underflows as well
        half = jax.lax.rsqrt(jnp.where(top > 0, top, 1))
        units = ((a * expand(half, a.ndim) * expand(half, a.ndim), axis) for a, axis in own)
        squares = sum(jnp.square(a).sum(axis) for a, axis in units)
        rest = half * (max_norm / jnp.sqrt(jnp.where(squares > 0, squares, 1)))

        def clip(g: Array) -> Array:
            first, second = (expand(a, g.ndim).astype(g.dtype) for a in (half, rest))
            return select(half * rest < 1, g * first * second, g)

        return [clip(g) for g in gradients]

    # a linear map with a custom transpose that works in all modes; custom_vjp has no forward mode
    return list(lax.custom_linear_solve(lambda x: x, leaves, lambda _, x: x, backwards)) if leaves else []
