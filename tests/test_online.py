"""Gradients forward in time: exact where they are said to be, and what their papers say elsewhere."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn import RFLO, RTRL, UORO, EProp, KroneckerRTRL, Online, SnAp, Truncated
from jrnn.losses import mean_squared_error
from tests.cases import CASES, one_in, subject_of, turn
from tests.online import METHODS, ROWS, drawn, free, run, total

ADAPTED = jrnn.Cast  # computes in float32


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def weighed(y, *_):
    """A loss of all floats of the outputs."""
    leaves = [a for a in jax.tree.leaves(y) if jnp.issubdtype(a.dtype, jnp.floating)]
    return sum(jnp.sum(jnp.cos(1.0 + jnp.arange(a.size)).reshape(a.shape) * (a + a**2)) for a in leaves)


def check_exact(case, method):
    """With masks and resets, the sum of the gradients is that of backpropagation."""
    subject, steps = subject_of(case), 3
    params, xs = jax.tree.map(
        jnp.asarray, (subject.params("float64"), subject.xs(steps, ROWS, dtype="float64"))
    )
    valid = jnp.ones((steps, ROWS), bool).at[1, 0].set(False)
    reset = jnp.zeros((steps, ROWS), bool).at[2, 1].set(True).at[1, 0].set(True)

    @functools.partial(jax.grad, has_aux=True)
    def whole(leaves, params):
        rest = iter(leaves)
        learns = jrnn.trainable(params)
        params = jax.tree.map(
            lambda a, learn: next(rest) if learn and jnp.issubdtype(a.dtype, jnp.floating) else a,
            params,
            learns,
        )
        ys = jrnn.unroll(case.cell, params, xs, mask=valid, resets=reset)[1]
        each = [weighed(jax.tree.map(lambda a, t=t: a[t], ys)) for t in range(steps)]
        return sum(each), jnp.stack(each)

    def both(params):
        losses, gradients = run(Online(case.cell, weighed, method), params, xs, None, valid, reset)[0]
        return whole(free(params), params), ([g.sum(0) for g in free(gradients)], losses)

    (want, losses), (got, own) = subject.run(both, params)
    scale = 1e-4 if isinstance(case.cell, ADAPTED) else 1e-10
    np.testing.assert_allclose(own, losses, rtol=scale)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=scale * max(1.0, np.abs(b).max(initial=0)))


QUICKLY = [
    pytest.param(c, marks=() if turn(c, 15) == 6 or isinstance(c.cell, jrnn.Stack) else pytest.mark.slow)
    for c in CASES
    if c in one_in(9, CASES, 6) or isinstance(c.cell, jrnn.Stack)
]


@pytest.mark.parametrize("case", QUICKLY, ids=lambda case: repr(case.cell))
def test_real_time_learning_is_backpropagation(case):
    check_exact(case, RTRL())


@pytest.mark.parametrize("method", [Truncated(3), SnAp(9)], ids=str)
@pytest.mark.parametrize("case", one_in(30, CASES), ids=lambda case: repr(case.cell))
def test_a_window_of_all_steps_and_a_pattern_of_all_are_backpropagation(case, method):
    check_exact(case, method)


@pytest.mark.parametrize(
    "cell, numbers",
    [
        (jrnn.IndRNN(4), 1),
        (jrnn.MinGRU(4), 1),
        (jrnn.QRNN(4, window=2), 1),
        (jrnn.LRU(4, outputs=3), 2),
    ],
    ids=repr,
)
def test_diagonal_cells_take_a_few_numbers_for_each_parameter(cell, numbers):
    params, xs, targets = drawn(cell)
    online = Online(cell, mean_squared_error, RTRL())
    influence, _ = online.init(params, xs[0])
    stored = {leaf.shape[1:] for leaf in jax.tree.leaves(influence.memory)}
    assert stored <= {leaf.shape for leaf in jax.tree.leaves(params)}  # rows of the parameters' own shapes
    states = sum(leaf.size for leaf in jax.tree.leaves(influence.memory)) // ROWS
    assert states <= numbers * sum(leaf.size for leaf in jax.tree.leaves(params))
    exact = Online(cell, mean_squared_error, Truncated(len(xs)))
    got, want = jax.jit(lambda p: [total(o, p, xs, targets) for o in (online, exact)])(params)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def elman(params, xs, targets, kept):
    """Masked RTRL of tanh units with one row, in NumPy: a sum over units, weights and steps."""
    w, u, b = map(np.asarray, params)
    (m, n), h = w.shape, np.zeros(len(b))
    p = np.zeros((n, m * n + n * n + n))
    gradient = np.zeros(p.shape[1])
    for x, target in zip(np.asarray(xs), np.asarray(targets), strict=True):
        new = np.tanh(x @ w + h @ u + b)
        slope, direct = 1 - new**2, np.zeros_like(p)
        for d in range(n):
            for i in range(m):
                direct[d, i * n + d] = slope[d] * x[i]
            for i in range(n):
                direct[d, m * n + i * n + d] = slope[d] * h[i]
            direct[d, m * n + n * n + d] = slope[d]
        p, h = kept * ((slope[:, None] * u.T) @ p + direct), new
        gradient += 2 * (new - target) / n @ p
    return gradient


def test_the_sparse_approximation_is_a_masked_recursion():
    cell = jrnn.Elman(5)
    params, xs, targets = drawn(cell, rows=(), steps=5)
    units = np.concatenate([np.tile(np.arange(5), count) for count in (3, 5, 1)])
    own = np.arange(5)[:, None] == units
    for method, kept in ((SnAp(1), own), (SnAp(2), np.ones_like(own)), (RTRL(), np.ones_like(own))):
        found = jax.jit(functools.partial(total, Online(cell, mean_squared_error, method)))(
            params, xs, targets
        )
        np.testing.assert_allclose(found, elman(params, xs, targets, kept), rtol=1e-10, atol=1e-12)


def test_an_lstm_keeps_both_numbers_of_a_unit():
    """Against Jacobians of the whole step, masked by hand."""
    cell, n = jrnn.LSTM(3), 3
    params, xs, targets = drawn(cell, width=2, rows=(), steps=4)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    unit = np.concatenate([np.tile(np.arange(n), 4 * count) for count in (2, 3, 1)])
    kept = np.tile(np.arange(n), 2)[:, None] == unit
    gate = np.concatenate([np.tile(np.repeat(np.arange(4), n), count) for count in (2, 3, 1)])
    kept[n:] &= gate != 3  # in one step the output gate reaches h alone, (h, c)

    def step(flat, v, x):
        h, y = cell.step(unravel(flat), jrnn.cells.lstm.LSTMCarry(*jnp.split(v, 2)), x)
        return jnp.concatenate(h), y

    @jax.jit
    def one(flat, v, x, target, p):
        after, y = step(flat, v, x)
        immediate, jacobian = jax.jacrev(lambda f, v: step(f, v, x)[0], (0, 1))(flat, v)
        p = kept * (jacobian @ p + immediate)
        return after, p, jax.grad(mean_squared_error)(y, target) @ p[:n]

    v, p, gradient = jnp.zeros(2 * n), jnp.zeros((2 * n, len(flat))), 0
    for x, target in zip(xs, targets, strict=True):
        v, p, g = one(flat, v, x, target, p)
        gradient += g
    found = jax.jit(functools.partial(total, Online(cell, mean_squared_error, SnAp(1))))(params, xs, targets)
    np.testing.assert_allclose(found, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "cell",
    [jrnn.GRU(3), jrnn.Stack((jrnn.LRU(2), jrnn.Dense(3), jrnn.LSTM(2), jrnn.Dense(2)))],
    ids=["GRU", "Stack"],
)
def test_enough_steps_are_all(cell):
    params, xs, targets = drawn(cell)
    methods = SnAp(9), RTRL(), SnAp(1)
    found = jax.jit(lambda p: [total(Online(cell, mean_squared_error, m), p, xs, targets) for m in methods])(
        params
    )
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[2] - found[1]).max() > 1e-4


@pytest.mark.parametrize("method", [UORO(), KroneckerRTRL()], ids=str)
def test_random_influence_has_the_exact_mean(method):
    cell = jrnn.Stack((jrnn.Elman(2), jrnn.Dense(1)))
    params, xs, targets = drawn(cell, width=2, steps=6, rows=(1,))
    reset = jnp.zeros((6, 1), bool).at[2].set(True) if method == UORO() else None
    valid = jnp.ones((6, 1), bool).at[1].set(False) if method == UORO() else None
    online, exact = (Online(cell, mean_squared_error, m) for m in (method, RTRL()))

    def one(key):
        influence, carry = online.init(params, xs[0])
        memory = influence.memory._replace(key=key[None])
        state, found = (influence._replace(memory=memory), carry), 0
        for t in range(6):
            flags = {
                "reset": None if reset is None else reset[t],
                "valid": None if valid is None else valid[t],
            }
            *state, _, gradient = online.step(*state, params, xs[t], targets[t], **flags)
            found = found + jnp.concatenate([g.ravel() for g in free(gradient)])
        return found

    want = jax.jit(lambda p: total(exact, p, xs, targets, valid, reset))(params)
    each = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 10_000))
    error = each.std(0) / 100
    assert (error > 1e-4).any()  # they are random
    assert (jnp.abs(each.mean(0) - want) <= 3 * error + 1e-9).all(), jnp.abs(each.mean(0) - want) / error


LEAKY = jrnn.Stack((jrnn.LeakyRNN(4, tau=100, dt=40, activation="tanh"), jrnn.Dense(2)))


def leaky_traces(params, xs, targets, feedback):
    """Traces of leaky tanh units in NumPy, p_ij ← (1 − α) p_ij + α φ'(u_j) a_i, times fed-back errors."""
    (w, u, b), (readout, bias) = (tuple(map(np.asarray, p)) for p in params)
    alpha, h = 0.4, np.zeros(4)
    inputs = len(w) + 4 + 1
    trace, found, read = np.zeros((inputs, 4)), np.zeros((inputs, 4)), np.zeros((5, 2))
    for x, target in zip(np.asarray(xs), np.asarray(targets), strict=True):
        a = np.concatenate([x, h, [1]])
        f = np.tanh(x @ w + h @ u + b)
        h = (1 - alpha) * h + alpha * f
        trace = (1 - alpha) * trace + alpha * np.outer(a, 1 - f**2)
        error = (h @ readout + bias - target) * 2 / 2
        found += trace * (error @ (readout.T if feedback is None else feedback))
        read += np.outer(np.append(h, 1), error)
    return np.concatenate([found.ravel(), read.ravel()])


@pytest.mark.parametrize("method", [EProp(), RFLO(seed=5)], ids=str)
def test_traces_are_those_of_the_papers(method):
    params, xs, targets = drawn(LEAKY, width=2, rows=(), steps=6)
    feedback = None
    if isinstance(method, RFLO):
        feedback = np.asarray(jax.random.normal(jax.random.key(5), (2, 4), float)) / 2
    found = jax.jit(functools.partial(total, Online(LEAKY, mean_squared_error, method)))(params, xs, targets)
    np.testing.assert_allclose(found, leaky_traces(params, xs, targets, feedback), rtol=1e-10, atol=1e-12)


def test_traces_of_an_lstm_follow_its_forget_gate():
    """ε_c ← f ε_c + ∂c/∂z, and the loss of h alone tells it whether that was good (Bellec et al., LSTM)."""
    cell = jrnn.LSTM(3)
    params, xs, targets = drawn(cell, width=2, rows=(), steps=4)

    def loss(params):
        carry, found = cell.initial_carry(params), 0
        for x, target in zip(xs, targets, strict=True):
            held = carry._replace(h=jax.lax.stop_gradient(carry.h))
            carry, y = cell.step(params, held, x)
            found += mean_squared_error(y, target)
        return found

    want = jnp.concatenate([g.ravel() for g in jax.jit(jax.grad(loss))(params)])
    found = jax.jit(functools.partial(total, Online(cell, mean_squared_error, EProp())))(params, xs, targets)
    np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-12)


def test_a_window_is_backpropagation_through_that_many_steps():
    cell, k, steps = jrnn.Elman(3), 2, 4
    params, xs, targets = drawn(cell, steps=steps)
    (_, gradients), _ = jax.jit(functools.partial(run, Online(cell, mean_squared_error, Truncated(k))))(
        params, xs, targets
    )

    def loss(params, start, xs, target):
        return mean_squared_error(jrnn.unroll(cell, params, xs, start)[1][-1], target)

    @jax.jit
    def windows(params):
        found = []
        for t in range(steps):
            first = max(0, t - k + 1)
            start = jrnn.unroll(cell, params, xs[:first])[0] if first else cell.initial_carry(params, (ROWS,))
            found.append(jax.grad(loss)(params, start, xs[first : t + 1], targets[t]))
        return found

    for t, want in enumerate(windows(params)):
        for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a[t], b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_learning_at_every_step_of_a_stream_in_constant_memory(method):
    """The last input but one is to be told; parameters change at every step."""
    cell = jrnn.Stack((jrnn.LeakyRNN(12, tau=4, dt=3, activation="tanh"), jrnn.Dense(1)))
    online, optimizer = Online(cell, mean_squared_error, method), optax.adam(5e-3)
    with jax.enable_x64(False):
        params = cell.init(jax.random.key(0), 1)
        xs = jnp.sign(jax.random.normal(jax.random.key(1), (600, 4, 1)))
        targets = jnp.roll(xs, 1, 0)

        @jax.jit
        def stream(params):
            def step(state, inputs):
                influence, carry, params, moments = state
                influence, carry, loss, gradient = online.step(influence, carry, params, *inputs)
                updates, moments = optimizer.update(gradient, moments, params)
                return (influence, carry, optax.apply_updates(params, updates), moments), loss

            start = (*online.init(params, xs[0]), params, optimizer.init(params))
            return jax.lax.scan(step, start, (xs, targets))[1]

        losses = stream(params)
    assert losses[:10].mean() > 0.8 and losses[-100:].mean() < 0.7  # 1 without memory


def test_steps_map_over_seeds_and_run_alone():
    cell = jrnn.GRU(2)
    params, xs, targets = drawn(cell, steps=2)
    online = Online(cell, mean_squared_error, SnAp(1))
    many = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)

    def losses(params):
        return total(online, params, xs, targets)

    mapped = jax.jit(jax.vmap(losses))(many)
    for i in range(2):
        one = jax.tree.map(lambda a, i=i: a[i], many)
        np.testing.assert_allclose(mapped[i], jax.jit(losses)(one), rtol=1e-12)
    rows = [total(online, params, xs[:, i], targets[:, i]) for i in range(ROWS)]
    np.testing.assert_allclose(losses(params), sum(rows) / ROWS, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
def test_dtypes_are_kept(method, dtype):
    cell = jrnn.Stack((jrnn.LSTM(2), jrnn.Dense(2)))
    params = jax.tree.map(lambda a: a.astype(dtype), cell.init(jax.random.key(0), 3))
    online, x = Online(cell, mean_squared_error, method), jnp.ones((2, 3), dtype)
    influence, carry = jax.eval_shape(online.init, params, x)
    after = jax.eval_shape(online.step, influence, carry, params, x, jnp.zeros((2, 2), dtype))
    types = functools.partial(jax.tree.map, lambda a: (a.shape, a.dtype))
    assert types(after[0]) == types(influence) and types(after[1]) == types(carry)
    assert types(after[3]) == types(params)


def test_invalid_rows_keep_everything():
    cell = jrnn.LearnedCarry(jrnn.GRU(2))
    params, xs, targets = drawn(cell, steps=1)
    for method in METHODS:
        online = Online(cell, mean_squared_error, method)
        influence, carry = online.init(params, xs[0])
        valid, x = jnp.array([True, False]), xs[0].at[1].set(jnp.nan)
        after, moved, loss, gradient = jax.jit(online.step)(
            influence, carry, params, x, targets[0], valid=valid, reset=~valid
        )
        assert after.first.tolist() == [False, True]
        for leaf, before in zip(jax.tree.leaves(moved), jax.tree.leaves(carry), strict=True):
            assert (leaf[1] == before[1]).all() and (leaf[0] != before[0]).any()
        assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient)) and jnp.isfinite(loss)
        if isinstance(method, (RTRL, SnAp, EProp)):
            assert all((p[1] == 0).all() for p in jax.tree.leaves(after.memory))


def test_noise_is_that_of_the_carry():
    cell = jrnn.Stack((jrnn.Zoneout(jrnn.GRU(4), rates=0.5), jrnn.Dense(2)))
    params, xs, targets = drawn(cell, rows=(), steps=5)
    online, key = Online(cell, mean_squared_error, RTRL()), jax.random.key(4)
    _, carry = online.init(params, xs[0], key=key)

    def loss(params):
        ys = jrnn.unroll(cell, params, xs, carry)[1]
        return ((ys - targets) ** 2).mean(-1).sum()

    want = jnp.concatenate([g.ravel() for g in free(jax.grad(loss)(params))])
    np.testing.assert_allclose(total(online, params, xs, targets, key=key), want, rtol=1e-10, atol=1e-12)
    rows = online.init(params, jnp.ones((3, 3)), key=key)[1]  # each has its own
    assert len(np.unique(jax.random.key_data(rows.cells[0].key), axis=0)) == 3


def test_fixed_parameters_have_no_gradient():
    cell = jrnn.Stack((jrnn.EchoState(4), jrnn.Dense(2)))
    params, xs, targets = drawn(cell)
    for method in METHODS:
        (_, gradient), (influence, _) = run(Online(cell, mean_squared_error, method), params, xs, targets)
        assert all((g == 0).all() for g in jax.tree.leaves(gradient[0]))
        assert (gradient[1].w != 0).any()
        if not isinstance(method, (UORO, KroneckerRTRL, Truncated)):
            assert jax.tree.leaves(influence.memory) == []  # a readout needs no influence


@jax.custom_vjp
def squashed(h):
    return jnp.tanh(h)


squashed.defvjp(lambda h: (jnp.tanh(h), h), lambda h, g: (g / jnp.cosh(h) ** 2,))


def own(f):
    return jrnn.from_functions(
        init=lambda key, n: {"u": jax.random.normal(key, (3, 3)), "w": jax.random.normal(key, (n, 3))},
        initial_carry=lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3)),
        step=lambda params, h, x: 2 * (f(x @ params["w"] + h @ params["u"]),),
        out_features=3,
    )


def test_a_step_with_a_backward_derivative_alone():
    cells = [own(f) for f in (squashed, jnp.tanh)]
    params, xs, targets = drawn(cells[1])
    with_readout = jrnn.Stack((cells[0], jrnn.Dense(2)))
    moved = Online(with_readout, mean_squared_error, RTRL())
    influence, _ = moved.init(with_readout.init(jax.random.key(0), 3), xs[0])
    assert len(influence.memory) == 2
    for method in (RTRL(), Truncated(4)):
        found = [total(Online(cell, mean_squared_error, method), params, xs, targets) for cell in cells]
        np.testing.assert_allclose(found[0], found[1], rtol=1e-10)
    for method in (UORO(), KroneckerRTRL(), EProp(), RFLO()):
        with pytest.raises(ValueError, match=r"^method=\w+\(.*no forward derivative"):
            Online(cells[0], mean_squared_error, method).init(params, xs[0])


def test_probes_are_as_few_as_a_unit_has_numbers():
    """No column of the Jacobian by itself, and memory that can be told beforehand."""
    for cell, numbers in ((jrnn.GRU(32), 1), (jrnn.LSTM(32), 2), (jrnn.SGRN(32), 1)):
        params = cell.init(jax.random.key(0), 5)
        online, x = Online(cell, mean_squared_error, SnAp(1)), jnp.ones((1, 5))
        influence, carry = online.init(params, x)
        moment = online._moment(params, carry, x, jrnn.online.learning.Flags(None, None, None), None)
        structure = moment.structure(1)
        assert structure.colors(structure.before) == numbers
        assert structure.colors(structure.after) == 1  # of h' = o tanh(c') the stand-in of c' is no part of I
        size = sum(a.nbytes for a in jax.tree.leaves(influence))
        assert online.influence_bytes(params, x) == size
    whole = Online(jrnn.GRU(32), mean_squared_error, RTRL())
    params = whole.cell.init(jax.random.key(0), 5)
    weights = sum(a.size for a in jax.tree.leaves(params))
    assert whole.influence_bytes(params, jnp.ones((3, 5))) == 3 * 32 * weights * 8


def test_what_does_not_fit_is_named():
    cell, loss = jrnn.GRU(2), mean_squared_error
    params, xs, targets = drawn(cell)
    online = Online(cell, loss, SnAp(1))
    state = online.init(params, xs[0])
    for given, error, message in (
        ((jrnn.Bidirectional(cell, cell), loss), TypeError, "takes a cell, got the layer"),
        ((cell, "mse"), TypeError, "^loss must be a function"),
        ((cell, loss, SnAp), TypeError, "^method must be an online method"),
    ):
        with pytest.raises(error, match=message):
            Online(*given)
    for method, name in itertools.product((SnAp, Truncated), (0, -1)):
        with pytest.raises(ValueError, match="must be at least 1"):
            method(name)
    with pytest.raises(ValueError, match="w_ih is"):
        online.init(params, jnp.ones((2, 7)))
    with pytest.raises(ValueError, match=r"^valid must be boolean, of shape \(2,\)"):
        online.step(*state, params, xs[0], targets[0], valid=jnp.ones(3, bool))
    with pytest.raises(ValueError, match=r"^carry of GRU.* needs the 3 rows"):
        online.step(*state, params, jnp.ones((3, 3)), targets[0])
    with pytest.raises(TypeError, match=r"^loss must return one real number"):
        Online(cell, lambda y, *_: y, SnAp(1)).step(*state, params, xs[0], targets[0])
