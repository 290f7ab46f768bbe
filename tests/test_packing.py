"""Packed batches: every sequence once, whole, as if alone; and the losses and gradients of padding."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn.data import packed_batches, padded_batches
from jrnn.data.packing import first_fit
from jrnn.losses import cross_entropy, mean_squared_error

LENGTHS = [3, 0, 6, 1, 2, 5, 3, 1, 4, 6]
LSTM = jrnn.LSTM(4)
MODELS = {
    "LSTM": (LSTM, jrnn.Scan()),
    "Stack": (jrnn.Stack((jrnn.GRU(3), LSTM), dropout=0.5), jrnn.Scan()),
    "MinGRU": (jrnn.MinGRU(4), jrnn.Associative()),
    "MinGRU, tree": (jrnn.MinGRU(4), jrnn.Associative(tree=True)),
    "Learned": (jrnn.LearnedCarry(LSTM), jrnn.Scan()),
    "Bidirectional": (jrnn.Bidirectional(jrnn.GRU(4), jrnn.GRU(4), merge="sum"), jrnn.Scan()),
}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def ragged(lengths=tuple(LENGTHS), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, 2)) for n in lengths]


def labels(sequences, per_step):
    rng = np.random.default_rng(1)
    if per_step:
        return [rng.integers(0, 4, len(sequence)) for sequence in sequences]
    return rng.integers(0, 4, len(sequences))


def first_fit_by_hand(lengths, steps):
    rows = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[index] == 0:
            continue
        for row in rows:
            if sum(lengths[i] for i in row) + lengths[index] <= steps:
                row.append(index)
                break
        else:
            rows.append([index])
    return rows


@pytest.mark.parametrize("steps", [9, 10, 17, 40])
@pytest.mark.parametrize("seed", range(5))
def test_rows_are_those_of_first_fit_decreasing(seed, steps):
    lengths = np.random.default_rng(seed).integers(0, 10, 60)
    rows = first_fit(lengths, np.arange(60), steps)
    assert [row.tolist() for row in rows] == first_fit_by_hand(lengths.tolist(), steps)


def unpacked(batches):
    """(sequence, target) by sequence, with all that stands around them checked."""
    for batch in batches:
        shape = batches.steps, batches.batch_size
        assert (
            batch.xs.shape[:2]
            == batch.targets.shape[:2]
            == batch.target_mask.shape
            == batch.resets.shape
            == shape
        )
        for row, end in enumerate(batch.lengths):
            starts = [*np.flatnonzero(batch.resets[:, row]), end]
            assert starts[0] == 0 and not batch.xs[end:, row].any() and not batch.target_mask[end:, row].any()
            for begin, after in itertools.pairwise(starts):
                counts = batch.target_mask[begin:after, row]
                assert counts.tolist() == [batches.per_step or t == after - 1 for t in range(begin, after)]
                targets = batch.targets[begin:after, row]
                assert not targets[~counts].any()
                yield batch.xs[begin:after, row], targets if batches.per_step else targets[-1]


def listed(pairs):
    return sorted((np.asarray(s).tolist(), np.asarray(t).tolist()) for s, t in pairs)


@pytest.mark.parametrize("per_step", [True, False], ids=["per step", "per sequence"])
@pytest.mark.parametrize("epoch", [None, 0, 3])
@pytest.mark.parametrize(("size", "steps"), [(1, None), (3, 7), (50, 13)])
def test_every_sequence_stands_in_one_row_whole(per_step, epoch, size, steps):
    sequences = ragged()
    targets = [t + 1 for t in labels(sequences, per_step)]
    batches = packed_batches(sequences, targets, size, steps=steps, key_seed=2)
    batches = batches if epoch is None else batches.epoch(epoch)
    assert listed(unpacked(batches)) == listed(
        (s, t) for s, t in zip(sequences, targets, strict=True) if len(s)
    )
    assert len(list(batches)) == len(batches) == -(-len(batches.rows) // size)
    assert batches[-1].xs.tolist() == list(batches)[-1].xs.tolist()


def test_epochs_are_shuffled_by_seed_and_number():
    sequences = [[i] * n for i, n in enumerate([5, 1, 2, 3, 4] * 8, 1)]

    def order(seed, number):
        batches = packed_batches(sequences, np.zeros(40), 4, steps=6, key_seed=seed).epoch(number)
        return [row.tolist() for row in batches.rows]

    assert order(0, 0) == order(0, 0)
    batches = packed_batches(sequences, np.zeros(40), 4, steps=6, key_seed=0)
    assert [row.tolist() for row in batches.epoch(1).epoch(0).rows] == order(0, 0)
    assert len({str(order(seed, number)) for seed in (0, 1) for number in (0, 1)}) == 4
    assert set(map(frozenset, order(0, 0))) != set(map(frozenset, order(0, 1)))  # not only the order of rows
    assert order(None, 5) == order(None, 6) and len(order(0, 0)) == len(order(None, 0))
    longest = [len(sequences[row[0]]) for row in order(0, 0)]
    assert longest != sorted(longest, reverse=True)  # long and short sequences go together


def loss_and_gradient(model, params, batches, loss, method):
    """The mean over all batches and its gradient."""
    run = jax.jit(
        jax.value_and_grad(
            lambda params, batch: loss.mean(
                jrnn.apply(
                    model, params, batch.xs, lengths=batch.lengths, resets=batch.resets, method=method
                )[1],
                batch,
            )
        )
    )
    counts = [float(loss.count(batch)) for batch in batches]
    found = [run(params, batch) for batch in batches]
    return jax.tree.map(lambda *parts: np.average(parts, axis=0, weights=counts), *found)


@functools.cache
def drawn(name):
    with jax.enable_x64(True):
        return MODELS[name][0].init(jax.random.key(0), 2)


AT_ENDS = [name for name in MODELS if name != "Bidirectional"]  # which has seen one input backwards there


@pytest.mark.parametrize(
    ("name", "per_step"), [*((name, True) for name in MODELS), *((name, False) for name in AT_ENDS)]
)
def test_losses_and_gradients_are_those_of_padding(name, per_step):
    (model, method), params, sequences = MODELS[name], drawn(name), ragged()
    targets = labels(sequences, per_step)
    padded = padded_batches(sequences, targets, 10, bucket=6)
    packed = packed_batches(sequences, targets, 3, steps=8, key_seed=0).epoch(1)
    assert len(packed) == 2 and len(padded) == 1
    reading = jrnn.PerStep if per_step else jrnn.AtLast
    wanted = loss_and_gradient(model, params, padded, reading(cross_entropy), method)
    found = loss_and_gradient(model, params, packed, jrnn.PerStep(cross_entropy), method)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[1])) > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_nan_in_a_sequence_reaches_no_neighbor(name):
    (model, method), params, sequences = MODELS[name], drawn(name), ragged((3, 2, 4, 3))
    batches = packed_batches(sequences, np.zeros(4), 1, steps=12)
    batch = batches[0]
    assert batches.rows[0].tolist() == [2, 0, 3, 1] and len(batches) == 1

    @jax.jit
    def outputs(xs, weights):
        def run(xs):
            ys = jrnn.apply(model, params, xs, lengths=batch.lengths, resets=batch.resets, method=method)[1]
            return jnp.sum(jnp.where(weights, ys, 0)), ys

        gradient, ys = jax.grad(run, has_aux=True)(xs)
        return ys, gradient

    others = np.ones((12, 1, 1), bool)
    others[4:7] = False  # sequence 0, with one before it and two after it
    bad = np.where(others, batch.xs, np.nan)
    (clean, gradient), (ys, other_gradient) = outputs(batch.xs, others), outputs(bad, others)
    assert np.isnan(ys[4:7]).all()
    np.testing.assert_array_equal(ys[others[:, 0, 0]], clean[others[:, 0, 0]])
    if method == jrnn.Scan():  # the gradient of `Associative` is NaN at a neighbor of NaN
        np.testing.assert_array_equal(other_gradient[others[:, 0, 0]], gradient[others[:, 0, 0]])


def test_outputs_are_those_of_each_sequence_alone():
    params, sequences = drawn("LSTM"), ragged()
    batches = packed_batches(sequences, np.zeros(10), 3, steps=7, key_seed=0).epoch(2)
    found = {}
    for index, ys in enumerate(jrnn.predict(LSTM, params, batches)):
        found |= batches.unpack(index, ys)
    assert sorted(found) == [i for i, n in enumerate(LENGTHS) if n]
    xs, lengths = jrnn.pad_sequences(sequences)
    alone = np.asarray(jrnn.unroll(LSTM, params, xs, lengths=lengths)[1])
    for index, ys in found.items():
        np.testing.assert_allclose(ys, alone[: LENGTHS[index], index], rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match=re.escape("ys has shape (3, 7, 4), needs (7, 3)")):
        batches.unpack(0, np.zeros((3, 7, 4)))


@pytest.mark.parametrize("per_step", [True, False], ids=["per step", "per sequence"])
def test_fit_trains_on_them_as_on_padding(per_step):
    sequences = ragged()
    targets = labels(sequences, per_step)
    options = {
        "optimizer": optax.sgd(0.5), "key": jax.random.key(0), "params": drawn("LSTM"), "epochs": 3,
        "progress": jrnn.Progress(bar=False),
    }  # fmt: skip
    packed = packed_batches(sequences, targets, 6, key_seed=0)
    padded = padded_batches(sequences, targets, 10, bucket=6)
    assert len(packed) == len(padded) == 1
    reading = jrnn.PerStep if per_step else jrnn.AtLast
    wanted = jrnn.fit(LSTM, padded, reading(cross_entropy), **options)
    found = jrnn.fit(LSTM, packed.epoch, jrnn.PerStep(cross_entropy), **options)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(wanted.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    losses = [[entry["train"] for entry in result.history] for result in (found, wanted)]
    np.testing.assert_allclose(*losses, rtol=1e-12)
    assert losses[0][0] > losses[0][-1]


def test_targets_may_have_features():
    sequences = ragged()
    packed = packed_batches(sequences, [s[:, :1] for s in sequences], 6)
    assert packed[0].targets.shape == (6, 6, 1)
    np.testing.assert_array_equal(packed[0].targets, packed[0].xs[..., :1])
    assert jrnn.PerStep(mean_squared_error).mean(packed[0].xs[..., :1], packed[0]) == 0


@pytest.mark.parametrize("per_step", [True, False], ids=["per step", "per sequence"])
def test_longer_sequences_are_named_or_cut_if_asked(per_step):
    sequences = ragged()
    targets = [t + 1 for t in labels(sequences, per_step)]
    message = (
        r"^3 sequences are longer than steps=4, sequences\[2\] has 6 steps \(indices \[2, 5, 9\]\): raise"
    )
    with pytest.raises(ValueError, match=message):
        packed_batches(sequences, targets, 2, steps=4)
    cut = packed_batches(sequences, targets, 2, steps=4, truncate=True, key_seed=0).epoch(0)
    wanted = ((s[:4], t[:4] if per_step else t) for s, t in zip(sequences, targets, strict=True) if len(s))
    assert listed(unpacked(cut)) == listed(wanted)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], [], 2), {}, "sequences is empty"),
        (([[], []], [0, 1], 2), {}, "sequences are all empty"),
        (([[1, 2]], [0, 1], 2), {}, "targets has 2 entries"),
        (([[1, 2]], [[1]], 2), {}, r"targets\[0\] has 1 steps"),
        (([[1, 2]], [0], 0), {}, "batch_size must be at least 1"),
        (([[1, 2]], [0], 2), {"steps": 0}, "steps must be at least 1"),
        (([[1, 2]], [0], 2), {"truncate": 1}, "truncate must be True or False"),
        (([[1, 2]], [0], 2), {"key_seed": -1}, "key_seed must be"),
    ],
)
def test_errors(arguments, options, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        packed_batches(*arguments, **options)
    with pytest.raises(IndexError, match="batch 1 is out of range"):
        packed_batches([[1]], [0], 1)[1]


def test_a_loss_on_the_end_of_each_row_is_refused():
    batch = packed_batches(ragged(), labels(ragged(), False), 6)[0]
    with pytest.raises(ValueError, match="AtLast"):
        jrnn.AtLast(cross_entropy).mean(jnp.zeros((6, 6, 4)), batch)
