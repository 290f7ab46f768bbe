"""Groups of numbers of a state that depend on each other: as small as the step allows, and never smaller."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.unrolling._engine import trace_loop
from jrnn.unrolling._groups import cycles, groups_of
from jrnn.unrolling.driver import make_loop
from tests.test_newton import BATCH, mixed_by, model


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def groups_in(cell):
    """Of each recurrence in the step, for two rows."""
    params, _, xs = jax.eval_shape(lambda: model(cell))
    traced = trace_loop(jax.eval_shape(functools.partial(make_loop, cell), params, xs), True)
    stages = [stage for stage in traced.staged.stages if stage.carry_pairs]
    return [groups_of(part, traced.program, 1) for s in stages for part in cycles(s, traced.program)]


def test_the_jacobian_is_as_small_as_the_step_allows():
    """Of one row: the entries of each group, and the groups."""
    cells = {
        jrnn.GRU(4): [(1, 4)],
        jrnn.LSTM(4): [(1, 8)],
        jrnn.SLSTM(4, heads=2): [(2, 8)],
        jrnn.IndRNN(4): [(1, 1)],
        jrnn.LRU(4): [(1, 2)],
        jrnn.GatedDeltaNet(4, heads=2): [(2, 2)],
        jrnn.Stack((jrnn.GRU(3), jrnn.LSTM(4))): [(1, 3), (1, 8)],
    }
    for cell, needed in cells.items():
        assert [groups.index.shape for groups in groups_in(cell)] == needed, cell


MIXERS = {
    "roll": (lambda h: jnp.roll(h, 1, -1), 4),
    "reverse": (lambda h: h[..., ::-1], 2),
    "sums": (lambda h: jnp.cumsum(h, -1), 4),
    "pairs": (lambda h: jnp.repeat(h.reshape(*h.shape[:-1], 2, 2).sum(-1), 2, -1), 2),
    "halves": (lambda h: jnp.concatenate([h[..., 2:], h[..., :2]], -1), 2),
    "sort": (lambda h: jnp.sort(h, -1), 4),
    "the largest": (lambda h: h / (1 + h.max(-1, keepdims=True) ** 2), 4),
    "a rule of its own": (lambda h: jax.nn.softmax(h, -1), 4),
    "a shift": (lambda h: jax.lax.pad(h, 0.0, ((0, 0, 0), (1, -1, 0))), 4),
    "taken": (lambda h: h[..., jnp.array([1, 0, 3, 2])], 4),
    "a transposed product": (lambda h: (jnp.ones((4, 4)) @ h[..., None])[..., 0] / 9, 4),
    "itself": (lambda h: jnp.where(h > 0, h, 0.5 * h), 1),
}


@pytest.mark.parametrize("name", MIXERS)
def test_units_that_meet_in_an_operation_are_one_group(name):
    how, size = MIXERS[name]
    (groups,) = groups_in(mixed_by(how))
    assert groups.size == size and groups.rows == (2 if size == 1 else 1)
    h = jnp.asarray(np.random.default_rng(0).standard_normal((BATCH, 4)))
    jacobian = jax.jacobian(how)(h)
    for row in range(BATCH):
        for i in range(4):
            for other in range(BATCH):
                for j in range(4):
                    together = row == other and any({i, j} <= set(g) for g in groups.index.tolist())
                    assert size == 1 or together or jacobian[row, i, other, j] == 0
