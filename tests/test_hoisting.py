"""What depends on parameters alone is computed before a loop, in decoding and analysis as in `unroll`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.analysis import exponents, fixed_points, gradients, jacobians, memory
from jrnn.unrolling import Loop
from jrnn.unrolling._other_loops import hoisted
from jrnn.unrolling.driver import make_loop
from tests.test_engine import in_loops

pytestmark = pytest.mark.engine

HIDDEN, TOKENS = 4, 6
NORMED = jrnn.Reparametrize(jrnn.GRU(HIDDEN), "w_hh", jrnn.WeightNorm())
MODEL = jrnn.Stack((jrnn.Embed(3), NORMED, jrnn.Dense(TOKENS)))
XS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
PROMPT = np.array([[1, 2], [3, 0]])
DECODING = {
    "generate": lambda params: jrnn.generate(MODEL, params, PROMPT, 3, temperature=0),
    "sampling": lambda params: jrnn.generate(MODEL, params, PROMPT, 3, key=jax.random.key(0), stop=1),
    "beam_search": lambda params: jrnn.beam_search(MODEL, params, PROMPT, 3, width=2, stop=1),
}
STATES = {
    "exponents": lambda p, h: exponents._measure(NORMED, HIDDEN, 1, 2)(p, h, XS),
    "growth": lambda p, h: jacobians._growth(NORMED, 2, jrnn.Scan())(p, h, XS),
    "spectra": lambda p, h: jacobians._along(NORMED)(p, h, XS.reshape(3, 2, 3)),
    "sensitivity": lambda p, h: gradients._sensitivity(NORMED, "frobenius", None, jrnn.Scan())(p, XS, h),
    "pulses": lambda p, h: memory._distances(NORMED)(p, h, XS, 0 * XS),
    "states": lambda p, h: memory._states(NORMED)(p, h, XS),
    "fixed points": lambda p, h: fixed_points._search(NORMED, 5)(p, XS[0], h, jnp.stack([h, h])),
    "trajectory": lambda p, h: fixed_points._trajectory(NORMED)(p, h, XS),
}


def normalizes(function, *args):
    """Whether a loop scales a matrix of the shape of the recurrent weights, or takes its norm."""
    found = in_loops(jax.make_jaxpr(function)(*args).jaxpr)
    names = {eqn.primitive.name for eqn in found if eqn.outvars[0].aval.shape == (HIDDEN, 3 * HIDDEN)}
    return bool(names & {"mul", "square", "div"})


@pytest.mark.parametrize("name", DECODING)
def test_decoding_computes_weights_once(name):
    params = MODEL.init(jax.random.key(0), TOKENS)
    assert not normalizes(DECODING[name], params)


@pytest.mark.parametrize("name", STATES)
def test_analysis_computes_weights_once(name):
    params = NORMED.init(jax.random.key(0), 3)
    assert not normalizes(STATES[name], params, NORMED.initial_carry(params))


def test_what_would_be_computed_in_every_step_is_seen():
    params = NORMED.init(jax.random.key(0), 3)
    plain = lambda p, h: jax.lax.scan(lambda h, x: NORMED.step(p, h, x), h, XS)
    assert normalizes(plain, params, NORMED.initial_carry(params))


def test_a_long_loop_looks_rows_up_in_a_product_with_the_table():
    params = MODEL.init(jax.random.key(0), TOKENS)
    carry, token = MODEL.initial_carry(params, (3,)), jnp.array([5, 0, 2])
    ready, usual = (hoisted(MODEL, params, carry, token, steps) for steps in (2, 1))  # 6 rows, or 3, of 6

    def products(cell):
        jaxpr = jax.make_jaxpr(lambda carry, x: cell.step(params, carry, x))(carry, token)
        return sum(eqn.primitive.name == "dot_general" for eqn in jaxpr.eqns)

    assert products(usual) - products(ready) == 1
    for tokens in (token, jnp.array([-1, 9, 3])):  # NaN outside of the table
        found, wanted = (cell.step(params, carry, tokens) for cell in (ready, MODEL))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    one = hoisted(MODEL, params, MODEL.initial_carry(params), token[0], 6)
    found, wanted = (cell.step(params, MODEL.initial_carry(params), token[0])[1] for cell in (one, MODEL))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an accelerator multiplies before the loop")
def test_unroll_looks_rows_up_in_a_product_with_the_table():
    model = jrnn.Stack((jrnn.Embed(3), jrnn.LSTM(HIDDEN), jrnn.Dense(TOKENS)))
    params = model.init(jax.random.key(0), TOKENS)
    tokens = np.random.default_rng(0).integers(0, TOKENS, (8, 4))  # 32 lookups, at least twice 6 rows

    def plain(params, tokens):
        step = lambda carry, x: model.step(params, carry, x)
        return (jax.lax.scan(step, model.initial_carry(params, (4,)), tokens)[1] ** 2).sum()

    def ours(params, tokens):
        return (jrnn.unroll(model, params, tokens)[1] ** 2).sum()

    def multiplies(tokens):
        jaxpr = jax.make_jaxpr(ours)(params, tokens)
        products = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
        return any(eqn.outvars[0].aval.shape == (TOKENS, 4 * HIDDEN) for eqn in products)

    assert multiplies(tokens) and not multiplies(tokens[:2])
    found, wanted = (jax.jit(jax.grad(loss))(params, tokens) for loss in (ours, plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_a_hoisted_step_is_that_of_the_cell():
    params = NORMED.init(jax.random.key(0), 3)
    h = jax.random.normal(jax.random.key(1), (2, HIDDEN))
    others = jax.tree.map(lambda a: 2 * a + 1, params)
    cell = hoisted(NORMED, params, h, XS[:2])
    for given in ((params, h, XS[:2]), (others, h, XS[:2]), (params, h[0], XS[0]), (params, h, XS[:1])):
        for a, b in zip(*map(jax.tree.leaves, (cell.step(*given), NORMED.step(*given))), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    loss = lambda step, p: jnp.sum(step(p, h, XS[:2])[1] ** 2)
    found = jax.grad(lambda p: loss(hoisted(NORMED, p, h, XS[:2]).step, p))(params)
    expected = jax.grad(functools.partial(loss, NORMED.step))(params)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_step_that_calls_back_runs_as_it_is_written():
    seen = []

    def step(params, h, token):
        jax.debug.callback(lambda h: seen.append(float(h)), h, ordered=True)
        return h + jnp.sum(params), jnp.zeros(3).at[1].set(h)

    cell = jrnn.from_functions(
        init=lambda key, width: jnp.ones(2),
        initial_carry=lambda params, batch_shape=(), *, key=None: jnp.zeros(batch_shape),
        step=step,
        out_features=3,
        in_ndim=0,
    )
    jrnn.generate(cell, jnp.ones(2), np.array([0]), 4, temperature=0)
    jax.effects_barrier()
    assert seen == [0, 2, 4, 6]


def test_a_loop_says_what_it_holds():
    cell = jrnn.LSTM(HIDDEN)
    params = cell.init(jax.random.key(0), 3)
    xs = jnp.stack([XS, XS], 1).at[4:, 1].set(jnp.nan)
    carry = jax.tree.map(lambda a: a + 1, cell.initial_carry(params, (2,)))
    resets = np.zeros((6, 2), bool)
    resets[2, 0] = True
    loop = make_loop(cell, params, xs, carry, lengths=[6, 4], resets=resets, reverse=True)
    assert isinstance(loop, Loop) and loop.cell == cell and (loop.length, loop.reverse) == (6, True)
    assert loop.params is params
    assert float(loop.reset_state.h.sum()) == 0 and float(loop.carry.h.sum()) == 2 * HIDDEN
    assert not jnp.isnan(loop.xs).any()
    np.testing.assert_array_equal(loop.valid.sum(0), [6, 4])
    np.testing.assert_array_equal(np.argwhere(loop.reset), [[1, 0]])  # visited backwards, step 1 comes first
    first = jax.tree.map(lambda leaf: leaf[-1], loop.inputs)
    after, y = loop.body(loop.consts, loop.carry, first)
    np.testing.assert_array_equal(y[1], 0)
    np.testing.assert_array_equal(after.c[1], loop.carry.c[1])
    assert len(jax.tree.leaves(loop)) == len(jax.tree.leaves((params, carry, carry, xs))) + 2
