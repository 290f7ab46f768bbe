"""`CuDNN`: what it hands to the kernel, and what it says where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

import jrnn
from jrnn.unrolling.cudnn import packed

T, B, IN, HIDDEN = 6, 3, 4, 5
CELL = jrnn.LSTM(HIDDEN)
XS = jax.random.normal(jax.random.key(1), (T, B, IN))


def drawn():
    """Parameters with biases that differ, and a start."""
    params = CELL.init(jax.random.key(0), IN)
    start = CELL.initial_carry(params)._make(jax.random.normal(jax.random.key(2), (2, B, HIDDEN)))
    return params._replace(b=jax.random.normal(jax.random.key(3), params.b.shape)), start


@pytest.mark.parametrize("bias", [True, False])
def test_weights_are_packed_as_the_kernel_reads_them(bias):
    params, start = drawn()
    cell, params = jrnn.LSTM(HIDDEN, bias=bias), params if bias else params._replace(b=None)
    sizes = (IN, HIDDEN, 1, False)
    flat = packed(params)
    assert flat.shape == (rnn.get_num_params_in_lstm(*sizes),)
    weights = rnn.unpack_lstm_weights(flat, *sizes)
    lengths = jnp.full(B, T, jnp.int32)
    given = (jnp.swapaxes(XS, 0, 1), start.h[None], start.c[None])
    ys, h, c = rnn.lstm_ref(*given, *weights, lengths, IN, HIDDEN, 1, 0.0, False)
    carry, expected = jrnn.unroll(cell, params, XS, start)
    for a, b in ((jnp.swapaxes(ys, 0, 1), expected), (h[0], carry.h), (c[0], carry.c)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


MISFITS = {
    "runs only an LSTM, got GRU": (jrnn.GRU(HIDDEN), XS, {}),
    "supports only tanh, got LSTM.hidden=5": (jrnn.LSTM(HIDDEN, activation="relu"), XS, {}),
    "takes no lengths, mask or resets": (CELL, XS, {"lengths": jnp.array([6, 2, 3])}),
    "needs xs of shape": (CELL, XS[:, 0], {}),
    "computes in float32": (CELL, XS.astype(jnp.bfloat16), {}),
}
if jax.default_backend() != "gpu":
    MISFITS["needs an NVIDIA GPU, the backend is"] = (CELL, XS, {})


@pytest.mark.parametrize(
    ("bring", "otherwise"), [(jnp.asarray, jrnn.Scan()), (np.asarray, jrnn.Scan(2**30))], ids=["jax", "numpy"]
)  # two programs: a warning is given when one is traced
@pytest.mark.parametrize("reason", MISFITS)
def test_what_does_not_fit_is_an_error_with_the_reason_or_runs_otherwise(reason, bring, otherwise):
    cell, xs, options = MISFITS[reason]
    xs = bring(xs)
    params = cell.init(jax.random.key(0), IN)
    with pytest.raises(ValueError, match=reason):
        jrnn.unroll(cell, params, xs, **options, method=jrnn.CuDNN())
    with pytest.warns(UserWarning, match=reason) as said:
        found = jrnn.unroll(cell, params, xs, **options, method=jrnn.CuDNN(otherwise))
    assert said[0].filename == __file__
    expected = jrnn.unroll(cell, params, xs, **options)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("reverse", [False, True])
def test_the_kernel_equals_the_scan(reverse):
    params, start = drawn()
    with jax.default_matmul_precision("highest"):
        loss = lambda params, method: sum(
            jnp.sum(jnp.sin(leaf))
            for leaf in jax.tree.leaves(jrnn.unroll(CELL, params, XS, start, reverse=reverse, method=method))
        )
        found, expected = (jax.value_and_grad(loss)(params, m) for m in (jrnn.CuDNN(), jrnn.Scan()))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
