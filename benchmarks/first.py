"""Seconds of CPU to a first gradient, traced and compiled, beside plain `lax.scan`: all cases of the tests.

python -m benchmarks.first                          # all cases, some twenty minutes
python -m benchmarks.first --at-most 20             # in pieces: what first.csv lacks
python -m benchmarks.first --only LSTM --at-most 5  # the cases whose names contain this
python -m benchmarks.first --at-most 0              # the table of the stored run
python -m benchmarks.first --fresh                  # in new processes, imports included

Each gradient is new to the process. Times are minima of rounds that take turns.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import jrnn
from tests.cases import CASES, subject_of
from tests.entries import Case

BATCH, STEPS = 4, 20
TIMES = "plain_trace", "plain_compile", "trace", "compile"
RATIOS = {  # of the seconds in the order of TIMES
    "tracing": lambda t: t[2] / t[0],
    "compiling": lambda t: t[3] / t[1],
    "together": lambda t: (t[2] + t[3]) / (t[0] + t[1]),
}


PROCESS = """
import time
import jax, jax.numpy as jnp
imported = time.process_time()
import jrnn
cell, xs = jrnn.LSTM(256), jax.ShapeDtypeStruct((64, 32, 128), "float32")
params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 128))
plain = lambda params, xs: jax.lax.scan(
    lambda carry, x: cell.step(params, carry, x), cell.initial_carry(params, (32,)), xs
)
ours = lambda params, xs: jrnn.unroll(cell, params, xs)
jax.jit(jax.grad(lambda *given: jnp.sum({run}(*given)[1]))).lower(params, xs).compile()
print(imported, time.process_time() - imported)
"""


def fresh(rounds):
    """Print seconds of CPU of new processes, from `import jrnn` to the compiled gradient of an LSTM(256)."""
    taken = {"plain": [], "ours": []}
    for _ in range(rounds):
        for name, seconds in taken.items():
            code = [sys.executable, "-c", PROCESS.format(run=name)]
            found = subprocess.run(code, capture_output=True, text=True, check=True).stdout.split()
            seconds.append(list(map(float, found)))
    for name, seconds in taken.items():
        imported, rest = map(min, zip(*seconds, strict=True))
        print(f"{name}: import jax {imported:.2f} s, the rest {rest:.2f} s")


def cases():
    """Every case of the tests by its name, and a deep stack."""
    deep = Case(jrnn.Stack((jrnn.LSTM(16),) * 32), 8)
    return {repr(case.cell): case for case in CASES} | {"32 layers of LSTM(16)": deep}


def seconds(case, ours):
    """Seconds of CPU for tracing the gradient of a case, and for compiling it."""
    cell, subject = case.cell, subject_of(case)
    params = subject.abstractly(lambda key: cell.init(key, case.in_features), jax.random.key(0))
    xs = subject.xs(STEPS, BATCH)

    def plain(params, xs):
        first = jax.tree.map(lambda x: x[0], xs)
        return jax.lax.scan(lambda carry, x: cell.step(params, carry, x), subject.start(params, first), xs)

    def loss(params, xs):
        ys = (jrnn.unroll(cell, params, xs) if ours else plain(params, xs))[1]
        inexact = [y for y in jax.tree.leaves(ys) if jnp.issubdtype(y.dtype, jnp.inexact)]
        return sum(jnp.sum(abs(y) ** 2) for y in inexact)

    jax.clear_caches()
    begun = time.process_time()
    lowered = jax.jit(jax.grad(loss, allow_int=True)).lower(params, xs)
    traced = time.process_time()
    lowered.compile()
    return traced - begun, time.process_time() - traced


def measured(case, rounds):
    """The four TIMES of a case."""
    turns = [[seconds(case, ours) for ours in (False, True)] for _ in range(rounds)]
    best = [tuple(map(min, zip(*taken, strict=True))) for taken in zip(*turns, strict=True)]
    return [*best[0], *best[1]]


def stored(path):
    """The times in a file, by the name of the case."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["case"]: [float(row[name]) for name in TIMES] for row in csv.DictReader(file)}


def run(options):
    """Measure what is not in the file yet, and add it."""
    found = stored(options.out)
    missing = {n: case for n, case in cases().items() if n not in found and (options.only or "") in n}
    print(f"{len(missing)} of {len(cases())} cases are not yet in {options.out}", flush=True)
    for name, case in list(missing.items())[: options.at_most]:
        try:
            times = measured(case, options.rounds)
        except (TypeError, ValueError) as error:  # without `unroll`, which aligns types
            print(f"{name}: plain lax.scan cannot run it: {str(error).splitlines()[0]}", flush=True)
            continue
        with options.out.open("a", newline="") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(["case", *TIMES])
            writer.writerow([name, *(f"{t:.4f}" for t in times)])
        ratios = ", ".join(f"{what} {ratio(times):.2f}" for what, ratio in RATIOS.items())
        print(f"{name}: {sum(times[2:]):.2f} s, {ratios}", flush=True)


def table(found, most):
    """Mean and largest ratios, and the cases where all of it takes longest beside plain `lax.scan`."""
    for what, ratio in RATIOS.items():
        ratios = {name: ratio(times) for name, times in found.items()}
        worst = max(ratios, key=ratios.__getitem__)
        over = sum(value > 1.5 for value in ratios.values())
        mean = statistics.geometric_mean(ratios.values())
        print(f"{what:10} mean {mean:.2f}, largest {ratios[worst]:.2f} ({worst}), {over} above 1.5")
    for name in sorted(found, key=lambda name: -RATIOS["together"](found[name]))[:most]:
        print(f"  {' '.join(f'{ratio(found[name]):.2f}' for ratio in RATIOS.values())}  {name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="a part of the names of cases")
    parser.add_argument("--at-most", type=int, help="cases in this call")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worst", type=int, default=12, help="lines of the table")
    parser.add_argument("--fresh", action="store_true", help="new processes instead, for one cell")
    parser.add_argument("--out", type=Path, default=Path("first.csv"))
    options = parser.parse_args()
    if options.fresh:
        sys.exit(fresh(options.rounds))
    run(options)
    if found := stored(options.out):
        table(found, options.worst)
