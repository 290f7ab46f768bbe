"""Generated sequences and sentences: every target follows from its input, by rules written again here."""

import collections
import re
from datetime import date
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize

from jrnn.data import synthetic
from jrnn.data.synthetic import drawing


def words(text):
    return text.split()


# ---------------------------------------------------------------- transduction


def test_copies_and_reversals():
    sources, targets = synthetic.copies(2000, 5, 2, 6, 0)
    assert all(np.array_equal(source, target) for source, target in zip(sources, targets, strict=True))
    lengths = np.bincount([len(source) for source in sources], minlength=7) / 2000
    np.testing.assert_allclose(lengths, [0, 0, *[0.2] * 5], atol=0.03)
    symbols = np.bincount(np.concatenate(sources), minlength=5)
    np.testing.assert_allclose(symbols / symbols.sum(), 0.2, atol=0.02)
    again, reversed_targets = synthetic.reversals(2000, 5, 2, 6, 0)
    for source, twin, target in zip(sources, again, reversed_targets, strict=True):
        assert source.tolist() == twin.tolist() == list(reversed(target.tolist()))
    targets[0][:] = 9
    assert 9 not in sources[0]  # no target shares its memory with a source


MONTHS = words("jan feb mar apr may jun jul aug sep oct nov dec")
FULL = words("january february march april may june july august september october november december")
WEEKDAYS = words("monday tuesday wednesday thursday friday saturday sunday")


def read_date(text):
    """The one reading of a written date."""
    figures = [int(figure) for figure in re.findall(r"\d+", text)]
    if match := re.fullmatch(r"(\d{4})/(\d\d)/(\d\d)|(\d\d)/(\d\d)/(\d{4})|(\d\d)\.(\d\d)\.(\d{4})", text):
        a, b, c = figures
        return date(a, b, c) if match[1] else date(c, a, b) if match[4] else date(c, b, a)
    words = re.findall("[a-z]+", text.lower())
    months = [MONTHS.index(w[:3]) for w in words if w in MONTHS + FULL]
    year, day = max(figures), min(figures)
    assert len(months) == 1 and len(figures) == 2
    read = date(year, months[0] + 1, day)
    named = [w for w in words if w[:3] in {name[:3] for name in WEEKDAYS}]
    assert all(WEEKDAYS[read.weekday()].startswith(w) for w in named)
    for day, suffix in re.findall(r"(\d+)(st|nd|rd|th)", text.lower()):
        assert suffix == {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}.get(
            int(day), "th"
        )
    return read


def test_dates_read_back():
    pairs = synthetic.dates(6000, 0)
    assert len({source for source, _ in pairs}) == 6000
    for source, target in pairs:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", target) and read_date(source) == date.fromisoformat(target)
    years = [int(target[:4]) for _, target in pairs]
    assert min(years) == 1900 and max(years) == 2099
    assert any(target.endswith("02-29") for _, target in pairs)
    kinds = {re.sub("[a-z]+", "a", re.sub(r"\d+", "0", source.lower())) for source, _ in pairs}
    assert len(kinds) >= 15
    written = [source for source, _ in pairs if source.lower() != source.upper()]
    cases = [sum(case(w) == w for w in written) / len(written) for case in (str.lower, str.upper)]
    np.testing.assert_allclose(cases, 1 / 3, atol=0.05)


def test_dates_are_not_guessed():
    targets = np.array([list(target) for _, target in synthetic.dates(4000, 0)])
    guess = [collections.Counter(place).most_common(1)[0][0] for place in targets[:3000].T]
    right = targets[3000:] == guess
    assert 0.4 < right.mean() < 0.5 and right.all(axis=1).mean() < 0.01


def test_additions():
    pairs = synthetic.additions(2000, 3, 0)
    assert len(set(pairs)) == 2000
    for source, target in pairs:
        assert re.fullmatch(r"(0|[1-9]\d{0,2})\+(0|[1-9]\d{0,2})", source)
        assert target == str(sum(int(number) for number in source.split("+")))
    lengths = collections.Counter(len(number) for source, _ in pairs for number in source.split("+"))
    assert set(lengths) == {1, 2, 3} and min(lengths.values()) > 800
    assert len(set(synthetic.additions(100, 1, 0))) == 100  # all that there are


# ---------------------------------------------------------------- text


def logistic_accuracy(features, labels, held_out):
    """Accuracy on the last `held_out` rows of multinomial logistic regression fitted to the others."""
    x = (features - features.mean(0)) / (features.std(0) + 1e-6)
    x, one_hot = np.c_[x, np.ones(len(x))], np.eye(labels.max() + 1)[labels]
    train, wanted = x[:-held_out], one_hot[:-held_out]

    def loss(flat):
        w = flat.reshape(x.shape[1], -1)
        logits = train @ w
        logp = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        grad = train.T @ (np.exp(logp) - wanted) / len(train) + 0.02 * w
        return -(logp * wanted).sum() / len(train) + 0.01 * (w**2).sum(), grad.ravel()

    fitted = minimize(loss, np.zeros(x.shape[1] * one_hot.shape[1]), jac=True, method="L-BFGS-B").x
    guesses = (x[-held_out:] @ fitted.reshape(x.shape[1], -1)).argmax(axis=1)
    return (guesses == labels[-held_out:]).mean()


PRAISE = set(
    words(
        "superb brilliant charming delightful clever funny moving gripping honest beautiful fresh elegant "
        "warm witty thrilling graceful inventive tender impressive wonderful excellent good bold subtle "
        "liked loved enjoyed admired adored like love enjoy admire adore"
    )
)
BLAME = set(
    words(
        "dull awful boring clumsy silly tedious lazy empty shallow ugly stale weak cold flat predictable "
        "noisy tiresome dreadful poor bad bland messy lifeless hollow disliked hated loathed regretted "
        "despised dislike hate loathe regret despise"
    )
)


def read_clause(text):
    """Whether a clause praises, turned round by a negation."""
    tone = [word in PRAISE for word in text.split() if word in PRAISE | BLAME]
    negations = sum(word in ("not", "hardly", "far", "anything", "never") for word in text.split())
    assert len(tone) == 1 and negations in (0, 1), text
    return tone[0] ^ (negations == 1)


def read_review(text):
    """The sentiment of the last clause, which a clause before it shares or opposes."""
    *before, last = re.split(r" , (?:but in the end |but |and )?", text)
    if before:
        opposed = " , but " in text or text.startswith(("although ", "even if "))
        assert (read_clause(before[0]) != read_clause(last)) == opposed, text
    return read_clause(last)


def test_the_last_clause_of_a_review_wins():
    texts, labels, classes = synthetic.reviews(3000, 0)
    assert classes == ("negative", "positive") and len(set(texts)) == 3000
    assert [read_review(text) for text in texts] == labels.astype(bool).tolist()
    assert labels.mean() == pytest.approx(0.5, abs=0.03)
    counts = collections.Counter(word for text in texts for word in text.split())
    assert 100 <= len(counts) <= 200 and min(counts.values()) >= 3
    for word in (" but ", "although ", "even if ", " not ", " never ", "far from ", "at all"):
        assert 50 < sum(word in text for text in texts) < 2000, word


def test_counting_words_does_not_tell_the_sentiment():
    texts, labels, _ = synthetic.reviews(4000, 0)
    words = sorted({word for text in texts for word in text.split()})
    features = np.array([[text.split().count(word) for word in words] for text in texts], float)
    assert 0.53 < logistic_accuracy(features, labels, held_out=1000) < 0.67


def test_tagged_sentences():
    sentences = synthetic.tagged_sentences(6000, 0)
    assert len(set(sentences)) == len({words for words, _ in sentences}) == 6000  # no words with two readings
    seen = collections.defaultdict(collections.Counter)
    for sentence, tags in sentences[:4500]:
        assert len(sentence) == len(tags) and tags[-1] == "PUNCT"
        for word, tag in zip(sentence, tags, strict=True):
            seen[word][tag] += 1
    universal = words("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ VERB")
    assert {tag for _, tags in sentences for tag in tags} == set(universal)
    for word, several in {
        "book": {"NOUN", "VERB"},
        "light": {"NOUN", "VERB", "ADJ"},
        "open": {"ADJ", "VERB"},
        "saw": {"NOUN", "VERB"},
        "left": {"NOUN", "VERB", "ADJ"},
        "fast": {"ADJ", "ADV"},
        "will": {"AUX", "NOUN", "PROPN"},
        "to": {"PART", "ADP"},
        "that": {"DET", "PRON", "SCONJ"},
        "like": {"ADP", "VERB"},
        "well": {"INTJ", "ADV", "NOUN"},
        "have": {"AUX", "VERB"},
        "runs": {"NOUN", "VERB"},
    }.items():
        assert set(seen[word]) == several, word
    assert sum(len(tags) > 1 for tags in seen.values()) > len(seen) / 3
    right = [
        seen[w].most_common(1)[0][0] == t
        for words, tags in sentences[4500:]
        for w, t in zip(words, tags, strict=True)
    ]
    assert 0.85 < np.mean(right) < 0.91


def test_english_agrees():
    for words, tags in synthetic.tagged_sentences(3000, 1):
        for (word, tag), (after, next_tag) in pairwise(zip(words, tags, strict=True)):
            if word in ("a", "an"):
                assert (word == "an") == (after[0] in "aeiou")
            if tag == "NUM" and next_tag == "NOUN":
                assert after.endswith("s")
            if word in ("a", "an", "every") and next_tag == "NOUN":
                assert not after.endswith("s")
            if word in ("he", "she") and next_tag == "VERB":
                assert after.endswith("s") or after in (
                    "went",
                    "left",
                    "saw",
                    "felt",
                    "found",
                    "cut",
                    "read",
                    "rose",
                    "spoke",
                    "slept",
                    "sang",
                ), words
            if word in ("they", "we", "you") and next_tag == "VERB":
                assert not after.endswith("s"), words
            if tag == "PART":
                assert next_tag == "VERB" and not after.endswith("s")


# gender by a table of its own, number by the article
FEMININE = set(
    words(
        "femme fille sœur tante chanteuse voiture fleur pomme image histoire chanson clé maison église "
        "école île"
    )
)
MASCULINE = set(
    words(
        "chat chien cheval oiseau homme garçon frère professeur voisin oncle élève livre arbre film pont "
        "jardin hôtel marché château bateau"
    )
)
SINGULAR = {"chevaux": "cheval", "oiseaux": "oiseau", "châteaux": "château", "bateaux": "bateau"}
FORMS = (  # masculine, feminine; plurals by s but for those that end in s, x or au
    "petit petite, grand grande, jeune jeune, joli jolie, beau belle, nouveau nouvelle, "
    "mauvais mauvaise, ancien ancienne, rouge rouge, noir noire, blanc blanche, vert verte, "
    "bleu bleue, étrange étrange, célèbre célèbre, lourd lourde, tranquille tranquille, "
    "heureux heureuse, fatigué fatiguée, italien italienne"
)


def plural(word):
    return word if word[-1] in "sx" else word + ("x" if word.endswith("eau") else "s")


ADJECTIVES = {}  # form: set of (feminine, plural)
for line in FORMS.split(", "):
    for feminine, form in enumerate(line.split()):
        ADJECTIVES.setdefault(form, set()).add((feminine, False))
        ADJECTIVES.setdefault(plural(form), set()).add((feminine, True))
for form in ("bel", "nouvel"):
    ADJECTIVES[form] = {(0, False)}
ARTICLES = {
    **{article: {(0, False)} for article in ("le", "un", "ce", "cet", "du", "au")},
    **{article: {(1, False)} for article in ("la", "une", "cette", "ma", "sa")},
    **{article: {(0, False), (1, False)} for article in ("l'", "mon", "son", "notre")},
    **{article: {(0, True), (1, True)} for article in ("les", "des", "ces", "mes", "ses", "nos", "aux")},
    **{article: {(0, True), (1, True), (0, False), (1, False)} for article in ("de", "d'", "à")},
}


def kind(noun):
    """(feminine, plural) of a noun, None for another word."""
    if noun in FEMININE | MASCULINE:
        return noun in FEMININE, False
    single = SINGULAR.get(noun, noun.removesuffix("s"))
    return (single in FEMININE, True) if single in FEMININE | MASCULINE else None


def test_french_agrees():
    checked = collections.Counter()
    for _, french in synthetic.phrases(8000, 0):
        words = french.split()
        for place, noun in enumerate(words):
            if (of_noun := kind(noun)) is None:
                continue
            first = place - 1
            if words[first] in ADJECTIVES and words[first] != "voisin":
                assert of_noun in ADJECTIVES[words[first]], french
                checked["before"] += 1
                first -= 1
            assert of_noun in ARTICLES[words[first]], french
            if place + 1 < len(words) and words[place + 1] in ADJECTIVES:
                assert of_noun in ADJECTIVES[words[place + 1]], french
                checked["after"] += 1
    assert min(checked["before"], checked["after"]) > 2000


def test_french_predicates_agree():
    subjects = {"il": (0, False), "elle": (1, False), "ils": (0, True)}
    checked = collections.Counter()
    for english, french in synthetic.phrases(8000, 0):
        if match := re.fullmatch(r"(.*?) (n' |ne )?(est|sont) (pas )?(\S+)", french):
            subject, ne, verb, pas, adjective = match.groups()
            nouns = [kind(word) for word in subject.split() if kind(word)]
            of_subject = subjects[subject] if subject in subjects else nouns[0]
            assert of_subject in ADJECTIVES[adjective] and (verb == "sont") == of_subject[1], french
            assert bool(ne) == bool(pas) == (" not " in english) and ne != {"est": "ne ", "sont": "n' "}[verb]
            checked[of_subject] += 1
    assert len(checked) == 4 and min(checked.values()) > 40


def test_french_elides_contracts_and_denies():
    pairs = synthetic.phrases(8000, 0)
    text = "".join(f" {french} ." for _, french in pairs)
    vowel = "[aeiouhéèêâîôœ]"
    assert not re.search(rf" (le|la|de|je|ne|ce|ma|sa|beau|nouveau) {vowel}", text)
    assert not re.search(r" ([ldjn]'|cet|bel|nouvel) [^aeiouhéèêâîôœ]", text)
    assert not re.search(r" de (le|les|des|de) | à (le|les) ", text)
    for word in (
        "l'",
        "d'",
        "j'",
        "n'",
        "cet",
        "du",
        "des",
        "au",
        "aux",
        "bel",
        "nouvel",
        "l' hôtel",
        "mon île",
    ):
        assert f" {word} " in text, word
    clitics = {"him": ("le", "l'"), "her": ("la", "l'"), "them": ("les",)}
    denied = moved = 0
    for english, french in pairs:
        negative = re.search(r" n(e|') (\S+ )?(\S+ )?pas( |$)", french) is not None
        assert negative == (" not " in english), (english, french)
        denied += negative
        if re.search(r" not .* (a|an|any) ", english) and not re.search(
            r" (of|about|to|from|in|not come) ", english
        ):
            assert re.search(r" pas (de|d') ", french) and not re.search(r" pas (un|une|des) ", french), (
                french
            )
        if match := re.search(r" (him|her|them)( (today|now|every day))?$", english):
            moved += 1
            assert any(f" {clitic} " in french for clitic in clitics[match[1]]), (english, french)
            assert kind(french.split()[-1]) is None or "jours" in french
    assert 0.2 < denied / 8000 < 0.4 and moved > 300


def test_phrases_are_many_and_have_one_translation():
    pairs = synthetic.phrases(30_000, 0)
    assert len(set(pairs)) == len({english for english, _ in pairs}) == 30_000
    assert len({french for _, french in pairs}) > 29_500  # his and her are the same in French
    assert not any(english == french for english, french in pairs)
    for english, _ in pairs:
        words = english.split()
        assert all((w == "an") == (after[0] in "aeiou") for w, after in pairwise(words) if w in ("a", "an"))
        assert words[0] not in ("he", "she") or words[1].endswith("s")


def test_toy_sentences():
    words = [re.findall("[a-z]+", sentence.lower()) for sentence in synthetic.toy_sentences()]
    assert words == [["my", "name", "is", "ram"], ["my", "city", "is", "delhi"]]


def test_derivations_are_uniform_over_the_rules():
    grammar = {"S": ["A x", "A x", "B"], "A": ["a", "a a"], "B": ["b"]}
    random = np.random.default_rng(0)
    counts = collections.Counter(" ".join(drawing.expand(grammar, "S", random)) for _ in range(3000))
    assert set(counts) == {"a x", "a a x", "b"}
    np.testing.assert_allclose([counts[text] / 3000 for text in ("a x", "a a x", "b")], 1 / 3, atol=0.03)
