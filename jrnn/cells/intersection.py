"""Gated recurrent units: gated paths through both time and depth."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._checks import check_equal_widths
from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._gating import GateParams, draw_gates, sigmoid, split, tanh


@checked
@dataclass(frozen=True)
class IntersectionRNN:
    """Intersection RNN (+RNN): gated highways through time and through depth, coupled where they cross.

        aₜ = relu(xₜ w_a + hₜ₋₁ u_a + b_a)
        nₜ = tanh(xₜ w_n + hₜ₋₁ u_n + b_n)
        kₜ = σ(xₜ w_k + hₜ₋₁ u_k + b_k)
        gₜ = σ(xₜ w_g + hₜ₋₁ u_g + b_g)
        yₜ = kₜ · xₜ + (1 − kₜ) · aₜ
        hₜ = gₜ · hₜ₋₁ + (1 − gₜ) · nₜ

    Gate order: a n k g. x must be as wide as h: if not, put a `Dense` before it.

    Args:
      hidden: width of h, of x and of y.
      gate_bias: start of b_k and b_g.

    Raises:
      ValueError: an input that is not as wide as the state.

    Reference: Collins, Sohl-Dickstein, Sussillo, Capacity and trainability in recurrent neural networks,
    2017, arXiv:1611.09913.

    >>> import jrnn
    >>> jrnn.Stack((jrnn.Dense(8), jrnn.IntersectionRNN(8), jrnn.IntersectionRNN(8))).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    gate_bias: float = 1.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        check_equal_widths(self, in_features)
        return draw_gates(key, in_features, self.hidden, biases=(0, 0, self.gate_bias, self.gate_bias))

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        a, n, k, g = split(x @ params.w_ih + carry @ params.w_hh + params.b, 4)
        a, n = checkpoint_name(jax.nn.relu(a), "a"), tanh(n, "n")
        k, g = sigmoid(k, "k"), sigmoid(g, "g")
        y = k * x + (1 - k) * a
        h = g * carry + (1 - g) * n
        return h, y
