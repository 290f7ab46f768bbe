"""Characters as tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CharVocabulary:
    """Numbers for characters: 0 for an unknown one, then the symbols in their order.

    Every symbol is encoded and decoded without loss; any other character becomes `unknown`. Both fields
    are strings, so `dataclasses.asdict` of it is JSON.

    Args:
      symbols: the known characters, each once; token i + 1 is symbols[i].
      unknown: the character that token 0 decodes to, none of `symbols`.

    Raises:
      ValueError: a symbol that is there twice, or `unknown` that is a symbol or no single character.

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
            raise ValueError(f"unknown must be one character that is no symbol, got {self.unknown!r}")
        if len(set(self.symbols)) < len(self.symbols):
            twice = next(s for i, s in enumerate(self.symbols) if s in self.symbols[:i])
            raise ValueError(f"symbols must hold every character once, got {twice!r} twice")

    @classmethod
    def from_text(cls, text: str, min_count: int = 1) -> "CharVocabulary":
        """The characters of a text in the order of their code points.

        Args:
          text: the text.
          min_count: how often a character must occur, or be unknown.

        Returns:
          A vocabulary, the same for every order of the text.

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
        """Tokens of a text.

        Args:
          text: n characters.

        Returns:
          (n,), int32, in [0, len(self)).
        """
        symbols = _codes(self.symbols)
        tokens = np.zeros(2 + int(symbols.max(initial=0)), np.int32)  # by code point; the last: all above
        tokens[symbols] = 1 + np.arange(len(symbols))
        return tokens[np.minimum(_codes(text), len(tokens) - 1)]

    def decode(self, tokens: Any) -> str:
        """Text of tokens.

        Args:
          tokens: (n,), integers in [0, len(self)), or a single one.

        Returns:
          n characters.

        Raises:
          ValueError: more than one axis, no integers, or a token out of range.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim > 1:
            raise ValueError(f"tokens has shape {tokens.shape}, needs one axis: decode one column at a time")
        if tokens.size == 0:
            return ""
        if not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(f"tokens must be integers, got {tokens.dtype}")
        if tokens.min() < 0 or tokens.max() >= len(self):
            raise ValueError(
                f"tokens must lie in [0, {len(self)}), got {tokens.min()} to {tokens.max()}: "
                "do they belong to another vocabulary?"
            )
        return _string(_codes(self.unknown + self.symbols)[tokens])


def _codes(text: str) -> NDArray[np.uint32]:
    """Code points; a lone surrogate, which UTF-32 has not, is one too."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _string(codes: NDArray[np.uint32]) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
