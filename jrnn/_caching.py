"""Caches whose results live as long as the objects they were computed for."""

import dataclasses
import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar, cast

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_CACHES = "_jrnn_caches"  # attribute of an owner: function -> its cache
_SLOTTED: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # the caches of jaxprs
_IDENTITY: Any = object.__eq__
_ATOMS = {int, float, complex, bool, str, bytes, type(None)}
_VALUES = {tuple}  # and importable dataclasses that compare by their fields, added when first seen


class Caches(dict[Any, Any]):
    """The caches of an owner: function -> its cache. Copies and pickles of the owner hold none."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Caches, ()


def cached(function: Callable[Arguments, Result], maxsize: int = 1024) -> Callable[Arguments, Result]:
    """Cache the results of a function by its positional arguments.

    `LSTM(8)` equals any other `LSTM(8)`, and holds no arrays: its results are kept for the life of the
    process, unless `maxsize` newer ones displace them. A function from a notebook equals only itself, and may
    close over arrays: the results for a cell that holds one are cached in an attribute of that function, and
    freed with it. `functools.lru_cache` would keep both.

    Args:
      function: the function.
      maxsize: number of results cached for each owner; those not used for longest are dropped.
    """
    for_good = functools.lru_cache(maxsize)(function)

    @functools.wraps(function)
    def look_up(*arguments: Any) -> Any:
        owner = owner_of(arguments)
        if owner is None:
            return for_good(*arguments)
        caches = _caches_of(owner)
        if function not in caches:
            caches[function] = functools.lru_cache(maxsize)(function)
        return caches[function](*arguments)

    return cast(Callable[Arguments, Result], look_up)


def owner_of(value: Any) -> Any:
    """The object that results for a value are freed with; None: no part of it is ever freed, so keep them.

    It is the first part of the value that compares by identity and that no module holds.

    >>> import jrnn
    >>> def step(params, h, x):
    ...     return h, h
    >>> print(owner_of(jrnn.Stack((jrnn.LSTM(8), jrnn.Dense(2)))))
    None
    >>> owner_of(jrnn.Stack((jrnn.from_functions(None, None, step, 3),))) is step
    True
    """
    kind = type(value)
    if kind in _ATOMS:
        return None
    if kind not in _VALUES:  # not seen before: classify it
        if isinstance(value, types.MethodType):
            return owner_of((value.__self__, value.__func__))
        if isinstance(value, type) or kind.__eq__ is _IDENTITY:
            return None if _is_importable(value) else value
        if not isinstance(value, tuple) and not dataclasses.is_dataclass(value):
            return None  # a dtype, a date, ...
        if not _is_importable(kind):
            return kind
        _VALUES.add(kind)
    for part in value if isinstance(value, tuple) else _fields(value):
        if (owner := owner_of(part)) is not None:
            return owner
    return None


def _fields(value: Any) -> Iterable[Any]:
    if hasattr(value, "__dict__"):
        return vars(value).values()
    return [getattr(value, field.name) for field in dataclasses.fields(value)]


def _is_importable(value: Any) -> bool:
    """True if a function or class can be imported by its name, and so lives as long as the process."""
    name, module = getattr(value, "__qualname__", ""), getattr(value, "__module__", None)
    if module == "__main__":  # in a notebook, rerunning a cell replaces it
        return False
    return getattr(sys.modules.get(module or ""), name, None) is value


def _caches_of(owner: Any) -> Caches:
    """The caches of an owner, stored as its attribute, so that they are freed together."""
    try:
        held = vars(owner)
    except TypeError:  # a jaxpr, which takes no attributes; its entry goes with it, as no result refers to it
        caches: Caches = _SLOTTED.setdefault(owner, Caches())
        return caches
    if _CACHES not in held:
        set_attribute = type.__setattr__ if isinstance(owner, type) else object.__setattr__
        set_attribute(owner, _CACHES, Caches())
    caches = vars(owner)[_CACHES]
    return caches
