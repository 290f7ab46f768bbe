"""LSTMs whose input and state act on one another before the gates."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Lag, Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import GateParams, draw_gates, gates, times
from jrnn.cells.lstm import LSTMCarry
from jrnn.initializers import glorot, orthogonal


class MultiplicativeLSTMParams(NamedTuple):
    """Parameters of `MultiplicativeLSTM`."""

    lstm: GateParams  # i f g o, of x and m
    w_im: Array  # (in, hidden)
    w_hm: Array  # (hidden, hidden)


@checked
@dataclass(frozen=True)
class MultiplicativeLSTM:
    """Multiplicative LSTM: the transition depends on the input, which scales the state.

        mₜ = (xₜ w_im) · (hₜ₋₁ w_hm)
        i, f, g, o from xₜ w_ih + mₜ w_hh + b, as in `LSTM`
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        hₜ = oₜ · tanh(cₜ),   yₜ = hₜ

    Args:
      hidden: width of h, c and m.
      forget_bias: start of b_f.

    Reference: Krause, Lu, Murray, Renals, Multiplicative LSTM for sequence modelling, 2016,
    arXiv:1609.07959.

    >>> import jrnn
    >>> jrnn.MultiplicativeLSTM(8).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    forget_bias: float = 1.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> MultiplicativeLSTMParams:
        k_lstm, k_im, k_hm = jax.random.split(key, 3)
        return MultiplicativeLSTMParams(
            lstm=draw_gates(k_lstm, in_features, self.hidden, biases=(0, self.forget_bias, 0, 0)),
            w_im=glorot(k_im, (in_features, self.hidden)),
            w_hm=orthogonal(k_hm, (self.hidden, self.hidden)),
        )

    def initial_carry(
        self, params: MultiplicativeLSTMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LSTMCarry:
        return LSTMCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hc"))

    @broadcasting
    def step(self, params: MultiplicativeLSTMParams, carry: LSTMCarry, x: Any) -> tuple[LSTMCarry, Array]:
        m = checkpoint_name((x @ params.w_im) * (carry.h @ params.w_hm), "m")
        z = x @ params.lstm.w_ih + m @ params.lstm.w_hh + params.lstm.b
        i, f, g, o = gates(z, "ifgo", candidate="g")
        c = f * carry.c + i * g
        h = o * jnp.tanh(c)
        return LSTMCarry(h, c), h


class MogrifierLSTMParams(NamedTuple):
    """Parameters of `MogrifierLSTM`."""

    lstm: GateParams  # i f g o
    q: tuple[tuple[Array, ...], ...]  # per odd round (hidden, in), or its two factors
    r: tuple[tuple[Array, ...], ...]  # per even round (in, hidden), or its two factors


@checked
@dataclass(frozen=True)
class MogrifierLSTM:
    """Mogrifier LSTM: input and state gate one another for some rounds before the LSTM reads them.

        x⁰ = xₜ,  h⁰ = hₜ₋₁;   for k = 1 … rounds:
        xᵏ = 2σ(hᵏ⁻¹ qᵏ) · xᵏ⁻¹   k odd,    hᵏ = 2σ(xᵏ⁻¹ rᵏ) · hᵏ⁻¹   k even,   the other one stays
        i, f, g, o from x w_ih + h w_hh + b of the last round, as in `LSTM`
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        hₜ = oₜ · tanh(cₜ),   yₜ = hₜ

    Args:
      hidden: width of h and c.
      rounds: number of rounds, 0 or more; 0 is an LSTM.
      rank: of q and r, products of two thin matrices; whole if left out.
      forget_bias: start of b_f.

    Reference: Melis, Kočiský, Blunsom, Mogrifier LSTM, 2020, arXiv:1909.01792.

    >>> import jrnn
    >>> jrnn.MogrifierLSTM(8, rounds=5, rank=2).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    rounds: Lag = 5
    rank: Width | None = None
    forget_bias: float = 1.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> MogrifierLSTMParams:
        k_lstm, *keys = jax.random.split(key, 1 + self.rounds)

        def draw(key: Array, rows: int, columns: int) -> tuple[Array, ...]:
            if self.rank is None:
                return (glorot(key, (rows, columns)),)
            k_down, k_up = jax.random.split(key)
            return glorot(k_down, (rows, self.rank)), glorot(k_up, (self.rank, columns))

        return MogrifierLSTMParams(
            lstm=draw_gates(k_lstm, in_features, self.hidden, biases=(0, self.forget_bias, 0, 0)),
            q=tuple(draw(k, self.hidden, in_features) for k in keys[0::2]),
            r=tuple(draw(k, in_features, self.hidden) for k in keys[1::2]),
        )

    def initial_carry(
        self, params: MogrifierLSTMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LSTMCarry:
        return LSTMCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hc"))

    @broadcasting
    def step(self, params: MogrifierLSTMParams, carry: LSTMCarry, x: Any) -> tuple[LSTMCarry, Array]:
        h = carry.h
        for k in range(self.rounds):
            if k % 2 == 0:
                x = 2 * jax.nn.sigmoid(times(h, *params.q[k // 2])) * x
            else:
                h = 2 * jax.nn.sigmoid(times(x, *params.r[k // 2])) * h
        z = x @ params.lstm.w_ih + h @ params.lstm.w_hh + params.lstm.b
        i, f, g, o = gates(z, "ifgo", candidate="g")
        c = f * carry.c + i * g
        h = o * jnp.tanh(c)
        return LSTMCarry(h, c), h
