"""Text preprocessing: normalizing, tokenizing, stop words, stemming, n-grams."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from typing import TypeVar

from jrnn._checks import brief, check_choice, check_width

T = TypeVar("T")

TAILS = {  # ending of a contraction: its full form, and the words it follows
    "'m": ("am", "i"),
    "'re": ("are", "you we they who what there"),
    "'ve": ("have", "i you we they who could should would might must"),
    "'ll": ("will", "i you he she it we they who what that there this"),
    "'d": ("would", "i you he she it we they who that there"),
    "'s": ("is", "he she it that there here what who where when how"),
    "n't": ("not", "is are was were has have had do does did could should would might must need"),
}
SINGLE = {
    "ain't": "is not",
    "can't": "can not",
    "let's": "let us",
    "shan't": "shall not",
    "won't": "will not",
    "mr.": "mister",
    "mr": "mister",
    "mrs.": "missus",
    "mrs": "missus",
    "dr.": "doctor",
    "dr": "doctor",
    "prof.": "professor",
    "capt.": "captain",
    "jr.": "junior",
    "sr.": "senior",
    "dept.": "department",
    "govt.": "government",
    "approx.": "approximately",
    "e.g.": "for example",
    "i.e.": "that is",
    "etc.": "and so on",
    "etc": "and so on",
    "vs.": "versus",
    "vs": "versus",
}
ENGLISH_ABBREVIATIONS: Mapping[str, str] = SINGLE | {
    word + tail: f"{word} {full}" for tail, (full, words) in TAILS.items() for word in words.split()
}

# without words that reverse a meaning: no, not, nor, never, without, against, but, only
FUNCTION_WORDS = """
    a an the this that these those
    i me my mine myself we us our ours ourselves you your yours yourself yourselves
    he him his himself she her hers herself it its itself they them their theirs themselves one
    who whom whose which what where when why how
    am is are was were be been being have has had having do does did doing done
    will would shall should can could may might must ought
    and or if because as while until than then so though although since whether
    of at by for with about between into through during before after above below to from up down in out on
    off over under upon within onto toward towards among
    again further once here there now also too very just such same own other another
    all any both each every some
"""
ENGLISH_STOP_WORDS: Set[str] = frozenset(FUNCTION_WORDS.split())

UNITS = ("word", "space", "character")

# a character class: soft hyphen, direction marks, word joiner, byte-order mark, variation selectors, tags
INVISIBLE = (
    "\u00ad\u061c\u180b-\u180f\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff"
)


def normalize(
    text: str,
    *,
    lower: bool = True,
    accents: bool = True,
    punctuation: bool = False,
    abbreviations: Mapping[str, str] = ENGLISH_ABBREVIATIONS,
) -> str:
    """Normalize the spelling of a text.

        text ↦ remove invisible characters ↦ NFKC ↦ spell out abbreviations ↦ lower case ↦ strip accents
             ↦ strip punctuation ↦ single spaces

    Invisible characters are soft hyphens, variation selectors, direction marks and byte-order marks. Unicode
    form NFKC replaces ligatures, full-width letters and combining accents by plain letters. İ in lower case
    is i. `spell_out`, `strip_accents` and `strip_punctuation` do these steps separately.

    Args:
      text: a string.
      lower: convert to lower case.
      accents: keep accents.
      punctuation: keep punctuation marks and symbols.
      abbreviations: table of abbreviations, as for `spell_out`; {} for none, as for other languages.

    Returns:
      The text, with every run of white space replaced by one space, and none at the ends.

    Raises:
      TypeError: `text` is not a string.

    >>> from jrnn.data import normalize
    >>> normalize("Mr. Ram doesn’t  LIVE in Delhi, does he?")
    'mister ram does not live in delhi does he'
    """
    visible = re.sub(f"[{INVISIBLE}]", "", _checked_text(text))
    text = spell_out(unicodedata.normalize("NFKC", visible), abbreviations)
    text = _one_case(text).lower() if lower else text
    text = text if accents else strip_accents(text)
    text = text if punctuation else strip_punctuation(text)
    return " ".join(text.split())


def spell_out(text: str, abbreviations: Mapping[str, str] = ENGLISH_ABBREVIATIONS) -> str:
    """Expand abbreviations and contractions that are whole words.

    The default table uses the more frequent reading: "it's" is "it is", never "it has", and "'d" is "would".
    The possessive 's is kept, and so is an initial capital.

    Args:
      text: a string.
      abbreviations: mapping of abbreviations to full forms; an apostrophe also matches a curly one, and a
        small letter a capital one.

    Returns:
      The expanded text.

    Raises:
      TypeError: `text` is not a string.

    >>> from jrnn.data import spell_out
    >>> spell_out("Don't say that’s Ann's, e.g. at 5 a.m.", {"don't": "do not", "e.g.": "for example"})
    "Do not say that’s Ann's, for example at 5 a.m."
    """
    _checked_text(text)
    if not abbreviations:
        return text

    table = {_folded(short): spelled for short, spelled in abbreviations.items()}

    def full(match: re.Match[str]) -> str:
        found = match[0]
        spelled = table.get(_folded(found), found)  # IGNORECASE also matches a dotless ı with an i
        return spelled[:1].upper() + spelled[1:] if found[0].isupper() else spelled

    return _any_of(tuple(abbreviations)).sub(full, text)


def strip_accents(text: str) -> str:
    """Remove accents from letters.

    These are the marks that Unicode form NFD separates: é becomes e and ç becomes c, while ø and ß are kept.
    For Latin and Greek script; in other scripts the marks may be vowels.

    Args:
      text: a string.

    Returns:
      The text, in form NFC.

    Raises:
      TypeError: `text` is not a string.

    >>> from jrnn.data import strip_accents
    >>> strip_accents("déjà vu, naïve façade")
    'deja vu, naive facade'
    """
    parts = unicodedata.normalize("NFD", _checked_text(text))
    return unicodedata.normalize("NFC", "".join(c for c in parts if unicodedata.category(c) != "Mn"))


def strip_punctuation(text: str) -> str:
    """Replace punctuation marks and symbols by spaces.

    An apostrophe within a word is removed without a space ("Ann's" becomes "Anns"), and a point or comma
    within a number is kept, so that every remaining word is one token.

    Args:
      text: a string.

    Returns:
      The text, otherwise unchanged, white space included.

    Raises:
      TypeError: `text` is not a string.

    >>> from jrnn.data import strip_punctuation
    >>> strip_punctuation("Well-known: Ann's 3.5 % (at most)!").split()
    ['Well', 'known', 'Anns', '3.5', 'at', 'most']
    """
    _checked_text(text)

    def kept(match: re.Match[str]) -> str:
        token = match[0]
        return token.replace("'", "").replace("’", "") if token[0].isalnum() else " "

    return _pattern("word").sub(kept, text)


def tokenize(text: str, unit: str = "word") -> list[str]:
    """Split a text into tokens.

    A word is a run of letters and digits, including an apostrophe within it ("don't"), a point or comma
    between digits ("3.5") and invisible characters such as soft hyphens. Any other mark, or a run of the same
    mark ("..."), is a token. Only white space is dropped, and tokens joined by spaces give the same tokens
    again.

    Args:
      text: a string.
      unit: "word", "space" to split at white space only, "character" for every code point.

    Returns:
      The tokens in order.

    Raises:
      ValueError: an unknown unit.
      TypeError: `text` is not a string.

    >>> from jrnn.data import tokenize
    >>> tokenize("Well, don't pay $3.50...")
    ['Well', ',', "don't", 'pay', '$', '3.50', '...']
    >>> tokenize("to be", "character")
    ['t', 'o', ' ', 'b', 'e']
    """
    return [text[start:end] for start, end in spans(text, unit)]


def spans(text: str, unit: str = "word") -> list[tuple[int, int]]:
    """Find the positions of the tokens of a text.

        tokenize(text)ᵢ = text[startᵢ:endᵢ]

    Args:
      text: a string.
      unit: as in `tokenize`.

    Returns:
      (start, end) of every token, in order.

    Raises:
      ValueError: an unknown unit.
      TypeError: `text` is not a string.

    >>> from jrnn.data import spans
    >>> spans("It is.")
    [(0, 2), (3, 5), (5, 6)]
    """
    check_choice("unit", unit, UNITS)
    return [match.span() for match in _pattern(unit).finditer(_checked_text(text))]


def remove_stop_words(tokens: Iterable[str], stop_words: Iterable[str] = ENGLISH_STOP_WORDS) -> list[str]:
    """Remove words that say little about the topic of a text.

    The English list has function words, except those that reverse a meaning, such as "not".

    Args:
      tokens: words; case is ignored.
      stop_words: the words to remove, in lower case.

    Returns:
      The other tokens in order.

    Raises:
      TypeError: a string instead of a list of tokens.

    >>> from jrnn.data import remove_stop_words
    >>> remove_stop_words(["The", "film", "is", "not", "a", "success"])
    ['film', 'not', 'success']
    """
    known = frozenset(_checked_tokens("stop_words", stop_words))
    return [token for token in _checked_tokens("tokens", tokens) if _one_case(token).lower() not in known]


def stem(tokens: Iterable[str], algorithm: str = "english") -> list[str]:
    """Reduce words to their stems.

    The stemmers are those of the package snowballstemmer (`pip install snowballstemmer`), made for lower
    case: "porter" of 1980, "english" (Porter's second), and those of other languages. A stem need not be a
    word.

    Args:
      tokens: words in lower case.
      algorithm: name of a stemmer.

    Returns:
      Their stems in order.

    Raises:
      ImportError: the package is not installed.
      ValueError: an unknown algorithm; the message lists the known ones.
      TypeError: a string instead of a list of tokens.

    Reference: Porter, An algorithm for suffix stripping, 1980; Porter, Snowball: a language for stemming
    algorithms, 2001.

    >>> from jrnn.data import stem
    >>> stem(["running", "runs", "generously", "ponies"])
    ['run', 'run', 'generous', 'poni']
    """
    try:
        import snowballstemmer
    except ImportError as error:
        raise ImportError("stem needs the package snowballstemmer: pip install 'jrnn[text]'") from error
    check_choice("algorithm", algorithm, tuple(snowballstemmer.algorithms()))
    tokens = list(_checked_tokens("tokens", tokens))
    stemmer = snowballstemmer.stemmer(algorithm)
    stems = {token: stemmer.stemWord(token) for token in dict.fromkeys(tokens)}
    return [stems[token] for token in tokens]


def ngrams(tokens: Sequence[T], n: int) -> list[tuple[T, ...]]:
    """List all n-grams: n consecutive tokens. `collections.Counter` counts them.

        gramᵢ = (tokensᵢ, ..., tokensᵢ₊ₙ₋₁)

    Args:
      tokens: words, characters or numbers.
      n: tokens per n-gram.

    Returns:
      max(0, len(tokens) − n + 1) tuples, in order.

    Raises:
      ValueError: n below 1.

    >>> from collections import Counter
    >>> from jrnn.data import ngrams
    >>> Counter(ngrams("to be or not to be".split(), 2)).most_common(1)
    [(('to', 'be'), 2)]
    """
    check_width("n", n)
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


@cache
def _pattern(unit: str) -> re.Pattern[str]:
    """The regular expression of a token."""
    if unit != "word":
        return re.compile({"space": r"\S+", "character": r"(?s:.)"}[unit])
    # \w lacks combining marks, which are the vowels of Indic scripts, and the joiners within a word
    codes = (chr(code) for code in range(0x20000))
    marks = "".join(c for c in codes if unicodedata.category(c)[0] == "M") + "\u200c\u200d" + INVISIBLE
    run = rf"[^\W_](?:[^\W_]|[{marks}])*"
    word = rf"{run}(?:(?:['’]|(?<=\d)[.,](?=\d)){run})*"
    return re.compile(rf"{word}|(\S)\1*[{marks}]*")


@cache
def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    """The regular expression for any of these words, the longest first."""
    longest_first = sorted(words, key=len, reverse=True)
    found = "|".join(re.escape(word).replace("'", "['’]") for word in longest_first)
    return re.compile(rf"(?<![\w'’])(?:{found})(?![\w'’])", re.IGNORECASE)


def _one_case(text: str) -> str:
    """Replace İ by I: it is the only character with a lower case of two code points."""
    return text.replace("İ", "I")


def _folded(word: str) -> str:
    return _one_case(word).casefold().replace("’", "'")


def _checked_text(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {brief(text)}: pass one text at a time")
    return text


def _checked_tokens(name: str, tokens: Iterable[str]) -> Iterable[str]:
    if isinstance(tokens, str):
        raise TypeError(f"{name} must be a list of words, got the string {brief(tokens)}: tokenize it")
    return tokens
