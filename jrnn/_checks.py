"""Argument checks: each returns its value, or raises an error that names what was given and needed."""

import math
import operator
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def require_cell(where: str, value: Any) -> Any:
    """Return a cell, or raise a TypeError that names what was given instead."""
    if isinstance(value, type):
        raise TypeError(f"{where} must be a cell, got the class {value.__name__}: call it, as in LSTM(8)")
    reject_modules(where, value)
    missing = [m for m in ("init", "initial_carry", "step", "out_features") if not hasattr(value, m)]
    if missing:
        hint = ": a Sequential takes layers" if missing == ["step"] and hasattr(value, "apply") else ""
        raise TypeError(
            f"{where} must be a cell, got {brief(value)}, which has no {', '.join(missing)}{hint}"
        )
    return value


def require_model(where: str, value: Any) -> Any:
    """Return a cell or a layer, or raise a TypeError that names what was given instead."""
    members = ("init", "initial_carry", "apply", "out_features")
    is_layer = not isinstance(value, type) and all(hasattr(value, member) for member in members)
    return value if is_layer else require_cell(where, value)


FOREIGN = {"flax": "Flax", "torch": "PyTorch", "keras": "Keras"}


def reject_modules(where: str, value: Any) -> None:
    """Raise a TypeError if a module of another library is given in place of a cell or a layer."""
    roots = {kind.__module__.split(".")[0] for kind in type(value).__mro__}
    for root in roots & FOREIGN.keys():
        hint = "convert it with jrnn.interop"
        if root == "flax" and hasattr(value, "cell"):
            hint = "pass its module.cell and module.params"
        name = f"{FOREIGN[root]} module {type(value).__name__}"
        raise TypeError(f"{where} must be a cell, got the {name}: {hint}")


def require_tuple(where: str, values: Any) -> tuple[Any, ...]:
    """Return a tuple or list as a tuple, or raise a TypeError that names what was given instead."""
    if not isinstance(values, (tuple, list)):
        given = brief(values)
        raise TypeError(f"{where} must be a tuple, got {given}: put it in one, as in ({given},)")
    return tuple(values)


def require_key(key: Any) -> None:
    """Raise a TypeError unless `key` is a single key, typed or as key data, or `None`."""
    if key is None:
        return
    known = isinstance(key, (jax.Array, np.ndarray))
    if known and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        known = key.ndim == 0
    elif known:
        known = key.ndim == 1 and key.dtype == np.uint32
    if not known:
        kind = f"an array of {key.dtype}{key.shape}" if hasattr(key, "dtype") else brief(key)
        raise TypeError(f"key must be a random key, as in jax.random.key(0), got {kind}")


def brief(value: Any) -> str:
    """The repr of a value, truncated to one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def check_choice(argument: str, given: str, choices: tuple[str, ...]) -> str:
    """Return `given`, or raise a ValueError that lists the choices."""
    if given not in choices:
        raise ValueError(f"{argument} must be one of {', '.join(choices)}, got {brief(given)}")
    return choices[choices.index(given)]


def check_flag(argument: str, given: Any) -> bool:
    """Return True or False as a bool, or raise a TypeError."""
    if not isinstance(given, (bool, np.bool_)):
        raise TypeError(f"{argument} must be True or False, got {brief(given)}")
    return bool(given)


def check_whole(argument: str, given: Any) -> int:
    """Return a whole number, also of NumPy or JAX, as an int, or raise a TypeError."""
    try:
        if not isinstance(given, (bool, np.bool_)):
            return operator.index(given)
    except TypeError:
        pass
    raise TypeError(f"{argument} must be an int, got {brief(given)}")


def check_number(argument: str, given: Any) -> float:
    """Return a finite real number, also of NumPy or JAX, as a Python number, or raise."""
    array = np.asarray(given) if isinstance(given, (int, float, np.generic, np.ndarray, jax.Array)) else None
    if array is None or array.ndim or array.dtype == bool or not np.isrealobj(array):
        raise TypeError(f"{argument} must be a number, got {brief(given)}")
    if not math.isfinite(array):
        raise ValueError(f"{argument} must be a finite number, got {brief(given)}")
    return array.item()  # keeps an int an int, so that values print as they were written


def check_path(argument: str, given: Any) -> Path:
    """Return a path, also one given as a string, or raise a TypeError."""
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise TypeError(f"{argument} must be a path, a str or a Path, got {brief(given)}")
    return Path(given)


def check_text(argument: str, given: Any) -> str:
    """Return a string, or raise a TypeError."""
    if not isinstance(given, str):
        raise TypeError(f"{argument} must be a string, got {brief(given)}")
    return str(given)


def check_width(argument: str, given: Any) -> int:
    """Return a positive whole number as an int, or raise."""
    width = check_whole(argument, given)
    if width < 1:
        raise ValueError(f"{argument} must be at least 1, got {width}")
    return width


def check_lag(argument: str, given: Any) -> int:
    """Return a whole number, 0 or more, as an int, or raise."""
    try:
        lag = check_whole(argument, given)
    except TypeError:
        lag = -1
    if lag < 0:
        raise ValueError(f"{argument} must be a whole number, 0 or more, got {brief(given)}")
    return lag


def check_in_features(given: Any, least: int = 0) -> None:
    """Raise unless `given` is an input width: a whole number, 0 for a cell without inputs."""
    try:
        width = None if isinstance(given, (bool, np.bool_)) else operator.index(given)
    except TypeError:
        width = None
    if width is None:
        raise TypeError(f"in_features must be an int, got {brief(given)}")
    if width < least:
        raise ValueError(f"in_features must be {least} or more, got {given}")


def check_given_width(cell: Any, in_features: int, needed: int) -> None:
    """Raise unless the input of a cell has the width that the cell was made for."""
    check_in_features(in_features)
    if in_features != needed:
        raise ValueError(f"{cell} needs in_features={needed}, got {in_features}")


def check_multiple(argument: str, given: int, of: str, number: int) -> None:
    """Raise unless a width is a multiple of `number`, the value of the argument `of`."""
    check_width(of, number)
    if given % number:
        raise ValueError(f"{argument} must be a multiple of {of}={number}, got {given}")


def check_equal_widths(cell: Any, in_features: int) -> None:
    """Raise unless the input of a cell is as wide as its state."""
    check_in_features(in_features)
    if in_features != cell.hidden:
        raise ValueError(
            f"{cell} needs in_features={cell.hidden}, since it adds x to its state, got {in_features}: "
            f"put Dense({cell.hidden}) before it"
        )


def check_positive(argument: str, given: Any) -> float:
    """Return a number above 0, or raise."""
    return _between(argument, given, lambda number: number > 0, "a number above 0")


def check_share(argument: str, given: Any) -> float:
    """Return a number in (0, 1], or raise."""
    return _between(argument, given, lambda number: 0 < number <= 1, "in (0, 1]")


def check_rate(argument: str, given: Any) -> float:
    """Return a probability in [0, 1), or raise."""
    return _between(argument, given, lambda number: 0 <= number < 1, "a rate in [0, 1)")


def _between(argument: str, given: Any, holds: Callable[[float], bool], needed: str) -> float:
    try:
        number = check_number(argument, given)
    except (TypeError, ValueError):
        number = math.nan
    if not holds(number):
        raise ValueError(f"{argument} must be {needed}, got {brief(given)}")
    return number


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user: the innermost one outside of jrnn and JAX."""
    inside = (os.path.dirname(__file__) + os.sep, jax.__path__[0] + os.sep)
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


class Text(str):
    """A string whose repr is itself, for display in notebooks."""

    def __repr__(self) -> str:
        return str(self)


def line_of(traceback: Any) -> str:
    """The innermost line outside of JAX, "file:line"; empty if unknown."""
    frames = getattr(traceback, "frames", ())
    return next((f"{f.file_name}:{f.line_num}" for f in frames if jax.__path__[0] not in f.file_name), "")
