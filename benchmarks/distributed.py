"""Several processes on the loopback: kills at random moments, other numbers of processes, speed.

python benchmarks/distributed.py kills [PROCESSES [KILLS]]   one process at a time is killed, the run goes on
python benchmarks/distributed.py counts                      4 → 2 → 1 → 3 processes, each stopped by SIGTERM
python benchmarks/distributed.py speed                       weak scaling on cores, and exchanges per step
"""

import hashlib
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import optax

import jrnn
from jrnn.training.devices import split_over

ROWS, STEPS = 24, 8
MODEL = jrnn.Stack((jrnn.Embed(8), jrnn.LSTM(16), jrnn.Dense(11)), dropout=0.1)
LOSS = jrnn.PerStep(jrnn.losses.cross_entropy)
LIMIT = 120  # seconds in which processes must have ended after one was killed


def say(**values):
    print(json.dumps(values), flush=True)


def digest(tree):
    data = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))
    return hashlib.sha256(data).hexdigest()[:12]


# in each process


def train(folder, epochs):
    """Train on, reporting every step."""
    tokens = np.random.default_rng(0).integers(0, 11, ROWS * STEPS * 50 + 1)
    stream = jrnn.Stream(tokens, batch_size=ROWS, steps=STEPS)  # 50 batches
    watch = lambda record, state: say(step=record["step"])
    say(begun=True)
    result = jrnn.fit(
        MODEL, stream, LOSS, optimizer=optax.adam(1e-3), key=jax.random.key(0), in_features=11,
        epochs=int(epochs), stateful=True, validation=[stream[0], stream[1]], save_every=20,
        out=folder, resume=True, monitors=(watch,), progress=jrnn.Progress(bar=False), stall_timeout=60,
    )  # fmt: skip
    norm = float(optax.tree.norm(result.params))
    say(step=int(result.state.step), interrupted=result.interrupted, digest=digest(result.params), norm=norm)
    np.savez(Path(folder) / f"params{jax.process_index()}", *map(np.asarray, jax.tree.leaves(result.params)))


def measure(folder, rows):
    """Time steps of an LSTM(256), and count what they exchange."""
    os.sched_setaffinity(0, {jax.process_index() % (os.cpu_count() or 1)})
    model, rows, seen = jrnn.Stack((jrnn.Embed(64), jrnn.LSTM(256), jrnn.Dense(50))), int(rows), []
    stream = jrnn.Stream(np.arange(rows * 32 * 6 + 1) % 50, batch_size=rows, steps=32)

    def timed(record, state):
        if "loss" in record:
            jax.block_until_ready(state.params)
            seen.append(time.perf_counter())

    jrnn.fit(
        model, stream, LOSS, optimizer=optax.adam(1e-3), key=jax.random.key(0), in_features=50, epochs=4,
        monitors=(timed,), progress=jrnn.Progress(bar=False),
    )  # fmt: skip
    params = model.init(jax.random.key(0), 50)
    report = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}
    if jax.process_count() > 1:
        report["exchanged"] = exchanged(model, params, rows, stream)
    say(seconds=np.diff(seen[2:]).tolist(), **report)


def exchanged(model, params, rows, stream):
    """Operations between devices in a training step, with their shapes."""
    optimizer = optax.adam(1e-3)
    state = jrnn.init_state(model, params, optimizer, jax.random.key(1))
    split, step = split_over(model, rows), jrnn.train_step(model, LOSS, optimizer)
    state = split.state(state, rows)
    batch = split.batch(stream.share(jax.process_index(), jax.process_count())[0])
    program = split.jit(step, state).lower(state, batch, False).compile().as_text()
    return re.findall(r"= (\S.*?) (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", program)


def work(index, count, port, name, *arguments):
    if int(count) > 1:
        address = f"127.0.0.1:{port}"
        jax.distributed.initialize(
            address,
            int(count),
            int(index),
            coordinator_bind_address=address,
            heartbeat_timeout_seconds=10,
            shutdown_timeout_seconds=30,
        )
    {"train": train, "measure": measure}[name](*arguments)


# the launcher


class Job:
    """Processes that work together, and what they say."""

    def __init__(self, count, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "NPROC": "4"}
        if arguments[0] == "train":  # programs are kept, so that a restart takes seconds
            kept = str(Path(arguments[1]).parent / "programs")
            environment |= {
                "JAX_COMPILATION_CACHE_DIR": kept,
                "XLA_FLAGS": "--xla_backend_optimization_level=0",
            }
            environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
            environment |= {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
        command = [sys.executable, "-u", __file__, "work"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.said = []
        self.processes = [
            subprocess.Popen([*command, str(i), str(count), port, *arguments], env=environment, **pipes)
            for i in range(count)
        ]
        self.errors = [""] * count
        self.readers = [threading.Thread(target=self.read, args=(i,)) for i in range(count)]
        self.readers += [threading.Thread(target=self.keep, args=(i,)) for i in range(count)]
        for reader in self.readers:
            reader.start()

    def read(self, index):
        for line in self.processes[index].stdout:
            if line.startswith("{"):
                self.said.append((index, json.loads(line)))

    def keep(self, index):
        self.errors[index] = self.processes[index].stderr.read()

    def wait_for(self, holds):
        """Wait until `holds(said)`, or until a process has ended."""
        while not holds(self.said) and all(process.poll() is None for process in self.processes):
            time.sleep(0.02)

    def wait(self, limit):
        """Exit statuses, None for a process that hung and was killed."""
        end, statuses = time.monotonic() + limit, []
        for process in self.processes:
            try:
                statuses.append(process.wait(max(end - time.monotonic(), 0.1)))
            except subprocess.TimeoutExpired:
                process.kill()
                statuses.append(None)
        for reader in self.readers:
            reader.join()
        return statuses

    def steps(self):
        """The steps that process 0 has taken."""
        return [line["step"] for index, line in self.said if index == 0 and "step" in line]

    def digests(self):
        return {line["digest"] for _, line in self.said if "digest" in line}


def kills(count, wanted, epochs=12):
    """Kill a random process at a random moment, again and again, and compare the ends with a calm run."""
    rng, times, again, hung, ends = random.Random(count), [], [], 0, set()
    with tempfile.TemporaryDirectory() as folder:
        number = last = 0
        while len(times) < wanted or last:
            job = Job(count, "train", f"{folder}/{number}", str(epochs))
            victim, word, moment = rng.randrange(count), rng.choice(("begun", "step")), rng.uniform(0, 4)
            if dies := len(times) < wanted:  # while they start, or while they take steps
                job.wait_for(lambda said, word=word: any(word in line for _, line in said))
                time.sleep(moment)
                job.processes[victim].kill()
            begun = time.monotonic()
            statuses = job.wait(LIMIT if dies else 600)
            took, steps = time.monotonic() - begun, job.steps()
            if steps and steps[0] > last + 1:
                raise SystemExit(f"steps {last + 1} to {steps[0] - 1} were left out")
            if statuses == [0] * count:
                ends |= job.digests()
                number, last = number + 1, 0
                continue
            times.append(took)
            hung += None in statuses
            again.append(last + 1 - steps[0] if steps else 0)
            last = max([last, *steps])
            told = sum("lost another process" in text for text in job.errors)
            when = f"{moment:.1f} s after {'the first step' if word == 'step' else 'fit began'}"
            print(f"| {victim} | {when} | {last} | {took:.1f} s | {statuses} | {told} |", flush=True)
        job = Job(count, "train", f"{folder}/calm", str(epochs))
        job.wait(600)
    print(f"{count} processes, {len(times)} kills, {hung} hung. The others had ended after")
    print(f"{statistics.median(times):.1f} s (median), {max(times):.1f} s (at most).")
    print(f"At most {max(again)} steps were taken again, none was left out.")
    print(f"runs that ended: {number}, all with the bits of a calm one: {ends == job.digests()}")


def counts(order=(4, 2, 1, 3), epochs=12):
    """Stop each job by SIGTERM to its last process, and continue with another number."""
    with tempfile.TemporaryDirectory() as folder:
        for number, count in enumerate(order):
            job = Job(count, "train", f"{folder}/run", str(epochs))
            if number < len(order) - 1:
                job.wait_for(
                    lambda said, step=100 * number + 100: any(x.get("step", 0) > step for _, x in said)
                )
                job.processes[-1].send_signal(signal.SIGTERM)
            statuses = job.wait(600)
            print(f"{count} processes: statuses {statuses}, step {max(job.steps())}", flush=True)
        Job(1, "train", f"{folder}/calm", str(epochs)).wait(600)
        found, calm = (np.load(f"{folder}/{name}/params0.npz") for name in ("run", "calm"))
        far = max(np.abs(found[name] - calm[name]).max() / np.abs(calm[name]).max() for name in calm.files)
        print(f"parameters differ from those of one process by {far:.1e} of the largest")


def speed(rows=64, rounds=2):
    """Weak scaling: the same number of rows on each of one and two cores, in turns."""
    best = {1: [], 2: []}
    for _ in range(rounds):
        for count, seconds in best.items():
            job = Job(count, "measure", ".", str(rows * count))
            job.wait(300)
            line = next(line for index, line in job.said if index == 0)
            seconds += line["seconds"]
    print(f"LSTM(256), {line['parameters']:,} parameters, {rows} rows of 32 steps on each core:")
    for count, seconds in best.items():
        print(f"{count}: best {1e3 * min(seconds):.1f} ms, median {1e3 * statistics.median(seconds):.1f} ms")
    print(f"a step of two processes exchanges {line['exchanged']}")


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(*sys.argv[2:])
    elif sys.argv[1] == "kills":
        for number in [int(sys.argv[2])] if len(sys.argv) > 2 else [2, 4]:
            kills(number, int(sys.argv[3]) if len(sys.argv) > 3 else 20)
    else:
        {"counts": counts, "speed": speed}[sys.argv[1]]()
