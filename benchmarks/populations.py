"""Many seeds at once beside one run after the other: seconds on the clock, and of CPU.

python benchmarks/populations.py [--cores] [WIDTH ...]     --cores: blocks on all cores, as after use_cores()
"""

import statistics
import sys
import time

import jax
import numpy as np
import optax

import jrnn

SEEDS, EPOCHS, ROUNDS, ROWS = 20, 12, 3, 30
QUIET = jrnn.Progress(bar=False)


def vowels():
    """Sequences of the sizes of the JapaneseVowels: 270 of up to 29 steps, 12 features, 9 classes."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(7, 30, 270)
    sequences = [rng.standard_normal((n, 12)).astype(np.float32) for n in lengths]
    return list(jrnn.padded_batches(sequences, rng.integers(0, 9, 270), ROWS, bucket=29))


class Clock:
    """Batches of an epoch, and the times when the first and second were asked for."""

    def __init__(self, batches):
        self.batches, self.begun = batches, []

    def __call__(self, epoch):
        if epoch < 2:
            self.begun.append((time.perf_counter(), time.process_time()))
        return self.batches

    def seconds(self):
        """`(total, of the epochs after the first)`, each on the clock and of CPU, from the first epoch."""
        now = time.perf_counter(), time.process_time()
        return [tuple(end - begin for end, begin in zip(now, then, strict=True)) for then in self.begun]


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


def measure(width, count):
    """Print the seconds of SEEDS runs of GRU(width); `count` of the single ones are run in each round."""
    model, batches = jrnn.Stack((jrnn.GRU(width), jrnn.Dense(9))), vowels()
    found = {"one after the other": [], "together": []}
    for _ in range(ROUNDS):  # in turns, so that whatever else runs slows both
        optimizer = optax.adam(1e-3)  # a new object, so that both compile
        runs = [single(model, batches, batches[:3], optimizer, seed) for seed in range(count)]
        (first, _), later = runs[0], runs[1:]
        total, epochs = (np.mean([run[at] for run in later], axis=0) for at in (0, 1))
        found["one after the other"].append([first + (SEEDS - 1) * total, SEEDS * epochs])
        found["together"].append(together(model, batches, batches[:3], optimizer))
    print(f"GRU({width}), {SEEDS} seeds, {EPOCHS} epochs of {len(batches)} batches of {ROWS}")
    for name, rounds in found.items():
        (wall, cpu), (later, later_cpu) = np.median(rounds, axis=0)
        print(f"  {name:20} {wall:6.2f} s ({cpu:6.2f} CPU), after epoch 1 {later:6.2f} s ({later_cpu:6.2f})")
    pairs = zip(found["together"], found["one after the other"], strict=True)
    ratios = [np.array(a) / np.array(b) for a, b in pairs]
    total, later = (statistics.median(r[at][0] for r in ratios) for at in (0, 1))
    total_cpu, later_cpu = (statistics.median(r[at][1] for r in ratios) for at in (0, 1))
    print(
        f"  ratio {total:.2f} ({total_cpu:.2f} CPU), after epoch 1 {later:.2f} ({later_cpu:.2f})", flush=True
    )


if __name__ == "__main__":
    if "--cores" in sys.argv:
        jrnn.use_cores()
    for width in [int(word) for word in sys.argv[1:] if word.isdecimal()] or [8, 32, 64, 128, 256]:
        measure(width, count=SEEDS if width <= 32 else 4)
