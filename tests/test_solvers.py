"""Solvers of diffrax in `ODERNN` and `GRUODE`, against fine steps of our own."""

import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.testing import check_cell
from tests.entries import irregular

DIFFRAX = jrnn.Diffrax("Bosh3", rtol=1e-4, atol=1e-4, max_steps=32)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def drawn(cell):
    params = cell.init(jax.random.key(0), 3)
    carry = jax.random.normal(jax.random.key(1), (2, 4))
    return params, carry, (jax.random.normal(jax.random.key(2), (2, 3)), jnp.array([0.3, 2.0]))


@pytest.mark.slow  # half a minute, for compilation
@pytest.mark.parametrize("kind", [jrnn.ODERNN, jrnn.GRUODE])
def test_adaptive_steps(kind):
    """Values and derivatives, of both modes, are nearly those of fine steps; rows are apart."""
    pytest.importorskip("diffrax", reason="diffrax is not installed")
    cell, fine = kind(4, solver=DIFFRAX), kind(4, unfolds=32)
    params, carry, x = drawn(cell)
    got, want = cell.step(params, carry, x)[1], fine.step(params, carry, x)[1]
    np.testing.assert_allclose(got, want, atol=1e-2)
    assert np.abs(got - want).max() > 1e-7  # these are not the same steps
    first = jax.tree.map(lambda a: a[:1], (carry, x))
    np.testing.assert_allclose(cell.step(params, *first)[1], got[:1], rtol=1e-12)  # each row has its own

    def energy(size, cell=cell):
        ys = cell.step(jax.tree.map(lambda a: a * (1 + size), params), carry, x)[1]
        return jnp.sum(jnp.square(ys))

    forward, backward = jax.jvp(energy, (0.0,), (1.0,))[1], jax.grad(energy)(0.0)
    np.testing.assert_allclose(forward, backward, rtol=1e-10)
    np.testing.assert_allclose(backward, jax.grad(energy)(0.0, fine), rtol=2e-2)


@pytest.mark.slow  # half a minute, for compilation
def test_a_sequence_with_an_adaptive_solver():
    pytest.importorskip("diffrax", reason="diffrax is not installed")
    cell = jrnn.GRUODE(3, solver=jrnn.Diffrax("Heun", rtol=1e-2, atol=1e-2, max_steps=16))
    check_cell(cell, 3, inputs=irregular, laws=("scan = loop", "rows are independent", "padding"))


def test_fixed_steps_are_ours():
    pytest.importorskip("diffrax", reason="diffrax is not installed")
    ours = jrnn.GRUODE(4, solver="euler", unfolds=3)
    theirs = jrnn.GRUODE(4, solver=jrnn.Diffrax("Euler", rtol=None, max_steps=1), unfolds=3)
    params, carry, x = drawn(ours)
    np.testing.assert_allclose(
        theirs.step(params, carry, x)[1], ours.step(params, carry, x)[1], rtol=1e-12, atol=1e-14
    )


def test_too_few_steps_give_nan():
    pytest.importorskip("diffrax", reason="diffrax is not installed")
    cell = jrnn.GRUODE(4, solver=jrnn.Diffrax("Heun", rtol=1e-9, atol=1e-12, max_steps=2))
    assert np.isnan(cell.step(*drawn(cell))[1]).all()


def test_a_solver_is_a_value():
    cell = jrnn.ODERNN(4, solver=DIFFRAX)
    names = {"ODERNN": jrnn.ODERNN, "Diffrax": jrnn.Diffrax}
    assert cell == pickle.loads(pickle.dumps(cell)) == eval(repr(cell), names)
    assert cell != jrnn.ODERNN(4, solver=jrnn.Diffrax("Heun"))


def test_what_is_no_solver_is_refused(monkeypatch):
    with pytest.raises(
        ValueError, match=r"ODERNN: solver must be one of 'euler', .* a Diffrax\(\), got 'Tsit5'"
    ):
        jrnn.ODERNN(4, solver="Tsit5")
    cell = jrnn.GRUODE(4, solver=jrnn.Diffrax("NoSuch"))
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jrnn\[diffrax\]'"):
        cell.step(*drawn(cell))
    monkeypatch.undo()
    pytest.importorskip("diffrax", reason="diffrax is not installed")
    with pytest.raises(ValueError, match="solver must be one of diffrax"):
        cell.step(*drawn(cell))
