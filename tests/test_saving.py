"""Saving beside others: in any folder, at the same time as other processes, whatever ends one of them."""

import contextlib
import os
import sys
import tempfile
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn._cli import formats
from jrnn.checkpoint import CheckpointError, Snapshot, _arrays, checkpoints, load, save

CELL = jrnn.Elman(3)
PARAMS = CELL.init(jax.random.key(0), 2)
NAMES = ["lr[0.1]", "[a", "a]", "back\\slash", "a*b?", "{x}", "gs:", "%20", "a#b&c", "ü 'é' \"q\"", "\n"]
NAMES += [os.fsdecode(b"\xff"), "step_00000003"]  # bytes that are not UTF-8; the name of a checkpoint


def test_every_name_of_a_folder_does(tmp_path):
    failed = []
    for name in [*NAMES, "x[1]/y\\z"]:
        save(tmp_path / name, Snapshot(CELL, 2, PARAMS, step=3))
        if load(tmp_path / name).params.w_hh.tolist() != PARAMS.w_hh.tolist():
            failed.append(name)
    assert not failed


def test_odd_names_in_odd_temporary_folders(tmp_path, monkeypatch):
    (tmp_path / "[0]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[0]"))
    save(tmp_path / "[1]", Snapshot(CELL, 2, PARAMS, step=3))
    assert load(tmp_path / "[1]").step == 3
    monkeypatch.setattr(_arrays, "_is_plain", lambda path: False)
    with pytest.raises(OSError, match=r"orbax needs a link to it in a temporary folder, .*: set TMPDIR"):
        save(tmp_path / "[2]", Snapshot(CELL, 2, PARAMS))


def saved(**wrong):
    arguments = {"cell": CELL, "in_features": 2, "params": PARAMS, "step": 0} | wrong
    return save("nowhere", Snapshot(**arguments))


MISTAKES = [
    (lambda: save(None, Snapshot(CELL, 2, PARAMS)), "save: directory must be a path, .* got None"),
    (lambda: save("", Snapshot(CELL, 2, PARAMS)), "save: directory must be a path, a str or a Path, got ''"),
    (lambda: save("nowhere", Snapshot(CELL, 2, PARAMS), keep=1.5), "save: keep must be an int, got 1.5"),
    (lambda: saved(step=1.5), "Snapshot: step must be a whole number, 0 or more, got 1.5"),
    (lambda: saved(step=10**18), r"Snapshot: step must be below 10\*\*18, got 10{18}$"),
    (lambda: saved(in_features=2.0), "in_features must be an int, got 2.0"),
    (lambda: saved(cell=jrnn.Elman), "Snapshot: cell must be a cell, got the class Elman: call it"),
    (lambda: load(3), "load: directory must be a path, a str or a Path, got 3"),
    (lambda: load("nowhere", step="3"), "load: step must be a whole number, 0 or more, got '3'"),
    (lambda: load("nowhere", optimizer=optax.adam), "load: optimizer must be as optax.adam"),
    (lambda: jrnn.save_params("nowhere", PARAMS, CELL), "save_params: cell must be a cell, got ElmanParams"),
    (lambda: jrnn.save_params("no/where", CELL, PARAMS), "no such folder, create it first: '.*/no'"),
    (lambda: jrnn.load_params(3), "load_params: path must be a path, a str or a Path, got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "text"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_named(call, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError, OSError), match=text):
        call()
    assert not list(tmp_path.rglob("*"))


def test_a_class_in_place_of_the_saved_cell(tmp_path):
    save(tmp_path, Snapshot(CELL, 2, PARAMS))
    with pytest.raises(TypeError, match="cell must be a cell, got the class Elman: call it"):
        load(tmp_path, cell=jrnn.Elman)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match="is a pipe, a socket or a device, needs a file"):
        jrnn.load_params(tmp_path / "pipe.safetensors")
    with pytest.raises(OSError, match="is a pipe, a socket or a device, needs a file"):
        formats.read(tmp_path / "pipe.safetensors", formats.Options())


def test_what_is_not_read_back_as_it_was_is_not_sealed(tmp_path, monkeypatch):
    restore = _arrays._restore
    for change in (lambda read: {}, lambda read: read | {"params/b": read["params/b"] + np.float32(1e-6)}):
        monkeypatch.setattr(_arrays, "_restore", lambda *path, change=change: change(restore(*path)))
        with pytest.raises(OSError, match="differs when read back after writing"):
            save(tmp_path, Snapshot(CELL, 2, PARAMS))
        assert not checkpoints(tmp_path)


def test_at_every_file_operation_of_a_save_there_is_a_checkpoint(tmp_path):
    save(tmp_path, Snapshot(CELL, 2, PARAMS, step=3), keep=1)
    seen, hook_is_on = [], threading.Event()

    def hook(event, _):
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open") and hook_is_on.is_set():
            hook_is_on.clear()
            seen.append(len(checkpoints(tmp_path)))
            hook_is_on.set()

    sys.addaudithook(hook)
    hook_is_on.set()
    save(tmp_path, Snapshot(CELL, 2, PARAMS, step=3, meta={"again": 1}), keep=1)
    save(tmp_path, Snapshot(CELL, 2, PARAMS, step=4), keep=1)
    hook_is_on.clear()
    assert len(seen) > 20 and min(seen) == 1
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000004"]


def test_readers_and_writers_beside_one_another(tmp_path):
    save(tmp_path, Snapshot(CELL, 2, PARAMS, step=0), keep=1)
    errors, writing = [], 2

    def write(first):
        nonlocal writing
        try:
            for step in range(first, 24, 2):
                save(tmp_path, Snapshot(CELL, 2, PARAMS, step=step), keep=1)
        except Exception as error:
            errors.append(error)
        writing -= 1

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 1)]
    for writer in writers:
        writer.start()
    loads = 0
    while writing:
        assert load(tmp_path).params.w_hh.tolist() == PARAMS.w_hh.tolist()
        loads += 1
    for writer in writers:
        writer.join()
    assert not errors and loads > 3 and len(checkpoints(tmp_path)) == 1


MAKES = {
    "adam": optax.adam(1e-3),
    "adamw": optax.adamw(1e-3),
    "nadam": optax.nadam(1e-3),
    "adamax": optax.adamax(1e-3),
    "yogi": optax.yogi(1e-3),
    "radam": optax.radam(1e-3),
    "lamb": optax.lamb(1e-3),
    "adabelief": optax.adabelief(1e-3),
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "every second": optax.MultiSteps(optax.adam(1e-3), 2),
    "every second, rectified": optax.MultiSteps(optax.radam(1e-3), 2),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
}


def test_a_state_goes_to_the_optimizer_that_made_it(tmp_path):
    taken = set()
    for made, optimizer in MAKES.items():
        state = optimizer.init(PARAMS)
        save(tmp_path, Snapshot(CELL, 2, PARAMS, state, optimizer=optimizer), keep=1)
        for given, other in MAKES.items():
            with contextlib.suppress(CheckpointError):
                load(tmp_path, optimizer=other)
                taken.add((made, given))
    assert taken == {(made, made) for made in MAKES}
    assert load(tmp_path, optimizer=optax.chain(optax.clip_by_global_norm(2.0), optax.adam(1e-4))).optimizer
    with pytest.raises(
        CheckpointError,
        match=r"belongs to clip_by_global_norm → scale_by_adam .* got .* scale_by_radam",
    ):
        load(tmp_path, optimizer=MAKES["radam"])
    save(
        tmp_path, Snapshot(CELL, 2, PARAMS, MAKES["adam"].init(PARAMS)), keep=1
    )  # of a make that is not known
    assert load(tmp_path, optimizer=MAKES["adamax"]).opt_state is not None


def test_the_functions_that_return_numbers_may_be_others(tmp_path):
    def halving(step):
        return 0.5**step

    def make(rate):
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.1))

    rates = optax.linear_schedule(1.0, 0.1, 9), optax.cosine_decay_schedule(1.0, 9), halving, lambda step: 0.1
    for rate in rates:
        save(tmp_path, Snapshot(CELL, 2, PARAMS, make(rate).init(PARAMS), optimizer=make(rate)), keep=1)
        for other in rates:
            assert load(tmp_path, optimizer=make(other)).opt_state is not None
    with pytest.raises(CheckpointError, match="opt_state"):
        load(tmp_path, optimizer=make(0.1))  # a state without a count
    injected = optax.inject_hyperparams(optax.adam)(0.1)
    save(tmp_path, Snapshot(CELL, 2, PARAMS, injected.init(PARAMS), optimizer=injected), keep=1)
    assert load(tmp_path, optimizer=optax.inject_hyperparams(optax.adam)(0.2)).opt_state is not None
    with pytest.raises(CheckpointError, match=r"opt_state belongs to .*adam.* got .*adamax"):
        load(tmp_path, optimizer=optax.inject_hyperparams(optax.adamax)(0.1))


def test_a_bomb_is_not_unpacked(tmp_path):
    one = jrnn.from_functions(lambda key, n: jnp.zeros(n), lambda *_, key=None: (), None, 1)
    with pytest.raises(CheckpointError, match="bytes claim to hold arrays of 200000000 bytes"):
        save(tmp_path, Snapshot(one, 50_000_000, np.broadcast_to(np.float32(0), 50_000_000)))
    assert not checkpoints(tmp_path)


def test_the_best_and_the_last(tmp_path):
    save(tmp_path, Snapshot(CELL, 2, PARAMS, step=9))
    with pytest.raises(CheckpointError, match=r"best: does not exist: fit keeps the best epoch if it has"):
        load(tmp_path, best=True)
    save(tmp_path / "best", Snapshot(CELL, 2, PARAMS, step=5))
    assert (load(tmp_path).step, load(tmp_path, best=True).step) == (9, 5)
