"""Memories that are matrices: time mixing of a network that also sees its last input."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._alignment import in_dtype_of
from jrnn._checks import check_multiple
from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import sigmoid, zeros
from jrnn.cells._memory import joined, look_up, outer, unit, zero_memory
from jrnn.initializers import glorot


class RWKVCarry(NamedTuple):
    """State of `RWKV6` and `RWKV7`."""

    s: Array  # (..., heads, d, d), keys by values, d = hidden / heads
    x: Array  # (..., in), the last input


def zero_rwkv(self: Any, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> RWKVCarry:
    """The `initial_carry` of time mixing: an empty memory, and no input so far."""
    x = zero_state(params, batch_shape, params.w_ih.shape[1])
    return RWKVCarry(zero_memory(self, params, batch_shape), x)


def draw_letters(key: Array, in_features: int, hidden: int, count: int) -> Array:
    """Initialize one matrix a letter, (letters, in, hidden)."""
    w = glorot(key, (in_features, count * hidden), blocks=count)
    return w.reshape(in_features, count, hidden).swapaxes(0, 1)


def letters(params: Any, x: Array, last: Array, mix: Array, heads: int) -> list[Array]:
    """Read x and the last input, a letter at a time, in the proportion `mix`: (..., heads, d) of each."""
    seen = x[..., None, :] + mix * (last - x)[..., None, :]  # (..., letters, in)
    z = jnp.einsum("...zi,zih->...zh", seen, params.w_ih) + params.b
    z = z.reshape(*z.shape[:-1], heads, z.shape[-1] // heads)
    return [z[..., place, :, :] for place in range(z.shape[-3])]


class RWKV6Params(NamedTuple):
    """Parameters of `RWKV6`."""

    shift: Array  # (in,), μ: how much of the last input the proportions see
    mix: Array  # (4, in), λ: how much of it each of r w k v sees at least
    down: Array  # (in, 4·rank), A
    up: Array  # (4, rank, in), B
    w_ih: Array  # (4, in, hidden), of r w k v
    b: Array  # (4, hidden)
    bonus: Array  # (heads, d), u: the weight of what is written at this step


@checked
@dataclass(frozen=True)
class RWKV6:
    """Linear attention that forgets key by key, on a mix of this input and the last one (RWKV-6, Finch).

        μ_z = λ_z + tanh((xₜ + μ · (xₜ₋₁ − xₜ)) A_z) B_z
        z̃ = (xₜ + μ_z · (xₜ₋₁ − xₜ)) w_z + b_z   for z = r, w, k, v, per head
        w = exp(−exp(w̃))
        yₜ = (Sₜ₋₁ + (u · k̃) ṽᵀ)ᵀ r̃
        Sₜ = diag(w) Sₜ₋₁ + k̃ ṽᵀ

    y sees what is written at this step through the bonus u alone. The bias of w̃ starts from −6, slow, to −1,
    fast. One matrix for w̃ where the paper has a product of two thin ones; `Block` adds norm and output gate.

    Args:
      rank: width of the tanh.

    Reference: Peng et al., Eagle and Finch: RWKV with matrix-valued states and dynamic recurrence, 2024,
    arXiv:2404.05892.

    >>> import jrnn
    >>> jrnn.RWKV6(8, heads=2).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1
    rank: Width = 32

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> RWKV6Params:
        k_mix, k_down, k_up, k_w, k_u = jax.random.split(key, 5)
        w_ih = draw_letters(k_w, in_features, self.hidden, 4)
        mix = jax.random.uniform(k_mix, (5, in_features), w_ih.dtype)
        up = 0.1 * glorot(k_up, (self.rank, 4 * in_features), blocks=4)
        return RWKV6Params(
            shift=mix[0],
            mix=mix[1:],
            down=glorot(k_down, (in_features, 4 * self.rank), blocks=4),
            up=up.reshape(self.rank, 4, in_features).swapaxes(0, 1),
            w_ih=w_ih,
            b=zeros(4, self.hidden).at[1].set(jnp.linspace(-6, -1, self.hidden)),
            bonus=jax.random.uniform(k_u, (self.heads, self.hidden // self.heads), w_ih.dtype),
        )

    initial_carry = zero_rwkv

    @broadcasting
    def step(self, params: RWKV6Params, carry: RWKVCarry, x: Any) -> tuple[RWKVCarry, Array]:
        narrow = jnp.tanh((x + params.shift * (carry.x - x)) @ params.down)
        narrow = narrow.reshape(*narrow.shape[:-1], 4, self.rank)
        mix = params.mix + jnp.einsum("...zr,zri->...zi", narrow, params.up)
        r, w, k, v = letters(params, x, carry.x, mix, self.heads)
        w = checkpoint_name(jnp.exp(-jnp.exp(jnp.minimum(w, 10))), "w")  # above, 0 with a slope of 0 · ∞
        y = look_up(carry.s, r) + jnp.sum(params.bonus * k * r, -1, keepdims=True) * v
        return RWKVCarry(w[..., None] * carry.s + outer(k, v), in_dtype_of(x, carry.x)), joined(y)


class RWKV7Params(NamedTuple):
    """Parameters of `RWKV7`."""

    mix: Array  # (5, in), μ: how much of the last input each of r w k v a sees
    w_ih: Array  # (5, in, hidden), of r w k v a
    b: Array  # (5, hidden)
    erased: Array  # (hidden,), ξ: makes the key under which is erased of k̃
    replaced: Array  # (hidden,), α: how much a scales what is written


@checked
@dataclass(frozen=True)
class RWKV7:
    """Delta rule that forgets key by key, and erases in other amounts than it writes (RWKV-7 time mixing).

        z̃ = (xₜ + μ_z · (xₜ₋₁ − xₜ)) w_z + b_z   for z = r, w, k, v, a, per head
        w = exp(−e^(−1/2) σ(w̃)),   a = σ(ã),   κ = k̃ · ξ of length 1,   k = k̃ · (1 + (a − 1) · α)
        Sₜ = diag(w) Sₜ₋₁ − (a · κ)(Sₜ₋₁ᵀ κ)ᵀ + k ṽᵀ
        yₜ = Sₜᵀ r̃

    ξ is `erased` and α `replaced`. One matrix where the paper has products of thin ones; its bonus, value
    residual and the like are left out; `Block` adds the norm of each head and an output gate.

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
        w_ih = draw_letters(k_w, in_features, self.hidden, 5)
        return RWKV7Params(
            mix=jax.random.uniform(k_mix, (5, in_features), w_ih.dtype),
            w_ih=w_ih,
            b=zeros(5, self.hidden),
            erased=zeros(self.hidden) + 1,
            replaced=zeros(self.hidden) + 1,
        )

    initial_carry = zero_rwkv

    @broadcasting
    def step(self, params: RWKV7Params, carry: RWKVCarry, x: Any) -> tuple[RWKVCarry, Array]:
        r, w, k, v, a = letters(params, x, carry.x, params.mix, self.heads)
        erased, replaced = (p.reshape(self.heads, -1) for p in (params.erased, params.replaced))
        w = checkpoint_name(jnp.exp(-math.exp(-0.5) * jax.nn.sigmoid(w)), "w")
        a = sigmoid(a, "a")
        kappa = unit(k * erased)
        s = w[..., None] * carry.s - outer(a * kappa, look_up(carry.s, kappa))
        s = s + outer(k * (1 + (a - 1) * replaced), v)
        return RWKVCarry(s, in_dtype_of(x, carry.x)), joined(look_up(s, r))
