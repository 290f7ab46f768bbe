"""Resident memory while training on a file of tokens that is larger than it should take.

python benchmarks/memmap.py [GB]     a sparse file of 2 GB, of which nothing is written
"""

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax

import jrnn

GB = 2**30
STEPS, ROWS, TIME = 100, 32, 128


def resident():
    """Megabytes of this process in memory: its own, and pages of files, which the system may drop."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.startswith("Rss")}
    return found["RssAnon"], found["RssFile"]


def train(batches, stateful):
    """Train for some steps: the memory after the first one, and the most of all."""
    model, seen = jrnn.Stack((jrnn.Embed(16), jrnn.GRU(32), jrnn.Dense(256))), []
    stride = len(batches) // STEPS  # so that the whole file is visited
    jrnn.fit(
        model, (batches[stride * i] for i in range(STEPS)), jrnn.PerStep(jrnn.losses.cross_entropy),
        optimizer=optax.sgd(0.1), key=jax.random.key(0), in_features=256, stateful=stateful,
        progress=jrnn.Progress(bar=False), monitors=(lambda *_: seen.append(resident()),),
    )  # fmt: skip
    return seen[0], np.max(seen, axis=0)


if __name__ == "__main__":
    size = int(float(sys.argv[1]) * GB) if len(sys.argv) > 1 else 2 * GB
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.bin"
        with path.open("wb") as file:
            file.truncate(size)
        tokens = np.memmap(path, np.uint16, mode="r")
        for kind, stateful in ((jrnn.Stream, True), (jrnn.Windows, False)):
            batches = kind(tokens, ROWS, TIME)
            (own, pages), (most, most_pages) = train(batches, stateful)
            print(
                f"{kind.__name__} of {size / GB:.1f} GB, {len(batches)} batches: own memory {own} MB after a "
                f"step, {most} MB at most; pages of files {pages} MB, {most_pages} MB",
                flush=True,
            )
