"""Mappings of primitives that move entries, or accumulate them along axes."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jrnn._jaxprs.equations import Equation
from jrnn.export._graph import INT64, Graph, Value, known, result, typed, whole

# shapes


def _broadcast_in_dim(graph: Graph, eqn: Equation, x: Value, *sizes: Value) -> Value:
    shape = result(eqn)[0]
    axes = eqn.params["broadcast_dimensions"]
    x = x if len(x.shape) == len(axes) else whole(graph, eqn, 0, x)
    spread: list[Any] = [1] * len(shape)
    for axis, size in zip(axes, x.shape, strict=True):
        spread[axis] = size
    # broadcast later, if a node needs it: most nodes broadcast themselves
    return graph.reshape(x, tuple(spread))


def _reshape(graph: Graph, eqn: Equation, x: Value, *sizes: Value) -> Value:
    return graph.reshape(whole(graph, eqn, 0, x), result(eqn)[0])


def _transpose(graph: Graph, eqn: Equation, x: Value) -> Value:
    return graph.transpose(whole(graph, eqn, 0, x), eqn.params["permutation"])


def _concatenate(graph: Graph, eqn: Equation, *operands: Value) -> Value:
    parts = [whole(graph, eqn, place, x) for place, x in enumerate(operands)]
    return graph.emit("Concat", *parts, like=result(eqn), axis=int(eqn.params["dimension"]))


def _stack(graph: Graph, eqn: Equation, *operands: Value) -> Value:
    shape, dtype = result(eqn)
    axis = int(eqn.params["axis"])
    one = tuple(1 if i == axis else n for i, n in enumerate(shape))
    parts = [graph.reshape(whole(graph, eqn, place, x), one) for place, x in enumerate(operands)]
    return graph.emit("Concat", *parts, like=(shape, dtype), axis=axis)


def _unstack(graph: Graph, eqn: Equation, x: Value) -> list[Value]:
    x, axis = whole(graph, eqn, 0, x), int(eqn.params["axis"])
    sizes = known(np.ones(len(eqn.outputs), np.int64))
    one = tuple(1 if i == axis else n for i, n in enumerate(x.shape))
    found = graph.emits("Split", [x, sizes], [(one, x.dtype)] * len(eqn.outputs), axis=axis)
    return [graph.reshape(part, result(eqn)[0]) for part in found]


def _tile(graph: Graph, eqn: Equation, x: Value) -> Value:
    return graph.emit(
        "Tile", whole(graph, eqn, 0, x), graph.dims(tuple(eqn.params["reps"])), like=result(eqn)
    )


def _sort(graph: Graph, eqn: Equation, *operands: Value) -> list[Value]:
    """Sort all operands by the first; stable, as in JAX."""
    if eqn.params["num_keys"] != 1:
        raise NotImplementedError("ties are broken by a second key")
    axis, (shape, dtype) = int(eqn.params["dimension"]), result(eqn)
    first, *rest = (whole(graph, eqn, place, x) for place, x in enumerate(operands))
    likes = [(shape, dtype), (shape, INT64)]
    ends = {"axis": axis, "largest": 0, "sorted": 1}
    found, order = graph.emits("TopK", [first, graph.size(shape[axis])], likes, **ends)
    moved = [graph.emit("GatherElements", x, order, like=(shape, x.dtype), axis=axis) for x in rest]
    return [found, *moved]


def _top_k(graph: Graph, eqn: Equation, x: Value) -> list[Value]:
    axis, (shape, dtype) = int(eqn.params["axis"]), result(eqn)
    ends = {"axis": axis, "largest": 1, "sorted": 1}
    x = whole(graph, eqn, 0, x)
    found, order = graph.emits("TopK", [x, graph.size(shape[axis])], [(shape, dtype), (shape, INT64)], **ends)
    return [found, graph.cast(order, eqn.outputs[1].aval.dtype)]


def _split(graph: Graph, eqn: Equation, x: Value) -> list[Value]:
    sizes = known(np.array([int(n) for n in eqn.params["sizes"]], np.int64))
    likes = [(tuple(v.aval.shape), v.aval.dtype) for v in eqn.outputs]
    return graph.emits("Split", [whole(graph, eqn, 0, x), sizes], likes, axis=int(eqn.params["axis"]))


def _pad(graph: Graph, eqn: Equation, x: Value, filling: Value) -> Value:
    config = eqn.params["padding_config"]
    if any(low < 0 or high < 0 or inner for low, high, inner in config):
        raise NotImplementedError("padding is negative, or between entries")
    ends = [low for low, _, _ in config] + [high for _, high, _ in config]
    return graph.emit(
        "Pad", whole(graph, eqn, 0, x), known(np.array(ends, np.int64)), filling, like=result(eqn)
    )


def _rev(graph: Graph, eqn: Equation, x: Value) -> Value:
    axes = np.array(eqn.params["dimensions"], np.int64)
    ends = (np.full_like(axes, -1), np.full_like(axes, np.iinfo(np.int64).min), axes, np.full_like(axes, -1))
    return graph.emit("Slice", whole(graph, eqn, 0, x), *map(known, ends), like=result(eqn))


def _iota(graph: Graph, eqn: Equation, *sizes: Value) -> Value:
    shape, dtype = result(eqn)
    axis = eqn.params["dimension"]
    parts = known(np.int64(0)), graph.scalar(shape[axis]), known(np.int64(1))
    numbers = graph.cast(graph.emit("Range", *parts, like=((shape[axis],), INT64)), dtype)
    return graph.reshape(numbers, tuple(n if i == axis else 1 for i, n in enumerate(shape)))


def _dim_as_value(graph: Graph, eqn: Equation) -> Value:
    return graph.scalar(eqn.params["dim"], result(eqn)[1])


# reductions


def _reduced(graph: Graph, eqn: Equation, x: Value, *, kind: str) -> Value:
    shape, dtype = result(eqn)
    x = whole(graph, eqn, 0, x)
    axes = known(np.array(eqn.params["axes"], np.int64))
    if dtype.kind != "b":
        return graph.emit(kind, x, axes, like=(shape, dtype), keepdims=0)
    return graph.cast(
        graph.emit(kind, graph.cast(x, np.int32), axes, like=(shape, np.int32), keepdims=0), bool
    )


def _arg(graph: Graph, eqn: Equation, x: Value, *, kind: str) -> Value:
    shape, dtype = result(eqn)
    (axis,) = eqn.params["axes"]
    x = whole(graph, eqn, 0, graph.cast(x, np.int32) if x.dtype == np.bool_ else x)
    return graph.cast(graph.emit(kind, x, like=(shape, INT64), axis=int(axis), keepdims=0), dtype)


def _cumsum(graph: Graph, eqn: Equation, x: Value) -> Value:
    axis = known(np.int64(eqn.params["axis"]))
    return graph.emit(
        "CumSum", whole(graph, eqn, 0, x), axis, like=result(eqn), reverse=int(eqn.params["reverse"])
    )


def _cumulated(graph: Graph, eqn: Equation, x: Value, *, kind: str) -> Value:
    """A loop along the axis: ONNX can accumulate only sums."""
    shape, dtype = result(eqn)
    axis, back = int(eqn.params["axis"]), int(eqn.params["reverse"])
    x = whole(graph, eqn, 0, x)
    rest = tuple(n for i, n in enumerate(shape) if i != axis)
    start = graph.full(known(np.asarray(1 if kind == "Mul" else _bound(dtype, kind == "Max"), dtype)), rest)
    inner = Graph(graph)
    before, entry = (Value(rest, dtype, inner.fresh("in")) for _ in range(2))
    after = inner.elementwise(kind, before, entry)
    out = inner.emit("Identity", after, like=(rest, dtype))
    body = inner.proto("step", [_type(before), _type(entry)], [_type(after), _type(out)])
    along = {
        f"scan_{side}_{what}": [value]
        for side in ("input", "output")
        for what, value in (("axes", axis), ("directions", back))
    }
    return graph.emits(
        "Scan", [start, x], [(rest, dtype), (shape, dtype)], body=body, num_scan_inputs=1, **along
    )[1]


def _type(value: Value) -> Any:
    return typed(value.name, value.shape, value.dtype)


def _bound(dtype: Any, least: bool) -> Any:
    if np.issubdtype(dtype, np.integer):
        return np.iinfo(dtype).min if least else np.iinfo(dtype).max
    return -np.inf if least else np.inf


SHAPES: dict[str, Callable[..., Any]] = {
    "argmax": functools.partial(_arg, kind="ArgMax"),
    "argmin": functools.partial(_arg, kind="ArgMin"),
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "cummax": functools.partial(_cumulated, kind="Max"),
    "cummin": functools.partial(_cumulated, kind="Min"),
    "cumprod": functools.partial(_cumulated, kind="Mul"),
    "cumsum": _cumsum,
    "dim_as_value": _dim_as_value,
    "expand_dims": _reshape,
    "iota": _iota,
    "pad": _pad,
    "reduce_and": functools.partial(_reduced, kind="ReduceMin"),
    "reduce_max": functools.partial(_reduced, kind="ReduceMax"),
    "reduce_min": functools.partial(_reduced, kind="ReduceMin"),
    "reduce_or": functools.partial(_reduced, kind="ReduceMax"),
    "reduce_prod": functools.partial(_reduced, kind="ReduceProd"),
    "reduce_sum": functools.partial(_reduced, kind="ReduceSum"),
    "reshape": _reshape,
    "rev": _rev,
    "sort": _sort,
    "split": _split,
    "stack": _stack,
    "squeeze": _reshape,
    "tile": _tile,
    "top_k": _top_k,
    "transpose": _transpose,
    "unstack": _unstack,
}
