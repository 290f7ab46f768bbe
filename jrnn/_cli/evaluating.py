"""`jrnn evaluate`: the loss of a trained model on a text."""

import argparse
import contextlib
from pathlib import Path

import jrnn
from jrnn._cli.sampling import load_run, tokenizer_of
from jrnn._cli.texts import Tokenizer, described
from jrnn._cli.training import METHOD, read

STEPS = 512  # that are read at once; the state is carried on


def evaluate(arguments: argparse.Namespace) -> int:
    """Run `jrnn evaluate`: read a text from its beginning to its end with the best model of a run."""
    with contextlib.suppress(RuntimeError):  # jax is already initialized: use its devices
        jrnn.use_fused_loops()
        jrnn.use_cores()
    snapshot = load_run(Path(arguments.run_directory), best=True)
    nats, count, tokenizer = measured(snapshot, read(arguments.text))
    print(f"{described(nats, tokenizer.level)}; {count:,} {tokenizer.units}, each after all before it")
    return 0


def measured(snapshot: jrnn.Snapshot, text: str) -> tuple[float, int, Tokenizer]:
    """The loss of a model of `jrnn train` on a text, the number of predictions, and what it reads."""
    tokenizer = tokenizer_of(snapshot.meta)
    tokens = tokenizer.encode(text)
    if len(tokens) < 2:
        raise ValueError(f"the text is too short: it has {len(tokens)} {tokenizer.units}, needs 2")
    before, after = tokens[:-1, None], tokens[1:, None]
    batches = [
        jrnn.Batch(before[start : start + STEPS], after[start : start + STEPS])
        for start in range(0, len(before), STEPS)
    ]
    loss = jrnn.PerStep(jrnn.losses.cross_entropy)
    nats = jrnn.evaluate(snapshot.cell, snapshot.params, batches, loss, stateful=True, method=METHOD)
    return nats, len(after), tokenizer
