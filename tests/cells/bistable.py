"""Bistable cells: BRC, NBRC."""

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, split
from tests.references import sigmoid, tanh, times


def unpack_brc(p):
    letter = "u" if p.w_hh.ndim == 1 else "U"
    gates = split(p.w_ih, "W", ("a", "c", "")) | split(p.b, "b", ("a", "c", ""))
    return gates | split(p.w_hh, letter, "ac")


def brc(p, h, x):
    """Vecoven et al. 2021: every neuron sees itself alone, and can be bistable (a > 1)."""
    a = 1 + tanh(times(p["Wa"], x) + p["ua"] * h + p["ba"])
    c = sigmoid(times(p["Wc"], x) + p["uc"] * h + p["bc"])
    h = c * h + (1 - c) * tanh(times(p["W"], x) + a * h + p["b"])
    return h, h


BRC = Entry(
    laws=[Case(jrnn.BRC(4), 2)],
    values={"BRC": Comparison(jrnn.BRC(HIDDEN), brc, unpack_brc)},
    counts=lambda i, h: {jrnn.BRC(h): 3 * i * h + 5 * h},
)


def nbrc(p, h, x):
    """Vecoven et al. 2021: the bistable cell with its a and c neuromodulated by all neurons."""
    a = 1 + tanh(times(p["Wa"], x) + times(p["Ua"], h) + p["ba"])
    c = sigmoid(times(p["Wc"], x) + times(p["Uc"], h) + p["bc"])
    h = c * h + (1 - c) * tanh(times(p["W"], x) + a * h + p["b"])
    return h, h


NBRC = Entry(
    laws=[Case(jrnn.NBRC(4), 2)],
    values={"NBRC": Comparison(jrnn.NBRC(HIDDEN), nbrc, unpack_brc)},
    counts=lambda i, h: {jrnn.NBRC(h): 3 * i * h + 2 * h**2 + 3 * h},
)
