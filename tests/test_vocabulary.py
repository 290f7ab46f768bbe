"""Words as numbers: vocabularies, one-hot rows, embeddings."""

import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.data.language import normalize, tokenize
from jrnn.data.text import CharVocabulary, Vocabulary

# ---------------------------------------------------------------- words as numbers


def test_vocabulary_is_ordered_by_count_then_alphabet():
    sentences = [["b", "a", "c"], ["c", "d", "a", "c"], [], ["é"]]
    expected = Vocabulary(("c", "a", "b", "d", "é"))
    assert Vocabulary.from_tokens(sentences) == Vocabulary.from_tokens(iter(sentences[::-1])) == expected
    assert Vocabulary.from_tokens(sentences, min_count=2).words == ("c", "a")
    assert Vocabulary.from_tokens(sentences, max_size=5).words == ("c", "a", "b")
    assert Vocabulary.from_tokens(sentences, max_size=3, specials=("<unk>",)).words == ("c", "a")
    assert len(Vocabulary.from_tokens(sentences, max_size=5)) == 5
    assert Vocabulary.from_tokens(sentences, min_count=9).words == ()


def test_special_words_come_first_and_have_names():
    given = Vocabulary(("to", "be"), ("<pad>", "<unk>", "<s>", "</s>"))
    assert (given.pad, given.unknown, given.start, given.stop, len(given)) == (0, 1, 2, 3, 6)
    assert given.encode(["<s>", "be", "gone", "to", "</s>"]).tolist() == [2, 5, 1, 4, 3]
    assert "be" in given and "<s>" in given and "gone" not in given
    other = Vocabulary(("to",), ("<mask>", "</s>"))
    assert (other.stop, other.encode(["<mask>", "to"]).tolist()) == (1, [0, 2])
    for name, word in {"pad": "<pad>", "unknown": "<unk>", "start": "<s>"}.items():
        with pytest.raises(AttributeError) as caught:
            getattr(other, name)
        found = f"the vocabulary has no {word!r}: add it to specials, which are ('<mask>', '</s>')"
        assert str(caught.value) == found and not hasattr(other, name)


def test_special_words_in_a_corpus_are_not_counted_twice():
    sentences = [["<unk>", "a", "<unk>"], ["</s>", "b"]]
    assert Vocabulary.from_tokens(sentences).words == ("</s>", "a", "b")
    assert Vocabulary.from_tokens(sentences).encode(["<unk>", "c"]).tolist() == [1, 1]


def test_words_come_back():
    words = [f"w{i}" for i in range(1000)]
    vocabulary = Vocabulary(tuple(words))
    tokens = vocabulary.encode(words)
    assert tokens.dtype == np.int32 and tokens.tolist() == list(range(2, 1002))
    assert vocabulary.decode(tokens) == vocabulary.decode(jnp.asarray(tokens)) == words
    assert vocabulary.decode(3) == ["w1"] and vocabulary.decode([]) == []
    assert vocabulary.encode([]).dtype == np.int32 and vocabulary.encode([]).shape == (0,)
    assert vocabulary.decode(vocabulary.encode(["no", "w5", "<pad>"])) == ["<unk>", "w5", "<pad>"]


def test_vocabulary_is_a_value():
    given = Vocabulary.from_tokens([["naïve", "a", "\u2028"]], specials=("<unk>", "</s>"))
    given.encode(["a"])  # what is looked up is no part of the value
    again = Vocabulary(**json.loads(json.dumps(dataclasses.asdict(given))))
    assert again == given == pickle.loads(pickle.dumps(given)) and hash(again) == hash(given)
    assert again.encode(["a"]).tolist() == given.encode(["a"]).tolist()
    assert Vocabulary((word for word in given.words), iter(given.specials)) == given
    assert eval(repr(given)) == given != Vocabulary(given.words)
    assert repr(Vocabulary(tuple("abcdefghijkl"), ())) == (
        "Vocabulary(words=('a', 'b', 'c', 'd', 'e', ... 12 in all), specials=())"
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.words = ()


# ---------------------------------------------------------------- one-hot rows and embeddings


def test_toy_sentences_of_the_lecture():
    texts = ["My name is Ram.", "My city is Delhi."]
    sentences = [tokenize(normalize(text)) for text in texts]
    vocabulary = Vocabulary(
        tuple(dict.fromkeys(word for tokens in sentences for word in tokens)), specials=()
    )
    assert vocabulary.words == ("my", "name", "is", "ram", "city", "delhi")
    first, second = (np.asarray(jax.nn.one_hot(vocabulary.encode(tokens), 6)) for tokens in sentences)
    assert first.tolist() == [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
    ]
    assert second.tolist() == [
        [1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_an_embedding_is_a_product_with_one_hot_rows_and_so_is_its_gradient():
    tokens = jnp.array([[3, 0], [3, 5], [1, 3]])
    params = jrnn.Embed(4).init(jax.random.key(0), 7)
    weights = jax.random.normal(jax.random.key(1), (3, 2, 4))
    looked_up = lambda table: jrnn.unroll(jrnn.Embed(4), params._replace(table=table), tokens)[1]
    product = lambda table: jnp.matmul(jax.nn.one_hot(tokens, 7), table, precision="highest")
    np.testing.assert_array_equal(looked_up(params.table), product(params.table))
    grads = [jax.grad(lambda t, f=f: (weights * f(t) ** 2).sum())(params.table) for f in (looked_up, product)]
    np.testing.assert_allclose(*grads, rtol=1e-6)
    assert [bool(row.any()) for row in grads[0]] == [i in (0, 1, 3, 5) for i in range(7)]


def test_characters_are_tokens_too():
    vocabulary = CharVocabulary.from_text(normalize("Ann's CAT", punctuation=True))
    assert vocabulary.symbols == " 'acnst"
    assert vocabulary.decode(vocabulary.encode("cats")) == "cats"


def test_contexts_are_the_words_around_each():
    sentences = [np.array([1, 2, 3, 4, 5]), np.array([6]), np.array([], int), np.array([7, 8])]
    for window in (1, 2, 9):
        around, words = jrnn.data.contexts(sentences, window)
        wanted = [
            ([int(w) for j, w in enumerate(s) if j != i and abs(j - i) <= window], int(word))
            for s in sentences if len(s) > 1 for i, word in enumerate(s)
        ]  # fmt: skip
        assert [(c.tolist(), int(w)) for c, w in zip(around, words, strict=True)] == wanted
    with pytest.raises(ValueError, match="sentences have no context"):
        jrnn.data.contexts([[1], []])
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        jrnn.data.contexts(sentences, 0)


def test_a_continuous_bag_of_words_is_a_model_like_any_other():
    """The logits of the mean vector of the context, which is the mean of the logits."""
    model = jrnn.ManyToOne(jrnn.Stack((jrnn.Embed(3), jrnn.Dense(9))), read="mean")
    params = model.init(jax.random.key(0), 9)
    around, words = jrnn.data.contexts([[1, 2, 3, 4], [7, 8]], window=2)
    (batch,) = jrnn.padded_batches(around, words, len(words))
    (logits,) = jrnn.predict(model, params, [batch])
    embed, dense = params
    order = [next(i for i, c in enumerate(around) if c.tolist() == row[:n].tolist() and words[i] == target)
             for row, n, target in zip(batch.xs.T, batch.lengths, batch.targets, strict=True)]  # fmt: skip
    for row, i in enumerate(order):
        mean = embed.table[around[i]].mean(0)
        np.testing.assert_allclose(logits[row], mean @ dense.w + dense.b, rtol=1e-5, atol=1e-6)
