"""Text as language models read and write it: as characters or as words."""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

import jrnn
from jrnn.data.text import UNKNOWN

END = "<eos>"  # the end of a line, for a model of words
NAMES = {"character": "characters", "word": "words", "space": "words"}


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary, and how a text is split into its entries and put together again.

    Of words, <eos> ends every line that has any, and white space is otherwise not kept.
    """

    level: str  # a unit of jrnn.data.tokenize
    vocabulary: Any  # a CharVocabulary, or a Vocabulary of words

    @classmethod
    def learned(cls, text: str, level: str, min_count: int) -> "Tokenizer":
        """The vocabulary of a text; entries that occur less often are unknown."""
        if level == "character":
            return cls(level, jrnn.CharVocabulary.from_text(text, min_count))
        words = split_words(text, level)
        return cls(level, jrnn.Vocabulary.from_tokens([words], min_count, specials=(UNKNOWN, END)))

    @classmethod
    def restored(cls, level: str, fields: dict[str, Any]) -> "Tokenizer":
        """The tokenizer of a run, from what it stored; a ValueError or TypeError if that is wrong."""
        if level == "character":
            characters = jrnn.CharVocabulary(**fields)
            if not characters.symbols + characters.unknown:
                raise ValueError("it has no symbols")
            return cls(level, characters)
        vocabulary = jrnn.Vocabulary(**{name: tuple(words) for name, words in fields.items()})
        if not {UNKNOWN, END} <= set(vocabulary.specials):
            raise ValueError(f"specials lack {UNKNOWN} or {END}")
        return cls(level, vocabulary)

    def fields(self) -> dict[str, Any]:
        """The entries that a run stores, as JSON."""
        found = dataclasses.asdict(self.vocabulary).items()
        return {name: value if isinstance(value, str) else list(value) for name, value in found}

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def units(self) -> str:
        """The entries, in words."""
        return NAMES[self.level]

    @property
    def start(self) -> str:
        """The prompt in place of an empty one: the end of a line, or the first symbol."""
        newline = self.level != "character" or "\n" in self.vocabulary.symbols
        return "\n" if newline else self.vocabulary.symbols[:1]

    def encode(self, text: str) -> NDArray[Any]:
        """The numbers of the entries of a text."""
        if self.level == "character":
            return self.vocabulary.encode(text)
        return self.vocabulary.encode(split_words(text, self.level) or [END])

    def unknown(self, text: str) -> list[str]:
        """The entries of a text that are not in the vocabulary, each once."""
        if self.level == "character":
            return [c for c in dict.fromkeys(text) if c not in self.vocabulary.symbols]
        words = dict.fromkeys(split_words(text, self.level))
        return [word for word in words if word not in self.vocabulary]

    def decode(self, tokens: Any, after: str) -> str:
        """The text of numbers, which goes on after another; words are set apart by spaces."""
        if self.level == "character":
            return str(self.vocabulary.decode(tokens))
        ends = [("\n" if word == END else word) for word in self.vocabulary.decode(tokens)]
        before = [after[-1:] or "\n", *ends]
        joined = (
            word if "\n" in (word, last) or last.isspace() else f" {word}"
            for last, word in itertools.pairwise(before)
        )
        return "".join(joined)


def described(nats: float, level: str) -> str:
    """A loss, in bits per character or as the perplexity of words."""
    if level == "character":
        return f"{nats / math.log(2):.3f} bits per character"
    return f"perplexity {math.exp(min(nats, 700.0)):.2f}"


def split_words(text: str, level: str) -> list[str]:
    """The words of a text, with <eos> where a line ends that has any."""
    words = []
    for line in text.splitlines(keepends=True):
        found = jrnn.data.tokenize(line, level)
        ends = found and line[-1] in "\r\n"
        words += [*found, END] if ends else found
    return words
