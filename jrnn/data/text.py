"""Vocabularies of characters and words, and contexts of words."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jrnn._checks import brief, check_width

PAD, UNKNOWN, START, STOP = "<pad>", "<unk>", "<s>", "</s>"


@dataclass(frozen=True)
class CharVocabulary:
    """Character vocabulary: token 0 for unknown characters, followed by the symbols in order.

    Symbols are encoded and decoded without loss; any other character becomes `unknown`. Both fields are
    strings, so `dataclasses.asdict` of it is JSON.

    Args:
      symbols: the known characters, without duplicates; token i + 1 is symbols[i].
      unknown: the character that token 0 decodes to, not one of `symbols`.

    Raises:
      ValueError: a duplicate symbol, or an `unknown` that is a symbol or not a single character.

    >>> from jrnn.data import CharVocabulary
    >>> vocabulary = CharVocabulary.from_text("banana")
    >>> vocabulary, vocabulary.encode("nab!").tolist()
    (CharVocabulary(symbols='abn', unknown='�'), [3, 1, 2, 0])
    >>> vocabulary.decode([3, 1, 2, 0])
    'nab�'
    """

    symbols: str
    unknown: str = "\ufffd"

    def __post_init__(self) -> None:
        if len(self.unknown) != 1 or self.unknown in self.symbols:
            raise ValueError(f"unknown must be one character outside symbols, got {brief(self.unknown)}")
        if len(set(self.symbols)) < len(self.symbols):
            twice = next(s for i, s in enumerate(self.symbols) if s in self.symbols[:i])
            raise ValueError(f"symbols must not repeat a character, got {twice!r} twice")

    @classmethod
    def from_text(cls, text: str, min_count: int = 1) -> "CharVocabulary":
        """Collect the characters of a text, sorted by code point.

        Args:
          text: the text.
          min_count: characters that occur less often are unknown.

        Returns:
          A vocabulary, independent of the order of the text.

        Raises:
          ValueError: the text is empty.
        """
        if not text:
            raise ValueError("text is empty, a vocabulary needs at least one character")
        codes, counts = np.unique(_codes(text), return_counts=True)
        symbols = _string(codes[counts >= min_count])
        return cls(symbols.replace(cls.unknown, ""))

    def __len__(self) -> int:
        return 1 + len(self.symbols)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Convert a text to tokens.

        Args:
          text: n characters.

        Returns:
          (n,), int32, in [0, len(self)).
        """
        symbols = _codes(self.symbols)
        tokens = np.zeros(2 + int(symbols.max(initial=0)), np.int32)  # by code point; the last for all above
        tokens[symbols] = 1 + np.arange(len(symbols))
        return tokens[np.minimum(_codes(text), len(tokens) - 1)]

    def decode(self, tokens: Any) -> str:
        """Convert tokens to a text.

        Args:
          tokens: (n,), integers in [0, len(self)), or a single one.

        Returns:
          n characters.

        Raises:
          ValueError: more than one axis, values that are not integers, or a token out of range.
        """
        return _string(_codes(self.unknown + self.symbols)[_checked_numbers(tokens, len(self))])


@dataclass(frozen=True, repr=False)
class Vocabulary:
    """Word vocabulary: the special words first, then the words in order.

    Special words are encoded like any other, so `encode(["<s>", *tokens, "</s>"])` marks the ends of a
    target. An unknown word becomes "<unk>", or an error if that is not among the specials. Both fields are
    tuples of strings, so `dataclasses.asdict` of it is JSON and can be converted back.

    Args:
      words: the known words, without duplicates.
      specials: additional words, numbered from 0. The numbers of "<pad>", "<unk>", "<s>" and "</s>" are
        `.pad`, `.unknown`, `.start` and `.stop`.

    Raises:
      ValueError: a duplicate word.
      TypeError: a field that is not a tuple of strings.

    >>> from jrnn.data import Vocabulary
    >>> vocabulary = Vocabulary.from_tokens([["to", "be", "or"], ["not", "to", "be"]], min_count=2)
    >>> vocabulary, vocabulary.encode(["to", "see"]).tolist()
    (Vocabulary(words=('be', 'to'), specials=('<pad>', '<unk>')), [3, 1])
    >>> vocabulary.decode([3, 1, 2])
    ['to', '<unk>', 'be']
    """

    words: tuple[str, ...]
    specials: tuple[str, ...] = (PAD, UNKNOWN)

    def __post_init__(self) -> None:
        for field in ("words", "specials"):
            given = getattr(self, field)
            given = tuple(given) if isinstance(given, Iterator) else given
            if isinstance(given, str) or not all(isinstance(word, str) for word in given):
                raise TypeError(f"{field} must be a tuple of strings, got {brief(given)}")
            object.__setattr__(self, field, tuple(given))
        if len(self._numbers) < len(self):
            twice = next(word for word, count in Counter(self.specials + self.words).items() if count > 1)
            raise ValueError(f"words and specials must not repeat a word, got {brief(twice)} twice")

    @classmethod
    def from_tokens(
        cls,
        sentences: Iterable[Sequence[str]],
        min_count: int = 1,
        max_size: int | None = None,
        specials: tuple[str, ...] = (PAD, UNKNOWN),
    ) -> "Vocabulary":
        """Collect the words of a corpus, sorted by frequency, and alphabetically among equals.

        Args:
          sentences: lists of tokens; put a single list in brackets.
          min_count: words that occur less often are unknown.
          max_size: maximum size of the vocabulary, `specials` included.
          specials: as above; they are not counted in the corpus.

        Returns:
          A vocabulary, independent of the order of the corpus.

        Raises:
          ValueError: no tokens, or a `max_size` that leaves no room for a word.
          TypeError: a string instead of a list of tokens.
        """
        check_width("min_count", min_count)
        if max_size is not None and max_size <= len(specials):
            raise ValueError(
                f"max_size must be above {len(specials)}, the number of specials, got {max_size}"
            )
        counts: Counter[str] = Counter()
        for index, tokens in enumerate(sentences):
            if isinstance(tokens, str):
                raise TypeError(
                    f"sentences[{index}] is the string {brief(tokens)}, needs a list of tokens: "
                    "tokenize it, or put a single list in brackets"
                )
            counts.update(tokens)
        if not counts:
            raise ValueError("sentences have no tokens, a vocabulary needs at least one")
        known = [word for word, n in counts.items() if n >= min_count and word not in specials]
        known.sort(key=lambda word: (-counts[word], word))
        return cls(tuple(known if max_size is None else known[: max_size - len(specials)]), specials)

    @property
    def pad(self) -> int:
        """Number of "<pad>"."""
        return self._special(PAD)

    @property
    def unknown(self) -> int:
        """Number of "<unk>"."""
        return self._special(UNKNOWN)

    @property
    def start(self) -> int:
        """Number of "<s>"."""
        return self._special(START)

    @property
    def stop(self) -> int:
        """Number of "</s>"."""
        return self._special(STOP)

    def __len__(self) -> int:
        return len(self.specials) + len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._numbers

    def __repr__(self) -> str:
        words = repr(self.words)
        if len(self.words) > 10:
            words = f"({', '.join(map(repr, self.words[:5]))}, ... {len(self.words)} in all)"
        return f"Vocabulary(words={words}, specials={self.specials})"

    def encode(self, tokens: Iterable[str]) -> NDArray[np.int32]:
        """Convert words to numbers.

        Args:
          tokens: n words.

        Returns:
          (n,), int32, in [0, len(self)).

        Raises:
          ValueError: an unknown word, if the vocabulary has no "<unk>".
          TypeError: a string instead of a list of tokens.
        """
        if isinstance(tokens, str):
            raise TypeError(f"tokens is the string {brief(tokens)}, needs a list of tokens: tokenize it")
        tokens = list(tokens)
        missing = self._numbers.get(UNKNOWN, -1)
        numbers = np.array([self._numbers.get(word, missing) for word in tokens], np.int32)
        if missing < 0 and (numbers < 0).any():
            word = tokens[int(np.argmax(numbers < 0))]
            raise ValueError(f"{brief(word)} is not in the vocabulary, which has no {UNKNOWN!r} in specials")
        return numbers

    def decode(self, tokens: Any) -> list[str]:
        """Convert numbers to words.

        Args:
          tokens: (n,), integers in [0, len(self)), or a single one.

        Returns:
          n words, special ones included.

        Raises:
          ValueError: more than one axis, values that are not integers, or a number out of range.
        """
        words = self.specials + self.words
        return [words[number] for number in np.atleast_1d(_checked_numbers(tokens, len(self)))]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.specials + self.words)}

    def _special(self, word: str) -> int:
        if word not in self._numbers:
            raise AttributeError(
                f"the vocabulary has no {word!r}: add it to specials, which are {brief(self.specials)}"
            )
        return self._numbers[word]


def _checked_numbers(tokens: Any, size: int) -> NDArray[Any]:
    """Check that tokens are integers in [0, size) along one axis, or a single one."""
    tokens = np.asarray(tokens)
    if tokens.ndim > 1:
        raise ValueError(f"tokens has shape {tokens.shape}, needs one axis: decode one column at a time")
    if tokens.size == 0:
        return tokens.astype(np.int32)
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens must be integers, got {tokens.dtype}")
    if tokens.min() < 0 or tokens.max() >= size:
        raise ValueError(
            f"tokens must lie in [0, {size}), got {tokens.min()} to {tokens.max()}: "
            "do they belong to another vocabulary?"
        )
    return tokens


def _codes(text: str) -> NDArray[np.uint32]:
    """Code points, including lone surrogates, which UTF-32 lacks."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {brief(text)}")
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _string(codes: NDArray[np.uint32]) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def contexts(sentences: Iterable[Any], window: int = 5) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """Pair every word with the words around it: training data for a continuous bag of words (CBOW).

        contextᵢ = the words within `window` of wordᵢ in its sentence, from left to right

    Args:
      sentences: arrays of word numbers, as from `Vocabulary.encode`.
      window: number of words on each side.

    Returns:
      `(contexts, words)`, a list of integer arrays and an array, for `padded_batches`. Words that are alone
      in their sentence are skipped.

    Raises:
      ValueError: a window below 1, or no sentence of two words.

    Reference: Mikolov, Chen, Corrado, Dean, Efficient estimation of word representations in vector space,
    2013, arXiv:1301.3781.

    >>> around, words = contexts([[4, 7, 9], [5]], window=1)
    >>> [context.tolist() for context in around], words.tolist()
    ([[7], [4, 9], [7]], [4, 7, 9])
    """
    check_width("window", window)
    found, words_found = [], []
    for sentence in sentences:
        words = np.asarray(sentence)
        for i in range(len(words) if len(words) > 1 else 0):
            around = [*words[max(0, i - window) : i], *words[i + 1 : i + 1 + window]]
            found.append(np.array(around))
            words_found.append(words[i])
    if not found:
        raise ValueError("sentences have no context: needs one with at least two words")
    return found, np.array(words_found)
