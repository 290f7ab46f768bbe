"""What one device computes, several do: `fit` with batches split over 2 and 4 of them, each in a process."""

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import traceback
import warnings
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
STREAM = jrnn.Stream(RNG.integers(0, 5, 64 * 6 * 10 + 1), batch_size=64, steps=6)  # 10 batches
SEQUENCES = [RNG.standard_normal((n, 3)) for n in RNG.integers(1, 8, 120)]
LABELS = [RNG.integers(0, 5, len(sequence)) for sequence in SEQUENCES]
NOISY = jrnn.Stack((jrnn.Embed(3), jrnn.LearnedCarry(jrnn.LSTM(7)), jrnn.Dense(5)), dropout=0.2)
VARIATIONAL = jrnn.Stack((jrnn.Dropout(jrnn.Elman(4), input=0.2, state=0.2), jrnn.Dense(5)))
BOTH_ENDS = jrnn.Sequential((jrnn.Bidirectional(jrnn.Elman(4)), jrnn.Dense(5)))
MAP = jrnn.Stack((jrnn.Embed(3), jrnn.Dense(5)))
WIDTHS = {NOISY: 5, MAP: 5}
PER_STEP, AT_LAST = jrnn.PerStep(cross_entropy), jrnn.AtLast(cross_entropy)


def padded(targets):
    """Two batches, in the last one 8 rows of length 0."""
    return list(jrnn.padded_batches(SEQUENCES, targets, 64, bucket=8))


def cut(batch, rows):
    return jax.tree.map(lambda leaf: leaf[:, :rows], batch)


def as_function(params, batch, carry, key):
    jax.debug.inspect_array_sharding(batch.xs, callback=SHARDINGS.append)
    return jrnn.unroll(MAP, params, batch.xs, carry, key=key)


UNEVEN = [STREAM[1], cut(STREAM[0], 13), STREAM[2]]
RUNS = {  # model, batches, loss, options
    "stream": (NOISY, STREAM, PER_STEP, {"stateful": True, "validation": STREAM, "epochs": 2}),
    "target per step": (VARIATIONAL, padded(LABELS), PER_STEP, {"epochs": 10}),
    "target per sequence": (BOTH_ENDS, padded([int(y[0]) for y in LABELS]), AT_LAST, {"epochs": 10}),
    "uneven batches": (as_function, UNEVEN, PER_STEP, {"validation": UNEVEN, "epochs": 7}),
}


def fit(name, **changes):
    """A run, and the devices and programs that it used: `(result, [(record, state, programs)])`."""
    model, batches, loss, options = RUNS[name]
    given = params_of(MAP if model is as_function else model)
    options = {"key": jax.random.key(3), "optimizer": optax.adam(1e-2), "params": given, **options}
    return watched(model, batches, loss, **(options | changes))


@functools.cache
def params_of(model):
    return jax.jit(lambda key: model.init(key, WIDTHS.get(model, 3)))(jax.random.key(5))


def watched(model, batches, loss, monitors=(), **options):
    seen = []
    watch = lambda record, state: seen.append((record, state, len(PROGRAMS)))
    settings = {"in_features": WIDTHS.get(model, 3), "progress": jrnn.Progress(bar=False)}
    return jrnn.fit(model, batches, loss, monitors=(watch, *monitors), **(settings | options)), seen


PROGRAMS = []  # compiled so far
SHARDINGS = []  # of batches of `as_function`, when it was compiled
spread = functools.cache(fit)


@functools.cache
def single(name):
    """The run on one device, as happens where the caller chooses one."""
    with alone():
        return fit(name)


def alone():
    return jax.default_device(jax.devices()[1])


def numbers(tree):
    """The arrays of a tree, of keys their bits."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return [np.asarray(jax.random.key_data(a) if is_key(a) else a) for a in jax.tree.leaves(tree)]


def assert_close(a, b, tolerance):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max(initial=1e-9))


def assert_same_bits(a, b):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_array_equal(x, y)


def losses(result):
    return [{k: v for k, v in entry.items() if "seconds" not in k} for entry in result.history]


def devices_of(tree):
    return {len(leaf.devices()) for leaf in jax.tree.leaves(tree)}


# each check runs in a process with `count` devices, in float64


def check_a_run_is_that_of_one_device(count, folder):
    for name in RUNS if count == 2 else ("stream", "target per sequence"):
        (result, seen), (expected, _) = spread(name), single(name)
        assert int(result.state.step) >= 20
        assert_close((result.state, result.params), (expected.state, expected.params), 1e-6)
        for entry, wanted in zip(losses(result), losses(expected), strict=True):
            assert entry == pytest.approx(wanted, rel=1e-6)
        for _, state, _ in seen:
            assert devices_of(state) == {count}
            assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state._replace(carry=None)))
            rows = [leaf.addressable_shards[0].data.shape[0] for leaf in jax.tree.leaves(state.carry)]
            assert set(rows) <= {64 // count} and bool(rows) == (name == "stream")


def check_one_step_of_32_bits_is_that_of_one_device(count, folder):
    narrow = lambda leaf: leaf.astype(jnp.float32)
    options = {"params": jax.tree.map(narrow, params_of(NOISY)), "optimizer": optax.trace(0.0)}
    RUNS["one step"] = NOISY, [STREAM[0]._replace(lengths=np.arange(64) % 7)], PER_STEP, options
    gradient, wanted = spread("one step")[0].state.opt_state, single("one step")[0].state.opt_state
    del RUNS["one step"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))
    assert_close(gradient, wanted, 1e-6)


def check_batches_are_split_where_they_divide(count, folder):
    spread("uneven batches")
    rows = [sharding.shard_shape((6, 64))[1] for sharding in SHARDINGS[:4]]
    assert rows == [64 // count, 64] * 2  # training, evaluation: 64 rows, 13 rows


def check_results_lie_on_one_device_and_may_go_to_any(count, folder):
    result, _ = spread("stream")
    left = jax.tree.leaves((result.params, result.state))
    assert all(leaf.devices() == {jax.devices()[0]} and not leaf.committed for leaf in left)


def check_nothing_is_compiled_twice(count, folder):
    programs = [number for _, _, number in spread("stream")[1]]
    assert len(set(programs[:10])) == 1 and set(programs[11:]) == {programs[10]}  # training, evaluation


def check_resuming(count, folder):
    def interrupt(record, state):
        if record["step"] == 10:  # all of the first epoch, but for its evaluation
            os.kill(os.getpid(), signal.SIGTERM)

    whole = spread("stream")[0]
    for again in (contextlib.nullcontext, alone):
        out = folder / again.__name__
        assert fit("stream", out=out, monitors=(interrupt,))[0].interrupted
        with again():
            resumed = fit("stream", out=out, resume=True)[0]
        assert_close((resumed.state, resumed.params), (whole.state, whole.params), 1e-6)
        if again is not alone:
            assert_same_bits((resumed.state, resumed.params), (whole.state, whole.params))
            assert losses(resumed) == losses(whole)
    with alone():
        fit("stream", out=folder / "single", epochs=1)
    assert_close(fit("stream", out=folder / "single", resume=True)[0].state, whole.state, 1e-6)


def collectives(program):
    """The computation and the kind of every exchange between devices in a compiled program."""
    where, found = "", []
    for line in program.splitlines():
        if begin := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
            where = begin[1] or begin[2]
        if kind := re.search(r"\b(all-\w+|collective-\w+|reduce-scatter)(-start)?\(", line):
            found.append((where.strip(), kind[1]))
    return found


def check_devices_exchange_sums_only_and_none_in_a_loop(count, folder):
    optimizer = optax.adam(1e-2)
    for name in ("stream", "target per sequence"):
        model, batches, loss, options = RUNS[name]
        shape = (64,) if "stateful" in options else None
        state = jrnn.init_state(model, params_of(model), optimizer, jax.random.key(1), batch_shape=shape)
        split, step = split_over(model, 64), jrnn.train_step(model, loss, optimizer)
        state = split.state(state, 64)
        program = split.jit(step, state).lower(state, split.batch(batches[0]), True).compile().as_text()
        assert " while(" in program
        found = collectives(program)
        assert found == [("ENTRY", "all-reduce")] * len(found) and 1 <= len(found) <= 2, (name, found)


def map_run(batch, **options):
    """On how many devices a run of a small model went, and what it led to."""
    settings = {"optimizer": optax.sgd(0.1), "key": jax.random.key(0), "params": params_of(MAP)}
    result, seen = watched(MAP, [batch], PER_STEP, **(settings | options))
    return devices_of(seen[0][1]), result


def check_rows_that_do_not_divide_or_are_few_stay_on_one_device(count, folder):
    used = {rows: map_run(cut(STREAM[0], rows))[0] for rows in (16, 31, 33, 48)}
    assert used == {16: {1}, 31: {1}, 33: {1}, 48: {min(count, 3)}}


def check_too_few_threads_are_told(count, folder):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        os.environ["NPROC"] = str(2 * count - 1)
        used = map_run(STREAM[0])[0]
        os.environ["NPROC"] = str(2 * count)
    assert used == {1} and len(said) == 1 and f"XLA has {2 * count - 1} threads" in str(said[0].message)
    assert "jrnn.use_cores()" in str(said[0].message)


def check_the_caller_may_choose_devices(count, folder):
    mesh = jax.make_mesh((count,), ("mine",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    wanted = map_run(STREAM[0])[1]
    given = map_run(STREAM[0], params=jax.device_put(params_of(MAP), everywhere))[1]
    with jax.set_mesh(mesh):
        inside = map_run(STREAM[0])[1]
    with jax.default_device(jax.devices()[0]):
        assert map_run(STREAM[0])[0] == {1}
    for result in (given, inside):
        assert_close(result.params, wanted.params, 1e-6)
    assert {leaf.sharding.mesh.axis_names for leaf in jax.tree.leaves(given.params)} == {("mine",)}


def check_there_are_twice_as_many_threads(count, folder):
    assert jrnn.use_cores(count) == count == len(jax.devices())  # again, once jax has started
    tasks = Path("/proc/self/task")
    if tasks.exists():
        names = [(task / "comm").read_text() for task in tasks.iterdir()]
        assert sum("XLAEigen" in name for name in names) >= 2 * count


CHECKS = {name: check for name, check in list(globals().items()) if name.startswith("check_")}
TWICE = ("check_a_run", "check_one_step", "check_rows")  # on 4 devices too
CASES = [(2, name) for name in CHECKS] + [(4, name) for name in CHECKS if name.startswith(TWICE)]


def run_checks(count, folder):
    assert jrnn.use_cores(count) == count
    count_programs = lambda name, *_, **__: PROGRAMS.append(name) if "backend_compile" in name else None
    jax.monitoring.register_event_duration_secs_listener(count_programs)
    for name in (name for number, name in CASES if number == count):
        try:
            CHECKS[name](count, Path(folder) / name)
            report = ""
        except Exception:
            report = traceback.format_exc()
        print(json.dumps([name, report]), flush=True)


def start(code, **environment):
    environment = {k: v for k, v in os.environ.items() if k != "NPROC"} | environment
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What the checks say, by number of devices and name."""
    code = "from tests.test_devices import run_checks; run_checks({}, {!r})"
    folder = str(tmp_path_factory.mktemp("runs"))
    processes = {n: start(code.format(n, f"{folder}/{n}"), JAX_ENABLE_X64="1") for n in (2, 4)}
    said = {}
    for count, process in processes.items():
        with process:
            out, err = process.communicate()
        assert process.returncode == 0, err[-3000:]
        said |= {(count, name): report for name, report in map(json.loads, out.splitlines())}
    return said


@pytest.mark.parametrize(("count", "name"), CASES)
def test_several_devices(count, name, reports):
    if reports[count, name]:
        pytest.fail(reports[count, name])


def test_use_cores_comes_before_anything_else():
    made = jax.local_device_count("cpu")
    with pytest.raises(RuntimeError, match=f"jax is already initialized with {made} CPU devices"):
        jrnn.use_cores(made + 1)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        jrnn.use_cores(0)


def small_loops():
    """Gradients of loops at batch 1, and whether XLA compiled one into a function of its own."""
    found = []
    for cell in (jrnn.LSTM(16), jrnn.SLSTM(16)):
        params, xs = cell.init(jax.random.key(0), 16), jnp.sin(jnp.arange(320.0)).reshape(20, 1, 16)
        loss = lambda params, cell=cell, xs=xs: (jrnn.unroll(cell, params, xs)[1] ** 2).sum()
        gradient = jax.jit(jax.grad(loss)).lower(params).compile()
        found += [leaf.ravel().tolist() for leaf in gradient(params)]
    return found, "xla_cpu_small_call" in gradient.as_text()


def test_fused_loops_compute_the_same():
    code = "import jrnn, json; jrnn.use_fused_loops()\nfrom tests.test_devices import small_loops\n"
    with start(code + "print(json.dumps(small_loops()))") as process:
        out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    (gradients, fused), (wanted, _) = json.loads(out), small_loops()
    assert fused
    for gradient, expected in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_use_fused_loops_comes_before_anything_else(monkeypatch):
    jax.devices()
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with pytest.raises(RuntimeError, match=r"^use_fused_loops: jax is already initialized: call it before"):
        jrnn.use_fused_loops()
    assert "XLA_FLAGS" not in os.environ
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        jrnn.use_fused_loops(0)
    given = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=7"
    monkeypatch.setenv("XLA_FLAGS", given)
    assert jrnn.use_fused_loops() == 7 and os.environ["XLA_FLAGS"] == given


LONG = """
import jax, optax, jrnn
from jrnn.losses import cross_entropy
jrnn.use_cores(2)
text = jrnn.data.python_reference()[: 32 * 16 * 100 + 1]
vocabulary = jrnn.CharVocabulary.from_text(text)
stream = jrnn.Stream(vocabulary.encode(text), batch_size=32, steps=16)
model = jrnn.Stack((jrnn.Embed(32), jrnn.LSTM(64), jrnn.Dense(len(vocabulary))))
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3))
result = jrnn.fit(
    model, stream, jrnn.PerStep(cross_entropy), optimizer=optimizer, key=jax.random.key(0), epochs=4,
    in_features=len(vocabulary), stateful=True, validation=stream, progress=jrnn.Progress(bar=False),
)
print(int(result.state.step), result.history[-1]["validation"] < result.history[0]["validation"] < 3)
"""


@pytest.mark.slow
def test_four_hundred_steps_of_a_language_model_do_not_hang():
    with start(LONG) as process:
        out, err = process.communicate()
    assert out == "400 True\n", err[-3000:]
