"""Graphs that PyTorch writes, read from ONNX."""

import functools
import io
import warnings

import jax
import numpy as np
import pytest

import jrnn
from jrnn.interop import from_onnx
from tests.onnx_graphs import (
    HIDDEN,
    XS,
    check_read,
    node,
    only_in,
    proto_of,
    tensor,
    weights_of,
)
from tests.test_interop_onnx import BATCH, IN, STEPS

onnx = pytest.importorskip("onnx", reason="onnx is not installed")


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


PARITY = {"torch.onnx.export": {name: functools.partial(only_in, check_torch, name) for name in READ}}
