"""Nodes that only move axes, or compute sizes; and the table of all supported nodes."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from jrnn.interop.onnx._layers import (
    Node,
    activated,
    biased,
    dense,
    embedded,
    merged,
    recurrent,
)
from jrnn.interop.onnx._lengths import (
    added,
    backward,
    chosen,
    compared,
    counted,
    final,
    negated,
    of_tokens,
    visited,
)
from jrnn.interop.onnx._values import (
    DIRECTION,
    END,
    FEATURES,
    TIME,
    Axis,
    Flow,
    Known,
    Size,
    Steps,
    Tokens,
    Value,
    elementwise,
    product,
)

MERGES = {"Add": "sum", "Mul": "mul", "Mean": "mean", "Concat": "concat"}
REDUCED = {"ReduceSum": "sum", "ReduceProd": "mul", "ReduceMean": "mean"}


def _whole(node: Node, key: str, place: int) -> list[int]:
    """Integers, an attribute in old opsets and an input in later ones."""
    if key in node.attributes:
        found = node.attributes[key]
        return [int(n) for n in found] if isinstance(found, list | tuple) else [int(found)]
    array = node.known(place, key)
    try:
        return [] if array is None else [int(n) for n in array.ravel()]
    except ValueError as error:
        raise ValueError(f"{key} depends on the size of an input") from error


def _sizes(node: Node, place: int) -> list[Size]:
    """A shape, whose sizes may be those of dynamic axes."""
    return [n if isinstance(n, str) else int(n) for n in node.known(place, "the shape")]


def _axis(node: Node, rank: int, default: int = 0) -> int:
    axis = int(node.attributes.get("axis", default))
    if not -rank <= axis < rank:
        raise ValueError(f"axis={axis} of {rank}")
    return axis % rank


def _rank(value: Any) -> int:
    if not isinstance(value, Known | Flow):
        raise ValueError("it moves axes of something other than a sequence or constant")
    return value.array.ndim if isinstance(value, Known) else len(value.dims)


def _constant(node: Node) -> Value:
    (value,) = node.attributes.values()
    return Known.of(value)


def _constant_of_shape(node: Node) -> Value:
    fill = np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).reshape(())
    return Known.of(fill).expand(_sizes(node, 0))


def _expand(node: Node) -> Value:
    value, target = node.value(0), _sizes(node, 1)
    if isinstance(value, Known):
        return value.expand(target)
    flow = node.flow(0)
    if len(target) != len(flow.dims) or any(n not in (1, s) for n, s in zip(target, flow.sizes, strict=True)):
        raise ValueError(f"it repeats a value of sizes {flow.sizes} to {target}")
    return flow


def _shape(node: Node) -> Value:
    value = node.value(0)
    sizes = value.shape if isinstance(value, Known) else value.sizes
    found = sizes[node.attributes.get("start", 0) : node.attributes.get("end", END)]
    return Known.of(np.array([*found, None], object)[:-1])


def _cast(node: Node) -> Value:
    to = node.attributes["to"]
    if found := of_tokens(node, lambda t: t.astype(to)):
        kept = isinstance(node.get(0), Flow) and np.issubdtype(to, np.integer)
        return node.value(0) if kept else found
    value = node.value(0)
    if isinstance(value, Known):
        kept = value.array.dtype == object or value.array.dtype == to
        return value if kept else Known(value.array.astype(to), value.shape)
    if np.issubdtype(to, np.integer):
        raise ValueError(f"it casts to {to}")
    return value


def _same(node: Node) -> Any:
    if node.kind == "Dropout" and node.known(2, "training_mode") is not None and np.any(node.get(2).array):
        raise ValueError("it is in training mode")
    value = node.value(0)
    return value


def _transpose(node: Node) -> Value:
    value = node.value(0)
    return value.transpose(node.attributes.get("perm", list(range(_rank(value)))[::-1]))


def _squeeze(node: Node) -> Value:
    value = node.value(0)
    return value.squeeze(_whole(node, "axes", 1))


def _unsqueeze(node: Node) -> Value:
    value: Any = node.get(0)
    return value if isinstance(value, Tokens) else value.unsqueeze(_whole(node, "axes", 1))


def _reshape(node: Node) -> Value:
    value = node.value(0)
    target = _sizes(node, 1)
    sizes = value.shape if isinstance(value, Known) else value.sizes
    if not node.attributes.get("allowzero", 0):
        target = [sizes[i] if size == 0 else size for i, size in enumerate(target)]
    found = value.reshape(target)
    for place, dim in enumerate(found.dims if isinstance(found, Flow) else ()):
        labels = [axis.label for axis in dim]
        if len(labels) > 1 and DIRECTION in labels:
            if labels != [DIRECTION, FEATURES]:
                raise ValueError(f"it merges directions with others than the features: {labels}")
            return _with_both(node, found, "concat", place, place)
    return found


def _with_both(node: Node, flow: Flow, merge: str, direction: int, features: int) -> Flow:
    """Merge the directions of a value; removes their dimension unless it is that of the features."""
    chain = merged(flow, merge, node.found)
    dims = list(flow.dims)
    dims[features] = (Axis(FEATURES, int(chain[-1].cell.out_features)),)
    dims = dims if direction == features else dims[:direction] + dims[direction + 1 :]
    return dataclasses.replace(flow, chains=(chain,), dims=tuple(dims))


def _gather(node: Node) -> Value:
    value = node.value(0)
    if isinstance(value, Known) and isinstance(node.get(1), Flow | Tokens):
        return embedded(node)
    axis = _axis(node, _rank(value))
    if isinstance(steps := node.get(1), Steps):
        return visited(value, axis, steps)
    indices = node.known(1, "indices")
    if indices.size == 1:
        index = indices.item()
        index = -1 if isinstance(value, Flow) and index == final(value.sizes[axis]) else int(index)
        if indices.ndim == 0:
            return value.pick(axis, index)
        return value.cut(axis, index, END if index == -1 else index + 1)
    if isinstance(value, Known) and value.array.shape == value.shape:
        return Known.of(np.take(value.array, indices.astype(int), axis))
    if isinstance(value, Flow) and indices.tolist() == list(range(len(indices)))[::-1]:
        return visited(value, axis, Steps(((Axis(TIME, len(indices)),),), backward=True))
    raise ValueError(f"it takes {indices.tolist()} of axis {axis}")


def _slice(node: Node) -> Value:
    value = node.value(0)
    starts, ends = _whole(node, "starts", 1), _whole(node, "ends", 2)
    axes = _whole(node, "axes", 3) or list(range(len(starts)))
    if any(step != 1 for step in _whole(node, "steps", 4)):
        raise ValueError("its steps are not 1")
    for axis, start, end in zip(axes, starts, ends, strict=True):
        value = value.cut(axis % _rank(value), start, min(end, END))
    return value


def _split(node: Node) -> list[Value]:
    value = node.value(0)
    axis, count = _axis(node, _rank(value)), len(node.outputs)
    sizes = _whole(node, "split", 1)
    if not sizes:
        total = (value.shape if isinstance(value, Known) else value.sizes)[axis]
        if not isinstance(total, int) or total % count:
            raise ValueError(f"it splits {total} into {count}")
        sizes = [total // count] * count
    ends = np.cumsum(sizes)
    return [value.cut(axis, int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True)]


def _concat(node: Node) -> Value:
    values: list[Any] = list(node.inputs)
    axis = _axis(node, _rank(values[0]))
    if all(isinstance(value, Known) for value in values):
        shape = list(values[0].shape)
        array = np.concatenate([value.array for value in values], axis)
        shape[axis] = array.shape[axis]
        return Known(array, tuple(shape))
    flows = [node.flow(i) if not getattr(v, "given", bool)() else v for i, v in enumerate(values)]
    first = flows[0]
    if all(flow.given() for flow in flows):  # states: which they are is for the caller to know
        dims = (*first.dims[:axis], (Axis("states", "?"),), *first.dims[axis + 1 :])
        return Flow(tuple(c for flow in flows for c in flow.chains), dims, whole=False)
    if len({(flow.read, len(flow.dims)) for flow in flows}) > 1:
        raise ValueError("it joins values of different kinds")
    _check_order(flows)
    together = dataclasses.replace(first, chains=tuple(chain for flow in flows for chain in flow.chains))
    if all([a.label for a in flow.dims[axis]] in ([], [DIRECTION]) for flow in flows):
        size = (Axis(DIRECTION, len(together.chains)),)
        return dataclasses.replace(together, dims=(*first.dims[:axis], size, *first.dims[axis + 1 :]))
    if axis != len(first.dims) - 1 or len(flows) != len(together.chains):
        raise ValueError("it joins other axes than directions and features")
    return _with_both(node, together, "concat", axis, axis)


def _matmul(node: Node) -> Value:
    return dense(node, node.weight(1, "the second factor", "in", "out"), None)


def _gemm(node: Node) -> Value:
    attributes = node.attributes
    if attributes.get("transA", 0):
        raise ValueError("transA=1 swaps batch and features")
    w = node.weight(1, "B", "in", "out")
    w = (w.T if attributes.get("transB", 0) else w) * w.dtype.type(attributes.get("alpha", 1.0))
    found = dense(node, np.ascontiguousarray(w), None)
    b = node.known(2, "C")
    return found if b is None else biased(node, found, b * b.dtype.type(attributes.get("beta", 1.0)))


def _two(node: Node) -> Value:
    """Read arithmetic: of sizes, of a read-out and its bias, or of both directions."""
    values: list[Any] = list(node.inputs)
    on_tokens = {"Add": np.add, "Mul": np.multiply, "Equal": np.equal}.get(node.kind)
    if on_tokens and (tokens := of_tokens(node, on_tokens)):
        return tokens
    if all(isinstance(value, Known) for value in values):
        functions = {"Add": added, "Mul": lambda a, b: product([a, b]), "Equal": operator.eq}
        functions["Sub"] = lambda a, b: added(a, -b)
        if not all(value.array.dtype.kind in "iO" for value in values) or node.kind not in functions:
            raise ValueError("it computes with constants")
        return elementwise(functions[node.kind], *values)
    if isinstance(values[1], Steps) and node.kind == "Sub" and isinstance(values[0], Known):
        if values[0].array.item() != final(values[1].dims[0][0].size):
            raise ValueError("it counts steps from others than the last one")
        return dataclasses.replace(values[1], backward=True)
    if any(isinstance(value, Known) for value in values):
        place = next((i for i, value in enumerate(values) if not isinstance(value, Known)), 0)
        node.flow(place)
        if node.kind == "Mul" and np.all(values[1 - place].array == 0.5):
            return _halved(node, node.flow(place))
        if node.kind != "Add" or len(values) != 2:
            raise ValueError("it scales by a constant")
        return biased(node, node.flow(place), values[1 - place].array)
    flows = [node.flow(i) for i in range(len(values))]
    if node.kind not in MERGES:
        raise ValueError("it compares values")
    if any(flow.dims != flows[0].dims or flow.read != flows[0].read for flow in flows):
        raise ValueError(f"it merges values of axes {[flow.dims for flow in flows]}")
    _check_order(flows)
    together = dataclasses.replace(flows[0], chains=tuple(flow.chain for flow in flows))
    last = len(together.dims) - 1
    return _with_both(node, together, MERGES[node.kind], last, last)


def _check_order(flows: list[Flow]) -> None:
    """Raise if one has its steps in the order of a layer that reads backward, and another has not."""
    if len({flow.reverse for flow in flows}) > 1:
        raise ValueError("it joins steps in the order of a layer that reads backward with other steps")


def _halved(node: Node, flow: Flow) -> Flow:
    """Read half of the sum of both directions as their mean."""
    part, last = flow.chain[-1], len(flow.dims) - 1
    if getattr(part, "kind", "") != "both" or part.cell.merge != "sum":
        raise ValueError("it scales by a constant")
    return _with_both(node, dataclasses.replace(flow, chains=part.halves), "mean", last, last)


def _reduce(node: Node) -> Value:
    """Read a sum, product or mean over directions, a mean or maximum over time, or a product of sizes."""
    kept, sizes = node.attributes.get("keepdims", 1), node.get(0)
    if isinstance(sizes, Known) and sizes.array.ndim == 1 and node.kind == "ReduceProd":
        found = np.array([product(sizes.array), None], object)[:1]
        return Known.of(found if kept else found.reshape(()))
    flow = node.flow(0)
    axes = _whole(node, "axes", 1)
    place = axes[0] % len(flow.dims) if len(axes) == 1 else -1
    labels = [axis.label for axis in flow.dims[place]] if place >= 0 else []
    if labels == [DIRECTION] and node.kind in REDUCED:
        whole = _with_both(node, flow, REDUCED[node.kind], place, len(flow.dims) - 1)
    elif labels == [TIME] and node.kind in ("ReduceMean", "ReduceMax") and flow.chain[-1].kind != "map":
        read = {"ReduceMean": "mean", "ReduceMax": "max"}[node.kind]
        whole = dataclasses.replace(flow, read=read, dims=flow.dims[:place] + flow.dims[place + 1 :])
    else:
        raise ValueError(f"it reduces axes {axes} of {flow.dims}")
    return whole.unsqueeze([place]) if kept else whole


NODES: dict[str, Callable[[Node], Any]] = {
    **dict.fromkeys(("RNN", "GRU", "LSTM"), recurrent),
    **dict.fromkeys(("Identity", "Dropout"), _same),
    **dict.fromkeys(("Add", "Equal", "Mul", "Mean", "Sub"), _two),
    **dict.fromkeys(("ReduceSum", "ReduceProd", "ReduceMean", "ReduceMax"), _reduce),
    **dict.fromkeys(
        ("Elu", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Softplus", "Softsign"), activated
    ),
    **dict.fromkeys(("Tanh", "ThresholdedRelu", "Softmax", "LogSoftmax", "Clip"), activated),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "Gemm": _gemm,
    "Less": compared,
    "MatMul": _matmul,
    "Not": negated,
    "Range": counted,
    "Reshape": _reshape,
    "ReverseSequence": backward,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": chosen,
}
