"""Layer normalization inside: LayerNormLSTM, LayerNormGRU, LayerNormElman."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, packed, split
from tests.references import layer_norm, sigmoid, tanh, times


def layer_norm_lstm(p, carry, x, eps=1e-6):
    """Ba et al. 2016: the sums from h, those from x and the cell on its way out normalized, each alone.

    The first two over all gates at once, in the order i, f, candidate, o; the cell is carried as it is.
    """
    h, c = carry
    from_h = np.concatenate([times(p["U" + gate], h) for gate in "ifco"], axis=-1)
    from_x = np.concatenate([times(p["W" + gate], x) for gate in "ifco"], axis=-1)
    a = layer_norm(from_h, p["ah"], eps=eps) + layer_norm(from_x, p["ax"], eps=eps) + p["b"]
    a_i, a_f, a_c, a_o = np.split(a, 4, axis=-1)
    c = sigmoid(a_f) * c + sigmoid(a_i) * tanh(a_c)
    h = sigmoid(a_o) * tanh(layer_norm(c, p["ac"], p["bc"], eps))
    return (h, c), h


def unpack_layer_norm_lstm(p):
    weights = split(p.w_ih, "W", "ifco") | split(p.w_hh, "U", "ifco") | {"b": p.b, "bc": p.b_c}
    return weights | {"ax": p.gain_x, "ah": p.gain_h, "ac": p.gain_c}


LayerNormLSTM = Entry(
    laws=[Case(jrnn.LayerNormLSTM(4), 2)],
    values={
        "LayerNormLSTM": Comparison(jrnn.LayerNormLSTM(HIDDEN), layer_norm_lstm, unpack_layer_norm_lstm),
        "LayerNormLSTM-epsilon": Comparison(
            jrnn.LayerNormLSTM(HIDDEN, epsilon=0.1), partial(layer_norm_lstm, eps=0.1), unpack_layer_norm_lstm
        ),
    },
    counts=lambda i, h: {  # one bias for the paper's three of every gate
        jrnn.LayerNormLSTM(h): 4 * gate(i, h) + 2 * 4 * h + 2 * h
    },
)


def layer_norm_gru(p, h, x, eps=1e-6):
    """Ba et al. 2016: the sums from x and those from h normalized apart, r and z together (in that order).

    The candidate's two sums have norms of their own, and r scales the one from h; z weighs the candidate.
    """
    from_x = np.concatenate([times(p["Wr"], x), times(p["Wz"], x)], axis=-1)
    from_h = np.concatenate([times(p["Ur"], h), times(p["Uz"], h)], axis=-1)
    a = layer_norm(from_x, p["ax"], eps=eps) + layer_norm(from_h, p["ah"], eps=eps) + p["bg"]
    reset, update = np.split(sigmoid(a), 2, axis=-1)
    from_x = layer_norm(times(p["W"], x), p["acx"], p["b"], eps)
    from_h = layer_norm(times(p["U"], h), p["ach"], p["d"], eps)
    candidate = tanh(from_x + reset * from_h)
    h = (1 - update) * h + update * candidate
    return h, h


def unpack_layer_norm_gru(p):
    weights = split(p.w_ih, "W", ("r", "z", "")) | split(p.w_hh, "U", ("r", "z", "")) | {"d": p.b_hn}
    for letters, array in ((("ax", "acx"), p.gain_x), (("ah", "ach"), p.gain_h), (("bg", "b"), p.b)):
        weights |= dict(zip(letters, np.split(array, (2 * HIDDEN,)), strict=True))
    return weights


LayerNormGRU = Entry(
    laws=[Case(jrnn.LayerNormGRU(4), 2)],
    values={
        "LayerNormGRU": Comparison(jrnn.LayerNormGRU(HIDDEN), layer_norm_gru, unpack_layer_norm_gru),
        "LayerNormGRU-epsilon": Comparison(
            jrnn.LayerNormGRU(HIDDEN, epsilon=0.1), partial(layer_norm_gru, eps=0.1), unpack_layer_norm_gru
        ),
    },
    counts=lambda i, h: {jrnn.LayerNormGRU(h): 3 * gate(i, h) + h + 2 * 3 * h},
)


def layer_norm_elman(p, h, x, eps=1e-6, f=tanh):
    """Ba et al. 2016, eq. 4: the sum of both products normalized together."""
    h = f(layer_norm(times(p["W"], x) + times(p["U"], h), p["gain"], p["b"], eps))
    return h, h


LayerNormElman = Entry(
    laws=[Case(jrnn.LayerNormElman(4), 2)],
    values={
        "LayerNormElman": Comparison(
            jrnn.LayerNormElman(HIDDEN), layer_norm_elman, lambda p: packed("")(p) | {"gain": p.gain}
        )
    },
    counts=lambda i, h: {jrnn.LayerNormElman(h): gate(i, h) + h},
)
