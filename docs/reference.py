"""The reference: a page per room, every public name on exactly one."""

import functools
import inspect
import re
from typing import Any

import jrnn
from docs.catalog import ROOMS, cells, module_names, room_of, top_names


def documented() -> dict[str, list[str]]:
    """The names of each room, as they are written by a user: jrnn.unroll, jrnn.losses.cross_entropy."""
    found: dict[str, list[str]] = {room: [] for room in ROOMS}
    with_page = set(cells())
    for name, value in top_names().items():
        if name not in with_page:
            found[room_of(value)].append(f"jrnn.{name}")
    for room, (_, _, modules) in ROOMS.items():
        for module in modules:
            found[room] += [f"{module}.{name}" for name in module_names(module)]
    return found


def reference_page(room: str) -> str:
    """One page, in Markdown."""
    names = documented()[room]
    parts = [f"# {ROOMS[room].title}"]
    if room == "maps":
        parts.append("Every cell has [a page of its own](../cells/index.md).")
    for name in sorted(names, key=_place):
        directive = "autoclass" if inspect.isclass(value_of(name)) else "autofunction"
        members = "\n   :members:" if directive == "autoclass" else ""
        parts += [
            f"## {name.removeprefix('jrnn.')}",
            f"```{{eval-rst}}\n.. {directive}:: {name}{members}\n```",
        ]
    return "\n\n".join(parts) + "\n"


def _place(name: str) -> tuple[int, str]:
    """Functions before classes before records, each by name."""
    value = value_of(name)
    return (0 if inspect.isfunction(value) else 2 if hasattr(value, "_fields") else 1, name.lower())


def value_of(name: str) -> Any:
    """What a name such as jrnn.losses.cross_entropy stands for."""
    module, _, attribute = name.removeprefix("jrnn.").rpartition(".")
    return getattr(functools.reduce(getattr, module.split("."), jrnn) if module else jrnn, attribute)


def plain_signature(text: str) -> str:
    """A signature without what annotations hold besides types.

    >>> plain_signature("(hidden: ~typing.Annotated[int, <function check_width at 0x7f>], bias: bool)")
    '(hidden: int, bias: bool)'
    """
    while (start := re.search(r"~?[\w.]*\bAnnotated\[", text)) is not None:
        depth, comma, end = 1, None, start.end()
        while depth:
            if text[end] == "," and depth == 1 and comma is None:
                comma = end
            depth += {"[": 1, "]": -1}.get(text[end], 0)
            end += 1
        text = text[: start.start()] + text[start.end() : comma] + text[end:]
    return text


def reference_index() -> str:
    """The list of rooms."""
    lines = [
        "# Reference",
        "Every public name of jrnn, from its docstring. Cells have pages [of their own](../cells/index.md).",
    ]
    for room, names in documented().items():
        links = ", ".join(f"{{py:obj}}`{name.removeprefix('jrnn.')} <{name}>`" for name in sorted(names))
        lines += [f"## [{ROOMS[room].title}]({room}.md)", links]
    toctree = ["```{toctree}", ":hidden:", "", *ROOMS, "```"]
    return "\n\n".join([*lines, "\n".join(toctree)]) + "\n"
