"""Mappings of primitives on complex numbers, as pairs of real ones."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jrnn._jaxprs.equations import Equation
from jrnn.export._graph import Graph, Operand, Pair, Value, known
from jrnn.export._products import PRODUCTS

# primitives that act on both parts alike; real operands, such as those of a select, go to both
PARTWISE = {
    *("add", "add_any", "broadcast_in_dim", "concatenate", "copy", "copy_p", "cumsum", "dynamic_slice"),
    *("dynamic_update_slice", "expand_dims", "gather", "name", "neg", "reduce_sum", "reshape", "rev"),
    *("select_n", "slice", "split", "squeeze", "stop_gradient", "sub", "transpose"),
}


def _pair(value: Operand) -> Pair:
    if isinstance(value, Pair):
        return value
    return Pair(value, known(np.zeros((), value.dtype)))


def _product(graph: Graph, times: Callable[[Value, Value], Value], a: Operand, b: Operand) -> Pair:
    a, b = _pair(a), _pair(b)
    real = graph.elementwise("Sub", times(a.real, b.real), times(a.imag, b.imag))
    return Pair(real, graph.elementwise("Add", times(a.real, b.imag), times(a.imag, b.real)))


def _mul(graph: Graph, eqn: Equation, a: Operand, b: Operand) -> Pair:
    return _product(graph, lambda x, y: graph.elementwise("Mul", x, y), a, b)


def _div(graph: Graph, eqn: Equation, a: Operand, b: Operand) -> Pair:
    over = _pair(b)
    top = _mul(graph, eqn, a, Pair(over.real, graph.elementwise("Neg", over.imag)))
    size = _squared(graph, over)
    return Pair(graph.elementwise("Div", top.real, size), graph.elementwise("Div", top.imag, size))


def _squared(graph: Graph, value: Pair) -> Value:
    parts = (graph.elementwise("Mul", v, v) for v in (value.real, value.imag))
    return graph.elementwise("Add", *parts)


def _dot_general(graph: Graph, eqn: Equation, a: Operand, b: Operand) -> Pair:
    """Four products of real numbers."""
    a, b = _pair(a), _pair(b)
    return _product(graph, lambda x, y: PRODUCTS["dot_general"](graph, eqn, x, y), a, b)


def _exp(graph: Graph, eqn: Equation, x: Pair) -> Pair:
    size = graph.elementwise("Exp", x.real)
    turned = (graph.elementwise(kind, x.imag) for kind in ("Cos", "Sin"))
    return Pair(*(graph.elementwise("Mul", size, part) for part in turned))


def _convert(graph: Graph, eqn: Equation, x: Operand) -> Operand:
    dtype = np.dtype(eqn.outputs[0].aval.dtype)
    real = np.empty(0, dtype).real.dtype
    pair = _pair(x)
    if real == dtype:
        return graph.cast(pair.real, dtype)
    return Pair(graph.cast(pair.real, real), graph.cast(pair.imag, real))


COMPLEX: dict[str, Callable[..., Any]] = {
    "abs": lambda graph, eqn, x: graph.elementwise("Sqrt", _squared(graph, x)),
    "complex": lambda graph, eqn, a, b: Pair(a, b),
    "conj": lambda graph, eqn, x: Pair(_pair(x).real, graph.elementwise("Neg", _pair(x).imag)),
    "convert_element_type": _convert,
    "div": _div,
    "dot_general": _dot_general,
    "exp": _exp,
    "imag": lambda graph, eqn, x: x.imag,
    "mul": _mul,
    "real": lambda graph, eqn, x: x.real,
    "square": lambda graph, eqn, x: _mul(graph, eqn, x, x),
}
