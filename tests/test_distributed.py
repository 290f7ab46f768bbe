"""Several processes, started on the loopback, train as one does; one that dies or is stuck ends the others."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn.losses import cross_entropy
from jrnn.training.devices import split_over

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RNG = np.random.default_rng(0)
STREAM = jrnn.Stream(RNG.integers(0, 5, 8 * 3 * 6 + 1), batch_size=8, steps=3)  # 6 batches
SEQUENCES = [RNG.standard_normal((n, 3)) for n in RNG.integers(1, 8, 20)]
LABELS = [int(n) for n in RNG.integers(0, 5, 20)]
PADDED = jrnn.padded_batches(SEQUENCES, LABELS, 8, bucket=8, key_seed=1)
NOISY = jrnn.Stack((jrnn.Embed(3), jrnn.LearnedCarry(jrnn.LSTM(4)), jrnn.Dense(5)), dropout=0.2)
VARIATIONAL = jrnn.Stack((jrnn.Dropout(jrnn.Elman(4), input=0.2, state=0.2), jrnn.Dense(5)))


def fit(model, batches, loss, **options):
    settings = {
        "key": jax.random.key(3), "optimizer": optax.adam(1e-2), "progress": jrnn.Progress(bar=False),
        "in_features": 5 if model is NOISY else 3,
    }  # fmt: skip
    return jrnn.fit(model, batches, loss, **(settings | options))


def fit_stream(batches=STREAM, **options):
    return fit(NOISY, batches, jrnn.PerStep(cross_entropy), stateful=True, validation=STREAM, **options)


def fit_padded(batches=PADDED.epoch, **options):
    loss = jrnn.AtLast(cross_entropy)
    return fit(VARIATIONAL, batches, loss, epochs=3, validation=list(PADDED), **options)


def summary(result):
    """What must be the same in every process: the arrays of a result, and its history without times."""
    leaves = jax.tree.leaves((result.params, result.state._replace(key=jax.random.key_data(result.state.key))))
    history = [{k: v for k, v in entry.items() if "seconds" not in k} for entry in result.history]
    return [np.asarray(leaf).tolist() for leaf in leaves], history, result.interrupted


def assert_close(found, result):
    (arrays, history, _), (wanted, expected, _) = found, summary(result)
    for x, y in zip(arrays, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-6 * np.abs(y).max(initial=1e-9))
    for entry, other in zip(history, expected, strict=True):
        assert entry == pytest.approx(other, rel=1e-6)


# the work of each process


def work(name, index, count, port, folder):
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(
        address, count, index, coordinator_bind_address=address, heartbeat_timeout_seconds=10
    )
    for what, value in WORK[name](Path(folder)):
        print(json.dumps([what, value]), flush=True)


def train_and_be_stuck(folder):
    index = jax.process_index()
    monitored = []
    result = fit_padded(monitors=(lambda record, state: monitored.append(state) or {"index": index},))
    yield "padded", summary(result)
    yield "monitored", len(monitored)
    yield "list", summary(fit_padded(list(PADDED), key=jax.random.key(3 + index)))  # the key of process 0 counts

    def preempted(epoch):
        for number, batch in enumerate(STREAM):
            if (epoch, number, index) == (3, 2, 1):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    yield "stream", summary(fit_stream(preempted, out=folder, resume=True, epochs=10**6, save_every=10**6))
    yield "read", int(jrnn.load(folder).step)
    yield "all-reduce", reductions()
    try:
        fit_stream([STREAM[0]._replace(xs=STREAM[0].xs[:, :7], targets=STREAM[0].targets[:, :7])])
    except ValueError as error:
        yield "rows", str(error)
    try:
        fit_stream(out=folder)
    except (ValueError, RuntimeError) as error:
        yield "not empty", str(error)

    def stuck(epoch):
        yield STREAM[0]
        if index == 1:
            threading.Event().wait()
        yield STREAM[1]

    fit_stream(stuck, stall_timeout=2)


def train_and_die(folder):
    def killed(epoch):
        for number, batch in enumerate(STREAM):
            if (epoch, number, jax.process_index()) == (1, 4, 1):
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    yield "begun", 0
    fit_stream(killed, out=folder, epochs=2, save_every=4)


def reductions():
    """The sums over processes in one training step."""
    optimizer, loss = optax.adam(1e-2), jrnn.PerStep(cross_entropy)
    params = NOISY.init(jax.random.key(0), 5)
    state = jrnn.init_state(NOISY, params, optimizer, jax.random.key(1), batch_shape=(8,))
    split, step = split_over(NOISY, 8), jrnn.train_step(NOISY, loss, optimizer)
    state = split.state(state, 8)
    batch = split.batch(STREAM.share(jax.process_index(), jax.process_count())[0])
    program = split.jit(step, state).lower(state, batch, True).compile().as_text()
    return re.findall(r"\b(all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", program)


WORK = {work.__name__: work for work in (train_and_be_stuck, train_and_die)}


def launch(name, count, folder):
    """Start the processes; they have a port of the loopback that was free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    code = f"from tests.test_distributed import work; work({name!r}, {{}}, {count}, {port}, {str(folder)!r})"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code.format(i)], env=environment, cwd=ROOT, **pipes)
        for i in range(count)
    ]


def ended(processes):
    """For each process, its exit status, what it printed, and its errors."""
    try:
        for process in processes:
            process.said = process.communicate(timeout=240)
    finally:
        for process in processes:
            process.kill()
    lines = lambda text: [json.loads(line) for line in text.splitlines() if line.startswith('["')]  # Gloo writes others
    return [(process.returncode, dict(lines(process.said[0])), process.said[1]) for process in processes]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders; in the first a run of one process has begun."""
    folders = [tmp_path_factory.mktemp(name) / "run" for name in WORK]
    with jax.enable_x64(True):
        fit_stream(out=folders[0])
    return folders


@pytest.fixture(scope="module")
def processes(folders):
    """Both kinds of work, at the same time, by two processes each."""
    started = [launch(name, 2, folder) for name, folder in zip(WORK, folders, strict=True)]
    return [ended(processes) for processes in started]


def test_two_processes_are_as_one(processes):
    pass
