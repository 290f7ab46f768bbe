"""Packing beside padding: the share of wasted steps, and the CPU time of training for an epoch.

python benchmarks/packing.py [FILE ...]     files of lengths, one per line, instead of those drawn
"""

import math
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax

import jrnn

COUNT, ROWS, TOKENS, ROUNDS = 2048, 32, 1000, 7
MODEL = jrnn.Stack((jrnn.Embed(32), jrnn.LSTM(64), jrnn.Dense(17)))
DISTRIBUTIONS = {  # mean, standard deviation, shortest, longest
    "names": (6.5, 2, 2, 12),
    "sentences of reviews (SST-2)": (19, 9.5, 1, 50),
    "sentences of treebanks (UD)": (16, 12, 1, 80),
}


def drawn(mean, deviation, shortest, longest):
    """Lengths from a gamma distribution, clipped."""
    shape = (mean / deviation) ** 2
    lengths = np.random.default_rng(0).gamma(shape, mean / shape, COUNT)
    return np.clip(np.rint(lengths), shortest, longest).astype(int)


def ways(lengths, per_step):
    """Batches and the loss on them, by name."""
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, TOKENS, n) for n in lengths]
    targets = [s % 17 for s in sequences] if per_step else rng.integers(0, 17, len(lengths))
    steps = int(lengths.max())
    few = max(1, round(ROWS * lengths.mean() / steps))
    return {
        "padded to the longest": jrnn.padded_batches(sequences, targets, ROWS, bucket=steps),
        "padded to powers of two": jrnn.padded_batches(sequences, targets, ROWS),
        "padded to multiples of 4": jrnn.padded_batches(sequences, targets, ROWS, bucket=4),
        f"packed, T = {steps}": jrnn.packed_batches(sequences, targets, ROWS),
        f"packed, T = {2 * steps}": jrnn.packed_batches(sequences, targets, ROWS, steps=2 * steps),
        f"packed, T = {steps}, B = {few}": jrnn.packed_batches(sequences, targets, few),
    }


def epoch_of(batches, loss):
    """A function that trains for one epoch."""
    optimizer = optax.adam(1e-3)
    params = MODEL.init(jax.random.key(0), TOKENS)
    start = jrnn.init_state(MODEL, params, optimizer, jax.random.key(1))
    step = jax.jit(jrnn.train_step(MODEL, loss, optimizer))

    def run():
        state = start
        for batch in batches:
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    return run


def measure(name, lengths, per_step):
    """Print a table for these lengths."""
    print(f"\n{name}: {len(lengths)} of {lengths.min()} to {lengths.max()} steps, mean {lengths.mean():.1f}")
    found = ways(lengths, per_step)
    at_end = jrnn.PerStep if per_step else jrnn.AtLast
    epochs, first, seconds = {}, {}, {way: [] for way in found}
    for way, batches in found.items():
        reading = jrnn.PerStep if "packed" in way else at_end
        epochs[way] = epoch_of(list(batches), reading(jrnn.losses.cross_entropy))
        begun = time.process_time()
        epochs[way]()  # compiles
        first[way] = time.process_time() - begun
    for _ in range(ROUNDS):  # in turns, so that whatever else runs slows all of them
        for way, run in epochs.items():
            begun = time.process_time()
            run()
            seconds[way].append(time.process_time() - begun)
    begun = time.process_time()
    list(found["padded to powers of two"].epoch(0))
    print(f"  CPU time of making the batches: padded {time.process_time() - begun:.3f} s", end=", ")
    begun = time.process_time()
    list(jrnn.packed_batches(list(map(np.zeros, lengths)), lengths, ROWS, key_seed=0).epoch(0))
    print(f"packed {time.process_time() - begun:.3f} s, packing included")
    base = seconds["padded to powers of two"]
    for way, batches in found.items():
        places = sum(math.prod(batch.xs.shape) for batch in batches)
        ratio = statistics.median(a / b for a, b in zip(seconds[way], base, strict=True))
        shapes = len({batch.xs.shape for batch in batches})
        print(
            f"  {way:25} waste {1 - lengths.sum() / places:5.1%}  batches {len(batches):2}  shapes {shapes:2}"
            f"  first {first[way]:4.1f} s, later {statistics.median(seconds[way]):.3f} s, ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        measure(path.stem, np.loadtxt(path, int)[:COUNT], per_step="ud" in path.stem)
    for name, numbers in DISTRIBUTIONS.items() if len(sys.argv) == 1 else ():
        measure(name, drawn(*numbers), per_step="UD" in name)
