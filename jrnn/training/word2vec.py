"""word2vec: vectors of words, learned by guessing each word from those around it."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from numpy.typing import NDArray

from jrnn.checks import check_positive, check_width, require_key
from jrnn.initializers import default_float
from jrnn.training.progress import Progress, bar


class Word2Vec(NamedTuple):
    """What `word2vec` returns."""

    table: Array  # (vocabulary, features), v: the vector of a word, and the table of an `Embed`
    output: Array  # (vocabulary, features), u: the vector of a word as what is guessed
    losses: list[float]  # mean over the words of each epoch, in nats


class Vectors(NamedTuple):
    """What is trained."""

    table: Array  # (vocabulary, features), v
    output: Array  # (vocabulary, features), u


class Corpus(NamedTuple):
    """Words of all sentences, one after another; after subsampling the first `size` are left."""

    words: Array  # (N,), int32
    sentence: Array  # (N,), int32, the number of the sentence that a word stands in
    size: Array  # how many words there are, at most N


class Odds(NamedTuple):
    """How likely words are to be drawn, by their number."""

    kept: Array  # (vocabulary,), that subsampling leaves one
    cumulated: Array  # (vocabulary,), uint32: those of a negative, summed up, in units of 2⁻³²


class Plan(NamedTuple):
    """What a compiled epoch is made for."""

    window: int
    negatives: int | None
    batch_size: int
    optimizer: optax.GradientTransformation


def word2vec(
    sentences: Any,
    vocabulary_size: int,
    *,
    features: int = 100,
    window: int = 5,
    negatives: int | None = 5,
    subsample: float | None = 1e-3,
    epochs: int = 5,
    batch_size: int = 1024,
    optimizer: optax.GradientTransformation,
    key: Array,
    progress: Progress = Progress(),
) -> Word2Vec:
    """Learn a vector for every word by the continuous bag of words (CBOW).

        v̄ = mean of v_c over the words c within `window` of w in its sentence
        loss = −log σ(u_w · v̄) − Σₖ log σ(−u_nₖ · v̄),   nₖ ~ count^¾      negatives=k
        loss = −log softmax(u v̄)_w                                        negatives=None
        a word of frequency f is left out with probability 1 − √(subsample / f), anew every epoch

    An epoch runs in one compiled loop over shuffled batches, the loss being their mean. Words left out
    make windows reach further, as in the original program; unlike there, every window is as wide as
    `window`, and a negative may be w itself, as in the equation. A word without another one in its
    sentence is passed over. u starts at zero, v uniform in ±½ / features. The work of a step grows with
    vocabulary_size · features, as `optimizer` moves all rows: for large vocabularies, raise `batch_size`.

    Args:
      sentences: arrays of word numbers, as `Vocabulary.encode` gives them, or a single array.
      vocabulary_size: numbers lie in [0, vocabulary_size).
      features: width of the vectors.
      window: how many words on each side.
      negatives: how many words to draw against each; None: the softmax over all words.
      subsample: frequency above which words are left out now and then; None: none are. In a small
        vocabulary all words are frequent.
      epochs: how often to go through the corpus.
      batch_size: words guessed at a time.
      optimizer: any optax transformation, such as `optax.adam(5e-3)`.
      key: the randomness of the run.
      progress: what to show.

    Returns:
      A `Word2Vec`; its `table` may stand in `EmbedParams`.

    Raises:
      ValueError: a number out of range, or no two words in any sentence; the message names the argument.
      TypeError: arrays that hold no integers, or an argument of another type.

    Reference: Mikolov, Chen, Corrado, Dean, Efficient estimation of word representations in vector space,
    2013, arXiv:1301.3781; Mikolov et al., Distributed representations of words and phrases and their
    compositionality, 2013, arXiv:1310.4546.

    >>> import jax, jrnn, numpy as np, optax
    >>> from jrnn.training.word2vec import word2vec
    >>> learned = word2vec(
    ...     [np.array([0, 1, 2]), np.array([3, 1, 2])], 4, features=2, subsample=None, epochs=2,
    ...     optimizer=optax.adam(1e-2), key=jax.random.key(0), progress=jrnn.Progress(bar=False))
    >>> learned.table.shape, [f"{loss:.3f}" for loss in learned.losses[:1]]
    ((4, 2), ['4.159'])
    """
    for name, width in (("vocabulary_size", vocabulary_size), ("features", features), ("window", window),
                        ("epochs", epochs), ("batch_size", batch_size)):  # fmt: skip
        check_width(name, width)
    if negatives is not None:
        check_width("negatives", negatives)
    if subsample is not None:
        check_positive("subsample", subsample)
    require_key(key)
    corpus = _checked_corpus(sentences, vocabulary_size)
    odds = _odds(np.asarray(corpus.words), vocabulary_size, subsample)
    plan = Plan(window, negatives, min(batch_size, int(corpus.size)), optimizer)
    key, draw = jax.random.split(key)
    shape, half = (vocabulary_size, features), 0.5 / features
    table = jax.random.uniform(draw, shape, default_float(), -half, half)
    vectors = Vectors(table, jnp.zeros(shape, default_float()))
    state, losses = (vectors, optimizer.init(vectors)), []
    with bar(progress, "word2vec", epochs, 0) as shown:
        for number in range(epochs):
            state, loss = _epoch(plan, state, corpus, odds, jax.random.fold_in(key, number))
            losses.append(float(loss))
            shown.update()
            shown.set_postfix_str(f"loss {losses[-1]:.4g}")
    return Word2Vec(*state[0], losses)


def nearest(table: Any, index: Any, k: int = 10) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Words whose vectors point in the directions nearest to those of given words.

        cos(a, b) = v_a · v_b / (|v_a| |v_b|)

    Args:
      table: (vocabulary, features), a vector for every word.
      index: number of a word, or an array of them, (...).
      k: how many to find for each, in [1, vocabulary − 1].

    Returns:
      `(words, cosines)`, (..., k), the nearest first, the word itself left out.

    Raises:
      ValueError: an index or k out of range.

    >>> from jrnn.training.word2vec import nearest
    >>> words, cosines = nearest([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [-1.0, 0.0]], 0, k=2)
    >>> words.tolist(), cosines.round(2).tolist()
    ([2, 1], [0.95, 0.0])
    """
    table, index = np.asarray(table), np.asarray(index)
    if table.ndim != 2:
        raise ValueError(f"table has shape {table.shape}, needs (vocabulary, features)")
    size = len(table)
    if not np.issubdtype(index.dtype, np.integer):
        raise ValueError(f"index must hold integers, got {index.dtype}")
    if index.size and not 0 <= index.min() <= index.max() < size:
        raise ValueError(f"index must lie in [0, {size}), got {index.min()} to {index.max()}")
    check_width("k", k)
    if k >= size:
        raise ValueError(f"k must be below {size}, the number of words, got {k}")
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    unit = table / np.maximum(lengths, np.finfo(table.dtype).tiny)
    cosines = unit[index] @ unit.T  # (..., vocabulary)
    np.put_along_axis(cosines, index[..., None], -np.inf, axis=-1)
    words = np.argsort(-cosines, axis=-1, kind="stable")[..., :k]
    return words, np.take_along_axis(cosines, words, axis=-1)


def context_mean(table: Array, contexts: Array, mask: Array) -> Array:
    """Mean vector of the words around each word.

        v̄ᵢ = Σ_c maskᵢ_c · table[contextsᵢ_c] / Σ_c maskᵢ_c,   0 where there is none

    Args:
      table: (vocabulary, features).
      contexts: (B, C), numbers of words.
      mask: (B, C), False at what is no word.

    Returns:
      (B, features).
    """
    count = jnp.maximum(mask.sum(-1, keepdims=True), 1)
    weights = (mask / count).astype(table.dtype)
    return jnp.einsum("bc,bcd->bd", weights, table[contexts])


def softmax_losses(vectors: Vectors, contexts: Array, mask: Array, words: Array) -> Array:
    """Loss of guessing each word among all.

        lossᵢ = −log softmax(output · v̄ᵢ)_wordsᵢ

    Args:
      vectors: what is trained.
      contexts: (B, C), the words around each.
      mask: (B, C), False at what is no word.
      words: (B,), the words to guess.

    Returns:
      (B,), in nats.
    """
    mean = context_mean(vectors.table, contexts, mask)
    return optax.softmax_cross_entropy_with_integer_labels(mean @ vectors.output.T, words)


def negative_losses(vectors: Vectors, contexts: Array, mask: Array, words: Array, drawn: Array) -> Array:
    """Loss of telling each word from drawn ones.

        lossᵢ = −log σ(output[wordsᵢ] · v̄ᵢ) − Σₖ log σ(−output[drawnᵢₖ] · v̄ᵢ)

    Args:
      vectors: what is trained.
      contexts: (B, C), the words around each.
      mask: (B, C), False at what is no word.
      words: (B,), the words to guess.
      drawn: (B, K), the negatives.

    Returns:
      (B,), in nats.
    """
    mean = context_mean(vectors.table, contexts, mask)
    rows = vectors.output[jnp.concatenate([words[:, None], drawn], axis=1)]  # (B, 1 + K, features)
    scores = jnp.einsum("bd,bkd->bk", mean, rows)
    return -jax.nn.log_sigmoid(scores[:, 0]) - jax.nn.log_sigmoid(-scores[:, 1:]).sum(1)


def windows(corpus: Corpus, positions: Array, window: int) -> tuple[Array, Array]:
    """Words around those at some positions, and which of them are there: in the same sentence.

    Args:
      corpus: words and the sentences that they stand in.
      positions: (B,), in [0, N).
      window: how many on each side.

    Returns:
      contexts and mask, (B, 2·window), from left to right.
    """
    offsets = jnp.concatenate([jnp.arange(-window, 0), jnp.arange(1, window + 1)])
    around = positions[:, None] + offsets
    inside = (around >= 0) & (around < corpus.size)
    around = jnp.clip(around, 0, len(corpus.words) - 1)
    return corpus.words[around], inside & (corpus.sentence[around] == corpus.sentence[positions][:, None])


def draw_words(key: Array, cumulated: Array, shape: tuple[int, ...]) -> Array:
    """Words drawn at random, each by its odds.

    Args:
      key: PRNG key.
      cumulated: (vocabulary,), uint32, as in `Odds`.
      shape: of the result.

    Returns:
      Numbers of words.
    """
    bits = jax.random.bits(key, shape, jnp.uint32)
    return jnp.searchsorted(cumulated, bits)


@partial(jax.jit, static_argnames="plan")
def _epoch(plan: Plan, state: Any, corpus: Corpus, odds: Odds, key: Array) -> tuple[Any, Array]:
    """Go once through the corpus: the state after it, and the mean loss of the words."""
    k_keep, k_order, k_draw = jax.random.split(key, 3)
    corpus = _subsampled(corpus, odds.kept, k_keep)
    order = _shuffled(corpus, k_order, plan.batch_size)

    def advance(number: Array, carry: Any) -> Any:
        (vectors, opt_state), nats, guessed = carry
        places = number * plan.batch_size + jnp.arange(plan.batch_size)
        positions = order[places]
        contexts, mask = windows(corpus, positions, plan.window)
        words, counts = corpus.words[positions], mask.any(-1) & (places < corpus.size)
        drawn = None
        if plan.negatives is not None:
            shape = (plan.batch_size, plan.negatives)
            drawn = draw_words(jax.random.fold_in(k_draw, number), odds.cumulated, shape)

        def mean_loss(vectors: Vectors) -> Array:
            given = vectors, contexts, mask, words
            losses = softmax_losses(*given) if drawn is None else negative_losses(*given, drawn)
            return jnp.where(counts, losses, 0).sum() / jnp.maximum(counts.sum(), 1)

        loss, grads = jax.value_and_grad(mean_loss)(vectors)
        updates, opt_state = plan.optimizer.update(grads, opt_state, vectors)
        state = optax.apply_updates(vectors, updates), opt_state
        return state, nats + loss * counts.sum(), guessed + counts.sum()

    batches = -(-corpus.size // plan.batch_size)
    state, nats, guessed = lax.fori_loop(0, batches, advance, (state, jnp.zeros(()), 0))
    return state, nats / jnp.maximum(guessed, 1)


def _subsampled(corpus: Corpus, kept: Array, key: Array) -> Corpus:
    """The corpus with each word left out or kept by its odds, moved up to close the gaps."""
    chosen = jax.random.uniform(key, corpus.words.shape) < kept[corpus.words]
    places = jnp.argsort(~chosen)  # stable: those kept first, in their order
    return Corpus(corpus.words[places], corpus.sentence[places], chosen.sum())


def _shuffled(corpus: Corpus, key: Array, batch_size: int) -> Array:
    """Positions of the words that are there in random order, then those of the others, in full batches."""
    most = len(corpus.words)
    random = jax.random.uniform(key, (most,))
    order = jnp.argsort(jnp.where(jnp.arange(most) < corpus.size, random, 2.0))
    return jnp.pad(order, (0, -most % batch_size))


def _odds(words: NDArray[np.int32], size: int, subsample: float | None) -> Odds:
    counts = np.bincount(words, minlength=size).astype(np.float64)
    frequencies = counts / counts.sum()
    kept = np.ones(size) if subsample is None else np.sqrt(subsample / np.maximum(frequencies, 1e-300))
    cumulated = np.cumsum(counts**0.75)
    cumulated = np.minimum(np.round(2**32 * cumulated / cumulated[-1]), 2**32 - 1)
    return Odds(jnp.asarray(np.minimum(kept, 1)), jnp.asarray(cumulated.astype(np.uint32)))


def _checked_corpus(sentences: Any, size: int) -> Corpus:
    """The sentences as one array of words and one of their numbers."""
    alone = isinstance(sentences, (np.ndarray, Array)) or (len(sentences) > 0 and np.ndim(sentences[0]) == 0)
    given: Sequence[Any] = [sentences] if alone else sentences
    arrays = [np.asarray(sentence) for sentence in given]
    for index, array in enumerate(arrays):
        if array.ndim != 1:
            raise ValueError(f"sentences[{index}] has shape {array.shape}, needs one axis")
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise TypeError(
                f"sentences[{index}] must hold integers, got {array.dtype}: use Vocabulary.encode"
            )
        if array.size and not 0 <= array.min() <= array.max() < size:
            raise ValueError(
                f"sentences[{index}] must lie in [0, {size}), got {array.min()} to {array.max()}: "
                "is vocabulary_size that of the vocabulary?"
            )
    if max((len(array) for array in arrays), default=0) < 2:
        raise ValueError("sentences hold no two words in any one, so none has a context")
    words = np.concatenate(arrays).astype(np.int32)
    sentence = np.repeat(np.arange(len(arrays), dtype=np.int32), [len(array) for array in arrays])
    return Corpus(jnp.asarray(words), jnp.asarray(sentence), jnp.asarray(len(words)))
