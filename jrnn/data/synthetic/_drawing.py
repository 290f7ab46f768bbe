"""Draws that the generators share: a seeded source, choices, no doubles."""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

from jrnn._checks import check_lag, check_width

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


def seeded(seed: int) -> np.random.Generator:
    """Return the source of all randomness, or raise a ValueError where it could not be repeated."""
    check_lag("seed", seed)
    return np.random.default_rng(seed)


def pick(random: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, all equally likely."""
    return options[int(random.integers(len(options)))]


def distinct(draw: Callable[[], H], count: int) -> list[H]:
    """The first `count` different results of `draw`, or a ValueError once nothing new comes.

    >>> from itertools import cycle
    >>> from jrnn.data.synthetic._drawing import distinct
    >>> distinct(cycle("aabac").__next__, 3)
    ['a', 'b', 'c']
    """
    check_width("count", count)
    found: dict[H, None] = {}  # a set that keeps its order
    repeated = 0
    while len(found) < count:
        before = len(found)
        found[draw()] = None
        repeated = 0 if len(found) > before else repeated + 1
        if repeated == 10_000:
            raise ValueError(
                f"count={count} different ones were not found: after {before}, {repeated} draws in a row "
                "were repetitions; ask for fewer"
            )
    return list(found)
