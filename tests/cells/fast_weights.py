"""Matrices that change in a way that is not linear: FastWeights, M2RNN."""

from functools import partial

import numpy as np

import jrnn
from tests.cells.delta import forgotten
from tests.cells.linear_attention import flat, outer, parts
from tests.entries import IN, WIDE, Case, Comparison, Entry, gate, read
from tests.references import in_heads, layer_norm, relu, silu, tanh, times


def fast_weights(p, carry, x, loops=1, decay=0.95, rate=0.5, f=relu):
    """Ba et al. 2016, eqs. 1 and 2 with the layer normalization of section 3.2."""
    h, a = carry
    a = decay * a + rate * outer(h, h)
    z = times(p["C"], x) + times(p["W"], h) + p["b"]
    s = f(z)
    for _ in range(loops):
        s = f(layer_norm(z + np.einsum("...ij,...j->...i", a, s), p["γ"], p["β"]))
    return (s, a), s


def m2rnn(p, s, x, heads=1):
    """Mishra et al. 2026, eqs. 10-13: numbers of XMA's `m2rnn_torch`, with the residual of the paper."""
    q, k, v = (in_heads(silu(times(p["W" + n], x) + p["b" + n]), heads) for n in "qkv")
    f = forgotten(p, x)[..., None, None]
    z = tanh(np.einsum("...ij,...jk->...ik", s, p["U"]) + outer(k, v))
    s = f * s + (1 - f) * z
    return s, flat(np.einsum("...ij,...i->...j", s, q) + p["r"] * v)


def unpack_fast_weights(p):
    return {"C": p.w_ih.T, "W": p.w_hh.T, "b": p.b, "γ": p.gain, "β": p.shift}


def unpack_m2rnn(p):
    return parts("qkv")(p.qkv) | parts("α")(p.forget) | {"A": p.a_log, "U": p.w_hh, "r": p.skip}


def symmetric(params, carry):
    """A sum of products h hᵀ, small enough that the loop does not amplify rounding."""
    return params, carry._replace(a=np.einsum("...ik,...jk->...ij", carry.a, carry.a) / 10)


FastWeights = Entry(
    laws=[Case(jrnn.FastWeights(4, activation="tanh", loops=2), 3)],
    values={
        f"FastWeights-{loops}": Comparison(
            jrnn.FastWeights(WIDE, loops=loops, decay=decay, activation=name),
            partial(fast_weights, loops=loops, decay=decay, f=f),
            unpack_fast_weights,
            IN,
            adapt=symmetric,
        )
        for loops, decay, name, f in ((1, 0.95, "relu", relu), (3, 0.5, "tanh", tanh))
    },
    counts=lambda i, h: {jrnn.FastWeights(h): gate(i, h) + 2 * h},
)

M2RNN = Entry(
    laws=[Case(jrnn.M2RNN(4, heads=2), 3)],
    values={
        f"M2RNN-{heads}": Comparison(jrnn.M2RNN(WIDE, heads=heads), partial(m2rnn, heads=heads), unpack_m2rnn)
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.M2RNN(h, heads=2): 3 * read(i, h) + read(i, 2) + 2 + 2 * (h // 2) ** 2 + h},
)
