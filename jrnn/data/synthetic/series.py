"""Series to forecast: autoregressive, seasonal, chaotic."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jrnn.checks import brief, check_width
from jrnn.data.synthetic.drawing import seeded

Floats = NDArray[np.float32]


def ar_process(coefficients: Sequence[float], steps: int, seed: int) -> Floats:
    """An autoregressive process of order m = len(coefficients), driven by unit white noise.

        xₜ = a₁ xₜ₋₁ + … + aₘ xₜ₋ₘ + εₜ,   εₜ ~ N(0, 1),   xₜ = 0 for t < 0

    No forecast has a mean squared error below 1, that of the true coefficients.

    Args:
      coefficients: a₁, …, aₘ.
      steps: T.
      seed: of the draws.

    Returns:
      (T, 1).

    Raises:
      ValueError: no coefficients, or such that the process would not be stationary.

    >>> from jrnn.data.synthetic import ar_process
    >>> x = ar_process([0.5, -0.3], steps=3, seed=0)
    >>> x.shape, [f"{value:.2f}" for value in x[:, 0]]
    ((3, 1), ['0.13', '-0.07', '0.57'])
    """
    check_width("steps", steps)
    a = np.asarray(coefficients, np.float64)
    if a.ndim != 1 or len(a) == 0:
        raise ValueError(f"coefficients must be a list of one or more numbers, got {brief(coefficients)}")
    modulus = np.abs(np.roots([1, *-a])).max(initial=0)
    if not modulus < 1:
        raise ValueError(
            f"coefficients {brief(a.tolist())} have a root of modulus {modulus:.4g}, needs to be below 1: "
            "the process would not be stationary"
        )
    x = np.concatenate([np.zeros(len(a)), seeded(seed).standard_normal(steps)])
    for t in range(len(a), len(x)):
        x[t] += a @ x[t - len(a) : t][::-1]
    return x[len(a) :, None].astype(np.float32)


def seasonal_series(steps: int, seed: int, period: int = 12) -> Floats:
    """A growing series with a season, whose swings and noise grow with its level.

        yₜ = (100 + 2t) · exp(sₜ + nₜ),   nₜ = 0.7 nₜ₋₁ + 0.03 εₜ,   εₜ ~ N(0, 1)
        sₜ = 0.2 cos(2πt/period + φ₁) + 0.1 cos(4πt/period + φ₂),   φ ~ U[0, 2π)

    like the numbers of airline passengers by month. The first steps do not depend on how many follow.
    Over the last third of 144 steps, the last value as a forecast of the next has a root mean squared
    error of 38, the value of a season ago of 24 to 36, by the seed; ε alone makes about 10.

    Args:
      steps: T.
      seed: of the draws.
      period: steps of a season: 12 for the months of a year, 24 for the hours of a day.

    Returns:
      (T, 1), positive.

    >>> from jrnn.data.synthetic import seasonal_series
    >>> y = seasonal_series(steps=144, seed=0)
    >>> y.shape, [f"{value:.0f}" for value in y[::36, 0]]
    ((144, 1), ['88', '151', '225', '261'])
    """
    check_width("steps", steps)
    check_width("period", period)
    random = seeded(seed)
    first, second = random.uniform(0, 2 * np.pi, 2)
    t = np.arange(steps)
    season = 0.2 * np.cos(2 * np.pi * t / period + first) + 0.1 * np.cos(4 * np.pi * t / period + second)
    noise = 0.03 * random.standard_normal(steps)
    for step in range(1, steps):
        noise[step] += 0.7 * noise[step - 1]
    return ((100 + 2 * t) * np.exp(season + noise))[:, None].astype(np.float32)


def lorenz(steps: int, seed: int) -> Floats:
    """A trajectory on the chaotic attractor of Lorenz.

        ẋ = 10 (y − x),   ẏ = x (28 − z) − y,   ż = x y − 8/3 z

    Sampled every 0.02 by the classical Runge-Kutta method of order 4, after 1000 steps from a start near
    (1, 1, 1). One step ahead, persistence has a root mean squared error of 0.15 standard deviations.

    Args:
      steps: T.
      seed: of the start.

    Returns:
      (T, 3).

    Reference: Lorenz, Deterministic nonperiodic flow, 1963, doi:10.1175/1520-0469(1963)020<0130:DNF>2.0.CO;2.

    >>> from jrnn.data.synthetic import lorenz
    >>> lorenz(steps=100, seed=0).shape
    (100, 3)
    """
    check_width("steps", steps)
    state = 1 + seeded(seed).standard_normal(3)
    states = np.empty((1000 + steps, 3))
    for step in range(len(states)):
        state = states[step] = _advance(state, 0.02)
    return states[1000:].astype(np.float32)


def _flow(state: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, z = state
    return np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


def _advance(state: NDArray[np.float64], dt: float) -> NDArray[np.float64]:
    k1 = _flow(state)
    k2 = _flow(state + dt / 2 * k1)
    k3 = _flow(state + dt / 2 * k2)
    k4 = _flow(state + dt * k3)
    return state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
