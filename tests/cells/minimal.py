"""MinGRU, MinLSTM."""

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, from_x, read
from tests.references import sigmoid, times


def min_gru(p, h, x):
    """Feng et al. 2024: gate and linear candidate of x alone; z weighs the candidate."""
    z = sigmoid(times(p["Wz"], x) + p["bz"])
    candidate = times(p["Wh"], x) + p["bh"]
    h = (1 - z) * h + z * candidate
    return h, h


MinGRU = Entry(
    laws=[Case(jrnn.MinGRU(4), 2)],
    values={"MinGRU": Comparison(jrnn.MinGRU(HIDDEN), min_gru, from_x("z", "h"))},
    counts=lambda i, h: {jrnn.MinGRU(h): 2 * read(i, h)},
)


def min_lstm(p, h, x):
    """Feng et al. 2024: the two gates of x alone are scaled to sum to one."""
    forget_gate = sigmoid(times(p["Wf"], x) + p["bf"])
    input_gate = sigmoid(times(p["Wi"], x) + p["bi"])
    candidate = times(p["Wh"], x) + p["bh"]
    total = forget_gate + input_gate
    h = forget_gate / total * h + input_gate / total * candidate
    return h, h


MinLSTM = Entry(
    laws=[Case(jrnn.MinLSTM(4), 2)],
    values={"MinLSTM": Comparison(jrnn.MinLSTM(HIDDEN), min_lstm, from_x("f", "i", "h"))},
    counts=lambda i, h: {jrnn.MinLSTM(h): 3 * read(i, h)},
)
