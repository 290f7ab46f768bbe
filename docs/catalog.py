"""The public names of jrnn, by room, and the cells among them."""

import importlib
import inspect
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

import jrnn
from jrnn.cell import batch_shape_of
from jrnn.testing.subject import default_inputs
from tests.cases import CASES


class Room(NamedTuple):
    """A page of the reference."""

    title: str
    modules: tuple[str, ...]  # whose public names it documents, as jrnn.NAME
    rest: tuple[str, ...] = ()  # modules that users reach by their own name, such as jrnn.losses


ROOMS = {
    "contract": Room("The contract", ("jrnn.cell",)),
    "unrolling": Room("Unrolling and methods", ("jrnn.unrolling",), ("jrnn.unrolling",)),
    "layers": Room("Layers", ("jrnn.layers",)),
    "combinators": Room("Combinators", ("jrnn.combinators",)),
    "maps": Room("Maps and read-outs", ("jrnn.cells",), ("jrnn.ablations",)),
    "attention": Room("Attention", ("jrnn.attention",), ("jrnn.attention",)),
    "paradigms": Room("Paradigms and sequence to sequence", ("jrnn.paradigms", "jrnn.seq2seq")),
    "decoding": Room("Decoding", ("jrnn.decoding",), ("jrnn.decoding",)),
    "crf": Room("Conditional random fields", ("jrnn.crf",), ("jrnn.crf",)),
    "training": Room("Training", ("jrnn.training",)),
    "online": Room("Online learning", ("jrnn.online",), ("jrnn.online",)),
    "losses": Room("Losses and metrics", ("jrnn.losses", "jrnn.metrics"), ("jrnn.losses", "jrnn.metrics")),
    "data": Room("Data", ("jrnn.data",), ("jrnn.data", "jrnn.data.synthetic")),
    "checkpoint": Room("Checkpoints", ("jrnn.checkpoint",), ("jrnn.checkpoint",)),
    "analysis": Room("Analysis", ("jrnn.analysis",), ("jrnn.analysis",)),
    "plots": Room("Plots", ("jrnn.plots",), ("jrnn.plots",)),
    "initializers": Room("Initializers", ("jrnn.initializers",), ("jrnn.initializers",)),
    "interop": Room("Other libraries", ("jrnn.interop",), ("jrnn.interop",)),
    "flax": Room("Flax modules", ("jrnn.modules",), ("jrnn.linen",)),
    "testing": Room("Testing a cell", ("jrnn.testing",), ("jrnn.testing",)),
}


def top_names() -> dict[str, Any]:
    """Every class and function that is reached as jrnn.NAME."""
    named = {name: getattr(jrnn, name) for name in dir(jrnn) if not name.startswith("_")}
    return {name: value for name, value in named.items() if _is_ours(value, "jrnn")}


def _is_ours(value: Any, module: str) -> bool:
    if isinstance(value, ModuleType) or not (inspect.isclass(value) or inspect.isfunction(value)):
        return False
    path = value.__module__.split(".")
    return path[: module.count(".") + 1] == module.split(".") and not any(p.startswith("_") for p in path)


def room_of(value: Any) -> str:
    """The room in which a class or function is documented."""
    for name, room in ROOMS.items():
        if any(value.__module__ == m or value.__module__.startswith(f"{m}.") for m in room.modules):
            return name
    raise LookupError(f"no room for {value.__module__}.{value.__name__}: add its module to ROOMS")


def module_names(module: str) -> list[str]:
    """The public names of a module that are not reached as jrnn.NAME."""
    loaded = (
        getattr(jrnn, module.split(".")[1]) if module.count(".") == 1 else importlib.import_module(module)
    )
    known = set(map(id, top_names().values()))
    names = [name for name in dir(loaded) if not name.startswith("_")]
    source = loaded.__name__
    return [
        name for name in names if _is_ours(value := getattr(loaded, name), source) and id(value) not in known
    ]


def cells() -> dict[str, Any]:
    """The cells that have a page of their own: recurrent ones, and maps that stand in a stack."""
    return {
        name: kind
        for name, kind in top_names().items()
        if (hasattr(kind, "step") and kind.__module__.startswith("jrnn.cells")) or name == "NARX"
    }


class Example(NamedTuple):
    """A small cell, and the shapes that its step takes."""

    cell: Any
    in_features: int
    params: Any
    carry: Any
    x: Any


def example(name: str) -> Example:
    """The first case of the tests that is of this class."""
    case = next(case for case in CASES if type(case.cell).__name__ == name)
    cell, width = case.cell, case.in_features
    x = (case.inputs or default_inputs(cell, width))(np.random.default_rng(0), (2,))
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), width))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, batch_shape_of(cell, x)), params)
    return Example(cell, width, params, carry, x)
