"""Attention inside combinators, around other attention, and with every option of `unroll`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn.attention import AttentionCarry, General
from jrnn.data.synthetic import copies, reversals
from tests.test_attention import BATCH, FEATURES, IN, LENGTHS, MEMORY, PLAIN, SPAN, STEPS, VALID, XS, moved

Bahdanau, Luong = jrnn.BahdanauAttention, jrnn.LuongAttention


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


WIDE = jrnn.Project(PLAIN, IN)
PLAIN_SCAN = jrnn.Scan()
SEEN = jnp.moveaxis(jnp.where(VALID.T[..., None], MEMORY, 0), 0, 1)


@partial(jax.jit, static_argnums=0, static_argnames=("reverse", "method"))
def run(cell, params, xs=XS, memory=MEMORY, lengths=LENGTHS, flags=None, **options):
    """The end, the outputs, and the memories at start and end."""
    start = cell.initial_carry(params, memory.shape[1:-1])
    start = jrnn.attach(cell, params, start, memory, lengths=lengths)
    end, ys = jrnn.unroll(cell, params, xs, start, **(flags or {}), **options)
    return end, ys, jrnn.attention.decoders.attached(start), jrnn.attention.decoders.attached(end)


def close(given, needed, tolerance=2e-6):
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def same(given, needed):
    close(given, needed, tolerance=0)


def test_wrappers_hand_the_memory_on():
    """Without noise each is the cell itself; with noise it is not, and the memory still is what it was."""
    params = moved(PLAIN)
    plain = run(PLAIN, params)[1]
    learned = jrnn.combinators.carries.LearnedCarryParams
    zeros = AttentionCarry(jnp.zeros(3), jnp.zeros(3), None)
    projected = jrnn.combinators.stacking.ProjectParams(params, jnp.ones((8, IN)))
    for cell, given, needed in (
        (jrnn.Dropout(PLAIN, input=0.5, state=0.5, output=0.5), params, plain),
        (jrnn.LearnedCarry(PLAIN), learned(params, zeros), plain),
        (jrnn.Cast(PLAIN, compute="float32"), params, plain),
        (jrnn.Residual(WIDE), projected, XS + plain.sum(-1, keepdims=True)),
    ):
        end, ys, before, after = run(cell, given)
        close(ys, needed)
        same((before, after), ([before[0]], [after[0]]))
        same((before[0].values, after[0].values), (SEEN, SEEN))
        key = jax.random.key(0) if isinstance(cell, jrnn.Dropout) else None
        if key is not None:
            end, noisy, before, after = run(cell, given, key=key)
            assert not np.allclose(noisy, ys) and end.key is not None
            same(after, before)


def test_zoneout_keeps_the_query_too():
    params, rate = moved(PLAIN), 0.25
    end, ys, _, after = run(jrnn.Zoneout(PLAIN, rate), params)
    carry = AttentionCarry(jnp.zeros((BATCH, 3)), jnp.zeros((BATCH, 3)), tuple(after))
    for x, y in zip(XS, ys, strict=True):
        new, needed = PLAIN.step(params, carry, x)
        mixed = (rate * old + (1 - rate) * n for old, n in zip(carry[:2], new[:2], strict=True))
        carry = AttentionCarry(*mixed, carry.memory)
        close(y, needed)
    close(end.cell[:2], carry[:2])


def test_a_learned_start_of_the_query_has_a_gradient():
    cell = jrnn.LearnedCarry(PLAIN)
    loss = lambda params: jnp.sum(jnp.sin(run(cell, params)[1]))
    gradient = jax.grad(loss)(moved(cell))
    assert gradient.carry.memory is None
    assert np.all(gradient.carry.cell != 0) and np.all(gradient.carry.last != 0)


def test_half_precision_computes_the_same_to_its_precision():
    cell, params = jrnn.Cast(PLAIN, compute="bfloat16", carry="float32"), moved(PLAIN)
    end, ys, before, after = run(cell, params)
    assert (ys.dtype, end.last.dtype, after[0].values.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    close(ys.astype(jnp.float32), run(PLAIN, params)[1], tolerance=0.05)
    same(after, before)


def test_a_reparametrized_weight_within_the_cell():
    cell = jrnn.Reparametrize(PLAIN, "w_hh", jrnn.Diagonal())
    params = moved(cell)
    diagonal = params.cell.w_hh.params.reshape(-1, 3)
    blocks = jnp.concatenate([jnp.diag(row) for row in diagonal], 1)
    plain = params._replace(cell=params.cell._replace(w_hh=blocks))
    close(run(cell, params)[1], run(PLAIN, plain)[1])


def test_a_loop_around_attention_reads_its_own_outputs():
    cell = jrnn.Feedback(WIDE)
    params = moved(cell)
    use = jnp.array([[True], [False], [True], [False]]) | jnp.zeros((STEPS, BATCH), bool)
    ys = run(cell, params, (XS, use))[1]
    fed = jnp.where(use[..., None], XS, jnp.concatenate([jnp.zeros_like(ys[:1]), ys[:-1]]))
    close(run(WIDE, params, fed)[1], ys)


def test_every_attention_in_a_stack_or_inside_another_has_keys_of_its_own():
    top = Luong(jrnn.LSTM(4), General(), FEATURES, 7)
    stack, nested = jrnn.Stack((PLAIN, top)), Luong(PLAIN, General(), FEATURES, 7)
    params = moved(stack)
    xs = run(PLAIN, params[0])[1]
    _, ys, memories, _ = run(stack, params)
    close(ys, run(top, params[1], xs)[1])
    additive, general = params[0].scores[0], params[1].scores[0]
    close([m.keys for m in memories], [SEEN @ additive.w_memory + additive.b, SEEN @ general.w_memory])
    params = moved(nested)
    _, ys, (inner, outer), _ = run(nested, params)
    close(outer.keys, SEEN @ params.scores[0].w_memory)
    last, needed = jnp.zeros((BATCH, 7)), []
    inside = PLAIN.initial_carry(params.cell, (BATCH,))._replace(memory=(inner,))
    for x in XS:
        inside, s = PLAIN.step(params.cell, inside, jnp.concatenate([x, last], -1))
        a = jrnn.attention.scores.align(jnp.einsum("bn,bsn->bs", s, outer.keys), outer.valid)
        last = jnp.tanh(jnp.concatenate([jnp.einsum("bs,bsn->bn", a, SEEN), s], -1) @ params.w)
        needed.append(last)
    close(ys, jnp.stack(needed))
    tapped = jrnn.Tap(nested, ("attention",))
    assert [a.shape for a in run(tapped, params)[1][1]["attention"]] == [(STEPS, BATCH, SPAN)] * 2


# options of unroll, and transformations


def test_ragged_targets_and_sources_run_as_if_alone(x64):
    params, xs, memory = moved(PLAIN), jnp.asarray(XS, float), jnp.asarray(MEMORY, float)
    steps = np.array([2, STEPS, 0, 3])
    end, ys, _, _ = run(PLAIN, params, xs, memory, flags={"lengths": steps})
    for row, (n, span) in enumerate(zip(steps, LENGTHS, strict=True)):
        alone = run(PLAIN, params, xs[:n, row], memory[:span, row], None)
        np.testing.assert_allclose(ys[:n, row], alone[1], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(end.last[row], alone[0].last, rtol=1e-12, atol=1e-14)
        assert not np.any(ys[n:, row])


def test_a_reset_starts_the_state_anew_and_keeps_the_memory():
    params = moved(PLAIN)
    resets = jnp.zeros((STEPS, BATCH), bool).at[2, :3].set(True)
    whole, after = run(PLAIN, params)[1], run(PLAIN, params, XS[2:])[1]
    _, ys, _, memories = run(PLAIN, params, flags={"resets": resets})
    close(ys[:2], whole[:2])
    close(ys[2:, :3], after[:, :3])
    close(ys[2:, 3], whole[2:, 3])
    same(memories[0].values, SEEN)


def test_other_ways_to_run_the_loop():
    params = moved(PLAIN)
    _, ys, _, _ = run(PLAIN, params)
    close(run(PLAIN, params, XS[::-1], reverse=True)[1][::-1], ys)
    close(run(PLAIN, params, method=jrnn.Scan("sqrt"))[1], ys)
    twice = lambda a, axis: jnp.stack([a, jnp.flip(a, axis)], 1)
    both = run(PLAIN, params, twice(XS, 1), twice(MEMORY, 1), np.stack([LENGTHS, LENGTHS[::-1]]))[1]
    close(both, twice(ys, 1))
    alone = jax.vmap(lambda x, m, n: run(PLAIN, params, x, m, n)[1], (1, 1, 0), 1)(XS, MEMORY, LENGTHS)
    close(alone, ys)
    shared = run(PLAIN, params, XS, MEMORY[:, :1] + jnp.zeros((1, BATCH, 1)), None)[1]
    start = jrnn.attach(PLAIN, params, PLAIN.initial_carry(params, (BATCH,)), MEMORY[:, 0])  # one for all
    close(jrnn.unroll(PLAIN, params, XS, start)[1], shared)


def test_derivatives_of_every_kind_agree(x64):
    params, xs, memory = moved(PLAIN), jnp.asarray(XS, float), jnp.asarray(MEMORY, float)

    def loss(memory, method=PLAIN_SCAN):
        return jnp.sum(jnp.sin(run(PLAIN, params, xs, memory, method=method)[1]))

    along = jnp.cos(jnp.arange(memory.size)).reshape(memory.shape)
    functions = loss, jax.checkpoint(loss), partial(loss, method=jrnn.Scan("sqrt"))

    @jax.jit
    def derivatives(memory):
        slope, twice = (jax.jvp(f, (memory,), (along,))[1] for f in (loss, jax.grad(loss)))
        return slope, twice, [jnp.vdot(jax.grad(f)(memory), along) for f in functions]

    slope, twice, slopes = derivatives(memory)
    np.testing.assert_allclose(slopes, slope, rtol=1e-12)
    assert np.all(np.isfinite(twice)) and np.any(twice)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "order"), [(copies, 1), (reversals, -1)])
def test_attention_learns_where_to_look(task, order):
    """What is written at step t stands at position t of a copy's source, at n − 1 − t of a reversal's."""
    sources, targets = ([a + 2 for a in side] for side in task(1600, 6, 5, 5, 0))
    batches = jrnn.pair_batches(sources, targets, 64, key_seed=0, bucket=16, start=0, stop=1)
    attention = jrnn.LuongAttention(jrnn.GRU(24), General(), memory_features=32, features=24)
    model = jrnn.EncoderDecoder(
        jrnn.Sequential((jrnn.Embed(8), jrnn.Bidirectional(jrnn.GRU(16)))),
        jrnn.Stack((jrnn.Embed(8), attention, jrnn.Dense(8))),
    )
    params = jrnn.fit(
        model,
        batches.epoch,
        jrnn.PerStep(jrnn.losses.cross_entropy),
        optimizer=optax.adam(1e-2),
        key=jax.random.key(0),
        in_features=8,
        epochs=8,
        progress=jrnn.Progress(bar=False),
    ).params
    xs = batches[0].xs
    carry = model.encode(params, xs.source, lengths=xs.source_mask.sum(0))
    _, (_, inside) = jrnn.unroll(jrnn.Tap(model.decoder, ("attention",)), params.decoder, xs.inputs, carry)
    weights = inside["attention"][:5].mean(1)  # (step, position), the mean over the batch
    np.testing.assert_array_equal(weights.argmax(-1), np.arange(5)[::order])
    assert weights.max(-1).min() > 0.7
