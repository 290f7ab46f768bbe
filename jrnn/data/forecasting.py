"""Forecasting: windows of a long series, its parts in time, its scale, and the forecasts to beat."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jrnn.checks import check_lag, check_width

Floats = NDArray[np.floating[Any]]


class Scaler(NamedTuple):
    """Mean and deviation of each feature, to standardise with and to go back to the units of the data."""

    mean: Floats  # (features,)
    deviation: Floats  # (features,), 1 where a feature is constant

    def standardize(self, values: Any) -> Floats:
        """Return (values − mean) / deviation; features are the last axis."""
        values = np.asarray(values)
        return ((values - self.mean) / self.deviation).astype(np.result_type(values, np.float32))

    def inverse(self, values: Any) -> Floats:
        """Return values · deviation + mean: a forecast in the units of the data."""
        values = np.asarray(values)
        return (values * self.deviation + self.mean).astype(np.result_type(values, np.float32))


def standardize(train: Any, *others: Any) -> tuple[tuple[Floats, ...], Scaler]:
    """Bring each feature to mean 0 and deviation 1 over the part to train on, and others by the same numbers.

        z = (x − mean) / deviation,   deviation² = mean of (x − mean)² over all steps of train

    Mean and deviation of later parts are not known when a forecast is made, so they are not looked at.
    A feature that is constant over train is divided by 1. Computed in float64; results have the dtype of
    what was given, float32 at least.

    Args:
      train: (..., features).
      others: arrays with the same features, such as the parts to validate and to test on.

    Returns:
      `((train, *others), scaler)`, standardised, and what brings forecasts back: `scaler.inverse(z)`.

    Raises:
      ValueError: no step to train on, values that are not finite there, or other features.

    >>> import numpy as np
    >>> from jrnn.data.forecasting import standardize
    >>> (train, test), scaler = standardize(np.array([[1.0], [3.0]]), np.array([[4.0]]))
    >>> train.tolist(), test.tolist(), scaler.inverse(test).tolist()
    ([[-1.0], [1.0]], [[2.0]], [[4.0]])
    """
    parts = [np.asarray(part) for part in (train, *others)]
    first = parts[0]
    if first.ndim < 2 or not first.size:
        raise ValueError(
            f"train has shape {first.shape}, needs (..., features): one feature as values[:, None]"
        )
    if not np.isfinite(first).all():
        raise ValueError("train has values that are not finite: fill them or leave them out")
    for index, part in enumerate(parts[1:]):
        if part.shape[-1:] != first.shape[-1:]:
            raise ValueError(
                f"others[{index}] has shape {part.shape}, train {first.shape}: needs the same features"
            )
    steps = first.reshape(-1, first.shape[-1]).astype(np.float64)
    # the computed deviation of a constant need not be 0
    constant = steps.min(0) == steps.max(0)
    mean = np.where(constant, steps[0], steps.mean(0))
    scaler = Scaler(mean, np.where(constant, 1.0, steps.std(0)))
    return tuple(scaler.standardize(part) for part in parts), scaler


def time_split(series: Any, steps: Sequence[int], past: int = 0) -> tuple[NDArray[Any], ...]:
    """Cut a series into parts that follow one another: to train on, to validate on, to test on.

        part i = series[eᵢ − past : eᵢ₊₁],   eᵢ = steps₀ + … + stepsᵢ₋₁;   the first part = series[: e₁]

    With `past`, later parts begin so much earlier, in the end of the part before, that a window of `past`
    steps can forecast their very first step. What they are tested on does not overlap.

    Args:
      series: (T, ...), time first.
      steps: of each part; what is left at the end is not used.
      past: steps that a forecast looks back.

    Returns:
      As many views of the series.

    Raises:
      ValueError: more steps than the series has, or parts too short to look back on.

    >>> import numpy as np
    >>> from jrnn.data.forecasting import time_split
    >>> [part.tolist() for part in time_split(np.arange(9), steps=(4, 2, 2), past=1)]
    [[0, 1, 2, 3], [3, 4, 5], [5, 6, 7]]
    """
    series = np.asarray(series)
    if len(steps) < 2:
        raise ValueError(f"steps must have one number for each of two or more parts, got {steps!r}")
    for index, count in enumerate(steps):
        check_width(f"steps[{index}]", count)
    check_lag("past", past)
    if series.ndim == 0 or sum(steps) > len(series):
        raise ValueError(f"steps adds up to {sum(steps)}, more than series of shape {series.shape} has")
    if past > steps[0]:
        raise ValueError(f"past must be at most steps[0]={steps[0]}, got {past}")
    edges = np.cumsum([0, *steps]).tolist()
    starts = [0, *(edge - past for edge in edges[1:-1])]
    return tuple(series[start:end] for start, end in zip(starts, edges[1:], strict=True))


def windows(series: Any, past: int, future: int, stride: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cut a series into windows to forecast from, each with the steps that follow it.

        pasts[i] = series[i·stride : i·stride + past]
        futures[i] = series[i·stride + past : i·stride + past + future]

    Windows that would reach beyond the end are left out. They share the memory of the series: read-only.

    Args:
      series: (T, features).
      past: steps of a window.
      future: steps to forecast.
      stride: steps from one window to the next.

    Returns:
      `(pasts, futures)`, (n, past, features) and (n, future, features), the sequences and targets that
      `padded_batches` takes; n = ⌊(T − past − future) / stride⌋ + 1.

    Raises:
      ValueError: a series that is not (T, features), or too short for one window.

    >>> import numpy as np
    >>> from jrnn.data.forecasting import windows
    >>> pasts, futures = windows(np.arange(6)[:, None], past=3, future=2)
    >>> pasts[..., 0].tolist(), futures[..., 0].tolist()
    ([[0, 1, 2], [1, 2, 3]], [[3, 4], [4, 5]])
    """
    check_width("past", past)
    check_width("future", future)
    check_width("stride", stride)
    series = np.asarray(series)
    if series.ndim != 2:
        raise ValueError(
            f"series has shape {series.shape}, needs (T, features): one feature as values[:, None]"
        )
    if len(series) < past + future:
        raise ValueError(
            f"series has {len(series)} steps, needs {past + future} for past={past} and future={future}"
        )
    cut = np.lib.stride_tricks.sliding_window_view(series, past + future, axis=0)[::stride]
    both = np.moveaxis(cut, -1, 1)  # (n, past + future, features)
    return both[:, :past], both[:, past:]


def persistence(past: Any, steps: int) -> NDArray[Any]:
    """Forecast that nothing changes: the last value, for every step ahead.

        ŷₜ₊ₖ = yₜ

    A model that does not beat it has learned nothing about time.

    Args:
      past: (..., time, features), such as the windows of `windows`: time is the last axis but one.
      steps: to forecast.

    Returns:
      (..., steps, features).

    Raises:
      ValueError: a past without a time axis, or of no step.

    >>> from jrnn.data.forecasting import persistence
    >>> persistence([[7.0], [9.0]], steps=3).tolist()
    [[9.0], [9.0], [9.0]]
    """
    return seasonal_naive(past, steps, period=1)


def seasonal_naive(past: Any, steps: int, period: int) -> NDArray[Any]:
    """Forecast that all is as it was a season ago: the last season, again and again.

        ŷₜ₊ₖ = y[t + k − period · ⌈k / period⌉]

    Args:
      past: (..., time, features), such as the windows of `windows`: time is the last axis but one.
      steps: to forecast.
      period: steps of a season: 12 for the months of a year, 24 for the hours of a day.

    Returns:
      (..., steps, features).

    Raises:
      ValueError: a past without a time axis, or shorter than a season.

    >>> from jrnn.data.forecasting import seasonal_naive
    >>> seasonal_naive([[6.0], [7.0], [9.0]], steps=3, period=2).tolist()
    [[7.0], [9.0], [7.0]]
    """
    check_width("steps", steps)
    check_width("period", period)
    past = np.asarray(past)
    if past.ndim < 2:
        raise ValueError(f"past has shape {past.shape}, needs (..., time, features): one series as [:, None]")
    if past.shape[-2] < period:
        raise ValueError(
            f"past has {past.shape[-2]} steps (shape {past.shape}), needs period={period} at least"
        )
    season = past[..., -period:, :]
    return np.take(season, np.arange(steps) % period, axis=-2)
