"""Functions by name: a cell is a value, and functions neither compare nor pickle as one."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn.checks import check_choice

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}


def activation(name: str) -> Callable[[Array], Array]:
    """Look up an activation: "tanh", "relu", "sigmoid" or "identity"."""
    return ACTIVATIONS[check_choice("activation", name, tuple(ACTIVATIONS))]


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
