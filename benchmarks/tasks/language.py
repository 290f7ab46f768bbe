"""Ten cells as character language models: bits per character, and what a step costs.

python benchmarks/tasks/language.py benchmarks/tasks/language.csv [--seeds 0 1] [--cells LSTM ...]

The model is that of `jrnn train --cell NAME --layers 2`, on the Python language reference that comes with
Python, and differs between its versions; its last tenth is held out. Of the widths that four heads can share,
each cell has the one that brings the model closest to the given number of parameters. A line is appended for
each cell and seed; what is in the file already is not run again, so the script can be stopped and started.
"""

import argparse
import csv
import math
import time
from pathlib import Path

import jax

import jrnn
from jrnn._cli import TrainConfig
from jrnn._cli.tables import count_parameters
from jrnn._cli.training import METHOD

CELLS = "LSTM", "GRU", "SLSTM", "MLSTM", "Mamba2", "GatedDeltaNet", "RWKV7", "HGRN2", "RetNet", "MinGRU"
PARAMETERS = 60_000
HEADER = "cell", "seed", "hidden", "parameters", "bits", "cpu_ms_per_step", "cpu_seconds"


def config_of(cell, vocabulary, seed):
    """The options of `jrnn train` that bring the model closest to the number of parameters."""

    def distance(hidden):
        return abs(count_parameters(options(hidden).model(vocabulary), vocabulary) - PARAMETERS)

    def options(hidden):
        return TrainConfig(cell, hidden, layers=2, embed=32, epochs=1, lr=6e-3, steps=32, seed=seed)

    return options(min(range(32, 129, 4), key=distance))


def train(config, vocabulary, parts):
    """Bits per character of the held-out text, milliseconds of CPU a step, and seconds in all."""
    training, held_out = (jrnn.Stream(vocabulary.encode(part), config.batch, config.steps) for part in parts)
    clock, steps = [], len(training) * config.epochs
    begun = time.process_time()
    result = jrnn.fit(
        config.model(len(vocabulary)),
        training,
        jrnn.PerStep(jrnn.losses.cross_entropy),
        optimizer=config.optimizer(steps),
        key=jax.random.key(config.seed),
        in_features=len(vocabulary),
        epochs=config.epochs,
        validation=held_out,
        stateful=True,
        method=METHOD,
        monitors=(lambda record, state: clock.append(time.process_time()),),
        progress=jrnn.Progress(bar=False),
    )
    seconds = time.process_time() - begun
    first, last = clock[len(clock) // 10], clock[-2]  # after compilation, before validation
    each = (last - first) / (len(clock) - 2 - len(clock) // 10)
    return result.history[-1]["validation"] / math.log(2), 1e3 * each, seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--cells", nargs="*", default=CELLS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    given = parser.parse_args()
    if not given.file.exists():
        given.file.write_text(",".join(HEADER) + "\n", encoding="utf-8")
    with given.file.open(encoding="utf-8", newline="") as file:
        done = {(row["cell"], int(row["seed"])) for row in csv.DictReader(file)}
    parts = jrnn.data.split(jrnn.data.python_reference())
    vocabulary = jrnn.CharVocabulary.from_text(parts[0])
    for seed in given.seeds:
        for cell in given.cells:
            if (cell, seed) in done:
                continue
            config = config_of(cell, len(vocabulary), seed)
            count = count_parameters(config.model(len(vocabulary)), len(vocabulary))
            bits, each, seconds = train(config, vocabulary, parts)
            row = cell, seed, config.hidden, count, f"{bits:.3f}", f"{each:.1f}", f"{seconds:.0f}"
            with given.file.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)
            print(*row, flush=True)


if __name__ == "__main__":
    main()
