"""Lyapunov exponents: the rates at which neighboring trajectories diverge, and what they imply."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jrnn._alignment import promoted
from jrnn._caching import cached
from jrnn._checks import check_lag, check_width
from jrnn.analysis._products import growth_at_once
from jrnn.analysis.jacobians import checked_directions, push_rows, start_rows
from jrnn.analysis.states import begin, fixed_normal, to_vector
from jrnn.unrolling import Method, Newton, Scan, unroll
from jrnn.unrolling._other_loops import hoisted, types_of_step
from jrnn.unrolling._recurrences import depth
from jrnn.unrolling.driver import make_loop

BATCHES = 20  # batch means for the standard error
ZERO = 8  # a remainder of this many rounding errors counts as zero
PANEL = 32  # columns orthonormalized by LAPACK at a time, few enough for one thread
FLOAT32 = float(np.finfo(np.float32).eps)


class Lyapunov(NamedTuple):
    """Lyapunov exponents, in nats per step, the largest first.

    Fields:
      exponents: (k,); −∞ for a direction that a step maps to zero.
      standard_error: (k,), of the mean over time; NaN for a single interval; has no gradient.
      local: (n, k), growth in each interval between orthonormalizations, in nats per step.
    """

    exponents: Array
    standard_error: Array
    local: Array

    @property
    def entropy(self) -> Array:
        """(), Σ max(λᵢ, 0), in nats per step: the rate at which the dynamics produce information.

        By Pesin's formula, the Kolmogorov-Sinai entropy; a lower bound if positive exponents are missing.
        """
        return jnp.maximum(self.exponents, 0).sum()

    @property
    def dimension(self) -> Array:
        """(), d = j + (λ₁ + … + λⱼ) / |λⱼ₊₁|, with the largest j for which the sum is not negative.

        The Kaplan-Yorke conjecture for the dimension of the attractor. If the sum of all k exponents is not
        negative, this is k: compute more of them, unless they are all.
        """
        sums = jnp.cumsum(self.exponents)
        whole = jnp.sum(jnp.cumprod(sums >= 0))
        at = jnp.minimum(whole, len(sums) - 1)
        kept = jnp.where(whole > 0, sums[jnp.maximum(whole - 1, 0)], 0)
        part = jnp.where(whole < len(sums), kept / jnp.maximum(-self.exponents[at], kept), 0)
        return whole + part


class Predictability(NamedTuple):
    """Result of `predictability`.

    Fields:
      horizon: steps until an error of the given precision has grown to the size of the state.
      log_amplification: ln of the factor by which errors of single steps are amplified in the states.
      converges: bool, True if evaluation of all steps at once takes few iterations.
    """

    horizon: Array
    log_amplification: Array
    converges: Array


class Parallelism(NamedTuple):
    """Result of `parallelism`.

    Fields:
      exponent: λ₁ over the first steps, in nats per step.
      iterations: of Newton's method for all steps.
      speedup: steps over the depth of these iterations, a bound for a machine that takes all steps at once.
    """

    exponent: Array
    iterations: Array
    speedup: Array

    @property
    def pays(self) -> Array:
        """(), bool: True if solving all steps at once has less depth than taking them one by one."""
        return self.speedup > 1


def lyapunov(
    cell: Any,
    params: Any,
    xs: Any,
    carry: Any = None,
    *,
    exponents: int | None = 1,
    discard: int = 0,
    every: int = 1,
    key: Array | None = None,
    method: Method = Scan(),
) -> Lyapunov:
    """Compute Lyapunov exponents of a cell along a trajectory, by Benettin's method.

        Jₜ Qₜ₋₁ = Qₜ Rₜ,   λᵢ = (1 / T) Σₜ ln |Rₜ[i, i]|,   Jₜ = ∂hₜ/∂hₜ₋₁

    If λ₁ > 0, neighboring states diverge and gradients explode. If λ₁ < 0, states forget their start and
    gradients vanish, by exp(λ₁) per step. Volumes of i dimensions grow by exp(λ₁ + … + λᵢ). k exponents
    take k Jacobian-vector products and one QR per step; the largest alone, the default, is cheap. Nothing of
    size T · D² is stored. The initial directions are random, but the same for every call.

    The function can be traced, and differentiated through the QR: Σ λᵢ² is the penalty of gradient flossing.
    A direction that any interval maps to zero (dead relus), or so far below the others that rounding hides
    it, has the exponent −∞ with gradient zero; exclude it from a sum by `jnp.where(jnp.isfinite(λ), λ, 0)`.
    The last exponents of a large saturated network need float64.

    The standard error is computed from the means of up to 20 equal stretches of time, assuming that they are
    independent: it is too small if a stretch is shorter than the memory of the dynamics.

    A QR at every n-th step only is faster, and gives the same result as long as directions stay numerically
    distinct: keep every · (λ₁ − λₖ) below 8 in float32, 25 in float64. A QR of 256 exponents costs about four
    times as much as their products.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs of one sequence, (time, features); for a batch, `xs[:, b]`.
      carry: initial carry; defaults to `cell.initial_carry`.
      exponents: k, number of exponents, from the largest; `None` for all.
      discard: number of first steps to ignore, while the state reaches its attractor and Q aligns; the steps
        left over by `every` are among them.
      every: steps from one QR to the next.
      key: draws the noise; without a key there is none.
      method: as for `growth`; for the largest exponent alone.

    Returns:
      `Lyapunov(exponents, standard_error, local)`, with its `dimension` and `entropy`.

    Raises:
      ValueError: more exponents than the state has entries, too few steps, or invalid inputs.

    Reference: Benettin, Galgani, Giorgilli, Strelcyn, Lyapunov characteristic exponents for smooth dynamical
    systems, 1980, doi:10.1007/BF02128236. Gradient: Engelken, Gradient flossing, 2023, arXiv:2312.17306.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.analysis import lyapunov
    >>> cell = jrnn.IndRNN(3, activation="identity")
    >>> params = cell.init(jax.random.key(0), 1)._replace(w_hh=jnp.array([0.5, 2.0, 1.0]))
    >>> [f"{e:.2f}" for e in lyapunov(cell, params, jnp.ones((50, 1)), exponents=2, discard=20).exponents]
    ['0.69', '0.00']
    """
    check_lag("discard", discard)
    check_width("every", every)
    carry = begin(cell, params, xs, carry, key)
    count = checked_directions("exponents", exponents, to_vector(cell, params, carry).size)
    steps = len(jax.tree.leaves(xs)[0])
    if (steps - discard) // every < 1:
        raise ValueError(f"xs has {steps} steps, needs at least discard + every = {discard + every}")
    if not isinstance(method, Scan):
        if count > 1:
            raise ValueError(f"exponents must be 1 with method={method!r}, got {count}")
        return _at_once(cell, discard, every, method)(params, carry, xs)
    return _measure(cell, count, discard, every)(params, carry, xs)


@cached
def _at_once(cell: Any, discard: int, every: int, method: Method) -> Callable[..., Lyapunov]:
    """`(params, carry, xs) -> Lyapunov` of the largest exponent, from a tree of products.

    Once a product is zero, all that follow are, while step by step another direction takes the place of the
    one mapped to zero: so that is run then.
    """
    step_by_step = _measure(cell, 1, discard, every)

    @jax.jit
    def measure(params: Any, carry: Any, xs: Any) -> Lyapunov:
        over = (steps := len(jax.tree.leaves(xs)[0])) % every  # as in `_measure`
        start = unroll(cell, params, _part(xs, 0, over), carry, method=method)[0] if over else carry
        rows = start_rows(cell, params, start, 1)
        grown = growth_at_once(cell, params, start, _part(xs, over, steps), rows, method)
        ends = jnp.append(jnp.zeros_like(grown, shape=1), grown)[::every]
        found = _summary(_local(ends, every)[-(-max(discard - over, 0) // every) :])
        died = jnp.isneginf(grown).any()
        return Lyapunov(*lax.cond(died, lambda: step_by_step(params, carry, xs), lambda: found))

    return measure


def predictability(exponent: Any, steps: int, precision: float = FLOAT32) -> Predictability:
    """Predict from the largest Lyapunov exponent how far states are predictable, and parallelizable in time.

        horizon = ln(1 / precision) / λ₁ where λ₁ > 0, else ∞
        amplification = Σₜ exp(λ₁ t),   t = 0 … T − 1

    An error grows as exp(λ₁ t). After `horizon` steps, an error of relative size `precision` is as large as
    the state, and the computed trajectory is arbitrary from there on.

    Newton's method (DEER) guesses all T states at once and corrects the errors of all steps together. Their
    residuals appear in the states amplified by up to `amplification`. If λ₁ < 0, that is at most
    1 / (1 − exp(λ₁)) for any T, and few iterations suffice: it converges. If λ₁ > 0, it explodes with T, and
    there are as many iterations as steps: run step by step instead. Near 0 it depends on T.

    Args:
      exponent: λ₁, in nats per step, the first of `lyapunov`; any shape.
      steps: T, at least 1.
      precision: relative precision of the state; defaults to the rounding error of float32.

    Returns:
      `Predictability(horizon, log_amplification, converges)`, each of the shape of `exponent`.

    Raises:
      ValueError: no steps, or a precision outside (0, 1).

    Reference: Gonzalez, Kozachkov, Zoltowski, Clarkson, Linderman, Predictability enables parallelization of
    nonlinear state space models, 2025, arXiv:2508.16817.

    >>> from jrnn.analysis import predictability
    >>> chaotic, contracting = predictability(0.5, 1000), predictability(-0.5, 1000)
    >>> print(f"{chaotic.horizon:.0f} {chaotic.converges}, {contracting.horizon} {contracting.converges}")
    32 False, inf True
    """
    check_width("steps", steps)
    if not 0 < precision < 1:
        raise ValueError(f"precision must be in (0, 1), got {precision!r}")
    rate = jnp.asarray(exponent, promoted(float, exponent))
    positive = rate > 0
    horizon = jnp.where(positive, -np.log(precision) / jnp.where(positive, rate, 1), jnp.inf)
    # Σ exp(λt) = exp(max(λ, 0)(T − 1)) Σ exp(−|λ| t), whose terms are at most 1; λ = 0 has no closed form
    decay = jnp.maximum(jnp.abs(rate), np.finfo(rate.dtype).tiny)
    total = jnp.where(decay * steps < 1e-4, steps, jnp.expm1(-decay * steps) / jnp.expm1(-decay))
    amplification = jnp.maximum(rate, 0) * (steps - 1) + jnp.log(total)
    return Predictability(horizon, amplification, rate < 0)


def parallelism(
    cell: Any,
    params: Any,
    xs: Any,
    carry: Any = None,
    *,
    probe: int = 128,
    key: Array | None = None,
    method: Newton = Newton(),
) -> Parallelism:
    """Predict whether Newton's method pays for a recurrence, from its first steps.

        iterations ≈ K(m) · (T' / m)ᵖ,   p = log₂ (K(m) / K(m / 2)) in [0, 1]
        T' = min(T, 128 / |λ₁|) if λ₁ < 0, else T,   speedup = T / (iterations · (d + 2))

    d is the depth of the tree of `Associative`, 2 log₂ (T / 16) in each of 16 blocks, one after the other.
    K is counted by solving the first m and m / 2 steps. If the cell forgets, K does not grow with the steps;
    if it is chaotic, it grows in proportion. For four times as many steps as m, the prediction is within a
    factor of 2 for 95 % of the random cells of the tests, whose activations are smooth; a relu that explodes
    later is not foreseen. The speedup counts what depends on each other: on a CPU, where work counts, `Scan`
    is faster.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs, (time, batch..., features).
      carry: initial carry; defaults to `cell.initial_carry`.
      probe: m, steps to look at.
      key: draws the noise; without a key there is none.
      method: the method that is asked about.

    Returns:
      `Parallelism(exponent, iterations, speedup)`; of a batch, for its slowest sequence.

    Raises:
      ValueError: invalid inputs, or a step that `Newton` does not run.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.GRU(4)
    >>> params, xs = cell.init(jax.random.key(0), 3), jax.random.normal(jax.random.key(1), (10_000, 3))
    >>> found = jrnn.analysis.parallelism(cell, params, xs)
    >>> bool(found.exponent < 0), bool(found.iterations < 8), bool(found.pays)
    (True, True, True)
    """
    check_width("probe", probe)
    loop = make_loop(cell, params, xs, carry, key=key)
    steps = check_width("the number of steps", loop.length)
    found = method.advise(loop, probe)
    return Parallelism(*found, steps / (jnp.maximum(found.iterations, 1) * (depth(steps) + 2)))


@jax.custom_jvp
def orthonormalize(z: Array) -> tuple[Array, Array]:
    """QR of possibly linearly dependent columns, and the logarithms of R's diagonal.

        z = Q R,   growthᵢ = ln |R[i, i]|

    If a column depends on earlier ones up to rounding, growth is −∞, and its column of Q is arbitrary. The
    derivative treats that column of z as a constant, where `jnp.linalg.qr` gives NaN.

    Args:
      z: (D, k), k ≤ D.

    Returns:
      `(Q, growth)`, (D, k) and (k,).
    """
    return _triangular(z)


@orthonormalize.defjvp
def _orthonormalize_jvp(primals: Any, tangents: Any) -> Any:
    """With C = Qᵀ dz R⁻¹ and L = tril(C, −1): d growth = diag C, dQ = dz R⁻¹ − Q C + Q (L − Lᵀ)."""
    (z,), (dz,) = primals, tangents
    q, growth = _triangular(z)
    dead = jnp.isneginf(growth)
    # a dead column is a constant: R has the unit column there, and is regular
    r = jnp.where(dead, jnp.eye(z.shape[1], dtype=z.dtype), jnp.triu(q.T @ z))
    dz = jnp.where(dead, 0, dz)
    change = lax.linalg.triangular_solve(r, dz)  # dz R⁻¹
    inside = q.T @ change
    below = jnp.tril(inside, -1)
    dq = change - q @ inside + q @ (below - below.T)
    return (q, growth), (dq, jnp.diagonal(inside))


def _triangular(z: Array) -> tuple[Array, Array]:
    """Q, and the logarithms of R's diagonal: Gram-Schmidt, twice, over panels of columns for LAPACK.

    For a whole matrix LAPACK starts threads, which are up to 25 times slower on a busy machine; with panels
    nearly all work is in matrix products.
    """
    q, growth = z[:, :0], []
    drawn = fixed_normal(1, z.shape, z.dtype)  # replaces dependent columns
    for first in range(0, z.shape[1], PANEL):
        columns = slice(first, first + PANEL)
        panel = z[:, columns]
        found, r = jnp.linalg.qr(panel - q @ (q.T @ panel))
        length = jnp.abs(jnp.diagonal(r))
        dead = length <= ZERO * np.finfo(z.dtype).eps * jnp.linalg.norm(panel, axis=0)
        if first:
            found = jnp.where(dead, drawn[:, columns], found)
            found, r = jnp.linalg.qr(found - q @ (q.T @ found))
            length = length * jnp.abs(jnp.diagonal(r))
        growth.append(jnp.where(dead, -jnp.inf, jnp.log(jnp.where(dead, 1, length))))
        q = jnp.concatenate([q, found], axis=1)
    return q, jnp.concatenate(growth)


@cached
def _measure(cell: Any, count: int, discard: int, every: int) -> Callable[..., Lyapunov]:
    """`(params, carry, xs) -> Lyapunov`."""

    @jax.jit
    def measure(params: Any, carry: Any, xs: Any) -> Lyapunov:
        def step(state: Any, x: Any) -> Any:
            carry, rows = state
            return push_rows(ready, params, carry, x, rows), None

        def interval(state: Any, block: Any) -> Any:
            (carry, rows), _ = lax.scan(step, state, block)
            q, growth = orthonormalize(rows.T)
            return (carry, q.T), growth / every

        ready = hoisted(cell, params, carry, types_of_step(xs))
        steps = len(jax.tree.leaves(xs)[0])
        over = steps % every  # dropped at the start, so that the last step counts
        if over:  # without jit, scan rejects a loop of no steps
            carry, _ = lax.scan(lambda c, x: (ready.step(params, c, x)[0], None), carry, _part(xs, 0, over))
        blocks = jax.tree.map(
            lambda x: x.reshape(steps // every, every, *x.shape[1:]), _part(xs, over, steps)
        )
        start = (carry, start_rows(cell, params, carry, count))
        _, local = lax.scan(interval, start, blocks)
        return _summary(local[-(-max(discard - over, 0) // every) :])

    return measure


def _part(xs: Any, start: int, stop: int) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x)[start:stop], xs)


def _local(ends: Array, every: int) -> Array:
    """Growth per step in each interval, (n, 1), from ln ‖Jₜ … J₁ v‖ at their ends; −∞ once that is zero."""
    dead = jnp.isneginf(ends[1:])
    kept = jnp.where(jnp.isneginf(ends), 0, ends)
    return jnp.where(dead, -jnp.inf, jnp.diff(kept) / every)[:, None]


def _summary(local: Array) -> Lyapunov:
    """Means over time and their standard errors, the largest mean first."""
    dead = jnp.isneginf(local).any(0)
    kept = jnp.where(dead, 0, local)  # so that dead directions have no gradient
    mean = jnp.where(dead, -jnp.inf, kept.mean(0))
    order = jnp.argsort(-mean)
    batches = min(BATCHES, len(local))
    size = len(local) // batches
    means = lax.stop_gradient(kept[len(local) - batches * size :]).reshape(batches, size, -1).mean(1)
    error = means.std(0, ddof=1) / batches**0.5
    return Lyapunov(mean[order], error[order], local[:, order])
