"""A traced function as an ONNX model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from jrnn.export._fitting import OR_ONE
from jrnn.export._graph import INT64, Graph, Operand, Pair, Value, is_complex, parts_of, real_dtype, typed
from jrnn.export._mapping import write
from jrnn.export._signature import BATCH, SOURCE, TIME

OPSET, IR = 18, 10  # of 2022, and its file format: supported by all current runtimes


def write_model(
    closed: Any,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> ModelProto:
    """Write a function of named types; inputs with a default are optional, and one row for all."""
    graph = Graph()
    axes: dict[str, tuple[str, int]] = {}  # of the first input that has it: a default has one row
    for name, aval in inputs.items():
        for place, size in enumerate(aval.shape):
            axes.setdefault(str(size), (name, place))
    for symbol, (name, place) in axes.items():
        if symbol in (TIME, BATCH, SOURCE):
            read = Value((), INT64, name)
            graph.sizes[symbol] = graph.emit("Shape", read, like=((1,), INT64), start=place, end=place + 1)
    values: list[Operand] = []
    entering, held = [], []
    for name, aval in inputs.items():
        parts = []
        for part, default in zip(_parts(name, aval.dtype), _split(defaults.get(name)), strict=False):
            value = Value(tuple(aval.shape), real_dtype(aval.dtype), part)
            entering.append(typed(part, value.shape, value.dtype))
            if default is not None:
                held.append(numpy_helper.from_array(np.ascontiguousarray(default), part))
                entering[-1] = typed(
                    part, tuple(n if isinstance(n, int) else OR_ONE for n in aval.shape), value.dtype
                )
                value = graph.emit("Expand", value, graph.dims(value.shape), like=(value.shape, value.dtype))
            parts.append(value)
        values.append(Pair(*parts) if len(parts) == 2 else parts[0])
    leaving = []
    for (name, aval), found in zip(outputs.items(), write(graph, closed, values), strict=True):
        for part, value in zip(_parts(name, aval.dtype), parts_of(found), strict=True):
            whole = graph.full(value, tuple(aval.shape))
            graph.nodes.append(helper.make_node("Identity", [graph.name(whole)], [part]))
            leaving.append(typed(part, whole.shape, whole.dtype))
    proto = graph.proto("jrnn", entering, leaving, held)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(proto, opset_imports=opset, ir_version=IR, producer_name="jrnn")


def _parts(name: str, dtype: Any) -> list[str]:
    return [f"{name}.real", f"{name}.imag"] if is_complex(dtype) else [name]


def _split(default: Any) -> list[Any]:
    if default is not None and is_complex(default.dtype):
        return [default.real, default.imag]
    return [default, None]
