"""Random draws shared by the generators: seeding, choices, distinct samples."""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

from jrnn._checks import check_lag, check_width

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


def seeded(seed: int) -> np.random.Generator:
    """Make a random generator, or raise a ValueError if `seed` is not a seed."""
    check_lag("seed", seed)
    return np.random.default_rng(seed)


def pick(random: np.random.Generator, options: Sequence[T]) -> T:
    """Draw one of the options uniformly."""
    return options[int(random.integers(len(options)))]


def distinct(draw: Callable[[], H], count: int) -> list[H]:
    """Collect the first `count` distinct results of `draw`; a ValueError if no new ones are found.

    >>> from itertools import cycle
    >>> from jrnn.data.synthetic._drawing import distinct
    >>> distinct(cycle("aabac").__next__, 3)
    ['a', 'b', 'c']
    """
    check_width("count", count)
    found: dict[H, None] = {}  # an ordered set
    repeated = 0
    while len(found) < count:
        before = len(found)
        found[draw()] = None
        repeated = 0 if len(found) > before else repeated + 1
        if repeated == 10_000:
            raise ValueError(
                f"count={count} is too large: after {before} distinct samples, {repeated} draws in a row "
                "were repetitions"
            )
    return list(found)
