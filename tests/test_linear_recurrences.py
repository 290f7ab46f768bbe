"""Linear recurrences solved for all steps at once: digits, memory, derivatives, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cell import is_linear
from jrnn.unrolling._recurrences import solve
from tests.cases import CASES, subject_of


def sequential(a, b):
    """States in float64, one step after the other."""
    state, states = np.zeros(a.shape[1:]), np.empty(a.shape)
    for t in range(len(a)):
        states[t] = state = a[t] * state + b[t]
    return states


GATES = {  # the factors, and the error that is left of max |h| in float32 after 65,536 steps
    "ordinary gates": (lambda rng, shape: 1 / (1 + np.exp(-rng.normal(size=shape))), 1e-6),
    "gates near one": (lambda rng, shape: np.full(shape, 0.9999), 5e-5),
    "either sign": (lambda rng, shape: rng.choice([-0.9999, 0.9999], shape), 5e-5),
}


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("gates", GATES)
def test_digits_over_65536_steps(gates, tree):
    draw, bound = GATES[gates]
    rng, shape = np.random.default_rng(0), (65_536, 8)
    a, b = draw(rng, shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    expected = sequential(a.astype(np.float64), b.astype(np.float64))
    found = solve(jnp.asarray(a), jnp.asarray(b), jnp.zeros(8), tree=tree)
    assert np.abs(found - expected).max() <= bound * np.abs(expected).max()


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("reverse", [False, True])
def test_states_at_every_length(length, reverse, tree):
    rng = np.random.default_rng(1)
    a, b, start = rng.normal(size=(length, 3)), rng.normal(size=(length, 3)), rng.normal(size=3)
    turn = (lambda x: x[::-1]) if reverse else (lambda x: x)
    first = turn(b).copy()
    first[0] += turn(a)[0] * start
    with jax.enable_x64(True):
        found = solve(*map(jnp.asarray, (a, b, start)), tree=tree, reverse=reverse)
    np.testing.assert_allclose(found, turn(sequential(turn(a), first)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tree", [True, False, None])
def test_memory_of_the_gradient(tree):
    """At most three times what the states take; differentiating `lax.associative_scan` takes nine times."""
    steps, batch, width = 2048, 4, 64
    types = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((steps, batch, width),) * 2 + ((batch, width),)]

    def loss(a, b, start):
        return jnp.sum(jnp.sin(solve(a, b, start, tree=tree)))

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*types).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 3 * 4 * steps * batch * width


@pytest.mark.parametrize("tree", [True, False])
def test_derivatives_of_every_mode(tree):
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        a, b, start = (jnp.asarray(rng.normal(size=s)) for s in ((5, 2), (5, 2), (2,)))

        def plain(a, b, start):
            def step(state, pair):
                state = pair[0] * state + pair[1]
                return state, state

            return jnp.sum(jnp.sin(jax.lax.scan(step, start, (a, b))[1]))

        def solved(a, b, start):
            return jnp.sum(jnp.sin(solve(a, b, start, tree=tree)))

        every = (0, 1, 2)
        for derivative in (
            lambda f: jax.grad(f, every)(a, b, start),
            lambda f: jax.jacfwd(f, every)(a, b, start),
            lambda f: jax.hessian(f, every)(a, b, start),
            lambda f: jax.jacrev(jax.grad(f, every), every)(a, b, start),
            lambda f: jax.vmap(jax.grad(f, every), in_axes=(None, None, 0))(a, b, jnp.stack([start, -start])),
            lambda f: jax.grad(jax.checkpoint(f), every)(a, b, start),
        ):
            found, expected = (jax.jit(functools.partial(derivative, f))() for f in (solved, plain))
            for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-11)


def shaken(cell, width, seed=0):
    params = cell.init(jax.random.key(seed), width)
    return jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size).reshape(p.shape)), params)


DROPPED = jrnn.Dropout(jrnn.TRNN(5), state=0.3, output=0.3)
NOISY = jrnn.Stack((jrnn.MinGRU(4), DROPPED, jrnn.LRU(4)), dropout=0.4)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", [jrnn.Associative(), jrnn.Associative(tree=True)], ids=str)
def test_noise_is_that_of_a_scan(method, reverse):
    """Keys that advance from step to step are carried beside the states that are solved for."""
    params, xs = shaken(NOISY, 3), jax.random.normal(jax.random.key(1), (9, 2, 3))
    lengths = jnp.array([9, 4])

    @jax.jit
    def run(params, key):
        options = {"lengths": lengths, "reverse": reverse, "key": key}
        noisy = [jrnn.unroll(NOISY, params, xs, **options, method=m)[1] for m in (method, jrnn.Scan())]
        return *noisy, jrnn.unroll(NOISY, params, xs, lengths=lengths, reverse=reverse)[1]

    found, expected, quiet = run(params, jax.random.key(2))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.any(found != quiet)


@pytest.mark.parametrize(
    "cell",
    [
        jrnn.Zoneout(jrnn.MinGRU(4), rates=0.3),
        jrnn.LearnedCarry(jrnn.LRU(4)),
        jrnn.Cast(jrnn.TRNN(4), compute="float32"),
    ],
)
def test_combinators_of_linear_cells_are_linear(cell):
    params, xs = shaken(cell, 3), jax.random.normal(jax.random.key(1), (9, 2, 3))
    found, expected = (
        jrnn.unroll(cell, params, xs, key=jax.random.key(2), method=m)
        for m in (jrnn.Associative(), jrnn.Scan())
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_layers_hand_the_method_on():
    model = jrnn.Sequential((jrnn.Embed(4), jrnn.Bidirectional(jrnn.MinGRU(5)), jrnn.Dense(3)))
    params, xs = shaken(model, 7), jax.random.randint(jax.random.key(1), (9, 2), 0, 7)
    found, expected = (
        jrnn.apply(model, params, xs, lengths=jnp.array([9, 4]), method=m)[1]
        for m in (jrnn.Associative(), jrnn.Scan())
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_length_zero_returns_the_carry_bit_for_bit():
    cell = jrnn.MinGRU(4)
    params, start = shaken(cell, 3), jax.random.normal(jax.random.key(1), (2, 4))
    xs = jnp.full((5, 2, 3), jnp.nan)
    end, ys = jrnn.unroll(cell, params, xs, start, lengths=jnp.zeros(2, int), method=jrnn.Associative())
    np.testing.assert_array_equal(end, start)
    np.testing.assert_array_equal(ys, 0)
    end, ys = jrnn.unroll(cell, params, xs[:0], start, method=jrnn.Associative())
    np.testing.assert_array_equal(end, start)
    assert ys.shape == (0, 2, 4)


def test_a_cell_that_is_not_linear():
    cell = jrnn.GRU(4)
    params, xs = shaken(cell, 3), jnp.ones((5, 3))
    with pytest.raises(ValueError, match=r"linear = True, got GRU\(hidden=4.*otherwise=Scan"):
        jrnn.unroll(cell, params, xs, method=jrnn.Associative())
    other = jrnn.Associative(otherwise=jrnn.Scan())
    found, expected = (jrnn.unroll(cell, params, xs, method=m)[1] for m in (other, jrnn.Scan()))
    np.testing.assert_array_equal(found, expected)


class Rotation:
    """Says that it is linear, but its two entries need one another: they cannot be solved for one by one."""

    linear, out_features = True, 2

    def init(self, key, in_features):
        return jnp.zeros(())

    def initial_carry(self, params, batch_shape=(), *, key=None):
        return (jnp.zeros((*batch_shape, 2)),) * 2

    def step(self, params, carry, x):
        a, b = carry
        return (b + x, 0.5 * a), a


def test_a_cell_that_wrongly_says_that_it_is_linear():
    with pytest.raises(ValueError, match="depend on each other"):
        jrnn.unroll(Rotation(), jnp.zeros(()), jnp.ones((5, 2)), method=jrnn.Associative())


def reaches_others(case):
    """Whether a unit's next state depends on another unit's: the last axis of every entry names the units."""
    cell, subject = case.cell, subject_of(case)

    def run(x, params, moved):
        leaves, structure = jax.tree.flatten(cell.initial_carry(params))

        def after(first):
            carry = jax.tree.unflatten(structure, [(a + 0.3).at[..., 0].add(first) for a in leaves])
            return jax.tree.leaves(cell.step(params, carry, x)[0])

        return after(0.0), after(moved)

    ran = subject.run_each(run, [subject.xs(seed=seed) for seed in range(4)], subject.params(), 0.5)
    return any(np.any(a[..., 1:] != b[..., 1:]) for pair in ran for a, b in zip(*pair, strict=True))


MATRICES = ["MLSTM", "LinearAttention", "RetNet", "GLA", "HGRN2", "Mamba2", "DeltaNet", "GatedDeltaNet"]
MATRICES += ["DeltaProduct", "KDA", "GDN2", "Comba", "RWKV6", "RWKV7", "MesaNet"]
MATRICES += ["TTTLinear", "M2RNN", "FastWeights", "DLSE"]
SPATIAL = "ConvLSTM", "ConvGRU", "ConvRNN"
NO_UNITS = "ClockworkRNN", "NARX", *SPATIAL, *MATRICES  # their carry has other axes than units
UNITS = [
    case
    for case in CASES
    if hasattr(case.cell, "hidden") and not is_linear(case.cell) and type(case.cell).__name__ not in NO_UNITS
]


@pytest.mark.parametrize("case", UNITS, ids=lambda case: repr(case.cell))
def test_who_says_diagonal_is_and_nobody_else(case):
    assert getattr(case.cell, "diagonal", False) == (not reaches_others(case))
