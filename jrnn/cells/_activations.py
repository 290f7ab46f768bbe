"""Activations by name: cells compare by value, which functions do not.

Constants other than the defaults follow the name: "leaky_relu(0.2)". Any other function is accepted too: it
compares by identity, pickles only if it can be imported (not a lambda), and cannot be saved in a checkpoint.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import check_choice

Function = Callable[[Array], Array]


def _scaled_tanh(x: Array, alpha: float = 1.7159, beta: float = 2 / 3) -> Array:
    """LeCun's scaled hyperbolic tangent."""
    return alpha * jnp.tanh(beta * x)


def _thresholded_relu(x: Array, alpha: float = 1.0) -> Array:
    """Identity above α, else 0."""
    return jnp.where(x > alpha, x, 0)


ACTIVATIONS: dict[str, Function] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
    "softmax": jax.nn.softmax,  # over the features
    "gelu": jax.nn.gelu,  # the tanh approximation, as in flax; torch and Keras use erf
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "leaky_relu": jax.nn.leaky_relu,  # slope 0.01 below zero; Keras differs
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "hard_sigmoid": jax.nn.hard_sigmoid,  # min(max(x / 6 + ½, 0), 1); ONNX has x / 5
    "hard_tanh": jax.nn.hard_tanh,
    "scaled_tanh": _scaled_tanh,
    "thresholded_relu": _thresholded_relu,
    "celu": jax.nn.celu,
    "hard_silu": jax.nn.hard_silu,
    "log_sigmoid": jax.nn.log_sigmoid,
    "mish": jax.nn.mish,
    "relu6": jax.nn.relu6,
    "selu": jax.nn.selu,
    "sparse_plus": jax.nn.sparse_plus,
    "sparse_sigmoid": jax.nn.sparse_sigmoid,
    "squareplus": jax.nn.squareplus,
}
CONSTANTS: dict[str, tuple[Callable[..., Array], dict[str, float]]] = {  # with their defaults
    "affine": (lambda x, alpha, beta: alpha * x + beta, {"alpha": 1.0, "beta": 0.0}),
    "elu": (jax.nn.elu, {"alpha": 1.0}),
    "leaky_relu": (jax.nn.leaky_relu, {"alpha": 0.01}),
    "hard_sigmoid": (lambda x, alpha, beta: jnp.clip(alpha * x + beta, 0, 1), {"alpha": 1 / 6, "beta": 0.5}),
    "scaled_tanh": (_scaled_tanh, {"alpha": 1.7159, "beta": 2 / 3}),
    "thresholded_relu": (_thresholded_relu, {"alpha": 1.0}),
}


def is_function(value: Any) -> bool:
    """True for a function; False for a class or a callable model."""
    named = hasattr(value, "__name__") or isinstance(value, functools.partial)
    return callable(value) and named and not isinstance(value, type)


def check_activation(argument: str, given: Any) -> str | Function:
    """Return the name of an activation, also of a known function or an alias; other functions unchanged."""
    found = getattr(jax.nn, given, None) if isinstance(given, str) else given  # "swish" is silu
    if is_function(found) and (found is given or given not in ACTIVATIONS):
        named = [name for name, function in ACTIVATIONS.items() if function is found]
        if named or found is given:
            return named[0] if named else given
    if isinstance(given, str) and "(" in given:
        return with_constants(*_parsed(argument, given))
    return check_choice(argument, given, tuple(ACTIVATIONS))


Activation = Annotated[str | Function, check_activation]


def activation(given: str | Function) -> Function:
    """Look up an activation by name; return a function unchanged."""
    if not isinstance(given, str):
        return given
    return ACTIVATIONS[given] if given in ACTIVATIONS else _of_constants(given)


def constants_of(given: str) -> tuple[str, tuple[float, ...]]:
    """Split an activation into its name and constants, if any."""
    if "(" in given:
        return _parsed("activation", given)
    name = "affine" if given == "identity" else given
    return name, tuple(CONSTANTS[name][1].values()) if name in CONSTANTS else ()


def with_constants(name: str, constants: tuple[float, ...]) -> str:
    """Write the name of an activation with its constants, omitting the defaults."""
    if constants == tuple(CONSTANTS[name][1].values()):
        return "identity" if name == "affine" else name
    return f"{name}({', '.join(map(repr, constants))})"


@functools.cache
def _of_constants(given: str) -> Function:
    name, constants = _parsed("activation", given)
    return lambda x: CONSTANTS[name][0](x, *constants)


def _parsed(argument: str, given: str) -> tuple[str, tuple[float, ...]]:
    """Parse "name(1.0, 2.0)" into its name and constants; or raise."""
    forms = [f"{name}({', '.join(usual)})" for name, (_, usual) in CONSTANTS.items()]
    name, _, written = given.partition("(")
    try:
        constants = tuple(float(number) for number in re.sub(r"\)$", "", written).split(","))
    except ValueError:
        constants = ()
    needed = len(CONSTANTS[name][1]) if name in CONSTANTS else 0
    whole = needed > 0 and given.endswith(")") and len(constants) == needed
    if not whole or not all(map(math.isfinite, constants)):
        raise ValueError(f"{argument} with constants must be one of {', '.join(forms)}, got {given!r}")
    return name, constants
