"""Starts: what a matrix or a bias is before training, gate by gate."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn import initializers
from tests.cases import CASES

ROUNDING = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 5e-3}  # of a sum of 16 products near one


def blocks(packed, count):
    return np.split(np.asarray(packed, np.float64), count, axis=1)


def assert_orthogonal_blocks(packed, count, tolerance):
    parts = blocks(packed, count)
    for i, part in enumerate(parts):
        eye = np.eye(len(part))
        np.testing.assert_allclose(part @ part.T, eye, atol=tolerance)
        np.testing.assert_allclose(part.T @ part, eye, atol=tolerance)
        for other in parts[:i]:
            assert np.abs(part - other).max() > 0.1, "two gates start alike"


@pytest.mark.parametrize("dtype", ROUNDING)
def test_orthogonal_per_block(dtype):
    w = initializers.orthogonal(jax.random.key(0), (16, 48), jnp.dtype(dtype))
    assert w.dtype == dtype and w.shape == (16, 48)
    assert_orthogonal_blocks(w, 3, ROUNDING[dtype])


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 6)], ids=str)
def test_orthogonal_rectangle(shape):
    """What is not a row of square blocks is one matrix, orthonormal along its shorter side."""
    w = np.asarray(initializers.orthogonal(jax.random.key(0), shape), np.float64)
    assert w.shape == shape
    short = w if shape[0] < shape[1] else w.T
    np.testing.assert_allclose(short @ short.T, np.eye(min(shape)), atol=1e-5)


def test_orthogonal_in_double():
    with jax.enable_x64(True):
        assert_orthogonal_blocks(initializers.orthogonal(jax.random.key(0), (16, 32)), 2, 1e-13)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_glorot_bound_of_one_gate(count):
    rows, width = 96, 64
    bound = np.sqrt(6 / (rows + width))
    w = initializers.glorot(jax.random.key(1), (rows, count * width), blocks=count)
    for part in blocks(w, count):
        assert 0.99 * bound < np.abs(part).max() <= bound * (1 + 1e-6)
        np.testing.assert_allclose(part.std(), bound / np.sqrt(3), rtol=0.03)  # of a uniform draw
    first, last = blocks(w, count)[0], blocks(w, count)[-1]
    assert count == 1 or np.abs(first - last).max() > bound


def test_identity():
    w = initializers.identity(jax.random.key(0), (3, 6), jnp.bfloat16, scale=0.5)
    assert w.dtype == jnp.bfloat16
    np.testing.assert_array_equal(w, np.hstack([0.5 * np.eye(3)] * 2))


@pytest.mark.parametrize("radius", [0.5, 1.25])
def test_spectral_radius(radius):
    w = initializers.spectral_radius(jax.random.key(2), (30, 30), radius=radius)
    eigenvalues = np.linalg.eigvals(np.asarray(w, np.float64))
    np.testing.assert_allclose(np.abs(eigenvalues).max(), radius, rtol=1e-4)
    assert np.abs(w - w.T).max() > 0.01  # a general matrix, not a symmetric one
    assert initializers.spectral_radius(jax.random.key(2), (4, 4), jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot choose its cores here")
def test_a_reservoir_is_drawn_on_one_core():
    """Outside of a program, a callback on the only core waited for ever for what it was to read."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import jax, jrnn\n"
        "draw = lambda i: jrnn.EchoState(300).init(jax.random.key(i), 3).fixed.w_hh\n"
        "for i in range(30): print(float(draw(i).std()) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "True\n" * 30, done.stderr


def test_chrono():
    b = initializers.chrono(jax.random.key(3), (2000,), max_lag=50)
    u = np.exp(np.asarray(b, np.float64))
    assert u.min() > 1 - 1e-4 and u.max() < 49 + 1e-4
    assert u.min() < 2 and u.max() > 48
    np.testing.assert_allclose(u.mean(), 25, atol=5 * 48 / np.sqrt(12 * 2000))  # five standard errors
    with pytest.raises(ValueError, match="max_lag must be at least 3 steps, got 2"):
        initializers.chrono(jax.random.key(0), (4,), max_lag=2)


def test_chrono_lstm():
    b = jrnn.LSTM(500, max_lag=20).init(jax.random.key(4), in_features=2).b
    b_i, b_f, b_g, b_o = np.split(np.asarray(b), 4)
    np.testing.assert_array_equal(b_i, -b_f)
    assert 0 <= b_f.min() < 0.5 and np.log(18) < b_f.max() <= np.log(19) + 1e-6
    assert not b_g.any() and not b_o.any()
    with pytest.raises(ValueError, match="max_lag must be at least 3 steps, got 2"):
        jrnn.LSTM(5, max_lag=2)


@pytest.mark.parametrize("given", [{}, {"forget_bias": 0.0}, {"forget_bias": 2.5}], ids=str)
def test_forget_bias(given):
    b = jrnn.LSTM(3, **given).init(jax.random.key(0), in_features=2).b
    np.testing.assert_array_equal(b, np.repeat([0, given.get("forget_bias", 1.0), 0, 0], 3))


@pytest.mark.parametrize(
    ("cell", "count"), [(jrnn.Elman(32), 1), (jrnn.GRU(32), 3), (jrnn.LSTM(32), 4)], ids=str
)
def test_cells_start_per_gate(cell, count):
    """Packed matrices start as if every gate had been drawn alone."""
    params = cell.init(jax.random.key(5), in_features=80)
    assert_orthogonal_blocks(params.w_hh, count, 1e-5)
    bound = np.sqrt(6 / (80 + 32))
    for part in blocks(params.w_ih, count):
        assert 0.98 * bound < np.abs(part).max() <= bound * (1 + 1e-6)


def test_cells_start_with_zero_bias():
    key = jax.random.key(6)
    gru, jordan = jrnn.GRU(3).init(key, 2), jrnn.Jordan(3, outputs=4).init(key, 2)
    for b in (
        gru.b,
        gru.b_hn,
        jordan.b,
        jordan.c,
        jrnn.Elman(3).init(key, 2).b,
        jrnn.Dense(3).init(key, 2).b,
    ):
        assert not b.any()
    assert jrnn.GRU(3, reset_after=False).init(key, 2).b_hn is None


def test_identity_elman():
    """With relu, the start of an IRNN: the state of a zero input is kept for ever."""
    cell = jrnn.Elman(4, activation="relu", recurrent_init="identity")
    params = cell.init(jax.random.key(7), in_features=3)
    np.testing.assert_array_equal(params.w_hh, np.eye(4))
    h = jnp.array([0.0, 1.0, 2.5, 40.0])
    np.testing.assert_array_equal(jrnn.unroll(cell, params, jnp.zeros((9, 3)), h)[0], h)


def test_cells_of_a_stack_are_drawn_one_by_one():
    first, second = jrnn.Stack((jrnn.Elman(4), jrnn.Elman(4))).init(jax.random.key(7), in_features=4)
    assert np.any(first.w_ih != second.w_ih) and np.any(first.w_hh != second.w_hh)


def test_weights_of_independent_units():
    """Uniform from 0 to the bound under which a step of max_lag stays below 2."""
    w_hh = jrnn.IndRNN(2000, max_lag=3).init(jax.random.key(7), in_features=2).w_hh
    np.testing.assert_allclose(
        [w_hh.min(), w_hh.mean(), w_hh.max()], np.cbrt(2) * np.array([0, 0.5, 1]), atol=0.02
    )


THROUGH_SOFTPLUS = {  # cell: (parameter, least and largest start of its softplus)
    jrnn.LTC(64): (lambda p: p.c, 0.4, 0.6),
    jrnn.RGLRU(64): (lambda p: p.decay, -np.log(0.999) / 8, -np.log(0.9) / 8),
    jrnn.S6(64): (lambda p: p.b_dt, 1e-3, 0.1),
    jrnn.Mamba2(64, heads=64): (lambda p: p.dt.b, 1e-3, 0.1),
    jrnn.MesaNet(64): (lambda p: p.ridge, 0.75, 0.75),  # and the least ridge, ¼
}


@pytest.mark.parametrize("cell", THROUGH_SOFTPLUS, ids=repr)
def test_positive_parameters_start_in_their_range(cell):
    of, least, largest = THROUGH_SOFTPLUS[cell]
    starts = np.log1p(np.exp(np.asarray(of(cell.init(jax.random.key(0), 64)), np.float64)))
    assert least * 0.999 <= starts.min() and starts.max() <= largest * 1.001
    assert np.ptp(starts) >= (largest - least) / 2


def test_embed_scale():
    table = jrnn.Embed(16).init(jax.random.key(8), in_features=500).table
    np.testing.assert_allclose([np.mean(table), np.std(table)], [0, 1], atol=0.04)


LAYERS = [
    jrnn.Bidirectional(jrnn.GRU(3)),
    jrnn.Sequential((jrnn.Dense(2), jrnn.Bidirectional(jrnn.LSTM(3)))),
    jrnn.ManyToOne(jrnn.GRU(3)),
    jrnn.CRF(3),
    jrnn.EncoderDecoder(jrnn.GRU(3), jrnn.Stack((jrnn.Embed(2), jrnn.GRU(4), jrnn.Dense(5)))),
]
WIDTHS = [(-1, ValueError, "or more, got -1"), (np.int64(-3), ValueError, "or more, got -3")]
WIDTHS += [
    (bad, TypeError, "in_features must be an int, got ") for bad in (2.0, True, np.True_, "3", None, 1j)
]
WIDTHS += [
    (np.ones(2), TypeError, "in_features must be an int, got "),
    ((3,), TypeError, "must be an int, got (3"),
]


@pytest.mark.parametrize("model", [*(case.cell for case in CASES), *LAYERS], ids=repr)
def test_a_width_that_is_none_is_refused_by_name(model):
    for given, error, message in WIDTHS:
        with pytest.raises(error, match=r"^in_features must be ") as caught:
            model.init(jax.random.key(0), given)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_vocabulary_has_words_and_a_width_may_be_of_numpy():
    with pytest.raises(ValueError, match=r"^in_features must be 1 or more, got 0$"):
        jrnn.Stack((jrnn.Embed(3), jrnn.GRU(2))).init(jax.random.key(0), 0)
    same = (jrnn.GRU(2).init(jax.random.key(0), n) for n in (3, np.int64(3), jnp.int32(3)))
    assert len({str(params) for params in same}) == 1


@pytest.mark.parametrize(
    "cell",
    [jrnn.Elman(4), jrnn.GRU(4), jrnn.LSTM(4), jrnn.Dense(3), jrnn.QRNN(4), jrnn.MogrifierLSTM(4, rounds=3)],
    ids=repr,
)
def test_a_cell_without_inputs_runs(cell):
    params = cell.init(jax.random.key(0), 0)
    ys = jrnn.unroll(cell, params, jnp.zeros((5, 2, 0)))[1]
    assert ys.shape == (5, 2, cell.out_features) and jnp.isfinite(ys).all()
