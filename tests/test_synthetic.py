"""Generated data: every target follows from its input, by rules written again here."""

import collections
import re
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from jrnn.data import padded_batches, synthetic
from tests.test_synthetic_language import logistic_accuracy

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
