"""LSTM."""

from functools import partial

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, packed
from tests.references import sigmoid, silu, tanh, times


def lstm(p, carry, x, f=tanh):
    """Gers et al. 2000, without peepholes: input, forget and output gate around one cell."""
    h, c = carry
    input_gate = sigmoid(times(p["Wi"], x) + times(p["Ui"], h) + p.get("bi", 0))
    forget_gate = sigmoid(times(p["Wf"], x) + times(p["Uf"], h) + p.get("bf", 0))
    output_gate = sigmoid(times(p["Wo"], x) + times(p["Uo"], h) + p.get("bo", 0))
    candidate = f(times(p["Wc"], x) + times(p["Uc"], h) + p.get("bc", 0))
    c = forget_gate * c + input_gate * candidate
    h = output_gate * f(c)
    return (h, c), h


unpack_lstm = packed(*"ifco")


LSTM = Entry(
    laws=[
        Case(jrnn.LSTM(4), 2),
        Case(jrnn.LSTM(4, max_lag=20), 2),
        Case(jrnn.LSTM(4, activation="silu", bias=False), 2),
    ],
    values={
        "LSTM": Comparison(jrnn.LSTM(HIDDEN), lstm, unpack_lstm),
        "LSTM-silu": Comparison(jrnn.LSTM(HIDDEN, activation="silu"), partial(lstm, f=silu), unpack_lstm),
        "LSTM-no bias": Comparison(jrnn.LSTM(HIDDEN, bias=False), lstm, unpack_lstm),
    },
    counts=lambda i, h: {jrnn.LSTM(h): 4 * gate(i, h), jrnn.LSTM(h, bias=False): 4 * (gate(i, h) - h)},
)
