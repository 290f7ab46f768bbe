"""Memory with time scales: slow and fast units."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._alignment import select
from jrnn._checks import check_multiple
from jrnn._fields import Rate, Width, checked
from jrnn._timing import values_and_time
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import GateParams, draw_gates, sigmoid, split, tanh, zeros
from jrnn.initializers import default_float, glorot, orthogonal


class ClockworkParams(NamedTuple):
    """Parameters of `ClockworkRNN`."""

    w_ih: Array  # (in, hidden)
    w_hh: tuple[Array, ...]  # of module i, from itself and slower ones: (hidden − i · size, size)
    b: Array  # (hidden,)


class ClockworkCarry(NamedTuple):
    """State of `ClockworkRNN`."""

    h: Array  # (..., hidden), modules concatenated, fastest first
    t: Array  # (...), integer, number of steps since the start of the sequence


@checked
@dataclass(frozen=True)
class ClockworkRNN:
    """Clockwork RNN: an Elman network whose modules update at different periods.

        h⁽ⁱ⁾ₜ = tanh(xₜ w⁽ⁱ⁾ + Σ_{j ≥ i} h⁽ʲ⁾ₜ₋₁ u⁽ⁱʲ⁾ + b⁽ⁱ⁾)   if t mod Tᵢ = 0, else h⁽ⁱ⁾ₜ₋₁
        yₜ = hₜ

    A module reads itself and the modules with longer periods. All update at t = 0, the first step of a
    sequence; t is part of the state, so that a sequence can be continued from its carry.

    Args:
      hidden: width of h, shared equally by the modules.
      periods: Tᵢ, one per module, ascending, in steps.

    Raises:
      ValueError: a width not divisible by the number of modules, or periods that do not ascend.

    Reference: Koutník, Greff, Gomez, Schmidhuber, A clockwork RNN, 2014, arXiv:1402.3511.

    >>> import jax, jrnn
    >>> params = jrnn.ClockworkRNN(8, periods=(1, 4)).init(jax.random.key(0), in_features=3)
    >>> [w.shape for w in params.w_hh]
    [(8, 4), (4, 4)]
    """

    hidden: Width
    _: KW_ONLY
    periods: tuple[Width, ...] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        if not self.periods or sorted(set(self.periods)) != list(self.periods):
            raise ValueError(f"periods must ascend, got {self.periods}")
        check_multiple("hidden", self.hidden, "the number of periods", len(self.periods))

    @property
    def out_features(self) -> int:
        return self.hidden

    @property
    def _size(self) -> int:
        return self.hidden // len(self.periods)

    def init(self, key: Array, in_features: int) -> ClockworkParams:
        k_ih, *keys = jax.random.split(key, 1 + len(self.periods))
        rows = range(self.hidden, 0, -self._size)
        return ClockworkParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            w_hh=tuple(glorot(k, (n, self._size)) for k, n in zip(keys, rows, strict=True)),
            b=zeros(self.hidden),
        )

    def initial_carry(
        self, params: ClockworkParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> ClockworkCarry:
        return ClockworkCarry(zero_state(params, batch_shape, self.hidden), jnp.zeros(batch_shape, jnp.int32))

    @broadcasting
    def step(self, params: ClockworkParams, carry: ClockworkCarry, x: Any) -> tuple[ClockworkCarry, Array]:
        h, t, size = carry.h, carry.t, self._size
        past = [h[..., i * size :] @ w for i, w in enumerate(params.w_hh)]
        n = tanh(x @ params.w_ih + jnp.concatenate(past, -1) + params.b, "n")
        periods = jnp.repeat(jnp.array(self.periods, t.dtype), size)
        h = select(t[..., None] % periods == 0, n, h)
        return ClockworkCarry(h, t + 1), h


class SCRNParams(NamedTuple):
    """Parameters of `SCRN`."""

    w_im: Array  # (in, context)
    w_mh: Array  # (context, hidden)
    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden, hidden)


class SCRNCarry(NamedTuple):
    """State of `SCRN`."""

    h: Array  # (..., hidden)
    m: Array  # (..., context), the slow units


@checked
@dataclass(frozen=True)
class SCRN:
    """Structurally constrained network: an Elman network with slowly changing context units.

        mₜ = (1 − α) · (xₜ w_im) + α · mₜ₋₁
        hₜ = σ(mₜ w_mh + xₜ w_ih + hₜ₋₁ w_hh)
        yₜ = [hₜ, mₜ]

    The paper's output softmax(hₜ u + mₜ v) is a `Dense` on top.

    Args:
      context: width of m; defaults to that of h.
      alpha: α, how much of the context is kept, in [0, 1).

    Reference: Mikolov, Joulin, Chopra, Mathieu, Ranzato, Learning longer memory in recurrent neural networks,
    2014, arXiv:1412.7753.

    >>> import jrnn
    >>> jrnn.SCRN(100, context=40).out_features
    140
    """

    hidden: Width
    _: KW_ONLY
    context: Width | None = None
    alpha: Rate = 0.95

    @property
    def out_features(self) -> int:
        return self.hidden + self._context

    @property
    def _context(self) -> int:
        return self.hidden if self.context is None else self.context

    def init(self, key: Array, in_features: int) -> SCRNParams:
        keys = jax.random.split(key, 4)
        pairs = (
            (in_features, self._context),
            (self._context, self.hidden),
            (in_features, self.hidden),
            (self.hidden, self.hidden),
        )
        return SCRNParams(*(glorot(k, pair) for k, pair in zip(keys, pairs, strict=True)))

    def initial_carry(
        self, params: SCRNParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> SCRNCarry:
        return SCRNCarry(*(zero_state(params, batch_shape, n) for n in (self.hidden, self._context)))

    def step(self, params: SCRNParams, carry: SCRNCarry, x: Any) -> tuple[SCRNCarry, Array]:
        m = (1 - self.alpha) * (x @ params.w_im) + self.alpha * carry.m
        h = sigmoid(m @ params.w_mh + x @ params.w_ih + carry.h @ params.w_hh, "h")
        return SCRNCarry(h, m), jnp.concatenate([h, m], -1)


class PhasedLSTMParams(NamedTuple):
    """Parameters of `PhasedLSTM`."""

    lstm: GateParams  # i f g o
    p: Array  # (3·hidden,), peepholes, order i f o
    period: Array  # (hidden,), log τ
    shift: Array  # (hidden,), share of a period by which the start is late
    ratio: Array  # (hidden,), open share of a period, before the sigmoid


class PhasedLSTMCarry(NamedTuple):
    """State of `PhasedLSTM`."""

    h: Array  # (..., hidden)
    c: Array  # (..., hidden)
    phase: Array  # (..., hidden), θ in [0, 1)


@checked
@dataclass(frozen=True)
class PhasedLSTM:
    """Phased LSTM: units update in the open phase of a rhythm of their own; x is values or `(values, dt)`.

        θₜ = (θₜ₋₁ + dt / τ) mod 1,   φₜ = (θₜ − shift) mod 1,   τ = exp(period),   r = σ(ratio)
        kₜ = 2 φₜ / r where φₜ < r/2,   2 − 2 φₜ / r where φₜ < r,   else leak · φₜ
        i, f = σ(xₜ w + hₜ₋₁ u + p · cₜ₋₁ + b),   g = tanh(xₜ w_g + hₜ₋₁ u_g + b_g)
        c̃ = f · cₜ₋₁ + i · g,   o = σ(xₜ w_o + hₜ₋₁ u_o + p_o · c̃ + b_o)
        cₜ = kₜ · c̃ + (1 − kₜ) · cₜ₋₁
        hₜ = kₜ · (o · tanh(c̃)) + (1 − kₜ) · hₜ₋₁,   yₜ = hₜ

    The state holds the phase, not the time, so that long series lose no precision. The paper leaks in
    training only. τ starts between 1 and e³ with a uniform logarithm, in the unit of dt, shift uniform, and
    r at 0.05.

    Args:
      hidden: width of h and c.
      forget_bias: start of b_f.
      leak: slope of k in the closed phase, in [0, 1).

    Reference: Neil, Pfeiffer, Liu, Phased LSTM: accelerating recurrent network training for long or
    event-based sequences, 2016, arXiv:1610.09513.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.PhasedLSTM(8)
    >>> xs = jnp.ones((5, 3)), jnp.array([0.1, 2.0, 0.5, 0.3, 1.0])
    >>> jrnn.unroll(cell, cell.init(jax.random.key(0), in_features=3), xs)[1].shape
    (5, 8)
    """

    hidden: Width
    _: KW_ONLY
    forget_bias: float = 1.0
    leak: Rate = 0.001
    timed: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> PhasedLSTMParams:
        k_lstm, k_p, k_period, k_shift = jax.random.split(key, 4)
        dtype = default_float()
        return PhasedLSTMParams(
            lstm=draw_gates(k_lstm, in_features, self.hidden, biases=(0, self.forget_bias, 0, 0)),
            p=0.1 * jax.random.normal(k_p, (3 * self.hidden,), dtype),
            period=jax.random.uniform(k_period, (self.hidden,), dtype, 0, 3),
            shift=jax.random.uniform(k_shift, (self.hidden,), dtype),
            ratio=jnp.full((self.hidden,), math.log(0.05 / 0.95), dtype),
        )

    def initial_carry(
        self, params: PhasedLSTMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> PhasedLSTMCarry:
        return PhasedLSTMCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hcp"))

    @broadcasting
    def step(self, params: PhasedLSTMParams, carry: PhasedLSTMCarry, x: Any) -> tuple[PhasedLSTMCarry, Array]:
        (x, dt), (h, c, phase) = values_and_time(self, x), carry
        phase = (phase + dt * jnp.exp(-params.period)) % 1
        k = self._openness(params, phase)
        p_i, p_f, p_o = split(params.p, 3)
        z_i, z_f, z_g, z_o = split(x @ params.lstm.w_ih + h @ params.lstm.w_hh + params.lstm.b, 4)
        new = sigmoid(z_f + p_f * c, "f") * c + sigmoid(z_i + p_i * c, "i") * tanh(z_g, "g")
        h = k * (sigmoid(z_o + p_o * new, "o") * jnp.tanh(new)) + (1 - k) * h
        c = k * new + (1 - k) * c
        return PhasedLSTMCarry(h, c, phase), h

    def _openness(self, params: PhasedLSTMParams, phase: Array) -> Array:
        """The gate k: a triangle in the open phase, the leak in the closed one."""
        phase = (phase - params.shift) % 1
        way = 2 * phase / jax.nn.sigmoid(params.ratio)  # 1 at the top of the triangle
        k = jnp.where(way < 1, way, jnp.where(way < 2, 2 - way, self.leak * phase))
        return checkpoint_name(k, "k")


class SelectiveUpdateParams(NamedTuple):
    """Parameters of `SelectiveUpdateRNN`."""

    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden, hidden)
    b: Array  # (hidden,)
    omega: Array  # (waves,), turns of each wave in a step
    alpha: Array  # (waves, hidden), amplitudes
    phi: Array  # (waves, hidden), phases
    b_g: Array  # (hidden,)


class SelectiveUpdateCarry(NamedTuple):
    """State of `SelectiveUpdateRNN`."""

    h: Array  # (..., hidden)
    phase: Array  # (..., waves), θ in [0, 1)


@checked
@dataclass(frozen=True)
class SelectiveUpdateRNN:
    """Selective-update RNN: each unit updates at the steps that waves of its own choose, and keeps its value.

        θₜ = (θₜ₋₁ + dt · ω) mod 1,   a wave each
        aₜ = Σₖ αₖ · sin(2π θₜₖ + φₖ) + b_g
        gₜ = 1 where aₜ > 0, else 0
        nₜ = tanh(xₜ w_ih + hₜ₋₁ w_hh + b)
        hₜ = hₜ₋₁ + gₜ · (nₜ − hₜ₋₁),   yₜ = hₜ

    The gate depends on time alone, so a unit that skips a step keeps its value exactly, and its gradient. The
    gradient of g with respect to a is taken to be that of σ(a); torchrecurrent has none, and θ in radians as
    a number of steps. x is values or `(values, dt)`. ω starts evenly in (0, ½], φ uniform, α at 1.

    Args:
      hidden: width of h.
      waves: number of waves, K.

    Reference: Yin, Wang, Tan, Bohte, Corradi, Li, Efficient sparse selective-update RNNs for long-range
    sequence modeling, 2026, arXiv:2603.02226.

    >>> import jrnn
    >>> jrnn.SelectiveUpdateRNN(8, waves=3).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    waves: Width = 1
    timed: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> SelectiveUpdateParams:
        k_ih, k_hh, k_phi = jax.random.split(key, 3)
        return SelectiveUpdateParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            w_hh=orthogonal(k_hh, (self.hidden, self.hidden)),
            b=zeros(self.hidden),
            omega=jnp.linspace(0.5 / self.waves, 0.5, self.waves, dtype=default_float()),
            alpha=zeros(self.waves, self.hidden) + 1,
            phi=jax.random.uniform(k_phi, (self.waves, self.hidden), default_float(), 0, 2 * math.pi),
            b_g=zeros(self.hidden),
        )

    def initial_carry(
        self, params: SelectiveUpdateParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> SelectiveUpdateCarry:
        return SelectiveUpdateCarry(*(zero_state(params, batch_shape, n) for n in (self.hidden, self.waves)))

    @broadcasting
    def step(
        self, params: SelectiveUpdateParams, carry: SelectiveUpdateCarry, x: Any
    ) -> tuple[SelectiveUpdateCarry, Array]:
        (x, dt), (h, phase) = values_and_time(self, x), carry
        phase = (phase + dt * params.omega) % 1
        waves = jnp.sin(2 * math.pi * phase[..., None] + params.phi)
        s = jax.nn.sigmoid((params.alpha * waves).sum(-2) + params.b_g)
        g = jax.lax.stop_gradient(jnp.round(s)) + (s - jax.lax.stop_gradient(s))  # 0 or 1, exactly
        g = checkpoint_name(g, "g")
        h = h + g * (tanh(x @ params.w_ih + h @ params.w_hh + params.b, "n") - h)
        return SelectiveUpdateCarry(h, phase), h
