"""Gated recurrent units: each unit can latch one of two values."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._gating import GateParams, sigmoid, split, tanh, zeros
from jrnn.initializers import default_float, glorot, orthogonal


class BRCParams(NamedTuple):
    """Parameters of `BRC`."""

    w_ih: Array  # (in, 3·hidden), order a c n
    w_hh: Array  # (2·hidden,), order a c
    b: Array  # (3·hidden,), order a c n


@checked
@dataclass(frozen=True)
class BRC:
    """Bistable recurrent cell: a GRU whose units see only their own state.

        aₜ = 1 + tanh(xₜ w_a + u_a · hₜ₋₁ + b_a)
        cₜ = σ(xₜ w_c + u_c · hₜ₋₁ + b_c)
        nₜ = tanh(xₜ w_n + aₜ · hₜ₋₁ + b_n)
        hₜ = cₜ · hₜ₋₁ + (1 − cₜ) · nₜ,   yₜ = hₜ

    A unit with aₜ > 1 has two stable states. `w_hh` is [u_a, u_c].

    Reference: Vecoven, Ernst, Drion, A bio-inspired bistable recurrent cell allows for long-lasting memory,
    2021, doi:10.1371/journal.pone.0252676.

    >>> import jax, jrnn
    >>> jrnn.BRC(8).init(jax.random.key(0), in_features=3).w_hh.shape
    (16,)
    """

    hidden: Width
    diagonal: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> BRCParams:
        k_ih, k_hh = jax.random.split(key)
        return BRCParams(
            w_ih=glorot(k_ih, (in_features, 3 * self.hidden), blocks=3),
            w_hh=jax.random.normal(k_hh, (2 * self.hidden,), default_float()),
            b=zeros(3 * self.hidden),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: BRCParams, carry: Array, x: Any) -> tuple[Array, Array]:
        h, (u_a, u_c) = carry, split(params.w_hh, 2)
        z_a, z_c, z_n = split(x @ params.w_ih + params.b, 3)
        a = checkpoint_name(1 + jnp.tanh(z_a + u_a * h), "a")
        c = sigmoid(z_c + u_c * h, "c")
        n = tanh(z_n + a * h, "n")
        h = c * h + (1 - c) * n
        return h, h


@checked
@dataclass(frozen=True)
class NBRC:
    """Recurrently neuromodulated bistable cell: both gates see the whole state.

        aₜ = 1 + tanh(xₜ w_a + hₜ₋₁ u_a + b_a)
        cₜ = σ(xₜ w_c + hₜ₋₁ u_c + b_c)
        nₜ = tanh(xₜ w_n + aₜ · hₜ₋₁ + b_n)
        hₜ = cₜ · hₜ₋₁ + (1 − cₜ) · nₜ,   yₜ = hₜ

    Order of `w_ih` and `b`: a c n; of `w_hh`: a c.

    Reference: Vecoven, Ernst, Drion, A bio-inspired bistable recurrent cell allows for long-lasting memory,
    2021, doi:10.1371/journal.pone.0252676.

    >>> import jax, jrnn
    >>> jrnn.NBRC(8).init(jax.random.key(0), in_features=3).w_hh.shape
    (8, 16)
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        k_ih, k_hh = jax.random.split(key)
        return GateParams(
            w_ih=glorot(k_ih, (in_features, 3 * self.hidden), blocks=3),
            w_hh=orthogonal(k_hh, (self.hidden, 2 * self.hidden)),
            b=zeros(3 * self.hidden),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        h, (u_a, u_c) = carry, split(carry @ params.w_hh, 2)
        z_a, z_c, z_n = split(x @ params.w_ih + params.b, 3)
        a = checkpoint_name(1 + jnp.tanh(z_a + u_a), "a")
        c = sigmoid(z_c + u_c, "c")
        n = tanh(z_n + a * h, "n")
        h = c * h + (1 - c) * n
        return h, h
