"""`unroll` in cases small enough to read: resets, lengths, padding, edges, inputs, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cells.lstm import LSTMCarry

pytestmark = pytest.mark.engine

IN, HIDDEN, STEPS = 2, 3, 7


def add_up():
    """A running sum, s' = s + x and y = s'; it starts at 100."""
    return jrnn.from_functions(
        init=lambda key, n: jnp.zeros(()),
        initial_carry=lambda p, batch_shape=(), *, key=None: 100 + jnp.zeros((*batch_shape, 1)),
        step=lambda p, s, x: (s + x, s + x),
        out_features=1,
    )


SUM = add_up()


def sums(values, **options):
    end, ys = jrnn.unroll(SUM, jnp.zeros(()), jnp.asarray(values, float)[:, None], **options)
    return float(end[0]), [float(y) for y in ys[:, 0]]


def flags(*times, steps=6):
    return jnp.zeros(steps, bool).at[jnp.array(times, int)].set(True)


def test_a_reset_marks_the_first_step_in_both_directions():
    values = [1, 2, 4, 8, 16, 32]
    assert sums(values, resets=flags(2)) == (160.0, [101, 103, 104, 112, 128, 160])
    assert sums(values, resets=flags(2), reverse=True) == (103.0, [103, 102, 160, 156, 148, 132])


def test_a_reset_takes_the_initial_state_and_never_the_given_carry():
    values, start = [1, 2, 4, 8, 16, 32], jnp.zeros(1)
    assert sums(values, carry=start, resets=flags(2)) == (160.0, [1, 3, 104, 112, 128, 160])
    assert sums(values, carry=start, resets=flags(0, 2)) == (160.0, [101, 103, 104, 112, 128, 160])
    assert sums(values, carry=start, resets=flags(2), reverse=True) == (103.0, [103, 102, 60, 56, 48, 32])


def test_invalid_steps_between_two_sequences():
    values, mask = [1, 2, 4, 8, 16, 32], ~flags(2, 3)
    assert sums(values, mask=mask, resets=flags(4)) == (148.0, [101, 103, 0, 0, 116, 148])
    assert sums(values, mask=mask, resets=flags(4), reverse=True) == (103.0, [103, 102, 0, 0, 148, 132])


def test_a_reset_at_an_invalid_step_is_ignored():
    values, mask = [1, 2, 4, 8, 16, 32], ~flags(2, 3)
    for reverse in (False, True):
        plain = sums(values, mask=mask, reverse=reverse)
        assert sums(values, mask=mask, resets=flags(2, 3), reverse=reverse) == plain
    assert plain == (151.0, [151, 150, 0, 0, 148, 132])


# edges


@pytest.mark.parametrize("batch", [(), (3,), (0,), (2, 0)])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_no_steps_and_no_rows(steps, batch):
    cell = jrnn.LSTM(HIDDEN)
    params, start = (
        cell.init(jax.random.key(0), IN),
        jax.random.normal(jax.random.key(1), (2, *batch, HIDDEN)),
    )
    flags = {"lengths": jnp.full(batch, steps), "mask": jnp.ones((steps, *batch), bool)}
    flags["resets"] = ~flags["mask"]

    @jax.jit
    def run(params, xs, start):
        ends, ys = zip(
            jrnn.unroll(cell, params, xs, LSTMCarry(*start), **flags, method=jrnn.Scan()),
            jrnn.unroll(cell, params, xs, LSTMCarry(*start), **flags, method=jrnn.Scan("sqrt"), reverse=True),
            strict=True,
        )
        return sum(jnp.sum(y) + jnp.sum(end.h) for end, y in zip(ends, ys, strict=True)), (ends, ys)

    xs = jax.random.normal(jax.random.key(2), (steps, *batch, IN))
    grads, (ends, ys) = jax.grad(run, (0, 1, 2), has_aux=True)(params, xs, start)
    assert all(y.shape == (steps, *batch, HIDDEN) for y in ys)
    assert all(end.c.shape == (*batch, HIDDEN) for end in ends)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    if steps == 0 or 0 in batch:
        assert not any(np.any(g) for g in grads[0])
    if steps == 0:
        for end in ends:
            np.testing.assert_array_equal(jnp.stack(end), start)
        np.testing.assert_array_equal(grads[2], [np.full_like(start[0], 2), np.zeros_like(start[1])])
    if steps == 1:
        for y in ys:
            np.testing.assert_allclose(y[0], cell.step(params, LSTMCarry(*start), xs[0])[1], rtol=1e-5)


@pytest.mark.parametrize("given", [False, True], ids=["initial", "given"])
def test_rows_of_length_zero_return_their_carry_bit_for_bit(given):
    cell = jrnn.LearnedCarry(jrnn.LSTM(HIDDEN))
    params = cell.init(jax.random.key(0), IN)
    params = params._replace(carry=jax.tree.map(lambda a: a + jnp.pi / 7, params.carry))
    start = cell.initial_carry(params, (4,))
    if given:
        start = jax.tree.map(lambda a: a + jax.random.normal(jax.random.key(3), a.shape), start)
    xs = jnp.full((STEPS, 4, IN), jnp.nan)  # nothing of a row of length 0 is ever read
    run = lambda lengths: jrnn.unroll(cell, params, xs, start if given else None, lengths=lengths)
    for end, ys in (run(jnp.zeros(4, int)), jax.jit(run)(jnp.zeros(4, int))):
        np.testing.assert_array_equal(end.h, start.h)
        np.testing.assert_array_equal(end.c, start.c)
        np.testing.assert_array_equal(ys, 0)


def test_lengths_out_of_range_are_an_error_or_clipped():
    xs, params = jnp.ones((STEPS, 3, 1)), jnp.zeros(())
    run = lambda lengths: jrnn.unroll(SUM, params, xs, lengths=lengths)
    for bad in ([-1, 2, 3], [0, 2, STEPS + 1]):
        with pytest.raises(ValueError, match=f"lengths must lie between 0 and the {STEPS} steps"):
            run(jnp.array(bad))
    with pytest.raises(ValueError, match="lengths must lie between 0 and"):
        run(np.array([0, 1, 2**32 + 3]))  # not to be taken for 3
    end, ys = jax.jit(run)(jnp.array([-5, 2, STEPS + 90]))
    np.testing.assert_array_equal(end[:, 0], [100, 102, 100 + STEPS])
    np.testing.assert_array_equal(jnp.count_nonzero(ys[..., 0], axis=0), [0, 2, STEPS])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64"])
def test_lengths_of_any_integer_dtype(dtype):
    steps = 300  # more than int8 and uint8 can count
    lengths = np.array([0, 1, 100, np.iinfo(dtype).max if "8" in dtype else steps]).astype(dtype)
    run = lambda n: jrnn.unroll(SUM, jnp.zeros(()), jnp.ones((steps, 4, 1)), lengths=n)[0][:, 0]
    with jax.numpy_dtype_promotion("strict"):
        for given in (run(lengths), jax.jit(run)(lengths)):
            np.testing.assert_array_equal(given, 100 + lengths.astype(int))


# inputs and batches of other kinds


def test_inputs_may_be_any_tree_of_arrays():
    table = jnp.array([[1.0], [10.0], [100.0]])
    cell = jrnn.from_functions(
        init=lambda key, n: table,
        initial_carry=lambda p, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 1)),
        step=lambda p, s, x: (s + x["a"] * p[x["token"]], s),
        out_features=1,
    )
    xs = {"a": jnp.arange(8.0).reshape(4, 2, 1), "token": jnp.array([[0, 1], [2, 2], [1, 0], [0, 2]])}
    end, ys = jrnn.unroll(cell, table, xs, lengths=jnp.array([4, 3]))
    np.testing.assert_array_equal(end[:, 0], [0 + 200 + 40 + 6, 10 + 300 + 5])
    np.testing.assert_array_equal(ys[:, :, 0], [[0, 0], [0, 10], [200, 310], [240, 0]])


def test_spatial_axes_are_trailing_batch_axes():
    """A state on a ring of 5 places, each fed by its left neighbor; lengths name the rows only."""
    cell = jrnn.from_functions(
        init=lambda key, n: jnp.float32(0.5),
        initial_carry=lambda p, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 1)),
        step=lambda p, h, x: (jnp.tanh(p * jnp.roll(h, 1, axis=-2) + x),) * 2,
        out_features=1,
    )
    xs, lengths = jax.random.normal(jax.random.key(0), (STEPS, 3, 5, 1)), np.array([STEPS, 0, 4])
    resets = jnp.zeros((STEPS, 3), bool).at[2, 2].set(True)
    end, ys = jrnn.unroll(cell, jnp.float32(0.5), xs, lengths=lengths, resets=resets)
    for row, first in ((0, 0), (2, 2)):
        h = np.zeros((5, 1))
        for t in range(first, lengths[row]):
            h = np.tanh(0.5 * np.roll(h, 1, 0) + np.asarray(xs[t, row]))
            np.testing.assert_allclose(ys[t, row], h, rtol=1e-5)
        np.testing.assert_allclose(end[row], h, rtol=1e-5)
    assert not np.any(end[1]) and not np.any(ys[:, 1]) and not np.any(ys[4:, 2])


# dtypes, traces, noise


def naive():
    """A cell that thinks of no dtype: its state is plain `jnp.zeros`."""
    return jrnn.from_functions(
        init=lambda key, n: 0.3 * jnp.ones((n, HIDDEN)),
        initial_carry=lambda p, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, HIDDEN)),
        step=lambda p, h, x: (jnp.tanh(x @ p + h),) * 2,
        out_features=HIDDEN,
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_a_cell_that_starts_from_plain_zeros_runs_in_any_dtype(dtype):
    with jax.enable_x64(dtype == "float64"):
        cell, xs = naive(), jax.random.normal(jax.random.key(0), (4, 2, IN)).astype(dtype)
        params, resets = cell.init(None, IN).astype(dtype), flags(2, steps=4)
        end, ys = jrnn.unroll(cell, params, xs, resets=resets, lengths=jnp.array([4, 2]))
        kept = jnp.promote_types(dtype, jnp.zeros(()).dtype)  # upwards only: zeros are float32 without x64
        assert end.dtype == ys.dtype == kept
        h = np.zeros((2, HIDDEN))
        for t in range(4):
            h = np.tanh(np.asarray(xs[t] @ params, float) + (0 if t == 2 else h))
            rows = slice(2 if t < 2 else 1)
            np.testing.assert_allclose(ys[t, rows], h[rows], rtol=1e-12 if dtype == "float64" else 2e-2)


def test_the_state_rises_to_what_the_step_returns():
    cell = jrnn.from_functions(
        init=lambda key, n: jnp.ones((n, 1)),
        initial_carry=lambda p, batch_shape=(), *, key=None: (
            (jnp.zeros((*batch_shape, 1), jnp.bfloat16),) * 2
        ),
        step=lambda p, c, x: ((x @ p, c[0] + c[1]), c[1]),  # float32 reaches the second entry a step later
        out_features=1,
    )
    (a, b), ys = jrnn.unroll(cell, jnp.ones((1, 1)), jnp.full((3, 1), 1 / 3))
    assert a.dtype == b.dtype == ys.dtype == jnp.float32
    np.testing.assert_allclose(b, [2 / 3], rtol=1e-7)
