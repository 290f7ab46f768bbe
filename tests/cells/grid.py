"""A grid of LSTMs: GridLSTM."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, gate
from tests.references import sigmoid, tanh, times


def block(p, m, below, before):
    """Kalchbrenner et al. 2016, eq. 1, of H = [below, before]: m' and h' = tanh(g_o · m')."""
    h = np.concatenate([below, before], axis=-1)
    u, f, o = (sigmoid(times(p["W" + name], h) + p["b" + name]) for name in "ufo")
    m = f * m + u * tanh(times(p["Wc"], h) + p["bc"])
    return tanh(o * m), m


def grid_lstm(p, carry, x, depth_last=False):
    """Section 3.1, and with the depth as a priority dimension section 3.2."""
    h_depth, m_depth = times(p["Ih"], x), times(p["Im"], x)
    states = []
    for layer, (h_time, m_time) in zip(p["layers"], carry, strict=True):
        new_h, new_m = block(layer["time"], m_time, h_depth, h_time)
        seen = new_h if depth_last else h_time
        h_depth, m_depth = block(layer["depth"], m_depth, h_depth, seen)
        states.append((new_h, new_m))
    return tuple(states), h_depth


def unpack_block(p):
    both = np.concatenate([p.w_ih, p.w_hh])
    weights = {"W" + name: w.T for name, w in zip("ufco", np.split(both, 4, axis=-1), strict=True)}
    return weights | {"b" + name: b for name, b in zip("ufco", np.split(p.b, 4, axis=-1), strict=True)}


def unpack_grid(p, copies=1):
    layers = [{"time": unpack_block(layer.time), "depth": unpack_block(layer.depth)} for layer in p.layers]
    first, second = np.split(p.w_in, 2, axis=-1)
    return {"Ih": first.T, "Im": second.T, "layers": layers * copies}


GridLSTM = Entry(
    laws=[Case(jrnn.GridLSTM(4), 2), Case(jrnn.GridLSTM(4, tied=True, depth_last=True), 3)],
    values={
        "GridLSTM": Comparison(jrnn.GridLSTM(HIDDEN), grid_lstm, unpack_grid),
        "GridLSTM-tied": Comparison(
            jrnn.GridLSTM(HIDDEN, depth=3, tied=True, depth_last=True),
            partial(grid_lstm, depth_last=True),
            partial(unpack_grid, copies=3),
        ),
    },
    counts=lambda i, h: {
        jrnn.GridLSTM(h, depth=3): 2 * i * h + 3 * 2 * 4 * gate(h, h),
        jrnn.GridLSTM(h, depth=3, tied=True): 2 * i * h + 2 * 4 * gate(h, h),
    },
)
