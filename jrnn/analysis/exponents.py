"""Lyapunov exponents: how fast neighbouring trajectories part, and what that says of a network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jrnn._alignment import promoted
from jrnn._caching import cached
from jrnn._checks import check_lag, check_width
from jrnn.analysis.jacobians import checked_directions, push_rows, start_rows
from jrnn.analysis.states import begin, fixed_normal, to_vector
from jrnn.unrolling._hoisting import hoisted, types_of_step

BATCHES = 20  # of the standard error
ZERO = 8  # roundings that are left of a direction where nothing is
PANEL = 32  # columns that LAPACK orthonormalises at a time, few enough for one thread
FLOAT32 = float(np.finfo(np.float32).eps)


class Lyapunov(NamedTuple):
    """Lyapunov exponents, in nats per step, the largest first.

    Fields:
      exponents: (k,); −∞ of a direction that a step takes to zero.
      standard_error: (k,), of the mean over time; NaN of a single interval, and no gradient.
      local: (n, k), growth in each interval between orthonormalisations, in nats per step.
    """

    exponents: Array
    standard_error: Array
    local: Array

    @property
    def entropy(self) -> Array:
        """(), Σ max(λᵢ, 0), in nats per step: what the dynamics make of new information.

        By Pesin's formula the Kolmogorov-Sinai entropy; of fewer than all positive exponents a lower bound.
        """
        return jnp.maximum(self.exponents, 0).sum()

    @property
    def dimension(self) -> Array:
        """(), d = j + (λ₁ + … + λⱼ) / |λⱼ₊₁|, j the most for which the sum is not negative: Kaplan-Yorke.

        The dimension of the attractor, as it is conjectured. Of exponents that do not sum below zero, k: then
        more of them are needed, unless they are all.
        """
        sums = jnp.cumsum(self.exponents)
        whole = jnp.sum(jnp.cumprod(sums >= 0))
        at = jnp.minimum(whole, len(sums) - 1)
        kept = jnp.where(whole > 0, sums[jnp.maximum(whole - 1, 0)], 0)
        part = jnp.where(whole < len(sums), kept / jnp.maximum(-self.exponents[at], kept), 0)
        return whole + part


class Predictability(NamedTuple):
    """Horizon over which a state can be foretold, and what that means for evaluation in parallel over time.

    Fields:
      horizon: steps until an error of the given precision has grown to the size of the state.
      log_amplification: ln of how many times an error of every single step is found in the states.
      converges: bool, whether evaluation of all steps at once takes few iterations.
    """

    horizon: Array
    log_amplification: Array
    converges: Array


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
) -> Lyapunov:
    """Lyapunov exponents of a cell along a trajectory: Benettin's method.

        Jₜ Qₜ₋₁ = Qₜ Rₜ,   λᵢ = (1 / T) Σₜ ln |Rₜ[i, i]|,   Jₜ = ∂hₜ/∂hₜ₋₁

    λ₁ > 0: neighbouring states part and gradients explode. λ₁ < 0: states forget how they began, and
    gradients vanish, with exp(λ₁) per step. exp(λ₁ + … + λᵢ) is how volumes of i dimensions grow. k exponents
    take k Jacobian-vector products and one QR a step; the largest alone, the default, is cheap. Nothing of
    size T · D² is kept. The start is random but the same at every call.

    It can be traced, and differentiated through the QR: Σ λᵢ² is the penalty of gradient flossing. A
    direction that any interval takes to zero (dead relus), or so far below the others that rounding hides
    it, has the exponent −∞, whose gradient is zero; leave it out of a sum with
    `jnp.where(jnp.isfinite(λ), λ, 0)`. Of a large network that saturates, the last exponents are seen in
    float64 alone.

    The standard error is that of the means of up to 20 equal stretches of time, as if these were independent:
    it is too small where a stretch is shorter than what the dynamics remember.

    QR at every n-th step alone is faster, and gives the same as long as directions can still be told apart:
    keep every · (λ₁ − λₖ) below 8 in float32, 25 in float64. A QR of 256 exponents costs about four times as
    much as their products.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs of one sequence, (time, features): of a batch, `xs[:, b]`.
      carry: carry to start from; a new one if left out.
      exponents: k, how many, from the largest; `None` for all.
      discard: first steps that do not count, while the state reaches its attractor and Q turns the right way;
        and those that are left over by `every`.
      every: steps from one QR to the next.
      key: draws the noise; without one there is none.

    Returns:
      `Lyapunov(exponents, standard_error, local)`, with its `dimension` and `entropy`.

    Raises:
      ValueError: more exponents than the state has entries, too few steps, or as of `begin`.

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
    return _measure(cell, count, discard, every)(params, carry, xs)


def predictability(exponent: Any, steps: int, precision: float = FLOAT32) -> Predictability:
    """Horizon over which a state can be foretold, and whether T steps can be evaluated in parallel.

        horizon = ln(1 / precision) / λ₁ where λ₁ > 0, else ∞
        amplification = Σₜ exp(λ₁ t),   t = 0 … T − 1

    An error grows as exp(λ₁ t). After `horizon` steps one of relative size `precision` is as large as the
    state, and nothing that was computed from there on could be told from another trajectory.

    Newton's method (DEER) guesses all T states at once, and corrects the errors of all steps together. What
    is left of these shows up to `amplification` times as large in the states. Where λ₁ < 0 that is at most
    1 / (1 − exp(λ₁)), however large T is, and few iterations do: it converges. Where λ₁ > 0 it explodes with
    T, and iterations become as many as there are steps: then run step by step. Near 0 it depends on T.

    Args:
      exponent: λ₁, in nats per step, the first of `lyapunov`; any shape.
      steps: T, at least 1.
      precision: relative, of the state: rounding of float32 if left out.

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


@jax.custom_jvp
def orthonormalise(z: Array) -> tuple[Array, Array]:
    """QR of columns that may depend on each other, and the logarithms of R's diagonal.

        z = Q R,   growthᵢ = ln |R[i, i]|

    Where a column holds nothing new, to rounding, growth is −∞, and an arbitrary column of Q stands in. In
    the derivative that column of z is a constant, where `jnp.linalg.qr` gives NaN.

    Args:
      z: (D, k), k ≤ D.

    Returns:
      `(Q, growth)`, (D, k) and (k,).
    """
    return _triangular(z)


@orthonormalise.defjvp
def _orthonormalise_jvp(primals: Any, tangents: Any) -> Any:
    """With C = Qᵀ dz R⁻¹ and L = tril(C, −1): d growth = diag C, dQ = dz R⁻¹ − Q C + Q (L − Lᵀ)."""
    (z,), (dz,) = primals, tangents
    q, growth = _triangular(z)
    dead = jnp.isneginf(growth)
    # a dead column is a constant of its own: R has the unit column there, and is regular
    r = jnp.where(dead, jnp.eye(z.shape[1], dtype=z.dtype), jnp.triu(q.T @ z))
    dz = jnp.where(dead, 0, dz)
    change = lax.linalg.triangular_solve(r, dz)  # dz R⁻¹
    inside = q.T @ change
    below = jnp.tril(inside, -1)
    dq = change - q @ inside + q @ (below - below.T)
    return (q, growth), (dq, jnp.diagonal(inside))


def _triangular(z: Array) -> tuple[Array, Array]:
    """Q, and the logarithms of R's diagonal: Gram-Schmidt, twice, of panels that LAPACK takes one by one.

    Of a whole matrix LAPACK starts threads, which are up to 25 times slower on a machine that does anything
    else; in panels nearly all work is in products.
    """
    q, growth = z[:, :0], []
    drawn = fixed_normal(1, z.shape, z.dtype)  # stands in where nothing is
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
            q, growth = orthonormalise(rows.T)
            return (carry, q.T), growth / every

        ready = hoisted(cell, params, carry, types_of_step(xs))
        steps = len(jax.tree.leaves(xs)[0])
        over = steps % every  # the first steps, so that the last one counts
        if over:  # without jit, a loop of no steps is refused
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


def _summary(local: Array) -> Lyapunov:
    """Means over time and their standard errors, the largest mean first."""
    dead = jnp.isneginf(local).any(0)
    kept = jnp.where(dead, 0, local)  # the mean of what is left of a dead direction would have a gradient
    mean = jnp.where(dead, -jnp.inf, kept.mean(0))
    order = jnp.argsort(-mean)
    batches = min(BATCHES, len(local))
    size = len(local) // batches
    means = lax.stop_gradient(kept[len(local) - batches * size :]).reshape(batches, size, -1).mean(1)
    error = means.std(0, ddof=1) / batches**0.5
    return Lyapunov(mean[order], error[order], local[:, order])
