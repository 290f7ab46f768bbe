"""`Associative` against `Scan`, for every linear cell: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cell import is_linear
from tests.cells import VALUES
from tests.entries import Comparison
from tests.values import BATCH, assert_close, draw, ours, weigh

STEPS = 37  # in a tree of blocks, the last one overlaps
LINEAR = {type(case.cell).__name__: case for case in VALUES.values() if is_linear(case.cell)}
DEEP = jrnn.MinGRU(4), jrnn.Dense(6, activation="tanh"), jrnn.QRNN(7, window=2), jrnn.LRU(5)
LINEAR["Stack"] = Comparison(jrnn.Stack(DEEP), None, None)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def test_these_cells_are_linear():
    assert {"Window", "LRU", "RGLRU", "MinGRU", "MinLSTM", "SRU", "QRNN", "TRNN", "TGRU", "TLSTM"} < set(
        LINEAR
    )


RUNS = "whole", "ragged", "ragged reverse"
RUN = [  # three cells in all ways, the others by turns: the law "linear = scan" has both directions
    (name, runs)
    for i, name in enumerate(LINEAR)
    for runs in (RUNS if name in ("LRU", "QRNN", "Stack") else [RUNS[i % 3]])
]


@pytest.mark.parametrize("name, runs", RUN)
def test_all_steps_at_once_are_a_scan(name, runs):
    case, rng = LINEAR[name], np.random.default_rng(0)
    leaves, structure = jax.tree.flatten(draw(case, (BATCH,), steps=STEPS))
    options = {"reverse": "reverse" in runs}
    if "ragged" in runs:
        options |= {
            "lengths": jnp.array([STEPS, 20]),
            "resets": jnp.asarray(rng.random((STEPS, BATCH)) < 0.1),
        }
    wrt = [i for i, leaf in enumerate(leaves) if leaf.dtype == np.float64]

    def results(floats, method):
        given = dict(enumerate(leaves)) | dict(zip(wrt, floats, strict=True))
        arguments = jax.tree.unflatten(structure, given.values())
        out = ours(case, (BATCH,), *arguments, method=method, **options)
        return weigh(np.random.default_rng(1), out)(out), out

    @jax.jit
    def run(floats):
        methods = jrnn.Scan(), jrnn.Associative(tree=True), jrnn.Associative(tree=False)
        return [jax.grad(results, has_aux=True)(floats, method) for method in methods]

    scanned, *solved = run([jnp.asarray(leaves[i]) for i in wrt])
    for each in solved:
        assert_close(each, scanned, rtol=1e-11)
