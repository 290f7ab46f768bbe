"""Reviews of films whose sentiment lies in the order of words."""

import numpy as np
from numpy.typing import NDArray

from jrnn.data.synthetic.drawing import distinct, expand, seeded, words

POSITIVE = words(
    "superb brilliant charming delightful clever funny moving gripping honest beautiful fresh elegant warm "
    "witty thrilling graceful inventive tender impressive wonderful excellent good bold subtle"
)
NEGATIVE = words(
    "dull awful boring clumsy silly tedious lazy empty shallow ugly stale weak cold flat predictable noisy "
    "tiresome dreadful poor bad bland messy lifeless hollow"
)
ASPECTS = words(
    "plot acting music story film script cast ending dialogue direction camera lighting humour pacing "
    "editing hero villain setting opening soundtrack"
)
# + is the sentiment of the whole, - the other one; the rules of - are those of + with the signs swapped
RULES = {
    "REVIEW+": [
        "MAIN+ .",
        "MAIN+ , and CLAUSE+ .",
        "MAIN+ , and CLAUSE+ .",
        "CLAUSE- , but MAIN+ .",
        "CLAUSE- , but in the end CLAUSE+ .",
        "although CLAUSE- , MAIN+ .",
        "even if CLAUSE- , MAIN+ .",
    ],
    "MAIN+": ["CLAUSE+", "CLAUSE+", "HONESTLY CLAUSE+"],
    "CLAUSE+": ["the ASPECT IS QUALITY+", "i FOUND the ASPECT QUALITY+", "i OPINION+ the ASPECT"],
    "QUALITY+": [*["ADJECTIVE+", "VERY ADJECTIVE+"] * 2, "NOT ADJECTIVE-", "not ADJECTIVE- at all"],
    "OPINION+": [*["LIKED+", "REALLY LIKED+"] * 2, "did not LIKE-", "never LIKED-"],
    "LIKED+": words("liked loved enjoyed admired adored"),
    "LIKED-": words("disliked hated loathed regretted despised"),
    "LIKE+": words("like love enjoy admire adore"),
    "LIKE-": words("dislike hate loathe regret despise"),
    "ADJECTIVE+": POSITIVE,
    "ADJECTIVE-": NEGATIVE,
}
SWAP = str.maketrans("+-", "-+")
GRAMMAR = {
    **{symbol.translate(SWAP): [rule.translate(SWAP) for rule in rules] for symbol, rules in RULES.items()},
    **RULES,
    "ASPECT": ASPECTS,
    "IS": words("is was seems feels looks remains"),
    "FOUND": words("found thought considered"),
    "VERY": words("very really truly quite so rather utterly"),
    "NOT": ["not", "hardly", "far from", "anything but"],
    "REALLY": words("really truly simply"),
    "HONESTLY": ["honestly", "to my surprise", "i must say", "in short", "for me"],
}


def reviews(count: int, seed: int) -> tuple[list[str], NDArray[np.int32], tuple[str, ...]]:
    """Reviews of films, negative (0) or positive (1), by a grammar of clauses.

        review = main | main , and clause | clause' , but main | although clause' , main | …
        clause = the aspect is quality | i found the aspect quality | i opinion the aspect
        quality = word | very word | not word' | not word' at all | anything but word' | …

    where x' has the opposite sentiment. So the last clause wins, and a negation turns its word round.
    Both labels are equally likely, reviews are distinct. Always the more frequent label is right in
    50 %; logistic regression on the counts of words, after 6000 reviews, in 61 %; who reads in order, in
    100 %.

    Args:
      count: reviews.
      seed: of the draws.

    Returns:
      `(texts, labels, classes)`: strings, lower case, tokens between spaces; (count,) integers; and
      their names.

    >>> from jrnn.data.synthetic import reviews
    >>> texts, labels, classes = reviews(count=2, seed=1)
    >>> texts[0], labels.tolist(), classes
    ('i never disliked the music , but for me the cast remains lazy .', [0, 1], ('negative', 'positive'))
    """
    random = seeded(seed)

    def draw() -> tuple[str, int]:
        label = int(random.integers(2))
        return " ".join(expand(GRAMMAR, ("REVIEW-", "REVIEW+")[label], random)), label

    texts, labels = zip(*distinct(draw, count), strict=True)
    return list(texts), np.array(labels, np.int32), ("negative", "positive")
