"""Independent units: IndRNN, ELSTM."""

from functools import partial

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, read, split
from tests.references import layer_norm, relu, sigmoid, tanh, times


def indrnn(p, h, x, f=relu):
    """Li et al. 2018: neurons independent of each other, so that the recurrent weights are a vector u."""
    h = f(times(p["W"], x) + p["u"] * h + p["b"])
    return h, h


def layer_norm_indrnn(p, h, x):
    """As haste has it (`lib/layer_norm_indrnn_forward_gpu.cu.cc`), with relu: a norm of W x alone."""
    h = relu(layer_norm(times(p["W"], x), p["gamma"]) + p["u"] * h + p["b"])
    return h, h


def unpack_indrnn(p):
    return {"W": p.w_ih.T, "u": p.w_hh, "b": p.b, "gamma": p.gain}


IndRNN = Entry(
    laws=[
        Case(jrnn.IndRNN(4), 2),
        Case(jrnn.IndRNN(4, activation="identity"), 2),  # linear
        Case(jrnn.IndRNN(4, norm=True), 2),
    ],
    values={
        "IndRNN": Comparison(jrnn.IndRNN(HIDDEN), indrnn, unpack_indrnn),
        "IndRNN-tanh": Comparison(
            jrnn.IndRNN(HIDDEN, activation="tanh"), partial(indrnn, f=tanh), unpack_indrnn
        ),
        "IndRNN-norm": Comparison(jrnn.IndRNN(HIDDEN, norm=True), layer_norm_indrnn, unpack_indrnn),
    },
    counts=lambda i, h: {jrnn.IndRNN(h): i * h + 2 * h, jrnn.IndRNN(h, norm=True): i * h + 3 * h},
)


def elstm(p, c, x):
    """Irie et al. 2024, eqs. 3-6: elementwise recurrent weights, an output gate that reads the new c."""
    f = sigmoid(times(p["F"], x) + p["wf"] * c + p["bf"])
    z = tanh(times(p["Z"], x) + p["wz"] * c + p["bz"])
    c = f * c + (1 - f) * z
    return c, sigmoid(times(p["O"], x) + times(p["W"], c) + p["bo"]) * c


def unpack_elstm(p):
    found = split(p.w_ih, "", "FZO") | split(p.w_hh, "w", "fz") | split(p.b, "b", "fzo")
    return found | {"W": p.w_co.T}


ELSTM = Entry(
    laws=[Case(jrnn.ELSTM(4), 2)],
    values={"ELSTM": Comparison(jrnn.ELSTM(HIDDEN), elstm, unpack_elstm)},
    counts=lambda i, h: {jrnn.ELSTM(h): 3 * read(i, h) + 2 * h + h**2},
)
