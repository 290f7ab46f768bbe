"""Layers: every one against its equation, written by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jrnn
from tests.test_combinators import BATCH, IN, KEY, STEPS, XS, close, moved, run, same

BOTH = jrnn.Bidirectional(jrnn.LSTM(4), jrnn.GRU(3))
LENGTHS = (STEPS, 0, 2)


@functools.partial(jax.jit, static_argnums=0)
def apply(layer, params, xs=XS, carry=None, key=None, **flags):
    return jrnn.apply(layer, params, xs, carry, key=key, **flags)


def test_bidirectional_equals_two_runs_of_each_row_alone():
    params = moved(BOTH)
    end, ys = apply(BOTH, params, lengths=jnp.array(LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = XS[:length, row]
        (h, c), a = run(BOTH.forward, params.forward, alone)
        back, b = run(BOTH.backward, params.backward, alone[::-1])
        close(ys[:length, row], jnp.concatenate([a, b[::-1]], -1))
        close((end.forward.h[row], end.forward.c[row], end.backward[row]), (h, c, back))
        assert not np.any(ys[length:, row])


def test_it_does_not_matter_where_padding_stands():
    """Reported of Keras as issue 4192: in front, the backward half began with it."""
    params, alone = moved(BOTH), XS[:3, 0]
    end, ys = apply(BOTH, params, alone)
    for places in ([1, 2, 4], [0, 1, 2], [0, 2, 3]):
        mask = np.isin(np.arange(5), places)
        found = apply(BOTH, params, jnp.full((5, *alone.shape[1:]), 9.0).at[mask].set(alone), mask=mask)
        jax.tree.map(close, (found[0], found[1][mask]), (end, ys))


@pytest.mark.parametrize(
    ("merge", "by_hand"),
    [("sum", np.add), ("mul", np.multiply), ("mean", lambda a, b: (a + b) / 2)],
)
def test_bidirectional_merges(merge, by_hand):
    layer = jrnn.Bidirectional(jrnn.LSTM(4), jrnn.GRU(4), merge=merge)
    params = moved(layer)
    sides = apply(jrnn.Bidirectional(jrnn.LSTM(4), jrnn.GRU(4)), params, lengths=jnp.array(LENGTHS))[1]
    ys = apply(layer, params, lengths=jnp.array(LENGTHS))[1]
    close(ys, by_hand(*np.split(np.asarray(sides), 2, -1)))
    assert (layer.out_features, ys.shape[-1]) == (4, 4)


def test_reversing_time_and_swapping_parameters_swaps_the_halves():
    layer = jrnn.Bidirectional(jrnn.GRU(4))
    params = layer.init(KEY, IN)  # one cell, two sets of parameters
    assert not np.array_equal(params.forward.w_ih, params.backward.w_ih)
    end, ys = apply(layer, params)
    swapped = jrnn.BidirectionalParams(params.backward, params.forward)
    turned_end, turned = apply(layer, swapped, XS[::-1])
    close(turned[::-1], jnp.concatenate([ys[..., 4:], ys[..., :4]], -1))
    close(tuple(turned_end), (end.backward, end.forward))


def test_bidirectional_takes_and_gives_both_carries_and_keys():
    params = moved(BOTH)
    start = jax.tree.map(jnp.ones_like, BOTH.initial_carry(params, (BATCH,)))
    end, ys = apply(BOTH, params, XS, start)
    forward, a = run(BOTH.forward, params.forward, XS, start.forward)
    backward, b = run(BOTH.backward, params.backward, XS[::-1], start.backward)
    close((*end, ys), (forward, backward, jnp.concatenate([a, b[::-1]], -1)))
    noisy = jrnn.Bidirectional(jrnn.Dropout(jrnn.GRU(4), output=0.5))
    same_params = jrnn.BidirectionalParams(*[moved(jrnn.GRU(4))] * 2)
    halves = np.split(np.asarray(apply(noisy, same_params, key=KEY)[1] == 0), 2, -1)
    assert not np.array_equal(*halves) and all(half.any() for half in halves)  # each has its own noise


TAGGER = jrnn.Sequential((jrnn.GRU(4), BOTH, jrnn.Dense(2)))


def test_one_cell_for_both_directions():
    """Tied parameters are those of both runs, and their gradient is the sum of both."""
    tied, apart = jrnn.Bidirectional(jrnn.GRU(3), tied=True), jrnn.Bidirectional(jrnn.GRU(3))
    params = tied.init(jax.random.key(0), 2)
    assert params.backward is None
    xs = jax.random.normal(jax.random.key(1), (5, 2, 2))
    both = type(params)(params.forward, params.forward)

    def energy(layer, params):
        return jnp.sum(jnp.square(layer.apply(params, xs, lengths=jnp.array([5, 3]))[1]))

    np.testing.assert_array_equal(tied.apply(params, xs)[1], apart.apply(both, xs)[1])
    ends = (jrnn.many_to_one(tied, params, xs)[1], jrnn.many_to_one(apart, both, xs)[1])
    np.testing.assert_array_equal(*ends)
    summed = jax.tree.map(jnp.add, *jax.grad(energy, 1)(apart, both))
    for got, want in zip(
        jax.tree.leaves(jax.grad(energy, 1)(tied, params)), jax.tree.leaves(summed), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="tied needs equal cells"):
        jrnn.Bidirectional(jrnn.GRU(3), jrnn.LSTM(3), tied=True)


def test_sequential_equals_its_parts_one_after_the_other():
    params = moved(TAGGER)
    flags = {
        "lengths": jnp.array(LENGTHS),
        "mask": jnp.ones((STEPS, BATCH), bool).at[1, 0].set(False),
        "resets": jnp.zeros((STEPS, BATCH), bool).at[3, 0].set(True),
    }
    start = jax.tree.map(jnp.ones_like, TAGGER.initial_carry(params, (BATCH,)))
    for carry in (None, start):
        end, ys = apply(TAGGER, params, XS, carry, **flags)
        xs, ends = XS, []
        for layer, p, s in zip(TAGGER.layers, params, carry or (None,) * 3, strict=True):
            after, xs = apply(layer, p, xs, s, **flags)
            ends.append(after)
        close(ys, xs)
        close(end, tuple(ends))
    assert TAGGER.out_features == 2 and not np.any(ys[2:, 2])


def test_sequential_hands_its_carry_from_chunk_to_chunk():
    model = jrnn.Sequential((jrnn.GRU(4), jrnn.Sequential([jrnn.LSTM(3), jrnn.Dense(2)])))
    params = moved(model)
    end, ys = apply(model, params)
    middle, first = apply(model, params, XS[:2])
    resumed, second = apply(model, params, XS[2:], middle)
    close(resumed, end)
    close(jnp.concatenate([first, second]), ys)


def test_apply_is_unroll_for_a_cell():
    cell = jrnn.Dropout(jrnn.LSTM(4), output=0.5)
    params, options = moved(cell), {"lengths": jnp.array(LENGTHS), "key": KEY}
    end, ys = jrnn.apply(cell, params, XS, **options)
    needed, outputs = jrnn.unroll(cell, params, XS, **options)
    same((end.cell, ys), (needed.cell, outputs))


def test_gradients_of_a_layer_are_finite_differences():
    with jax.enable_x64(True):
        params, xs, lengths = moved(TAGGER), jnp.asarray(XS, float), jnp.array(LENGTHS)
        along = jax.tree.map(lambda a: jnp.cos(1.3 * jnp.arange(a.size)).reshape(a.shape), (params, xs))

        @jax.jit
        def loss(step):
            p, x = jax.tree.map(lambda a, v: a + step * v, (params, xs), along)
            end, ys = jrnn.apply(TAGGER, p, x, lengths=lengths)
            return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves((end, ys)))

        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(loss)(0.0), slope, rtol=1e-8)


# a backward layer as a value

BACKWARDS = jrnn.Reversed(jrnn.LSTM(4))
FLAGS = {
    "lengths": jnp.array(LENGTHS),
    "mask": jnp.ones((STEPS, BATCH), bool).at[1, 0].set(False),
    "resets": jnp.zeros((STEPS, BATCH), bool).at[3, 0].set(True),
}


def test_a_reversed_cell_is_unroll_in_reverse():
    params = moved(BACKWARDS)
    start = jax.tree.map(jnp.ones_like, BACKWARDS.initial_carry(params, (BATCH,)))
    end, ys = apply(BACKWARDS, params, XS, start, **FLAGS)
    needed = jrnn.unroll(BACKWARDS.cell, params, XS, start, reverse=True, **FLAGS)
    close((*end, ys), (*needed[0], needed[1]))
    assert BACKWARDS.out_features == 4 and jrnn.layers.sequential.looks_ahead(BACKWARDS)


def test_a_bidirectional_layer_is_a_forward_and_a_reversed_one():
    params = moved(BOTH)
    end, ys = apply(BOTH, params, **FLAGS)
    forward, a = apply(BOTH.forward, params.forward, **FLAGS)
    backward, b = apply(jrnn.Reversed(BOTH.backward), params.backward, **FLAGS)
    close(ys, jnp.concatenate([a, b], -1))
    close((*end.forward, end.backward), (*forward, backward))


def test_a_reversed_layer_goes_wherever_a_layer_goes():
    """In a Sequential, read at its own end, as the encoder of a pair, with noise, in a checkpoint."""
    model = jrnn.Sequential(
        (jrnn.Embed(3), jrnn.Reversed(jrnn.Dropout(jrnn.GRU(4), output=0.5)), jrnn.GRU(2))
    )
    params, tokens = model.init(KEY, 7), jnp.arange(STEPS * BATCH).reshape(STEPS, BATCH) % 7
    assert not np.array_equal(apply(model, params, tokens)[1], apply(model, params, tokens, key=KEY)[1])
    for row, length in enumerate(LENGTHS):
        read = jrnn.ManyToOne(jrnn.Sequential((BACKWARDS, jrnn.Dense(2))))
        drawn = moved(read)
        y = apply(read, drawn, lengths=jnp.array(LENGTHS))[1][row]
        first = run(BACKWARDS.cell, drawn[0], XS[:length, row][::-1])[1][-1] if length else jnp.zeros(4)
        close(y, first @ drawn[1].w + drawn[1].b)
    pair = jrnn.EncoderDecoder(BACKWARDS, jrnn.LSTM(4), bridge=jrnn.CopyBridge(), target_features=2)
    weights = moved(pair)
    end, _ = apply(BACKWARDS, weights.encoder)
    close(tuple(pair.encode(weights, XS)), tuple(end))


def test_what_follows_an_answer_reads_it_as_one_step():
    model = jrnn.Sequential(
        (jrnn.ManyToOne(jrnn.GRU(3)), jrnn.Dense(4, activation="tanh"), jrnn.Bidirectional(jrnn.GRU(2)))
    )
    params = moved(model)
    _, ys = apply(model, params, lengths=jnp.array(LENGTHS))
    _, y = jrnn.many_to_one(jrnn.GRU(3), params[0], XS, lengths=jnp.array(LENGTHS))
    y = jnp.tanh(y @ params[1].w + params[1].b)
    close(ys, apply(model.layers[2], params[2], y[None])[1][0])
    assert ys.shape == (BATCH, 4)


# dropout between layers, any merge, functions among layers

SIDES = jrnn.Bidirectional(jrnn.GRU(20)), jrnn.Bidirectional(jrnn.GRU(3))


def test_dropout_between_bidirectional_layers_is_drawn_anew_at_every_step():
    """torch's: what goes from a layer to the next, nothing behind the last; the rest over 1 − rate."""
    model, plain = jrnn.Sequential(SIDES, dropout=0.4), jrnn.Sequential(SIDES)
    params, xs = moved(model), jax.random.normal(KEY, (50, BATCH, IN))
    shown = jrnn.Sequential((SIDES[0], lambda ys: ys, jrnn.Map("identity", 40)), dropout=0.4)
    _, dropped = apply(shown, (params[0], (), ()), xs, key=KEY)
    _, ys = apply(SIDES[0], params[0], xs)
    twice = np.asarray(dropped) / np.asarray(ys)  # two times between layers, none behind the last
    counts = np.round(twice * 0.36, 5)
    assert set(np.unique(counts)) == {0, 1} and abs((counts == 0).mean() - 0.64) < 0.02
    masks = counts.reshape(50, -1)
    assert len({mask.tobytes() for mask in masks}) == 50  # another one at every step
    key = model.keys(KEY)[1][1]
    kept = jax.random.bernoulli(jax.random.split(key, 1)[0], 0.6, ys.shape)
    needed = apply(SIDES[1], params[1], jnp.where(kept, ys / 0.6, 0))[1]
    close(apply(model, params, xs, key=KEY)[1], needed)
    close(apply(model, params, xs)[1], apply(plain, params, xs)[1])
    read = jrnn.ManyToOne(jrnn.Sequential((*SIDES, jrnn.Dense(2)), dropout=0.4))
    weights = moved(read)
    assert not np.allclose(apply(read, weights, xs, key=KEY)[1], apply(read, weights, xs)[1])


def test_a_merge_may_be_any_function():
    product = lambda a, b: jnp.concatenate([a * b, a[..., :1]], -1)
    gated = jrnn.Bidirectional(jrnn.GRU(4), jrnn.LSTM(4), merge=product)
    params = moved(gated)
    _, ys = apply(gated, params, lengths=jnp.array(LENGTHS))
    sides = jrnn.Bidirectional(jrnn.GRU(4), jrnn.LSTM(4))
    a, b = np.split(np.asarray(apply(sides, params, lengths=jnp.array(LENGTHS))[1]), 2, -1)
    close(ys, product(a, b))
    assert gated.out_features == 5
    padded = ~(np.arange(len(ys))[:, None] < LENGTHS)
    for merge in (lambda a, b: jnp.exp(a) + b, lambda a, b: a / jnp.abs(b).sum(-1, keepdims=True)):
        layer = jrnn.Bidirectional(jrnn.GRU(4), jrnn.LSTM(4), merge=merge)
        merged = apply(layer, params, lengths=jnp.array(LENGTHS))[1]
        assert padded.any() and not np.any(np.asarray(merged)[padded]) and np.isfinite(merged).all()
    read, both = (jrnn.many_to_one(m, params, XS, lengths=jnp.array(LENGTHS))[1] for m in (gated, sides))
    close(read, product(*np.split(np.asarray(both), 2, -1)))


class Pooled:
    """A user's layer that answers once for each sequence, and does not say so."""

    out_features = 5
    cell = jrnn.GRU(5)

    def init(self, key, in_features):
        return self.cell.init(key, in_features)

    def initial_carry(self, params, batch_shape=(), *, key=None):
        return self.cell.initial_carry(params, batch_shape)

    def apply(self, params, xs, carry=None, **options):
        end, ys = jrnn.unroll(self.cell, params, xs, carry, **options)
        return end, ys.mean(0)


def test_outputs_without_time_that_are_not_said_to_have_none():
    """They were taken for a sequence: time_axis swapped them, and the next layer read rows as steps."""
    layer, xs = Pooled(), jnp.ones((7, 2, 3))
    params = layer.init(jax.random.key(0), 3)
    next_one = jrnn.Sequential((layer, jrnn.GRU(2)))
    for call in (
        lambda: jrnn.apply(layer, params, xs),
        lambda: jrnn.apply(next_one, next_one.init(jax.random.key(0), 3), xs),
        lambda: jrnn.RNN(layer, 3, rngs=nnx.Rngs(0), time_axis=1)(xs.swapaxes(0, 1)),
    ):
        with pytest.raises(ValueError, match=r"outputs of shape \(2, 5\), needs .* out_axes = None"):
            call()
    declared = type("Declared", (Pooled,), {"out_axes": None})()
    assert jrnn.RNN(declared, 3, rngs=nnx.Rngs(0), time_axis=1)(xs.swapaxes(0, 1))[1].shape == (2, 5)


def test_functions_stand_among_layers():
    model = jrnn.Sequential((jrnn.Bidirectional(jrnn.GRU(3)), jax.nn.relu, jax.nn.glu, jrnn.Dense(2)))
    assert model.layers[1:3] == (jrnn.Map("relu", 6), jrnn.Map(jax.nn.glu, 6)) and model.out_features == 2
    params = moved(model)
    ys = jax.nn.glu(jax.nn.relu(apply(model.layers[0], params[0])[1]))
    close(apply(model, params)[1], ys @ params[-1].w + params[-1].b)
