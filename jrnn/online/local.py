"""Eligibility traces: influence within a unit, and signals that say which way its output should move."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._checks import check_whole
from jrnn.online._influence import joined, moved, probed, read_by, started, structure_at
from jrnn.online._rows import Row
from jrnn.online._signals import errors, owners, readings, signals
from jrnn.online.moments import Moment, require_forward


@dataclass(frozen=True)
class EProp:
    """Eligibility propagation (e-prop): traces within units, times the derivative of each step's loss.

        εₜ = Jᵤ εₜ₋₁ + Iᵤ,   gₜ = λₜ εₜ,   λₜ = ∂Lₜ/∂sₜ

    Jᵤ and Iᵤ are the derivatives of the step with every product of weights with something that moves held
    constant, which leaves what passes within a unit: the leak of a neuron, the forget gate of an LSTM, the
    whole of a diagonal recurrence. So weights (m, n) have traces (m, n) for each number of the state of a
    unit. Weights under `fixed` count as weights. λ is the derivative of this step's loss alone, by its own
    readout ("symmetric" e-prop), with the other numbers of the same recurrence held constant. Both are found
    in the traced step, for any cell. What outputs read of sₜ₋₁ past sₜ, as in y = o m, s = (1 − o) m, adds
    its derivative times εₜ₋₁.

    In a `Stack`, λ of a lower layer is differentiated through the layers above at the same step. Parameters
    that do not reach the state, such as those of the readout, have their exact gradient, and so has the part
    of others that acts within the step. The paper filters traces where readouts are leaky; here they are not.

    Raises:
      ValueError: in `Online.init`, a cell whose step has no forward derivative (a custom_vjp).

    Reference: Bellec et al., A solution to the learning dilemma for recurrent networks of spiking neurons,
    2020, Nature Communications 11:3625.

    >>> import jrnn
    >>> jrnn.Online(jrnn.LSTM(8), jrnn.losses.mean_squared_error, jrnn.EProp()).method
    EProp()
    """

    def start(self, moment: Moment) -> Any:
        """The traces before the first step: zero."""
        return _start(self, moment)

    def learn(self, moment: Moment, influence: Any, direct: list[Array], adjoint: Array) -> Any:
        """The traces after a step, and the gradient."""
        del adjoint
        if not influence:
            return influence, direct
        brought, traces = _moved(moment, influence)
        structure, (after, before) = _structure(moment), signals(moment)
        read = [(brought, after)] if before is None else [(brought, after), (influence, before)]
        for memory, signal in read:
            earlier = read_by(structure, moment.rows(memory), moment.rows(signal), moment.theta)
            direct = jax.tree.map(jnp.add, direct, earlier)
        return traces, direct


@dataclass(frozen=True)
class RFLO:
    """Random-feedback local online learning: the traces of `EProp`, and errors fed back by a random matrix.

        εₜ = Jᵤ εₜ₋₁ + Iᵤ,   gₜ = (B ∂Lₜ/∂yₜ) εₜ

    For the paper's units, h ← (1 − 1/τ) h + (1/τ) φ(W h + U x), that is
    ε_ij ← (1 − 1/τ) ε_ij + (1/τ) φ'(uᵢ) hⱼ. B is drawn once, with variance 1 / D for D numbers of the state,
    and reaches those that the outputs or other layers read. Parameters that do not reach the state, such as
    those of the readout, have their exact gradient, as in the paper.

    Args:
      seed: of B.

    Raises:
      ValueError: in `Online.init`, a cell whose step has no forward derivative (a custom_vjp).

    Reference: Murray, Local online learning in recurrent networks with random feedback, 2019, eLife 8:e43299.

    >>> import jrnn
    >>> jrnn.Online(jrnn.LeakyRNN(8), jrnn.losses.mean_squared_error, jrnn.RFLO()).method
    RFLO(seed=0)
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("seed", self.seed)

    def start(self, moment: Moment) -> Any:
        """The traces before the first step: zero."""
        return _start(self, moment)

    def learn(self, moment: Moment, influence: Any, direct: list[Array], adjoint: Array) -> Any:
        """The traces after a step, and the gradient."""
        del adjoint
        if not influence:
            return influence, direct
        _, traces = _moved(moment, influence)
        structure = _structure(moment)
        gradient = read_by(structure, moment.rows(traces), moment.rows(self._feedback(moment)), moment.theta)
        stored = {leaf.number for leaf in structure.leaves}
        return traces, [gradient[n] if n in stored else leaf for n, leaf in enumerate(direct)]

    def _feedback(self, moment: Moment) -> Array:
        """Errors of the outputs, fed back by a random matrix to the numbers that outputs read."""
        outputs, found = readings(moment)
        owner, error = owners(outputs), errors(moment)
        seen = np.isin(owner, [leaf for reading in found for leaf in reading.after])
        for reading in found:
            seen |= reading.before
        shape = error.shape[-1], len(owner)
        matrix = jax.random.normal(jax.random.key(self.seed), shape, error.dtype) / np.sqrt(len(owner))
        return error @ jnp.where(seen, matrix, 0)


def _start(method: Any, moment: Moment) -> Any:
    theta, v, row = moment.types()
    require_forward(method, moment, moment.derivative(v, row))
    return jax.tree.map(moment.started, started(_structure(moment), theta, v))


def _structure(moment: Moment) -> Any:
    return moment.structure(None, local=True)


def _moved(moment: Moment, influence: Any) -> tuple[Any, Any]:
    """J P and J P + I, of the step whose products with weights are held constant."""

    def after(v: Array, row: Row, before: tuple[Any, Any]) -> tuple[Any, Any]:
        derivative = moment.derivative(v, row)
        structure = structure_at(derivative, moment.theta, v, row, (None, True))
        factors = probed(structure, derivative, moment.state_step, (moment.theta, v, row))
        brought = moved(structure, before[0], factors)
        return brought, joined(structure, brought, factors)

    found: tuple[Any, Any] = moment.moved(after, (influence, influence))
    return found
