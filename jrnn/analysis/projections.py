"""Projections of states onto their principal components, for phase portraits."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jrnn._checks import check_width


class Projection(NamedTuple):
    """Principal components of states, made by `principal_components`.

    Fields:
      mean: (D,).
      axes: (count, D), orthonormal rows.
      explained: (count,), fractions of the variance.
    """

    mean: Array
    axes: Array
    explained: Array

    def project(self, states: Any) -> Array:
        """Project states, (..., D), to coordinates along the axes, (..., count)."""
        return (jnp.asarray(states) - self.mean) @ self.axes.T


def principal_components(states: Any, count: int = 2) -> Projection:
    """Find the directions of largest variance of states.

        H − mean = U diag(σ) Vᵀ,   axes = the first rows of Vᵀ,   explainedᵢ = σᵢ² / Σⱼ σⱼ²

    Signs are chosen so that the entry of largest magnitude of each axis is positive, which makes plots
    reproducible.

    Args:
      states: (..., D), such as those of `trajectory`.
      count: number of components.

    Returns:
      A `Projection`; its `project` maps states and fixed points to (..., count).

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
            f"count must be at most {min(rows.shape)} for {len(rows)} states of {rows.shape[1]} numbers, "
            f"got {count}"
        )
    mean = rows.mean(axis=0)
    _, sigma, axes = jnp.linalg.svd(rows - mean, full_matrices=False)
    largest = jnp.take_along_axis(axes, jnp.abs(axes).argmax(axis=1, keepdims=True), axis=1)
    total = jnp.sum(sigma**2)
    explained = sigma**2 / jnp.where(total > 0, total, 1)
    return Projection(mean, (axes * jnp.sign(largest))[:count], explained[:count])


def rows_of(states: Any) -> Array:
    """Reshape states from (..., D) to (n, D); a ValueError if there are none."""
    states = jnp.asarray(states)
    if states.ndim < 2 or states.size == 0:
        raise ValueError(f"states has shape {states.shape}, needs (..., D) with at least one state")
    return states.reshape(-1, states.shape[-1])
