"""Graphs that Keras writes, by way of TensorFlow and tf2onnx, read from ONNX."""

import functools
import zipfile

import numpy as np
import pytest

import jrnn
from jrnn.interop import from_onnx
from jrnn.interop._keras import ACTIVATIONS
from jrnn.interop.onnx._regions import USED
from tests.keras_exports import ARCHIVE
from tests.onnx_graphs import (
    HIDDEN,
    node,
    only_in,
    proto_of,
    tensor,
    weights_of,
)
from tests.test_interop_onnx import BATCH, IN, STEPS, run

onnx = pytest.importorskip("onnx", reason="onnx is not installed")


def keras_proto(**changes):
    """Batch first; tokens below zero count from the end; a read-out of all steps in one matrix."""
    rng = np.random.default_rng(2)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    weights = {
        "table": draw(7, IN),
        **{f"{name}0": value for name, value in weights_of("LSTM", 1).items()},
        **{f"{name}1": value for name, value in weights_of("LSTM", 2, seed=1).items()},
        "W1": draw(2, 4 * HIDDEN, HIDDEN),
        "kernel": draw(2 * HIDDEN, 5),
        "bias": draw(5),
        **{"words": np.array([7], np.int32), "nil": np.float32(0), "0": np.array([0]), "1": np.array([1])},
        **{"2": np.array([2]), "width": np.array([HIDDEN], np.int32), "out": np.array([5], np.int32)},
        **{"01": np.array([0, 1]), "flat": np.array([-1, 2 * HIDDEN]), "rows": np.array([0, 0, -1])},
    } | changes
    names = ["Sigmoid", "Tanh", "Tanh"]
    lstm = functools.partial(node, "LSTM", name="", hidden_size=HIDDEN)
    nodes = [
        node("Add", "X,words", "moved"),
        node("Cast", "X", "float", to=onnx.TensorProto.FLOAT),
        node("Less", "float,nil", "below"),
        node("Not", "below", "above"),
        node("Cast", "above", "above int", to=onnx.TensorProto.INT32),
        node("Cast", "below", "below int", to=onnx.TensorProto.INT32),
        node("Mul", "X,above int", "kept"),
        node("Mul", "below int,moved", "turned"),
        node("Add", "turned,kept", "tokens"),
        node("Gather", "table,tokens", "embedded", axis=0),
        node("Transpose", "embedded", "time first", perm=[1, 0, 2]),
        node("Shape", "embedded", "sizes"),
        node("Cast", "sizes", "sizes int", to=onnx.TensorProto.INT32),
        node("Slice", "sizes int,0,1,0", "batch"),
        node("Concat", "batch,width", "state sizes", axis=0),
        node("Cast", "state sizes", "state sizes long", to=onnx.TensorProto.INT64),
        node("Expand", "nil,state sizes long", "zeros"),
        node("Unsqueeze", "zeros,0", "start"),
        lstm("time first,W0,R0,B0,,start,start", "Y0", activations=names),
        node("Squeeze", "Y0,1", "ys0"),
        node("Concat", "start,start", "starts", axis=0),
        lstm("ys0,W1,R1,B1,,starts,starts", "Y1", activations=names * 2, direction="bidirectional"),
        node("Slice", "Y1,0,1,1", "first"),
        node("Slice", "Y1,1,2,1", "second"),
        node("Squeeze", "first,1", "forward"),
        node("Squeeze", "second,1", "backward"),
        node("Concat", "forward,backward", "both", axis=2),
        node("Transpose", "both", "batch first", perm=[1, 0, 2]),
        node("Shape", "batch first", "sizes of both"),
        node("Gather", "sizes of both,01", "leading"),
        node("Cast", "leading", "leading int", to=onnx.TensorProto.INT32),
        node("Concat", "leading int,out", "all", axis=0),
        node("Cast", "all", "all long", to=onnx.TensorProto.INT64),
        node("Reshape", "batch first,flat", "matrix"),
        node("MatMul", "matrix,kernel", "product"),
        node("Reshape", "product,all long", "logits"),
        node("Add", "logits,bias", "ys"),
    ]
    return proto_of(nodes, [tensor("X", ["b", "t"], onnx.TensorProto.INT32)], ["ys"], weights)


def test_what_keras_writes_is_read():
    model, params = from_onnx(keras_proto())
    both = jrnn.Bidirectional(jrnn.LSTM(HIDDEN))
    assert model == jrnn.Sequential((jrnn.Embed(IN), jrnn.LSTM(HIDDEN), both, jrnn.Dense(5)))
    tokens = np.random.default_rng(0).integers(0, 7, (BATCH, STEPS)).astype(np.int32)
    want = run(keras_proto(), {"X": tokens})["ys"]
    _, ys = jrnn.apply(model, params, tokens.T)
    np.testing.assert_allclose(np.swapaxes(ys, 0, 1), want, rtol=1e-5, atol=1e-5)


def answer(*parts):
    return jrnn.ManyToOne(jrnn.Sequential(parts))


TOKENS = np.array([[4, 2, 0, 0, 0, 0], [1, 0, 3, 5, 6, 0], [0, 6, 2, 1, 0, 0], [5, 4, 3, 2, 1, 6]], np.int32)
BOTH = jrnn.Bidirectional(jrnn.GRU(4))
KERAS = {
    "tensorflow, last of a GRU": answer(jrnn.GRU(4), jrnn.Dense(2)),
    "tensorflow, GRU that resets before": jrnn.GRU(4, reset_after=False, bias=False),
    "tensorflow, hard gates": jrnn.LSTMVariant(4, gate_activation="hard_sigmoid"),
    "tensorflow, SimpleRNN backwards": jrnn.ManyToOne(jrnn.Reversed(jrnn.Elman(4, activation="relu"))),
    "tensorflow, both ways": jrnn.Bidirectional(jrnn.GRU(4), merge="sum"),
    "tensorflow, tokens, mask, both ways": answer(jrnn.Embed(3), BOTH, jrnn.Dense(2)),
    "tensorflow, mask of values": jrnn.Stack((jrnn.LSTM(3), jrnn.GRU(4))),
    "tensorflow, stacked cells": jrnn.Stack((jrnn.LSTM(4), jrnn.GRU(5))),
    "tensorflow, every step": jrnn.Stack((jrnn.LSTM(4), jrnn.Dense(2))),
    "tensorflow, field": jrnn.ConvLSTM(3, spatial=1),
    "jax, last of an LSTM": jrnn.ManyToOne(jrnn.LSTM(4)),
    "jax, both ways": jrnn.Bidirectional(jrnn.GRU(4), merge="sum"),
    "jax, tokens, mask": answer(jrnn.Embed(3), jrnn.LSTM(4), jrnn.Dense(2)),
    "jax, backwards": jrnn.ManyToOne(jrnn.Reversed(jrnn.GRU(4))),
}


def exported_by_keras(name):
    with zipfile.ZipFile(ARCHIVE) as archive:
        return onnx.load_from_string(archive.read(f"{name}.onnx"))


def keras_difference(name):
    """The largest difference of outputs; at masked steps Keras repeats one, and jrnn gives 0."""
    proto = exported_by_keras(name)
    model, params = from_onnx(proto)
    kept, xs = np.full(TOKENS.shape, True), TOKENS
    if "tokens" not in name:
        field = (5, 3) if "field" in name else (3,)
        xs = np.random.default_rng(0).normal(size=(*TOKENS.shape, *field)).astype(np.float32)
        xs[TOKENS == 0] = -1
    kept = TOKENS != 0 if "mask" in name else kept
    (want,) = run(proto, {proto.graph.input[0].name: xs}).values()
    _, ys = jrnn.apply(model, params, xs.swapaxes(0, 1), mask=kept.T)
    got = ys if want.shape == ys.shape else ys.swapaxes(0, 1)
    kept = kept if want.ndim > 2 else slice(None)
    return float(np.abs(got[kept] - want[kept]).max())


@pytest.mark.parametrize("name", KERAS)
def test_layers_that_keras_writes_as_loops_are_read(name):
    assert from_onnx(exported_by_keras(name))[0] == KERAS[name]
    assert keras_difference(name) < 1e-5


PARITY = {
    "keras.export to ONNX": {name: functools.partial(only_in, keras_difference, name) for name in KERAS},
}


def test_every_activation_of_keras_is_looked_for():
    assert USED.keys() == ACTIVATIONS.keys()


def changed(name, kind, place, value, inside=True):
    """A file of Keras with one constant changed, the input of a node in its loop."""
    proto = exported_by_keras(name)
    loop = next(node for node in proto.graph.node if node.op_type == "Loop")
    body = next(a.g for a in loop.attribute if a.name == "body")
    graph = body if inside else proto.graph
    used = next(node for node in graph.node if node.op_type == kind).input[place]
    constant = next(i for i in graph.initializer if i.name == used)
    constant.CopyFrom(onnx.numpy_helper.from_array(np.array(value, np.float32), used))
    return proto
