"""Mappings of primitives that compute: functions of the graph, the equation and its operands."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jrnn._jaxprs.equations import Equation
from jrnn.export._graph import Graph, Value, broadcast, known
from jrnn.export._indexing import INDEXING
from jrnn.export._products import PRODUCTS
from jrnn.export._scattering import SCATTERING
from jrnn.export._shapes import SHAPES

Mapping = Callable[..., Any]  # (graph, equation, *operands) -> a value or a list of values


def _number(value: float, like: Value) -> Value:
    return known(np.asarray(value, like.dtype))


# elementwise

PLAIN = {  # one operator, for any number of operands
    "abs": "Abs", "acos": "Acos", "acosh": "Acosh", "add": "Add", "add_any": "Add", "asin": "Asin",
    "asinh": "Asinh", "atan": "Atan", "atanh": "Atanh", "ceil": "Ceil", "cos": "Cos", "cosh": "Cosh",
    "div": "Div", "erf": "Erf", "exp": "Exp", "floor": "Floor", "log": "Log", "logistic": "Sigmoid",
    "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg", "pow": "Pow", "sign": "Sign", "sin": "Sin",
    "sinh": "Sinh", "sqrt": "Sqrt", "sub": "Sub", "tan": "Tan", "tanh": "Tanh",
}  # fmt: skip
COMPARISONS = {"eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less"}
BITS = {"and": ("And", "BitwiseAnd"), "or": ("Or", "BitwiseOr"), "xor": ("Xor", "BitwiseXor")}
KEPT = ("copy", "copy_p", "name", "optimization_barrier", "pvary", "stop_gradient")


def _plain(graph: Graph, eqn: Equation, *operands: Value, kind: str) -> Value:
    return graph.elementwise(kind, *operands)


def _compared(graph: Graph, eqn: Equation, *operands: Value, kind: str) -> Value:
    return graph.elementwise(kind, *operands, dtype=bool)


def _ne(graph: Graph, eqn: Equation, a: Value, b: Value) -> Value:
    return graph.elementwise("Not", graph.elementwise("Equal", a, b, dtype=bool))


def _bits(graph: Graph, eqn: Equation, *operands: Value, kinds: tuple[str, str]) -> Value:
    return graph.elementwise(kinds[operands[0].dtype != bool], *operands)


def _not(graph: Graph, eqn: Equation, x: Value) -> Value:
    return graph.elementwise("Not" if x.dtype == bool else "BitwiseNot", x)


def _kept(graph: Graph, eqn: Equation, x: Value) -> Value:
    return x


def _square(graph: Graph, eqn: Equation, x: Value) -> Value:
    return graph.elementwise("Mul", x, x)


def _integer_pow(graph: Graph, eqn: Equation, x: Value) -> Value:
    return (
        graph.elementwise("Pow", x, _number(eqn.params["y"], x))
        if eqn.params["y"] != 2
        else _square(graph, eqn, x)
    )


def _rsqrt(graph: Graph, eqn: Equation, x: Value) -> Value:
    return graph.elementwise("Reciprocal", graph.elementwise("Sqrt", x))


def _cbrt(graph: Graph, eqn: Equation, x: Value) -> Value:
    root = graph.elementwise("Pow", graph.elementwise("Abs", x), _number(1 / 3, x))
    return graph.elementwise("Mul", graph.elementwise("Sign", x), root)


def _atan2(graph: Graph, eqn: Equation, y: Value, x: Value) -> Value:
    """The angle of (x, y): atan(y / x), plus π with the sign of y where x < 0."""
    zero = _number(0, x)
    below = graph.elementwise("Less", y, zero, dtype=bool)
    turn = graph.where(below, _number(-np.pi, x), _number(np.pi, x))
    angle = graph.elementwise("Atan", graph.elementwise("Div", y, x))
    behind = graph.elementwise("Less", x, zero, dtype=bool)
    angle = graph.where(behind, graph.elementwise("Add", angle, turn), angle)
    both = graph.elementwise("Max", graph.elementwise("Abs", x), graph.elementwise("Abs", y))
    return graph.where(graph.elementwise("Equal", both, zero, dtype=bool), zero, angle)


def _exp2(graph: Graph, eqn: Equation, x: Value) -> Value:
    return graph.elementwise("Pow", _number(2, x), x)


def _expm1(graph: Graph, eqn: Equation, x: Value) -> Value:
    """tanh(x / 2) · (eˣ + 1), which is accurate for small x too."""
    half = graph.elementwise("Tanh", graph.elementwise("Mul", x, _number(0.5, x)))
    return graph.elementwise(
        "Mul", half, graph.elementwise("Add", graph.elementwise("Exp", x), _number(1, x))
    )


def _log1p(graph: Graph, eqn: Equation, x: Value) -> Value:
    """With u = 1 + x rounded, log u · x / (u − 1), or x if u is 1 or infinite: accurate for small x too."""
    one = _number(1, x)
    u = graph.elementwise("Add", x, one)
    ends = graph.elementwise(
        "Or", graph.elementwise("Equal", u, one, dtype=bool), graph.elementwise("IsInf", u, dtype=bool)
    )
    product = graph.elementwise("Mul", graph.elementwise("Log", u), x)
    return graph.where(ends, x, graph.elementwise("Div", product, graph.elementwise("Sub", u, one)))


def _erfc(graph: Graph, eqn: Equation, x: Value) -> Value:
    return graph.elementwise("Sub", _number(1, x), graph.elementwise("Erf", x))


def _is_finite(graph: Graph, eqn: Equation, x: Value) -> Value:
    zero = graph.elementwise("Sub", x, x)  # NaN where x is not finite
    return graph.elementwise("Equal", zero, _number(0, x), dtype=bool)


def _round(graph: Graph, eqn: Equation, x: Value) -> Value:
    if int(eqn.params["rounding_method"]) != 1:  # not to even, as in ONNX
        raise NotImplementedError("halves are rounded away from zero")
    return graph.elementwise("Round", x)


def _rem(graph: Graph, eqn: Equation, a: Value, b: Value) -> Value:
    like = broadcast(a.shape, b.shape), a.dtype
    return graph.emit("Mod", a, b, like=like, fmod=1)


def _clamp(graph: Graph, eqn: Equation, low: Value, x: Value, high: Value) -> Value:
    return graph.elementwise("Min", graph.elementwise("Max", low, x), high)


def _select_n(graph: Graph, eqn: Equation, which: Value, *cases: Value) -> Value:
    if which.dtype == bool:
        return graph.where(which, cases[1], cases[0])
    found = cases[0]
    for number, case in enumerate(cases[1:], 1):
        flags = graph.elementwise("Equal", which, _number(number, which), dtype=bool)
        found = graph.where(flags, case, found)
    return found


def _convert(graph: Graph, eqn: Equation, x: Value) -> Value:
    return graph.cast(x, eqn.outputs[0].aval.dtype)


MAPPINGS: dict[str, Mapping] = {
    **{name: functools.partial(_plain, kind=kind) for name, kind in PLAIN.items()},
    **{name: functools.partial(_compared, kind=kind) for name, kind in COMPARISONS.items()},
    **{name: functools.partial(_bits, kinds=kinds) for name, kinds in BITS.items()},
    **dict.fromkeys(KEPT, _kept),
    "atan2": _atan2,
    "cbrt": _cbrt,
    "clamp": _clamp,
    "convert_element_type": _convert,
    "erfc": _erfc,
    "exp2": _exp2,
    "expm1": _expm1,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "log1p": _log1p,
    "ne": _ne,
    "not": _not,
    "rem": _rem,
    "round": _round,
    "rsqrt": _rsqrt,
    "select_n": _select_n,
    "square": _square,
    **SHAPES,
    **PRODUCTS,
    **INDEXING,
    **SCATTERING,
}
