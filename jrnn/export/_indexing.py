"""Mappings of what reads or writes parts of an array."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jrnn._jaxprs import Equation
from jrnn.export._graph import INT64, Graph, Shape, Value, known, result, whole


def _slice(graph: Graph, eqn: Equation, x: Value) -> Value:
    starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(starts)
    axes = known(np.arange(len(starts), dtype=np.int64))
    ends = (graph.dims(tuple(starts)), graph.dims(tuple(stops)), axes, graph.dims(tuple(steps)))
    return graph.emit("Slice", whole(graph, eqn, 0, x), *ends, like=result(eqn))


def _starts(graph: Graph, starts: tuple[Value, ...], shape: Shape, sizes: Shape) -> Value:
    """Where a part begins, moved so that it lies inside, as JAX does."""
    numbers = [graph.reshape(graph.cast(n, INT64), (1,)) for n in starts]
    rank = (len(shape),)
    joined = graph.emit("Concat", *numbers, like=(rank, INT64), axis=0)
    last = graph.elementwise("Sub", graph.dims(shape), graph.dims(sizes))
    return graph.elementwise("Max", graph.elementwise("Min", joined, last), known(np.int64(0)))


def _dynamic_slice(graph: Graph, eqn: Equation, x: Value, *starts: Value) -> Value:
    shape, sizes = tuple(eqn.inputs[0].aval.shape), result(eqn)[0]
    if not shape:
        return x
    first = _starts(graph, starts[: len(shape)], shape, sizes)
    stops = graph.elementwise("Add", first, graph.dims(sizes))
    return graph.emit("Slice", whole(graph, eqn, 0, x), first, stops, like=result(eqn))


def _dynamic_update_slice(graph: Graph, eqn: Equation, x: Value, part: Value, *starts: Value) -> Value:
    """Places of the part, as flat numbers, at which x is overwritten."""
    shape, sizes = (tuple(v.aval.shape) for v in eqn.inputs[:2])
    if not shape:
        return part
    first = _starts(graph, starts, shape, sizes)
    flat = known(np.zeros((1,) * len(shape), np.int64))
    for axis, size in enumerate(shape):
        zero, one = known(np.int64(0)), known(np.int64(1))
        along = graph.emit("Range", zero, graph.scalar(sizes[axis]), one, like=((sizes[axis],), INT64))
        at = graph.emit("Gather", first, known(np.array([axis])), like=((1,), INT64))
        along = graph.elementwise("Add", along, at)
        along = graph.reshape(along, tuple(sizes[axis] if i == axis else 1 for i in range(len(shape))))
        flat = graph.elementwise("Add", graph.elementwise("Mul", flat, graph.size(size)), along)
    count = (-1,)
    places = graph.emit("Reshape", graph.full(flat, sizes), known(np.array(count)), like=(count, INT64))
    entries = [
        graph.emit("Reshape", v, known(np.array(count)), like=(count, v.dtype))
        for v in (whole(graph, eqn, 0, x), whole(graph, eqn, 1, part))
    ]
    written = graph.emit("ScatterElements", entries[0], places, entries[1], like=(count, x.dtype))
    return graph.emit("Reshape", written, graph.dims(shape), like=(shape, x.dtype))


def _gather(graph: Graph, eqn: Equation, x: Value, indices: Value) -> Value:
    """Whole slices at places along some axes: `x[i]`, `x[:, i]`, `x[i, j]`, `take_along_axis`."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = tuple(eqn.inputs[0].aval.shape)
    if len(eqn.inputs[1].aval.shape) == 1:
        return _window(graph, eqn, x, indices)
    axes, batch = list(numbers.start_index_map), list(numbers.operand_batching_dims)
    rest = [i for i in range(len(shape)) if i not in (*axes, *batch)]
    if sorted(numbers.collapsed_slice_dims) != sorted(axes) or any(sizes[i] != shape[i] for i in rest):
        raise NotImplementedError("the slices that are taken are neither single places nor whole axes")
    x = graph.transpose(whole(graph, eqn, 0, x), [*batch, *axes, *rest])
    indices = graph.cast(whole(graph, eqn, 1, indices), INT64)
    limits = graph.elementwise("Sub", graph.dims(tuple(shape[i] for i in axes)), known(np.int64(1)))
    inside = graph.elementwise("Max", graph.elementwise("Min", indices, limits), known(np.int64(0)))
    lead = [i for i in range(len(indices.shape) - 1) if i not in numbers.start_indices_batching_dims]
    order = [*numbers.start_indices_batching_dims, *lead]
    places = graph.transpose(inside, [*order, len(order)])
    outer = tuple(places.shape[:-1])
    like = ((*outer, *(shape[i] for i in rest)), x.dtype)
    if len(axes) == 1 and not batch:
        found = graph.emit("Gather", x, graph.reshape(places, outer), like=like, axis=0)
    else:
        found = graph.emit("GatherND", x, places, like=like, batch_dims=len(batch))
    offsets = list(numbers.offset_dims)
    targets = [i for i in range(len(like[0])) if i not in offsets]
    to = [targets[i] for i in order] + offsets
    found = graph.transpose(found, [int(i) for i in np.argsort(to)])
    if "FILL" not in str(eqn.params["mode"]):
        return found
    hits = _all_equal(graph, indices, inside)
    hits = graph.reshape(hits, tuple(1 if i in offsets else n for i, n in enumerate(found.shape)))
    return graph.where(hits, found, known(_filling(eqn, x.dtype)))


def _window(graph: Graph, eqn: Equation, x: Value, first: Value) -> Value:
    """One part of an array, as of `x[..., 2:5]`."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    axes, shape = list(numbers.start_index_map), tuple(eqn.inputs[0].aval.shape)
    limits = tuple(shape[i] - sizes[i] for i in axes)
    first = graph.cast(whole(graph, eqn, 1, first), INT64)
    inside = graph.elementwise("Max", graph.elementwise("Min", first, graph.dims(limits)), known(np.int64(0)))
    stops = graph.elementwise("Add", inside, graph.dims(tuple(sizes[i] for i in axes)))
    ends = inside, stops, known(np.array(axes, np.int64))
    part = graph.emit("Slice", whole(graph, eqn, 0, x), *ends, like=(tuple(sizes), x.dtype))
    found = graph.reshape(part, result(eqn)[0])
    if "FILL" not in str(eqn.params["mode"]) or _known_equal(first, inside):
        return found
    return graph.where(_all_equal(graph, first, inside), found, known(_filling(eqn, x.dtype)))


def _known_equal(a: Value, b: Value) -> bool:
    """Whether two values are known, and equal."""
    return a.array is not None and b.array is not None and np.array_equal(a.array, b.array)


def _all_equal(graph: Graph, a: Value, b: Value) -> Value:
    """Whether all entries along the last axis are equal."""
    equal = graph.cast(graph.elementwise("Equal", a, b, dtype=bool), np.int32)
    like = equal.shape[:-1], equal.dtype
    return graph.cast(graph.emit("ReduceMin", equal, known(np.array([-1])), like=like, keepdims=0), bool)


def _filling(eqn: Equation, dtype: Any) -> Any:
    """What stands in place of an entry outside."""
    given = eqn.params["fill_value"]
    if given is None and np.issubdtype(dtype, np.integer):
        given = np.iinfo(dtype).min if np.issubdtype(dtype, np.signedinteger) else np.iinfo(dtype).max
    elif given is None:
        given = False if np.dtype(dtype).kind == "b" else np.nan
    return np.asarray(given, dtype)


INDEXING: dict[str, Callable[..., Any]] = {
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "slice": _slice,
}
