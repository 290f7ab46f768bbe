"""Independent units: IndRNN."""

from functools import partial

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry
from tests.references import relu, tanh, times


def indrnn(p, h, x, f=relu):
    """Li et al. 2018: neurons independent of each other, so that the recurrent weights are a vector u."""
    h = f(times(p["W"], x) + p["u"] * h + p["b"])
    return h, h


def unpack_indrnn(p):
    return {"W": p.w_ih.T, "u": p.w_hh, "b": p.b}


IndRNN = Entry(
    laws=[Case(jrnn.IndRNN(4), 2)],
    values={
        "IndRNN": Comparison(jrnn.IndRNN(HIDDEN), indrnn, unpack_indrnn),
        "IndRNN-tanh": Comparison(
            jrnn.IndRNN(HIDDEN, activation="tanh"), partial(indrnn, f=tanh), unpack_indrnn
        ),
    },
    counts=lambda i, h: {jrnn.IndRNN(h): i * h + 2 * h},
)
