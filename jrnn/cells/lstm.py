"""Long short-term memory: the cell with a forget gate."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import gates, plus
from jrnn.initializers import chrono, default_float, glorot, orthogonal


class LSTMParams(NamedTuple):
    """Parameters of `LSTM`; gate order: i f g o."""

    w_ih: Array  # (in, 4·hidden)
    w_hh: Array  # (hidden, 4·hidden)
    b: Any  # (4·hidden,); None without a bias


class LSTMCarry(NamedTuple):
    """State of `LSTM`."""

    h: Array  # (..., hidden), working memory, also the output
    c: Array  # (..., hidden), cell state, the long-term memory


@checked
@dataclass(frozen=True)
class LSTM:
    """Long short-term memory: a cell state that gates write, keep and read.

        iₜ = σ(xₜ w_i + hₜ₋₁ u_i + b_i)
        fₜ = σ(xₜ w_f + hₜ₋₁ u_f + b_f)
        gₜ = a(xₜ w_g + hₜ₋₁ u_g + b_g)
        oₜ = σ(xₜ w_o + hₜ₋₁ u_o + b_o)
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        hₜ = oₜ · a(cₜ),   yₜ = hₜ

    The gate order of `w_ih`, `w_hh` and `b` is i f g o, as in torch and Keras (flax has separate arrays,
    haiku i g f o). There is one bias, where torch adds two. The carry is `LSTMCarry(h, c)`; flax orders it
    c, h. For peepholes, coupled gates and projection see `LSTMVariant`.

    Args:
      hidden: width of h and c.
      forget_bias: start of b_f (Keras: 1; torch draws all biases around 0).
      activation: a, by name: "tanh", "relu", "gelu", "silu", ...
      bias: add b.
      max_lag: longest dependency in steps; if given, biases start by the chrono rule instead:
        b_f = log U(1, max_lag − 1), b_i = −b_f.

    Raises:
      ValueError: `max_lag` below 3 or without a bias.

    Reference: Gers, Schmidhuber, Cummins, Learning to forget: continual prediction with LSTM, 2000,
    doi:10.1162/089976600300015015; forget bias: Jozefowicz et al., 2015; chrono: arXiv:1804.11188.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.LSTM(3)
    >>> params = cell.init(jax.random.key(0), in_features=2)
    >>> (h, c), ys = jrnn.unroll(cell, params, jnp.ones((5, 4, 2)))
    >>> ys.shape, c.shape
    ((5, 4, 3), (4, 3))
    """

    hidden: Width
    _: KW_ONLY
    forget_bias: float = 1.0
    max_lag: Width | None = None
    activation: Activation = "tanh"
    bias: bool = True

    def __post_init__(self) -> None:
        if self.max_lag is not None and self.max_lag < 3:
            raise ValueError(f"max_lag must be at least 3 steps, got {self.max_lag}")
        if self.max_lag is not None and not self.bias:
            raise ValueError(f"max_lag={self.max_lag} sets initial biases, so it cannot go with bias=False")

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> LSTMParams:
        k_ih, k_hh, k_b = jax.random.split(key, 3)
        return LSTMParams(
            w_ih=glorot(k_ih, (in_features, 4 * self.hidden), blocks=4),
            w_hh=orthogonal(k_hh, (self.hidden, 4 * self.hidden)),
            b=self._initial_bias(k_b) if self.bias else None,
        )

    def _initial_bias(self, key: Array) -> Array:
        zero = jnp.zeros(self.hidden, default_float())
        if self.max_lag is None:
            return jnp.concatenate([zero, zero + self.forget_bias, zero, zero])
        b_f = chrono(key, (self.hidden,), max_lag=self.max_lag)
        return jnp.concatenate([-b_f, b_f, zero, zero])

    def initial_carry(
        self, params: LSTMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LSTMCarry:
        return LSTMCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hc"))

    @broadcasting
    def step(self, params: LSTMParams, carry: LSTMCarry, x: Any) -> tuple[LSTMCarry, Array]:
        z = plus(x @ params.w_ih + carry.h @ params.w_hh, params.b)  # (..., 4·hidden)
        i, f, g, o = gates(z, "ifgo", candidate="g", activation=self.activation)
        c = f * carry.c + i * g
        h = o * activation(self.activation)(c)
        return LSTMCarry(h, c), h
