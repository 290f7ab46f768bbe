"""Graphs of others read from ONNX: every attribute of the operators, PyTorch, Keras, and faults."""

import functools
import io
import sys
import warnings
import zipfile

import jax
import numpy as np
import pytest

import jrnn
from jrnn.interop import from_onnx, to_onnx
from jrnn.interop._keras import ACTIVATIONS
from jrnn.interop.onnx._regions import USED
from tests.keras_exports import ARCHIVE
from tests.test_interop_onnx import BATCH, IN, LENGTHS, STEPS, assert_same, drawn, run

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

HIDDEN = 4
RANKS = {"Y": 4, "pooled": 2}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
XS = np.random.default_rng(5).normal(size=(STEPS, BATCH, IN)).astype(np.float32)
ATTRIBUTES = {  # of one direction
    "RNN": ("RNN", {}),
    "RNN-clip": ("RNN", {"clip": 0.3}),
    "RNN-leaky": ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
    "RNN-usual": ("RNN", {"activations": ["HardSigmoid"]}),
    "RNN-affine": ("RNN", {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]}),
    "GRU": ("GRU", {}),
    "GRU-after": ("GRU", {"linear_before_reset": 1, "clip": 0.5}),
    "GRU-activations": (
        "GRU",
        {
            "activations": ["HardSigmoid", "ScaledTanh"],
            "activation_alpha": [0.3, 1.2],
            "activation_beta": [0.4, 0.7],
            "linear_before_reset": 1,
        },
    ),
    "LSTM": ("LSTM", {}),
    "LSTM-peepholes": ("LSTM", {"P": True, "clip": 0.6}),
    "LSTM-coupled": ("LSTM", {"P": True, "input_forget": 1}),
    "LSTM-activations": (
        "LSTM",
        {"activations": ["Sigmoid", "Softsign", "Elu"], "activation_alpha": [0.6], "P": True},
    ),
}


def tensor(name, shape, kind=onnx.TensorProto.FLOAT):
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def proto_of(nodes, inputs, outputs, weights, opset=14):
    """A model; weights by name."""
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        inputs,
        [tensor(name, [None] * RANKS.get(name, 3)) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


def node(kind, inputs, *outputs, **attributes):
    name = attributes.pop("name", f"the {kind}" if kind in GATES else "")
    return onnx.helper.make_node(kind, inputs.split(","), list(outputs), name=name, **attributes)


def weights_of(kind, directions, peepholes=False, seed=0):
    """Random, both biases included."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(scale=0.7, size=(directions, *shape)).astype(np.float32)
    rows = GATES[kind] * HIDDEN
    found = {"W": draw(rows, IN), "R": draw(rows, HIDDEN), "B": draw(2 * rows)}
    return found | ({"P": draw(3 * HIDDEN)} if peepholes else {})


def operator_proto(kind, direction="forward", start=None, lengths=True, layout=0, weights=None, **attributes):
    """A model of one node, with every input and output; states are constants, or inputs if there is none."""
    attributes = dict(attributes)
    directions = 2 if direction == "bidirectional" else 1
    weights = weights or weights_of(kind, directions, attributes.pop("P", False))
    attributes.pop("P", None)
    if "activations" in attributes:
        attributes["activations"] = attributes["activations"] * directions
        for key in ("activation_alpha", "activation_beta"):
            attributes |= {key: attributes[key] * directions} if key in attributes else {}
    states = ["initial_h", "initial_c"][: 2 if kind == "LSTM" else 1]
    names = ["X", "W", "R", "B", "sequence_lens" if lengths else "", *states]
    names += ["P"] if "P" in weights else []
    outputs = ["Y", "Y_h", "Y_c"][: 1 + len(states)]
    given = [tensor("X", ["b", "t", IN] if layout else ["t", "b", IN])]
    given += [tensor("sequence_lens", ["b"], onnx.TensorProto.INT32)] if lengths else []
    given += [] if start else [tensor(name, [directions, "b", HIDDEN]) for name in states]
    found = node(
        kind,
        ",".join(names),
        *outputs,
        hidden_size=HIDDEN,
        direction=direction,
        **attributes,
        **({"layout": 1} if layout else {}),
    )
    return proto_of([found], given, outputs, weights | (start or {}))


def check_read(proto, carry=None, lengths=None, feeds=None):
    """That jrnn computes what onnxruntime does of the same file; gives the model."""
    model, params = from_onnx(proto)
    found = run(proto, {"X": XS} | (feeds or {}) | ({} if lengths is None else {"sequence_lens": lengths}))
    last, ys = jrnn.apply(model, params, XS, carry, lengths=lengths)
    y = found["Y"]
    y = np.moveaxis(y, 1, 2).reshape(*y.shape[:1], BATCH, -1) if y.ndim == 4 else y
    np.testing.assert_allclose(ys, y, rtol=1e-5, atol=1e-5)
    for k, name in enumerate(["Y_h", "Y_c"]):
        if name in found:
            leaves = jax.tree.leaves(last)
            count = found[name].shape[0]
            np.testing.assert_allclose(leaves[k :: len(leaves) // count], found[name], rtol=1e-5, atol=1e-5)
    return model, params


def states_of(kind, directions):
    rng = np.random.default_rng(3)
    names = ["initial_h", "initial_c"][: 2 if kind == "LSTM" else 1]
    return {name: rng.normal(size=(directions, BATCH, HIDDEN)).astype(np.float32) for name in names}


def carry_of(model, params, states):
    """The states that a file takes, as a carry."""
    spec = jax.eval_shape(lambda p: model.initial_carry(p, (BATCH,)), params)
    leaves = [value[k] for k in range(len(states["initial_h"])) for value in states.values()]
    return jax.tree.unflatten(jax.tree.structure(spec), leaves)


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


# what PyTorch writes


def exported(module, args, dynamo=False, dynamic=None):
    """The proto of a module of PyTorch, all whose axes but the features are dynamic."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            pytest.importorskip("onnxscript", reason="onnxscript is not installed")
            found = torch.onnx.export(
                module, args, input_names=["x"], dynamo=True, dynamic_shapes=dynamic, verbose=False
            )
            return found.model_proto
        file = io.BytesIO()
        names = ["x", "lengths"][: len(args)]
        axes = {"x": {0: "a", 1: "b"}, "lengths": {0: "b"}} if dynamic else None
        torch.onnx.export(module, args, file, dynamo=False, input_names=names, dynamic_axes=axes)
        return onnx.load_from_string(file.getvalue())


def module_of(forward, **parts):
    """A module of PyTorch that computes `forward(parts, *args)`."""
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, *args):
            return forward(self, *args)

    return Module()


def torch_models():
    """By name: a module, its inputs, and the model that it is; a message where it is none."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn = torch.nn
    torch.manual_seed(0)
    both = functools.partial(nn.LSTM, IN, 4, bidirectional=True)
    two = jrnn.Bidirectional(jrnn.LSTM(4))
    answer = lambda *parts: jrnn.ManyToOne(jrnn.Sequential(parts))
    narrow, wide = nn.Linear(4, 5), nn.Linear(8, 5)
    tokens, x = torch.tensor([[1, 2, 3, 4, 0], [6, 5, 1, 1, 2]]).T.contiguous(), torch.tensor(XS)
    start = nn.Parameter(torch.randn(1, 1, 4))
    return {
        "tagger": (
            module_of(
                lambda m, x: m.o(m.r(m.e(x))[0]),
                e=nn.Embedding(7, IN),
                r=both(num_layers=2, dropout=0.5),
                o=wide,
            ),
            (tokens,),
            jrnn.Sequential((jrnn.Embed(IN), two, two, jrnn.Dense(5))),
        ),
        "GRU batch first": (
            module_of(
                lambda m, x: m.o(m.r(x)[0]),
                r=nn.GRU(IN, 4, 2, batch_first=True),
                o=nn.Linear(4, 5, bias=False),
            ),
            (x,),
            jrnn.Stack((jrnn.GRU(4), jrnn.GRU(4), jrnn.Dense(5, bias=False))),
        ),
        "RNN": (
            module_of(
                lambda m, x: m.o(torch.relu(m.r(x)[0])),
                r=nn.RNN(IN, 4, nonlinearity="relu"),
                o=narrow,
            ),
            (x,),
            jrnn.Stack((jrnn.Elman(4, activation="relu"), jrnn.Map("relu", 4), jrnn.Dense(5))),
        ),
        "last state": (
            module_of(lambda m, x: m.o(m.r(x)[1][-1]), r=nn.GRU(IN, 4, 2, bias=False), o=narrow),
            (x,),
            jrnn.ManyToOne(
                jrnn.Sequential((jrnn.GRU(4, bias=False), jrnn.GRU(4, bias=False), jrnn.Dense(5)))
            ),
        ),
        "last step": (
            module_of(lambda m, x: torch.softmax(m.o(m.r(x)[0][-1]), -1), r=nn.LSTM(IN, 4), o=narrow),
            (x,),
            answer(jrnn.LSTM(4), jrnn.Dense(5, activation=jax.nn.softmax)),
        ),
        "both last states": (
            module_of(lambda m, x: m.o(torch.cat([*m.r(x)[1][0][-2:]], -1)), r=both(), o=wide),
            (x,),
            answer(two, jrnn.Dense(5)),
        ),
        "both ends": (
            module_of(lambda m, x: torch.cat([(y := m.r(x)[0])[-1, :, :4], y[0, :, 4:]], -1), r=both()),
            (x,),
            jrnn.ManyToOne(two),
        ),
        "wrong ends": (
            module_of(lambda m, x: torch.cat([(y := m.r(x)[0])[-1, :, 4:], y[0, :, :4]], -1), r=both()),
            (x,),
            "features [4:8] are not those of one direction that has seen the whole sequence at the last step",
        ),
        "sum": (
            module_of(lambda m, x: (y := m.r(x)[0])[..., :4] + y[..., 4:], r=both()),
            (x,),
            jrnn.Bidirectional(jrnn.LSTM(4), merge="sum"),
        ),
        "mean": (
            module_of(lambda m, x: m.o(m.r(x)[0].mean(0)), r=both(), o=wide),
            (x,),
            jrnn.ManyToOne(jrnn.Sequential((two, jrnn.Dense(5))), read="mean"),
        ),
        "learned start": (
            module_of(
                lambda m, x: m.r(x, m.h.expand(-1, x.shape[1], -1).contiguous())[0], r=nn.GRU(IN, 4), h=start
            ),
            (x,),
            jrnn.LearnedCarry(jrnn.GRU(4)),
        ),
        "one row": (
            module_of(lambda m, x: m.r(x[:, 0])[0], r=nn.GRU(IN, 4)),
            (x,),
            "it reads a part of the input 'x'",
        ),
        "last step of both": (
            module_of(lambda m, x: m.o(m.r(x)[0][-1]), r=both(), o=wide),
            (x,),
            "it reads the last step of both directions",
        ),
        "decoder": (
            module_of(lambda m, x: m.b(x, m.a(x)[1])[0], a=nn.GRU(IN, 4), b=nn.GRU(IN, 4)),
            (x,),
            "(GRU): initial_h comes from another node: an encoder and a decoder are two models",
        ),
        "convolution": (
            module_of(
                lambda m, x: m.r(m.c(x.permute(1, 2, 0)).permute(2, 0, 1))[0],
                c=nn.Conv1d(2, 2, 1),
                r=nn.GRU(2, 3),
            ),
            (x,),
            "(Conv): from_onnx reads RNN, GRU, LSTM, and",
        ),
        "two answers": (
            module_of(lambda m, x: (y := m.r(x)[0], m.o(y)), r=nn.GRU(IN, 4), o=narrow),
            (x,),
            "are more than one answer and the states",
        ),
        "scaled": (module_of(lambda m, x: m.r(x)[0] * 2, r=nn.GRU(IN, 4)), (x,), "it scales by a constant"),
    }


TORCH = (
    *("tagger", "GRU batch first", "RNN", "last state", "last step", "both last states", "both ends", "sum"),
    *(
        "mean",
        "learned start",
        "one row",
        "last step of both",
        "decoder",
        "convolution",
        "two answers",
        "scaled",
        "wrong ends",
    ),
)
READ = TORCH[:10]
MODELS = functools.cache(torch_models)


def check_torch(name, dynamo=False, dynamic=True):
    """The largest difference of outputs; None for a model that is refused as it should be."""
    module, args, model = MODELS()[name]
    proto = exported(module, args, dynamo, dynamic)
    if isinstance(model, str):
        with pytest.raises(ValueError) as raised:
            from_onnx(proto)
        assert model in str(raised.value)
        return None
    found, params = from_onnx(proto)
    assert found == model
    want = module(*args).detach().numpy()
    first = name == "GRU batch first"
    xs = args[0].numpy().astype(np.int32) if name == "tagger" else args[0].numpy()
    _, ys = jrnn.apply(found, params, xs.swapaxes(0, 1) if first else xs)
    got = ys.swapaxes(0, 1) if first else ys
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    return float(np.abs(got - want).max())


@pytest.mark.parametrize("name", TORCH)
def test_what_torch_writes_is_read(name):
    check_torch(name)


def test_what_torch_writes_for_one_size_is_read():
    check_torch("tagger", dynamic=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TORCH if name != "RNN"])  # it unrolls the RNN
def test_all_that_torch_writes_with_dynamo_is_read(name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    sizes = {"args": ({0: torch.export.Dim("a"), 1: torch.export.Dim("b")},)}
    check_torch(name, True, sizes)


@pytest.mark.slow
@pytest.mark.parametrize("bare", [False, True])
def test_an_rnn_that_torch_writes_out_is_read(bare):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rnn = torch.nn.RNN(IN, 4, 2, bidirectional=True, batch_first=True)
    tagger, x = module_of(lambda m, x: (m.o(m.r(x)[0]),), r=rnn, o=torch.nn.Linear(8, 5)), torch.tensor(XS)
    module, both = rnn if bare else tagger, jrnn.Bidirectional(jrnn.Elman(4))
    found, params = from_onnx(exported(module, (x,), dynamo=True))
    assert found == jrnn.Sequential((both, both) if bare else (both, both, jrnn.Dense(5)))
    carry, ys = jrnn.apply(found, params, XS.swapaxes(0, 1))
    want, *h_n = module(x)
    np.testing.assert_allclose(ys.swapaxes(0, 1), want.detach(), rtol=1e-5, atol=1e-5)
    for h in h_n:
        np.testing.assert_allclose(np.stack(jax.tree.leaves(carry)), h.detach(), rtol=1e-5, atol=1e-5)


def written_out(last=STEPS - 1):
    """What PyTorch writes with dynamo for a bidirectional RNN: each step, and h_n stacked from the last."""
    nodes, ends = [], []
    weights = {str(n): np.array([n]) for n in range(STEPS + 1)}
    for way, order in (("f", range(STEPS)), ("b", range(STEPS)[::-1])):
        found = weights_of("RNN", 1, seed=len(ends))
        bias, other = np.split(found["B"][0], 2)
        weights |= {f"W{way}": found["W"][0].T, f"R{way}": found["R"][0].T, f"b{way}": bias, f"c{way}": other}
        weights[f"u{way}0"] = np.broadcast_to(other, (1, BATCH, HIDDEN))  # a state of 0 leaves the bias
        nodes += [node("MatMul", f"X,W{way}", f"p{way}"), node("Add", f"p{way},b{way}", f"a{way}")]
        for step, t in enumerate(order):
            here = f"{way}{step}"
            nodes += [node("Slice", f"a{way},{t},{t + 1},0", f"a{here}")]
            if step:
                product = node("MatMul", f"h{way}{step - 1},R{way}", f"q{here}")
                nodes += [product, node("Add", f"q{here},c{way}", f"u{here}")]
            nodes += [node("Add", f"u{here},a{here}", f"s{here}"), node("Tanh", f"s{here}", f"h{here}")]
        nodes += [node("Concat", ",".join(f"h{way}{order[t]}" for t in range(STEPS)), f"y{way}", axis=0)]
        end = last if way == "b" else STEPS - 1
        ends += [node("Squeeze", f"h{way}{end},0", f"e{way}"), node("Unsqueeze", f"e{way},0", f"n{way}")]
    nodes += [node("Concat", "yf,yb", "Y", axis=2), *ends, node("Concat", "nf,nb", "Y_h", axis=0)]
    return proto_of(nodes, [tensor("X", [STEPS, BATCH, IN])], ["Y", "Y_h"], weights)


def test_the_state_of_steps_written_out_is_the_carry():
    """Not that of a step before the last one: it is evaluated too."""
    assert check_read(written_out())[0] == jrnn.Bidirectional(jrnn.Elman(HIDDEN))
    with pytest.raises(ValueError, match="writes out each step"):
        from_onnx(written_out(STEPS - 2))


@pytest.mark.parametrize("answer", [False, True])
def test_packed_sequences_of_torch_are_read(answer):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    packed, padded = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence

    def forward(m, x, lengths):
        ys, h = m.r(packed(x, lengths))
        return torch.cat([h[-2], h[-1]], -1) if answer else padded(ys)[0]

    module, lengths = (
        module_of(forward, r=torch.nn.GRU(IN, 4, 1 + answer, bidirectional=True)),
        torch.tensor([5, 3, 1]),
    )
    found, params = from_onnx(exported(module, (torch.tensor(XS), lengths), dynamic=True))
    want = module(torch.tensor(XS), lengths).detach()
    _, ys = jrnn.apply(found, params, XS, lengths=lengths.numpy())
    np.testing.assert_allclose(ys, want, rtol=1e-5, atol=1e-5)


# what Keras writes, by way of TensorFlow and tf2onnx


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


def only_in(difference, name, dtype):
    """A row of a table: these files hold float32, and nobody writes them again."""
    return (difference(name) if dtype == "float32" else None), None


PARITY = {
    "keras.export to ONNX": {name: functools.partial(only_in, keras_difference, name) for name in KERAS},
    "torch.onnx.export": {name: functools.partial(only_in, check_torch, name) for name in READ},
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
