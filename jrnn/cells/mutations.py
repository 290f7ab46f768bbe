"""Gated recurrent units: three cells found by an evolutionary search, all close to a GRU."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._gating import sigmoid, split, tanh, zeros
from jrnn.initializers import glorot, orthogonal


class MUTParams(NamedTuple):
    """Parameters of `MUT1`, `MUT2` and `MUT3`; their docstrings give the orders."""

    w_ih: Array  # (in, gates that read x through a product · hidden)
    w_hh: Array  # (hidden, gates that read h · hidden)
    b: Array  # (3·hidden,), order z r n
    w_ix: Any  # (in, hidden), maps x to the width of the state; None if in = hidden, or in `MUT3`


def _draw(key: Array, in_features: int, hidden: int, counts: tuple[int, int], bare: bool) -> MUTParams:
    """Initialize parameters for `counts` = (gates on x, gates on h)."""
    k_ih, k_hh, k_ix = jax.random.split(key, 3)
    return MUTParams(
        w_ih=glorot(k_ih, (in_features, counts[0] * hidden), blocks=counts[0]),
        w_hh=orthogonal(k_hh, (hidden, counts[1] * hidden)),
        b=zeros(3 * hidden),
        w_ix=glorot(k_ix, (in_features, hidden)) if bare and in_features != hidden else None,
    )


@checked
@dataclass(frozen=True)
class MUT1:
    """First mutant of the search: the candidate reads tanh of the input without a matrix.

        zₜ = σ(xₜ w_z + b_z)
        rₜ = σ(xₜ w_r + hₜ₋₁ u_r + b_r)
        nₜ = tanh((rₜ · hₜ₋₁) u_n + tanh(x̃ₜ) + b_n)
        hₜ = zₜ · nₜ + (1 − zₜ) · hₜ₋₁,   yₜ = hₜ

    x̃ₜ = xₜ if the input is as wide as the state, as the paper requires, else xₜ w_ix with a learned w_ix.
    Order of `w_ih`: z r; of `w_hh`: r n.

    Reference: Jozefowicz, Zaremba, Sutskever, An empirical exploration of recurrent network
    architectures, 2015.

    >>> import jax, jrnn
    >>> jrnn.MUT1(3).init(jax.random.key(0), in_features=3).w_ix is None
    True
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> MUTParams:
        return _draw(key, in_features, self.hidden, (2, 2), bare=True)

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: MUTParams, carry: Array, x: Any) -> tuple[Array, Array]:
        h, (b_z, b_r, b_n), (u_r, u_n) = carry, split(params.b, 3), split(params.w_hh, 2)
        a_z, a_r = split(x @ params.w_ih, 2)
        z = sigmoid(a_z + b_z, "z")
        r = sigmoid(a_r + h @ u_r + b_r, "r")
        n = tanh((r * h) @ u_n + jnp.tanh(_bare(params, x)) + b_n, "n")
        h = z * n + (1 - z) * h
        return h, h


@checked
@dataclass(frozen=True)
class MUT2:
    """Second mutant of the search: the reset gate reads the input without a matrix.

        zₜ = σ(xₜ w_z + hₜ₋₁ u_z + b_z)
        rₜ = σ(x̃ₜ + hₜ₋₁ u_r + b_r)
        nₜ = tanh((rₜ · hₜ₋₁) u_n + xₜ w_n + b_n)
        hₜ = zₜ · nₜ + (1 − zₜ) · hₜ₋₁,   yₜ = hₜ

    x̃ₜ as in `MUT1`. Order of `w_ih`: z n; of `w_hh`: z r n.

    Reference: Jozefowicz, Zaremba, Sutskever, An empirical exploration of recurrent network
    architectures, 2015.

    >>> import jax, jrnn
    >>> jrnn.MUT2(4).init(jax.random.key(0), in_features=3).w_ix.shape
    (3, 4)
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> MUTParams:
        return _draw(key, in_features, self.hidden, (2, 3), bare=True)

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: MUTParams, carry: Array, x: Any) -> tuple[Array, Array]:
        h, (b_z, b_r, b_n), (u_z, u_r, u_n) = carry, split(params.b, 3), split(params.w_hh, 3)
        a_z, a_n = split(x @ params.w_ih, 2)
        z = sigmoid(a_z + h @ u_z + b_z, "z")
        r = sigmoid(_bare(params, x) + h @ u_r + b_r, "r")
        n = tanh((r * h) @ u_n + a_n + b_n, "n")
        h = z * n + (1 - z) * h
        return h, h


@checked
@dataclass(frozen=True)
class MUT3:
    """Third mutant of the search: a GRU whose update gate reads tanh of the state.

        zₜ = σ(xₜ w_z + tanh(hₜ₋₁) u_z + b_z)
        rₜ = σ(xₜ w_r + hₜ₋₁ u_r + b_r)
        nₜ = tanh((rₜ · hₜ₋₁) u_n + xₜ w_n + b_n)
        hₜ = zₜ · nₜ + (1 − zₜ) · hₜ₋₁,   yₜ = hₜ

    Order of `w_ih` and `w_hh`: z r n.

    Reference: Jozefowicz, Zaremba, Sutskever, An empirical exploration of recurrent network
    architectures, 2015.

    >>> import jrnn
    >>> jrnn.MUT3(8).out_features
    8
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> MUTParams:
        return _draw(key, in_features, self.hidden, (3, 3), bare=False)

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: MUTParams, carry: Array, x: Any) -> tuple[Array, Array]:
        h, (u_z, u_r, u_n) = carry, split(params.w_hh, 3)
        a_z, a_r, a_n = split(x @ params.w_ih + params.b, 3)
        z = sigmoid(a_z + jnp.tanh(h) @ u_z, "z")
        r = sigmoid(a_r + h @ u_r, "r")
        n = tanh((r * h) @ u_n + a_n, "n")
        h = z * n + (1 - z) * h
        return h, h


def _bare(params: MUTParams, x: Any) -> Any:
    return x if params.w_ix is None else x @ params.w_ix
