"""Long short-term memory: input and state modulate each other before the gates."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Lag, Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import GateParams, draw_gates, gates, times
from jrnn.cells.lstm import LSTM, LSTMCarry, LSTMParams
from jrnn.cells.maps import DenseParams
from jrnn.initializers import default_float, glorot, orthogonal


class MultiplicativeLSTMParams(NamedTuple):
    """Parameters of `MultiplicativeLSTM`."""

    lstm: GateParams  # order i f g o, of x and m
    w_im: Array  # (in, hidden)
    w_hm: Array  # (hidden, hidden)


@checked
@dataclass(frozen=True)
class MultiplicativeLSTM:
    """Multiplicative LSTM: the input scales the state that the gates read.

        mₜ = (xₜ w_im) · (hₜ₋₁ w_hm)
        i, f, g, o from xₜ w_ih + mₜ w_hh + b, as in `LSTM`
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        hₜ = oₜ · tanh(cₜ),   yₜ = hₜ

    Args:
      hidden: width of h, c and m.
      forget_bias: start of b_f.

    Reference: Krause, Lu, Murray, Renals, Multiplicative LSTM for sequence modeling, 2016,
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
    q: tuple[tuple[Array, ...], ...]  # per odd round (hidden, in), or two factors
    r: tuple[tuple[Array, ...], ...]  # per even round (in, hidden), or two factors


@checked
@dataclass(frozen=True)
class MogrifierLSTM:
    """Mogrifier LSTM: input and state gate each other for some rounds before the LSTM reads them.

        x⁰ = xₜ,  h⁰ = hₜ₋₁;   for k = 1 … rounds:
        xᵏ = 2σ(hᵏ⁻¹ qᵏ) · xᵏ⁻¹   k odd,    hᵏ = 2σ(xᵏ⁻¹ rᵏ) · hᵏ⁻¹   k even,   the other is unchanged
        i, f, g, o from x w_ih + h w_hh + b of the last round, as in `LSTM`
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        hₜ = oₜ · tanh(cₜ),   yₜ = hₜ

    Args:
      hidden: width of h and c.
      rounds: number of rounds, 0 or more; 0 is an LSTM.
      rank: rank of q and r, as products of two factors; None: full.
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


class HyperLSTMParams(NamedTuple):
    """Parameters of `HyperLSTM`."""

    lstm: GateParams  # i f g o
    hyper: LSTMParams  # of the small LSTM, which reads [x, h]
    embed: DenseParams  # (hyper, 12·embedding), to a vector for each of 3 uses and 4 gates
    scale: Array  # (3, 4, embedding, hidden), from each vector; uses: of h, of x, bias


class HyperLSTMCarry(NamedTuple):
    """State of `HyperLSTM`."""

    h: Array  # (..., hidden)
    c: Array  # (..., hidden)
    hyper: LSTMCarry  # (..., hyper)


@checked
@dataclass(frozen=True)
class HyperLSTM:
    """Hyper LSTM: at every step a small LSTM scales the products of a large one and moves its biases.

        ĥₜ = LSTM([xₜ, hₜ₋₁])
        s_h, s_x, s_b = (ĥₜ w_z + b_z) scale,   each for all four gates
        i, f, g, o from s_x · (xₜ w_ih) + s_h · (hₜ₋₁ w_hh) + s_b + b, as in `LSTM`
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        hₜ = oₜ · tanh(cₜ),   yₜ = hₜ

    At the start s_h = s_x = 0.1 and s_b = 0, as in the paper, whose layer normalization is left out.

    Args:
      hidden: width of h and c.
      hyper: width of ĥ.
      embedding: width of ĥ w_z for each gate and use.
      forget_bias: start of b_f, in both.

    Reference: Ha, Dai, Le, HyperNetworks, 2017, arXiv:1609.09106.

    >>> import jrnn
    >>> jrnn.HyperLSTM(64, hyper=16, embedding=4).out_features
    64
    """

    hidden: Width
    _: KW_ONLY
    hyper: Width = 16
    embedding: Width = 4
    forget_bias: float = 1.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> HyperLSTMParams:
        k_lstm, k_hyper, k_scale = jax.random.split(key, 3)
        biases, width = (0, self.forget_bias, 0, 0), 12 * self.embedding
        moving = 0.01 * jax.random.normal(k_scale, (4, self.embedding, self.hidden), default_float())
        ones = jnp.ones((2, *moving.shape), moving.dtype)
        at_start = jnp.asarray([1, 1, 0], moving.dtype).repeat(width // 3)  # of the vectors: s_b starts at 0
        return HyperLSTMParams(
            lstm=draw_gates(k_lstm, in_features, self.hidden, biases),
            hyper=LSTM(self.hyper, forget_bias=self.forget_bias).init(k_hyper, in_features + self.hidden),
            embed=DenseParams(jnp.zeros((self.hyper, width), moving.dtype), at_start),
            scale=jnp.concatenate([0.1 / self.embedding * ones, moving[None]]),
        )

    def initial_carry(
        self, params: HyperLSTMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> HyperLSTMCarry:
        h, c = (zero_state(params, batch_shape, self.hidden) for _ in "hc")
        return HyperLSTMCarry(h, c, LSTM(self.hyper).initial_carry(params.hyper, batch_shape))

    @broadcasting
    def step(self, params: HyperLSTMParams, carry: HyperLSTMCarry, x: Any) -> tuple[HyperLSTMCarry, Array]:
        h, c, small = carry
        small, y = LSTM(self.hyper).step(params.hyper, small, jnp.concatenate([x, h], -1))
        vectors = y @ params.embed.w + params.embed.b
        vectors = vectors.reshape(*vectors.shape[:-1], 3, 4, self.embedding)
        scales = jnp.einsum("...ugz,ugzh->...ugh", vectors, params.scale)
        s_h, s_x, s_b = jnp.moveaxis(scales.reshape(*scales.shape[:-2], 4 * self.hidden), -2, 0)
        z = s_x * (x @ params.lstm.w_ih) + s_h * (h @ params.lstm.w_hh) + s_b + params.lstm.b
        i, f, g, o = gates(z, "ifgo", candidate="g")
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return HyperLSTMCarry(h, c, small), h
