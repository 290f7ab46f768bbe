"""Names that a package makes public: `help` lists those of `__all__`, and no other that was imported."""

from collections.abc import Mapping
from typing import Any


def public_names(names: Mapping[str, Any], *more: str) -> list[str]:
    """The classes, functions and constants of jrnn among the names of a package, in alphabetical order.

    Args:
      names: `globals()` of the package, behind its imports.
      *more: names besides, such as those that are imported on first use.

    Returns:
      Its `__all__`.
    """
    found = {
        name
        for name, value in names.items()
        if name.isupper() or getattr(value, "__module__", "").startswith("jrnn.")
    }
    return sorted({*more, *(name for name in found if not name.startswith("_"))} - {"public_names"})
