"""What the tables share: a CSV with a line per run, a budget of time, models of equal size, statistics."""

import argparse
import csv
import functools
import math
import time
from pathlib import Path

import jax
import numpy as np
import optax
from scipy.stats import ttest_ind, ttest_rel

import jrnn
from jrnn._cli.tables import count_parameters, has_heads
from jrnn.cell import is_linear


class Runs:
    """The runs of a table: what is in its file is not run again."""

    def __init__(self, path, header):
        self.path, self.header = Path(path), header
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(",".join(header) + "\n", encoding="utf-8")
        with self.path.open(encoding="utf-8", newline="") as file:
            self.rows = list(csv.DictReader(file))
        if self.rows and tuple(self.rows[0]) != tuple(header):
            raise ValueError(f"{path} has the columns {', '.join(self.rows[0])}, needs {', '.join(header)}")

    def find(self, **wanted):
        """The rows with these values."""
        return [row for row in self.rows if all(row[name] == str(value) for name, value in wanted.items())]

    def add(self, **row):
        """Append a row, in one write, and show it."""
        row = {name: shown(row[name]) for name in self.header}
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self.header, lineterminator="\n").writerow(row)
        self.rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items() if value), flush=True)


def shown(value):
    """A value as the file has it: floats with six digits."""
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def numbers(rows, name):
    """The finite values of a column."""
    values = np.array([float(row[name]) for row in rows])
    return values[np.isfinite(values)]


class Budget:
    """Minutes on the clock and of CPU, from when it is made."""

    def __init__(self, minutes=np.inf, cpu_minutes=np.inf):
        self.limits, self.begun = (60 * minutes, 60 * cpu_minutes), (time.monotonic(), time.process_time())

    def spent(self):
        """True once either is over; a run that has begun is finished."""
        used = np.subtract((time.monotonic(), time.process_time()), self.begun)
        return bool((used >= self.limits).any())


def options(doc, **more):
    """The command line of a table: its file, its budget, and more options with their defaults."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("file", type=Path, help="CSV to write or to go on with; the figure stands beside it")
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop after as many on the clock")
    parser.add_argument("--cpu-minutes", type=float, default=np.inf, help="stop after as many of CPU")
    part = "run only these names, 1/2 every second one: several processes may write to one file"
    parser.add_argument("--share", type=share, default=slice(None), metavar="1/2", help=part)
    for name, default in more.items():
        several = {"nargs": "*"} if isinstance(default, tuple) else {}
        kind = type(default[0] if several else default)
        parser.add_argument(f"--{name}", type=kind, default=default, **several)
    return parser


def share(text):
    """The slice that `1/2` stands for, the first of two shares."""
    try:
        first, count = map(int, text.split("/"))
    except ValueError:
        first, count = 0, 0
    if not 1 <= first <= count:
        raise argparse.ArgumentTypeError(f"{text!r} is no share, such as 1/2 or 2/2")
    return slice(first - 1, None, count)


def in_block(cell):
    """The cell, in the block that `jrnn train` puts it into if it has heads or is linear."""
    return jrnn.Block(cell) if has_heads(cell) or is_linear(cell) else cell


def width_of(model, in_features, parameters, multiple=4):
    """The width, a multiple, of which `model(width)` has as many parameters as possible, but no more."""
    low, high = 1, 1024 // multiple  # multiples; models grow with their width
    while high - low > 1:
        middle = (low + high) // 2
        few = count_parameters(model(multiple * middle), in_features) <= parameters
        low, high = (middle, high) if few else (low, middle)
    return multiple * low


def log_uniform(random, low, high):
    """A number whose logarithm is uniform."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def welch(one, other):
    """The p of Welch's test that two means are equal; NaN for fewer than two values each."""
    enough = min(len(one), len(other)) > 1
    return float(ttest_ind(one, other, equal_var=False).pvalue) if enough else np.nan


def paired(one, other):
    """The p of the t-test of differences, of runs alike but for one thing; NaN for fewer than two."""
    return float(ttest_rel(one, other).pvalue) if len(one) > 1 else np.nan


def spread(values, digits=3):
    """The mean and the range of values, and how many there are."""
    if not len(values):
        return "–"
    mean, least, most = np.mean(values), np.min(values), np.max(values)
    return f"{mean:.{digits}f} ({least:.{digits}f}–{most:.{digits}f}, n={len(values)})"


def markdown(header, rows):
    """A table in Markdown, numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


SEARCH = "task", "name", "part", "setting", "seed", "rate", "scale", "clip", "parameters", "valid", "test"
SEARCH_HEADER = (*SEARCH, "cpu_seconds")


def setting_of(number, rates, clips):
    """Setting `number` of a random search: learning rate, scale of the weights, clipping."""
    random = np.random.default_rng(number)
    return {
        "rate": log_uniform(random, *rates),
        "scale": log_uniform(random, 0.3, 2.0),
        "clip": log_uniform(random, *clips),
    }


def trials(runs, task, name, below=math.inf):
    """Validation by setting, of the settings numbered below with a finite one."""
    rows = runs.find(task=task, name=name, part="search")
    found = {int(row["setting"]): float(row["valid"]) for row in rows}
    return {number: valid for number, valid in found.items() if number < below and math.isfinite(valid)}


def best_setting(runs, task, name, below=math.inf):
    """The setting, of those numbered below, with the smallest validation; None if there is no finite one."""
    found = trials(runs, task, name, below)
    return min(found, key=found.get, default=None)


def finals(runs, task, name, below=math.inf):
    """The tests of the best setting, with other seeds."""
    best = best_setting(runs, task, name, below)
    return numbers(runs.find(task=task, name=name, part="best", setting=best), "test")


def settled(runs, task, names, count):
    """The number of settings in the rounds that are complete for all names; infinite if none is."""
    below = 0
    while True:
        for name in names:
            rows = runs.find(task=task, name=name, part="search")
            if not {int(row["setting"]) for row in rows}.issuperset(range(below + count)):
                return below or math.inf
            best = best_setting(runs, task, name, below + count)
            if best is not None and not runs.find(task=task, name=name, part="best", setting=best):
                return below or math.inf
        below += count


def search(runs, budget, trainer, plan, count):
    """Run what is missing: a round draws `count` more settings of each, and repeats the best of each.

    Args:
      runs: the file.
      budget: when to stop.
      trainer: function `(task, name, numbers, seeds, tests) -> rows`, of all settings with all seeds.
      plan: rounds and tasks with their names, in order, as `(round, task, names)`.
      count: settings of a round, with seed 0, and other seeds of the best, so that one program serves both.
    """
    for turn, task, names in plan:
        numbers = range(turn * count, (turn + 1) * count)
        for name in names:
            done = {int(row["setting"]) for row in runs.find(task=task, name=name, part="search")}
            if not done.issuperset(numbers):
                if budget.spent():
                    return
                for row in trainer(task, name, numbers, (0,), tests=False):
                    runs.add(task=task, name=name, part="search", **row)
        for name in names:
            best = best_setting(runs, task, name, numbers.stop)
            if best is not None and not runs.find(task=task, name=name, part="best", setting=best):
                if budget.spent():
                    return
                for row in trainer(task, name, (best,), range(1, count + 1), tests=True):
                    runs.add(task=task, name=name, part="best", **row)


def scaled(params, setting):
    """Matrices times the scale of a setting; biases, such as that of a forget gate, as they are."""
    return jax.tree.map(lambda leaf: setting["scale"] * leaf if leaf.ndim > 1 else leaf, params)


@functools.cache
def adam(updates, final=0.0):
    """A function of the setting: Adam whose learning rate falls to a share of itself.

    The same function for the same arguments, so that models share its compiled program.
    """

    def optimizer(setting):
        return optax.chain(
            optax.clip_by_global_norm(setting["clip"]),
            optax.scale_by_adam(),
            optax.scale_by_schedule(optax.cosine_decay_schedule(1.0, updates, alpha=final)),
            optax.scale(-setting["rate"]),
        )

    return optimizer


def trained(model, data, loss, *, settings, seeds, in_features, measure=None, **options):
    """Train a model with all settings and seeds in one program; a row for each.

    Args:
      model: the model.
      data: as `jrnn.sweep` takes it.
      loss: what is minimized.
      settings: the settings by number.
      seeds: the seeds of each.
      in_features: the width of the input, or the size of the vocabulary.
      measure: function `params -> result` on the test data, if it is to be measured.
      **options: further ones of `jrnn.sweep`.
    """
    begun = time.process_time()
    result = jrnn.sweep(
        model, data, loss, settings=list(settings.values()), seeds=seeds, adjust=scaled,
        in_features=in_features, progress=jrnn.Progress(bar=False), **options,
    )  # fmt: skip
    used = (time.process_time() - begun) / len(result.members)
    each = [number for number in settings for _ in seeds]
    for number, member in zip(each, result.members, strict=True):
        yield {
            "setting": number,
            "seed": member.seed,
            **member.setting,
            "parameters": count_parameters(model, in_features),
            "valid": member.score,
            "test": measure(member.params) if measure else "",
            "cpu_seconds": round(used, 1),
        }
