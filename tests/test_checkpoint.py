"""Checkpoints: bit for bit what was saved, or one line that says what differs."""

import dataclasses
import hashlib
import json
import random
import resource
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
import jrnn.checkpoint
from jrnn.checkpoint import CheckpointError, Snapshot, checkpoints, load, save

ADAM = optax.adam(1e-3)
IN = 3
LSTM = jrnn.LSTM(4)


def snapshot(cell=LSTM, step=7, in_features=IN, **changes):
    """A snapshot whose every leaf is random."""
    params = randomized(jax.eval_shape(lambda key: cell.init(key, in_features), jax.random.key(0)), step)
    carry = randomized(jax.eval_shape(lambda p: cell.initial_carry(p, (2,)), params), step + 1)
    state = randomized(jax.eval_shape(ADAM.init, params), step + 2)
    key, position, meta = jax.random.key(step), {"epoch": 1, "batch": 5}, {"vocabulary": ["a", "\n", "é"]}
    given = Snapshot(cell, in_features, params, state, carry, key, step, position, meta)
    return dataclasses.replace(given, **changes)


def randomized(tree, seed):
    rng = np.random.default_rng(seed)

    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 9, leaf.dtype), tree)


def assert_same(got, wanted):
    """Same structure, dtypes (weak ones too) and bits."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert jax.typeof(a) == jax.typeof(b)
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_restored(got, wanted):
    for name in ("params", "opt_state", "carry", "key"):
        assert_same(getattr(got, name), getattr(wanted, name))
    for name in ("cell", "in_features", "step", "position", "meta"):
        assert getattr(got, name) == getattr(wanted, name)


def seal(path):
    """Make the manifest agree with what stands in the folder, as a forger would."""
    files = {}
    for file in path.rglob("*"):
        if file.is_file() and file.name != "manifest.json":
            data = file.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            files[file.relative_to(path).as_posix()] = f"{len(data)} bytes, sha256 {digest}"
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    text = json.dumps({"files": files, "sha256": digest}, indent=1, sort_keys=True)
    (path / "manifest.json").write_text(text)


def forge(path, change):
    """Change checkpoint.json and seal it again; `change` edits it in place or returns another text."""
    description = json.loads((path / "checkpoint.json").read_text())
    text = change(description)
    (path / "checkpoint.json").write_text(text if isinstance(text, str) else json.dumps(description))
    seal(path)


class Affine(NamedTuple):
    """Parameters of every dtype."""

    tree: dict


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A user's cell whose params hold every kind of leaf."""

    hidden: int = 3
    out_features: int = 3

    def init(self, key, in_features):
        dtypes = ("bfloat16", "float16", "float32", "int8", "int32", "uint32", "bool", "complex64", "int4")
        tree = {name: jnp.ones((in_features, self.hidden), name) for name in dtypes}
        odd = {"a/b": jnp.ones(2), "a": jnp.ones(3), "": jnp.ones(1), "é 'x'.\n": jnp.ones(1)}
        keys = {"rbg": jax.random.key(1, impl="rbg"), "keys": jax.random.split(key, 4)}
        keys["no keys"] = keys["keys"][:0]
        rest = {"empty": jnp.ones((0, 2), "float16"), "none": None, "weak": jnp.asarray(0.9)}
        return Affine({**tree, "odd": odd, **keys, **rest})

    def initial_carry(self, params, batch_shape=(), *, key=None):
        return jnp.zeros((*batch_shape, self.hidden)), key

    def step(self, params, carry, x):
        return carry, carry[0]


ZONEOUT = jrnn.Zoneout(jrnn.LSTM(5, max_lag=9), (0.1, 0.2))
LANGUAGE_MODEL = jrnn.Stack((jrnn.Embed(5), ZONEOUT, jrnn.Residual(jrnn.GRU(5)), jrnn.Dense(9)))


@pytest.mark.parametrize("cell", [jrnn.LSTM(4), jrnn.GRU(4, reset_after=False), LANGUAGE_MODEL])
def test_round_trip(tmp_path, cell):
    wanted = snapshot(cell, in_features=9)
    path = save(tmp_path, wanted)
    assert path == tmp_path / "step_00000007"
    for place in (tmp_path, path, str(path)):
        assert_restored(load(place, optimizer=ADAM), wanted)
    assert load(tmp_path).opt_state is None


def test_round_trip_of_every_dtype(tmp_path):
    cell = Mixed()
    params = cell.init(jax.random.key(3), 2)
    bits = np.random.default_rng(0).integers(0, 2**32, (2, 3), dtype=np.uint32)  # NaN payloads among them
    params.tree["float32"] = jnp.asarray((bits | 0x7F800001).view(np.float32))
    params.tree["bfloat16"] = jnp.asarray((bits >> 16).astype(np.uint16).view(jnp.bfloat16))
    wanted = Snapshot(cell, 2, params)
    save(tmp_path, wanted)
    assert_restored(load(tmp_path, cell=cell), wanted)
    assert load(tmp_path, cell=cell).params.tree["weak"].weak_type


def test_what_is_not_there_comes_back_as_none(tmp_path):
    wanted = snapshot(opt_state=None, carry=None, key=None, position={}, meta={})
    save(tmp_path, wanted)
    assert_restored(load(tmp_path), wanted)
    with pytest.raises(CheckpointError, match="opt_state was not saved"):
        load(tmp_path, optimizer=ADAM)


def test_cast_parameters_keep_their_dtype_and_that_of_their_optimizer(tmp_path):
    cell = jrnn.LSTM(4)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), cell.init(jax.random.key(0), IN))
    wanted = snapshot(params=params, opt_state=ADAM.init(params), carry=cell.initial_carry(params, (2,)))
    save(tmp_path, wanted)
    assert_restored(load(tmp_path, optimizer=ADAM), wanted)


@pytest.mark.parametrize("batch_shape", [(), (2,), (0,), (2, 3)])
@pytest.mark.parametrize("noise", [None, 5])
def test_carry_of_any_batch_shape_with_and_without_noise(tmp_path, batch_shape, noise):
    cell = jrnn.Stack((jrnn.Dropout(jrnn.LSTM(4), state=0.5), jrnn.Zoneout(jrnn.GRU(5), 0.1)))
    params = cell.init(jax.random.key(0), IN)
    carry = cell.initial_carry(params, batch_shape, key=None if noise is None else jax.random.key(noise))
    wanted = snapshot(cell, carry=carry)
    save(tmp_path, wanted)
    assert_restored(load(tmp_path, optimizer=ADAM), wanted)


def test_context_in_a_carry_comes_back(tmp_path):
    def start(params, batch_shape=(), *, key=None):
        return jnp.zeros(batch_shape), None

    cell = jrnn.from_functions(lambda key, n: jnp.ones(n), start, None, 1)
    wanted = Snapshot(cell, 2, jnp.ones(2), carry=(jnp.ones(3), jnp.arange(5.0)))
    save(tmp_path, wanted)
    assert_same(load(tmp_path, cell=cell).carry, wanted.carry)


def test_a_layer_is_stored_as_a_cell_is(tmp_path):
    layer = jrnn.Bidirectional(jrnn.LSTM(4), jrnn.GRU(5))
    wanted = snapshot(layer)
    save(tmp_path, wanted)
    assert_restored(load(tmp_path, optimizer=ADAM), wanted)


def test_64_bit_leaves_need_x64(tmp_path):
    cell = jrnn.LSTM(4)
    with jax.enable_x64(True):
        wanted = snapshot(cell)
        assert wanted.params.b.dtype == jnp.float64
        save(tmp_path, wanted)
        assert_restored(load(tmp_path, optimizer=ADAM), wanted)
    with pytest.raises(CheckpointError, match=r"params/w_ih.*float64.*jax_enable_x64"):
        load(tmp_path)


def test_every_bit_flip_and_truncation_is_refused(tmp_path):
    rng = random.Random(0)
    save(tmp_path, snapshot(jrnn.LSTM(1), step=1))
    path = save(tmp_path, snapshot(jrnn.LSTM(1), step=2))
    files = sorted(file for file in path.rglob("*") if file.is_file())
    assert {"manifest.json", "checkpoint.json", "manifest.ocdbt"} <= {file.name for file in files}
    intact = {file: file.read_bytes() for file in files}
    filled = [file for file in files if intact[file]]
    weights = [len(intact[file]) ** 0.5 for file in filled]  # large files more often, every file many times
    for trial in range(1100):
        file = rng.choices(filled, weights)[0]
        data = bytearray(intact[file])
        where = rng.randrange(len(data))
        if trial < 1000:
            data[where] ^= 1 << rng.randrange(8)
        else:
            del data[where:]
        file.write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path, optimizer=ADAM)
        assert "\n" not in str(caught.value)
        assert "step_00000001 is intact: load it with step=1" in str(caught.value)
        assert file.relative_to(path).as_posix() in str(caught.value)
        file.write_bytes(intact[file])
    assert load(tmp_path, optimizer=ADAM).step == 2


def test_missing_and_additional_files_are_named(tmp_path):
    path = save(tmp_path, snapshot())
    shutil.copytree(path, tmp_path / "copy")
    for file in [file for file in path.rglob("*") if file.is_file()]:
        data = file.read_bytes()
        file.unlink()
        with pytest.raises(CheckpointError, match=f"{file.relative_to(path).as_posix()} is missing"):
            load(path)
        file.write_bytes(data)
    (path / "arrays" / "more").write_text("")
    with pytest.raises(CheckpointError, match="arrays/more does not belong"):
        load(path)
    assert load(tmp_path / "copy").step == 7


def test_an_older_intact_checkpoint_is_offered(tmp_path):
    first, second, third = (save(tmp_path, snapshot(step=step)) for step in (1, 2, 3))
    for path in (second, third):
        (path / "checkpoint.json").write_text("{}")
    for place in (tmp_path, third):
        with pytest.raises(CheckpointError, match="step_00000001 is intact: load it with step=1"):
            load(place)
        assert load(place, step=1).step == 1
    save(tmp_path, snapshot(step=9), keep=9)
    with pytest.raises(CheckpointError, match="step_00000001 is intact"):
        load(tmp_path, step=3)
    shutil.rmtree(tmp_path / "step_00000009")
    (first / "checkpoint.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"checkpoint.json is corrupted: it has 2 bytes") as caught:
        load(tmp_path)
    assert "is intact" not in str(caught.value)


def test_what_is_not_complete_is_never_chosen(tmp_path):
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load(tmp_path / "nowhere")
    first = save(tmp_path, snapshot(step=1))
    (tmp_path / "step_00000009").mkdir()
    shutil.copytree(first, tmp_path / ".step_00000010.tmp")
    shutil.copytree(first, tmp_path / "step_best")
    (tmp_path / "step_00000011").write_text("a file")
    assert checkpoints(tmp_path) == [first]
    assert load(tmp_path).step == 1
    with pytest.raises(CheckpointError, match=r"manifest.json is missing"):
        load(tmp_path / "step_00000009")
    with pytest.raises(CheckpointError, match="of step 9, only of step 1"):
        load(tmp_path, step=9)
    save(tmp_path, snapshot(step=2))
    assert not (tmp_path / ".step_00000010.tmp").exists()


def test_old_checkpoints_go_and_the_newest_stay(tmp_path):
    for step in (1, 2, 10, 3):
        save(tmp_path, snapshot(step=step), keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000010", "step_00000003"]
    save(tmp_path, snapshot(step=4), keep=1)  # what was just saved stays, whatever has a higher number
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000004"]
    save(tmp_path, snapshot(step=4, position={"batch": 6}), keep=1)
    assert load(tmp_path).position == {"batch": 6}
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000004_1"]
    assert load(tmp_path, step=4).position == load(tmp_path / "step_00000004_1").position == {"batch": 6}


def test_no_space_left_is_an_os_error_and_harms_nothing(tmp_path, caplog):
    wanted = snapshot(step=1)
    save(tmp_path, wanted, keep=1)
    free = shutil.disk_usage(tmp_path).free
    one = jrnn.from_functions(lambda key, n: jnp.ones(n), lambda *_, key=None: (), None, 1)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, Snapshot(one, free, np.broadcast_to(np.float32(1), free), step=2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    params = jax.random.bits(jax.random.key(0), 5000)  # does not compress
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 500, 20_000):  # the last is enough for all files but that of the array
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                save(tmp_path, Snapshot(one, 5000, params, step=2), keep=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert not caplog.records  # orbax logs what it raises
    assert_restored(load(tmp_path, optimizer=ADAM), wanted)


def test_a_snapshot_that_could_not_be_loaded_is_not_saved(tmp_path):
    for changes, error, text in [
        ({"in_features": 5}, CheckpointError, r"params/w_ih has shape \(3, 16\), LSTM.*needs \(5, 16\)"),
        ({"carry": jnp.ones((2, 4))}, CheckpointError, "carry is unexpected"),
        ({"key": jax.random.key_data(jax.random.key(0))}, TypeError, "key must be a typed key"),
        ({"position": {"batch": np.int64(3)}}, TypeError, "position and meta must be JSON"),
        (
            {"meta": {"names": [{"a": {0: "x"}}]}},
            TypeError,
            r"meta\['names'\]\[0\]\['a'\] must be JSON: a key is 0, needs a string",
        ),
        ({"position": {1: 2, "1": 3}}, TypeError, "position must be JSON: a key is 1, needs a string"),
        (
            {"params": jax.tree.map(lambda a: np.asarray(a, np.float64), snapshot().params)},
            TypeError,
            "a leaf is float64, of which JAX would round the numbers: turn on jax_enable_x64",
        ),
        ({"position": None}, CheckpointError, "position is None"),
        ({"step": -1}, ValueError, "step must be a whole number, 0 or more"),
        ({"cell": jrnn.LSTM(4, activation=jnp.sin)}, TypeError, "LSTM.activation must be a number"),
        (
            {"params": {"a/b": jnp.ones(2), "a": {"b": jnp.ones(2)}}},
            ValueError,
            "two leaves of the same name",
        ),
    ]:
        with pytest.raises(error, match=text):
            save(tmp_path, dataclasses.replace(snapshot(), **changes))
    cell = jrnn.Dropout(LSTM, output=0.5)
    noise = snapshot(cell).carry._replace(key=jnp.uint32(3))
    with pytest.raises(CheckpointError, match=r"carry/key has dtype uint32, Dropout.* needs key"):
        save(tmp_path, snapshot(cell, carry=noise))
    with pytest.raises(ValueError, match="keep must be at least 1"):
        save(tmp_path, snapshot(), keep=0)
    assert list(tmp_path.iterdir()) == []


def test_training_goes_on_bit_for_bit(tmp_path):
    cell = jrnn.LSTM(4)
    xs = jax.random.normal(jax.random.key(0), (5, 2, IN))

    def loss(params, carry):
        carry, ys = jrnn.unroll(cell, params, xs, carry)
        return (ys**2).sum(), carry

    @jax.jit
    def train_step(params, state, carry):
        grads, carry = jax.grad(loss, has_aux=True)(params, carry)
        updates, state = ADAM.update(grads, state, params)
        return optax.apply_updates(params, updates), state, carry

    params = cell.init(jax.random.key(1), IN)
    now = (params, ADAM.init(params), cell.initial_carry(params, (2,)))
    for _ in range(3):
        now = train_step(*now)
    save(tmp_path, Snapshot(cell, IN, *now, step=3))
    loaded = load(tmp_path, optimizer=ADAM)
    then = (loaded.params, loaded.opt_state, loaded.carry)
    for _ in range(3):
        now, then = train_step(*now), train_step(*then)
    assert_same(then, now)


def test_nothing_prints(tmp_path, capfd):
    save(tmp_path, snapshot())
    load(tmp_path)
    assert capfd.readouterr() == ("", "")
