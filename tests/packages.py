"""Modules of other libraries, without what their packages import."""

import importlib
import importlib.util
import pathlib
import sys
import types

import pytest


def plain(name):
    """A module of an installed package, or a skip; no `__init__` above it runs: many want a GPU or a game."""
    top, *rest = name.split(".")
    found = importlib.util.find_spec(top) if top not in sys.modules else sys.modules[top].__spec__
    if found is None:
        pytest.skip(f"{top} is not installed")
    (root,) = found.submodule_search_locations
    for depth in range(len(rest)):
        package = ".".join([top, *rest[:depth]])
        if package not in sys.modules:
            module = types.ModuleType(package)
            module.__path__ = [str(pathlib.Path(root, *rest[:depth]))]
            module.__spec__ = importlib.util.spec_from_loader(package, None, is_package=True)
            module.__spec__.submodule_search_locations = module.__path__
            sys.modules[package] = module
    return importlib.import_module(name)
