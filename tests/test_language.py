"""Text preparation: nothing is lost between tokens, and the stemmers are the published ones."""

import builtins
import random
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jrnn.data.language import (
    ENGLISH_ABBREVIATIONS,
    ENGLISH_STOP_WORDS,
    ngrams,
    normalize,
    remove_stop_words,
    spans,
    spell_out,
    stem,
    strip_accents,
    strip_punctuation,
    tokenize,
)
from jrnn.data.text import Vocabulary

SNOWBALL = Path(__file__).parents[2] / "shared" / "data" / "snowball"


def noise(count=400, seed=0):
    """Texts of what a tokenizer may stumble over."""
    draw = random.Random(seed)
    parts = [*"abzÀéß09.,'’-_…!!##  \t\n\u00a0\u2028\x1c", "don't", "3.5", "1,000", "...", "हिन्दी", "❤️"]
    parts += [
        "e\u0301",
        "\u0301",
        "\u200d",
        "\u200c",
        "\ufe0f",
        "\U0001f468\u200d\U0001f469",
        "١.٢",
        "²",
        "ﬁ",
        "İ",
    ]
    return ["".join(draw.choices(parts, k=draw.randrange(12))) for _ in range(count)]


# ---------------------------------------------------------------- normalization


def test_normalize_does_all_of_the_lecture():
    text = "  Mr. O’Neil  DOESN'T like\tsemi-colons; they've cost $3.50 (or 1,000?)…\n"
    expected = "mister oneil does not like semi colons they have cost 3.50 or 1,000"
    assert normalize(text) == expected


def test_every_part_of_normalize_can_be_left_out():
    text = "Mr. Ｄéjà\u00a0vu isn’t\n“fine”, e\u0301h?"  # a full-width D, an accent set apart
    assert normalize(text) == "mister déjà vu is not fine éh"
    assert normalize(text, lower=False) == "Mister Déjà vu is not fine éh"
    assert normalize(text, accents=False) == "mister deja vu is not fine eh"
    assert normalize(text, punctuation=True) == "mister déjà vu is not “fine”, éh?"
    assert normalize(text, abbreviations={}) == "mr déjà vu isnt fine éh"
    kept = normalize(text, lower=False, punctuation=True, abbreviations={})
    assert kept == "Mr. Déjà vu isn’t “fine”, éh?"
    assert normalize("") == normalize(" \n") == normalize("?!") == ""


INVISIBLE = (
    "\u00ad\u061c\u180b\u180f\u200e\u200f\u202a\u202e\u2060\u2069\ufe00\ufe0f\ufeff\U000e0100\U000e01ef"
)


@pytest.mark.parametrize("hidden", INVISIBLE, ids=lambda c: f"U+{ord(c):04X}")
def test_what_is_invisible_neither_stays_nor_splits_a_word(hidden):
    word = f"Donau{hidden}dampf{hidden}schiff"
    assert normalize(word) == normalize(word, punctuation=True) == "donaudampfschiff"
    assert normalize(f"e{hidden}\u0301") == "é" and normalize(f"do{hidden}n't") == "do not"
    assert tokenize(f"a {word}, b") == ["a", word, ",", "b"] and strip_punctuation(word) == word


def test_zero_width_joiners_stay_and_zero_width_spaces_separate():
    assert normalize("می\u200cخواهم क\u200d") == "می\u200cخواهم क\u200d"
    assert normalize("ภาษา\u200bไทย") == "ภาษา ไทย"


def test_lower_case_adds_no_code_point():
    longer = [c for c in map(chr, range(0x110000)) if len(c.lower()) > 1]
    assert longer == ["İ"] and normalize("İZMİR I\u0307 ıI") == "izmir i ıi"
    assert normalize("İ", lower=False) == "İ"


def test_normalized_text_stays_as_it_is():
    for text in noise():
        once = normalize(text, abbreviations={})
        assert normalize(once, abbreviations={}) == once == " ".join(once.split())
        assert "".join(tokenize(once)) == once.replace(" ", "")


def test_spell_out_takes_whole_words_only():
    table = {"can't": "can not", "e.g.": "for example", "i.e.": "that is", "i.e": "ie"}
    for text, expected in [
        ("I can't, you CAN'T.", "I can not, you Can not."),
        ("Can’t", "Can not"),
        ("xe.g. e.g.x e.g.'s xcan't can'ts can't've", "xe.g. e.g.x e.g.'s xcan't can'ts can't've"),
        ("i.e. i.e", "that is ie"),
        ("(e.g. i.e., e.g.)", "(for example that is, for example)"),
        ("", ""),
    ]:
        assert spell_out(text, table) == expected
        assert spell_out(text, {}) == text


def test_spell_out_meets_every_character_that_counts_as_a_letter_of_the_table():
    """`re.IGNORECASE`, `lower` and `casefold` differ: İ, ı, ſ and the sign of the kelvin."""
    table = {letter: 3 * letter for letter in "abcdefghijklmnopqrstuvwxyz'"}
    text = " ".join(map(chr, range(0x110000)))
    met = [
        c for c, found in zip(text.split(" "), spell_out(text, table).split(" "), strict=True) if c != found
    ]
    assert "".join(met) == "'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyzİ\u017f’\u212a"
    assert spell_out("he'ſ, İt's and ıt's", ENGLISH_ABBREVIATIONS) == "he is, It is and ıt's"
    assert normalize("İt's good") == "it is good"
    assert spell_out("Prof. Dr. X", {"Prof.": "Professor", "dr.": "doctor"}) == "Professor Doctor X"


def test_the_english_table_spells_out_fully():
    assert not {"'m", "n't"} & ENGLISH_ABBREVIATIONS.keys()
    for short, full in ENGLISH_ABBREVIATIONS.items():
        assert short == short.lower() and spell_out(short) == full == spell_out(full)
        assert full.replace(" ", "").isalpha()
    for text, expected in {
        "I'm sure we'll say they've won't": "I am sure we will say they have will not",
        "You're who she'd be, it's Ann's": "You are who she would be, it is Ann's",
        "Dr. No vs. Mrs. Smith etc.": "Doctor No versus Missus Smith and so on",
    }.items():
        assert spell_out(text) == expected


def test_strip_accents_leaves_letters_of_their_own():
    assert strip_accents("ÀÉîõüç ñ ǖ ά Å") == "AEiouc n u α A"
    assert strip_accents("øßłđı æ e\u0301") == "øßłđı æ e"
    assert strip_accents("한글") == "한글"


def test_strip_punctuation_by_hand():
    for text, expected in {
        "a-b_c": "a b c",
        "rock'n'roll 'tis dogs'": "rocknroll  tis dogs ",
        "3.5 .5 5. 1,000,000 a,b 1.a v1.2": "3.5  5 5  1,000,000 a b 1 a v1.2",
        "...!?": "   ",
        "हिन्दी, தமிழ்।": "हिन्दी  தமிழ் ",
        "\n\t": "\n\t",
    }.items():
        assert strip_punctuation(text) == expected


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My name is Ram.", ["My", "name", "is", "Ram", "."]),
        ("Don't—stop, o’clock!", ["Don't", "—", "stop", ",", "o’clock", "!"]),
        ("'tis the dogs' x''y", ["'", "tis", "the", "dogs", "'", "x", "''", "y"]),
        (
            "3.14 1,000.5 5. .5 1.2.3 v2.0 3,a",
            ["3.14", "1,000.5", "5", ".", ".", "5", "1.2.3", "v2.0", "3", ",", "a"],
        ),
        ("state-of-the-art snake_case", ["state", "-", "of", "-", "the", "-", "art", "snake", "_", "case"]),
        ("wait... what?! --", ["wait", "...", "what", "?", "!", "--"]),
        ("C# B2B 10% $5", ["C", "#", "B2B", "10", "%", "$", "5"]),
        ("हिन्दी में தமிழ்", ["हिन्दी", "में", "தமிழ்"]),
        ("cafe\u0301 می\u200cخواهم", ["cafe\u0301", "می\u200cخواهم"]),
        ("I ❤️ U", ["I", "❤️", "U"]),
        ("a.5,b", ["a", ".", "5", ",", "b"]),
        ("", []),
        (" \n", []),
    ],
)
def test_words_by_hand(text, expected):
    assert tokenize(text) == expected


def test_other_units():
    assert tokenize(" a-b  c.\n", "space") == ["a-b", "c."]
    assert tokenize("a\n b\u0301", "character") == ["a", "\n", " ", "b", "\u0301"]


@pytest.mark.parametrize("unit", ["word", "space", "character"])
def test_spans_are_where_the_tokens_stand_and_nothing_is_between_them(unit):
    for text in noise():
        found, tokens = spans(text, unit), tokenize(text, unit)
        assert [text[start:end] for start, end in found] == tokens
        ends = [0, *(place for span in found for place in span), len(text)]
        assert ends == sorted(ends) and all(start < end for start, end in found)
        between = "".join(text[end:start] for end, start in zip(ends[::2], ends[1::2], strict=True))
        assert between == "" if unit == "character" else between.strip() == ""


@pytest.mark.parametrize("unit", ["word", "space"])
def test_joined_tokens_are_the_same_tokens_again(unit):
    texts = [*noise(), "don't 3.5 ... ''' 1,,2 1.,2 a'b'c 1'2.3"]
    for text in texts:
        tokens = tokenize(text, unit)
        assert tokenize(" ".join(tokens), unit) == tokens
        assert all(token == "".join(tokenize(token, unit)) for token in tokens)


def test_tokens_of_a_book_of_words_are_its_words():
    """All letters of Unicode's first plane are words, all its punctuation is not."""
    letters = [
        chr(c) for c in range(0x10000) if unicodedata.category(chr(c)) in ("Lu", "Ll", "Lo", "Lm", "Nd")
    ]
    marks = [chr(c) for c in range(0x10000) if unicodedata.category(chr(c))[0] in "PS" and chr(c) not in "'’"]
    assert tokenize("".join(letters)) == ["".join(letters)]
    assert tokenize("a".join(marks))[::2] == marks and strip_punctuation("".join(marks)).isspace()


# ---------------------------------------------------------------- stop words, stems, n-grams


def test_stop_words_are_left_out_in_any_case():
    tokens = ["The", "cat", "is", "NOT", "on", "a", "mat", ",", "US"]
    assert remove_stop_words(tokens) == ["cat", "NOT", "mat", ","]
    assert remove_stop_words(tokens, ["cat", "not"]) == ["The", "is", "on", "a", "mat", ",", "US"]
    assert remove_stop_words(tokens, []) == tokens
    assert remove_stop_words(["İT", "I", "ıs"]) == ["ıs"]  # the dotted capital is an i, the dotless i is none
    assert 120 <= len(ENGLISH_STOP_WORDS) <= 180 and {"a", "an", "he", "is"} <= ENGLISH_STOP_WORDS
    assert not {"no", "not", "never", "but"} & ENGLISH_STOP_WORDS
    assert all(word.isalpha() and word.islower() for word in ENGLISH_STOP_WORDS)


def snowball(name):
    return (SNOWBALL / name).read_text(encoding="utf-8").splitlines()


@pytest.mark.skipif(not SNOWBALL.exists(), reason="the Snowball vocabularies are not beside the repository")
@pytest.mark.parametrize(("algorithm", "count"), [("porter", 42_603), ("english", 42_649)])
def test_stems_are_those_of_the_published_vocabularies(algorithm, count):
    pytest.importorskip("snowballstemmer", reason="snowballstemmer is not installed")
    words, stems = snowball(f"{algorithm}/voc.txt"), snowball(f"{algorithm}/output.txt")
    assert len(words) == len(stems) == count
    found = stem(words, algorithm)
    assert [pair for pair in zip(words, found, stems, strict=True) if pair[1] != pair[2]] == []


@pytest.mark.skipif(not SNOWBALL.exists(), reason="the Snowball vocabularies are not beside the repository")
def test_every_word_of_the_published_vocabulary_without_an_apostrophe_at_its_ends_is_one_token():
    words = [word for word in snowball("english/voc.txt") if word.strip("'") == word]
    assert len(words) > 42_000
    assert tokenize(" ".join(words)) == words


def test_stems_by_hand():
    pytest.importorskip("snowballstemmer", reason="snowballstemmer is not installed")
    words = [
        "caresses",
        "ponies",
        "ties",
        "caress",
        "cats",
        "generously",
        "generously",
        "dying",
        "skies",
        "news",
    ]
    porter = ["caress", "poni", "ti", "caress", "cat", "gener", "gener", "dy", "ski", "new"]
    english = ["caress", "poni", "tie", "caress", "cat", "generous", "generous", "die", "sky", "news"]
    assert stem(words, "porter") == porter and stem(words) == stem(iter(words), "english") == english
    assert stem(["mangerons", "chevaux"], "french") == ["mang", "cheval"] and stem([]) == []
    with pytest.raises(ValueError, match=r"algorithm must be one of .*english.*porter.*, got 'lancaster'"):
        stem(words, "lancaster")


def test_a_missing_stemmer_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "snowballstemmer":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError) as caught:
        stem(["a"])
    assert str(caught.value) == "stem needs the package snowballstemmer: pip install 'jrnn[text]'"


def test_ngrams_are_all_runs_of_n():
    tokens = ["to", "be", "or", "not", "to", "be"]
    for n in range(1, 9):
        assert ngrams(tokens, n) == [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    assert Counter(ngrams(tokens, 2))[("to", "be")] == 2
    assert ngrams("abc", 2) == [("a", "b"), ("b", "c")] and ngrams([], 1) == []
    assert ngrams(np.array([5, 6, 7]), 2) == [(5, 6), (6, 7)]


SEES = Vocabulary(("a", "b"))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Vocabulary(("a", "b", "a")),
            ValueError,
            "words and specials must not repeat a word, got 'a' twice",
        ),
        (
            lambda: Vocabulary(("a", "<unk>")),
            ValueError,
            "words and specials must not repeat a word, got '<unk>' twice",
        ),
        (lambda: Vocabulary("ab"), TypeError, "words must be a tuple of strings, got 'ab'"),
        (lambda: Vocabulary(("a",), "<s>"), TypeError, "specials must be a tuple of strings, got '<s>'"),
        (lambda: Vocabulary(("a", 1)), TypeError, "words must be a tuple of strings, got ('a', 1)"),
        (
            lambda: Vocabulary.from_tokens(["to", "be"]),
            TypeError,
            "sentences[0] is the string 'to', needs a list of tokens: tokenize it, or put a single list in "
            "brackets",
        ),
        (
            lambda: Vocabulary.from_tokens([[], []]),
            ValueError,
            "sentences have no tokens, a vocabulary needs at least one",
        ),
        (
            lambda: Vocabulary.from_tokens([["a"]], max_size=2),
            ValueError,
            "max_size must be above 2, the number of specials, got 2",
        ),
        (
            lambda: Vocabulary.from_tokens([["a"]], min_count=0),
            ValueError,
            "min_count must be at least 1, got 0",
        ),
        (
            lambda: Vocabulary(("a",), ()).encode(["a", "b"]),
            ValueError,
            "'b' is not in the vocabulary, which has no '<unk>' in specials",
        ),
        (
            lambda: SEES.encode("a b"),
            TypeError,
            "tokens is the string 'a b', needs a list of tokens: tokenize it",
        ),
        (
            lambda: SEES.decode([0, 4]),
            ValueError,
            "tokens must lie in [0, 4), got 0 to 4: do they belong to another vocabulary?",
        ),
        (
            lambda: SEES.decode(-1),
            ValueError,
            "tokens must lie in [0, 4), got -1 to -1: do they belong to another vocabulary?",
        ),
        (lambda: SEES.decode([0.5]), ValueError, "tokens must be integers, got float64"),
        (
            lambda: SEES.decode([[1], [2]]),
            ValueError,
            "tokens has shape (2, 1), needs one axis: decode one column at a time",
        ),
        (
            lambda: normalize(["a"]),
            TypeError,
            "text must be a string, got ['a']: pass one text at a time",
        ),
        (lambda: tokenize(b"a"), TypeError, "text must be a string, got b'a': pass one text at a time"),
        (lambda: strip_accents(1), TypeError, "text must be a string, got 1: pass one text at a time"),
        (lambda: strip_punctuation(1), TypeError, "text must be a string, got 1: pass one text at a time"),
        (lambda: spell_out(None, {}), TypeError, "text must be a string, got None: pass one text at a time"),
        (
            lambda: tokenize("a", "sentence"),
            ValueError,
            "unit must be one of word, space, character, got 'sentence'",
        ),
        (
            lambda: remove_stop_words("a cat"),
            TypeError,
            "tokens must be a list of words, got the string 'a cat': tokenize it",
        ),
        (
            lambda: remove_stop_words(["a"], "the"),
            TypeError,
            "stop_words must be a list of words, got the string 'the': tokenize it",
        ),
        (
            lambda: stem("running"),
            TypeError,
            "tokens must be a list of words, got the string 'running': tokenize it",
        ),
        (lambda: ngrams(["a"], 0), ValueError, "n must be at least 1, got 0"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message
