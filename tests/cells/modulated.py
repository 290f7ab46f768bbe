"""Modulated LSTMs: MultiplicativeLSTM, MogrifierLSTM, HyperLSTM."""

from functools import partial

import numpy as np

import jrnn
from tests.cells.lstm import lstm, unpack_lstm
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, packed, read
from tests.references import sigmoid, tanh, times


def multiplicative_lstm(p, carry, x):
    """Krause et al. 2016: every gate sees m, the product of a view of x and a view of h, in place of h."""
    h, c = carry
    m = times(p["Wm"], x) * times(p["Um"], h)
    input_gate = sigmoid(times(p["Wi"], x) + times(p["Ui"], m) + p["bi"])
    forget_gate = sigmoid(times(p["Wf"], x) + times(p["Uf"], m) + p["bf"])
    output_gate = sigmoid(times(p["Wo"], x) + times(p["Uo"], m) + p["bo"])
    candidate = tanh(times(p["Wc"], x) + times(p["Uc"], m) + p["bc"])
    c = forget_gate * c + input_gate * candidate
    h = output_gate * tanh(c)
    return (h, c), h


def unpack_multiplicative(p):
    return unpack_lstm(p.lstm) | {"Wm": p.w_im.T, "Um": p.w_hm.T}


MultiplicativeLSTM = Entry(
    laws=[Case(jrnn.MultiplicativeLSTM(4), 2)],
    values={
        "MultiplicativeLSTM": Comparison(
            jrnn.MultiplicativeLSTM(HIDDEN), multiplicative_lstm, unpack_multiplicative
        )
    },
    counts=lambda i, h: {jrnn.MultiplicativeLSTM(h): 4 * gate(i, h) + i * h + h**2},
)


def mogrifier_lstm(p, carry, x, rounds=5):
    """Melis et al. 2020: x and h gate each other in turn, x first, before the LSTM sees them."""
    h, c = carry
    for n in range(1, rounds + 1):
        if n % 2:
            x = 2 * sigmoid(times(p[f"Q{n}"], h)) * x
        else:
            h = 2 * sigmoid(times(p[f"R{n}"], x)) * h
    return lstm(p, (h, c), x)


def product(factors):
    """The product of one matrix or of two."""
    return factors[0] if len(factors) == 1 else factors[0] @ factors[1]


def unpack_mogrifier(p):
    odd = {f"Q{2 * n + 1}": product(q).T for n, q in enumerate(p.q)}
    even = {f"R{2 * n + 2}": product(r).T for n, r in enumerate(p.r)}
    return unpack_lstm(p.lstm) | odd | even


MogrifierLSTM = Entry(
    laws=[
        Case(jrnn.MogrifierLSTM(4, rounds=3), 2),
        Case(jrnn.MogrifierLSTM(6, rounds=2, rank=3), 4),
    ],
    values={
        "MogrifierLSTM": Comparison(jrnn.MogrifierLSTM(HIDDEN), mogrifier_lstm, unpack_mogrifier),
        "MogrifierLSTM-rank": Comparison(
            jrnn.MogrifierLSTM(HIDDEN, rounds=4, rank=2), partial(mogrifier_lstm, rounds=4), unpack_mogrifier
        ),
    },
    counts=lambda i, h: {
        jrnn.MogrifierLSTM(h): 4 * gate(i, h) + 5 * i * h,
        jrnn.MogrifierLSTM(h, rounds=3, rank=2): 4 * gate(i, h) + 3 * 2 * (i + h),
    },
)


def hyper_lstm(p, carry, x):
    """Ha et al. 2017, eqs. 10-13 without layer norms: d = scale z of the small LSTM's h, for every gate."""
    h, c, (small_h, small_c) = carry
    read = np.concatenate([x, h], axis=-1)
    sums = np.split(times(p["small W"], read) + times(p["small U"], small_h) + p["small b"], 4, axis=-1)
    small_c = sigmoid(sums[1]) * small_c + sigmoid(sums[0]) * tanh(sums[2])
    small_h = sigmoid(sums[3]) * tanh(small_c)
    z = np.split(times(p["Wz"], small_h) + p["bz"], 12, axis=-1)
    d = [times(p["scale"][use, gate].T, z[4 * use + gate]) for use in range(3) for gate in range(4)]
    a = [
        d[gate] * times(p[f"U{gate}"], h)
        + d[4 + gate] * times(p[f"W{gate}"], x)
        + d[8 + gate]
        + p[f"b{gate}"]
        for gate in range(4)
    ]
    c = sigmoid(a[1]) * c + sigmoid(a[0]) * tanh(a[2])
    h = sigmoid(a[3]) * tanh(c)
    return (h, c, (small_h, small_c)), h


def unpack_hyper(p):
    small = {"small W": p.hyper.w_ih.T, "small U": p.hyper.w_hh.T, "small b": p.hyper.b}
    return small | packed(*"0123")(p.lstm) | {"Wz": p.embed.w.T, "bz": p.embed.b, "scale": p.scale}


HyperLSTM = Entry(
    laws=[Case(jrnn.HyperLSTM(4, hyper=3, embedding=2), 2)],
    values={"HyperLSTM": Comparison(jrnn.HyperLSTM(HIDDEN, hyper=4, embedding=2), hyper_lstm, unpack_hyper)},
    counts=lambda i, h: {
        jrnn.HyperLSTM(h, hyper=7, embedding=2): (4 * gate(i, h) + 4 * gate(i + h, 7) + read(7, 24) + 24 * h)
    },
)
