"""What a state remembers, and for how long: pulses, gates that keep, and inputs read back from the state."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._caching import cached
from jrnn._checks import check_lag, check_width
from jrnn.analysis.states import begin, to_vector
from jrnn.cells.reservoir import ridge_readout
from jrnn.unrolling._hoisting import hoisted, types_of_step


def pulse_response(
    cell: Any,
    params: Any,
    pulse: Any,
    steps: int,
    carry: Any = None,
    *,
    background: Any = None,
    key: Array | None = None,
) -> Array:
    """How far a single input moves the state, at its step and at those after it.

        rₜ = ‖hₜ(pulse, background, background, …) − hₜ(background, background, background, …)‖

    h is the state as one real vector (`to_vector`). Of one unit hₜ = f(w hₜ₋₁ + xₜ), w > 0: relu gives wᵗ
    exactly, sigmoid shrinks by w / 4 a step at least and tanh by w; with w > 1 tanh has two stable states,
    and a pulse that leads from the one to the other is kept for good (a latch). Differences below the
    rounding of the state are lost: 1e-7 of it in float32. Several pulses: `jax.vmap`.

    Args:
      cell: the cell.
      params: its parameters.
      pulse: the input of the first step, (features,); as the cell takes it, so a token, or a tree.
      steps: number of steps, that of the pulse included.
      carry: carry to start from; a new one if left out.
      background: the input of all other steps, and of the first one without the pulse; zeros if left out.
      key: draws the noise, which is the same with and without the pulse; without one there is none.

    Returns:
      (steps,), norms.

    Raises:
      ValueError: steps below 1, a background of another shape than pulse, or as of `unroll`.
      TypeError: a layer, or what is no cell.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.analysis import pulse_response
    >>> params = jrnn.Elman(1).init(jax.random.key(0), 1)._replace(w_ih=jnp.eye(1), w_hh=0.5 * jnp.eye(1))
    >>> pulse_response(jrnn.Elman(1, activation="relu"), params, jnp.ones(1), steps=4)
    Array([1.   , 0.5  , 0.25 , 0.125], dtype=float32)
    """
    check_width("steps", steps)
    pulse = jax.tree.map(jnp.asarray, pulse)
    rest = jax.tree.map(*((jnp.zeros_like, pulse) if background is None else (jnp.asarray, background)))
    given, needed = (jax.tree.map(jnp.shape, tree) for tree in (rest, pulse))
    if given != needed:
        raise ValueError(
            f"background has shape {given}, needs that of pulse, {needed}: one step, without time"
        )

    def run(first: Array, rest: Array) -> Array:
        return jnp.concatenate([first[None], jnp.broadcast_to(rest, (steps - 1, *rest.shape))])

    xs, others = (jax.tree.map(run, first, rest) for first in (pulse, rest))
    return _distances(cell)(params, begin(cell, params, xs, carry, key), xs, others)


@cached
def _distances(cell: Any) -> Callable[..., Array]:
    """Norms of the difference of two runs from one carry."""

    def step(cell: Any, params: Any, carries: Any, xs: Any) -> tuple[Any, Array]:
        afters = tuple(cell.step(params, carry, x)[0] for carry, x in zip(carries, xs, strict=True))
        h, other = (to_vector(cell, params, carry) for carry in afters)
        return afters, jnp.linalg.norm(h - other)

    def run(params: Any, carry: Any, xs: Any, others: Any) -> Array:
        ready = hoisted(cell, params, carry, types_of_step(xs))
        return lax.scan(functools.partial(step, ready, params), (carry, carry), (xs, others))[1]

    return jax.jit(run)


def retention(bias: Any, steps: Any) -> Array:
    """The share of a cell state that is left after some steps, of a forget gate that stands at its bias.

        share = σ(bias)ⁿ,   n = steps

    After 20 steps a bias of 1 leaves 0.2 %, one of 2 leaves 7.9 %, one of 5 leaves 87 %.

    Args:
      bias: of the gate, any shape.
      steps: n, any shape that broadcasts with it.

    Returns:
      Shares, between 0 and 1.

    >>> import jax.numpy as jnp
    >>> from jrnn.analysis import retention
    >>> print(jnp.round(retention(jnp.array([1.0, 2.0, 5.0]), 20), 4))
    [0.0019 0.079  0.8743]
    """
    return jnp.exp(jnp.asarray(steps) * jax.nn.log_sigmoid(jnp.asarray(bias, float)))


def time_scale(factor: Any) -> Array:
    """The number of steps in which what is multiplied by a factor at every step falls to 1 / e.

        τ = −1 / ln factor

    A factor of 1 gives inf, one of 0 gives 0; above 1 it grows, and −τ is the time in which it grows e-fold.
    Factors that change from step to step: that of their geometric mean (`GateStatistics.time_scale`).

    Args:
      factor: a forget gate, or the absolute value of an eigenvalue; at least 0, any shape.

    Returns:
      Steps.

    >>> from jrnn.analysis import time_scale
    >>> print(f"{time_scale(0.99):.1f}")
    99.5
    """
    return steps_of_rate(jnp.log(jnp.asarray(factor, float)))


def steps_of_rate(rate: Array) -> Array:
    """The time scale −1 / rate of a growth rate in nats a step; inf where nothing changes, of either zero."""
    return jnp.where(rate == 0, jnp.inf, -1 / rate)


class MemoryCapacity(NamedTuple):
    """Result of `memory_capacity`.

    Fields:
      by_lag: (max_lag,), the share of the variance of the input of k steps ago that is read back.
      size: D, numbers in the state.
    """

    by_lag: Array
    size: int

    @property
    def total(self) -> Array:
        """Σ by_lag, the capacity in inputs; at most `size`."""
        return jnp.sum(self.by_lag)


def memory_capacity(
    cell: Any,
    params: Any,
    key: Array,
    *,
    max_lag: int,
    steps: int = 4000,
    washout: int = 100,
    direction: Any = None,
    penalty: float = 1e-6,
) -> MemoryCapacity:
    """Linear memory capacity: how many past inputs of white noise can be read back from the state.

        uₜ ~ U(−1, 1),   xₜ = uₜ direction
        capacity = Σₖ R²ₖ,   R²ₖ that of the best linear read-out of uₜ₋ₖ from (hₜ, 1),   k = 0 … max_lag − 1

    It is at most D, the numbers in the state, for whatever cell; a delay line has its length, and a linear
    cell as a rule D, over enough lags. Jaeger counts from lag 1: `by_lag[1:].sum()`. The read-out is fitted
    on `steps` steps and measured on as many others, so that noise counts as nothing: about −D / steps at a
    lag of which nothing is left.

    Args:
      cell: the cell; without noise.
      params: its parameters.
      key: draws the input.
      max_lag: number of lags.
      steps: number of steps to fit on, and again to measure on; many times D.
      washout: steps before those, in which the state forgets its start; at least max_lag − 1.
      direction: (features,), what one unit of the input adds to x; (1,), a one, if left out.
      penalty: of the squared weights of the read-out (`ridge_readout`).

    Returns:
      `MemoryCapacity(by_lag, size)`, with the capacity as `.total`.

    Raises:
      ValueError: as of `forgetting_curve`.
      TypeError: a layer, or what is no cell.

    Reference: Jaeger, Short term memory in echo state networks, 2001, GMD report 152.

    >>> import jax, jrnn
    >>> from jrnn.analysis import memory_capacity
    >>> delay = jrnn.Window(5, features=1)
    >>> print(f"{memory_capacity(delay, (), jax.random.key(0), max_lag=5).total:.3f}")
    5.000
    """
    check_width("steps", steps)
    check_lag("washout", washout)
    signal = jax.random.uniform(key, (washout + 2 * steps,), minval=-1.0, maxval=1.0)
    direction = jnp.ones(1) if direction is None else jnp.asarray(direction)
    xs = signal[:, None] * direction
    curve = forgetting_curve(cell, params, xs, signal, max_lag=max_lag, washout=washout, penalty=penalty)
    return MemoryCapacity(curve, to_vector(cell, params, cell.initial_carry(params)).size)


def forgetting_curve(
    cell: Any,
    params: Any,
    xs: Any,
    signal: Array,
    carry: Any = None,
    *,
    max_lag: int,
    washout: int = 100,
    penalty: float = 1e-6,
    key: Array | None = None,
) -> Array:
    """How well a signal of k steps ago can be read back from the state, by lag k.

        R²ₖ = 1 − Σₜ (hₜ wₖ + bₖ − signalₜ₋ₖ)² / Σₜ (signalₜ₋ₖ − mean)²,   k = 0 … max_lag − 1

    A state that knows all about it has 1, one that knows nothing 0 or a little less. wₖ and bₖ are fitted by
    least squares on the first half of the steps after the washout, the sums are over the second half. The
    signal is any number that is to be remembered, such as a feature of xs, or whether a token was a comma;
    one that predicts itself is read back from later steps too, so white noise alone measures memory
    (`memory_capacity`). Kept are the states of all steps, (time, D), and (time, max_lag).

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs of one sequence, (time, features).
      signal: (time,).
      carry: carry to start from; a new one if left out.
      max_lag: number of lags.
      washout: steps at the start that do not count; at least max_lag − 1.
      penalty: of the squared weights of the read-out (`ridge_readout`).
      key: draws the noise; without one there is none.

    Returns:
      (max_lag,), at most 1.

    Raises:
      ValueError: a signal of another length than xs; a washout that is too short for max_lag; no more steps
        than numbers in the state; or as of `unroll`.
      TypeError: a layer, or what is no cell.

    >>> import jax, jrnn
    >>> from jrnn.analysis import forgetting_curve
    >>> xs = jax.random.normal(jax.random.key(0), (900, 1))
    >>> print(jax.numpy.round(abs(forgetting_curve(jrnn.Window(2, 1), (), xs, xs[:, 0], max_lag=2)), 4))
    [1. 1.]
    """
    check_width("max_lag", max_lag)
    check_lag("washout", washout)
    start = begin(cell, params, xs, carry, key)
    time = jax.tree.leaves(xs)[0].shape[0]
    if jnp.shape(signal) != (time,):
        raise ValueError(
            f"signal has shape {jnp.shape(signal)}, needs ({time},), a number for each step of xs"
        )
    if washout < max_lag - 1:
        raise ValueError(f"washout must be at least max_lag − 1 = {max_lag - 1}, got {washout}")
    half, size = (time - washout) // 2, to_vector(cell, params, start).size
    if half <= size:
        raise ValueError(
            f"{cell} has a state of {size} numbers: it needs more steps to fit on, got {max(half, 0)}, which "
            f"is half of what a washout of {washout} leaves of {time}"
        )
    states = _states(cell)(params, start, xs)[washout:]
    targets = jnp.asarray(signal)[jnp.arange(washout, time)[:, None] - jnp.arange(max_lag)]
    readout = ridge_readout(states[:half], targets[:half], penalty=penalty)
    errors = states[half:] @ readout.w + readout.b - targets[half:]
    return 1 - jnp.mean(errors**2, 0) / jnp.var(targets[half:], 0)


@cached
def _states(cell: Any) -> Callable[..., Array]:
    """The states of a run, (time, D)."""

    def step(cell: Any, params: Any, carry: Any, x: Any) -> tuple[Any, Array]:
        after, _ = cell.step(params, carry, x)
        return after, to_vector(cell, params, after)

    def run(params: Any, carry: Any, xs: Any) -> Array:
        ready = hoisted(cell, params, carry, types_of_step(xs))
        return lax.scan(functools.partial(step, ready, params), carry, xs)[1]

    return jax.jit(run)
