"""Generated data: every target follows from its input, by rules written again here."""

import collections
import re
from datetime import date
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from jrnn.data import padded_batches, synthetic
from jrnn.data.synthetic import drawing

GENERATORS = {
    "adding_problem": lambda seed: synthetic.adding_problem(5, 9, seed),
    "copy_memory": lambda seed: synthetic.copy_memory(5, 9, seed),
    "delayed_echo": lambda seed: synthetic.delayed_echo(5, 9, 2, seed),
    "flip_flop": lambda seed: synthetic.flip_flop(5, 9, seed),
    "temporal_order": lambda seed: synthetic.temporal_order(5, 20, seed),
    "copies": lambda seed: synthetic.copies(5, 6, 2, 7, seed),
    "reversals": lambda seed: synthetic.reversals(5, 6, 2, 7, seed),
    "dates": lambda seed: synthetic.dates(5, seed),
    "additions": lambda seed: synthetic.additions(5, 3, seed),
    "reviews": lambda seed: synthetic.reviews(5, seed),
    "tagged_sentences": lambda seed: synthetic.tagged_sentences(5, seed),
    "phrases": lambda seed: synthetic.phrases(5, seed),
    "digits": lambda seed: synthetic.digits(5, seed),
    "ar_process": lambda seed: synthetic.ar_process([0.5], 9, seed),
    "seasonal_series": lambda seed: synthetic.seasonal_series(9, seed),
    "lorenz": lambda seed: synthetic.lorenz(9, seed),
    "tones": lambda seed: synthetic.tones(5, 3, 2, seed),
    "chorales": lambda seed: synthetic.chorales(5, seed),
}
NO_SEED = {"Digit", "caption", "describe", "toy_sentences"}


def words(text):
    return text.split()


def leaves(value):
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from leaves(entry)
    else:
        yield value.tolist() if isinstance(value, np.ndarray) else value


def test_every_generator_is_in_the_list():
    public = {name for name in vars(synthetic) if callable(vars(synthetic)[name])}
    assert public == set(GENERATORS) | NO_SEED


@pytest.mark.parametrize("name", GENERATORS)
def test_the_seed_decides_everything(name):
    first, again, other = (list(leaves(GENERATORS[name](seed))) for seed in (0, 0, 1))
    assert first == again and first != other
    with pytest.raises(ValueError, match=re.escape("seed must be a whole number, 0 or more, got None")):
        GENERATORS[name](None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: synthetic.adding_problem(0, 5, 0), "count must be at least 1, got 0"),
        (lambda: synthetic.adding_problem(1, 1, 0), "steps must be at least 2, one for each marker, got 1"),
        (
            lambda: synthetic.delayed_echo(1, 5, 5, 0),
            "delay must be less than steps=5, got 5: nothing would be echoed",
        ),
        (
            lambda: synthetic.temporal_order(1, 9, 0),
            "steps must be at least 10, for two places apart from both ends, got 9",
        ),
        (lambda: synthetic.copies(1, 5, 4, 3, 0), "max_length must be at least min_length=4, got 3"),
        (
            lambda: synthetic.additions(101, 1, 0),
            "count=101 different ones were not found: after 100, 10000 draws in a row were repetitions; "
            "ask for fewer",
        ),
        (
            lambda: synthetic.additions(1, 19, 0),
            "digits must be at most 18, which still fit 64 bits, got 19",
        ),
        (
            lambda: synthetic.tones(1, 25, 1, 0),
            "classes must be 2 to 24, the orders of up to four tones, got 25",
        ),
        (
            lambda: synthetic.ar_process([1.5, -0.5], 5, 0),
            "coefficients [1.5, -0.5] have a root of modulus 1, needs to be below 1: the process "
            "would not be stationary",
        ),
        (
            lambda: synthetic.ar_process([], 5, 0),
            "coefficients must be a list of one or more numbers, got []",
        ),
        (
            lambda: synthetic.describe(np.ones(28), 3),
            "image has shape (28,), needs two axes: (rows, columns)",
        ),
        (
            lambda: synthetic.describe(np.zeros((28, 28)), 3),
            "image has no ink: ink must be above 0, as in MNIST",
        ),
        (lambda: synthetic.describe(np.ones((28, 28)), 10), "label must be a digit, 0 to 9, got 10"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("steps", [2, 3, 50])
def test_adding_problem(steps):
    xs, targets = synthetic.adding_problem(2000, steps, 0)
    firsts, seconds = [], []
    for x, target in zip(xs, targets, strict=True):
        first, second = np.flatnonzero(x[:, 1])
        assert first < steps // 2 <= second and set(x[:, 1]) <= {0, 1}
        assert target.shape == (1,) and target[0] == pytest.approx(x[first, 0] + x[second, 0])
        firsts.append(int(first))
        seconds.append(int(second))
    assert set(firsts) == set(range(steps // 2)) and set(seconds) == set(range(steps // 2, steps))
    assert ((targets - 1) ** 2).mean() == pytest.approx(1 / 6, abs=0.015)
    numbers = np.stack(xs)[..., 0]
    assert (numbers >= 0).all() and (numbers < 1).all()
    assert numbers.mean() == pytest.approx(0.5, abs=0.02) and numbers.dtype == np.float32


def test_copy_memory():
    xs, targets = synthetic.copy_memory(500, 7, 0)
    for x, target in zip(xs, targets, strict=True):
        assert x.shape == target.shape == (27,) and x.dtype == np.int32
        assert x[10:16].tolist() == [0] * 6 and x[16:].tolist() == [9] * 11
        assert target.tolist() == [0] * 17 + x[:10].tolist()
    counts = np.bincount(np.stack(xs)[:, :10].ravel(), minlength=10) / 5000
    np.testing.assert_allclose(counts, [0, *[1 / 8] * 8, 0], atol=0.02)


@pytest.mark.parametrize("delay", [0, 1, 5, 7])
def test_delayed_echo(delay):
    for x, target in zip(*synthetic.delayed_echo(50, 8, delay, 0), strict=True):
        assert target.tolist() == [0] * delay + x.tolist()[: 8 - delay] and set(x) <= {0, 1}


def test_temporal_order():
    xs, classes = synthetic.temporal_order(2000, 100, 0)
    places = []
    for x, label in zip(xs, classes, strict=True):
        text = "".join("abcdXYEB"[token] for token in x)
        assert re.fullmatch("E[abcd]*[XY][abcd]*[XY][abcd]*B", text) and 100 <= len(text) <= 110
        relevant = "".join(symbol for symbol in text if symbol in "XY")
        assert ["XX", "XY", "YX", "YY"].index(relevant) == label
        places.append([match.start() for match in re.finditer("[XY]", text)])
    assert np.min(places, 0).tolist() == [10, 50] and np.max(places, 0).tolist() == [20, 60]
    assert {len(x) for x in xs} == set(range(100, 111))
    np.testing.assert_allclose(np.bincount(classes) / 2000, 0.25, atol=0.03)
    shortest, _ = synthetic.temporal_order(300, 10, 0)
    assert all(x[0] == 6 and x[-1] == 7 and np.isin(x, (4, 5)).sum() == 2 for x in shortest)


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


# ---------------------------------------------------------------- images


def test_digits_show_what_their_captions_say():
    images, shown = synthetic.digits(600, 0)
    assert images.shape == (600, 28, 28) and images.dtype == np.float32
    assert images.min() == 0 and 0.9 < images.max() <= 1
    described = [synthetic.describe(image, d.label) for image, d in zip(images, shown, strict=True)]
    scaled = [
        synthetic.describe((255 * i).astype(np.uint8), d.label) for i, d in zip(images, shown, strict=True)
    ]
    for field, values in {"thickness": 2, "slant": 3, "row": 3, "column": 3, "label": 10}.items():
        counts = collections.Counter(getattr(digit, field) for digit in shown)
        assert len(counts) == values and min(counts.values()) > 0.6 * 600 / values
        for measured in (described, scaled):
            agree = [getattr(a, field) == getattr(b, field) for a, b in zip(shown, measured, strict=True)]
            assert np.mean(agree) >= 0.985, field


def test_ink_stands_where_the_caption_says():
    images, shown = synthetic.digits(600, 1)
    rows, columns = np.indices((28, 28)) - 13.5
    for axis, field, order in (
        (rows, "row", ("top", "middle", "bottom")),
        (columns, "column", ("left", "middle", "right")),
    ):
        centres = (images * axis).sum((1, 2)) / images.sum((1, 2))
        means = [centres[[getattr(d, field) == name for d in shown]].mean() for name in order]
        np.testing.assert_allclose(means, [-4, 0, 4], atol=1)  # noise draws the centre to the middle
    ink = {t: images[[d.thickness == t for d in shown]].sum() / len(shown) for t in ("thin", "thick")}
    assert ink["thick"] > 1.3 * ink["thin"]
    above = {}
    for slant in ("left", "upright", "right"):
        one = np.mean(
            [i for i, d in zip(images, shown, strict=True) if (d.slant, d.column) == (slant, "middle")], 0
        )
        top, bottom = one[:11], one[17:]
        above[slant] = (top * columns[:11]).sum() / top.sum() - (bottom * columns[17:]).sum() / bottom.sum()
    assert above["left"] < above["upright"] - 1 < above["right"] - 2


def test_digits_are_told_apart_by_their_neighbours():
    images, shown = synthetic.digits(1000, 2)
    labels = np.array([digit.label for digit in shown])
    centred = []
    for image in images:  # the bounding box moved to the corner, without noise
        ink = np.where(image > 0.3, image, 0)
        rows, columns = (np.flatnonzero(ink.any(axis=axis))[0] for axis in (1, 0))
        centred.append(np.roll(ink, (-rows, -columns), (0, 1)).ravel())
    flat = np.array(centred)
    known, new = flat[:800], flat[800:]
    distance = (known**2).sum(1) - 2 * new @ known.T  # but for what is the same for all known ones
    assert (labels[distance.argmin(axis=1)] == labels[800:]).mean() > 0.85


def test_captions():
    def say(*attributes):
        return " ".join(synthetic.caption(synthetic.Digit(*attributes)))

    assert say(7, "thick", "right", "top", "left") == "a thick seven leaning right at the top left"
    assert say(0, "thin", "upright", "middle", "middle") == "a thin upright zero in the middle"
    assert say(4, "thin", "left", "middle", "right") == "a thin four leaning left at the right"
    assert say(9, "thick", "upright", "bottom", "middle") == "a thick upright nine at the bottom"
    sides = product(("top", "middle", "bottom"), ("left", "middle", "right"))
    every = product(range(10), ("thin", "thick"), ("left", "upright", "right"), sides)
    captions = [tuple(synthetic.caption(synthetic.Digit(*rest, *place))) for *rest, place in every]
    assert len(set(captions)) == 540 and {len(caption) for caption in captions} == {7, 8, 9}
    assert len({word for caption in captions for word in caption}) == 23


# ---------------------------------------------------------------- series


def test_ar_process_has_its_coefficients_and_unit_noise():
    for coefficients in ([0.8], [0.5, -0.3], [1.2, -0.9, 0.4]):
        x = synthetic.ar_process(coefficients, 20_000, 0)[:, 0].astype(float)
        order = len(coefficients)
        lagged = np.stack([x[order - k : -k] for k in range(1, order + 1)], axis=1)
        fitted, *_ = np.linalg.lstsq(lagged, x[order:], rcond=None)
        np.testing.assert_allclose(fitted, coefficients, atol=0.03)
        residual = x[order:] - lagged @ np.array(coefficients)
        assert residual.mean() == pytest.approx(0, abs=0.03) and residual.var() == pytest.approx(1, abs=0.03)
        assert abs(np.corrcoef(residual[1:], residual[:-1])[0, 1]) < 0.03
    white = synthetic.ar_process([0.0], 3, 0)[:, 0]
    x = synthetic.ar_process([0.5, -0.25], 3, 0)[:, 0]  # nothing comes before the first step
    np.testing.assert_allclose(
        x, [white[0], white[1] + 0.5 * x[0], white[2] + 0.5 * x[1] - 0.25 * x[0]], rtol=1e-5
    )


@pytest.mark.parametrize("period", [12, 24])
def test_seasonal_series(period):
    y = synthetic.seasonal_series(2400, 0, period)
    assert y.shape == (2400, 1) and y.dtype == np.float32 and (y > 0).all()
    np.testing.assert_array_equal(synthetic.seasonal_series(100, 0, period), y[:100])
    t = np.arange(2400)
    rest = np.log(y[:, 0].astype(float)) - np.log(100 + 2 * t)
    spectrum = 2 * np.abs(np.fft.rfft(rest)) / 2400
    season, second = 2400 // period, 4800 // period
    assert spectrum[season] == pytest.approx(0.2, abs=0.02) and spectrum[second] == pytest.approx(
        0.1, abs=0.02
    )
    assert np.delete(spectrum, [season, second]).max() < 0.02
    waves = [f(2 * np.pi * k * t / period) for k in (1, 2) for f in (np.cos, np.sin)]
    noise = rest - np.stack(waves, 1) @ np.linalg.lstsq(np.stack(waves, 1), rest, rcond=None)[0]
    assert np.corrcoef(noise[1:], noise[:-1])[0, 1] == pytest.approx(0.7, abs=0.05)
    assert noise.std() == pytest.approx(0.03 / np.sqrt(1 - 0.49), rel=0.1)


def test_baselines_of_seasonal_series():
    for seed in range(4):
        y = synthetic.seasonal_series(144, seed)[:, 0].astype(float)
        persistence = np.sqrt(np.mean((y[96:] - y[95:-1]) ** 2))
        seasonal = np.sqrt(np.mean((y[96:] - y[84:-12]) ** 2))
        assert 22 < seasonal < persistence < 42


def test_lorenz_solves_its_equations():
    xs = synthetic.lorenz(3000, 0).astype(float)

    def flow(_, s):
        return [10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 * s[2] / 3]

    for start in range(0, 3000, 500):
        exact = solve_ivp(flow, (0, 0.4), xs[start], t_eval=np.linspace(0, 0.4, 21), rtol=1e-9, atol=1e-9).y.T
        np.testing.assert_allclose(xs[start : start + 21], exact, atol=0.02)
    assert np.mean(xs[:, 0] > 0) == pytest.approx(0.5, abs=0.2)  # both wings
    persistence = np.sqrt(((xs[1:] - xs[:-1]) ** 2).mean() / xs.var(0).mean())
    assert persistence == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize(("classes", "tones"), [(2, 2), (4, 3), (24, 4)])
def test_tones_come_in_the_order_of_their_class(classes, tones):
    sequences, labels, names = synthetic.tones(1200, classes, 3, 0)
    assert len(names) == classes == len(set(names)) and names[1].startswith("0" if classes > 2 else "1")
    assert {len(x) for x in sequences} == set(range(10, 41)) and sequences[0].shape[1] == 3
    np.testing.assert_allclose(np.bincount(labels) / 1200, 1 / classes, rtol=0.5 if classes > 4 else 0.15)
    frequencies = np.linspace(0.05, 0.35, tones)
    right = []
    for x, label in zip(sequences, labels, strict=True):
        if len(x) < 30:
            continue
        steps = len(x) / tones
        for place, rank in enumerate(names[label]):  # the inner part of each tone, where no joint can be
            inner = np.arange(len(x))[int((place + 0.2) * steps) + 1 : int((place + 0.8) * steps)]
            unexplained = []
            for frequency in frequencies:
                turn = 2 * np.pi * frequency * inner
                waves = np.stack([np.cos(turn), np.sin(turn)], axis=1)
                fit, *_ = np.linalg.lstsq(waves, x[inner], rcond=None)
                unexplained.append(((x[inner] - waves @ fit) ** 2).sum())
            right.append(np.argmin(unexplained) == int(rank))
    assert np.mean(right) > 0.95


def test_marginal_statistics_do_not_tell_the_order_of_tones():
    sequences, labels, _ = synthetic.tones(2500, 4, 2, 0)
    features = [
        np.r_[x.mean(0), x.var(0), np.abs(np.fft.rfft(x, 64, axis=0)).T.ravel(), len(x)] for x in sequences
    ]
    assert logistic_accuracy(np.array(features), labels, held_out=800) < 0.32


# ---------------------------------------------------------------- music

MAJOR = {0, 2, 4, 5, 7, 9, 11}


def test_chorales_are_four_parts_in_one_key():
    keys, lengths = collections.Counter(), set()
    for roll in synthetic.chorales(300, 0):
        assert roll.shape[1] == 88 and roll.dtype == np.float32 and set(np.unique(roll)) == {0, 1}
        assert (roll.sum(axis=1) == 4).all()
        chords = [tuple(np.flatnonzero(step) + 21) for step in roll]
        bass, tenor, alto, soprano = (np.array(voice) for voice in zip(*chords, strict=True))
        for voice, (low, high) in (
            (bass, (40, 59)),
            (tenor, (48, 67)),
            (alto, (55, 72)),
            (soprano, (60, 79)),
        ):
            assert (voice >= low).all() and (voice <= high).all()
        tonic = bass[-1] % 12
        assert {(note - tonic) % 12 for chord in chords for note in chord} <= MAJOR
        for chord in chords:
            root = chord[0] % 12
            third, fifth = sorted({(note - root) % 12 for note in chord} - {0})
            assert third in (3, 4) and fifth == 7
        roots = [(chord[0] - tonic) % 12 for chord in chords]
        changes = [roots[0], *(b for a, b in pairwise(roots) if a != b)]
        assert changes[0] == 0 and changes[-2:] == [7, 0]
        moves = [np.abs(np.diff(voice)) for voice in (tenor, alto, soprano)]
        assert np.mean(moves) < 2.5 and max(move.max() for move in moves) <= 12
        keys[tonic] += 1
        lengths.add(len(roll))
    assert len(keys) == 12 and min(keys.values()) > 8 and len(lengths) > 20


def test_baselines_of_chorales():
    rolls = synthetic.chorales(400, 0)
    train, test = rolls[:300], rolls[300:]

    def nats(probability, wanted):
        p = np.clip(probability, 1e-4, 1 - 1e-4)
        return -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).sum(1)

    before, after = (np.concatenate([roll[cut] for roll in train]) for cut in (np.s_[:-1], np.s_[1:]))
    kept = (before * after).sum(0) / np.maximum(before.sum(0), 1)
    begun = ((1 - before) * after).sum(0) / (1 - before).sum(0)
    frequency = np.concatenate(train).mean(0)
    unigram = np.concatenate([nats(frequency, roll[1:]) for roll in test]).mean()
    markov = np.concatenate([nats(np.where(roll[:-1] > 0, kept, begun), roll[1:]) for roll in test]).mean()
    assert unigram == pytest.approx(12.7, abs=0.5) and markov == pytest.approx(8.5, abs=0.5)


# ---------------------------------------------------------------- together


def test_everything_goes_into_batches():
    made = [
        synthetic.adding_problem(5, 9, 0),
        synthetic.copy_memory(5, 9, 0),
        synthetic.delayed_echo(5, 9, 2, 0),
        synthetic.temporal_order(5, 20, 0),
        synthetic.reversals(5, 6, 2, 7, 0),
        synthetic.tones(5, 3, 2, 0)[:2],
        ([roll[:-1] for roll in synthetic.chorales(5, 0)], [roll[1:] for roll in synthetic.chorales(5, 0)]),
    ]
    for sequences, targets in made:
        for batch in padded_batches(sequences, targets, 2):
            assert batch.xs.shape[1] == 2 and batch.mask.any()


def test_derivations_are_uniform_over_the_rules():
    grammar = {"S": ["A x", "A x", "B"], "A": ["a", "a a"], "B": ["b"]}
    random = np.random.default_rng(0)
    counts = collections.Counter(" ".join(drawing.expand(grammar, "S", random)) for _ in range(3000))
    assert set(counts) == {"a x", "a a x", "b"}
    np.testing.assert_allclose([counts[text] / 3000 for text in ("a x", "a a x", "b")], 1 / 3, atol=0.03)
