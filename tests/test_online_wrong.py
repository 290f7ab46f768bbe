"""Gradients forward in time of steps and streams of unusual form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn import RFLO, RTRL, UORO, EProp, KroneckerRTRL, Online, SnAp, Truncated
from jrnn.losses import mean_squared_error
from tests.online import METHODS, ROWS, drawn, free, total

STEPS = 3


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def made(step, start=None, **more):
    """A cell of two functions, its parameters, inputs (3, 2, 3) and targets (3, 2, 4)."""
    params = {"w": 0.5 * jnp.sin(jnp.arange(12.0)).reshape(3, 4), "a": jnp.linspace(0.3, 0.9, 4), **more}
    start = jnp.zeros(4) if start is None else start

    def initial(params, batch_shape=(), *, key=None):
        carry = start(params) if callable(start) else start
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (*batch_shape, *a.shape)), carry)

    cell = jrnn.from_functions(lambda key, n: params, initial, step, 4)
    keys = jax.random.split(jax.random.key(0), 2)
    xs, targets = jax.random.normal(keys[0], (STEPS, ROWS, 3)), jax.random.normal(keys[1], (STEPS, ROWS, 4))
    return cell, params, xs, targets


def backpropagated(cell, params, xs, targets, valid=None, loss=mean_squared_error):
    def whole(params):
        ys = jrnn.unroll(cell, params, xs, mask=valid)[1]
        return sum(loss(ys[t], targets[t], None if valid is None else valid[t]) for t in range(len(xs)))

    return jnp.concatenate([g.ravel() for g in free(jax.jit(jax.grad(whole))(params))])


def forward(cell, method, params, *args, loss=mean_squared_error):
    return jax.jit(functools.partial(total, Online(cell, loss, method)))(params, *args)


def close(got, want, tolerance=1e-10):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def new(params, h, x):
    return jnp.tanh(h * params["a"] + x @ params["w"])


def reshaped(params, h, x):
    after = new(params, h.reshape(*h.shape[:-2], 4), x)
    return after.reshape(h.shape), after


def scaled(params, h, x):
    after = new(params, h, x)
    return 1.5 * after, 2 * after


def twice(params, carry, x):
    after = new(params, carry[1], x)
    return (after, after), after


def previous(params, h, x):
    return new(params, h, x), h + x @ params["w"]


@pytest.mark.parametrize(
    "step, start",
    [(reshaped, jnp.zeros((2, 2))), (scaled, None), (twice, 2 * (jnp.zeros(4),)), (previous, None)],
)
def test_outputs_need_not_read_the_very_value_that_is_carried(step, start):
    """Without products of weights with the state e-prop is exact."""
    cell, params, xs, targets = made(step, start)
    want = backpropagated(cell, params, xs, targets)
    close(forward(cell, EProp(), params, xs, targets), want)
    assert (forward(cell, RFLO(), params, xs, targets) != 0).all()


def test_a_copy_changes_nothing():
    """Of units with recurrent weights the derivative by the state after a step counts, not before it."""

    def step(copy, params, h, x):
        after = jnp.tanh(h.reshape(*x.shape[:-1], 4) @ params["u"] + x @ params["w"])
        return copy(after), after

    plain, copied = (functools.partial(step, f) for f in (lambda h: h, lambda h: jnp.stack([h])[0]))
    found = []
    for each in (plain, copied):
        cell, params, xs, targets = made(each, u=jnp.cos(jnp.arange(16.0)).reshape(4, 4))
        found.append([forward(cell, m, params, xs[:, 0], targets[:, 0]) for m in (EProp(), RFLO())])
    close(found[0], found[1])


def test_random_feedback_reaches_a_state_that_outputs_read_before_the_step():
    """In an MC-LSTM what leaves, o m, is not read from what stays, (1 − o) m."""
    cell = jrnn.MassConservingLSTM(2)
    params, xs, targets = drawn(cell, width=2, steps=2, rows=())
    assert (forward(cell, RFLO(), params, xs, targets) != 0).all()


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_padding_may_be_anything_for_a_step_without_a_derivative_at_zero(method):
    """Steps of some rows, and of none."""

    def step(params, h, x):
        x = x / jnp.linalg.norm(x @ params["w"], axis=-1, keepdims=True)
        after = jnp.tanh(h * params["a"] + x @ params["w"])
        return after, after * (x @ params["w"])

    cell, params, xs, targets = made(step)
    valid = jnp.array([[True, True], [False, False], [False, True]])
    nan, seven = (jnp.where(valid[..., None], xs, a) for a in (jnp.nan, 7.0))
    found = forward(cell, method, params, nan, targets, valid)
    assert jnp.isfinite(found).all() and (found != 0).any()
    if isinstance(method, (RTRL, Truncated)):
        close(found, backpropagated(cell, params, xs, targets, valid))
    unmasked = [forward(cell, method, params, a, targets, valid, loss=squares) for a in (nan, seven)]
    close(unmasked[0], unmasked[1])


def squares(y, target, mask):
    return ((y - target) ** 2).sum()


def test_fixed_weights_are_weights():
    """A reservoir whose inputs learn: traces of each of 12 weights, on its own unit."""

    def step(params, h, x):
        after = jnp.tanh(h @ params["fixed"]["u"] + x @ params["w"])
        return after, after

    cell, params, xs, _ = made(step, fixed={"u": jnp.ones((4, 4))})
    for method in (EProp(), RFLO()):
        assert Online(cell, mean_squared_error, method).influence_bytes(params, xs[0, 0]) == 12 * 8


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_given_carry_may_be_reset_to_a_learned_one(method):
    def step(params, h, x):
        after = new(params, h, x)
        return after, after

    cell, params, xs, targets = made(step, lambda params: params["h"], h=jnp.ones(4))
    online = Online(cell, mean_squared_error, method)
    state = online.init(params, xs[0], carry=jnp.zeros((ROWS, 4)))
    found = []
    for t, reset in enumerate((False, True, False)):
        *state, _, gradient = jax.jit(online.step)(
            *state, params, xs[t], targets[t], reset=jnp.full(ROWS, reset)
        )
        found.append(gradient["h"])
    assert (found[0] == 0).all() and (found[1] != 0).all()
    if isinstance(method, (RTRL, SnAp, EProp, Truncated)):
        want = forward(cell, RTRL(), params, xs[1:], targets[1:])
        close(sum(found), want.reshape(-1)[4:8])


@pytest.mark.parametrize("method", [UORO(), KroneckerRTRL()], ids=str)
def test_a_state_may_be_narrower_than_parameters(method):
    cell = jrnn.Cast(jrnn.Elman(3))
    params, x = cell.init(jax.random.key(0), 3), jnp.ones((2, 3))
    params = jax.tree.map(lambda a: a.astype("float32"), params)
    online = Online(cell, mean_squared_error, method)
    state = jax.eval_shape(online.init, params, x)
    after = jax.eval_shape(online.step, *state, params, x, jnp.zeros((2, 3)))
    types = functools.partial(jax.tree.map, lambda a: (a.shape, a.dtype))
    assert types(after[0]) == types(state[0]) and types(after[3]) == types(params)


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: jnp.einsum("i,ij->ij", x, w).sum(0),
        lambda x, w: jax.lax.dot_general(x, w, (((), ()), ((), ()))).sum((0, 1)),
        lambda x, w: jnp.tensordot(jnp.outer(x, jnp.ones(4)), w, 2),
    ],
    ids=["batch", "outer", "two"],
)
def test_products_of_matrices_in_other_ways_are_kept_in_full(product):
    def step(params, h, x):
        after = jnp.tanh(h * params["a"] + product(x, params["w"]) ** 2)
        return after, after

    cell, params, xs, targets = made(step)
    found = [forward(cell, m, params, xs[:, 0], targets[:, 0]) for m in (KroneckerRTRL(), RTRL())]
    close(found[0], found[1])


def test_buffers_are_donated_without_rows():
    online = Online(jrnn.LSTM(2), mean_squared_error, SnAp(1))
    params, x = online.cell.init(jax.random.key(0), 3), jnp.ones(3)
    state = online.init(params, x)
    buffers = [a.unsafe_buffer_pointer() for a in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)
    jax.jit(online.step, donate_argnums=(0, 1))(*state, params, x, jnp.zeros(2))


def test_a_given_carry_is_checked_and_promoted():
    online = Online(jrnn.GRU(3), mean_squared_error, RTRL())
    params, x = online.cell.init(jax.random.key(0), 2), jnp.ones((2, 2))
    _, carry = online.init(params, x, carry=jnp.ones((2, 3), "float16"))
    assert carry.dtype == jnp.promote_types(x.dtype, jax.tree.leaves(params)[0].dtype)
    for given, message in (
        (jnp.ones((2, 1)), "carry does not fit"),
        ((jnp.ones((2, 3)), jnp.ones((2, 3))), "carry does not"),
        (jnp.ones(3), "needs the 2 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            online.init(params, x, carry=given)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_stream_starts_from_the_type_of_its_inputs(method):
    online = Online(jrnn.Elman(2), mean_squared_error, method)
    params = online.cell.init(jax.random.key(0), 3)
    types = functools.partial(jax.tree.map, lambda a: (a.shape, a.dtype))
    found = [online.init(params, x) for x in (jnp.ones((2, 3)), jax.ShapeDtypeStruct((2, 3), float))]
    assert types(found[0]) == types(found[1])


def test_a_step_without_a_backward_derivative_is_named_at_the_start():
    def step(params, h, x):
        after = jax.lax.while_loop(lambda h: (h > 0.5).any(), jnp.tanh, new(params, h, x))
        return after, after

    cell, params, xs, _ = made(step)
    for method in METHODS:
        with pytest.raises(ValueError, match=r"^Online cannot run .*derivative: .*lax.while_loop"):
            Online(cell, mean_squared_error, method).init(params, xs[0])


@pytest.mark.parametrize("method", [UORO(), KroneckerRTRL()], ids=str)
def test_random_signs_do_not_depend_on_x64(method):
    cell, found = jrnn.Elman(3), []
    params = jax.tree.map(lambda a: a.astype("float32"), cell.init(jax.random.key(0), 3))
    online, x = Online(cell, mean_squared_error, method), np.ones((2, 3), "f4")
    for wide in (False, True):
        with jax.enable_x64(wide):
            state = online.init(params, x)
            for _ in range(3):
                *state, _, gradient = jax.jit(online.step)(*state, params, x, -x)
        found.append(gradient.w_hh)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_batch_of_no_rows_has_a_gradient_of_zeros(method):
    cell = jrnn.Stack((jrnn.GRU(2), jrnn.Dense(4)))
    params, x = cell.init(jax.random.key(0), 3), jnp.ones((0, 3))
    online = Online(cell, mean_squared_error, method)
    *_, loss, gradient = jax.jit(online.step)(*online.init(params, x), params, x, jnp.ones((0, 4)))
    assert loss == 0 and all((g == 0).all() for g in jax.tree.leaves(gradient))


NOISY = jrnn.Stack(
    (
        jrnn.Embed(3),
        jrnn.Zoneout(jrnn.Elman(2), rates=0.5),
        jrnn.Dropout(jrnn.GRU(2), input=0.5, state=0.5, output=0.5),
        jrnn.Dense(4),
    )
)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_tokens_and_noise(method):
    """Each row has noise of its own."""
    params, key = NOISY.init(jax.random.key(0), 5), jax.random.key(3)
    tokens = jax.random.randint(jax.random.key(1), (STEPS, ROWS), 0, 5)
    targets = jax.random.normal(jax.random.key(2), (STEPS, ROWS, 4))
    online = Online(NOISY, mean_squared_error, method)
    found = jax.jit(functools.partial(total, online))(params, tokens, targets, key=key)
    assert jnp.isfinite(found).all() and (found != 0).any()
    if method not in (RTRL(), Truncated(3)):
        return

    def whole(params):
        _, carry = online.init(params, tokens[0], key=key)
        rows = jax.vmap(lambda carry, x: jrnn.unroll(NOISY, params, x, carry)[1], (0, 1), 1)(carry, tokens)
        return sum(mean_squared_error(rows[t], targets[t]) for t in range(STEPS))

    close(found, jnp.concatenate([g.ravel() for g in free(jax.jit(jax.grad(whole))(params))]))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_axes_inside_of_a_row(method):
    """A row is a line of places, with channels."""
    cell = jrnn.ConvLSTM(2, spatial=1)
    params, keys = cell.init(jax.random.key(0), 1), jax.random.split(jax.random.key(1), 2)
    xs, targets = (jax.random.normal(k, (STEPS, ROWS, 4, n)) for k, n in zip(keys, (1, 2), strict=True))
    found = forward(cell, method, params, xs, targets)
    assert jnp.isfinite(found).all() and (found != 0).any()
    if method in (RTRL(), Truncated(3)):
        close(found, backpropagated(cell, params, xs, targets))


def test_outputs_that_read_two_recurrences_before_the_step_count_each_once():
    """The product a b of two leaky units: without paths through weights, e-prop is exact."""
    leaky = lambda r, s, x: r * jnp.tanh(s) + x
    cell = jrnn.from_functions(
        lambda key, n: (jnp.full(3, 0.9), jnp.full(3, 0.5)),
        lambda p, batch_shape=(), *, key=None: (jnp.zeros((*batch_shape, 3)),) * 2,
        lambda p, c, x: (tuple(map(leaky, p, c, (x, jnp.sin(x)))), c[0] * c[1]),
        out_features=3,
    )
    params, xs, targets = drawn(cell, steps=6)
    methods = EProp(), RTRL()
    found, needed = (total(Online(cell, mean_squared_error, m), params, xs, targets) for m in methods)
    np.testing.assert_allclose(found, needed, rtol=1e-12)
