"""Gated recurrent units: a state that is a gated sum, with little or no other nonlinearity."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._activations import activation
from jrnn.cells._gating import GateParams, draw_gates, gates, repeated, sigmoid, split, tanh, zeros
from jrnn.initializers import glorot, orthogonal


class RANParams(NamedTuple):
    """Parameters of `RAN`."""

    w_ih: Array  # (in, 3·hidden), order i f n
    w_hh: Array  # (hidden, 2·hidden), of i f
    b: Array  # (3·hidden,), order i f n


@checked
@dataclass(frozen=True)
class RAN:
    """Recurrent additive network: the memory is a weighted sum of inputs.

        iₜ = σ(xₜ w_i + hₜ₋₁ u_i + b_i)
        fₜ = σ(xₜ w_f + hₜ₋₁ u_f + b_f)
        nₜ = xₜ w_n + b_n
        cₜ = iₜ · nₜ + fₜ · cₜ₋₁
        hₜ = g(cₜ),   yₜ = hₜ

    The carry is only c, since h follows from it. The paper has no b_n.

    Args:
      hidden: width of c and h.
      activation: g, "tanh" or "identity".

    Reference: Lee, Levy, Zettlemoyer, Recurrent additive networks, 2017, arXiv:1705.07393.

    >>> import jrnn
    >>> jrnn.RAN(8)
    RAN(hidden=8)
    """

    hidden: Width
    _: KW_ONLY
    activation: Literal["tanh", "identity"] = "tanh"

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> RANParams:
        k_ih, k_hh = jax.random.split(key)
        return RANParams(
            w_ih=glorot(k_ih, (in_features, 3 * self.hidden), blocks=3),
            w_hh=orthogonal(k_hh, (self.hidden, 2 * self.hidden)),
            b=zeros(3 * self.hidden),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: RANParams, carry: Array, x: Any) -> tuple[Array, Array]:
        g = activation(self.activation)
        a_i, a_f, n = split(x @ params.w_ih + params.b, 3)
        u_i, u_f = split(g(carry) @ params.w_hh, 2)
        i, f, n = sigmoid(a_i + u_i, "i"), sigmoid(a_f + u_f, "f"), checkpoint_name(n, "n")
        c = i * n + f * carry
        return c, g(c)


@checked
@dataclass(frozen=True)
class ATR:
    """Addition-subtraction twin-gated network: two gates from the sum and the difference of two products.

        pₜ = xₜ w_ih + b,   qₜ = hₜ₋₁ w_hh
        iₜ = σ(pₜ + qₜ),   fₜ = σ(pₜ − qₜ)
        hₜ = iₜ · pₜ + fₜ · hₜ₋₁,   yₜ = hₜ

    Reference: Zhang, Xiong, Su, Lin, Zhang, Simplifying neural machine translation with
    addition-subtraction twin-gated recurrent networks, 2018, arXiv:1810.12546.

    >>> import jrnn
    >>> jrnn.ATR(8).out_features
    8
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return draw_gates(key, in_features, self.hidden, biases=(0,))

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        p = checkpoint_name(x @ params.w_ih + params.b, "p")
        q = carry @ params.w_hh
        i, f = sigmoid(p + q, "i"), sigmoid(p - q, "f")
        h = i * p + f * carry
        return h, h


class CFNParams(NamedTuple):
    """Parameters of `CFN`."""

    w_ih: Array  # (in, 3·hidden), order θ η n
    w_hh: Array  # (hidden, 2·hidden), of θ η
    b: Array  # (2·hidden,), of θ η


@checked
@dataclass(frozen=True)
class CFN:
    """Chaos-free network: without input its state decays to zero for any weights.

        θₜ = σ(xₜ w_θ + hₜ₋₁ u_θ + b_θ)
        ηₜ = σ(xₜ w_η + hₜ₋₁ u_η + b_η)
        nₜ = tanh(xₜ w_n)
        hₜ = θₜ · tanh(hₜ₋₁) + ηₜ · nₜ,   yₜ = hₜ

    The gates θ, on the past, and η, on the input, are named f and i. b_θ starts at 1 and b_η at −1, as in the
    paper.

    Reference: Laurent, von Brecht, A recurrent neural network without chaos, 2017, arXiv:1612.06212.

    >>> import jax, jrnn
    >>> jrnn.CFN(2).init(jax.random.key(0), in_features=3).b
    Array([ 1.,  1., -1., -1.], dtype=float32)
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> CFNParams:
        k_ih, k_hh = jax.random.split(key)
        return CFNParams(
            w_ih=glorot(k_ih, (in_features, 3 * self.hidden), blocks=3),
            w_hh=orthogonal(k_hh, (self.hidden, 2 * self.hidden)),
            b=repeated((1, -1), self.hidden),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: CFNParams, carry: Array, x: Any) -> tuple[Array, Array]:
        a, n = jnp.split(x @ params.w_ih, (2 * self.hidden,), axis=-1)
        theta, eta = gates(a + carry @ params.w_hh + params.b, "fi")
        h = theta * jnp.tanh(carry) + eta * tanh(n, "n")
        return h, h


class STARParams(NamedTuple):
    """Parameters of `STAR`; order: n k."""

    w_ih: Array  # (in, 2·hidden)
    w_hh: Array  # (hidden, hidden), of k
    b: Array  # (2·hidden,)


@checked
@dataclass(frozen=True)
class STAR:
    """Stackable recurrent cell: one gate, designed for deep stacks.

        nₜ = tanh(xₜ w_n + b_n)
        kₜ = σ(xₜ w_k + hₜ₋₁ w_hh + b_k)
        hₜ = tanh((1 − kₜ) · hₜ₋₁ + kₜ · nₜ),   yₜ = hₜ

    Reference: Turkoglu, D'Aronco, Wegner, Schindler, Gating revisited: deep multi-layer RNNs that can be
    trained, 2021, arXiv:1911.11033.

    >>> import jrnn
    >>> jrnn.Stack((jrnn.STAR(8),) * 6).out_features
    8
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> STARParams:
        k_ih, k_hh = jax.random.split(key)
        return STARParams(
            w_ih=glorot(k_ih, (in_features, 2 * self.hidden), blocks=2),
            w_hh=orthogonal(k_hh, (self.hidden, self.hidden)),
            b=zeros(2 * self.hidden),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: STARParams, carry: Array, x: Any) -> tuple[Array, Array]:
        a_n, a_k = split(x @ params.w_ih + params.b, 2)
        n = tanh(a_n, "n")
        k = sigmoid(a_k + carry @ params.w_hh, "k")
        h = jnp.tanh((1 - k) * carry + k * n)
        return h, h


class MinimalRNNParams(NamedTuple):
    """Parameters of `MinimalRNN`."""

    w_ih: Array  # (in, hidden), of n
    b: Array  # (hidden,), of n
    w_hh: Array  # (hidden, hidden), of u
    w_nh: Array  # (hidden, hidden), of u
    b_u: Array  # (hidden,)


@checked
@dataclass(frozen=True)
class MinimalRNN:
    """Minimal RNN: the input is mapped to the latent space, then mixed into the state by one gate.

        nₜ = tanh(xₜ w_ih + b)
        uₜ = σ(hₜ₋₁ w_hh + nₜ w_nh + b_u)
        hₜ = uₜ · hₜ₋₁ + (1 − uₜ) · nₜ,   yₜ = hₜ

    Reference: Chen, MinimalRNN: toward more interpretable and trainable recurrent neural networks, 2017,
    arXiv:1711.06788.

    >>> import jrnn
    >>> jrnn.MinimalRNN(8).out_features
    8
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> MinimalRNNParams:
        k_ih, k_hh, k_nh = jax.random.split(key, 3)
        square = self.hidden, self.hidden
        return MinimalRNNParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            b=zeros(self.hidden),
            w_hh=orthogonal(k_hh, square),
            w_nh=glorot(k_nh, square),
            b_u=zeros(self.hidden),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: MinimalRNNParams, carry: Array, x: Any) -> tuple[Array, Array]:
        n = tanh(x @ params.w_ih + params.b, "n")
        u = sigmoid(carry @ params.w_hh + n @ params.w_nh + params.b_u, "u")
        h = u * carry + (1 - u) * n
        return h, h
