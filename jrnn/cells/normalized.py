"""Long short-term memory: cells with layer normalization."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Positive, Width, checked
from jrnn.cell import Shape, broadcasting, zero_carry, zero_state
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import draw_gates, gates, tanh, widened, zeros
from jrnn.cells.lstm import LSTMCarry


def normalize(z: Array, epsilon: float, centered: bool = True) -> Array:
    """(z − mean) / √(variance + ε) over the last axis, in float32 at least: 1 / √ε³ overflows in float16."""
    wide = widened(z)
    wide = wide - jnp.mean(wide, -1, keepdims=True) if centered else wide
    normal = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + epsilon)
    return normal.astype(z.dtype)


class LayerNormLSTMParams(NamedTuple):
    """Parameters of `LayerNormLSTM`; gate order: i f g o."""

    w_ih: Array  # (in, 4·hidden)
    w_hh: Array  # (hidden, 4·hidden)
    b: Array  # (4·hidden,)
    gain_x: Array  # (4·hidden,)
    gain_h: Array  # (4·hidden,)
    gain_c: Array  # (hidden,)
    b_c: Array  # (hidden,)


@checked
@dataclass(frozen=True)
class LayerNormLSTM:
    """LSTM with layer normalization of its pre-activations.

        LN(z) = (z − mean z) / √(var z + ε)
        [iₜ fₜ gₜ oₜ] = γ_x · LN(xₜ w_ih) + γ_h · LN(hₜ₋₁ w_hh) + b;   i, f, o by σ, g by tanh
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        hₜ = oₜ · tanh(γ_c · LN(cₜ) + b_c),   yₜ = hₜ

    Each LN runs over all 4 · hidden pre-activations at once, as in the paper; cₜ itself is not normalized.
    There is one bias for the sum of the paper's three.

    Args:
      hidden: width of h and c.
      forget_bias: start of b_f.
      epsilon: ε.

    Reference: Ba, Kiros, Hinton, Layer normalization, 2016, arXiv:1607.06450.

    >>> import jrnn
    >>> jrnn.LayerNormLSTM(8).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    forget_bias: float = 1.0
    epsilon: Positive = 1e-6

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> LayerNormLSTMParams:
        w_ih, w_hh, b = draw_gates(key, in_features, self.hidden, biases=(0, self.forget_bias, 0, 0))
        return LayerNormLSTMParams(
            w_ih=w_ih,
            w_hh=w_hh,
            b=b,
            gain_x=zeros(4 * self.hidden) + 1,
            gain_h=zeros(4 * self.hidden) + 1,
            gain_c=zeros(self.hidden) + 1,
            b_c=zeros(self.hidden),
        )

    def initial_carry(
        self, params: LayerNormLSTMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LSTMCarry:
        return LSTMCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hc"))

    @broadcasting
    def step(self, params: LayerNormLSTMParams, carry: LSTMCarry, x: Any) -> tuple[LSTMCarry, Array]:
        a = params.gain_x * normalize(x @ params.w_ih, self.epsilon)
        u = params.gain_h * normalize(carry.h @ params.w_hh, self.epsilon)
        i, f, g, o = gates(a + u + params.b, "ifgo", candidate="g")
        c = f * carry.c + i * g
        h = o * jnp.tanh(params.gain_c * normalize(c, self.epsilon) + params.b_c)
        return LSTMCarry(h, c), h


class LayerNormGRUParams(NamedTuple):
    """Parameters of `LayerNormGRU`; gate order: r z n."""

    w_ih: Array  # (in, 3·hidden)
    w_hh: Array  # (hidden, 3·hidden)
    b: Array  # (3·hidden,)
    b_hn: Array  # (hidden,)
    gain_x: Array  # (3·hidden,)
    gain_h: Array  # (3·hidden,)


@checked
@dataclass(frozen=True)
class LayerNormGRU:
    """GRU with layer normalization of its pre-activations.

        LN(z) = (z − mean z) / √(var z + ε)
        [rₜ zₜ] = σ(γ_x · LN(xₜ w_rz) + γ_h · LN(hₜ₋₁ u_rz) + b_rz)
        nₜ = tanh(γ_x · LN(xₜ w_n) + b_n + rₜ · (γ_h · LN(hₜ₋₁ u_n) + b_hn))
        hₜ = (1 − zₜ) · hₜ₋₁ + zₜ · nₜ,   yₜ = hₜ

    As in the paper, one LN runs over r and z together and another over n, and z takes the new value (in
    `GRU` it keeps the old one).

    Args:
      epsilon: ε.

    Reference: Ba, Kiros, Hinton, Layer normalization, 2016, arXiv:1607.06450.

    >>> import jrnn
    >>> jrnn.LayerNormGRU(8).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    epsilon: Positive = 1e-6

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> LayerNormGRUParams:
        w_ih, w_hh, b = draw_gates(key, in_features, self.hidden, biases=(0, 0, 0))
        return LayerNormGRUParams(
            w_ih=w_ih,
            w_hh=w_hh,
            b=b,
            b_hn=zeros(self.hidden),
            gain_x=zeros(3 * self.hidden) + 1,
            gain_h=zeros(3 * self.hidden) + 1,
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: LayerNormGRUParams, carry: Array, x: Any) -> tuple[Array, Array]:
        a_rz, a_n = self._normalized(x @ params.w_ih, params.gain_x)
        u_rz, u_n = self._normalized(carry @ params.w_hh, params.gain_h)
        b_rz, b_n = jnp.split(params.b, (2 * self.hidden,))
        r, z = gates(a_rz + u_rz + b_rz, "rz")
        n = tanh(a_n + b_n + r * (u_n + params.b_hn), "n")
        h = (1 - z) * carry + z * n
        return h, h

    def _normalized(self, sums: Array, gain: Array) -> list[Array]:
        """γ · LN of r and z together, and of n."""
        parts = (jnp.split(a, (2 * self.hidden,), axis=-1) for a in (sums, gain))
        return [g * normalize(z, self.epsilon) for z, g in zip(*parts, strict=True)]


class LayerNormElmanParams(NamedTuple):
    """Parameters of `LayerNormElman`."""

    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden, hidden)
    b: Array  # (hidden,)
    gain: Array  # (hidden,)


@checked
@dataclass(frozen=True)
class LayerNormElman:
    """Elman network with layer normalization of its pre-activation.

        LN(z) = (z − mean z) / √(var z + ε)
        hₜ = f(γ · LN(xₜ w_ih + hₜ₋₁ w_hh) + b),   yₜ = hₜ

    Args:
      activation: f, by name.
      epsilon: ε.

    Reference: Ba, Kiros, Hinton, Layer normalization, 2016, arXiv:1607.06450.

    >>> import jrnn
    >>> jrnn.LayerNormElman(8).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    activation: Activation = "tanh"
    epsilon: Positive = 1e-6

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> LayerNormElmanParams:
        drawn = draw_gates(key, in_features, self.hidden, biases=(0,))
        return LayerNormElmanParams(*drawn, gain=zeros(self.hidden) + 1)

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: LayerNormElmanParams, carry: Array, x: Any) -> tuple[Array, Array]:
        z = params.gain * normalize(x @ params.w_ih + carry @ params.w_hh, self.epsilon) + params.b
        h = checkpoint_name(activation(self.activation)(z), "h")
        return h, h
