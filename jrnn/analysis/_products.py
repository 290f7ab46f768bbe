"""Products of the Jacobians of a sequence by a tree, each divided by its norm so that none overflows."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import promoted
from jrnn._states import ravel
from jrnn.analysis.states import from_vector, linear_step, to_vector
from jrnn.unrolling import Method, unroll


@dataclass(frozen=True)
class _Carrying:
    """A cell whose output is its carry."""

    cell: Any

    @property
    def out_features(self) -> int:
        return int(self.cell.out_features)

    @property
    def in_ndim(self) -> int:
        return int(getattr(self.cell, "in_ndim", 1))

    def init(self, key: Array, in_features: int) -> Any:
        return self.cell.init(key, in_features)

    def initial_carry(self, params: Any, batch_shape: Any = (), *, key: Array | None = None) -> Any:
        return self.cell.initial_carry(params, batch_shape, key=key)

    def step(self, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        carry, _ = self.cell.step(params, carry, x)
        return carry, carry


def growth_at_once(cell: Any, params: Any, carry: Any, xs: Any, directions: Array, method: Method) -> Array:
    """Ln ‖Jₜ … J₂ J₁ V‖₂ for all steps, (T,), where the columns of V are `directions`.

        (A, a) ∘ (B, b) = (A B / ‖A B‖, a + b + ln ‖A B‖)      is associative

    Args:
      cell: the cell.
      params: its parameters.
      carry: the carry to start from, of one sequence.
      xs: inputs of one sequence.
      directions: (k, D).
      method: finds the states.
    """
    products, logs = _products(cell, params, states_before(cell, params, carry, xs, method), xs)
    return logs + jnp.log(jnp.linalg.norm(products @ directions.T, 2, (-2, -1)))


def states_before(cell: Any, params: Any, carry: Any, xs: Any, method: Method) -> Any:
    """The carry before every step, time first."""
    after = unroll(_Carrying(cell), params, xs, carry, method=method)[1]
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), carry, after)


def products_after(cell: Any, params: Any, before: Any, xs: Any) -> tuple[Array, Array]:
    """J_T … Jₜ₊₂ Jₜ₊₁ for all steps, as (T, D, D) matrices and the logarithms of their factors, (T,).

    Args:
      cell: the cell.
      params: its parameters.
      before: the carry before every step.
      xs: inputs of one sequence.
    """
    products, logs = _products(cell, params, before, xs, reverse=True)
    whole = jnp.eye(products.shape[-1], dtype=products.dtype)
    return jnp.concatenate([products[1:], whole[None]]), jnp.append(logs[1:], jnp.zeros_like(logs[:1]))


def _products(cell: Any, params: Any, before: Any, xs: Any, *, reverse: bool = False) -> tuple[Array, Array]:
    """Jₜ … J₁ for all steps, or with `reverse` J_T … Jₜ, as matrices and the logarithms of their factors."""

    def jacobian(carry: Any, x: Any) -> Array:
        h = to_vector(cell, params, carry)
        found = jax.vmap(linear_step(cell, params, carry, x)[1])(jnp.eye(h.size, dtype=h.dtype)).T
        return found.astype(promoted(h.dtype, jnp.float32))

    def join(near: tuple[Array, Array], far: tuple[Array, Array]) -> tuple[Array, Array]:
        later, earlier = (near, far) if reverse else (far, near)
        product, grown = _normalized(jnp.matmul(later[0], earlier[0], precision=lax.Precision.HIGHEST))
        return product, later[1] + earlier[1] + grown

    found: tuple[Array, Array] = lax.associative_scan(
        join, _normalized(jax.vmap(jacobian)(before, xs)), reverse=reverse
    )
    return found


def _normalized(matrices: Array) -> tuple[Array, Array]:
    """Matrices divided by their largest entries, and the logarithms of these; zero as it is, and −∞."""
    largest = jnp.abs(matrices).max((-2, -1))
    return matrices / jnp.where(largest == 0, 1, largest)[..., None, None], jnp.log(largest)


def pull_rows(cell: Any, params: Any, at: tuple[Any, Any], rows: Array) -> tuple[Array, Array | None]:
    """Map rows v to v ∂hₜ/∂hₜ₋₁ and v ∂hₜ/∂xₜ; None for the latter if no entry of x is real."""
    carry, x = at
    leaves, structure = jax.tree.flatten(x)
    real = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def advance(h: Array, moved: list[Array]) -> Array:
        given = dict(zip(real, moved, strict=True))
        moved_x = jax.tree.unflatten(structure, [given.get(i, leaf) for i, leaf in enumerate(leaves)])
        after, _ = cell.step(params, from_vector(cell, params, h, carry), moved_x)
        return to_vector(cell, params, after)

    _, pull = jax.vjp(advance, to_vector(cell, params, carry), [leaves[i] for i in real])
    rows, by_x = jax.vmap(pull)(rows)
    return rows, ravel(by_x, batch_ndim=1) if real else None


def log_norm(matrix: Array, norm: str) -> Array:
    """Ln of a norm of a matrix, "frobenius" or "spectral"."""
    return jnp.log(jnp.linalg.norm(matrix, "fro" if norm == "frobenius" else 2))
