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

        gate = σ(z_gate),   candidate = tanh(z_candidate)

    Args:
      z: (..., gates · hidden), in the order of `names`.
      names: gate names, a letter each: "ifgo".
      candidate: the letter that takes tanh.

    Returns:
      One (..., hidden) array per name.
    """
    parts = _squashed(z, tuple(name == candidate for name in names))
    return tuple(checkpoint_name(part, name) for part, name in zip(parts, names, strict=True))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _squashed(z: Array, candidates: tuple[bool, ...]) -> list[Array]:
    """σ, or tanh for the candidate, of each part of z.

    σ(x) = ½ + ½ tanh(x / 2), so that one tanh over the whole array serves every part.
    """
    squash = [0.0 if candidate else 0.5 for candidate in candidates]
    shift = jnp.asarray(np.repeat(squash, z.shape[-1] // len(squash)), z.dtype)
    scale = 1 - shift
    return jnp.split(shift + scale * jnp.tanh(scale * z), len(squash), axis=-1)


@_squashed.defjvp
def _squashed_jvp(candidates: tuple[bool, ...], primals: Any, tangents: Any) -> Any:
    """σ' = σ (1 − σ) and tanh' = 1 − tanh², from the parts alone: they are kept, and not z besides.

    A loop that reads one kept array at several offsets is not vectorised on a CPU; with parts it is.
    """
    parts = _squashed(*primals, candidates)
    slopes = [1 - p * p if candidate else p * (1 - p) for p, candidate in zip(parts, candidates, strict=True)]
    moved = jnp.split(tangents[0], len(parts), axis=-1)
    return parts, [slope * part for slope, part in zip(slopes, moved, strict=True)]
