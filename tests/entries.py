"""The form in which the tests know a cell, and the words in which its entry is written."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

IN, HIDDEN, OUT, VOCABULARY = 3, 5, 6, 9  # pairwise distinct
WIDE = 6  # hidden units that are split into 2 or 3 heads, blocks or modules


def same(tree):
    return tree


class Case(NamedTuple):
    """A cell at which the laws are checked: its width, how its inputs are drawn, what it is exempt from."""

    cell: Any
    in_features: int
    inputs: Callable | None = None  # (rng, lead) -> xs; normal numbers if None
    exempt: tuple[str, ...] = ()  # with the reason in a comment


class Comparison(NamedTuple):
    """A cell, the step written again in NumPy, and how the one's parameters become the other's."""

    cell: Any
    step: Callable  # (p, carry, x) -> (carry, y), options bound
    unpack: Callable  # params of the cell -> p, by the letters of the paper
    width: int = IN
    places: tuple[int, ...] = ()  # spatial axes, between batch and features
    inputs: Callable | None = None  # (rng, lead) -> xs; normal numbers if None
    adapt: Callable = lambda params, carry: (params, carry)  # random numbers -> what the cell allows
    theirs: Callable = same  # carry of the cell -> carry of the step


class Entry(NamedTuple):
    """All that the tests know of one cell."""

    laws: list[Case]  # the first is checked by all, its options by what they can break: tests/test_laws.py
    values: dict[str, Comparison]  # by the names that the tests are called by
    counts: Callable  # (in_features, hidden) -> {cell: learned parameters, by the paper}


def irregular(rng, lead, features=IN):
    """`(values, dt)` with times from 0.2 to 2."""
    return rng.normal(size=(*lead, features)), rng.uniform(0.2, 2, lead)


def gate(i, h):
    """Parameters of a gate that reads x and h, with a bias."""
    return i * h + h**2 + h


def read(i, h):
    """Parameters of a gate that reads x alone, with a bias."""
    return i * h + h


def blocks(array, letter, names):
    """Equal parts of a packed array, one per gate: `{letter + name: part}`."""
    parts = np.split(array, len(names), axis=-1)
    return {letter + name: part for name, part in zip(names, parts, strict=True)}


def split(array, letter, names):
    """The same, each transposed for column vectors."""
    return {name: part.T for name, part in blocks(array, letter, names).items()}


def in_blocks(array, letter, names):
    """Parts of block-diagonal matrices (heads, in, out), each block transposed."""
    return {name: part.swapaxes(-1, -2) for name, part in blocks(array, letter, names).items()}


def packed(*names):
    """Unpacking of gates that all read x and h; the candidate's name is ""."""

    def unpack(p):
        biases = {} if p.b is None else split(p.b, "b", names)
        return split(p.w_ih, "W", names) | split(p.w_hh, "U", names) | biases

    return unpack


def from_x(*names):
    """Unpacking of gates that read x alone."""
    return lambda p: split(p.w_ih, "W", names) | split(p.b, "b", names)
