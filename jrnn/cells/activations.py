"""Functions by name: a cell is a value, and functions neither compare nor pickle as one."""

from collections.abc import Callable

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

        gate = σ(z_gate),   candidate = tanh(z_candidate)

    σ(x) = ½ + ½ tanh(x / 2), so one tanh over the whole contiguous array serves every gate; compilers
    vectorise that, and not a mixture of functions over slices at different offsets.

    Args:
      z: (..., gates · hidden), in the order of `names`.
      names: gate names, a letter each: "ifgo".
      candidate: the letter that takes tanh.

    Returns:
      One (..., hidden) array per name.
    """
    hidden = z.shape[-1] // len(names)
    squash = [0.0 if name == candidate else 0.5 for name in names]
    shift = jnp.asarray(np.repeat(squash, hidden), z.dtype)
    scale = 1 - shift
    parts = jnp.split(shift + scale * jnp.tanh(scale * z), len(names), axis=-1)
    return tuple(checkpoint_name(part, name) for part, name in zip(parts, names, strict=True))
