"""What `Newton` must not take for solved: units that meet unseen, states far below others, low precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrnn
from jrnn import Newton, Scan
from jrnn.unrolling.driver import make_loop
from tests.cases import COMBINATORS, FIRST, one_in, subject_of

KEY = jax.random.key(0)


def of(step, start=0.0, hidden=4):
    return jrnn.from_functions(
        lambda key, n: jax.random.normal(key, (n, hidden)),
        lambda p, batch_shape=(), *, key=None: jnp.full((*batch_shape, hidden), start, p.dtype),
        lambda p, h, x: (step(p, h, x),) * 2,
        hidden,
    )


MIXING = {
    "gather": lambda h: h[..., jnp.array([1, 2, 3, 0])],
    "checkpoint": jax.checkpoint(lambda h: h @ jnp.triu(jnp.ones((4, 4))) / 4),
    "sort": lambda h: jnp.sort(h, -1),
    "shift": lambda h: lax.pad(h, h.dtype.type(0), [(0, 0, 0)] * (h.ndim - 1) + [(1, -1, 0)]),
    "transposed": lambda h: jnp.sort(h.T, 0).T,
}


@pytest.mark.parametrize("batch", [(), (4,)])
@pytest.mark.parametrize("name", MIXING)
def test_units_that_meet_are_solved_together_with_and_without_a_batch(name, batch):
    with jax.enable_x64(True):
        cell = of(lambda p, h, x: 0.9 * jnp.tanh(MIXING[name](h) + x @ p))
        params = cell.init(KEY, 3)
        xs = jax.random.normal(jax.random.key(2), (30, *batch, 3))
        run = lambda xs, method: jrnn.unroll(cell, params, xs, method=method)[1][-1].ravel()[:2].sum()
        found, needed = (jax.value_and_grad(run)(xs, method) for method in (Newton(), Scan()))
        for a, b in zip(found, needed, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_units_that_read_others_by_comparison_are_certified_with_them(batch):
    """Half of the units are chaotic, so the last steps are taken one by one; the rest reads their signs."""

    def step(p, h, x):
        chaotic = jnp.sin(9 * h[..., :2] + x @ p[:, :2])
        return jnp.concatenate([chaotic, h[..., 2:] / 2 + jnp.sign(h[..., :2])], -1)

    with jax.enable_x64(True):
        cell = of(step)
        params, xs = cell.init(KEY, 3), jax.random.normal(jax.random.key(2), (40, *batch, 3))
        found, needed = (
            jrnn.unroll(cell, params, xs, method=method)[1] for method in (Newton(iterations=4), Scan())
        )
    np.testing.assert_allclose(found, needed, rtol=1e-9, atol=1e-9)


def results(cell, params, xs, carry=None, **options):
    return [jrnn.unroll(cell, params, xs, carry, method=m, **options) for m in (Newton(), Scan())]


def test_an_infinite_start_certifies_nothing():
    cell = of(lambda p, h, x: jnp.maximum(h, x @ p), start=-jnp.inf)
    found, needed = results(cell, cell.init(KEY, 3), jnp.ones((9, 2, 3)))
    np.testing.assert_array_equal(found[1], needed[1])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_slow_steps_in_low_precision_are_taken(dtype):
    cell = of(lambda p, h, x: (0.95 * h).astype(h.dtype))
    params = cell.init(KEY, 3).astype(dtype)
    found, needed = results(cell, params, jnp.ones((60, 2, 3), dtype), jnp.ones((2, 4), dtype))
    np.testing.assert_array_equal(found[0], needed[0])


def test_steps_below_the_tolerance_add_up():
    cell = of(lambda p, h, x: h + h.dtype.type(1e-6))
    found, needed = results(cell, cell.init(KEY, 3), jnp.ones((20_000, 3)), jnp.ones(4))
    np.testing.assert_allclose(found[0], needed[0], rtol=1e-3)  # Scan itself rounds at every step
    assert found[0][0] > 1.01


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("cell", [jrnn.SLSTM(4), jrnn.MLSTM(4)])
def test_a_start_far_below_all_states_hides_none(cell, steps):
    params = cell.init(KEY, 3)
    xs = jax.random.normal(jax.random.key(1), (steps, 2, 3))
    found, needed = results(cell, params, xs, lengths=np.array([steps, 1]))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_depends_without_a_derivative_is_computed_again_together():
    def step(p, h, x):
        return jnp.stack([3.9 * h[..., 0] * (1 - h[..., 0]), (h[..., 0] > 0.5) * 1.0], -1)

    cell = of(step, hidden=2)
    start = jax.random.uniform(jax.random.key(3), (64, 2))
    params, xs = cell.init(KEY, 3), jnp.ones((60, 64, 3))
    _, ys = jrnn.unroll(cell, params, xs, start, method=Newton(iterations=3))
    assert bool((ys[1:, :, 1] == (ys[:-1, :, 0] > 0.5)).all())


def test_a_transpose_of_its_own_is_refused_or_run_otherwise():
    cell = jrnn.ClipGradient(jrnn.Elman(3, activation="identity"), 0.1)
    params, xs = cell.init(KEY, 2), jnp.ones((20, 2))
    params = params._replace(w_hh=2 * jnp.eye(3))
    with pytest.raises(ValueError, match="its step has a transpose of its own"):
        jrnn.unroll(cell, params, xs, method=Newton())
    loss = lambda p, method: jrnn.unroll(cell, p, xs, method=method)[0].sum()
    found, needed = (jax.grad(loss)(params, m) for m in (Newton(otherwise=Scan()), Scan()))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("method", [jrnn.Associative(), jrnn.Associative(tree=True)])
def test_a_factor_of_zero_has_a_derivative_with_resets_too(method):
    cell = jrnn.IndRNN(4, activation="identity")
    params = cell.init(KEY, 3)._replace(w_hh=jnp.zeros(4))
    xs, resets = jax.random.normal(jax.random.key(2), (9, 2, 3)), jnp.zeros((9, 2), bool).at[4].set(True)
    loss = lambda p, m: (jrnn.unroll(cell, p, xs, resets=resets, method=m)[1] ** 2).sum()
    found, needed = (jax.grad(loss)(params, m).w_hh for m in (method, Scan()))
    assert bool((needed != 0).all())
    np.testing.assert_allclose(found, needed, rtol=1e-5)


def test_a_product_that_overflows_where_no_state_does_is_found_by_the_loop():
    """Factors of 1e30 act on states that are 0; under `vmap`, beside a row that needs no loop."""
    cell = jrnn.IndRNN(2, activation="identity")
    params = cell.init(KEY, 1)
    params = params._replace(w_hh=jnp.full(2, 1e30), w_ih=jnp.ones((1, 2)))
    xs = jnp.zeros((2, 200, 1)).at[0, -1].set(1.0)

    def run(xs, method):
        return jax.value_and_grad(lambda xs: jrnn.unroll(cell, params, xs, method=method)[1].sum())(xs)

    found, needed = (
        jax.jit(jax.vmap(lambda x, m=m: run(x[-1:] if m is None else x, m or Scan())))(xs)
        for m in (jrnn.Associative(tree=True), None)
    )
    np.testing.assert_array_equal(found[0], needed[0])
    np.testing.assert_array_equal(found[1][:, -1:], needed[1])


def test_a_loop_within_the_step_has_forward_derivatives():
    def step(p, h, x):
        def once(now):
            return now[0] + 1, jnp.tanh(now[1] @ p + x)

        h = jax.lax.while_loop(lambda now: now[0] < 2, once, (0, h))[1]
        return h, h

    cell = jrnn.from_functions(
        lambda key, width: jnp.eye(3), lambda p, batch=(), *, key=None: jnp.zeros((*batch, 3)), step, 3
    )
    xs = jax.random.normal(KEY, (9, 2, 3))

    def run(xs, method):
        return jrnn.unroll(cell, 0.5 * jnp.eye(3) + 0.1, xs, method=method)[1]

    methods = Scan(), Newton(), Newton("diagonal")
    needed, *found = jax.jit(lambda x: [jax.jvp(lambda x, m=m: run(x, m), (x,), (x,)) for m in methods])(xs)
    for pair in found:
        for a, b in zip(pair, needed, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for method in methods:
        with pytest.raises(ValueError, match=r"lax.while_loop"):
            jax.eval_shape(jax.grad(lambda x, m=method: run(x, m).sum()), xs)


def test_resets_of_all_rows_do_not_count_as_forgetting():
    cell = jrnn.Elman(6)
    params = cell.init(KEY, 3)
    xs, resets = jax.random.normal(KEY, (64, 2, 3)), jnp.zeros((64, 2), bool).at[5].set(True)
    loops = [make_loop(cell, params, xs, resets=r) for r in (None, resets)]
    free, reset = jax.jit(lambda: [Newton().advise(loop).exponent for loop in loops])()
    assert abs(free - reset) < 0.2


def test_no_rows_are_no_fault():
    cell = jrnn.GRU(2)
    assert jrnn.unroll(cell, cell.init(KEY, 3), jnp.zeros((5, 0, 3)), method=Newton())[1].shape == (5, 0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("case", one_in(9, FIRST + COMBINATORS, 1), ids=lambda case: repr(case.cell))
def test_cells_and_combinators_are_scans(case):
    """With lengths, resets, noise and a given carry; values, and gradients of everything."""
    rtol = 1e-6 if isinstance(case.cell, jrnn.Cast) else 1e-9
    method = Newton(otherwise=Scan()) if isinstance(case.cell, jrnn.ClipGradient) else Newton()
    with jax.enable_x64(True):
        subject, options = subject_of(case), {"lengths": np.array([5, 3]), "key": jax.random.key(7)}
        resets = jnp.zeros((5, 2), bool).at[2, 0].set(True).at[3, 1].set(True)
        given = subject.params("float64"), subject.carry(subject.params("float64"), 2, dtype="float64")
        xs = subject.xs(5, 2, dtype="float64")

        def loss(params, start, xs, method):
            out = jrnn.unroll(case.cell, params, xs, start, resets=resets, method=method, **options)
            floats = [a for a in jax.tree.leaves(out) if jnp.issubdtype(a.dtype, jnp.inexact)]  # no keys
            return sum(jnp.sum(jnp.abs(a - 0.1) ** 2) for a in floats)

        def run(*given):
            gradient = jax.value_and_grad(loss, (0, 1, 2), allow_int=True)
            found = [gradient(*given, m) for m in (Scan(), method)]
            return [[a for a in jax.tree.leaves(f) if a.dtype != jax.dtypes.float0] for f in found]

        for needed, found in zip(*subject.run(run, *given, xs), strict=True):
            np.testing.assert_allclose(found, needed, rtol=0, atol=rtol * np.abs(needed).max(initial=1e-6))
