"""A report on a trained model: gradients, spectra, gates and memory, with verdicts in words."""

import math
import textwrap
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from jrnn._checks import require_cell
from jrnn.analysis.exponents import Lyapunov, Predictability, lyapunov, predictability
from jrnn.analysis.gates import GateStatistics, gate_statistics, has_gates
from jrnn.analysis.gradients import GradientFlow, Sensitivity, gradient_flow, sensitivity
from jrnn.analysis.jacobians import Spectrum, spectra, spectrum
from jrnn.analysis.penalties import recurrent_matrices
from jrnn.analysis.states import begin, to_vector
from jrnn.data import Batch
from jrnn.training.objectives import Loss
from jrnn.unrolling._boundary import check_inputs

PROBES = 32  # for the sensitivity of a state with more entries than EXACT
EXACT = 128
JACOBIANS = 5  # number of steps
EXPONENTS = 8
WIDTH = 110  # characters of a printed line


class Report(NamedTuple):
    """Result of `inspect`; it prints as a page of text.

    Fields:
      model: the cell.
      steps: number of steps of each sequence.
      flow: result of `gradient_flow` for all sequences.
      sensitivity: of the last state to earlier ones; like all fields below but gates, for the first sequence.
      lyapunov: result of `lyapunov`, the largest exponents.
      predictability: result of `predictability` for the largest exponent.
      matrices: spectra of the recurrent matrices `w_hh` by path, (gates, hidden).
      jacobians: spectra of ∂hₜ/∂hₜ₋₁ at a few steps, (steps, D).
      gates: result of `gate_statistics` for all sequences; empty if the step names nothing.
    """

    model: Any
    steps: int
    flow: GradientFlow
    sensitivity: Sensitivity
    lyapunov: Lyapunov
    predictability: Predictability
    matrices: dict[str, Spectrum]
    jacobians: Spectrum
    gates: dict[str, GateStatistics]

    @property
    def verdicts(self) -> dict[str, str]:
        """The meaning of the numbers, one sentence each."""
        flows, lasting = self.flow.verdicts, self.flow.lasting
        found = {
            f"gradient of the last step's loss with respect to {n}": f"{flows[n]}{_beyond(lasting[n])}"
            for n in flows
        }
        found["gradient of the last state"] = str(self.sensitivity.verdict)
        found["memory"] = self._memory()
        found["dynamics"] = self._dynamics()
        for name, one in self.matrices.items():
            radii = ", ".join(f"{radius:.3g}" for radius in np.atleast_1d(one.spectral_radius))
            norms = ", ".join(f"{norm:.3g}" for norm in np.atleast_1d(one.norm))
            found[f"recurrent matrix {name}"] = f"spectral radius {radii}; largest singular value {norms}"
        radius = np.asarray(self.jacobians.spectral_radius)
        found["Jacobian of a step"] = (
            f"spectral radius {radius.min():.3g} to {radius.max():.3g}, stretches by "
            f"{np.max(self.jacobians.norm):.3g} at most"
        )
        for name, gate in self.gates.items():
            found[f"gate {name}"] = _gate(name, gate)
        if not self.gates:
            found["gates"] = "none: the step names no values with jax.ad_checkpoint.checkpoint_name"
        return found

    def __repr__(self) -> str:
        said = [f"{name}: {verdict}" for name, verdict in self.verdicts.items()]
        lines = [f"{self.model}", f"{self.steps} steps, loss {float(self.flow.loss):.4g}", "", *said]
        return "\n".join(
            part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="    ") or [""]
        )

    def _memory(self) -> str:
        log = np.asarray(jax.device_get(self.sensitivity.log_state), np.float64)
        faded = np.flatnonzero(log[::-1] < log[-1] - math.log(100))
        if not faded.size:
            return f"the last state still depends on the state {len(log) - 1} steps before by more than 1 %"
        return f"the last state depends on the state {faded[0]} steps before by less than 1 %"

    def _dynamics(self) -> str:
        exponent, error = (float(values[0]) for values in jax.device_get(self.lyapunov[:2]))
        rate = f"largest Lyapunov exponent {exponent:.3g} ± {error:.1g} nats per step"
        still = max(1 / self.steps, 2 * error)  # a factor below e over all steps counts as no growth
        if exponent > still:
            ahead = f"after {float(jax.device_get(self.predictability.horizon)):.0f} steps"
            bounded = "chaotic, if states stay bounded"
            return f"{bounded}: {rate}; a rounding error grows to the size of the state {ahead}"
        if exponent < -still:
            return f"contracting: {rate}; the initial state is forgotten, all steps could run in parallel"
        return f"neutral: {rate}; neighboring states neither diverge nor converge"

    def as_json(self) -> dict[str, Any]:
        """Convert to numbers, lists and strings, with None for numbers that are not finite."""
        gates = {
            name: {"mean": g.mean, "low": g.low, "high": g.high, "time_scale": g.time_scale}
            for name, g in self.gates.items()
        }
        state, inputs = self.sensitivity
        exponents, error, _ = self.lyapunov
        found = {
            "model": str(self.model),
            "steps": self.steps,
            "verdicts": self.verdicts,
            "loss": self.flow.loss,
            "gradient_norms": self.flow.totals,
            "gradient_by_lag": self.flow.lasting,
            "sensitivity": {"log_state": state, "log_inputs": inputs},
            "lyapunov": {"exponents": exponents, "standard_error": error},
            "recurrent_matrices": {name: _spectrum(one) for name, one in self.matrices.items()},
            "jacobians": _spectrum(self.jacobians),
            "gates": gates,
        }
        return dict(_plain(found))


def inspect(
    cell: Any,
    params: Any,
    batch: Batch,
    loss: Loss,
    carry: Any = None,
    *,
    exponents: int = EXPONENTS,
) -> Report:
    """Analyze a trained model: everything that `jrnn inspect` prints and draws.

    Gradients of the loss and gates are measured on all sequences of the batch, everything else on the first.
    The sensitivity of states with more than 128 entries is estimated by 32 random directions, and Jacobians
    are computed at 5 steps.

    Args:
      cell: a cell, such as a `Stack`.
      params: its parameters.
      batch: inputs and targets, (time, batch, features), without lengths and resets.
      loss: `PerStep(...)`, `AtLast(...)` or any `Loss`.
      carry: initial carry of the first sequence; defaults to `cell.initial_carry`.
      exponents: number of Lyapunov exponents, from the largest.

    Returns:
      A `Report`: `.verdicts` in words, `.as_json()` for a file; `jrnn.plots.report` draws it.

    Raises:
      TypeError: a layer, or not a cell.
      ValueError: lengths or resets, fewer than two steps, no batch axis, a gradient that is not finite, or
        invalid inputs.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Stack((jrnn.Elman(4), jrnn.Dense(1)))
    >>> batch = jrnn.Batch(jax.random.normal(jax.random.key(1), (30, 2, 3)), jnp.zeros((30, 2, 1)))
    >>> loss = jrnn.PerStep(jrnn.losses.mean_squared_error)
    >>> report = jrnn.analysis.inspect(cell, cell.init(jax.random.key(0), 3), batch, loss)
    >>> report.verdicts["dynamics"].split(":")[0]
    'contracting'
    """
    require_cell("inspect: cell", cell)
    if batch.lengths is not None:
        raise ValueError("inspect: lengths must be None, pass sequences of one length")
    if batch.resets is not None:
        raise ValueError("inspect: resets must be None, pass sequences without one")
    steps, shape = check_inputs(cell, batch.xs)
    if steps < 2 or not shape:
        given = jax.tree.leaves(batch.xs)[0].shape
        raise ValueError(f"inspect: xs has shape {given}, needs (time, batch, ...) with at least two steps")
    xs = jax.tree.map(lambda leaf: leaf[:, 0], batch.xs)
    size = to_vector(cell, params, begin(cell, params, xs, carry)).size
    flow = gradient_flow(cell, params, batch, loss)
    for name, total in flow.totals.items():
        if not np.isfinite(total[-1]):
            raise ValueError(f"inspect: the gradient of {name} is NaN or inf: does the state diverge?")
    found = lyapunov(cell, params, xs, carry, exponents=min(exponents, size), discard=steps // 5)
    matrices = {name: spectrum(blocks) for name, blocks in recurrent_matrices(params).items()}
    return Report(
        cell,
        steps,
        flow,
        sensitivity(cell, params, xs, carry, probes=PROBES if size > EXACT else None),
        found,
        predictability(found.exponents[0], steps),
        matrices,
        spectra(cell, params, xs, carry, every=max(1, steps // JACOBIANS)),
        gate_statistics(cell, params, batch.xs) if has_gates(cell, params, batch.xs) else {},
    )


def _beyond(norms: NDArray[np.float64]) -> str:
    """Say from where on the gradient overflows, as in a long chaotic sequence."""
    lost = np.flatnonzero(~np.isfinite(norms))
    return f"; it overflows from {lost[0]} steps back" if lost.size else ""


def _gate(name: str, gate: GateStatistics) -> str:
    low, high, mean = (float(np.mean(given)) for given in jax.device_get((gate.low, gate.high, gate.mean)))
    text = f"mean {mean:.2f}, below a tenth at {low:.0%} of the steps and above nine tenths at {high:.0%}"
    if name.startswith("f"):  # a forget gate multiplies the memory
        scale = np.asarray(jax.device_get(gate.time_scale), np.float64)
        text += f"; keeps for {np.median(scale):.3g} steps (the median unit), at most {np.max(scale):.3g}"
    return text.replace("%", " %")


def _spectrum(one: Spectrum) -> dict[str, Any]:
    values = np.asarray(one.eigenvalues)
    return {"real": values.real, "imag": values.imag, "singular_values": one.singular_values}


def _plain(value: Any) -> Any:
    """Convert a tree of arrays to JSON values."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, Array | np.ndarray | np.generic):
        return _plain(np.asarray(jax.device_get(value), np.float64).tolist())
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
