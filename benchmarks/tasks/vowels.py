"""Speakers told apart by two vowels: a bidirectional GRU on series of 7 to 29 steps.

python benchmarks/tasks/vowels.py FOLDER [--seed 0] [--runs 3]

FOLDER holds JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts, 270 and 370 series of 12 channels, 9
speakers:

    curl -LO https://timeseriesclassification.com/aeon-toolkit/JapaneseVowels.zip && unzip JapaneseVowels.zip

Channels are standardized by the training set, outputs are averaged over the valid steps. The model was
chosen on a third of the training set held out; it is trained on all of it for a fixed number of epochs.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jrnn

EPOCHS, RATE, BATCH, SPEAKERS = 30, 5e-3, 32, 9


def read(path):
    """Series (T, 12) and their speakers: after @data a line each, channels and speaker between colons."""
    _, data = path.read_text(encoding="utf-8").split("@data\n")
    rows = [line.split(":") for line in data.splitlines()]
    sequences = [np.array([channel.split(",") for channel in row[:-1]], np.float32).T for row in rows]
    return sequences, np.array([int(row[-1]) - 1 for row in rows], np.int32)


def share_right(logits, labels, mask):
    """Accuracy, in the place of a loss."""
    return jnp.sum((logits.argmax(-1) == labels) & mask) / jnp.sum(mask)


def run(train, test, channels, classes, seed):
    """Train one classifier and print what it reaches."""
    batches = jrnn.padded_batches(*train, BATCH, key_seed=seed, bucket=32)
    layers = jrnn.Bidirectional(jrnn.GRU(64)), jrnn.Dense(classes)
    model = jrnn.ManyToOne(jrnn.Sequential(layers), read="mean")
    rate = optax.cosine_decay_schedule(RATE, EPOCHS * len(batches))
    begun = time.perf_counter(), time.process_time()
    result = jrnn.fit(
        model,
        batches.epoch,
        jrnn.PerSequence(jrnn.losses.cross_entropy),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        key=jax.random.key(seed),
        in_features=channels,
        epochs=EPOCHS,
        progress=jrnn.Progress(bar=False),
    )
    wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    held_out = jrnn.padded_batches(*test, 128, bucket=32)
    found = jrnn.evaluate(model, result.params, held_out, jrnn.PerSequence(share_right))
    size = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    print(
        f"seed {seed}: test {found:.2%}, {size:,} parameters, {wall:.0f} s ({cpu:.0f} s of CPU)", flush=True
    )
    return found


def nearest_mean(train, test):
    """Accuracy without an order in time: the class whose mean over series and steps is nearest."""
    (known, labels), (new, wanted) = [(np.stack([x.mean(0) for x in xs]), ys) for xs, ys in (train, test)]
    centers = np.stack([known[labels == label].mean(0) for label in np.unique(labels)])
    return np.mean(np.square(new[:, None] - centers).sum(-1).argmin(1) == wanted)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the first run (default: 0)")
    parser.add_argument("--runs", type=int, default=3, help="how many seeds (default: 3)")
    arguments = parser.parse_args()
    jrnn.use_cores()
    train, test = (read(arguments.folder / f"JapaneseVowels_{part}.ts") for part in ("TRAIN", "TEST"))
    steps = np.concatenate(train[0])
    mean, deviation = steps.mean(0), steps.std(0)
    pairs = [([(x - mean) / deviation for x in xs], labels) for xs, labels in (train, test)]
    print(f"nearest mean of a class, after the mean over time: test {nearest_mean(*pairs):.2%}")
    seeds = range(arguments.seed, arguments.seed + arguments.runs)
    scores = [run(*pairs, steps.shape[1], SPEAKERS, seed) for seed in seeds]
    spread = f"{min(scores):.2%} to {max(scores):.2%}"
    print(f"test mean {np.mean(scores):.2%} over {len(scores)} seeds ({spread})")


if __name__ == "__main__":
    main()
