"""Ordered neurons: ONLSTM."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import WIDE, Case, Comparison, Entry, gate, split
from tests.references import sigmoid, tanh, times


def cumax(a):
    exponential = np.exp(a)
    return np.cumsum(exponential / exponential.sum(axis=-1, keepdims=True), axis=-1)


def on_lstm(p, carry, x, chunk=1):
    """Shen et al. 2019, eqs. 6-14: an LSTM whose gates act where the two master gates overlap."""
    h, c = carry
    sums = {name: times(p["W" + name], x) + times(p["U" + name], h) + p["b" + name] for name in "ifgoMN"}
    i, f, o = (sigmoid(sums[name]) for name in "ifo")
    master_f = np.repeat(cumax(sums["M"]), chunk, axis=-1)
    master_i = np.repeat(1 - cumax(sums["N"]), chunk, axis=-1)
    overlap = master_f * master_i
    f = f * overlap + (master_f - overlap)
    i = i * overlap + (master_i - overlap)
    c = f * c + i * tanh(sums["g"])
    h = o * tanh(c)
    return (h, c), h


def unpack_on_lstm(p):
    found = {}
    for letter, array in (("W", p.w_ih), ("U", p.w_hh), ("b", p.b)):
        gates, masters = np.split(array, [4 * WIDE], axis=-1)
        found |= split(gates, letter, "ifgo") | split(masters, letter, "MN")
    return found


ONLSTM = Entry(
    laws=[Case(jrnn.ONLSTM(4, chunk=2), 2)],
    values={
        f"ONLSTM-{chunk}": Comparison(
            jrnn.ONLSTM(WIDE, chunk=chunk), partial(on_lstm, chunk=chunk), unpack_on_lstm
        )
        for chunk in (1, 2)
    },
    counts=lambda i, h: {jrnn.ONLSTM(h, chunk=h): 4 * gate(i, h) + 2 * (i + h + 1)},
)
