"""Beam search: against one written in Python from its description, and against exhaustive enumeration."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn import Embed
from jrnn.attention import Additive, General
from tests.test_attention import made
from tests.test_decoding import bigram

VOCABULARY, LENGTH, STOP, MODELS = 4, 5, 2, 200
CELL = jrnn.Stack((Embed(2), jrnn.GRU(3), jrnn.Dense(VOCABULARY)))
PREFIXES = [p for n in range(LENGTH) for p in itertools.product(range(VOCABULARY), repeat=n)]
PLACE = {prefix: index for index, prefix in enumerate(PREFIXES)}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def drawn(cell, rng, *lead):
    """Random parameters, far from uniform, of `lead` models."""
    spec = jax.eval_shape(lambda: cell.init(jax.random.key(0), VOCABULARY))
    return jax.tree.map(lambda a: 1.5 * rng.normal(size=(*lead, *a.shape)), spec)


def search(log_p, length, width, stop=None, alpha=0.0, beta=0.0, shares=None):
    """All that is in the beam at the end as (score, log p, tokens), best first.

    `log_p(prefix)` are those of the next token, `shares(prefix)` what attention looks at as it is chosen.
    """

    def score(logarithm, tokens):
        covered = 0.0
        if beta:
            seen = sum(shares(tokens[:t]) for t in range(len(tokens)))
            covered = np.log(np.clip(seen, 1e-30, 1)).sum()
        return logarithm / ((5 + len(tokens)) / 6) ** alpha + beta * covered

    beam, ended = [(0.0, ())], []
    for _ in range(length):
        longer = [
            (logarithm + log_p(tokens)[v], (*tokens, v))
            for logarithm, tokens in beam
            for v in range(VOCABULARY)
        ]
        ended += [(score(p, tokens), p, tokens) for p, tokens in longer if tokens[-1] == stop]
        ended = sorted(ended, key=lambda entry: -entry[0])[:width]
        going = [entry for entry in longer if entry[1][-1] != stop and entry[0] > -np.inf]
        beam = sorted(going, key=lambda entry: -entry[0])[:width]
    ended += [(score(p, tokens), p, tokens) for p, tokens in beam]
    return [e for e in sorted(ended, key=lambda entry: -entry[0]) if e[0] > -np.inf][:width]


def agree(found, needed, stop=None, tolerance=5e-7):
    """One row: tokens (length, width) and the rest (width,), against `search`."""
    tokens, scores, log_probs, lengths = map(np.asarray, found)
    count = len(needed)
    assert np.all(scores[count:] == -np.inf)
    np.testing.assert_allclose(scores[:count], [s for s, _, _ in needed], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(log_probs[:count], [p for _, p, _ in needed], rtol=tolerance, atol=tolerance)
    for k, (_, _, row) in enumerate(needed):
        assert lengths[k] == len(row) and tuple(tokens[: len(row), k]) == row
        assert np.all(tokens[len(row) :, k] == stop)


@pytest.fixture(scope="module")
def models():
    """200 random models, ragged prompts for two rows of each, and log p of every next token."""
    rng = np.random.default_rng(0)
    params, prompts = drawn(CELL, rng, MODELS), rng.integers(VOCABULARY, size=(MODELS, 3, 2)).astype(np.int32)
    lengths, alphas = rng.integers(1, 4, (MODELS, 2)).astype(np.int32), rng.uniform(0, 1.5, MODELS)
    alphas = alphas.astype(np.float32) * (np.arange(MODELS) % 4 > 0)
    padded = np.array([(*p, *(0,) * (LENGTH - len(p))) for p in PREFIXES], np.int32)

    @jax.jit
    @jax.vmap
    def everything(params, prompt, lengths):
        carry, _ = jrnn.unroll(CELL, params, prompt, lengths=lengths - 1)
        token = jnp.take_along_axis(prompt, lengths[None] - 1, 0)[0]

        def row(carry, token, prefix):
            logits = jrnn.unroll(CELL, params, jnp.concatenate([token[None], prefix]), carry)[1]
            return jax.nn.log_softmax(logits)

        rows = jax.vmap(jax.vmap(row, (None, None, 0)), (0, 0, None))
        return rows(carry, token, padded)

    with jax.enable_x64(True):
        tables = np.asarray(everything(params, prompts, lengths))  # (models, rows, prefixes, steps, tokens)
    nexts = np.stack([tables[:, :, i, len(p)] for i, p in enumerate(PREFIXES)], 2)
    return params, prompts, lengths, alphas, nexts


def found(models, width, stop, **options):
    """Of all models at once, in one compiled function."""
    params, prompts, lengths, alphas, _ = models

    def one(params, prompt, lengths, alpha):
        given = {"width": width, "stop": stop, "lengths": lengths, "length_penalty": alpha}
        return jrnn.beam_search(CELL, params, prompt, LENGTH, **given | options)

    return jax.jit(jax.vmap(one))(params, prompts, lengths, alphas)


def rows_of(beams, model):
    """Of each row of a model: tokens (length, width), and scores, log p and lengths (width,)."""
    for row in range(2):
        yield row, (beams.tokens[model, :, row], *(leaf[model, row] for leaf in beams[1:]))


@pytest.mark.parametrize(
    ("width", "stop"),
    [(1, STOP), (2, STOP), (3, None), (4, STOP), (5, STOP), (12, STOP), (81, STOP)],
)
def test_it_is_the_search_that_is_described(models, width, stop, x64):
    """81 is as many prefixes as do not end: with them the search is exhaustive."""
    beams = jax.tree.map(np.asarray, found(models, width, stop))
    for model in range(MODELS):
        alpha = models[3][model]
        for row, given in rows_of(beams, model):
            table = models[4][model, row]
            agree(given, search(lambda p, t=table: t[PLACE[p]], LENGTH, width, stop, alpha), stop)


def test_a_wide_beam_is_exhaustive(models, x64):
    """All sequences in their order, and the best of them with just as many beams as there are prefixes."""
    everything = [p for n in range(1, LENGTH + 1) for p in itertools.product(range(VOCABULARY), repeat=n)]
    everything = [p for p in everything if STOP not in p[:-1] and (len(p) == LENGTH or p[-1] == STOP)]
    assert len(everything) == 364
    few = tuple(jax.tree.map(lambda a: a[:20], part) for part in models)
    whole, best = (jax.tree.map(np.asarray, found(few, width, STOP)) for width in (364, 81))
    for model in range(20):
        for (row, given), (_, first) in zip(rows_of(whole, model), rows_of(best, model), strict=True):
            table, alpha = few[4][model, row], few[3][model]
            needed = []
            for tokens in everything:
                logarithm = sum(table[PLACE[tokens[:t]]][v] for t, v in enumerate(tokens))
                needed.append((logarithm / ((5 + len(tokens)) / 6) ** alpha, logarithm, tokens))
            needed.sort(key=lambda entry: -entry[0])
            agree(given, needed, STOP)
            agree(tuple(leaf[..., :1] for leaf in first), needed[:1], STOP)
            assert len({tuple(t[:n]) for t, n in zip(given[0].T, given[3], strict=True)}) == 364


def test_one_beam_without_penalties_is_greedy(models):
    params, prompts, lengths, _, _ = models
    given = jax.tree.map(lambda a: jnp.asarray(a[0], jnp.float32), params), prompts[0], LENGTH
    options = {"lengths": lengths[0], "stop": STOP}
    greedy = jrnn.generate(CELL, *given, temperature=0, **options)
    beams = jrnn.beam_search(CELL, *given, width=1, **options)
    np.testing.assert_array_equal(beams.tokens[..., 0], greedy.tokens)
    np.testing.assert_allclose(beams.log_probs[:, 0], greedy.log_probs.sum(0), rtol=1e-5)


# one model in float32

PARAMS = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), drawn(CELL, np.random.default_rng(3)))
PROMPT = np.array([[0, 1, 3, 0, 2, 1]], np.int32)
beam = partial(jrnn.beam_search, CELL, PARAMS)


def test_rows_do_not_depend_on_their_neighbors():
    """A row whose neighbors search on after it has been left keeps what it found."""
    whole = beam(PROMPT, 12, width=3, stop=STOP)
    for row in range(6):
        alone = beam(PROMPT[:, row], 12, width=3, stop=STOP)
        np.testing.assert_array_equal(whole.tokens[:, row], alone.tokens)
        np.testing.assert_allclose(whole.scores[row], alone.scores, rtol=1e-5)
    two_axes = beam(PROMPT.reshape(1, 2, 3), 12, width=3, stop=STOP)
    np.testing.assert_array_equal(two_axes.tokens.reshape(12, 6, 3), whole.tokens)
    np.testing.assert_allclose(two_axes.scores.reshape(6, 3), whole.scores, rtol=1e-6)
    assert np.all(np.diff(whole.scores) <= 0) and whole.tokens.dtype == jnp.int32


CHAIN = bigram([0, 0.6, 0.4, 0], [0, 0.4, 0.3, 0.3], [0, 0, 0.1, 0.9], [0, 0, 0, 1])  # of the docstring


def test_known_answers():
    search = partial(jrnn.beam_search, Embed(4), CHAIN, jnp.array([0]))
    found = search(3, width=4, stop=3)
    rows = [(0.36, [2, 3, 3]), (0.18, [1, 3, 3]), (0.162, [1, 2, 3]), (0.096, [1, 1, 1])]
    np.testing.assert_allclose(np.exp(found.log_probs), [p for p, _ in rows], rtol=1e-5)
    assert found.tokens.T.tolist() == [tokens for _, tokens in rows] and found.lengths.tolist() == [
        2,
        2,
        3,
        3,
    ]
    one = search(1, width=4, stop=3)  # 0 leads nowhere, and cannot end: there are two sequences
    assert one.tokens[:, :2].tolist() == [[1, 2]] and np.isneginf(one.scores).tolist() == [0, 0, 1, 1]
    none = search(0, width=2, stop=3)
    assert none.tokens.shape == (0, 2) and none.lengths[0] == 0
    np.testing.assert_array_equal(none.scores, [0, -np.inf])
    free = search(2, width=3)  # without a stop, 3 is a word like others
    assert free.tokens.T.tolist() == [[2, 3], [1, 1], [1, 2]] and free.lengths.tolist() == [2] * 3


def test_a_length_penalty_prefers_longer_sequences():
    """Scores by hand: log 0.5 of one token, against log 0.45 of five."""
    chain = bigram([0, 0.5, 0.5], [0, 0.9 ** (1 / 3), 1 - 0.9 ** (1 / 3)], [0, 0, 1])
    for alpha, length in ((0.0, 1), (1.0, 4)):
        found = jrnn.beam_search(Embed(3), chain, jnp.array([0]), 4, width=3, stop=2, length_penalty=alpha)
        assert found.lengths[0] == length
        needed = np.log(0.5 if length == 1 else 0.45) / ((5 + length) / 6) ** alpha
        np.testing.assert_allclose(found.scores[0], needed, rtol=1e-5)


def test_a_beam_that_may_yet_win_is_not_left():
    """Log 0.33 is less than the log 0.4 of what ends at once, but no longer where it is five long."""
    chain = bigram([0.27, 0.33, 0.4], [0, 1, 0], [0, 0, 1])
    found = jrnn.beam_search(Embed(3), chain, jnp.array([0]), 5, width=1, stop=2, length_penalty=1.0)
    assert found.tokens[:, 0].tolist() == [1] * 5
    np.testing.assert_allclose(found.scores[0], np.log(0.33) / (10 / 6), rtol=1e-5)


def test_a_search_is_left_early_when_nothing_can_win():
    """From step 2 on every logit would be NaN; without a stop token it is read to the end."""

    def adjust(logits, tokens, t):
        return jnp.where(t < 2, logits, jnp.nan)

    sure = bigram([0.001, 0.001, 0.998], [0.001, 0.001, 0.998], [0, 0, 1])
    search = partial(jrnn.beam_search, Embed(3), sure, jnp.array([0]), 6, width=1)
    early, whole = search(stop=2, adjust=adjust), search(stop=2)
    jax.tree.map(np.testing.assert_array_equal, early, whole)
    assert early.tokens.tolist() == [[2]] * 6 and early.lengths.tolist() == [1]
    assert not np.isfinite(search(adjust=adjust).scores[0])


def test_adjust_forbids_and_forces():
    def forbid(logits, tokens, t):
        """No token twice in a row, and no 1."""
        before = tokens[jnp.maximum(t - 1, 0)]
        same = (jnp.arange(VOCABULARY) == before) & (t > 0)
        return jnp.where(same | (jnp.arange(VOCABULARY) == 1), -jnp.inf, logits)

    found = beam(PROMPT, 5, width=4, adjust=forbid)
    tokens = np.asarray(found.tokens)
    assert np.all(np.isfinite(found.scores)) and not np.any(tokens == 1) and np.all(tokens[1:] != tokens[:-1])
    alone = beam(PROMPT[:, 2], 5, width=400, adjust=forbid)  # exhaustive: 3 · 2⁴ are allowed
    assert np.isfinite(alone.scores).sum() == 3 * 2**4
    np.testing.assert_allclose(np.exp(alone.log_probs).sum(), 1, rtol=1e-5)  # renormalized at every step
    wanted = jnp.array([3, 0, 3])

    def force(logits, tokens, t):
        keep = (t >= 3) | (jnp.arange(VOCABULARY) == wanted[jnp.minimum(t, 2)])
        return jnp.where(keep, logits, -jnp.inf)

    forced = beam(PROMPT, 5, width=3, adjust=force)
    assert np.all(np.asarray(forced.tokens[:3]) == np.array([3, 0, 3])[:, None, None])
    nothing = beam(PROMPT, 3, width=2, adjust=lambda logits, tokens, t: jnp.full_like(logits, -jnp.inf))
    assert np.all(np.isneginf(nothing.scores))


# attention

SPAN, FEATURES = 6, 7
LOOKING = jrnn.Stack(
    (Embed(2), jrnn.LuongAttention(jrnn.GRU(3), General(), FEATURES, 5), jrnn.Dense(VOCABULARY))
)
SPANS = np.array([SPAN, 2], np.int32)


def started(cell, params, memory, batch=(2,)):
    return jrnn.attach(cell, params, cell.initial_carry(params, batch), memory, lengths=SPANS)


@pytest.mark.parametrize("memories", [1, 2])
def test_coverage_counts_what_attention_has_looked_at(memories, x64):
    attention = jrnn.BahdanauAttention(
        jrnn.GRU(3), (General(), Additive(2))[:memories], (FEATURES,) * memories
    )
    cell = jrnn.Stack((Embed(2), attention, jrnn.Dense(VOCABULARY)))
    rng = np.random.default_rng(5)
    params, memory = drawn(cell, rng), tuple(rng.normal(size=(SPAN, 2, FEATURES)) for _ in range(memories))
    carry = jax.jit(partial(started, cell))(params, memory)
    length, prompt = 3, np.array([[1, 3]], np.int32)
    sequences = np.array(list(itertools.product(range(VOCABULARY), repeat=length - 1)), np.int32).T
    tapped = jrnn.Tap(cell, ("attention",))

    @jax.jit
    @partial(jax.vmap, in_axes=1)
    def everything(sequence):
        given = jnp.concatenate([prompt, jnp.broadcast_to(sequence[:, None], (length - 1, 2))])
        logits, inside = jrnn.unroll(tapped, params, given, carry)[1]
        a = inside["attention"]
        return jax.nn.log_softmax(logits), jnp.concatenate(a, -1) if memories > 1 else a

    log_p, a = map(np.asarray, everything(sequences))
    place = lambda prefix: sum(v * VOCABULARY ** (length - 2 - t) for t, v in enumerate(prefix))
    valid = np.concatenate([np.arange(SPAN)[:, None] < SPANS] * memories).T
    beta, width = 0.7, 5
    run = jax.jit(lambda beta, alpha: jrnn.beam_search(
        cell, params, prompt, length, width=width, stop=STOP, carry=carry, coverage_penalty=beta,
        length_penalty=alpha))  # fmt: skip
    found = jax.tree.map(np.asarray, run(beta, 0.6))
    for row in range(2):
        needed = search(
            lambda p, r=row: log_p[place(p), len(p), r], length, width, STOP, 0.6, beta,
            lambda p, r=row: a[place(p), len(p), r, valid[r]])  # fmt: skip
        agree((found.tokens[:, row], *(leaf[row] for leaf in found[1:])), needed, STOP)
    plain = jrnn.beam_search(cell, params, prompt, length, width=width, stop=STOP, carry=carry)
    np.testing.assert_allclose(run(0.0, 0.0).scores, plain.scores, rtol=1e-12)
    assert not np.allclose(found.scores, plain.scores)


def test_beams_share_one_memory():
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), drawn(LOOKING, np.random.default_rng(0)))
    memory = jnp.asarray(np.random.default_rng(1).normal(size=(SPAN, 2, FEATURES)), jnp.float32)
    for penalty in (0.0, 0.5):
        run = lambda params, memory, p=penalty: jrnn.beam_search(
            LOOKING, params, PROMPT[:, :2], 4, width=11, stop=STOP, carry=started(LOOKING, params, memory),
            coverage_penalty=p)  # fmt: skip
        shapes = {shape for _, shape in made(jax.make_jaxpr(run)(params, memory).jaxpr)}
        assert any(11 in shape and SPAN in shape for shape in shapes)  # weights
        assert not any(11 in shape and SPAN in shape and {3, FEATURES} & set(shape) for shape in shapes)


def test_rows_may_share_a_memory():
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), drawn(LOOKING, np.random.default_rng(0)))
    memory = jnp.asarray(np.random.default_rng(1).normal(size=(SPAN, FEATURES)), jnp.float32)
    each = jnp.repeat(memory[:, None], 2, 1)
    start = LOOKING.initial_carry(params, (2,))
    found = [
        jrnn.beam_search(LOOKING, params, PROMPT[:, :2], 4, width=3, stop=STOP, coverage_penalty=0.5,
                         carry=jrnn.attach(LOOKING, params, start, given))
        for given in (memory, each)
    ]  # fmt: skip
    np.testing.assert_array_equal(found[0].tokens, found[1].tokens)
    np.testing.assert_allclose(found[0].scores, found[1].scores, rtol=1e-5)


def test_a_loop_is_opened_and_a_decoder_goes_on_from_its_carry():
    loop, prompt = jrnn.Feedback(CELL, emit="argmax"), np.concatenate([PROMPT, PROMPT[:, ::-1]])
    whole = beam(prompt, 5, width=3, stop=STOP)
    carry, _ = jrnn.unroll(CELL, PARAMS, prompt[:1])
    jax.tree.map(np.testing.assert_array_equal, beam(prompt[1:], 5, width=3, stop=STOP, carry=carry), whole)
    of_loop = loop.initial_carry(PARAMS, (6,))._replace(cell=carry)
    for given in (carry, of_loop):
        found = jrnn.beam_search(loop, PARAMS, prompt[1:], 5, width=3, stop=STOP, carry=given)
        jax.tree.map(np.testing.assert_array_equal, found, whole)


ERRORS = [
    ({"width": 0}, "width must be at least 1, got 0"),
    ({"length_penalty": -1}, "length_penalty must be at least 0, got -1"),
    ({"length_penalty": float("nan")}, "length_penalty must be at least 0, got nan"),
    ({"coverage_penalty": -0.5}, "coverage_penalty must be at least 0, got -0.5"),
    ({"coverage_penalty": np.ones(2)}, "coverage_penalty must be a scalar, got shape (2,)"),
    ({"coverage_penalty": 1.0}, "coverage_penalty needs a cell with attention and its memory attached, got "
     f"{CELL}"),
    ({"stop": 4}, f"stop must be a token of {CELL}, an integer from 0 to 3, got 4"),
    ({"length": -1}, "length must be a whole number of tokens, got -1"),
    ({"lengths": [0] * 6}, "lengths must lie between 1 and the 1 steps of prompt, got 0 to 0"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), ERRORS, ids=[m[:40] for _, m in ERRORS])
def test_errors(given, message):
    with pytest.raises(ValueError) as caught:
        beam(**{"prompt": PROMPT, "length": 4, "width": 2} | given)
    assert str(caught.value) == message


def test_logits_that_are_no_numbers_give_scores_that_are_none():
    def adjust(logits, tokens, t):
        return jnp.where(t < 1, logits, jnp.nan)

    params, prompt = CELL.init(jax.random.key(0), VOCABULARY), jnp.array([[0, 1]])
    found = jrnn.beam_search(CELL, params, prompt, 4, width=2, stop=STOP, adjust=adjust)
    assert np.isnan(found.scores[:, 0]).all()
