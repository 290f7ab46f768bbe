"""Cells made of cells: every one against its equation, written by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cells.elman import ElmanParams
from jrnn.cells.lstm import LSTMCarry
from jrnn.cells.maps import DenseParams
from jrnn.combinators.noise import drop

IN, STEPS, BATCH = 2, 5, 3
KEY = jax.random.key(0)
XS = jax.random.normal(jax.random.key(1), (STEPS, BATCH, IN))


def close(given, needed, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(given) == jax.tree.structure(needed)
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def same(given, needed):
    close(given, needed, rtol=0, atol=0)


def moved(cell, in_features=IN):
    """Parameters of a cell with no entry at zero."""
    params = cell.init(KEY, in_features)
    return jax.tree.map(lambda a: a + 0.3 * jnp.cos(jnp.arange(a.size)).reshape(a.shape), params)


@functools.partial(jax.jit, static_argnums=0)
def run(cell, params, xs=XS, carry=None, key=None, **flags):
    return jrnn.unroll(cell, params, xs, carry, key=key, **flags)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Stack, Residual, Project


def test_a_stack_feeds_each_cell_with_the_output_below():
    cells = jrnn.GRU(4), jrnn.LSTM(3), jrnn.Dense(5, activation="tanh")
    stack = jrnn.Stack(cells)
    params = moved(stack)
    end, ys = run(stack, params)
    outputs, ends = XS, []
    for cell, p in zip(cells, params, strict=True):
        inner, outputs = run(cell, p, outputs)
        ends.append(inner)
    close(ys, outputs)
    close(end, jrnn.combinators.StackCarry(tuple(ends), None))
    assert [jax.tree.leaves(p)[0].shape[0] for p in params] == [IN, 4, 3] and stack.out_features == 5


def wide_stack(rate):
    """Two cells that hand on what they get, 1000 features wide, so that y shows what was dropped."""
    return jrnn.Stack((ONES, jrnn.Elman(1000, activation="identity")), dropout=rate)


ONES = jrnn.from_functions(
    init=lambda key, n: jnp.zeros(()),
    initial_carry=lambda p, batch_shape=(), *, key=None: (),
    step=lambda p, c, x: (c, x),
    out_features=1000,
)


def test_the_layers_of_a_stack_read_the_same_tree():
    lower, upper = jrnn.TreeLSTM(4, stack=3), jrnn.TreeLSTM(5, stack=3)
    model = jrnn.Stack((jrnn.Dense(2), lower, jax.nn.tanh, upper))
    params = model.init(jax.random.key(0), 3)
    values, children = jax.random.normal(jax.random.key(1), (5, 3)), jnp.array([0, 0, 2, 0, 2])
    ys = values @ params[0].w + params[0].b
    ys = jnp.tanh(jrnn.unroll(lower, params[1], (ys, children))[1])
    want = jrnn.unroll(upper, params[3], (ys, children))[1]
    np.testing.assert_allclose(jrnn.unroll(model, params, (values, children))[1], want, rtol=1e-5)


def test_dropout_between_the_cells_of_a_stack_is_anew_at_every_step():
    stack = wide_stack(0.25)
    params = (jnp.zeros(()), ElmanParams(jnp.eye(1000), jnp.zeros((1000, 1000)), jnp.zeros(1000)))
    xs = jnp.ones((4, 2, 1000))
    same(run(stack, params, xs)[1], xs)  # without a key nothing is dropped
    ys = np.asarray(run(stack, params, xs, key=jax.random.key(3))[1])
    np.testing.assert_allclose(np.unique(ys), [0, 4 / 3], rtol=1e-6)
    assert np.all(np.abs(np.mean(ys == 0, axis=-1) - 0.25) < 0.06)  # 4 standard deviations
    dropped = (ys == 0).reshape(8, -1)
    agree = [np.mean(a == b) for i, a in enumerate(dropped) for b in dropped[:i]]
    assert max(agree) < 0.69  # independent masks agree in 0.625 of their entries
    assert not np.array_equal(ys, run(stack, params, xs, key=jax.random.key(4))[1])


def test_dropout_of_a_stack_is_not_inside_a_recurrence_nor_on_the_last_output():
    stack = jrnn.Stack((jrnn.GRU(4),), dropout=0.9)
    params = moved(stack)
    close(run(stack, params, key=KEY)[1], run(stack.cells[0], params[0])[1])
    deep = jrnn.Stack((jrnn.GRU(4), jrnn.GRU(3)), dropout=0.9)
    params = moved(deep)
    below = run(deep, params, key=KEY)[0].cells[0]
    close(below, run(deep.cells[0], params[0])[0])


def test_a_residual_adds_its_input():
    cell = jrnn.Residual(jrnn.GRU(IN))
    params = moved(cell)
    (end, ys), (inner, plain) = run(cell, params), run(cell.cell, params)
    close(ys - XS, plain)
    close(end, inner)


def test_a_projection_is_read_out_only():
    cell = jrnn.Project(jrnn.LSTM(4), 3)
    params = moved(cell)
    (end, ys), (inner, plain) = run(cell, params), run(cell.cell, params.cell)
    close(ys, plain @ params.w)
    close(end, inner)


# Gated, Block


def silu(z):
    return z * sigmoid(z)


def rms_norm(z, gain, heads=1):
    parts = np.split(np.asarray(z), heads, axis=-1)
    return gain * np.concatenate(
        [a / np.sqrt(np.mean(a**2, -1, keepdims=True) + 1e-6) for a in parts], axis=-1
    )


def test_a_gate_sees_the_input_and_the_recurrence_does_not_see_the_gate():
    cell = jrnn.Gated(jrnn.GRU(4))
    params = moved(cell)
    (end, ys), (inner, plain) = run(cell, params), run(cell.cell, params.cell)
    close(ys, plain * silu(XS @ params.gate.w_ih + params.gate.b))
    close(end, inner)


@pytest.mark.parametrize("k", [0, 2])
def test_a_block_is_the_chain_of_its_docstring(k):
    cell, xs = jrnn.Block(jrnn.RetNet(4, heads=2), k=k), np.concatenate([XS, XS**2], axis=-1)
    params = moved(cell, 4)
    norm, (inner, gate), out = params
    u = seen = rms_norm(xs, norm.gain)
    if k:
        past = np.concatenate([np.zeros_like(u[:k]), u])
        w, b = inner[0]
        seen = silu(sum(w[i] * past[k - i : len(past) - i] for i in range(k + 1)) + b)
    z = rms_norm(run(cell.cell, inner[-2], seen)[1], inner[-1].gain, heads=2)
    close(run(cell, params, xs)[1], xs + (z * silu(u @ gate.w_ih + gate.b)) @ out.w)


# Dropout


def elman_by_hand(params, m_x, m_h, m_y):
    h, ys = np.zeros((BATCH, 4)), []
    for x in np.asarray(XS):
        h = np.tanh((m_x * x) @ params.w_ih + (m_h * h) @ params.w_hh + params.b)
        ys.append(m_y * h)
    return h, np.stack(ys)


def mask_of(place, params, rows=BATCH):
    """The mask of `place` that key 7 stands for, measured on an input, state or output of ones."""
    cell = jrnn.Dropout(jrnn.Elman(4, activation="identity"), **{place: 0.4})
    carry = cell.initial_carry(params, (rows,), key=jax.random.key(7))
    silent, width = jax.tree.map(jnp.zeros_like, params), params.w_ih.shape[0]
    xs, h = jnp.ones((rows, width)), jnp.ones((rows, 4))
    if place == "input":  # h = m_x 1
        return cell.step(silent._replace(w_ih=jnp.eye(width, 4)), carry, xs)[1][:, :width]
    if place == "state":  # h = m_h 1
        return cell.step(silent._replace(w_hh=jnp.eye(4)), carry._replace(cell=h), xs)[1]
    return cell.step(silent._replace(b=jnp.ones(4)), carry, xs)[1]


@pytest.mark.parametrize("place", ["input", "state", "output"])
def test_dropout_holds_one_mask_per_sequence_at_its_place_only(place):
    params = moved(jrnn.Elman(4))
    mask = np.asarray(mask_of(place, params))
    np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.6], rtol=1e-6)
    assert len(np.unique(mask, axis=0)) > 1  # every row has its own
    masks = {"input": 1.0, "state": 1.0, "output": 1.0} | {place: mask}
    h, ys = elman_by_hand(params, *masks.values())
    end, given = run(jrnn.Dropout(jrnn.Elman(4), **{place: 0.4}), params, key=jax.random.key(7))
    close(given, ys)
    close(end.cell, h)


def test_the_three_masks_are_independent_draws_at_their_rate():
    params = moved(jrnn.Elman(4), 4)  # all three of one shape, so that one key would draw them alike
    m_x, m_h, m_y = (np.asarray(mask_of(p, params, rows=900)) == 0 for p in ("input", "state", "output"))
    for mask in (m_x, m_h, m_y):
        assert abs(mask.mean() - 0.4) < 0.05
    for a, b in itertools.combinations((m_x, m_h, m_y), 2):
        assert abs(np.mean(a == b) - 0.52) < 0.05  # 0.4² + 0.6²


def test_dropout_of_one_state_entry_leaves_the_other():
    params = moved(jrnn.LSTM(4))
    carry = LSTMCarry(h=jnp.ones((BATCH, 4)), c=jnp.ones((BATCH, 4)))
    drive = params._replace(w_hh=jnp.zeros((4, 16)))  # so that h reaches nothing
    plain = jrnn.LSTM(4).step(drive, carry, XS[0])[0].c
    for rates, reaches in ((0.5, False), ((0.5,), False), ((0.0, 0.5), True), ((0.5, 0.5), True)):
        cell = jrnn.Dropout(jrnn.LSTM(4), state=rates)
        start = cell.initial_carry(params, (BATCH,), key=KEY)._replace(cell=carry)
        given = cell.step(drive, start, XS[0])[0].cell.c
        assert np.array_equal(given, plain) != reaches


def test_dropout_of_a_complex_state_zeroes_it():
    cell = jrnn.Dropout(jrnn.LRU(4), state=0.5)
    params = cell.init(KEY, IN)
    start = cell.initial_carry(params, (BATCH,), key=KEY)
    ones = jax.tree.map(jnp.ones_like, start.cell)
    assert all(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(ones))
    given, plain = (
        c.step(params, s, XS[0])[1] for c, s in ((cell, start._replace(cell=ones)), (cell.cell, ones))
    )
    assert not np.allclose(given, plain)
    (leaf,) = jax.tree.leaves(drop(KEY, 0.5, jnp.full(1000, 1 + 2j)))
    assert set(np.unique(leaf)) == {0, 2 + 4j} and abs(np.mean(leaf == 0) - 0.5) < 0.07


def test_rates_of_zero_draw_nothing():
    cell = jrnn.Dropout(jrnn.LSTM(4), state=(0.0, 0.0))
    params = moved(cell)
    same(run(cell, params, key=KEY)[1], run(cell.cell, params)[1])
    start = cell.initial_carry(params, (), key=KEY)
    program = str(jax.make_jaxpr(cell.step)(params, start, XS[0, 0]))
    assert "random_bits" not in program
    noisy = str(jax.make_jaxpr(jrnn.Dropout(jrnn.LSTM(4), output=0.1).step)(params, start, XS[0, 0]))
    assert "random_bits" in noisy


# Zoneout


def lstm_by_hand(params, carry, x):
    z = np.asarray(x @ params.w_ih + carry[0] @ params.w_hh + params.b)
    i, f, g, o = np.split(z, 4, axis=-1)
    c = sigmoid(f) * carry[1] + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def test_zoneout_takes_the_expectation_in_evaluation():
    cell = jrnn.Zoneout(jrnn.LSTM(4), rates=(0.25, 0.5))
    params, (h, c) = moved(cell), (np.zeros((BATCH, 4)),) * 2
    end, ys = run(cell, params)
    for t in range(STEPS):
        new_h, new_c = lstm_by_hand(params, (h, c), XS[t])
        h, c = 0.25 * h + 0.75 * new_h, 0.5 * c + 0.5 * new_c
        np.testing.assert_allclose(ys[t], h, rtol=1e-5, atol=1e-6)
    close(tuple(end.cell), (h, c))
    same(
        run(jrnn.Zoneout(jrnn.LSTM(4), rates=0.25), params),
        run(jrnn.Zoneout(cell.cell, (0.25, 0.25)), params),
    )


def test_zoneout_keeps_every_unit_old_or_new_anew_at_every_step():
    cell = jrnn.Zoneout(jrnn.LSTM(200), rates=(0.2, 0.6))
    params = moved(cell)
    carry, kept = cell.initial_carry(params, (BATCH,), key=jax.random.key(5)), []
    step, plain = jax.jit(cell.step), jax.jit(cell.cell.step)
    for x in XS:
        new, _ = plain(params, carry.cell, x)
        after, y = step(params, carry, x)
        same(y, after.cell.h)  # the zoned state comes out
        for given, old, fresh, rate in zip(after.cell, carry.cell, new, (0.2, 0.6), strict=True):
            is_old = np.asarray(given == old)
            assert np.all(is_old | np.isclose(given, fresh, rtol=1e-5, atol=1e-6))
            assert abs(is_old.mean() - rate) < 0.08  # 4 standard deviations of 600 draws
        kept.append(np.asarray(after.cell.h == carry.cell.h))
        carry = after
    assert all(np.mean(a == b) < 0.8 for a, b in itertools.pairwise(kept))  # 0.68 if independent


@pytest.mark.parametrize("key", [None, KEY], ids=["evaluation", "training"])
def test_zoneout_lets_a_clock_go_on(key):
    cell = jrnn.Zoneout(jrnn.ClockworkRNN(4, periods=(1, 2)), rates=0.5)
    end, ys = run(cell, moved(cell), key=key)
    assert np.all(end.cell.t == STEPS) and end.cell.t.dtype == jnp.int32
    slow = np.asarray(ys)[..., 2:]
    assert all(np.array_equal(slow[t], slow[t - 1]) for t in (1, 3))  # between their updates
    assert key is not None or not np.array_equal(slow[2], slow[1])


# LearnedCarry


def test_the_gradient_of_a_learned_start_is_the_sum_over_every_start():
    cell = jrnn.LearnedCarry(jrnn.LSTM(4))
    params = moved(cell)
    resets = jnp.zeros((STEPS, BATCH), bool).at[2, 0].set(True).at[3, 1].set(True)
    assert params.carry.h.shape == (4,)

    def loss(params, carry=None):
        return jnp.sum(jnp.sin(jrnn.unroll(cell, params, XS, carry, resets=resets)[1]))

    def piece(start, row, steps):
        """One sequence as if alone, from a start of its own."""
        return jnp.sum(jnp.sin(jrnn.unroll(cell.cell, params.cell, XS[steps, row], start)[1]))

    starts = [(0, slice(0, 2)), (0, slice(2, None)), (1, slice(0, 3)), (1, slice(3, None)), (2, slice(None))]
    each = [jax.grad(piece)(params.carry, row, steps) for row, steps in starts]
    given = jax.grad(loss)(params).carry
    close(given, jax.tree.map(lambda *g: sum(g), *each))
    carry = jax.tree.map(lambda a: jnp.broadcast_to(a, (BATCH, 4)), params.carry)
    after_resets = jax.tree.map(lambda a, b: a + b, each[1], each[3])  # a given carry replaces the rest
    close(jax.grad(loss)(params, carry).carry, after_resets)


def test_a_given_carry_leaves_the_learned_start_without_gradient():
    cell = jrnn.LearnedCarry(jrnn.GRU(4))
    loss = lambda p, h: jnp.sum(jrnn.unroll(cell, p, XS, h)[1] ** 2)
    params, start = moved(cell), jnp.ones((BATCH, 4))
    assert not np.any(jax.grad(loss)(params, start).carry)
    assert np.all(jax.grad(loss)(params, None).carry)


# Cast


def test_cast_computes_low_and_keeps_the_state_high():
    cell = jrnn.Cast(jrnn.Elman(4), compute="bfloat16", carry="float32")
    params = moved(cell)
    end, ys = run(cell, params)
    assert (end.dtype, ys.dtype) == (jnp.float32, jnp.bfloat16)
    low, h = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params), jnp.zeros((BATCH, 4))
    step = jax.jit(jrnn.Elman(4).step)
    for x, y in zip(XS, ys, strict=True):
        new, needed = step(low, h.astype(jnp.bfloat16), x.astype(jnp.bfloat16))
        h = new.astype(jnp.float32)
        close(y.astype(float), needed.astype(float), rtol=2e-2, atol=1e-2)
    close(end, h, rtol=2e-2, atol=1e-2)
    exact = run(jrnn.Elman(4), params)[1]
    difference = np.abs(np.asarray(ys, float) - exact).max()
    assert 1e-4 < difference < 0.05  # it did compute in bfloat16


def test_gradients_through_a_cast_arrive_in_the_dtype_of_the_params():
    cell = jrnn.Cast(jrnn.LSTM(4), compute="bfloat16", carry="float32")
    loss = lambda c, p: jnp.sum(run(c, p)[1].astype(float) ** 2)
    params = moved(cell)
    given, needed = (jax.grad(loss, argnums=1)(c, params) for c in (cell, cell.cell))
    assert {leaf.dtype for leaf in jax.tree.leaves(given)} == {jnp.dtype("float32")}
    close(given, needed, rtol=0.1, atol=0.1)
    assert all(np.any(leaf) for leaf in given)


def test_a_cast_state_adds_small_steps_that_bfloat16_would_lose():
    """Steps of 0.001 from s = 1: bfloat16 has no number between 1 and 1.0078."""
    add = jrnn.from_functions(
        init=lambda key, n: jnp.zeros(()),
        initial_carry=lambda p, batch_shape=(), *, key=None: jnp.ones((*batch_shape, 1)),
        step=lambda p, s, x: (s + x, s),
        out_features=1,
    )
    xs = jnp.full((8, 1), 0.001)
    assert float(run(jrnn.Cast(add, compute="bfloat16"), jnp.zeros(()), xs)[0][0]) == 1
    high = jrnn.Cast(add, compute="float32", carry="float32")
    np.testing.assert_allclose(run(high, jnp.zeros(()), xs)[0], [1.008], rtol=1e-6)


def test_a_permutation_is_the_same_in_bfloat16():
    """Rounded to bfloat16, random numbers, or places above 256, have ties, and their order is another one."""
    cell = jrnn.UnitaryRNN(300)
    params = cell.init(KEY, IN)
    high, low = (run(c, params)[1].astype(float) for c in (cell, jrnn.Cast(cell)))
    assert np.linalg.norm(high - low) < 0.05 * np.linalg.norm(high)


# Feedback

LOOP = jrnn.Stack((jrnn.Elman(4), jrnn.Dense(IN)))


def closed(params, flags, emit, given=XS):
    """The closed loop, by hand: each step reads the given input or the last output."""
    carry, y, ys = LOOP.initial_carry(params, (BATCH,)), jnp.zeros((BATCH, IN)), []
    step = jax.jit(LOOP.step)
    for t in range(STEPS):
        carry, y = step(params, carry, jnp.where(flags[t][..., None], given[t], emit(y)))
        ys.append(y)
    return jnp.stack(ys)


EMITS = {
    "identity": lambda y: y,
    "softmax": lambda y: np.exp(y) / np.exp(y).sum(-1, keepdims=True),
    "one_hot": lambda y: np.eye(IN, dtype=np.float32)[np.argmax(y, -1)],
}


@pytest.mark.parametrize("emit", EMITS)
def test_a_loop_is_open_where_use_given_says_so(emit):
    cell, params = jrnn.Feedback(LOOP, emit=emit), moved(LOOP)
    every = jnp.ones((STEPS, BATCH), bool)
    mixed = jax.random.bernoulli(jax.random.key(4), 0.5, (STEPS, BATCH))
    first = every & (jnp.arange(STEPS) == 0)[:, None]
    for flags in (every, ~every, first, mixed):
        close(run(cell, params, (XS, flags))[1], closed(params, flags, EMITS[emit]))
    close(run(cell, params, (XS, every))[1], run(LOOP, params)[1])  # teacher forcing is the plain cell
    one_to_many = (XS, jnp.arange(STEPS) == 0)
    close(run(cell, params, (XS[:, 0], one_to_many[1]))[1], run(cell, params, (XS, first))[1][:, 0])


def test_a_pair_beside_the_time_between_inputs():
    cell = jrnn.Stack((jrnn.Feedback(jrnn.Elman(IN)), jrnn.CfC(4)))
    params, pair, dt = moved(cell), (XS, jnp.ones((STEPS, BATCH), bool)), jnp.full((STEPS, BATCH), 0.5)
    with pytest.raises(
        ValueError, match=r"reads a pair as \(values, dt\): pass \(\(given, use_given\), dt\)"
    ):
        jrnn.unroll(cell, params, pair)
    plain = jrnn.Stack((jrnn.Elman(IN), jrnn.CfC(4)))
    close(run(cell, params, (pair, dt))[1], run(plain, params, (XS, dt))[1])


def test_nothing_of_an_ignored_input_reaches_the_gradient():
    cell, params = jrnn.Feedback(LOOP), moved(LOOP)
    flags = jax.random.bernoulli(jax.random.key(4), 0.5, (STEPS, BATCH))
    grads = jax.grad(lambda xs: jnp.sum(jnp.sin(run(cell, params, (xs, flags))[1])))(XS)
    np.testing.assert_array_equal(np.any(grads, axis=-1), flags)


def test_argmax_feeds_tokens_back():
    inner = jrnn.Stack((jrnn.Embed(4), jrnn.GRU(3), jrnn.Dense(6)))
    cell = jrnn.Feedback(inner, emit="argmax")
    params = jax.tree.map(lambda a: 4 * a, inner.init(jax.random.key(2), 6))  # lively enough to wander
    tokens, flags = jnp.array([[5, 2]] * STEPS), jnp.arange(STEPS) == 0
    ys = run(cell, params, (tokens, jnp.broadcast_to(flags[:, None], (STEPS, 2))))[1]
    read = jnp.concatenate([tokens[:1], jnp.argmax(ys[:-1], -1)])
    close(ys, run(inner, params, read)[1])
    assert len(np.unique(read)) > 2


def test_jordan_is_a_stack_that_reads_its_own_output():
    jordan = jrnn.Jordan(4, outputs=3, output_activation="sigmoid")
    p = moved(jordan)
    loop = jrnn.Feedback(jrnn.Stack((jrnn.Dense(4, activation="tanh"), jrnn.Dense(3, activation="sigmoid"))))
    params = (
        DenseParams(jnp.concatenate([p.w_ih, p.w_yh]), p.b),  # the external input comes first
        DenseParams(p.w_hy, p.c),
    )
    nothing = jnp.zeros((STEPS, BATCH, 3)), jnp.zeros((STEPS, BATCH), bool)
    end, ys = run(loop, params, (*nothing, XS))
    needed, outputs = run(jordan, p)
    close(ys, outputs)
    close(end.y, needed)
    taught = jax.random.normal(KEY, (STEPS, BATCH, 3)), jnp.ones((STEPS, BATCH), bool)
    h = np.tanh(XS @ p.w_ih + taught[0] @ p.w_yh + p.b)
    close(run(loop, params, (*taught, XS))[1], sigmoid(h @ p.w_hy + p.c))


# functions and skips


def test_functions_stand_among_the_cells_of_a_stack():
    deep = jrnn.Stack((jrnn.GRU(8), jax.nn.relu, lambda y: y[..., :3], jrnn.Dense(2)))
    assert deep.cells[1] == jrnn.Map("relu", 8) and deep.cells[2].out_features == 3
    params = moved(deep)
    assert params[1:3] == ((), ())
    _, ys = run(deep, params)
    inner = jax.nn.relu(run(jrnn.GRU(8), params[0])[1])[..., :3]
    close(ys, inner @ params[3].w + params[3].b)


def test_skip_concatenates_what_it_read_and_what_it_made():
    deep = jrnn.Stack((jrnn.Skip(jrnn.GRU(4), IN), jrnn.Skip(jrnn.LSTM(3), IN + 4), jrnn.Dense(2)))
    params = moved(deep)
    first = run(jrnn.GRU(4), params[0])[1]
    second = run(jrnn.LSTM(3), params[1], jnp.concatenate([XS, first], -1))[1]
    seen = jnp.concatenate([XS, first, second], -1)
    close(run(deep, params)[1], seen @ params[2].w + params[2].b)
    assert [cell.out_features for cell in deep.cells] == [IN + 4, IN + 7, 2]
