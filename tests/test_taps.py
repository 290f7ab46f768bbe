"""`Tap`: the gates and states inside a step, against its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cells.lstm import LSTMCarry
from tests.test_combinators import BATCH, IN, KEY, XS, close, moved, run, sigmoid


def test_tap_emits_the_gates_of_the_equations():
    params, carry = moved(jrnn.LSTM(4)), LSTMCarry(*jax.random.normal(KEY, (2, BATCH, 4)))
    cell = jrnn.Tap(jrnn.LSTM(4), ("o", "i", "f", "g"))
    after, (y, inside) = cell.step(params, carry, XS[0])
    z = np.split(np.asarray(XS[0] @ params.w_ih + carry.h @ params.w_hh + params.b), 4, -1)
    needed = {n: np.tanh(v) if n == "g" else sigmoid(v) for n, v in zip("ifgo", z, strict=True)}
    assert list(inside) == ["o", "i", "f", "g"]
    for name in needed:
        np.testing.assert_allclose(inside[name], needed[name], rtol=1e-5, atol=1e-6)
    close((after, y), jrnn.LSTM(4).step(params, carry, XS[0]))


@pytest.mark.parametrize("reset_after", [True, False])
def test_tap_emits_the_gates_of_a_gru_over_time(reset_after):
    cell = jrnn.GRU(4, reset_after=reset_after)
    params = moved(cell)
    _, (ys, inside) = run(jrnn.Tap(cell, ("r", "z", "n")), params)
    before = jnp.concatenate([jnp.zeros((1, BATCH, 4)), ys[:-1]])
    close(ys, (1 - inside["z"]) * inside["n"] + inside["z"] * before)
    gates = sigmoid(np.asarray(XS @ params.w_ih + params.b + before @ params.w_hh)[..., :8])
    close((inside["r"], inside["z"]), (gates[..., :4], gates[..., 4:]))


def test_tap_without_names_emits_the_carry():
    params = moved(jrnn.LSTM(4))
    end, (ys, carries) = run(jrnn.Tap(jrnn.LSTM(4)), params)
    close(carries.h, ys)
    close(jax.tree.map(lambda a: a[-1], carries), end)


def test_a_name_that_occurs_in_several_cells_of_a_stack_comes_as_a_tuple_bottom_first():
    stack = jrnn.Stack((jrnn.LSTM(4), jrnn.GRU(3), jrnn.LSTM(IN)))
    params = moved(stack)
    _, (ys, inside) = run(jrnn.Tap(stack, ("f", "r")), params)
    assert isinstance(inside["f"], tuple) and len(inside["f"]) == 2 and inside["r"].shape[-1] == 3
    bottom, top = inside["f"]
    first = run(jrnn.Tap(stack.cells[0], ("f",)), params[0])[1]
    close(bottom, first[1]["f"])
    second = run(stack.cells[1], params[1], first[0])[1]
    close(top, run(jrnn.Tap(stack.cells[2], ("f",)), params[2], second)[1][1]["f"])
    close(ys, run(stack, params)[1])


def test_gradients_flow_through_what_is_tapped():
    """A step on f alone: d Σσ(z_f) / d b_f = Σ f (1 − f), and nothing for the other gates."""
    cell, params = jrnn.Tap(jrnn.LSTM(4), ("f",)), moved(jrnn.LSTM(4))
    start = jrnn.LSTM(4).initial_carry(params, (BATCH,))
    loss = lambda p: jnp.sum(cell.step(p, start, XS[0])[1][1]["f"])
    f = cell.step(params, start, XS[0])[1][1]["f"]
    zero = jnp.zeros(4)
    close(jax.grad(loss)(params).b, jnp.concatenate([zero, jnp.sum(f * (1 - f), 0), zero, zero]))


def test_an_unknown_name_lists_those_that_the_step_has():
    with pytest.raises(ValueError, match=r"names no 'z'; it names \['h'\]"):
        jrnn.unroll(jrnn.Tap(jrnn.Elman(4), ("z",)), moved(jrnn.Elman(4)), XS)
    with pytest.raises(ValueError, match="names no 'z'; it names nothing"):
        jrnn.unroll(jrnn.Tap(jrnn.Dense(4), ("z",)), moved(jrnn.Dense(4)), XS)
