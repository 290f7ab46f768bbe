"""`jrnn inspect`: look inside a trained model."""

import argparse
import importlib.util
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jrnn
from jrnn._cli.sampling import load_run, tokenizer_of
from jrnn._cli.training import _sha256, read

ROWS = 8  # sequences in the batch
LEAST = 10  # characters or words of a sequence


def inspect(arguments: argparse.Namespace) -> int:
    """Run `jrnn inspect`: measure the best model of a run on its held-out text, print, draw and write."""
    run = Path(arguments.run_directory)
    snapshot = load_run(run, best=True)
    tokenizer = tokenizer_of(snapshot.meta)
    if arguments.steps < LEAST:
        raise ValueError(f"--steps must be at least {LEAST}, got {arguments.steps}")
    tokens = tokenizer.encode(_text(run, snapshot.meta, arguments.text))
    steps = min(arguments.steps, (len(tokens) - 1) // ROWS)
    if steps < LEAST:
        needed = f"{len(tokens)} {tokenizer.units}, needs {LEAST * ROWS + 1}"
        raise ValueError(f"the text is too short: it has {needed}")
    batch = jrnn.Stream(tokens, ROWS, steps)[0]
    loss = jrnn.PerStep(jrnn.losses.cross_entropy)
    report = jrnn.analysis.inspect(snapshot.cell, snapshot.params, jax.tree.map(jnp.asarray, batch), loss)
    for name, verdict in report.verdicts.items():
        print(f"{name}: {verdict}")
    written = run / "inspect.json"
    written.write_text(json.dumps(report.as_json(), ensure_ascii=False), encoding="utf-8")
    print(f"\nnumbers: {written}")
    if importlib.util.find_spec("matplotlib") is None:
        print("no inspect.png: matplotlib is not installed, pip install 'jrnn[plots]'")
        return 0
    jrnn.plots.report(report).savefig(run / "inspect.png")
    print(f"page:    {run / 'inspect.png'}")
    return 0


def _text(run: Path, meta: dict[str, Any], given: Sequence[str]) -> str:
    """The text to inspect with: the held-out part, if it is the text that the run was trained on.

    Files named only in the checkpoint are not opened, since it may come from anywhere.
    """
    if (valid := meta["config"].get("valid")) and not given:
        named = shlex.quote(valid)
        raise ValueError(f"{run}: pass the text to inspect with; it was validated on --text {named}")
    if meta["files"] and not given:
        named = " ".join(map(shlex.quote, meta["files"]))
        raise ValueError(f"{run}: pass the text to inspect with; it was trained on --text {named}")
    text = read(given)
    return str(jrnn.data.split(text)[1]) if _sha256(text) == meta["sha256"] or not given else text
