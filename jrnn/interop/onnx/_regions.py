"""Parts of a graph that are evaluated, to be compared with layers."""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jrnn.cells.maps import Dense
from jrnn.interop.onnx._operators import import_onnx
from jrnn.interop.onnx._values import Flow

USED = {  # operators of which an activation of Keras needs one; "linear" needs none
    "tanh": {"Tanh"},
    "sigmoid": {"Sigmoid"},
    "silu": {"Sigmoid"},
    "relu": {"Relu", "Max"},
    "leaky_relu": {"LeakyRelu", "Where", "PRelu"},
    "softplus": {"Softplus", "Log"},
    "softsign": {"Softsign", "Abs"},
    "elu": {"Elu", "Exp"},
    "softmax": {"Softmax", "Exp"},
    "hard_sigmoid": {"HardSigmoid", "Clip", "Min"},
    "hard_tanh": {"Clip", "Min"},
    "linear": set[str](),
}


class Region:
    """The nodes from values that are known, or read, to some outputs, and what they compute."""

    def __init__(self, graph: Any, outputs: Sequence[str], longest: float) -> None:
        self.outputs, self.nodes = list(outputs), list[Any]()
        self.flows: dict[str, Flow] = {}
        self.constants: dict[str, Any] = {}
        stored = {tensor.name: tensor for tensor in graph.graph.initializer}
        wanted = set(outputs)
        for node in reversed(graph.graph.node):
            if wanted.isdisjoint(node.output):
                continue
            self.nodes.insert(0, node)
            for name in _names(node):
                value = graph.values.get(name)
                if isinstance(value, Flow) and _is_given(value, longest):
                    self.flows[name] = value
                elif name in stored:
                    self.constants[name] = graph.array(stored[name])
                else:
                    wanted.add(name)
        self.opsets = graph.opsets

    def activations(self) -> list[str]:
        """Activations that its operators could compute."""
        kinds = {inner.op_type for node in self.nodes for inner in _nodes(node)}
        return [name for name, used in USED.items() if not used or used & kinds]

    def weights(self) -> dict[str, Any]:
        """Constants that may be weights; zeros of three axes are the states that PyTorch starts from."""
        floats = {n: a for n, a in self.constants.items() if a.dtype.kind == "f" and a.size > 1}
        return {name: a for name, a in floats.items() if a.ndim < 3 or a.any()}

    def evaluated(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs for these values of the flows, and of constants."""
        onnx = import_onnx()
        helper = onnx.helper
        graph = helper.make_graph(
            self.nodes,
            "region",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in feeds.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in self.outputs],
            [
                onnx.numpy_helper.from_array(array, name)
                for name, array in self.constants.items()
                if name not in feeds
            ],
        )
        model = helper.make_model(graph, opset_imports=self.opsets)
        reference = importlib.import_module("onnx.reference")
        with np.errstate(all="ignore"):
            return list(reference.ReferenceEvaluator(model).run(None, feeds))


def _is_given(flow: Flow, longest: float) -> bool:
    """True for a sequence, unless it is a product that may belong to the layer that reads it."""
    chain = flow.chains[0]
    hoisted = len(chain) >= longest and isinstance(getattr(chain[-1], "cell", None), Dense)
    return flow.whole and not flow.read and not hoisted


def _nodes(node: Any) -> Iterator[Any]:
    """A node, and those inside it."""
    yield node
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _nodes(inner)


def _names(node: Any) -> Iterator[str]:
    """All that a node reads, and the nodes inside it."""
    for inner in _nodes(node):
        yield from filter(None, inner.input)
        yield from (output.name for attribute in inner.attribute for output in attribute.g.output)


def by_step(a: Any, xs: Any) -> Any:
    """An output, (time, batch, ...); None for others. The evaluator joins the steps of a Loop in one axis."""
    if a.ndim == xs.ndim - 1 and len(a) == xs.shape[0] * xs.shape[1]:
        return a.reshape(*xs.shape[:2], *a.shape[1:])
    return a if a.ndim == xs.ndim and a.shape[:2] == xs.shape[:2] else None
