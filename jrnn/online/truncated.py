"""Backpropagation through the last steps, at every step."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._checks import check_width
from jrnn.online._rows import Flags, Row
from jrnn.online.moments import Moment


class Window(NamedTuple):
    """The steps before this one, the oldest first.

    Fields:
      v: (k − 1, rows..., D), states before these steps.
      carry: (k − 1, rows..., ...), the carries that hold them.
      x: (k − 1, rows..., ...), inputs.
      flags: (k − 1, rows...).
      there: (k − 1,), False for steps before the first.
    """

    v: Array
    carry: Any
    x: Any
    flags: Flags
    there: Array


@dataclass(frozen=True)
class Truncated:
    """Truncated backpropagation through time, at every step: the gradient of this loss through k steps.

        gₜ = Σⱼ ∂Lₜ/∂sⱼ ∂f(θ, sⱼ₋₁, xⱼ)/∂θ,   j = t − k + 1 … t

    The states and inputs of the last k − 1 steps are stored. Each is differentiated at the state that it had,
    with the parameters of now. A step costs k backward steps; k of at least the length of a sequence gives
    the exact gradient.

    Args:
      k: steps through which a loss is differentiated; 1: the step itself.

    Reference: Williams, Peng, An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories, 1990, Neural Computation 2:490.

    >>> import jrnn
    >>> jrnn.Online(jrnn.GRU(8), jrnn.losses.mean_squared_error, jrnn.Truncated(20)).method
    Truncated(k=20)
    """

    k: int

    def __post_init__(self) -> None:
        check_width("k", self.k)

    def start(self, moment: Moment) -> Window:
        """A window of no steps."""

        def repeated(leaf: Array) -> Array:
            return jnp.broadcast_to(leaf, (self.k - 1, *leaf.shape))

        v, carry, x, flags = jax.tree.map(repeated, _current(moment))
        return Window(v, carry, x, flags, jnp.zeros(self.k - 1, bool))

    def learn(
        self, moment: Moment, influence: Window, direct: list[Array], adjoint: Array
    ) -> tuple[Window, list[Array]]:
        """The window after a step, and the gradient."""

        def back(found: tuple[Array, list[Array]], step: Window) -> tuple[Any, None]:
            adjoint, gradient = found
            at = moment.at(step.v, Row(moment.row.params, step.carry, step.x, step.flags))

            def after(theta: list[Array], v: Array) -> Array:
                return moment.at(v, at.row).each(lambda v, row: moment.state_step(theta, v, row))

            theta, earlier = jax.vjp(after, moment.theta, step.v)[1](adjoint)
            taken = step.there & jnp.any(jnp.asarray(step.flags.valid))
            adjoint = jnp.where(taken, earlier, jnp.where(step.there, adjoint, 0))
            gradient = [a + jnp.where(taken, b, 0) for a, b in zip(gradient, theta, strict=True)]
            return (adjoint, gradient), None

        (_, gradient), _ = lax.scan(back, (adjoint, direct), influence, reverse=True)
        now = Window(*_current(moment), jnp.ones((), bool))

        def pushed(old: Array, new: Array) -> Array:
            return jnp.concatenate([old, new[None]])[1:]

        return jax.tree.map(pushed, influence, now), gradient


def _current(moment: Moment) -> tuple[Array, Any, Any, Flags]:
    """The step now, with flags where there are none."""
    shape = moment.v.shape[:-1]
    valid, reset, first = moment.row.flags
    flags = Flags(
        jnp.ones(shape, bool) if valid is None else jnp.asarray(valid),
        jnp.zeros(shape, bool) if reset is None else jnp.asarray(reset),
        first,
    )
    return moment.v, moment.row.carry, moment.row.x, flags
