"""Every cell against its equations written again in NumPy, forward and gradient; parameter counts.

Every parameter is random, biases included: a bias that starts at zero hides that it is missing. The file of a
cell in `tests/cells` says what is compared with what.
"""

import dis
import inspect
import sys
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cells._activations import ACTIVATIONS, CONSTANTS, activation
from jrnn.cells._gating import gates
from tests.cells import ENTRIES, VALUES
from tests.entries import IN, OUT, VOCABULARY
from tests.references import FUNCTIONS, derivative
from tests.values import BATCH, assert_close, draw, ours, reference, weigh

RANKS = [(), (7, BATCH)]  # of batches, beside the one of the gradients
ALL_RANKS = jrnn.Elman, jrnn.Jordan, jrnn.LSTM, jrnn.GRU, jrnn.Dense, jrnn.Embed


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


RUNS = [
    pytest.param(name, batch, id=f"{name}-{batch}")
    for name, case in VALUES.items()
    if isinstance(case.cell, ALL_RANKS)
    for batch in RANKS
]


@pytest.mark.parametrize("name, batch", RUNS)
def test_value(name, batch):
    case = VALUES[name]
    arguments = draw(case, batch)
    compare(case, ours(case, batch, *arguments), reference(case, *arguments))


def compare(case, found, needed):
    (last, ys), (needed_last, needed_ys) = found, needed
    assert ys.shape == needed_ys.shape and ys.shape[-1] == case.cell.out_features
    assert_close(ys, needed_ys)
    assert_close(last, needed_last)


@pytest.mark.parametrize("name", VALUES)
def test_value_and_gradient(name):
    case = VALUES[name]
    arguments = draw(case, (BATCH,), seed=1)
    needed = reference(case, *arguments)
    rng = np.random.default_rng(2)
    loss = weigh(rng, needed)
    leaves, structure = jax.tree.flatten(arguments)
    learned = jax.tree.leaves(jrnn.trainable(arguments))
    wrt = [i for i, leaf in enumerate(leaves) if leaf.dtype == np.float64]  # tokens have no derivative

    def with_leaf(i, moved):
        return loss(reference(case, *jax.tree.unflatten(structure, [*leaves[:i], moved, *leaves[i + 1 :]])))

    def with_leaves(*floats):
        given = dict(enumerate(leaves)) | dict(zip(wrt, floats, strict=True))
        found = ours(case, (BATCH,), *jax.tree.unflatten(structure, given.values()))
        return loss(found), found

    gradients = jax.jit(jax.grad(with_leaves, range(len(wrt)), has_aux=True))
    got, found = gradients(*(jnp.asarray(leaves[i]) for i in wrt))
    compare(case, found, needed)
    for i, gradient in zip(wrt, got, strict=True):
        if not learned[i]:
            assert not np.any(gradient), "what is fixed is not learned"
            continue
        along = rng.normal(size=(2, *np.shape(leaves[i])))
        want = np.array([derivative(partial(with_leaf, i), leaves[i], direction) for direction in along])
        assert np.all(want), "a leaf that nothing depends on tests nothing"
        assert_close(np.array([np.vdot(gradient, direction) for direction in along]), want, rtol=1e-11)


def test_every_cell_has_an_entry_of_its_name_in_the_file_of_its_name():
    public = {name: getattr(jrnn, name) for name in dir(jrnn) if name[0].isupper()}
    found = {n: c for n, c in public.items() if hasattr(c, "step") and c.__module__.startswith("jrnn.cells")}
    found["NARX"] = jrnn.NARX  # a combinator beside the cells: its equations are those of a network
    assert len(found) > 50 and found.keys() == ENTRIES.keys()
    for name, entry in ENTRIES.items():
        cells = [c.cell for c in (*entry.laws, *entry.values.values())] + list(entry.counts(6, 6))
        assert {type(cell) for cell in cells} == {found[name]}, name
        assert entry.laws and entry.values and entry.counts(6, 6), name
    for kind in found.values():
        file = kind.__module__.split(".")[-1] if kind is not jrnn.NARX else "history"
        module = sys.modules[f"tests.cells.{file}"]
        assert getattr(module, kind.__name__) is ENTRIES[kind.__name__], kind


def globals_of(function):
    """What a function can reach: the globals that its code names, and the functions bound to its options."""
    if isinstance(function, partial):
        yield from (value for value in function.keywords.values() if callable(value))
        function = function.func
    yield from (value for value in function.__defaults__ or () if callable(value))
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if inspect.iscode(constant)]
        for instruction in dis.get_instructions(code):
            assert not instruction.opname.startswith("IMPORT"), function
            if instruction.opname == "LOAD_GLOBAL" and instruction.argval in function.__globals__:
                yield function.__globals__[instruction.argval]


@pytest.mark.parametrize("name", ENTRIES)
def test_a_reference_is_numpy_alone(name):
    seen = [comparison.step for comparison in ENTRIES[name].values.values()]
    for value in seen:
        assert isinstance(value, (partial, types.FunctionType, tuple, dict, int)) or value is np, value
        if callable(value):
            seen += [other for other in globals_of(value) if other not in seen]


def test_activations():
    """All of them, and their derivatives, on both sides of every kink."""
    assert {*FUNCTIONS, "softmax"} == set(ACTIVATIONS)
    x = np.linspace(-7, 7, 32)
    np.testing.assert_allclose(ACTIVATIONS["softmax"](x), np.exp(x) / np.exp(x).sum(), 1e-12)  # of no number
    for name, function in FUNCTIONS.items():
        np.testing.assert_allclose(ACTIVATIONS[name](x), function(x), 1e-12, 1e-12, err_msg=name)
        slope = jax.vmap(jax.grad(ACTIVATIONS[name]))(x)
        np.testing.assert_allclose(slope, function(x + 1e-30j).imag / 1e-30, 1e-12, 1e-12, err_msg=name)


def test_a_name_of_jax_is_one_of_ours():
    """Aliases too, and the functions; one that changes the width is no activation by its name."""
    for given in ("swish", jax.nn.swish, "silu"):
        assert jrnn.Elman(3, activation=given) == jrnn.Elman(3, activation="silu")
    assert jrnn.Elman(3, activation="soft_sign").activation == "softsign"
    assert jrnn.Elman(3, activation="hard_swish").activation == "hard_silu"
    with pytest.raises(ValueError, match="activation must be one of tanh"):
        jrnn.Elman(3, activation="glu")


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


@pytest.mark.parametrize("i, h", [(3, 6), (5, 8), (4, 4), (6, 6)])
def test_parameter_counts(i, h):
    """By the papers, of width `i` in and `h` hidden; the fixed ones do not count."""
    for cell, count in ((cell, n) for entry in ENTRIES.values() for cell, n in entry.counts(i, h).items()):
        params = jax.eval_shape(partial(cell.init, in_features=i), jax.random.key(0))
        leaves = zip(jax.tree.leaves(params), jax.tree.leaves(jrnn.trainable(params)), strict=True)
        assert sum(leaf.size for leaf, learned in leaves if learned) == count, cell


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
