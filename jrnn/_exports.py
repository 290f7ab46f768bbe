"""Public names, imported on first use; the typed stub of a package is the only list of them."""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Read the stub of a package: its `__getattr__`, `__dir__` and `__all__`.

    Args:
      package: its name; it has an `__init__.pyi` next to its `__init__.py`.

    Returns:
      `(get, names, all)`.
    """
    modules = listed(Path(str(sys.modules[package].__file__)).with_suffix(".pyi"))

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            if modules[name] == package:
                return importlib.import_module(f"{package}.{name}")
            found = getattr(importlib.import_module(modules[name]), name)
        except ModuleNotFoundError as error:
            missing = (error.name or package).partition(".")[0]
            if missing == package.partition(".")[0]:
                raise
            # hasattr, help and completion expect an AttributeError
            raise AttributeError(f"{package}.{name} needs {missing}, which is not installed") from error
        vars(sys.modules[package])[name] = found  # found without __getattr__ from now on
        return found

    return get, lambda: sorted(modules), sorted(modules)


def listed(stub: Path) -> dict[str, str]:
    """Names that a stub exports, with the modules they are imported from."""
    text = stub.read_text(encoding="utf-8")
    found = {name: module for module, name in re.findall(r"^from (\S+) import (\w+) as \2$", text, re.M)}
    for package in re.findall(r"^from (\S+) import \*$", text, re.M):
        found |= listed(ROOT.joinpath(*package.split(".")[1:], "__init__.pyi"))
    return found


def public_names(names: Mapping[str, Any], *more: str) -> list[str]:
    """Classes, functions and constants of jrnn among the names of a package, in alphabetical order.

    Args:
      names: `globals()` of the package, after its imports.
      *more: further names, such as those imported on first use.

    Returns:
      Its `__all__`, which `help` lists.
    """
    found = {
        name
        for name, value in names.items()
        if name.isupper() or getattr(value, "__module__", "").startswith("jrnn.")
    }
    return sorted({*more, *(name for name in found if not name.startswith("_"))} - {"public_names"})
