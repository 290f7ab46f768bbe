"""Batches of pairs: every pair once, whole, with what the decoder is given; and scheduled sampling."""

import itertools

import numpy as np
import optax
import pytest

import jrnn
from jrnn.data import ScheduledSampling, pair_batches

START, STOP = 1, 2


def pairs(count=23, seed=0, features=None):
    """Sources and targets of 0 to 9 entries, no two alike."""
    rng = np.random.default_rng(seed)
    shape = () if features is None else (features,)
    sources = [rng.integers(3, 1000, (n, *shape)) for n in rng.integers(0, 10, count)]
    targets = [rng.integers(3, 1000, n) for n in rng.integers(0, 10, count)]
    if features is not None:
        return [source.astype(np.float32) for source in sources], [t.tolist() for t in targets]
    return [s.tolist() for s in sources], [t.tolist() for t in targets]


def listed(sources, targets):
    return sorted((np.asarray(s).tolist(), list(t)) for s, t in zip(sources, targets, strict=True))


def unpacked(batches):
    """The pairs that batches hold; all that stands around them is checked on the way."""
    for batch in batches:
        source, inputs, source_mask = batch.xs
        assert batch.targets.dtype == inputs.dtype == batch.lengths.dtype == np.int32
        assert source_mask.dtype == batch.target_mask.dtype == bool
        assert (
            source_mask.shape == source.shape[:2]
            and inputs.shape == batch.targets.shape == batch.target_mask.shape
        )
        assert batch.resets is None
        for row, steps in enumerate(batch.lengths):
            span = source_mask[:, row].sum()
            assert np.all(source_mask[:span, row]) and not np.any(source[span:, row])
            assert batch.target_mask[:, row].tolist() == [t < steps for t in range(len(batch.target_mask))]
            assert not np.any(inputs[steps:, row]) and not np.any(batch.targets[steps:, row])
            if steps == 0:  # no pair
                assert span == 0
                continue
            assert inputs[0, row] == START and batch.targets[steps - 1, row] == STOP
            assert inputs[1:steps, row].tolist() == batch.targets[: steps - 1, row].tolist()
            yield source[:span, row].tolist(), batch.targets[: steps - 1, row].tolist()


@pytest.mark.parametrize("features", [None, 3])
@pytest.mark.parametrize("bucket", [None, 4])
@pytest.mark.parametrize("size", [1, 4, 50])
def test_every_pair_stands_in_one_batch_whole(features, bucket, size):
    sources, targets = pairs(features=features)
    batches = pair_batches(sources, targets, size, start=START, stop=STOP, bucket=bucket)
    assert sorted(unpacked(batches)) == listed(sources, targets)
    assert len(batches) == -(-23 // size)
    counts = [int((batch.lengths > 0).sum()) for batch in batches]
    assert counts == [size] * (len(counts) - 1) + [23 - size * (len(counts) - 1)]
    assert all(batch.lengths.shape == (size,) for batch in batches)
    np.testing.assert_array_equal(batches[-1].xs.source, batches[len(batches) - 1].xs.source)
    for index in (len(batches), -len(batches) - 1):
        with pytest.raises(
            IndexError, match=f"^batch {index} is out of range, there are {len(batches)} batches$"
        ):
            batches[index]


def shape(batch):
    return batch.xs.source.shape[0], batch.xs.inputs.shape[0]


def test_there_are_few_shapes():
    sources, targets = pairs(500)
    for bucket, allowed in (
        (None, {0, 1, 2, 4, 8, 9, 10}),
        (4, {0, 4, 8, 9, 10}),
    ):  # never beyond the longest
        batches = pair_batches(sources, targets, 4, start=START, stop=STOP, bucket=bucket)
        assert {n for batch in batches for n in shape(batch)} <= allowed
    batches = pair_batches([[3]] * 8 + [[3] * 4] * 8, ([[5]] * 4 + [[5] * 7] * 4) * 2, 4, start=1, stop=2)
    assert sorted(map(shape, batches)) == [(1, 2), (1, 8), (4, 2), (4, 8)]  # alike in both lengths


def test_epochs_shuffle_pairs_and_batches_and_keep_the_shapes():
    sources, targets = pairs(200)
    batches = pair_batches(sources, targets, 8, start=START, stop=STOP, key_seed=3)
    first, second = batches.epoch(0), batches.epoch(1)
    whole = listed(sources, targets)
    assert sorted(unpacked(first)) == whole == sorted(unpacked(second))
    assert list(unpacked(first)) == list(unpacked(batches.epoch(0)))
    assert list(unpacked(first)) != list(unpacked(second))
    assert sorted(map(shape, first)) == sorted(map(shape, second)) == sorted(map(shape, batches))
    assert [shape(b) for b in first] != [shape(b) for b in second]  # not from short to long
    other = pair_batches(sources, targets, 8, start=START, stop=STOP, key_seed=4)
    assert list(unpacked(first)) != list(unpacked(other.epoch(0)))
    together = [{str(row) for row in unpacked([batch])} for batch in first]
    assert any(not any(group <= g for g in together) for group in
               ({str(row) for row in unpacked([batch])} for batch in second))  # fmt: skip
    still = pair_batches(sources, targets, 8, start=START, stop=STOP)
    assert still.epoch(5) is still


def test_what_is_empty_still_ends():
    batch = pair_batches([[], [5, 6]], [[3], []], 2, start=START, stop=STOP)[0]
    sides = (side.T.tolist() for side in (batch.xs.source, batch.xs.inputs, batch.targets))
    rows = sorted(zip(*sides, strict=True))
    assert rows == [([0, 0], [1, 3], [3, 2]), ([5, 6], [1, 0], [2, 0])]
    assert np.issubdtype(batch.xs.source.dtype, np.integer)


ERRORS = [
    (([], []), {}, "sources is empty, needs at least one"),
    (([[1]], []), {}, "targets is empty, needs at least one"),
    (([[1], [2]], [[3]]), {}, "targets has 1 entries, sources has 2"),
    (([[1]], [[2**32 + 5, 3]]), {}, "targets must fit into int32, got 3 to 4294967301 in a batch"),
    (([[1]], [[0.5]]), {}, "targets must be lists of integer tokens: encode them with their vocabulary"),
    (([[1]], [[[3, 4]]]), {}, "targets must be lists of integer tokens: encode them with their vocabulary"),
    (([[1], [[2, 3]]], [[3], [3]]), {}, "sources[1] has shape (1, 2), sources[0] has (1,): they may differ "
     "in their first axis, time, only"),
    (([[1]], [[3]]), {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    (([[1]], [[3]]), {"bucket": 0}, "bucket must be at least 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "options", "message"), ERRORS, ids=[m[:30] for *_, m in ERRORS])
def test_errors(given, options, message):
    with pytest.raises(ValueError) as caught:
        pair_batches(*given, **{"batch_size": 2, "start": START, "stop": STOP} | options)
    assert str(caught.value) == message


# scheduled sampling

BATCHES = pair_batches(*pairs(200), 8, start=START, stop=STOP, key_seed=0)


def masks(sampled, epoch):
    return [batch.xs.inputs[1] for batch in sampled.epoch(epoch)]


def test_sampling_changes_only_what_the_decoder_is_given():
    sampled = ScheduledSampling(BATCHES, lambda step: 0.5, seed=1)
    for batch, plain in zip(sampled.epoch(2), BATCHES.epoch(2), strict=True):
        given, use_given = batch.xs.inputs
        np.testing.assert_array_equal(given, plain.xs.inputs)
        assert use_given.shape == given.shape and use_given.dtype == bool and np.all(use_given[0])
        for ours, theirs in ((batch[1:], plain[1:]), (batch.xs[::2], plain.xs[::2])):
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)


def test_draws_follow_from_seed_and_step():
    count = len(BATCHES)
    first, second = (masks(ScheduledSampling(BATCHES, lambda step: 0.5, seed=s), 0) for s in (1, 2))
    again = masks(ScheduledSampling(BATCHES, lambda step: 0.5, seed=1), 0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True) if len(a) > 3)
    later = masks(ScheduledSampling(BATCHES, lambda step: 0.5, seed=1), 1)
    alike = [(a, b) for a, b in itertools.product(first, later) if a.shape == b.shape and len(a) > 3]
    assert alike and not any(np.array_equal(a, b) for a, b in alike)
    seen = []
    sampled = ScheduledSampling(BATCHES, lambda step: seen.append(step) or 1.0)
    assert all(np.all(mask) for mask in masks(sampled, 3))  # teacher forcing
    assert seen == list(range(3 * count, 4 * count))  # a resumed run counts on from where it was


def test_the_share_of_given_tokens_follows_the_schedule():
    many = pair_batches([[3]] * 2000, [[4] * 9] * 2000, 100, start=START, stop=STOP)
    sampled = ScheduledSampling(many, optax.linear_schedule(1.0, 0.2, 20))
    for epoch, expected in ((0, np.linspace(1, 0.2, 21)[:20]), (1, np.full(20, 0.2))):
        shares = [mask[1:].mean() for mask in masks(sampled, epoch)]
        np.testing.assert_allclose(shares, expected, atol=0.06)
    assert not any(mask[1:].any() for mask in masks(ScheduledSampling(many, lambda step: 0.0), 0))


def test_a_schedule_is_a_function():
    with pytest.raises(TypeError, match=r"^schedule must be a function of the step, .*, got 0\.5$"):
        ScheduledSampling(BATCHES, 0.5)


def test_the_public_names():
    assert jrnn.pair_batches is pair_batches
    assert repr(BATCHES) == "PairBatches(batch_size=8, start=1, stop=2, seed=0)"
