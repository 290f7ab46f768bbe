"""Cells and layers as ONNX: onnxruntime gives what jrnn gives, one file for any number of steps and rows."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrnn
from tests.cases import CASES, one_in, subject_of

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def read(graph):
    """The names of all values that nodes read."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from read(attribute.g)


def session(model, params, xs, **options):
    proto = jrnn.export.onnx(model, params, xs, **options)
    onnx.checker.check_model(proto)
    assert {a.name for a in proto.graph.initializer} <= set(read(proto.graph))  # onnxruntime warns of others
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # it warns of every input that has a default
    quiet.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), quiet)


def run(program, xs, **more):
    names = [value.name for value in program.get_inputs()]
    leaves = [*map(np.asarray, jax.tree.leaves(xs)), *(more[name] for name in names if name in more)]
    feed = dict(zip(names, leaves, strict=True)) | more
    return dict(zip([value.name for value in program.get_outputs()], program.run(None, feed), strict=True))


def flat(ys, carry):
    leaves = map(np.asarray, [*jax.tree.leaves(ys), *jax.tree.leaves(carry)])
    return [part for a in leaves for part in ((a.real, a.imag) if np.iscomplexobj(a) else (a,))]


def carry_of(found):
    return {name.replace("last", "carry", 1): v for name, v in found.items() if name.startswith("last")}


def compare(model, params, draw, operators=False):
    """Ragged rows, then another shape in two chunks, the second from the carry of the first."""
    program = session(model, params, draw(1, 1), lengths=True, carry=True, operators=operators)
    apply = functools.partial(jrnn.apply, model, params)
    xs, lengths = draw(5, 3), np.array([2, 0, 5], np.int32)
    carry, ys = jax.jit(lambda xs, n: apply(xs, lengths=n))(xs, lengths)
    found = run(program, xs, lengths=lengths)
    xs = draw(4, 2)
    carry_2, ys_2 = jax.jit(apply)(xs)
    one, three = np.array([1, 1], np.int32), np.array([3, 3], np.int32)
    first = run(program, jax.tree.map(lambda a: a[:1], xs), lengths=one)
    second = run(program, jax.tree.map(lambda a: a[1:], xs), lengths=three, **carry_of(first))
    outs = [name for name in second if name.startswith("ys")]
    second |= {name: np.concatenate([first[name], second[name]]) for name in outs}
    for got, needed in ((found, flat(ys, carry)), (second, flat(ys_2, carry_2))):
        for (name, a), b in zip(got.items(), needed, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), name
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)


def ids(cases):
    return [repr(case.cell)[:70] for case in cases]


FEW = (
    jrnn.LSTM,
    jrnn.GRU,
    jrnn.LRU,
    jrnn.ConvGRU,
    jrnn.ClockworkRNN,
    jrnn.MLSTM,
    jrnn.GRUD,
    jrnn.LearnedCarry,
)
FEW += (jrnn.Feedback, jrnn.LayerNormGRU, jrnn.ClipGradient, jrnn.SLSTM)
CHOSEN = [next(c for c in reversed(CASES) if type(c.cell) is kind) for kind in FEW]


@pytest.mark.parametrize("case", CHOSEN, ids=ids(CHOSEN))
def test_a_dozen_cells(case):
    subject = subject_of(case)
    compare(case.cell, subject.params(), subject.xs)


@pytest.mark.slow
@pytest.mark.parametrize("case", one_in(6, CASES, 3), ids=lambda case: repr(case.cell)[:70])
def test_every_cell(case):
    if isinstance(case.cell, jrnn.SphericalRNN):  # ONNX solves no linear systems
        with pytest.raises(ValueError, match=r"ONNX has nothing for the primitive 'lu'"):
            test_a_dozen_cells(case)
    else:
        test_a_dozen_cells(case)


OPERATED = {
    "lstm": jrnn.Stack((jrnn.LSTM(4), jrnn.Dense(2))),
    "gru": jrnn.Stack((jrnn.GRU(5), jrnn.GRU(4))),
    "both ways": jrnn.Bidirectional(jrnn.Elman(4)),
}


@pytest.mark.parametrize("name", OPERATED)
def test_operators_where_they_fit(name):
    model = OPERATED[name]
    params = jax.jit(lambda: model.init(jax.random.key(0), 3))()
    proto = jrnn.export.onnx(model, params, floats(1, 1))
    kinds = {node.op_type for node in proto.graph.node}
    assert kinds & {"RNN", "GRU", "LSTM"} and "Scan" not in kinds
    read = {name for node in proto.graph.node for name in node.input}
    assert {constant.name for constant in proto.graph.initializer} <= read  # onnxruntime warns of others
    if name != "both ways":  # which has no chunks
        compare(model, params, floats, operators=True)


LAYERS = {
    "bidirectional": jrnn.Bidirectional(jrnn.GRU(4), jrnn.LSTM(4), merge="mean"),
    "reversed": jrnn.Reversed(jrnn.MGU(4)),
    "sequential": jrnn.Sequential(
        (jrnn.Bidirectional(jrnn.Elman(3)), jrnn.Stack((jrnn.GRU(4), jrnn.Dense(2))), jrnn.CRF(2))
    ),
    "many to one": jrnn.ManyToOne(jrnn.Stack((jrnn.MGU(4), jrnn.Dense(2)))),
}


def floats(*lead):
    return np.random.default_rng(sum(lead)).standard_normal((*lead, 3)).astype(np.float32)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    layer = LAYERS[name]
    params = jax.jit(lambda: layer.init(jax.random.key(0), 3))()
    xs, lengths = floats(5, 3), np.array([2, 0, 5], np.int32)
    for n, operators in ((None, False), (lengths, False), (lengths, True)):
        program = session(layer, params, floats(1, 1), lengths=n is not None, operators=operators)
        carry, ys = jax.jit(lambda xs, n: jrnn.apply(layer, params, xs, lengths=n))(xs, n)
        found = run(program, xs, **({} if n is None else {"lengths": n}))
        for a, b in zip(found.values(), flat(ys, carry), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def translator():
    """An encoder and a decoder that looks back at it, with parameters and a pair."""
    look = jrnn.LuongAttention(jrnn.GRU(4), jrnn.attention.General(), memory_features=4, features=3)
    encoder = jrnn.Stack((jrnn.Embed(2), jrnn.GRU(4)))
    model = jrnn.EncoderDecoder(encoder, jrnn.Stack((jrnn.Embed(2), look, jrnn.Dense(6))))
    draw = np.random.default_rng(0).integers
    source, inputs = draw(0, 5, (7, 3)).astype(np.int32), draw(0, 6, (4, 3)).astype(np.int32)
    mask = np.arange(7)[:, None] < [7, 2, 5]
    return model, jax.jit(lambda: model.init(jax.random.key(0), 5))(), jrnn.Pair(source, inputs, mask)


def test_an_encoder_and_a_decoder_have_a_time_each():
    model, params, pair = translator()
    program = session(model, params, jax.tree.map(lambda a: a[:1, :1], pair), lengths=True)
    shapes = {value.name: value.shape for value in program.get_inputs()}
    assert shapes["xs.source"] == ["source", "batch"] and shapes["xs.inputs"] == ["time", "batch"]
    lengths = np.array([4, 1, 3], np.int32)
    _, ys = jrnn.apply(model, params, pair, lengths=lengths)
    np.testing.assert_allclose(run(program, pair, lengths=lengths)["ys"], ys, rtol=1e-5, atol=1e-6)


def test_functions_of_every_kind():
    def step(params, carry, x):
        u, v = 3 * x, jnp.roll(x, 1, -1)
        turned = (
            jnp.arctan2(jnp.where(u > 1, 0.0, u), v),
            jnp.cbrt(u),
            jnp.exp2(u),
            lax.erfc(u),
            lax.rsqrt(u * u + 1),
        )
        whole = jnp.round(u), jnp.floor(u), jnp.mod(u, 2), lax.rem(u, 2 + v * v), jnp.sign(u), u**3
        flags = (u > 0) & ~jnp.isfinite(u / 0) | (v == u) ^ (u != 1), jnp.isfinite(jnp.log(u))
        bits = u.astype(jnp.int32) & 3, ~v.astype(jnp.int32) | 4
        spread = [jnp.sum(x, -1), jnp.max(x, -1), jnp.prod(x, -1), jnp.any(u > 1, -1), jnp.all(u < 1, -1)]
        most = jnp.argmin(x, -1), jnp.min(x, -1)
        ordered = jnp.sort(x), jnp.argsort(x), lax.top_k(x, 2)[0], jnp.tile(x, (1, 2)), lax.cumprod(x, 1)
        ordered += (lax.cummax(x, 1, reverse=True), lax.cummin(x, 1), jnp.cumsum(x, -1), x[:, ::-2])
        first, *_ = jnp.unstack(x, axis=-1)
        picked = lax.switch(carry[0].astype(int) % 3, [lambda: first, lambda: 2 * first, lambda: -first])
        left = lax.while_loop(lambda s: jnp.sum(s) > 1, lambda s: s / 2, jnp.abs(first))
        chosen = lax.select_n(bits[0] % 3, u, v, x)
        near = jnp.expm1(1e-4 * u), jnp.log1p(1e-4 * u), jax.nn.softplus(u), jax.nn.gelu(u), jax.nn.elu(u)
        column = jnp.stack([*spread, *most, picked, left, first], -1)
        weights = jnp.arange(9.0).reshape(3, 3)
        rows = lax.dot_general(x, weights, (((1,), (1,)), ((), ())))  # by the rows of weights
        parts = rows, *turned, *whole, *flags, *bits, *ordered, chosen, *near, column, x @ x.mT @ x
        return carry + 1, jnp.concatenate([part.astype(jnp.float32) for part in parts], -1)

    kinds = jax.eval_shape(lambda: step(None, jnp.ones(2), jnp.ones((2, 3)))[1])
    cell = jrnn.from_functions(
        lambda key, n: jnp.ones(3),
        lambda params, batch_shape=(), *, key=None: jnp.zeros(batch_shape),
        step,
        kinds.shape[-1],
    )
    compare(cell, jnp.ones(3), floats)


def test_parts_that_are_read_and_written():
    """By flat numbers; what lies outside is dropped, or filled, as JAX says."""

    def step(params, carry, x):
        rows, n = jnp.arange(x.shape[0]), (x[:, 0] * 3).astype(int)  # some of them outside
        last = carry.at[..., n[0] % 3].set(x).at[:, 0, 1:3].add(1.0).at[rows, 0, n].set(2.0)
        last = jax.vmap(lambda past, u, i: past.at[..., i].max(u))(last, x, n)
        last = last.at[:, :, 1].multiply(0.5).at[:, 1, n[0]].min(x[:, 1], mode="clip")
        taken = jax.vmap(lambda past, i: lax.dynamic_slice(past, (i, 0), (2, 3)))(last, n)[:, 0]
        got = last[rows, 0, n], last.at[rows, 1, n].get(mode="fill", fill_value=7.0)
        y = jnp.concatenate([taken, jnp.stack(got, -1), last[:, 1:3, n[0]], last[..., ::-1][:, 0]], -1)
        return last, y

    cell = jrnn.from_functions(
        lambda key, n: jnp.ones(3),
        lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3, 3)),
        step,
        10,
    )
    compare(cell, jnp.ones(3), floats)


class Turning(NamedTuple):
    """A carry with a complex entry, a number of steps and a history."""

    z: jax.Array
    n: jax.Array
    past: jax.Array


@dataclass(frozen=True)
class Own:
    """A user's cell of all that the cells of the library do without."""

    hidden: int
    out_features: int = 4

    def init(self, key, in_features):
        return jax.random.normal(key, (in_features, self.hidden))

    def initial_carry(self, params, batch_shape=(), *, key=None):
        shape = (*batch_shape, self.hidden)
        return Turning(jnp.ones(shape, complex), jnp.zeros(batch_shape, int), jnp.zeros((*shape, 3)))

    def step(self, params, carry, x):
        u = x @ params
        z = carry.z * jnp.exp(1j * u) / (2 + jnp.conj(carry.z)) + jnp.square(u)
        # a history, written at a place that moves
        place = jnp.max(carry.n) % 3
        past = lax.dynamic_update_slice(jnp.flip(carry.past, -1), u[..., None], (0, 0, place))
        halved = lax.fori_loop(0, 3, lambda i, v: v / 2 + i, jnp.abs(z))
        picked = jnp.take_along_axis(past, jnp.argmax(past, -1, keepdims=True), -1)[..., 0]
        y = lax.cond(jnp.sum(u) > 0, lambda: halved, lambda: picked)
        rows = jnp.cumsum(y, -1) + jnp.expm1(u) + jnp.log1p(jnp.abs(u)) + jnp.sort(jnp.zeros(2))[0]
        return Turning(z, carry.n + 1, past), jnp.clip(jnp.pad(rows, ((0, 0), (1, 1)))[..., 1:5], -1, 2)


def test_a_cell_of_a_user():
    cell = Own(4)
    compare(cell, cell.init(jax.random.key(0), 3), floats)


def test_a_primitive_without_a_mapping_is_named_with_its_line():
    cell = jrnn.from_functions(
        lambda key, n: jnp.ones((n, 3)),
        lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3)),
        lambda params, h, x: (h, lax.digamma(x @ params)),
        3,
    )
    line = test_a_primitive_without_a_mapping_is_named_with_its_line.__code__.co_firstlineno + 4
    with pytest.raises(
        ValueError, match=rf"nothing for the primitive 'digamma' at .*test_export_onnx.py:{line}$"
    ):
        jrnn.export.onnx(cell, jnp.ones((3, 3)), floats(1, 1))


def test_noise_of_a_fixed_key_is_a_constant_and_other_noise_is_refused():
    def cell(draw):
        init = lambda key, n: jnp.ones(3)
        start = lambda params, batch_shape=(), *, key=None: jnp.zeros(batch_shape, jnp.uint32)
        return jrnn.from_functions(init, start, lambda params, n, x: (n + 1, x + draw(n)), 3)

    fixed = cell(lambda n: jax.random.normal(jax.random.key(0), (3,)))
    found = run(session(fixed, jnp.ones(3), floats(1, 1)), floats(2, 2))["ys"]
    np.testing.assert_allclose(found, jrnn.unroll(fixed, jnp.ones(3), floats(2, 2))[1], rtol=1e-6)
    moving = cell(lambda n: jax.random.normal(jax.random.fold_in(jax.random.key(0), n[0]), (3,)))
    with pytest.raises(
        ValueError, match=r"random_.* at .*: a model is exported as in evaluation, without noise"
    ):
        jrnn.export.onnx(moving, jnp.ones(3), floats(1, 1))


def test_mistakes_are_named():
    cell = jrnn.GRU(4)
    params = jax.jit(lambda: cell.init(jax.random.key(0), 3))()
    with pytest.raises(ValueError, match=r"onnx: xs must be inputs \(time, batch, ...\), got"):
        jrnn.export.onnx(cell, params, floats(1))
    with pytest.raises(TypeError, match="onnx: model"):
        jrnn.export.onnx("GRU", params, floats(1, 1))


def test_plain_files_take_only_inputs_and_keep_texts():
    cell = jrnn.GRU(4)
    params = jax.jit(lambda: cell.init(jax.random.key(0), 3))()
    program = session(cell, params, floats(1, 1), metadata={"symbols": "abc"})
    names = [value.name for value in (*program.get_inputs(), *program.get_overridable_initializers())]
    assert names == ["xs"] and program.get_modelmeta().custom_metadata_map == {"symbols": "abc"}
    xs = floats(3, 2)
    np.testing.assert_allclose(run(program, xs)["ys"], jrnn.unroll(cell, params, xs)[1], rtol=1e-5, atol=1e-6)
