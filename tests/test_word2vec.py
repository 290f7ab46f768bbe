"""word2vec: losses and draws against NumPy, windows against a loop, and what is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn.training.word2vec import (
    Corpus,
    Plan,
    Vectors,
    context_mean,
    draw_words,
    nearest,
    negative_losses,
    softmax_losses,
    windows,
    word2vec,
)
from jrnn.training.word2vec import _epoch as epoch
from jrnn.training.word2vec import _odds as odds
from jrnn.training.word2vec import _shuffled as shuffled
from jrnn.training.word2vec import _subsampled as subsampled

VOCABULARY, FEATURES, ROWS, WIDTH, DRAWN = 11, 4, 6, 5, 3
SILENT = jrnn.Progress(bar=False)
SGD, STILL = optax.sgd(0.5), optax.sgd(0.0)  # one value each, so that nothing is compiled twice


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def problem():
    """Vectors, contexts, mask, words and negatives, float64 and int."""
    random = np.random.default_rng(0)
    vectors = Vectors(*random.normal(size=(2, VOCABULARY, FEATURES)))
    mask = random.random((ROWS, WIDTH)) < 0.6
    mask[0], mask[1] = True, False  # all, and none
    assert 0 < mask[2:].sum() < mask[2:].size
    draw = lambda *shape: random.integers(VOCABULARY, size=shape)
    return vectors, draw(ROWS, WIDTH), mask, draw(ROWS), draw(ROWS, DRAWN)


def means(vectors, contexts, mask):
    """v̄, word by word."""
    found = np.zeros((len(contexts), vectors.table.shape[1]))
    for row, (around, inside) in enumerate(zip(contexts, mask, strict=True)):
        there = [vectors.table[word] for word, valid in zip(around, inside, strict=True) if valid]
        if there:
            found[row] = sum(there) / len(there)
    return found


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def by_hand(vectors, contexts, mask, words, drawn=None):
    losses = []
    for mean, word, others in zip(
        means(vectors, contexts, mask), words, words if drawn is None else drawn, strict=True
    ):
        scores = vectors.output @ mean
        if drawn is None:
            losses.append(-np.log(np.exp(scores[word]) / np.exp(scores).sum()))
        else:
            negatives = sum(np.log(sigmoid(-scores[other])) for other in others)
            losses.append(-np.log(sigmoid(scores[word])) - negatives)
    return np.array(losses)


# ---------------------------------------------------------------- losses


def test_the_mean_is_over_the_words_that_are_there(x64):
    vectors, contexts, mask, _, _ = problem()
    expected = means(vectors, contexts, mask)
    np.testing.assert_allclose(context_mean(jnp.asarray(vectors.table), contexts, mask), expected, rtol=1e-13)
    assert not expected[1].any() and expected[0].any()


def test_losses_are_those_of_the_formula(x64):
    vectors, contexts, mask, words, drawn = problem()
    given = jax.tree.map(jnp.asarray, (vectors, contexts, mask, words))
    np.testing.assert_allclose(softmax_losses(*given), by_hand(vectors, contexts, mask, words), rtol=1e-13)
    expected = by_hand(vectors, contexts, mask, words, drawn)
    np.testing.assert_allclose(negative_losses(*given, drawn), expected, rtol=1e-13)


def test_gradients_are_those_of_the_formula_and_touch_used_rows_only(x64):
    vectors, contexts, mask, words, drawn = problem()
    contexts, words, drawn = contexts // 3, words // 4, drawn % 3 + 4  # words 0 to 3; 0 to 2; 4 to 6
    rest = jax.tree.map(jnp.asarray, (contexts, mask, words, drawn))
    grads = jax.grad(lambda v: negative_losses(v, *rest).sum())(jax.tree.map(jnp.asarray, vectors))
    for name in Vectors._fields:
        values = getattr(vectors, name)
        for place in np.ndindex(values.shape):
            step = np.zeros_like(values)
            step[place] = 1e-5
            up, down = (
                by_hand(vectors._replace(**{name: values + s}), contexts, mask, words, drawn).sum()
                for s in (step, -step)
            )
            np.testing.assert_allclose(getattr(grads, name)[place], (up - down) / 2e-5, atol=1e-8)
    used = set(contexts[mask].tolist())
    assert [bool(row.any()) for row in grads.table] == [word in used for word in range(VOCABULARY)]
    assert 3 <= len(used) <= 4
    there = mask.any(1)  # without a context v̄ is 0, and so is the gradient of u
    used = {*words[there].tolist(), *drawn[there].ravel().tolist()}
    assert [bool(row.any()) for row in grads.output] == [word in used for word in range(VOCABULARY)]
    assert 4 <= len(used) <= 6


def test_large_scores_give_finite_losses():
    vectors = Vectors(jnp.full((2, 1), 200.0), jnp.array([[200.0], [-200.0]]))
    given = vectors, jnp.array([[0]]), jnp.array([[True]])
    np.testing.assert_allclose(negative_losses(*given, jnp.array([1]), jnp.array([[0]])), [80000], rtol=1e-6)
    np.testing.assert_allclose(softmax_losses(*given, jnp.array([1])), [80000], rtol=1e-6)


# ---------------------------------------------------------------- windows, draws


def corpus_of(*sentences, size=None):
    words = np.concatenate(sentences).astype(np.int32)
    numbers = np.repeat(np.arange(len(sentences)), [len(s) for s in sentences])
    return Corpus(jnp.asarray(words), jnp.asarray(numbers), jnp.asarray(len(words) if size is None else size))


@pytest.mark.parametrize("window", [1, 2, 4, 9])
@pytest.mark.parametrize("left_out", [0, 3])
def test_windows_stay_in_their_sentence(window, left_out):
    sentences = [[10, 11, 12, 13, 14], [20], [30, 31], [40, 41, 42, 43]]
    size = 12 - left_out
    corpus = corpus_of(*sentences, size=size)
    contexts, mask = windows(corpus, jnp.arange(size), window)
    found = [c[m].tolist() for c, m in zip(np.asarray(contexts), np.asarray(mask), strict=True)]
    there, expected = size, []
    for sentence in sentences:
        sentence, there = sentence[: max(there, 0)], there - len(sentence)
        for i in range(len(sentence)):
            expected.append(sentence[max(0, i - window) : i] + sentence[i + 1 : i + 1 + window])
    assert found == expected and contexts.shape == (size, 2 * window)


def test_negatives_are_drawn_by_count_to_the_power_of_three_quarters():
    counts = np.array([0, 1, 2, 5, 0, 40, 300, 3000, 0])
    drawn_by = odds(np.repeat(np.arange(9, dtype=np.int32), counts), 9, None)
    draws = 200_000
    drawn = np.asarray(draw_words(jax.random.key(1), drawn_by.cumulated, (draws // 5, 5)))
    found = np.bincount(drawn.ravel(), minlength=9)
    expected = draws * counts**0.75 / (counts**0.75).sum()
    assert (found[counts == 0] == 0).all()
    some = counts > 0
    assert ((found - expected)[some] ** 2 / expected[some]).sum() < 20.5  # χ² with 5 degrees, p = 0.001
    wrong = draws * counts / counts.sum()
    assert ((found - wrong)[some] ** 2 / wrong[some]).sum() > 1000


def test_the_table_of_odds_is_exact_at_its_ends():
    cumulated = odds(np.array([1, 1, 3], np.int32), 5, None).cumulated
    share = 2**0.75 / (2**0.75 + 1)
    np.testing.assert_array_equal(
        np.asarray(cumulated), np.minimum(np.round(2**32 * np.array([0, share, share, 1, 1])), 2**32 - 1)
    )
    assert int(jnp.searchsorted(cumulated, jnp.uint32(2**32 - 1))) == 3


def test_frequent_words_are_left_out_by_their_frequency():
    counts = np.array([60_000, 30_000, 9_000, 900, 100])
    words = np.random.default_rng(0).permutation(np.repeat(np.arange(5, dtype=np.int32), counts))
    kept = odds(words, 5, 0.01).kept
    frequencies = counts / counts.sum()
    np.testing.assert_allclose(1 - kept, np.maximum(0, 1 - np.sqrt(0.01 / frequencies)), rtol=1e-6)
    corpus = corpus_of(words[:50_000], words[50_000:])
    left = subsampled(corpus, kept, jax.random.key(0))
    size = int(left.size)
    found = np.bincount(left.words[:size], minlength=5)
    sigma = np.sqrt(counts * kept * (1 - kept))
    assert (abs(found - counts * kept) <= 4 * sigma).all()
    assert found[3:].tolist() == [900, 100]
    places = np.flatnonzero(np.asarray(jax.random.uniform(jax.random.key(0), words.shape) < kept[words]))
    np.testing.assert_array_equal(left.words[:size], words[places])
    np.testing.assert_array_equal(left.sentence[:size], places >= 50_000)
    again = subsampled(corpus, kept, jax.random.key(1))
    assert left.words[:1000].tolist() != again.words[:1000].tolist()


@pytest.mark.parametrize(("size", "batch_size"), [(12, 5), (7, 5), (10, 5), (12, 12), (0, 5)])
def test_every_word_is_guessed_once_an_epoch(size, batch_size):
    corpus = corpus_of(range(12), size=size)
    order = shuffled(corpus, jax.random.key(0), batch_size)
    assert sorted(order[:size].tolist()) == list(range(size)) and len(order) % batch_size == 0
    assert size < 7 or order[:size].tolist() != list(range(size))
    assert len(order) == -(-12 // batch_size) * batch_size


# ---------------------------------------------------------------- training


def train(sentences, size, **options):
    given = {"features": 3, "window": 2, "negatives": 2, "subsample": None, "epochs": 1}
    given |= {"optimizer": SGD, "key": jax.random.key(0), "progress": SILENT}
    return word2vec(sentences, size, **(given | options))


def test_one_epoch_is_gradient_descent_by_hand(x64):
    sentences = [np.array([0, 1, 2, 1]), np.array([3]), np.array([4, 0])]
    start, end = (train(sentences, 5, negatives=None, epochs=n) for n in (1, 2))
    contexts = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 1], [1, 2, 0], [0, 0, 0], [4, 0, 0]])
    mask = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)
    words = np.array([0, 1, 2, 1, 4, 0])  # 3 stands alone and is passed over
    assert start.losses == pytest.approx([np.log(5)], rel=1e-14)  # u starts at zero
    vectors = Vectors(np.asarray(start.table), np.asarray(start.output))
    mean = by_hand(vectors, contexts, mask, words).mean()
    assert end.losses == pytest.approx([np.log(5), mean], rel=1e-12)
    scores = means(vectors, contexts, mask)  # (6, 3)
    logits = scores @ vectors.output.T
    errors = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(5)[words]
    np.testing.assert_allclose(end.output, vectors.output - 0.5 * errors.T @ scores / 6, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [5, 40])
def test_an_epoch_counts_every_word_with_a_context_once(x64, batch_size):
    random = np.random.default_rng(0)
    sentences = [random.integers(6, size=n) for n in (5, 1, 9, 2, 1, 4)]  # 22 words, the last batch not full
    vectors = Vectors(*random.normal(size=(2, 6, 3)))
    corpus, every = corpus_of(*sentences), odds(np.concatenate(sentences), 6, None)
    contexts, mask = map(np.asarray, windows(corpus, jnp.arange(22), 2))
    there, words = mask.any(1), np.concatenate(sentences)
    assert there.sum() == 20
    expected = by_hand(vectors, contexts, mask, words)[there].mean()
    state = jax.tree.map(jnp.asarray, vectors), STILL.init(vectors)
    for seed in range(3):
        given = Plan(2, None, batch_size, STILL), state, corpus, every, jax.random.key(seed)
        assert float(epoch(*given)[1]) == pytest.approx(expected, rel=1e-12)
    if batch_size == 40:  # one batch: the step is along the gradient of that mean
        ((_, output), _), _ = epoch(given[0]._replace(optimizer=SGD), *given[1:])
        mean = means(vectors, contexts, mask)
        logits = mean @ vectors.output.T
        errors = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(6)[words]
        np.testing.assert_allclose(output, vectors.output - 0.5 * errors.T @ mean / 20, rtol=1e-12)


def classes(count=4, members=5, sentences=600):
    """Sentences of a pattern: every class follows another, its words standing for one another."""
    random = np.random.default_rng(0)
    starts = random.integers(count, size=(sentences, 1))
    order = (starts + np.arange(8)) % count
    return list(order * members + random.integers(members, size=order.shape))


@pytest.mark.parametrize("negatives", [None, 5])
def test_words_of_a_class_come_to_lie_together(negatives):
    learned = train(
        classes(), 20, features=8, negatives=negatives, epochs=8, batch_size=256, optimizer=optax.adam(2e-2)
    )
    words, cosines = nearest(learned.table, np.arange(20), k=4)
    np.testing.assert_array_equal(words // 5, np.arange(20)[:, None] // 5 * np.ones(4, int))
    assert cosines.min() > 0.8 and len(learned.losses) == 8
    if negatives is None:
        # one word of five; for the first and the last of eight, one class of two: no order is seen
        entropy = np.log(5) + 2 / 8 * np.log(2)
        assert entropy - 0.01 < learned.losses[-1] < entropy + 0.03
    else:
        assert learned.losses[-1] < learned.losses[0] - 0.2


def test_the_key_decides():
    options = {
        "negatives": 2,
        "subsample": 0.05,
        "batch_size": 64,
        "epochs": 2,
        "optimizer": optax.adam(1e-2),
    }
    a, b = (train(classes(sentences=50), 20, **options) for _ in range(2))
    other = train(classes(sentences=50), 20, **options, key=jax.random.key(1))
    np.testing.assert_array_equal(a.table, b.table)
    np.testing.assert_array_equal(a.output, b.output)
    assert a.losses == b.losses and a.losses != other.losses
    assert not np.isclose(a.table, other.table).any(axis=1).all()


def test_every_epoch_leaves_out_other_words():
    first, last = (train([np.arange(30)], 30, subsample=0.003, negatives=None, epochs=n) for n in (1, 12))
    moved = (first.table != last.table).any(axis=1).sum()  # u starts at zero, so v first moves in epoch 2
    assert moved > 20  # three of ten words are left in an epoch


def test_a_single_array_is_one_sentence_and_tables_stand_in_an_embedding():
    tokens = np.array([0, 1, 2, 1, 0], np.int64)
    learned = train(tokens, 3)
    assert learned.losses == pytest.approx([3 * np.log(2)], rel=1e-6)  # a coin for each word and negative
    for same in ([tokens], tokens.tolist(), jnp.asarray(tokens)):
        np.testing.assert_array_equal(train(same, 3).table, learned.table)
    params = jrnn.Embed(3).init(jax.random.key(0), 3)._replace(table=learned.table)
    _, ys = jrnn.unroll(jrnn.Embed(3), params, jnp.asarray(tokens))
    np.testing.assert_array_equal(ys, learned.table[tokens])


@pytest.mark.parametrize(
    ("sentences", "options", "error", "message"),
    [
        ([], {}, ValueError, "sentences hold no two words in any one, so none has a context"),
        ([[0], [], [1]], {}, ValueError, "sentences hold no two words in any one, so none has a context"),
        (
            [[0, 1], [1, 5]],
            {},
            ValueError,
            "sentences[1] must lie in [0, 5), got 1 to 5: is vocabulary_size that of the vocabulary?",
        ),
        (
            [[0, -1]],
            {},
            ValueError,
            "sentences[0] must lie in [0, 5), got -1 to 0: is vocabulary_size that of the vocabulary?",
        ),
        ([np.zeros((2, 2), int)], {}, ValueError, "sentences[0] has shape (2, 2), needs one axis"),
        ([[0.5, 1.0]], {}, TypeError, "sentences[0] must hold integers, got float64: use Vocabulary.encode"),
        ([["to", "be"]], {}, TypeError, "sentences[0] must hold integers, got <U2: use Vocabulary.encode"),
        ([[0, 1]], {"features": 0}, ValueError, "features must be at least 1, got 0"),
        ([[0, 1]], {"window": 0}, ValueError, "window must be at least 1, got 0"),
        ([[0, 1]], {"negatives": 0}, ValueError, "negatives must be at least 1, got 0"),
        ([[0, 1]], {"subsample": 0.0}, ValueError, "subsample must be a number above 0, got 0.0"),
        ([[0, 1]], {"epochs": 1.5}, TypeError, "epochs must be an int, got 1.5"),
        ([[0, 1]], {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ([[0, 1]], {"key": 0}, TypeError, "key must be a random key, as in jax.random.key(0), got 0"),
    ],
)
def test_word2vec_errors(sentences, options, error, message):
    with pytest.raises(error) as caught:
        train(sentences, 5, **options)
    assert str(caught.value) == message


# ---------------------------------------------------------------- neighbours


def test_nearest_is_by_cosine_and_leaves_the_word_itself_out():
    table = np.random.default_rng(0).normal(size=(30, 6)) * np.geomspace(1, 100, 30)[:, None]
    words, cosines = nearest(table, np.array([[3, 7, 29]]), k=29)
    assert words.shape == cosines.shape == (1, 3, 29)
    for given, found, values in zip([3, 7, 29], words[0], cosines[0], strict=True):
        cosine = {
            other: table[given] @ table[other] / np.linalg.norm(table[given]) / np.linalg.norm(table[other])
            for other in range(30)
            if other != given
        }
        assert found.tolist() == sorted(cosine, key=cosine.get, reverse=True)
        np.testing.assert_allclose(values, sorted(cosine.values(), reverse=True), rtol=1e-12)
    assert nearest(table, 3, k=2)[0].tolist() == words[0, 0, :2].tolist()


def test_a_vector_of_zeros_is_near_to_nothing():
    words, cosines = nearest(np.array([[1.0, 0], [0, 0], [1, 1], [-1, 0]], np.float32), 0, k=3)
    assert words.tolist() == [2, 1, 3]
    np.testing.assert_allclose(cosines, [0.5**0.5, 0, -1], rtol=1e-6)


@pytest.mark.parametrize(
    ("table", "index", "k", "message"),
    [
        (np.ones(4), 0, 1, "table has shape (4,), needs (vocabulary, features)"),
        (np.ones((4, 2)), 4, 1, "index must lie in [0, 4), got 4 to 4"),
        (np.ones((4, 2)), [0, -1], 1, "index must lie in [0, 4), got -1 to 0"),
        (np.ones((4, 2)), 0.0, 1, "index must hold integers, got float64"),
        (np.ones((4, 2)), 0, 4, "k must be below 4, the number of words, got 4"),
        (np.ones((4, 2)), 0, 0, "k must be at least 1, got 0"),
    ],
)
def test_nearest_errors(table, index, k, message):
    with pytest.raises(ValueError) as caught:
        nearest(table, index, k)
    assert str(caught.value) == message
