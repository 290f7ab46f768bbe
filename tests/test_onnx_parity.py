"""The ONNX operators RNN, GRU and LSTM, as onnxruntime runs them, give what jrnn gives on the same weights.

Every parameter is random, biases and start included. onnxruntime has float32 only and no gradients: jrnn
runs in float64 on the very same numbers, so the differences are onnxruntime's rounding. ONNX keeps gates by
rows, W (directions, gates · hidden, in), in the order z r h (GRU) and i o f c (LSTM), peepholes i o f, and
a second bias that adds to the first, except in a GRU that resets after the product.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
onnx = pytest.importorskip("onnx", reason="onnx is not installed")

STEPS, BATCH, IN, HIDDEN = 6, 4, 3, 5
LENGTHS = np.array([6, 1, 4, 3], np.int32)
RUNS = {
    "full": {},
    "ragged": {"lengths": LENGTHS},
    "backward": {"reverse": True},
    "backward-ragged": {"lengths": LENGTHS, "reverse": True},
}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
ACTIVATIONS = {  # by jrnn's name: ONNX's name, its alpha, its beta
    "tanh": ("Tanh", [], []),
    "relu": ("Relu", [], []),
    "sigmoid": ("Sigmoid", [], []),
    "identity": ("Affine", [1.0], [0.0]),
    "elu": ("Elu", [1.0], []),
    "leaky_relu": ("LeakyRelu", [0.01], []),
    "softplus": ("Softplus", [], []),
    "softsign": ("Softsign", [], []),
    "hard_sigmoid": ("HardSigmoid", [1 / 6], [0.5]),
    "scaled_tanh": ("ScaledTanh", [1.7159], [2 / 3]),
    "thresholded_relu": ("ThresholdedRelu", [1.0], []),
}
NAMES = list(ACTIVATIONS)
# each activation once in each role, beside two others
TRIPLES = [(name, NAMES[(k + 4) % len(NAMES)], NAMES[(k + 8) % len(NAMES)]) for k, name in enumerate(NAMES)]
LSTMS = {
    "plain": {},
    "peepholes": {"peepholes": "diagonal"},
    "coupled": {"coupled": True},
    "clip": {"clip": 0.4},  # after bias and peephole; neither c nor what its tanh reads
    "clip-peepholes": {"clip": 0.4, "peepholes": "diagonal"},
    "everything": {"peepholes": "diagonal", "coupled": True, "clip": 0.4, "output_activation": "softsign"},
}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def draw(cell, seed=0):
    """Random params and carry, in float32's numbers."""
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(lambda key: cell.init(key, IN), jax.random.key(0))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (BATCH,)), params)
    return jax.tree.map(lambda a: rng.normal(scale=0.7, size=a.shape).astype(np.float32), (params, carry))


XS = np.random.default_rng(9).normal(size=(STEPS, BATCH, IN)).astype(np.float32)


def reordered(packed, ours, theirs):
    """Gates side by side in the order `theirs`; NaN for one that jrnn has not, as nothing may read it."""
    parts = dict(zip(ours, np.split(packed, len(ours), axis=-1), strict=True))
    missing = np.full_like(parts[ours[0]], np.nan)
    return np.concatenate([parts.get(gate, missing) for gate in theirs], axis=-1)


def onnx_weights(cell, p):
    """W, R, B, and P where there are peepholes, of one direction."""
    ours, theirs = {"Elman": ("h", "h"), "GRU": ("rzn", "zrn")}.get(type(cell).__name__, ("ifgo", "iofg"))
    ours = ours.replace("f", "") if getattr(cell, "coupled", False) else ours
    b = np.zeros(p.w_ih.shape[1], np.float32) if p.b is None else p.b
    first, second = b - np.linspace(-0.5, 0.5, len(b)), np.linspace(-0.5, 0.5, len(b))
    if getattr(cell, "reset_after", False):
        first[-HIDDEN:], second[-HIDDEN:] = b[-HIDDEN:], 0 if p.b_hn is None else p.b_hn
    b = np.concatenate([reordered(bias, ours, theirs) for bias in (first, second)])
    weights = {"W": reordered(p.w_ih, ours, theirs).T, "R": reordered(p.w_hh, ours, theirs).T, "B": b}
    if getattr(cell, "peepholes", None):
        weights["P"] = reordered(p.p, ours.replace("g", ""), "iof")
    return weights


def attributes(cell, directions):
    """What the node says beside its weights; activations are named for each direction."""
    names = {
        "Elman": ("activation",),
        "GRU": ("sigmoid", "activation"),
        "LSTM": ("sigmoid", "activation", "activation"),
    }.get(type(cell).__name__, ("gate_activation", "activation", "output_activation"))
    found = [ACTIVATIONS[getattr(cell, name, name)] for name in names] * directions
    given = {
        "hidden_size": HIDDEN,
        "activations": [name for name, _, _ in found],
        "activation_alpha": [alpha for _, alphas, _ in found for alpha in alphas],
        "activation_beta": [beta for _, _, betas in found for beta in betas],
        "linear_before_reset": int(getattr(cell, "reset_after", False)),
        "input_forget": int(getattr(cell, "coupled", False)),
        "clip": getattr(cell, "clip", None),
    }
    return {name: value for name, value in given.items() if value}


def run_node(operator, outputs, feeds, **attributes):
    """What onnxruntime computes in a model of one node, all of whose inputs are fed."""
    make, kinds = onnx.helper, onnx.TensorProto
    given = [name if name in feeds else "" for name in INPUTS]
    node = make.make_node(operator, given[: 8 if operator == "LSTM" else 6], outputs, **attributes)
    kind = lambda array: kinds.INT32 if array.dtype == np.int32 else kinds.FLOAT
    inputs = [make.make_tensor_value_info(name, kind(array), array.shape) for name, array in feeds.items()]
    ranks = {"Y": 4, "Y_h": 3, "Y_c": 3}
    results = [make.make_tensor_value_info(name, kinds.FLOAT, [None] * ranks[name]) for name in outputs]
    graph = make.make_graph([node], operator, inputs, results)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def theirs(cell, drawn, xs, direction, lengths=None):
    """Last carries as lists and ys (time, batch, directions · hidden), of one drawn pair per direction."""
    packed = [onnx_weights(cell, params) for params, _ in drawn]
    feeds = {name: np.stack([one[name] for one in packed]).astype(np.float32) for name in packed[0]}
    starts = [jax.tree.leaves(carry) for _, carry in drawn]
    feeds |= {f"initial_{name}": np.stack(parts) for name, *parts in zip("hc", *starts, strict=False)}
    feeds |= {"X": xs} | ({} if lengths is None else {"sequence_lens": lengths})
    operator = {"Elman": "RNN", "GRU": "GRU"}.get(type(cell).__name__, "LSTM")
    outputs = ["Y", "Y_h", "Y_c"][: 1 + len(starts[0])]
    ys, *last = run_node(operator, outputs, feeds, direction=direction, **attributes(cell, len(drawn)))
    ys = np.moveaxis(ys, 1, 2)
    return [list(parts) for parts in zip(*last, strict=True)], ys.reshape(*ys.shape[:2], -1)


def in_float64(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def assert_close(got, want):
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == np.float64 and b.dtype == np.float32 and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1, np.abs(a).max()))


def check(cell, how, xs=XS):
    """That jrnn and onnxruntime agree; gives ys."""
    drawn, options = draw(cell), RUNS[how]
    params, carry, given = in_float64((*drawn, xs))
    last, ys = jrnn.unroll(cell, params, given, carry, **options)
    direction = "reverse" if options.get("reverse") else "forward"
    assert_close(([last], ys), theirs(cell, [drawn], xs, direction, options.get("lengths")))
    return ys


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_elman_activations(name):
    ys = check(jrnn.Elman(HIDDEN, activation=name), "full")
    assert (ys != 0).mean() > 0.1  # enough passes a threshold to be compared


@pytest.mark.parametrize("how", ["ragged", "backward", "backward-ragged"])
def test_elman(how):
    check(jrnn.Elman(HIDDEN), how)


@pytest.mark.parametrize("how", RUNS)
@pytest.mark.parametrize("reset_after", [True, False])
def test_gru(reset_after, how):
    """`linear_before_reset` is our `reset_after`."""
    check(jrnn.GRU(HIDDEN, reset_after=reset_after), how)


@pytest.mark.parametrize("how", RUNS)
def test_lstm(how):
    check(jrnn.LSTM(HIDDEN), how)


OPTIONS = {
    "activation": {"activation": "softsign"},
    "no bias": {"bias": False},
    "clip": {"clip": 0.4},
    "all": {"activation": "elu", "bias": False, "clip": 0.4},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", [jrnn.Elman, jrnn.GRU, functools.partial(jrnn.GRU, reset_after=False)])
def test_options(kind, name):
    check(kind(HIDDEN, **OPTIONS[name]), "backward-ragged")


@pytest.mark.parametrize("name", ["activation", "no bias"])
def test_lstm_options(name):
    check(jrnn.LSTM(HIDDEN, **OPTIONS[name]), "ragged")


@pytest.mark.parametrize("how", ["full", "backward-ragged"])
@pytest.mark.parametrize("name", LSTMS)
def test_lstm_variants(name, how):
    check(jrnn.LSTMVariant(HIDDEN, **LSTMS[name]), how)


@pytest.mark.parametrize("triple", TRIPLES, ids="-".join)
def test_lstm_activations(triple):
    """Two steps: functions without a bound, multiplied with each other, soon exceed float32."""
    names = dict(zip(("gate_activation", "activation", "output_activation"), triple, strict=True))
    ys = check(jrnn.LSTMVariant(HIDDEN, **names), "full", XS[:2])
    assert (ys != 0).mean() > 0.1


BOTH = {
    "relu": jrnn.Elman(HIDDEN, activation="relu"),
    "leaky": jrnn.Elman(HIDDEN, activation="leaky_relu"),
    "GRU": jrnn.GRU(HIDDEN),
    "GRU-before": jrnn.GRU(HIDDEN, reset_after=False),
    "LSTM": jrnn.LSTM(HIDDEN),
    "peepholes": jrnn.LSTMVariant(HIDDEN, peepholes="diagonal", output_activation="elu"),
}


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", BOTH)
def test_both_directions(name, lengths):
    cell = BOTH[name]
    drawn = [draw(cell, seed) for seed in (1, 2)]
    params, carry = zip(*drawn, strict=True)
    layer = jrnn.Bidirectional(cell)
    arguments = in_float64((jrnn.BidirectionalParams(*params), XS, jrnn.BidirectionalCarry(*carry)))
    got = layer.apply(*arguments, lengths=lengths)
    assert_close(got, theirs(cell, drawn, XS, "bidirectional", lengths))
