"""Series with missing values, in the form of `GRUD`."""

from typing import Any

import numpy as np


def gaps(values: Any, dt: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn a stream `(values, dt)` with NaN for missing values into the `(values, mask, delta)` of `GRUD`.

        maskₜ = valuesₜ is not NaN
        δ₀ = 0,   δₜ = dtₜ + (1 − maskₜ₋₁) · δₜ₋₁

    Args:
      values: (T, ..., in), NaN where missing.
      dt: (T, ...), time since the step before.

    Returns:
      The values with 0 for NaN, the mask, and the time since each input was last measured, (T, ..., in) each.

    Raises:
      ValueError: a dt that is not of the shape of values without features.

    >>> from jrnn import data
    >>> nan = float("nan")
    >>> data.gaps([[1.0, nan], [nan, 5.0], [2.0, nan]], [0.0, 0.5, 2.0])[2].tolist()
    [[0.0, 0.0], [0.5, 0.5], [2.5, 2.0]]
    """
    values, dt = np.asarray(values, float), np.asarray(dt, float)
    if dt.shape != values.shape[:-1]:
        raise ValueError(
            f"dt must have shape {values.shape[:-1]}, one for a vector of values, got {dt.shape}"
        )
    mask, delta = ~np.isnan(values), np.zeros_like(values)
    for t in range(1, len(values)):
        delta[t] = dt[t, ..., None] + ~mask[t - 1] * delta[t - 1]
    return np.where(mask, values, 0), mask, delta
