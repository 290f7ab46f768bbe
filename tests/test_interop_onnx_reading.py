"""Graphs of others read from ONNX: every attribute of the operators, and faults."""

import sys

import jax
import numpy as np
import pytest

import jrnn
from jrnn.interop import from_onnx, to_onnx
from tests.onnx_graphs import (
    ATTRIBUTES,
    HIDDEN,
    carry_of,
    check_read,
    node,
    operator_proto,
    proto_of,
    states_of,
    tensor,
    weights_of,
)
from tests.test_interop_onnx import BATCH, IN, LENGTHS, STEPS, assert_same, drawn
from tests.test_interop_onnx_keras import changed, keras_proto

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

DIRECTED = [(name, "bidirectional") for name in ATTRIBUTES]
DIRECTED += [(name, way) for name in ("RNN", "GRU-after", "LSTM-peepholes") for way in ("forward", "reverse")]


@pytest.mark.parametrize(("name", "direction"), DIRECTED)
def test_operators_are_read(name, direction):
    kind, attributes = ATTRIBUTES[name]
    proto = operator_proto(kind, direction, **attributes)
    states = states_of(kind, 2 if direction == "bidirectional" else 1)
    model, params = from_onnx(proto)
    check_read(proto, carry_of(model, params, states), LENGTHS, states)
    again = from_onnx(to_onnx(model, params, lengths=True, carry=True))
    assert again[0] == model
    assert_same(again[1], params)


def test_what_an_operator_says_becomes_a_field():
    proto = operator_proto("LSTM", **ATTRIBUTES["LSTM-activations"][1], clip=0.6, input_forget=1)
    assert from_onnx(proto)[0] == jrnn.LSTMVariant(
        HIDDEN,
        peepholes="diagonal",
        coupled=True,
        clip=0.6,
        gate_activation="sigmoid",
        activation="softsign",
        output_activation="elu(0.6)",
    )
    assert (
        from_onnx(operator_proto("RNN", activations=["HardSigmoid"]))[0].activation
        == "hard_sigmoid(0.2, 0.5)"
    )
    assert from_onnx(operator_proto("RNN", activations=["LeakyRelu"]))[0] == jrnn.Elman(
        4, activation="leaky_relu"
    )
    assert from_onnx(operator_proto("GRU"))[0] == jrnn.GRU(HIDDEN, reset_after=False)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_a_constant_start_is_learned(kind):
    """Equal rows are one start; zeros are none."""
    start = {name: np.repeat(value[:, :1], BATCH, 1) for name, value in states_of(kind, 2).items()}
    model, _ = check_read(operator_proto(kind, "bidirectional", start, lengths=False))
    cell = {"GRU": jrnn.GRU(HIDDEN, reset_after=False), "LSTM": jrnn.LSTM(HIDDEN)}[kind]
    assert model == jrnn.Bidirectional(jrnn.LearnedCarry(cell), jrnn.LearnedCarry(cell))
    zeros = {name: value * 0 for name, value in start.items()}
    assert from_onnx(operator_proto(kind, "bidirectional", zeros))[0] == jrnn.Bidirectional(cell)
    with pytest.raises(ValueError, match="initial_h differs from row to row"):
        from_onnx(operator_proto(kind, "bidirectional", states_of(kind, 2)))


def test_batch_first_is_read_as_time_first():
    """Onnxruntime refuses `layout`."""
    for direction in ("forward", "bidirectional"):
        want = from_onnx(operator_proto("GRU", direction))
        got = from_onnx(operator_proto("GRU", direction, layout=1))
        assert got[0] == want[0]
        assert_same(got[1], want[1])
    start = {"initial_h": np.arange(4, dtype=np.float32).reshape(1, 1, 4)}
    got = from_onnx(operator_proto("GRU", start=start, layout=1))[1]
    assert got.carry.tolist() == [0, 1, 2, 3]


def test_an_output_that_is_omitted_is_no_input():
    """Both are written as an empty name."""
    first, second = weights_of("LSTM", 1), weights_of("LSTM", 1, seed=1)
    weights = {**first, **{f"{name}2": value for name, value in second.items()}}
    weights |= {"W2": second["R"], "1": np.array([1])}
    nodes = [
        node("LSTM", "X,W,R,B", "Y1", "", "c", hidden_size=HIDDEN),
        node("Squeeze", "Y1,1", "ys"),
        node("LSTM", "ys,W2,R2,B2,,", "Y", name="", hidden_size=HIDDEN),
    ]
    proto = proto_of(nodes, [tensor("X", ["t", "b", IN])], ["Y"], weights)
    assert check_read(proto)[0] == jrnn.Stack((jrnn.LSTM(HIDDEN), jrnn.LSTM(HIDDEN)))


def test_the_second_bias_of_n_stays_its_own():
    weights = weights_of("GRU", 1)
    first, second = np.split(weights["B"][0], 2)
    n = slice(2 * HIDDEN, None)
    after = from_onnx(operator_proto("GRU", weights=weights, linear_before_reset=1))[1]
    np.testing.assert_array_equal(after.b[n], first[n])
    np.testing.assert_array_equal(after.b_hn, second[n])
    before = from_onnx(operator_proto("GRU", weights=weights))[1]
    np.testing.assert_array_equal(before.b[n], first[n] + second[n])
    assert before.b_hn is None
    for params in (after, before):
        np.testing.assert_array_equal(params.b[:HIDDEN], (first + second)[HIDDEN : 2 * HIDDEN])  # r is second


# faults


def simple(kind="GRU", after=(), extra=(), opset=14, **changes):
    """One operator with weights changed, None for one that is missing, and nodes after its output."""
    weights = weights_of(kind, 1) | changes
    nodes = [node(kind, "X,W,R,B", "Y"), *after]
    weights |= dict(extra)
    weights = {name: value for name, value in weights.items() if value is not None}
    return proto_of(nodes, [tensor("X", ["t", "b", IN])], [nodes[-1].output[0]], weights, opset)


def quantized(domain="com.microsoft"):
    proto = simple("LSTM")
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "DynamicQuantizeLSTM", domain
    proto.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return proto


def dequantized():
    """The weights as integers with a scale."""
    whole = {"q": np.ones((1, 12, IN), np.int8), "scale": np.float32(0.1), "W": None}
    proto = simple(extra=whole.items(), W=None)
    proto.graph.node.insert(0, node("DequantizeLinear", "q,scale", "W"))
    return proto


def outside():
    proto = simple()
    weight = next(i for i in proto.graph.initializer if i.name == "W")
    onnx.external_data_helper.set_external_data(weight, "weights.bin")
    return proto


def two_orders(join):
    """Two layers, of which one reads what was reversed, joined without turning its steps back."""
    nodes = [
        node("GRU", "X,W,R,B", "Y"),
        node("Squeeze", "Y,one", "f"),
        node("ReverseSequence", "X,L", "x", time_axis=0, batch_axis=1),
        node("GRU", "x,W,R,B", "Z"),
        node("Squeeze", "Z,one", "b"),
        join,
    ]
    weights = weights_of("GRU", 1) | {"L": np.full(3, 5), "one": np.array([1])}
    return proto_of(nodes, [tensor("X", [5, 3, IN])], ["ys"], weights)


ROWS = 3 * HIDDEN
FAULTS = {
    "missing": (lambda: simple(R=None), "not a valid ONNX model: .*'R'"),
    "integers": (
        lambda: simple(W=np.ones((1, ROWS, IN), np.int8)),
        "W must hold floating point numbers, got int8",
    ),
    "transposed": (
        lambda: simple(W=np.ones((1, IN, ROWS), np.float32)),
        r"W must have shape \(1, 12, 2\), got \(1, 2, 12\)",
    ),
    "gates": (lambda: simple("LSTM", R=np.ones((1, ROWS, 4), np.float32)), r"R must have shape \(1, 16, 4\)"),
    "bias": (lambda: simple(B=np.ones((1, ROWS), np.float32)), r"B must have shape \(1, 24\), got \(1, 12\)"),
    "dtypes": (lambda: simple(B=np.ones((1, 2 * ROWS), np.float64)), "W, R, B and P must have one dtype"),
    "directions": (
        lambda: operator_proto("GRU", "bidirectional", weights=weights_of("GRU", 1)),
        r"R must have shape \(2, gates · hidden, hidden\), got \(1, 12, 4\)",
    ),
    "quantized": (quantized, r"node 'the LSTM' \(com.microsoft.DynamicQuantizeLSTM\): from_onnx reads RNN"),
    "dequantized": (dequantized, r"\(DequantizeLinear\): from_onnx reads RNN"),
    "hidden_size": (
        lambda: proto_of(
            [node("GRU", "X,W,R,B", "Y", hidden_size=5)],
            [tensor("X", ["t", "b", IN])],
            ["Y"],
            weights_of("GRU", 1),
        ),
        "hidden_size is 5, and R has shape",
    ),
    "unknown activation": (lambda: operator_proto("RNN", activations=["Mish"]), "unknown activation 'Mish'"),
    "no constants": (lambda: operator_proto("RNN", activations=["Affine"]), "Affine needs its constants"),
    "constants": (
        lambda: operator_proto("RNN", activations=["Tanh"], activation_alpha=[0.5]),
        r"constants \[\[0.5\], \[\]\] are left over",
    ),
    "count": (
        lambda: operator_proto("GRU", activations=["Tanh"]),
        "activations must be 2 for each direction",
    ),
    "clip": (lambda: operator_proto("GRU", clip=-1.0), "clip must be positive, got -1.0"),
    "lengths": (
        lambda: proto_of(
            [node("GRU", "X,W,R,B,L", "Y")],
            [tensor("X", ["t", "b", IN])],
            ["Y"],
            weights_of("GRU", 1) | {"L": np.array([2, 3], np.int32)},
        ),
        r"sequence_lens are the constants \[2, 3\]: a model has no place",
    ),
    "opset": (lambda: simple(opset=6), "opset .* is before 7"),
    "time": (
        lambda: simple(
            after=[
                node("Transpose", "Y", "turned", perm=[2, 1, 0, 3]),
                node("Squeeze", "turned,1", "z"),
                node("RNN", "z,W2,R2", "Z"),
            ],
            extra={
                "1": np.array([1]),
                "W2": np.ones((1, 4, 4), np.float32),
                "R2": np.ones((1, 4, 4), np.float32),
            }.items(),
        ),
        "its time axis must be a separate axis throughout the graph",
    ),
    "two directions apart": (
        lambda: proto_of(
            [
                node("GRU", "X,W,R,B", "Y", direction="bidirectional"),
                *(node("Gather", f"Y,{k}", f"ys{k}", axis=1) for k in (0, 1)),
            ],
            [tensor("X", ["t", "b", IN])],
            ["ys0", "ys1"],
            weights_of("GRU", 2) | {"0": np.array(0), "1": np.array(1)},
        ),
        r"outputs \['ys0', 'ys1'\] are more than one answer .* both directions of a layer in it",
    ),
    "one direction of two": (
        lambda: proto_of(
            [node("GRU", "X,W,R,B", "Y", direction="bidirectional"), node("Gather", "Y,0", "ys", axis=1)],
            [tensor("X", ["t", "b", IN])],
            ["ys"],
            weights_of("GRU", 2) | {"0": np.array(0)},
        ),
        r"node 'the GRU' \(GRU\): its output does not lead to that of the model",
    ),
    "cell state": (
        lambda: proto_of(
            [node("LSTM", "X,W,R,B", "", "", "Y_c")],
            [tensor("X", ["t", "b", IN])],
            ["Y_c"],
            weights_of("LSTM", 1),
        ),
        "it reads the cell state of an LSTM",
    ),
    "outside": (outside, "'W' is kept outside of the model: onnx.load"),
    "interleaved": (
        lambda: proto_of(
            [
                node("GRU", "X,W,R,B", "Y", direction="bidirectional"),
                node("Transpose", "Y", "turned", perm=[0, 2, 3, 1]),
                node("Reshape", "turned,shape", "ys"),
            ],
            [tensor("X", ["t", "b", IN])],
            ["ys"],
            weights_of("GRU", 2) | {"shape": np.array([0, 0, -1])},
        ),
        "it merges directions with others than the features",
    ),
    "reversed": (
        lambda: proto_of(
            [node("ReverseSequence", "X,L", "x", time_axis=0, batch_axis=1), node("GRU", "x,W,R,B", "Y")],
            [tensor("X", [5, 3, IN])],
            ["Y"],
            weights_of("GRU", 1) | {"L": np.full(3, 5)},
        ),
        "in the order of a layer that reads backward",
    ),
    "softmax over time": (
        lambda: proto_of(
            [
                node("MatMul", "X,w", "m"),
                node("Transpose", "m", "n", perm=[2, 1, 0]),
                node("Softmax", "n", "s", axis=-1),
                node("Transpose", "s", "ys", perm=[2, 1, 0]),
            ],
            [tensor("X", ["t", "b", IN])],
            ["ys"],
            {"w": np.ones((IN, 4), np.float32)},
        ),
        "its last axis must be the features, and no other axis",
    ),
    "softmax of old": (
        lambda: proto_of(
            [node("MatMul", "X,w", "m"), node("Softmax", "m", "ys")],
            [tensor("X", ["t", "b", IN])],
            ["ys"],
            {"w": np.ones((IN, 4), np.float32)},
            opset=11,
        ),
        "axis=1 is not that of the features",
    ),
    "directions in two orders": (
        lambda: two_orders(node("Concat", "f,b", "ys", axis=2)),
        "in the order of a layer that reads backward with other steps",
    ),
    "a sum of two orders": (
        lambda: two_orders(node("Add", "f,b", "ys")),
        "in the order of a layer that reads backward with other steps",
    ),
    "a loop of something else": (
        lambda: changed("tensorflow, last of a GRU", "Sub", 0, 1.01),
        r"\(Loop\): a loop that computes neither SimpleRNN, GRU, LSTM nor ConvLSTM",
    ),
    "a mask of something else": (
        lambda: changed("tensorflow, mask of values", "Greater", 1, 1, inside=False),
        r"\(Loop\): a loop that computes neither",
    ),
    "other tokens": (
        lambda: keras_proto(words=np.array([8], np.int32), nil=np.float32(3)),
        "by other numbers",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_errors(name):
    make, message = FAULTS[name]
    with pytest.raises(ValueError, match=message):
        from_onnx(make())


def test_bytes_that_are_no_model_are_refused():
    whole = simple().SerializeToString()
    for size in range(0, len(whole), 7):
        with pytest.raises(ValueError, match="ONNX model"):
            from_onnx(whole[:size])
    with pytest.raises(TypeError, match=r"takes an onnx.ModelProto or its bytes, got a str"):
        from_onnx("model.onnx")


def test_float64_needs_x64():
    weights = {name: value.astype(np.float64) for name, value in weights_of("GRU", 1).items()}
    proto = proto_of([node("GRU", "X,W,R,B", "Y")], [tensor("X", [5, 3, IN], 11)], ["Y"], weights)
    with pytest.raises(ValueError, match="which JAX rounds to float32"):
        from_onnx(proto)
    with jax.enable_x64(True):
        assert from_onnx(proto)[1].w_ih.dtype == np.float64


def test_onnx_is_named_where_it_is_not_installed(monkeypatch):
    proto = simple()
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: from_onnx(proto), lambda: to_onnx(jrnn.GRU(3), drawn(jrnn.GRU(3), IN)[0])):
        with pytest.raises(ModuleNotFoundError, match=r"the package onnx: pip install 'jrnn\[onnx\]'"):
            call()


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_what_export_writes_by_operators_is_read(lengths, carry):
    """It keeps the states of rows without a step, and its states have defaults."""
    model = jrnn.Sequential((jrnn.Embed(2), jrnn.Bidirectional(jrnn.LSTM(3)), jrnn.Dense(2)))
    params, _ = drawn(model, 7)
    xs = jax.ShapeDtypeStruct((STEPS, BATCH), np.int32)
    found, weights = from_onnx(jrnn.export.onnx(model, params, xs, lengths=lengths, carry=carry))
    assert found == model
    assert_same(weights, params)
