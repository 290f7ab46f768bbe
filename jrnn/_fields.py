"""Fields of cells: annotations for common kinds of values, and their checks."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar

from jrnn._checks import (
    brief,
    check_choice,
    check_flag,
    check_lag,
    check_number,
    check_positive,
    check_rate,
    check_share,
    check_text,
    check_whole,
    check_width,
    require_cell,
    require_key,
    require_model,
    require_tuple,
)
from jrnn.cell import Cell

T = TypeVar("T")
Check = Callable[[str, Any], Any]  # (name, given) -> value, or an error that names it

Width = Annotated[int, check_width]  # 1 or more
Lag = Annotated[int, check_lag]  # 0 or more
Positive = Annotated[float, check_positive]
Share = Annotated[float, check_share]  # (0, 1]
Rate = Annotated[float, check_rate]  # [0, 1)
AnyCell = Annotated[Cell[Any, Any], require_cell]
AnyModel = Annotated[Any, require_model]  # a cell or a layer


def one_of(choices: Iterable[str]) -> Check:
    """Make a check for a name that must be one of the choices."""
    return lambda name, given: check_choice(name, given, tuple(choices))


PLAIN: dict[Any, Check] = {bool: check_flag, int: check_whole, float: check_number, str: check_text}


def checked(kind: type[T]) -> type[T]:
    """Make a frozen dataclass check its fields by their annotations, and take options by name only.

    Values are checked when the class is called, and converted to plain Python: an `np.int64` is stored as an
    int, a list as a tuple, so that equal values print and hash alike. The repr omits options that have their
    defaults. Checks that involve several fields are left to `__post_init__`. Its `init(key, ...)`, if it has
    one, rejects anything but a random key.

    Args:
      kind: a frozen dataclass with its options after `KW_ONLY`.

    Returns:
      The same class.

    >>> from dataclasses import KW_ONLY, dataclass
    >>> @checked
    ... @dataclass(frozen=True)
    ... class Cell:
    ...     hidden: Width
    >>> import numpy as np
    >>> Cell(np.int64(3))
    Cell(hidden=3)
    """
    made: Any = kind.__init__
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [field for field in dataclasses.fields(typing.cast(Any, kind)) if field.init]
    checks = {field.name: _check_of(hints[field.name]) for field in fields}
    positional = [field.name for field in fields if not field.kw_only]

    @functools.wraps(made)
    def init(self: Any, *given: Any, **options: Any) -> None:
        if len(given) > len(positional) or not options.keys() <= checks.keys():
            raise TypeError(_misplaced(kind.__name__, given, list(options), positional, list(checks)))

        def value(name: str, of: Any) -> Any:
            return checks[name](f"{kind.__name__}: {name}", of)

        first = map(value, positional, given)
        made(self, *first, **{name: value(name, of) for name, of in options.items()})

    def show(self: Any) -> str:
        written = [f for f in fields if not f.kw_only or getattr(self, f.name) != f.default]
        return f"{kind.__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in written)})"

    shown: Any = init
    shown.__signature__ = _plain_signature(kind, made)
    if "init" in vars(kind):
        type.__setattr__(kind, "init", _with_key(vars(kind)["init"]))
    type.__setattr__(kind, "__init__", init)
    type.__setattr__(kind, "__repr__", show)
    return kind


def _with_key(init: Callable[..., Any]) -> Callable[..., Any]:
    """An `init` that checks its key before it draws, or passes a part of it on."""

    @functools.wraps(init)
    def checked_init(self: Any, key: Any, *args: Any, **options: Any) -> Any:
        require_key(key, needed=True)
        return init(self, key, *args, **options)

    return checked_init


def _plain_signature(kind: Any, init: Any) -> inspect.Signature:
    """The signature of a constructor as `help` shows it, `hidden: int`: types without their checks."""
    plain, signature = typing.get_type_hints(kind), inspect.signature(init)
    named = signature.parameters.values()
    return signature.replace(
        parameters=[p.replace(annotation=plain.get(p.name, p.annotation)) for p in named]
    )


def _misplaced(
    name: str, given: tuple[Any, ...], options: list[str], positional: list[str], fields: list[str]
) -> str:
    """The message for an option given by position, or for an unknown option."""
    if len(given) <= len(positional):
        unknown = next(option for option in options if option not in fields)
        hint = ": it is an argument of init, as in init(key, in_features)" if unknown == "in_features" else ""
        return f"{name} has no option {unknown!r}, it takes {', '.join(fields) or 'none'}{hint}"
    message = f"{name} takes {len(positional)} by position ({', '.join(positional)}), got {len(given)}"
    named = [field for field in fields if field not in positional]
    message += f", options must be given by name: {', '.join(named)}" if named else ""
    if positional in (["cells"], ["layers"]):
        message += f"; {positional[0]} is a tuple of them"
    if positional in (["hidden"], ["features"]) and hasattr(given[1], "__index__"):  # the order of torch
        example = f"{name}({brief(given[1])}).init(key, in_features={brief(given[0])})"
        message += f"; the input width is an argument of init, as in {example}"
    return message


def _check_of(hint: Any) -> Check:
    """The check of an annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return hint.__metadata__[0]
    if origin is Literal:
        return lambda name, given: check_choice(name, given, args)
    if origin is tuple:
        return _check_of_tuple(_check_of(args[0]))
    if origin in (typing.Union, types.UnionType):
        return _check_of_union(args)
    return PLAIN.get(hint, lambda name, given: given)


def _check_of_tuple(entry: Check) -> Check:
    def check(name: str, given: Any) -> Any:
        values = enumerate(require_tuple(name, given))
        return tuple(entry(f"{name}[{index}]", value) for index, value in values)

    return check


def _check_of_union(kinds: tuple[Any, ...]) -> Check:
    """Check None if it is allowed, a tuple or list as the tuple, anything else as the first of the rest."""
    checks = {typing.get_origin(kind) or kind: _check_of(kind) for kind in kinds}
    nothing, several = type(None) in checks, checks.pop(tuple, None)
    checks.pop(type(None), None)
    single = next(iter(checks.values()))

    def check(name: str, given: Any) -> Any:
        if given is None and nothing:
            return None
        return several(name, given) if several and isinstance(given, (tuple, list)) else single(name, given)

    return check
