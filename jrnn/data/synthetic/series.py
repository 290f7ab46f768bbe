"""Time series to forecast: autoregressive and chaotic."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jrnn._checks import brief, check_width
from jrnn.data.synthetic._drawing import seeded

Floats = NDArray[np.float32]


def ar_process(coefficients: Sequence[float], steps: int, seed: int) -> Floats:
    """An autoregressive process of order m = len(coefficients), driven by unit white noise.

        xₜ = a₁ xₜ₋₁ + … + aₘ xₜ₋ₘ + εₜ,   εₜ ~ N(0, 1),   xₜ = 0 for t < 0

    The best possible forecast, with the true coefficients, has a mean squared error of 1.

    Args:
      coefficients: a₁, …, aₘ.
      steps: T.
      seed: random seed.

    Returns:
      (T, 1).

    Raises:
      ValueError: no coefficients, or a process that is not stationary.

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
            f"coefficients {brief(a.tolist())} have a root of modulus {modulus:.4g}, which must be below 1 "
            "for the process to be stationary"
        )
    x = np.concatenate([np.zeros(len(a)), seeded(seed).standard_normal(steps)])
    for t in range(len(a), len(x)):
        x[t] += a @ x[t - len(a) : t][::-1]
    return x[len(a) :, None].astype(np.float32)


def lorenz(steps: int, seed: int) -> Floats:
    """A trajectory on the chaotic Lorenz attractor.

        ẋ = 10 (y − x),   ẏ = x (28 − z) − y,   ż = x y − 8/3 z

    Integrated by the classical Runge-Kutta method of order 4 in steps of 0.02; the first 1000 steps, from a
    start near (1, 1, 1), are dropped. The one-step error of persistence is 0.15 standard deviations.

    Args:
      steps: T.
      seed: random seed of the start.

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
