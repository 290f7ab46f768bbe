"""Combinators that change when a cell steps, or on what: against the same cells run by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn

KEY = jax.random.key(0)
XS = jax.random.normal(jax.random.key(1), (9, 2, 3))


def test_dilation_interleaves():
    """Every third input belongs to one recurrence."""
    cell = jrnn.LSTM(4)
    dilated = jrnn.Dilated(cell, 3)
    params = dilated.init(KEY, 3)
    last, ys = jrnn.unroll(dilated, params, XS)
    for first in range(3):
        end, alone = jrnn.unroll(cell, params, XS[first::3])
        np.testing.assert_allclose(ys[first::3], alone, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last.cells[first].c, end.c, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrap", [jrnn.Dropout, jrnn.Zoneout])
def test_noise_stays_where_states_move_on(wrap):
    """One mask of a dropout for all steps, and nothing happens at an invalid step."""
    inner = (
        jrnn.Dropout(jrnn.Elman(4), state=0.5) if wrap is jrnn.Dropout else jrnn.Zoneout(jrnn.Elman(4), 0.5)
    )
    cell = jrnn.Dilated(inner, 2)
    params = cell.init(KEY, 3)
    mask = np.array([1, 1, 0, 1, 1, 0, 0, 1, 1], bool)
    gaps, alone = (jrnn.unroll(cell, params, xs, key=KEY, **options)
                   for xs, options in ((XS, {"mask": mask}), (XS[mask], {})))  # fmt: skip
    if wrap is jrnn.Dropout:
        np.testing.assert_array_equal(gaps[1][mask], alone[1])
        slots = [[jax.random.key_data(c.key) for c in end.cells] for end in (gaps[0], alone[0])]
        np.testing.assert_array_equal(*slots)
        own = [np.asarray(c.cell) for c in alone[0].cells]
        assert not np.array_equal(*own)
    else:
        kept = [np.asarray(alone[1][t] == alone[1][t - 2]) for t in range(2, 6)]
        assert all(0 < k.mean() < 1 for k in kept) and not np.array_equal(kept[0], kept[1])


def skipped(params, xs):
    """Campos et al. 2018, eqs. 2-5, around an Elman network, in Python."""
    h, u, hs, updates = np.zeros((2, 4)), np.ones(2), [], []
    w_ih, w_hh, b = params.cell
    for x in np.asarray(xs):
        due = np.round(u)[:, None]
        h = due * np.tanh(x @ w_ih + h @ w_hh + b) + (1 - due) * h
        delta = 1 / (1 + np.exp(-(h @ params.gate.w + params.gate.b)[:, 0]))
        u = np.where(due[:, 0] == 1, delta, u + np.minimum(delta, 1 - u))
        hs.append(h)
        updates.append(due[:, 0])
    return np.stack(hs), np.stack(updates)


def test_a_skipped_update_keeps_state_and_output():
    cell = jrnn.Tap(jrnn.SkipRNN(jrnn.Elman(4)), ("update",))
    params = cell.init(KEY, 3)
    params = params._replace(gate=params.gate._replace(w=3 * params.gate.w, b=params.gate.b - 1.5))
    _, (ys, inside) = jrnn.unroll(cell, params, XS)
    want, updates = skipped(params, XS)
    assert 0.2 < updates.mean() < 0.8
    np.testing.assert_array_equal(inside["update"], updates)
    np.testing.assert_allclose(ys, want, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(ys[1:][updates[1:] == 0], ys[:-1][updates[1:] == 0])


def test_the_step_of_the_update_gate_passes_its_gradient_straight_through():
    """Where u = ũ at the second step, d y / d ũ is the new state less the old one."""
    cell = jrnn.SkipRNN(jrnn.Elman(4))
    params = cell.init(KEY, 3)
    carry = cell.initial_carry(params, (2,))._replace(u=jnp.array([0.3, 0.8]), y=jnp.ones((2, 4)))

    def total(u):
        return cell.step(params, carry._replace(u=u), XS[0])[1].sum()

    new = jrnn.Elman(4).step(params.cell, carry.cell, XS[0])[1]
    np.testing.assert_allclose(jax.grad(total)(carry.u), (new - 1).sum(-1), rtol=1e-5)


def test_fast_and_slow_cells_take_turns():
    cell = jrnn.FastSlow((jrnn.LSTM(4),) * 3, jrnn.GRU(5))
    params = cell.init(KEY, 3)
    assert [p.w_ih.shape[0] for p in params.fast] == [3, 5, 0]
    fast, slow = (
        c.initial_carry(p, (2,)) for c, p in ((jrnn.LSTM(4), params.fast[0]), (jrnn.GRU(5), params.slow))
    )
    for t in range(3):
        fast, y = jrnn.LSTM(4).step(params.fast[0], fast, XS[t])
        slow, z = jrnn.GRU(5).step(params.slow, slow, y)
        fast, _ = jrnn.LSTM(4).step(params.fast[1], fast, z)
        fast, y = jrnn.LSTM(4).step(params.fast[2], fast, jnp.zeros((2, 0)))
    last, ys = jrnn.unroll(cell, params, XS[:3])
    np.testing.assert_allclose(ys[-1], y, rtol=1e-5)
    np.testing.assert_allclose(last.slow, slow, rtol=1e-5)


def test_a_multiplicative_lstm_is_the_combinator_around_an_lstm():
    cell, around = jrnn.MultiplicativeLSTM(4), jrnn.Multiplicative(jrnn.LSTM(4))
    p = cell.init(KEY, 3)
    inner = around.init(KEY, 3)._replace(cell=jrnn.LSTM(4).init(KEY, 3)._replace(**p.lstm._asdict()))
    params = inner._replace(w_xm=p.w_im, w_hm=p.w_hm)
    np.testing.assert_allclose(
        jrnn.unroll(around, params, XS)[1], jrnn.unroll(cell, p, XS)[1], rtol=1e-5, atol=1e-6
    )


def test_mixed_memory_passes_the_state_from_an_lstm_to_the_cell():
    cell, dt = jrnn.MixedMemory(jrnn.CfC(4)), jnp.full((9, 2), 0.7)
    params = cell.init(KEY, 3)
    h = c = jnp.zeros((2, 4))
    for x, time in zip(XS, dt, strict=True):
        (h, c), _ = jrnn.LSTM(4).step(
            params.lstm, jrnn.LSTM(4).initial_carry(params.lstm)._replace(h=h, c=c), x
        )
        h, y = jrnn.CfC(4).step(params.cell, h, (x, time))
    last, ys = jrnn.unroll(cell, params, (XS, dt))
    np.testing.assert_allclose((last.h, last.c, ys[-1]), (h, c, y), rtol=1e-5, atol=1e-6)


def test_all_outputs_side_by_side_and_the_input_at_every_layer():
    cell = jrnn.SkipStack((jrnn.GRU(4), jrnn.Elman(5)))
    params = cell.init(KEY, 3)
    _, below = jrnn.unroll(jrnn.GRU(4), params[0], XS)
    _, above = jrnn.unroll(jrnn.Elman(5), params[1], jnp.concatenate([XS, below], -1))
    np.testing.assert_allclose(
        jrnn.unroll(cell, params, XS)[1], jnp.concatenate([below, above], -1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: jrnn.FastSlow((jrnn.GRU(4),), jrnn.GRU(4)), "at least two cells"),
        (lambda: jrnn.FastSlow((jrnn.GRU(4), jrnn.GRU(5)), jrnn.GRU(4)).init(KEY, 3), "share a state"),
        (lambda: jrnn.Multiplicative(jrnn.Stack((jrnn.GRU(4),))).init(KEY, 3), "an entry h"),
        (lambda: jrnn.MixedMemory(jrnn.LSTM(4)).init(KEY, 3), "one vector"),
        (lambda: jrnn.SkipStack((jrnn.Embed(4),)), "take features"),
    ],
)
def test_what_does_not_fit_is_refused(made, said):
    with pytest.raises(ValueError, match=said):
        made()
