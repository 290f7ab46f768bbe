"""What a machine with an accelerator can say in nine minutes: right, fast, which defaults, how much memory.

    pip install -e '.[peers]' 'jax[cuda12]' pytest && python -m benchmarks.accelerator
    python -m benchmarks.accelerator --limit 60 --only correct,memory     # on a CPU, to try it

    correct   every case of the tests by every method on the device, beside a CPU: outputs and gradients
    speed     flax.nnx, cuDNN by jax.experimental.rnn, PyTorch; small and large; float32, TF32, bfloat16
    choices   products before the loop or in it, unrolled loops, a tree or a loop, steps of a chunk
    memory    bytes of a gradient by each method, beside what `gradient_memory` predicts

Each line of the result is written as soon as it is known, to `runs/accelerator/results.json`; at the limit or
at the end, `results.txt` is the page of text that the site shows. What fails is a line, too.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import statistics
import sys
import threading
import time
import traceback
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves PyTorch some memory of a GPU
sys.path.insert(0, str(Path(__file__).parent))

import jax
import jax.numpy as jnp
import numpy as np
import speed
from jax import lax
from peers import ON_JAX, ON_TORCH, Size, present

import jrnn

OUT = Path("runs/accelerator")
SMALL, LARGE = Size(1, 200, 128, 128), Size(128, 200, 1024, 1024)
SPEED = [SMALL, Size(32, 100, 128, 128), Size(20, 35, 650, 650), Size(8, 400, 96, 192), LARGE]
PRECISIONS = {
    "float32": ("highest", "float32"),
    "TF32": ("default", "float32"),
    "bfloat16": ("default", "bfloat16"),
}
SHARES = {"correct": 0.38, "speed": 0.32, "choices": 0.2, "memory": 0.1}  # of the time


class Results:
    """Records, written at once; the page of text at the end or at the limit, whichever comes first."""

    def __init__(self, limit):
        self.begun, self.limit, self.records = time.monotonic(), limit, []
        self.lock = threading.RLock()
        timer = threading.Timer(limit, self.finish, args=("stopped at the limit",))
        timer.daemon = True
        timer.start()

    def add(self, part, **record):
        with self.lock:
            self.records.append({"part": part, "after_s": round(time.monotonic() - self.begun, 1)} | record)
            found = {"surroundings": surroundings(), "records": self.records}
            scratch = OUT / "results.json.new"
            scratch.write_text(json.dumps(found, indent=1, default=str))
            scratch.replace(OUT / "results.json")
            print(json.dumps(self.records[-1], default=str), flush=True)

    def left(self, until):
        """Seconds until a share of the limit is used up."""
        return until * self.limit - (time.monotonic() - self.begun)

    def finish(self, why="complete"):
        with self.lock:
            (OUT / "results.txt").write_text(page(self.records, why))
            print((OUT / "results.txt").read_text(), flush=True)
            os._exit(0)  # other threads may be compiling


@functools.cache
def surroundings():
    device = jax.devices()[0]
    memory = device.memory_stats() or {}
    return {
        "device": device.device_kind,
        "devices": len(jax.devices()),
        "bytes": memory.get("bytes_limit"),
        "jax": jax.__version__,
        "jrnn": jrnn.__version__,
        "cores": os.cpu_count(),
    }


# correct


def methods_of(case):
    """Methods that run a case by themselves, and `Scan`; first those that never ran on an accelerator."""
    methods = {}
    if jrnn.cell.is_linear(case.cell):
        methods |= {"tree": jrnn.Associative(tree=True), "loop": jrnn.Associative(tree=False)}
    if type(case.cell).__name__ in chunked_cells():
        methods["Chunked"] = jrnn.Chunked(4)
    if isinstance(case.cell, jrnn.LSTM) and jax.default_backend() == "gpu":
        methods["CuDNN"] = jrnn.CuDNN(otherwise=jrnn.Scan())
    if isinstance(case.cell, jrnn.LSTM | jrnn.Stack):
        methods["sqrt"] = jrnn.Scan("sqrt")
    return methods | {"Scan": jrnn.Scan()}


@functools.cache
def chunked_cells():
    from benchmarks.chunked import cells

    return frozenset(cells(8, 2))


def difference(case, method):
    """The largest relative difference of outputs and gradients between the device and a CPU."""
    from tests.cases import subject_of

    subject = subject_of(case)
    arguments = subject.params(), subject.xs(9, 3), np.array([9, 4, 0], np.int32)

    def loss(params, xs, lengths):
        ys = jrnn.unroll(case.cell, params, xs, lengths=lengths, method=method)[1]
        return sum(jnp.sum(jnp.sin(leaf.real)) for leaf in jax.tree.leaves(ys)), ys

    def run(device):
        on_device = jax.device_put(arguments, device)
        with jax.default_matmul_precision("highest"):
            return jax.device_get(jax.jit(jax.value_and_grad(loss, has_aux=True, allow_int=True))(*on_device))

    worst = 0.0
    pairs = zip(*(jax.tree.leaves(run(d)) for d in (jax.devices()[0], jax.devices("cpu")[0])), strict=True)
    for a, b in pairs:
        if a.size and jnp.issubdtype(a.dtype, jnp.inexact):
            scale = max(float(np.abs(b).max()), 1.0)
            worst = max(worst, float(np.abs(np.asarray(a, b.dtype) - b).max()) / scale)
    return worst


def check(job):
    """A record of one case by one method; run in a process of its own, as tracing holds Python's lock."""
    from tests.cases import CASES

    place, name = job
    case, found = CASES[place], {"cell": str(CASES[place].cell), "method": name}
    try:
        return found | {"difference": difference(case, methods_of(case)[name])}
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        return found | {"error": f"{type(error).__name__}: {reason}"}


def correct(results, until):
    from tests.cases import CASES

    jobs = [(place, name) for place, case in enumerate(CASES) for name in methods_of(case)]
    jobs.sort(key=lambda job: job[1] == "Scan")
    workers = max(2, (os.cpu_count() or 2) // 2)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        done = pool.imap_unordered(check, jobs)
        with contextlib.suppress(StopIteration, multiprocessing.TimeoutError):
            while True:
                results.add("correct", **done.next(timeout=max(results.left(until), 0.1)))


# speed


def timed(run, least_s=0.2):
    """The median of several runs, in milliseconds."""
    jax.block_until_ready(run())
    times = []
    while sum(times) < least_s or len(times) < 5:
        begun = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times)


def contestants(layer, size, dtype):
    """Training step and outputs of each library that has the layer, by name."""
    for name in ("jrnn", "flax.nnx", "jax.experimental.rnn", "PyTorch"):
        if not present(name) or (dtype != "float32" and name in ("jax.experimental.rnn", "PyTorch")):
            continue
        model = (ON_JAX | ON_TORCH)[name](layer, size)
        if model is None:
            continue
        if name in ON_JAX:
            cast = lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a
            params, inputs = jax.tree.map(cast, (model.params, model.inputs))
            model = model._replace(params=params, inputs=inputs)
            works = speed.jax_works(model, speed.KINDS)
        else:
            works = speed.torch_works(model, speed.KINDS)
        for kind, work in works.items():
            yield name, kind, work.run


def set_precision(precision):
    jax.config.update("jax_default_matmul_precision", precision)
    if present("PyTorch"):
        import torch

        torch.set_float32_matmul_precision("high" if precision == "default" else "highest")


def races(results, until):
    for layer in ("LSTM", "GRU", "Elman", "BiLSTM"):
        for size in SPEED:
            for label, (precision, dtype) in PRECISIONS.items():
                set_precision(precision)
                try:
                    for name, kind, run in contestants(layer, size, dtype):
                        if results.left(until) < 0:
                            return
                        ms = timed(run)
                        results.add(
                            "speed", layer=layer, size=str(size), precision=label, kind=kind, who=name, ms=ms
                        )
                finally:
                    set_precision(None if precision == "default" else "default")


# choices


def gradient(cell, size, unroll):
    params = cell.init(jax.random.key(0), size.features)
    xs = jax.random.normal(jax.random.key(1), (size.steps, size.batch, size.features))
    return jax.jit(jax.grad(lambda p, x: jnp.sum(unroll(p, x) ** 2))), (params, xs)


def choices(results, until):
    from jrnn.unrolling._engine import prepare
    from jrnn.unrolling.driver import make_loop

    def by_choice(cell, precompute_all, params, xs):
        prepared = prepare(make_loop(cell, params, xs), precompute_all=precompute_all)
        return prepared.finish(*prepared.run_stages(prepared.consts, prepared.carry, prepared.xs))[1]

    def by_scan(cell, factor, params, xs):
        start = cell.initial_carry(params, xs.shape[1:-1])
        return lax.scan(lambda carry, x: cell.step(params, carry, x), start, xs, unroll=factor)[1]

    def measured(what, choice, cell, size, run):
        if results.left(until) > 0:
            function, arguments = gradient(cell, size, run)
            ms = timed(lambda: function(*arguments))
            results.add("choices", what=what, choice=choice, cell=str(cell), size=str(size), ms=ms)

    linear, matrix = jrnn.LRU(256), jrnn.GatedDeltaNet(256, heads=4)
    for size in (SMALL, Size(32, 100, 128, 128), LARGE):
        for cell in (jrnn.LSTM(size.hidden), jrnn.GRU(size.hidden)):
            for precompute_all in (True, False):
                run = functools.partial(by_choice, cell, precompute_all)
                measured("products before the loop", precompute_all, cell, size, run)
        cell = jrnn.LSTM(size.hidden)
        for factor in (1, 2, 4, 8, 16):
            measured("unroll of lax.scan", factor, cell, size, functools.partial(by_scan, cell, factor))
    for steps in (256, 4096, 65536):
        for tree in (True, False):
            run = functools.partial(unrolled, linear, jrnn.Associative(tree=tree))
            measured("tree", tree, linear, Size(4, steps, 64, 256), run)
    for chunk in (16, 32, 64, 128, 256):
        run = functools.partial(unrolled, matrix, jrnn.Chunked(chunk))
        measured("steps of a chunk", chunk, matrix, Size(8, 2048, 64, 256), run)
    measured(
        "steps of a chunk",
        "Scan",
        matrix,
        Size(8, 256, 64, 256),
        functools.partial(unrolled, matrix, jrnn.Scan()),
    )


def unrolled(cell, method, params, xs):
    return jrnn.unroll(cell, params, xs, method=method)[1]


# memory


def memory(results, until):
    cell, size = jrnn.LSTM(512), Size(32, 1000, 512, 512)
    for name, method in {
        "Scan": jrnn.Scan(),
        "sqrt": jrnn.Scan("sqrt"),
        "64 MiB": jrnn.Scan(64 << 20),
    }.items():
        if results.left(until) < 0:
            return
        function, arguments = gradient(cell, size, functools.partial(unrolled, cell, method))
        used = function.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
        predicted = jrnn.gradient_memory(cell, *arguments, method=method)
        ms = timed(functools.partial(function, *arguments))
        results.add("memory", method=name, predicted=predicted, temporaries=used, ms=ms)


# the page


def page(records, why):
    """The results as text."""
    facts = surroundings()
    lines = [f"{facts['device']}, jax {facts['jax']}, jrnn {facts['jrnn']}: {why}", ""]
    found = {part: [r for r in records if r["part"] == part] for part in (*SHARES, "failed")}
    tried = [r for r in found["correct"] if "difference" in r]
    wrong = [r for r in tried if not r["difference"] < 1e-4]
    refused = [r for r in found["correct"] if "error" in r]
    worst = max((r["difference"] for r in tried), default=0.0)
    lines.append(
        f"correct: {len(tried)} runs, {len(wrong)} beyond 1e-4, {len(refused)} failed; largest {worst:.1e}"
    )
    lines += [
        f"  {r['cell']}, {r['method']}: {r.get('error', r.get('difference'))}" for r in (*wrong, *refused)
    ]
    lines += ["", "speed: milliseconds, and the time of each over that of jrnn"]
    rows = {}
    for r in found["speed"]:
        rows.setdefault((r["layer"], r["size"], r["precision"], r["kind"]), {})[r["who"]] = r["ms"]
    for row, times in rows.items():
        ours = times.get("jrnn", float("nan"))
        others = [f"{who} {ms / ours:.2f}" for who, ms in times.items() if who != "jrnn"]
        lines.append(f"  {' '.join(row)}: jrnn {ours:.3g} ms; {', '.join(others)}")
    lines += ["", "choices: milliseconds of a gradient"]
    rows = {}
    for r in found["choices"]:
        rows.setdefault((r["what"], r["cell"], r["size"]), []).append(f"{r['choice']} {r['ms']:.3g}")
    lines += [f"  {what}, {cell} {size}: {', '.join(times)}" for (what, cell, size), times in rows.items()]
    lines += ["", "memory: predicted and measured MiB of temporaries, milliseconds of a gradient"]
    for r in found["memory"]:
        lines.append(f"  {r['method']}: {r['predicted'] >> 20}, {r['temporaries'] >> 20}, {r['ms']:.3g} ms")
    lines += ["", *(f"failed: {r['what']}\n{r['error']}" for r in found["failed"])]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=float, default=530, help="seconds (default: 530)")
    parser.add_argument("--only", default=",".join(SHARES), help=f"some of {', '.join(SHARES)}")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    results = Results(options.limit)
    wanted, until = options.only.split(","), 0.0
    total = sum(SHARES[part] for part in wanted)
    for part in wanted:
        until += SHARES[part] / total
        try:
            {"correct": correct, "speed": races, "choices": choices, "memory": memory}[part](results, until)
        except Exception:  # the other parts go on
            results.add("failed", what=part, error=traceback.format_exc())
    results.finish()


if __name__ == "__main__":
    main()
