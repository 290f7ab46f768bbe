"""Additive units: RAN, ATR, CFN, STAR, MinimalRNN."""

from functools import partial

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, packed, split
from tests.references import linear, sigmoid, tanh, times


def ran(p, c, x, f=tanh):
    """Lee et al. 2017: a linear candidate of x alone; the gates see h = f(c), and c alone is carried."""
    h = f(c)
    candidate = times(p["W"], x) + p["b"]
    input_gate = sigmoid(times(p["Wi"], x) + times(p["Ui"], h) + p["bi"])
    forget_gate = sigmoid(times(p["Wf"], x) + times(p["Uf"], h) + p["bf"])
    c = input_gate * candidate + forget_gate * c
    return c, f(c)


def unpack_ran(p):
    gates = split(p.w_ih, "W", ("i", "f", "")) | split(p.b, "b", ("i", "f", ""))
    return gates | split(p.w_hh, "U", "if")


RAN = Entry(
    laws=[Case(jrnn.RAN(4), 2)],
    values={
        "RAN": Comparison(jrnn.RAN(HIDDEN), ran, unpack_ran),
        "RAN-identity": Comparison(
            jrnn.RAN(HIDDEN, activation="identity"), partial(ran, f=linear), unpack_ran
        ),
    },
    counts=lambda i, h: {jrnn.RAN(h): 3 * i * h + 2 * h**2 + 3 * h},
)


def atr(p, h, x):
    """Zhang et al. 2018: the sum and the difference of what x and h say are the twin gates."""
    from_x = times(p["W"], x) + p["b"]
    from_h = times(p["U"], h)
    input_gate = sigmoid(from_x + from_h)
    forget_gate = sigmoid(from_x - from_h)
    h = input_gate * from_x + forget_gate * h
    return h, h


ATR = Entry(
    laws=[Case(jrnn.ATR(4), 2)],
    values={"ATR": Comparison(jrnn.ATR(HIDDEN), atr, packed(""))},
    counts=lambda i, h: {jrnn.ATR(h): gate(i, h)},
)


def cfn(p, h, x):
    """Laurent & von Brecht 2017: chaos-free, as without input the state only decays; gates θ (t), η (e)."""
    theta = sigmoid(times(p["Wt"], x) + times(p["Ut"], h) + p["bt"])
    eta = sigmoid(times(p["We"], x) + times(p["Ue"], h) + p["be"])
    h = theta * tanh(h) + eta * tanh(times(p["W"], x))
    return h, h


def unpack_cfn(p):
    return split(p.w_ih, "W", ("t", "e", "")) | split(p.w_hh, "U", "te") | split(p.b, "b", "te")


CFN = Entry(
    laws=[Case(jrnn.CFN(4), 2)],
    values={"CFN": Comparison(jrnn.CFN(HIDDEN), cfn, unpack_cfn)},
    counts=lambda i, h: {jrnn.CFN(h): 3 * i * h + 2 * h**2 + 2 * h},
)


def star(p, h, x):
    """Turkoglu et al. 2019: one gate k, which weighs a candidate of x alone; tanh around the sum."""
    z = tanh(times(p["Wz"], x) + p["bz"])
    k = sigmoid(times(p["Wk"], x) + times(p["Uk"], h) + p["bk"])
    h = tanh((1 - k) * h + k * z)
    return h, h


def unpack_star(p):
    return split(p.w_ih, "W", "zk") | split(p.b, "b", "zk") | {"Uk": p.w_hh.T}


STAR = Entry(
    laws=[Case(jrnn.STAR(4), 2)],
    values={"STAR": Comparison(jrnn.STAR(HIDDEN), star, unpack_star)},
    counts=lambda i, h: {jrnn.STAR(h): 2 * i * h + h**2 + 2 * h},
)


def minimal_rnn(p, h, x):
    """Chen 2017: x is mapped to a latent z, and a gate u of h and z mixes the two; u weighs the past."""
    z = tanh(times(p["Wz"], x) + p["bz"])
    update = sigmoid(times(p["Uu"], h) + times(p["Vu"], z) + p["bu"])
    h = update * h + (1 - update) * z
    return h, h


def unpack_minimal_rnn(p):
    return {"Wz": p.w_ih.T, "bz": p.b, "Uu": p.w_hh.T, "Vu": p.w_nh.T, "bu": p.b_u}


MinimalRNN = Entry(
    laws=[Case(jrnn.MinimalRNN(4), 2)],
    values={"MinimalRNN": Comparison(jrnn.MinimalRNN(HIDDEN), minimal_rnn, unpack_minimal_rnn)},
    counts=lambda i, h: {jrnn.MinimalRNN(h): i * h + 2 * h**2 + 2 * h},
)
