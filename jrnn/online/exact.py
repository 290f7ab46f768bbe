"""Real-time recurrent learning: the influence of all parameters on the state, whole or in part."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import check_width
from jrnn.online._influence import probed, read_by, renewed, started
from jrnn.online._signals import held_slopes
from jrnn.online.moments import Moment


@dataclass(frozen=True)
class RTRL:
    """Real-time recurrent learning: the exact gradient, as the influence of every parameter on the state.

        Pₜ = Jₜ Pₜ₋₁ + Iₜ,   Jₜ = ∂sₜ/∂sₜ₋₁,   Iₜ = ∂sₜ/∂θ,   gₜ = ∂Lₜ/∂θ + ∂Lₜ/∂sₜ₋₁ Pₜ₋₁

    With fixed parameters the sum over t is the gradient of backpropagation through time. For a dense network
    of D numbers and p parameters memory is p · D for each row and a step D² · p multiplications, so D⁴.

    **Diagonal and linear cells** take O(p). A parameter of one unit of an `IndRNN`, `MinGRU` or `LRU` never
    reaches another, so P has 1, 1 or 2 numbers for each parameter, and J one or two probes. This is found in
    the traced step, for every parameter by itself, not declared: in a `Stack` of such layers the parameters
    of one layer have the numbers of their unit and of all layers above.

    Reference: Williams, Zipser, A learning algorithm for continually running fully recurrent neural networks,
    1989, Neural Computation 1:270; Zucchet, Meier, Schug, Mujika, Sacramento, Online learning of long-range
    dependencies, 2023, arXiv:2305.15947 (diagonal).

    >>> import jax, jax.numpy as jnp, jrnn
    >>> loss, x = jrnn.losses.mean_squared_error, jnp.ones((1, 3))
    >>> for cell in (jrnn.GRU(16), jrnn.IndRNN(16)):  # 16 numbers for each of 976 parameters, 1 of 80
    ...     params = cell.init(jax.random.key(0), in_features=3)
    ...     print(jrnn.Online(cell, loss, jrnn.RTRL()).influence_bytes(params, x) // 4)
    15616
    80
    """

    def start(self, moment: Moment) -> Any:
        """The influence before the first step."""
        return _start(moment, None)

    def learn(self, moment: Moment, influence: Any, direct: list[Array], adjoint: Array) -> Any:
        """The influence after a step, and the gradient."""
        return _learn(moment, None, influence, direct, adjoint)


@dataclass(frozen=True)
class SnAp:
    """Sparse n-step approximation: the influence on what a parameter reaches within n steps.

        Pₜ = mask ⊙ (Jₜ Pₜ₋₁ + Iₜ),   gₜ = ∂Lₜ/∂θ + ∂Lₜ/∂sₜ Pₜ

    Here ∂Lₜ/∂θ is that with sₜ held constant, as of a readout, and what outputs read of sₜ₋₁ past sₜ adds its
    derivative times Pₜ₋₁.

    With n = 1 a weight influences its own unit: one number for each weight of a `GRU` or `Elman`, two for
    those of an `LSTM`, and P is moved by the part of J from each unit to itself. That part is computed
    without the rest of J, by a probe per number of a unit. With more steps more is kept: in a dense network
    everything from n = 2, which is `RTRL`. The mask is found in the traced step; both parts of a complex
    number count as one.

    In a `Stack` the weights of a layer reach all units above it in one step. In a GRU with
    `reset_after=False` those of the reset gate reach all units.

    Args:
      n: number of steps.

    Reference: Menick, Elsen, Evci, Osindero, Simonyan, Graves, A practical sparse approximation for real time
    recurrent learning, 2020, arXiv:2006.07232.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> loss, x = jrnn.losses.mean_squared_error, jnp.ones((1, 3))
    >>> cell = jrnn.GRU(16)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> [jrnn.Online(cell, loss, jrnn.SnAp(n)).influence_bytes(params, x) // 4 for n in (1, 2)]
    [976, 15616]
    """

    n: int = 1

    def __post_init__(self) -> None:
        check_width("n", self.n)

    def start(self, moment: Moment) -> Any:
        """The influence before the first step."""
        return _start(moment, self.n)

    def learn(self, moment: Moment, influence: Any, direct: list[Array], adjoint: Array) -> Any:
        """The influence after a step, and the gradient."""
        return _learn(moment, self.n, influence, direct, adjoint)


def _start(moment: Moment, steps: int | None) -> Any:
    theta, v, _ = moment.types()
    return jax.tree.map(moment.started, started(moment.structure(steps), theta, v))


def _learn(moment: Moment, steps: int | None, influence: Any, direct: list[Array], adjoint: Array) -> Any:
    del adjoint
    if not influence:
        return influence, direct

    def after(v: Array, row: Any, influence: Any) -> Any:
        derivative, structure = moment.derived(v, row, steps)
        factors = probed(structure, derivative, moment.state_step, (moment.theta, v, row))
        return renewed(structure, influence, factors)

    structure, slopes = moment.structure(steps), held_slopes(moment)
    new, gradient = moment.moved(after, influence), slopes.direct
    for memory, signal, seen in ((new, slopes.after, slopes.seen), (influence, slopes.before, None)):
        if signal is not None:
            earlier = read_by(structure, moment.rows(memory), moment.rows(signal), moment.theta, seen)
            gradient = jax.tree.map(jnp.add, gradient, earlier)
    return new, gradient
