"""Projections of states onto the directions in which they vary most, in which phase portraits are drawn."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jrnn._checks import check_width


class Projection(NamedTuple):
    """Principal components of states, made by `principal_components`.

    Fields:
      mean: (D,).
      axes: (count, D), orthonormal rows.
      explained: (count,), shares of the variance.
    """

    mean: Array
    axes: Array
    explained: Array

    def project(self, states: Any) -> Array:
        """Coordinates of states, (..., D), along the axes, (..., count)."""
        return (jnp.asarray(states) - self.mean) @ self.axes.T


def principal_components(states: Any, count: int = 2) -> Projection:
    """Find the directions in which states vary most.

        H − mean = U diag(σ) Vᵀ,   axes = the first rows of Vᵀ,   explainedᵢ = σᵢ² / Σⱼ σⱼ²

    An axis points to where its entry of greatest magnitude is positive, so that the same states are drawn
    the same way.

    Args:
      states: (..., D), such as those of `trajectory`.
      count: how many.

    Returns:
      A `Projection`; its `project` takes states and fixed points to (..., count).

    Raises:
      ValueError: more components than states or entries.

    >>> import jax.numpy as jnp
    >>> from jrnn.analysis import principal_components
    >>> states = jnp.array([[1.0, 1.0], [3.0, 1.0], [8.0, 1.0]])
    >>> [f"{place:.1f}" for place in principal_components(states, 1).project(states)[:, 0]]
    ['-3.0', '-1.0', '4.0']
    """
    check_width("count", count)
    rows = rows_of(states)
    if count > min(rows.shape):
        raise ValueError(
            f"count must be at most {min(rows.shape)}, for {len(rows)} states of {rows.shape[1]} numbers, "
            f"got {count}"
        )
    mean = rows.mean(axis=0)
    _, sigma, axes = jnp.linalg.svd(rows - mean, full_matrices=False)
    largest = jnp.take_along_axis(axes, jnp.abs(axes).argmax(axis=1, keepdims=True), axis=1)
    total = jnp.sum(sigma**2)
    explained = sigma**2 / jnp.where(total > 0, total, 1)
    return Projection(mean, (axes * jnp.sign(largest))[:count], explained[:count])


def rows_of(states: Any) -> Array:
    """States with any leading axes as rows, (..., D) to (n, D); a ValueError if there are none."""
    states = jnp.asarray(states)
    if states.ndim < 2 or states.size == 0:
        raise ValueError(f"states has shape {states.shape}, needs (..., D), one state or more")
    return states.reshape(-1, states.shape[-1])
