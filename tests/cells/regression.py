"""Memories that are regressions: MesaNet, TTTLinear."""

from functools import partial

import numpy as np

import jrnn
from tests.cells.delta import shares, unit
from tests.cells.linear_attention import flat, outer, parts, projected
from tests.entries import WIDE, Case, Comparison, Entry, read
from tests.references import layer_norm, silu, softplus


def mesa_net(p, carry, x, heads=1):
    """Von Oswald et al. 2025, eqs. 5-8, solved exactly: numbers of fla's `naive_mesa_net_exact`."""
    s, h = carry
    q, k, v = projected(p, x, "qkv", heads)
    q, k = unit(silu(q)), unit(silu(k))
    beta, gamma = shares(p, x, "β"), shares(p, x, "γ")[..., None]
    s, h = gamma * s + outer(beta * k, v), gamma * h + outer(beta * k, k)
    ridge = np.eye(k.shape[-1]) * (softplus(p["λ"]) + 0.25)[..., None]
    inverse = np.linalg.inv(h + ridge)
    return (s, h), flat(np.einsum("...ij,...ik,...k->...j", s, inverse, q))


def ttt_linear(p, carry, x, heads=1, rate=1):
    """Sun et al. 2024, eqs. 4-6 for one token at a time: memory and gradient of fla's naive `ttt_linear`.

    The outer q + LN(·) is that of the paper's own code; fla adds LN(o) to o itself.
    """
    w, c = p["W0"] + carry[0], p["c0"] + carry[1]
    q, k, v = projected(p, x, "qkv", heads)
    eta = rate * shares(p, x, "η") / k.shape[-1]
    z = np.einsum("...ij,...i->...j", w, k) + c
    centered = z - z.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centered * centered).mean(axis=-1, keepdims=True) + 1e-6)
    hat = centered / deviation
    error = (p["γ"] * hat + p["β"] - (v - k)) * p["γ"]
    along = (error * hat).mean(axis=-1, keepdims=True)
    gradient = (error - error.mean(axis=-1, keepdims=True) - hat * along) / deviation
    w, c = w - outer(k, eta * gradient), c - eta * gradient
    learned = w - p["W0"], c - p["c0"]
    return learned, flat(q + layer_norm(np.einsum("...ij,...i->...j", w, q) + c, p["γ"], p["β"]))


def unpack_mesa_net(p):
    return parts("qkv")(p.qkv) | parts("βγ")(p.gates) | {"λ": p.ridge}


def unpack_ttt_linear(p):
    return parts("qkv")(p.qkv) | parts("η")(p.rate) | {"W0": p.w, "c0": p.b, "γ": p.gain, "β": p.shift}


def definite(params, carry):
    """A sum of products k kᵀ."""
    return params, carry._replace(h=np.einsum("...ik,...jk->...ij", carry.h, carry.h))


MesaNet = Entry(
    laws=[Case(jrnn.MesaNet(4, heads=2), 3)],
    values={
        f"MesaNet-{heads}": Comparison(
            jrnn.MesaNet(WIDE, heads=heads), partial(mesa_net, heads=heads), unpack_mesa_net, adapt=definite
        )
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.MesaNet(h, heads=2): 3 * read(i, h) + 2 * read(i, 2) + h},
)

TTTLinear = Entry(
    laws=[Case(jrnn.TTTLinear(12, heads=2), 3)],  # of two numbers LN is a sign, of four it is steep
    values={
        f"TTTLinear-{heads}": Comparison(
            jrnn.TTTLinear(WIDE, heads=heads, rate=rate),
            partial(ttt_linear, heads=heads, rate=rate),
            unpack_ttt_linear,
        )
        for heads, rate in ((1, 1.0), (2, 0.3))
    },
    counts=lambda i, h: {jrnn.TTTLinear(h, heads=2): 3 * read(i, h) + read(i, 2) + 2 * (h // 2) ** 2 + 3 * h},
)
