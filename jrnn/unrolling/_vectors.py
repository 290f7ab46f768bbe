"""The vectors of a matrix recurrence, computed from the values of a step, and what is read by them.

`_matrices` describes a recurrence in numbers of values and axes of the state, and `_chunks` computes with
arrays (batch..., steps, entries). This file goes from one to the other, for one state at a time:

    a step      `compute` gives k, v, c, q, ... from `env`, the values of a step: (batch..., entries)
    a chunk     `chunk_of` makes a `Chunk` of these, stacked over steps
    the state   `to_matrices` and `from_matrices`: any order of axes <-> (batch..., keys, values)
    a read      `compute_read` gives a value of the step from the products qᵀ S
"""

import math
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jax import Array

from jrnn._alignment import promoted
from jrnn._jaxprs.programs import Values
from jrnn.unrolling._chunks import Chunk, Structure
from jrnn.unrolling._forms import Factor, Labels
from jrnn.unrolling._matrices import Matrix, Part, Read, Vector, components

Env = dict[Any, Any]  # number of a value, or name of a vector or product -> its array


def values_of(vectors: Iterable[Vector]) -> Values:
    """The distinct values that vectors are computed from: factors first, then flags of masks."""
    factors: dict[int, None] = {}  # ordered sets
    flags: dict[int, None] = {}
    for vector in vectors:
        for part in vector:
            factors.update(dict.fromkeys(factor.value for factor in part.factors))
            flags.update(dict.fromkeys(mask.flag.value for mask in part.masks))
    return tuple(factors | flags)


def vectors_of(matrix: Matrix) -> tuple[tuple[Vector, Labels], ...]:
    """All vectors of a recurrence with their axes besides those of batch, in the order of a `Chunk`."""
    keys, values = (matrix.key_axis,), matrix.value_axes
    found: list[tuple[Vector, Labels]] = []
    if matrix.decay is not None:
        found.append((matrix.decay, _key_axis_of(matrix, matrix.decay)))
    found += [(write.key, keys) for write in matrix.writes]
    found += [(write.value, values) for write in matrix.writes if write.value]
    for write in matrix.writes:
        found += [(coefficient, ()) for _, coefficient in write.corrections]
    found += [(factors, _key_axis_of(matrix, factors)) for factors, _ in matrix.constants]
    found += [(query, keys) for query in matrix.queries]
    return tuple(found)


def _key_axis_of(matrix: Matrix, vector: Vector) -> Labels:
    """The axis of keys if a vector depends on it, e.g. a decay for each key; else none."""
    return (matrix.key_axis,) if any(matrix.key_axis in part.axes for part in vector) else ()


def structure_of(matrix: Matrix) -> Structure:
    """Parts that the recurrence of a matrix has."""
    corrections = [(key, query) for key, write in enumerate(matrix.writes) for query, _ in write.corrections]
    return Structure(tuple(bool(write.value) for write in matrix.writes), tuple(corrections))


def chunk_of(matrix: Matrix, vectors: Iterable[Array]) -> Chunk:
    """A chunk of the vectors of `vectors_of`, time first."""
    structure, batch_ndim = structure_of(matrix), len(matrix.batch_axes)
    # (C, batch..., entries) -> (batch..., C, entries)
    rest = iter(jnp.moveaxis(vector, 0, batch_ndim) for vector in vectors)

    def take(count: int) -> tuple[Array, ...]:
        return tuple(next(rest) for _ in range(count))

    return Chunk(
        decay=None if matrix.decay is None else next(rest),
        keys=take(len(matrix.writes)),
        values=tuple(_flat(value, batch_ndim + 1) for value in take(sum(structure.valued))),
        coefficients=take(len(structure.corrections)),
        constants=take(len(matrix.constants)),
        queries=take(len(matrix.queries)),
    )


def _flat(a: Array, start: int) -> Array:
    """The axes from a number on as one, of length 1 if there are none."""
    return a.reshape(*a.shape[:start], math.prod(a.shape[start:]))


def to_matrices(matrix: Matrix, entry: Array) -> Array:
    """An entry of the state as (batch..., keys, values), in float32 or wider."""
    order = (*matrix.batch_axes, matrix.key_axis, *matrix.value_axes)
    wide = entry.astype(promoted(entry.dtype, jnp.float32))
    return _flat(jnp.transpose(wide, order), len(matrix.batch_axes) + 1)


def from_matrices(matrix: Matrix, matrices: Array, like: Any) -> Array:
    """The inverse of `to_matrices`."""
    order = (*matrix.batch_axes, matrix.key_axis, *matrix.value_axes)
    back = [order.index(axis) for axis in range(len(order))]
    shaped = matrices.reshape([like.shape[axis] for axis in order])
    return jnp.transpose(shaped, back).astype(like.dtype)


def from_chunk(matrix: Matrix, product: Array, like: Any) -> Array:
    """Products of a state with a query, (batch..., C, values), time first: (C, batch..., value axes...)."""
    product = jnp.moveaxis(product, len(matrix.batch_axes), 0)
    return product.reshape(*product.shape[:-1], *(like.shape[axis] for axis in matrix.value_axes))


def compute(vector: Vector, matrix: Matrix, env: Env, axes: Labels, like: Any) -> Array:
    """A vector at one step: batch axes, of length 1 if it does not depend on them, then `axes`."""
    order = (*matrix.batch_axes, *axes)
    dtype = promoted(like.dtype, jnp.float32)
    total = jnp.zeros((1,) * len(order), dtype)
    for part in vector:
        total = total + _compute_part(part, env, order, dtype)
    batch = total.shape[: len(matrix.batch_axes)]
    return jnp.broadcast_to(total, (*batch, *(like.shape[axis] for axis in axes)))


def compute_read(read: Read, matrix: Matrix, env: Env, products: dict[int, Array], like: Any) -> Array:
    """Values read of the state at one step; `products` (batch..., values...) by the number of the query."""
    axes = tuple(range(len(like.shape)))
    dtype = promoted(like.dtype, jnp.float32)
    total = jnp.zeros((), dtype)
    for part in read.rest:
        total = total + _compute_part(part, env, axes, dtype)
    for query, rest, places in read.products:
        # The axes of a product are those of the state but that of keys; `places` says where each goes in the
        # value that is read, −1 for one that is summed over or missing there, which then has length 1.
        at = tuple(places[axis] for axis in (*matrix.batch_axes, *matrix.value_axes))
        product = products[query]
        kept = [i for i, place in enumerate(at) if place >= 0]
        product = product.reshape([product.shape[i] for i in kept])
        product = _aligned(product, tuple(at[i] for i in kept), axes)
        total = total + _compute_part(rest, env, axes, dtype, product)
    return jnp.broadcast_to(total, like.shape).astype(like.dtype)


def _compute_part(part: Part, env: Env, axes: Labels, dtype: Any, times: Array | None = None) -> Array:
    """A product of factors, and of `times`, on these axes, of length 1 where it does not depend on one."""
    total = jnp.ones((1,) * len(axes), dtype) if times is None else times.astype(dtype)
    # Factors that share an axis that is summed over are one `einsum`; the rest are multiplied elementwise.
    ends = {label for factor in part.factors for label in factor.axes if label >= 0}
    for group in components(part.factors, ends):
        total = total * _contract(group, env, axes, dtype)
    total = total if part.scale == 1 else part.scale * total
    for mask in part.masks:
        flag = _aligned(env[mask.flag.value], mask.flag.axes, axes)
        total = jnp.where(flag if mask.holds else ~flag, total, 0)
    return total


def _contract(group: list[Factor], env: Env, axes: Labels, dtype: Any) -> Array:
    """The product of factors, summed over the axes with negative labels."""
    arrays = []
    for factor in group:
        array = env[factor.value].astype(dtype)
        arrays.append(1 / array if factor.inverse else array)
    labels = dict.fromkeys(label for factor in group for label in factor.axes)
    if all(label >= 0 for label in labels):
        return _aligned(arrays[0], group[0].axes, axes)  # nothing joins it to another
    # einsum(array, labels, array, labels, ..., labels of the result), labels numbered from 0
    names = {label: number for number, label in enumerate(labels)}
    operands: list[Any] = []
    for array, factor in zip(arrays, group, strict=True):
        operands += [array, [names[label] for label in factor.axes]]
    out = tuple(label for label in labels if label >= 0)
    return _aligned(jnp.einsum(*operands, [names[label] for label in out]), out, axes)


def _aligned(array: Array, labels: Labels, axes: Labels) -> Array:
    """An array with its axes in the order of `axes`, and axes of length 1 for those that it lacks."""
    # labels (2, 0), axes (0, 1, 2):   (n₂, n₀) -> (n₀, n₂) -> (n₀, 1, n₂)
    # a label that is not among the axes has length 1: it comes last, and the reshape drops it
    places = [axes.index(label) if label in axes else len(axes) for label in labels]
    order = sorted(range(len(labels)), key=places.__getitem__)
    sizes = dict(zip(labels, array.shape, strict=True))
    return jnp.transpose(array, order).reshape([sizes.get(axis, 1) for axis in axes])
