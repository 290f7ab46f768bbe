"""Time that is irregular: differential equations between observations; x is values or `(values, dt)`."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._fields import Width, checked
from jrnn._timing import values_and_time
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._gating import GateParams, draw_gates, gates, tanh
from jrnn.cells.gru import GRU, GRUParams
from jrnn.cells.maps import Dense, DenseParams
from jrnn.cells.solvers import Solver, flowed


class ODERNNParams(NamedTuple):
    """Parameters of `ODERNN`."""

    gru: GRUParams
    inner: DenseParams  # (hidden, width)
    outer: DenseParams  # (width, hidden)


@checked
@dataclass(frozen=True)
class ODERNN:
    """ODE-RNN: between inputs the state follows a differential equation, at an input it is updated by a GRU.

        dh/dt = tanh(h w_inner + b_inner) w_outer + b_outer,   from hₜ₋₁ for the time dt to h̃
        hₜ = GRU(h̃, xₜ),   yₜ = hₜ

    x is values or `(values, dt)`, where dt is the time since the input before. The steps of the named solvers
    have a fixed size, dt / unfolds; those of a `Diffrax` adapt, as in the paper. At the start of a sequence
    the state is 0, and follows the equation from there.

    Args:
      width: width of the hidden layer of the equation; defaults to `hidden`.
      solver: "euler", "midpoint" or "rk4", with 1, 2 and 4 evaluations a step, or a `Diffrax`.
      unfolds: number of steps between two inputs.

    Reference: Rubanova, Chen, Duvenaud, Latent ODEs for irregularly-sampled time series, 2019,
    arXiv:1907.03907.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.ODERNN(8, unfolds=2)
    >>> xs = jnp.ones((5, 3)), jnp.array([0.1, 2.0, 0.5, 0.3, 1.0])
    >>> jrnn.unroll(cell, cell.init(jax.random.key(0), in_features=3), xs)[1].shape
    (5, 8)
    """

    hidden: Width
    _: KW_ONLY
    width: Width | None = None
    solver: Solver = "rk4"
    unfolds: Width = 1
    timed: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> ODERNNParams:
        k_gru, k_inner, k_outer = jax.random.split(key, 3)
        width = self.width or self.hidden
        return ODERNNParams(
            gru=GRU(self.hidden).init(k_gru, in_features),
            inner=Dense(width).init(k_inner, self.hidden),
            outer=Dense(self.hidden).init(k_outer, width),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: ODERNNParams, carry: Array, x: Any) -> tuple[Array, Array]:
        (x, dt), (_, inner, outer) = values_and_time(self, x), params

        def flow(h: Array) -> Array:
            return jnp.tanh(h @ inner.w + inner.b) @ outer.w + outer.b

        h = flowed(self, flow, carry, dt)
        return GRU(self.hidden).step(params.gru, h, x)


@checked
@dataclass(frozen=True)
class GRUODE:
    """Continuous GRU: the differential equation of which a GRU is one step of Euler's method.

        r = σ(xₜ w_r + h u_r + b_r),   z = σ(xₜ w_z + h u_z + b_z),   n = tanh(xₜ w_n + (r · h) u_n + b_n)
        dh/dt = (1 − z) · (n − h),   from hₜ₋₁ for the time dt to hₜ,   yₜ = hₜ

    x is values or `(values, dt)`; xₜ drives the state for the time dt that ends with it. With solver="euler"
    and dt = 1 this is `GRU(hidden, reset_after=False)`. The exact state stays within (−1, 1). The steps of
    the named solvers have a fixed size, dt / unfolds, and diverge where it is above about 2: raise `unfolds`
    for long times. Those of a `Diffrax` adapt. For the paper's other part, jumps at observations, see
    `ODERNN`.

    Args:
      solver: "euler", "midpoint" or "rk4", with 1, 2 and 4 evaluations a step, or a `Diffrax`.
      unfolds: number of steps for one input.

    Reference: De Brouwer, Simm, Arany, Moreau, GRU-ODE-Bayes: continuous modeling of sporadically-observed
    time series, 2019, arXiv:1905.12374.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.GRUODE(8)
    >>> xs = jnp.ones((5, 3)), jnp.array([0.1, 2.0, 0.5, 0.3, 1.0])
    >>> jrnn.unroll(cell, cell.init(jax.random.key(0), in_features=3), xs)[1].shape
    (5, 8)
    """

    hidden: Width
    _: KW_ONLY
    solver: Solver = "rk4"
    unfolds: Width = 1
    timed: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return draw_gates(key, in_features, self.hidden, biases=(0, 0, 0))

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        x, dt = values_and_time(self, x)
        a = jnp.split(x @ params.w_ih + params.b, (2 * self.hidden,), axis=-1)
        u_rz, u_n = jnp.split(params.w_hh, (2 * self.hidden,), axis=-1)

        def flow(h: Array, a_rz: Array, a_n: Array) -> Array:
            r, z = gates(a_rz + h @ u_rz, "rz")
            return (1 - z) * (tanh(a_n + (r * h) @ u_n, "n") - h)

        h = flowed(self, flow, carry, dt, *a)
        return h, h
