"""Gated recurrent units: several layers between one state and the next."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_carry, zero_state
from jrnn.cells._gating import repeated, sigmoid, split, tanh
from jrnn.initializers import glorot, orthogonal


class RHNParams(NamedTuple):
    """Parameters of `RHN`; order: n t, or n t c if not coupled."""

    w_ih: Array  # (in, 2·hidden), or 3·hidden
    w_hh: tuple[Array, ...]  # per layer (hidden, 2·hidden), or 3·hidden
    b: tuple[Array, ...]  # per layer (2·hidden,), or 3·hidden


@checked
@dataclass(frozen=True)
class RHN:
    """Recurrent highway network: `depth` highway layers per step, the first of which reads the input.

        s⁰ = hₜ₋₁;   for l = 1 … depth:
        nˡ = tanh(xₜ w_n [l = 1] + sˡ⁻¹ uˡ_n + bˡ_n)
        tˡ = σ(xₜ w_t [l = 1] + sˡ⁻¹ uˡ_t + bˡ_t)
        cˡ = 1 − tˡ   coupled,   else σ(xₜ w_c [l = 1] + sˡ⁻¹ uˡ_c + bˡ_c)
        sˡ = nˡ · tˡ + sˡ⁻¹ · cˡ
        hₜ = s^depth,   yₜ = hₜ

    Args:
      depth: number of layers.
      coupled: set c = 1 − t.
      transform_bias: start of b_t; negative, so that an untrained network keeps its state.

    Reference: Zilly, Srivastava, Koutník, Schmidhuber, Recurrent highway networks, 2017, arXiv:1607.03474.

    >>> import jrnn
    >>> jrnn.RHN(8, depth=5).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    depth: Width = 3
    coupled: bool = True
    transform_bias: float = -2.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> RHNParams:
        k_ih, *keys = jax.random.split(key, 1 + self.depth)
        count = 2 if self.coupled else 3
        biases = (0, self.transform_bias, 0)[:count]
        return RHNParams(
            w_ih=glorot(k_ih, (in_features, count * self.hidden), blocks=count),
            w_hh=tuple(orthogonal(k, (self.hidden, count * self.hidden)) for k in keys),
            b=tuple(repeated(biases, self.hidden) for _ in range(self.depth)),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: RHNParams, carry: Array, x: Any) -> tuple[Array, Array]:
        s, a = carry, x @ params.w_ih
        for u, b in zip(params.w_hh, params.b, strict=True):
            n, t, *c = split(a + s @ u + b, 2 if self.coupled else 3)
            n, t = tanh(n, "n"), sigmoid(t, "t")
            s = n * t + s * (1 - t if self.coupled else sigmoid(c[0], "c"))
            a = 0  # only the first layer reads the input
        return s, s


class NASParams(NamedTuple):
    """Parameters of `NASCell`; order: 1 to 8."""

    w_ih: Array  # (in, 8·hidden)
    w_hh: Array  # (hidden, 8·hidden)


class NASCarry(NamedTuple):
    """State of `NASCell`."""

    h: Array  # (..., hidden), also the output
    c: Array  # (..., hidden)


@checked
@dataclass(frozen=True)
class NASCell:
    """The cell found by neural architecture search for language modeling.

        aₖ = xₜ wₖ,   mₖ = hₜ₋₁ uₖ,   k = 1 … 8
        o₁ = σ(a₁ + m₁)   o₂ = relu(a₂ + m₂)   o₃ = σ(a₃ + m₃)    o₄ = relu(a₄ · m₄)
        o₅ = tanh(a₅ + m₅)   o₆ = σ(a₆ + m₆)   o₇ = tanh(a₇ + m₇)   o₈ = σ(a₈ + m₈)
        l₁ = tanh(o₁ · o₂),   l₂ = tanh(o₃ + o₄),   l₃ = tanh(o₅ · o₆),   l₄ = σ(o₇ + o₈)
        cₜ = tanh(l₁ + cₜ₋₁) · l₂
        hₜ = tanh(cₜ · tanh(l₃ + l₄)),   yₜ = hₜ

    Args:
      hidden: width of h and c.

    Reference: Zoph, Le, Neural architecture search with reinforcement learning, 2017, arXiv:1611.01578.

    >>> import jrnn
    >>> jrnn.NASCell(8).out_features
    8
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> NASParams:
        k_ih, k_hh = jax.random.split(key)
        return NASParams(
            w_ih=glorot(k_ih, (in_features, 8 * self.hidden), blocks=8),
            w_hh=orthogonal(k_hh, (self.hidden, 8 * self.hidden)),
        )

    def initial_carry(
        self, params: NASParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> NASCarry:
        return NASCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hc"))

    def step(self, params: NASParams, carry: NASCarry, x: Any) -> tuple[NASCarry, Array]:
        a1, a2, a3, a4, a5, a6, a7, a8 = split(x @ params.w_ih, 8)
        m1, m2, m3, m4, m5, m6, m7, m8 = split(carry.h @ params.w_hh, 8)
        l1 = jnp.tanh(sigmoid(a1 + m1, "o1") * jax.nn.relu(a2 + m2))
        l2 = jnp.tanh(sigmoid(a3 + m3, "o3") + jax.nn.relu(a4 * m4))
        l3 = jnp.tanh(tanh(a5 + m5, "o5") * sigmoid(a6 + m6, "o6"))
        l4 = jax.nn.sigmoid(tanh(a7 + m7, "o7") + sigmoid(a8 + m8, "o8"))
        c = jnp.tanh(l1 + carry.c) * l2
        h = jnp.tanh(c * jnp.tanh(l3 + l4))
        return NASCarry(h, c), h
