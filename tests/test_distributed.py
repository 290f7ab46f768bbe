"""Several processes, started on the loopback, train as one does; one that dies or hangs ends the others."""

import contextlib
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
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import jrnn
from jrnn import _processes
from jrnn.decoding.ctc import CTC
from jrnn.losses import cross_entropy
from jrnn.training import _runs, _storing
from jrnn.training._plans import Plan
from jrnn.training.devices import map_rows, split_over

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RNG = np.random.default_rng(0)
STREAM = jrnn.Stream(RNG.integers(0, 5, 8 * 3 * 6 + 1), batch_size=8, steps=3)  # 6 batches
TWELVE = jrnn.Stream(np.arange(12 * 3 * 4 + 1) % 5, batch_size=12, steps=3)  # 4 batches, for 1 to 4 processes
CHAIN = 4, 2, 1, 3  # processes, which each train one epoch more
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


def fit_stream(batches=STREAM, validation=STREAM, **options):
    return fit(NOISY, batches, jrnn.PerStep(cross_entropy), stateful=True, validation=validation, **options)


def fit_padded(batches=PADDED.epoch, **options):
    loss = jrnn.AtLast(cross_entropy)
    return fit(VARIATIONAL, batches, loss, epochs=3, validation=list(PADDED), **options)


def summary(result):
    """What must be the same in every process: the arrays of a result, and its history without times."""
    state = result.state._replace(key=jax.random.key_data(result.state.key))
    history = [{k: v for k, v in entry.items() if "seconds" not in k} for entry in result.history]
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves((result.params, state))], history


def assert_close(found, result):
    for x, y in zip(found[0], summary(result)[0], strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-6 * np.abs(y).max(initial=1e-9))
    for entry, other in zip(found[1], summary(result)[1], strict=True):
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
    seen = []
    monitors = (lambda record, state: seen.append(state.params) or {"index": index},)
    yield "shares", summary(fit_padded(monitors=monitors))
    yield "monitored", [len(leaf.devices()) for leaf in jax.tree.leaves(seen)]
    whole = lambda epoch: list(PADDED.epoch(epoch))
    yield "whole", summary(fit_padded(whole, key=jax.random.key(3 + index), monitors=monitors))

    def preempted(epoch):
        for number, batch in enumerate(STREAM):
            if (epoch, number, index) == (3, 2, 1):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    result = fit_stream(preempted, out=folder, resume=True, epochs=10**6, save_every=10**6)
    yield "preempted", [result.interrupted, int(result.state.step), jrnn.load(folder).step]
    yield "exchanged", exchanges()
    yield "uneven", error_of(fit_stream, [jax.tree.map(lambda leaf: leaf[:, :7], STREAM[0])])
    yield "taken", error_of(fit_stream, out=folder)
    snapshot = jrnn.Snapshot(NOISY, 5, jax.jit(NOISY.init, static_argnums=1)(jax.random.key(0), 5))
    yield "saved", index and error_of(jrnn.save, folder / "other", snapshot)

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


def train_and_go_on(folder):
    epochs = CHAIN.index(jax.process_count()) + 1
    yield "stream", summary(fit_stream(TWELVE, TWELVE, out=folder, resume=True, epochs=epochs))
    if epochs == 1:
        yield "shares", summary(fit_padded())


def error_of(function, *args, **options):
    try:
        function(*args, **options)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def exchanges():
    """What the processes exchange in a training step."""
    optimizer, params = optax.adam(1e-2), NOISY.init(jax.random.key(0), 5)
    state = jrnn.init_state(NOISY, params, optimizer, jax.random.key(1), batch_shape=(8,))
    split, step = split_over(NOISY, 8), jrnn.train_step(NOISY, jrnn.PerStep(cross_entropy), optimizer)
    state, batch = (
        split.state(state, 8),
        split.batch(STREAM.share(jax.process_index(), jax.process_count())[0]),
    )
    program = split.jit(step, state).lower(state, batch, True).compile().as_text()
    return re.findall(r"\b(all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", program)


WORK = {work.__name__: work for work in (train_and_be_stuck, train_and_die, train_and_go_on)}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launch(name, count, folder, devices):
    """Start the processes on the loopback, each with some devices."""
    port = free_port()
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "JAX_NUM_CPU_DEVICES": str(devices), "NPROC": "4"
    }  # fmt: skip
    code = f"from tests.test_distributed import work; work({name!r}, {{}}, {count}, {port}, {str(folder)!r})"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code.format(i)], env=environment, cwd=ROOT, **pipes
        )
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
    lines = lambda text: [
        json.loads(line) for line in text.splitlines() if line.startswith('["')
    ]  # Gloo writes others
    return [(process.returncode, dict(lines(process.said[0])), process.said[1]) for process in processes]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders; in the first a run of one process has begun."""
    folders = [tmp_path_factory.mktemp(name) / "run" for name in ("stuck", "dies")]
    with jax.enable_x64(True):
        fit_stream(out=folders[0])
    return folders


@pytest.fixture(scope="module")
def processes(folders):
    """Both kinds of work at the same time, each by two processes, with two devices and with one."""
    launched = zip(("train_and_be_stuck", "train_and_die"), folders, (2, 1), strict=True)
    started = [launch(name, 2, folder, devices) for name, folder, devices in launched]
    return [ended(processes) for processes in started]


@pytest.fixture(scope="module")
def reports(processes):
    """What the two processes say whose work ends with one that is stuck."""
    return [said for _, said, _ in processes[0]]


def test_two_processes_have_the_numbers_of_one(reports):
    with jax.enable_x64(True):
        one = fit_padded(monitors=(lambda record, state: {"index": 0},))
    for report in reports:
        assert_close(report["shares"], one)
        assert_close(report["whole"], one)
        assert report["exchanged"] == ["all-reduce"]
    assert set(reports[0]["monitored"]) == {1} and reports[1]["monitored"] == []


def test_sigterm_to_one_stops_all_and_another_number_goes_on(reports, folders):
    step = reports[0]["preempted"][1]
    assert step > 20 and all(report["preempted"] == [True, step, step] for report in reports)
    with jax.enable_x64(True):
        epochs = step // 6 + 2
        resumed = fit_stream(out=folders[0], resume=True, epochs=epochs)
        assert_close(summary(resumed), fit_stream(epochs=epochs))


@pytest.mark.slow
def test_any_number_of_processes_goes_on_with_the_numbers_of_one(tmp_path):
    with jax.enable_x64(True):
        padded, stream = fit_padded(), fit_stream(TWELVE, TWELVE, epochs=len(CHAIN))
    for count in CHAIN:
        for status, said, errors in ended(launch("train_and_go_on", count, tmp_path / "run", 1)):
            assert status == 0, errors[-3000:]
            if "shares" in said:
                assert_close(said["shares"], padded)
    assert_close(said["stream"], stream)


def test_a_process_that_is_stuck_ends_all(processes):
    for index, (status, _, errors) in enumerate(processes[0]):
        assert status == 75 and f"process {index} of 2 has finished no step for 2 s" in errors


def test_a_process_that_dies_is_told_and_the_run_goes_on(processes, folders):
    (survived, _, errors), (killed, _, _) = processes[1]
    assert (survived, killed) == (75, -signal.SIGKILL)
    assert "fit: process 0 of 2 lost another process, which has died" in errors
    with jax.enable_x64(True):
        assert jrnn.load(folders[1]).step == 8
        resumed = fit_stream(out=folders[1], resume=True, epochs=2)
        assert_close(summary(resumed), fit_stream(epochs=2))


def test_errors_are_those_of_all(reports, folders):
    for report in reports:
        assert report["uneven"].startswith(
            "ValueError: batches have 7 rows, which the 4 devices of 2 processes"
        )
        assert f"{folders[0]} already holds a run" in report["taken"]
    assert reports[1]["saved"].startswith("ValueError: save: of several processes, only the first can write")
    with pytest.raises(ValueError, match="stall_timeout must be a number of seconds above 0, got 0"):
        fit_stream(stall_timeout=0)


@pytest.fixture
def one_of_several(monkeypatch):
    """Exchanges, of this process with itself."""
    monkeypatch.setattr(_processes, "several", lambda: True)
    monkeypatch.setattr(_runs, "told_to_stop", lambda: False)


def test_all_that_takes_long_counts_as_a_sign_of_life(one_of_several, monkeypatch, tmp_path):
    happened = []

    def noting(module, name):
        work = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **o: (work(*a, **o), happened.append(name))[0])

    noting(_storing, "save")  # of checkpoints and the best epoch
    noting(_storing.Store, "restore")
    noting(_runs, "beat")
    noting(_processes, "beat")
    read = lambda epoch: (happened.append("batch") or batch for batch in STREAM)
    monitors = (lambda record, state: happened.append("monitor"),)
    for epochs in (1, 2):
        fit_stream(read, out=tmp_path, resume=True, epochs=epochs, save_every=4, monitors=monitors)
    for what, following in itertools.pairwise(happened):
        assert what == "beat" or following == "beat", (what, following)
    assert [happened.count(what) for what in ("save", "restore", "monitor")] == [8, 1, 14]


def test_the_hook_for_errors_is_removed_by_the_next_run(one_of_several, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", lambda *error: None)
    before = sys.excepthook
    for _ in range(2):
        with pytest.raises(ValueError, match="caught"), _processes.together(60.0):
            assert sys.excepthook is before
            raise ValueError("caught")
        assert sys.excepthook is not before


@pytest.mark.parametrize("per_sequence", [True, False])
def test_rows_are_found_where_other_axes_are_as_long(per_sequence):
    four, many = np.zeros((4, 4)), np.zeros(4)
    batch = jrnn.Batch(four[..., None], four, lengths=many, target_mask=many if per_sequence else four)
    axes = map_rows(lambda leaf, axis: axis, batch, 4, per_sequence)
    assert axes == jrnn.Batch(1, 1 - per_sequence, 0, 1 - per_sequence)
    square = map_rows(lambda leaf, axis: axis, batch._replace(target_mask=four), 4, per_sequence)
    assert square.target_mask == 1 - per_sequence


def test_losses_say_where_their_targets_have_rows():
    """Four labels for each of eight rows, four of which are those of a process."""
    losses = jrnn.AtLast(cross_entropy), jrnn.PerSequence(cross_entropy), CTC(), jrnn.PerStep(cross_entropy)
    found = [Plan.per_sequence.fget(SimpleNamespace(loss=loss)) for loss in losses]
    assert found == [True, True, True, False]
    mine = jrnn.Batch(np.zeros((6, 4, 2)), np.zeros((4, 4)), target_mask=np.ones(4, bool))
    assert map_rows(lambda leaf, axis: axis, mine, 4, found[2]).targets == 0


def recipe(word):
    """The script of the guide that has this word."""
    guide = (Path(ROOT) / "docs/pages/scaling.md").read_text()
    return next(block for block in re.findall(r"```bash\n(.*?)```", guide, re.S) if word in block)


STUBS = """
jrnn() { left=("${left[@]:1}"); echo "jrnn ${left[0]}"; return ${left[0]}; }
sleep() { echo "sleep $1"; }
srun() { shift; "$@"; }
scontrol() { echo "$@"; }
"""


@pytest.mark.parametrize("last", [0, 1, 2, 127])
def test_the_recipes_of_the_guide_repeat_only_what_a_restart_can_mend(last):
    def done(word, statuses, **given):
        script = f"left=(first {' '.join(map(str, statuses))} 42){STUBS}{recipe(word)}"
        found = subprocess.run(
            ["bash", "-c", script], env=os.environ | {"run": "/nowhere", "text": "a"} | given,
            capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        return found.returncode, found.stdout.splitlines()

    again = ["jrnn 75", "sleep 5", "jrnn 137", "sleep 5"]
    assert done("until", [75, 137, last]) == (last, [*again, f"jrnn {last}"])
    assert done("scontrol", [last]) == (last, [f"jrnn {last}"])
    for status in (75, 137):
        requeued = status, [f"jrnn {status}", "requeue 7"]
        assert done("scontrol", [status], SLURM_JOB_ID="7", SLURM_RESTART_COUNT="3") == requeued
        assert done("scontrol", [status], SLURM_RESTART_COUNT="100") == (status, [f"jrnn {status}"])


@pytest.mark.slow
def test_the_loop_of_the_guide_goes_on_after_a_kill(tmp_path):
    loop = recipe("until")
    text, run, address = tmp_path / "text.txt", tmp_path / "run", f"127.0.0.1:{free_port()}"
    text.write_text("the cat sat on the mat. " * 200)
    given = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_COORDINATOR_BIND_ADDRESS": address,
        "JAX_PLATFORMS": "cpu",
    }
    given |= {"JAX_NUM_PROCESSES": "2", "PYTHONPATH": ROOT, "run": str(run)}
    given["text"] = f"{text} --hidden 4 --steps 16 --batch 8 --epochs 8"
    given["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    command = ["bash", "-c", loop.replace('"$text"', "$text")]
    pipes = {"stderr": subprocess.PIPE, "text": True, "cwd": tmp_path, "start_new_session": True}
    started = [
        subprocess.Popen(command, env=os.environ | given | {"JAX_PROCESS_ID": str(i)}, **pipes)
        for i in range(2)
    ]
    try:
        assert any(line.startswith("epoch 2,") for line in started[0].stderr)
        children = subprocess.check_output(["ps", "--ppid", str(started[1].pid), "-o", "pid="], text=True)
        os.kill(int(children), signal.SIGKILL)
        assert any("lost another process" in line for line in started[0].stderr)
        for process in started:
            process.communicate(timeout=240)
        assert [process.returncode for process in started] == [0, 0]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):  # of the loop and what it has started
                os.killpg(process.pid, signal.SIGKILL)
    assert jrnn.load(run).position["epoch"] == 8


PAIRS = jrnn.pair_batches([[5, 6], [7], [8]], [[3], [4, 4, 3], [5]], 4, start=1, stop=2)
SHARED = {
    "stream": STREAM,
    "one target": PADDED.epoch(1),
    "a target per step": jrnn.padded_batches(SEQUENCES, SEQUENCES, 8),
    "packed": jrnn.packed_batches(SEQUENCES, LABELS, 4, key_seed=0).epoch(2),
    "packed, a target per step": jrnn.packed_batches(SEQUENCES, SEQUENCES, 4),
    "pairs": PAIRS,
    "windows": jrnn.Windows(np.arange(103), 4, 5).epoch(1),
}


@pytest.mark.parametrize("name", SHARED)
def test_shares_are_the_rows_of_a_batch(name):
    whole = SHARED[name]
    count = whole.batch_size
    shares = [whole.share(index, count) for index in range(count)]
    assert [len(share) for share in shares] == [len(whole)] * count
    for batch, *parts in zip(whole, *shares, strict=True):
        joined = jax.tree.map(lambda leaf, *cut: np.concatenate(cut, min(leaf.ndim - 1, 1)), batch, *parts)
        for a, b in zip(jax.tree.leaves(joined), jax.tree.leaves(batch), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    with pytest.raises(ValueError, match=f"batch_size is {count}, 3 processes need a multiple of 3"):
        whole.share(0, 3)
