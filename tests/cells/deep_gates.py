"""Simple gated units: SGU."""

from functools import partial

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, read, split
from tests.references import hard_sigmoid, sigmoid, softplus, tanh, times


def sgu(p, h, x, deep=False):
    """Gao & Glowacka 2016: x_g · h makes a gate z_g, and z_g · h the candidate z_out; of DSGU by a matrix."""
    x_g = times(p["Wg"], x) + p["bg"]
    z_g = tanh(times(p["Wzxh"], x_g * h))
    z_out = sigmoid(times(p["Wgo"], z_g * h)) if deep else softplus(z_g * h)
    z = hard_sigmoid(times(p["Wz"], x) + times(p["Uz"], h) + p["bz"])
    h = (1 - z) * h + z * z_out
    return h, h


def unpack_sgu(p):
    weights = split(p.w_ih, "W", "gz") | split(p.b, "b", "gz") | {"Uz": p.w_hh.T, "Wzxh": p.w_gg.T}
    return weights if p.w_go is None else weights | {"Wgo": p.w_go.T}


SGU = Entry(
    laws=[Case(jrnn.SGU(4), 2), Case(jrnn.SGU(4, deep=True), 2)],
    values={
        "SGU": Comparison(jrnn.SGU(HIDDEN), sgu, unpack_sgu),
        "SGU-deep": Comparison(jrnn.SGU(HIDDEN, deep=True), partial(sgu, deep=True), unpack_sgu),
    },
    counts=lambda i, h: {
        jrnn.SGU(h): 2 * read(i, h) + 2 * h**2,
        jrnn.SGU(h, deep=True): 2 * read(i, h) + 3 * h**2,
    },
)
