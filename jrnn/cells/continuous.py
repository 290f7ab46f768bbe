"""Simple recurrent networks: differential equations, by one Euler step per time step."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Positive, Share, Width, checked
from jrnn.cell import Shape, broadcasting, key_or_none, zero_carry, zero_state
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import GateParams, draw_gates, sigmoid, split, tanh, zeros
from jrnn.initializers import glorot


class LeakyCarry(NamedTuple):
    """Carry of `LeakyRNN`."""

    h: Array  # (..., hidden), rates or potentials
    key: Array | None  # noise key, advanced at every step; None without noise


@checked
@dataclass(frozen=True)
class LeakyRNN:
    """Continuous-time RNN with leaky units, as used in computational neuroscience.

        τ dh/dt = −h + f(x w_ih + h w_hh + b + √(2τ) σ ξ)
        hₜ = (1 − α) · hₜ₋₁ + α · f(xₜ w_ih + hₜ₋₁ w_hh + b + eₜ),   yₜ = hₜ       state="rate"

        τ dv/dt = −v + x w_ih + f(v) w_hh + b + √(2τ) σ ξ
        vₜ = (1 − α) · vₜ₋₁ + α · (xₜ w_ih + f(vₜ₋₁) w_hh + b + eₜ),   yₜ = f(vₜ)   state="potential"

    with α = dt / τ and eₜ = √(2 / α) σ ξₜ, ξₜ ~ N(0, 1), drawn if the initial carry was given a key. α = 1
    is an Elman network.

    Args:
      tau: τ, time constant, in the unit of `dt` (ms).
      dt: length of a step, at most τ.
      activation: f, by name.
      state: what the carry holds, firing rates ("rate") or membrane potentials ("potential").
      noise: σ, standard deviation of a potential driven by noise alone, for small α.

    Raises:
      ValueError: dt not in (0, τ], or a negative noise.

    Reference: Song, Yang, Wang, Training excitatory-inhibitory recurrent neural networks for cognitive tasks,
    2016, doi:10.1371/journal.pcbi.1004792; rates: Yang et al., 2019, doi:10.1038/s41593-018-0310-2.

    >>> import jrnn
    >>> jrnn.LeakyRNN(64, tau=100, dt=20, activation="softplus", noise=0.05).alpha
    0.2
    """

    hidden: Width
    _: KW_ONLY
    tau: Positive = 100.0
    dt: Positive = 20.0
    activation: Activation = "relu"
    state: Literal["rate", "potential"] = "rate"
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.dt > self.tau or self.noise < 0:
            raise ValueError(f"dt must be at most tau, and noise at least 0, got {self}")

    @property
    def out_features(self) -> int:
        return self.hidden

    @property
    def alpha(self) -> float:
        """Dt / τ."""
        return self.dt / self.tau

    def init(self, key: Array, in_features: int) -> GateParams:
        return draw_gates(key, in_features, self.hidden, biases=(0,))

    def initial_carry(
        self, params: GateParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LeakyCarry:
        return LeakyCarry(zero_state(params, batch_shape, self.hidden), key if self.noise > 0 else None)

    @broadcasting
    def step(self, params: GateParams, carry: LeakyCarry, x: Any) -> tuple[LeakyCarry, Array]:
        f, h, alpha = activation(self.activation), carry.h, self.alpha
        key, draw = key_or_none(carry.key, 2)
        rate = self.state == "rate"
        drive = x @ params.w_ih + (h if rate else f(h)) @ params.w_hh + params.b
        if draw is not None:
            drive = drive + (2 / alpha) ** 0.5 * self.noise * jax.random.normal(draw, h.shape, h.dtype)
        h = (1 - alpha) * h + alpha * checkpoint_name(f(drive) if rate else drive, "drive")
        return LeakyCarry(h, key), h if rate else f(h)


class AntisymmetricParams(NamedTuple):
    """Parameters of `AntisymmetricRNN`."""

    w_ih: Array  # (in, hidden), or (in, 2·hidden), order z n
    w_hh: Array  # (hidden, hidden); the recurrence sees w_hh − w_hhᵀ − γ I
    b: Array  # (hidden,), or (2·hidden,), order z n


@checked
@dataclass(frozen=True)
class AntisymmetricRNN:
    """Antisymmetric RNN: eigenvalues near the imaginary axis, so that gradients neither vanish nor explode.

        M = w_hh − w_hhᵀ − γ I
        nₜ = tanh(xₜ w_n + hₜ₋₁ M + b_n)
        hₜ = hₜ₋₁ + ε · nₜ                                  gated=False
        zₜ = σ(xₜ w_z + hₜ₋₁ M + b_z)
        hₜ = hₜ₋₁ + ε · zₜ · nₜ                             gated=True
        yₜ = hₜ

    Of the hidden² entries of w_hh only the differences matter, hidden · (hidden − 1) / 2.

    Args:
      gamma: γ, diffusion.
      epsilon: ε, step size.
      gated: multiply the update by an input gate.

    Reference: Chang, Chen, Haber, Chi, AntisymmetricRNN: a dynamical system view on recurrent neural
    networks, 2019, arXiv:1902.09689.

    >>> import jrnn
    >>> jrnn.AntisymmetricRNN(8, gated=True).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    gamma: float = 0.01
    epsilon: Positive = 0.01
    gated: bool = False

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> AntisymmetricParams:
        k_ih, k_hh = jax.random.split(key)
        count, square = 2 if self.gated else 1, (self.hidden, self.hidden)
        return AntisymmetricParams(
            w_ih=glorot(k_ih, (in_features, count * self.hidden), blocks=count),
            w_hh=glorot(k_hh, square),
            b=zeros(count * self.hidden),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: AntisymmetricParams, carry: Array, x: Any) -> tuple[Array, Array]:
        m = params.w_hh - params.w_hh.T - self.gamma * jnp.eye(self.hidden, dtype=params.w_hh.dtype)
        a, past = x @ params.w_ih + params.b, carry @ m
        if self.gated:
            a_z, a_n = split(a, 2)
            update = sigmoid(a_z + past, "z") * tanh(a_n + past, "n")
        else:
            update = tanh(a + past, "n")
        h = carry + self.epsilon * update
        return h, h


class LipschitzParams(NamedTuple):
    """Parameters of `LipschitzRNN`."""

    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden, hidden), of the matrix W
    b: Array  # (hidden,)
    w_a: Array  # (hidden, hidden), of the matrix A


@checked
@dataclass(frozen=True)
class LipschitzRNN:
    """Lipschitz RNN: a linear and a nonlinear part, both with matrices that stay near stability.

        A = (1 − β) (w_a + w_aᵀ) + β (w_a − w_aᵀ) − γ I
        W = (1 − β) (w_hh + w_hhᵀ) + β (w_hh − w_hhᵀ) − γ I
        nₜ = tanh(xₜ w_ih + hₜ₋₁ W + b)
        hₜ = hₜ₋₁ + ε · (hₜ₋₁ A + nₜ),   yₜ = hₜ

    A matrix is antisymmetric at β = 1 and symmetric at β = 0. This is Euler's method; the paper also has the
    midpoint method, and a β and γ per matrix, where its code has one of each.

    Args:
      beta: β, the share of the antisymmetric parts.
      gamma: γ, diffusion.
      epsilon: ε, step size.

    Reference: Erichson, Azencot, Queiruga, Hodgkinson, Mahoney, Lipschitz recurrent neural networks, 2021,
    arXiv:2006.12070.

    >>> import jrnn
    >>> jrnn.LipschitzRNN(8, epsilon=0.1)
    LipschitzRNN(hidden=8, epsilon=0.1)
    """

    hidden: Width
    _: KW_ONLY
    beta: Share = 0.75
    gamma: float = 0.001
    epsilon: Positive = 0.03

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> LipschitzParams:
        k_ih, k_hh, k_a = jax.random.split(key, 3)
        return LipschitzParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            w_hh=glorot(k_hh, (self.hidden, self.hidden)),
            b=zeros(self.hidden),
            w_a=glorot(k_a, (self.hidden, self.hidden)),
        )

    initial_carry = zero_carry

    def _mixed(self, w: Array) -> Array:
        """The matrix A or W of the equations."""
        symmetric, antisymmetric = w + w.T, w - w.T
        mixed = (1 - self.beta) * symmetric + self.beta * antisymmetric
        return mixed - self.gamma * jnp.eye(self.hidden, dtype=w.dtype)

    @broadcasting
    def step(self, params: LipschitzParams, carry: Array, x: Any) -> tuple[Array, Array]:
        h = carry
        n = tanh(x @ params.w_ih + h @ self._mixed(params.w_hh) + params.b, "n")
        h = h + self.epsilon * (h @ self._mixed(params.w_a) + n)
        return h, h
