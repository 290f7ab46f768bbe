"""Three published architectures, written in PyTorch with random weights, give the same in jrnn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.interop import from_torch
from tests.test_interop_torch import largest, randomized

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn
pack, pad = nn.utils.rnn.pack_padded_sequence, nn.utils.rnn.pad_packed_sequence

WORDS, EMBEDDED, HIDDEN, TAGS, STEPS = 9, 4, 5, 3, 5
LENGTHS = np.array([5, 2, 4])


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def words(steps=STEPS, seed=0):
    return np.random.default_rng(seed).integers(0, WORDS, (steps, len(LENGTHS)))


class AWDLSTM(nn.Module):
    """Merity, Keskar, Socher, 2018, arXiv:1708.02182, in evaluation: three LSTMs and a tied embedding."""

    def __init__(self):
        super().__init__()
        widths = [EMBEDDED, HIDDEN, HIDDEN, EMBEDDED]
        self.encoder = nn.Embedding(WORDS, EMBEDDED)
        self.rnns = nn.ModuleList(nn.LSTM(a, b) for a, b in itertools.pairwise(widths))
        self.decoder = nn.Linear(EMBEDDED, WORDS)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens, states):
        ys, after = self.encoder(tokens), []
        for rnn, state in zip(self.rnns, states, strict=True):
            ys, state = rnn(ys, state)
            after.append(state)
        return self.decoder(ys), after


@torch.no_grad()
def test_awd_lstm_over_two_chunks():
    module = randomized(AWDLSTM())
    model, params = from_torch(module)
    lstms = [jrnn.LSTM(width) for width in (HIDDEN, HIDDEN, EMBEDDED)]
    chain = jrnn.Stack((jrnn.Embed(EMBEDDED), *lstms, jrnn.Dense(WORDS)))
    assert model == jrnn.Tie(chain, "0.table", "4.w", transposed=True)
    states, carry = [None] * 3, None
    for seed in range(2):
        tokens = words(seed=seed)
        logits, states = module(torch.from_numpy(tokens), states)
        carry, ys = jrnn.unroll(model, params, tokens, carry)
        assert largest(ys, logits) < 1e-10
        assert largest(jax.tree.leaves(carry), [part[0] for state in states for part in state]) < 1e-10


class BiLSTMCRF(nn.Module):
    """Huang, Xu, Yu, 2015, arXiv:1508.01991; transitions[i, j] is the score of tag j behind tag i."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, EMBEDDED, padding_idx=0)
        self.lstm = nn.LSTM(EMBEDDED, HIDDEN, bidirectional=True)
        self.hidden2tag = nn.Linear(2 * HIDDEN, TAGS)
        self.crf = nn.ParameterDict(
            {"transitions": torch.zeros(TAGS, TAGS), "start": torch.zeros(TAGS), "end": torch.zeros(TAGS)}
        )

    def scores(self, tokens):
        packed = pack(self.embedding(tokens), torch.tensor(LENGTHS), enforce_sorted=False)
        return self.hidden2tag(pad(self.lstm(packed)[0])[0])

    def score(self, scores, tags):
        """That of one tag sequence."""
        total = self.crf["start"][tags[0]] + self.crf["end"][tags[-1]]
        total = total + sum(scores[t, tag] for t, tag in enumerate(tags))
        return total + sum(self.crf["transitions"][a, b] for a, b in itertools.pairwise(tags))


@torch.no_grad()
def test_bilstm_crf_tagger_over_ragged_sentences():
    module, tokens = randomized(BiLSTMCRF()), words()
    with pytest.raises(ValueError, match=r"no place for .*'crf\.transitions'"):
        from_torch(module)
    body, params = from_torch(module, unused=True)
    tagger = jrnn.Sequential((*body.layers, jrnn.CRF(TAGS)))
    crf = {name: jnp.asarray(value.numpy()) for name, value in module.crf.items()}
    params = (*params, jrnn.CRFParams(**crf))
    _, potentials = jrnn.apply(tagger, params, tokens, lengths=LENGTHS)
    tags, best = jrnn.viterbi(potentials, LENGTHS)
    likelihoods = jrnn.crf.crf_log_likelihood(potentials, tags, LENGTHS)
    scores = module.scores(torch.from_numpy(tokens))
    for row, length in enumerate(LENGTHS):
        paths = list(itertools.product(range(TAGS), repeat=int(length)))
        totals = torch.stack([module.score(scores[:, row], path) for path in paths])
        highest = int(totals.argmax())
        assert tuple(tags[:length, row].tolist()) == paths[highest]
        expected = totals[highest], totals[highest] - torch.logsumexp(totals, 0)
        assert largest((best[row], likelihoods[row]), expected) < 1e-10


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(HIDDEN, 6, bias=False)
        self.memory = nn.Linear(2 * HIDDEN, 6)
        self.v = nn.Linear(6, 1, bias=False)

    def forward(self, state, memory, valid):
        scores = self.v(torch.tanh(self.query(state) + self.memory(memory)))[..., 0]
        weights = torch.softmax(scores.masked_fill(~valid, -torch.inf), 0)
        return (weights[..., None] * memory).sum(0)


class Seq2Seq(nn.Module):
    """Bahdanau, Cho, Bengio, 2015, arXiv:1409.0473, with a linear layer for the maxout."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict(
            {"embedding": nn.Embedding(WORDS, EMBEDDED), "rnn": nn.GRU(EMBEDDED, HIDDEN, bidirectional=True)}
        )
        self.bridge = nn.Linear(2 * HIDDEN, HIDDEN)
        self.embedding = nn.Embedding(WORDS, EMBEDDED)
        self.attention = Attention()
        self.cell = nn.GRUCell(EMBEDDED + 2 * HIDDEN, HIDDEN)
        self.out = nn.Linear(3 * HIDDEN, WORDS)

    def forward(self, source, inputs):
        packed = pack(self.encoder["embedding"](source), torch.tensor(LENGTHS), enforce_sorted=False)
        memory, ends = self.encoder["rnn"](packed)
        memory, valid = pad(memory)[0], torch.arange(STEPS)[:, None] < torch.tensor(LENGTHS)
        state, logits = torch.tanh(self.bridge(torch.cat(tuple(ends), -1))), []
        for x in self.embedding(inputs):
            context = self.attention(state, memory, valid)
            state = self.cell(torch.cat([x, context], -1), state)
            logits.append(self.out(torch.cat([state, context], -1)))
        return torch.stack(logits)


def converted(module):
    """The model of jrnn: each part by itself, put together by hand."""
    with pytest.raises(
        ValueError, match=r"do not form a chain.*'encoder\.embedding' .*'attention\.v' .*'cell'"
    ):
        from_torch(module)
    encoder, p_encoder = from_torch(module, prefix="encoder")
    names = ("embedding", "cell", "out", "bridge", "attention.query", "attention.memory", "attention.v")
    parts = {name: from_torch(module, prefix=name) for name in names}
    p = {name: params for name, (_, params) in parts.items()}
    score = jrnn.attention.Additive(6)
    decoder = jrnn.BahdanauAttention(parts["cell"][0], score, memory_features=2 * HIDDEN)
    model = jrnn.EncoderDecoder(
        encoder, jrnn.Stack((parts["embedding"][0], decoder, parts["out"][0])), bridge=jrnn.DenseBridge()
    )
    memory = p["attention.memory"]
    p_score = jrnn.attention.scores.AdditiveParams(
        p["attention.query"].w, memory.w, memory.b, p["attention.v"].w[:, 0]
    )
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf], -1), p["bridge"])  # state, first query
    attention = jrnn.AttentionParams(p["cell"], (p_score,))
    params = jrnn.EncoderDecoderParams(p_encoder, twice, (p["embedding"], attention, p["out"]))
    return model, params


@torch.no_grad()
def test_bahdanau_encoder_decoder_with_ragged_sources():
    module = randomized(Seq2Seq())
    model, params = converted(module)
    source, inputs = words(), words(steps=4, seed=1)
    pair = jrnn.Pair(source, inputs, np.arange(STEPS)[:, None] < LENGTHS)
    _, logits = jrnn.apply(model, params, pair)
    assert largest(logits, module(torch.from_numpy(source), torch.from_numpy(inputs))) < 1e-10
