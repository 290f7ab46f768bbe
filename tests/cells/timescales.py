"""States of several time scales: ClockworkRNN, SCRN, PhasedLSTM, SelectiveUpdateRNN."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, WIDE, Case, Comparison, Entry, gate, irregular, packed, read, split
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


def phased_lstm(p, carry, x, leak):
    """Neil et al. 2016, eqs. 4-11: a peephole LSTM whose update is let through by the gate k of the time."""
    h, c, turns = carry
    x, dt = x
    turns = turns + dt[..., None] / np.exp(p["tau"])
    turns, phase = (a - np.floor(a.real) for a in (turns, turns - p["s"]))
    r = sigmoid(p["r"])
    k = np.where(phase.real < r.real / 2, 2 * phase / r, 2 - 2 * phase / r)
    k = np.where(phase.real < r.real, k, leak * phase)
    i = sigmoid(times(p["Wi"], x) + times(p["Ui"], h) + p["pi"] * c + p["bi"])
    f = sigmoid(times(p["Wf"], x) + times(p["Uf"], h) + p["pf"] * c + p["bf"])
    new = f * c + i * tanh(times(p["Wg"], x) + times(p["Ug"], h) + p["bg"])
    o = sigmoid(times(p["Wo"], x) + times(p["Uo"], h) + p["po"] * new + p["bo"])
    h, c = k * o * tanh(new) + (1 - k) * h, k * new + (1 - k) * c
    return (h, c, turns), h


def unpack_phased(p):
    rhythm = {"tau": p.period, "s": p.shift, "r": p.ratio}
    return packed("i", "f", "g", "o")(p.lstm) | split(p.p, "p", "ifo") | rhythm


PhasedLSTM = Entry(
    laws=[Case(jrnn.PhasedLSTM(4, leak=0.3), 3, irregular), Case(jrnn.PhasedLSTM(4, leak=0.3), 2)],
    values={
        "PhasedLSTM": Comparison(
            jrnn.PhasedLSTM(HIDDEN, leak=0.3), partial(phased_lstm, leak=0.3), unpack_phased, inputs=irregular
        )
    },
    counts=lambda i, h: {jrnn.PhasedLSTM(h): 4 * gate(i, h) + 6 * h},
)


def selective_update(p, carry, x):
    """Yin et al. 2026, at the time t = θ / ω: the gate is binary, with the gradient of a sigmoid."""
    h, turns = carry
    x, dt = x if isinstance(x, tuple) else (x, np.ones(x.shape[:-1]))
    turns = turns + dt[..., None] * p["ω"]
    turns = turns - np.floor(turns.real)
    angles = 2 * np.pi * turns[..., None, :] + p["φ"]
    soft = sigmoid(p["bg"] + (p["α"] * np.sin(angles)).sum(axis=-1))
    gate = (soft.real > 0.5) + soft - soft.real
    h = h + gate * (tanh(times(p["W"], x) + times(p["U"], h) + p["b"]) - h)
    return (h, turns), h


def unpack_selective(p):
    waves = {"ω": p.omega, "α": p.alpha.T, "φ": p.phi.T, "bg": p.b_g}
    return waves | {"W": p.w_ih.T, "U": p.w_hh.T, "b": p.b}


SelectiveUpdateRNN = Entry(
    laws=[  # the derivative of the binary gate is that of a sigmoid, not the one of its values
        Case(jrnn.SelectiveUpdateRNN(4), 2, exempt=("gradients",)),
        Case(jrnn.SelectiveUpdateRNN(4, waves=3), 3, irregular, exempt=("gradients",)),
    ],
    values={
        "SelectiveUpdateRNN": Comparison(
            jrnn.SelectiveUpdateRNN(HIDDEN, waves=2), selective_update, unpack_selective
        ),
        "SelectiveUpdateRNN-irregular": Comparison(
            jrnn.SelectiveUpdateRNN(HIDDEN), selective_update, unpack_selective, inputs=irregular
        ),
    },
    counts=lambda i, h: {jrnn.SelectiveUpdateRNN(h, waves=2): gate(i, h) + 2 + 2 * 2 * h + h},
)
