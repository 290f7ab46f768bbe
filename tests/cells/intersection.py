"""The +RNN: IntersectionRNN."""

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, packed
from tests.references import relu, sigmoid, tanh, times


def intersection_rnn(p, h, x):
    """Collins et al. 2017: the +RNN, gated both in time (h) and in depth (y), so x and h are of one size."""
    y_in = relu(times(p["Wy"], x) + times(p["Uy"], h) + p["by"])
    h_in = tanh(times(p["Wh"], x) + times(p["Uh"], h) + p["bh"])
    y_gate = sigmoid(times(p["Wgy"], x) + times(p["Ugy"], h) + p["bgy"])
    h_gate = sigmoid(times(p["Wgh"], x) + times(p["Ugh"], h) + p["bgh"])
    y = y_gate * x + (1 - y_gate) * y_in
    h = h_gate * h + (1 - h_gate) * h_in
    return h, y


IntersectionRNN = Entry(
    laws=[Case(jrnn.IntersectionRNN(4), 4)],
    values={
        "IntersectionRNN": Comparison(
            jrnn.IntersectionRNN(HIDDEN), intersection_rnn, packed("y", "h", "gy", "gh"), width=HIDDEN
        )
    },
    counts=lambda i, h: {jrnn.IntersectionRNN(h): 4 * (2 * h**2 + h)} if i == h else {},
)
