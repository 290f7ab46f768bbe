"""CTC against every alignment, one by one."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import jrnn
from jrnn.decoding.ctc import CTC, ctc_beam_search, ctc_greedy, ctc_loss

T, V = 5, 3
TARGETS = [(1, 2), (), (2,), (1,), (2, 2), (1,)]
LENGTHS = np.array([5, 0, 3, 1, 3, 1])


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def draw(*batch, steps=T, classes=V, seed=0, scale=2.0):
    return scale * np.random.default_rng(seed).normal(size=(steps, *batch, classes))


def collapse(path, blank=0):
    """Repeats dropped, then blanks."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def by_hand(logits, blank=0):
    """The probability of every label sequence: a sum over all alignments of one row."""
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    sums = {}
    for path in itertools.product(range(logits.shape[-1]), repeat=len(logits)):
        labels = collapse(path, blank)
        sums[labels] = sums.get(labels, 0) + np.prod([p[t, c] for t, c in enumerate(path)])
    return sums


def search_by_hand(logits, width, blank=0):
    """Prefix beam search over a dictionary of prefixes, in plain probabilities."""
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    beam = {(): (1.0, 0.0)}
    for now in p:
        after = {}

        def add(prefix, ends_blank, ends_label, after=after):
            old = after.get(prefix, (0.0, 0.0))
            after[prefix] = (old[0] + ends_blank, old[1] + ends_label)

        for prefix, (b, n) in beam.items():
            for label, q in enumerate(now):
                if label == blank:
                    add(prefix, q * (b + n), 0.0)
                elif prefix and label == prefix[-1]:
                    add(prefix, 0.0, q * n)
                    add((*prefix, label), 0.0, q * b)
                else:
                    add((*prefix, label), 0.0, q * (b + n))
        best = sorted(after.items(), key=lambda item: -sum(item[1]))[:width]
        beam = dict(best)
    return [(prefix, np.log(sum(pair))) for prefix, pair in beam.items()]


def padded(labels, n, padding=-1):
    return [*labels, *[padding] * (n - len(labels))]


def strip(labels):
    return tuple(label for label in np.asarray(labels).tolist() if label >= 0)


def close(a, b, tolerance=1e-10):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# beam search


def test_a_beam_of_all_prefixes_is_exact():
    count, width = 40, 80
    logits, lengths = draw(count), np.random.default_rng(1).integers(0, T + 1, count)
    labels, log_p = ctc_beam_search(logits, lengths, width=width)
    assert labels.dtype == jnp.int32 and labels.shape == (count, width, T) and log_p.shape == (count, width)
    for row, n in enumerate(lengths):
        exact = sorted(by_hand(logits[:n, row]).items(), key=lambda item: -item[1])
        assert len(exact) < width
        assert [strip(found) for found in labels[row, : len(exact)]] == [best for best, _ in exact]
        close(log_p[row, : len(exact)], [np.log(p) for _, p in exact])
        assert np.all(log_p[row, len(exact) :] == -np.inf) and np.all(labels[row, len(exact) :] == -1)
        close(np.exp(log_p[row]).sum(), 1)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 9])
def test_every_width_equals_a_search_in_a_dictionary(width):
    logits = draw(30, steps=8, seed=2, scale=1.0)
    labels, log_p = ctc_beam_search(logits, width=width)
    for row in range(30):
        expected = search_by_hand(logits[:, row], width)
        assert [strip(found) for found in labels[row]] == [prefix for prefix, _ in expected]
        close(log_p[row], [p for _, p in expected])


def test_wider_is_closer_and_greedy_is_not_enough():
    logits = draw(40, seed=3, scale=0.7)
    exact = [by_hand(logits[:, row]) for row in range(40)]
    best = np.array([np.log(max(sums.values())) for sums in exact])
    gaps = [best - ctc_beam_search(logits, width=width)[1][:, 0] for width in (1, 3, 80)]
    assert all((gap >= -1e-12).all() for gap in gaps)
    assert gaps[0].mean() > gaps[1].mean() >= gaps[2].mean() and gaps[2].max() < 1e-12
    greedy = np.array([np.log(s[strip(row)]) for s, row in zip(exact, ctc_greedy(logits), strict=True)])
    assert (greedy <= best + 1e-12).all() and (greedy < best - 1e-3).sum() > 3


def test_repeats_stay_apart_only_across_a_blank():
    logits = 20 * jax.nn.one_hot(jnp.array([1, 1, 0, 1, 2, 2, 0, 0]), V)
    assert strip(ctc_beam_search(logits, width=4)[0][0]) == (1, 1, 2) == strip(ctc_greedy(logits))


def test_another_blank():
    logits = draw(5, seed=4)
    labels, log_p = ctc_beam_search(logits, width=80, blank=2)
    for row in range(5):
        sums = by_hand(logits[:, row], blank=2)
        best = max(sums, key=sums.get)
        assert strip(labels[row, 0]) == best
        close(log_p[row, 0], np.log(sums[best]))
        close(ctc_loss(logits[:, row], np.array(padded(best, T)), blank=2), -np.log(sums[best]))
        assert strip(ctc_greedy(logits[:, row], blank=2)) == collapse(logits[:, row].argmax(-1), blank=2)
    shorter = ctc_greedy(logits, np.array([1, 2, 3, 0, 2]), blank=2)
    for row, length in enumerate((1, 2, 3, 0, 2)):
        assert strip(shorter[row]) == collapse(logits[:length, row].argmax(-1), blank=2)


# greedy


def test_greedy_collapses_the_best_path():
    logits = draw(200, steps=7, seed=5)
    labels = ctc_greedy(logits)
    assert labels.dtype == jnp.int32
    expected = [padded(collapse(path), 7) for path in logits.argmax(-1).T.tolist()]
    assert labels.tolist() == expected and len({str(row) for row in expected}) > 20


# loss


def test_the_loss_is_minus_the_log_of_the_sum_over_alignments():
    logits = draw(seed=6)
    sums = by_hand(logits)
    assert (1, 1, 1) in sums and (1, 1, 1, 1) not in sums and () in sums
    labels = np.array([padded(row, 6) for row in sums])
    rows = np.repeat(logits[:, None], len(sums), axis=1)
    close(ctc_loss(rows, labels), -np.log(list(sums.values())))
    close(ctc_loss(rows, np.where(labels < 0, 0, labels)), -np.log(list(sums.values())))  # filled with blanks


def test_the_loss_in_batches_with_lengths():
    logits, labels = draw(6), np.array([padded(row, 3) for row in TARGETS])
    found = ctc_loss(logits, labels, LENGTHS)
    expected = [-np.log(by_hand(logits[:n, row])[strip(labels[row])]) for row, n in enumerate(LENGTHS)]
    close(found, expected)
    two_axes = ctc_loss(logits.reshape(T, 2, 3, V), labels.reshape(2, 3, 3), LENGTHS.reshape(2, 3))
    close(two_axes.reshape(6), expected)
    close(ctc_loss(logits[:3, 4], labels[4]), expected[4])


def test_what_cannot_be_is_infinite_and_has_no_gradient():
    logits = jnp.asarray(draw(3, steps=3))
    labels = jnp.array([[1, 1, -1], [1, 1, 1], [1, 2, 1]])
    loss, grads = jax.vmap(jax.value_and_grad(ctc_loss), in_axes=(1, 0))(logits, labels)
    assert np.isinf(loss).tolist() == [False, True, False]
    assert not grads[1].any() and grads[0].all() and grads[2].all()
    assert np.isinf(ctc_loss(logits[:, 0], labels[0], np.array(2)))


def test_probabilities_far_below_those_of_optax_s_zero():
    """With logits of 1e6, one step costs more than the 1e5 that stands for log 0 in optax."""
    logits = draw(seed=7, scale=1e6)
    log_p = jax.nn.log_softmax(logits)
    best = max(sum(log_p[t, c] for t, c in enumerate(path)) for path in [(1, 0, 1, 0, 1), (1, 0, 1, 0, 1)])
    close(ctc_loss(logits, np.array([1, 1, 1])), -best)
    assert best < -1e5


def test_an_alignment_that_is_certain_costs_nothing_and_never_less():
    """Reported of optax as issue 1771: a loss below zero."""
    logits = np.array([5, 10, 17, 30, 80], np.float32)[:, None] * np.array([0, 1], np.float32)
    losses = ctc_loss(np.stack([logits, logits]), np.ones((5, 1), int))
    needed = -np.log1p(-((1 + np.exp(logits[:, 1].astype(float))) ** -2.0))
    np.testing.assert_allclose(losses, needed, rtol=1e-5, atol=1e-7)
    assert np.all(losses >= 0)


@pytest.mark.parametrize("labels", [[V, -1, -1], [1, -1, 2], [0, 1, -1]])
def test_a_label_outside_or_behind_padding_gives_nan(labels):
    assert np.isnan(ctc_loss(draw(), np.array(labels)))


def test_gradients_are_finite_differences_and_padding_has_none():
    logits, labels = draw(6), np.array([padded(row, 3) for row in TARGETS])
    loss = jax.jit(lambda x: ctc_loss(x, labels, LENGTHS).sum())
    check_grads(loss, (jnp.asarray(logits),), order=1, rtol=1e-6)
    valid = np.arange(T)[:, None] < LENGTHS
    clean, dirty = (jax.grad(loss)(np.where(valid[..., None], logits, x)) for x in (0.0, np.nan))
    np.testing.assert_array_equal(dirty, clean)
    assert not np.asarray(dirty)[~valid].any() and np.asarray(dirty)[valid].all()


def test_padding_reaches_nothing_and_rows_do_not_meet():
    logits = draw(6, seed=8)
    valid = np.arange(T)[:, None, None] < LENGTHS[:, None]
    dirty = np.where(valid, logits, np.nan)
    labels, log_p = ctc_beam_search(dirty, LENGTHS, width=4)
    greedy = ctc_greedy(dirty, LENGTHS)
    two = ctc_beam_search(dirty.reshape(T, 3, 2, V), LENGTHS.reshape(3, 2), width=4)
    np.testing.assert_array_equal(two[0].reshape(6, 4, T), labels)
    for row, n in enumerate(LENGTHS):
        alone, p = ctc_beam_search(logits[:n, row], width=4)
        assert [strip(x) for x in alone] == [strip(x) for x in labels[row]]
        close(p, log_p[row])
        assert strip(ctc_greedy(logits[:n, row])) == strip(greedy[row])


@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (3, 0)])
def test_nothing_at_all(steps, batch):
    logits = draw(batch, steps=steps)
    labels, log_p = ctc_beam_search(logits, width=2)
    assert labels.shape == (batch, 2, steps) and ctc_greedy(logits).shape == (batch, steps)
    if batch:
        assert log_p.tolist() == [[0, -np.inf]] * batch
    assert ctc_loss(logits, np.zeros((batch, 0), int)).tolist() == [0] * batch
    assert ctc_loss(logits, np.ones((batch, 1), int)).tolist() == [np.inf] * batch


def test_half_precision_is_widened():
    logits = jnp.asarray(draw(2), jnp.bfloat16)
    labels, log_p = ctc_beam_search(logits, width=3)
    wide, exact = ctc_beam_search(logits.astype(jnp.float32), width=3)
    loss = ctc_loss(logits, np.ones((2, 1), int))
    assert log_p.dtype == loss.dtype == jnp.float32
    np.testing.assert_array_equal(labels, wide)
    np.testing.assert_array_equal(log_p, exact)


# in training


def test_the_loss_object_counts_sequences():
    logits = jnp.asarray(draw(6))
    targets = np.array([padded(row, 3) for row in TARGETS])
    mask = np.array([True, True, True, False, True, True])
    losses = ctc_loss(logits, targets, LENGTHS)
    for given, counts in ((mask, [0, 2, 4, 5]), (None, [0, 2, 3, 4, 5])):
        batch = jrnn.Batch(None, targets, LENGTHS, given)
        close(CTC().mean(logits, batch), np.mean(losses[np.array(counts)]))
        assert int(CTC().count(batch)) == len(counts)
    whole = jrnn.Batch(None, targets)
    close(CTC().mean(logits, whole), np.mean(ctc_loss(logits, targets)))
    assert int(CTC().count(whole)) == 6 and CTC() == CTC(0) != CTC(1) and hash(CTC()) == hash(CTC(0))
    assert float(CTC().mean(logits, jrnn.Batch(None, targets, target_mask=np.zeros(6, bool)))) == 0
    masked = jrnn.Batch(None, targets, target_mask=mask)
    grads = jax.grad(lambda x: CTC().mean(x, masked))(logits.at[:, 3].set(jnp.nan))
    assert np.isfinite(grads).all() and not grads[:, 3].any() and grads[:, 0].all()


def test_fit_learns_to_spell():
    """Every label is held for 1 to 3 steps with silence behind it; where it stands is never told."""
    random = np.random.default_rng(0)
    spelled = [random.integers(1, 4, random.integers(1, 4)) for _ in range(48)]
    held = [[([x] * random.integers(1, 4)) + [0] for x in row] for row in spelled]
    sequences = [np.array(list(itertools.chain(*row))) for row in held]
    targets = np.array([padded(row.tolist(), 3) for row in spelled])
    batches = jrnn.padded_batches(sequences, targets, 20, bucket=12)  # the last batch is not full
    model = jrnn.Sequential((jrnn.Embed(6), jrnn.Dense(4)))
    with jax.enable_x64(False):
        result = jrnn.fit(
            model, batches, CTC(), optimizer=optax.adam(0.03), key=jax.random.key(0), in_features=4,
            epochs=60, progress=jrnn.Progress(bar=False),
        )  # fmt: skip
        assert result.history[-1]["train"] < 0.2
        batch = batches[0]
        _, logits = jrnn.apply(model, result.params, batch.xs, lengths=batch.lengths)
        greedy, (best, _) = ctc_greedy(logits, batch.lengths), ctc_beam_search(logits, batch.lengths, width=4)
    for row, labels in enumerate(batch.targets):
        assert strip(greedy[row]) == strip(best[row, 0]) == strip(labels)


# mistakes

LOGITS = draw(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ctc_greedy(np.zeros((3, 2), int)), "logits must be floats, got int64"),
        (lambda: ctc_greedy(np.zeros(3)), "logits has shape (3,), needs (time, batch..., classes)"),
        (
            lambda: ctc_beam_search(LOGITS, width=2, blank=3),
            "blank must be one of the 3 classes of logits, got 3",
        ),
        (lambda: CTC(-1), "blank must be a whole number, 0 or more, got -1"),
        (lambda: ctc_beam_search(LOGITS, width=0), "width must be at least 1, got 0"),
        (
            lambda: ctc_greedy(LOGITS, np.array([3, 3, 3])),
            "lengths has shape (3,), logits of shape (5, 2, 3) need (2,)",
        ),
        (
            lambda: ctc_greedy(LOGITS, np.array([6, 3])),
            "lengths must lie between 0 and the 5 steps of logits, got 3 to 6",
        ),
        (lambda: ctc_loss(LOGITS, np.zeros((2, 2))), "labels must be integers, got float64"),
        (
            lambda: ctc_loss(LOGITS, np.zeros((3, 2), int)),
            "labels has shape (3, 2), logits of shape (5, 2, 3) need (2,) and an axis for the labels of a "
            "sequence",
        ),
        (
            lambda: CTC().mean(
                LOGITS, jrnn.Batch(None, np.zeros((2, 1), int), target_mask=np.ones((5, 2), bool))
            ),
            "target_mask has shape (5, 2), CTC needs one per sequence, (2,)",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
