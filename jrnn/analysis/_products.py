"""Products of the Jacobians of a sequence by a tree, each divided by its norm so that none overflows."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn.analysis.states import linear_step, to_vector
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
    after = unroll(_Carrying(cell), params, xs, carry, method=method)[1]
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), carry, after)
    size = to_vector(cell, params, carry).size

    def jacobian(carry: Any, x: Any) -> Array:
        unit = jnp.eye(size, dtype=to_vector(cell, params, carry).dtype)
        return jax.vmap(linear_step(cell, params, carry, x)[1])(unit).T.astype(directions.dtype)

    def join(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        product, grown = _normalized(jnp.matmul(second[0], first[0], precision=lax.Precision.HIGHEST))
        return product, first[1] + second[1] + grown

    products, logs = lax.associative_scan(join, _normalized(jax.vmap(jacobian)(before, xs)))
    return logs + jnp.log(jnp.linalg.norm(products @ directions.T, 2, (-2, -1)))


def _normalized(matrices: Array) -> tuple[Array, Array]:
    """Matrices divided by their largest entries, and the logarithms of these; zero as it is, and −∞."""
    largest = jnp.abs(matrices).max((-2, -1))
    return matrices / jnp.where(largest == 0, 1, largest)[..., None, None], jnp.log(largest)
