"""The vectors of a matrix recurrence, computed from the values of a step, and what is read by them."""

import functools
import math
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jax import Array

from jrnn._alignment import promoted
from jrnn.unrolling._chunks import Chunk, Structure
from jrnn.unrolling._forms import Factor, Labels
from jrnn.unrolling._matrices import Matrix, Part, Read, Vector, components

Values = dict[Any, Any]


def values_of(vectors: Iterable[Vector]) -> tuple[int, ...]:
    """Values that vectors are computed from."""
    parts = [part for vector in vectors for part in vector]
    read = [factor.value for part in parts for factor in part.factors]
    return tuple(dict.fromkeys([*read, *(mask.flag.value for part in parts for mask in part.masks)]))


def vectors_of(matrix: Matrix) -> tuple[tuple[Vector, Labels], ...]:
    """All vectors of a recurrence with their axes besides those of batch, in the order of a `Chunk`."""
    keys, values = (matrix.key,), matrix.values
    found = [] if matrix.decay is None else [(matrix.decay, _needed(matrix, matrix.decay))]
    found += [(write.key, keys) for write in matrix.writes]
    found += [(write.value, values) for write in matrix.writes if write.value]
    found += [(c, ()) for write in matrix.writes for _, c in write.corrections]
    found += [(factors, _needed(matrix, factors)) for factors, _ in matrix.constants]
    return (*found, *((query, keys) for query in matrix.queries))


def _needed(matrix: Matrix, vector: Vector) -> Labels:
    return (matrix.key,) if any(matrix.key in part.axes for part in vector) else ()


def structure_of(matrix: Matrix) -> Structure:
    """Parts that the recurrence of a matrix has."""
    corrections = [(key, query) for key, write in enumerate(matrix.writes) for query, _ in write.corrections]
    return Structure(tuple(bool(write.value) for write in matrix.writes), tuple(corrections))


def chunk_of(matrix: Matrix, vectors: Iterable[Array]) -> Chunk:
    """A chunk of the vectors of `vectors_of`, time first."""
    structure, at = structure_of(matrix), len(matrix.batch)
    rest = iter(jnp.moveaxis(vector, 0, at) for vector in vectors)

    def take(count: int) -> tuple[Array, ...]:
        return tuple(next(rest) for _ in range(count))

    return Chunk(
        decay=None if matrix.decay is None else next(rest),
        keys=take(len(matrix.writes)),
        values=tuple(_flat(value, at + 1) for value in take(sum(structure.valued))),
        coefficients=take(len(structure.corrections)),
        constants=take(len(matrix.constants)),
        queries=take(len(matrix.queries)),
    )


def _flat(a: Array, start: int) -> Array:
    """The axes from a number on as one, of length 1 if there are none."""
    return a.reshape(*a.shape[:start], math.prod(a.shape[start:]))


def to_matrices(matrix: Matrix, entry: Array) -> Array:
    """An entry of the state as (batch..., keys, values), in float32 or wider."""
    order = (*matrix.batch, matrix.key, *matrix.values)
    wide = entry.astype(promoted(entry.dtype, jnp.float32))
    return _flat(jnp.transpose(wide, order), len(matrix.batch) + 1)


def from_matrices(matrix: Matrix, matrices: Array, like: Any) -> Array:
    """The inverse of `to_matrices`."""
    order = (*matrix.batch, matrix.key, *matrix.values)
    back = [order.index(axis) for axis in range(len(order))]
    shaped = matrices.reshape([like.shape[axis] for axis in order])
    return jnp.transpose(shaped, back).astype(like.dtype)


def from_chunk(matrix: Matrix, product: Array, like: Any) -> Array:
    """Products of a state with a query, (batch..., C, values), time first: (C, batch..., value axes...)."""
    product = jnp.moveaxis(product, len(matrix.batch), 0)
    return product.reshape(*product.shape[:-1], *(like.shape[axis] for axis in matrix.values))


def compute(vector: Vector, matrix: Matrix, values: Values, axes: Labels, like: Any) -> Array:
    """A vector at one step: batch axes, of length 1 if it does not depend on them, then `axes`."""
    order = (*matrix.batch, *axes)
    dtype = promoted(like.dtype, jnp.float32)
    total = jnp.zeros((1,) * len(order), dtype)
    for part in vector:
        total = total + _computed(part, values, order, dtype)
    return jnp.broadcast_to(total, (*total.shape[: len(matrix.batch)], *(like.shape[axis] for axis in axes)))


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
