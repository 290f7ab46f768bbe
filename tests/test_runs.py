"""What `fit` chooses, keeps and says: the best epoch, numbers that are not finite, mistakes."""

import contextlib
import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn._cli import main
from jrnn.checkpoint import CheckpointError, checkpoints
from jrnn.losses import mean_squared_error
from jrnn.training._plans import _trainable_only
from jrnn.training._storing import check_position

RNG = np.random.default_rng(0)
CELL = jrnn.Elman(4)
XS = jnp.asarray(RNG.normal(size=(5, 3, 2)), jnp.float32)
BATCH = jrnn.Batch(XS, jnp.asarray(RNG.normal(size=(5, 3, 4)), jnp.float32))
BATCHES = [BATCH] * 4
LOSS = jrnn.PerStep(mean_squared_error)
SGD = optax.sgd(0.05)
QUIET = jrnn.Progress(bar=False)
RESERVOIR = jrnn.Stack((jrnn.EchoState(4), jrnn.Dense(4)))  # of which the optimizer sees a part
PARAMS = CELL.init(jax.random.key(1), 2)


def fit(model=CELL, batches=BATCHES, loss=LOSS, **options):
    settings = {"optimizer": SGD, "key": jax.random.key(0), "in_features": 2, "progress": QUIET}
    return jrnn.fit(model, batches, loss, **(settings | options))


def logged(out):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (out / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def scores(*values):
    """A criterion that gives these values, epoch by epoch."""
    return lambda entry: values[entry["epoch"] - 1]


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ((math.inf, 3.0, 2.0, 5.0), 3),
        ((math.nan, 3.0, math.nan, 4.0), 2),
        ((1.0, math.nan, math.inf, -math.inf), 1),
        ((math.inf,) * 4, None),
        ((math.nan,) * 4, None),
    ],
)
def test_a_number_that_is_not_finite_is_never_the_best(values, best):
    params, never = {}, contextlib.nullcontext()
    if best is None:
        never = pytest.warns(RuntimeWarning, match="criterion was finite in no epoch, .* the last parameters")
    with never:
        result = fit(
            epochs=4,
            criterion=scores(*values),
            monitors=(lambda r, s: params.update({r["epoch"]: s.params}),),
        )
        assert same(result.params, params[best or 4])
        waited = fit(epochs=4, patience=2, criterion=scores(*values))
    assert len(waited.history) == min(4, (best or 0) + 2)


def test_the_best_of_a_loss_that_starts_infinite():
    """As of a CTC sequence without an alignment: its loss is inf in the first epoch and finite afterwards."""

    class FirstInfinite:
        calls = 0

        def __iter__(self):
            FirstInfinite.calls += 1
            scale = jnp.inf if FirstInfinite.calls == 1 else 1.0
            return iter([BATCH._replace(targets=BATCH.targets * scale)])

    result = fit(epochs=3, validation=FirstInfinite())
    losses = [entry["validation"] for entry in result.history]
    assert not math.isfinite(losses[0]) and math.isfinite(losses[1])
    assert jrnn.evaluate(CELL, result.params, [BATCH], LOSS) == pytest.approx(min(losses[1:]), rel=1e-6)


def test_the_best_and_the_last_are_loaded_by_name(tmp_path):
    result = fit(epochs=4, criterion=scores(4.0, 1.0, 2.0, 3.0), out=tmp_path)
    assert same(jrnn.load(tmp_path, best=True).params, result.params)
    assert same(jrnn.load(tmp_path).params, result.state.params)
    assert not same(result.params, result.state.params)


@pytest.mark.parametrize("harm", ["removed", "damaged"])
def test_a_resumed_run_without_its_best_epoch_says_so(tmp_path, harm):
    fit(epochs=2, criterion=scores(1.0, 2.0), out=tmp_path)
    if harm == "removed":
        shutil.rmtree(tmp_path / "best")
        with pytest.warns(
            RuntimeWarning, match="has no parameters of the best epoch, which ended with step 4"
        ):
            result = fit(epochs=4, criterion=scores(1.0, 2.0, 7.0, 8.0), out=tmp_path, resume=True)
        assert same(result.params, jrnn.load(tmp_path, best=True).params)
        assert jrnn.load(tmp_path, best=True).step == 12
    else:
        (checkpoints(tmp_path / "best")[0] / "checkpoint.json").write_text("{}")
        with pytest.raises(CheckpointError, match="delete that folder to continue the run"):
            fit(epochs=4, criterion=scores(1.0, 2.0, 7.0, 8.0), out=tmp_path, resume=True)


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_waits_for_a_new_best_where_the_old_one_is_lost(tmp_path, patience):
    falling = scores(*range(9, 0, -1))
    fit(epochs=4, criterion=falling, patience=patience, out=tmp_path)
    shutil.rmtree(tmp_path / "best")
    with pytest.warns(RuntimeWarning, match="best of the remaining epochs replaces it"):
        result = fit(epochs=6, criterion=falling, patience=patience, out=tmp_path, resume=True)
    assert len(result.history) == 6 and jrnn.load(tmp_path, best=True).step == 24
    with pytest.warns(RuntimeWarning, match="the criterion was finite in no epoch"):
        never = fit(epochs=6, criterion=lambda entry: math.nan, patience=patience)
    assert len(never.history) == patience


class Shares:
    """A mean whose weights, the same for a batch, need not be whole."""

    def mean(self, ys, batch):
        return LOSS.mean(ys, batch._replace(target_mask=None))

    def count(self, batch):
        return batch.target_mask.sum()


def test_counts_need_not_be_whole(tmp_path):
    """Weights, small ones too, of epochs that are trained on and validated on, in one run and in two."""
    batches = [BATCH._replace(targets=k * BATCH.targets, target_mask=np.full((5, 3), w, np.float32))
               for k, w in ((1, 0.04), (3, 0.02), (2, 0.005))]  # fmt: skip
    still = {"optimizer": optax.sgd(0.0), "loss": Shares(), "validation": batches, "batches": batches}
    (whole,) = fit(**still).history
    assert whole["train"] == pytest.approx(whole["validation"], rel=1e-6)
    means = [float(LOSS.mean(jrnn.unroll(CELL, fit(**still).params, XS)[1], b._replace(target_mask=None)))
             for b in batches]  # fmt: skip
    assert whole["train"] == pytest.approx(np.average(means, weights=[8, 4, 1]), rel=1e-5)
    stopping = {"monitors": (lambda record, state: os.kill(os.getpid(), signal.SIGINT),)}
    assert fit(**still, out=tmp_path, **stopping).interrupted
    (resumed,) = fit(**still, out=tmp_path, resume=True).history
    assert resumed["train"] == whole["train"]
    options = {"progress": QUIET, "in_features": 2, "validation": batches, "optimizer": optax.sgd(0.0)}
    (row,) = jrnn.sweep(CELL, batches, Shares(), **options).table
    assert row["train"] == pytest.approx(whole["train"], rel=1e-5)
    assert row["validation"] == pytest.approx(whole["validation"], rel=1e-5)


def explode_at(step, value=jnp.nan):
    """Batches of which one turns the parameters into NaN."""
    batches = [BATCH] * 6
    batches[step - 1] = BATCH._replace(targets=BATCH.targets * value)
    return batches


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("save_every", [1, 500])
def test_parameters_that_are_not_finite_end_a_run_and_overwrite_nothing(tmp_path, value, save_every):
    options = {"batches": lambda epoch: explode_at(3, value) if epoch else [BATCH] * 2, "epochs": 9}
    with pytest.warns(
        RuntimeWarning,
        match=r"after step 5 \(epoch 2\).*newest checkpoint in .*, where resume=True continues",
    ):
        result = fit(out=tmp_path, save_every=save_every, **options)
    assert result.diverged == 5 and len(result.history) == 1 and int(result.state.step) < 8
    newest = jrnn.load(tmp_path)
    assert newest.step == (4 if save_every == 1 else 2) and same(newest.params, result.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    assert next(r["step"] for r in logged(tmp_path) if "nonfinite" in r) == 5
    with pytest.warns(
        RuntimeWarning, match="returns the parameters of the best epoch, which ended with step 2"
    ):
        result = fit(validation=[BATCH], **options)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    with pytest.warns(
        RuntimeWarning, match="returns the last parameters; with validation or out, finite ones are kept"
    ):
        assert fit(**options).diverged == 5


def test_a_run_that_began_with_nan_returns_what_there_is(tmp_path):
    """At the last step of an epoch, which is not called the first of the next; no checkpoint is promised."""
    begun = PARAMS._replace(b=PARAMS.b * jnp.nan)
    with pytest.warns(RuntimeWarning, match=r"after step 0 \(epoch 1\) .* returns the last parameters;"):
        assert fit(params=begun, out=tmp_path).diverged == 0
    assert not checkpoints(tmp_path)
    with pytest.warns(RuntimeWarning, match=r"after step 1 \(epoch 1\) .* returns the last parameters;"):
        assert fit(batches=explode_at(1)[:1], epochs=2).diverged == 1
    with pytest.warns(RuntimeWarning, match=r"after step 1 \(epoch 1\) .* returns the last parameters;"):
        assert fit(batches=[BATCH], optimizer=optax.sgd(math.nan), epochs=2).diverged == 1  # at a finite loss


def test_a_batch_without_targets_weighs_nothing():
    """The loss that a message advises, a mean over nothing, is NaN."""
    loss = jrnn.PerStep(lambda ys, targets, mask: jnp.mean((ys - targets) ** 2, where=mask[..., None]))
    empty = BATCH._replace(target_mask=np.zeros((5, 3), bool))
    whole = BATCH._replace(target_mask=np.ones((5, 3), bool))
    wanted = jrnn.evaluate(CELL, PARAMS, [BATCH], LOSS)
    assert jrnn.evaluate(CELL, PARAMS, [empty, whole, empty], loss) == pytest.approx(wanted)


class Probe(Exception):
    pass


def stop_at(step):
    def monitor(record, state):
        if record["step"] == step:
            raise Probe

    return monitor


def test_a_loss_that_is_not_finite_is_null_in_the_log(tmp_path):
    skipping = optax.apply_if_finite(SGD, max_consecutive_errors=3)
    with pytest.warns(RuntimeWarning, match=r"loss was not finite at step 2 \(epoch 1\), but all parameters"):
        result = fit(batches=explode_at(2), optimizer=skipping, epochs=2, out=tmp_path)
    assert result.diverged is None and int(result.state.step) == 12
    records = logged(tmp_path)
    assert [r["step"] for r in records if r.get("loss", 0) is None] == [2, 8]
    assert records[1]["nonfinite"] == {"loss": "nan", "grad_norm": "nan"}
    assert math.isnan(result.history[0]["train"])
    assert "NaN" not in (checkpoints(tmp_path)[0] / "checkpoint.json").read_text()
    with pytest.warns(
        RuntimeWarning, match=r"loss was not finite at step 14 \(epoch 3\), but all parameters"
    ):
        resumed = fit(batches=explode_at(2), optimizer=skipping, epochs=3, out=tmp_path, resume=True)
    assert math.isnan(resumed.history[0]["train"]) and len(resumed.history) == 3
    assert len(jrnn.plots.loss_curve(tmp_path).lines[0].get_xdata()) == 18
    again = {"batches": explode_at(2), "optimizer": skipping, "out": tmp_path / "stopped", "save_every": 3}
    with pytest.raises(Probe):
        fit(monitors=(stop_at(4),), **again)
    assert math.isnan(fit(resume=True, **again).history[0]["train"])  # at a step before: no warning names it


def test_a_damaged_log_ends_no_run(tmp_path):
    fit(epochs=1, out=tmp_path)
    log = tmp_path / "metrics.jsonl"
    lines = log.read_text().splitlines()
    log.write_bytes(
        "\n".join([lines[0], lines[1][:9], "[1]", "{}", *lines[2:]]).encode() + b'\n\xff{"step": 9'
    )
    fit(epochs=2, out=tmp_path, resume=True)
    assert [r["step"] for r in logged(tmp_path) if "loss" in r] == [1, 3, 4, 5, 6, 7, 8]


def test_the_log_is_on_disk_before_the_checkpoint(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), sync(handle)))
    fit(out=tmp_path)
    log, description = tmp_path / "metrics.jsonl", checkpoints(tmp_path)[0] / "checkpoint.json"
    assert synced.index(log.stat().st_ino) < synced.index(description.stat().st_ino)


FORGED = {  # entry of a position: values that fit does not store
    "epoch": (None, True, -1, 3.5, "1", [], ...),
    "batch": (None, "x", 1.0, ...),
    "rows": ("x", -3, 2.5, [], ...),
    "stateful": (None, 1, "no", ...),
    "sums": (None, [], {}, {"targets": 1, "nats": "x"}, {"targets": -1}, {"targets": 0, "more": 1}, ...),
    "history": (None, {}, [3], [{}], [{"step": 3}], [{"step": 3, "epoch": 1, "train": "x"}],
                [{"step": 3, "epoch": 1, "nonfinite": {"train": "nan"}}],
                [{"step": 3, "epoch": 1, "train": None, "nonfinite": {"train": "NaN"}}], ...),
    "best": (7, "x", True, [], {}, ...),
    "more": (1,),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_position_that_fit_did_not_store_is_named(tmp_path, name):
    fine = {"epoch": 1, "batch": 0, "rows": 3, "stateful": False, "best": 3,
            "sums": {"targets": 4, "nats": None, "seconds": 1.0, "nonfinite": {"nats": "nan"}},
            "history": [{"step": 3, "epoch": 1, "train": None, "nonfinite": {"train": "inf"}}]}  # fmt: skip
    check_position(tmp_path, fine)
    for value in FORGED[name]:
        position = fine | {name: value}
        if value is ...:
            del position[name]
        with pytest.raises(CheckpointError, match=rf"not a run of fit: position .* has (best|{name}): "):
            check_position(tmp_path, position)


def test_what_an_earlier_run_left_is_not_taken_for_this_one(tmp_path):
    """A log without checkpoints was written on, and a best epoch of a later step was loaded for ever."""
    fit(epochs=3, criterion=scores(9.0, 8.0, 1.0), out=tmp_path)
    for path in checkpoints(tmp_path)[:1]:
        shutil.rmtree(path)  # as a message advises where it is damaged
    result = fit(epochs=2, criterion=scores(9.0, 8.0), out=tmp_path, resume=True)
    assert jrnn.load(tmp_path, best=True).step == 8
    assert same(jrnn.load(tmp_path, best=True).params, result.params)
    for path in checkpoints(tmp_path):
        shutil.rmtree(path)
    with pytest.raises(ValueError, match="holds the best epoch of an earlier run, but no checkpoint"):
        fit(out=tmp_path)
    shutil.rmtree(tmp_path / "best")
    fit(out=tmp_path)
    assert [r["step"] for r in logged(tmp_path) if "loss" in r] == [1, 2, 3, 4]


def test_a_snapshot_of_the_user_is_no_run(tmp_path):
    jrnn.save(tmp_path, jrnn.Snapshot(CELL, 2, PARAMS, SGD.init(PARAMS), position={"epoch": 3}))
    with pytest.raises(CheckpointError, match=r"not a run of fit: position .* has batch: missing"):
        fit(out=tmp_path, resume=True)


def test_one_run_at_a_time_writes_to_a_directory(tmp_path):
    def second(record, state):
        if record["step"] == 2:
            with pytest.raises(ValueError, match=rf"out: .* is being written by process {os.getpid()} on "):
                fit(out=tmp_path, resume=True)
            raise Probe

    with pytest.raises(Probe):
        fit(out=tmp_path, monitors=(second,))
    fit(out=tmp_path, resume=True)  # the lock goes with the run


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins(tmp_path):
    assert same(fit(out=tmp_path / "new", resume=True).params, fit().params)


def test_ctrl_c_without_out_returns_what_there_is():
    def interrupt(record, state):
        if record["step"] == 5:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    result = fit(epochs=3, monitors=(interrupt,))
    assert result.interrupted and int(result.state.step) == 5 and len(result.history) == 1
    assert same(result.params, result.state.params)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_monitors_return_is_recorded_and_chosen_by(tmp_path):
    def accuracy(record, state):
        return (
            {"accuracy": [0.1, 0.7, 0.3, 0.2][record["epoch"] - 1]} if "train" in record else {"noise": 1.0}
        )

    result = fit(
        epochs=9, monitors=(accuracy,), criterion=lambda entry: -entry["accuracy"], patience=2, out=tmp_path
    )
    assert [entry["accuracy"] for entry in result.history] == [0.1, 0.7, 0.3, 0.2]
    assert [r["accuracy"] for r in logged(tmp_path) if "accuracy" in r] == [0.1, 0.7, 0.3, 0.2]
    assert jrnn.load(tmp_path, best=True).step == 8
    assert jrnn.plots.loss_curve(result.history).lines[0].get_xdata().tolist() == [4, 8, 12, 16]


def test_between_steps_a_run_holds_its_state_and_the_best_parameters_alone():
    cell, xs, targets = jrnn.Elman(32), np.ones((5, 3, 64), np.float32), np.ones((5, 3, 32), np.float32)
    held = []

    def size(arrays):
        floats = [a for a in arrays if a.ndim and a.dtype == np.float32]  # numbers are those of records
        return sum({a.unsafe_buffer_pointer(): a.nbytes for a in floats}.values())

    def watch(record, state):
        jax.block_until_ready(state)
        extra = size(jax.live_arrays()) - size(jax.tree.leaves(state))
        held.append((extra - before) // size(jax.tree.leaves(state.params)))

    gc.collect()  # of what other tests left, nothing goes meanwhile
    batches, before = [jrnn.Batch(xs, targets)] * 2, size(jax.live_arrays())
    options = {"optimizer": optax.adam(1e-2), "in_features": 64, "epochs": 3, "monitors": (watch,)}
    fit(cell, batches, validation=batches, **options)
    assert held == [0, 0, 0, 1, 1, 1, 1, 1, 1]  # two steps and the end of each epoch


def test_a_result_prints_as_a_line():
    assert repr(fit(epochs=2)) == (
        "FitResult(28 parameters, 8 steps, 2 epochs, interrupted=False, diverged=None)"
    )


def test_predict_gives_the_outputs_of_every_batch():
    ragged = BATCH._replace(lengths=jnp.array([5, 0, 2]))
    for batches in ([BATCH, ragged], [BATCH._replace(targets=None)]):
        for batch, ys in zip(batches, jrnn.predict(CELL, PARAMS, batches), strict=True):
            wanted = jrnn.unroll(CELL, PARAMS, batch.xs, lengths=batch.lengths)[1]
            assert isinstance(ys, np.ndarray)
            np.testing.assert_allclose(ys, wanted, rtol=1e-6)
    first, second = jrnn.predict(CELL, PARAMS, [BATCH, BATCH], stateful=True)
    wanted = jrnn.unroll(CELL, PARAMS, jnp.concatenate([XS, XS]))[1]
    np.testing.assert_allclose(np.concatenate([first, second]), wanted, rtol=1e-5)


OPTIMIZERS = {
    "plateau": lambda: optax.chain(optax.sgd(0.05), optax.contrib.reduce_on_plateau(patience=1)),
    "lbfgs": lambda: optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(5)),
    "polyak": lambda: optax.polyak_sgd(max_learning_rate=0.1),
    "sharpness": lambda: optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01), sync_period=2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("model", [CELL, RESERVOIR], ids=["trained", "fixed"])
def test_optimizers_that_ask_for_the_loss(name, model):
    """As by hand: optax' own example, with value, grad and value_fn."""
    optimizer, params = OPTIMIZERS[name](), model.init(jax.random.key(2), 2)
    result = fit(model, [BATCH] * 3, optimizer=optimizer, params=params)

    def value_fn(learned):  # of the part that is learned, which is the last of the stack
        whole = learned if model is CELL else (params[0], learned)
        return LOSS.mean(jrnn.unroll(model, whole, XS)[1], BATCH)

    wanted, got = (params, result.params) if model is CELL else (params[1], result.params[1])
    before, state = wanted, optimizer.init(wanted)
    for _ in range(3):
        value, grad = jax.value_and_grad(value_fn)(wanted)
        extra = {"value": value, "grad": grad, "value_fn": value_fn}
        extra = {} if name == "sharpness" else extra  # which takes none, though its type says so
        updates, state = optimizer.update(grad, state, wanted, **extra)
        wanted = optax.apply_updates(wanted, updates)
    for ours, by_hand in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, by_hand, rtol=2e-4, atol=1e-6)
    assert model is CELL or same(result.params[0], params[0])
    assert float(value_fn(got)) < float(value_fn(before))


def test_what_is_fixed_is_not_updated_whatever_its_gradient():
    params = {"fixed": jnp.ones(2), "w": jnp.ones(3)}
    optimizer = _trainable_only(SGD)
    updates, _ = optimizer.update(params, optimizer.init(params), params, grad=params, value_fn=None)
    assert not np.any(updates["fixed"]) and np.all(updates["w"] == np.float32(-0.05))


@pytest.mark.parametrize(
    "model", [CELL, jrnn.Stack((jrnn.EchoState(4), jrnn.Dense(4)))], ids=["trained", "fixed"]
)
def test_averaged_parameters_are_evaluated_kept_and_returned(tmp_path, model):
    optimizer = optax.contrib.schedule_free_sgd(0.3)
    average = optax.contrib.schedule_free_eval_params
    result = fit(model, optimizer=optimizer, eval_params=average, validation=[BATCH], epochs=2, out=tmp_path)
    assert not same(result.params, result.state.params)
    assert result.history[-1]["validation"] == pytest.approx(
        jrnn.evaluate(model, result.params, [BATCH], LOSS)
    )
    assert same(jrnn.load(tmp_path, best=True).params, result.params)
    if model is CELL:
        assert same(result.params, average(result.state.opt_state, result.state.params))
    with pytest.warns(RuntimeWarning, match="those of the newest checkpoint"):
        options = {"optimizer": optimizer, "eval_params": average, "batches": explode_at(5)}
        diverged = fit(model, save_every=2, out=tmp_path / "diverged", **options)
    sound = fit(model, optimizer=optimizer, eval_params=average)  # its four steps
    assert same(diverged.params, sound.params)
    fixed = jax.tree.map(lambda free, a, b: free or np.array_equal(a, b), jrnn.trainable(result.params),
                         result.params, result.state.params)  # fmt: skip
    assert all(jax.tree.leaves(fixed))


TINY = ["--hidden", "4", "--embed", "2", "--batch", "2", "--steps", "8", "--epochs", "1", "--out"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the past let go of the gate. " * 100, encoding="utf-8")
    return str(path)


def test_a_console_that_knows_no_arrow(tmp_path, text):
    done = subprocess.run(
        [sys.executable, "-m", "jrnn", "train", text, *TINY, "run"],
        cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Embed(2) ? LSTM(4) ? Dense" in done.stdout


def test_a_command_that_was_stopped_before_its_first_checkpoint_is_resumed(tmp_path, text, capsys):
    assert main(["train", text, *TINY, str(tmp_path / "whole")]) == 0
    (tmp_path / "stopped").mkdir()
    shutil.copy(tmp_path / "whole" / "run.json", tmp_path / "stopped")  # all that is there at first
    assert main(["train", "--resume", str(tmp_path / "stopped")]) == 0
    assert same(*(jrnn.load(tmp_path / name).params for name in ("whole", "stopped")))
    capsys.readouterr()


SETTINGS = {  # what may stand in the place of the settings of a run
    "bytes": b"\xff{", "nothing": b"", "list": b"[]", "deep": b"[" * 100_000, "no files": {"files": ...},
    "no config": {"config": ...}, "files": {"files": "abc"}, "numbers": {"files": [3]},
    "unknown": {"config": {"size": 3}}, "type": {"config": {"hidden": "4"}},
    "range": {"config": {"hidden": -4}},
    "cell": {"config": {"cell": "os.system"}}, "escape": {"config": {"cell": "\x1b[2J"}},
}  # fmt: skip


def test_damaged_settings_of_a_run_end_in_one_line(tmp_path, capsys):
    for name, content in SETTINGS.items():
        if isinstance(content, dict):
            changed = {"config": {}, "files": []} | content
            content = json.dumps({k: v for k, v in changed.items() if v is not ...}).encode()
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_bytes(content)
        assert main(["train", "--resume", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(
            f"jrnn: {tmp_path / name}/run.json: not the settings that jrnn train wrote, start"
        )
        assert said.count("\n") == 1 and "\x1b" not in said


def test_a_command_whose_numbers_explode_says_so(tmp_path, text, capsys):
    assert main(["train", text, "--lr", "1e38", *TINY, str(tmp_path / "run")]) == 2
    assert "training diverged: loss or gradient not finite at step" in capsys.readouterr().err


def test_methods_reach_the_evaluation():
    seen = []

    class Watched:
        def run(self, loop):
            seen.append(loop.length)
            return jrnn.Scan().run(loop)

        def __hash__(self):
            return 1

        def __eq__(self, other):
            return self is other

    method = Watched()
    jrnn.evaluate(CELL, PARAMS, [BATCH], LOSS, method=method)
    assert seen
    seen.clear()
    list(jrnn.predict(CELL, PARAMS, [BATCH], method=method))
    assert seen
