"""A tour of the library, in stops that any mode of JAX can run."""

import functools
import os
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import optax

import jrnn
from jrnn import analysis, losses
from jrnn.decoding import ctc

STEPS, BATCH, WIDTH, TOKENS = 5, 4, 3, 6


class Data(NamedTuple):
    """What the stops of the tour read; the batch is the last axis but the features."""

    xs: Any
    tokens: Any
    lengths: Any
    mask: Any
    resets: Any
    gaps: Any
    alone: Any  # one sequence
    fields: Any
    key: Any = None  # a new one for every stop


def draw():
    """The data, in NumPy; a random key belongs to a mode."""
    rng = np.random.default_rng(0)
    lead = (STEPS, BATCH)
    flags = (rng.random(lead) < rate for rate in (0.7, 0.3, 0.6))
    return Data(
        xs=rng.standard_normal((*lead, WIDTH)).astype(np.float32),
        tokens=rng.integers(1, TOKENS, lead).astype(np.int32),
        lengths=np.array([5, 0, 3, 4], np.int32),
        mask=next(flags),
        resets=next(flags),
        gaps=np.broadcast_to(next(flags)[..., None], (*lead, WIDTH)),
        alone=rng.standard_normal((STEPS, WIDTH)).astype(np.float32),
        fields=rng.standard_normal((*lead, 4, 2)).astype(np.float32),
    )


class Stop(NamedTuple):
    """One feature: `run(model, params, data)` of a model of inputs of a width."""

    model: Any
    run: Callable[[Any, Any, Data], Any]
    width: int = WIDTH
    compiled: bool = True  # the caller compiles it; else it is called as it is, and compiles by itself
    random: bool = False  # draws, so its values depend on the kind of random keys


def plain(cell, width=WIDTH, **options):
    return Stop(cell, lambda c, p, d: jrnn.unroll(c, p, d.xs, **options), width)


def ragged(cell):
    return Stop(cell, lambda c, p, d: jrnn.unroll(c, p, d.xs, lengths=d.lengths))


def noisy(cell):
    return Stop(cell, lambda c, p, d: jrnn.unroll(c, p, d.xs, key=d.key), random=True)


def squares(ys, d):
    return losses.mean_squared_error(ys, jnp.zeros_like(ys), d.mask)


def gradient(model, params, d, **options):
    def loss(params, xs):
        end, ys = jrnn.apply(model, params, xs, lengths=d.lengths, **options)
        return squares(ys, d) + sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(end))

    return jax.value_and_grad(loss, (0, 1))(params, d.xs)


def batch(d, targets=None, **options):
    return jrnn.Batch(d.tokens, d.tokens if targets is None else targets, **options)


def fit(model, params, d):
    given = [batch(d, lengths=d.lengths)] * 2
    loss = jrnn.PerStep(losses.cross_entropy)
    result = jrnn.fit(
        model,
        given,
        loss,
        optimizer=optax.sgd(0.1),
        key=d.key,
        params=params,
        validation=given[:1],
        stateful=True,
        progress=jrnn.Progress(bar=False),
    )
    return result.params, [(e["train"], e["validation"]) for e in result.history]


def fit_from_scratch(model, params, d):
    result = jrnn.fit(
        jrnn.Dropout(model, output=0.5),
        [batch(d)],
        jrnn.PerStep(losses.cross_entropy),
        optimizer=optax.sgd(0.1),
        key=d.key,
        in_features=TOKENS,
        progress=jrnn.Progress(bar=False),
    )
    return result.params


def evaluate(model, params, d):
    return jrnn.evaluate(model, params, [batch(d)], jrnn.PerStep(losses.cross_entropy))


def save_and_load(model, params, d):
    with tempfile.TemporaryDirectory() as folder:
        jrnn.save(folder, jrnn.Snapshot(step=1, cell=model, params=params, in_features=WIDTH))
        return jrnn.load(folder).params


def packed(model, params, d):
    sequences = [tokens[:n] for tokens, n in zip(jax.device_get(d.tokens).T, (5, 2, 3, 4), strict=True)]
    batches = jrnn.packed_batches(sequences, sequences, batch_size=4, steps=5)
    loss = jrnn.PerStep(losses.cross_entropy)
    return jrnn.evaluate(model, params, batches, loss), list(jrnn.predict(model, params, batches))


def save_params_and_load(model, params, d):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        jrnn.save_params(path, model, params)
        return jrnn.load_params(path)[1]


def to_flax_and_back(model, params, d):
    return jrnn.interop.from_linen(jrnn.interop.to_linen(model, params))[1]


def export(model, params, d):
    program = jrnn.export.stablehlo(model, params, d.xs, lengths=True)
    graph = jrnn.export.onnx(model, params, d.xs, operators=False).graph
    return program.call(d.xs, d.lengths), [onnx.numpy_helper.to_array(a) for a in graph.initializer]


def all_losses(model, params, d):
    ys = jrnn.unroll(model, params, d.xs)[1]
    return (
        losses.cross_entropy(ys, d.tokens % 4, d.mask),
        squares(ys, d),
        losses.bernoulli(ys, d.tokens[..., None] > jnp.arange(4, dtype=jnp.int32)[None, None], d.mask),
        losses.activation_regularization(ys, d.mask[:1]),
        losses.temporal_activation_regularization(ys, d.mask),
        losses.length_mask(d.lengths, STEPS),
    )


def attention(cell, params, d):
    carry = jrnn.attach(
        cell, params, cell.initial_carry(params, (BATCH,)), d.xs, lengths=jnp.maximum(d.lengths, 1)
    )
    return jrnn.unroll(cell, params, d.xs, carry, lengths=d.lengths)


def tagging(model, params, d):
    def loss(params):
        potentials = jrnn.apply(model, params, d.xs, lengths=d.lengths)[1]
        return jrnn.crf_loss(potentials, d.tokens % 4, d.mask), potentials

    (value, potentials), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    best, scores = jrnn.viterbi(potentials, d.lengths)
    return value, gradient, best, scores, jrnn.crf.marginals(potentials, d.lengths)


def transcribe(model, params, d):
    logits = jrnn.unroll(model, params, d.xs)[1]
    labels = d.tokens[:2].T % 3 + 1
    loss = ctc.CTC()
    return (
        jax.grad(lambda z: loss.mean(z, batch(d, labels, lengths=d.lengths)))(logits),
        ctc.ctc_greedy(logits, d.lengths),
        ctc.ctc_beam_search(logits, d.lengths, width=2),
    )


def generate(model, params, d):
    written = jrnn.generate(model, params, d.tokens, 3, temperature=0, lengths=_nonempty(d), stop=1)
    last = jax.lax.slice_in_dim(written.tokens, 2, 3)
    more = jrnn.generate(model, params, last, 2, carry=written.carry, temperature=0)
    return written.tokens, written.log_probs, more.tokens


def sample(model, params, d):
    return jrnn.generate(model, params, d.tokens, 3, key=d.key, top_k=4, top_p=0.9, temperature=0.7)


def search(model, params, d):
    lengths = _nonempty(d)
    return jrnn.beam_search(model, params, d.tokens, 3, width=2, stop=1, lengths=lengths, length_penalty=0.6)


def _nonempty(d):
    return jax.jit(lambda lengths: jnp.maximum(lengths, 1))(d.lengths)


def flow(model, params, d):
    loss = jrnn.PerStep(losses.cross_entropy)
    return analysis.gradient_flow(model, params, batch(d, lengths=d.lengths), loss)


LM = jrnn.Stack((jrnn.Embed(3), jrnn.GRU(4), jrnn.Dense(TOKENS)))
LINEAR = jrnn.Stack((jrnn.MinGRU(4), jrnn.Dense(3, activation="tanh"), jrnn.QRNN(4)))
TAGGER = jrnn.Sequential((jrnn.Bidirectional(jrnn.GRU(3)), jrnn.Dense(4), jrnn.CRF(4)))
SQRT = jrnn.Scan(memory="sqrt")

STOPS = {
    "Elman": plain(jrnn.Elman(4)),
    "LSTM, lengths": ragged(jrnn.LSTM(4)),
    "GRU, mask, resets, reverse": Stop(
        jrnn.GRU(4),
        lambda c, p, d: jrnn.unroll(
            c, p, d.xs, lengths=d.lengths, mask=d.mask, resets=d.resets, reverse=True
        ),
    ),
    "LayerNormLSTM": ragged(jrnn.LayerNormLSTM(4)),
    "ClockworkRNN": ragged(jrnn.ClockworkRNN(4, periods=(1, 2))),
    "Window": ragged(jrnn.Window(2, WIDTH)),
    "QRNN": ragged(jrnn.QRNN(4, window=3)),
    "MLSTM": Stop(jrnn.MLSTM(4, heads=2), lambda c, p, d: jrnn.unroll(c, p, d.xs, lengths=d.lengths)[1]),
    "ConvLSTM": Stop(
        jrnn.ConvLSTM(3, spatial=1), lambda c, p, d: jrnn.unroll(c, p, d.fields, lengths=d.lengths), 2
    ),
    "GRUD": Stop(
        jrnn.GRUD(4), lambda c, p, d: jrnn.unroll(c, p, (d.xs, d.gaps, abs(d.xs)), lengths=d.lengths)
    ),
    "Bidirectional": Stop(
        jrnn.Bidirectional(jrnn.GRU(4)), lambda c, p, d: c.apply(p, d.xs, lengths=d.lengths, resets=d.resets)
    ),
    "Associative": plain(LINEAR, method=jrnn.Associative()),
    "Associative, a tree": Stop(
        LINEAR,
        lambda c, p, d: jrnn.unroll(c, p, d.xs, lengths=d.lengths, method=jrnn.Associative(tree=True)),
    ),
    "gradient": Stop(jrnn.LSTM(4), gradient),
    "gradient, sqrt": Stop(jrnn.LSTM(4), functools.partial(gradient, method=SQRT)),
    "gradient, Chunked": Stop(jrnn.DeltaNet(4, heads=2), functools.partial(gradient, method=jrnn.Chunked(2))),
    "gradient, Associative": Stop(LINEAR, functools.partial(gradient, method=jrnn.Associative())),
    "gradient, Newton": Stop(jrnn.GRU(4), functools.partial(gradient, method=jrnn.Newton())),
    "Newton, a tree and windows": Stop(
        jrnn.IndRNN(4),
        lambda c, p, d: jrnn.unroll(
            c, p, d.xs, lengths=d.lengths, resets=d.resets, method=jrnn.Newton(window=2, tree=True)
        ),
    ),
    "forward over reverse": Stop(
        jrnn.Elman(2), lambda c, p, d: jax.jvp(lambda p: gradient(c, p, d), (p,), (p,))[1]
    ),
    "Dropout": noisy(jrnn.Dropout(jrnn.LSTM(4), input=0.2, state=0.3, output=0.4)),
    "Zoneout": noisy(jrnn.Zoneout(jrnn.LSTM(4), rates=(0.2, 0.5))),
    "DropConnect": noisy(jrnn.Reparametrize(jrnn.GRU(4), "w_hh", jrnn.DropConnect(0.5))),
    "Stack with dropout": noisy(jrnn.Stack((jrnn.GRU(4), jrnn.GRU(3)), dropout=0.5)),
    "WeightNorm": ragged(jrnn.Reparametrize(jrnn.GRU(4), "w_hh", jrnn.WeightNorm())),
    "Feedback": Stop(
        jrnn.Feedback(jrnn.Stack((jrnn.GRU(4), jrnn.Dense(WIDTH)))),
        lambda c, p, d: jrnn.unroll(c, p, (d.xs, d.mask), lengths=d.lengths),
    ),
    "Feedback of tokens, gradient": Stop(
        jrnn.Feedback(LM, emit="argmax"),
        lambda c, p, d: jax.grad(lambda p: squares(jrnn.unroll(c, p, (d.tokens, d.mask))[1], d))(p),
        TOKENS,
    ),
    "Luong, local": Stop(
        jrnn.LuongAttention(jrnn.LSTM(4), jrnn.attention.Local(jrnn.attention.General(), 2), WIDTH, 4),
        attention,
    ),
    "Bahdanau": Stop(jrnn.BahdanauAttention(jrnn.GRU(4), jrnn.attention.Additive(5), WIDTH), attention),
    "CRF": Stop(TAGGER, tagging),
    "losses": Stop(jrnn.GRU(4), all_losses),
    "CTC": Stop(jrnn.GRU(4), transcribe),
    "many to one": Stop(jrnn.GRU(4), lambda c, p, d: jrnn.many_to_one(c, p, d.xs, lengths=d.lengths)),
    "Cast": ragged(jrnn.Cast(jrnn.GRU(4), compute="float32", carry="float32")),
    "Tap": ragged(jrnn.Tap(jrnn.LSTM(4), ("f",))),
    "LearnedCarry, clipped": Stop(jrnn.LearnedCarry(jrnn.ClipGradient(jrnn.GRU(4), max_norm=0.1)), gradient),
    "fit": Stop(LM, fit, TOKENS, compiled=False),
    "fit from scratch": Stop(LM, fit_from_scratch, TOKENS, compiled=False, random=True),
    "evaluate": Stop(LM, evaluate, TOKENS, compiled=False),
    "save and load": Stop(jrnn.LSTM(4), save_and_load, compiled=False),
    "packed batches": Stop(LM, packed, TOKENS, compiled=False),
    "save_params and load": Stop(jrnn.LSTM(4), save_params_and_load, compiled=False),
    "to Flax and back": Stop(jrnn.Stack((jrnn.LSTM(4), jrnn.Dense(2))), to_flax_and_back, compiled=False),
    "export": Stop(jrnn.GRU(4), export, compiled=False),
    "forecast": Stop(
        jrnn.Stack((jrnn.GRU(4), jrnn.Dense(WIDTH))),
        lambda c, p, d: jrnn.forecast(c, p, d.xs, 2, lengths=_nonempty(d)),
        compiled=False,
    ),
    "generate": Stop(LM, generate, TOKENS, compiled=False),
    "sample": Stop(LM, sample, TOKENS, compiled=False, random=True),
    "beam search": Stop(LM, search, TOKENS, compiled=False),
    "gradient flow": Stop(LM, flow, TOKENS, compiled=False),
    "sensitivity": Stop(jrnn.GRU(4), lambda c, p, d: analysis.sensitivity(c, p, d.alone), compiled=False),
    "lyapunov": Stop(
        jrnn.Elman(4), lambda c, p, d: analysis.lyapunov(c, p, d.alone, exponents=2).exponents, compiled=False
    ),
    "spectra": Stop(
        jrnn.GRU(4), lambda c, p, d: analysis.spectra(c, p, d.alone).singular_values, compiled=False
    ),
    "growth": Stop(jrnn.GRU(4), lambda c, p, d: analysis.growth(c, p, d.alone), compiled=False),
    "gates": Stop(jrnn.LSTM(4), lambda c, p, d: analysis.gate_statistics(c, p, d.xs, lengths=d.lengths)),
}


def on_device(data):
    """The data on the device."""
    return jax.device_put(data)


def in_float64(data):
    """The data on the device, its floats in float64, and so the parameters."""
    wide = {
        n: a.astype(np.float64) for n, a in data._asdict().items() if a is not None and a.dtype == np.float32
    }
    return jax.device_put(data._replace(**wide))


def sharded(data):
    """The data on the mesh that is set, the batch split over its axis."""
    axes = {"lengths": jax.P("data"), "alone": jax.P()}
    put = {n: jax.device_put(a, axes.get(n, jax.P(None, "data"))) for n, a in data._asdict().items()}
    return Data(**put)


@functools.cache
def params_of(name):
    """Parameters of a stop, drawn once in float32 whatever the mode, in NumPy."""
    stop = STOPS[name]
    with jax.enable_x64(False), jax.transfer_guard("allow"):
        return jax.device_get(jax.jit(stop.model.init, static_argnums=1)(jax.random.key(1), stop.width))


def visit(name, data):
    """What a stop returns, in NumPy."""
    stop = STOPS[name]
    with jax.transfer_guard("allow"):
        data = data._replace(key=jax.random.key(3))  # a new one, that nobody has drawn from
    run = functools.partial(stop.run, stop.model)
    params = jax.tree.map(lambda a: a.astype(data.xs.dtype) if a.dtype == np.float32 else a, params_of(name))
    found = (jax.jit(run) if stop.compiled else run)(jax.device_put(params), data)
    return [jax.device_get(a) for a in jax.tree.leaves(found) if not hasattr(a, "dtype") or not _is_key(a)]


def _is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
