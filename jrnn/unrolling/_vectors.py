"""The vectors of a matrix recurrence, computed from the values of a step, and what is read by them."""

import functools
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jax import Array

from jrnn._alignment import promoted
from jrnn.unrolling._forms import Factor, Labels
from jrnn.unrolling._matrices import Matrix, Part, Read, Vector, components

Values = dict[Any, Any]


def values_of(vectors: Iterable[Vector]) -> tuple[int, ...]:
    """Values that vectors are computed from."""
    parts = [part for vector in vectors for part in vector]
    read = [factor.value for part in parts for factor in part.factors]
    return tuple(dict.fromkeys([*read, *(mask.flag.value for part in parts for mask in part.masks)]))


def vectors_of(matrix: Matrix) -> tuple[tuple[Vector, Labels], ...]:
    """All vectors of a recurrence, and their axes: d, u…, k…, v…, c…, q…; without d if nothing decays."""
    along = (*matrix.batch, matrix.key)
    found = [] if matrix.decay is None else [(matrix.decay, _needed(matrix, matrix.decay))]
    found += [(u, along) for u, _ in matrix.corrections]
    found += [(k, along) for k, _ in matrix.additions]
    found += [(v, (*matrix.batch, *matrix.values)) for _, v in matrix.additions]
    found += [(c, _needed(matrix, c)) for c, _ in matrix.fulls]
    return (*found, *((q, along) for q in matrix.queries))


def _needed(matrix: Matrix, vector: Vector) -> Labels:
    along = any(matrix.key in part.axes for part in vector)
    return (*matrix.batch, matrix.key) if along else matrix.batch


def compute(vector: Vector, values: Values, axes: Labels, sizes: Labels, like: Any) -> Array:
    """A vector at one step on all of these axes."""
    parts = (_computed(part, values, axes, like) for part in vector)
    return jnp.broadcast_to(functools.reduce(jnp.add, parts, jnp.zeros((1,) * len(axes), like)), sizes)


def compute_read(read: Read, matrix: Matrix, values: Values, products: dict[int, Array], like: Any) -> Array:
    """Values read of the state at one step; `products` (batch..., values...) by the number of the query."""
    axes = tuple(range(len(like.shape)))
    dtype = promoted(like.dtype, jnp.float32)
    total = functools.reduce(
        jnp.add, (_computed(part, values, axes, dtype) for part in read.rest), jnp.zeros((), dtype)
    )
    for query, rest, places in read.products:
        at = tuple(places[axis] for axis in (*matrix.batch, *matrix.values))
        seen = products[query]
        kept = [i for i, place in enumerate(at) if place >= 0]  # of the others, all have length 1
        seen = _aligned(seen.reshape([seen.shape[i] for i in kept]), tuple(at[i] for i in kept), axes)
        total = total + _computed(rest, values, axes, dtype, seen)
    return jnp.broadcast_to(total, like.shape).astype(like.dtype)


def _computed(part: Part, values: Values, axes: Labels, dtype: Any, beside: Array | None = None) -> Array:
    """A product on these axes, of length 1 where it does not depend on one."""
    total = jnp.ones((1,) * len(axes), dtype) if beside is None else beside.astype(dtype)
    ends = {label for factor in part.factors for label in factor.axes if label >= 0}
    for group in components(part.factors, ends):
        total = total * _group(group, values, axes, dtype)
    total = total if part.scale == 1 else part.scale * total
    for mask in part.masks:
        flag = _aligned(values[mask.flag.value], mask.flag.axes, axes)
        total = jnp.where(flag if mask.holds else ~flag, total, 0)
    return total


def _group(group: list[Factor], values: Values, axes: Labels, dtype: Any) -> Array:
    arrays = [values[factor.value].astype(dtype) for factor in group]
    arrays = [1 / a if factor.inverse else a for a, factor in zip(arrays, group, strict=True)]
    labels = dict.fromkeys(label for factor in group for label in factor.axes)
    inner = [label for label in labels if label < 0]
    if not inner:
        return _aligned(arrays[0], group[0].axes, axes)
    names = {label: number for number, label in enumerate(labels)}
    given = [item for a, f in zip(arrays, group, strict=True) for item in (a, [names[x] for x in f.axes])]
    out = tuple(label for label in labels if label >= 0)
    return _aligned(jnp.einsum(*given, [names[label] for label in out]), out, axes)


def _aligned(array: Array, labels: Labels, axes: Labels) -> Array:
    """An array with its axes in order, and axes of length 1 for those that it lacks."""
    places = [
        axes.index(label) if label in axes else len(axes) for label in labels
    ]  # of others, the length is 1
    order = sorted(range(len(labels)), key=places.__getitem__)
    sizes = dict(zip(labels, array.shape, strict=True))
    return jnp.transpose(array, order).reshape([sizes.get(axis, 1) for axis in axes])
