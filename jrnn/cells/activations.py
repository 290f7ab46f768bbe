"""Functions by name: a cell is a value, and functions neither compare nor pickle as one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jrnn.checks import check_choice

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
    "elu": jax.nn.elu,
    "leaky_relu": jax.nn.leaky_relu,  # slope 0.01 below zero; Keras differs
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "hard_sigmoid": jax.nn.hard_sigmoid,  # min(max(x / 6 + ½, 0), 1); ONNX has x / 5
    "hard_tanh": jax.nn.hard_tanh,
    "scaled_tanh": lambda x: 1.7159 * jnp.tanh(2 / 3 * x),  # LeCun
    "thresholded_relu": lambda x: jnp.where(x > 1, x, 0),
}


def activation(name: str) -> Callable[[Array], Array]:
    """Look up an activation by a name of `ACTIVATIONS`."""
    return ACTIVATIONS[check_choice("activation", name, tuple(ACTIVATIONS))]
