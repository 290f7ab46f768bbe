"""Recall and state tracking: cells whose memories are matrices beside LSTM and sLSTM, at growing lengths.

python benchmarks/tasks/recall.py benchmarks/tasks/recall.csv [--cells LSTM ...] [--tasks parity ...]
    [--cpu-minutes 30]

All data are generated. One layer of each cell, 32 units, with heads of 16; all but LSTM in a block. Every
task is trained alone, on sequences of 32 steps, and tested on others of 128. A line is appended for each
cell, task and size; what is in the file already is not run again, so the script can be stopped and started.
Cells and tasks that have lines already come first. After the minutes of CPU no other training is started.
"""

import argparse
import csv
import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jrnn
from jrnn.data.synthetic import associative_recall, copies, state_tracking

STEPS, TESTED, BATCH, WIDTH, KEYS = 32, 128, 32, 32, 16
VOCABULARY = 2 * KEYS + 1
HEADER = "task", "cell", "seed", "size", "accuracy", "loss", "cpu_seconds"
CELLS = {
    "LSTM": jrnn.LSTM(WIDTH),
    "sLSTM": jrnn.SLSTM(WIDTH, heads=2),
    "LinearAttention": jrnn.LinearAttention(WIDTH, heads=2),
    "Mamba2": jrnn.Mamba2(WIDTH, heads=2, state=16),
    "DeltaNet": jrnn.DeltaNet(WIDTH, heads=2),
    "GatedDeltaNet": jrnn.GatedDeltaNet(WIDTH, heads=2),
    "RWKV7": jrnn.RWKV7(WIDTH, heads=2),
    "GatedDeltaNet β<2": jrnn.DeltaProduct(WIDTH, heads=2, products=1),
    "DeltaProduct": jrnn.DeltaProduct(WIDTH, heads=2, products=2),
    "mLSTM": jrnn.MLSTM(WIDTH, heads=2),
    "M2RNN": jrnn.M2RNN(WIDTH, heads=2),
}


def model_of(name):
    """A language model of one layer: tokens to logits."""
    cell = CELLS[name]
    layer = cell if name == "LSTM" else jrnn.Block(cell)
    return jrnn.Stack((jrnn.Embed(WIDTH), layer, jrnn.Norm(WIDTH), jrnn.Dense(VOCABULARY)))


def batch_of(xs, targets, asked):
    """A batch, time first, in which the targets of some steps count."""
    return jrnn.Batch(np.stack(xs, 1), np.stack(targets, 1), target_mask=np.stack(asked, 1))


def tracked(group, steps, size, seed):
    """State tracking: every step counts; when tested, those of the later half of `size` do."""
    xs, targets = state_tracking(BATCH, steps, group, seed)
    place = np.arange(steps)
    asked = (place < size) & (place >= (size // 2 if steps == TESTED else 0))
    return batch_of(xs, targets, [asked] * BATCH)


def recalled(steps, size, seed):
    """Associative recall of `size` pairs: the queries count."""
    xs, targets = associative_recall(BATCH, size, steps, seed, KEYS)
    return batch_of(xs, targets, [target > 0 for target in targets])


def copied(steps, size, seed):
    """A sequence of `size` symbols, a separator, and the same again: the second half counts."""
    sources, _ = copies(BATCH, VOCABULARY // 2, size, size, seed)
    xs, targets = np.zeros((2, BATCH, steps), np.int32)
    for x, target, source in zip(xs, targets, sources, strict=True):
        x[:size] = x[size + 1 : 2 * size + 1] = target[size : 2 * size] = source + 1
    return batch_of(xs, targets, targets > 0)


TASKS = {  # a generator, sizes to train with in turn, sizes to test, updates
    "parity": (functools.partial(tracked, "Z2"), (32,), (16, 32, 64, 128), 1000),
    "count modulo 5": (functools.partial(tracked, "Z5"), (32,), (16, 32, 64, 128), 1000),
    "S3": (functools.partial(tracked, "S3"), (32,), (16, 32, 64, 128), 1000),
    "recall": (recalled, (2, 4, 8), (2, 4, 8, 16), 2000),
    "copy": (copied, (4, 8, 15), (8, 15, 31, 63), 2000),
}


@functools.cache
def optimizer_of(updates):
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(4e-3, updates))
    )


def train(name, task, seed=0):
    """Parameters after training, the losses of all updates."""
    make, sizes, _, updates = TASKS[task]
    batches = [make(STEPS, sizes[i % len(sizes)], 10_000 * seed + i + 1) for i in range(updates)]
    losses = []
    result = jrnn.fit(
        model_of(name),
        batches,
        jrnn.PerStep(jrnn.losses.cross_entropy),
        optimizer=optimizer_of(updates),
        key=jax.random.key(seed),
        in_features=VOCABULARY,
        epochs=1,
        progress=jrnn.Progress(bar=False),
        monitors=(lambda record, state: losses.append(record.get("loss")),),
    )
    return result.params, [loss for loss in losses if loss is not None]


@functools.partial(jax.jit, static_argnums=0)
def accuracy(name, params, batch):
    """The share of right answers among those that count."""
    logits = jrnn.unroll(model_of(name), params, batch.xs)[1]
    right = (logits.argmax(-1) == batch.targets) & batch.target_mask
    return right.sum() / jnp.sum(batch.target_mask)


def missing(done, cells, tasks):
    """Pairs of a task and a cell that are not done; those of which there is something come first."""
    tasks_begun, begun = {task for task, _ in done}, {name for _, name in done}
    pairs = [(task, name) for name in cells for task in tasks if (task, name) not in done]
    return sorted(pairs, key=lambda pair: (pair[1] not in begun, pair[0] not in tasks_begun))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--cells", nargs="*", default=list(CELLS))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu-minutes", type=float, default=float("inf"))
    given = parser.parse_args()
    if not given.file.exists():
        given.file.write_text(",".join(HEADER) + "\n", encoding="utf-8")
    with given.file.open(encoding="utf-8", newline="") as file:
        done = {(row["task"], row["cell"]) for row in csv.DictReader(file) if row["seed"] == str(given.seed)}
    for task, name in missing(done, given.cells, given.tasks):
        if time.process_time() > 60 * given.cpu_minutes:
            break
        begun = time.process_time()
        params, losses = train(name, task, given.seed)
        used = time.process_time() - begun
        make, _, sizes, _ = TASKS[task]
        tests = {size: float(accuracy(name, params, make(TESTED, size, 0))) for size in sizes}
        with given.file.open("a", encoding="utf-8", newline="") as file:
            for size, right in tests.items():
                row = task, name, given.seed, size, f"{right:.4f}"
                csv.writer(file, lineterminator="\n").writerow(
                    (*row, f"{np.mean(losses[-50:]):.4f}", f"{used:.0f}")
                )
        shown = ", ".join(f"{size}: {right:.1%}" for size, right in tests.items())
        print(f"{name:22} {task:15} {shown}; {used:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
