"""Complaints about other recurrent libraries, each in a sentence, tried on this one."""

import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cells.normalized import normalize
from jrnn.crf import Potentials, crf_log_likelihood, crf_loss, marginals, viterbi
from jrnn.decoding.ctc import ctc_beam_search, ctc_loss

KEY = jax.random.key(0)
XS = jax.random.normal(jax.random.key(1), (5, 2, 3))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def potentials(steps, tags, *batch, seed=0):
    shapes = (steps, *batch, tags), (tags, tags), (tags,), (tags,)
    return Potentials(*(draw(*s, seed=seed + i) for i, s in enumerate(shapes)))


def sure(paths, classes):
    """Logits of a model that is as good as certain of the paths, (time, rows, classes)."""
    heights = np.random.default_rng(1).uniform(8, 30, paths.shape[1])
    return jnp.asarray(np.eye(classes)[paths] * heights[None, :, None], jnp.float32)


def collapsed(path):
    return [label for label, _ in itertools.groupby(path) if label]


PATHS = np.random.default_rng(0).integers(4, size=(12, 200))


def of_ctc():
    labels = np.full((PATHS.shape[1], 12), -1)
    for row, path in zip(labels, PATHS.T, strict=True):
        row[: len(collapsed(path))] = collapsed(path)
    return ctc_loss(sure(PATHS, 4), labels)


def of_crf():
    edges = Potentials(sure(PATHS, 4), *potentials(1, 4)[1:])
    return -crf_log_likelihood(edges, PATHS)


SURE = {
    "ctc_loss": of_ctc,
    "ctc_beam_search": lambda: -ctc_beam_search(sure(PATHS, 4), width=3)[1],
    "crf_log_likelihood": of_crf,
    "cross_entropy": lambda: jax.vmap(jrnn.losses.cross_entropy, 1)(sure(PATHS, 4), jnp.asarray(PATHS)),
    "bernoulli": lambda: jax.vmap(jrnn.losses.bernoulli, 1)(
        sure(PATHS, 4) - 4, jnp.eye(4, dtype=jnp.float32)[PATHS]
    ),
}


@pytest.mark.parametrize("name", SURE)
def test_a_confident_model_has_no_negative_loss(name):
    """The loss of a confident model rounds below 0, and the logarithm of it is NaN."""
    found = np.asarray(SURE[name]())
    assert (found < 1).any() and (found >= 0).all()


@pytest.mark.parametrize("steps", [10, 2000])
def test_a_long_sequence_costs_no_digits(steps):
    """Log-likelihoods of long sequences are differences of two large numbers, and come out positive."""
    tags = np.random.default_rng(0).integers(5, size=steps)
    given = potentials(steps, 5)
    given.unaries[np.arange(steps), tags] += 20
    given.unaries[::50] = draw(*given.unaries[::50].shape, seed=9)  # where it is not certain

    def run():
        both = Potentials(*map(jnp.asarray, given))
        return [np.asarray(a) for a in (crf_log_likelihood(both, tags), marginals(both), viterbi(both)[1])]

    low = run()
    with jax.enable_x64(True):
        given = Potentials(*(a.astype(np.float64) for a in given))
        high = run()
    assert abs(high[0]) < steps / 10 and abs(high[2]) > 15 * steps
    np.testing.assert_allclose(low[0], high[0], rtol=3e-6, atol=1e-6)
    np.testing.assert_allclose(low[1], high[1], atol=2e-6)
    np.testing.assert_allclose(low[2], high[2], rtol=2e-6)


def test_a_tag_that_no_path_reaches_leaves_the_gradient_alone():
    """A transition forbidden by −∞ makes the gradient of a CRF NaN: logsumexp has none where all is −∞."""
    bar = -np.inf  # first 0, then any number of 1, then 2: at the second step nothing leads to 2 or 0 alone
    edges = np.array([[bar, 0.3, bar], [bar, 0.1, -0.4], [bar, bar, bar]])
    ends = np.array([0.2, bar, bar]), np.array([bar, bar, 0.5])
    unaries = draw(4, 3)
    given = Potentials(*map(jnp.float32, (unaries, edges, *ends)))

    def loss(given):
        return crf_loss(given, jnp.array([0, 1, 1, 2]))

    value, slopes = jax.value_and_grad(loss)(given)  # the only path of four steps
    assert value == 0
    for leaf in slopes:
        np.testing.assert_allclose(leaf, 0, atol=1e-6)
    np.testing.assert_allclose(marginals(given), np.eye(3)[[0, 1, 1, 2]], atol=1e-6)
    given = given._replace(end=jnp.zeros(3))  # three paths of four steps: 0111, 0112
    paths = [(0, 1, 1, 1), (0, 1, 1, 2)]
    scores = [sum(unaries[range(4), p]) + sum(edges[a, b] for a, b in itertools.pairwise(p)) for p in paths]
    shares = np.exp(scores) / np.exp(scores).sum()
    expected = sum(share * np.eye(3)[list(path)] for share, path in zip(shares, paths, strict=True))
    np.testing.assert_allclose(marginals(given), expected, atol=1e-6)
    value, slopes = jax.value_and_grad(lambda g: crf_loss(g, jnp.array([0, 0, 1, 2])))(given)
    assert value == np.inf and not any(np.isnan(leaf).any() for leaf in slopes)


def test_a_class_that_cannot_be_is_as_if_it_were_not_there():
    """CTC of logits with −∞ for a class is NaN, and so is its gradient."""
    logits, labels = draw(6, 3, 4), np.array([[1, 2], [2, 2], [1, -1]])
    barred = np.concatenate([logits, np.full((6, 3, 1), -np.inf, np.float32)], -1)

    def both(logits):
        return jax.value_and_grad(lambda z: ctc_loss(z, labels).sum())(jnp.asarray(logits))

    (value, slopes), (expected, others) = both(barred), both(logits)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slopes[..., :4], others, atol=1e-6)
    assert (np.asarray(slopes[..., 4]) == 0).all()
    assert np.isinf(ctc_loss(barred[:, 0], np.array([1, 4])))  # a label that cannot be
    assert np.isnan(ctc_loss(np.full((6, 4), -np.inf, np.float32), np.array([1])))  # nothing can


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(
    "loss",
    [
        lambda tags: jrnn.losses.cross_entropy(draw(6, 2, 300), tags),
        lambda tags: ctc_loss(draw(20, 2, 300), tags.T),
        lambda tags: crf_loss(potentials(6, 300, 2), tags),
    ],
    ids=["cross_entropy", "ctc_loss", "crf_loss"],
)
def test_labels_of_a_byte_name_the_same_classes(loss, dtype):
    """Labels in a small dtype become others where the number of classes does not fit it."""
    labels = np.random.default_rng(0).integers(1, 128, (6, 2))
    np.testing.assert_array_equal(loss(labels.astype(dtype)), loss(labels))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e25, 1e38])
def test_a_gradient_is_clipped_however_long_it_is(scale):
    """A gradient whose square overflows is clipped to 0, one whose square underflows is not clipped."""
    cell = jrnn.ClipGradient(jrnn.Elman(4, activation="identity"), max_norm=0.1 * min(scale, 1.0))
    params = cell.init(KEY, 3)
    carry = jax.random.normal(KEY, (2, 4))

    def slope(scale):
        return jax.grad(lambda h: jnp.float32(scale) * cell.step(params, h, XS[0])[1].sum())(carry)

    found, free = slope(scale), jax.grad(lambda h: cell.cell.step(params, h, XS[0])[1].sum())(carry)
    expected = free / np.linalg.norm(free, axis=-1, keepdims=True) * cell.max_norm
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(slope(0.0), 0)


@pytest.mark.parametrize("form", [jrnn.WeightNorm(), jrnn.SpectralNorm()], ids=repr)
@pytest.mark.parametrize("zeros", ["column", "all"])
def test_a_weight_of_zeros_is_normalized_to_zeros(form, zeros):
    """A weight that is 0 divides by its norm: outputs and all gradients are NaN."""
    cell = jrnn.Reparametrize(jrnn.LSTM(4), "w_hh", form)
    params = cell.init(KEY, 3)
    theta = params.w_hh.params
    first = theta[0] * (np.arange(16) > 0) if zeros == "column" else 0 * theta[0]
    params = params._replace(w_hh=params.w_hh._replace(params=theta._replace(**{theta._fields[0]: first})))
    weight = cell.weights(params).w_hh
    assert (np.asarray(weight)[:, 0] == 0).all() and bool(weight.any()) == (zeros == "column")

    def loss(params):
        return jnp.square(jrnn.unroll(cell, params, XS)[1]).sum()

    leaves = jax.tree.leaves(jax.grad(loss)(params))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    slope = jax.grad(loss)(params).w_hh.params[0]
    assert np.asarray(slope)[:, 0].any()  # so that it does not stay there


def test_targets_of_each_step_may_come_in_an_array_of_objects():
    """Ragged targets in one array of objects, as NumPy makes them, fail in the words of NumPy."""
    targets = np.empty(2, object)
    targets[:] = [np.arange(3), np.arange(5)]
    sequences = [draw(3, 1), draw(5, 1)]
    found, expected = (jrnn.padded_batches(sequences, given, 2)[0] for given in (targets, list(targets)))
    assert found.targets.shape == (5, 2)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    "given", [["a", "b"], [b"a"], [None], [{}], np.array(["2020-01-01"], "datetime64[D]")]
)
@pytest.mark.parametrize("make", ["padded_batches", "pad_sequences", "pair_batches"])
def test_what_is_no_number_is_refused_where_it_is_given(make, given):
    """A sequence of strings is padded as it is, and fails inside the model in the words of the compiler."""
    calls = {
        "padded_batches": lambda: jrnn.padded_batches([given], [0], 1),
        "pad_sequences": lambda: jrnn.pad_sequences([given]),
        "pair_batches": lambda: jrnn.pair_batches([given], [[1]], 1, start=1, stop=2),
    }
    with pytest.raises(ValueError, match=r"^(sequences|sources)\[0\] has dtype .*, needs numbers"):
        calls[make]()


# What others stumbled over and this library does not.


def test_a_reservoir_without_recurrence():
    """A spectral radius of 0, to see what the recurrence is good for, divides by 0."""
    cell = jrnn.EchoState(20, radius=0.0)
    params = cell.init(KEY, 3)
    assert (np.asarray(params.fixed.w_hh) == 0).all()
    fixed = params.fixed
    expected = np.tanh(np.asarray(XS) @ np.asarray(fixed.w_ih) + np.asarray(fixed.b))
    np.testing.assert_allclose(jrnn.unroll(cell, params, XS)[1], expected, atol=1e-6)


@pytest.mark.parametrize("mean", [2e3, 4e4])
def test_layer_normalization_of_a_small_spread_around_a_large_mean(mean):
    """The variance is computed as E[z²] − E[z]², which cancels: NaN, or a hundred times too large."""
    z = np.float32(mean) + np.arange(4, dtype=np.float32)
    np.testing.assert_allclose(normalize(jnp.asarray(z), 1e-5), (z - z.mean()) / z.std(), rtol=1e-4)


def test_threads_that_compile_and_run_at_the_same_time():
    """A layer keeps its masks and its state in itself, and two threads overwrite each other's."""
    cells = (jrnn.Dropout(jrnn.LSTM(7), state=0.5), jrnn.Zoneout(jrnn.GRU(7), 0.3))
    work = [(cell, cell.init(KEY, 3)) for cell in cells]

    def run(cell, params, seed):
        def loss(params):
            ys = jrnn.unroll(cell, params, XS, lengths=jnp.array([5, 2]), key=jax.random.key(seed))[1]
            return jnp.square(ys).sum()

        return jax.value_and_grad(loss)(params)

    found = {}
    start = threading.Barrier(4)

    def worker(seed):
        start.wait()
        for number in range(len(work)) if seed % 2 else reversed(range(len(work))):
            found[number, seed] = run(*work[number], seed)

    threads = [threading.Thread(target=worker, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for (number, seed), pair in found.items():
        jax.tree.map(np.testing.assert_array_equal, pair, run(*work[number], seed))


def test_a_state_that_turns_nan_and_reaches_nothing_has_no_gradient():
    """A part of the state that is NaN and that no output reads makes all gradients NaN."""
    cell = jrnn.from_functions(
        init=lambda key, in_features: jnp.float32(1.1),
        initial_carry=lambda p, batch_shape=(), *, key=None: (jnp.ones(batch_shape), jnp.ones(batch_shape)),
        step=lambda p, carry, x: ((carry[0] * p, jnp.nan * carry[0] * p), carry[0]),
        out_features=1,
    )
    slope = jax.grad(lambda p: jrnn.unroll(cell, p, jnp.ones((4, 1)))[1].sum())(jnp.float32(1.1))
    np.testing.assert_allclose(slope, 1 + 2 * 1.1 + 3 * 1.1**2, rtol=1e-6)


def test_where_everything_is_forbidden_a_search_says_so():
    """Where a constraint forbids all tokens, a search picks one at random and scores it NaN."""

    def nothing_from_the_third(logits, tokens, t):
        return jnp.where(t >= 2, -jnp.inf, logits)

    even = jrnn.cells.maps.EmbedParams(jnp.zeros((4, 4)))
    found = jrnn.beam_search(
        jrnn.Embed(4), even, jnp.array([0]), 4, width=5, stop=3, adjust=nothing_from_the_third
    )
    ended = [(3, 3, 3, 3), (0, 3, 3, 3), (1, 3, 3, 3), (2, 3, 3, 3)]
    assert [tuple(row) for row in found.tokens.T.tolist()[:4]] == ended
    np.testing.assert_allclose(found.scores, [-np.log(4), *3 * [-2 * np.log(4)], -np.inf], rtol=1e-6)


@pytest.mark.parametrize("steps", [20, 100, 400])
def test_a_ratio_of_gradients_that_have_nearly_vanished(steps):
    """Squares of gradients below 1e-19 are 0 in float32, and a ratio of two of them is anything."""
    cell, loss = jrnn.Elman(3, activation="identity"), jrnn.AtLast(jrnn.losses.mean_squared_error)
    params = cell.init(KEY, 1)
    params = params._replace(w_hh=0.5 * jnp.eye(3))
    batch = jrnn.Batch(jnp.ones((steps, 2, 1)), jnp.ones((2, 3)))
    penalty = jrnn.analysis.VanishingGradientPenalty(cell, loss, 1.0)
    value, gradient = jax.value_and_grad(penalty)(params, batch)
    np.testing.assert_allclose(value, (0.5 - 1) ** 2, rtol=1e-5)
    assert -1.01 < float(jnp.trace(gradient.w_hh)) < -0.99  # d (r − 1)² / d r at r = 0.5, by any direction


@pytest.mark.parametrize("steps", [10, 25, 60])
def test_a_readout_without_a_penalty_of_fewer_steps_than_units(steps):
    """Fewer states than units, or a unit that is always 0: the normal equations have no solution."""
    features, targets = draw(steps, 25), draw(steps, 2, seed=1)
    features[:, 3] = 0
    readout = jrnn.ridge_readout(jnp.asarray(features), jnp.asarray(targets), penalty=0)
    centered = [(a - a.mean(0)).astype(np.float64) for a in (features, targets)]
    wanted = np.linalg.lstsq(*centered, rcond=1e-6)[0]
    np.testing.assert_allclose(readout.w, wanted, atol=2e-5)


def test_a_probability_that_is_reached_exactly_keeps_no_token_more():
    """With top_p the sum of the most likely tokens, rounding lets one more in."""
    rng, wrong = np.random.default_rng(0), []
    for trial in range(40):
        parts = np.sort(rng.integers(1, 9, 6))[::-1]
        p, kept = parts / parts.sum(), int(rng.integers(1, 6))
        while kept < 6 and p[kept] == p[kept - 1]:
            kept += 1  # ties are kept or left out together
        bigram = jrnn.cells.maps.EmbedParams(jnp.log(jnp.asarray(np.tile(p, (6, 1)), jnp.float32)))
        prompt = jnp.zeros((1, 64), jnp.int32)
        found = jrnn.generate(
            jrnn.Embed(6), bigram, prompt, 8, key=jax.random.key(trial), top_p=min(float(p[:kept].sum()), 1.0)
        )
        if int(found.tokens.max()) >= kept:
            wrong.append(trial)
    assert not wrong
