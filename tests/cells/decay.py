"""Missing values: GRUD."""

import numpy as np

import jrnn
from tests.entries import HIDDEN, IN, Case, Comparison, Entry, gate, packed, split
from tests.references import relu, sigmoid, tanh, times


def gru_d(p, carry, x):
    """Che et al. 2018: x comes with a mask (1 observed, 0 missing) and the time since the last observation.

    With that time a missing value decays from the last one observed to the mean, and the state to zero.
    """
    h, last = carry
    x, mask, delta = x
    x_decay = np.exp(-relu(p["wx"] * delta + p["bx"]))
    h_decay = np.exp(-relu(times(p["Wh"], delta) + p["bh"]))
    filled = mask * x + (1 - mask) * (x_decay * last + (1 - x_decay) * p["mean"])
    last = mask * x + (1 - mask) * last
    h = h_decay * h
    reset = sigmoid(times(p["Wr"], filled) + times(p["Ur"], h) + times(p["Vr"], mask) + p["br"])
    update = sigmoid(times(p["Wz"], filled) + times(p["Uz"], h) + times(p["Vz"], mask) + p["bz"])
    candidate = tanh(times(p["W"], filled) + times(p["U"], reset * h) + times(p["V"], mask) + p["b"])
    h = (1 - update) * h + update * candidate
    return (h, last), h


def unpack_gru_d(p):
    decays = {"wx": p.w_dx, "bx": p.b_dx, "Wh": p.w_dh.T, "bh": p.b_dh, "mean": p.fixed}
    return packed("r", "z", "")(p.gru) | split(p.w_mh, "V", ("r", "z", "")) | decays


def missing(rng, lead):
    """`(values, mask, delta)` of 3 series, some values missing."""
    return rng.standard_normal((*lead, 3)), rng.random((*lead, 3)) < 0.6, rng.random((*lead, 3))


def gaps(rng, lead):
    """The same with times of up to 2."""
    shape = (*lead, IN)
    return rng.normal(size=shape), rng.random(shape) < 0.6, rng.uniform(0, 2, shape)


GRUD = Entry(
    laws=[Case(jrnn.GRUD(4), 3, missing)],
    values={"GRUD": Comparison(jrnn.GRUD(HIDDEN), gru_d, unpack_gru_d, inputs=gaps)},
    counts=lambda i, h: {jrnn.GRUD(h): 3 * gate(i, h) + 3 * i * h + 2 * i + i * h + h},
)
