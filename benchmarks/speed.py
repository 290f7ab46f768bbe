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
import json
import math
import os
import platform
import random
import statistics
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
from peers import ON_JAX, ON_TORCH, PACKAGES, PRODUCTS, Size, flops, library, present, unpack

SIZES = [  # the last two are not round: nothing was ever tuned to them
    *(Size(32, 100, 128, 128), Size(32, 100, 256, 256), Size(16, 1000, 64, 64), Size(1, 200, 128, 128)),
    *(Size(20, 35, 650, 650), Size(128, 50, 256, 256), Size(7, 61, 100, 200), Size(64, 80, 40, 96)),
]
AWKWARD = [  # small batches, long sequences, widths between powers of two
    *(Size(24, 80, 96, 192), Size(2, 300, 160, 160), Size(48, 40, 320, 320), Size(8, 400, 96, 192)),
    Size(4, 2000, 32, 32),
]
FEWER = {"BiLSTM": [SIZES[0], SIZES[4]], "Peephole": SIZES[:1], "MUT1": SIZES[:1], "Three LSTMs": SIZES[:1]}
SCALES = {
    "T": [Size(32, steps, 128, 128) for steps in (25, 50, 100, 200, 400, 800, 1600)],
    "B": [Size(batch, 100, 128, 128) for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256)],
    "H": [Size(32, 100, hidden, hidden) for hidden in (16, 32, 64, 128, 256, 512, 1024)],
}
KINDS = ("train", "forward")
OWN = ("jrnn", "before")
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


def rows_of(records, kind):
    """The table {(layer, size): {contestant: record}}; of a contestant in several runs, the first."""
    rows = {}
    for r in records:
        if r["kind"] == kind:
            rows.setdefault((r["layer"], Size(*r["size"])), {}).setdefault(r["contestant"], r)
    return rows


def names_of(records):
    """Contestants, jrnn first."""
    place = lambda name: (list(PACKAGES).index(library(name)), name)
    return sorted({r["contestant"] for r in records}, key=place)


def ratios(row):
    """Times of others over ours, the fastest of each side; NaN where one is missing."""

    def fastest(wanted):
        return min((r["median_ms"] for name, r in row.items() if wanted(name)), default=math.nan)

    ours = fastest(lambda name: name.startswith("jrnn"))
    peer = fastest(lambda name: name in ON_JAX and library(name) not in OWN)  # as documented: on one device
    spread = lambda name: name.endswith("devices")
    both = [fastest(lambda name, n=n: library(name) == n and spread(name)) for n in ("flax.nnx", "jrnn")]
    return {
        "best JAX peer / jrnn": peer / fastest(lambda name: name == "jrnn"),
        "best JAX peer / best jrnn": peer / ours,
        "flax.nnx / jrnn, both on all devices": both[0] / both[1],
        "PyTorch / best jrnn": fastest(lambda name: name in ON_TORCH) / ours,
        "before / jrnn": fastest(lambda name: name == "before") / fastest(lambda name: name == "jrnn"),
    }


def of_peak(row):
    """Percent of the large product's speed that the best jrnn reaches."""
    return max(100 * r["gflops"] / r["peak_gflops"] for name, r in row.items() if name.startswith("jrnn"))


def number(value):
    return "–" if math.isnan(value) else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def markdown(header, lines):
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def times_table(rows, names):
    lines = []
    for (layer, size), row in rows.items():
        times = (row[name]["median_ms"] if name in row else math.nan for name in names)
        cells = (*times, *ratios(row).values(), of_peak(row))
        lines.append([f"{layer} {size}", *map(number, cells)])
    return markdown(["median ms", *names, *ratios({}), "best jrnn, % of GEMM"], lines)


def sizes_table(records):
    """Both directions of every contest in a line; with the fastest peer's name."""
    columns = ["ms", "2 devices", "JAX peer / jrnn", "/ best", "PyTorch / best", "before / jrnn", "% of GEMM"]
    tables = [rows_of(records, kind) for kind in KINDS]
    lines = []
    for layer, size in dict.fromkeys(contest for rows in tables for contest in rows):
        line = [f"{layer} {size}"]
        for row in (rows.get((layer, size), {}) for rows in tables):
            peers = {n: r["median_ms"] for n, r in row.items() if n in ON_JAX and library(n) not in OWN}
            spread = [r["median_ms"] for n, r in row.items() if n.startswith("jrnn, ")]
            found = list(ratios(row).values())
            peer = f" ({min(peers, key=peers.get)})" if peers else ""
            line += [number(row["jrnn"]["median_ms"]), number(min(spread, default=math.nan))]
            line += [f"{found[0]:.2f}{peer}", *(number(found[i]) for i in (1, 3, 4)), number(of_peak(row))]
        lines.append(line)
    return markdown(["", *(f"{kind}, {column}" for kind in KINDS for column in columns)], lines)


def means_table(rows):
    lines = []
    for layer in dict.fromkeys(layer for layer, _ in rows):
        mine = [row for (name, _), row in rows.items() if name == layer]
        cells = []
        for comparison in ratios({}):
            known = [r for r in (ratios(row)[comparison] for row in mine) if not math.isnan(r)]
            cells.append(f"{statistics.geometric_mean(known):.2f} ({min(known):.2f})" if known else "–")
        shares = [of_peak(row) for row in mine]
        lines.append([f"{layer} ({len(mine)})", *cells, f"{number(min(shares))}–{number(max(shares))}"])
    header = ["geometric mean over sizes (smallest ratio)", *ratios({}), "best jrnn, % of GEMM"]
    return markdown(header, lines)


def colors(names):
    from matplotlib import colormaps

    shade = {name: [n for n in names if library(n) == library(name)].index(name) for name in names}
    return {n: colormaps["tab20"](2 * list(PACKAGES).index(library(n)) + shade[n]) for n in names}


def bars(ax, rows, color):
    """Bars that start from jrnn on one device: up is slower, down faster."""
    for place, row in enumerate(rows.values()):
        there = [name for name in color if name in row and name != "jrnn"]
        for index, name in enumerate(there):
            ratio = row[name]["median_ms"] / row["jrnn"]["median_ms"]
            x = place + 0.88 * ((index + 0.5) / len(there) - 0.5)
            ax.bar(x, ratio - 1, 0.8 / len(there), bottom=1, color=color[name])
    ends = [bar.get_y() + bar.get_height() for bar in ax.patches] + [0.95, 1.05]
    low, high = min(ends) / 1.1, max(ends) * 1.1
    ticks = [t for t in (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50) if low < t < high]
    ax.axhline(1, color="black", linewidth=1)
    ax.set(yscale="log", ylim=(low, high), ylabel="time / time of jrnn")
    ax.set_yticks(ticks, map(str, ticks))
    ax.set_yticks([], minor=True)
    ax.set_xticks(range(len(rows)), [f"{layer}\n{size}" for layer, size in rows], fontsize=8)
    ax.grid(axis="y", alpha=0.3)


def speed_chart(records, path):
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    color = colors(names_of(records))
    panels = dict.fromkeys("others" if r["layer"] in FEWER else r["layer"] for r in records)
    figure = Figure(figsize=(20, 1 + 3.4 * len(panels)), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(len(panels), 2, squeeze=False), strict=True):
        layers = FEWER if panel == "others" else [panel]
        for kind, ax in zip(KINDS, axes, strict=True):
            bars(ax, rows_of([r for r in records if r["layer"] in layers], kind), color)
            ax.set_title(kind)
    patches = [Patch(color=c, label=name) for name, c in color.items() if name != "jrnn"]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(patches))
    figure.savefig(path, dpi=100)


def scaling_chart(records, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.5), layout="constrained")
    rows = {size: row for (_, size), row in rows_of(records, "train").items()}
    for (letter, sizes), ax in zip(SCALES.items(), figure.subplots(1, 3), strict=True):
        widths = [size["BTIH".index(letter)] for size in sizes]
        for name, color in colors(names_of(records)).items():
            times = [rows[size][name]["median_ms"] for size in sizes]
            ax.loglog(widths, times, "o-", color=color, label=name)
        ax.set_xticks(widths, map(str, widths))
        ax.set_xticks([], minor=True)
        ax.grid(alpha=0.3, which="both")
        fixed = [f"{k} {v}" for k, v in {"B": 32, "T": 100, "H": 128}.items() if k != letter]
        ax.set(xlabel=letter, ylabel="ms per train step", title=f"LSTM, {', '.join(fixed)}")
        ax.legend()
    figure.savefig(path, dpi=100)


def report(records, out, scaling):
    for kind in KINDS:
        if rows := rows_of(records, kind):
            print(f"\n## {kind}\n\n{times_table(rows, names_of(records))}\n\n{means_table(rows)}")
    if len(rows_of(records, "forward")):
        print(f"\n## all sizes\n\n{sizes_table(records)}")
    if importlib.util.find_spec("matplotlib") is None:
        return print("no chart: pip install matplotlib")
    chart, name = (scaling_chart, "scaling.png") if scaling else (speed_chart, "speed.png")
    chart(records, out / name)
    print(f"\nwritten: {out / name}")


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
