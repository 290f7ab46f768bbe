"""Encoder-decoder: against its parts written out, for every pair as if it were alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn.attention import Additive, Dot, General
from tests.attending import Attending
from tests.cases import CASES, one_in

WORDS, VOCABULARY, SPAN, STEPS, BATCH = 9, 7, 5, 4, 3
SPANS, LENGTHS = np.array([5, 3, 1], np.int32), np.array([2, 4, 3], np.int32)
ENCODER = jrnn.Sequential((jrnn.Embed(3), jrnn.Bidirectional(jrnn.GRU(4))))
ATTENTION = jrnn.LuongAttention(jrnn.LSTM(5), General(), 8, 6)
DECODER = jrnn.Stack((jrnn.Embed(2), ATTENTION, jrnn.Dense(VOCABULARY)))
MODEL = jrnn.EncoderDecoder(ENCODER, DECODER)
RANDOM = np.random.default_rng(0)
SOURCE = RANDOM.integers(WORDS, size=(SPAN, BATCH)).astype(np.int32)
INPUTS = RANDOM.integers(VOCABULARY, size=(STEPS, BATCH)).astype(np.int32)
SOURCE_MASK, MASK = np.arange(SPAN)[:, None] < SPANS, np.arange(STEPS)[:, None] < LENGTHS


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def moved(model, in_features=WORDS):
    """Random parameters, biases too."""
    rng = np.random.default_rng(1)
    spec = jax.eval_shape(lambda: model.init(jax.random.key(0), in_features))
    return jax.tree.map(lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape), a.dtype), spec)


@partial(jax.jit, static_argnums=0)
def apply(model, params, source=SOURCE, inputs=INPUTS, lengths=LENGTHS, mask=SOURCE_MASK, **options):
    return jrnn.apply(model, params, jrnn.Pair(source, inputs, mask), lengths=lengths, **options)


def close(given, needed, tolerance=2e-6):
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def same(given, needed):
    close(given, needed, tolerance=0)


def alone(params, source, inputs):
    """One pair, without padding: every step written out."""
    (_, both), memory = jrnn.apply(ENCODER, params.encoder, source)
    ends = jnp.concatenate([both.forward, both.backward])
    state = jnp.tanh(ends @ params.bridge.w + params.bridge.b)
    embed, attention, dense = params.decoder
    carry, h, logits = type(both.forward), state[10:], []
    carry = jrnn.LSTM(5).initial_carry(attention.cell)._replace(h=state[:5], c=state[5:10])
    for token in inputs:
        carry, s = jrnn.LSTM(5).step(attention.cell, carry, jnp.concatenate([embed.table[token], h]))
        scores = (memory @ attention.scores[0].w_memory) @ s
        h = jnp.tanh(jnp.concatenate([jax.nn.softmax(scores) @ memory, s]) @ attention.w)
        logits.append(h @ dense.w + dense.b)
    return jnp.stack(logits), (carry, h)


def test_teacher_forcing_of_ragged_pairs_is_every_pair_written_out(x64):
    params = moved(MODEL)
    end, logits = apply(MODEL, params)
    for row, (span, steps) in enumerate(zip(SPANS, LENGTHS, strict=True)):
        needed, last = jax.jit(alone)(params, SOURCE[:span, row], INPUTS[:steps, row])
        np.testing.assert_allclose(logits[:steps, row], needed, rtol=1e-12, atol=1e-13)
        given = jax.tree.map(lambda a, row=row: a[row], (end.cells[1].cell, end.cells[1].last))
        close(given, last, tolerance=1e-12)
        assert not np.any(logits[steps:, row])


def test_what_stands_in_padding_reaches_nothing():
    """A token outside the vocabulary is embedded as NaN."""

    @jax.jit
    def gradient(params, source, inputs):
        loss = lambda p: jnp.sum(jnp.sin(apply(MODEL, p, source, inputs)[1]))
        return jax.value_and_grad(loss)(params)

    params = moved(MODEL)
    clean = gradient(params, SOURCE, INPUTS)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(clean))
    source, inputs = np.where(SOURCE_MASK, SOURCE, 99), np.where(MASK, INPUTS, -5)
    same(gradient(params, source, inputs), clean)
    assert np.isnan(gradient(params, np.full_like(SOURCE, 99), INPUTS)[0])


READER = jrnn.Stack((jrnn.Embed(3), jrnn.GRU(4)))
SILENT = jrnn.Stack((jrnn.Embed(2), jrnn.GRU(5), jrnn.Dense(VOCABULARY)))
LOOKING = jrnn.Stack(
    (jrnn.Embed(2), jrnn.BahdanauAttention(jrnn.GRU(5), Additive(2), 4), jrnn.Dense(VOCABULARY))
)


@pytest.mark.parametrize(
    ("decoder", "bridge", "reaches"),
    [
        (SILENT, jrnn.DenseBridge(), True),  # through the bridge alone
        (LOOKING, None, True),  # through the memory alone
        (SILENT, None, False),
    ],
)
def test_gradients_reach_the_encoder(decoder, bridge, reaches):
    model = jrnn.EncoderDecoder(READER, decoder, bridge=bridge)
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(apply(model, p)[1])))(moved(model))
    for leaf in jax.tree.leaves(gradient.encoder):
        assert np.any(leaf) == reaches
    assert all(np.any(leaf) for leaf in jax.tree.leaves((gradient.bridge, gradient.decoder)))


def test_a_summary_is_both_ends_of_the_source():
    model = jrnn.EncoderDecoder(ENCODER, DECODER, summary=True)
    params = moved(model)
    carry = jax.jit(model.encode)(params, SOURCE, lengths=SPANS)
    (memory,) = carry.cells[1].memory
    ends = jax.jit(partial(jrnn.apply, ENCODER))(params.encoder, SOURCE, lengths=SPANS)[0][1]
    close(memory.values, jnp.concatenate([ends.forward, ends.backward], -1)[:, None])
    assert memory.valid.shape == (BATCH, 1) and np.all(memory.valid)
    whole = moved(MODEL)  # the very same parameters
    same(params, whole)
    start = jax.jit(MODEL.encode)(whole, SOURCE, lengths=SPANS)
    close(carry.cells[1][:2], start.cells[1][:2])


# bridges


def plain(case):
    """Of features, and without a memory that counts as state."""
    return (
        case.inputs is None and getattr(case.cell, "in_ndim", 1) == 1 and not isinstance(case.cell, Attending)
    )


PLAIN = [case for case in CASES if plain(case)]
NEXT = dict(zip(PLAIN, [*PLAIN[1:], PLAIN[0]], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", one_in(6, PLAIN, 4), ids=lambda case: repr(case.cell))
def test_a_dense_bridge_between_any_two_cells(case):
    """Every cell as an encoder, and as the decoder of the one before it; some are run for real below."""
    after = NEXT[case]
    model = jrnn.EncoderDecoder(case.cell, after.cell, target_features=after.in_features)
    pair = jrnn.Pair(jnp.ones((SPAN, BATCH, case.in_features)), jnp.ones((STEPS, BATCH, after.in_features)))

    def run(key, pair):
        params = model.init(key, case.in_features)
        return model.apply(params, pair, lengths=LENGTHS, key=key)[1]

    if isinstance(after.cell, jrnn.Dense | jrnn.Map | jrnn.Norm):
        with pytest.raises(ValueError, match=r"^the decoder starts from no float state: use bridge=None"):
            jax.eval_shape(run, jax.random.key(0), pair)
        return
    ys = jax.tree.leaves(jax.eval_shape(run, jax.random.key(0), pair))[0]
    assert ys.shape == (STEPS, BATCH, after.cell.out_features)


@pytest.mark.parametrize(
    "cell",
    [jrnn.LSTM(4), jrnn.ClockworkRNN(4, periods=(1, 2)), jrnn.LRU(4, outputs=3),
     jrnn.Dropout(jrnn.Stack((jrnn.QRNN(4, window=3), jrnn.GRU(2))), state=0.5)],
    ids=repr,
)  # fmt: skip
def test_every_entry_of_the_state_gets_its_part(cell):
    model = jrnn.EncoderDecoder(cell, cell, bridge=jrnn.DenseBridge("identity"), target_features=2)
    params, source = moved(model, 2), jax.random.normal(jax.random.key(1), (SPAN, BATCH, 2))

    @jax.jit
    def run(params):
        end, _ = jrnn.unroll(cell, params.encoder, source, lengths=SPANS)
        return model.encode(params, source, lengths=SPANS), end

    carry, end = run(params)
    kinds = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)
    assert kinds(carry) == kinds(end)

    def flat(carry):
        """(batch, n), all numbers that are not integers."""
        parts = []
        for leaf in jax.tree.leaves(carry):
            if jnp.iscomplexobj(leaf):
                parts += [leaf.real, leaf.imag]
            elif leaf.dtype == jnp.float32:
                parts.append(leaf)
        return jnp.concatenate([part.reshape(BATCH, -1) for part in parts], -1)

    close(flat(carry), flat(end) @ params.bridge.w + params.bridge.b)
    pair = jrnn.Pair(source, jnp.ones((STEPS, BATCH, 2)))
    ys = jax.jit(model.apply)(params, pair)[1]
    needed = jax.jit(partial(jrnn.unroll, cell))(params.decoder, pair.inputs, model.encode(params, source))[1]
    close(ys, needed)


@pytest.mark.parametrize(
    "cell", [jrnn.LSTM(4), jrnn.ClockworkRNN(4, periods=(1, 2)), jrnn.LRU(4, outputs=3)], ids=repr
)
def test_a_copy_is_the_very_state(cell):
    attention = jrnn.BahdanauAttention(cell, Additive(2), cell.out_features)
    model = jrnn.EncoderDecoder(cell, jrnn.Stack((attention, jrnn.Dense(2))), bridge=jrnn.CopyBridge())
    params, source = moved(model, 2), jax.random.normal(jax.random.key(1), (SPAN, BATCH, 2))

    @jax.jit
    def run(params):
        end, _ = jrnn.unroll(cell, params.encoder, source, lengths=SPANS)
        return model.encode(params, source, lengths=SPANS), end

    carry, end = run(params)
    close(carry.cells[0].cell, end, tolerance=1e-7)
    assert not np.any(carry.cells[0].last) and np.any(jax.tree.leaves(end)[0])


def test_an_encoder_without_state_ends_with_its_last_output():
    """Such as an attention over inputs, or the features of an image: one source step."""
    source = jax.random.normal(jax.random.key(1), (SPAN, BATCH, 2))
    for summary in (False, True):
        model = jrnn.EncoderDecoder(jrnn.Dense(3, activation="tanh"), jrnn.GRU(4), summary=summary)
        params = moved(model, 2)
        ends = jnp.stack([source[n - 1, row] for row, n in enumerate(SPANS)])
        end = jnp.tanh(ends @ params.encoder.w + params.encoder.b)
        needed = jnp.tanh(end @ params.bridge.w + params.bridge.b)
        close(jax.jit(model.encode)(params, source, lengths=SPANS), needed)


# decoders that read their own words

LOOP = jrnn.EncoderDecoder(ENCODER, jrnn.Feedback(DECODER, emit="argmax"))


def test_a_loop_that_is_always_open_is_teacher_forcing():
    params = moved(MODEL)
    given = apply(LOOP, params, inputs=(INPUTS, np.ones((STEPS, BATCH), bool)))[1]
    close(given, apply(MODEL, params)[1])


def test_a_loop_that_is_open_at_first_writes_what_generate_writes():
    params, first = moved(MODEL), np.broadcast_to(np.arange(STEPS)[:, None] == 0, (STEPS, BATCH))

    def steeper(a):  # far from uniform, and no bias that drowns the rest
        return (12 if a.ndim > 1 else 0.1) * a

    params = params._replace(decoder=jax.tree.map(steeper, params.decoder))
    logits = apply(LOOP, params, inputs=(np.where(first, 1, 99), first), lengths=None)[1]
    prompt = np.ones((1, BATCH), np.int32)
    for model in (MODEL, LOOP):
        carry = jax.jit(model.encode)(params, SOURCE, mask=SOURCE_MASK)
        written = jrnn.generate(model.decoder, params.decoder, prompt, STEPS, temperature=0, carry=carry)
        np.testing.assert_array_equal(written.tokens, jnp.argmax(logits, -1))
        close(written.log_probs, jnp.max(jax.nn.log_softmax(logits), -1), 1e-5)
    assert len(set(np.asarray(written.tokens).T.ravel().tolist())) > 1


# training, noise, checkpoints


def test_noise_is_drawn_in_encoder_and_decoder():
    quiet = moved(MODEL)
    clean = apply(MODEL, quiet)[1]
    key = jax.random.key(0)
    noisy_encoder = jrnn.Sequential(
        (jrnn.Embed(3), jrnn.Bidirectional(jrnn.Dropout(jrnn.GRU(4), output=0.5)))
    )
    noisy_decoder = jrnn.Stack(DECODER.cells, dropout=0.5)
    models = jrnn.EncoderDecoder(noisy_encoder, DECODER), jrnn.EncoderDecoder(ENCODER, noisy_decoder)
    for model in models:
        drawn, again = (apply(model, quiet, key=key)[1] for _ in range(2))
        same(drawn, again)
        assert not np.allclose(drawn, clean)
        assert not np.allclose(drawn, apply(model, quiet, key=jax.random.key(1))[1])
        carry = jax.eval_shape(lambda p, model=model: model.encode(p, SOURCE, key=key), quiet)
        assert all(leaf.dtype != key.dtype for leaf in jax.tree.leaves(carry))  # to write from, without noise
    same(apply(jrnn.EncoderDecoder(noisy_encoder, noisy_decoder), quiet)[1], clean)


def test_fit_trains_an_encoder_decoder_with_scheduled_sampling():
    rng = np.random.default_rng(0)
    sources, targets = ([rng.integers(3, 7, n).tolist() for n in (3, 5, 4, 2)] for _ in range(2))
    batches = jrnn.pair_batches(sources, targets, 2, start=1, stop=2, bucket=8)
    sampled = jrnn.data.ScheduledSampling(batches, lambda step: 0.5)
    model = jrnn.EncoderDecoder(READER, jrnn.Feedback(LOOKING, emit="argmax"))
    params, loss = moved(model), jrnn.PerStep(jrnn.losses.cross_entropy)
    options = {"optimizer": optax.adam(0.01), "params": params, "key": jax.random.key(0), "epochs": 2}
    result = jrnn.fit(model, sampled.epoch, loss, **options)
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(result.params), strict=True):
        assert np.all(np.isfinite(after)) and np.any(before != after)
    first, second = (record["train"] for record in result.history)
    assert second < first


@pytest.mark.parametrize(
    "model",
    [
        LOOP,
        jrnn.EncoderDecoder(jrnn.GRU(4), jrnn.BahdanauAttention(
            jrnn.GRU(4), (jrnn.attention.Local(Additive(2), 1.5), jrnn.attention.Location(9)), (4, 4)),
            bridge=jrnn.CopyBridge(), summary=True, target_features=3),
        jrnn.EncoderDecoder(jrnn.GRU(4),
            jrnn.LuongAttention(jrnn.GRU(4), Dot(scaled=True), 4, 3, input_feeding=False), bridge=None),
    ],
    ids=["loop", "copy", "none"],
)  # fmt: skip
def test_an_encoder_decoder_is_saved_and_loaded(model, tmp_path):
    params = moved(model)
    jrnn.save(tmp_path, jrnn.Snapshot(model, WORDS, params, step=3))
    snapshot = jrnn.load(tmp_path)
    assert snapshot.cell == model
    same(snapshot.params, params)


# shapes, dtypes, errors


@pytest.mark.parametrize(
    ("span", "steps", "batch"), [(6, 5, ()), (6, 5, (2, 3)), (6, 5, (0,)), (6, 0, (3,)), (0, 5, (3,))]
)
def test_any_number_of_pairs_and_steps(span, steps, batch):
    params = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), WORDS))
    pair = jrnn.Pair(jnp.ones((span, *batch), int), jnp.ones((steps, *batch), int))
    assert jax.eval_shape(MODEL.apply, params, pair)[1].shape == (steps, *batch, VOCABULARY)


def test_a_decoder_in_half_precision_starts_in_its_own():
    for bridge in (jrnn.DenseBridge(), jrnn.CopyBridge()):
        model = jrnn.EncoderDecoder(jrnn.GRU(4), jrnn.Cast(jrnn.GRU(4)), bridge=bridge)
        start = jax.eval_shape(lambda m=model: m.encode(m.init(jax.random.key(0), 2), jnp.ones((SPAN, 2))))
        assert start.dtype == jnp.bfloat16
        pair = jrnn.Pair(jnp.ones((SPAN, 2)), jnp.ones((STEPS, 4)))
        ys = jax.eval_shape(lambda m=model, pair=pair: m.apply(m.init(jax.random.key(0), 2), pair)[1])
        assert (ys.shape, ys.dtype) == ((STEPS, 4), jnp.bfloat16)


ERRORS = [
    (lambda: jrnn.EncoderDecoder(ENCODER, ENCODER), TypeError,
     "EncoderDecoder: decoder must be a cell, got the layer Sequential(layers=(Embed("),
    (lambda: jrnn.EncoderDecoder(3, DECODER), TypeError, "EncoderDecoder: encoder must be a cell, got 3"),
    (lambda: jrnn.EncoderDecoder(ENCODER, jrnn.GRU), TypeError,
     "EncoderDecoder: decoder must be a cell, got the class GRU: call it, as in LSTM(8)"),
    (lambda: jrnn.EncoderDecoder(ENCODER, DECODER, bridge="dense"), TypeError,
     "EncoderDecoder: bridge must be DenseBridge(), CopyBridge() or None, got 'dense'"),
    (lambda: jrnn.EncoderDecoder(ENCODER, DECODER, target_features=0), ValueError,
     "EncoderDecoder: target_features must be at least 1, got 0"),
    (lambda: jrnn.DenseBridge("tangent"), ValueError, "DenseBridge: activation must be one of tanh,"),
    (lambda: jrnn.EncoderDecoder(
        jrnn.LSTM(4), jrnn.GRU(4), bridge=jrnn.CopyBridge()).init(jax.random.key(0), 2),
     ValueError, "CopyBridge: the encoder's state has shapes [(4,), (4,)], the decoder's needs [(4,)]: "
     "use DenseBridge()"),
    (lambda: apply(MODEL, moved(MODEL), resets=np.zeros((STEPS, BATCH), bool)), ValueError,
     "EncoderDecoder takes no resets: a pair is one sequence"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[m[:40] for _, _, m in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_the_bridge_maps_the_last_output_of_an_encoder_without_a_state():
    model = jrnn.EncoderDecoder(
        jrnn.Dense(4), jrnn.Stack((jrnn.Embed(2), jrnn.GRU(5), jrnn.Dense(VOCABULARY)))
    )
    params, source = moved(model, 3), RANDOM.normal(size=(SPAN, BATCH, 3)).astype(np.float32)
    ends = source[SPANS - 1, np.arange(BATCH)] @ params.encoder.w + params.encoder.b
    start = model.encode(params, source, lengths=SPANS).cells[1]
    close(start, np.tanh(ends @ params.bridge.w + params.bridge.b))
