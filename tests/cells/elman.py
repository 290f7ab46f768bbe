"""Simple recurrent networks: Elman, Jordan, PLRNN."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, OUT, Case, Comparison, Entry, gate, packed
from tests.references import FUNCTIONS, clamp, linear, relu, sigmoid, tanh, times


def elman(p, h, x, f=tanh, clip=np.inf):
    """Elman 1990: the context units are a copy of the hidden layer one step ago."""
    h = f(clamp(times(p["W"], x) + times(p["U"], h) + p.get("b", 0), clip))
    return h, h


Elman = Entry(
    laws=[
        Case(jrnn.Elman(4), 2),
        Case(jrnn.Elman(4, activation="relu", recurrent_init="identity"), 2),
        Case(jrnn.Elman(4, activation="sigmoid"), 2),
        Case(jrnn.Elman(4, activation="identity"), 2),
        Case(jrnn.Elman(4, activation="gelu", bias=False), 2),
    ],
    values={
        **{
            f"Elman-{name}": Comparison(
                jrnn.Elman(HIDDEN, activation=name), partial(elman, f=FUNCTIONS[name]), packed("")
            )
            for name in ("tanh", "relu", "sigmoid", "identity")
        },
        "Elman-no bias": Comparison(jrnn.Elman(HIDDEN, bias=False), elman, packed("")),
        "Elman-clip": Comparison(jrnn.Elman(HIDDEN, clip=0.9), partial(elman, clip=0.9), packed("")),
    },
    counts=lambda i, h: {jrnn.Elman(h): gate(i, h), jrnn.Elman(h, bias=False): gate(i, h) - h},
)


def jordan(p, y, x, f=tanh, g=linear):
    """Jordan 1986: the state units are a copy of the output layer one step ago."""
    h = f(times(p["W"], x) + times(p["U"], y) + p["b"])
    y = g(times(p["V"], h) + p["c"])
    return y, y


def unpack_jordan(p):
    return {"W": p.w_ih.T, "U": p.w_yh.T, "b": p.b, "V": p.w_hy.T, "c": p.c}


Jordan = Entry(
    laws=[Case(jrnn.Jordan(4, outputs=6), 2)],
    values={
        "Jordan": Comparison(jrnn.Jordan(HIDDEN, outputs=OUT), jordan, unpack_jordan),
        "Jordan-relu-sigmoid": Comparison(
            jrnn.Jordan(HIDDEN, outputs=OUT, activation="relu", output_activation="sigmoid"),
            partial(jordan, f=relu, g=sigmoid),
            unpack_jordan,
        ),
    },
    counts=lambda i, h: {jrnn.Jordan(h, outputs=2): i * h + 2 * h + h + h * 2 + 2},
)


def plrnn(p, z, x):
    """Koppe et al. 2019, without noise: A is diagonal, W has no diagonal; h is a bias.

    As in torchrecurrent's repository, which sets the diagonal of W to 0 in the beginning only.
    """
    off_diagonal = p["W"] - np.diag(np.diag(p["W"]))
    z = times(np.diag(p["a"]), z) + times(off_diagonal, relu(z)) + p["h"] + times(p["C"], x)
    return z, z


def unpack_plrnn(p):
    return {"a": p.a, "W": p.w_hh.T, "h": p.b, "C": p.w_ih.T}


PLRNN = Entry(
    laws=[Case(jrnn.PLRNN(4), 2)],
    values={"PLRNN": Comparison(jrnn.PLRNN(HIDDEN), plrnn, unpack_plrnn)},
    counts=lambda i, h: {jrnn.PLRNN(h): i * h + h + h**2 + h},  # of h², h (h - 1) count
)
