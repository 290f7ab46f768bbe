"""Delta rules: DeltaNet, GatedDeltaNet, DeltaProduct, KDA, GDN2, Comba."""

from functools import partial

import numpy as np

import jrnn
from tests.cells.linear_attention import outer, parts, under
from tests.entries import WIDE, Case, Comparison, Entry, read
from tests.references import in_heads, sigmoid, silu, softplus, times


def unit(k):
    return k / np.sqrt((k * k).sum(axis=-1, keepdims=True) + 1e-6)


def gated_delta_net(p, s, x, heads=1):
    """Yang et al. 2024, eq. 10, and with α Yang et al. 2025, eq. 10: α (I − β k kᵀ) S + β k vᵀ."""
    q, k, v = (in_heads(silu(times(p["W" + n], x) + p["b" + n]), heads) for n in "qkv")
    q, k = unit(q), unit(k)
    beta = sigmoid(times(p["Wβ"], x) + p["bβ"])[..., None, None]
    alpha = 1
    if "A" in p:
        alpha = np.exp(-np.exp(p["A"]) * softplus(times(p["Wα"], x) + p["bα"]))[..., None, None]
    identity = np.eye(k.shape[-1])
    s = np.einsum("...ij,...jk->...ik", alpha * (identity - beta * outer(k, k)), s) + beta * outer(k, v)
    return s, under(s, q)


def delta(s, k, v, beta):
    """β k (v − Sᵀ k)ᵀ is added."""
    error = v - np.einsum("...ij,...i->...j", s, k)
    return s + outer(beta * k, error)


def forgotten(p, x, heads=None):
    """α = exp(−e^A softplus(W x + b)), of each head, or of each key."""
    z = times(p["Wα"], x) + p["bα"]
    rate = np.exp(p["A"])
    return (
        np.exp(-rate * softplus(z))
        if heads is None
        else np.exp(-rate[:, None] * softplus(in_heads(z, heads)))
    )


def shares(p, x, name):
    """σ(W x + b), one number a head, (heads, 1)."""
    return sigmoid(times(p["W" + name], x) + p["b" + name])[..., None]


def delta_product(p, s, x, heads=1, n=2):
    """Siems et al. 2025, eqs. 4 and 5 with a gate: numbers of fla's `naive_recurrent_gated_delta_product`.

    The eigenvalues may be negative, β = 2 σ(·), and q is not scaled.
    """
    read = lambda name: in_heads(silu(times(p["W" + name], x) + p["b" + name]), heads)
    s = forgotten(p, x)[..., None, None] * s
    for i in range(n):
        s = delta(s, unit(read(f"k{i}")), read(f"v{i}"), 2 * shares(p, x, f"β{i}"))
    return s, under(s, unit(read("q")))


def kda(p, s, x, heads=1):
    """Kimi Team 2025, eq. 1: (I − β k kᵀ) diag(α) S + β k vᵀ; numbers of fla's `naive_recurrent_kda`."""
    q, k, v = (in_heads(silu(times(p["W" + n], x) + p["b" + n]), heads) for n in "qkv")
    s = delta(forgotten(p, x, heads)[..., None] * s, unit(k), v, shares(p, x, "β"))
    return s, under(s, unit(q))


def gdn2(p, s, x, heads=1):
    """Hatamizadeh et al. 2026: (I − k (b ⊙ k)ᵀ) diag(α) S + k (w ⊙ v)ᵀ; fla's `naive_recurrent_gdn2`."""
    q, k, v = (in_heads(silu(times(p["W" + n], x) + p["b" + n]), heads) for n in "qkv")
    b, w = (in_heads(sigmoid(times(p["W" + n], x) + p["b" + n]), heads) for n in "bw")
    q, k = unit(q), unit(k)
    matrix = np.eye(k.shape[-1]) - outer(k, b * k)
    s = np.einsum("...ij,...jk->...ik", matrix, forgotten(p, x, heads)[..., None] * s) + outer(k, w * v)
    return s, under(s, q)


def comba(p, s, x, heads=1):
    """Hu et al. 2025, eq. 8: (α − β̃ k kᵀ) S + β k vᵀ, read by q − d p, of fla's `fused_recurrent_comba`.

    fla's `naive_recurrent_comba` lets the memory forget before the error is taken, unlike its own kernels.
    """
    q, k, v = (in_heads(silu(times(p["W" + n], x) + p["b" + n]), heads) for n in "qkv")
    q, k, beta = unit(q), unit(k), shares(p, x, "β")
    feedback = sigmoid(p["feedback"])[:, None]
    matrix = forgotten(p, x)[..., None, None] * np.eye(k.shape[-1]) - outer(beta * k, feedback * k)
    s = np.einsum("...ij,...jk->...ik", matrix, s) + outer(beta * k, v)
    return s, under(s, q - p["d"][:, None] * feedback * k)


def unpack_delta_net(p):
    return parts("qkv")(p.qkv) | parts("β")(p.beta)


def unpack_gated_delta_net(p):
    return parts("qkv")(p.qkv) | parts("βα")(p.gates) | {"A": p.a_log}


DeltaNet = Entry(
    laws=[Case(jrnn.DeltaNet(4, heads=2), 3)],
    values={
        f"DeltaNet-{heads}": Comparison(
            jrnn.DeltaNet(WIDE, heads=heads), partial(gated_delta_net, heads=heads), unpack_delta_net
        )
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.DeltaNet(h, heads=2): 3 * read(i, h) + read(i, 2)},
)

GatedDeltaNet = Entry(
    laws=[Case(jrnn.GatedDeltaNet(4, heads=2), 3)],
    values={
        f"GatedDeltaNet-{heads}": Comparison(
            jrnn.GatedDeltaNet(WIDE, heads=heads),
            partial(gated_delta_net, heads=heads),
            unpack_gated_delta_net,
        )
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.GatedDeltaNet(h, heads=2): 3 * read(i, h) + 2 * read(i, 2) + 2},
)


def unpack_delta_product(n):
    vectors = "q", *(f"k{i}" for i in range(n)), *(f"v{i}" for i in range(n))
    gates = *(f"β{i}" for i in range(n)), "α"
    return lambda p: parts(vectors)(p.qkv) | parts(gates)(p.gates) | {"A": p.a_log}


def unpack_kda(p):
    return parts("qkv")(p.qkv) | parts("α")(p.decay) | parts("β")(p.beta) | {"A": p.a_log}


def unpack_gdn2(p):
    return parts("qkv")(p.qkv) | parts("bwα")(p.gates) | {"A": p.a_log}


def unpack_comba(p):
    return unpack_gated_delta_net(p) | {"feedback": p.feedback, "d": p.correction}


DeltaProduct = Entry(
    laws=[Case(jrnn.DeltaProduct(4, heads=2), 3)],
    values={
        f"DeltaProduct-{heads}": Comparison(
            jrnn.DeltaProduct(WIDE, heads=heads, products=n),
            partial(delta_product, heads=heads, n=n),
            unpack_delta_product(n),
        )
        for heads, n in ((1, 3), (2, 2))
    },
    counts=lambda i, h: {
        jrnn.DeltaProduct(h, heads=2, products=n): (1 + 2 * n) * read(i, h) + (n + 1) * read(i, 2) + 2
        for n in (1, 3)
    },
)

KDA = Entry(
    laws=[Case(jrnn.KDA(4, heads=2), 3)],
    values={
        f"KDA-{heads}": Comparison(jrnn.KDA(WIDE, heads=heads), partial(kda, heads=heads), unpack_kda)
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.KDA(h, heads=2): 4 * read(i, h) + read(i, 2) + 2},
)

GDN2 = Entry(
    laws=[Case(jrnn.GDN2(4, heads=2), 3)],
    values={
        f"GDN2-{heads}": Comparison(jrnn.GDN2(WIDE, heads=heads), partial(gdn2, heads=heads), unpack_gdn2)
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.GDN2(h, heads=2): 6 * read(i, h) + 2},
)

Comba = Entry(
    laws=[Case(jrnn.Comba(4, heads=2), 3)],
    values={
        f"Comba-{heads}": Comparison(jrnn.Comba(WIDE, heads=heads), partial(comba, heads=heads), unpack_comba)
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.Comba(h, heads=2): 3 * read(i, h) + 2 * read(i, 2) + 3 * 2},
)
