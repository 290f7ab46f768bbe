"""Formal languages: sums with distractors, nested tags, counting, brackets."""

import itertools
import string

import numpy as np
from numpy.typing import NDArray

from jrnn._checks import check_rate, check_width
from jrnn.data.synthetic._drawing import pick, seeded

Integers = NDArray[np.int32]

LETTERS = string.ascii_lowercase


def distracted_sums(count: int, digits: int, seed: int, rate: float = 0.3) -> list[str]:
    """Sums and differences of two numbers whose digits stand among distracting letters.

        text = "a" ± "b" with letters in between, "=", the result, "."
        a ~ U(−10^digits, 10^digits),   b ~ U[0, 10^digits),   each sign half of the time

    After each character up to "=", a random letter follows with probability `rate`, after it another, and so
    on; the paper does not state its rate. Only the characters after "=" can be predicted, the final "."
    included, and the accuracy of the paper is theirs. With 8 digits, a guess that ignores the numbers is
    right for a quarter of them.

    Args:
      count: number of texts.
      digits: most digits of a number, up to 18.
      seed: random seed.
      rate: probability of one more letter, in [0, 1).

    Returns:
      A list of texts.

    Raises:
      ValueError: more than 18 digits, or a rate outside [0, 1).

    Reference: Jozefowicz, Zaremba, Sutskever, An empirical exploration of recurrent network
    architectures, 2015.

    >>> from jrnn.data.synthetic import distracted_sums
    >>> distracted_sums(count=2, digits=3, seed=0)
    ['7he01-636v=65.', '1s09mka-33=76.']
    """
    check_width("count", count)
    check_width("digits", digits)
    check_rate("rate", rate)
    if digits > 18:
        raise ValueError(f"digits must be at most 18, to fit into 64 bits, got {digits}")
    random = seeded(seed)
    texts = []
    for _ in range(count):
        a, b = (int(random.integers(low, 10**digits)) for low in (1 - 10**digits, 0))
        sign = pick(random, "+-")
        given = "".join(c + _letters(random, rate) for c in f"{a}{sign}{b}")
        texts.append(f"{given}={a + b if sign == '+' else a - b}.")
    return texts


def _letters(random: np.random.Generator, rate: float) -> str:
    """Letters that distract: one more with probability `rate`."""
    found = ""
    while random.random() < rate:
        found += pick(random, LETTERS)
    return found


def nested_tags(count: int, seed: int) -> list[str]:
    """Documents of nested tags with random names, as in XML without text.

        with probability 1/2, or after 50 tags: close the newest open tag, or end if none is open
        otherwise: open a tag whose name has 2 to 10 random letters

    To predict the names of closing tags is to remember those that are open, in the right order. The best
    possible accuracy over all characters is about 0.65, that of an automaton that forgets names 0.30. Half of
    the documents of the paper are empty; here none is.

    Args:
      count: number of documents.
      seed: random seed.

    Returns:
      A list of texts of at least 9 characters.

    Reference: Jozefowicz, Zaremba, Sutskever, An empirical exploration of recurrent network
    architectures, 2015.

    >>> from jrnn.data.synthetic import nested_tags
    >>> nested_tags(count=2, seed=23)
    ['<sk></sk>', '<dqrwlff><tmr></tmr></dqrwlff>']
    """
    check_width("count", count)
    random = seeded(seed)
    return [_document(random) for _ in range(count)]


def _document(random: np.random.Generator) -> str:
    text, names = "", list[str]()
    for tags in itertools.count():
        if tags and (tags >= 50 or random.random() < 0.5):
            if not names:
                break
            text += f"</{names.pop()}>"
        else:
            names.append("".join(pick(random, LETTERS) for _ in range(random.integers(2, 11))))
            text += f"<{names[-1]}>"
    return text


def equal_counts(
    count: int, longest: int, seed: int, letters: int = 2
) -> tuple[list[Integers], list[Integers]]:
    """Strings aⁿbⁿ, or aⁿbⁿcⁿ and so on: as many of each letter as of the first.

        xs      = 1 n times, 2 n times, …, letters n times,   n ~ U[1, longest]
        targets = the next letter; 0, the end, at the last step

    From the first 2 on, every target follows from the n that was seen. An LSTM can count, and so goes on to n
    beyond those that it was trained on; a GRU cannot.

    Args:
      count: number of strings.
      longest: greatest n.
      seed: random seed.
      letters: number of letters, at least 2.

    Returns:
      `(xs, targets)`, two lists of (letters · nᵢ,) arrays of integers in [1, letters] and [0, letters].

    Raises:
      ValueError: fewer than two letters.

    Reference: Gers, Schmidhuber, LSTM recurrent networks learn simple context-free and context-sensitive
    languages, 2001, doi:10.1109/72.963769; counting: Weiss, Goldberg, Yahav, On the practical computational
    power of finite precision RNNs for language recognition, 2018, arXiv:1805.04908.

    >>> from jrnn.data.synthetic import equal_counts
    >>> xs, targets = equal_counts(count=1, longest=3, seed=0)
    >>> xs[0].tolist(), targets[0].tolist()
    ([1, 1, 1, 2, 2, 2], [1, 1, 2, 2, 2, 0])
    """
    check_width("count", count)
    check_width("longest", longest)
    if check_width("letters", letters) < 2:
        raise ValueError(f"letters must be at least 2, got {letters}")
    numbers = seeded(seed).integers(1, longest + 1, count)
    xs = [np.repeat(np.arange(1, letters + 1, dtype=np.int32), n) for n in numbers]
    return xs, [np.append(x[1:], np.int32(0)) for x in xs]


def brackets(count: int, steps: int, seed: int, kinds: int = 2) -> tuple[list[Integers], list[Integers]]:
    """Nested brackets (Dyck language): the kind of bracket that may be closed next.

        xs[t]      = k opens a bracket of kind k, kinds + k closes one,   k ~ U{1, …, kinds}
        targets[t] = the kind of the innermost open bracket after step t, 0 if none is open

    Where a bracket is open, the next step closes it half of the time. With one kind it is enough to count,
    with more it takes a stack. A guess among the kinds is right with a probability below 1 / kinds.

    Args:
      count: number of sequences.
      steps: T; what is open then stays open.
      seed: random seed.
      kinds: number of kinds.

    Returns:
      `(xs, targets)`, two lists of (T,) arrays of integers in [1, 2 · kinds] and [0, kinds].

    Reference: Suzgun, Gehrmann, Belinkov, Shieber, LSTM networks can perform dynamic counting, 2019,
    arXiv:1906.03648.

    >>> from jrnn.data.synthetic import brackets
    >>> xs, targets = brackets(count=1, steps=8, seed=2)
    >>> "".join("([)]"[x - 1] for x in xs[0]), targets[0].tolist()
    ('[()]([()', [2, 1, 2, 0, 1, 2, 1, 2])
    """
    check_width("count", count)
    check_width("steps", steps)
    check_width("kinds", kinds)
    random = seeded(seed)
    opened = random.integers(1, kinds + 1, (count, steps), np.int32)
    closes = random.random((count, steps)) < 0.5
    xs, targets = np.zeros((2, count, steps), np.int32)
    for row in range(count):
        stack: list[int] = []
        for t in range(steps):
            if stack and closes[row, t]:
                xs[row, t] = kinds + stack.pop()
            else:
                xs[row, t] = opened[row, t]
                stack.append(opened[row, t])
            targets[row, t] = stack[-1] if stack else 0
    return list(xs), list(targets)
