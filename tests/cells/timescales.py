"""States of several time scales: ClockworkRNN, SCRN."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, WIDE, Case, Comparison, Entry, read, split
from tests.references import sigmoid, tanh, times


def clockwork_rnn(p, carry, x, *, periods, f=tanh):
    """Koutník et al. 2014: module i ticks when its period divides t, and sees no module faster than it."""
    h, t = carry
    modules = np.split(h, len(periods), axis=-1)
    ticked = []
    for i, period in enumerate(periods):
        a = times(p[f"W{i}"], x) + p[f"b{i}"]
        for j, other in enumerate(periods):
            if other >= period:
                a = a + times(p[f"U{i}{j}"], modules[j])
        ticks = np.expand_dims(t, -1) % period == 0
        ticked.append(np.where(ticks, f(a), modules[i]))
    h = np.concatenate(ticked, axis=-1)
    return (h, t + 1), h


def unpack_clockwork(p):
    count = len(p.w_hh)
    names = [str(i) for i in range(count)]
    weights = split(p.w_ih, "W", names) | split(p.b, "b", names)
    for i, rows in enumerate(p.w_hh):
        parts = np.split(rows, count - i)
        weights |= {f"U{i}{j}": part.T for j, part in enumerate(parts, start=i)}
    return weights


ClockworkRNN = Entry(
    laws=[Case(jrnn.ClockworkRNN(4, periods=(1, 2)), 2)],
    values={
        f"ClockworkRNN-{len(periods)}": Comparison(
            jrnn.ClockworkRNN(WIDE, periods=periods),
            partial(clockwork_rnn, periods=periods),
            unpack_clockwork,
        )
        for periods in ((1, 2, 3), (2, 3), (1,))
    },
    counts=lambda i, h: {jrnn.ClockworkRNN(h, periods=(1, 2)): read(i, h) + h**2 * 3 // 4},
)


def scrn(p, carry, x, alpha=0.95):
    """Mikolov et al. 2014: a context m that moves slowly beside a sigmoid hidden layer; no biases."""
    h, m = carry
    m = (1 - alpha) * times(p["B"], x) + alpha * m
    h = sigmoid(times(p["P"], m) + times(p["A"], x) + times(p["R"], h))
    return (h, m), np.concatenate([h, m], axis=-1)


def unpack_scrn(p):
    return {"B": p.w_im.T, "P": p.w_mh.T, "A": p.w_ih.T, "R": p.w_hh.T}


SCRN = Entry(
    laws=[Case(jrnn.SCRN(4, context=7), 2)],
    values={
        "SCRN": Comparison(jrnn.SCRN(HIDDEN), scrn, unpack_scrn),
        "SCRN-context": Comparison(
            jrnn.SCRN(HIDDEN, context=7, alpha=0.4), partial(scrn, alpha=0.4), unpack_scrn
        ),
    },
    counts=lambda i, h: {jrnn.SCRN(h, context=7): i * 7 + 7 * h + i * h + h**2},
)
