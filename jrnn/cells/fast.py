"""Simple recurrent networks: scalar gates, shared and low-rank weights, for small devices."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
from jax import Array

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._gating import sigmoid, split, tanh, times, zeros
from jrnn.initializers import glorot, orthogonal


class FastRNNParams(NamedTuple):
    """Parameters of `FastRNN`."""

    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden, hidden)
    b: Array  # (hidden,)
    alpha: Array  # (), before σ
    beta: Array  # (), before σ


@checked
@dataclass(frozen=True)
class FastRNN:
    """Elman network with a residual connection, weighted by two learned numbers.

        nₜ = tanh(xₜ w_ih + hₜ₋₁ w_hh + b)
        hₜ = σ(β) · hₜ₋₁ + σ(α) · nₜ,   yₜ = hₜ

    α starts at −3 and β at 3, as in the authors' code.

    Reference: Kusupati et al., FastGRNN: a fast, accurate, stable and tiny kilobyte sized gated recurrent
    neural network, 2018, arXiv:1901.02358.

    >>> import jrnn
    >>> jrnn.FastRNN(8).out_features
    8
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> FastRNNParams:
        k_ih, k_hh = jax.random.split(key)
        return FastRNNParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            w_hh=orthogonal(k_hh, (self.hidden, self.hidden)),
            b=zeros(self.hidden),
            alpha=zeros() - 3,
            beta=zeros() + 3,
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: FastRNNParams, carry: Array, x: Any) -> tuple[Array, Array]:
        n = tanh(x @ params.w_ih + carry @ params.w_hh + params.b, "n")
        h = jax.nn.sigmoid(params.beta) * carry + jax.nn.sigmoid(params.alpha) * n
        return h, h


class FastGRNNParams(NamedTuple):
    """Parameters of `FastGRNN`; the second factors are None for full-rank matrices."""

    w_ih: Array  # (in, hidden), or (in, rank)
    w_ih_up: Any  # (rank, hidden)
    w_hh: Array  # (hidden, hidden), or (hidden, rank)
    w_hh_up: Any  # (rank, hidden)
    b: Array  # (2·hidden,), order z n
    zeta: Array  # (), before σ
    nu: Array  # (), before σ


@checked
@dataclass(frozen=True)
class FastGRNN:
    """Gated cell whose gate and candidate share their weights.

        aₜ = xₜ w_ih + hₜ₋₁ w_hh
        zₜ = σ(aₜ + b_z)
        nₜ = tanh(aₜ + b_n)
        hₜ = (σ(ζ) · (1 − zₜ) + σ(ν)) · nₜ + zₜ · hₜ₋₁,   yₜ = hₜ

    With a rank, w_ih (or w_hh) is a product of two matrices. ζ starts at 1, ν at −4, b at 1, as in the
    authors' code.

    Args:
      input_rank: rank of w_ih; None: full.
      recurrent_rank: rank of w_hh; None: full.

    Reference: Kusupati et al., FastGRNN: a fast, accurate, stable and tiny kilobyte sized gated recurrent
    neural network, 2018, arXiv:1901.02358.

    >>> import jax, jrnn
    >>> jrnn.FastGRNN(8, recurrent_rank=2).init(jax.random.key(0), 3).w_hh_up.shape
    (2, 8)
    """

    hidden: Width
    _: KW_ONLY
    input_rank: Width | None = None
    recurrent_rank: Width | None = None

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> FastGRNNParams:
        k_ih, k_ih_up, k_hh, k_hh_up = jax.random.split(key, 4)
        r_ih, r_hh = self.input_rank, self.recurrent_rank
        return FastGRNNParams(
            w_ih=glorot(k_ih, (in_features, r_ih or self.hidden)),
            w_ih_up=None if r_ih is None else glorot(k_ih_up, (r_ih, self.hidden)),
            w_hh=orthogonal(k_hh, (self.hidden, r_hh or self.hidden)),
            w_hh_up=None if r_hh is None else glorot(k_hh_up, (r_hh, self.hidden)),
            b=zeros(2 * self.hidden) + 1,
            zeta=zeros() + 1,
            nu=zeros() - 4,
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: FastGRNNParams, carry: Array, x: Any) -> tuple[Array, Array]:
        b_z, b_n = split(params.b, 2)
        a = times(x, params.w_ih, params.w_ih_up) + times(carry, params.w_hh, params.w_hh_up)
        z, n = sigmoid(a + b_z, "z"), tanh(a + b_n, "n")
        h = (jax.nn.sigmoid(params.zeta) * (1 - z) + jax.nn.sigmoid(params.nu)) * n + z * carry
        return h, h
