"""Exported models: how many cells leave as ONNX and StableHLO, a model as a stream, and times of onnxruntime.

    python -m benchmarks.exported           times beside jrnn, in turns: a step of a stream, and a batch
    python -m benchmarks.exported stream    size and start of the model of `jrnn train`, sampled without JAX
    python -m benchmarks.exported cells     every case of the tests in both formats; some minutes

The tests marked slow run some of the cases in onnxruntime and in JAX, and all with EVERY_CASE=1.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

import jrnn

CELL, IN = jrnn.LSTM(256), 64
SHAPES = {"a step of one row": (1, 1), "100 steps of 32 rows": (100, 32)}


def times():
    params = CELL.init(jax.random.key(0), IN)
    runs = {"jrnn": jax.jit(lambda xs: jrnn.unroll(CELL, params, xs)[1])}
    onnxruntime.set_default_logger_severity(3)
    for name, operators in (("onnxruntime, LSTM", True), ("onnxruntime, Scan", False)):
        proto = jrnn.export.onnx(CELL, params, jnp.ones((1, 1, IN)), operators=operators)
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        runs[name] = lambda xs, session=session: session.run(["ys"], {"xs": xs})[0]
    for shape, (steps, rows) in SHAPES.items():
        xs = np.random.default_rng(0).standard_normal((steps, rows, IN)).astype(np.float32)
        ys = {name: np.asarray(run(xs)) for name, run in runs.items()}
        worst = max(abs(y - ys["jrnn"]).max() for y in ys.values())
        times = {name: [] for name in runs}
        for _ in range(2000 // steps):
            for name, run in runs.items():
                begin = time.perf_counter()
                jax.block_until_ready(run(xs))
                times[name].append(time.perf_counter() - begin)
        medians = {name: statistics.median(found) for name, found in times.items()}
        print(f"{shape}: largest difference {worst:.1e}")
        for name, median in medians.items():
            print(f"  {name:18} {1e6 * median:9.1f} µs, {median / medians['jrnn']:.2f} of jrnn")


START = """
import time
begin = time.perf_counter()
import numpy as np, onnxruntime
imported = time.perf_counter()
onnxruntime.set_default_logger_severity(3)
session = onnxruntime.InferenceSession({path!r})
session.run(["ys"], {{"xs": np.ones((1, 1), np.int32)}})
ready = time.perf_counter()
for _ in range(200):
    session.run(["ys"], {{"xs": np.ones((1, 1), np.int32)}})
print(imported - begin, ready - imported, (time.perf_counter() - ready) / 200)
"""


def stream():
    """The model that `jrnn train` makes unless told otherwise, for 65 characters."""
    from jrnn._cli import TrainConfig

    model = TrainConfig().model(66)
    params = model.init(jax.random.key(0), 66)
    proto = jrnn.export.onnx(model, params, jax.ShapeDtypeStruct((1, 1), jnp.int32), carry=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        code = START.format(path=str(path))
        runs = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(5)
        ]
        imports, first, step = (
            sorted(map(float, run)) for run in zip(*(r.stdout.split() for r in runs), strict=True)
        )
        numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
        print(f"{model}: {path.stat().st_size:,} bytes, {numbers:,} numbers")
    print(
        f"median of 5: import of NumPy and onnxruntime {imports[2]:.2f} s, loading and the first step ",
        end="",
    )
    print(f"{1000 * first[2]:.0f} ms, every other step {1e6 * step[2]:.0f} µs")


def cells():
    """Count the cases that can be exported, with the reason for each that cannot."""
    from tests.cases import CASES, subject_of

    reasons = {"onnx": [], "stablehlo": []}
    for case in CASES:
        subject = subject_of(case)
        for name, failed in reasons.items():
            try:
                getattr(jrnn.export, name)(case.cell, subject.params(), subject.xs(1, 1), lengths=True)
            except Exception as error:
                failed.append(f"  {case.cell}: {error}")
    kinds = {type(case.cell) for case in CASES}
    for name, failed in reasons.items():
        print(
            f"{name}: {len(CASES) - len(failed)} of {len(CASES)} cases, of {len(kinds)} kinds",
            *failed,
            sep="\n",
        )


if __name__ == "__main__":
    {"stream": stream, "cells": cells}.get(sys.argv[1] if sys.argv[1:] else "", times)()
