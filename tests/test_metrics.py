"""Metrics are what counting one by one gives."""

import jax.numpy as jnp
import numpy as np
import pytest

from jrnn.metrics import accuracy, exact_match

T, B = 7, 5


@pytest.fixture
def drawn():
    """Predictions, targets, a mask of steps, and lengths; class 3 is never predicted, class 2 never true."""
    random = np.random.default_rng(3)
    predictions, targets = random.integers(0, 3, (T, B)), random.integers(0, 3, (T, B))
    targets[targets == 2] = 3
    lengths = np.array([7, 1, 0, 4, 6])
    return predictions, targets, np.arange(T)[:, None] < lengths, lengths


def counted(predictions, targets, mask):
    """Labels that count, one by one."""
    return [
        (predictions[t, b], targets[t, b]) for t in range(T) for b in range(B) if mask is None or mask[t, b]
    ]


# accuracy


def test_accuracy_counts_the_labels_that_count(drawn):
    predictions, targets, mask, _ = drawn
    for given in (None, mask):
        pairs = counted(predictions, targets, given)
        expected = sum(p == t for p, t in pairs) / len(pairs)
        found = accuracy(jnp.asarray(predictions), targets, given if given is None else jnp.asarray(given))
        assert found == expected and type(found) is float and 0 < found < 1
    assert accuracy(predictions, targets, mask) != accuracy(predictions, targets)


def test_a_mask_names_the_leading_axes():
    targets = np.zeros((2, 3), int)
    predictions = np.array([[0, 1, 1], [0, 0, 1]])
    assert accuracy(predictions, targets, [False, True]) == 2 / 3
    assert accuracy(predictions, targets, [[True, True, False]]) == 3 / 4
    assert accuracy(predictions, targets, np.ones((2, 1), bool)) == 3 / 6
    assert accuracy(predictions[0], targets[0], [False, True, True]) == 0
    assert accuracy(3, 3) == 1


def test_what_is_masked_out_may_be_no_label():
    assert accuracy([1, -1], [1, 99], [True, False]) == 1


# exact match


def exactly(predictions, targets, lengths):
    """Share of right rows, row by row."""
    rows = [b for b in range(len(lengths)) if lengths[b]]
    return sum(list(predictions[: lengths[b], b]) == list(targets[: lengths[b], b]) for b in rows) / len(rows)


def test_exact_match_is_that_of_lists(drawn):
    _, targets, _, lengths = drawn
    random = np.random.default_rng(0)
    found = set()
    for _ in range(50):
        wrong = random.random((T, B)) < 0.1
        predictions = np.where(wrong, 9, targets)
        for steps in (T + 2, T, 5, 1, 0):
            padded = np.concatenate([predictions, np.full((2, B), 9)])[:steps]
            match = exact_match(jnp.asarray(padded), targets, jnp.asarray(lengths))
            assert match == exactly(padded, targets, lengths) and type(match) is float
            found.add(match)
    assert len(found) == 5  # of four rows, none to all


def test_the_end_counts_and_what_is_behind_it_does_not():
    targets = np.array([[5], [2], [0], [0]])  # 2 ends it
    lengths = [2]
    assert exact_match([[5], [2], [7], [7]], targets, lengths) == 1
    assert exact_match([[5], [5], [2], [0]], targets, lengths) == 0  # stops too late
    assert exact_match([[2], [0], [0], [0]], targets, lengths) == 0  # stops too early
    assert exact_match([[5]], targets, lengths) == 0  # was cut off
    assert exact_match([[5], [2]], targets, lengths) == 1


def test_exact_match_of_more_batch_axes_and_of_one_sequence():
    targets = np.arange(12).reshape(3, 2, 2)
    predictions = targets.copy()
    predictions[2, 0, 1] = -1
    assert exact_match(predictions, targets, [[3, 3], [3, 3]]) == 0.75
    assert exact_match(predictions, targets, [[3, 2], [3, 3]]) == 1
    assert exact_match([1, 2], [1, 2], 2) == 1 and exact_match([1, 3], [1, 2], 2) == 0


# errors


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (
            lambda: accuracy(np.zeros((3, 2, 4)), np.zeros((3, 2), int)),
            "predictions must be integers, got float64 of shape (3, 2, 4): from logits, use argmax(-1)",
        ),
        (lambda: accuracy([0.0], [0]), "predictions must be integers, got float64"),
        (lambda: accuracy([0], [0.5]), "targets must be integers, got float64"),
        (lambda: accuracy([True], [0]), "predictions must be integers, got bool"),
        (
            lambda: accuracy([[0, 1]], [0, 1]),
            "predictions has shape (1, 2), targets (2,): needs the same",
        ),
        (lambda: accuracy([0], [0], [1]), "mask must be boolean, got int64"),
        (
            lambda: accuracy([0, 1], [0, 1], [True] * 3),
            "mask has shape (3,), needs the leading axes of (2,)",
        ),
        (
            lambda: accuracy([0], [0], [[True]]),
            "mask has shape (1, 1), needs the leading axes of (1,)",
        ),
        (lambda: accuracy([0], [0], [False]), "mask excludes all, needs a label"),
        (
            lambda: accuracy(np.zeros(0, int), np.zeros(0, int)),
            "targets is empty, needs a label",
        ),
        (
            lambda: exact_match([[1, 2]], [[1]], [1]),
            "predictions has shape (1, 2), targets (1, 1): they may differ in their first axis, time, only",
        ),
        (
            lambda: exact_match([[1]], [[1]], [1, 1]),
            "lengths has shape (2,), targets of shape (1, 1) needs (1,)",
        ),
        (lambda: exact_match([[1]], [[1]], [2]), "lengths must lie in [0, 1], got 2 to 2"),
        (lambda: exact_match([[1]], [[1]], [-1]), "lengths must lie in [0, 1], got -1 to -1"),
        (lambda: exact_match([[1]], [[1]], [0]), "lengths are all 0, needs at least one nonempty sequence"),
        (lambda: exact_match([[1.0]], [[1]], [1]), "predictions must be integers, got float64"),
        (
            lambda: exact_match(1, 1, 1),
            "predictions has shape (), targets (): they may differ in their first axis, time, only",
        ),
    ],
)
def test_errors_name_the_argument(measure, message):
    with pytest.raises(ValueError) as caught:
        measure()
    assert str(caught.value) == message
