import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn.losses import cross_entropy, mean_squared_error

TOKENS = np.random.default_rng(0).integers(0, 5, 200)
STREAM = jrnn.Stream(TOKENS, batch_size=4, steps=6)  # 8 batches
MODEL = jrnn.Stack((jrnn.Embed(3), jrnn.LSTM(7), jrnn.Dense(5)), dropout=0.2)
LOSS = jrnn.PerStep(cross_entropy)
QUIET = jrnn.Progress(bar=False)


def run(out=None, epochs=2, batches=STREAM, **options):
    settings = {
        "optimizer": optax.adam(1e-2),
        "key": jax.random.key(3),
        "in_features": 5,
        "stateful": True,
        "validation": STREAM,
        "save_every": 3,
        "progress": QUIET,
    }
    return jrnn.fit(MODEL, batches, LOSS, out=out, epochs=epochs, **(settings | options))


def assert_identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_the_carry_is_handed_on_and_starts_anew_every_epoch():
    model = jrnn.Stack((jrnn.Embed(3), jrnn.GRU(4), jrnn.Dense(5)))
    params = model.init(jax.random.key(0), 5)
    frozen = optax.set_to_zero()
    seen = []
    jrnn.fit(
        model, STREAM, LOSS, optimizer=frozen, key=jax.random.key(1), params=params, epochs=2,
        stateful=True, progress=QUIET, monitors=(lambda record, state: seen.append((record, state.carry)),),
    )  # fmt: skip
    steps = [(record, carry) for record, carry in seen if "loss" in record]
    xs = np.concatenate([batch.xs for batch in STREAM])
    whole = jrnn.unroll(jrnn.Tap(model), params, xs)[1][1]  # the carry after every step of an epoch
    for index, (_, carry) in enumerate(steps):
        wanted = jax.tree.map(lambda a, t=6 * (index % 8) + 5: a[t], whole)
        for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_gradients_are_cut_between_batches_and_reach_a_learned_start_when_fresh():
    model = jrnn.LearnedCarry(jrnn.GRU(2))
    optimizer = optax.sgd(1.0)
    params = model.init(jax.random.key(0), 3)
    batch = jrnn.Batch(jax.random.normal(jax.random.key(1), (4, 2, 3)), jnp.ones((4, 2, 2)))
    loss = jrnn.PerStep(mean_squared_error)
    step = jax.jit(jrnn.train_step(model, loss, optimizer))
    state = jrnn.init_state(model, params, optimizer, jax.random.key(2), batch_shape=(2,))
    state = state._replace(carry=state.carry + 0.5)
    for fresh, start in ((True, None), (False, state.carry)):
        after = step(state, batch, fresh)[0]
        wanted = jax.grad(lambda p, s=start: loss.mean(jrnn.unroll(model, p, batch.xs, s)[1], batch))(params)
        moved = jax.tree.map(lambda new, old: old - new, after.params, params)
        for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        assert bool(jnp.any(moved.carry != 0)) == fresh


def test_noise_is_drawn_anew_for_every_batch_and_evaluation_has_none():
    model = jrnn.Dropout(jrnn.Dense(64), output=0.5)
    params = model.init(jax.random.key(0), 3)
    batch = jrnn.Batch(jnp.ones((2, 1, 3)), jnp.zeros((2, 1, 64)))
    loss = jrnn.PerStep(mean_squared_error)
    step = jax.jit(jrnn.train_step(model, loss, optax.set_to_zero()))
    state = jrnn.init_state(model, params, optax.set_to_zero(), jax.random.key(1), batch_shape=(1,))
    losses = []
    for _ in range(4):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        assert state.carry.key is None
    assert len(set(losses)) == 4
    plain = float(jnp.mean(jrnn.unroll(model.cell, params, batch.xs)[1] ** 2))
    assert jrnn.evaluate(model, params, [batch, batch], loss, stateful=True) == pytest.approx(plain, rel=1e-6)


def test_evaluate_counts_every_target_once():
    cell = jrnn.Dense(1, activation="identity")
    params = cell.init(jax.random.key(0), 1)._replace(w=jnp.ones((1, 1)))
    rows = [([1.0, 2.0, 3.0], 3), ([4.0, 9.0, 9.0], 1), ([9.0, 9.0, 9.0], 0)]
    batches = [
        jrnn.Batch(jnp.array(xs).reshape(3, 1, 1), jnp.zeros((3, 1, 1)), lengths=jnp.array([n]))
        for xs, n in rows
    ]
    per_step = jrnn.evaluate(cell, params, batches, jrnn.PerStep(mean_squared_error))
    assert per_step == pytest.approx((1 + 4 + 9 + 16) / 4)
    many_to_one = [batch._replace(targets=jnp.zeros((1, 1))) for batch in batches]
    at_last = jrnn.evaluate(cell, params, many_to_one, jrnn.AtLast(mean_squared_error))
    assert at_last == pytest.approx((9 + 16) / 2)


def test_the_same_seed_gives_the_same_bits():
    assert_identical(run().state, run().state)
    other = run(key=jax.random.key(4)).state
    assert bool(jnp.any(other.params[0].table != run().state.params[0].table))


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", [4, 8, 13])
def test_a_run_resumed_after_a_crash_ends_with_the_same_bits(tmp_path, step):
    def crash(record, state):
        if record["step"] == step and "loss" in record:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "a", monitors=(crash,))
    resumed = run(tmp_path / "a", resume=True)
    whole = run(tmp_path / "b")
    assert_identical(resumed.state, whole.state)
    assert_identical(resumed.params, whole.params)
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in "ab"]
    losses = [[record["loss"] for record in map(json.loads, log) if "loss" in record] for log in logs]
    assert losses[0] == losses[1] and len(losses[0]) == 16


def test_a_signal_finishes_the_step_saves_and_returns(tmp_path):
    def interrupt(record, state):
        if record["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    stopped = run(tmp_path / "a", monitors=(interrupt,))
    assert stopped.interrupted and int(stopped.state.step) == 5
    assert signal.getsignal(signal.SIGTERM) is before
    assert jrnn.load(tmp_path / "a").step == 5
    assert_identical(run(tmp_path / "a", resume=True).state, run().state)


def test_early_stopping_returns_the_best_epoch(tmp_path):
    seen = {}

    def remember(record, state):
        if "validation" in record:
            seen[record["validation"]] = state.params

    result = run(tmp_path, epochs=40, patience=3, optimizer=optax.adam(0.3), monitors=(remember,))
    losses = [record["validation"] for record in result.history]
    assert len(losses) < 40 and len(losses) - 1 - losses.index(min(losses)) == 3
    assert_identical(result.params, seen[min(losses)])
    assert_identical(jrnn.load(tmp_path / "best").params, result.params)


def test_fixed_parameters_stay_whatever_the_optimizer_does():
    cell = jrnn.from_functions(
        init=lambda key, n: {"w": jnp.ones((n, 3)), "fixed": {"u": 0.5 * jnp.ones((3, 3))}},
        initial_carry=lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3)),
        step=lambda p, h, x: 2 * (jnp.tanh(x @ p["w"] + h @ jax.lax.stop_gradient(p["fixed"]["u"])),),
        out_features=3,
    )
    batch = jrnn.Batch(jnp.ones((4, 2, 2)), jnp.zeros((4, 2, 3)))
    result = jrnn.fit(
        cell, [batch], jrnn.PerStep(mean_squared_error), optimizer=optax.adamw(0.1, weight_decay=0.5),
        key=jax.random.key(0), in_features=2, epochs=5, progress=QUIET,
    )  # fmt: skip
    np.testing.assert_array_equal(result.params["fixed"]["u"], 0.5 * jnp.ones((3, 3)))
    assert bool(jnp.all(result.params["w"] != 1))


def test_many_to_one_learns_from_padded_batches_of_ragged_sequences():
    rng = np.random.default_rng(1)
    sequences = [rng.standard_normal((n, 1)).astype(np.float32) for n in rng.integers(3, 12, 64)]
    labels = np.array([int(s[0, 0] > 0) for s in sequences])  # the first step decides
    batches = jrnn.padded_batches(sequences, labels, 16, key_seed=0)
    result = jrnn.fit(
        jrnn.Stack((jrnn.GRU(12), jrnn.Dense(2))), batches.epoch, jrnn.AtLast(cross_entropy),
        optimizer=optax.adam(2e-2), key=jax.random.key(0), in_features=1, epochs=40, progress=QUIET,
    )  # fmt: skip
    assert result.history[-1]["train"] < 0.1 < 0.6 < result.history[0]["train"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"in_features": None}, "in_features is needed"),
        ({"validation": None, "patience": 2}, "patience needs validation"),
        ({"resume": True}, "resume needs out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        run(**options)


def test_a_stream_refuses_a_layer_that_looks_ahead():
    layer = jrnn.Sequential((jrnn.Embed(3), jrnn.Bidirectional(jrnn.GRU(4))))
    with pytest.raises(ValueError, match="looks ahead"):
        jrnn.fit(
            layer, STREAM, LOSS, optimizer=optax.sgd(1.0), key=jax.random.key(0), in_features=5, stateful=True
        )
    params = layer.init(jax.random.key(0), 5)
    with pytest.raises(ValueError, match="looks ahead"):
        jrnn.evaluate(layer, params, STREAM, LOSS, stateful=True)
    with pytest.raises(ValueError, match="looks ahead"):
        jrnn.predict(layer, params, STREAM, stateful=True)


def test_empty_batches_are_refused():
    with pytest.raises(ValueError, match="batches of epoch 1 are empty"):
        jrnn.fit(
            MODEL, [], LOSS, optimizer=optax.sgd(1.0), key=jax.random.key(0), in_features=5, progress=QUIET
        )


SCRIPT = """
import os, sys, time
sys.path.insert(0, {root!r})
from tests.test_training import run
import jrnn
from pathlib import Path
out = Path({out!r})
ready = lambda record, state: (print("step", flush=True), time.sleep(0.004))
for _ in sys.stdin:  # a run for every line, in a process of its own that starts with all of this imported
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        run(out, epochs=40, resume=bool(list(out.glob("step_*"))), monitors=(ready,))
        print("done", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.mark.slow
def test_kill_9_at_twenty_random_moments(tmp_path):
    out, rng, kills = tmp_path / "run", np.random.default_rng(5), 0
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    script = textwrap.dedent(SCRIPT.format(root=root, out=str(out)))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], text=True, bufsize=1, **pipes) as runs:
        for _ in range(60):
            runs.stdin.write("another\n")
            process, first = int(runs.stdout.readline()), runs.stdout.readline()
            time.sleep(float(rng.uniform(0, 0.25)))
            if kills < 20 and first == "step\n":
                os.kill(process, signal.SIGKILL)
                kills += 1
            said = list(iter(runs.stdout.readline, "ended\n"))
            if jrnn.checkpoint.checkpoints(out):
                jrnn.load(out)  # the newest complete one loads, whatever was going on
            if "done\n" in said:
                break
        runs.stdin.close()
    assert kills == 20
    assert_identical(jrnn.load(out, optimizer=optax.adam(1e-2)).params, run(epochs=40).state.params)


WRITES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.symlink", "os.link"}


@pytest.mark.slow
def test_killed_before_any_of_its_file_operations_a_run_goes_on_to_the_same_bits(tmp_path):
    """A process that is killed leaves its directory as it is at that moment: such directories are resumed."""
    out, kept, seen, recording = tmp_path / "run", tmp_path / "kept", {}, [True]

    def keep(event, _):
        if event not in WRITES or not recording[0] or not out.exists():
            return
        recording[0] = False  # what is done here is no operation of the run
        files = sorted(path for path in out.rglob("*") if path.is_file())
        # a folder that is not complete is removed, whatever is in it: that there is one is all that counts
        names = [path.relative_to(out).as_posix() for path in files]
        content = tuple(
            name.partition("/")[0] if ".tmp/" in name else (name, path.read_bytes())
            for name, path in zip(names, files, strict=True)
        )
        content = tuple(dict.fromkeys(content))
        if hash(content) not in seen:
            seen[hash(content)] = shutil.copytree(out, kept / str(len(seen)))
        recording[0] = True

    sys.addaudithook(keep)
    short = jrnn.Stream(TOKENS[:76], batch_size=4, steps=6)  # 3 batches
    whole = run(out, batches=short, validation=short, save_every=2)
    recording[0] = False
    losses = [json.loads(line).get("loss") for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(seen) > 30
    for directory in seen.values():
        resumed = run(directory, batches=short, validation=short, save_every=2, resume=True)
        assert_identical((resumed.params, resumed.state), (whole.params, whole.state))
        log = (directory / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line).get("loss") for line in log] == losses
        assert jrnn.load(directory, best=True).step == jrnn.load(out, best=True).step


def test_a_second_run_of_equal_arguments_compiles_nothing():
    """Equal by value: the cell and the loss are made anew, the optimizer is the same object."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    optimizer, batches = optax.sgd(0.1), [jrnn.Batch(jnp.ones((5, 2, 3)), jnp.zeros((5, 2, 4)))]

    def run(model, seed):
        compiled.clear()
        loss, key = jrnn.PerStep(mean_squared_error), jax.random.key(seed)
        options = {"optimizer": optimizer, "in_features": 3, "validation": batches, "progress": QUIET}
        return jrnn.fit(model, batches, loss, key=key, **options).params

    for model in (jrnn.GRU(4), jrnn.EchoState(4)):  # whose reservoir the optimizer does not see
        first = run(model, 0)
        assert compiled
        second = run(type(model)(4), 1)
        assert not compiled
        assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))
    jrnn.fit(
        jrnn.GRU(4), batches, jrnn.PerStep(mean_squared_error), optimizer=optimizer, key=jax.random.key(0),
        in_features=3, penalties=(Unhashable(),), progress=QUIET,
    )  # fmt: skip


class Unhashable:
    __hash__ = None

    def __call__(self, params, batch):
        return 0.1 * jnp.sum(params.w_hh**2)
