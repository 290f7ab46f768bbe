"""Sentences with parts of speech, many words of which have several."""

from jrnn.data.synthetic.drawing import distinct, expand, seeded, with_articles, words

# Alone they say nothing: nouns and verbs in one form, adjectives and verbs, adjectives and adverbs …
NOUN_OR_TRANSITIVE = words("book watch light plant play call answer paint plan visit cut help")
NOUN_OR_INTRANSITIVE = words("run walk dance cook smile drink play paint")
ADJECTIVE_OR_TRANSITIVE = words("open clean clear dry warm cool empty")
ADJECTIVE_OR_ADVERB = words("fast hard late early")
NOUN_OR_PAST_TRANSITIVE = words("saw felt")
NOUN_OR_PAST_INTRANSITIVE = words("rose spoke")
NOUN_OR_AUXILIARY = words("can will")


def _tagged(tag: str, words: list[str]) -> list[str]:
    return [f"{word}/{tag}" for word in words]


def _with_s(words: list[str]) -> list[str]:
    return [word + ("es" if word.endswith(("ch", "sh")) else "s") for word in words]


NOUNS = [
    *NOUN_OR_TRANSITIVE,
    *NOUN_OR_INTRANSITIVE,
    *words("dog teacher garden river girl house song train"),
]
TRANSITIVE = [*NOUN_OR_TRANSITIVE, *ADJECTIVE_OR_TRANSITIVE, *words("read admire follow")]
INTRANSITIVE = [*NOUN_OR_INTRANSITIVE, *words("sleep sing arrive")]
ADJECTIVES = [*ADJECTIVE_OR_TRANSITIVE, *ADJECTIVE_OR_ADVERB, *words("light left small old green quiet")]

# S: the subject is singular, P: plural
GRAMMAR = {
    "SENTENCE": [
        "CLAUSE ./PUNCT",
        "CLAUSE ./PUNCT",
        "CLAUSE CCONJ CLAUSE ./PUNCT",
        "BASE ./PUNCT",
        "please/INTJ BASE ./PUNCT",
        "well/INTJ ,/PUNCT CLAUSE ./PUNCT",
        "S-SUBJECT knows/VERB that/SCONJ CLAUSE ./PUNCT",
        "P-SUBJECT say/VERB that/SCONJ CLAUSE ./PUNCT",
    ],
    "CLAUSE": [
        "S-SUBJECT S-PRESENT",
        "P-SUBJECT P-PRESENT",
        "SUBJECT PAST",
        "SUBJECT MODAL BASE",
        "S-SUBJECT does/AUX not/PART BASE",
        "P-SUBJECT do/AUX not/PART BASE",
    ],
    "SUBJECT": ["S-SUBJECT", "P-SUBJECT"],
    "S-SUBJECT": ["S-PHRASE", "S-PHRASE", "she/PRON", "he/PRON", "that/PRON", "PROPN"],
    "P-SUBJECT": ["P-PHRASE", "P-PHRASE", "they/PRON", "we/PRON", "you/PRON"],
    "OBJECT": ["S-PHRASE", "S-PHRASE", "P-PHRASE", "P-PHRASE", "her/PRON", "them/PRON", "that/PRON", "PROPN"],
    "S-PHRASE": ["S-DET S-NOUN", "S-DET ADJ S-NOUN", "S-DET S-NOUN PLACE"],
    "P-PHRASE": ["P-DET P-NOUN", "P-DET ADJ P-NOUN", "P-DET P-NOUN PLACE"],
    "PLACE": ["ADP S-DET S-NOUN", "ADP P-DET P-NOUN", "ADP PROPN"],
    "S-PRESENT": [
        *["S-TRANSITIVE OBJECT", "S-INTRANSITIVE MANNER"] * 3,
        "is/AUX ADJ",
        "has/VERB OBJECT",
        "likes/VERB OBJECT",
        "wants/VERB to/PART BASE",
        "has/AUX PARTICIPLE OBJECT",
    ],
    "P-PRESENT": [
        *["P-TRANSITIVE OBJECT", "P-INTRANSITIVE MANNER"] * 3,
        "are/AUX ADJ",
        "have/VERB OBJECT",
        "like/VERB OBJECT",
        "want/VERB to/PART BASE",
        "have/AUX PARTICIPLE OBJECT",
    ],
    "PAST": [
        "PAST-TRANSITIVE OBJECT",
        "PAST-INTRANSITIVE MANNER",
        "went/VERB to/ADP OBJECT",
        "left/VERB OBJECT",
    ],
    "BASE": [
        *["P-TRANSITIVE OBJECT", "P-INTRANSITIVE MANNER"] * 3,
        "go/VERB to/ADP OBJECT",
        "have/VERB OBJECT",
    ],
    "MANNER": ["ADV", "ADV PLACE", "PLACE", "like/ADP OBJECT"],
    "S-DET": [*_tagged("DET", ["a", "the", "this", "that", "every"]), "her/PRON", "his/PRON", "my/PRON"],
    "P-DET": [*_tagged("DET", ["the", "these", "some"]), *_tagged("NUM", ["two", "three"]), "her/PRON"],
    "S-NOUN": _tagged(
        "NOUN",
        [*NOUNS, *NOUN_OR_PAST_TRANSITIVE, *NOUN_OR_PAST_INTRANSITIVE, *NOUN_OR_AUXILIARY, "well", "left"],
    ),
    "P-NOUN": _tagged("NOUN", _with_s(NOUNS)),
    "ADJ": _tagged("ADJ", ADJECTIVES),
    "ADV": _tagged("ADV", [*ADJECTIVE_OR_ADVERB, "well", "there", "again", "often"]),
    "ADP": _tagged("ADP", ["in", "near", "with", "like", "behind"]),
    "CCONJ": _tagged("CCONJ", ["and", "but"]),
    "PROPN": _tagged("PROPN", ["will", "rose", "mary", "paris", "london", "june"]),
    "MODAL": _tagged("AUX", [*NOUN_OR_AUXILIARY, "must", "may"]),
    "S-TRANSITIVE": _tagged("VERB", _with_s(TRANSITIVE)),
    "P-TRANSITIVE": _tagged("VERB", TRANSITIVE),
    "S-INTRANSITIVE": _tagged("VERB", _with_s(INTRANSITIVE)),
    "P-INTRANSITIVE": _tagged("VERB", INTRANSITIVE),
    "PAST-TRANSITIVE": _tagged("VERB", [*NOUN_OR_PAST_TRANSITIVE, "found", "cut", "read"]),
    "PAST-INTRANSITIVE": _tagged("VERB", [*NOUN_OR_PAST_INTRANSITIVE, "slept", "sang"]),
    "PARTICIPLE": _tagged("VERB", ["seen", "left", "felt", "found", "cut", "read"]),
}


def tagged_sentences(count: int, seed: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """English sentences and the universal part of speech of every word, by a phrase-structure grammar.

        sentence = clause . | clause and clause . | base . | she knows that clause . | …
        clause = phrase present | phrase past | phrase modal base | …
        phrase = determiner noun | determiner adjective noun | determiner noun place | …

    About half of the words have more than one tag: book, run and light are nouns and verbs, open and
    clean adjectives and verbs, saw and rose nouns and pasts, can and will auxiliaries and nouns, to, that,
    like, her neighbours decide. Sentences are distinct, and no sentence has two readings. The tag that a
    word has most often is right for 88 % of the words.

    Args:
      count: sentences.
      seed: of the draws.

    Returns:
      `(words, tags)` of each sentence, lower case.

    Reference: Nivre et al., Universal dependencies v1: a multilingual treebank collection, 2016.

    >>> from jrnn.data.synthetic import tagged_sentences
    >>> words, tags = tagged_sentences(count=7, seed=0)[-1]
    >>> " ".join(f"{word}/{tag}" for word, tag in zip(words, tags))
    'well/INTJ ,/PUNCT three/NUM old/ADJ dances/NOUN spoke/VERB early/ADV behind/ADP will/PROPN ./PUNCT'
    """
    random = seeded(seed)

    def draw() -> tuple[str, ...]:
        return tuple(expand(GRAMMAR, "SENTENCE", random))

    sentences = []
    for drawn in distinct(draw, count):
        words, tags = zip(*(token.rsplit("/", 1) for token in drawn), strict=True)
        sentences.append((tuple(with_articles(words)), tags))
    return sentences
