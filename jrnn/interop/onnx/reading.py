"""Reading a model from an ONNX graph of recurrent operators."""

import dataclasses
from typing import Any

import numpy as np

from jrnn.combinators import Stack
from jrnn.interop._weights import to_jax
from jrnn.interop.onnx._layers import Found, Node, merged
from jrnn.interop.onnx._loops import recognized
from jrnn.interop.onnx._nodes import NODES
from jrnn.interop.onnx._operators import FUNCTIONS, import_onnx
from jrnn.interop.onnx._values import FEATURES, Axis, Flow, Known, Part, Source, Unread, Value
from jrnn.layers import Reversed, Sequential
from jrnn.paradigms import ManyToOne

OPSET = 7  # the first with the current meaning of the operators


def from_onnx(source: Any) -> tuple[Any, Any]:
    """Read a model from ONNX: RNN, GRU and LSTM, and the Gather, MatMul, Gemm and Add before and after them.

    The graph must be one chain of layers, from one input to one output, as exported by PyTorch and Keras.
    Nodes that only move axes (Transpose, Reshape, Squeeze, Slice, Shape, ...) are followed: it does not
    matter how an exporter merges directions, takes the last step or writes the zeros of the initial state.
    Forward layers become a `Stack`, others a `Sequential`; a graph that reads the last step or state becomes
    `ManyToOne`. Nonzero constants as initial states become `LearnedCarry`. All attributes of the operators
    are supported.

    Layers that an exporter writes as a `Loop`, or step by step, are recognized by what they compute: the
    operations are evaluated on random inputs and weights, and compared with the layers of Keras (`SimpleRNN`,
    `GRU`, `LSTM`, `ConvLSTM`, a stack of cells, `Dense` at every step), in both directions and with masks.
    So does Keras 3 export most layers, and PyTorch with dynamo=True `nn.RNN`, whose h_n is a state like that
    of the operators. What computes none of them is an error that names the node.

    The model is time-first, regardless of the graph. Inputs of the graph for lengths and states become
    arguments of `jrnn.apply`, and the states that it returns are in the carry. A mask that the graph computes
    from its input, as `Masking` and `mask_zero=True` do, is an argument too: `mask=tokens != 0`. Outputs in
    padding are 0 in jrnn; a PyTorch `Linear` after a padded sequence gives its bias there, and Keras repeats
    the output before a masked step. For a row of length 0 onnxruntime
    returns a zero state, jrnn the initial state. The two biases of the operators become their sum, which is
    equivalent up to rounding.

    Args:
      source: an `onnx.ModelProto`, e.g. from `onnx.load(path)`, or its bytes.

    Returns:
      `(model, params)`, for `jrnn.apply` and, unless it is a layer, `jrnn.unroll`.

    Raises:
      ValueError: bytes that are not a model; an invalid or unsupported graph, with the node that is the
        reason; parameters in float64 without jax_enable_x64.
      ModuleNotFoundError: onnx is not installed.

    >>> import jax, jrnn
    >>> model = jrnn.Stack((jrnn.Embed(4), jrnn.GRU(8), jrnn.Dense(10)))
    >>> proto = jrnn.interop.to_onnx(model, model.init(jax.random.key(0), 10))
    >>> read, params = jrnn.interop.from_onnx(proto)
    >>> read == model
    True
    """
    onnx = import_onnx()
    proto = _parsed(onnx, source)
    versions = {given.domain: given.version for given in proto.opset_import}
    if versions.get("", versions.get("ai.onnx", OPSET)) < OPSET:
        raise ValueError(
            f"opset {versions} is before {OPSET}: onnx.version_converter makes a later one of it"
        )
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    graph = _Graph(onnx, proto)
    for node in proto.graph.node:
        graph.read(node)
    flow = _answer(graph)
    parts: list[Part] = list(flow.chain[1:])
    _check_all_is_read(graph, parts, flow)
    return _model(parts, flow.read)


def _parsed(onnx: Any, source: Any) -> Any:
    if isinstance(source, bytes):
        try:
            source = onnx.load_from_string(source)
        except Exception as error:  # of protobuf, whose classes differ between its versions
            raise ValueError(f"{len(source)} bytes are not a complete ONNX model: {error}") from error
    if not isinstance(source, onnx.ModelProto):
        raise TypeError(f"from_onnx takes an onnx.ModelProto or its bytes, got a {type(source).__name__}")
    if not source.graph.node:
        raise ValueError("the ONNX model has no nodes")
    for tensor in source.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(
                f"{tensor.name!r} is kept outside of the model: onnx.load(path) reads it as well"
            )
    try:
        onnx.checker.check_model(source)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"not a valid ONNX model: {error}") from error
    return source


class _Graph:
    """The values of a graph, by name, as its nodes are read."""

    def __init__(self, onnx: Any, proto: Any) -> None:
        self.onnx, self.graph, self.found = onnx, proto.graph, Found()
        self.opsets = proto.opset_import
        self.opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), OPSET)
        self.values: dict[str, Value | None] = {"": None}
        for tensor in self.graph.initializer:
            self.values[tensor.name] = Known.of(self.array(tensor))
        for given in self.graph.input:
            if given.name not in self.values:
                self.values[given.name] = self._input(given)

    def array(self, tensor: Any) -> Any:
        """The array of a tensor."""
        try:
            return self.onnx.numpy_helper.to_array(tensor)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{tensor.name!r} is not an array: {error}") from error

    def _dtype(self, number: int) -> np.dtype[Any]:
        try:
            return np.dtype(self.onnx.helper.tensor_dtype_to_np_dtype(number))
        except KeyError as error:
            raise ValueError(f"{number} is not a dtype of ONNX") from error

    def _input(self, given: Any) -> Flow:
        kind = given.type.tensor_type
        dtype = self._dtype(kind.elem_type)
        if dtype.kind not in "if":
            raise ValueError(f"input {given.name!r} is of {dtype}, and models read floats or integers")
        dims: list[Any] = [
            (Axis(f"{given.name}:{place}", dim.dim_value or f"{given.name}:{place}"),)
            for place, dim in enumerate(kind.shape.dim)
        ]
        if dtype.kind == "f" and isinstance(dims[-1][0].size, int):
            dims[-1] = (Axis(FEATURES, dims[-1][0].size),)
        return Flow(((Source(given.name, dtype.kind == "i"),),), tuple(dims))

    def read(self, node: Any) -> None:
        """Read a node; what it cannot be read as is an error once the model turns out to depend on it."""
        name, inputs = _name(node), [self.values[given] for given in node.input]
        unread = next((value for value in inputs if isinstance(value, Unread)), None)
        found: Any = None
        if node.op_type == "Loop" or (node.op_type == "Concat" and unread):
            found = recognized(self, node, name)
        if found is None and (node.op_type not in NODES or node.domain not in ("", "ai.onnx")):
            unread = unread if node.op_type != "Loop" and unread else Unread(f"{name}: {_foreign(node)}")
        if found is None and unread is None:
            attributes = {a.name: self._attribute(a) for a in node.attribute}
            if self.opset < 13 and node.op_type in FUNCTIONS:
                attributes.setdefault("axis", 1)  # later ones have the last axis instead
            given = Node(node.op_type, name, inputs, list(node.output), attributes, self.found)
            try:
                found = NODES[node.op_type](given)
            except (ValueError, TypeError, IndexError, ArithmeticError) as error:
                unread = Unread(f"{name}: {error}")
        values = found if isinstance(found, list) else [found] * len(node.output)
        named = found if isinstance(found, dict) else dict(zip(node.output, values, strict=False))
        for output in filter(None, (*node.output, *named)):  # "" is an output that is not asked for
            lost = unread or Unread(f"{name}: it gives more than steps and states")
            self.values[output] = named.get(output) or lost

    def _attribute(self, attribute: Any) -> Any:
        value = self.onnx.helper.get_attribute_value(attribute)
        if isinstance(value, self.onnx.TensorProto):
            return self.array(value)
        if attribute.name == "to":
            return self._dtype(value)
        if isinstance(value, bytes):
            return value.decode()
        return (
            [v.decode() if isinstance(v, bytes) else v for v in value] if isinstance(value, list) else value
        )


def _name(node: Any) -> str:
    domain = f"{node.domain}." if node.domain else ""
    return f"node {node.name or node.output[0]!r} ({domain}{node.op_type})"


def _foreign(node: Any) -> str:
    if node.op_type in ("Loop", "Scan"):
        return "a loop that computes neither SimpleRNN, GRU, LSTM nor ConvLSTM as Keras does"
    return (
        "from_onnx reads RNN, GRU, LSTM, and Gather, MatMul, Gemm, Add, Tanh around them, not this operator"
    )


def _answer(graph: _Graph) -> Flow:
    """The output of the model; the others must be states."""
    found: dict[str, Flow] = {}
    for output in graph.graph.output:
        value = graph.values[output.name]
        if isinstance(value, Unread):
            raise ValueError(value.reason)
        if not isinstance(value, Flow) or value.given():
            raise ValueError(f"output {output.name!r} does not depend on any layer")
        found[output.name] = value
    states = {name: flow for name, flow in found.items() if flow.read in ("state", "cell")}
    answers = {name: flow for name, flow in found.items() if name not in states} or _answers_of(states)
    if len(answers) > 1:
        raise ValueError(
            f"outputs {list(answers)} are more than one answer and the states: a model has one, with both "
            "directions of a layer in it, side by side or summed"
        )
    (flow,) = answers.values()
    if len(flow.chains) > 1:
        flow = dataclasses.replace(flow, chains=(merged(flow, "concat", graph.found),))
    flow.features()
    if flow.reverse:
        raise ValueError(
            "the output is in the order of a layer that reads backward, and jrnn aligns ys[t] with xs[t]"
        )
    return flow


def _answers_of(states: dict[str, Flow]) -> dict[str, Flow]:
    """Of outputs without time, the one after the most layers; the first if there are several."""
    depth = {name: max(map(len, flow.chains)) for name, flow in states.items() if flow.read == "state"}
    deepest = max(depth or states, key=lambda name: depth.get(name, 0))
    return {deepest: states[deepest]}


def _check_all_is_read(graph: _Graph, parts: list[Part], flow: Flow) -> None:
    """Check that all of the graph is read, and that lengths apply to all of it or none."""
    used = [member for part in parts for member in part.members()]
    for part in graph.found.parts:
        if part not in used:
            raise ValueError(f"{part.node}: its output does not lead to that of the model")
    sources = set(graph.found.lengths.values())
    if len(sources) > 1:
        raise ValueError(
            f"nodes take lengths or masks from {sorted(sources)} ('' for none): they must take the same"
        )
    if sources - {""} and flow.read in ("step", "mean", "max"):
        raise ValueError(
            f"it reads the {flow.read} of a padded sequence, and takes lengths: Y_h has its last state"
        )


def _model(parts: list[Part], read: str) -> tuple[Any, Any]:
    """Compose the layers into one model."""
    models = tuple(Reversed(part.cell) if part.kind == "backward" else part.cell for part in parts)
    params = to_jax(tuple(part.params for part in parts))
    flat = not read and all(part.kind in ("forward", "map") for part in parts)
    if len(models) == 1:
        model, params = models[0], params[0]
    else:
        model = Stack(models) if flat else Sequential(models)
    if read:
        model = ManyToOne(model, read=read if read in ("mean", "max") else "ends")
    return model, params
