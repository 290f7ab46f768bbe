"""Gated recurrent units: the candidate is the state multiplied by a gate that depends on it."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._gating import sigmoid, split, tanh, zeros
from jrnn.initializers import glorot, orthogonal


class SGUParams(NamedTuple):
    """Parameters of `SGU`."""

    w_ih: Array  # (in, 2·hidden), order g z
    w_hh: Array  # (hidden, hidden), of z
    b: Array  # (2·hidden,), order g z
    w_gg: Array  # (hidden, hidden), from x · h to the gate g
    w_go: Any  # (hidden, hidden), from g · h to the candidate; None if not deep


@checked
@dataclass(frozen=True)
class SGU:
    """Simple gated unit: input and state are multiplied in the candidate, not added.

        gₜ = tanh(((xₜ w_g + b_g) · hₜ₋₁) w_gg)
        nₜ = softplus(gₜ · hₜ₋₁)
        nₜ = σ((gₜ · hₜ₋₁) w_go)                       deep=True
        zₜ = hard_sigmoid(xₜ w_z + hₜ₋₁ w_hh + b_z)
        hₜ = (1 − zₜ) · hₜ₋₁ + zₜ · nₜ,   yₜ = hₜ

    The hard sigmoid is that of torch and JAX, x / 6 + ½ clipped to [0, 1]. States become positive and stay
    so: in a stack, put a `Dense` between two of them.

    Args:
      deep: give the candidate its own matrix (the deep simple gated unit, DSGU).

    Reference: Gao, Glowacka, Deep gate recurrent neural network, 2016, ACML (PMLR 63).

    >>> import jax, jrnn
    >>> [jrnn.SGU(8, deep=d).init(jax.random.key(0), in_features=3).w_go is None for d in (False, True)]
    [True, False]
    """

    hidden: Width
    _: KW_ONLY
    deep: bool = False

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> SGUParams:
        k_ih, k_hh, k_gg, k_go = jax.random.split(key, 4)
        square = self.hidden, self.hidden
        return SGUParams(
            w_ih=glorot(k_ih, (in_features, 2 * self.hidden), blocks=2),
            w_hh=orthogonal(k_hh, square),
            b=zeros(2 * self.hidden),
            w_gg=glorot(k_gg, square),
            w_go=glorot(k_go, square) if self.deep else None,
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: SGUParams, carry: Array, x: Any) -> tuple[Array, Array]:
        h, (a_g, a_z) = carry, split(x @ params.w_ih + params.b, 2)
        g = tanh((a_g * h) @ params.w_gg, "g")
        if params.w_go is None:
            n = checkpoint_name(jax.nn.softplus(g * h), "n")
        else:
            n = sigmoid((g * h) @ params.w_go, "n")
        z = checkpoint_name(jax.nn.hard_sigmoid(a_z + h @ params.w_hh), "z")
        h = (1 - z) * h + z * n
        return h, h
