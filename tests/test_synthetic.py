"""Generated data: every target follows from its input, by rules written again here."""

import collections
import itertools
import re
from datetime import date

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from jrnn.data import padded_batches, synthetic

GENERATORS = {
    "associative_recall": lambda seed: synthetic.associative_recall(5, 3, 9, seed),
    "state_tracking": lambda seed: synthetic.state_tracking(5, 9, "S3", seed),
    "adding_problem": lambda seed: synthetic.adding_problem(5, 9, seed),
    "copy_memory": lambda seed: synthetic.copy_memory(5, 9, seed),
    "delayed_echo": lambda seed: synthetic.delayed_echo(5, 9, 2, seed),
    "flip_flop": lambda seed: synthetic.flip_flop(5, 9, seed),
    "temporal_order": lambda seed: synthetic.temporal_order(5, 20, seed),
    "copies": lambda seed: synthetic.copies(5, 6, 2, 7, seed),
    "reversals": lambda seed: synthetic.reversals(5, 6, 2, 7, seed),
    "dates": lambda seed: synthetic.dates(5, seed),
    "additions": lambda seed: synthetic.additions(5, 3, seed),
    "distracted_sums": lambda seed: synthetic.distracted_sums(5, 3, seed),
    "nested_tags": lambda seed: synthetic.nested_tags(5, seed),
    "equal_counts": lambda seed: synthetic.equal_counts(5, 9, seed),
    "brackets": lambda seed: synthetic.brackets(5, 9, seed),
    "chorales": lambda seed: synthetic.chorales(2, seed),
    "ar_process": lambda seed: synthetic.ar_process([0.5], 9, seed),
    "lorenz": lambda seed: synthetic.lorenz(9, seed),
}


def leaves(value):
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from leaves(entry)
    else:
        yield value.tolist() if isinstance(value, np.ndarray) else value


def test_every_generator_is_in_the_list():
    assert set(synthetic.__all__) == set(GENERATORS)


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
            lambda: synthetic.associative_recall(1, 5, 20, 0, keys=4),
            "pairs must be at most keys=4, each of which has one value, got 5",
        ),
        (
            lambda: synthetic.associative_recall(1, 5, 10, 0),
            "steps must be more than 2 · pairs=10, so that some are queries, got 10",
        ),
        *(
            (
                lambda group=group: synthetic.state_tracking(1, 5, group, 0),
                f'group must be "Z2", "Z3", … or "S2" to "S5", got {group!r}',
            )
            for group in ("Z1", "S6", "D3", "Z-2", "", 2)
        ),
        (
            lambda: synthetic.delayed_echo(1, 5, 5, 0),
            "delay must be less than steps=5, got 5: nothing would be echoed",
        ),
        (
            lambda: synthetic.temporal_order(1, 9, 0),
            "steps must be at least 10, so that the two symbols fit, got 9",
        ),
        (lambda: synthetic.copies(1, 5, 4, 3, 0), "max_length must be at least min_length=4, got 3"),
        (
            lambda: synthetic.additions(101, 1, 0),
            "count=101 is too large: after 100 distinct samples, 10000 draws in a row were repetitions",
        ),
        (
            lambda: synthetic.additions(1, 19, 0),
            "digits must be at most 18, to fit into 64 bits, got 19",
        ),
        (
            lambda: synthetic.ar_process([1.5, -0.5], 5, 0),
            "coefficients [1.5, -0.5] have a root of modulus 1, which must be below 1 for the process "
            "to be stationary",
        ),
        (
            lambda: synthetic.ar_process([], 5, 0),
            "coefficients must be a list of one or more numbers, got []",
        ),
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


def test_associative_recall():
    xs, targets = synthetic.associative_recall(400, 3, 20, 0, keys=5)
    seen, asked = [], []
    for x, target in zip(xs, targets, strict=True):
        keys, values, queries = x[:6:2].tolist(), x[1:6:2].tolist(), x[6:].tolist()
        held = dict(zip(keys, values, strict=True))
        assert len(held) == 3 and set(keys) <= {1, 2, 3, 4, 5} and set(values) <= {6, 7, 8, 9, 10}
        assert target.tolist() == [0] * 6 + [held[query] for query in queries]
        seen += keys + values
        asked += [keys.index(query) for query in queries]
    np.testing.assert_allclose(np.bincount(seen, minlength=11) / 1200, [0, *[0.2] * 10], atol=0.04)
    np.testing.assert_allclose(np.bincount(asked) / len(asked), 1 / 3, atol=0.02)
    assert xs[0].dtype == targets[0].dtype == np.int32


@pytest.mark.parametrize(("group", "size"), [("Z2", 2), ("Z5", 5), ("S3", 6), ("S5", 120)])
def test_state_tracking(group, size):
    xs, targets = synthetic.state_tracking(40, 300, group, 0)
    counts = np.bincount(np.stack(xs).ravel(), minlength=size)
    np.testing.assert_allclose(counts * size / 12_000, 1, atol=0.1 if size < 10 else 0.4)
    for x, target in zip(xs, targets, strict=True):
        if group.startswith("Z"):
            assert target.tolist() == (np.cumsum(x) % size).tolist()
            continue
        orders = sorted(itertools.permutations(range(int(group[1:]))))
        places = range(int(group[1:]))  # of the things, each carried on by every element in turn
        for element, product in zip(x, target, strict=True):
            places = [orders[element][place] for place in places]
            assert orders[product] == tuple(places)


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


MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
FULL = [
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
]  # fmt: skip
WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


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


# ---------------------------------------------------------------- together


def test_everything_goes_into_batches():
    made = [
        synthetic.adding_problem(5, 9, 0),
        synthetic.copy_memory(5, 9, 0),
        synthetic.delayed_echo(5, 9, 2, 0),
        synthetic.temporal_order(5, 20, 0),
        synthetic.reversals(5, 6, 2, 7, 0),
    ]
    for sequences, targets in made:
        for batch in padded_batches(sequences, targets, 2):
            assert batch.xs.shape[1] == 2 and batch.target_mask.any()


def test_distracted_sums():
    texts = synthetic.distracted_sums(3000, 8, 0)
    form = r"[a-z]*".join(("(-?)", r"((?:\d[a-z]*)+)", r"([+-])", r"((?:\d[a-z]*)+)=(-?\d+)\."))
    signs = collections.Counter()
    letters = characters = 0
    for text in texts:
        minus, first, sign, second, result = re.fullmatch(form, text).groups()
        a, b = (int(re.sub("[a-z]", "", number)) for number in (minus + first, second))
        assert abs(a) < 10**8 and 0 <= b < 10**8 and eval(f"{a} {sign} {b}") == int(result)
        signs[minus, sign] += 1
        given = text.partition("=")[0]
        letters += len(re.findall("[a-z]", given))
        characters += len(re.findall("[^a-z]", given))
    assert min(signs.values()) > 650 and len(signs) == 4  # 750 on average
    assert letters / characters == pytest.approx(0.3 / 0.7, abs=0.02)  # geometric
    assert not re.search("[a-z]", "".join(synthetic.distracted_sums(20, 2, 0, rate=0.0)))


def test_nested_tags():
    documents = synthetic.nested_tags(4000, 0)
    closed_at_once = tags = 0
    for text in documents:
        stack, found = [], re.findall(r"<(/?)([a-z]{2,10})>", text)
        assert "".join(f"<{slash}{name}>" for slash, name in found) == text
        for number, (slash, name) in enumerate(found):
            if slash:
                assert stack.pop() == name
            else:
                assert number < 50
                stack.append(name)
            if 0 < number < 50 and (stack or slash):
                tags += 1
                closed_at_once += bool(slash)
        assert not stack and found[0][0] == ""
    assert closed_at_once / tags == pytest.approx(0.5, abs=0.05)
    lengths = [len(text) for text in documents]
    assert np.median(lengths) == pytest.approx(75, abs=8) and max(lengths) < 800
    assert np.mean(lengths) == pytest.approx(176, abs=10)


@pytest.mark.parametrize("letters", [2, 3])
def test_equal_counts(letters):
    xs, targets = synthetic.equal_counts(300, 7, 0, letters)
    for x, target in zip(xs, targets, strict=True):
        n = len(x) // letters
        text = "".join("abc"[token - 1] for token in x)
        assert text == "".join(letter * n for letter in "abc"[:letters])
        assert target.tolist() == [*x[1:], 0]
    assert {len(x) // letters for x in xs} == set(range(1, 8))


def test_brackets():
    xs, targets = synthetic.brackets(200, 30, 0, kinds=3)
    closed, could = 0, 0
    for x, target in zip(xs, targets, strict=True):
        text = "".join("([{)]}"[token - 1] for token in x)
        for t in range(len(text)):
            left, before = text[: t + 1], ""
            while left != before:  # what is closed goes away
                before, left = left, re.sub(r"\(\)|\[\]|\{\}", "", left)
            assert not re.search(r"[)\]}]", left) and target[t] == (" ([{".index(left[-1]) if left else 0)
        could += (target[:-1] > 0).sum()
        closed += (x[1:] > 3).sum()
    assert closed / could == pytest.approx(0.5, abs=0.03)
    assert set(np.concatenate(targets)) == {0, 1, 2, 3}


def test_chorales():
    for piece in synthetic.chorales(20, 0):
        assert piece.shape[1] == 88 and set(np.unique(piece)) == {0, 1} and (piece.sum(1) == 4).all()
        notes = [np.flatnonzero(step) + 21 for step in piece]
        assert all(len({*(chord % 12)}) == 3 and 40 <= chord[0] <= 59 for chord in notes)
        changes = [i for i in range(1, len(notes)) if (notes[i] != notes[i - 1]).any()]
        runs = np.diff([0, *changes, len(notes)])
        assert set(runs) <= {1, 2, 3, 4, 5, 6, 8} and len(changes) >= 6
        tonic, last = notes[0][0] % 12, notes[-1][0] % 12
        assert tonic == last and (notes[-runs[-1] - 1][0] - last) % 12 == 7  # a cadence: dominant, tonic
        scale = {(tonic + step) % 12 for step in (0, 2, 4, 5, 7, 9, 11)}
        assert {note % 12 for chord in notes for note in chord} <= scale
