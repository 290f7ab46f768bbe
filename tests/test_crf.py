"""The CRF against all of its paths, one by one."""

import itertools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import jrnn
from jrnn.crf import (
    CRF,
    Constraint,
    CRFParams,
    Potentials,
    bio_constraint,
    crf_log_likelihood,
    crf_loss,
    marginals,
    viterbi,
)
from jrnn.layers.sequential import looks_ahead
from jrnn.losses import cross_entropy, length_mask

T, K = 5, 3
LENGTHS = np.array([5, 0, 3, 1])
NAMES = ("O", "B-A", "I-A", "B-B", "I-B")


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def draw(*batch, steps=T, tags=K, seed=0, shared=True):
    """Potentials with batch axes behind time; unless shared, with `batch` leading axes on every array."""
    normal = np.random.default_rng(seed).normal
    if shared:
        shapes = ((steps, *batch, tags), (tags, tags), (tags,), (tags,))
    else:
        shapes = tuple((*batch, *s) for s in ((steps, tags), (tags, tags), (tags,), (tags,)))
    return Potentials(*(1.5 * normal(size=s) for s in shapes))


def draw_tags(*shape, tags=K, seed=1):
    return np.random.default_rng(seed).integers(tags, size=shape)


def row_of(potentials, row, length):
    return potentials._replace(unaries=potentials.unaries[:length, row])


def score(potentials, path):
    """Score of one path over one row, term by term."""
    unaries, transitions, start, end = potentials
    if not len(path):
        return 0.0
    total = start[path[0]] + end[path[-1]] + sum(unaries[t, tag] for t, tag in enumerate(path))
    return total + sum(transitions[a, b] for a, b in itertools.pairwise(path))


def all_paths(potentials):
    """Every path over one row and its score."""
    steps, tags = potentials.unaries.shape
    paths = list(itertools.product(range(tags), repeat=steps))
    return paths, np.array([score(potentials, path) for path in paths])


def by_hand(potentials, allowed=None):
    """Sum over all paths (log Z), marginals, best path and its score, of one row."""
    paths, scores = all_paths(potentials)
    p = np.exp(scores) / np.exp(scores).sum()
    share = np.zeros(potentials.unaries.shape)
    for path, weight in zip(paths, p, strict=True):
        share[np.arange(len(path)), list(path)] += weight
    if allowed is not None:
        scores = np.array(
            [
                s if all(allowed.transitions[a, b] for a, b in itertools.pairwise(path))
                and (not path or (allowed.start[path[0]] and allowed.end[path[-1]])) else -np.inf
                for path, s in zip(paths, scores, strict=True)
            ]
        )  # fmt: skip
    best = int(scores.argmax())
    log_z = np.log(np.exp(all_paths(potentials)[1]).sum())
    return log_z, share, np.array(paths[best]), scores[best]


@jax.jit
def infer(potentials, tags, lengths=None, mask=None):
    given = {"lengths": lengths, "mask": mask}
    likelihood = crf_log_likelihood(potentials, tags, **given)
    return likelihood, viterbi(potentials, **given), marginals(potentials, **given)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_sixty_random_fields_with_holes_equal_brute_force():
    count, random = 60, np.random.default_rng(2)
    potentials, tags = draw(count, shared=False), draw_tags(count, T)
    mask = random.random((count, T)) < 0.75
    allowed = Constraint(random.random((count, K, K)) < 0.6, *(random.random((2, count, K)) < 0.7))
    dirty = potentials._replace(unaries=np.where(mask[..., None], potentials.unaries, np.nan))
    given = jnp.where(mask, tags, 77)

    @jax.jit
    @jax.vmap
    def infer(potentials, tags, mask, allowed):
        limited = viterbi(potentials, mask=mask, allowed=allowed)
        likelihood = crf_log_likelihood(potentials, tags, mask=mask)
        return likelihood, marginals(potentials, mask=mask), viterbi(potentials, mask=mask), limited

    likelihoods, shares, (best, scores), (permitted, limited) = infer(dirty, given, mask, allowed)
    for row in range(count):
        own = Potentials(*(leaf[row] for leaf in potentials))
        keep, rules = mask[row], Constraint(*(leaf[row] for leaf in allowed))
        own = own._replace(unaries=own.unaries[keep])
        log_z, share, path, top = by_hand(own)
        close(likelihoods[row], score(own, tags[row][keep]) - log_z)
        close(shares[row][keep], share)
        close(scores[row], top)
        assert best[row][keep].tolist() == path.tolist()
        assert not shares[row][~keep].any() and not best[row][~keep].any()
        _, _, path, top = by_hand(own, rules)
        close(limited[row], top)
        if top > -np.inf:
            assert permitted[row][keep].tolist() == path.tolist()
    assert 0 < np.isinf(limited).sum() < 30  # impossible ones were among them, and others
    assert (np.asarray(permitted) != np.asarray(best)).any()


def test_a_ragged_batch_is_each_row_alone():
    potentials, tags = draw(4), draw_tags(T, 4)
    valid = np.arange(T)[:, None] < LENGTHS
    dirty = potentials._replace(unaries=np.where(valid[..., None], potentials.unaries, np.inf))
    likelihoods, (best, scores), shares = infer(dirty, np.where(valid, tags, -9), LENGTHS)
    assert best.dtype == jnp.int32 and best.shape == (T, 4)
    for row, n in enumerate(LENGTHS):
        own = row_of(potentials, row, n)
        log_z, share, path, top = by_hand(own)
        close(likelihoods[row], score(own, tags[:n, row]) - log_z)
        close(shares[:, row], np.concatenate([share, np.zeros((T - n, K))]))
        close(scores[row], top)
        assert best[:, row].tolist() == [*path, *[0] * (T - n)]
    assert float(likelihoods[1]) == 0 and float(scores[1]) == 0  # the row without steps


def test_without_lengths_all_steps_are_valid():
    potentials, tags = draw(2, seed=3), draw_tags(T, 2)
    rows = [by_hand(row_of(potentials, row, T)) for row in range(2)]
    own = [score(row_of(potentials, row, T), tags[:, row]) for row in range(2)]
    likelihoods, (best, _), shares = infer(potentials, tags)
    close(likelihoods, [s - row[0] for s, row in zip(own, rows, strict=True)])
    assert best.T.tolist() == [row[2].tolist() for row in rows]
    close(shares.sum(-1), 1)


def test_lengths_and_mask_join():
    potentials, tags = draw(4), draw_tags(T, 4)
    mask = np.random.default_rng(4).random((T, 4)) < 0.6
    both = mask & (np.arange(T)[:, None] < LENGTHS)
    apart, joined = infer(potentials, tags, LENGTHS, mask), infer(potentials, tags, None, both)
    jax.tree.map(np.testing.assert_array_equal, apart, joined)


def test_the_loss_is_the_mean_over_the_valid_steps():
    potentials, tags = draw(4), draw_tags(T, 4)
    mask = np.arange(T)[:, None] < LENGTHS
    total = np.sum(crf_log_likelihood(potentials, tags, LENGTHS))
    close(crf_loss(potentials, tags, mask), -total / LENGTHS.sum())
    close(crf_loss(potentials, tags), -np.sum(crf_log_likelihood(potentials, tags)) / (T * 4))
    assert float(crf_loss(potentials, tags, np.zeros((T, 4), bool))) == 0


def test_without_transitions_it_is_the_cross_entropy():
    logits, tags = draw(4).unaries, draw_tags(T, 4)
    layer = CRF(K)
    params = layer.init(jax.random.key(0), K)
    assert params.transitions.shape == (K, K) and not any(leaf.any() for leaf in params)
    carry, potentials = jrnn.apply(layer, params, jnp.asarray(logits), lengths=LENGTHS)
    mask = length_mask(LENGTHS, T)
    close(crf_loss(potentials, tags, mask), cross_entropy(logits, tags, mask))
    close(marginals(potentials, LENGTHS), np.where(mask[..., None], jax.nn.softmax(logits), 0))
    assert carry == layer.initial_carry(params) == ()


def test_gradients_are_finite_differences_and_padding_has_none():
    potentials, tags = draw(3, steps=4), draw_tags(4, 3)
    mask = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [1, 0, 1]], bool)
    loss = jax.jit(lambda p: crf_loss(p, tags, mask))
    check_grads(loss, (jax.tree.map(jnp.asarray, potentials),), order=2, modes=("rev",), rtol=1e-6)
    check_grads(loss, (jax.tree.map(jnp.asarray, potentials),), order=1, modes=("fwd",), rtol=1e-6)
    dirty = potentials._replace(unaries=np.where(mask[..., None], potentials.unaries, np.nan))
    clean, found = (jax.grad(loss)(p) for p in (potentials, dirty))
    jax.tree.map(np.testing.assert_array_equal, found, clean)
    assert not np.asarray(found.unaries)[~mask].any() and np.asarray(found.unaries)[mask].all()


def test_jit_and_two_batch_axes():
    potentials, tags = draw(2, 3), draw_tags(T, 2, 3)
    lengths = np.array([[5, 0, 2], [1, 4, 3]])
    found = infer(potentials, tags, lengths)
    flat = potentials._replace(unaries=potentials.unaries.reshape(T, 6, K))
    likelihood = crf_log_likelihood(flat, tags.reshape(T, 6), lengths.reshape(6))
    best, scores = viterbi(flat, lengths.reshape(6))
    close(found[0].reshape(6), likelihood)
    np.testing.assert_array_equal(found[1][0].reshape(T, 6), best)
    close(found[1][1].reshape(6), scores)
    alone = draw(seed=6)  # no batch axis
    close(viterbi(alone)[1], by_hand(alone)[3])


@pytest.mark.parametrize(("steps", "batch", "tags"), [(0, 2, 3), (3, 0, 2), (0, 0, 1)])
def test_nothing_at_all(steps, batch, tags):
    potentials, y = draw(batch, steps=steps, tags=tags), draw_tags(steps, batch, tags=tags)
    likelihoods, (best, scores), shares = infer(potentials, y)
    assert likelihoods.tolist() == [0] * batch == scores.tolist()
    assert best.shape == (steps, batch) and shares.shape == (steps, batch, tags)
    assert float(crf_loss(potentials, y)) == 0


def test_one_tag_is_certain():
    potentials = draw(2, tags=1)
    likelihoods, (_, scores), shares = infer(potentials, np.zeros((T, 2), int))
    close(likelihoods, 0)
    close(shares, 1)
    close(scores, [score(row_of(potentials, row, T), [0] * T) for row in range(2)])


@pytest.mark.parametrize("tag", [-1, K, 1000])
def test_a_tag_outside_gives_nan_where_it_counts(tag):
    potentials, tags, mask = draw(2), draw_tags(T, 2), np.ones((T, 2), bool)
    tags[2, 1] = tag
    assert np.isnan(crf_log_likelihood(potentials, tags)).tolist() == [False, True]
    mask[2, 1] = False
    assert np.isfinite(crf_loss(potentials, tags, mask))


def test_float32_at_least_and_extreme_scores_stay_finite():
    potentials = Potentials(*(jnp.asarray(1000 * leaf, jnp.bfloat16) for leaf in draw(3)))
    loss, grads = jax.jit(jax.value_and_grad(crf_loss))(potentials, draw_tags(T, 3))
    assert loss.dtype == jnp.float32 and np.isfinite(loss)
    assert all(np.isfinite(leaf.astype(jnp.float32)).all() for leaf in jax.tree.leaves(grads))


def test_the_layer_is_a_value_and_looks_ahead():
    layer = CRF(4)
    assert layer == CRF(4) == pickle.loads(pickle.dumps(layer)) and hash(layer) == hash(CRF(4))
    assert repr(layer) == "CRF(tags=4)" and layer.out_features == 4
    assert isinstance(layer, jrnn.Layer) and looks_ahead(jrnn.Sequential((jrnn.Dense(4), layer)))


def test_padding_of_the_layer_is_zero():
    xs = jnp.asarray(draw(4).unaries).at[3:].set(jnp.nan)
    potentials = CRF(K).apply(CRF(K).init(jax.random.key(0), K), xs, lengths=np.array([3, 0, 2, 1]))[1]
    valid = np.arange(T)[:, None] < [3, 0, 2, 1]
    np.testing.assert_array_equal(potentials.unaries, np.where(valid[..., None], xs, 0))


def test_it_learns_what_only_transitions_know():
    """The first token tells the tag, the rest nothing; tags go round 0, 1, 2, and no cell remembers."""
    first = np.random.default_rng(0).integers(3, size=64)
    lengths = np.random.default_rng(1).integers(1, 7, 64)
    sequences = [np.array([f, *[3] * (n - 1)]) for f, n in zip(first, lengths, strict=True)]
    tags = [(f + np.arange(n)) % 3 for f, n in zip(first, lengths, strict=True)]
    batches = jrnn.padded_batches(sequences, tags, 32, bucket=6)
    model = jrnn.Sequential((jrnn.Embed(4), jrnn.Dense(3), CRF(3)))
    with jax.enable_x64(False):
        result = jrnn.fit(
            model, batches, jrnn.PerStep(crf_loss), optimizer=optax.adam(0.1), key=jax.random.key(0),
            in_features=4, epochs=60, progress=jrnn.Progress(bar=False),
        )  # fmt: skip
        assert result.history[-1]["train"] < 0.05
        for batch in batches:
            _, potentials = jrnn.apply(model, result.params, batch.xs, lengths=batch.lengths)
            best, _ = viterbi(potentials, batch.lengths)
            np.testing.assert_array_equal(best, np.where(batch.target_mask, batch.targets, 0))
            guess = np.argmax(potentials.unaries, -1)
            assert np.mean(guess[batch.target_mask] == batch.targets[batch.target_mask]) < 0.8


# mistakes

PLAIN = draw(2)
LAYER = CRF(3)
PARAMS = CRFParams(np.zeros((3, 3)), np.zeros(3), np.zeros(3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: CRF(0), ValueError, "CRF: tags must be at least 1, got 0"),
        (
            lambda: LAYER.init(jax.random.key(0), 5),
            ValueError,
            "CRF(tags=3) needs inputs of width 3, one score per tag, got 5: put Dense(3) before it",
        ),
        (
            lambda: LAYER.apply(PARAMS, jnp.zeros((4, 2, 5))),
            ValueError,
            "CRF(tags=3) needs inputs of width 3, one score per tag, got 5: put Dense(3) before it",
        ),
        (
            lambda: LAYER.apply(PARAMS, jnp.zeros((4, 2, 3)), resets=jnp.zeros((4, 2), bool)),
            ValueError,
            "CRF(tags=3) takes no resets: put each sequence in its own row",
        ),
        (
            lambda: crf_loss(0.5, jnp.zeros((4, 2), int)),
            TypeError,
            "potentials must be the outputs of CRF, got 0.5: put CRF(tags) last in the model",
        ),
        (
            lambda: viterbi(Potentials(np.zeros(3), *PARAMS)),
            ValueError,
            "unaries has shape (3,), needs (time, batch..., tags)",
        ),
        (
            lambda: viterbi(PLAIN._replace(start=np.zeros(4))),
            ValueError,
            "transitions, start and end of potentials have shapes [(3, 3), (4,), (3,)], 3 tags need "
            "[(3, 3), (3,), (3,)]",
        ),
        (
            lambda: viterbi(PLAIN, allowed=bio_constraint(NAMES)),
            ValueError,
            "transitions, start and end of allowed have shapes [(5, 5), (5,), (5,)], 3 tags need "
            "[(3, 3), (3,), (3,)]",
        ),
        (
            lambda: crf_loss(PLAIN, np.zeros((2, 5), int)),
            ValueError,
            "tags has shape (2, 5), unaries of (5, 2, 3) need (5, 2)",
        ),
        (lambda: crf_loss(PLAIN, np.zeros((5, 2))), ValueError, "tags must be integers, got float64"),
        (
            lambda: viterbi(PLAIN, [6, 1]),
            ValueError,
            "lengths must lie between 0 and the 5 steps of xs, got 1 to 6",
        ),
        (
            lambda: bio_constraint(("O", "S-A")),
            ValueError,
            "names must be O, B-X or I-X with a type X, as in the BIO scheme, got 'S-A'",
        ),
        (
            lambda: bio_constraint(("B-",)),
            ValueError,
            "names must be O, B-X or I-X with a type X, as in the BIO scheme, got 'B-'",
        ),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
