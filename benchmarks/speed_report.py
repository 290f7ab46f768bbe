"""Tables and charts of what `speed.py` measured.

A record has the layer and size of a contest, the contestant, the kind of work, and its times.
"""

import importlib.util
import math
import statistics

from peers import ON_JAX, ON_TORCH, PACKAGES, PRODUCTS, Size, library

KINDS = ("train", "forward")
OWN = ("jrnn", "before")
SCALES = {
    "T": [Size(32, steps, 128, 128) for steps in (25, 50, 100, 200, 400, 800, 1600)],
    "B": [Size(batch, 100, 128, 128) for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256)],
    "H": [Size(32, 100, hidden, hidden) for hidden in (16, 32, 64, 128, 256, 512, 1024)],
}


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
            peer = f"{found[0]:.2f} ({min(peers, key=peers.get)})" if peers else "–"
            line += [number(row["jrnn"]["median_ms"]), number(min(spread, default=math.nan))]
            line += [peer, *(number(found[i]) for i in (1, 3, 4)), number(of_peak(row))]
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
    others = [layer for layer in PRODUCTS if layer not in ("LSTM", "GRU", "Elman")]
    panels = dict.fromkeys("others" if r["layer"] in others else r["layer"] for r in records)
    figure = Figure(figsize=(20, 1 + 3.4 * len(panels)), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(len(panels), 2, squeeze=False), strict=True):
        layers = others if panel == "others" else [panel]
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
