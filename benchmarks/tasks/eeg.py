"""Eyes open or closed, from EEG: a bidirectional GRU on blocks of time not seen, and what a leak claims.

python benchmarks/tasks/eeg.py eeg-eye-state.csv [--seed 0]

The file, one recording of 117 s with 14 channels at 128 Hz, 14,980 rows:

    curl -LO https://github.com/datasets/eeg-eye-state/raw/HEAD/data/eeg-eye-state.csv

Rows beside one another are nearly alike, so a random split of rows asks a model for what it has all but seen:
there the nearest neighbor of a row answers, without having learned anything of use. Here time is cut into
20 blocks of 6 s and every fifth one is tested on, the ones behind them choose the epoch, by their loss, and
the other 12 are trained on; five times, until each block was tested on once. Channels are clipped to the
range of the training rows less a thousandth at both ends (four rows hold artifacts) and standardized by them.
"""

import argparse
import time

import jax
import numpy as np
import optax

import jrnn
from jrnn.metrics import accuracy

COUNT, FOLDS = 20, 5
EPOCHS, RATE, PATIENCE = 60, 3e-3, 15
GRU = jrnn.Dropout(jrnn.GRU(32), input=0.2, output=0.5)
MODELS = {
    "logistic regression": jrnn.Dense(2),
    "GRU": jrnn.Sequential((jrnn.Bidirectional(GRU), jrnn.Dense(2))),
}


def cleaned(values, rows):
    """Every row clipped and standardized by those to train on, float32."""
    clipped = np.clip(values, *np.quantile(values[rows], (0.001, 0.999), axis=0))
    return ((clipped - clipped[rows].mean(0)) / clipped[rows].std(0)).astype(np.float32)


def nearest(values, labels, train, test):
    """Of each row to test on, the label of the nearest row to train on."""
    xs = cleaned(values, train)
    norms = (xs[train] ** 2).sum(-1)
    return labels[[train[np.argmin(norms - 2 * xs[train] @ xs[row])] for row in test]]


def learned(model, values, labels, parts, seed):
    """Train a model on some blocks; what it says of every row of the blocks to test on, and its size."""
    train, valid, test = parts
    xs = cleaned(values, np.concatenate(train))
    batches = [
        jrnn.padded_batches([xs[rows] for rows in part], [labels[rows] for rows in part], len(part))
        for part in (train, valid)
    ]
    result = jrnn.fit(
        model,
        batches[0],
        jrnn.PerStep(jrnn.losses.cross_entropy),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE)),
        key=jax.random.key(seed),
        in_features=xs.shape[-1],
        epochs=EPOCHS,
        validation=batches[1],
        patience=PATIENCE,
        progress=jrnn.Progress(bar=False),
    )
    logits = [jrnn.apply(model, result.params, xs[rows])[1] for rows in test]
    return np.concatenate(logits).argmax(-1), sum(leaf.size for leaf in jax.tree.leaves(result.params))


def split(length):
    """Blocks to train on, to validate on and to test on, for each fold."""
    cut = np.array_split(np.arange(length), COUNT)
    for fold in range(FOLDS):
        behind = (fold + 1) % FOLDS
        rest = [block for i, block in enumerate(cut) if i % FOLDS not in (fold, behind)]
        yield rest, cut[behind::FOLDS], cut[fold::FOLDS]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    jrnn.use_cores()
    table = np.loadtxt(arguments.path, delimiter=",", skiprows=1)
    values, labels = table[:, :-1], table[:, -1].astype(np.int32)
    folds = list(split(len(values)))
    asked = np.concatenate([rows for _, _, test in folds for rows in test])
    print(f"always open: {accuracy(np.zeros_like(labels), labels):.1%}")
    mixed = np.random.default_rng(arguments.seed).permutation(len(values))
    train, test = mixed[len(mixed) // FOLDS :], mixed[: len(mixed) // FOLDS]
    leak = accuracy(nearest(values, labels, train, test), labels[test])
    print(f"nearest neighbor, random rows (the leak): {leak:.1%}")
    found = [
        nearest(values, labels, np.concatenate(train + valid), np.concatenate(test))
        for train, valid, test in folds
    ]
    print(f"nearest neighbor, blocks: {accuracy(np.concatenate(found), labels[asked]):.1%}", flush=True)
    for name, model in MODELS.items():
        begun = time.perf_counter(), time.process_time()
        found, sizes = zip(
            *(learned(model, values, labels, fold, arguments.seed) for fold in folds), strict=True
        )
        wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
        right = [
            accuracy(guess, labels[np.concatenate(test)])
            for guess, (_, _, test) in zip(found, folds, strict=True)
        ]
        print(
            f"{name}, blocks, seed {arguments.seed}: {accuracy(np.concatenate(found), labels[asked]):.1%} "
            f"({min(right):.1%} to {max(right):.1%} of a fold), {sizes[0]:,} parameters, "
            f"five trainings in {wall:.0f} s ({cpu:.0f} s of CPU)",
            flush=True,
        )


if __name__ == "__main__":
    main()
