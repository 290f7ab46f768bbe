"""Activations, by name: a cell is a value, and functions do not compare as one.

Constants other than the usual ones stand behind the name: "leaky_relu(0.2)".
Any other function is taken as well: it compares by identity, pickles where it stands in a module (a lambda
does not), and has no checkpoint.
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
    """Hyperbolic tangent of LeCun."""
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
    "gelu": jax.nn.gelu,  # by tanh, as in flax; torch and Keras take erf
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "leaky_relu": jax.nn.leaky_relu,  # slope 0.01 below zero; Keras differs
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "hard_sigmoid": jax.nn.hard_sigmoid,  # min(max(x / 6 + ½, 0), 1); ONNX has x / 5
    "hard_tanh": jax.nn.hard_tanh,
    "scaled_tanh": _scaled_tanh,
    "thresholded_relu": _thresholded_relu,
}
CONSTANTS: dict[str, tuple[Callable[..., Array], dict[str, float]]] = {  # with those that go without saying
    "affine": (lambda x, alpha, beta: alpha * x + beta, {"alpha": 1.0, "beta": 0.0}),
    "elu": (jax.nn.elu, {"alpha": 1.0}),
    "leaky_relu": (jax.nn.leaky_relu, {"alpha": 0.01}),
    "hard_sigmoid": (lambda x, alpha, beta: jnp.clip(alpha * x + beta, 0, 1), {"alpha": 1 / 6, "beta": 0.5}),
    "scaled_tanh": (_scaled_tanh, {"alpha": 1.7159, "beta": 2 / 3}),
    "thresholded_relu": (_thresholded_relu, {"alpha": 1.0}),
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
    if isinstance(given, str) and "(" in given:
        return with_constants(*_parsed(argument, given))
    return check_choice(argument, given, tuple(ACTIVATIONS))


Activation = Annotated[str | Function, check_activation]


def activation(given: str | Function) -> Function:
    """Look up an activation by name; a function is itself."""
    if not isinstance(given, str):
        return given
    return ACTIVATIONS[given] if given in ACTIVATIONS else _of_constants(given)


def constants_of(given: str) -> tuple[str, tuple[float, ...]]:
    """Split the name of an activation from its constants, of which there may be none."""
    if "(" in given:
        return _parsed("activation", given)
    name = "affine" if given == "identity" else given
    return name, tuple(CONSTANTS[name][1].values()) if name in CONSTANTS else ()


def with_constants(name: str, constants: tuple[float, ...]) -> str:
    """Write the name of an activation with constants, which are left out where they are the usual ones."""
    if constants == tuple(CONSTANTS[name][1].values()):
        return "identity" if name == "affine" else name
    return f"{name}({', '.join(map(repr, constants))})"


@functools.cache
def _of_constants(given: str) -> Function:
    name, constants = _parsed("activation", given)
    return lambda x: CONSTANTS[name][0](x, *constants)


def _parsed(argument: str, given: str) -> tuple[str, tuple[float, ...]]:
    """The name and the constants of "name(1.0, 2.0)"; or raise."""
    forms = [f"{name}({', '.join(usual)})" for name, (_, usual) in CONSTANTS.items()]
    name, _, written = given.partition("(")
    try:
        constants = tuple(float(number) for number in re.sub(r"\)$", "", written).split(","))
    except ValueError:
        constants = ()
    needed = len(CONSTANTS[name][1]) if name in CONSTANTS else 0
    if not given.endswith(")") or len(constants) != needed or not all(map(math.isfinite, constants)):
        raise ValueError(f"{argument} with constants must be one of {', '.join(forms)}, got {given!r}")
    return name, constants
