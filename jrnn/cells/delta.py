"""Memories that are matrices: corrected by the error of what is held under a key."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import check_multiple
from jrnn._fields import Width, checked
from jrnn.cell import broadcasting
from jrnn.cells._gating import sigmoid, split
from jrnn.cells._memory import (
    draw_rates,
    in_heads,
    joined,
    kept,
    look_up,
    outer,
    unit,
    zero_memory,
)
from jrnn.cells.minimal import InputParams, draw_input


def corrected(memory: Array, k: Array, v: Array, beta: Array) -> Array:
    """The memory after the delta rule has moved what it holds under k towards v."""
    return memory + outer(k, beta[..., None] * (v - look_up(memory, k)))


class DeltaNetParams(NamedTuple):
    """Parameters of `DeltaNet`."""

    qkv: InputParams  # (in, 3·hidden), side by side
    beta: InputParams  # (in, heads)


@checked
@dataclass(frozen=True)
class DeltaNet:
    """Linear attention that replaces what it holds under a key, where others add to it.

        q, k, v = silu(xₜ w + b) per head,   q and k of length 1;   β = σ(xₜ w_β + b_β), one number per head
        Sₜ = Sₜ₋₁ + k (β (v − Sₜ₋₁ᵀ k))ᵀ
        yₜ = Sₜᵀ q

    A step of gradient descent on ½ |Sᵀ k − v|², of size β. `Block` adds the convolution and the norm of the
    paper's block. fla divides q by √d, here and in the rules below. `Chunked` runs many steps at once.

    Reference: Yang, Wang, Zhang, Shen, Kim, Parallelizing linear transformers with the delta rule over
    sequence length, 2024, arXiv:2406.06484.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.DeltaNet(8, heads=2)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> jrnn.unroll(cell, params, jnp.ones((1000, 3)), method=jrnn.Chunked())[1].shape
    (1000, 8)
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> DeltaNetParams:
        k_qkv, k_beta = jax.random.split(key)
        return DeltaNetParams(
            draw_input(k_qkv, in_features, self.hidden, 3), draw_input(k_beta, in_features, self.heads, 1)
        )

    initial_carry = zero_memory

    @broadcasting
    def step(self, params: DeltaNetParams, carry: Array, x: Any) -> tuple[Array, Array]:
        q, k, v = in_heads(jax.nn.silu(x @ params.qkv.w_ih + params.qkv.b), 3, self.heads)
        beta = sigmoid(x @ params.beta.w_ih + params.beta.b, "beta")
        s = corrected(carry, unit(k), v, beta)
        return s, joined(look_up(s, unit(q)))


class DeltaParams(NamedTuple):
    """Parameters of `GatedDeltaNet`, `DeltaProduct` and `GDN2`."""

    qkv: InputParams  # (in, vectors · hidden), queries, keys, values, side by side
    gates: InputParams  # (in, gates · heads), or (in, gates · hidden) in GDN2, the forget gate last
    a_log: Array  # (heads,), the logarithm of the rate of forgetting


def draw_delta(self: Any, key: Array, in_features: int, vectors: int, gates: tuple[int, int]) -> DeltaParams:
    """Initialize a delta rule with a number of vectors of the width, and gates of (width, number)."""
    k_qkv, k_gates, k_a = jax.random.split(key, 3)
    return DeltaParams(
        qkv=draw_input(k_qkv, in_features, self.hidden, vectors),
        gates=draw_input(k_gates, in_features, *gates),
        a_log=draw_rates(k_a, self.heads),
    )


@checked
@dataclass(frozen=True)
class GatedDeltaNet:
    """Delta rule with a forget gate, one number a head.

        q, k, v = silu(xₜ w + b) per head,   q and k of length 1
        β = σ(β̃),   α = exp(−exp(a_log) · softplus(α̃)),   β̃, α̃ = xₜ w_g + b_g, one number per head
        Sₜ = α Sₜ₋₁ + k (β (v − α Sₜ₋₁ᵀ k))ᵀ
        yₜ = Sₜᵀ q

    `Block` adds the convolution, the norm and the output gate of the paper's block.

    Reference: Yang, Kautz, Hatamizadeh, Gated delta networks: improving Mamba2 with delta rule, 2025,
    arXiv:2412.06464.

    >>> import jrnn
    >>> jrnn.GatedDeltaNet(8, heads=2).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> DeltaParams:
        return draw_delta(self, key, in_features, 3, (self.heads, 2))

    initial_carry = zero_memory

    @broadcasting
    def step(self, params: DeltaParams, carry: Array, x: Any) -> tuple[Array, Array]:
        q, k, v = in_heads(jax.nn.silu(x @ params.qkv.w_ih + params.qkv.b), 3, self.heads)
        beta, alpha = split(x @ params.gates.w_ih + params.gates.b, 2)
        alpha = kept(params.a_log, alpha, "alpha")[..., None, None]
        s = corrected(alpha * carry, unit(k), v, sigmoid(beta, "beta"))
        return s, joined(look_up(s, unit(q)))


@checked
@dataclass(frozen=True)
class DeltaProduct:
    """Several delta rules a step, a product of Householder matrices (gated DeltaProduct).

        q, k₁ … kₙ, v₁ … vₙ = silu(xₜ w + b) per head,   q and kᵢ of length 1
        βᵢ = 2 σ(β̃ᵢ),   α = exp(−exp(a_log) · softplus(α̃)),   β̃₁ … β̃ₙ, α̃ = xₜ w_g + b_g, one number per head
        S⁰ = α Sₜ₋₁,   Sⁱ = Sⁱ⁻¹ + kᵢ (βᵢ (vᵢ − Sⁱ⁻¹ᵀ kᵢ))ᵀ,   Sₜ = Sⁿ
        yₜ = Sₜᵀ q

    I − βᵢ kᵢ kᵢᵀ has the eigenvalue 1 − βᵢ, which may be negative: at βᵢ = 2 it is a reflection, and two of
    them are a rotation, so that the memory can count and permute. With one product it is a `GatedDeltaNet` of
    that range. `Block` adds the rest of the paper's block.

    Args:
      products: n.

    Reference: Siems et al., DeltaProduct: improving state-tracking in linear RNNs via Householder products,
    2025, arXiv:2502.10297.

    >>> import jrnn
    >>> jrnn.DeltaProduct(8, heads=2, products=3).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1
    products: Width = 2

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> DeltaParams:
        return draw_delta(self, key, in_features, 1 + 2 * self.products, (self.heads, self.products + 1))

    initial_carry = zero_memory

    @broadcasting
    def step(self, params: DeltaParams, carry: Array, x: Any) -> tuple[Array, Array]:
        n = self.products
        q, *kv = in_heads(jax.nn.silu(x @ params.qkv.w_ih + params.qkv.b), 1 + 2 * n, self.heads)
        *betas, alpha = split(x @ params.gates.w_ih + params.gates.b, n + 1)
        s = kept(params.a_log, alpha, "alpha")[..., None, None] * carry
        for k, v, beta in zip(kv[:n], kv[n:], betas, strict=True):
            s = corrected(s, unit(k), v, 2 * sigmoid(beta, "beta"))
        return s, joined(look_up(s, unit(q)))


class KDAParams(NamedTuple):
    """Parameters of `KDA`."""

    qkv: InputParams  # (in, 3·hidden), side by side
    decay: InputParams  # (in, hidden), ã
    a_log: Array  # (heads,), the logarithm of the rate of forgetting
    beta: InputParams  # (in, heads)


@checked
@dataclass(frozen=True)
class KDA:
    """Delta rule with a forget gate for every key (Kimi delta attention).

        q, k, v = silu(xₜ w + b) per head,   q and k of length 1;   β = σ(xₜ w_β + b_β), one number per head
        a = exp(−exp(a_log) · softplus(xₜ w_a + b_a)),   one number per key
        Sₜ = diag(a) Sₜ₋₁ + k (β (v − (diag(a) Sₜ₋₁)ᵀ k))ᵀ
        yₜ = Sₜᵀ q

    One matrix w_a where the paper has a product of two thin ones; `Block` adds the rest of its block.

    Reference: Kimi Team, Kimi Linear: an expressive, efficient attention architecture, 2025,
    arXiv:2510.26692.

    >>> import jrnn
    >>> jrnn.KDA(8, heads=2).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> KDAParams:
        k_delta, k_beta = jax.random.split(key)
        delta = draw_delta(self, k_delta, in_features, 3, (self.hidden, 1))
        return KDAParams(*delta, beta=draw_input(k_beta, in_features, self.heads, 1))

    initial_carry = zero_memory

    @broadcasting
    def step(self, params: KDAParams, carry: Array, x: Any) -> tuple[Array, Array]:
        q, k, v = in_heads(jax.nn.silu(x @ params.qkv.w_ih + params.qkv.b), 3, self.heads)
        (z,) = in_heads(x @ params.decay.w_ih + params.decay.b, 1, self.heads)
        beta = sigmoid(x @ params.beta.w_ih + params.beta.b, "beta")
        s = corrected(kept(params.a_log[:, None], z, "a")[..., None] * carry, unit(k), v, beta)
        return s, joined(look_up(s, unit(q)))


@checked
@dataclass(frozen=True)
class GDN2:
    """Delta rule that erases in other amounts than it writes, key by key and value by value (GDN-2).

        q, k, v = silu(xₜ w + b) per head,   q and k of length 1;   b̃, w̃, ã = xₜ w_g + b_g per head
        b = σ(b̃) per key,   w = σ(w̃) per value,   a = exp(−exp(a_log) · softplus(ã)) per key
        Sₜ = diag(a) Sₜ₋₁ + k (w · v − (diag(a) Sₜ₋₁)ᵀ (b · k))ᵀ
        yₜ = Sₜᵀ q

    With b and w one and the same number it is `KDA`. One matrix for ã where the paper has a product of two
    thin ones; `Block` adds the rest of its block.

    Reference: Hatamizadeh, Choi, Kautz, Gated DeltaNet-2: decoupling erase and write in linear attention,
    2026, arXiv:2605.22791.

    >>> import jrnn
    >>> jrnn.GDN2(8, heads=2).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> DeltaParams:
        return draw_delta(self, key, in_features, 3, (self.hidden, 3))

    initial_carry = zero_memory

    @broadcasting
    def step(self, params: DeltaParams, carry: Array, x: Any) -> tuple[Array, Array]:
        q, k, v = in_heads(jax.nn.silu(x @ params.qkv.w_ih + params.qkv.b), 3, self.heads)
        b, w, z = in_heads(x @ params.gates.w_ih + params.gates.b, 3, self.heads)
        s = kept(params.a_log[:, None], z, "a")[..., None] * carry
        k = unit(k)
        s = s + outer(k, sigmoid(w, "w") * v - look_up(s, sigmoid(b, "b") * k))
        return s, joined(look_up(s, unit(q)))


class CombaParams(NamedTuple):
    """Parameters of `Comba`."""

    qkv: InputParams  # (in, 3·hidden), side by side
    gates: InputParams  # (in, 2·heads), in the order β α
    a_log: Array  # (heads,), the logarithm of the rate of forgetting
    feedback: Array  # (heads,), b̃: how much of the error is fed back
    correction: Array  # (heads,), d: how much of the key is taken out of the query


@checked
@dataclass(frozen=True)
class Comba:
    """Delta rule in a closed loop: the feedback has a strength of its own, and the query is corrected.

        q, k, v = silu(xₜ w + b) per head,   q and k of length 1;   p = σ(b̃) k
        β = σ(β̃),   α = exp(−exp(a_log) · softplus(α̃)),   β̃, α̃ = xₜ w_g + b_g, one number per head
        Sₜ = α Sₜ₋₁ + k (β (v − Sₜ₋₁ᵀ p))ᵀ
        yₜ = Sₜᵀ (q − d p)

    The error is that of the memory before it forgets, so the transition is a number plus a matrix of rank 1.
    d starts at 0.02, the paper's value for small models; it has 1 for large ones. fla makes p as long as k,
    whatever b̃. `Block` adds the rest of the paper's block.

    Reference: Hu et al., Comba: improving bilinear RNNs with closed-loop control, 2025, arXiv:2506.02475.

    >>> import jrnn
    >>> jrnn.Comba(8, heads=2).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> CombaParams:
        delta = draw_delta(self, key, in_features, 3, (self.heads, 2))
        ones = jnp.ones_like(delta.a_log)
        return CombaParams(*delta, feedback=ones, correction=0.02 * ones)

    initial_carry = zero_memory

    @broadcasting
    def step(self, params: CombaParams, carry: Array, x: Any) -> tuple[Array, Array]:
        q, k, v = in_heads(jax.nn.silu(x @ params.qkv.w_ih + params.qkv.b), 3, self.heads)
        beta, alpha = split(x @ params.gates.w_ih + params.gates.b, 2)
        k = unit(k)
        p = jax.nn.sigmoid(params.feedback)[:, None] * k
        error = sigmoid(beta, "beta")[..., None] * (v - look_up(carry, p))
        s = kept(params.a_log, alpha, "alpha")[..., None, None] * carry + outer(k, error)
        return s, joined(look_up(s, unit(q) - params.correction[:, None] * p))
