"""FastRNN, FastGRNN."""

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, packed, split
from tests.references import sigmoid, tanh, times


def factored(p, letter, vector):
    """W v, or W1 (W2 v) where W is given as a product of low rank."""
    if letter + "1" in p:
        return times(p[letter + "1"], times(p[letter + "2"], vector))
    return times(p[letter], vector)


def fastrnn(p, h, x, f=tanh):
    """Kusupati et al. 2018: a residual connection weighed by two scalars, each behind a sigmoid."""
    candidate = f(factored(p, "W", x) + factored(p, "U", h) + p["b"])
    h = sigmoid(p["beta"]) * h + sigmoid(p["alpha"]) * candidate
    return h, h


def unpack_fast_rnn(p):
    return packed("")(p) | {"alpha": p.alpha, "beta": p.beta}


FastRNN = Entry(
    laws=[Case(jrnn.FastRNN(4), 2)],
    values={"FastRNN": Comparison(jrnn.FastRNN(HIDDEN), fastrnn, unpack_fast_rnn)},
    counts=lambda i, h: {jrnn.FastRNN(h): gate(i, h) + 2},
)


def fastgrnn(p, h, x):
    """Kusupati et al. 2018: gate and candidate share W and U; z weighs the past."""
    shared = factored(p, "W", x) + factored(p, "U", h)
    z = sigmoid(shared + p["bz"])
    candidate = tanh(shared + p["bh"])
    h = (sigmoid(p["zeta"]) * (1 - z) + sigmoid(p["nu"])) * candidate + z * h
    return h, h


def unpack_fast_grnn(p):
    weights = split(p.b, "b", "zh") | {"zeta": p.zeta, "nu": p.nu}
    for letter, down, up in (("W", p.w_ih, p.w_ih_up), ("U", p.w_hh, p.w_hh_up)):
        weights |= {letter: down.T} if up is None else {letter + "1": up.T, letter + "2": down.T}
    return weights


FastGRNN = Entry(
    laws=[Case(jrnn.FastGRNN(4, recurrent_rank=3), 2)],
    values={
        name: Comparison(jrnn.FastGRNN(HIDDEN, **ranks), fastgrnn, unpack_fast_grnn)
        for name, ranks in {
            "FastGRNN": {},
            "FastGRNN-recurrent": {"recurrent_rank": 2},
            "FastGRNN-both": {"input_rank": 2, "recurrent_rank": 4},
        }.items()
    },
    counts=lambda i, h: {
        jrnn.FastGRNN(h): i * h + h**2 + 2 * h + 2,
        jrnn.FastGRNN(h, input_rank=2, recurrent_rank=3): 2 * (i + h) + 3 * 2 * h + 2 * h + 2,
    },
)
