"""Memories that are matrices, keys by values: what linear attention and delta rules share."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from jrnn.cell import Shape, zero_state
from jrnn.cells._gating import split, widened, zeros


def zero_memory(self: Any, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Array:
    """A memory for each head, (..., heads, d, d), of zeros."""
    size = self.hidden // self.heads
    return zero_state(params, (*batch_shape, self.heads, size), size)


def in_heads(packed: Array, count: int, heads: int) -> list[Array]:
    """Parts of a packed array, one per letter: (..., heads, d)."""
    parts = split(packed, count)
    return [part.reshape(*part.shape[:-1], heads, part.shape[-1] // heads) for part in parts]


def joined(y: Array) -> Array:
    """The heads side by side, (..., heads · d)."""
    return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])


def outer(k: Array, v: Array) -> Array:
    """The matrix k vᵀ."""
    return k[..., :, None] * v[..., None, :]


def look_up(memory: Array, k: Array) -> Array:
    """The value stored under a key: Sᵀ k."""
    return jnp.sum(memory * k[..., :, None], -2)


def unit(k: Array) -> Array:
    """A key of length 1; of zeros, it stays as it is. In float32 at least: float16 has few squares."""
    wide = widened(k)
    return (wide * lax.rsqrt(jnp.sum(wide**2, -1, keepdims=True) + 1e-6)).astype(k.dtype)


def draw_rates(key: Array, heads: int) -> Array:
    """Draw the logarithm of the rate of forgetting of every head: of a number in [0.05, 1)."""
    return jnp.log(jax.random.uniform(key, (heads,), zeros().dtype, 0.05, 1))


def kept(a_log: Array, z: Array, name: str) -> Array:
    """The share of a memory that is kept, exp(−exp(a_log) · softplus(z)), with a name for `Tap`."""
    return checkpoint_name(jnp.exp(-jnp.exp(a_log) * jax.nn.softplus(z)), name)
