"""Reservoirs: EchoState."""

from functools import partial

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, packed
from tests.references import relu, tanh, times


def echo_state(p, h, x, leak=1, f=tanh):
    """Jaeger 2001, Jaeger et al. 2007: a reservoir of leaky units, none of its matrices trained."""
    h = (1 - leak) * h + leak * f(times(p["W"], x) + times(p["U"], h) + p["b"])
    return h, h


def unpack_reservoir(p):
    return packed("")(p.fixed)


EchoState = Entry(
    laws=[
        Case(jrnn.EchoState(6, density=0.7), 2),
        Case(jrnn.EchoState(6, density=0.7, activation="softsign"), 2),
    ],
    values={
        "EchoState": Comparison(jrnn.EchoState(HIDDEN), echo_state, unpack_reservoir),
        "EchoState-leak": Comparison(
            jrnn.EchoState(HIDDEN, leak=0.3), partial(echo_state, leak=0.3), unpack_reservoir
        ),
        "EchoState-relu": Comparison(
            jrnn.EchoState(HIDDEN, activation="relu"), partial(echo_state, f=relu), unpack_reservoir
        ),
    },
    counts=lambda i, h: {jrnn.EchoState(h): 0},
)
