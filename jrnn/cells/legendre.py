"""Memory with time scales: projection onto Legendre polynomials."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._fields import Positive, Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import tanh
from jrnn.initializers import default_float, glorot


class LMUFixed(NamedTuple):
    """The memory of `LMU`, which is not trained."""

    a: Array  # (order, order)
    b: Array  # (order,)


class LMUParams(NamedTuple):
    """Parameters of `LMU`."""

    e_x: Array  # (in,)
    e_h: Array  # (hidden,)
    e_m: Array  # (order,)
    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden, hidden)
    w_mh: Array  # (order, hidden)
    fixed: LMUFixed


class LMUCarry(NamedTuple):
    """State of `LMU`."""

    h: Array  # (..., hidden), also the output
    m: Array  # (..., order), Legendre coefficients of the last θ steps of u


@checked
@dataclass(frozen=True)
class LMU:
    """Legendre memory unit: a linear memory holds a sliding window of the last θ steps.

        uₜ = xₜ · e_x + hₜ₋₁ · e_h + mₜ₋₁ · e_m
        mₜ = mₜ₋₁ A + uₜ B
        hₜ = tanh(xₜ w_ih + hₜ₋₁ w_hh + mₜ w_mh),   yₜ = hₜ

    A and B are the zero-order-hold discretization, with step 1, of θ dm/dt = m a + u b with
    aⱼᵢ = (2i + 1) · (−1 where i < j, else (−1)^(i−j+1)), bᵢ = (2i + 1) (−1)ⁱ; they are not trained.

    Args:
      order: number of polynomials.
      theta: θ, length of the window, in steps.

    Reference: Voelker, Kajić, Eliasmith, Legendre memory units: continuous-time representation in recurrent
    neural networks, 2019.

    >>> import jax, jrnn
    >>> jrnn.LMU(8, order=6, theta=100).init(jax.random.key(0), in_features=3).fixed.a.shape
    (6, 6)
    """

    hidden: Width
    _: KW_ONLY
    order: Width = 16
    theta: Positive = 100.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> LMUParams:
        keys = jax.random.split(key, 5)
        return LMUParams(
            e_x=glorot(keys[0], (in_features, 1))[:, 0],
            e_h=glorot(keys[1], (self.hidden, 1))[:, 0],
            e_m=jnp.zeros(self.order, default_float()),
            w_ih=glorot(keys[2], (in_features, self.hidden)),
            w_hh=glorot(keys[3], (self.hidden, self.hidden)),
            w_mh=glorot(keys[4], (self.order, self.hidden)),
            fixed=_memory(self.order, self.theta),
        )

    def initial_carry(
        self, params: LMUParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LMUCarry:
        return LMUCarry(*(zero_state(params, batch_shape, n) for n in (self.hidden, self.order)))

    @broadcasting
    def step(self, params: LMUParams, carry: LMUCarry, x: Any) -> tuple[LMUCarry, Array]:
        (h, m), (a, b) = carry, jax.lax.stop_gradient(params.fixed)
        u = x @ params.e_x + h @ params.e_h + m @ params.e_m
        m = m @ a + u[..., None] * b
        h = tanh(x @ params.w_ih + h @ params.w_hh + m @ params.w_mh, "h")
        return LMUCarry(h, m), h


def _memory(order: int, theta: float) -> LMUFixed:
    """A and B, computed in float64."""
    from scipy.linalg import expm  # 0.1 s to import

    i, j = np.arange(order)[:, None], np.arange(order)[None, :]
    a = (2 * i + 1) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1)) / theta
    b = (2 * i + 1) * (-1.0) ** i / theta
    held = expm(np.block([[a, b], [np.zeros((1, order + 1))]]))  # zero-order hold of both at once
    return LMUFixed(*(jnp.asarray(v, default_float()) for v in (held[:order, :order].T, held[:order, order])))
