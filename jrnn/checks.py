"""Checks of arguments: each returns, or raises with what was given and what was needed."""

import operator
from typing import Any

import jax
import numpy as np


def require_cell(where: str, value: Any) -> None:
    """Raise a TypeError that says what was given in place of a cell."""
    if isinstance(value, type):
        raise TypeError(f"{where} must be a cell, got the class {value.__name__}: call it, as in LSTM(8)")
    missing = [m for m in ("init", "initial_carry", "step", "out_features") if not hasattr(value, m)]
    if missing:
        raise TypeError(f"{where} must be a cell, got {brief(value)}, which has no {', '.join(missing)}")


def require_tuple(where: str, values: Any) -> tuple[Any, ...]:
    """Return a tuple or list as a tuple, or raise a TypeError that says what was given in its place."""
    if not isinstance(values, (tuple, list)):
        raise TypeError(f"{where} must be a tuple, got {brief(values)}: put it in one, as in (cell,)")
    return tuple(values)


def require_key(key: Any) -> None:
    """Raise a TypeError unless `key` is an array of key data or `None`."""
    if key is not None and not isinstance(key, (jax.Array, np.ndarray)):
        raise TypeError(f"key must be a random key, as in jax.random.key(0), got {brief(key)}")


def brief(value: Any) -> str:
    """The print of a value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def check_choice(argument: str, given: str, choices: tuple[str, ...]) -> str:
    """Return `given`, or raise a ValueError that lists the choices."""
    if given not in choices:
        raise ValueError(f"{argument} must be one of {', '.join(choices)}, got {given!r}")
    return given


def check_width(argument: str, given: Any) -> None:
    """Raise unless `given` is a positive whole number."""
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{argument} must be an int, got {given!r}")
    if given < 1:
        raise ValueError(f"{argument} must be at least 1, got {given}")


def check_lag(argument: str, given: Any) -> None:
    """Raise unless `given` is a whole number, 0 or more."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(f"{argument} must be a whole number, 0 or more, got {given!r}")


def check_in_features(given: Any, least: int = 0) -> None:
    """Raise unless `given` is a width of inputs: a whole number, 0 for a cell without inputs."""
    try:
        width = None if isinstance(given, (bool, np.bool_)) else operator.index(given)
    except TypeError:
        width = None
    if width is None:
        raise TypeError(f"in_features must be an int, got {brief(given)}")
    if width < least:
        raise ValueError(f"in_features must be {least} or more, got {given}")


def check_multiple(argument: str, given: int, of: str, number: int) -> None:
    """Raise unless a width can be shared equally: `of` is the argument that says by how many."""
    check_width(of, number)
    if given % number:
        raise ValueError(f"{argument} must be a multiple of {of}={number}, got {given}")


def check_equal_widths(cell: Any, in_features: int) -> None:
    """Raise unless the input of a cell is as wide as its state."""
    check_in_features(in_features)
    if in_features != cell.hidden:
        raise ValueError(
            f"{cell} needs in_features={cell.hidden}, as it adds its input to its state, got {in_features}: "
            f"put Dense({cell.hidden}) before it"
        )


def check_positive(argument: str, given: Any) -> None:
    """Raise unless `given` is a number above 0."""
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not given > 0:
        raise ValueError(f"{argument} must be a number above 0, got {given!r}")


def check_rate(argument: str, given: Any) -> None:
    """Raise unless `given` is a probability in [0, 1)."""
    if not isinstance(given, (int, float)) or not 0 <= given < 1:
        raise ValueError(f"{argument} must be a rate in [0, 1), got {given!r}")


class Text(str):
    """A string that prints as it stands, in a notebook too."""

    def __repr__(self) -> str:
        return str(self)
