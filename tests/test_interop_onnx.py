"""Models written as ONNX and read from it: onnxruntime computes what jrnn computes.

Every parameter and state is random, biases included. onnxruntime has float32 only.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.interop import from_onnx, to_onnx

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

STEPS, BATCH, IN, HIDDEN = 5, 3, 2, 4
LENGTHS = np.array([5, 1, 3], np.int32)
CELLS = {
    **{
        f"Elman-{name}": jrnn.Elman(HIDDEN, activation=name)
        for name in (
            *("tanh", "relu", "sigmoid", "identity", "softplus", "softsign", "affine(0.5, 0.1)", "elu(0.7)"),
            *("leaky_relu", "leaky_relu(0.2)", "hard_sigmoid", "hard_sigmoid(0.3, 0.4)", "scaled_tanh"),
            *("scaled_tanh(1.1, 0.8)", "thresholded_relu", "thresholded_relu(0.2)", "elu"),
        )
    },
    "Elman-no bias": jrnn.Elman(HIDDEN, bias=False, clip=0.4),
    "GRU": jrnn.GRU(HIDDEN),
    "GRU-before": jrnn.GRU(HIDDEN, reset_after=False),
    "GRU-no bias": jrnn.GRU(HIDDEN, bias=False, activation="softsign", clip=0.6),
    "GRU-before-no bias": jrnn.GRU(HIDDEN, bias=False, reset_after=False, clip=0.6),
    "GRU-gates": jrnn.GRU(HIDDEN, activation="elu(0.7)", gate_activation="hard_sigmoid(0.3, 0.4)"),
    "LSTM": jrnn.LSTM(HIDDEN),
    "LSTM-no bias": jrnn.LSTM(HIDDEN, bias=False, activation="softsign"),
    "LSTM-peepholes": jrnn.LSTMVariant(HIDDEN, peepholes="diagonal"),
    "LSTM-coupled": jrnn.LSTMVariant(HIDDEN, coupled=True),
    "LSTM-clip": jrnn.LSTMVariant(HIDDEN, clip=0.4),
    "LSTM-all": jrnn.LSTMVariant(
        HIDDEN,
        peepholes="diagonal",
        coupled=True,
        clip=0.8,
        activation="leaky_relu(0.2)",
        output_activation="scaled_tanh(1.1, 0.8)",
        gate_activation="hard_sigmoid(0.3, 0.4)",
    ),
}


def random_like(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(scale=0.7, size=leaf.shape).astype(leaf.dtype), tree)


def drawn(model, width, seed=0, batch=BATCH):
    """Random params and carry."""
    params = jax.eval_shape(lambda key: model.init(key, width), jax.random.key(0))
    carry = jax.eval_shape(lambda p: model.initial_carry(p, (batch,)), params)
    return random_like(params, seed), random_like(carry, seed + 1)


def inputs(model, width, steps=STEPS, batch=BATCH):
    rng = np.random.default_rng(9)
    if getattr(model, "in_ndim", 1) == 0:
        return rng.integers(0, width, (steps, batch)).astype(np.int32)
    return rng.normal(size=(steps, batch, width)).astype(np.float32)


def run(proto, feeds):
    """Outputs by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def by_path(name, tree):
    found = jax.tree_util.tree_leaves_with_path(tree)
    paths = ((jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in found)
    return {".".join(filter(None, [name, path])): np.asarray(leaf) for path, leaf in paths}


def assert_close(got, want):
    assert list(got) == list(want)
    for name, value in want.items():
        assert got[name].shape == value.shape and got[name].dtype == np.float32, name
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def check_written(model, width, lengths=None, carry=True, seed=0):
    """That onnxruntime computes what jrnn does; gives the file, and the params."""
    params, start = drawn(model, width, seed)
    xs = inputs(model, width)
    proto = to_onnx(model, params, lengths=lengths is not None, carry=carry)
    last, ys = jrnn.apply(model, params, xs, start if carry else None, lengths=lengths)
    feeds = {"xs": xs} | ({} if lengths is None else {"lengths": lengths})
    feeds |= by_path("carry", start) if carry else {}
    assert {given.name for given in proto.graph.input} == set(feeds)
    assert_close(run(proto, feeds), {"ys": np.asarray(ys)} | by_path("last", last))
    return proto, params


def assert_same(got, want):
    """To the last bit."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert isinstance(a, jax.Array) and a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def check_round_trip(model, proto, params):
    """That what was written is read."""
    found, weights = from_onnx(proto.SerializeToString())
    assert found == model
    assert_same(weights, params)


@pytest.mark.parametrize("name", CELLS)
def test_cells_are_written(name):
    """Both directions, each with parameters of its own, of rows of several lengths, from a given carry."""
    proto, params = check_written(jrnn.Bidirectional(CELLS[name]), IN, LENGTHS)
    check_round_trip(jrnn.Bidirectional(CELLS[name]), proto, params)
    node = next(node for node in proto.graph.node if node.op_type in ("RNN", "GRU", "LSTM"))
    assert {a.name: a for a in node.attribute}["direction"].s == b"bidirectional"


@pytest.mark.parametrize("layer", [lambda cell: cell, jrnn.Reversed])
@pytest.mark.parametrize("name", ["GRU", "LSTM-all"])
def test_one_direction_is_written(name, layer):
    check_round_trip(layer(CELLS[name]), *check_written(layer(CELLS[name]), IN, LENGTHS))
    check_round_trip(layer(CELLS[name]), *check_written(layer(CELLS[name]), IN, carry=False))


def differences(name, dtype):
    """The largest difference of outputs and states `(in, out)`, of the parameters read and those written."""
    if dtype != "float32":  # onnxruntime has these operators in no other
        return None, None
    model = jrnn.Bidirectional(CELLS[name])
    params, start = drawn(model, IN)
    proto = to_onnx(model, params, lengths=True, carry=True)
    xs = inputs(model, IN)
    found = run(proto, {"xs": xs, "lengths": LENGTHS} | by_path("carry", start))
    largest = []
    for own, weights in (from_onnx(proto), (model, params)):
        last, ys = jrnn.apply(own, weights, xs, start, lengths=LENGTHS)
        pairs = ({"ys": np.asarray(ys)} | by_path("last", last)).items()
        largest.append(max(float(np.abs(found[name] - value).max()) for name, value in pairs))
    return tuple(largest)


PARITY = {"ONNX": {name.replace("-", " ", 1): functools.partial(differences, name) for name in CELLS}}


LAYER = {
    "language": (jrnn.Stack((jrnn.Embed(3), jrnn.LSTM(4), jrnn.GRU(2), jrnn.Dense(7))), 7),
    "tagger": (
        jrnn.Sequential(
            (
                jrnn.Embed(3),
                jrnn.Bidirectional(jrnn.LSTM(4), jrnn.LSTM(4, activation="softsign")),
                jrnn.Bidirectional(jrnn.GRU(2), jrnn.LSTM(5)),  # two nodes
                jrnn.Reversed(jrnn.Elman(2)),
                jrnn.Dense(5, activation="elu(0.7)"),
            )
        ),
        7,
    ),
    "deep": (jrnn.Bidirectional(jrnn.Stack((jrnn.LSTM(4), jrnn.GRU(3))), merge="concat"), IN),
    "sum": (jrnn.Bidirectional(jrnn.GRU(4), merge="sum"), IN),
    "uneven": (jrnn.Bidirectional(jrnn.GRU(4), jrnn.GRU(4, bias=False)), IN),
    "mul": (jrnn.Bidirectional(jrnn.GRU(4), jrnn.GRU(4, bias=False), merge="mul"), IN),
    "mean": (jrnn.Sequential((jrnn.Bidirectional(jrnn.LSTM(4), merge="mean"), jax.nn.softmax)), IN),
    "encoded": (jrnn.Stack((jrnn.Dense(3, activation="hard_tanh"), jrnn.GRU(4), jax.nn.log_softmax)), IN),
    "answer": (jrnn.ManyToOne(jrnn.Sequential((jrnn.Bidirectional(jrnn.LSTM(4)), jrnn.Dense(3)))), IN),
    "answer of two": (jrnn.ManyToOne(jrnn.Bidirectional(jrnn.GRU(3), jrnn.LSTM(4))), IN),
    "answer of one": (jrnn.ManyToOne(jrnn.Sequential((jrnn.Embed(2), jrnn.Reversed(jrnn.GRU(4))))), 7),
    "unbiased": (jrnn.Stack((jrnn.Map("softplus", IN), jrnn.Elman(4), jrnn.Dense(3, bias=False))), IN),
}


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", LAYER)
def test_models_are_written(name, lengths):
    model, width = LAYER[name]
    proto, params = check_written(model, width, lengths)
    check_round_trip(model, proto, params)


def test_a_row_of_no_steps_is_not_read_as_a_bias():
    stack = jrnn.Stack((jrnn.GRU(4), jrnn.Dense(3)))
    with pytest.raises(ValueError, match=r"in rows of no steps, .* write ManyToOne\(Sequential"):
        to_onnx(jrnn.ManyToOne(stack), drawn(stack, IN)[0], lengths=True)
    lengths = np.array([5, 0, 3], np.int32)
    check_written(jrnn.ManyToOne(stack), IN)
    check_written(jrnn.ManyToOne(jrnn.Sequential(stack.cells)), IN, lengths, carry=False)
    check_written(jrnn.ManyToOne(jrnn.Stack((jrnn.Dense(3), jrnn.GRU(4)))), IN, lengths, carry=False)


@pytest.mark.parametrize("after", [True, False])
def test_a_gru_whose_z_takes_the_new_is_written_with_z_turned(after):
    cell = jrnn.GRU(4, reset_after=after, z_keeps=False, clip=0.7)
    proto, p = check_written(cell, IN)
    turned = np.repeat(np.array([1, -1, 1], np.float32), 4)
    p = p._replace(w_ih=p.w_ih * turned, w_hh=p.w_hh * turned, b=p.b * turned)
    check_round_trip(jrnn.GRU(4, reset_after=after, clip=0.7), proto, p)


@pytest.mark.parametrize("read", ["mean", "max"])
def test_an_answer_of_all_steps_is_written(read):
    model = jrnn.ManyToOne(
        jrnn.Sequential((jrnn.GRU(4), jrnn.Bidirectional(jrnn.GRU(4)), jrnn.Dense(3))), read=read
    )
    check_round_trip(model, *check_written(model, IN))
    with pytest.raises(ValueError, match=f"read='{read}' of rows of several lengths"):
        to_onnx(model, drawn(model, IN)[0], lengths=True)


LEARNED = jrnn.Sequential((jrnn.LearnedCarry(jrnn.Stack((jrnn.GRU(3), jrnn.LSTM(4)))), jrnn.Dense(2)))


def test_a_learned_start_is_written():
    check_written(LEARNED, IN, LENGTHS, carry=False)
    both = jrnn.Bidirectional(jrnn.LearnedCarry(jrnn.LSTM(4)), jrnn.LSTM(4))
    check_round_trip(both, *check_written(both, IN, carry=False))
    with pytest.raises(
        ValueError, match=r"LearnedCarry holds the start of carry\.0\.cells\.0, and carry=True"
    ):
        to_onnx(LEARNED, drawn(LEARNED, IN)[0], carry=True)


def test_one_file_reads_any_size_and_streams():
    """Other sizes than those of the tests before; a step at a time gives what the whole does."""
    model, width = LAYER["language"]
    params, start = drawn(model, width, batch=2)
    proto = to_onnx(model, params, carry=True)
    xs = inputs(model, width, 7, 2)
    feeds, ys = by_path("carry", start), []
    whole = run(proto, {"xs": xs} | feeds)
    for x in xs:
        step = run(proto, {"xs": x[None]} | feeds)
        ys.append(step.pop("ys"))
        feeds = {name.replace("last", "carry"): value for name, value in step.items()}
    np.testing.assert_allclose(np.concatenate(ys), whole["ys"], atol=1e-5)
    assert len(step) == 3 and all(np.allclose(step[name], whole[name], atol=1e-5) for name in step)


def test_a_row_of_length_zero_ends_at_zero_in_onnxruntime():
    params, start = drawn(CELLS["LSTM"], IN)
    proto = to_onnx(CELLS["LSTM"], params, lengths=True, carry=True)
    lengths = np.array([2, 0, 5], np.int32)
    found = run(proto, {"xs": inputs(CELLS["LSTM"], IN), "lengths": lengths} | by_path("carry", start))
    for value in (found["last.h"], found["last.c"], found["ys"][:, :]):
        assert np.any(value[..., 0, :]) and not np.any(value[..., 1, :])


REFUSED = {
    "gates='if', and ONNX's LSTM has weights": jrnn.LSTMVariant(3, gates="if"),
    "projection=2, and ONNX's LSTM has no w_hr": jrnn.LSTMVariant(3, projection=2),
    "gate_recurrence=True, and ONNX's LSTM has no w_gh": jrnn.LSTMVariant(3, gate_recurrence=True),
    "peepholes='full', and ONNX has vectors as p": jrnn.LSTMVariant(3, peepholes="full"),
    "cell_clip=0.5, and ONNX clips what gates read": jrnn.LSTMVariant(3, cell_clip=0.5),
    "z_keeps=False, and z of ONNX": jrnn.GRU(3, z_keeps=False, gate_activation="softsign"),
    "activation='gelu' is none of ONNX's activations, Affine, Elu": jrnn.GRU(3, activation="gelu"),
    "MGU(hidden=3): ONNX has operators for Elman": jrnn.MGU(3),
    "1: JANET(hidden=3): ONNX has operators": jrnn.Stack((jrnn.GRU(3), jrnn.JANET(3))),
    "backward: MGU(hidden=3): ONNX has": jrnn.Bidirectional(jrnn.GRU(3), jrnn.MGU(3)),
    "ONNX has no operator for 'gelu'": jrnn.Dense(3, activation="gelu"),
    "ONNX has no operator for 'scaled_tanh'": jrnn.Stack((jrnn.GRU(3), jrnn.Map("scaled_tanh", 3))),
    "merge=<function": jrnn.Bidirectional(jrnn.GRU(3), merge=lambda a, b: a),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_operators_do_not_compute_is_refused(message):
    with pytest.raises(ValueError) as raised:
        to_onnx(REFUSED[message], drawn(REFUSED[message], IN)[0])
    assert message in str(raised.value)


def test_dtypes_must_agree_and_be_those_of_onnx():
    params, _ = drawn(CELLS["LSTM"], IN)
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    for given in (narrow, params._replace(b=params.b.astype(np.float16))):
        with pytest.raises(ValueError, match="params must have one dtype, of float16, float32 or float64"):
            to_onnx(CELLS["LSTM"], given)
    double = to_onnx(CELLS["LSTM"], jax.tree.map(lambda leaf: leaf.astype(np.float64), params))
    assert double.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
