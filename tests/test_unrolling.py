"""`unroll` against a plain Python loop that is written from the contract: per row, per step."""

import functools
import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn

pytestmark = pytest.mark.engine

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


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_of_any_form_leaves_steps_that_are_undefined_at_zero(reverse):
    def step(w, h, x):
        values, token = x
        scaled = values / jnp.linalg.norm(values, axis=-1, keepdims=True) + jnp.log(jnp.square(values))
        h = jnp.tanh(w * h + scaled + jnp.eye(3)[token])
        return h, h

    rule = lambda w, batch, key=None: jnp.zeros((*batch, 3))
    cell = jrnn.from_functions(lambda key, features: jnp.full(3, 0.5), rule, step, 3)
    values = jax.random.normal(jax.random.key(1), (5, 4, 3))
    tokens = jax.random.randint(jax.random.key(2), (5, 4), 0, 3)
    # padding before, between, after, and nothing else
    mask = jnp.asarray([[0, 1, 1, 0], [0, 0, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]], bool)

    def loss(w, values, mask, tokens=tokens):
        xs = values, tokens
        return jnp.sum(jnp.sin(jrnn.unroll(cell, w, xs, mask=mask, reverse=reverse)[1]))

    dirty = jnp.where(mask[..., None], values, 0)
    of_w, of_values = jax.grad(loss, (0, 1))(cell.init(jax.random.key(0), 3), dirty, mask)
    alone = []
    for row in range(3):
        kept = np.flatnonzero(mask[:, row])
        part = values[kept, row][:, None], jnp.ones((len(kept), 1), bool), tokens[kept, row][:, None]
        of_row, of_part = jax.grad(loss, (0, 1))(jnp.full(3, 0.5), *part)
        np.testing.assert_allclose(of_values[kept, row], of_part[:, 0], rtol=2e-5, atol=2e-5)
        alone.append(of_row)
    np.testing.assert_allclose(of_w, sum(alone), rtol=2e-5, atol=2e-5)
    assert not of_values[~mask].any()
