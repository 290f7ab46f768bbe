"""`Newton` against `Scan`: states, gradients of every mode, and the certificate."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn import Newton, Scan
from jrnn.unrolling._systems import damped
from jrnn.unrolling.driver import make_loop
from tests.values import assert_close, parts

KEY = jax.random.key(0)
STEPS, BATCH, WIDTH = 17, 2, 3
RESETS = np.zeros((STEPS, BATCH), bool)
RESETS[6, 0] = RESETS[7, 0] = RESETS[3, 1] = True
RAGGED = {"resets": RESETS, "lengths": np.array([STEPS, 9]), "reverse": True}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def drawn(tree, seed=0):
    rng = np.random.default_rng(seed)

    def draw(a):
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return a
        parts = rng.standard_normal((2, *a.shape)) / 2
        return jnp.asarray(parts[0] + (1j * parts[1] if jnp.iscomplexobj(a) else 0), a.dtype)

    return jax.tree.map(draw, tree)


def model(cell, width=WIDTH, steps=STEPS):
    """Parameters, a carry and inputs."""
    params = drawn(jax.eval_shape(lambda: cell.init(KEY, width)))
    xs = jnp.asarray(np.random.default_rng(3).standard_normal((steps, BATCH, width)))
    return params, drawn(cell.initial_carry(params, (BATCH,)), 2), xs


def weighted(tree):
    """A smooth function of all floats of a tree, which no two enter alike."""
    floats = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.inexact)]
    return sum(jnp.sum(jnp.abs(a - 0.1 * jnp.cos(jnp.arange(a.size)).reshape(a.shape)) ** 2) for a in floats)


def both(cell, *methods, steps=STEPS, **options):
    """A function of the results and all its gradients, by `Scan` and by other methods."""

    def results(params, start, xs, method):
        return weighted(jrnn.unroll(cell, params, xs, start, method=method, **options))

    @jax.jit
    def run(*arguments):
        # keys and counters of a carry have no gradient
        gradient = jax.value_and_grad(results, argnums=(0, 1, 2), allow_int=True)
        found = [gradient(*arguments, method) for method in (Scan(), *methods)]
        return [parts([a for a in jax.tree.leaves(f) if a.dtype != jax.dtypes.float0]) for f in found]

    return run(*model(cell, steps=steps))


KINDS = {
    "dense": jrnn.LSTM(4),
    "elementwise": jrnn.IndRNN(4, activation="tanh"),
    "blocks": jrnn.SLSTM(4, heads=2),
    "complex": jrnn.UnitaryRNN(3),
    "layers": jrnn.Stack((jrnn.GRU(3), jrnn.Dense(4, activation="tanh"), jrnn.SRU(4))),
    "a matrix": jrnn.M2RNN(4, heads=2),
    "a counter": jrnn.ClockworkRNN(4, periods=(1, 2)),
    "noise": jrnn.Dropout(jrnn.GRU(4), state=0.3, output=0.5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_steps_at_once_are_a_scan(kind):
    options = RAGGED | ({"key": jax.random.key(1)} if kind == "noise" else {})
    scanned, solved = both(KINDS[kind], Newton(), **options)
    assert_close(solved, scanned, rtol=1e-9)


METHODS = {
    "quasi": Newton("diagonal"),
    "quasi, few iterations": Newton("diagonal", iterations=2),
    "a tree": Newton(tree=True),
    "windows": Newton(window=5),
    "few iterations": Newton(iterations=2),
    "damped": Newton(damping=0.3, iterations=8),
    "quasi, damped": Newton("diagonal", damping=0.3),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_form_of_the_method_is_a_scan(name):
    scanned, solved = both(jrnn.GRU(4), METHODS[name], **RAGGED)
    assert_close(solved, scanned, rtol=1e-9)


@pytest.mark.parametrize("method", [Newton(), Newton("diagonal")], ids=str)
def test_derivatives_of_every_mode(method):
    cell = jrnn.GRU(2)
    params, _, xs = model(cell, steps=5)

    def loss(xs, method):
        return weighted(jrnn.unroll(cell, params, xs, method=method)[1])

    def along(f, xs):
        return jax.jvp(f, (xs,), (jnp.cos(xs),))[1]

    @jax.jit
    def run(xs):
        found = []
        for each in (Scan(), method):
            f = functools.partial(loss, method=each)
            rows = jax.vmap(lambda x, f=f: f(x[:, None]), 1)
            found.append((along(f, xs), along(jax.grad(f), xs), along(lambda x, r=rows: r(x), xs)))
        return found

    scanned, solved = run(xs)
    assert_close(solved, scanned, rtol=1e-9)


class Judged(NamedTuple):
    """Of one random cell, what became of it."""

    wrong: Any
    recomputed: Any
    diverging: Any
    chaotic: Any


def judged(key, steps=40):
    """Run a random map of three units, tanh or square, and check each of its steps.

    A gain of 0.2 contracts, one of 4 is chaotic; squares go to infinity, and then to NaN, in a few steps.
    """
    a, b, c, d = jax.random.split(key, 4)
    w = jnp.exp(jax.random.uniform(a, (), minval=-1.6, maxval=1.4)) * jax.random.normal(b, (3, 3))
    squares = jax.random.bernoulli(c, 0.3)
    xs = jax.random.normal(d, (steps, 3))

    def step(params, h, x):
        z = h @ params[0] + x
        h = jnp.where(params[1], z * z - z / 2, jnp.tanh(z))
        return h, h

    params = (w, squares)
    cell = jrnn.from_functions(
        lambda key, in_features: jax.tree.map(jnp.zeros_like, params),
        lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3)),
        step,
        out_features=3,
    )
    _, ys, found = Newton(iterations=12).solve(make_loop(cell, params, xs))
    before = jnp.concatenate([jnp.zeros((1, 3)), ys[:-1]])
    after = jax.vmap(lambda h, x: step(params, h, x)[0])(before, xs)
    scale = jnp.maximum(jnp.abs(ys).max(-1), jnp.abs(before).max(-1))[:, None]
    same = (ys == after) | (jnp.isnan(ys) & jnp.isnan(after)) | (jnp.abs(ys - after) <= 1e-14 * scale)
    # and near that of a scan, as far as errors of its steps let it be
    jacobians = jax.vmap(lambda h, x: jax.jacobian(lambda h: step(params, h, x)[0])(h))(before, xs)
    grown = jnp.cumsum(jnp.log(jnp.maximum(jnp.linalg.norm(jacobians, axis=(1, 2)), 1)))[:, None]
    scanned = jrnn.unroll(cell, params, xs)[1]
    near = jnp.abs(ys - scanned) <= 1e-13 * steps * jnp.exp(grown) * jax.lax.cummax(scale)
    near |= ~jnp.isfinite(jnp.exp(grown)) | (ys == scanned) | (jnp.isnan(ys) & jnp.isnan(scanned))
    diverging = ~jnp.isfinite(scanned).all()
    return Judged(
        ~(same & near).all(), found.recomputed[0].any(), diverging, ~diverging & (grown[-1, 0] > 0.2 * steps)
    )


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_result_is_wrong(count):
    """Contracting, chaotic and exploding maps, all in one program."""
    found = jax.jit(jax.vmap(judged))(jax.random.split(KEY, count))
    of_kind = {name: int(values.sum()) for name, values in found._asdict().items()}
    assert of_kind["wrong"] == 0, of_kind
    # each kind is there
    assert 0.9 * count > of_kind["recomputed"] > of_kind["diverging"] > count / 10, of_kind
    assert of_kind["chaotic"] > count / 10, of_kind


def convergence_of(cell, params, xs, method):
    return jax.jit(lambda p, xs: method.solve(make_loop(cell, p, xs))[2])(params, xs)


def test_a_sequence_that_is_done_stays_as_it_is():
    """The second row is constant; its first state is not that of the first."""
    cell = jrnn.Elman(3)
    params, _, xs = model(cell)
    xs = xs.at[:, 1].set(0)
    params = params._replace(b=jnp.zeros(3))
    found = convergence_of(cell, params, xs, Newton())
    first, second = found.iterations[0][0]
    assert second == 1 < 3 <= first and not found.recomputed[0].any()


def test_a_sequence_does_not_feel_its_neighbor():
    """Bit for bit, though that iterates longer, or diverges."""
    cell = jrnn.Elman(3, activation="relu")
    params, _, xs = model(cell)
    params = params._replace(w_hh=0.2 * params.w_hh)
    scales = jnp.array([1.0, 1e-3])
    run = jax.jit(lambda scales: jrnn.unroll(cell, params, scales[:, None] * xs, method=Newton())[1][:, 0])
    alone = run(scales)
    for other in (9.0, jnp.nan):
        assert bool((alone == run(scales.at[1].set(other))).all())


def test_states_of_any_size_have_their_digits():
    """A residual counts beside the state itself, at that step: neither 1e-20 nor 1e20 is special."""
    cell = jrnn.PLRNN(3)
    params, _, xs = model(cell)
    params = jax.tree.map(lambda a: a / 2, params)
    params = params._replace(b=jnp.zeros_like(params.b))
    sizes = jnp.geomspace(1e-20, 1e20, STEPS)[:, None, None]
    run = jax.jit(lambda xs, method: jrnn.unroll(cell, params, xs, method=method)[1], static_argnums=1)
    for size in (sizes, 1e-20):
        scanned, solved = (run(xs * size, method) for method in (Scan(), Newton()))
        assert (jnp.abs(scanned - solved).max(-1) <= 1e-13 * jnp.abs(scanned).max(-1)).all()


@pytest.mark.parametrize("size, reverse", [(1, False), (2, False), (2, True)])
def test_damping_is_a_least_squares_problem(size, reverse):
    """The last of the corrections up to a step, if all of them are kept small."""
    rng, steps, damping = np.random.default_rng(0), 4, 0.7
    factors, residual = rng.standard_normal((steps, size, size)), rng.standard_normal((steps, size))
    order = slice(None, None, -1 if reverse else 1)
    needed = []
    for t in range(1, steps + 1):
        a, r = factors[order][:t], residual[order][:t]
        equations = np.eye(t * size)
        for i in range(1, t):
            equations[i * size : (i + 1) * size, (i - 1) * size : i * size] = -a[i]
        normal = equations.T @ equations + damping * np.eye(t * size)
        needed.append(np.linalg.solve(normal, equations.T @ r.ravel())[-size:])
    given = factors if size > 1 else factors[..., 0]
    found = damped(jnp.asarray(given), jnp.asarray(residual), damping, reverse)
    np.testing.assert_allclose(found[order], needed, rtol=1e-10)


def test_damping_converges():
    cell = jrnn.GRU(4)
    params, _, xs = model(cell)
    found = convergence_of(cell, params, xs, Newton(damping=0.1, iterations=80))
    assert not found.recomputed[0].any() and found.iterations[0].max() > 10


def test_the_first_states_are_exact_after_as_many_iterations():
    """Of a chaotic cell, in which nothing is known of a state before all states before it are."""
    cell = jrnn.Elman(3)
    params, _, xs = model(cell)
    params = params._replace(w_hh=9 * params.w_hh)
    for iterations in (1, 4):
        found = convergence_of(cell, params, xs, Newton(iterations=iterations))
        assert not found.recomputed[0][:iterations].any() and found.recomputed[0][-1].all()
    assert not convergence_of(cell, params, xs, Newton(iterations=STEPS)).recomputed[0].any()


def test_a_trajectory_of_ones_own_is_the_start():
    cell = jrnn.GRU(4)
    params, start, xs = model(cell)

    @jax.jit
    def run(xs):
        states = jrnn.unroll(cell, params, xs, start)[1]
        cold, warm, far = (
            Newton(guess=guess, window=window).solve(make_loop(cell, params, xs, start))
            for guess, window in (("carry", None), (states + 1e-7, 6), (jnp.full_like(states, jnp.nan), None))
        )
        return states, cold, warm, far

    states, cold, warm, far = run(xs)
    for _, ys, _ in (cold, warm, far):
        np.testing.assert_allclose(ys, states, rtol=1e-12, atol=1e-13)
    most = [int(found.iterations[0].max()) for *_, found in (cold, warm, far)]
    assert most[1] <= 2 < 4 < most[0] == most[2]
    with pytest.raises(ValueError, match=r"^guess has the shape \(17, 4\), needs \(17, 2, 4\)"):
        jrnn.unroll(cell, params, xs, method=Newton(guess=states[:, 0]))
    with pytest.raises(ValueError, match=r"^guess has the structure"):
        jrnn.unroll(cell, params, xs, method=Newton(guess=(states,)))
    with pytest.raises(ValueError, match=r"^guess must be one of carry, step, got 'zeros'"):
        Newton(guess="zeros")


def test_one_step_from_the_carry_is_the_start():
    """With a tolerance so wide that what is returned is one step from the guess, corrected once."""
    cell = jrnn.Elman(4)
    params, start, xs = model(cell)
    steps = jax.vmap(lambda x: cell.step(params, start, x)[0])(xs)

    @jax.jit
    def run(xs):
        guesses = "step", steps, "carry"
        return [Newton(guess=g, tolerance=0.99).solve(make_loop(cell, params, xs, start))[1] for g in guesses]

    found, needed, other = run(xs)
    np.testing.assert_allclose(found, needed, rtol=1e-13, atol=1e-14)
    assert np.abs(found - other).max() > 1e-4


def mixed_by(how):
    """A cell that mixes its four units by an operation."""
    return jrnn.from_functions(
        lambda key, in_features: jax.random.normal(key, (in_features, 4)),
        lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 4), params.dtype),
        lambda params, h, x: (jnp.tanh(how(h) + x @ params),) * 2,
        out_features=4,
    )


def test_memory_is_predicted():
    """Of a gradient, beside what the compiler takes."""
    cell = jrnn.GRU(16)
    params, xs = cell.init(KEY, 3), jnp.ones((256, 2, 3), "float32")
    for method in (Newton(), Newton(window=32), Newton("diagonal")):
        loss = lambda p, method=method: jnp.sum(jrnn.unroll(cell, p, xs, method=method)[1] ** 2)
        taken = jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes
        predicted = jrnn.gradient_memory(cell, params, xs, method=method)
        assert 0.6 * taken < predicted < 1.6 * taken, (method, predicted, taken)


def test_steps_without_a_forward_derivative_run_otherwise():
    @jax.custom_vjp
    def double(h):
        return 2 * h

    double.defvjp(lambda h: (2 * h, None), lambda _, g: (2 * g,))

    def printing(h):
        jax.debug.print("{}", h.sum())
        return h

    for how, why in ((double, "no forward derivative"), (printing, "effects")):
        cell = mixed_by(how)
        params, xs = cell.init(KEY, 3), jnp.ones((3, BATCH, 3))
        with pytest.raises(ValueError, match=rf"^method=Newton\(\) cannot run .*{why}"):
            jrnn.unroll(cell, params, xs, method=Newton())
        assert_close(
            jrnn.unroll(cell, params, xs, method=Newton(otherwise=Scan())), jrnn.unroll(cell, params, xs)
        )


def test_advice_is_taken():
    """With a scan to fall back on, none is asked to iterate where that would take too long."""
    cell = jrnn.Elman(3)
    params = cell.init(KEY, 3)
    xs = jax.random.normal(KEY, (200, 2, 3))

    @jax.jit
    def run(scale):
        scaled = params._replace(w_hh=scale * params.w_hh)
        advice = Newton(otherwise=Scan()).advise(make_loop(cell, scaled, xs))
        return advice, [
            jrnn.unroll(cell, scaled, xs, method=m)[1] for m in (Scan(), Newton(otherwise=Scan()), Newton())
        ]

    for scale, few in ((0.5, True), (8.0, False)):
        advice, (scanned, advised, solved) = run(scale)
        assert (advice.iterations <= 32) == few
        assert (advised == scanned).all() == (not few) != (solved == scanned).all() or few
        np.testing.assert_allclose(advised, scanned, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "given",
    [{"jacobian": "block"}, {"iterations": 0}, {"window": 0}, {"tolerance": 0.0}, {"damping": -1.0}],
    ids=str,
)
def test_what_is_no_such_method_is_refused_by_name(given):
    with pytest.raises(ValueError, match=f"^{next(iter(given))} must be"):
        Newton(**given)


@pytest.mark.parametrize("steps", [0, 1])
def test_short_sequences_run(steps):
    scanned, solved = both(jrnn.GRU(2), Newton(), steps=steps)
    assert_close(solved, scanned, rtol=1e-9)


FAMILIES = (jrnn.Elman(6), 3), (jrnn.GRU(5), 9), (jrnn.MGU(4), 9), (jrnn.LSTM(3), 9)


@pytest.mark.parametrize("count, steps", [(20, 256), pytest.param(50, 512, marks=pytest.mark.slow)])
def test_iterations_are_predicted(count, steps):
    """Within a factor of 2 for 95 % of random cells, forgetful to chaotic, from their first 128 steps."""
    right, families = 0, FAMILIES if steps == 512 else FAMILIES[:1]
    for cell, largest in families:

        def run(key, scale, cell=cell):
            params = cell.init(key, 3)
            params = params._replace(w_hh=scale * params.w_hh)
            xs = jax.random.normal(jax.random.fold_in(key, 1), (steps, 3))
            found = Newton(iterations=steps).solve(make_loop(cell, params, xs))[2]
            return found.iterations[0].max(), jrnn.analysis.parallelism(cell, params, xs)

        keys = jax.random.split(jax.random.key(11), count)
        with jax.enable_x64(False):
            used, told = jax.jit(jax.vmap(run))(keys, jnp.geomspace(0.3, largest, count))
        assert used.min() < 5 and used.max() > 60  # of both kinds
        assert told.speedup[0] > 5 * told.speedup[-1] and not told.pays[-1] and told.exponent[0] < -0.1
        ratio = told.iterations / used
        right += int(((ratio >= 0.5) & (ratio <= 2)).sum())
    assert right >= 0.95 * count * len(families), right
