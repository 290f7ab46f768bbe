"""`unroll` against a plain Python loop that is written from the contract: per row, per step."""

import functools
import itertools
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn

IN, HIDDEN, STEPS = 2, 3, 7
PLAIN, BLOCKS = jrnn.Scan(), jrnn.Scan(memory="sqrt")


class LeakyParams(NamedTuple):
    w: Any  # (in, hidden)
    u: Any  # (hidden, hidden)
    start: Any  # (hidden,)


class LeakyState(NamedTuple):
    h: Any  # (..., hidden)
    s: Any  # (..., hidden)
    m: Any  # noise: a mask for the whole sequence


@dataclass(frozen=True)
class Leaky:
    """h' = tanh(x w + (m h) u),  s' = 0.9 s + h',  y = s' − h.  It starts at h = start, s = 1."""

    hidden: int

    @property
    def out_features(self):
        return self.hidden

    def init(self, key, in_features):
        a, b, c = jax.random.split(key, 3)
        shapes = (in_features, self.hidden), (self.hidden, self.hidden), (self.hidden,)
        return LeakyParams(*(jax.random.normal(k, s) for k, s in zip((a, b, c), shapes, strict=True)))

    def initial_carry(self, params, batch_shape=(), *, key=None):
        shape = (*batch_shape, self.hidden)
        m = None if key is None else 2.0 * jax.random.bernoulli(key, 0.5, shape)
        return LeakyState(jnp.broadcast_to(params.start, shape), jnp.ones(shape, params.w.dtype), m)

    def step(self, params, carry, x):
        h, s, m = carry
        new = jnp.tanh(x @ params.w + (h if m is None else m * h) @ params.u)
        s = 0.9 * s + new
        return LeakyState(new, s, m), s - h


def reference(params, xs, start, valid, resets, reverse, m):
    """The contract, in NumPy; everything has one batch axis and all flags have its full shape."""
    steps, batch = valid.shape
    w, u, first = (np.asarray(a) for a in params)
    ends, ys = [], np.zeros((steps, batch, len(first)))
    for row in range(batch):
        h, s = (np.array(a[row]) for a in start)
        steps_of_row = [t for t in range(steps) if valid[t, row]]
        sequence = np.cumsum(resets[:, row] & valid[:, row])  # number of the sequence that a step is in
        before = None
        for t in reversed(steps_of_row) if reverse else steps_of_row:
            anew = (resets[t, row] and not reverse) if before is None else sequence[t] != sequence[before]
            if anew:
                h, s = first, np.ones_like(first)
            new = np.tanh(xs[t, row] @ w + (m[row] * h) @ u)
            s = 0.9 * s + new
            ys[t, row] = s - h
            h, before = new, t
        ends.append((h, s))
    return (*(np.stack(parts) for parts in zip(*ends, strict=True)), ys)


@dataclass(frozen=True)
class Draw:
    """One random combination of every option, for a batch shape; flags name its leading axes."""

    seed: int
    batch: tuple[int, ...] = (3,)
    leading: tuple[int, int, int] = (1, 1, 1)  # how many batch axes lengths, mask and resets name
    steps: int = STEPS

    @functools.cached_property
    def data(self):
        rng = np.random.default_rng(self.seed)
        of_lengths, of_mask, of_resets = (self.batch[:n] for n in self.leading)
        return {
            "xs": rng.normal(size=(self.steps, *self.batch, IN)),
            "lengths": rng.integers(0, self.steps + 1, of_lengths),
            "mask": rng.random((self.steps, *of_mask)) < 0.7,
            "resets": rng.random((self.steps, *of_resets)) < 0.4,
            "start": rng.normal(size=(2, *self.batch, HIDDEN)),
        }

    def answer(self, params, options, reverse, m):
        """What the contract says, with only those options given; `m` is the mask of the noise or None."""
        d, rows = self.data, int(np.prod(self.batch))

        def whole(flags):  # append batch axes, then make them one
            flags = flags.reshape(flags.shape + (1,) * (1 + len(self.batch) - flags.ndim))
            return np.broadcast_to(flags, (self.steps, *self.batch)).reshape(self.steps, rows)

        valid = np.ones((self.steps, rows), bool)
        if "lengths" in options:
            t = np.arange(self.steps).reshape(-1, *(1,) * d["lengths"].ndim)
            valid = valid & whole(t < d["lengths"])
        if "mask" in options:
            valid = valid & whole(d["mask"])
        resets = whole(d["resets"]) if "resets" in options else np.zeros_like(valid)
        start = [np.broadcast_to(params.start, (rows, HIDDEN)), np.ones((rows, HIDDEN))]
        if "carry" in options:
            start = d["start"].reshape(2, rows, HIDDEN)
        m = np.ones((rows, HIDDEN)) if m is None else np.asarray(m).reshape(rows, HIDDEN)
        xs = d["xs"].reshape(self.steps, rows, IN)
        h, s, ys = reference(params, xs, start, valid, resets, reverse, m)
        return *(a.reshape(*self.batch, HIDDEN) for a in (h, s)), ys.reshape(self.steps, *self.batch, HIDDEN)


@functools.partial(jax.jit, static_argnames=("reverse", "method"))
def composed(params, xs, start, lengths, mask, resets, key, reverse, method=PLAIN):
    carry = None if start is None else LeakyState(start[0], start[1], None)
    flags = {"lengths": lengths, "mask": mask, "resets": resets}
    (h, s, m), ys = jrnn.unroll(
        Leaky(HIDDEN), params, xs, carry, **flags, key=key, reverse=reverse, method=method
    )
    return (h, s, ys), m


def check(draw, options, reverse, key=None, method=PLAIN):
    params = Leaky(HIDDEN).init(jax.random.key(1), IN)
    d = draw.data
    flags = (d[name] if name in options else None for name in ("lengths", "mask", "resets"))
    start = d["start"] if "carry" in options else None
    given, m = composed(params, d["xs"], start, *flags, key, reverse, method)
    needed = draw.answer(params, options, reverse, m)
    for a, b in zip(given, needed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    return m


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


ALL = ("lengths", "mask", "resets", "carry")


@pytest.mark.parametrize("reverse", [False, True])
def test_all_options_composed_equal_the_contract(x64, reverse):
    for seed in range(100):
        m = check(Draw(seed), ALL, reverse, key=jax.random.key(seed))
        assert m is not None and set(np.unique(m)) <= {0.0, 2.0}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "options", [c for n in range(4) for c in itertools.combinations(ALL, n)], ids="+".join
)
def test_every_subset_of_options_equals_the_contract(x64, options, reverse):
    for seed in range(5):
        check(Draw(seed), options, reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("batch", "leading"),
    [
        ((), (0, 0, 0)),
        ((3,), (0, 1, 0)),
        ((3,), (1, 0, 1)),
        ((2, 3), (2, 2, 2)),
        ((2, 3), (1, 2, 0)),
        ((2, 3), (2, 1, 1)),
        ((2, 1, 2), (1, 0, 2)),
    ],
)
def test_flags_name_any_number_of_leading_batch_axes(x64, batch, leading, reverse):
    for seed in range(4):
        check(Draw(seed, batch, leading), ALL, reverse, key=jax.random.key(seed))


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_with_all_options_are_those_of_the_contract(x64, reverse):
    draw, params = Draw(11), Leaky(HIDDEN).init(jax.random.key(1), IN)
    d, key, rng = draw.data, jax.random.key(5), np.random.default_rng(0)
    m = Leaky(HIDDEN).initial_carry(params, (3,), key=key).m
    weights = [rng.normal(size=a.shape) for a in draw.answer(params, ALL, reverse, m)]
    point = jax.tree.map(np.asarray, (params, d["xs"], d["start"]))
    along = jax.tree.map(lambda a: rng.normal(size=a.shape), point)

    def weigh(parts):
        return sum((w * a).sum() for w, a in zip(weights, parts, strict=True))

    def by_contract(step):
        p, xs, start = jax.tree.map(lambda a, v: a + step * v, point, along)
        moved = Draw(11)
        moved.data.update(xs=xs, start=start)
        return weigh(moved.answer(p, ALL, reverse, m))

    def loss(point):
        p, xs, start = point
        return weigh(composed(p, xs, start, d["lengths"], d["mask"], d["resets"], key, reverse)[0])

    grad = jax.grad(loss)(point)
    slope = sum(np.vdot(g, v) for g, v in zip(*map(jax.tree.leaves, (grad, along)), strict=True))
    np.testing.assert_allclose(slope, (by_contract(1e-6) - by_contract(-1e-6)) / 2e-6, rtol=1e-7)
    valid = d["mask"] & (np.arange(STEPS)[:, None] < d["lengths"])
    assert not valid.all() and not np.any(np.asarray(grad[1])[~valid])


@pytest.mark.parametrize("steps", range(1, 18))
def test_recomputation_changes_nothing(x64, steps):
    for seed, reverse in ((steps, steps % 2 == 0), (steps + 50, steps % 3 == 0)):
        check(Draw(seed, steps=steps), ALL, reverse, key=jax.random.key(seed), method=BLOCKS)


def test_gradients_with_recomputation_are_the_same(x64):
    d, params = Draw(3, steps=11).data, Leaky(HIDDEN).init(jax.random.key(1), IN)

    @functools.partial(jax.jit, static_argnums=(2, 3))
    def grads(params, xs, reverse, method):
        def loss(params, xs, start):
            parts, _ = composed(
                params, xs, start, d["lengths"], d["mask"], d["resets"], None, reverse, method
            )
            return sum(jnp.sum(jnp.sin(a)) for a in parts)

        return jax.grad(loss, (0, 1, 2))(params, xs, d["start"])

    for reverse in (False, True):
        given, needed = (grads(params, d["xs"], reverse, method) for method in (BLOCKS, PLAIN))
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_recomputation_saves_memory_on_long_sequences():
    cell = jrnn.LSTM(8)
    params, xs = cell.init(jax.random.key(0), IN), jnp.ones((900, 4, IN))

    def temporaries(method):
        loss = lambda p: jnp.sum(jrnn.unroll(cell, p, xs, method=method)[0].h)
        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    plain, blocks = temporaries(PLAIN), temporaries(BLOCKS)
    assert blocks < plain / 5


# directed cases of the contract, small enough to read


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
            jrnn.unroll(cell, params, xs, jrnn.LSTMCarry(*start), **flags, method=PLAIN),
            jrnn.unroll(cell, params, xs, jrnn.LSTMCarry(*start), **flags, method=BLOCKS, reverse=True),
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
            np.testing.assert_allclose(y[0], cell.step(params, jrnn.LSTMCarry(*start), xs[0])[1], rtol=1e-5)


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


def test_nothing_in_padding_reaches_a_value_or_a_gradient():
    d, cell = Draw(2, (3,)).data, jrnn.Stack((jrnn.GRU(HIDDEN), jrnn.LSTM(2)))
    params = cell.init(jax.random.key(0), IN)
    valid = d["mask"] & (np.arange(STEPS)[:, None] < d["lengths"])
    xs = jnp.asarray(d["xs"], jnp.float32)
    assert not valid.all()

    @functools.partial(jax.jit, static_argnames="reverse")
    def run(params, xs, reverse):
        def loss(params, xs):
            options = {name: d[name] for name in ("lengths", "mask", "resets")}
            out = jrnn.unroll(cell, params, xs, **options, reverse=reverse)
            return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(out)), out

        return jax.grad(loss, (0, 1), has_aux=True)(params, xs)

    for poison, reverse in itertools.product((jnp.nan, jnp.inf, -1e38), (False, True)):
        dirty = jnp.where(valid[..., None], xs, poison)
        clean, given = run(params, xs, reverse), run(params, dirty, reverse)
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(clean), strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.any(np.asarray(given[0][1])[~valid]) and np.any(given[0][1])


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
    """A state on a ring of 5 places, each fed by its left neighbour; lengths name the rows only."""
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


@dataclass(frozen=True)
class Counting:
    """A cell that counts how often Python runs its step."""

    name: str
    out_features: int = 1

    def init(self, key, in_features):
        return jnp.ones(())

    def initial_carry(self, params, batch_shape=(), *, key=None):
        return jnp.zeros((*batch_shape, 1))

    def step(self, params, carry, x):
        COUNTS[self.name] = COUNTS.get(self.name, 0) + 1
        return carry + params * x, carry


COUNTS: dict[str, int] = {}


@pytest.mark.parametrize("method", [PLAIN, BLOCKS], ids=str)
def test_an_equal_cell_is_traced_once(method):
    name, xs = str(method), jnp.ones((9, 2, 1))
    options = {"lengths": jnp.array([9, 3]), "resets": jnp.zeros((9, 2), bool)}

    def run():
        jrnn.unroll(Counting(name), jnp.ones(()), xs, **options, method=type(method)(method.memory))

    run()
    once = COUNTS[name]
    run()
    run()
    assert COUNTS[name] == once
    assert once <= {"Scan(memory=None)": 2, "Scan(memory='sqrt')": 3}[name]  # one of them is the boundary's


def noisy_run(key=None, carry=None, cell=None):
    cell = cell or jrnn.Dropout(jrnn.LSTM(HIDDEN), input=0.5, state=0.5, output=0.5)
    params = cell.init(jax.random.key(0), IN)
    xs = jax.random.normal(jax.random.key(1), (STEPS, 4, IN))
    return cell, params, jrnn.unroll(cell, params, xs, carry, key=key)


def test_the_same_key_draws_the_same_noise():
    a, b, c, none = (noisy_run(key=k)[2][1] for k in (*map(jax.random.key, (1, 1, 2)), None))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c) and not np.array_equal(a, none)


def test_a_key_beside_a_carry_keeps_the_state_and_draws_the_noise_anew():
    cell, params, (middle, _) = noisy_run(key=jax.random.key(1))
    fresh = cell.initial_carry(params, (4,), key=jax.random.key(2))
    joined = middle._replace(key=fresh.key)
    given, needed = noisy_run(key=jax.random.key(2), carry=middle)[2], noisy_run(carry=joined)[2]
    for a, b in zip(jax.tree.leaves(given[0].cell), jax.tree.leaves(needed[0].cell), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(given[1], needed[1])
    as_it_stands = noisy_run(carry=middle)[2][1]
    np.testing.assert_array_equal(as_it_stands, noisy_run(carry=middle, key=None)[2][1])
    assert not np.array_equal(as_it_stands, given[1])


def test_quiet_takes_the_noise_out_and_keeps_state_and_context():
    cell, params, (middle, _) = noisy_run(key=jax.random.key(1))
    silent = jrnn.quiet(cell, params, middle)
    assert silent.key is None
    start = cell.initial_carry(params, (4,))._replace(cell=middle.cell)
    np.testing.assert_array_equal(noisy_run(carry=silent)[2][1], noisy_run(carry=start)[2][1])
    context = ATTENDING.initial_carry((), (4,))._replace(memory=jnp.ones(3))
    assert jrnn.quiet(ATTENDING, (), context).memory is context.memory


class Attending(NamedTuple):
    h: Any
    memory: Any  # context: None until something fills it


ATTENDING = jrnn.from_functions(
    init=lambda key, n: (),
    initial_carry=lambda p, batch_shape=(), *, key=None: Attending(jnp.zeros((*batch_shape, 1)), None),
    step=lambda p, c, x: (Attending(c.h + x * jnp.sum(c.memory, -1, keepdims=True), c.memory), c.h),
    out_features=1,
)


def scans(jaxpr):
    """Every scan of a jaxpr, nested ones as well."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from scans(inner)


def carried(scan):
    """Leaves that the loop carries; JAX says it in another parameter since 0.12."""
    params = scan.params
    return params["num_carry"] if "num_carry" in params else len(params["ft_in"].unpack()[1])


@pytest.mark.parametrize("flagged", [False, True])
def test_slots_are_constants_of_the_loop(flagged):
    xs = jnp.ones((STEPS, 4, 1))
    options = {"lengths": jnp.array([7, 0, 2, 3]), "resets": jnp.zeros((STEPS, 4), bool)} if flagged else {}
    dropout = jrnn.Dropout(jrnn.LSTM(HIDDEN), state=0.5)
    params = dropout.init(jax.random.key(0), 1)
    program = jax.make_jaxpr(lambda p, k: jrnn.unroll(dropout, p, xs, key=k, **options))
    (scan,) = scans(program(params, jax.random.key(0)).jaxpr)
    assert carried(scan) == 2  # h and c, neither the key nor the parameters
    start = Attending(jnp.zeros((4, 1)), jnp.ones((4, 5)))
    program = jax.make_jaxpr(lambda m: jrnn.unroll(ATTENDING, (), xs, start._replace(memory=m), **options))
    (scan,) = scans(program(start.memory).jaxpr)
    assert carried(scan) == 1
    end, _ = jrnn.unroll(ATTENDING, (), xs, start, **options)
    np.testing.assert_array_equal(end.memory, start.memory)
    np.testing.assert_array_equal(end.h[:, 0], [35, 0, 10, 15] if flagged else [35] * 4)


def test_state_that_the_step_hands_on_is_a_constant_of_the_loop():
    program = jax.make_jaxpr(
        lambda m: jrnn.unroll(HANDS_ON, (), jnp.ones((STEPS, 4, 1)), (m, m), lengths=jnp.array([7, 0, 2, 3]))
    )
    (scan,) = scans(program(jnp.ones((4, 1))).jaxpr)
    assert carried(scan) == 1


HANDS_ON = jrnn.from_functions(
    init=lambda key, n: (),
    initial_carry=lambda p, batch_shape=(), *, key=None: (jnp.zeros((*batch_shape, 1)),) * 2,
    step=lambda p, c, x: ((c[0] + c[1] * x, c[1]), c[0]),
    out_features=1,
)


# several devices

ON_DEVICES = """
import jax, jax.numpy as jnp, numpy as np, jrnn
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

cell = jrnn.Stack((jrnn.GRU(3), jrnn.LSTM(2)))
params = cell.init(jax.random.key(0), 2)
T, B = 5, 4
xs = jax.random.normal(jax.random.key(1), (T, B, 2))
flags = {"lengths": jnp.array([5, 0, 3, 4]), "mask": jax.random.bernoulli(jax.random.key(2), 0.7, (T, B)),
         "resets": jax.random.bernoulli(jax.random.key(3), 0.4, (T, B))}
specs = {"lengths": P("data"), "mask": P(None, "data"), "resets": P(None, "data")}

def both(params, xs, flags):
    return tuple(jrnn.unroll(cell, params, xs, **flags, reverse=r) for r in (False, True))

def derivative(run):
    def loss(params, xs, flags):
        out = run(params, xs, flags)
        return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(out)), out
    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

def same(given, needed):
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

needed = derivative(both)(params, xs, flags)
for n in (2, 4):
    devices = jax.devices()[:n]
    mesh = jax.make_mesh((n,), ("data",), axis_types=(AxisType.Explicit,), devices=devices)
    with jax.set_mesh(mesh):
        put = lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec))
        sharded = put(xs, P(None, "data"))
        everywhere = jax.tree.map(lambda a: put(a, P()), params)
        split = {name: put(a, specs[name]) for name, a in flags.items()}
        given = derivative(both)(everywhere, sharded, split)
        same(given, needed)
        assert "data" in str(jax.typeof(given[0][1][0][1]).sharding.spec), "the output is not sharded"
        if n == 2:  # eagerly, and with flags and parameters that nobody put on the mesh
            same(both(everywhere, sharded, split), needed[0][1])
            same(derivative(both)(params, sharded, flags), needed)
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
mapped = jax.shard_map(both, mesh=mesh, in_specs=(P(), P(None, "data"), specs),
                       out_specs=((P("data"), P(None, "data")),) * 2)
same(derivative(mapped)(params, xs, flags), needed)
print("equal")
"""


def test_several_devices_equal_one():
    """Explicit meshes of two and four devices, and `shard_map`, with every option, forward and gradient."""
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run([sys.executable, "-c", ON_DEVICES], env=environment, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr[-3000:]
