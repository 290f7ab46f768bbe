"""Gradients through time: of a loss with respect to every state, of the last state, and a verdict."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from jrnn._alignment import promoted
from jrnn._caching import cached
from jrnn._checks import check_choice, check_width, require_cell
from jrnn.analysis._probing import loop_names, norms_of_states
from jrnn.analysis._products import log_norm, products_after, pull_rows, states_before
from jrnn.analysis.states import begin, fixed_normal, to_vector
from jrnn.cell import is_layer
from jrnn.data import Batch
from jrnn.training import steps as training
from jrnn.training.objectives import Loss
from jrnn.unrolling import Method, Scan
from jrnn.unrolling._other_loops import hoisted, types_of_step

STEADY = math.log(10) / 100  # less than a factor of 10 in 100 steps


class GradientFlow(NamedTuple):
    """Result of `gradient_flow`: norms of the gradients of a loss with respect to every state.

    Fields:
      loss: ().
      norms: by path of the state: (time, batch...).
      by_lag: the same through the last output alone: (lags, batch...), NaN before the start of a sequence.
    """

    loss: Array
    norms: dict[str, Array]
    by_lag: dict[str, Array]

    @property
    def totals(self) -> dict[str, NDArray[np.float64]]:
        """For each state, (time,): the norms over all sequences, √ Σ norms²."""
        squares = {name: np.square(_on_host(n)) for name, n in self.norms.items()}
        return {name: np.sqrt(s.sum(tuple(range(1, s.ndim)))) for name, s in squares.items()}

    @property
    def lasting(self) -> dict[str, NDArray[np.float64]]:
        """For each state, (lags,): the root mean square of `by_lag` over the sequences.

        With sequences of different lengths, the change from one lag to the next is taken over those that have
        both, so that the end of a sequence does not look like a change of the gradient.
        """
        return {name: _linked(np.asarray(norms, np.float64)) for name, norms in self.by_lag.items()}

    @property
    def verdicts(self) -> "dict[str, Verdict]":
        """The verdict for each state, from the gradient of the last output.

        The gradient of a loss at every step would hide it, since every step contributes again.
        """
        lasting = {name: np.where(np.isfinite(norm), norm, 0)[::-1] for name, norm in self.lasting.items()}
        with np.errstate(divide="ignore"):
            return {name: verdict(np.log(norm)) for name, norm in lasting.items()}


def gradient_flow(
    model: Any,
    params: Any,
    batch: Batch,
    loss: Loss,
    carry: Any = None,
    *,
    key: Array | None = None,
    method: Scan = Scan(),
) -> GradientFlow:
    """Compute gradients of a loss with respect to every state at every step, and of its last step alone.

        λₜ = ∂L/∂hₜ = ∂L/∂yₜ · ∂yₜ/∂hₜ + λₜ₊₁ · ∂hₜ₊₁/∂hₜ,   norms = ‖λₜ‖₂
        μ_T = λ_T,   μₜ = μₜ₊₁ · ∂hₜ₊₁/∂hₜ,                  by_lagₖ = ‖μ_T₋ₖ‖₂

    λ is the total derivative of the mean loss: through the output of the same step, the layers above, and all
    later steps. It is 0 at invalid steps. If every step has a loss, ‖λₜ‖ mostly shows the loss of step t
    itself. μ shows the transport through time, and determines the `verdicts`: it starts at T, the last step
    of a sequence with a gradient (the first for a backward layer), and flows through states only. The cost is
    two forward and backward passes, for any model that this loss can train.

    Args:
      model: a cell or a layer.
      params: its parameters.
      batch: inputs and targets, (time, batch..., features).
      loss: `PerStep(...)`, `AtLast(...)` or any `Loss`.
      carry: initial carry.
      key: draws the noise; without a key there is none.
      method: how the recurrence is run.

    Returns:
      `GradientFlow(loss, norms, by_lag)`, with the norms of the adjoints of each state, (time, batch...), at
      the step of their input: "h" and "c" for an LSTM, "cells[0].h" for a `Stack`, "forward.h" and
      "backward.h" for a `Bidirectional`; by lag, from the last output backwards, NaN before the start of a
      sequence.

    Raises:
      TypeError: the model is neither a cell nor a layer.
      ValueError: it has no state.

    Reference: Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, 2013,
    arXiv:1211.5063.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Elman(1, activation="identity")  # w_hh is 1 or -1
    >>> params, ones = cell.init(jax.random.key(0), 1), jnp.ones((3, 1, 1))
    >>> loss = jrnn.AtLast(lambda ys, targets, mask: ys.sum())
    >>> jrnn.analysis.gradient_flow(cell, params, jrnn.Batch(ones, ones), loss).norms["h"].ravel().tolist()
    [1.0, 1.0, 1.0]
    """
    if not is_layer(model):
        require_cell("model", model)
    found = _flow(model, loss, method)(params, batch, carry, key)
    if not found.norms:
        raise ValueError(f"{model} has no real-valued state to analyze")
    return found


@cached
def _flow(model: Any, loss: Loss, method: Scan) -> Callable[..., GradientFlow]:
    names: list[str] = []  # set by the trace, in the order of the model, since jit sorts the keys of a dict

    @jax.jit
    def flow(params: Any, batch: Batch, carry: Any, key: Any) -> tuple[Array, list[tuple[Array, Array]]]:
        def run(by: Any) -> Array:
            ys = training.model_function(model, by)(params, batch, carry, key)[1]
            return loss.mean(ys, batch)

        value, loops = norms_of_states(run, method)
        found = {
            f"{name}.{leaf}".lstrip("."): (loop.whole[leaf], loop.by_lag[leaf])
            for name, loop in zip(loop_names(model, len(loops)), loops, strict=True)
            for leaf in loop.whole
        }
        names[:] = found
        return value, list(found.values())

    def named(*arguments: Any) -> GradientFlow:
        value, norms = flow(*arguments)
        whole, by_lag = ({n: pair[i] for n, pair in zip(names, norms, strict=True)} for i in (0, 1))
        return GradientFlow(value, whole, {name: _where_there(norms) for name, norms in by_lag.items()})

    return named


def _where_there(norms: Array) -> Any:
    """Replace −1 by NaN on the host, since `jax_debug_nans` raises for a NaN from a device."""
    if isinstance(norms, jax.core.Tracer):
        return jnp.where(norms < 0, jnp.nan, norms)
    on_host = jax.device_get(norms)
    return np.where(on_host < 0, np.asarray(np.nan, on_host.dtype), on_host)


def _linked(norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root mean square over all axes but the lags, with rows of different lengths linked lag by lag."""
    squares = np.square(norms.reshape(len(norms), -1))
    there = ~np.isnan(squares)
    found = [math.sqrt(squares[0][there[0]].mean()) if there[0].any() else 0.0]
    with np.errstate(invalid="ignore", over="ignore"):
        for before, now, both in zip(squares, squares[1:], there[1:], strict=False):
            start, end = before[both].sum(), now[both].sum()
            found.append(found[-1] * np.sqrt(end / start) if start else np.sqrt(end / max(both.sum(), 1)))
    return np.array(found)


def _on_host(values: Any) -> NDArray[np.float64]:
    return np.asarray(jax.device_get(values), np.float64)


class Sensitivity(NamedTuple):
    """Result of `sensitivity`: natural logarithms, since the norms soon over- or underflow.

    Fields:
      log_state: (T,), log ‖∂h_T/∂h_t‖ for the states after step t = 1 … T.
      log_inputs: (T,), log ‖∂h_T/∂x_t‖; None for tokens.
    """

    log_state: Array
    log_inputs: Array | None

    @property
    def state(self) -> NDArray[np.float64]:
        """‖∂h_T/∂h_t‖, (T,)."""
        return np.exp(_on_host(self.log_state))

    @property
    def inputs(self) -> NDArray[np.float64] | None:
        """‖∂h_T/∂x_t‖, (T,)."""
        return None if self.log_inputs is None else np.exp(_on_host(self.log_inputs))

    @property
    def verdict(self) -> "Verdict":
        """The verdict for the gradient of the last state."""
        return verdict(self.log_state)


def sensitivity(
    cell: Any,
    params: Any,
    xs: Any,
    carry: Any = None,
    *,
    norm: str = "frobenius",
    probes: int | None = None,
    key: Array | None = None,
    method: Method = Scan(),
) -> Sensitivity:
    """Measure how much the last state depends on every earlier state and input.

        ∂h_T/∂h_t = J_T J_T₋₁ … J_t₊₁,   ∂h_T/∂x_t = ∂h_T/∂h_t · ∂h_t/∂x_t

    The product is accumulated from the last step to the first, with rescaling; no Jacobian is built, and T·D
    numbers are stored. With `probes`, k Gaussian vectors v are propagated instead of D rows, with
    E‖v M‖² = ‖M‖²_F: an estimate with a relative error of about √(2/k) in the worst case.

    Args:
      cell: any cell.
      params: its parameters.
      xs: inputs of one sequence, (time, features).
      carry: initial carry.
      norm: "frobenius", or "spectral" (the largest singular value, at a cost of D³ per step), to which
        `log_bound` applies.
      probes: k; None for the exact value.
      key: draws the noise of the cell; without a key there is none.
      method: as for `growth`.

    Returns:
      `Sensitivity(log_state, log_inputs)`; `.state` and `.inputs` are the norms themselves in float64.

    Raises:
      ValueError: xs with a batch axis, a cell without state, or spectral norms with probes.

    Reference: Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, 2013,
    arXiv:1211.5063, equation 5.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Elman(4, activation="identity")
    >>> params = cell.init(jax.random.key(0), 2)
    >>> params = params._replace(w_hh=0.5 * params.w_hh)
    >>> jrnn.analysis.sensitivity(cell, params, jnp.ones((4, 2)), norm="spectral").state.round(4).tolist()
    [0.125, 0.25, 0.5, 1.0]
    """
    check_choice("norm", norm, ("frobenius", "spectral"))
    if probes is not None:
        check_width("probes", probes)
        if norm == "spectral":
            raise ValueError("probes must be None for spectral norms, which need all directions")
    return _sensitivity(cell, norm, probes, method)(params, xs, begin(cell, params, xs, carry, key))


@cached
def _sensitivity(cell: Any, norm: str, probes: int | None, method: Method) -> Callable[..., Sensitivity]:
    def run(params: Any, xs: Any, carry: Any) -> Sensitivity:
        h = to_vector(cell, params, carry)
        size, dtype = h.size, promoted(h.dtype, jnp.float32)  # bfloat16 cannot hold a sum of logarithms
        rows = jnp.eye(size, dtype=dtype)
        if probes is not None:
            rows = fixed_normal(0, (probes, size), dtype) / math.sqrt(probes)

        ready = hoisted(cell, params, carry, types_of_step(xs))

        def forward(carry: Any, x: Any) -> tuple[Any, Any]:
            return ready.step(params, carry, x)[0], carry

        def backward(state: tuple[Array, Array], step: Any) -> tuple[Any, Any]:
            rows, log_scale = state
            logs = [log_norm(rows, norm) + log_scale]
            pulled, by_x = pull_rows(ready, params, step, rows.astype(h.dtype))
            rows = pulled.astype(dtype)
            logs += [] if by_x is None else [log_norm(by_x.astype(dtype), norm) + log_scale]
            largest = jnp.max(jnp.abs(rows))
            scale = jnp.where(largest > 0, largest, 1)
            return (rows / scale, log_scale + jnp.log(scale)), logs

        if isinstance(method, Scan):
            before = jax.lax.scan(forward, carry, xs)[1]
            _, logs = jax.lax.scan(backward, (rows, jnp.zeros((), dtype)), (before, xs), reverse=True)
        else:
            before = states_before(cell, params, carry, xs, method)
            later, scales = products_after(cell, params, before, xs)
            _, logs = jax.vmap(backward)(((rows @ later).astype(dtype), scales), (before, xs))
        return Sensitivity(*logs, *[None] * (2 - len(logs)))

    return jax.jit(run)


def log_bound(recurrent: Any, steps: int, slope: float = 1.0) -> NDArray[np.float64]:
    """Upper bound of ‖∂h_T/∂h_t‖ of a simple recurrent network.

        log ‖∂h_T/∂h_t‖₂ ≤ (T − t) log(γ σ_max)

    γσ_max < 1 is sufficient for gradients to vanish, γσ_max > 1 necessary for them to explode.

    Args:
      recurrent: (hidden, hidden), w_hh of an `Elman`; σ_max is its largest singular value.
      steps: T.
      slope: γ, the largest slope of the activation: 1 for tanh and relu, 1/4 for the sigmoid.

    Returns:
      (T,), the bound for t = 1 … T, to compare with `sensitivity(..., norm="spectral").log_state`.

    Raises:
      ValueError: a matrix that is not square.

    Reference: Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, 2013,
    arXiv:1211.5063, section 2.1.

    >>> import jax.numpy as jnp
    >>> from jrnn.analysis import log_bound
    >>> log_bound(2 * jnp.eye(3), 3, slope=0.25).round(3).tolist()
    [-1.386, -0.693, 0.0]
    """
    matrix = _on_host(recurrent)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"recurrent must be a square matrix, got shape {matrix.shape}")
    with np.errstate(divide="ignore"):
        per_step = np.log(slope * np.linalg.norm(matrix, 2))
    lags = np.arange(steps - 1, -1, -1)
    return np.where(lags > 0, lags * per_step, 0.0)


class Verdict(NamedTuple):
    """Classification of a gradient on its way back through time; `str` puts it in words.

    Fields:
      kind: "vanishing", "exploding", "steady", or "none" if there is no gradient at all.
      rate: factor per step backwards.
    """

    kind: str
    rate: float

    def __str__(self) -> str:
        if self.kind == "none":
            return "no gradient at all"
        text = f"{self.kind}: a factor of {self.rate:.3g} per step backwards"
        if self.kind == "steady" or self.rate == 0:
            return text
        steps, change = math.log(10) / abs(math.log(self.rate)), "a tenth" if self.rate < 1 else "tenfold"
        return f"{text}, {change} every {steps:.3g} steps"


def verdict(log_norms: Any) -> Verdict:
    """Classify a gradient as vanishing, exploding or steady on its way back through time.

        log norm_t ≈ a − (T − t) · log(1 / rate)   by least squares over the t where the norm is not 0

    A gradient is steady if it changes by less than a factor of 10 in 100 steps.

    Args:
      log_norms: (T,), natural logarithms of norms at t = 1 … T, such as `sensitivity(...).log_state`.

    Returns:
      The kind and the rate per step, which `str` puts in words.

    Raises:
      ValueError: not a vector of at least two steps, or a norm that is NaN or infinite.

    >>> import jax.numpy as jnp
    >>> from jrnn.analysis import verdict
    >>> print(verdict(jnp.arange(50) * jnp.log(2)))
    vanishing: a factor of 0.5 per step backwards, a tenth every 3.32 steps
    """
    logs = _on_host(log_norms)
    if logs.ndim != 1 or logs.size < 2:
        raise ValueError(f"log_norms has shape {logs.shape}, needs (T,) with at least two steps")
    if np.isnan(logs).any() or (logs == np.inf).any():
        raise ValueError(f"log_norms is not finite at step {np.flatnonzero(~(logs < np.inf))[0]}")
    steps = np.flatnonzero(np.isfinite(logs))
    if not steps.size:
        return Verdict("none", math.nan)
    if steps.size == 1:
        return Verdict("vanishing", 0.0)
    slope = np.polyfit(steps, logs[steps], 1)[0]
    kind = "steady" if abs(slope) < STEADY else "vanishing" if slope > 0 else "exploding"
    return Verdict(kind, float(np.exp(-slope)))
