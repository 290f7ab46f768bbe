"""LSTMs whose inputs are modulated: MultiplicativeLSTM, MogrifierLSTM."""

from functools import partial

import jrnn
from tests.cells.lstm import lstm, unpack_lstm
from tests.entries import HIDDEN, Case, Comparison, Entry, gate
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
