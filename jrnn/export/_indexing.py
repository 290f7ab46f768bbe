"""Mappings of primitives that read parts of an array."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jrnn._jaxprs.equations import Equation
from jrnn.export._graph import INT64, Graph, Shape, Value, known, result, whole
from jrnn.export._scattering import Windows, agree, clamped


def _slice(graph: Graph, eqn: Equation, x: Value) -> Value:
    starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(starts)
    axes = known(np.arange(len(starts), dtype=np.int64))
    ends = (graph.dims(tuple(starts)), graph.dims(tuple(stops)), axes, graph.dims(tuple(steps)))
    return graph.emit("Slice", whole(graph, eqn, 0, x), *ends, like=result(eqn))


def _dynamic_slice(graph: Graph, eqn: Equation, x: Value, *starts: Value) -> Value:
    shape, sizes = tuple(eqn.inputs[0].aval.shape), result(eqn)[0]
    if not shape:
        return x
    numbers = [graph.reshape(graph.cast(n, INT64), (1,)) for n in starts[: len(shape)]]
    joined = graph.emit("Concat", *numbers, like=((len(shape),), INT64), axis=0)
    first = clamped(graph, joined, shape, sizes)
    stops = graph.elementwise("Add", first, graph.dims(sizes))
    return graph.emit("Slice", whole(graph, eqn, 0, x), first, stops, like=result(eqn))


def _gather(graph: Graph, eqn: Equation, x: Value, indices: Value) -> Value:
    """Full slices at indices along some axes: `x[i]`, `x[:, i]`, `x[i, j]`, `take_along_axis`."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = tuple(eqn.inputs[0].aval.shape)
    if len(eqn.inputs[1].aval.shape) == 1:
        return _window(graph, eqn, x, indices)
    axes, batch = list(numbers.start_index_map), list(numbers.operand_batching_dims)
    rest = [i for i in range(len(shape)) if i not in (*axes, *batch)]
    if sorted(numbers.collapsed_slice_dims) != sorted(axes) or any(sizes[i] != shape[i] for i in rest):
        return _parts(graph, eqn, whole(graph, eqn, 0, x), whole(graph, eqn, 1, indices))
    x = graph.transpose(whole(graph, eqn, 0, x), [*batch, *axes, *rest])
    indices = graph.cast(whole(graph, eqn, 1, indices), INT64)
    inside = clamped(graph, indices, tuple(shape[i] for i in axes), (1,) * len(axes))
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
    at = tuple(1 if i in offsets else n for i, n in enumerate(found.shape))
    return _filled(graph, eqn, found, (indices, inside), at)


def _filled(graph: Graph, eqn: Equation, found: Value, places: tuple[Value, Value], at: Shape) -> Value:
    """The gathered entries, or the fill value where indices were out of bounds."""
    given, inside = places
    if "FILL" not in str(eqn.params["mode"]) or _known_equal(given, inside):
        return found
    hits = graph.reshape(agree(graph, given, inside), at)
    return graph.where(hits, found, known(_filling(eqn, found.dtype)))


def _parts(graph: Graph, eqn: Equation, x: Value, indices: Value) -> Value:
    """Parts of any size, entry by entry."""
    numbers = eqn.params["dimension_numbers"]
    axes = [int(k) for k in numbers.start_index_map]
    single = [*numbers.collapsed_slice_dims, *numbers.operand_batching_dims]
    batches = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    parts = Windows(x.shape, result(eqn)[0], list(numbers.offset_dims), single, axes, batches)
    indices = graph.cast(indices, INT64)
    sizes = tuple(eqn.params["slice_sizes"][k] for k in axes)
    inside = clamped(graph, indices, tuple(x.shape[k] for k in axes), sizes)
    flat = parts.flat(graph, inside)
    entries = graph.emit("Reshape", x, known(np.array([-1])), like=((-1,), x.dtype))
    found = graph.emit("Gather", entries, flat, like=(flat.shape, x.dtype), axis=0)
    return _filled(graph, eqn, found, (indices, inside), parts.spread())


def _window(graph: Graph, eqn: Equation, x: Value, first: Value) -> Value:
    """One slice of an array, e.g. `x[..., 2:5]`."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    axes, shape = list(numbers.start_index_map), tuple(eqn.inputs[0].aval.shape)
    first = graph.cast(whole(graph, eqn, 1, first), INT64)
    inside = clamped(graph, first, tuple(shape[i] for i in axes), tuple(sizes[i] for i in axes))
    stops = graph.elementwise("Add", inside, graph.dims(tuple(sizes[i] for i in axes)))
    ends = inside, stops, known(np.array(axes, np.int64))
    part = graph.emit("Slice", whole(graph, eqn, 0, x), *ends, like=(tuple(sizes), x.dtype))
    found = graph.reshape(part, result(eqn)[0])
    return _filled(graph, eqn, found, (first, inside), ())


def _known_equal(a: Value, b: Value) -> bool:
    """True if two values are known and equal."""
    return a.array is not None and b.array is not None and np.array_equal(a.array, b.array)


def _filling(eqn: Equation, dtype: Any) -> Any:
    """The fill value of entries out of bounds."""
    given = eqn.params["fill_value"]
    if given is None and np.issubdtype(dtype, np.integer):
        given = np.iinfo(dtype).min if np.issubdtype(dtype, np.signedinteger) else np.iinfo(dtype).max
    elif given is None:
        given = False if np.dtype(dtype).kind == "b" else np.nan
    return np.asarray(given, dtype)


INDEXING: dict[str, Callable[..., Any]] = {
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "slice": _slice,
}
