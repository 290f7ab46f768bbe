"""Strongly typed networks: TRNN, TGRU, TLSTM."""

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, from_x, read, split
from tests.references import sigmoid, tanh, times


def t_rnn(p, h, x):
    """Balduzzi & Ghifary 2016: strongly typed, so nothing of the state passes a matrix; z is linear."""
    z = times(p["Wz"], x) + p["bz"]
    forget = sigmoid(times(p["Wf"], x) + p["bf"])
    h = forget * h + (1 - forget) * z
    return h, h


TRNN = Entry(
    laws=[Case(jrnn.TRNN(4), 2)],
    values={"TRNN": Comparison(jrnn.TRNN(HIDDEN), t_rnn, from_x("z", "f"))},
    counts=lambda i, h: {jrnn.TRNN(h): 2 * read(i, h)},
)


def unpack_two_inputs(p):
    now, before = np.split(p.w_ih, 2)
    return split(now, "W", "zfo") | split(before, "V", "zfo") | split(p.b, "b", "zfo")


def t_gru(p, carry, x):
    """Balduzzi & Ghifary 2016: z linear, o by tanh, all of the input and the one before; h = f h + z o."""
    last, h = carry
    z = times(p["Wz"], x) + times(p["Vz"], last) + p["bz"]
    forget = sigmoid(times(p["Wf"], x) + times(p["Vf"], last) + p["bf"])
    output = tanh(times(p["Wo"], x) + times(p["Vo"], last) + p["bo"])
    h = forget * h + z * output
    return (x, h), h


TGRU = Entry(
    laws=[Case(jrnn.TGRU(4), 2)],
    values={"TGRU": Comparison(jrnn.TGRU(HIDDEN), t_gru, unpack_two_inputs)},
    counts=lambda i, h: {jrnn.TGRU(h): 6 * i * h + 3 * h},
)


def t_lstm(p, carry, x):
    """Balduzzi & Ghifary 2016: as the T-GRU, but o scales the cell on its way out."""
    last, c = carry
    z = times(p["Wz"], x) + times(p["Vz"], last) + p["bz"]
    forget = sigmoid(times(p["Wf"], x) + times(p["Vf"], last) + p["bf"])
    output = tanh(times(p["Wo"], x) + times(p["Vo"], last) + p["bo"])
    c = forget * c + (1 - forget) * z
    return (x, c), c * output


TLSTM = Entry(
    laws=[Case(jrnn.TLSTM(4), 2)],
    values={"TLSTM": Comparison(jrnn.TLSTM(HIDDEN), t_lstm, unpack_two_inputs)},
    counts=lambda i, h: {jrnn.TLSTM(h): 6 * i * h + 3 * h},
)
