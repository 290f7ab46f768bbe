"""Draws that the generators share: a seeded source, choices, derivations of a grammar, no doubles."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from jrnn.checks import check_lag, check_width

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)
Grammar = Mapping[str, Sequence[str]]


def seeded(seed: int) -> np.random.Generator:
    """Return the source of all randomness, or raise a ValueError where it could not be repeated."""
    check_lag("seed", seed)
    return np.random.default_rng(seed)


def words(text: str) -> list[str]:
    """Split a text where it has spaces."""
    return text.split()


def pick(random: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, all equally likely."""
    return options[int(random.integers(len(options)))]


def distinct(draw: Callable[[], H], count: int) -> list[H]:
    """The first `count` different results of `draw`, or a ValueError once nothing new comes.

    >>> from itertools import cycle
    >>> from jrnn.data.synthetic.drawing import distinct
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


def expand(grammar: Grammar, symbol: str, random: np.random.Generator) -> list[str]:
    """Derive a sentence from a context-free grammar.

    A symbol is replaced by one of its rules, all equally likely (a rule given twice is twice as
    likely), and so on within; what has no rules is a word.

    >>> import numpy as np
    >>> from jrnn.data.synthetic.drawing import expand
    >>> expand({"S": ["NOUN sleeps"], "NOUN": ["the cat"]}, "S", np.random.default_rng(0))
    ['the', 'cat', 'sleeps']
    """
    if symbol not in grammar:
        return [symbol]
    rule = pick(random, grammar[symbol])
    return [word for part in rule.split() for word in expand(grammar, part, random)]


def with_articles(words: Sequence[str]) -> list[str]:
    """English words with "an" in the place of "a" before a vowel.

    >>> from jrnn.data.synthetic.drawing import with_articles
    >>> with_articles(["a", "cat", "and", "a", "owl"])
    ['a', 'cat', 'and', 'an', 'owl']
    """
    following = [*words[1:], "."]
    return [
        "an" if word == "a" and after[0] in "aeiou" else word
        for word, after in zip(words, following, strict=True)
    ]
