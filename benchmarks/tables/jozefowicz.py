"""Ten architectures on sums among letters, nested tags and language: who learns most from the same budget.

python -m benchmarks.tables.jozefowicz benchmarks/tables/jozefowicz.csv [--tasks sums3 tags] [--minutes 60]

Tanh, the LSTM without a gate or with a forget bias of 1, GRU, and the three mutants, between an embedding as
wide as they are and a read-out, with at most 60,000 parameters in all (words 500,000, ptb 5 million). The
model reads 1,000 batches of 20 rows by 50 tokens, the state carried on, with Adam, where the paper has SGD.
A text that ends earlier begins again.

    sums8       sums of numbers of up to 8 digits among letters, as published; accuracy of the result
    sums3       the same with 3 digits, which is about what can be learned within the budget
    tags        nested tags; accuracy of all characters
    characters  the Python language reference, which comes with Python; bits per character
    words       the same by words, of which those that occur less than five times are unknown; perplexity
    ptb         words of ptb.train.txt, ptb.valid.txt and ptb.test.txt in the directory given by --ptb

`tags*4` is tags with four times the updates, and with four times the text if it is generated. 1,000 updates
read ptb once, so `ptb*13` has as many passes as the recipe of Zaremba et al. (2014).

A random search draws learning rate, scale of the initial weights and clipping, the same ones for all;
then the setting with the lowest loss on validation is trained with other seeds, and tested. Of the
reference, eight tenths are trained on, one validates, one is tested.
"""

import functools
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import jrnn
from benchmarks.tables.running import (
    SEARCH_HEADER,
    Budget,
    Runs,
    adam,
    finals,
    markdown,
    options,
    search,
    setting_of,
    settled,
    spread,
    trained,
    trials,
    welch,
    width_of,
)
from jrnn._cli.texts import split_words
from jrnn.data.synthetic import distracted_sums, nested_tags

ROWS, STEPS, EPOCHS, UPDATES, HELD_OUT, COUNT, COLUMNS = 20, 50, 5, 1000, 40, 3, 3
RATES, CLIPS = (2e-3, 5e-2), (0.1, 10.0)
GATED = "LSTM", "LSTM-f", "LSTM-i", "LSTM-o", "LSTM-b"
NAMES = "Tanh", *GATED, "GRU", "MUT1", "MUT2", "MUT3"
TASKS = "sums3", "tags", "characters", "words", "sums8", "ptb"
PUBLISHED = {  # accuracy; of words, perplexity on PTB with 20 million parameters and dropout
    "sums8": (0.29493, 0.89228, 0.29292, 0.75109, 0.86747, 0.90163, 0.89565, 0.92135, 0.89735, 0.90728),
    "tags": (0.32050, 0.42470, 0.23356, 0.41371, 0.42117, 0.44434, 0.45963, 0.47483, 0.47324, 0.46478),
    "ptb": (97.7, 81.4, 100.8, "", 82.3, 79.8, 91.7, "", "", 89.5),
}
PUBLISHED |= {"sums3": PUBLISHED["sums8"]}
ACCURACY = "sums3", "sums8", "tags"
PARAMETERS = {"words": 500_000, "ptb": 5_000_000}  # where tokens are words, else 60,000


def divided(task):
    """What is learned, and how many times the updates it gets."""
    kind, star, times = task.partition("*")
    if kind not in TASKS or (star and not (times.isdecimal() and int(times))):
        raise ValueError(f"--tasks has {task!r}, needs some of {', '.join(TASKS)}, such as tags or tags*4")
    return kind, int(times or 1)


def cell_of(name, width):
    if name in GATED:
        return jrnn.ablations.jozefowicz(width)[name]
    if name == "Tanh":
        return jrnn.Elman(width)
    return jrnn.GRU(width, reset_after=False) if name == "GRU" else getattr(jrnn, name)(width)


@functools.cache
def model_of(name, vocabulary, kind):
    """An embedding, the cell and a read-out, as wide as the parameters of a task allow."""

    def model(width):
        return jrnn.Stack((jrnn.Embed(width), cell_of(name, width), jrnn.Dense(vocabulary)))

    return model(width_of(model, vocabulary, PARAMETERS.get(kind, 60_000), multiple=1))


def answers(text):
    """1 for the characters of results: those after "=" up to "."."""
    codes = np.frombuffer(text.encode(), np.uint8)
    begun, ended = (np.cumsum(codes == ord(mark)) for mark in "=.")
    inside = begun > ended - (codes == ord("."))  # the final point is part of the result
    return (inside & (codes != ord("="))).astype(np.int32)


def batches(tokens, flags=None, most=UPDATES):
    """Batches of a stream, of which the flagged targets count."""
    stream = jrnn.Stream(tokens, ROWS, STEPS)
    found = [stream[index] for index in range(min(most, len(stream)))]
    if flags is None:
        return found
    counted = jrnn.Stream(flags, ROWS, STEPS)
    return [batch._replace(target_mask=counted[index].targets == 1) for index, batch in enumerate(found)]


def generated(make, average, updates):
    """Texts to train on, to validate on and to test on, a little longer than needed."""
    sizes = updates, HELD_OUT, HELD_OUT
    return [
        "".join(make(int(1.1 * ROWS * STEPS * size / average) + 50, seed=seed))
        for seed, size in enumerate(sizes)
    ]


def treebank(directory):
    """Its files to train on, to validate on and to test on."""
    return [directory / f"ptb.{part}.txt" for part in ("train", "valid", "test")]


def texts_of(kind, updates, ptb):
    """Texts to train on, to validate on and to test on; lists of tokens where tokens are words."""
    if kind == "ptb":
        return [split_words(file.read_text(encoding="utf-8"), "space") for file in treebank(ptb)]
    if kind == "words":
        return tenths(split_words(jrnn.data.python_reference(), "word"))
    if kind == "characters":
        return tenths(jrnn.data.python_reference())
    if kind == "tags":
        return generated(nested_tags, 170, updates)
    digits = int(kind.removeprefix("sums"))
    return generated(functools.partial(distracted_sums, digits=digits), 4.5 + 3.8 * digits, updates)


@functools.cache
def parts(task, ptb=None):
    """The size of the vocabulary, and batches to train on, to validate on and to test on."""
    kind, times = divided(task)
    texts = texts_of(kind, times * UPDATES, ptb)
    if kind in PARAMETERS:
        vocabulary = jrnn.Vocabulary.from_tokens(texts[:1], 1 if kind == "ptb" else 5, specials=("<unk>",))
    else:
        vocabulary = jrnn.CharVocabulary.from_text(texts[0])
    held_out = sys.maxsize if kind == "ptb" else HELD_OUT
    found = []
    for text, most in zip(texts, (times * UPDATES, held_out, held_out), strict=True):
        flags = answers(text) if kind.startswith("sums") else None
        found.append(batches(vocabulary.encode(text), flags, most))
    return len(vocabulary), found


def tenths(text):
    """Eight tenths, one and one."""
    tenth = len(text) // 10
    return text[: -2 * tenth], text[-2 * tenth : -tenth], text[-tenth:]


def wrong(ys, targets, mask):
    """The share of targets that are not the most likely symbol."""
    return jnp.mean((ys.argmax(-1) != targets).astype(jnp.float32), where=mask)


LOSS, ERRORS = jrnn.PerStep(jrnn.losses.cross_entropy), jrnn.PerStep(wrong)


def trainer(ptb, task, name, settings, seeds, tests):
    vocabulary, (train, valid, test) = parts(task, ptb)
    kind, times = divided(task)
    model, length = model_of(name, vocabulary, kind), times * UPDATES // EPOCHS

    def tested(params):
        if kind in ACCURACY:
            return 1 - jrnn.evaluate(model, params, test, ERRORS, stateful=True)
        return jrnn.evaluate(model, params, test, LOSS, stateful=True)

    return trained(
        model,
        lambda epoch: [train[i % len(train)] for i in range(length * epoch, length * (epoch + 1))],
        LOSS,
        optimizer=adam(times * UPDATES),
        settings={number: setting_of(number, RATES, CLIPS) for number in settings},
        seeds=seeds,
        in_features=vocabulary,
        epochs=EPOCHS,
        validation=valid,
        stateful=True,
        measure=tested if tests else None,
    )


def guesses(task, ptb=None):
    """Accuracy of the most frequent symbol after the last k, k = 0, 1, 2, where the targets count."""
    train, _, test = parts(task, ptb)[1]
    found = []
    for order in range(3):
        seen = defaultdict(Counter)
        for batch in train:
            for context, target in contexts(batch, order):
                seen[context][target] += 1
        most = {context: counts.most_common(1)[0][0] for context, counts in seen.items()}
        hits = [most.get(context) == target for batch in test for context, target in contexts(batch, order)]
        found.append(np.mean(hits))
    return found


def contexts(batch, order):
    """The last symbols and the target, where it counts, of a batch."""
    for t, row in np.ndindex(*batch.xs.shape):
        if t >= order - 1 and (batch.target_mask is None or batch.target_mask[t, row]):
            yield tuple(batch.xs[t + 1 - order : t + 1, row].tolist()), int(batch.targets[t, row])


def unit_of(task):
    """What is measured, and the function that makes it of a result."""
    kind, _ = divided(task)
    if kind in ACCURACY:
        return "accuracy", np.asarray
    return ("perplexity", np.exp) if kind in PARAMETERS else ("bits per character", bits)


def bits(nats):
    return np.asarray(nats) / math.log(2)


def tasks_of(runs):
    """The tasks in a file, in the order of its lines."""
    return tuple(dict.fromkeys(row["task"] for row in runs.rows))


def report(runs, task):
    """The table of a task, of the rounds that all have: beside the published figure and the LSTM."""
    rows = []
    kind, (measure, unit) = divided(task)[0], unit_of(task)
    below, digits = settled(runs, task, NAMES, COUNT), 3 if measure == "accuracy" else 2
    lstm = unit(finals(runs, task, "LSTM", below))
    for place, name in enumerate(NAMES):
        found = unit(finals(runs, task, name, below))
        compared = len(found) > 1 and len(lstm) > 1 and name != "LSTM"
        tried = list(trials(runs, task, name, below).values())
        rows.append(
            (
                name,
                PUBLISHED[kind][place] if kind in PUBLISHED else "",
                spread(tried),
                spread(found, digits),
                f"{np.mean(found) - np.mean(lstm):+.{digits}f}" if compared else "",
                f"{welch(found, lstm):.2g}" if compared else "",
            )
        )
    published = "published" + {"sums3": ", 8 digits", "ptb": ", 20 million parameters, dropout"}.get(kind, "")
    header = "", published, "validation, nats, all settings", "test, best setting", "minus LSTM", "p (Welch)"
    return markdown(header, rows)


def draw(runs, path):
    """The seeds of the best setting, a panel for each task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = [task for task in tasks_of(runs) if runs.find(task=task, part="best")]
    if not tasks:
        return
    across = min(COLUMNS, len(tasks))
    down = -(-len(tasks) // across)
    figure = Figure(figsize=(3.6 * across, 3.4 * down), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False).flat
    for ax in axes[len(tasks) :]:
        ax.remove()
    for ax, task in zip(axes, tasks, strict=False):
        below, (measure, unit) = settled(runs, task, NAMES, COUNT), unit_of(task)
        for place, name in enumerate(NAMES):
            found = unit(finals(runs, task, name, below))
            ax.plot([place] * len(found), found, "o", color=f"C{place}", markersize=4)
        lstm = unit(finals(runs, task, "LSTM", below))
        if len(lstm):
            ax.axhline(np.mean(lstm), linestyle="--", color="C1", linewidth=1)
        ax.set(title=task, ylabel=measure)
        ax.set_xticks(range(len(NAMES)), NAMES, rotation=60)
    figure.savefig(path)


def main():
    parser = options(__doc__, rounds=4, tasks=TASKS[:-1])
    parser.add_argument("--ptb", type=Path, help="directory of the Penn treebank in Mikolov's format")
    given = parser.parse_args()
    try:
        kinds = {divided(task)[0] for task in given.tasks}
    except ValueError as error:
        parser.error(str(error))
    if "ptb" in kinds and not (given.ptb and all(file.is_file() for file in treebank(given.ptb))):
        parser.error(f"--tasks has 'ptb', needs --ptb with {', '.join(f.name for f in treebank(Path()))}")
    runs = Runs(given.file, SEARCH_HEADER)
    plan = [(turn, task, NAMES[given.share]) for turn in range(given.rounds) for task in given.tasks]
    trains = functools.partial(trainer, given.ptb)
    search(runs, Budget(given.minutes, given.cpu_minutes), trains, plan, COUNT)
    runs = Runs(given.file, SEARCH_HEADER)  # with what other shares have added
    for task in tasks_of(runs):
        print(f"\n{task}")
        kind, _ = divided(task)
        if kind != "ptb" or given.ptb:
            shares = ", ".join(f"{share:.3f}" for share in guesses(kind, given.ptb))
            print(f"the most frequent symbol, after the last, and after the last two: {shares}")
        print(f"\n{report(runs, task)}", flush=True)
    draw(runs, given.file.with_suffix(".png"))


if __name__ == "__main__":
    main()
