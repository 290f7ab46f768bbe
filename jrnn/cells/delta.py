"""Delta rules: a memory that is corrected by the error of what it holds under a key."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._checks import check_multiple
from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import sigmoid, split, zeros
from jrnn.cells._memory import in_heads, joined, look_up, outer, unit, zero_memory
from jrnn.cells.minimal import InputParams, draw_input
from jrnn.initializers import glorot


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

    A step of gradient descent on ½ |Sᵀ k − v|², of size β. The convolution over the last inputs and the norm
    of the paper's block are left out. `Chunked` runs many steps at once.

    Args:
      heads: number of memories.

    Raises:
      ValueError: a width that heads cannot share.

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
        return corrected(carry, unit(q), unit(k), v, beta)


class GatedDeltaNetParams(NamedTuple):
    """Parameters of `GatedDeltaNet`."""

    qkv: InputParams  # (in, 3·hidden), side by side
    gates: InputParams  # (in, 2·heads), in the order β α
    a_log: Array  # (heads,), the logarithm of the rate of forgetting


@checked
@dataclass(frozen=True)
class GatedDeltaNet:
    """Delta rule with a forget gate, one number a head.

        q, k, v = silu(xₜ w + b) per head,   q and k of length 1;   β = σ(β̃), one number per head
        α = exp(−exp(a_log) · softplus(α̃)),   β̃, α̃ = xₜ w_g + b_g
        Sₜ = α Sₜ₋₁ + k (β (v − α Sₜ₋₁ᵀ k))ᵀ
        yₜ = Sₜᵀ q

    The convolution over the last inputs, the norm and the output gate of the paper's block are left out.

    Args:
      heads: number of memories.

    Raises:
      ValueError: a width that heads cannot share.

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

    def init(self, key: Array, in_features: int) -> GatedDeltaNetParams:
        k_qkv, k_gates, k_a = jax.random.split(key, 3)
        return GatedDeltaNetParams(
            draw_input(k_qkv, in_features, self.hidden, 3),
            draw_input(k_gates, in_features, self.heads, 2),
            jnp.log(jax.random.uniform(k_a, (self.heads,), zeros().dtype, 0.05, 1)),
        )

    initial_carry = zero_memory

    @broadcasting
    def step(self, params: GatedDeltaNetParams, carry: Array, x: Any) -> tuple[Array, Array]:
        q, k, v = in_heads(jax.nn.silu(x @ params.qkv.w_ih + params.qkv.b), 3, self.heads)
        beta, alpha = split(x @ params.gates.w_ih + params.gates.b, 2)
        alpha = checkpoint_name(jnp.exp(-jnp.exp(params.a_log) * jax.nn.softplus(alpha)), "alpha")
        return corrected(alpha[..., None, None] * carry, unit(q), unit(k), v, sigmoid(beta, "beta"))


def corrected(memory: Array, q: Array, k: Array, v: Array, beta: Array) -> tuple[Array, Array]:
    """The memory after it has been corrected under k towards v, and what it holds under q, heads joined."""
    memory = memory + outer(k, beta[..., None] * (v - look_up(memory, k)))
    return memory, joined(look_up(memory, q))


class RWKV7Params(NamedTuple):
    """Parameters of `RWKV7`."""

    mix: Array  # (5, in), μ: how much of the last input each of r w k v a sees
    w_ih: Array  # (5, in, hidden), of r w k v a
    b: Array  # (5, hidden)
    erased: Array  # (hidden,), ξ: makes the key under which is erased of k̃
    replaced: Array  # (hidden,), α: how much a scales what is written


class RWKV7Carry(NamedTuple):
    """State of `RWKV7`."""

    s: Array  # (..., heads, d, d), keys by values, d = hidden / heads
    x: Array  # (..., in), the last input


@checked
@dataclass(frozen=True)
class RWKV7:
    """Delta rule that forgets key by key, and erases in other amounts than it writes (RWKV-7 time mixing).

        z̃ = (xₜ + μ_z · (xₜ₋₁ − xₜ)) w_z + b_z   for z = r, w, k, v, a, per head
        w = exp(−e^(−1/2) σ(w̃)),   a = σ(ã),   κ = k̃ · ξ of length 1,   k = k̃ · (1 + (a − 1) · α)
        Sₜ = diag(w) Sₜ₋₁ − (a · κ)(Sₜ₋₁ᵀ κ)ᵀ + k ṽᵀ
        yₜ = Sₜᵀ r̃

    ξ is `erased` and α `replaced`. One matrix where the paper has products of thin ones; its bonus, value
    residual, norm of each head and output gate are left out.

    Args:
      heads: number of memories.

    Raises:
      ValueError: a width that heads cannot share.

    Reference: Peng et al., RWKV-7 "Goose" with expressive dynamic state evolution, 2025, arXiv:2503.14456.

    >>> import jrnn
    >>> jrnn.RWKV7(8, heads=2).out_features
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

    def init(self, key: Array, in_features: int) -> RWKV7Params:
        k_mix, k_w = jax.random.split(key)
        w = glorot(k_w, (in_features, 5 * self.hidden), blocks=5)
        return RWKV7Params(
            mix=jax.random.uniform(k_mix, (5, in_features), w.dtype),
            w_ih=w.reshape(in_features, 5, self.hidden).swapaxes(0, 1),
            b=zeros(5, self.hidden),
            erased=jnp.ones_like(w, shape=(self.hidden,)),
            replaced=jnp.ones_like(w, shape=(self.hidden,)),
        )

    def initial_carry(
        self, params: RWKV7Params, batch_shape: Shape = (), *, key: Array | None = None
    ) -> RWKV7Carry:
        x = zero_state(params, batch_shape, params.w_ih.shape[1])
        return RWKV7Carry(zero_memory(self, params, batch_shape), x)

    @broadcasting
    def step(self, params: RWKV7Params, carry: RWKV7Carry, x: Any) -> tuple[RWKV7Carry, Array]:
        mixed = x[..., None, :] + params.mix * (carry.x - x)[..., None, :]  # (..., 5, in)
        z = jnp.einsum("...zi,zih->...zh", mixed, params.w_ih) + params.b
        z = z.reshape(*z.shape[:-1], self.heads, self.hidden // self.heads)
        r, w, k, v, a = (z[..., place, :, :] for place in range(5))
        erased, replaced = (p.reshape(self.heads, -1) for p in (params.erased, params.replaced))
        w = checkpoint_name(jnp.exp(-math.exp(-0.5) * jax.nn.sigmoid(w)), "w")
        a = sigmoid(a, "a")
        kappa = unit(k * erased)
        s = w[..., None] * carry.s - outer(a * kappa, look_up(carry.s, kappa))
        s = s + outer(k * (1 + (a - 1) * replaced), v)
        return RWKV7Carry(s, x), joined(look_up(s, r))
