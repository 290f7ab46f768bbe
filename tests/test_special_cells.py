"""What single cells promise beyond their equations: range, orthogonality, memory, a solved read-out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn import initializers
from jrnn.cells import ablations, regression
from jrnn.cells._memory import unit

KEY = jax.random.key(0)


# exponential gates


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "cell",
    [jrnn.SLSTM(4), jrnn.SLSTM(4, forget="exponential"), jrnn.MLSTM(4, heads=2), jrnn.MinLSTM(4)],
    ids=repr,
)
def test_gates_of_any_size_stay_finite(cell, dtype):
    """Pre-activations of all gates from −1e4 to 1e4, in all combinations, values and gradients."""
    extremes = jnp.array([-1e4, -88.0, 0.0, 88.0, 1e4])
    params = jax.tree.map(lambda p: p.astype(dtype), cell.init(KEY, 2))
    i, f = jnp.meshgrid(extremes, extremes)
    xs = jnp.stack([i.ravel(), f.ravel()], -1)[None] * jnp.ones((6, 1, 1))
    xs = jnp.concatenate([xs, xs[:, ::-1]])  # and from one extreme to another

    def with_gates(params):
        """Weights under which x is the pre-activation of the gates."""
        width = 2 if isinstance(cell, jrnn.MLSTM) else 4
        columns = jnp.repeat(jnp.eye(2), width, axis=1).astype(dtype)  # x[0] to all i, x[1] to all f
        if isinstance(cell, jrnn.MLSTM):
            return params._replace(gates=params.gates._replace(w_ih=columns, b=0 * params.gates.b))
        both = columns[:, ::-1] if isinstance(cell, jrnn.MinLSTM) else columns
        return params._replace(w_ih=params.w_ih.at[:, :8].set(both))

    def loss(params, xs):
        end, ys = jrnn.unroll(cell, with_gates(params), xs)
        return jnp.sum(jnp.sin(ys.astype(jnp.float32))), (end, ys)

    (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, xs.astype(dtype))
    for leaf in jax.tree.leaves((out, grads)):
        assert np.all(np.isfinite(np.asarray(leaf, np.float64)))


FORGETTING = {  # how a number is added to what makes a memory forget
    jrnn.KDA(4, heads=2): lambda p, a: p._replace(decay=p.decay._replace(b=p.decay.b + a)),
    jrnn.RWKV6(4, heads=2): lambda p, a: p._replace(b=p.b.at[1].add(a)),
}


@pytest.mark.parametrize("cell", FORGETTING, ids=repr)
def test_memories_forget_at_any_rate(cell):
    """At once, e^{−e^{1e4}}, and never; values and gradients."""
    params, xs = cell.init(KEY, 3), jax.random.normal(KEY, (5, 3))

    def loss(params, size):
        end, ys = jrnn.unroll(cell, FORGETTING[cell](params, size), xs)
        return jnp.sum(jnp.sin(ys)), end

    found = jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True), (None, 0)))
    for leaf in jax.tree.leaves(found(params, jnp.array([-1e4, 1e4]))):
        assert np.all(np.isfinite(leaf))


# orthogonal recurrence


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("map", ["exponential", "cayley"])
def test_orthogonal_after_1000_updates(map, dtype, bound):
    hidden = 32  # at 256 it takes minutes, and holds as well
    with jax.enable_x64(dtype == "float64"):
        cell = jrnn.OrthogonalRNN(hidden, map=map)
        params = cell.init(KEY, 1)
        optimizer = optax.adam(1e-2)
        target = jax.random.normal(jax.random.key(1), (hidden, hidden), dtype)

        def loss(skew):
            return jnp.mean((cell.recurrence(params._replace(skew=skew)) - target) ** 2)

        def update(_, state):
            skew, moments = state
            change, moments = optimizer.update(jax.grad(loss)(skew), moments)
            return optax.apply_updates(skew, change), moments

        skew, _ = jax.jit(lambda s: jax.lax.fori_loop(0, 1000, update, s))(
            (params.skew, optimizer.init(params.skew))
        )
        assert np.abs(skew - params.skew).max() > 0.1
        q = np.asarray(cell.recurrence(params._replace(skew=skew)), np.float64)
    assert np.abs(q.T @ q - np.eye(hidden)).max() < bound


def test_the_exponential_reaches_what_cayley_cannot():
    """A rotation by π has the eigenvalue −1."""
    cell = jrnn.OrthogonalRNN(2)
    params = cell.init(KEY, 1)._replace(skew=jnp.array([np.pi]))
    np.testing.assert_allclose(cell.recurrence(params), -np.eye(2), atol=1e-6)


# echo states


def narma(steps, seed):
    """NARMA of order 10: the standard task of reservoirs."""
    u = np.random.default_rng(seed).uniform(0, 0.5, steps)
    y = np.zeros(steps)
    for t in range(10, steps):
        y[t] = 0.3 * y[t - 1] + 0.05 * y[t - 1] * y[t - 10 : t].sum() + 1.5 * u[t - 10] * u[t - 1] + 0.1
    return u[:, None].astype(np.float32), y[:, None].astype(np.float32)


def test_a_reservoir_with_a_solved_read_out_learns_narma():
    cell = jrnn.EchoState(200, radius=0.9, input_scale=0.5)
    params = cell.init(KEY, 1)
    model = jrnn.Stack((cell, jrnn.Dense(1)))
    (u, y), (u_test, y_test) = narma(2200, seed=0), narma(1200, seed=1)
    _, states = jrnn.unroll(cell, params, u)
    readout = jrnn.ridge_readout(states[200:], y[200:], penalty=1e-6)
    _, found = jrnn.unroll(model, (params, readout), u_test)
    error = np.sqrt(np.mean((found[200:] - y_test[200:]) ** 2) / np.var(y_test[200:]))
    assert error < 0.4  # a linear model of the last ten inputs leaves 0.6


def test_the_read_out_solves_the_penalized_normal_equations():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        features, targets = rng.normal(size=(50, 2, 6)), rng.normal(size=(50, 2, 3))
        mask = rng.random((50, 2)) < 0.7
        given = jnp.where(mask[..., None], features, jnp.nan)
        found = jrnn.ridge_readout(given, jnp.asarray(targets), penalty=2.0, mask=jnp.asarray(mask))
    f, t = features[mask], targets[mask]
    f, t = f - f.mean(0), t - t.mean(0)
    w = np.linalg.solve(f.T @ f + 2.0 * np.eye(6), f.T @ t)
    np.testing.assert_allclose(found.w, w, rtol=1e-10)
    np.testing.assert_allclose(found.b, targets[mask].mean(0) - features[mask].mean(0) @ w, rtol=1e-10)


def test_the_reservoir_has_the_radius_and_density_asked_for():
    w = initializers.spectral_radius(KEY, (100, 100), radius=0.7, density=0.2)
    assert np.abs(np.linalg.eigvals(w)).max() == pytest.approx(0.7, rel=1e-5)
    assert 0.17 < np.mean(np.asarray(w) != 0) < 0.23
    np.testing.assert_allclose(
        jax.jit(lambda k: initializers.spectral_radius(k, (5, 5)))(KEY),
        initializers.spectral_radius(KEY, (5, 5)),
        rtol=1e-6,
    )


def test_small_reservoirs_stay_in_range():
    """A sparse draw of few units may be nilpotent: no factor gives it a spectral radius."""
    for seed in range(30):
        for cell in (jrnn.EchoState(3, density=0.1), jrnn.EchoState(8)):
            assert np.abs(cell.init(jax.random.key(seed), 1).fixed.w_hh).max() < 20
    np.testing.assert_array_equal(
        jrnn.EchoState(3, radius=0.5, topology="ring").init(KEY, 1).fixed.w_hh,
        initializers.ring(KEY, (3, 3), scale=0.5),
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_closed_gate_of_rglru_has_a_gradient(dtype):
    """At r = 0 nothing decays and nothing enters: the root of 1 − a² has no slope there."""
    cell = jrnn.RGLRU(4)
    params = jax.tree.map(lambda p: p.astype(dtype), cell.init(KEY, 4))
    params = params._replace(b=params.b.at[:4].set(-200))
    grads = jax.grad(lambda p: jnp.sum(jrnn.unroll(cell, p, jnp.ones((5, 4), dtype))[1]))(params)
    assert all(map(np.all, map(np.isfinite, jax.tree.leaves(grads))))


@pytest.mark.parametrize("cell", [jrnn.LayerNormLSTM(4), jrnn.LayerNormGRU(4)], ids=repr)
def test_normalized_cells_have_gradients_in_float16(cell):
    """At the start all sums of the state are zero, and 1 / √ε³ is beyond float16."""
    params = jax.tree.map(lambda p: p.astype("float16"), cell.init(KEY, 3))
    grads = jax.grad(lambda p: jnp.sum(jrnn.unroll(cell, p, jnp.ones((5, 3), "float16"))[1]))(params)
    assert all(map(np.all, map(np.isfinite, jax.tree.leaves(grads))))


@pytest.mark.parametrize("cell", [jrnn.QRNN(4, window=2), jrnn.TGRU(4), jrnn.TLSTM(4), jrnn.SRU(4)], ids=repr)
def test_inputs_of_another_dtype(cell):
    params, xs = cell.init(KEY, 3), jax.random.normal(KEY, (6, 2, 3))
    found = jrnn.unroll(cell, params, xs.astype("bfloat16"))[1]
    np.testing.assert_allclose(found.astype("float32"), jrnn.unroll(cell, params, xs)[1], atol=0.05)


def test_learned_starts_of_other_dtypes():
    """A count of steps is not learned, a complex state in two real parts."""
    cell = jrnn.LearnedCarry(jrnn.ClockworkRNN(4, periods=(1, 2)))
    params = cell.init(KEY, 3)
    assert params.carry.t is None and params.carry.h.shape == (4,)
    cell = jrnn.LearnedCarry(jrnn.LRU(4))
    params = cell.init(KEY, 3)
    moved = params._replace(carry=jax.random.normal(KEY, (2, 4)))
    np.testing.assert_array_equal(cell.initial_carry(moved, (5,))[3], moved.carry[0] + 1j * moved.carry[1])
    loss = lambda p: jnp.sum(jrnn.unroll(cell, p, jnp.ones((6, 3)))[1] ** 2)
    grads = jax.grad(loss)(moved)
    step = jax.tree.map(lambda p, g: p - 1e-4 * g, moved.carry, grads.carry)
    assert loss(moved._replace(carry=step)) < loss(moved) and grads.carry.dtype == jnp.float32


def test_no_gradient_reaches_a_reservoir():
    cell = jrnn.EchoState(5)
    grads = jax.grad(lambda p: jnp.sum(jrnn.unroll(cell, p, jnp.ones((4, 2)))[1]))(cell.init(KEY, 2))
    assert not any(map(np.any, jax.tree.leaves(grads)))


def test_a_ring_comes_back_after_n_steps():
    w = np.asarray(initializers.ring(KEY, (5, 10), scale=0.5))
    for block in (w[:, :5], w[:, 5:]):
        np.testing.assert_allclose(np.linalg.matrix_power(block, 5), 0.5**5 * np.eye(5))
        assert np.count_nonzero(block) == 5


# memory


def test_lmu_holds_a_window_of_its_input():
    """Legendre polynomials of the memory give back what came in θ/2 steps ago."""
    theta, order = 40, 12
    cell = jrnn.LMU(1, order=order, theta=theta)
    params = cell.init(KEY, 1)
    zero = jnp.zeros_like
    params = params._replace(e_x=jnp.ones(1), e_h=zero(params.e_h), e_m=zero(params.e_m))
    u = jnp.sin(2 * np.pi * jnp.arange(200) / 50)[:, None]
    _, (_, carries) = jrnn.unroll(jrnn.Tap(cell), params, u)
    middle = np.polynomial.legendre.legvander(np.array([0.0]), order - 1)[0]  # P_i(2r − 1) at r = 1/2
    then = (u[80:180, 0] + u[81:181, 0]) / 2  # inputs are held for a step
    np.testing.assert_allclose(carries.m[100:] @ middle, then, atol=0.005)


def test_a_new_memory_is_filled_row_by_row():
    """With gates of allocation and writing open, none of whose rows is freed."""
    cell = jrnn.DNC(4, rows=3, width=2)
    params = cell.init(KEY, 2)
    b = params.interface.b.at[-2:].set(50.0).at[9].set(-50.0)  # a and g; f
    params = params._replace(interface=params.interface._replace(b=b))
    carry = cell.initial_carry(params)
    for place in range(3):
        carry, _ = cell.step(params, carry, jnp.ones(2))
        np.testing.assert_allclose(carry.write, np.eye(3)[place], atol=1e-6)


def test_leaky_noise_has_the_deviation_asked_for():
    cell = jrnn.LeakyRNN(500, tau=100.0, dt=5.0, noise=0.3, activation="identity")
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY, 1))
    _, ys = jrnn.unroll(cell, params, jnp.zeros((400, 1)), key=jax.random.key(1))
    assert np.std(ys[200:]) == pytest.approx(0.3, rel=0.05)
    assert not np.any(jrnn.unroll(cell, params, jnp.zeros((400, 1)))[1])


def test_what_is_missing_reaches_nothing():
    cell = jrnn.GRUD(4)
    params = jax.tree.map(lambda p: p + 0.1, cell.init(KEY, 3))
    values, mask = jax.random.normal(KEY, (6, 2, 3)), jax.random.bernoulli(jax.random.key(1), 0.5, (6, 2, 3))
    delta = jnp.ones((6, 2, 3))

    def run(poison):
        xs = jnp.where(mask, values, poison), mask, delta
        loss = lambda p: jnp.sum(jnp.sin(jrnn.unroll(cell, p, xs)[1]))
        return jax.value_and_grad(loss)(params)

    for found, expected in zip(jax.tree.leaves(run(jnp.nan)), jax.tree.leaves(run(0.0)), strict=True):
        np.testing.assert_array_equal(found, expected)


# published names


def test_ablations_are_what_their_names_say():
    by_name = ablations.greff(5)
    count = {n: sum(p.size for p in jax.tree.leaves(c.init(KEY, 3))) for n, c in by_name.items()}
    gate, diagonal = 3 * 5 + 5 * 5 + 5, 5
    three, four = 3 * gate + 2 * diagonal, 4 * gate + 3 * diagonal
    assert count == {
        "V": four, "NIG": three, "NFG": three, "NOG": three, "NIAF": four, "NOAF": four, "CIFG": three,
        "NP": 4 * gate, "FGR": four + 9 * 25,
    }  # fmt: skip
    biases = {n: c.init(KEY, 3).b for n, c in ablations.jozefowicz(5).items()}
    assert {n: b.size // 5 for n, b in biases.items()} == {
        "LSTM": 4, "LSTM-f": 3, "LSTM-i": 3, "LSTM-o": 3, "LSTM-b": 4,
    }  # fmt: skip
    assert float(biases.pop("LSTM-b").sum()) == 5 and not any(map(np.any, biases.values()))


def initial(cell, batch_shape):
    return cell.initial_carry(cell.init(KEY, 1), batch_shape)


# a system of equations at every step


@pytest.mark.parametrize("size", [1, 3, 5, 16, 17])
def test_a_mesa_net_solves_systems_of_any_size(size):
    """By elimination, to second order: solvers of LAPACK side by side can wait for each other for ever."""
    rng = np.random.default_rng(size)
    root, b = rng.standard_normal((3, size, 2 * size)), rng.standard_normal((3, size))
    a = root @ np.swapaxes(root, -1, -2) / size + 0.25 * np.eye(size)

    def derivatives(solve):
        total = lambda a, b: jnp.sum(jnp.sin(solve(a, b)))
        gradient = jax.grad(total, (0, 1))
        return solve(a, b), gradient(a, b), jax.jvp(gradient, (a, b), (a[::-1], b[::-1]))[1]

    with jax.enable_x64(True):
        others = lambda a, b: jnp.linalg.solve(a, b[..., None])[..., 0]
        found, needed = jax.jit(lambda: [derivatives(f) for f in (regression._solve, others)])()
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(needed), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-11)
    cell = jrnn.MesaNet(2 * size, heads=2)
    params = jax.eval_shape(lambda: cell.init(KEY, 3))
    step = jax.make_jaxpr(lambda p: cell.step(p, cell.initial_carry(p, (2,)), jnp.ones((2, 3))))(params)
    assert not {"lu", "cholesky", "triangular_solve"} & set(str(step).replace("[", " ").split())


REFUSED = {
    r"hidden must be a multiple of block=3, got 4": lambda: jrnn.LSTM1997(4, block=3),
    r"coupled gates need the input gate, got gates='fo'": lambda: jrnn.LSTMVariant(
        4, gates="fo", coupled=True
    ),
    r"gates must be one of .*ifo, got 'oif'": lambda: jrnn.LSTMVariant(4, gates="oif"),
    r"peepholes must be one of diagonal, full, got 'dense'": lambda: jrnn.LSTMVariant(4, peepholes="dense"),
    r"cell_clip must be a number above 0, got -1": lambda: jrnn.LSTMVariant(4, cell_clip=-1),
    r"strides must have one entry for each of 2 axes, got \(2,\)": lambda: jrnn.ConvGRU(4, strides=(2,)),
    r"padding='VALID'\) needs more than \(2, 2\) places, got \(2, 9\)": lambda: initial(
        jrnn.ConvGRU(4, padding="VALID"), (3, 2, 9)
    ),
    r"spatial must be 1, 2 or 3 axes, got 4": lambda: jrnn.ConvGRU(4, spatial=4),
    r"periods must ascend, got \(2, 1\)": lambda: jrnn.ClockworkRNN(4, periods=(2, 1)),
    r"hidden must be a multiple of the number of periods=3, got 4": lambda: jrnn.ClockworkRNN(
        4, periods=(1, 2, 4)
    ),
    r"needs in_features=4, since it adds x": lambda: jrnn.IntersectionRNN(4).init(KEY, 3),
    r"hidden must be a multiple of heads=3, got 4": lambda: jrnn.SLSTM(4, heads=3),
    r"moduli must be 0 ≤ r_min < r_max < 1, got 0.9 and 0.5": lambda: jrnn.LRU(4, r_max=0.5),
    r"k must be a whole number, 0 or more, got -1": lambda: jrnn.Window(-1, 2),
    r"needs in_features=3, got 2": lambda: jrnn.Window((1, 2), (1, 2)).init(KEY, 2),
    r"k and features must have one entry per slice": lambda: jrnn.Window((1, 2), (1,)),
    r"dt must be at most tau": lambda: jrnn.LeakyRNN(4, tau=10, dt=20),
    r"leak must be in \(0, 1\], got 1.5": lambda: jrnn.EchoState(4, leak=1.5),
    r"density must be in \(0, 1\], got 2": lambda: initializers.spectral_radius(KEY, (2, 2), density=2),
    r"xs must be \(values, mask, delta\)": lambda: jrnn.GRUD(4).step((), (), jnp.ones(3)),
    r"features \(5, 2\) and targets \(4, 1\) differ": lambda: jrnn.ridge_readout(
        jnp.ones((5, 2)), jnp.ones((4, 1))
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


# numbers that are small, narrow or drawn


@pytest.mark.parametrize("cell", [jrnn.MassConservingLSTM(4), jrnn.NMax(4)])
def test_a_state_that_has_almost_gone_has_a_gradient(cell):
    """One rain, then none: the sum falls below the square root of the least float32."""
    params, xs = cell.init(KEY, 2), jnp.zeros((1000, 2)).at[0, 0].set(1.0)
    if isinstance(cell, jrnn.NMax):
        params, xs = params._replace(a=jnp.full(4, 0.5)), xs[:110]
    end, _ = jrnn.unroll(cell, params, xs)
    assert 0 < float(jnp.abs(end).sum()) < 1e-19
    grads = jax.grad(lambda p: (jrnn.unroll(cell, p, xs)[1] ** 2).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    short = jax.grad(lambda p: (jrnn.unroll(cell, p, xs[:3])[1] ** 2).sum())(params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(short))


@pytest.mark.parametrize("cell", [jrnn.RWKV6(4, heads=2, rank=5), jrnn.RWKV7(4, heads=2)])
def test_inputs_of_lower_precision_than_parameters(cell):
    params, xs = cell.init(KEY, 3), jax.random.normal(KEY, (5, 2, 3))
    end, ys = jrnn.unroll(cell, params, xs.astype(jnp.bfloat16))
    assert end.x.dtype == end.s.dtype == jnp.float32
    np.testing.assert_allclose(ys, jrnn.unroll(cell, params, xs)[1], atol=0.05)


@pytest.mark.parametrize("size", [300.0, 1e-3, 0.0])
def test_keys_of_length_one_in_float16(size):
    k = jnp.full(4, size, jnp.float16)
    found, gradient = unit(k), jax.grad(lambda k: unit(k).sum())(k)
    expected = size / np.sqrt(4 * size**2 + 1e-6)
    assert found.dtype == jnp.float16 and np.isfinite(gradient).all()
    np.testing.assert_allclose(found, np.full(4, expected), rtol=2e-3)


@pytest.mark.parametrize("cell", [jrnn.DeltaNet(8, heads=2), jrnn.RWKV7(8, heads=2), jrnn.SHM(4)])
def test_steps_of_zeros_in_float16_have_gradients(cell):
    cast = jrnn.Cast(cell, compute="float16")
    params, xs = cast.init(KEY, 3), jax.random.normal(KEY, (6, 3)).at[2:4].set(0)
    value, grads = jax.value_and_grad(lambda p: (jrnn.unroll(cast, p, xs)[1] ** 2).mean())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, grads)))


@pytest.mark.parametrize("cell", [jrnn.ONLSTM(64, chunk=8), jrnn.LSTM1997(64)])
def test_weights_are_drawn_for_a_single_gate(cell):
    """Glorot's bound is reached, and kept, by every gate of the width that it has."""
    widths = [64] * 4 + [8] * 2 if isinstance(cell, jrnn.ONLSTM) else [64] * 3
    for matrix, rows in zip(cell.init(KEY, 32)[:2], (32, 64), strict=True):
        for gate in np.split(np.asarray(matrix), np.cumsum(widths)[:-1], axis=1):
            bound = np.sqrt(6 / (rows + gate.shape[1]))
            assert 0.95 * bound < np.abs(gate).max() <= bound


def test_rotations_have_a_phase_and_a_rate():
    for make in (jrnn.LRU, jrnn.RTU):
        with pytest.raises(ValueError, match=r"max_phase must be .*, got -1"):
            make(4, max_phase=-1.0)
    params = jrnn.RTU(4096, r_min=0.9999, r_max=1.0).init(KEY, 3)
    assert np.isfinite(params.nu).all() and np.isfinite(params.theta).all()
