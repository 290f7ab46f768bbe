"""Populations: every member is the single run with its seed and setting."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn.losses import cross_entropy
from jrnn.training._members import Block, Recipe
from jrnn.training.populations import Design
from tests.test_training import assert_identical

RNG = np.random.default_rng(0)
SEQUENCES = [RNG.standard_normal((n, 3)).astype(np.float32) for n in RNG.integers(2, 7, 24)]
LABELS = [int(sequence[0, 0] > 0) for sequence in SEQUENCES]
BATCHES = jrnn.padded_batches(SEQUENCES, LABELS, 8, key_seed=0, bucket=6)  # 3 batches of one shape
MODEL = jrnn.Stack((jrnn.GRU(4), jrnn.Dense(2)), dropout=0.2)
LOSS = jrnn.AtLast(cross_entropy)
QUIET = jrnn.Progress(bar=False)
SETTINGS = {"rate": [0.01, 0.03], "scale": [0.5, 1]}


class Weighted:
    """A loss with a setting."""

    def __init__(self, weight):
        self.weight = weight

    def mean(self, ys, batch):
        return self.weight * LOSS.mean(ys, batch)

    def count(self, batch):
        return LOSS.count(batch)


def decayed(weight):
    return (lambda params, batch: weight * jnp.sum(params[1].w ** 2),)


def accuracy(entry, state):
    return {"size": float(jnp.sum(state.params[0].w_hh ** 2))} if "train" in entry else {}


OPTIONS = {
    "in_features": 3, "epochs": 3, "validation": BATCHES, "monitors": (accuracy,), "progress": QUIET,
}  # fmt: skip


START = {
    "optimizer": lambda s: optax.adam(s["rate"]),
    "adjust": lambda params, s: jax.tree.map(lambda p: s["scale"] * p, params),
    "seeds": (3, 8),
    "settings": SETTINGS,
}


def swept(**options):
    return jrnn.sweep(MODEL, BATCHES.epoch, LOSS, **(OPTIONS | START | options))


def single(seed, setting, **options):
    key, draw = jax.random.split(jax.random.key(seed))
    params = jax.tree.map(lambda p: setting["scale"] * p, MODEL.init(draw, 3))
    functions = {"optimizer": optax.adam(setting["rate"]), "params": params, "key": key}
    return jrnn.fit(MODEL, BATCHES.epoch, LOSS, **(OPTIONS | functions | options))


def assert_member_is_fit(member, one):
    for a, b in zip(jax.tree.leaves(member.params), jax.tree.leaves(one.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    key = jax.random.key_data(member.state.key)
    np.testing.assert_array_equal(key, jax.random.key_data(one.state.key))
    timed = ("seconds", "first_step_seconds")
    wanted = [{name: v for name, v in entry.items() if name not in timed} for entry in one.history]
    assert len(member.history) == len(wanted)
    for entry, other in zip(member.history, wanted, strict=True):
        assert entry == pytest.approx(other, abs=1e-6)


def test_every_member_is_the_single_run_with_its_seed_and_setting():
    result = swept()
    chosen = [(s, {"rate": r, "scale": c}) for r in (0.01, 0.03) for c in (0.5, 1.0) for s in (3, 8)]
    assert [(member.seed, member.setting) for member in result.members] == chosen
    assert all(type(member.setting["scale"]) is float for member in result.members)
    for member in (result.members[1], result.members[6]):
        assert_member_is_fit(member, single(member.seed, member.setting))
    assert result.best.score == min(row["validation"] for row in result.table)
    assert [row["member"] for row in result.table] == [i for i in range(8) for _ in range(3)]


def test_a_stream_hands_on_the_carry_of_every_member():
    model = jrnn.Stack((jrnn.Embed(3), jrnn.LSTM(4), jrnn.Dense(5)), dropout=0.2)
    stream = jrnn.Stream(RNG.integers(0, 5, 100), batch_size=4, steps=6)  # 4 batches
    options = {
        "optimizer": optax.sgd(0.1),
        "in_features": 5,
        "stateful": True,
        "epochs": 2,
        "validation": stream,
    }
    loss = jrnn.PerStep(cross_entropy)
    result = jrnn.sweep(model, stream, loss, seeds=(0, 1), progress=QUIET, **options)
    one = jrnn.fit(model, stream, loss, key=jax.random.key(1), progress=QUIET, **options)
    assert_member_is_fit(result.members[1], one)
    for a, b in zip(*(jax.tree.leaves(r.state.carry) for r in (result.members[1], one)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_models_losses_penalties_and_averages_may_depend_on_the_setting():
    options = OPTIONS | {"criterion": lambda entry: entry["epoch"]}  # the first epoch is the best
    result = jrnn.sweep(
        lambda s: jrnn.Stack((jrnn.GRU(s["hidden"]), jrnn.Dense(2))), BATCHES,
        lambda s: Weighted(s["weight"]),
        optimizer=lambda s: optax.sgd(0.1), penalties=lambda s: decayed(s["decay"]),
        settings=[{"hidden": n, "weight": w, "decay": d} for n, w, d in ((3, 1.0, 0.1), (4, 0.5, 0.0))],
        **options,
    )  # fmt: skip
    for member in result.members:
        hidden, weight, decay = member.setting.values()
        model = jrnn.Stack((jrnn.GRU(hidden), jrnn.Dense(2)))
        one = jrnn.fit(
            model, BATCHES, Weighted(weight), optimizer=optax.sgd(0.1),
            penalties=decayed(decay), key=jax.random.key(0), **options,
        )  # fmt: skip
        assert_member_is_fit(member, one)
        assert member.model == model


def test_a_member_that_diverges_or_loses_patience_does_not_disturb_the_others():
    def optimizer(s):  # the last rate is that of the fifth step
        return optax.sgd(lambda count: jnp.where(count == 4, s["fifth"], s["rate"]))

    def run(*rates):
        settings = [{"rate": rate, "fifth": fifth, "scale": 1.0} for rate, fifth in rates]
        return swept(seeds=(3,), settings=settings, optimizer=optimizer, patience=2, epochs=5).members

    learns, explodes, stays = run((0.01, 0.01), (0.01, np.inf), (0.0, 0.0))
    assert_member_is_fit(learns, run((0.01, 0.01))[0])
    assert learns.diverged is None and len(learns.history) == 5
    assert explodes.diverged == 5 and explodes.history == learns.history[:1]
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(explodes.state.params))
    assert int(explodes.state.step) == 4
    assert stays.diverged is None and len(stays.history) == 3 and int(stays.state.step) == 9
    assert learns.score < stays.score == stays.history[0]["validation"]


LINE = jrnn.Dense(2)
ONES = jrnn.Batch(np.ones((2, 2, 3), np.float32), np.zeros((2, 2), np.int32), np.array([2, 1], np.int32))
STEPS = jrnn.PerStep(lambda ys, targets, mask: jnp.sum(ys[..., 0] ** 2 * mask) / jnp.sum(mask))


def lines(*batches, loss=STEPS, **options):
    """A sweep of a linear map, which compiles at once."""
    given = {"optimizer": optax.sgd(0.1), "in_features": 3, "progress": QUIET}
    return jrnn.sweep(LINE, batches or [ONES], loss, **(given | options))


def test_a_batch_without_targets_does_not_count_in_validation():
    empty = ONES._replace(lengths=np.zeros(2, np.int32))  # of which the mean is NaN
    with_it, without = (lines(validation=held_out, seeds=(0, 1)) for held_out in ([ONES, empty], [ONES]))
    assert with_it.table == without.table and np.isfinite(with_it.best.score)


def test_a_second_sweep_compiles_nothing(programs, tmp_path):
    def run(**options):
        rates = {"optimizer": sgd, "settings": {"rate": [0.1, 0.2], "name": ["a"]}, "penalties": penalties}
        return lines(**rates, validation=[ONES], **options).table

    sgd = lambda s: optax.sgd(s["rate"])
    penalties = lambda s: (lambda params, batch: 0.1 * jnp.sum(params.w) * len(s["name"]),)
    first, before = run(), programs()
    again = run(monitors=(lambda entry, state: {"one": 1.0},), patience=1)
    assert programs() == before
    assert again == [row | {"one": 1.0} for row in first]
    sgd = lambda s: optax.sgd(2 * s["rate"])
    assert run()[0]["validation"] != first[0]["validation"] and programs() > before


def test_each_loss_counts_its_own_targets_and_values_of_other_types_are_others():
    """Of a sequence of 2 steps and one of 1, and of two of 1: 3 and 2 steps with losses a and 4 a."""
    batches = [ONES, ONES._replace(xs=2 * ONES.xs, lengths=np.ones(2, np.int32))]
    ends = jrnn.AtLast(lambda ys, targets, mask: jnp.mean(ys[..., 0] ** 2))
    table = lines(
        *batches, loss=lambda s: STEPS if s["steps"] is True else ends, settings={"steps": [True, 1]},
        validation=batches, optimizer=optax.sgd(0.0),
    ).table  # fmt: skip
    for name in ("train", "validation"):
        per_step, at_last = (row[name] for row in table)
        assert at_last / per_step == pytest.approx(((2 * 1 + 2 * 4) / 4) / ((3 * 1 + 2 * 4) / 5))


def test_few_batches_wait_for_their_steps(monkeypatch):
    waited, wait = [], jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: wait(waited.extend(jax.tree.leaves(tree))))
    lines(*[ONES] * 4, validation=[ONES] * 4)
    assert sum(isinstance(leaf, jax.Array) for leaf in waited) == 3 + 3  # all but the last of each


def test_a_score_is_asked_for_once_an_epoch_and_the_best_needs_one():
    asked = []
    lines(criterion=lambda entry: asked.append(entry) or 1.0, seeds=(0, 1), epochs=2)
    assert len(asked) == 4
    with pytest.raises(ValueError, match="pass validation or a criterion"):
        _ = lines().best


def test_a_sweep_names_what_it_needs(tmp_path):
    lines(params=LINE.init(jax.random.key(0), 3), in_features=None, out=tmp_path, epochs=2)
    with pytest.raises(jrnn.CheckpointError, match=r"this is a sweep, not a single run: (?!.*intact)"):
        jrnn.load(tmp_path)
    with pytest.raises(ValueError, match=r"^in_features is needed"):
        lines(in_features=None)
    wide = ONES._replace(xs=np.ones((2, 3, 3), np.float32), targets=np.zeros((2, 3)), lengths=None)
    with pytest.raises(ValueError, match=r"validation: a batch has batch shape \(3,\)"):
        lines(stateful=True, validation=[ONES, wide])
    options = {"optimizer": lambda s: optax.sgd(s["rate"]), "settings": {"rate": [0.1]}}
    with pytest.raises(ValueError, match=r"monitors return \['rate', 'seed'\]"):
        lines(monitors=(lambda entry, state: {"rate": 1.0, "seed": 2.0, "size": 3.0},), **options)


class Killed(Exception):
    pass


def test_a_divergence_is_remembered_over_a_resume(tmp_path):
    def crashing(epoch):
        yield from [ONES] * 2
        raise Killed

    rates = {"optimizer": lambda s: optax.sgd(s["rate"]), "settings": {"rate": [np.inf, 0.1]}}
    options = {"in_features": 3, "progress": QUIET, "out": tmp_path, "save_every": 2}
    with pytest.raises(Killed):
        jrnn.sweep(LINE, crashing, STEPS, **rates, **options)
    resumed = lines(*[ONES] * 3, **rates, **options, resume=True).members
    assert [member.diverged for member in resumed] == [1, None]
    assert [len(member.history) for member in resumed] == [0, 1]


def test_a_sweep_resumed_after_a_crash_ends_with_the_same_bits(tmp_path):
    def crashing(epoch):
        for index, batch in enumerate(BATCHES.epoch(epoch)):
            if (epoch, index) == (1, 2):
                raise Killed
            yield batch

    options = {"save_every": 1, "memory": 2**16, "patience": 2, "seeds": (3, 8, 9)}
    whole = swept(out=tmp_path / "b", **options)
    with pytest.raises(Killed):
        jrnn.sweep(MODEL, crashing, LOSS, **(OPTIONS | START | options), out=tmp_path / "a")
    with pytest.raises(ValueError, match="already holds a run"):
        swept(out=tmp_path / "a", **options)
    with pytest.raises(ValueError, match="other members"):
        swept(out=tmp_path / "a", resume=True, **(options | {"seeds": (3, 8, 10)}))
    resumed = swept(out=tmp_path / "a", resume=True, **options)
    assert resumed.table == whole.table
    for a, b in zip(resumed.members, whole.members, strict=True):
        assert_identical((a.params, a.state), (b.params, b.state))
    tables = [(tmp_path / name / "table.csv").read_text() for name in "ab"]
    assert tables[0] == tables[1] and len(tables[0].splitlines()) == len(whole.table) + 1
    whole.write(tmp_path / "c.csv")
    whole.write(tmp_path / "c.jsonl")
    assert (tmp_path / "c.csv").read_text() == tables[0]
    assert list(map(json.loads, (tmp_path / "c.jsonl").read_text().splitlines())) == whole.table


def test_memory_limits_the_members_of_a_block():
    batch = BATCHES[0]
    params = MODEL.init(jax.random.key(0), 3)
    one = jrnn.gradient_memory(MODEL, params, batch.xs, lengths=batch.lengths, key=jax.random.key(0))
    (group,), _ = design().members(range(20), [{}])
    assert [group.size(batch, memory) for memory in (one, 3 * one, 4 * one - 1)] == [1, 3, 3]
    with pytest.raises(ValueError, match=f"memory is 1 bytes, the gradient of one member needs {one}"):
        swept(memory=1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"settings": {"rate": [0.1], "scale": [1.0], "decay": [0.1]}}, r"no function reads \['decay'\]"),
        ({"settings": [{"rate": 0.1}, {"scale": 1.0}]}, "with the same names"),
        ({"settings": {"seed": [1]}}, "columns of the table"),
        ({"settings": {"rate": [0.1]}}, "settings have no 'scale'"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": 5}, "seeds must be a sequence of ints, got 5"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"out": ""}, "out must be a path, a str or a Path, got ''"),
    ],
)
def test_mistakes_are_named(options, text):
    with pytest.raises((ValueError, KeyError, TypeError), match=text):
        swept(**options)


ON_DEVICES = """
import sys, json, os, pathlib
sys.path.insert(0, {root!r})
os.sched_getaffinity = lambda process: range(3)  # a machine of three cores
from tests.test_populations import swept
print(json.dumps(swept().table))
swept(out=pathlib.Path({out!r}), resume=True, epochs=2)
from tests.test_populations import BATCHES, a_block
block = a_block(4)
arrays = block.stacked.state, BATCHES[0], True, block.stacked.active, block.floats
program = block.group.programs.step.lower(*arrays).compile().as_text()
print("members" in str(block.stacked.active.sharding), "all-" in program or "collective" in program)
"""


def design():
    shared = dict.fromkeys(("patience", "criterion", "eval_params"))
    shared |= {"stateful": False, "monitors": (), "save_every": 1, "progress": QUIET, "method": jrnn.Scan()}
    return Design(MODEL, Recipe(LOSS, optax.sgd(0.1), (), tuple(shared.items())), None, None, 3)


def a_block(members):
    (group,), records = design().members(range(members), [{}])
    block = Block(group, list(range(members)), 6)
    block.begin([record.seed for record in records], [{}] * members)
    return block


def test_members_on_three_devices_are_those_on_one_and_exchange_nothing(tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    swept(out=tmp_path, epochs=1)  # in a block of 8 members, which becomes one of 9 and then of 8 again
    script = ON_DEVICES.format(root=root, out=str(tmp_path))
    said = subprocess.check_output([sys.executable, "-c", script], text=True).splitlines()
    whole = swept().table
    for table in (json.loads(said[0]), swept(out=tmp_path, resume=True).table):
        for row, other in zip(table, whole, strict=True):
            assert row == pytest.approx(other, rel=1e-6, abs=1e-6)
    assert said[1] == "True False"


def test_curves_are_medians_in_a_band_over_members():
    rows = [{"epoch": e, "rate": r, "train": r * s} for e in (1, 2) for r in (0.1, 0.2) for s in (1, 2, 6)]
    ax = jrnn.plots.population_curves(
        [*rows, {"epoch": 3, "rate": 0.1, "train": 7.0}], by="rate", name="train"
    )
    assert [line.get_label() for line in ax.lines] == ["rate = 0.1", "rate = 0.2"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.2, 0.2, 7.0])
    band = ax.collections[1].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [0.2, 1.2])
    lines = jrnn.plots.population_curves([*rows[:2], rows[2] | {"seldom": 5.0}], name="seldom").lines
    assert lines[0].get_ydata().tolist() == [5.0]
    with pytest.raises(ValueError, match="no row has 'validation'"):
        jrnn.plots.population_curves(rows)
