"""Language models of words: the small model of Zaremba et al. (2014), and the ingredients of the AWD-LSTM.

python -m benchmarks.tables.words benchmarks/tables/words.csv [--ptb DIRECTORY] [--seeds 0 1 2] [--minutes 60]

Every run is a `jrnn train` with options of the command line, of 2 × 200 units, in a directory of its own in
runs/words. Of the Python language reference, which comes with Python, eight tenths are trained on, the next
validates, the last is tested; with --ptb those are ptb.train.txt, ptb.valid.txt and ptb.test.txt there. The
epoch with the lowest loss on validation is tested once. A line is appended for each epoch, when a run has
ended; a run that was stopped goes on from its last checkpoint.
"""

import json
import time
from pathlib import Path

import numpy as np

import jrnn
from benchmarks.tables.jozefowicz import tenths, treebank
from benchmarks.tables.running import Budget, Runs, markdown, numbers, options, spread
from jrnn._cli import main as jrnn_command
from jrnn._cli.evaluating import measured
from jrnn._cli.tables import count_parameters

RUNS = Path("runs/words")
SHAPE = "--hidden 200 --embed 200 --layers 2 --batch 20 --steps 20"
RECIPES = {
    "small": "--update sgd --lr 20 --clip 0.25 --uniform 0.1 --epochs 13 --halve 4",
    "awd": "--update sgd --lr 20 --clip 0.25 --readout tied --dropout 0.4 --masks sequence --weight-drop 0.5 "
    "--ar 2 --tar 1 --epochs 40 --halve 20 --average 20",
}
LEVEL = {"reference": "--level word", "ptb": "--level space --min-count 1"}
PUBLISHED = {("ptb", "small"): 114.5}
HEADER = "text", "recipe", "seed", "epoch", "parameters", "train", "valid", "test", "cpu_seconds"


def files_of(text, ptb):
    """The files to train on, to validate on and to test on; those of the reference are written first."""
    if text == "ptb":
        return treebank(ptb)
    files = [RUNS / f"reference.{part}.txt" for part in ("train", "valid", "test")]
    RUNS.mkdir(parents=True, exist_ok=True)
    for file, part in zip(files, tenths(jrnn.data.python_reference()), strict=True):
        file.write_text(part, encoding="utf-8")
    return files


def arguments(text, recipe, seed, files, out):
    """The command line of a run, new or stopped."""
    if jrnn.checkpoint.checkpoints(out):
        return ["train", "--resume", str(out)]
    chosen = f"{LEVEL[text]} {SHAPE} {RECIPES[recipe]} --seed {seed}".split()
    return ["train", str(files[0]), "--valid", str(files[1]), *chosen, "--out", str(out)]


def run(runs, budget, given):
    text = "ptb" if given.ptb else "reference"
    files = files_of(text, given.ptb)
    for seed in given.seeds:
        for recipe in given.recipes[given.share]:
            if runs.find(text=text, recipe=recipe, seed=seed):
                continue
            if budget.spent():
                return
            out, begun = RUNS / f"{text}-{recipe}-{seed}", time.process_time()
            if jrnn_command(arguments(text, recipe, seed, files, out)):
                return  # stopped, and saved
            add(runs, {"text": text, "recipe": recipe, "seed": seed}, out, files[2], begun)


def add(runs, which, out, test, begun):
    """Append the epochs of a run, with the test of the best one."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [entry for entry in map(json.loads, lines) if "validation" in entry]
    snapshot = jrnn.load(out, best=True)
    nats = measured(snapshot, test.read_text(encoding="utf-8"))[0]
    used = round(time.process_time() - begun, 1)
    for entry in epochs:
        runs.add(
            **which, epoch=entry["epoch"], parameters=count_parameters(snapshot.cell, snapshot.in_features),
            train=entry["train"], valid=entry["validation"],
            test=nats if entry["step"] == snapshot.step else "", cpu_seconds=used,
        )  # fmt: skip


def report(runs, text):
    """Perplexities of the best epoch of each seed."""
    rows = []
    for recipe in RECIPES:
        best = [row for row in runs.find(text=text, recipe=recipe) if row["test"]]
        if best:
            epochs = sorted(int(row["epoch"]) for row in best)
            valid, test = (spread(np.exp(numbers(best, name)), 2) for name in ("valid", "test"))
            published = PUBLISHED.get((text, recipe), "")
            rows.append((recipe, best[0]["parameters"], ", ".join(map(str, epochs)), valid, test, published))
    header = "recipe", "parameters", "best epochs", "validation, best epoch", "test", "published, test"
    return markdown(header, rows)


def draw(runs, path):
    """Perplexity by epoch, a line for each seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    texts = dict.fromkeys(row["text"] for row in runs.rows)
    figure = Figure(figsize=(6 * len(texts), 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for ax, text in zip(figure.subplots(1, len(texts), squeeze=False)[0], texts, strict=True):
        for color, recipe in enumerate(RECIPES):
            for seed in dict.fromkeys(row["seed"] for row in runs.find(text=text, recipe=recipe)):
                rows = runs.find(text=text, recipe=recipe, seed=seed)
                epochs, values = numbers(rows, "epoch"), np.exp(numbers(rows, "valid"))
                label = recipe if seed == "0" else None
                ax.plot(epochs, values, color=f"C{color}", linewidth=1, label=label)
                ax.plot(epochs[values.argmin()], values.min(), "o", color=f"C{color}", markersize=4)
        ax.set(title=text, xlabel="epoch", ylabel="perplexity, validation")
        ax.legend()
    figure.savefig(path)


def main():
    parser = options(__doc__, seeds=(0, 1, 2), recipes=tuple(RECIPES))
    parser.add_argument("--ptb", type=Path, help="directory of the Penn treebank in Mikolov's format")
    given = parser.parse_args()
    for name in set(given.recipes) - set(RECIPES):
        parser.error(f"--recipes has {name!r}, needs some of {', '.join(RECIPES)}")
    runs = Runs(given.file, HEADER)
    run(runs, Budget(given.minutes, given.cpu_minutes), given)
    runs = Runs(given.file, HEADER)  # with what other shares have added
    for text in dict.fromkeys(row["text"] for row in runs.rows):
        print(f"\n{text}\n\n{report(runs, text)}")
    if runs.rows:
        draw(runs, given.file.with_suffix(".png"))


if __name__ == "__main__":
    main()
