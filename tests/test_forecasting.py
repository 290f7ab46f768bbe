"""Forecasting: no window looks ahead, no scale is that of the future, and the forecasts to beat are exact."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jrnn.data.batching import padded_batches
from jrnn.data.forecasting import (
    Scaler,
    persistence,
    seasonal_naive,
    standardize,
    time_split,
    windows,
)

DATA = Path(__file__).parents[2] / "shared/data/forecasting"
real = pytest.mark.skipif(not DATA.exists(), reason=f"no data sets at {DATA}")
RANDOM = np.random.default_rng(0)


# windows


@pytest.mark.parametrize("steps", [5, 6, 7, 12])
@pytest.mark.parametrize(
    ("past", "future", "stride"), [(3, 2, 1), (1, 4, 1), (4, 1, 2), (2, 2, 3), (3, 2, 9)]
)
def test_windows_are_those_of_a_loop(steps, past, future, stride):
    series = RANDOM.normal(size=(steps, 2))
    pasts, futures = windows(series, past, future, stride)
    starts = [s for s in range(0, steps, stride) if s + past + future <= steps]
    np.testing.assert_array_equal(pasts, [series[s : s + past] for s in starts])
    np.testing.assert_array_equal(futures, [series[s + past : s + past + future] for s in starts])
    assert len(pasts) == (steps - past - future) // stride + 1


def test_windows_share_the_memory_of_the_series_and_cannot_spoil_it():
    series = np.arange(20, dtype=np.float32).reshape(10, 2)
    for cut in windows(series, 3, 2):
        assert np.shares_memory(cut, series) and not cut.flags.writeable and cut.dtype == np.float32


def test_windows_go_into_batches():
    pasts, futures = windows(np.arange(10.0)[:, None], 3, 2)
    batch = padded_batches(pasts, futures, batch_size=4)[0]
    assert batch.xs[..., 0].T.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert batch.targets[..., 0].tolist() == [[3, 4], [4, 5], [5, 6], [6, 7]]


# parts


def test_parts_follow_one_another():
    series = RANDOM.normal(size=(20, 2))
    parts = time_split(series, (9, 5, 4))
    np.testing.assert_array_equal(np.concatenate(parts), series[:18])
    assert [len(part) for part in parts] == [9, 5, 4] and all(np.shares_memory(p, series) for p in parts)


@pytest.mark.parametrize("past", [1, 3, 9])
def test_later_parts_look_back_and_what_they_forecast_does_not_overlap(past):
    parts = time_split(np.arange(20)[:, None], (9, 5, 4), past)
    forecast = [windows(part, past, 1)[1].ravel().tolist() for part in parts[1:]]
    assert forecast == [[9, 10, 11, 12, 13], [14, 15, 16, 17]]
    assert parts[0].ravel().tolist() == list(range(9))


# scale


def test_standardised_training_steps_have_mean_0_and_deviation_1():
    train, test = RANDOM.normal(5, 3, (50, 4)), RANDOM.normal(-9, 2, (3, 7, 4))
    (found, other), scaler = standardize(train, test)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-14)
    np.testing.assert_allclose((found**2).mean(0), 1, rtol=1e-14)
    np.testing.assert_allclose(other, (test - train.mean(0)) / train.std(0), rtol=1e-12)
    np.testing.assert_allclose(scaler.inverse(other), test, rtol=1e-12)
    np.testing.assert_array_equal(scaler.standardize(test), other)
    np.testing.assert_array_equal(standardize(train)[1].mean, scaler.mean)  # others change nothing


def test_all_leading_axes_of_train_count():
    train = RANDOM.normal(5, 3, (6, 7, 2))
    (found,), scaler = standardize(train)
    np.testing.assert_allclose(scaler.deviation, train.reshape(-1, 2).std(0), rtol=1e-14)
    assert found.shape == train.shape


def test_a_constant_feature_becomes_zero_and_comes_back():
    train = np.column_stack([np.full(1000, 0.1), np.arange(1000.0)])
    assert np.full(1000, 0.1).std() > 0  # computed
    (found, other), scaler = standardize(train, np.array([[0.6, 3.0]]))
    assert (found[:, 0] == 0).all() and scaler.deviation[0] == 1 and other[0, 0] == 0.5
    assert scaler.inverse(found)[5, 0] == 0.1


@pytest.mark.parametrize(
    ("given", "kept"),
    [(np.float64, np.float64), (np.float32, np.float32), (np.float16, np.float32), (np.int64, np.float64)],
)
def test_precision_is_kept(given, kept):
    (found, other), scaler = standardize(np.array([[1], [3]], given), np.array([[5]], given))
    assert found.dtype == other.dtype == scaler.inverse(found).dtype == kept
    assert found.tolist() == [[-1], [1]] and other.tolist() == [[3]]
    assert scaler.mean.dtype == scaler.deviation.dtype == np.float64


def test_large_values_are_scaled_without_loss():
    values = 1e9 + np.arange(4)[:, None]
    np.testing.assert_allclose(standardize(values)[0][0].ravel(), np.array([-3, -1, 1, 3]) / 5**0.5)


def test_jax_arrays_are_taken():
    (found,), scaler = standardize(jnp.array([[1.0], [3.0]]))
    assert isinstance(found, np.ndarray) and found.tolist() == [[-1], [1]] and isinstance(scaler, Scaler)
    assert persistence(jnp.ones((2, 3, 1)), 4).shape == (2, 4, 1)


# forecasts to beat


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize(("steps", "period"), [(1, 1), (5, 1), (1, 4), (4, 4), (9, 4), (3, 6)])
def test_seasonal_naive_copies_the_last_season(lead, steps, period):
    past = RANDOM.normal(size=(*lead, 6, 2)).astype(np.float32)
    found = seasonal_naive(past, steps, period)
    known = past
    for _ in range(steps):  # what was forecast is as good as known
        known = np.concatenate([known, known[..., -period, :][..., None, :]], axis=-2)
    np.testing.assert_array_equal(found, known[..., 6:, :])
    assert found.dtype == np.float32


def test_persistence_repeats_the_last_value():
    past = RANDOM.normal(size=(4, 6, 2))
    np.testing.assert_array_equal(persistence(past, 3), np.stack([past[:, -1]] * 3, axis=1))


def test_a_perfect_season_is_forecast_without_error():
    series = np.tile(RANDOM.normal(size=(12, 1)), (6, 1))
    pasts, futures = windows(series, 20, 30)
    np.testing.assert_array_equal(seasonal_naive(pasts, 30, 12), futures)


# published numbers


def column(name, *columns):
    return np.genfromtxt(DATA / name, delimiter=",", skip_header=1, usecols=columns, ndmin=2)


def rmse(found, wanted):
    return float(np.sqrt(np.mean((found - wanted) ** 2)))


@real
@pytest.mark.parametrize(
    ("name", "steps", "period", "expected"),
    [
        ("airline-passengers.csv", (96, 48), 1, 48.04),
        ("airline-passengers.csv", (96, 48), 12, 41.85),
        ("shampoo.csv", (24, 12), 1, 136.76),
    ],
)
def test_errors_of_short_series(name, steps, period, expected):
    _, test = time_split(column(name, 1), steps, past=period)
    pasts, futures = windows(test, period, 1)
    assert len(futures) == steps[1]
    assert rmse(seasonal_naive(pasts, 1, period), futures) == pytest.approx(expected, abs=0.005)


@real
def test_errors_of_persistence_on_etth1():
    month = 30 * 24
    series = column("ETTh1.csv", *range(1, 8))
    train, _, test = time_split(series, (12 * month, 4 * month, 4 * month), past=1)
    (_, test), _ = standardize(train, test)
    expected = {24: (0.034, 0.139, 1.222), 48: (0.050, 0.171, 1.267), 168: (0.087, 0.229, 1.325)}
    for steps, numbers in expected.items():
        pasts, futures = windows(test, 1, steps)
        errors = persistence(pasts, steps) - futures
        oil = errors[..., 6]  # the univariate task is its temperature
        found = (np.mean(oil**2), np.mean(np.abs(oil)), np.mean(errors**2))
        assert [round(float(value), 3) for value in found] == list(numbers)


# errors

SERIES = np.zeros((5, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: windows(np.zeros(9), 3, 2),
            "series has shape (9,), needs (T, features): one feature as values[:, None]",
        ),
        (lambda: windows(SERIES, 4, 2), "series has 5 steps, needs 6 for past=4 and future=2"),
        (lambda: windows(SERIES, 0, 2), "past must be at least 1, got 0"),
        (lambda: windows(SERIES, 1, 0), "future must be at least 1, got 0"),
        (lambda: windows(SERIES, 1, 1, 0), "stride must be at least 1, got 0"),
        (lambda: time_split(SERIES, (4, 2)), "steps adds up to 6, more than series of shape (5, 2) has"),
        (lambda: time_split(SERIES, (4, 0)), "steps[1] must be at least 1, got 0"),
        (
            lambda: time_split(SERIES, (4,)),
            "steps must have one number for each of two or more parts, got (4,)",
        ),
        (lambda: time_split(SERIES, (2, 2), past=3), "past must be at most steps[0]=2, got 3"),
        (lambda: time_split(SERIES, (2, 2), past=-1), "past must be a whole number, 0 or more, got -1"),
        (
            lambda: standardize(np.zeros(4)),
            "train has shape (4,), needs (..., features): one feature as values[:, None]",
        ),
        (
            lambda: standardize(np.zeros((0, 2))),
            "train has shape (0, 2), needs (..., features): one feature as values[:, None]",
        ),
        (
            lambda: standardize([[np.nan]]),
            "train has values that are not finite: fill them or leave them out",
        ),
        (
            lambda: standardize(SERIES, SERIES, np.zeros((5, 3))),
            "others[1] has shape (5, 3), train (5, 2): needs the same features",
        ),
        (
            lambda: persistence([1.0, 2.0], 1),
            "past has shape (2,), needs (..., time, features): one series as [:, None]",
        ),
        (lambda: persistence(SERIES[:0], 1), "past has 0 steps (shape (0, 2)), needs period=1 at least"),
        (lambda: seasonal_naive(SERIES, 1, 6), "past has 5 steps (shape (5, 2)), needs period=6 at least"),
        (lambda: seasonal_naive(SERIES, 0, 2), "steps must be at least 1, got 0"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def test_a_share_is_no_number_of_steps():
    with pytest.raises(TypeError, match=r"^steps\[0\] must be an int, got 0.67$"):
        time_split(SERIES, (0.67, 0.33))
