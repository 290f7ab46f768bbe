"""Many seeds at once beside one run after the other: the time of an epoch, on the clock and of CPU.

python benchmarks/populations.py [--cores] [WIDTH ...]     --cores: blocks on all cores, as after use_cores()
"""

import sys
import time

import jax
import numpy as np
import optax

import jrnn

SEEDS, EPOCHS, ROUNDS, ROWS = 20, 10, 2, 30
QUIET = jrnn.Progress(bar=False)


def vowels():
    """Sequences of the sizes of the JapaneseVowels: 270 of up to 29 steps, 12 features, 9 classes."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(7, 30, 270)
    sequences = [rng.standard_normal((n, 12)).astype(np.float32) for n in lengths]
    return list(jrnn.padded_batches(sequences, rng.integers(0, 9, 270), ROWS, bucket=29))


class Clock:
    """Batches of an epoch, and the times at which each epoch began, on the clock and of CPU."""

    def __init__(self, batches):
        self.batches, self.begun = batches, []

    def __call__(self, epoch):
        self.begun.append((time.perf_counter(), time.process_time()))
        return self.batches

    def seconds(self):
        """Of each epoch but the first, which compiles."""
        return np.diff(self.begun[1:], axis=0)


def single(model, batches, validation, optimizer, seed):
    """One run of `fit`."""
    clock = Clock(batches)
    jrnn.fit(
        model, clock, jrnn.AtLast(jrnn.losses.cross_entropy), optimizer=optimizer, in_features=12,
        key=jax.random.key(seed), epochs=EPOCHS, validation=validation, progress=QUIET,
    )  # fmt: skip
    return clock.seconds()


def together(model, batches, validation, optimizer):
    """All seeds by `sweep`."""
    clock = Clock(batches)
    jrnn.sweep(
        model, clock, jrnn.AtLast(jrnn.losses.cross_entropy), optimizer=optimizer, in_features=12,
        seeds=range(SEEDS), epochs=EPOCHS, validation=validation, progress=QUIET,
    )  # fmt: skip
    return clock.seconds()


def measure(width):
    """Print the seconds of an epoch of all seeds: the least of all, and the median."""
    model, batches, optimizer = jrnn.Stack((jrnn.GRU(width), jrnn.Dense(9))), vowels(), optax.adam(1e-3)
    found = {"one after the other": [], "together": []}
    for seed in range(ROUNDS):  # in turns, so that whatever else runs slows both
        found["one after the other"].append(SEEDS * single(model, batches, batches[:3], optimizer, seed))
        found["together"].append(together(model, batches, batches[:3], optimizer))
    print(f"GRU({width}), {SEEDS} seeds, an epoch of {len(batches)} batches of {ROWS}, 3 to validate on")
    least, middle = {}, {}
    for name, rounds in found.items():
        times = 1e3 * np.concatenate(rounds)
        least[name], middle[name] = times.min(axis=0), np.median(times, axis=0)
        (wall, cpu), (usual, usual_cpu) = least[name], middle[name]
        print(f"  {name:20} {wall:6.0f} ms ({cpu:.0f} CPU), median {usual:6.0f} ({usual_cpu:.0f})")
    for what, times in (("least", least), ("median", middle)):
        wall, cpu = times["together"] / times["one after the other"]
        print(f"  ratio of the {what}: {wall:.2f} on the clock, {cpu:.2f} of CPU", flush=True)


if __name__ == "__main__":
    if "--cores" in sys.argv:
        jrnn.use_cores()
    for width in [int(word) for word in sys.argv[1:] if word.isdecimal()] or [8, 32, 64, 128, 256]:
        measure(width)
