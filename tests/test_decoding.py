"""Generation against a Python loop, and samples against their exact probabilities."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn import GRU, LSTM, Dense, Embed
from jrnn.cells.maps import EmbedParams
from jrnn.combinators import Stack
from jrnn.decoding import ctc_beam_search, ctc_greedy, ctc_loss
from jrnn.unrolling import unroll

VOCABULARY = 7


def generate(*arguments, **choice):
    return jrnn.generate(*arguments, **choice).tokens


MODEL = Stack((Embed(4), LSTM(5), Dense(VOCABULARY)))
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda p: 3 * p, MODEL.init(jax.random.key(1), VOCABULARY))  # far from uniform


def prompts(*shape, seed=0):
    return np.random.default_rng(seed).integers(VOCABULARY, size=shape).astype(np.int32)


def by_hand(params, prompt, length):
    """Greedy decoding of one (T,) prompt as a Python loop."""
    carry, tokens = MODEL.initial_carry(params), []
    for token in prompt:
        carry, logits = MODEL.step(params, carry, jnp.asarray(token))
    for _ in range(length):
        tokens.append(int(jnp.argmax(logits)))
        carry, logits = MODEL.step(params, carry, jnp.asarray(tokens[-1]))
    return tokens


def bigram(*rows):
    """A Markov chain as a model: row i holds the probabilities of what follows token i."""
    with np.errstate(divide="ignore"):
        return EmbedParams(table=jnp.asarray(np.log(np.array(rows, np.float32))))


def draws(probabilities, count=4000, **choice):
    """Shares of `count` independent draws from one distribution."""
    size = len(probabilities)
    model = bigram(*[probabilities] * size)
    tokens = generate(Embed(size), model, jnp.zeros((1, count), int), 1, key=KEY, **choice)
    return np.bincount(np.asarray(tokens)[0], minlength=size) / count


def test_greedy_equals_a_python_loop(params):
    prompt = prompts(3, 4)
    tokens = generate(MODEL, params, prompt, 6, temperature=0)
    expected = [by_hand(params, row, 6) for row in prompt.T]
    assert tokens.dtype == jnp.int32 and tokens.T.tolist() == expected
    assert len({str(row) for row in expected}) > 1  # the prompt matters
    assert generate(MODEL, params, prompt[:, 0], 6, temperature=0).tolist() == expected[0]
    two_axes = generate(MODEL, params, prompt.reshape(3, 2, 2), 6, temperature=0)
    np.testing.assert_array_equal(two_axes.reshape(6, 4), tokens)


def test_ragged_prompts_go_on_from_their_own_last_step(params):
    prompt = prompts(4, 3)
    tokens = generate(MODEL, params, prompt, 5, temperature=0, lengths=np.array([4, 1, 2]))
    assert tokens.T.tolist() == [by_hand(params, prompt[:n, row], 5) for row, n in enumerate((4, 1, 2))]


def test_going_on_from_a_carry(params):
    prompt = prompts(5, 2)
    carry, _ = unroll(MODEL, params, prompt[:3])
    for choice in ({"temperature": 0}, {"key": KEY}):
        whole = generate(MODEL, params, prompt, 6, **choice)
        np.testing.assert_array_equal(generate(MODEL, params, prompt[3:], 6, carry=carry, **choice), whole)


def test_no_tokens_asked_for(params):
    assert generate(MODEL, params, prompts(3, 2), 0, temperature=0).shape == (0, 2)


def test_samples_follow_the_distribution():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    np.testing.assert_allclose(draws(p), p, atol=0.03)
    for temperature in (0.5, 2.0):
        expected = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
        np.testing.assert_allclose(draws(p, temperature=temperature), expected, atol=0.03)
    assert draws(p, temperature=0).tolist() == [1, 0, 0, 0]
    large = EmbedParams(jnp.array([[5.0, 20.0, 10.0]] * 3))
    for temperature in (1e-20, 1.3e-38):  # by which 5 is more than a float32 holds
        assert not np.any(
            generate(Embed(3), large, jnp.zeros((1, 9), int), 1, key=KEY, temperature=temperature) - 1
        )


def test_later_tokens_follow_the_one_before():
    model = bigram([0.2, 0.8, 0], [0, 0.5, 0.5], [1, 0, 0])
    tokens = np.asarray(generate(Embed(3), model, jnp.zeros((1, 50), int), 80, key=KEY))
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (tokens[:-1], tokens[1:]), 1)
    expected = [[0.2, 0.8, 0], [0, 0.5, 0.5], [1, 0, 0]]
    np.testing.assert_allclose(pairs / pairs.sum(1, keepdims=True), expected, atol=0.04)


@pytest.mark.parametrize(
    ("p", "choice", "kept"),
    [
        ([0.1, 0.4, 0.2, 0.3], {"top_k": 2}, [1, 3]),
        ([0.1, 0.4, 0.2, 0.3], {"top_k": 9}, [0, 1, 2, 3]),
        ([0.1, 0.4, 0.2, 0.3], {"top_p": 0.75}, [1, 2, 3]),
        ([0.1, 0.4, 0.2, 0.3], {"top_p": 0.65}, [1, 3]),
        ([0.1, 0.4, 0.2, 0.3], {"top_p": 1e-9}, [1]),
        ([0.1, 0.4, 0.2, 0.3], {"top_p": 1.0}, [0, 1, 2, 3]),
        ([0.25, 0.25, 0.25, 0.25], {"top_p": 0.5}, [0, 1]),  # reached exactly: no third
        ([0.25, 0.25, 0.25, 0.25], {"top_k": 3}, [0, 1, 2]),  # ties: no fourth
        ([0.1, 0.4, 0.2, 0.3], {"top_k": 3, "top_p": 0.7}, [1, 3]),  # 0.7 of the 0.9 that top_k leaves
        ([0.1, 0.4, 0.2, 0.3], {"top_k": 1, "top_p": 0.9}, [1]),
        ([0.1, 0.4, 0.2, 0.3], {"top_p": 0.65, "temperature": 0.25}, [1]),  # at this temperature
        ([0.1, 0.4, 0.2, 0.3], {"top_k": 3, "temperature": 0}, [1]),
    ],
)
def test_top_k_and_top_p_keep_exactly(p, choice, kept):
    shares = draws(p, **choice)
    assert np.flatnonzero(shares).tolist() == kept
    heat = choice.get("temperature", 1) or 1
    weights = np.where(np.isin(range(4), kept), np.array(p) ** (1 / heat), 0)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.03)


def test_stop_fills_the_rest_of_its_row():
    chain = bigram([0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0])  # 0 → 1 → 2 → 3 → 0
    tokens = generate(Embed(4), chain, jnp.array([[0, 2, 1]]), 5, temperature=0, stop=3)
    assert tokens.T.tolist() == [[1, 2, 3, 3, 3], [3, 3, 3, 3, 3], [2, 3, 3, 3, 3]]
    assert generate(Embed(4), chain, jnp.array([3]), 3, temperature=0, stop=3).tolist() == [0, 1, 2]


def test_rows_do_not_depend_on_their_neighbors(params):
    prompt, more = prompts(3, 2), prompts(3, 4, seed=5)
    alone = generate(MODEL, params, prompt, 9, key=KEY)
    joined = generate(MODEL, params, np.concatenate([prompt, more], 1), 9, key=KEY)
    np.testing.assert_array_equal(joined[:, :2], alone)
    np.testing.assert_array_equal(generate(MODEL, params, prompt[:, 0], 9, key=KEY), alone[:, 0])


def test_same_key_same_tokens_and_rows_and_steps_draw_their_own():
    uniform = bigram(*[[1 / 64] * 64] * 64)
    prompt = jnp.zeros((1, 8), int)
    tokens = generate(Embed(64), uniform, prompt, 8, key=KEY)
    np.testing.assert_array_equal(generate(Embed(64), uniform, prompt, 8, key=KEY), tokens)
    assert (generate(Embed(64), uniform, prompt, 8, key=jax.random.key(1)) != tokens).mean() > 0.9
    for axis in (0, 1):
        assert (np.diff(tokens, axis=axis) != 0).mean() > 0.9


def test_more_tokens_begin_with_the_same(params):
    prompt = prompts(2, 3)
    long, short = (generate(MODEL, params, prompt, n, key=KEY) for n in (9, 4))
    np.testing.assert_array_equal(long[:4], short)


def test_half_precision_and_the_numpy_scalars_of_a_sweep(params):
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    tokens = generate(
        MODEL,
        half,
        prompts(3, 2),
        4,
        key=KEY,
        top_k=np.int64(9),
        top_p=np.float64(0.9),
        temperature=np.float32(0.5),
    )
    assert tokens.dtype == jnp.int32 and (tokens >= 0).all() and (tokens < VOCABULARY).all()


TRACES = []


@dataclass(frozen=True)
class Counted:
    """A bigram model that notes every trace of its step."""

    out_features: int
    in_ndim: ClassVar[int] = 0

    def init(self, key, in_features):
        return jax.random.normal(key, (in_features, self.out_features))

    def initial_carry(self, params, batch_shape=(), *, key=None):
        return ()

    def step(self, params, carry, x):
        TRACES.append(x.shape)
        return carry, params[x]


def test_an_equal_cell_and_equal_shapes_compile_once():
    model, prompt = bigram([0.5, 0.5], [0.9, 0.1]).table, np.zeros((2, 3), np.int32)
    generate(Counted(2), model, prompt, 4, key=KEY, temperature=1, top_p=0.9, stop=0)
    before = len(TRACES)
    assert before > 0
    sweep = [(0, 1, 1), (0.5, 0.3, 0), (np.float64(2.0), jnp.array(0.5), np.int64(1))]
    for temperature, top_p, stop in sweep:
        key = jax.random.key(stop)
        generate(Counted(2), model, prompt + 1, 4, key=key, temperature=temperature, top_p=top_p, stop=stop)
    assert len(TRACES) == before


def test_under_jit_with_everything_traced(params):
    @jax.jit
    def run(params, prompt, key, temperature, top_p, lengths):
        choice = {"key": key, "temperature": temperature, "top_p": top_p, "lengths": lengths}
        return generate(MODEL, params, prompt, 5, **choice)

    arguments = (params, prompts(3, 2), KEY, 0.7, 0.9, np.array([3, 1]))
    names = ("key", "temperature", "top_p", "lengths")
    eager = generate(MODEL, *arguments[:2], 5, **dict(zip(names, arguments[2:], strict=True)))
    np.testing.assert_array_equal(run(*arguments), eager)


def logits_by_hand(params, prompt, tokens):
    """(length, batch, vocabulary) log-probabilities of what is written, each from a run of its own."""
    logits = unroll(MODEL, params, np.concatenate([prompt, tokens[:-1]]))[1][len(prompt) - 1 :]
    return jax.nn.log_softmax(logits)


def picked(log_probs, tokens):
    return np.take_along_axis(np.asarray(log_probs), np.asarray(tokens)[..., None], -1)[..., 0]


def test_log_probs_are_those_of_the_model_whatever_was_chosen_from(params):
    prompt = prompts(3, 4)
    for choice in ({"temperature": 0}, {"key": KEY, "temperature": 3.0, "top_k": 4, "top_p": 0.9}):
        tokens, log_probs, _ = jrnn.generate(MODEL, params, prompt, 6, **choice)
        needed = picked(logits_by_hand(params, prompt, tokens), tokens)
        np.testing.assert_allclose(log_probs, needed, rtol=1e-4, atol=1e-5)
    stopped = jrnn.generate(MODEL, params, prompt, 6, **choice, stop=int(tokens[1, 0]))
    ends = np.cumsum(np.asarray(stopped.tokens) == tokens[1, 0], 0) > 1  # behind the stop, not at it
    np.testing.assert_array_equal(stopped.log_probs, np.where(ends, 0, log_probs))
    assert ends.any() and not ends.all()


def test_log_probs_of_ragged_prompts_are_those_of_each_alone(params):
    prompt, lengths = prompts(4, 3, seed=2), np.array([4, 1, 2])
    tokens, log_probs, _ = jrnn.generate(MODEL, params, prompt, 3, temperature=0, lengths=lengths)
    for row, n in enumerate(lengths):
        alone = jrnn.generate(MODEL, params, prompt[:n, row], 3, temperature=0)
        np.testing.assert_array_equal(tokens[:, row], alone.tokens)
        np.testing.assert_allclose(log_probs[:, row], alone.log_probs, rtol=1e-5)


def test_adjust_forbids_and_forces_and_sees_what_was_written(params):
    def adjust(logits, tokens, t):
        """No token twice; the third is 2."""
        written = jnp.where(jnp.arange(len(tokens)) < t, tokens, VOCABULARY)
        allowed = ~jnp.isin(jnp.arange(VOCABULARY), written) & (jnp.arange(VOCABULARY) != 2)
        return jnp.where(jnp.where(t == 2, jnp.arange(VOCABULARY) == 2, allowed), logits, -jnp.inf)

    prompt = prompts(2, 5)
    for choice in ({"temperature": 0}, {"key": KEY}, {"key": KEY, "top_k": 3, "top_p": 0.5}):
        tokens, log_probs, _ = jrnn.generate(MODEL, params, prompt, VOCABULARY, **choice, adjust=adjust)
        assert np.all(np.sort(tokens, 0) == np.arange(VOCABULARY)[:, None]) and np.all(tokens[2] == 2)
        assert not np.any(np.asarray(log_probs)[[2, -1]])  # of what is left alone the probability is 1
        assert np.all(log_probs[:2] < 0)
    free = np.array(logits_by_hand(params, prompt, tokens))[0]
    free[:, 2] = -np.inf  # renormalized over what is allowed
    needed = picked(jax.nn.log_softmax(free), tokens[0])
    np.testing.assert_allclose(log_probs[0], needed, rtol=1e-4)


def test_adjust_is_given_the_stop_that_fills_a_row():
    chain = bigram([0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0])  # 0 → 1 → 2 → 3 → 0

    def adjust(logits, tokens, t):
        """Whatever the model says, t comes after t tokens that were the numbers of their steps or a stop."""
        fine = jnp.all(jnp.where(jnp.arange(5) < t, (tokens == jnp.arange(5)) | (tokens == 3), tokens == 0))
        return jnp.where(jnp.arange(4) == jnp.where(fine, t, 0), 0.0, -jnp.inf)

    tokens = generate(Embed(4), chain, jnp.array([[0, 2]]), 5, temperature=0, stop=3, adjust=adjust)
    assert tokens.T.tolist() == [[0, 1, 2, 3, 3]] * 2


def test_an_equal_function_is_compiled_once():
    model, prompt = bigram([0.5, 0.5], [0.9, 0.1]).table, np.zeros((2, 3), np.int32)
    run = lambda: generate(Counted(2), model, prompt, 4, temperature=0, adjust=keep)
    first, before = run(), len(TRACES)
    np.testing.assert_array_equal(run(), first)
    assert len(TRACES) == before


def keep(logits, tokens, t):
    return logits


@pytest.mark.parametrize("choice", [{"temperature": 0}, {"temperature": 0, "lengths": np.array([3, 1, 2])}])
def test_going_on_where_a_call_ended(params, choice):
    whole = jrnn.generate(MODEL, params, prompts(3, 3), 7, **choice)
    first = jrnn.generate(MODEL, params, prompts(3, 3), 4, **choice)
    second = jrnn.generate(MODEL, params, first.tokens[-1:], 3, temperature=0, carry=first.carry)
    np.testing.assert_array_equal(np.concatenate([first.tokens, second.tokens]), whole.tokens)
    np.testing.assert_allclose(
        np.concatenate([first.log_probs, second.log_probs]), whole.log_probs, rtol=1e-5
    )
    for a, b in zip(jax.tree.leaves(second.carry), jax.tree.leaves(whole.carry), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_loop_is_opened_and_goes_on_from_either_carry(params):
    loop, prompt = jrnn.Feedback(MODEL, emit="argmax"), prompts(3, 2)
    whole = generate(MODEL, params, prompt, 6, temperature=0)
    first = jrnn.generate(loop, params, prompt, 4, temperature=0)
    np.testing.assert_array_equal(first.tokens, whole[:4])
    closed = loop.initial_carry(params, (2,))._replace(cell=first.carry)
    for carry in (first.carry, closed):  # what was returned, and what a Feedback holds
        second = generate(loop, params, first.tokens[-1:], 2, temperature=0, carry=carry)
        np.testing.assert_array_equal(second, whole[4:])


EMPTY = {
    "generate": (
        lambda x, n: jrnn.generate(MODEL, PARAMS, x, 5, temperature=0, lengths=n)[:2],
        [(5, "b")] * 2,
    ),
    "generate, all options": (
        lambda x, n: jrnn.generate(MODEL, PARAMS, x, 5, key=KEY, top_k=2, top_p=0.5, stop=1, adjust=keep)[:2],
        [(5, "b")] * 2,
    ),
    "beam_search": (
        lambda x, n: jrnn.beam_search(MODEL, PARAMS, x, 5, width=3, stop=1, lengths=n),
        [(5, "b", 3), ("b", 3), ("b", 3), ("b", 3)],
    ),
    "beam_search, adjusted": (
        lambda x, n: jrnn.beam_search(MODEL, PARAMS, x, 5, width=3, adjust=keep),
        [(5, "b", 3), ("b", 3), ("b", 3), ("b", 3)],
    ),
    "ctc_greedy": (lambda x, n: ctc_greedy(as_floats(x), n), [("b", "t")]),
    "ctc_beam_search": (lambda x, n: ctc_beam_search(as_floats(x), n, width=2), [("b", 2, "t"), ("b", 2)]),
    "ctc_loss": (lambda x, n: ctc_loss(as_floats(x), jnp.zeros((*n.shape, 2), int), n), [("b",)]),
    "forecast": (lambda x, n: jrnn.forecast(LOOP, LOOP_PARAMS, as_floats(x), 4, lengths=n)[1], [(4, "b", 3)]),
    "one_to_many": (
        lambda x, n: jrnn.one_to_many(LOOP, LOOP_PARAMS, as_floats(x)[0], 4, then="output")[1],
        [(4, "b", 3)],
    ),
}
LOOP = Stack((GRU(5), Dense(3)))
PARAMS, LOOP_PARAMS = MODEL.init(KEY, VOCABULARY), LOOP.init(KEY, 3)


def as_floats(tokens):
    return jnp.zeros((*tokens.shape, 3))


@pytest.mark.parametrize("shape", [(3, 0), (1, 0), (2, 4, 0)], ids=str)
@pytest.mark.parametrize("name", EMPTY)
def test_a_batch_without_rows_has_results_without_rows(name, shape):
    call, needed = EMPTY[name]
    put = {"b": shape[1:], "t": shape[:1]}
    needed = [sum((put.get(n, (n,)) for n in one), ()) for one in needed]
    prompt, lengths = np.zeros(shape, np.int32), np.zeros(shape[1:], np.int32)
    for run in (call, jax.jit(call)):
        assert [leaf.shape for leaf in jax.tree.leaves(run(prompt, lengths))] == needed


ERRORS = [
    ({"key": KEY, "stop": True}, ValueError, "stop must be a token of .*, an integer from 0 to 6, got True"),
    ({"key": KEY, "stop": 2.0}, ValueError, "stop must be a token of .*, an integer from 0 to 6, got 2.0"),
    ({"key": KEY, "stop": "."}, ValueError, "stop must be a token of .*, an integer from 0 to 6, got '.'"),
    ({"temperature": True}, ValueError, "temperature must be a number, got True"),
    ({"temperature": "hot"}, ValueError, "temperature must be a number, got 'hot'"),
    ({"temperature": 1j}, ValueError, "temperature must be a number, got 1j"),
    ({"key": KEY, "top_p": True}, ValueError, "top_p must be a number, got True"),
    ({"key": KEY, "top_k": True}, ValueError, "top_k must be a whole number, at least 1, got True"),
    ({"key": KEY, "length": True}, ValueError, "length must be a whole number of tokens, got True"),
    ({"key": 0}, TypeError, r"key must be a random key, as in jax.random.key\(0\), got 0"),
    ({"key": KEY, "lengths": [1.0, 2.0]}, ValueError, "lengths must be integers, got float64"),
    (
        {"key": KEY, "prompt": np.zeros((3, 2), complex)},
        TypeError,
        "prompt must hold integer tokens, got comp",
    ),
    ({"key": KEY, "prompt": np.zeros((3, 2), bool)}, TypeError, "prompt must hold integer tokens, got bool"),
    ({"key": KEY, "cell": jrnn.Bidirectional(GRU(3))}, TypeError, r"unroll runs cells, and Bidirectional"),
    ({"key": KEY, "cell": GRU}, TypeError, r"unroll: cell must be a cell, got the class GRU: call it"),
    ({}, ValueError, r"key is missing: pass key=jax.random.key\(seed\), or temperature=0"),
    ({"temperature": -1}, ValueError, "temperature must be at least 0, got -1"),
    ({"temperature": float("nan")}, ValueError, "temperature must be at least 0, got nan"),
    ({"temperature": np.ones(2)}, ValueError, r"temperature must be a scalar, got shape \(2,\)"),
    ({"key": KEY, "top_k": 0}, ValueError, "top_k must be a whole number, at least 1, got 0"),
    ({"key": KEY, "top_k": 2.0}, ValueError, "top_k must be a whole number, at least 1, got 2.0"),
    ({"key": KEY, "top_p": 0}, ValueError, r"top_p must lie in \(0, 1\], got 0"),
    ({"key": KEY, "top_p": 90}, ValueError, r"top_p must lie in \(0, 1\], got 90"),
    ({"key": KEY, "stop": 7}, ValueError, "stop must be a token of Stack.*, an integer from 0 to 6, got 7"),
    ({"key": KEY, "length": -1}, ValueError, "length must be a whole number of tokens, got -1"),
    ({"key": KEY, "prompt": np.zeros((0, 2), int)}, ValueError, r"prompt has shape \(0, 2\), needs \(time"),
    ({"key": KEY, "prompt": np.zeros((3, 2))}, TypeError, "prompt must hold integer tokens, got float"),
    ({"key": KEY, "prompt": "To be"}, TypeError, "prompt is a str, needs integer tokens: encode it"),
    ({"key": KEY, "prompt": ["To", "be"]}, TypeError, "prompt must hold integer tokens, got <U2"),
    ({"key": jax.random.split(KEY)}, TypeError, "key must be a random key, .* got an array of key<fry>"),
    (
        {"key": KEY, "lengths": [0, 3]},
        ValueError,
        "lengths must lie between 1 and the 3 steps of prompt, got 0",
    ),
    ({"key": KEY, "lengths": [1, 4]}, ValueError, "lengths must lie between 1 and the 3 steps.*got 1 to 4"),
    ({"key": KEY, "cell": GRU(3)}, ValueError, r"cell must take tokens, got GRU\(hidden=3.*put Embed before"),
]


@pytest.mark.parametrize(("given", "error", "message"), ERRORS)
def test_errors_name_argument_given_and_needed(params, given, error, message):
    arguments = {"cell": MODEL, "params": params, "prompt": prompts(3, 2), "length": 4} | given
    with pytest.raises(error, match=message) as caught:
        generate(**arguments)
    assert "\n" not in str(caught.value)
