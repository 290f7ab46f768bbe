"""Batch, time or hidden units split over devices: what a training pass exchanges, and weak scaling.

python benchmarks/meshes.py exchanges      from the compiled programs, on 2, 4 and 8 devices of the CPU
python benchmarks/meshes.py speed          weak scaling, one device beside two, in turns
"""

import os
import re
import sys
import time

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp

import jrnn

STEPS, ROWS, HIDDEN, ROUNDS = 64, 32, 128, 15
LONGER = 8  # times the steps, where the speed of split sequences is measured
AXES = {  # the cell, the method, and how inputs and parameters are split
    "batch": (jrnn.LSTM(HIDDEN), jrnn.Scan(), jax.P(None, "devices"), False),
    "time": (jrnn.MinGRU(HIDDEN), jrnn.Associative(), jax.P("devices"), False),
    "hidden": (jrnn.LSTM(HIDDEN), jrnn.Scan(), jax.P(), True),
}
SHAPE = re.compile(r"= \(?(.*?)\)? (all-gather|all-reduce|collective-permute|reduce-scatter)(?:-start)?\(")


def prepared(axis, count, grows=None):
    """A compiled gradient of the parameters and its arguments; xs is `count` times as long along `grows`."""
    cell, method, spec, by_units = AXES[axis]
    shape = [STEPS, ROWS, HIDDEN]
    if grows is not None:
        shape[grows] *= count * (LONGER if axis == "time" else 1)

    def loss(params, xs):
        return jnp.mean(jrnn.unroll(cell, params, xs, method=method)[1] ** 2)

    params, xs = cell.init(jax.random.key(0), HIDDEN), jax.random.normal(jax.random.key(1), shape)
    with jax.set_mesh(jax.make_mesh((count,), ("devices",), devices=jax.devices()[:count])):
        split = lambda leaf: jax.P(*[None] * (leaf.ndim - 1), "devices") if by_units else jax.P()
        params = jax.tree.map(lambda leaf: jax.device_put(leaf, split(leaf)), params)
        xs = jax.device_put(xs, spec)
        return jax.jit(jax.grad(loss)).lower(params, xs).compile(), params, xs


def exchanges(program, count):
    """Numbers and bytes of what a device receives: (once, in each step of a loop)."""
    found = {False: {}, True: {}}
    received = {"all-gather": (count - 1) / count, "all-reduce": 2 * (count - 1) / count}
    for line in program.as_text().splitlines():
        if match := SHAPE.search(line):
            shapes, kind = match.groups()
            sizes = [re.findall(r"\d+", one) for one in re.findall(r"\[([\d,]*)\]", shapes)]
            bytes_ = 4 * sum(int(jnp.prod(jnp.array([int(n) for n in size] or [1]))) for size in sizes)
            seen = found["while" in line].setdefault(kind, [0, 0])
            seen[0] += 1
            seen[1] += bytes_ * received.get(kind, 1)
    return found


def show_exchanges():
    print(f"{STEPS} steps, {ROWS} rows, {HIDDEN} units; forward and backward, per device")
    for axis in AXES:
        for count in (2, 4, 8):
            program, _, _ = prepared(axis, count)
            parts = []
            for looped, kinds in exchanges(program, count).items():
                for kind, (number, bytes_) in kinds.items():
                    parts.append(f"{number} {kind} {bytes_ / 1e3:.1f} kB{' a step' if looped else ''}")
            print(f"{axis:6} {count}: {', '.join(parts)}", flush=True)


def show_speed():
    for axis, grows in (("batch", 1), ("time", 0), ("hidden", None)):
        runs, times = [prepared(axis, count, grows) for count in (1, 2)], ([], [])
        for _ in range(ROUNDS):
            for (program, params, xs), found in zip(runs, times, strict=True):
                begun = time.perf_counter(), time.process_time()
                jax.block_until_ready(program(params, xs))
                ended = time.perf_counter(), time.process_time()
                found.append([1e3 * (b - a) for a, b in zip(begun, ended, strict=True)])
        work = "of twice the size" if grows is not None else "of the same size"
        (one, cpu), (two, cpu_of_two) = ([min(each) for each in zip(*found, strict=True)] for found in times)
        print(f"{axis:6} one device {one:.1f} ms ({cpu:.1f} of CPU), ", end="")
        print(f"two, {work}: {two:.1f} ms ({cpu_of_two:.1f})", flush=True)


if __name__ == "__main__":
    {"exchanges": show_exchanges, "speed": show_speed}[sys.argv[1]]()
