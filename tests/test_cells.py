"""Value tests: every cell against its equations written again in `references`, forward and gradient.

Every parameter is random, biases included: a bias that starts at zero hides that it is missing. `values`
says what is compared with what.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cells import ablations
from jrnn.cells._activations import ACTIVATIONS, CONSTANTS, activation
from jrnn.cells._gating import gates
from tests import references as ref
from tests.values import CASES
from tests.values.case import BATCH, IN, OUT, VOCABULARY, assert_close, draw, ours, reference, weigh
from tests.values.simple import FUNCTIONS

RANKS = [(), (BATCH,), (7, BATCH)]  # of batches
ALL_RANKS = jrnn.Elman, jrnn.Jordan, jrnn.LSTM, jrnn.GRU, jrnn.Dense, jrnn.Embed


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


RUNS = [
    pytest.param(name, batch, id=f"{name}-{batch}")
    for name, case in CASES.items()
    for batch in (RANKS if isinstance(case.cell, ALL_RANKS) else RANKS[1:2])
]


@pytest.mark.parametrize("name, batch", RUNS)
def test_value(name, batch):
    case = CASES[name]
    arguments = draw(case, batch)
    got_last, got = ours(case, batch, *arguments)
    last, want = reference(case, *arguments)
    assert got.shape == want.shape and got.shape[-1] == case.cell.out_features
    assert_close(got, want)
    assert_close(got_last, last)


@pytest.mark.parametrize("name", CASES)
def test_gradient(name):
    case = CASES[name]
    arguments = draw(case, (BATCH,), seed=1)
    loss = weigh(np.random.default_rng(2), reference(case, *arguments))
    leaves, structure = jax.tree.flatten(arguments)
    learned = jax.tree.leaves(jrnn.trainable(arguments))
    wrt = [i for i, leaf in enumerate(leaves) if leaf.dtype == np.float64]  # tokens have no derivative

    def with_leaf(i, moved):
        return loss(reference(case, *jax.tree.unflatten(structure, [*leaves[:i], moved, *leaves[i + 1 :]])))

    def with_leaves(*floats):
        given = dict(enumerate(leaves)) | dict(zip(wrt, floats, strict=True))
        return loss(ours(case, (BATCH,), *jax.tree.unflatten(structure, given.values())))

    got = jax.jit(jax.grad(with_leaves, range(len(wrt))))(*(jnp.asarray(leaves[i]) for i in wrt))
    for i, gradient in zip(wrt, got, strict=True):
        if not learned[i]:
            assert not np.any(gradient), "what is fixed is not learned"
            continue
        want = ref.derivative(partial(with_leaf, i), leaves[i])
        assert np.any(want), "a leaf that nothing depends on tests nothing"
        assert_close(gradient, want, rtol=1e-11)


def test_every_cell_has_a_case():
    public = [getattr(jrnn, name) for name in dir(jrnn) if name[0].isupper()]
    cells = {c for c in public if hasattr(c, "step") and c.__module__.startswith("jrnn.cells")}
    assert len(cells) > 50 and cells | {jrnn.NARX} == {type(case.cell) for case in CASES.values()}


def test_activations():
    """All of them, and their derivatives, on both sides of every kink."""
    assert set(FUNCTIONS) == set(ACTIVATIONS)
    x = np.linspace(-5, 5, 24)
    for name, function in FUNCTIONS.items():
        np.testing.assert_allclose(ACTIVATIONS[name](x), function(x), 1e-12, 1e-12, err_msg=name)
        slope = jax.vmap(jax.grad(ACTIVATIONS[name]))(x)
        np.testing.assert_allclose(slope, function(x + 1e-30j).imag / 1e-30, 1e-12, 1e-12, err_msg=name)


def test_activations_with_constants():
    """On both sides of every kink; the usual constants go without saying."""
    x = np.linspace(-5, 5, 24)
    wanted = {
        "affine(0.5, -2.0)": 0.5 * x - 2,
        "elu(0.3)": np.where(x > 0, x, 0.3 * (np.exp(x) - 1)),
        "leaky_relu(0.2)": np.where(x > 0, x, 0.2 * x),
        "hard_sigmoid(0.2, 0.4)": np.clip(0.2 * x + 0.4, 0, 1),
        "scaled_tanh(1.5, 0.3)": 1.5 * np.tanh(0.3 * x),
        "thresholded_relu(2.0)": np.where(x > 2, x, 0),
    }
    assert {name.partition("(")[0] for name in wanted} == set(CONSTANTS)
    for name, want in wanted.items():
        cell = jrnn.Dense(3, activation=name)
        assert cell.activation == name and cell == jrnn.Dense(3, activation=name.replace(", ", ",  "))
        np.testing.assert_allclose(activation(name)(x), want, 1e-12, 1e-12, err_msg=name)
    for name, (_, usual) in CONSTANTS.items():
        given = f"{name}({', '.join(map(str, usual.values()))})"
        assert jrnn.Dense(3, activation=given).activation == {"affine": "identity"}.get(name, name)
        np.testing.assert_allclose(
            CONSTANTS[name][0](x, *usual.values()),
            FUNCTIONS[{"affine": "identity"}.get(name, name)](x),
            1e-12,
        )


@pytest.mark.parametrize("given", ["elu(1, 2)", "tanh(1)", "elu(1", "elu()", "elu(nan)", "elu(a)", "(1)"])
def test_an_activation_with_wrong_constants_is_refused(given):
    with pytest.raises(
        ValueError, match=r"activation with constants must be one of affine\(alpha, beta\), elu"
    ):
        jrnn.Elman(3, activation=given)


@pytest.mark.parametrize("state", ["rate", "potential"])
def test_noise_of_leaky_units(state):
    """√(2α) σ ξ is added to the state, with a ξ of its own at every step."""
    cell = jrnn.LeakyRNN(100, tau=10.0, dt=3.0, activation="identity", state=state, noise=0.5)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), IN))
    _, (first, second) = jrnn.unroll(cell, params, jnp.zeros((2, 500, IN)), key=jax.random.key(1))
    added = np.stack([first.ravel(), (second - (1 - cell.alpha) * first).ravel()])
    np.testing.assert_allclose(np.cov(added), 0.6 * 0.5**2 * np.eye(2), atol=0.005)


def test_embed_outside_vocabulary():
    """A token of no row gives NaN: neither an error that jit cannot raise, nor another token's vector."""
    cell = jrnn.Embed(OUT)
    params = cell.init(jax.random.key(0), VOCABULARY)
    _, y = cell.step(params, (), jnp.array([0, VOCABULARY - 1, VOCABULARY, -1]))
    np.testing.assert_array_equal(np.isnan(y).all(-1), [False, False, True, True])
    with pytest.raises(TypeError, match="integer tokens, got float64"):
        cell.step(params, (), jnp.zeros(2))


def counts(i, h):
    """Parameters by the papers, of width `i` in and `h` hidden; the fixed ones do not count."""
    gate, read, bare = i * h + h**2 + h, i * h + h, 0 if i == h else i * h
    convolution = 9 * i * h + 9 * h**2 + h
    return {
        jrnn.Elman(h): gate,
        jrnn.Jordan(h, outputs=2): i * h + 2 * h + h + h * 2 + 2,
        jrnn.NARX(h, outputs=2, input_lags=2, output_lags=4): h * (3 * i + 4 * 2) + h + h * 2 + 2,
        jrnn.NARX(h, outputs=2, input_lags=2, output_lags=0): h * 3 * i + h + h * 2 + 2,
        jrnn.Window(7, i): 0,
        jrnn.Dense(h): read,
        jrnn.Dense(h, bias=False): i * h,
        jrnn.Map("relu", i): 0,
        jrnn.Elman(h, bias=False): gate - h,
        jrnn.GRU(h, bias=False): 3 * (gate - h),
        jrnn.LSTM(h, bias=False): 4 * (gate - h),
        jrnn.Embed(h): i * h,
        jrnn.IndRNN(h): i * h + 2 * h,
        jrnn.LeakyRNN(h): gate,
        jrnn.EchoState(h): 0,
        jrnn.AntisymmetricRNN(h): gate,  # of h², h (h - 1) / 2 are free
        jrnn.AntisymmetricRNN(h, gated=True): gate + read,
        jrnn.OrthogonalRNN(h): read + h * (h - 1) // 2,
        jrnn.ClockworkRNN(h, periods=(1, 2)): read + h**2 * 3 // 4,
        jrnn.FastRNN(h): gate + 2,
        jrnn.SCRN(h, context=7): i * 7 + 7 * h + i * h + h**2,
        jrnn.CoRNN(h): i * h + 2 * h**2 + h,
        jrnn.UnICORNN(h): i * h + 3 * h,
        jrnn.LEM(h): 4 * gate,  # the authors' code has every bias twice
        jrnn.LSTM(h): 4 * gate,
        jrnn.LSTM1997(h, squash="tanh"): 3 * gate,
        jrnn.LSTM1997(h, block=2): (i + h + 1) * 2 * h,  # gates of half the width
        **dict(zip(ablations.greff(h).values(), greff_counts(i, h), strict=True)),
        jrnn.LSTMVariant(h, peepholes="full"): 4 * i * h + 7 * h**2 + 4 * h,
        jrnn.LSTMVariant(h, projection=2): 4 * (i * h + 2 * h + h) + h * 2,
        jrnn.LayerNormLSTM(h): 4 * gate + 2 * 4 * h + 2 * h,  # one bias for the paper's three of every gate
        jrnn.MultiplicativeLSTM(h): 4 * gate + i * h + h**2,
        jrnn.MogrifierLSTM(h): 4 * gate + 5 * i * h,
        jrnn.MogrifierLSTM(h, rounds=3, rank=2): 4 * gate + 3 * 2 * (i + h),
        jrnn.ConvLSTM(h): 4 * convolution,
        jrnn.ConvGRU(h): 3 * convolution,
        jrnn.GRU(h): 3 * gate + h,  # cuDNN has two biases of every gate, of which this one is not redundant
        jrnn.GRU(h, reset_after=False): 3 * gate,
        jrnn.LayerNormGRU(h): 3 * gate + h + 2 * 3 * h,
        jrnn.GRUD(h): 3 * gate + 3 * i * h + 2 * i + i * h + h,
        jrnn.MUT1(h): 2 * i * h + 2 * h**2 + 3 * h + bare,  # the papers need i = h
        jrnn.MUT2(h): 2 * i * h + 3 * h**2 + 3 * h + bare,
        jrnn.MUT3(h): 3 * gate,
        jrnn.MGU(h): 2 * gate,
        jrnn.UGRNN(h): 2 * gate,
        jrnn.JANET(h): 2 * gate,
        jrnn.LiGRU(h): 2 * gate,
        jrnn.CFN(h): 3 * i * h + 2 * h**2 + 2 * h,
        jrnn.STAR(h): 2 * i * h + h**2 + 2 * h,
        jrnn.LightRU(h): 2 * i * h + h**2 + h,
        jrnn.FastGRNN(h): i * h + h**2 + 2 * h + 2,
        jrnn.FastGRNN(h, input_rank=2, recurrent_rank=3): 2 * (i + h) + 3 * 2 * h + 2 * h + 2,
        jrnn.MinimalRNN(h): i * h + 2 * h**2 + 2 * h,
        jrnn.RAN(h): 3 * i * h + 2 * h**2 + 3 * h,
        jrnn.ATR(h): gate,
        jrnn.BRC(h): 3 * i * h + 5 * h,
        jrnn.NBRC(h): 3 * i * h + 2 * h**2 + 3 * h,
        jrnn.SGRN(h): gate,
        jrnn.MinGRU(h): 2 * read,
        jrnn.MinLSTM(h): 3 * read,
        jrnn.LRU(h, outputs=4): 3 * h + 2 * h * i + 2 * h * 4 + (4 if i == 4 else 0),  # D is a diagonal
        jrnn.SRU(h): 3 * i * h + 4 * h + bare,
        jrnn.SRU(h, recurrent=False): 3 * i * h + 2 * h + bare,
        jrnn.QRNN(h, window=4): 3 * (4 * i * h + h),
        jrnn.QRNN(h, pooling="f"): 2 * (2 * i * h + h),
        jrnn.QRNN(h, pooling="ifo"): 4 * (2 * i * h + h),
        jrnn.TRNN(h): 2 * read,
        jrnn.TGRU(h): 6 * i * h + 3 * h,
        jrnn.TLSTM(h): 6 * i * h + 3 * h,
        jrnn.LMU(h, order=7): i + h + 7 + i * h + h**2 + h * 7,
        jrnn.SLSTM(h): 4 * gate,
        jrnn.SLSTM(h, heads=2): 4 * (i * h + h**2 // 2 + h),
        jrnn.MLSTM(h, heads=2): 3 * read + 2 * (i * 2 + 2) + read,
        jrnn.RHN(h, depth=3): 2 * (i * h + 3 * h**2 + 3 * h),
        jrnn.RHN(h, depth=3, coupled=False): 3 * (i * h + 3 * h**2 + 3 * h),
        jrnn.NASCell(h): 8 * (i * h + h**2),
    }


def greff_counts(i, h):
    """Of V, NIG, NFG, NOG, NIAF, NOAF, CIFG, NP, FGR."""
    gate = i * h + h**2 + h
    whole, less = 4 * gate + 3 * h, 3 * gate + 2 * h
    return whole, less, less, less, whole, whole, less, 4 * gate, whole + 9 * h**2


def square_counts(h):
    """Of the cells that need i = h."""
    return {
        jrnn.IntersectionRNN(h): 4 * (2 * h**2 + h),
        jrnn.RGLRU(h): 2 * (h**2 + h) + h,
        jrnn.RGLRU(h, heads=2): 2 * (h**2 // 2 + h) + h,
    }


@pytest.mark.parametrize("i, h", [(3, 6), (5, 8), (4, 4), (6, 6)])
def test_parameter_counts(i, h):
    wanted = counts(i, h) | (square_counts(h) if i == h else {})
    for cell, count in wanted.items():
        params = jax.eval_shape(partial(cell.init, in_features=i), jax.random.key(0))
        leaves = zip(jax.tree.leaves(params), jax.tree.leaves(jrnn.trainable(params)), strict=True)
        assert sum(leaf.size for leaf, learned in leaves if learned) == count, cell
    if i == h:
        assert {type(case.cell) for case in CASES.values()} == {type(cell) for cell in wanted}


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
