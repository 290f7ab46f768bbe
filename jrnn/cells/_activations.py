"""Activations, by name: a cell is a value, and functions do not compare as one.

Any other function is taken as well: it compares by identity, pickles where it stands in a module (a lambda
does not), and has no checkpoint.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import check_choice

Function = Callable[[Array], Array]

ACTIVATIONS: dict[str, Function] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
    "softmax": jax.nn.softmax,  # over the features
    "gelu": jax.nn.gelu,  # by tanh, as in flax; torch and Keras take erf
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "leaky_relu": jax.nn.leaky_relu,  # slope 0.01 below zero; Keras differs
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "hard_sigmoid": jax.nn.hard_sigmoid,  # min(max(x / 6 + ½, 0), 1); ONNX has x / 5
    "hard_tanh": jax.nn.hard_tanh,
    "scaled_tanh": lambda x: 1.7159 * jnp.tanh(2 / 3 * x),  # LeCun
    "thresholded_relu": lambda x: jnp.where(x > 1, x, 0),
}


def is_function(value: Any) -> bool:
    """True for a function; not for a class, nor for a model that can be called."""
    named = hasattr(value, "__name__") or isinstance(value, functools.partial)
    return callable(value) and named and not isinstance(value, type)


def check_activation(argument: str, given: Any) -> str | Function:
    """Return the name of an activation, that of a function that has one, any other function; or raise."""
    if is_function(given):
        named = (name for name, function in ACTIVATIONS.items() if function is given)
        return next(named, given)
    return check_choice(argument, given, tuple(ACTIVATIONS))


Activation = Annotated[str | Function, check_activation]


def activation(given: str | Function) -> Function:
    """Look up an activation by a name of `ACTIVATIONS`; a function is itself."""
    return ACTIVATIONS[given] if isinstance(given, str) else given
