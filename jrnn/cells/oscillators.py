"""Memory with time scales: second-order and multiscale differential equations."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._fields import Positive, Width, checked
from jrnn._timing import values_and_time
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import GateParams, sigmoid, split, tanh, zeros
from jrnn.initializers import default_float, glorot


class OscillatorCarry(NamedTuple):
    """State of `CoRNN`, `UnICORNN`, `LEM` and `HeterogeneousCoRNN`."""

    h: Array  # (..., hidden), position, also the output
    z: Array  # (..., hidden), velocity, or in `LEM` the other time scale


@checked
@dataclass(frozen=True)
class CoRNN:
    """Coupled oscillatory RNN: a network of driven, damped, coupled oscillators.

        nₜ = tanh(xₜ w_ih + hₜ₋₁ u_h + zₜ₋₁ u_z + b)
        zₜ = zₜ₋₁ + Δt · (nₜ − γ hₜ₋₁ − ε zₜ₋₁)
        hₜ = hₜ₋₁ + Δt · zₜ,   yₜ = hₜ

    The damping is explicit, as in the authors' code. `w_hh` is [u_h; u_z]. x is values or `(values, dt)`,
    whose dt multiplies Δt.

    Args:
      hidden: number of oscillators.
      dt: Δt, step size.
      gamma: γ, squared frequency.
      epsilon: ε, damping.

    Reference: Rusch, Mishra, Coupled oscillatory recurrent neural network (coRNN), 2021, arXiv:2010.00951.

    >>> import jax, jrnn
    >>> jrnn.CoRNN(8).init(jax.random.key(0), in_features=3).w_hh.shape
    (16, 8)
    """

    hidden: Width
    _: KW_ONLY
    dt: Positive = 0.05
    gamma: float = 1.0
    epsilon: float = 1.0
    timed: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        k_ih, k_hh = jax.random.split(key)
        return GateParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            w_hh=glorot(k_hh, (2 * self.hidden, self.hidden)),
            b=zeros(self.hidden),
        )

    def initial_carry(
        self, params: GateParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> OscillatorCarry:
        return OscillatorCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hz"))

    @broadcasting
    def step(self, params: GateParams, carry: OscillatorCarry, x: Any) -> tuple[OscillatorCarry, Array]:
        (x, dt), (h, z) = values_and_time(self, x), carry
        u_h, u_z = jnp.split(params.w_hh, 2)
        n = tanh(x @ params.w_ih + h @ u_h + z @ u_z + params.b, "n")
        z = z + self.dt * dt * (n - self.gamma * h - self.epsilon * z)
        h = h + self.dt * dt * z
        return OscillatorCarry(h, z), h


class UnICORNNParams(NamedTuple):
    """Parameters of `UnICORNN`."""

    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden,)
    b: Array  # (hidden,)
    c: Array  # (hidden,), step sizes before σ


@checked
@dataclass(frozen=True)
class UnICORNN:
    """Undamped independent controlled oscillators: a diagonal, volume-preserving recurrence.

        zₜ = zₜ₋₁ − Δt · σ(c) · (tanh(xₜ w_ih + w_hh · hₜ₋₁ + b) + α hₜ₋₁)
        hₜ = hₜ₋₁ + Δt · σ(c) · zₜ,   yₜ = hₜ

    x is values or `(values, dt)`, whose dt multiplies Δt.

    Args:
      hidden: number of oscillators.
      dt: Δt, largest step size.
      alpha: α, squared frequency.

    Reference: Rusch, Mishra, UnICORNN: a recurrent model for learning very long time dependencies, 2021,
    arXiv:2103.05487.

    >>> import jrnn
    >>> jrnn.UnICORNN(8).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    dt: Positive = 0.1
    alpha: float = 1.0
    diagonal: ClassVar[bool] = True
    timed: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> UnICORNNParams:
        k_ih, k_hh, k_c = jax.random.split(key, 3)
        unit = jax.random.uniform(k_hh, (self.hidden,), default_float())
        spread = jax.random.uniform(k_c, (self.hidden,), default_float(), -0.1, 0.1)
        return UnICORNNParams(glorot(k_ih, (in_features, self.hidden)), unit, zeros(self.hidden), spread)

    def initial_carry(
        self, params: UnICORNNParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> OscillatorCarry:
        return OscillatorCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hz"))

    @broadcasting
    def step(self, params: UnICORNNParams, carry: OscillatorCarry, x: Any) -> tuple[OscillatorCarry, Array]:
        (x, dt), (h, z) = values_and_time(self, x), carry
        n = tanh(x @ params.w_ih + params.w_hh * h + params.b, "n")
        dt = self.dt * dt * jax.nn.sigmoid(params.c)
        z = z - dt * (n + self.alpha * h)
        h = h + dt * z
        return OscillatorCarry(h, z), h


class LEMParams(NamedTuple):
    """Parameters of `LEM`."""

    w_ih: Array  # (in, 4·hidden), order d e z h
    w_hh: Array  # (hidden, 3·hidden), order d e z
    w_zh: Array  # (hidden, hidden), from zₜ to h
    b: Array  # (4·hidden,), order d e z h


@checked
@dataclass(frozen=True)
class LEM:
    """Long expressive memory: two states, each with learned time scales.

        dₜ = Δt · σ(xₜ w_d + hₜ₋₁ u_d + b_d)
        eₜ = Δt · σ(xₜ w_e + hₜ₋₁ u_e + b_e)
        zₜ = (1 − dₜ) · zₜ₋₁ + dₜ · tanh(xₜ w_z + hₜ₋₁ u_z + b_z)
        hₜ = (1 − eₜ) · hₜ₋₁ + eₜ · tanh(xₜ w_h + zₜ w_zh + b_h),   yₜ = hₜ

    The authors' code has two biases for each one here. x is values or `(values, dt)`, whose dt multiplies Δt.

    Args:
      hidden: width of h and z.
      dt: Δt, largest step size.

    Reference: Rusch, Mishra, Erichson, Mahoney, Long expressive memory for sequence modeling, 2022,
    arXiv:2110.04744.

    >>> import jrnn
    >>> jrnn.LEM(8).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    dt: Positive = 1.0
    timed: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> LEMParams:
        k_ih, k_hh, k_zh = jax.random.split(key, 3)
        return LEMParams(
            w_ih=glorot(k_ih, (in_features, 4 * self.hidden), blocks=4),
            w_hh=glorot(k_hh, (self.hidden, 3 * self.hidden), blocks=3),
            w_zh=glorot(k_zh, (self.hidden, self.hidden)),
            b=zeros(4 * self.hidden),
        )

    def initial_carry(
        self, params: LEMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> OscillatorCarry:
        return OscillatorCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hz"))

    @broadcasting
    def step(self, params: LEMParams, carry: OscillatorCarry, x: Any) -> tuple[OscillatorCarry, Array]:
        (x, dt), (h, z) = values_and_time(self, x), carry
        a_d, a_e, a_z, a_h = split(x @ params.w_ih + params.b, 4)
        u_d, u_e, u_z = split(h @ params.w_hh, 3)
        d, e = self.dt * dt * sigmoid(a_d + u_d, "d"), self.dt * dt * sigmoid(a_e + u_e, "e")
        z = (1 - d) * z + d * tanh(a_z + u_z, "z")
        h = (1 - e) * h + e * tanh(a_h + z @ params.w_zh, "h")
        return OscillatorCarry(h, z), h


class HeterogeneousParams(NamedTuple):
    """Parameters of `HeterogeneousCoRNN`."""

    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden, hidden)
    b: Array  # (hidden,)
    fixed: Array  # (2, hidden), γ and ε, random and not trained


@checked
@dataclass(frozen=True)
class HeterogeneousCoRNN:
    """Heterogeneous coRNN: oscillators coupled by position, with individual frequencies and dampings.

        nₜ = tanh(xₜ w_ih + hₜ₋₁ w_hh + b)
        zₜ = zₜ₋₁ + Δt · (nₜ − γ · hₜ₋₁ − ε · zₜ₋₁)
        hₜ = hₜ₋₁ + Δt · zₜ,   yₜ = hₜ

    γ and ε are drawn uniformly from their ranges and not trained. With no trained weights, this is the
    paper's random oscillators network, a reservoir. x is values or `(values, dt)`, whose dt multiplies Δt.
    The step is that of `hcoRNN` in the authors' code, whose γ and ε may also be trained or full matrices.

    Args:
      hidden: number of oscillators.
      dt: Δt, step size.
      gamma: smallest and largest γ, squared frequency.
      epsilon: smallest and largest ε, damping.

    Raises:
      ValueError: a range that is not two numbers in ascending order.

    Reference: Ceni, Cossu, Stölzle, Liu, Della Santina, Bacciu, Gallicchio, Random oscillators network for
    time series processing, 2024, AISTATS, https://proceedings.mlr.press/v238/ceni24a.html.

    >>> import jax, jrnn
    >>> jrnn.HeterogeneousCoRNN(8).init(jax.random.key(0), in_features=3).fixed.shape
    (2, 8)
    """

    hidden: Width
    _: KW_ONLY
    dt: Positive = 0.05
    gamma: tuple[float, ...] = (0.5, 1.5)
    epsilon: tuple[float, ...] = (0.5, 1.5)
    timed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, ends in (("gamma", self.gamma), ("epsilon", self.epsilon)):
            if len(ends) != 2 or ends[0] > ends[1]:
                raise ValueError(f"{name} must be the ends of a range, as in (0.5, 1.5), got {ends}")

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> HeterogeneousParams:
        k_ih, k_hh, k_fixed = jax.random.split(key, 3)
        low, high = jnp.asarray(list(zip(self.gamma, self.epsilon, strict=True)), default_float())
        drawn = jax.random.uniform(k_fixed, (2, self.hidden), default_float())
        return HeterogeneousParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            w_hh=glorot(k_hh, (self.hidden, self.hidden)),
            b=zeros(self.hidden),
            fixed=low[:, None] + (high - low)[:, None] * drawn,
        )

    def initial_carry(
        self, params: HeterogeneousParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> OscillatorCarry:
        return OscillatorCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hz"))

    @broadcasting
    def step(
        self, params: HeterogeneousParams, carry: OscillatorCarry, x: Any
    ) -> tuple[OscillatorCarry, Array]:
        (x, dt), (h, z) = values_and_time(self, x), carry
        gamma, epsilon = jax.lax.stop_gradient(params.fixed)
        n = tanh(x @ params.w_ih + h @ params.w_hh + params.b, "n")
        z = z + self.dt * dt * (n - gamma * h - epsilon * z)
        h = h + self.dt * dt * z
        return OscillatorCarry(h, z), h
