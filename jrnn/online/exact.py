"""Real-time recurrent learning: the influence of all parameters on the state, whole or in part."""

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from jrnn._fields import check_width
from jrnn.online._influence import moved, probed, read_by, started, structure_at
from jrnn.online._moments import Moment


@dataclass(frozen=True)
class RTRL:
    """x"""

    def start(self, moment: Moment) -> Any:
        """The influence before the first step."""
        return _start(moment, None)

    def learn(self, moment: Moment, influence: Any, direct: list[Array], adjoint: Array) -> Any:
        """The influence after a step, and the gradient."""
        return _learn(moment, None, influence, direct, adjoint)


@dataclass(frozen=True)
class SnAp:
    """x"""

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
    if not influence:
        return influence, direct

    def after(v: Array, row: Any, influence: Any) -> Any:
        derivative = moment.derivative(v, row)
        structure = structure_at(derivative, moment.theta, v, row, (steps, False))
        factors = probed(structure, derivative, moment.state_step, (moment.theta, v, row))
        return moved(structure, influence, factors)

    earlier = read_by(moment.structure(steps), moment.rows(influence), moment.rows(adjoint), moment.theta)
    return moment.each(after, influence), jax.tree.map(lambda a, b: a + b, direct, earlier)

