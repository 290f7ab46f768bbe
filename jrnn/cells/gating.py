"""Gates side by side in packed arrays: their parameters, their start, their values."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn.initializers import default_float, glorot, orthogonal


class GateParams(NamedTuple):
    """Parameters of gates that all read the input and the state; the cell gives their order."""

    w_ih: Array  # (in, gates · hidden)
    w_hh: Array  # (hidden, gates · hidden)
    b: Array  # (gates · hidden,)


def draw_gates(key: Array, in_features: int, hidden: int, count: int) -> GateParams:
    """Draw the parameters of `count` gates: Glorot input, orthogonal recurrence, gate by gate, zero bias."""
    k_ih, k_hh = jax.random.split(key)
    return GateParams(
        w_ih=glorot(k_ih, (in_features, count * hidden), blocks=count),
        w_hh=orthogonal(k_hh, (hidden, count * hidden)),
        b=zeros(count * hidden),
    )


def zeros(*shape: int) -> Array:
    """Zeros in the dtype that parameters are drawn in."""
    return jnp.zeros(shape, default_float())


def split(packed: Array, count: int) -> list[Array]:
    """Parts of equal width of a packed array, one per gate."""
    return jnp.split(packed, count, axis=-1)


def sigmoid(z: Array, name: str) -> Array:
    """σ(z), named for those who look inside."""
    return checkpoint_name(jax.nn.sigmoid(z), name)


def tanh(z: Array, name: str) -> Array:
    """Tanh z, named for those who look inside."""
    return checkpoint_name(jnp.tanh(z), name)


def gates(z: Array, names: str, candidate: str = "") -> tuple[Array, ...]:
    """Split the packed pre-activations of all gates, apply σ (tanh to the candidate) and name each.

        gate = σ(z_gate) = ½ + ½ tanh(z_gate / 2),   candidate = tanh(z_candidate)

    Args:
      z: (..., gates · hidden), in the order of `names`.
      names: gate names, a letter each: "ifgo".
      candidate: the letter that takes tanh.

    Returns:
      One (..., hidden) array per name.
    """
    halved = [1.0 if name == candidate else 0.5 for name in names]
    scale = jnp.asarray(np.repeat(halved, z.shape[-1] // len(names)), z.dtype)
    parts = (
        t if n == candidate else 0.5 + 0.5 * t
        for n, t in zip(names, _tanh(scale * z, len(names)), strict=True)
    )
    return tuple(checkpoint_name(part, name) for part, name in zip(parts, names, strict=True))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _tanh(z: Array, parts: int) -> list[Array]:
    """The parts of tanh z, from one tanh over the whole array."""
    return jnp.split(jnp.tanh(z), parts, axis=-1)


@_tanh.defjvp
def _tanh_jvp(parts: int, primals: Any, tangents: Any) -> Any:
    """The slope (1 + tanh) (1 − tanh), part by part, so that parts are kept for the backward pass.

    A loop that reads one kept array at several offsets is not vectorised on a CPU; one with parts is.
    """
    values = _tanh(*primals, parts)
    moved = jnp.split(tangents[0], parts, axis=-1)
    return values, [(1 + t) * (1 - t) * m for t, m in zip(values, moved, strict=True)]
