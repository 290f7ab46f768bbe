"""Populations: every member is the single run with its seed and setting."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn.losses import cross_entropy
from tests.test_training import assert_identical

RNG = np.random.default_rng(0)
SEQUENCES = [RNG.standard_normal((n, 3)).astype(np.float32) for n in RNG.integers(2, 7, 24)]
LABELS = [int(sequence[0, 0] > 0) for sequence in SEQUENCES]
BATCHES = jrnn.padded_batches(SEQUENCES, LABELS, 8, key_seed=0, bucket=6)  # 3 batches of one shape
MODEL = jrnn.Stack((jrnn.GRU(4), jrnn.Dense(2)), dropout=0.2)
LOSS = jrnn.AtLast(cross_entropy)
QUIET = jrnn.Progress(bar=False)
SETTINGS = {"rate": [0.01, 0.03], "scale": [0.5, 1]}


class Smoothed:
    """A loss with a setting: cross entropy, weighted."""

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


def swept(**options):
    functions = {
        "optimizer": lambda s: optax.adam(s["rate"]),
        "adjust": lambda params, s: jax.tree.map(lambda p: s["scale"] * p, params),
        "seeds": (3, 8),
        "settings": SETTINGS,
    }
    return jrnn.sweep(MODEL, BATCHES.epoch, LOSS, **(OPTIONS | functions | options))


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
    for member in (result.members[1], result.members[6]):
        assert_member_is_fit(member, single(member.seed, member.setting))
    assert result.best.score == min(row["validation"] for row in result.table)
    assert [row["member"] for row in result.table] == [i for i in range(8) for _ in range(3)]
