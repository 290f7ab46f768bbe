"""Models of ONNX's operators RNN, GRU and LSTM, as written by `jrnn.interop.to_onnx`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from onnx import ModelProto, helper, numpy_helper

from jrnn.export._signature import BATCH, Signature
from jrnn.interop import to_onnx

OR_ONE = f"{BATCH}_or_1"  # rows of inputs with a default


def fitted(
    model: Any, params: Any, given: Signature, start: Mapping[str, Any], *, lengths: bool, carry: bool
) -> ModelProto | None:
    """Write a model by operators, if they compute all of it in float32, as onnxruntime does.

    Args:
      model: a cell or a layer.
      params: its parameters.
      given: its inputs.
      start: the initial carry of one row, by input name.
      lengths: add an input for lengths.
      carry: add inputs for the carry.
    """
    leaves = jax.tree.leaves(given.xs)
    dtypes = {leaf.dtype for leaf in (*leaves, *jax.tree.leaves(params))}
    if len(leaves) != 1 or given.spatial or not dtypes <= {jnp.dtype("float32"), jnp.dtype("int32")}:
        return None
    try:
        proto = to_onnx(model, params, lengths=lengths, carry=carry)
    except ValueError:  # a part without an operator
        return None
    amended = _Amended(proto)
    starts = {}
    if carry or lengths:  # onnxruntime warns of constants that no node reads
        starts = {name: amended.constant(name if carry else f"{name}.start", a) for name, a in start.items()}
    if carry:
        starts = {name: amended.spread(name, a.shape[-1]) for name, a in start.items()}
    if lengths:
        amended.keep(starts)
    return proto


class _Amended:
    """A graph of operators, with the defaults and the handling of length 0 that other graphs have."""

    def __init__(self, proto: ModelProto) -> None:
        self.graph = proto.graph

    def constant(self, name: str, value: Any) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, place: int, **attributes: Any) -> str:
        self.graph.node.insert(place, helper.make_node(kind, inputs, [output], **attributes))
        return output

    def rename(self, old: str, new: str) -> None:
        """Rename a value in all nodes that read or write it."""
        for node in self.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    def spread(self, name: str, width: int) -> str:
        """Let an input with a default have one row, or all of them."""
        whole = f"{name}.rows"
        self.rename(name, whole)
        (value,) = (v for v in self.graph.input if v.name == name)
        value.type.tensor_type.shape.dim[0].dim_param = OR_ONE
        at, features = (self.constant(f"{name}.{n}", np.array([n])) for n in (1, width))
        rows = self.node("Gather", [self.node("Shape", ["xs"], f"{name}.xs", 0), at], f"{name}.size", 1)
        shape = self.node("Concat", [rows, features], f"{name}.shape", 2, axis=0)
        return self.node("Expand", [name, shape], whole, 3)

    def keep(self, starts: Mapping[str, str]) -> None:
        """Keep the carry of rows of length 0, which the operators set to zero."""
        end = len(self.graph.node)
        zero, axis = self.constant("no.step", np.int32(0)), self.constant("no.axis", np.array([1]))
        flags = self.node("Equal", ["lengths", zero], "no.flags", end)
        empty = self.node("Unsqueeze", [flags, axis], "no.rows", end + 1)
        for name, start in starts.items():
            last = name.replace("carry", "last", 1)
            self.rename(last, f"{last}.step")
            self.node("Where", [empty, start, f"{last}.step"], last, len(self.graph.node))
