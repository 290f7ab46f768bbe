"""Memory of a state: responses to pulses, time scales of gates, and reconstruction of past inputs."""

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
from jrnn.unrolling._other_loops import hoisted, types_of_step


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
    """Measure how far a single input moves the state, at its step and afterwards.

        rₜ = ‖hₜ(pulse, background, background, …) − hₜ(background, background, background, …)‖

    h is the state as one real vector (`to_vector`). For a single unit hₜ = f(w hₜ₋₁ + xₜ), w > 0, relu gives
    exactly wᵗ, and each step shrinks the response by at least w / 4 for a sigmoid and w for tanh; with w > 1,
    tanh has two stable states, and a pulse that switches between them is kept forever (a latch). Differences
    below the rounding of the state are lost: 1e-7 of it in float32. Use `jax.vmap` for several pulses.

    Args:
      cell: the cell.
      params: its parameters.
      pulse: the input of the first step, (features,), a token or a tree, as the cell takes it.
      steps: number of steps, including that of the pulse.
      carry: initial carry; defaults to `cell.initial_carry`.
      background: the input of all other steps, and of the first one without the pulse; defaults to zeros.
      key: draws the noise, which is the same with and without the pulse; without a key there is none.

    Returns:
      (steps,), norms.

    Raises:
      ValueError: steps below 1, background and pulse of different shapes, or invalid inputs.
      TypeError: a layer, or not a cell.

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
            f"background has shape {given}, needs that of pulse, {needed}: one step, without a time axis"
        )

    def run(first: Array, rest: Array) -> Array:
        return jnp.concatenate([first[None], jnp.broadcast_to(rest, (steps - 1, *rest.shape))])

    xs, others = (jax.tree.map(run, first, rest) for first in (pulse, rest))
    return _distances(cell)(params, begin(cell, params, xs, carry, key), xs, others)


@cached
def _distances(cell: Any) -> Callable[..., Array]:
    """Norms of the difference between two runs from the same carry."""

    def step(cell: Any, params: Any, carries: Any, xs: Any) -> tuple[Any, Array]:
        afters = tuple(cell.step(params, carry, x)[0] for carry, x in zip(carries, xs, strict=True))
        h, other = (to_vector(cell, params, carry) for carry in afters)
        return afters, jnp.linalg.norm(h - other)

    def run(params: Any, carry: Any, xs: Any, others: Any) -> Array:
        ready = hoisted(cell, params, carry, types_of_step(xs))
        return lax.scan(functools.partial(step, ready, params), (carry, carry), (xs, others))[1]

    return jax.jit(run)


def retention(bias: Any, steps: Any) -> Array:
    """Fraction of a cell state left after some steps, for a forget gate determined by its bias alone.

        fraction = σ(bias)ⁿ,   n = steps

    After 20 steps a bias of 1 leaves 0.2 %, a bias of 2 leaves 7.9 %, and a bias of 5 leaves 87 %.

    Args:
      bias: bias of the gate, any shape.
      steps: n, any shape that broadcasts with `bias`.

    Returns:
      Fractions between 0 and 1.

    >>> import jax.numpy as jnp
    >>> from jrnn.analysis import retention
    >>> print(jnp.round(retention(jnp.array([1.0, 2.0, 5.0]), 20), 4))
    [0.0019 0.079  0.8743]
    """
    return jnp.exp(jnp.asarray(steps) * jax.nn.log_sigmoid(jnp.asarray(bias, float)))


def time_scale(factor: Any) -> Array:
    """Number of steps in which a value multiplied by a factor at every step decays to 1 / e.

        τ = −1 / ln factor

    A factor of 1 gives inf, a factor of 0 gives 0; above 1 the value grows, e-fold in −τ steps. For factors
    that vary from step to step, use their geometric mean (`GateStatistics.time_scale`).

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
    """The time scale −1 / rate of a growth rate in nats per step; inf for a rate of 0 or −0."""
    return jnp.where(rate == 0, jnp.inf, -1 / rate)


class MemoryCapacity(NamedTuple):
    """Result of `memory_capacity`.

    Fields:
      by_lag: (max_lag,), the explained fraction of the variance of the input k steps ago.
      size: D, size of the state.
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
    """Linear memory capacity: how many past inputs of white noise can be reconstructed from the state.

        uₜ ~ U(−1, 1),   xₜ = uₜ direction
        capacity = Σₖ R²ₖ,   R²ₖ of the best linear read-out of uₜ₋ₖ from (hₜ, 1),   k = 0 … max_lag − 1

    For any cell it is at most D, the size of the state; for a delay line it is the length, and for a linear
    cell usually D, over enough lags. Jaeger counts from lag 1: `by_lag[1:].sum()`. The read-out is fitted on
    `steps` steps and evaluated on as many others, so that noise does not count: a lag without memory gives
    about −D / steps.

    Args:
      cell: a cell without noise.
      params: its parameters.
      key: draws the input.
      max_lag: number of lags.
      steps: number of steps for the fit, and again for the evaluation; should be many times D.
      washout: number of steps before those, in which the state forgets its start; at least max_lag − 1.
      direction: (features,), x per unit of the input; defaults to a one, (1,).
      penalty: weight of the squared weights of the read-out (`ridge_readout`).

    Returns:
      `MemoryCapacity(by_lag, size)`, with the capacity as `.total`.

    Raises:
      ValueError: a washout too short for max_lag, too few steps, or invalid inputs.
      TypeError: a layer, or not a cell.

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
    """Measure how well a signal of k steps ago can be reconstructed from the state, by lag k.

        R²ₖ = 1 − Σₜ (hₜ wₖ + bₖ − signalₜ₋ₖ)² / Σₜ (signalₜ₋ₖ − mean)²,   k = 0 … max_lag − 1

    The value is 1 for perfect memory, and 0 or slightly less for none. wₖ and bₖ are fitted by least squares
    on the first half of the steps after the washout, the sums are over the second half. The signal can be any
    number, such as a feature of xs, or whether a token was a comma. A signal that is correlated in time is
    also reconstructed from later steps, so only white noise measures pure memory (`memory_capacity`). The
    states of all steps, (time, D), and (time, max_lag) numbers are stored.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs of one sequence, (time, features).
      signal: (time,).
      carry: initial carry; defaults to `cell.initial_carry`.
      max_lag: number of lags.
      washout: number of steps to ignore at the start; at least max_lag − 1.
      penalty: weight of the squared weights of the read-out (`ridge_readout`).
      key: draws the noise; without a key there is none.

    Returns:
      (max_lag,), at most 1.

    Raises:
      ValueError: a signal of another length than xs; a washout too short for max_lag; not more steps than
        entries of the state; or invalid inputs.
      TypeError: a layer, or not a cell.

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
        raise ValueError(f"signal has shape {jnp.shape(signal)}, needs ({time},), one number per step of xs")
    if washout < max_lag - 1:
        raise ValueError(f"washout must be at least max_lag − 1 = {max_lag - 1}, got {washout}")
    half, size = (time - washout) // 2, to_vector(cell, params, start).size
    if half <= size:
        raise ValueError(
            f"{cell} has a state of {size} numbers and needs more steps than that for the fit, got "
            f"{max(half, 0)}: half of the {time} steps of xs after a washout of {washout}"
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
