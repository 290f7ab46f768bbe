"""Differential equations between observations: ODERNN, GRUODE."""

from functools import partial

import numpy as np

import jrnn
from tests.cells.gru import gru_reset_after, unpack_gru
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, irregular, packed
from tests.references import sigmoid, tanh, times


def solve(f, h, dt, solver, unfolds):
    """Explicit Runge-Kutta methods by their tableaus, `unfolds` steps of dt / unfolds."""
    tableaus = {
        "euler": ([[]], [1]),
        "midpoint": ([[], [1 / 2]], [0, 1]),
        "rk4": ([[], [1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    }
    rows, weights = tableaus[solver]
    size = dt[..., None] / unfolds
    for _ in range(unfolds):
        slopes = []
        for row in rows:
            slopes.append(f(h + size * sum((a * k for a, k in zip(row, slopes, strict=True)), 0)))
        h = h + size * sum(b * k for b, k in zip(weights, slopes, strict=True))
    return h


def ode_rnn(p, h, x, *, solver, unfolds):
    """Rubanova et al. 2019, algorithm 1: solve to the time of the observation, then one step of the RNN."""
    x, dt = x
    flow = lambda h: times(p["Wo"], tanh(times(p["Wi"], h) + p["bi"])) + p["bo"]
    return gru_reset_after(p["gru"], solve(flow, h, dt, solver, unfolds), x)


def unpack_ode_rnn(p):
    flow = {"Wi": p.inner.w.T, "bi": p.inner.b, "Wo": p.outer.w.T, "bo": p.outer.b}
    return flow | {"gru": unpack_gru(p.gru)}


def gru_ode(p, h, x, *, solver, unfolds):
    """De Brouwer et al. 2019, eq. 3: dh/dt = (1 - z) (g - h)."""
    x, dt = x if isinstance(x, tuple) else (x, np.ones(x.shape[:-1]))

    def flow(h):
        r = sigmoid(times(p["Wr"], x) + times(p["Ur"], h) + p["br"])
        z = sigmoid(times(p["Wz"], x) + times(p["Uz"], h) + p["bz"])
        g = tanh(times(p["Wh"], x) + times(p["Uh"], r * h) + p["bh"])
        return (1 - z) * (g - h)

    h = solve(flow, h, dt, solver, unfolds)
    return h, h


def compared(kind, step, unpack, solver, unfolds):
    options = {"solver": solver, "unfolds": unfolds}
    return Comparison(kind(HIDDEN, **options), partial(step, **options), unpack, inputs=irregular)


ODERNN = Entry(
    laws=[Case(jrnn.ODERNN(4, width=3), 3, irregular)],
    values={
        f"ODERNN-{solver}": compared(jrnn.ODERNN, ode_rnn, unpack_ode_rnn, solver, unfolds)
        for solver, unfolds in (("rk4", 1), ("midpoint", 2))
    },
    counts=lambda i, h: {jrnn.ODERNN(h, width=7): 3 * gate(i, h) + h + 2 * 7 * h + 7 + h},
)

GRUODE = Entry(
    laws=[Case(jrnn.GRUODE(4, solver="euler", unfolds=2), 3, irregular), Case(jrnn.GRUODE(4), 2)],
    values={
        f"GRUODE-{solver}": compared(jrnn.GRUODE, gru_ode, packed("r", "z", "h"), solver, unfolds)
        for solver, unfolds in (("rk4", 2), ("euler", 3))
    },
    counts=lambda i, h: {jrnn.GRUODE(h): 3 * gate(i, h)},
)
