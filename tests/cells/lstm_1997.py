"""The first LSTM: LSTM1997."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import WIDE, Case, Comparison, Entry, gate
from tests.references import sigmoid, tanh, times


def lstm_1997(p, carry, x, block=1, squash="logistic"):
    """Hochreiter & Schmidhuber 1997: nothing forgets, and the `block` cells of a block share their gates.

    The candidate is squashed into [-2, 2] by 4σ - 2 and the cell into [-1, 1] by 2σ - 1, or both by tanh.
    """
    h, c = carry
    into, out = {
        "logistic": (lambda a: 4 * sigmoid(a) - 2, lambda a: 2 * sigmoid(a) - 1),
        "tanh": (tanh, tanh),
    }[squash]
    input_gate = sigmoid(times(p["Wi"], x) + times(p["Ui"], h) + p["bi"])
    output_gate = sigmoid(times(p["Wo"], x) + times(p["Uo"], h) + p["bo"])
    candidate = into(times(p["Wc"], x) + times(p["Uc"], h) + p["bc"])
    c = c + np.repeat(input_gate, block, axis=-1) * candidate
    h = np.repeat(output_gate, block, axis=-1) * out(c)
    return (h, c), h


def unpack_lstm_1997(block):
    def unpack(p):
        ends = WIDE // block, WIDE // block + WIDE
        weights = {}
        for letter, array in zip("WUb", p, strict=True):
            parts = np.split(array, ends, axis=-1)
            weights |= {letter + gate: part.T for gate, part in zip("ico", parts, strict=True)}
        return weights

    return unpack


LSTM1997 = Entry(
    laws=[Case(jrnn.LSTM1997(4, block=2), 3)],
    values={
        f"LSTM1997-{block}-{squash}": Comparison(
            jrnn.LSTM1997(WIDE, block=block, squash=squash),
            partial(lstm_1997, block=block, squash=squash),
            unpack_lstm_1997(block),
        )
        for block in (1, 2)
        for squash in ("logistic", "tanh")
    },
    counts=lambda i, h: {
        jrnn.LSTM1997(h, squash="tanh"): 3 * gate(i, h),
        jrnn.LSTM1997(h, block=2): (i + h + 1) * 2 * h,  # gates of half the width
    },
)
