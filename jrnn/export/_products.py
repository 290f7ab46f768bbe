"""Mappings of products: of matrices and tensors, and convolutions."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jrnn._jaxprs.equations import Equation
from jrnn.export._graph import Graph, Value, result, whole

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _dot_general(graph: Graph, eqn: Equation, a: Value, b: Value) -> Value:
    """A MatMul if possible, else an Einsum."""
    shape, dtype = result(eqn)
    (over_a, over_b), (batch_a, batch_b) = eqn.params["dimension_numbers"]
    a, b = (graph.cast(whole(graph, eqn, place, v), dtype) for place, v in enumerate((a, b)))
    if not batch_a and len(over_a) == 1 and len(b.shape) == 2 and over_a[0] == len(a.shape) - 1:
        return graph.emit(
            "MatMul", a, graph.transpose(b, (1, 0)) if over_b[0] == 1 else b, like=(shape, dtype)
        )
    first = list(LETTERS[: len(a.shape)])
    second = list(LETTERS[len(first) : len(first) + len(b.shape)])
    for i, j in zip((*batch_a, *over_a), (*batch_b, *over_b), strict=True):
        second[j] = first[i]
    kept = [first[i] for i in batch_a]
    kept += [x for i, x in enumerate(first) if i not in (*batch_a, *over_a)]
    kept += [x for j, x in enumerate(second) if j not in (*batch_b, *over_b)]
    equation = f"{''.join(first)},{''.join(second)}->{''.join(kept)}"
    return graph.emit("Einsum", a, b, like=(shape, dtype), equation=equation)


def _convolution(graph: Graph, eqn: Equation, x: Value, kernel: Value) -> Value:
    shape, dtype = result(eqn)
    given = eqn.params
    if any(n != 1 for n in given["lhs_dilation"]) or given["batch_group_count"] != 1:
        raise NotImplementedError("the input is dilated, or grouped by rows")
    into, of_kernel, out = given["dimension_numbers"]
    x = graph.transpose(whole(graph, eqn, 0, x), into)
    kernel = graph.transpose(whole(graph, eqn, 1, kernel), of_kernel)
    low, high = zip(*given["padding"], strict=True) if given["padding"] else ((), ())
    found = graph.emit(
        "Conv",
        x,
        kernel,
        like=(tuple(shape[i] for i in out), dtype),
        strides=[int(n) for n in given["window_strides"]],
        dilations=[int(n) for n in given["rhs_dilation"]],
        pads=[int(n) for n in (*low, *high)],
        group=int(given["feature_group_count"]),
    )
    return graph.transpose(found, [int(i) for i in np.argsort(out)])


PRODUCTS: dict[str, Callable[..., Any]] = {
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
}
