"""Optimizers as JSON: a list of their transformations, to detect a different optimizer.

The states of Adam, AdaMax, Yogi and RAdam have the same shape, so a comparison of arrays would accept a state
of the wrong optimizer.
"""

import functools
import types
from collections.abc import Iterator
from typing import Any

from jrnn.checkpoint.files import CheckpointError

_NAMES = "init", "update", "factory"  # inject_hyperparams holds the factory of a transformation
_WRAPPERS = {"chain", "with_extra_args_support", "init_empty_state"}  # without information


def optimizer_to_json(optimizer: Any) -> list[Any] | None:
    """Describe an optax optimizer by `[name, flags]` of its transformations, in order.

    Numbers, such as rates and decays, and functions that return them, such as schedules, are not included: a
    run may continue with others.

    >>> import optax
    >>> optimizer_to_json(optax.nadam(1e-3))
    [['scale_by_adam', {'nesterov': True}], ['scale', {}]]
    """
    if optimizer is None:
        return None
    made: list[Any] = []
    for name, flags in _transformations(getattr(optimizer, "update", optimizer), set(), named=True):
        if made and made[-1][0] == name:
            made[-1][1].update(flags)
        elif name not in _WRAPPERS:
            made.append([name, flags])
    return made


def check_optimizer(stored: Any, optimizer: Any) -> None:
    """Raise unless an optimizer has the transformations of the stored one, if one was stored."""
    given = optimizer_to_json(optimizer)
    if stored is None or given is None:
        return
    names = [[entry[0] for entry in made] for made in (stored, given)]
    flags = [(a[1], b[1]) for a, b in zip(stored, given, strict=False)]
    if names[0] != names[1] or any(a[flag] != b[flag] for a, b in flags for flag in a.keys() & b.keys()):
        raise CheckpointError(f"opt_state belongs to {_text(stored)}, got the optimizer {_text(given)}")


def is_described(stored: Any) -> bool:
    """True for a value that `optimizer_to_json` could return."""
    if stored is None:
        return True
    pairs = isinstance(stored, list) and all(isinstance(entry, list) and len(entry) == 2 for entry in stored)
    return pairs and all(isinstance(name, str) and isinstance(flags, dict) for name, flags in stored)


def _text(made: list[Any]) -> str:
    parts = [name + "".join(f" {flag}={value}" for flag, value in flags.items()) for name, flags in made]
    return " → ".join(parts)[:1000]


def _transformations(value: Any, seen: set[int], *, named: bool) -> Iterator[tuple[str, dict[str, bool]]]:
    """Names of the factories of all transformations in a closure, with the booleans that they close over.

    Their functions are called `init` or `update`, or so is the variable that holds them, `named`. Other
    functions are schedules, masks and the like, whose own closures may hold transformations.
    """
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, functools.partial):
        value = (value.func, *value.args, *value.keywords.values())
    if isinstance(value, types.MethodType):  # of an object that holds an optimizer, such as MultiSteps
        yield type(value.__self__).__name__, {}
        value = vars(value.__self__)
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from _transformations(part, seen, named=named or hasattr(value, "update"))
        return
    if not isinstance(value, types.FunctionType):
        return
    held = {}
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    flags = {name: content for name, content in held.items() if isinstance(content, bool)}
    if named or _is_named(value.__name__):
        yield value.__qualname__.split(".")[0], flags
    for name, content in held.items():
        yield from _transformations(content, seen, named=_is_named(name))


def _is_named(name: str) -> bool:
    return any(part in name for part in _NAMES)
