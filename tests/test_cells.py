"""Value tests: every cell against its equations written again in `references`, forward and gradient.

Every parameter is random, biases included: a bias that starts at zero hides that it is missing.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cells.activations import gates
from tests import references as ref

STEPS, BATCH, IN, HIDDEN, OUT, VOCABULARY = 4, 2, 3, 5, 6, 9  # pairwise distinct, 7 is a second batch axis
FUNCTIONS = {"tanh": ref.tanh, "relu": ref.relu, "sigmoid": ref.sigmoid, "identity": ref.linear}


def split(packed, names):
    """Column blocks of a packed array, one per gate, each transposed for column vectors."""
    return dict(zip(names, (block.T for block in np.split(packed, len(names), axis=-1)), strict=True))


def elman(p):
    return {"W": p.w_ih.T, "U": p.w_hh.T, "b": p.b}


def jordan(p):
    return {"W": p.w_ih.T, "U": p.w_yh.T, "b": p.b, "V": p.w_hy.T, "c": p.c}


def lstm(p):
    weights = split(p.w_ih, ("Wi", "Wf", "Wc", "Wo")) | split(p.w_hh, ("Ui", "Uf", "Uc", "Uo"))
    return weights | split(p.b, ("bi", "bf", "bc", "bo"))


def gru(p):
    weights = split(p.w_ih, ("Wr", "Wz", "W")) | split(p.w_hh, ("Ur", "Uz", "U"))
    return weights | split(p.b, ("br", "bz", "b")) | {"d": p.b_hn}


def dense(p):
    return {"W": p.w.T, "b": p.b}


def embed(p):
    return {"E": p.table.T}


# name: (cell, reference step, unpacking of jrnn's params for it)
CASES = {
    **{
        f"Elman-{name}": (jrnn.Elman(HIDDEN, activation=name), partial(ref.elman, f=f), elman)
        for name, f in FUNCTIONS.items()
    },
    "Jordan": (jrnn.Jordan(HIDDEN, outputs=OUT), ref.jordan, jordan),
    "Jordan-relu-sigmoid": (
        jrnn.Jordan(HIDDEN, outputs=OUT, activation="relu", output_activation="sigmoid"),
        partial(ref.jordan, f=ref.relu, g=ref.sigmoid),
        jordan,
    ),
    "LSTM": (jrnn.LSTM(HIDDEN), ref.lstm, lstm),
    "GRU-after": (jrnn.GRU(HIDDEN), ref.gru_reset_after, gru),
    "GRU-before": (jrnn.GRU(HIDDEN, reset_after=False), ref.gru_reset_before, gru),
    **{
        f"Dense-{name}": (jrnn.Dense(OUT, activation=name), partial(ref.dense, f=f), dense)
        for name, f in FUNCTIONS.items()
    },
    "Embed": (jrnn.Embed(OUT), ref.embed, embed),
}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def draw(cell, batch, seed=0):
    """Random float64 params (biases too), carry and xs, as NumPy arrays in the cell's own structure."""
    rng = np.random.default_rng(seed)
    tokens = isinstance(cell, jrnn.Embed)
    width = VOCABULARY if tokens else IN
    params = jax.eval_shape(lambda key: cell.init(key, width), jax.random.key(0))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, batch), params)
    random = partial(jax.tree.map, lambda leaf: rng.normal(size=leaf.shape))
    xs = rng.integers(0, VOCABULARY, (STEPS, *batch)) if tokens else rng.normal(size=(STEPS, *batch, IN))
    return random(params), random(carry), xs


def assert_close(got, want, rtol=1e-12):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == jnp.float64
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("batch", [(), (BATCH,), (7, BATCH)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_value(name, batch):
    cell, step, unpack = CASES[name]
    params, carry, xs = draw(cell, batch)
    last, want = ref.run(step, unpack(params), carry, xs)
    got_last, got = jrnn.unroll(cell, params, jnp.asarray(xs), jax.tree.map(jnp.asarray, carry))
    assert got.shape == (STEPS, *batch, cell.out_features)
    assert_close(got, want)
    assert_close(got_last, jax.tree.unflatten(jax.tree.structure(carry), jax.tree.leaves(last)))


def weigh(rng, tree):
    """A linear function of a whole tree, that no two of its elements enter alike."""
    weights = [rng.normal(size=leaf.shape) for leaf in jax.tree.leaves(tree)]
    return lambda t: sum((w * leaf).sum() for w, leaf in zip(weights, jax.tree.leaves(t), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_gradient(name):
    cell, step, unpack = CASES[name]
    arguments = draw(cell, (BATCH,), seed=1)
    params, carry, xs = arguments
    loss = weigh(np.random.default_rng(2), ref.run(step, unpack(params), carry, xs))
    leaves, structure = jax.tree.flatten(arguments)

    def reference(position, moved):
        p, c, x = jax.tree.unflatten(structure, [*leaves[:position], moved, *leaves[position + 1 :]])
        return loss(ref.run(step, unpack(p), c, x))

    def ours(*floats):
        p, c, x = jax.tree.unflatten(structure, [*floats, *leaves[len(floats) :]])
        return loss(jrnn.unroll(cell, p, jnp.asarray(x), c))

    wrt = range(len(leaves) - (cell.__class__ is jrnn.Embed))  # tokens have no derivative
    got = jax.jit(jax.grad(ours, tuple(wrt)))(*(jnp.asarray(leaves[i]) for i in wrt))
    for i in wrt:
        want = ref.derivative(partial(reference, i), leaves[i])
        assert np.any(want), "a leaf that nothing depends on tests nothing"
        assert_close(got[i], want, rtol=1e-11)


def test_embed_outside_vocabulary():
    """A token of no row gives NaN: neither an error that jit cannot raise, nor another token's vector."""
    cell = jrnn.Embed(OUT)
    params = cell.init(jax.random.key(0), VOCABULARY)
    _, y = cell.step(params, (), jnp.array([0, VOCABULARY - 1, VOCABULARY, -1]))
    np.testing.assert_array_equal(np.isnan(y).all(-1), [False, False, True, True])
    with pytest.raises(TypeError, match="integer tokens, got float64"):
        cell.step(params, (), jnp.zeros(2))


def test_parameter_counts():
    """Counts from the papers: gates × (in·hidden + hidden² + hidden), and one more bias in cuDNN's GRU."""
    gate = IN * HIDDEN + HIDDEN**2 + HIDDEN
    want = {
        jrnn.Elman(HIDDEN): gate,
        jrnn.Jordan(HIDDEN, outputs=OUT): IN * HIDDEN + OUT * HIDDEN + HIDDEN + HIDDEN * OUT + OUT,
        jrnn.LSTM(HIDDEN): 4 * gate,
        jrnn.GRU(HIDDEN): 3 * gate + HIDDEN,
        jrnn.GRU(HIDDEN, reset_after=False): 3 * gate,
        jrnn.Dense(OUT): IN * OUT + OUT,
        jrnn.Embed(OUT): IN * OUT,
    }
    for cell, count in want.items():
        params = jax.eval_shape(partial(cell.init, in_features=IN), jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count, cell


def test_gates_and_their_derivatives_are_those_of_sigmoid_and_tanh():
    """`gates` computes all of them with one tanh and brings its own derivative."""
    written = lambda z: (jax.nn.sigmoid(z[..., :3]), jnp.tanh(z[..., 3:6]), jax.nn.sigmoid(z[..., 6:]))
    packed = lambda z: gates(z, "igo", "g")
    with jax.enable_x64(True):
        z, moved = 3 * jax.random.normal(jax.random.key(0), (2, 5, 9))
        for derivative in (
            lambda f: f(z),
            lambda f: jax.jvp(f, (z,), (moved,))[1],
            lambda f: jax.jacfwd(jax.jacrev(f))(z),
        ):
            for found, expected in zip(derivative(packed), derivative(written), strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
