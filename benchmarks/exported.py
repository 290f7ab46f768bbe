"""Run onnxruntime beside jrnn on one LSTM: a step of a stream, and a batch of sequences; times in turns."""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

import jrnn

CELL, IN = jrnn.LSTM(256), 64
SHAPES = {"a step of one row": (1, 1), "100 steps of 32 rows": (100, 32)}


def main():
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


if __name__ == "__main__":
    main()
