"""Losses against NumPy, and what padding must not reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrnn.losses import (
    bernoulli,
    cross_entropy,
    length_mask,
    mean_squared_error,
    temporal_activation_regularization,
)
from jrnn.paradigms import last

LENGTHS = np.array([4, 0, 2])
VALID = np.arange(4)[:, None] < LENGTHS  # (4, 3)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def labels(*shape, classes, seed=1):
    return np.random.default_rng(seed).integers(classes, size=shape)


def cross_entropies(logits, labels):
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(p, labels[..., None], -1)[..., 0])


def bernoullis(logits, targets):
    p = 1 / (1 + np.exp(-logits))
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(-1)


CASES = {  # loss, (prediction, target), losses by step in NumPy
    "cross_entropy": (cross_entropy, (draw(4, 3, 5), labels(4, 3, classes=5)), cross_entropies),
    "mean_squared_error": (
        mean_squared_error,
        (draw(4, 3, 5), draw(4, 3, 5, seed=1)),
        lambda a, b: ((a - b) ** 2).mean(-1),
    ),
    "bernoulli": (bernoulli, (draw(4, 3, 5), labels(4, 3, 5, classes=2)), bernoullis),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_mean_over_all_steps(case):
    loss, (given, targets), reference = case
    np.testing.assert_allclose(loss(given, targets), reference(given, targets).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "mask",
    [VALID, np.array([True, False, True, False]), LENGTHS[None] > 0, np.array(True)],
    ids=["steps", "leading axis", "size one", "scalar"],
)
def test_mean_over_exactly_the_valid_steps(case, mask):
    loss, (given, targets), reference = case
    full = np.broadcast_to(mask.reshape(mask.shape + (1,) * (2 - mask.ndim)), (4, 3))
    np.testing.assert_allclose(loss(given, targets, mask), reference(given, targets)[full].mean(), rtol=1e-5)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e38])
def test_padding_reaches_no_value_and_no_gradient(case, poison):
    loss, (given, targets), _ = case
    bad = np.where(VALID[..., None], given, poison)
    outside = np.where(poison > 0, 9999, -100) if loss is cross_entropy else poison
    target_mask = VALID.reshape(VALID.shape + (1,) * (targets.ndim - 2))
    worse = np.where(target_mask, targets, outside)
    value, gradient = jax.jit(jax.value_and_grad(loss))(bad, worse, VALID)
    clean, alone = jax.value_and_grad(loss)(given[VALID], targets[VALID])
    np.testing.assert_allclose(value, clean, rtol=1e-6)
    np.testing.assert_allclose(gradient[VALID], alone, rtol=1e-5, atol=1e-7)
    assert (np.asarray(gradient)[~VALID] == 0).all()


def test_nothing_valid_is_zero_with_zero_gradient(case):
    loss, (given, targets), _ = case
    value, gradient = jax.value_and_grad(loss)(given * np.nan, targets, np.zeros((4, 3), bool))
    assert value == 0 and (gradient == 0).all()


def test_no_steps_is_zero(case):
    loss, (given, targets), _ = case
    assert loss(given[:0], targets[:0]) == 0


def test_half_precision_is_summed_in_single(case):
    loss, (given, targets), _ = case
    many = [np.concatenate([a] * 300) for a in (given, targets)]
    half = jnp.asarray(many[0], jnp.bfloat16)
    rounded = np.asarray(half, np.float32)
    np.testing.assert_allclose(loss(half, many[1]), loss(rounded, many[1]), rtol=1e-6)
    assert jax.grad(loss)(half, many[1]).dtype == jnp.bfloat16


@pytest.mark.parametrize("label", [-1, 200])
def test_label_outside_at_a_valid_step_is_nan(label):
    assert np.isnan(cross_entropy(draw(2, 200), np.array([0, label])))


def test_a_label_beyond_32_bits_is_outside():
    with jax.enable_x64(True):
        assert np.isnan(cross_entropy(draw(2, 3), np.array([0, 2**32 + 1])))
        assert np.isnan(cross_entropy(draw(2, 3), np.array([0, -(2**32)])))


def test_small_label_dtypes():
    logits, given = draw(3, 200), np.array([7, 127, 99])
    for dtype in (np.int8, np.uint8):
        assert cross_entropy(logits, given.astype(dtype)) == cross_entropy(logits, given)
    assert np.isnan(cross_entropy(logits, np.array([7, -1, 99], np.int8)))


def test_bernoulli_is_finite_at_large_logits():
    value, gradient = jax.value_and_grad(bernoulli)(jnp.array([[1e4, -1e4]]), jnp.array([[1.0, 1.0]]))
    assert value == 1e4 and gradient.tolist() == [[0.0, -1.0]]


def test_last_takes_the_last_valid_output_of_every_leaf():
    ys = {"a": draw(4, 3, 2), "b": draw(4, 3)}
    picked = last(ys, LENGTHS)
    for name, leaf in ys.items():
        np.testing.assert_array_equal(picked[name][0], leaf[3, 0])
        np.testing.assert_array_equal(picked[name][1], np.zeros_like(leaf[0, 1]))
        np.testing.assert_array_equal(picked[name][2], leaf[1, 2])
        np.testing.assert_array_equal(last(ys)[name], leaf[3])


def test_last_with_lengths_of_the_leading_batch_axis_only():
    ys = draw(4, 3, 2, 5)
    picked = last(ys, LENGTHS)
    np.testing.assert_array_equal(picked[2], ys[1, 2])
    assert (picked[1] == 0).all()


def test_last_of_one_sequence_and_of_none():
    ys = draw(4, 2)
    np.testing.assert_array_equal(last(ys, 3), ys[2])
    assert last(ys[:0]).tolist() == last(ys[:0], 0).tolist() == [0, 0]


def test_last_keeps_nan_in_padding_out_of_value_and_gradient():
    ys = np.where(VALID[..., None], draw(4, 3, 2), np.nan)
    value, gradient = jax.value_and_grad(lambda ys: (last(ys, LENGTHS) ** 2).sum())(ys)
    expected = np.zeros_like(ys)
    expected[3, 0], expected[1, 2] = 2 * ys[3, 0], 2 * ys[1, 2]
    np.testing.assert_allclose(value, (ys[3, 0] ** 2).sum() + (ys[1, 2] ** 2).sum(), rtol=1e-6)
    np.testing.assert_array_equal(gradient, expected)


def test_lengths_out_of_range_clip_under_jit():
    ys = draw(4, 3, 2)
    picked = jax.jit(last)(ys, np.array([9, -3, 2]))
    np.testing.assert_array_equal(picked, last(ys, LENGTHS))
    np.testing.assert_array_equal(jax.jit(length_mask, static_argnums=1)(np.array([9, -3, 2]), 4), VALID)


def test_steps_on_both_sides_of_a_hole_make_no_pair():
    ys, mask = np.array([[1.0], [9.0], [2.0], [5.0]]), np.array([True, False, True, True])
    assert temporal_activation_regularization(ys[:, None], mask[:, None]) == 9


def test_length_mask():
    np.testing.assert_array_equal(length_mask(LENGTHS, 4), VALID)
    two_axes = length_mask(np.array([[1, 2], [0, 3]]), 3)
    assert two_axes[:, 1].tolist() == [[False, True], [False, True], [False, True]]
    assert two_axes[:, 0].tolist() == [[True, True], [False, True], [False, False]]


ERRORS = {
    "labels must be integers, got float32: from one-hot rows": lambda: cross_entropy(
        draw(4, 5), np.zeros(4, np.float32)
    ),
    "labels has shape \\(3, 4\\), logits of shape \\(4, 3, 5\\) need \\(4, 3\\)": lambda: cross_entropy(
        draw(4, 3, 5), labels(3, 4, classes=5)
    ),
    "logits must be floats, got int": lambda: bernoulli(labels(4, 5, classes=2), draw(4, 5)),
    "targets has shape \\(4, 1\\), needs that of predictions, \\(4,\\)": lambda: mean_squared_error(
        draw(4), draw(4, 1)
    ),
    "mask has shape \\(3, 4\\), needs the leading axes of labels, \\(4, 3\\)": lambda: cross_entropy(
        draw(4, 3, 5), labels(4, 3, classes=5), VALID.T
    ),
    "mask has shape \\(4, 3, 5\\), needs the leading axes of the steps, \\(4, 3\\)": lambda: bernoulli(
        draw(4, 3, 5), draw(4, 3, 5), np.ones((4, 3, 5), bool)
    ),
    "mask must be boolean, got float32: use mask != 0": lambda: mean_squared_error(
        draw(4), draw(4), np.ones(4, np.float32)
    ),
    "lengths has shape \\(2,\\), needs the leading batch axes of ys of shape \\(4, 3, 2\\)": lambda: last(
        draw(4, 3, 2), np.array([1, 2])
    ),
    "lengths must lie between 0 and the 4 steps": lambda: last(draw(4, 3, 2), np.array([1, 2, 5])),
    "lengths must be integers": lambda: length_mask(np.array([1.0]), 4),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_argument_given_and_needed(message):
    with pytest.raises(ValueError, match=message):
        ERRORS[message]()
