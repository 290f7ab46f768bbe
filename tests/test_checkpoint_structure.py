"""Checkpoints of another cell, of another optimizer, of cells of the user's own."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import optax
import pytest

import jrnn
import jrnn.checkpoint
from jrnn.checkpoint import CheckpointError, Snapshot, cell_from_json, cell_to_json, load, save
from tests.attending import Attending
from tests.cases import CASES
from tests.test_checkpoint import IN, LSTM, Mixed, assert_same, snapshot


def test_another_cell_is_refused_by_field(tmp_path):
    out = jrnn.Dense(2)
    save(tmp_path, snapshot(jrnn.Stack((LSTM, out))))
    for cell, text in [
        (jrnn.Stack((jrnn.LSTM(5), out)), "cell.cells[0].hidden is 4 in the checkpoint, 5 in the given cell"),
        (jrnn.Stack((jrnn.GRU(4), out)), "cell.cells[0].class is 'LSTM' in the checkpoint, 'GRU' in"),
        (jrnn.Stack((LSTM, out, out)), "len(cell.cells) is 2 in the checkpoint, 3 in"),
        (LSTM, "cell.class is 'Stack' in the checkpoint, 'LSTM' in"),
    ]:
        with pytest.raises(CheckpointError, match=re.escape(text)):
            load(tmp_path, cell=cell)
    assert load(tmp_path, cell=jrnn.Stack((jrnn.LSTM(4, forget_bias=1), out))).step == 7


def test_another_optimizer_is_refused_by_leaf(tmp_path):
    save(tmp_path, snapshot())
    for optimizer, text in [
        (optax.sgd(0.1), "opt_state/0/count is unexpected: the given optimizer has no such leaf"),
        (optax.sgd(0.1, momentum=0.9), "opt_state/0/count is unexpected"),
        (optax.amsgrad(0.1), "opt_state/0/nu_max/b is missing: the given optimizer needs it"),
        (optax.adam(0.1, mu_dtype=jnp.bfloat16), "opt_state/0/mu/.* has dtype float32, .* needs bfloat16"),
    ]:
        with pytest.raises(CheckpointError, match=text):
            load(tmp_path, optimizer=optimizer)


def test_a_cell_of_the_user_is_handed_in_and_compared(tmp_path):
    cell = jrnn.Stack((jrnn.LSTM(2), Mixed(3)))
    params = cell.init(jax.random.key(0), IN)
    save(tmp_path, Snapshot(cell, IN, params, carry=cell.initial_carry(params, (2,)), step=1))
    with pytest.raises(CheckpointError, match=r"'Mixed' is not a cell of jrnn: pass it to load\(cell=...\)"):
        load(tmp_path)
    assert_same(load(tmp_path, cell=cell).params, params)
    with pytest.raises(CheckpointError, match=r"cell.cells\[1\].hidden is 3 in the checkpoint, 4 in"):
        load(tmp_path, cell=jrnn.Stack((jrnn.LSTM(2), Mixed(4))))
    with pytest.raises(CheckpointError, match=r"cell.cells\[1\].class is 'user:Mixed' in the checkpoint"):
        load(tmp_path, cell=jrnn.Stack((jrnn.LSTM(2), jrnn.LSTM(3))))


def test_a_cell_of_functions_is_compared_by_shape(tmp_path):
    def made(width):
        init = lambda key, n: {"w": jax.random.normal(key, (n, width))}
        start = lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, width))
        return jrnn.from_functions(init, start, lambda params, h, x: (h, h), 3)

    params = made(3).init(jax.random.key(0), IN)
    save(tmp_path, Snapshot(made(3), IN, params, step=1))
    assert_same(load(tmp_path, cell=made(3)).params, params)  # another value, the same functions
    with pytest.raises(CheckpointError, match=r"params/w has shape \(3, 3\), .* needs \(3, 4\)"):
        load(tmp_path, cell=made(4))


def test_a_class_of_the_user_named_as_ours_is_not_taken_for_it():
    LSTM = dataclasses.make_dataclass("LSTM", [("hidden", int)], frozen=True)
    assert cell_to_json(LSTM(3)) == {"class": "user:LSTM", "hidden": 3}
    with pytest.raises(CheckpointError, match="'LSTM' is not a cell of jrnn"):
        cell_from_json(cell_to_json(LSTM(3)))


def test_every_cell_of_jrnn_round_trips_through_json():
    for case in CASES:
        cell = case.cell.cell if isinstance(case.cell, Attending) else case.cell
        assert cell_from_json(json.loads(json.dumps(cell_to_json(cell)))) == cell
