"""Paradigms: every way from sequences to answers, against the same thing written out."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn

IN, STEPS, BATCH = 2, 5, 4
LENGTHS = np.array([5, 2, 0, 3], np.int32)
VALID = np.arange(STEPS)[:, None] < LENGTHS
XS = np.random.default_rng(0).normal(size=(STEPS, BATCH, IN)).astype(np.float32)
LOOP = jrnn.Stack((jrnn.Elman(4), jrnn.Dense(IN)))  # reads what it writes


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def drawn(model, in_features=IN):
    """Random parameters, biases too."""
    rng, spec = np.random.default_rng(1), jax.eval_shape(lambda: model.init(jax.random.key(0), in_features))
    return jax.tree.map(lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape), a.dtype), spec)


def close(given, needed, tolerance=2e-6):
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


same = partial(close, tolerance=0)


@partial(jax.jit, static_argnums=0)
def run(model, params, xs=XS, carry=None, **options):
    return jrnn.apply(model, params, xs, carry, **options)


def by_hand(params, x, h=None):
    """One step of `LOOP` in NumPy: (state, output)."""
    elman, dense = jax.tree.map(np.asarray, params)
    h = np.tanh(x @ elman.w_ih + (0 if h is None else h @ elman.w_hh) + elman.b)
    return h, h @ dense.w + dense.b


def test_one_step_is_a_feed_forward_network(x64):
    params, x = drawn(LOOP), XS[0].astype(float)
    np.testing.assert_allclose(run(LOOP, params, x[None])[1][0], by_hand(params, x)[1], rtol=1e-13)


# many to one


def test_last_is_the_output_of_the_last_valid_step():
    ys = {"a": XS, "b": np.arange(STEPS * BATCH, dtype=np.int32).reshape(STEPS, BATCH)}
    needed = np.array([4, 1, 0, 2])
    for given in (jrnn.last(ys, LENGTHS), jrnn.last(ys, mask=VALID), jax.jit(jrnn.last)(ys, LENGTHS)):
        for name in ys:
            assert given[name].dtype == ys[name].dtype
            for row, step in enumerate(needed):
                same(given[name][row], ys[name][step, row] if LENGTHS[row] else 0 * ys[name][0, row])
    same(jrnn.last(ys), jax.tree.map(lambda a: a[-1], ys))
    holes = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]], bool)
    same(jrnn.last(ys["b"], mask=holes), np.array([4, 17, 2, 0]))
    same(jrnn.last(ys["b"], LENGTHS, mask=holes), np.array([4, 5, 0, 0]))
    same(jrnn.last(XS[:0]), np.zeros((BATCH, IN)))
    poisoned = np.where(VALID[..., None], XS, np.nan)
    gradient = jax.grad(lambda ys: jnp.sum(jrnn.last(ys, LENGTHS)))(poisoned)
    assert np.all(np.isfinite(gradient)) and gradient.sum() == 3 * IN
    with pytest.raises(ValueError, match=r"^ys must have a leading time axis, got a scalar$"):
        jrnn.last(np.float32(1))
    with pytest.raises(ValueError, match=r"^lengths must lie between 0 and the 5 steps of xs, got 1 to 6$"):
        jrnn.last(XS, [1, 2, 3, 6])


FORWARD, BACKWARD = jrnn.LSTM(3), jrnn.GRU(3)
MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], -1),
    "sum": np.add,
    "mul": np.multiply,
    "mean": lambda a, b: (a + b) / 2,
}


@partial(jax.jit, static_argnums=0)
def read(model, params, xs=XS, **options):
    return jrnn.many_to_one(model, params, xs, **options)


@pytest.mark.parametrize("merge", MERGES)
def test_both_ends_of_a_bidirectional_layer_behind_others_and_before_dense_ones(merge):
    layer = jrnn.Bidirectional(FORWARD, BACKWARD, merge=merge)
    model = jrnn.Sequential(
        (jrnn.Elman(4), layer, jrnn.Dense(6, activation="tanh"), jrnn.Sequential((jrnn.Dense(2),)))
    )
    params = drawn(model)
    poisoned = np.where(VALID[..., None], XS, np.nan)
    carry, y = read(model, params, poisoned, lengths=LENGTHS)
    hidden = run(model.layers[0], params[0], lengths=LENGTHS)[1]
    a = run(FORWARD, params[1].forward, hidden)[1]
    needed = np.zeros((BATCH, model.layers[1].out_features), np.float32)
    for row, n in enumerate(LENGTHS):
        if n:
            backward = jrnn.unroll(BACKWARD, params[1].backward, hidden[:n, row], reverse=True)[1]
            needed[row] = MERGES[merge](a[n - 1, row], backward[0])
    for w, bias, f in ((*params[2], np.tanh), (*params[3][0], lambda v: v)):
        needed = f(needed @ np.asarray(w) + np.asarray(bias))
    close(y, needed)
    ends = run(model, params, lengths=LENGTHS)[0]
    close(carry[:2], ends[:2])


@pytest.mark.parametrize("how", ["mean", "max"])
def test_mean_and_maximum_are_those_of_the_valid_steps(how):
    model = jrnn.Sequential((jrnn.Bidirectional(jrnn.GRU(3)), jrnn.Dense(2)))
    params, poisoned = drawn(model), np.where(VALID[..., None], XS, np.nan)
    ys = np.asarray(run(model.layers[0], params[0], lengths=LENGTHS)[1])
    w, b = map(np.asarray, params[1])
    needed = [getattr(ys[:n, row], how)(0) if n else np.zeros(6) for row, n in enumerate(LENGTHS)]
    close(
        run(jrnn.ManyToOne(model, read=how), params, poisoned, lengths=LENGTHS)[1], np.array(needed) @ w + b
    )
    close(
        run(jrnn.ManyToOne(model, read=how), params)[1],
        getattr(run(model.layers[0], params[0])[1], how)(0) @ w + b,
    )
    gradient = jax.grad(
        lambda p: jnp.sum(run(jrnn.ManyToOne(model, read=how), p, poisoned, lengths=LENGTHS)[1])
    )
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient(params)))


def test_a_mean_is_summed_in_float32_or_wider():
    model, xs = jrnn.Map("identity", 2), jnp.full((1000, 1, 2), 100, jnp.float16)
    for options in ({}, {"lengths": np.array([900])}):
        with jax.numpy_dtype_promotion("strict"):
            found = jrnn.many_to_one(model, (), xs, read="mean", **options)[1]
        assert found.dtype == jnp.float16 and found.tolist() == [[100, 100]]


def test_many_to_one_of_a_cell_and_of_a_stack_of_maps():
    cell = jrnn.LSTM(3)
    params = drawn(cell)
    for row, n in enumerate(LENGTHS):
        if n:
            needed = jrnn.unroll(cell, params, XS[:n, row])
            carry, y = read(cell, params, lengths=LENGTHS)
            close((jax.tree.map(lambda a, r=row: a[r], carry), y[row]), (needed[0], needed[1][-1]))
    maps = jrnn.Sequential((jrnn.Dense(3, activation="tanh"), jrnn.Dense(2)))
    params = drawn(maps)
    hidden = np.tanh(XS @ np.asarray(params[0].w) + np.asarray(params[0].b))
    ends = np.array([hidden[n - 1, row] if n else np.zeros(3) for row, n in enumerate(LENGTHS)])
    close(read(maps, params, lengths=LENGTHS)[1], ends @ np.asarray(params[1].w) + np.asarray(params[1].b))


def test_noise_of_many_to_one_is_that_of_apply():
    model = jrnn.Sequential((jrnn.Dropout(jrnn.GRU(3), output=0.5), jrnn.Dropout(jrnn.Dense(4), output=0.5)))
    params, key = drawn(model), jax.random.key(0)
    ys = run(model, params, key=key)[1]
    close(read(model, params, key=key)[1], ys[-1])
    assert np.any(ys[-1] == 0) and not np.any(run(model, params)[1] == 0)


def test_a_classifier_as_a_layer():
    inner = jrnn.Bidirectional(jrnn.GRU(3))
    layer, params = jrnn.ManyToOne(inner), drawn(inner)
    assert (layer.in_ndim, layer.out_features) == (1, 6)
    same(run(layer, params, lengths=LENGTHS), read(inner, params, lengths=LENGTHS))
    with pytest.raises(ValueError, match=r"^ManyToOne takes no resets: there is one output per sequence$"):
        jrnn.apply(layer, params, XS, resets=np.zeros((STEPS, BATCH), bool))
    with pytest.raises(ValueError, match=r"^ManyToOne: read must be one of ends, mean, max, got 'last'$"):
        jrnn.ManyToOne(inner, read="last")
    with pytest.raises(TypeError, match=r"^ManyToOne: model must be a cell, got the class GRU: call it, as"):
        jrnn.ManyToOne(jrnn.GRU)


# one to many


@pytest.mark.parametrize("then", ["zeros", "repeat", "output"])
def test_one_to_many_is_the_recurrence(then, x64):
    params, x = drawn(LOOP), XS[0].astype(float)
    for start in (None, XS[1, :, :1].astype(float) * np.ones(4)):
        h, y, needed = start, None, []
        for t in range(STEPS):
            u = x if t == 0 or then == "repeat" else 0 * x if then == "zeros" else y
            h, y = by_hand(params, u, h)
            needed.append(y)
        carry = None if start is None else LOOP.initial_carry(params, (BATCH,))._replace(cells=(start, ()))
        end, ys = jax.jit(partial(jrnn.one_to_many, LOOP, steps=STEPS, then=then))(params, x, carry=carry)
        np.testing.assert_allclose(ys, needed, rtol=1e-12)
        np.testing.assert_allclose(end.cells[0], h, rtol=1e-12)


def test_one_to_many_of_no_batch_and_no_steps():
    params = drawn(LOOP)
    for steps, then in itertools.product((0, 1, 3), ("zeros", "repeat", "output")):
        shape = jax.eval_shape(partial(jrnn.one_to_many, LOOP, steps=steps, then=then), params, XS[0, 0])[1]
        assert shape.shape == (steps, IN)


# delayed


@pytest.mark.parametrize("delay", [0, 2, STEPS])
def test_delayed_is_padding_with_zeros_and_dropping_the_first_answers(delay):
    for model in (jrnn.GRU(3), jrnn.Bidirectional(jrnn.GRU(3))):
        params = drawn(model)
        late = jax.jit(partial(jrnn.delayed, model, delay=delay))
        poisoned = np.where(VALID[..., None], XS, np.nan)
        end, ys = late(params, poisoned, lengths=LENGTHS)
        for row, n in enumerate(LENGTHS):
            if n:
                longer = np.concatenate([XS[:n, row], np.zeros((delay, IN), np.float32)])
                last, needed = run(model, params, longer)
                close(ys[:n, row], needed[delay:])
                close(jax.tree.map(lambda a, r=row: a[r], end), last)
            assert not np.any(ys[n:, row])
        longer = np.concatenate([XS, np.zeros((delay, BATCH, IN), np.float32)])
        close(late(params, XS)[1], run(model, params, longer)[1][delay:])


@pytest.mark.parametrize(
    "kind", [list, partial(np.asarray, dtype=np.int8), partial(np.asarray, dtype=np.uint64)]
)
def test_lengths_of_any_kind_do_not_overflow_when_a_delay_is_added(kind):
    xs = jnp.ones((120, 2, 1))
    ys = jrnn.delayed(jrnn.Window(0, 1), (), xs, 20, lengths=kind([120, 90]))[1]
    np.testing.assert_array_equal(ys[..., 0].sum(0), [100, 70])


def test_an_answer_sees_as_far_ahead_as_it_is_late(x64):
    cell = jrnn.GRU(3)
    params = drawn(cell)
    for delay in range(3):
        outputs = lambda xs, d=delay: jrnn.delayed(cell, params, xs, d)[1].sum(-1)
        sees = np.any(np.asarray(jax.jit(jax.jacobian(outputs))(XS[:, 0].astype(float))), -1)
        np.testing.assert_array_equal(sees, np.arange(STEPS) <= np.arange(STEPS)[:, None] + delay)


@pytest.mark.parametrize(
    ("delay", "ahead", "solvable"), [(0, 1, False), (1, 1, True), (2, 1, True), (0, 0, True)]
)
def test_looking_ahead_needs_a_delay(delay, ahead, solvable):
    """The best linear answer from a window of three inputs, to xₜ₊ahead: exact, or as good as none."""
    xs = np.random.default_rng(0).choice([-1.0, 1.0], (400, 1)).astype(np.float32)
    features = np.asarray(jrnn.delayed(jrnn.Window(2, 1), (), xs, delay)[1])[: len(xs) - ahead]
    targets = xs[ahead:]
    answers = features @ np.linalg.lstsq(features, targets)[0]
    error = np.mean((answers - targets) ** 2)
    assert error < 1e-10 if solvable else error > 0.95


# autoregressive

WORDS = jrnn.Stack((jrnn.Embed(2), jrnn.LSTM(3), jrnn.Dense(3)))


def test_probabilities_of_all_sequences_sum_to_one_and_are_products(x64):
    params, sequences = drawn(WORDS, 3), np.array(list(itertools.product(range(3), repeat=3))).T
    logits = jax.jit(partial(jrnn.autoregressive, WORDS, start=2))(params, sequences)[1]
    picked = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), sequences[..., None], -1)[..., 0]
    np.testing.assert_allclose(np.exp(picked.sum(0)).sum(), 1, rtol=1e-12)
    given = jax.jit(lambda before: jax.nn.log_softmax(jrnn.unroll(WORDS, params, before)[1][-1]))
    for prefix in ((), (1,), (0, 2)):  # each factor from a run of its own
        row = list(map(tuple, sequences.T[:, : len(prefix)])).index(prefix)
        needed = given(np.array([2, *prefix]))
        np.testing.assert_allclose(jax.nn.log_softmax(logits[len(prefix), row]), needed, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 3])
def test_a_model_of_order_m_sees_m_steps(order, x64):
    model = jrnn.Stack((jrnn.Window(order - 1, IN), jrnn.Dense(4, activation="tanh"), jrnn.Dense(1)))
    params = drawn(model)
    outputs = lambda xs: jrnn.autoregressive(model, params, xs)[1][..., 0]
    sees = np.any(np.asarray(jax.jit(jax.jacobian(outputs))(XS[:, 0].astype(float))), -1)
    back = np.arange(STEPS)[:, None] - np.arange(STEPS)
    np.testing.assert_array_equal(sees, (back >= 1) & (back <= order))


def test_a_linear_model_of_order_two_finds_the_coefficients():
    xs = [1.0, 0.5]
    for _ in range(40):
        xs.append(1.6 * xs[-1] - 0.9 * xs[-2])
    xs = np.array(xs, np.float32)[:, None]
    features = np.asarray(jrnn.autoregressive(jrnn.Window(1, 1), (), xs)[1])
    np.testing.assert_allclose(np.linalg.lstsq(features[2:], xs[2:])[0][:, 0], [1.6, -0.9], rtol=1e-5)


def test_what_stands_before_the_first_step_and_behind_the_last():
    window, first = jrnn.Window(0, IN), np.array([3.0, 4.0], np.float32)
    for start, needed in ((0, np.zeros(IN)), (first, first), (7.0, np.full(IN, 7))):
        _, ys = jrnn.autoregressive(window, (), XS, start=start, lengths=LENGTHS)
        late = np.concatenate([np.broadcast_to(needed, (1, BATCH, IN)), XS[:-1]])
        same(ys, np.where(VALID[..., None], late, 0))
    assert jrnn.autoregressive(window, (), XS[:0])[1].shape == (0, BATCH, IN)
    model = jrnn.Stack((jrnn.Embed(2), jrnn.Dense(3)))
    params, tokens = drawn(model, 3), np.array([1, 0])
    close(
        jrnn.autoregressive(model, params, tokens, start=2)[1],
        jrnn.unroll(model, params, np.array([2, 1]))[1],
    )


# forecast


def test_a_forecast_is_a_closed_loop(x64):
    params, xs = drawn(LOOP), XS.astype(float)
    end, ys = jax.jit(partial(jrnn.forecast, LOOP, steps=4))(params, xs, lengths=LENGTHS)
    for row, n in enumerate(LENGTHS):
        h, y = np.zeros(4), np.zeros(IN)  # of a past without a step nothing is known
        for x in xs[:n, row]:
            h, y = by_hand(params, x, h)
        needed = [y]
        for _ in range(3):
            h, y = by_hand(params, y, h)
            needed.append(y)
        np.testing.assert_allclose(ys[:, row], needed, rtol=1e-12)
        np.testing.assert_allclose(end.cells[0][row], h, rtol=1e-12)
    _, ends = jax.jit(partial(jrnn.forecast, LOOP, steps=1))(params, xs[:, 0])
    np.testing.assert_allclose(ends, ys[:1, 0], rtol=1e-12)
    carry, _ = jrnn.unroll(LOOP, params, xs[:2, 0])
    resumed = jax.jit(partial(jrnn.forecast, LOOP, steps=4))(params, xs[2:, 0], carry=carry)[1]
    np.testing.assert_allclose(resumed, ys[:, 0], rtol=1e-12)


def test_noise_of_a_forecast_follows_from_its_key():
    cell = jrnn.Stack((jrnn.GRU(6), jrnn.Dense(6), jrnn.Dense(IN)), dropout=0.5)
    predict = jax.jit(partial(jrnn.forecast, cell, steps=6))
    params = drawn(cell)
    a, b, none = (predict(params, XS, key=k)[1] for k in (jax.random.key(0), jax.random.key(0), None))
    same(a, b)
    assert not np.allclose(a, none)
    assert np.all(np.any(a[1:] != predict(params, XS, key=jax.random.key(1))[1][1:], -1))


ERRORS = [
    (lambda: jrnn.autoregressive(jrnn.Sequential((jrnn.Bidirectional(jrnn.GRU(2)),)), None, XS), ValueError,
     r"^autoregressive: Sequential\(.* looks ahead, so it would see what it has to predict$"),
    (lambda: jrnn.one_to_many(jrnn.Bidirectional(LOOP), None, XS[0], 3), TypeError,
     r"^one_to_many: cell must be a cell, got Bidirectional"),
    (lambda: jrnn.one_to_many(LOOP, None, XS[0], -1), ValueError, "^steps must be .* 0 or more, got -1$"),
    (lambda: jrnn.one_to_many(LOOP, None, XS[0], 3, then="noise"), ValueError,
     r"^then must be one of zeros, repeat, output, got 'noise'$"),
    (lambda: jrnn.one_to_many(jrnn.GRU(4), drawn(jrnn.GRU(4)), XS[0], 3, then="output"), ValueError,
     r"given has shape \(4, 2\), the fed back output has shape \(4, 4\)"),
    (lambda: jrnn.delayed(LOOP, None, XS, -2), ValueError, "^delay must be .* 0 or more, got -2$"),
    (lambda: jrnn.delayed(LOOP, None, XS, 1, lengths=[9, 0, 0, 0]), ValueError,
     "^lengths must lie between 0 and the 5 steps of xs, got 0 to 9$"),
    (lambda: jrnn.forecast(LOOP, None, XS, 0), ValueError, "^steps must be at least 1, got 0$"),
    (lambda: jrnn.forecast(jrnn.GRU(4), drawn(jrnn.GRU(4)), XS, 3), ValueError,
     r"^forecast: the output of GRU\(.*\) has shape \(4, 4\), needs \(4, 2\), the shape of a step of xs, "
     r"which it predicts: append Dense\(2\)(\n|$)"),
    (lambda: jrnn.many_to_one(LOOP, None, XS, read="middle"), ValueError,
     r"^read must be one of ends, mean, max, got 'middle'$"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[m[:30] for _, _, m in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_forecast_keeps_one_mask_for_past_and_future():
    cell = jrnn.Dropout(jrnn.Elman(IN), state=0.5)
    params, key = drawn(cell), jax.random.key(3)
    carry, ys = cell.initial_carry(params, XS.shape[1:2], key=key), []
    for x in [*XS, None, None]:
        carry, y = cell.step(params, carry, ys[-1] if x is None else x)
        ys.append(y)
    close(jrnn.forecast(cell, params, jnp.asarray(XS), 3, key=key)[1], jnp.stack(ys[-3:]))


# outputs without a time axis


def test_delayed_leaves_alone_what_has_no_time():
    answer, tagger = jrnn.ManyToOne(jrnn.GRU(3)), jrnn.Sequential((jrnn.GRU(3), jrnn.CRF(3)))
    late = lambda model, xs: jrnn.delayed(model, drawn(model), xs, 2)[1]
    longer = jnp.pad(XS, ((0, 2), (0, 0), (0, 0)))
    same(late(answer, XS), jrnn.apply(answer, drawn(answer), longer)[1])
    given, needed = late(tagger, XS), jrnn.apply(tagger, drawn(tagger), longer)[1]
    same(given, needed._replace(unaries=needed.unaries[2:]))


@pytest.mark.parametrize("model", [jrnn.ManyToOne(jrnn.GRU(3)), jrnn.Sequential((jrnn.GRU(3), jrnn.CRF(3)))])
def test_an_answer_is_not_read_twice(model):
    message = r"needs outputs at every step, which (ManyToOne|Sequential)\(.* does not have"
    with pytest.raises(ValueError, match=f"^many_to_one {message}"):
        jrnn.apply(jrnn.ManyToOne(model), drawn(model), XS)
    with pytest.raises(ValueError, match=f"^EncoderDecoder: encoder {message}"):
        jrnn.EncoderDecoder(model, jrnn.GRU(3))
