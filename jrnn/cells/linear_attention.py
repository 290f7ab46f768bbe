"""Memories that are matrices: keys and values are added, with a decay or without one."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._checks import check_multiple
from jrnn._fields import Positive, Rate, Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import before_softplus, sigmoid, split, zeros
from jrnn.cells._memory import in_heads, joined, look_up, outer, zero_memory
from jrnn.cells.minimal import InputParams, draw_input
from jrnn.initializers import glorot


class LinearAttentionCarry(NamedTuple):
    """State of `LinearAttention`."""

    s: Array  # (..., heads, d, d), keys by values, d = hidden / heads
    n: Array  # (..., heads, d), the sum of the keys


@checked
@dataclass(frozen=True)
class LinearAttention:
    """Attention over all inputs so far, whose kernel is a product of features φ.

        q, k, v = xₜ w + b per head;   φ(z) = elu(z) + 1
        Sₜ = Sₜ₋₁ + φ(k) vᵀ,   nₜ = nₜ₋₁ + φ(k)
        yₜ = Sₜᵀ φ(q) / (nₜ · φ(q) + 1e-6)

    The mean of the values seen so far, weighted by φ(q) · φ(k). `Chunked` runs many steps at once.

    Reference: Katharopoulos, Vyas, Pappas, Fleuret, Transformers are RNNs, 2020, arXiv:2006.16236.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.LinearAttention(8, heads=2)
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

    def init(self, key: Array, in_features: int) -> InputParams:
        return draw_input(key, in_features, self.hidden, 3)

    def initial_carry(
        self, params: InputParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LinearAttentionCarry:
        s = zero_memory(self, params, batch_shape)
        return LinearAttentionCarry(s, s[..., 0])

    @broadcasting
    def step(
        self, params: InputParams, carry: LinearAttentionCarry, x: Any
    ) -> tuple[LinearAttentionCarry, Array]:
        q, k, v = in_heads(x @ params.w_ih + params.b, 3, self.heads)
        q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
        s = carry.s + outer(k, v)
        n = carry.n + k
        weight = jnp.sum(n * q, -1, keepdims=True)
        return LinearAttentionCarry(s, n), joined(look_up(s, q) / (weight + 1e-6))


@checked
@dataclass(frozen=True)
class RetNet:
    """Linear attention that forgets at a fixed rate, another one in every head (retention).

        q, k, v = xₜ w + b per head,   k scaled by 1/√d
        Sₜ = γ Sₜ₋₁ + k vᵀ,   γ = 1 − 2^(−5 − h) in head h = 0, 1, …
        yₜ = Sₜᵀ q

    The rotation of q and k by their position is left out; `Block` adds the norm of each head and the gate of
    the paper's block. `Chunked` runs many steps at once. In bfloat16 γ is 1 from the fifth head on, which
    thus never forgets.

    Reference: Sun et al., Retentive network: a successor to transformer, 2023, arXiv:2307.08621.

    >>> import jrnn
    >>> jrnn.RetNet(8, heads=2).out_features
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

    def init(self, key: Array, in_features: int) -> InputParams:
        return draw_input(key, in_features, self.hidden, 3)

    initial_carry = zero_memory

    @broadcasting
    def step(self, params: InputParams, carry: Array, x: Any) -> tuple[Array, Array]:
        q, k, v = in_heads(x @ params.w_ih + params.b, 3, self.heads)
        kept = 1 - 2.0 ** (-5 - jnp.arange(self.heads, dtype=carry.dtype))
        s = kept[:, None, None] * carry + outer(k / math.sqrt(k.shape[-1]), v)
        return s, joined(look_up(s, q))


@checked
@dataclass(frozen=True)
class GLA:
    """Linear attention with a forget gate for every key (gated linear attention).

        q, k, v, ã = xₜ w + b per head,   k scaled by 1/√d
        a = σ(ã)^(1/τ)
        Sₜ = diag(a) Sₜ₋₁ + k vᵀ
        yₜ = Sₜᵀ q

    Side by side in the order q k v a. One matrix for ã where the paper has a product of two thin ones;
    `Block` adds the norm of each head and the output gate of its block.

    Args:
      temperature: τ; the larger, the longer it remembers.

    Reference: Yang et al., Gated linear attention transformers with hardware-efficient training, 2024,
    arXiv:2312.06635.

    >>> import jrnn
    >>> jrnn.GLA(8, heads=2).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1
    temperature: Positive = 16.0

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> InputParams:
        return draw_input(key, in_features, self.hidden, 4)

    initial_carry = zero_memory

    @broadcasting
    def step(self, params: InputParams, carry: Array, x: Any) -> tuple[Array, Array]:
        q, k, v, z = in_heads(x @ params.w_ih + params.b, 4, self.heads)
        a = checkpoint_name(jnp.exp(jax.nn.log_sigmoid(z) / self.temperature), "a")
        s = a[..., None] * carry + outer(k / math.sqrt(k.shape[-1]), v)
        return s, joined(look_up(s, q))


@checked
@dataclass(frozen=True)
class HGRN2:
    """Linear attention whose forget gate leaves room for what is written (gated linear network, HGRN2).

        q̃, ã, ṽ = xₜ w + b per head
        a = floor + (1 − floor) σ(ã),   q = σ(q̃),   v = silu(ṽ)
        Sₜ = diag(a) Sₜ₋₁ + (1 − a) vᵀ
        yₜ = Sₜᵀ q

    Side by side in the order q a v. The paper learns the floors of all layers together, rising from 0 at the
    bottom; here each is given. fla takes q = silu(q̃) and v = ṽ.

    Args:
      floor: the least share of the memory that is kept, in [0, 1).

    Reference: Qin et al., HGRN2: gated linear RNNs with state expansion, 2024, arXiv:2404.07904.

    >>> import jrnn
    >>> jrnn.HGRN2(8, heads=2, floor=0.5).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1
    floor: Rate = 0.0

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> InputParams:
        return draw_input(key, in_features, self.hidden, 3)

    initial_carry = zero_memory

    @broadcasting
    def step(self, params: InputParams, carry: Array, x: Any) -> tuple[Array, Array]:
        q, z, v = in_heads(x @ params.w_ih + params.b, 3, self.heads)
        a = checkpoint_name(self.floor + (1 - self.floor) * jax.nn.sigmoid(z), "a")
        s = a[..., None] * carry + outer(1 - a, jax.nn.silu(v))
        return s, joined(look_up(s, sigmoid(q, "q")))


class Mamba2Params(NamedTuple):
    """Parameters of `Mamba2`."""

    values: InputParams  # (in, hidden), x̃
    keys: InputParams  # (in, 2·state), side by side in the order k q: the paper's B and C
    dt: InputParams  # (in, heads), the size of a step
    a_log: Array  # (heads,), the logarithm of the rate of forgetting
    skip: Array  # (heads,), D


@checked
@dataclass(frozen=True)
class Mamba2:
    """State space whose rate depends on the input, one number a head (Mamba-2, structured state spaces).

        x̃ = xₜ w + b per head;   k, q = xₜ w + b, the same for all heads
        Δ = softplus(xₜ w_Δ + b_Δ),   a = exp(−Δ · exp(a_log)),   one number per head
        Sₜ = a Sₜ₋₁ + k (Δ x̃)ᵀ
        yₜ = Sₜᵀ q + D x̃

    k and q are B and C in the paper. `Block` adds the convolution, the gate and the norm of its block.

    Args:
      state: width of k and q.

    Reference: Dao, Gu, Transformers are SSMs, 2024, arXiv:2405.21060.

    >>> import jax, jrnn
    >>> cell = jrnn.Mamba2(8, heads=2, state=5)
    >>> cell.initial_carry(cell.init(jax.random.key(0), in_features=3)).shape
    (2, 5, 4)
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1
    state: Width = 16

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> Mamba2Params:
        k_values, k_keys, k_dt, k_bias, k_a = jax.random.split(key, 5)
        dt = jnp.exp(jax.random.uniform(k_bias, (self.heads,), zeros().dtype, math.log(1e-3), math.log(0.1)))
        rate = jax.random.uniform(k_a, (self.heads,), dt.dtype, 1, 16)
        return Mamba2Params(
            values=draw_input(k_values, in_features, self.hidden, 1),
            keys=draw_input(k_keys, in_features, self.state, 2),
            dt=InputParams(glorot(k_dt, (in_features, self.heads)), before_softplus(dt)),
            a_log=jnp.log(rate),
            skip=jnp.ones((self.heads,), dt.dtype),
        )

    def initial_carry(
        self, params: Mamba2Params, batch_shape: Shape = (), *, key: Array | None = None
    ) -> Array:
        return zero_state(params, (*batch_shape, self.heads, self.state), self.hidden // self.heads)

    @broadcasting
    def step(self, params: Mamba2Params, carry: Array, x: Any) -> tuple[Array, Array]:
        (v,) = in_heads(x @ params.values.w_ih + params.values.b, 1, self.heads)
        k, q = (part[..., None, :] for part in split(x @ params.keys.w_ih + params.keys.b, 2))
        dt = checkpoint_name(jax.nn.softplus(x @ params.dt.w_ih + params.dt.b), "dt")
        a = checkpoint_name(jnp.exp(-dt * jnp.exp(params.a_log)), "a")
        s = a[..., None, None] * carry + outer(k, dt[..., None] * v)
        return s, joined(look_up(s, q) + params.skip[:, None] * v)
