"""Inputs that a cell would take without a word: tokens without a vector, one-hot rows, complex numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jrnn

WORDS, KEY = 7, jax.random.key(0)
EMBED = jrnn.Embed(4)
TOKENS = np.array([[1, 2], [6, 0], [5, 5]])
READERS = {
    "alone": EMBED,
    "stack": jrnn.Stack((EMBED, jrnn.GRU(3))),
    "deep": jrnn.Stack((jrnn.Stack((jrnn.Dropout(EMBED, output=0.1), jrnn.Dense(5))), jrnn.Elman(3))),
    "project": jrnn.Project(jrnn.LearnedCarry(jrnn.Stack((EMBED, jrnn.GRU(3)))), 2),
    "cast": jrnn.Cast(jrnn.Stack((EMBED, jrnn.LSTM(3))), compute="bfloat16"),
    "loop": jrnn.Feedback(jrnn.Stack((EMBED, jrnn.Dense(WORDS))), emit="argmax"),
}
GIVEN = pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])


def read(cell, tokens, **options):
    xs = (tokens, np.ones(np.shape(tokens), bool)) if isinstance(cell, jrnn.Feedback) else tokens
    return jrnn.unroll(cell, cell.init(KEY, WORDS), xs, **options)[1]


@GIVEN
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(("token", "place"), [(WORDS, (1, 0)), (-1, (2, 1)), (10**6, (0, 0))])
def test_a_token_without_a_vector_is_named_with_its_place(name, token, place, array):
    tokens = TOKENS.copy()
    tokens[place] = token
    message = f"xs{list(place)} is token {token}, out of range for the table of {READERS[name]}: it has "
    with pytest.raises(ValueError, match="^" + re.escape(message + "7 rows, for tokens 0 to 6") + "$"):
        read(READERS[name], array(tokens))


def test_everything_that_runs_such_a_cell_says_so():
    cell, wrong = READERS["stack"], np.array([[1, 2], [7, 0]])
    params, both = cell.init(KEY, WORDS), jrnn.Sequential((EMBED, jrnn.Bidirectional(jrnn.GRU(3))))
    for call in (
        lambda: jrnn.apply(both, both.init(KEY, WORDS), wrong),
        lambda: jrnn.many_to_one(both, both.init(KEY, WORDS), wrong),
        lambda: jrnn.autoregressive(cell, params, wrong[::-1]),
        lambda: jrnn.autoregressive(cell, params, TOKENS, start=7),
        lambda: jrnn.analysis.sensitivity(cell, params, wrong[:, 0]),
        lambda: jrnn.analysis.lyapunov(cell, params, wrong[:, 0]),
        lambda: jrnn.RNN(cell, WORDS, rngs=nnx.Rngs(0))(wrong),
    ):
        with pytest.raises(
            ValueError, match=r"is token 7, out of range for the table of .* 7 rows, for tokens 0 to 6$"
        ):
            call()


LOSS = jrnn.PerStep(jrnn.losses.mean_squared_error)
QUIET = jrnn.Progress(bar=False)
MODELS = [READERS["stack"], jrnn.Sequential((EMBED, jrnn.Bidirectional(jrnn.GRU(3)), jrnn.Dense(3)))]
RUNS = {
    "fit": lambda model, params, batch: jrnn.fit(
        model, [batch], LOSS, optimizer=optax.sgd(0.1), key=KEY, params=params, progress=QUIET
    ),
    "evaluate": lambda model, params, batch: jrnn.evaluate(model, params, [batch], LOSS),
    "predict": lambda model, params, batch: list(jrnn.predict(model, params, [batch])),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("model", MODELS, ids=["cell", "layer"])
def test_what_compiles_names_a_token_of_the_host_as_well(name, model):
    batch = jrnn.Batch(np.array([[1, 2], [7, 0]]), np.zeros((2, 2, 3), np.float32))
    params = model.init(KEY, WORDS)
    with pytest.raises(ValueError, match=r"^xs\[1, 0\] is token 7, out of range for the table of .* 7 rows"):
        RUNS[name](model, params, batch)
    RUNS[name](model, params, batch._replace(lengths=np.array([1, 2])))  # in padding it may be anything


def test_under_jit_it_is_nan_and_its_neighbors_are_not():
    tokens = TOKENS.copy()
    tokens[1, 0] = 7
    ys = jax.jit(lambda tokens: read(READERS["stack"], tokens))(tokens)
    assert np.isnan(ys[1:, 0]).all() and not np.isnan(ys[:, 1]).any() and not np.isnan(ys[0]).any()


@GIVEN
def test_padding_may_hold_anything(array):
    tokens = TOKENS.copy()
    tokens[2, 1], tokens[1:, 0] = -100, 99
    ys = read(READERS["stack"], array(tokens), lengths=np.array([1, 2]))
    needed = read(READERS["stack"], TOKENS, lengths=np.array([1, 2]))
    np.testing.assert_array_equal(ys, needed)
    assert read(EMBED, np.zeros((0, 2), int)).shape == (0, 2, 4)


@GIVEN
@pytest.mark.parametrize("name", READERS)
def test_one_hot_rows_are_recognized(name, array):
    rows = np.eye(WORDS, dtype=int)
    for given in (rows[TOKENS], rows[TOKENS[:, 0]]):
        with pytest.raises(
            ValueError, match=rf"^xs has shape {re.escape(str(given.shape))} and looks one-hot, .* 7 rows"
        ):
            read(READERS[name], array(given))


def test_what_only_looks_like_it_is_taken():
    for tokens in (
        np.zeros((3, 7), int),
        rows_of(7) + rows_of(7)[::-1],
        rows_of(7)[:2],
        rows_of(6)[[0, 1, 2]],
    ):
        assert read(EMBED, tokens).shape == (*tokens.shape, 4)
    bits = jrnn.unroll(EMBED, EMBED.init(KEY, 2), np.array([[0, 1], [1, 0], [1, 0], [0, 1], [0, 1]]))[1]
    assert bits.shape == (5, 2, 4)


def rows_of(width):
    return np.eye(width, dtype=int)


@GIVEN
@pytest.mark.parametrize(
    "cell",
    [jrnn.GRU(3), jrnn.LRU(3), jrnn.MinGRU(3), jrnn.Dense(2), jrnn.Stack((jrnn.Dense(2), jrnn.LSTM(3)))],
)
def test_complex_inputs_are_refused_by_a_real_cell(cell, array):
    xs = array(np.ones((5, 2, 3), np.complex64))
    message = re.escape(
        f"xs is complex64, {cell} is real: pass the parts as features, jnp.concatenate([xs.real"
    )
    for run in (jrnn.unroll, jax.jit(jrnn.unroll, static_argnums=0)):
        with pytest.raises(TypeError, match="^" + message):
            run(cell, cell.init(KEY, 3), xs)


def test_a_complex_cell_takes_complex_inputs():
    turn = jrnn.from_functions(
        init=lambda key, n: jnp.full((n,), 1j),
        initial_carry=lambda p, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3), p.dtype),
        step=lambda p, h, x: (p * h + x,) * 2,
        out_features=3,
    )
    h, _ = jrnn.unroll(turn, turn.init(KEY, 3), np.ones((2, 3), np.complex64))
    np.testing.assert_array_equal(h, np.full(3, 1 + 1j))


@pytest.mark.parametrize("flags", [{"lengths": np.array([4, 1, 0])}, {"mask": np.ones((4, 3), bool)}])
def test_a_leaf_without_rows_is_refused_where_rows_are_padded(flags):
    cell = jrnn.Feedback(jrnn.Elman(2))
    params, given, use_given = cell.init(KEY, 2), jnp.ones((4, 3, 2)), jnp.array([True, False, True, False])
    ys = jrnn.unroll(cell, params, (given, use_given))[1]
    with pytest.raises(
        ValueError, match=r"a leaf of xs has shape \(4,\), with lengths or a mask of rows \(3,\)"
    ):
        jrnn.unroll(cell, params, (given, use_given), **flags)
    every = jnp.broadcast_to(use_given[:, None], (4, 3))
    np.testing.assert_allclose(jrnn.unroll(cell, params, (given, every))[1], ys, rtol=1e-6)
    jrnn.unroll(cell, params, (given, use_given), mask=np.ones(4, bool))
