"""Memories that are matrices: LinearAttention, RetNet, GLA, HGRN2, Mamba2."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import WIDE, Case, Comparison, Entry, read, split
from tests.references import elu, in_heads, sigmoid, silu, softplus, times


def projected(p, x, names, heads):
    """W x + b of several names, in heads."""
    return [in_heads(times(p["W" + n], x) + p["b" + n], heads) for n in names]


def outer(k, v):
    return np.einsum("...i,...j->...ij", k, v)


def under(s, q):
    """What a memory holds under a key, heads side by side."""
    return flat(np.einsum("...ij,...i->...j", s, q))


def flat(y):
    return np.concatenate([y[..., head, :] for head in range(y.shape[-2])], axis=-1)


def parts(names):
    return lambda p: split(p.w_ih, "W", names) | split(p.b, "b", names)


def linear_attention(p, carry, x, heads=1):
    """Katharopoulos et al. 2020, eqs. 16-20: the sums of φ(k) vᵀ and of φ(k)."""
    s, n = carry
    q, k, v = projected(p, x, "qkv", heads)
    q, k = elu(q) + 1, elu(k) + 1
    s, n = s + outer(k, v), n + k
    return (s, n), under(s, q / (np.einsum("...i,...i->...", n, q)[..., None] + 1e-6))


def retnet(p, s, x, heads=1):
    """Sun et al. 2023, eq. 6 and 8: retention, with the rates of multi-scale retention."""
    q, k, v = projected(p, x, "qkv", heads)
    kept = np.stack([1 - 1 / 2 ** (5 + head) for head in range(heads)])
    s = kept[:, None, None] * s + outer(k / k.shape[-1] ** 0.5, v)
    return s, under(s, q)


def gla(p, s, x, heads=1, tau=16):
    """Yang et al. 2024, eq. 3 and section 4.4: α = σ(·)^(1/τ) for every key."""
    q, k, v, a = projected(p, x, "qkva", heads)
    s = sigmoid(a)[..., None] ** (1 / tau) * s + outer(k / k.shape[-1] ** 0.5, v)
    return s, under(s, q)


def hgrn2(p, s, x, heads=1, floor=0):
    """Qin et al. 2024, eq. 7: diag(f) S + (1 − f) iᵀ, with a lower bound of f; GLA with k = 1 − f."""
    q, f, i = projected(p, x, "qfi", heads)
    f = floor + (1 - floor) * sigmoid(f)
    s = f[..., None] * s + outer(1 - f, silu(i))
    return s, under(s, sigmoid(q))


def mamba2(p, s, x, heads=1):
    """Dao & Gu 2024: h = exp(Δ A) h + Δ B x, y = C h + D x, with a scalar A for each head."""
    x_, b, c = in_heads(times(p["Wx"], x) + p["bx"], heads), times(p["WB"], x), times(p["WC"], x)
    b, c = (b + p["bB"])[..., None, :], (c + p["bC"])[..., None, :]
    delta = softplus(times(p["Wd"], x) + p["bd"])
    s = np.exp(-delta * np.exp(p["A"]))[..., None, None] * s + delta[..., None, None] * outer(
        b + 0 * x_[..., :1], x_
    )
    return s, under(s, c + 0 * x_[..., :1]) + flat(p["D"][:, None] * x_)


def unpack_mamba2(p):
    wide, keys, steps = split(p.values.w_ih, "W", "x"), parts("BC")(p.keys), parts("d")(p.dt)
    return wide | {"bx": p.values.b} | keys | steps | {"A": p.a_log, "D": p.skip}


def positive(params, carry):
    """A sum of positive keys."""
    return params, carry._replace(n=np.abs(carry.n))


LinearAttention = Entry(
    laws=[Case(jrnn.LinearAttention(4, heads=2), 3)],
    values={
        f"LinearAttention-{heads}": Comparison(
            jrnn.LinearAttention(WIDE, heads=heads),
            partial(linear_attention, heads=heads),
            parts("qkv"),
            adapt=positive,
        )
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.LinearAttention(h, heads=2): 3 * read(i, h)},
)

RetNet = Entry(
    laws=[Case(jrnn.RetNet(4, heads=2), 3)],
    values={
        f"RetNet-{heads}": Comparison(
            jrnn.RetNet(WIDE, heads=heads), partial(retnet, heads=heads), parts("qkv")
        )
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.RetNet(h, heads=2): 3 * read(i, h)},
)

GLA = Entry(
    laws=[Case(jrnn.GLA(4, heads=2), 3)],
    values={
        f"GLA-{heads}": Comparison(
            jrnn.GLA(WIDE, heads=heads, temperature=tau), partial(gla, heads=heads, tau=tau), parts("qkva")
        )
        for heads, tau in ((1, 16.0), (2, 3.0))
    },
    counts=lambda i, h: {jrnn.GLA(h, heads=2): 4 * read(i, h)},
)

HGRN2 = Entry(
    laws=[Case(jrnn.HGRN2(4, heads=2, floor=0.25), 3)],
    values={
        f"HGRN2-{heads}": Comparison(
            jrnn.HGRN2(WIDE, heads=heads, floor=floor), partial(hgrn2, heads=heads, floor=floor), parts("qfi")
        )
        for heads, floor in ((1, 0.0), (2, 0.7))
    },
    counts=lambda i, h: {jrnn.HGRN2(h, heads=2): 3 * read(i, h)},
)

Mamba2 = Entry(
    laws=[Case(jrnn.Mamba2(4, heads=2, state=5), 3)],
    values={
        f"Mamba2-{heads}": Comparison(
            jrnn.Mamba2(WIDE, heads=heads, state=5), partial(mamba2, heads=heads), unpack_mamba2
        )
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.Mamba2(h, heads=2, state=5): read(i, h) + 2 * read(i, 5) + read(i, 2) + 2 + 2},
)
