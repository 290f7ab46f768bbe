"""jrnn next to flax.nnx, haiku, equinox, keras and PyTorch: the same work, in one process, in turns.

python benchmarks/speed.py                                     # all layers and sizes
python benchmarks/speed.py --layers LSTM --sizes 32x100x128x128 --rounds 9
python benchmarks/speed.py --at-most 5                         # in pieces: what speed.csv lacks
python benchmarks/speed.py --scaling                           # train steps of LSTM over T, B and H
python benchmarks/speed.py --devices 1 --out runs/one          # as with a CPU that is one device
python benchmarks/speed.py --before v0.1 --peers ""            # beside jrnn as it was at a commit
python benchmarks/speed.py --from runs/*/speed.csv             # tables and chart of stored runs

`forward` is the outputs of all steps, `train` the gradients of their sum of squares for all weights.
"""

import argparse
import csv
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from peers import ON_JAX, ON_TORCH, PACKAGES, PRODUCTS, Size, flops, library, present
from speed_report import KINDS, OWN, SCALES, number, report, rows_of

SIZES = [  # the last two are not round: nothing was ever tuned to them
    *(Size(32, 100, 128, 128), Size(32, 100, 256, 256), Size(16, 1000, 64, 64), Size(1, 200, 128, 128)),
    *(Size(20, 35, 650, 650), Size(128, 50, 256, 256), Size(7, 61, 100, 200), Size(64, 80, 40, 96)),
]
AWKWARD = [  # small batches, long sequences, widths between powers of two
    *(Size(24, 80, 96, 192), Size(2, 300, 160, 160), Size(48, 40, 320, 320), Size(8, 400, 96, 192)),
    Size(4, 2000, 32, 32),
]
FEWER = {"BiLSTM": [SIZES[0], SIZES[4]], "Peephole": SIZES[:1], "MUT1": SIZES[:1], "Three LSTMs": SIZES[:1]}
TEXTS = ("layer", "size", "contestant", "kind")  # the columns of a record that are no numbers


class Work(NamedTuple):
    run: Callable[[], Any]  # does the work and waits for it
    compile_s: float | None = None
    temp_bytes: int | None = None  # per device


def jax_work(function, arguments, **options):
    begun = time.perf_counter()
    compiled = jax.jit(function, **options).lower(*arguments).compile()
    compile_s = time.perf_counter() - begun
    memory = compiled.memory_analysis()
    run = lambda: jax.block_until_ready(compiled(*arguments))
    return Work(run, compile_s, getattr(memory, "temp_size_in_bytes", None))


def jax_works(model, kinds, mesh=None):
    arguments, whole = (model.params, *model.inputs), None
    if mesh:
        whole = NamedSharding(mesh, PartitionSpec())
        rows = NamedSharding(mesh, PartitionSpec(*[None] * model.batch_axis, "batch"))
        places = (whole, rows, NamedSharding(mesh, PartitionSpec("batch")))  # of params, xs, lengths
        arguments = tuple(jax.device_put(a, p) for a, p in zip(arguments, places, strict=False))
    loss = lambda params, *inputs: jnp.sum(model.apply(params, *inputs) ** 2)
    functions = {"train": (jax.grad(loss), whole), "forward": (model.apply, None)}  # None: as XLA has it
    return {k: jax_work(functions[k][0], arguments, out_shardings=functions[k][1]) for k in kinds}


def torch_works(model, kinds):
    import torch

    wait = torch.cuda.synchronize if model.inputs[0].is_cuda else lambda: None
    outputs = lambda: model.apply(model.params, *model.inputs)
    gradients = lambda: torch.autograd.grad(outputs().square().sum(), model.params)
    works = {"train": gradients, "forward": torch.no_grad()(outputs)}
    return {kind: Work(lambda work=works[kind]: (work(), wait())[0]) for kind in kinds}


def checked(name, kind, work, model, size):
    """The work after a first run, whose results must be finite and of the right shape."""
    begun = time.perf_counter()
    results = [np.asarray(r.float().cpu() if hasattr(r, "cpu") else r) for r in jax.tree.leaves(work.run())]
    first_s = time.perf_counter() - begun
    if not all(np.isfinite(r).all() for r in results):
        raise ValueError(f"{name}: {kind} is not finite")
    rows = (size.steps, size.batch) if model.batch_axis else (size.batch, size.steps)
    if kind == "forward" and [r.shape[:-1] for r in results] != [rows]:
        raise ValueError(f"{name}: outputs have shapes {[r.shape for r in results]}, not {rows} and features")
    return work._replace(compile_s=first_s) if name == "PyTorch, compiled" else work


def works_of(name, layer, size, kinds, sharded):
    """{(contestant, kind): work} of a library; of some also with the batch over all devices."""
    model = (ON_JAX | ON_TORCH)[name](layer, size)
    if model is None:
        return {}
    found = {name: (torch_works if name in ON_TORCH else jax_works)(model, kinds)}
    count = len(jax.devices())
    if sharded and name in ("jrnn", "before", "flax.nnx") and count > 1 and size.batch % count == 0:
        mesh = jax.make_mesh((count,), ("batch",), axis_types=(AxisType.Auto,))
        found[f"{name}, {count} devices"] = jax_works(model, kinds, mesh)
    pairs = [(who, kind, work) for who, works in found.items() for kind, work in works.items()]
    return {(who, kind): checked(who, kind, work, model, size) for who, kind, work in pairs}


def allow_tf32(allowed):
    """Let PyTorch multiply float32 in TF32 on a GPU, in cuDNN too, or not."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def products(width):
    """One large product of matrices in each library: the speed that there is."""
    a = np.random.default_rng(0).standard_normal((width, width), np.float32)
    works = {("jax", "product"): jax_work(jnp.matmul, (jnp.asarray(a), jnp.asarray(a)))}
    if present("PyTorch"):
        import torch

        on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
        b = torch.from_numpy(a).to("cuda" if on_gpu else "cpu")
        torch.set_num_threads(os.cpu_count())
        works["torch", "product"] = Work(lambda: (b @ b, torch.cuda.synchronize() if on_gpu else None))
    return works


def measure(works, rounds):
    """Milliseconds of every round; in a round each has its turn.

    The order is drawn: in a fixed one, equal programs differed by a twentieth, by what ran before them.
    """
    times, order = {who: [] for who in works}, random.Random(0)
    for _ in range(rounds):
        for who in order.sample(list(works), len(works)):
            work = works[who]
            work.run()  # what the one before left in caches and thread pools is not to this one's charge
            begun = time.perf_counter()
            work.run()
            times[who].append(1e3 * (time.perf_counter() - begun))
    return times


def contest(layer, size, kinds, options, told):
    width = 8192 if jax.default_backend() == "gpu" else 2048
    works = products(width)
    for name in (n for n in (*ON_JAX, *ON_TORCH) if library(n) in options.peers):
        try:
            works |= works_of(name, layer, size, kinds, sharded=not options.scaling)
        except Exception as error:  # a peer that does not run here is left out; jrnn has to run
            if name == "jrnn":
                raise
            reason = f"{name} left out: {' '.join(str(error).split())[:300]}"
            if reason not in told:
                print(reason, flush=True)
            told.add(reason)
    times = measure(works, options.rounds)
    peak = max(2e-6 * width**3 / min(times.pop(who)) for who in list(times) if who[1] == "product")
    facts = {"layer": layer, "size": list(size), "peak_gflops": peak}
    return [
        facts
        | {"contestant": name, "kind": kind, "median_ms": statistics.median(ms), "minimum_ms": min(ms)}
        | {"gflops": 1e-6 * flops(layer, size, kind) / statistics.median(ms)}
        | {"compile_s": works[name, kind].compile_s, "temp_bytes": works[name, kind].temp_bytes}
        for (name, kind), ms in times.items()
    ]


def surroundings(options):
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    packages = {"jaxlib", "numpy", *(PACKAGES[name][1] for name in options.peers)}
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "processor": (models or [platform.processor()])[0],
        "platform": platform.platform(),
        "devices": [device.device_kind for device in jax.devices()],
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in sorted(packages)},
        "rounds": options.rounds,
    }


def drawn(seed, count=10):
    """Sizes of a seed, each side log-uniform, of 0.2 to 20 GFLOP per LSTM train step."""
    rng, found = np.random.default_rng(seed), []
    bounds = np.log([(1, 128), (10, 1000), (16, 512), (16, 512)])
    while len(found) < count:
        size = Size(*(round(n) for n in np.exp(rng.uniform(*bounds.T))))
        found += [size] * (2e8 < flops("LSTM", size, "train") < 2e10)
    return found


def stored(path):
    """The records of a file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    read = lambda name, text: text if name in TEXTS else float(text) if text else None
    return [
        {name: read(name, text) for name, text in row.items()}
        | {"size": list(map(int, row["size"].split("x")))}
        for row in rows
    ]


def store(records, path):
    """Add records to a file."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, records[0])
        if is_new:
            writer.writeheader()
        writer.writerows(record | {"size": "x".join(map(str, record["size"]))} for record in records)


def run(options, path):
    path.with_suffix(".json").write_text(json.dumps(surroundings(options), indent=1))
    told, begun, done = set(), time.perf_counter(), {(r["layer"], tuple(r["size"])) for r in stored(path)}
    missing = [c for c in contests(options) if (c[0], tuple(c[1])) not in done]
    print(f"{len(missing)} of {len(contests(options))} contests are not yet in {path}", flush=True)
    for layer, size, kinds in missing[: options.at_most]:
        records = contest(layer, size, kinds, options, told)
        store(records, path)  # at once: a long run may be stopped
        times = [f"{r['contestant']} {number(r['median_ms'])}" for r in records if r["kind"] == kinds[0]]
        print(f"{time.perf_counter() - begun:5.0f} s  {layer} {size}: {' · '.join(times)} ms", flush=True)
        jax.clear_caches()
    return stored(path)


def listed(allowed):
    def parse(text):
        names = [name.strip() for name in text.split(",") if name.strip()]
        if unknown := set(names) - set(allowed):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(allowed)}")
        return names

    return parse


def sizes(text):
    return [Size(*map(int, size.replace("×", "x").split("x"))) for size in text.split(",")]


def parsed():
    peers = [name for name in PACKAGES if name not in OWN]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--layers", type=listed(PRODUCTS), default=list(PRODUCTS), help=", ".join(PRODUCTS))
    add("--sizes", type=sizes, help="BxTxIxH,... (default: 23, or 16 and 17 for the last four layers)")
    add("--seed", type=int, default=0, help="of the ten sizes that are drawn")
    add("--at-most", type=int, help="number of contests to measure now")
    add("--peers", type=listed(peers), default=peers, help=", ".join(peers))
    add("--before", help="a commit, whose jrnn takes its turns too")
    add("--rounds", type=int, default=12)
    add("--devices", type=int, default=os.cpu_count(), help="CPU devices to shard the batch over")
    add("--scaling", action="store_true", help="time of a train step as T, B and H grow, instead")
    add("--out", type=Path, default=Path("runs/speed"))
    add("--from", dest="stored", type=Path, nargs="+", help="report stored runs again, in one table")
    return parser.parse_args()


def contests(options):
    if options.scaling:
        every = dict.fromkeys(size for sizes in SCALES.values() for size in sizes)
        return [("LSTM", size, ("train",)) for size in every]
    chosen = lambda layer: options.sizes or [*FEWER.get(layer, SIZES), *AWKWARD, *drawn(options.seed)]
    return [(layer, size, KINDS) for layer in options.layers for size in chosen(layer)]


def unpack(commit, folder):
    """Make the jrnn of a commit importable beside this one, as jrnn_before."""
    archive = subprocess.run(["git", "archive", commit, "jrnn"], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    for path in (folder / "jrnn").rglob("*.py"):
        path.write_text(re.sub(r"\bjrnn\b", "jrnn_before", path.read_text()))
    (folder / "jrnn").rename(folder / "jrnn_before")
    sys.path.append(str(folder))


def start(options):
    """Set up JAX, before it starts, and PyTorch; drop the peers that are not here."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # leaves PyTorch some memory of a GPU
    if options.devices > 1:  # with one, JAX is left as it is
        jax.config.update("jax_num_cpu_devices", options.devices)
        os.environ["NPROC"] = str(2 * options.devices)  # threads: a collective blocks one per device
    if options.before:
        unpack(options.before, Path(tempfile.mkdtemp()))
        options.peers = ["before", *options.peers]
    wanted = [n for n in options.peers if not options.scaling or n in ("flax.nnx", "PyTorch")]
    options.peers = ["jrnn", *filter(present, wanted)]
    for name in set(wanted) - set(options.peers):
        print(f"{name} left out: pip install {PACKAGES[name][1]}")
    if os.getloadavg()[0] > 0.5:
        print("this machine is busy: times of PyTorch's threads, which wait for each other, will be far off")
    if "PyTorch" in options.peers and jax.default_backend() == "gpu":
        import torch

        allow_tf32(True)  # as JAX does
        if not torch.cuda.is_available():
            print("PyTorch left out: it does not see the GPU")
            options.peers.remove("PyTorch")


if __name__ == "__main__":
    options = parsed()
    warnings.filterwarnings("ignore")  # the peers' own
    options.out.mkdir(parents=True, exist_ok=True)
    if options.stored:
        found = [record for path in options.stored for record in stored(path)]
    else:
        start(options)
        found = run(options, options.out / ("scaling.csv" if options.scaling else "speed.csv"))
    report(found, options.out, scaling=not rows_of(found, "forward"))
