"""Results, times and memory on an accelerator, in nine minutes.

    python -m benchmarks.accelerator
    python -m benchmarks.accelerator --limit 60 --only correct,memory --out page    # on a CPU, to try it

    correct   cases of the tests by every method on the device, beside `Scan` on a CPU: outputs and gradients
    speed     flax.nnx, cuDNN by jax.experimental.rnn, PyTorch; small and large; TF32, float32, bfloat16
    choices   a tree or a loop, steps of a chunk, x W before the loop or in it, Newton or Scan
    memory    bytes of a gradient by each method, beside what `gradient_memory` predicts

It runs from a checkout and needs jax, numpy and scipy; flax and torch are measured where they are. After each
measurement it writes `results.json`, and `results.txt`, a page of text. What fails is a line of that page.
"""

import argparse
import functools
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves other processes memory of a GPU
sys.path.insert(0, str(Path(__file__).parent))

import jax
import jax.numpy as jnp
import numpy as np
import speed
from peers import ON_JAX, ON_TORCH, PACKAGES, Size, present

import jrnn
from jrnn.unrolling._engine import prepare
from jrnn.unrolling.driver import make_loop

LAYERS, ROUNDS, TOLERANCE = ("LSTM", "GRU", "Elman", "BiLSTM"), 7, 1e-4
SMALL, LARGE = Size(1, 200, 128, 128), Size(128, 200, 1024, 1024)
IN_LOOP = (Size(8, 400, 256, 256), Size(32, 100, 128, 128), LARGE)  # where a CPU leaves x W in the loop
# matmuls in JAX, None: as it is; weights and inputs
PRECISIONS = {"TF32": (None, "float32"), "float32": ("highest", "float32"), "bfloat16": (None, "bfloat16")}
SCAN, LINEAR, MATRIX = jrnn.Scan(), jrnn.LRU(256), jrnn.GatedDeltaNet(256, heads=4)
TREE_OR_LOOP = {"tree": jrnn.Associative(tree=True), "loop": jrnn.Associative(tree=False)}


class Results:
    """Records and their page, which are written after each measurement."""

    def __init__(self, out, limit):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.limit, self.begun = out, limit, time.monotonic()
        self.records, self.planned, self.lock = [], {}, threading.RLock()

    def left(self, until):
        """Seconds until a share of the limit is used up."""
        return max(until * self.limit - (time.monotonic() - self.begun), 0)

    def add(self, part, row, who, **values):
        with self.lock:
            record = {"part": part, "row": row, "who": who, "after_s": time.monotonic() - self.begun}
            self.records.append(record | values)
            print(json.dumps(self.records[-1]), flush=True)
            self.write("so far")

    def write(self, state):
        text = page(self.records, self.planned, state)
        found = {"surroundings": surroundings(), "planned": self.planned, "records": self.records}
        for name, content in {"results.json": json.dumps(found, indent=1), "results.txt": text}.items():
            (self.out / name).write_text(content)
        return text

    def finish(self, state):
        """Write, and end this process and all others, whatever they compile."""
        with self.lock:
            print(self.write(state), flush=True)
            for process in multiprocessing.active_children():
                process.kill()
            os._exit(0)


def attempt(measure):
    """The values that a measurement gives, or the reason why it failed: the others go on."""
    try:
        return measure()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def measure_all(results, part, jobs, until, workers, fresh=False):
    """Measure jobs, (row, who, function), in processes, fresh ones or not; one that dies costs its job."""
    results.planned[part], waiting = len(jobs), iter(jobs)
    hire = functools.partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"))

    def work(_):
        process = hire()
        for row, who, measure in waiting:
            try:
                values = process.submit(attempt, measure).result(results.left(until))
            except TimeoutError:
                return
            except BrokenExecutor as error:
                values, process = {"failed": str(error)}, hire()
            results.add(part, row, who, **values)
            process = hire() if fresh else process

    with ThreadPool(workers) as threads:
        threads.map(work, range(workers), chunksize=1)
    for process in multiprocessing.active_children():
        process.kill()


def methods_of(case):
    """Methods that run a case."""
    from benchmarks.chunked import cells
    from tests.cases import FIRST

    cell, methods, gated = case.cell, {}, isinstance(case.cell, jrnn.LSTM | jrnn.GRU)
    if isinstance(cell, jrnn.LSTM) and cell.activation == "tanh" and jax.default_backend() == "gpu":
        methods["CuDNN"] = jrnn.CuDNN()
    if type(cell).__name__ in cells(8, 2):
        methods["Chunked"] = jrnn.Chunked(4)
    if jrnn.cell.is_linear(cell):
        methods |= TREE_OR_LOOP
    if gated and case in FIRST:
        methods |= {"Newton": jrnn.Newton(), "RTRL": jrnn.RTRL()}
    if gated or isinstance(cell, jrnn.Elman | jrnn.SLSTM | jrnn.Stack):
        methods["sqrt"] = jrnn.Scan("sqrt")
    return methods | {"Scan": SCAN}


def inexact(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def by_unroll(cell, method, params, xs, lengths):
    """A loss, its gradient, and all that the method returns."""

    def loss(params):
        carry, ys = jrnn.unroll(cell, params, xs, lengths=lengths, method=method)
        return sum(jnp.sum(jnp.sin(leaf.real)) for leaf in jax.tree.leaves(ys)), inexact((carry, ys))

    (value, found), gradient = jax.value_and_grad(loss, has_aux=True, allow_int=True)(params)
    return value, inexact(gradient), found


def by_online(cell, method, params, xs, lengths):
    """The same loss and its gradient, forward in time."""
    online = jrnn.Online(cell, lambda y, _, valid: jnp.sum(jnp.where(valid[:, None], jnp.sin(y), 0)), method)

    def step(before, given):
        *after, loss, gradient = online.step(*before, params, given[0], None, valid=given[1])
        return after, (loss, inexact(gradient))

    valid = jnp.arange(len(xs))[:, None] < lengths
    found = jax.lax.scan(step, list(online.init(params, xs[0])), (xs, valid))[1]
    return jax.tree.map(lambda a: a.sum(0), found)


def difference(given, needed):
    """The largest difference, relative to the largest number of each array above 1; NaN if there is one."""
    found = [0.0]
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
        if a.size:
            found.append(np.abs(np.asarray(a, b.dtype) - b).max() / np.maximum(np.abs(b).max(), 1.0))
    return float(np.max(found))  # `max` would pass over NaN


def check(place, name):
    """A case by a method on the device, beside `Scan` on a CPU."""
    from tests.cases import CASES, subject_of

    case, subject = CASES[place], subject_of(CASES[place])
    with jax.default_matmul_precision("highest"):
        with jax.default_device(jax.devices("cpu")[0]):
            lengths = None if name == "CuDNN" else np.array([9, 4, 0], np.int32)
            arguments = subject.params(), subject.xs(9, 3), lengths
            needed = subject.run(functools.partial(by_unroll, case.cell, SCAN), *arguments)
        run = by_online if name == "RTRL" else by_unroll
        program = jax.jit(functools.partial(run, case.cell, methods_of(case)[name]))
        given = jax.device_get(program(*arguments))
    if not (found := difference(given, needed[: len(given)])) <= TOLERANCE:
        raise ValueError(f"differs by {found:.1e}")
    return {"difference": found}


def correct():
    from tests.cases import CASES

    order = "CuDNN", "Newton", "RTRL", "tree", "loop", "Chunked", "sqrt", "Scan"  # new to a GPU come first
    pairs = [(place, name) for name in order for place, case in enumerate(CASES) if name in methods_of(case)]
    return [(name, str(CASES[place].cell), functools.partial(check, place, name)) for place, name in pairs]


def race(who, layer, size, precision, dtype):
    """Milliseconds of a training step and of outputs alone."""
    options = {} if dtype == "float32" else {"dtype": dtype}
    with jax.default_matmul_precision(precision):
        model = (ON_JAX | ON_TORCH)[who](layer, size, **options)
        if who in ON_TORCH:
            speed.allow_tf32(precision is None)
        works = (speed.torch_works if who in ON_TORCH else speed.jax_works)(model, speed.KINDS)
    works = {f"{kind} ms": speed.checked(who, kind, work, model, size) for kind, work in works.items()}
    return {name: statistics.median(times) for name, times in speed.measure(works, ROUNDS).items()}


def races():
    middle = Size(32, 100, 128, 128), Size(8, 400, 96, 192), Size(20, 35, 650, 650)
    contests = [
        *((layer, size, "TF32") for size in (SMALL, LARGE) for layer in LAYERS),
        *(("LSTM", size, label) for label in ("float32", "bfloat16") for size in (SMALL, LARGE)),
        *((layer, size, "float32") for layer in LAYERS[1:] for size in (SMALL, LARGE)),
        *((layer, size, "TF32") for size in middle for layer in LAYERS),
    ]
    kernels = {"jrnn, CuDNN": ("LSTM",), "jax.experimental.rnn": ("LSTM", "BiLSTM")}  # of float32
    layers_of = dict.fromkeys(("jrnn", "flax.nnx", "PyTorch"), LAYERS)
    layers_of |= kernels if jax.default_backend() == "gpu" else {}
    absent = [who for who in layers_of if not present(who)]  # the import says so
    jobs = [(who, "", functools.partial(importlib.import_module, PACKAGES[who][0])) for who in absent]
    for layer, size, label in contests:
        for who in filter(present, layers_of):
            if layer in layers_of[who] and not (label == "bfloat16" and who in kernels):
                measure = functools.partial(race, who, layer, size, *PRECISIONS[label])
                jobs.append((f"{layer} {size} {label}", who, measure))
    return jobs


def by_choice(choice, cell, params, xs):
    """Outputs by a method, or by the engine with or without all matmuls before the loop."""
    if not isinstance(choice, bool):
        return jrnn.unroll(cell, params, xs, method=choice)[1]
    prepared = prepare(make_loop(cell, params, xs), precompute_all=choice)
    return prepared.finish(*prepared.run_stages(prepared.consts, prepared.carry, prepared.xs))[1]


def work_of(choice, cell, size):
    """A compiled gradient of all weights, and its arguments."""
    params = cell.init(jax.random.key(0), size.features)
    xs = np.random.default_rng(0).standard_normal((size.steps, size.batch, size.features), np.float32)
    loss = lambda params, xs: jnp.sum(by_choice(choice, cell, params, xs) ** 2)
    return speed.jax_work(jax.grad(loss), (params, jnp.asarray(xs))), params, xs


def time_of(choice, cell, size):
    work, *_ = work_of(choice, cell, size)
    return {"ms": statistics.median(speed.measure({"": work}, ROUNDS)[""]), "compile_s": work.compile_s}


def compare(measure, what, cell, size, choices):
    row = f"{what}, {cell} {size}"
    return [(row, who, functools.partial(measure, choice, cell, size)) for who, choice in choices.items()]


def choices():
    jobs, chunks = [], {f"{n}": jrnn.Chunked(n) for n in (16, 32, 64, 128, 256)} | {"Scan": SCAN}
    for steps in (256, 2048, 8192):
        jobs += compare(time_of, "tree or loop", LINEAR, Size(4, steps, 64, 256), TREE_OR_LOOP)
    for cell in (MATRIX, jrnn.MLSTM(256, heads=4)):
        jobs += compare(time_of, "steps of a chunk", cell, Size(8, 2048, 64, 256), chunks)
    newton = {"Newton": jrnn.Newton(), "Scan": SCAN}
    jobs += compare(time_of, "Newton or Scan", jrnn.GRU(16), Size(4, 4096, 16, 16), newton)
    for size in IN_LOOP:
        for cell in (jrnn.LSTM(size.hidden), jrnn.GRU(size.hidden)):
            jobs += compare(time_of, "x W", cell, size, {"before the loop": True, "in it": False})
    return jobs


def bytes_of(method, cell, size):
    """MiB of a gradient: temporaries, their prediction without the loss, a peak if the device tells."""
    work, params, xs = work_of(method, cell, size)
    found, device = {"temporaries": work.temp_bytes}, jax.devices()[0]
    if hasattr(method, "gradient_bytes"):
        found["predicted"] = jrnn.gradient_memory(cell, params, xs, method=method)
    if before := device.memory_stats():
        work.run()
        peak = device.memory_stats()["peak_bytes_in_use"]
        grown = peak > before["peak_bytes_in_use"]  # else compilation, which tries kernels out, needed more
        found["peak" if grown else "peak at most"] = peak - before["bytes_in_use"]
    return {f"{name} MiB": count / 2**20 for name, count in found.items() if count is not None}


def memory():
    lstm = {"Scan": SCAN, "sqrt": jrnn.Scan("sqrt"), "64 MiB": jrnn.Scan(64 << 20)}
    lstm |= {"CuDNN": jrnn.CuDNN()} if jax.default_backend() == "gpu" else {}
    return [
        *compare(bytes_of, "memory", jrnn.LSTM(512), Size(32, 1000, 512, 512), lstm),
        *compare(bytes_of, "memory", LINEAR, Size(16, 4096, 256, 256), {"Scan": SCAN} | TREE_OR_LOOP),
        *compare(
            bytes_of, "memory", MATRIX, Size(8, 2048, 64, 256), {"Scan": SCAN, "Chunked": jrnn.Chunked()}
        ),
    ]


@functools.cache
def surroundings():
    peers = filter(present, ("jax.experimental.rnn", "flax.nnx", "PyTorch"))
    return speed.surroundings(argparse.Namespace(peers=list(peers), rounds=ROUNDS))


def told(records):
    """The values of a row, one record after the other; of results the largest difference alone."""
    if records[0]["part"] == "correct":
        worst = max(r["difference"] for r in records)
        return f"{len(records)} cases as on a CPU, the largest difference {worst:.1e}"
    values = lambda r: ", ".join(f"{name} {r[name]:.4g}" for name in list(r)[4:])
    return "; ".join(f"{r['who']}: {values(r)}" for r in records)


def page(records, planned, state):
    """The records as text."""
    lines = [*(f"{name}: {value}" for name, value in surroundings().items()), f"state: {state}"]
    for part, count in planned.items():
        found = [r for r in records if r["part"] == part]
        good, failed = [r for r in found if "failed" not in r], [r for r in found if "failed" in r]
        lines += ["", f"{part}: {len(good)} of {count}, {len(failed)} failed"]
        for row in dict.fromkeys(r["row"] for r in good):
            lines.append(f"  {row}: {told([r for r in good if r['row'] == row])}")
        lines += [f"  failed: {r['row']} {r['who']}: {r['failed']}" for r in failed]
    return "\n".join(lines) + "\n"


MANY = max(2, (os.cpu_count() or 2) * 3 // 4)  # processes, as tracing holds Python's lock
PARTS = {  # share of the time, jobs, processes, whether fresh ones: a peak is that of a process
    "correct": (0.35, correct, MANY, False),
    "speed": (0.35, races, 1, False),
    "choices": (0.2, choices, 1, False),
    "memory": (0.1, memory, MANY, True),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=float, default=500, help="seconds (default: 500)")
    parser.add_argument("--only", type=speed.listed(PARTS), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("runs/accelerator"))
    options = parser.parse_args()
    results, until = Results(options.out, options.limit), 0.0
    timer = threading.Timer(options.limit, results.finish, args=("stopped at the limit",))
    timer.daemon = True
    timer.start()
    for part in options.only:
        share, jobs_of, *how = PARTS[part]
        until, results.planned[part] = until + share / sum(PARTS[name][0] for name in options.only), 0
        try:
            measure_all(results, part, jobs_of(), until, *how)
        except Exception as error:  # the other parts go on
            results.add(part, "jobs", "", failed=f"{type(error).__name__}: {error}")
    results.finish("at the end")


if __name__ == "__main__":
    main()
