"""Mass: MassConservingLSTM."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, IN, Case, Comparison, Entry
from tests.references import absolute, sigmoid, times


def softmax(a):
    exponential = np.exp(a)
    return exponential / exponential.sum(axis=-1, keepdims=True)


def mass_conserving_lstm(p, c, x, masses=1):
    """Hoedt et al. 2021, eqs. 4-9: i and R are shares (columns of the paper's matrices sum to one)."""
    mass, a = x[..., :masses], x[..., masses:]
    scaled = c / absolute(c).sum(axis=-1, keepdims=True)
    sums = times(p["W"], a) + times(p["U"], scaled) + p["b"]
    n = c.shape[-1]
    inflow, shuffled, out = np.split(sums, [masses * n, (masses + n) * n], axis=-1)
    i = softmax(inflow.reshape(*inflow.shape[:-1], masses, n))
    r = softmax(shuffled.reshape(*shuffled.shape[:-1], n, n))
    total = np.einsum("...j,...jk->...k", c, r) + np.einsum("...j,...jk->...k", mass, i)
    o = sigmoid(out)
    return (1 - o) * total, o * total


def unpack(p):
    return {"W": p.w_ih.T, "U": p.w_hh.T, "b": p.b}


def outputs(i, h, masses):
    return masses * h + h**2 + h


MassConservingLSTM = Entry(
    laws=[Case(jrnn.MassConservingLSTM(4), 3), Case(jrnn.MassConservingLSTM(3, masses=2), 3)],
    values={
        f"MassConservingLSTM-{masses}": Comparison(
            jrnn.MassConservingLSTM(HIDDEN, masses=masses),
            partial(mass_conserving_lstm, masses=masses),
            unpack,
            width=IN,
        )
        for masses in (1, 2)
    },
    counts=lambda i, h: {
        jrnn.MassConservingLSTM(h, masses=2): (i - 2 + h + 1) * outputs(i, h, 2),
    },
)
