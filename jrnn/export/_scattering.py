"""Mappings of primitives that write parts of an array, by indices into the flat array."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jrnn._jaxprs.equations import Equation
from jrnn.export._graph import INT64, Graph, Shape, Value, known, whole

ZERO, ONE = known(np.int64(0)), known(np.int64(1))
FLAT = (-1,)


def along(graph: Graph, size: Any, axis: int, rank: int) -> Value:
    """Count 0, 1, ... along one of several axes."""
    numbers = graph.emit("Range", ZERO, graph.scalar(size), ONE, like=((size,), INT64))
    return graph.reshape(numbers, tuple(size if i == axis else 1 for i in range(rank)))


def clamped(graph: Graph, starts: Value, shape: Shape, sizes: Shape) -> Value:
    """Clamp the starts of parts of some sizes so that they lie inside."""
    last = graph.elementwise("Sub", graph.dims(shape), graph.dims(sizes))
    return graph.elementwise("Max", graph.elementwise("Min", starts, last), ZERO)


def agree(graph: Graph, a: Value, b: Value) -> Value:
    """True where all entries along the last axis are equal."""
    equal = graph.cast(graph.elementwise("Equal", a, b, dtype=bool), np.int32)
    like = equal.shape[:-1], equal.dtype
    return graph.cast(graph.emit("ReduceMin", equal, known(np.array([-1])), like=like, keepdims=0), bool)


def _entry(graph: Graph, vector: Value, place: int) -> Value:
    return graph.emit("Gather", vector, known(np.int64(place)), like=(vector.shape[:-1], INT64), axis=-1)


def _numbered(graph: Graph, coordinates: list[Value], shape: Shape) -> Value:
    """The flat indices of coordinates."""
    flat = ZERO
    for coordinate, size in zip(coordinates, shape, strict=True):
        flat = graph.elementwise("Add", graph.elementwise("Mul", flat, graph.scalar(size)), coordinate)
    return flat


@dataclass(frozen=True, eq=False)
class Windows:
    """Parts of an array, as read by a gather and written by a scatter."""

    whole: Shape  # of the array
    shape: Shape  # of all parts
    windows: Sequence[int]  # axes of `shape` within a part, for the axes of the array not in `single`
    single: Sequence[int]  # axes of the array along which a part has one entry, and none in `shape`
    axes: Sequence[int]  # axes of the array along which the parts are placed
    batches: Mapping[int, int]  # axes of the array -> matching axes of the indices

    def lead(self) -> list[int]:
        """Axes of `shape` that number the parts."""
        return [i for i in range(len(self.shape)) if i not in self.windows]

    def spread(self) -> Shape:
        """`shape` with 1 along the axes within a part."""
        return tuple(1 if i in self.windows else n for i, n in enumerate(self.shape))

    def flat(self, graph: Graph, places: Value) -> Value:
        """The flat indices of all entries of the parts."""
        rank, lead = len(self.shape), self.lead()
        kept = [k for k in range(len(self.whole)) if k not in self.single]
        within = dict(zip(kept, self.windows, strict=True))
        coordinates = []
        for k, size in enumerate(self.whole):
            found = ZERO
            if k in self.axes:
                found = graph.reshape(_entry(graph, places, list(self.axes).index(k)), self.spread())
            if k in self.batches:
                found = along(graph, size, lead[self.batches[k]], rank)
            if k in within:
                counted = along(graph, self.shape[within[k]], within[k], rank)
                found = graph.elementwise("Add", found, counted)
            coordinates.append(found)
        return graph.full(_numbered(graph, coordinates, self.whole), self.shape)


def _written(graph: Graph, x: Value, flat: Value, part: Value, reduction: str) -> Value:
    """Write a part at flat indices; those past the end are dropped."""
    spare = known(np.zeros(1, x.dtype))
    parts = [graph.emit("Reshape", v, known(np.array(FLAT)), like=(FLAT, v.dtype)) for v in (x, flat, part)]
    entries = graph.emit("Concat", parts[0], spare, like=(FLAT, x.dtype), axis=0)
    written = graph.emit("ScatterElements", entries, *parts[1:], like=(FLAT, x.dtype), reduction=reduction)
    ends = known(np.array([0])), known(np.array([-1]))
    kept = graph.emit("Slice", written, *ends, like=(FLAT, x.dtype))
    return graph.emit("Reshape", kept, graph.dims(x.shape), like=(x.shape, x.dtype), allowzero=1)


def _dynamic_update_slice(graph: Graph, eqn: Equation, x: Value, part: Value, *starts: Value) -> Value:
    x, part = whole(graph, eqn, 0, x), whole(graph, eqn, 1, part)
    rank = len(x.shape)
    if rank == 0:
        return part
    numbers = [graph.reshape(graph.cast(n, INT64), (1,)) for n in starts]
    joined = graph.emit("Concat", *numbers, like=((rank,), INT64), axis=0)
    first = clamped(graph, joined, x.shape, part.shape)
    coordinates = [
        graph.elementwise("Add", along(graph, size, axis, rank), _entry(graph, first, axis))
        for axis, size in enumerate(part.shape)
    ]
    return _written(graph, x, graph.full(_numbered(graph, coordinates, x.shape), part.shape), part, "none")


def _scatter(graph: Graph, eqn: Equation, x: Value, indices: Value, part: Value, *, reduction: str) -> Value:
    numbers = eqn.params["dimension_numbers"]
    x, part = whole(graph, eqn, 0, x), whole(graph, eqn, 2, part)
    indices = graph.cast(whole(graph, eqn, 1, indices), INT64)
    axes = [int(k) for k in numbers.scatter_dims_to_operand_dims]
    single = [*map(int, numbers.inserted_window_dims), *map(int, numbers.operand_batching_dims)]
    within = [int(w) for w in numbers.update_window_dims]
    batches = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    parts = Windows(x.shape, part.shape, within, single, axes, batches)
    lengths = dict(zip([k for k in range(len(x.shape)) if k not in single], within, strict=True))
    sizes = tuple(part.shape[lengths[k]] if k in lengths else 1 for k in axes)
    inside = clamped(graph, indices, tuple(x.shape[k] for k in axes), sizes)
    flat = parts.flat(graph, inside)
    if "FILL" in str(eqn.params["mode"]):
        hits = graph.reshape(agree(graph, indices, inside), parts.spread())
        flat = graph.full(graph.where(hits, flat, graph.scalar(math.prod(x.shape))), part.shape)
    return _written(graph, x, flat, part, reduction)


SCATTERING: dict[str, Callable[..., Any]] = {
    "dynamic_update_slice": _dynamic_update_slice,
    "scatter": functools.partial(_scatter, reduction="none"),
    "scatter-add": functools.partial(_scatter, reduction="add"),
    "scatter-max": functools.partial(_scatter, reduction="max"),
    "scatter-min": functools.partial(_scatter, reduction="min"),
    "scatter-mul": functools.partial(_scatter, reduction="mul"),
}
