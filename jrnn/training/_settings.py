"""Settings of a population: what its members differ in besides their seeds."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jrnn._checks import brief

RESERVED = {"member", "seed", "epoch", "step", "train", "validation"}  # columns of the table


class Setting(Mapping[str, Any]):
    """The setting of a member as functions see it; records which names are read."""

    def __init__(self, values: dict[str, Any], read: set[str]) -> None:
        self._values, self._read = values, read

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise KeyError(f"settings have no {name!r}, they have {sorted(self._values)}")
        self._read.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def listed_settings(given: Any) -> list[dict[str, Any]]:
    """The settings as a list: as given, or all combinations of a mapping of names to lists of values."""
    if isinstance(given, Mapping):
        values = {name: _plain(name, column) for name, column in given.items()}
        settings = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    elif isinstance(given, list | tuple) and all(isinstance(setting, Mapping) for setting in given):
        settings = [{name: _plain(name, [value])[0] for name, value in s.items()} for s in given]
    else:
        raise TypeError(f"settings must be a list of dicts, or a dict of lists, got {brief(given)}")
    if not settings or any(setting.keys() != settings[0].keys() for setting in settings):
        raise ValueError(f"settings must be one or more dicts with the same names, got {brief(given)}")
    if taken := settings[0].keys() & RESERVED:
        raise ValueError(f"settings: {sorted(taken)} are columns of the table already: rename them")
    for name in settings[0]:
        if is_float(name, settings):  # 1 among 0.1 and 0.3 is a float
            for setting in settings:
                setting[name] = float(setting[name])
    return settings


def is_float(name: str, settings: list[dict[str, Any]]) -> bool:
    """True if a setting is a float in some members, and a number in all."""
    kinds = {type(setting[name]) for setting in settings}
    return float in kinds and kinds <= {int, float}


def typed(value: Any) -> Any:
    """A value with its type, since True == 1 == 1.0, which functions of the setting may tell apart."""
    return tuple(map(typed, value)) if isinstance(value, tuple) else (type(value), value)


def _plain(name: str, values: Any) -> list[Any]:
    """Values as plain Python, so that they print, hash and compare alike."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"settings: {name} must be a list of values, got {brief(values)}")
    plain = [v.item() if hasattr(v, "item") and np.ndim(v) == 0 else v for v in values]
    for value in plain:
        if not isinstance(value, bool | int | float | str | tuple | type(None)):
            raise TypeError(f"settings: {name} must hold numbers, names or tuples, got {brief(value)}")
    return plain
