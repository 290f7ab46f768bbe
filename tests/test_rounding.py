"""Eager calls with ever new lengths: a few programs serve them, and nothing that comes out changes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jrnn
from jrnn.decoding import ctc_beam_search, ctc_greedy, ctc_loss
from jrnn.unrolling._eager import EXACT, OFTEN
from jrnn.unrolling._rounding import rounded
from jrnn.unrolling.driver import _compiled_calls

pytestmark = pytest.mark.engine

WORDS, IN, KEY = 7, 3, jax.random.key(0)
WRITER = jrnn.Stack((jrnn.Embed(4), jrnn.LSTM(5), jrnn.Dense(WORDS)))
LOOP = jrnn.Stack((jrnn.GRU(4), jrnn.Dense(IN)))
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(WORDS, size=(64, 2)).astype(np.int32)
XS = RNG.normal(size=(64, 2, IN)).astype(np.float32)


def drawn(model, in_features):
    spec = jax.eval_shape(lambda: model.init(jax.random.key(0), in_features))
    return jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape), a.dtype), spec)


@pytest.fixture(scope="module")
def params():
    return {WRITER: drawn(WRITER, WORDS), LOOP: drawn(LOOP, IN)}


# by name: which model, its input from a number of steps, and the call of that number
CALLS = {
    "prompts of generate": (WRITER, TOKENS, lambda m, p, x, n: jrnn.generate(m, p, x, 4, temperature=0)),
    "length of generate": (
        WRITER,
        TOKENS[:2],
        lambda m, p, x, n: jrnn.generate(m, p, x, n, key=KEY, stop=3),
    ),
    "prompts of beam_search": (WRITER, TOKENS, lambda m, p, x, n: jrnn.beam_search(m, p, x, 4, width=2)),
    "length of beam_search": (
        WRITER,
        TOKENS[:2],
        lambda m, p, x, n: jrnn.beam_search(m, p, x, n, width=2, stop=3, length_penalty=0.6),
    ),
    "past of forecast": (LOOP, XS, lambda m, p, x, n: jrnn.forecast(m, p, x, 4)),
    "steps of forecast": (LOOP, XS[:2], lambda m, p, x, n: jrnn.forecast(m, p, x, n)),
    "steps of one_to_many": (LOOP, XS[0], lambda m, p, x, n: jrnn.one_to_many(m, p, x, n, then="output")),
    "logits of ctc_loss": (LOOP, XS, lambda m, p, x, n: ctc_loss(x, np.array([[1, 2, -1], [2, 2, 1]]))),
    "labels of ctc_loss": (LOOP, XS, lambda m, p, x, n: ctc_loss(XS, 1 + np.arange(2 * n).reshape(2, n) % 2)),
    "logits of ctc_greedy": (LOOP, XS, lambda m, p, x, n: ctc_greedy(x)),
    "logits of ctc_beam_search": (LOOP, XS, lambda m, p, x, n: ctc_beam_search(x, width=2)),
}


def of(name, steps, params):
    """One call, as a function of parameters and input."""
    model, given, call = CALLS[name]
    given = given[:steps] if given.shape[0] == 64 else given
    return lambda p, x: call(model, p, x, steps), params[model], given


def test_lengths_are_rounded_up_by_less_than_a_half():
    sizes = [rounded(n) for n in range(1, 1000)]
    assert all(n <= size < 1.5 * n or size <= 2 for n, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes) and len(set(sizes)) == 20 and rounded(0) == 1
    assert all(rounded(size) == size for size in sizes)


@pytest.mark.parametrize("name", CALLS)
def test_thirty_lengths_are_two_programs(name, params, programs):
    run = lambda steps: (lambda f, *arguments: jax.block_until_ready(f(*arguments)))(*of(name, steps, params))
    run(64)  # what does not depend on the length, such as parameters and keys
    before = programs()
    for steps in range(33, 63):
        run(steps)
    assert programs() - before <= 1  # of 48 steps; that of 64 is there


@pytest.mark.parametrize("name", CALLS)
def test_what_comes_out_is_that_of_the_very_length(name, params):
    for steps in (5, 8):
        f, *arguments = of(name, steps, params)
        given, needed = f(*arguments), jax.jit(f)(*arguments)  # traced, nothing is rounded
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_of_ragged_batches_too(params):
    lengths = np.array([5, 2])
    for f, model, given in (
        (lambda p, x: jrnn.generate(WRITER, p, x, 5, temperature=0, lengths=lengths), WRITER, TOKENS[:5]),
        (lambda p, x: jrnn.beam_search(WRITER, p, x, 5, width=3, lengths=lengths), WRITER, TOKENS[:5]),
        (lambda p, x: jrnn.forecast(LOOP, p, x, 5, lengths=lengths), LOOP, XS[:5]),
        (lambda p, x: ctc_beam_search(x, lengths, width=3), LOOP, XS[:5]),
    ):
        for a, b in zip(
            *(jax.tree.leaves(run(params[model], given)) for run in (f, jax.jit(f))), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_noise_is_that_of_the_very_length():
    cell = jrnn.Stack((jrnn.GRU(6), jrnn.Dense(IN)), dropout=0.5)
    params, key = drawn(cell, IN), jax.random.key(1)
    noisy = jrnn.unroll(cell, params, XS[:1], key=key)[0]
    for f in (
        partial(jrnn.forecast, cell, steps=5, key=key),
        partial(jrnn.forecast, cell, steps=5, carry=noisy),
        lambda p, xs: jrnn.one_to_many(cell, p, xs[0], 5, then="output", carry=noisy),
    ):
        given, needed = f(params, XS[:5]), jax.jit(f)(params, XS[:5])
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
            a, b = (
                jax.random.key_data(k) if jnp.issubdtype(k.dtype, jax.dtypes.prng_key) else k for k in (a, b)
            )
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_log_probabilities_of_what_was_written_have_a_gradient(params):
    """As a policy gradient needs it, eagerly called inside of `jax.grad`."""
    score = lambda p: jrnn.generate(WRITER, p, TOKENS[:5], 5, temperature=0).log_probs.sum()
    tokens = jrnn.generate(WRITER, params[WRITER], TOKENS[:5], 5, temperature=0).tokens
    whole = np.concatenate([TOKENS[:5], tokens])

    def forced(p):
        log_p = jax.nn.log_softmax(jrnn.unroll(WRITER, p, whole[:-1])[1][4:])
        return jnp.take_along_axis(log_p, whole[5:, :, None], -1).sum()

    for a, b in zip(*(jax.tree.leaves(jax.grad(f)(params[WRITER])) for f in (score, forced)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_program_of_any_batch_and_time_can_be_exported(params):
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("t, b", constraints=["t >= 2"]), jnp.int32)
    for write in (
        lambda p, x: jrnn.generate(WRITER, p, x, 4, temperature=0).tokens,
        lambda p, x: jrnn.beam_search(WRITER, p, x, 4, width=2).tokens,
    ):
        exported = export.export(jax.jit(write))(params[WRITER], shape)
        needed = write(params[WRITER], TOKENS[:5])
        np.testing.assert_array_equal(exported.call(params[WRITER], TOKENS[:5]), needed)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_moved_but_explicitly(name, params):
    f, p, x = of(name, 5, params)
    x = jax.device_put(x)
    with jax.transfer_guard("disallow"):
        f(p, x)


# `unroll`: the first lengths have a program each, then they are rounded up


FLAGS = {
    "nothing": lambda n: {},
    "lengths": lambda n: {"lengths": np.array([n, n // 2])},
    "list": lambda n: {"lengths": [n, 1]},
    "all": lambda n: {
        "lengths": jnp.array([n, max(n - 3, 0)]),
        "mask": np.arange(n) % 4 != 2,
        "resets": jnp.arange(n)[:, None] % 5 == jnp.arange(2),
        "carry": jrnn.unroll(WRITER, drawn(WRITER, WORDS), TOKENS[:3])[0],
        "reverse": True,
    },
}


def test_unroll_of_ever_new_lengths_is_few_programs(programs):
    cell = jrnn.Elman(2)
    params, lengths = drawn(cell, IN), [np.array([n, n // 2]) for n in range(49)]
    before = programs()
    for steps in range(1, 49):
        jrnn.unroll(cell, params, XS[:steps], lengths=lengths[steps])
    first = programs() - before
    assert first == EXACT + 3  # of 24, 32 and 48 steps
    for steps in range(1, 49):
        jrnn.unroll(cell, params, XS[:steps], lengths=lengths[steps])
    assert programs() - before == first


@pytest.fixture(scope="module")
def seen(params):
    """Parameters of a model that is said to have read many lengths."""
    for reverse in (False, True):
        _compiled_calls(WRITER, jrnn.Scan(), reverse).lengths.update(range(EXACT))
    return params[WRITER]


@pytest.mark.parametrize("name", FLAGS)
def test_unroll_returns_what_it_returns_under_jit(name, seen):
    for steps in (30, 32):
        flags = FLAGS[name](steps)
        run = partial(jrnn.unroll, WRITER, reverse=flags.pop("reverse", False))
        given = run(seen, TOKENS[:steps], **flags)
        needed = jax.jit(run)(seen, TOKENS[:steps], **jax.tree.map(jnp.asarray, flags))
        assert jax.tree.structure(given) == jax.tree.structure(needed)
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_unroll_draws_the_noise_of_the_very_length():
    cell = jrnn.Stack((jrnn.GRU(6), jrnn.Dense(IN)), dropout=0.5)
    params, key = drawn(cell, IN), jax.random.key(1)
    _compiled_calls(cell, jrnn.Scan(), True).lengths.update(range(EXACT))
    noisy, _ = jrnn.unroll(cell, params, XS[:3], key=key, reverse=True)
    for options in ({"key": key}, {"carry": noisy}):
        run = partial(jrnn.unroll, cell, reverse=True, **options)
        given, needed = run(params, XS[:50])[1], jax.jit(run)(params, XS[:50])[1]
        np.testing.assert_allclose(given, needed, atol=2e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lengths": np.array([49, 3])}, r"lengths must lie between 0 and the 47 steps of xs, got 3 to 49"),
        ({"lengths": [48.0, 3]}, r"lengths must be integers, got float"),
        ({"mask": np.ones(46, bool)}, r"mask has shape \(46,\), needs \(47, 2\) or its leading axes"),
        ({"resets": np.ones((46, 2), bool)}, r"resets has shape \(46, 2\), needs \(47, 2\)"),
        ({"carry": (None, None, None)}, r"carry does not belong to Stack"),
    ],
)
def test_what_is_wrong_is_said_of_what_was_given(wrong, message, seen):
    with pytest.raises((ValueError, TypeError), match=message):
        jrnn.unroll(WRITER, seen, TOKENS[:47], **wrong)


def test_tokens_are_checked_at_valid_steps(seen):
    tokens = TOKENS[:47].copy()
    tokens[40, 1] = WORDS
    for valid in ({"lengths": jnp.array([47, 40])}, {"mask": np.arange(47) != 40}):
        jrnn.unroll(WRITER, seen, tokens, **valid)
    for valid in ({}, {"lengths": jnp.array([40, 47])}, {"mask": np.arange(47) != 41}):
        with pytest.raises(ValueError, match=r"xs\[40, 1\] is token 7, out of range"):
            jrnn.unroll(WRITER, seen, tokens, **valid)


def test_a_step_that_calls_back_is_called_once_a_step():
    called = []

    def step(params, h, x):
        jax.debug.callback(lambda: called.append(1))
        return h, (h, 1.0)

    cell = jrnn.from_functions(lambda key, n: (), lambda p, b=(), *, key=None: jnp.zeros((*b, 3)), step, 3)
    _compiled_calls(cell, jrnn.Scan(), False).lengths.update(range(EXACT))
    jax.block_until_ready(jrnn.unroll(cell, (), XS[:17]))
    jax.effects_barrier()
    assert len(called) == 17


@pytest.mark.parametrize("name", CALLS)
def test_decoding_reads_bytes_of_either_order(name, params):
    call, p, given = of(name, 5, params)
    foreign = lambda tree: jax.tree.map(lambda a: np.asarray(a).astype(a.dtype.newbyteorder(">")), tree)
    needed, found = call(p, given), call(foreign(jax.device_get(p)), foreign(given))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(needed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_carry_and_lengths_of_foreign_bytes_are_read_after_others(params):
    """Once a program is compiled, JAX does not look at the order of bytes again."""
    carry, lengths = np.full((2, 4), 0.5, np.float32), np.array([3, 5], np.int32)
    calls = {
        "forecast": lambda h, n: jrnn.forecast(LOOP, params[LOOP], XS[:5], 3, h, lengths=n, key=KEY),
        "one_to_many": lambda h, n: jrnn.one_to_many(LOOP, params[LOOP], XS[0], 3, h),
    }
    start = LOOP.initial_carry(params[LOOP], (2,))
    start = start._replace(cells=(carry, *start.cells[1:]))
    foreign = start._replace(cells=(carry.astype(">f4"), *start.cells[1:]))
    for call in calls.values():
        np.testing.assert_array_equal(call(foreign, lengths.astype(">i4"))[1], call(start, lengths)[1])


def test_decoding_calls_back_once_a_step():
    called = []

    def step(params, h, x):
        jax.debug.callback(lambda: called.append(1))
        return h + 1, jnp.zeros((*x.shape[: h.ndim - 1], 3)) + h

    def counted(call):
        called.clear()
        jax.block_until_ready(call())
        jax.effects_barrier()
        return len(called)

    start = lambda p, batch=(), *, key=None: jnp.zeros((*batch, 3))
    cell = jrnn.from_functions(lambda key, n: (), start, step, 3)
    reader = jrnn.Stack((jrnn.Embed(3), cell))
    table = reader.init(jax.random.key(0), 3)
    assert counted(lambda: jrnn.one_to_many(cell, (), XS[0], 5)) == 5
    assert counted(lambda: jrnn.forecast(cell, (), XS[:5], 5)) == 5 + 4
    assert counted(lambda: jrnn.generate(reader, table, TOKENS[:6] % 3, 5, temperature=0)) == 5 + 5


def test_weak_types_stay_weak_in_forecasts(params):
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params[LOOP])
    assert jrnn.forecast(LOOP, low, jnp.full((5, 2, IN), 0.5), 3)[1].dtype == jnp.bfloat16
    assert jrnn.one_to_many(LOOP, low, jnp.full((2, IN), 0.5), 3)[1].dtype == jnp.bfloat16


def test_types_and_bytes_are_those_of_the_very_length(params):
    cell = jrnn.GRU(2)
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), drawn(cell, 2))
    _compiled_calls(cell, jrnn.Scan(), False).lengths.update(range(EXACT))
    assert jrnn.unroll(cell, low, jnp.full((17, 4, 2), 0.5))[1].dtype == jnp.bfloat16  # weak
    lengths = np.array([9, 2, 17, 0])
    needed = jrnn.unroll(cell, low, np.ones((17, 4, 2), np.float32), lengths=lengths)[1]
    for other in (lengths.astype(">i4"), lengths.astype(">i8"), lengths.astype("u1")):
        given = jrnn.unroll(cell, low, np.ones((17, 4, 2), np.float32), lengths=other)[1]
        np.testing.assert_array_equal(given, needed)


def test_a_length_that_is_called_often_gets_its_program(params, programs):
    cell = jrnn.Elman(3)
    p = drawn(cell, IN)
    _compiled_calls(cell, jrnn.Scan(), False).lengths.update(range(EXACT))
    before = programs()
    for _ in range(2 * OFTEN):
        jrnn.unroll(cell, p, XS[:20])
    assert programs() - before == 2  # of 24 steps, and of 20


def test_unroll_moves_nothing_but_explicitly(seen):
    arrays = jax.device_put((seen, TOKENS[:45], np.arange(45) < 44, np.array([45, 3])))
    with jax.transfer_guard("disallow"):
        params, xs, mask, lengths = arrays
        jrnn.unroll(WRITER, params, xs, mask=mask, lengths=lengths)
