"""Delta rules: DeltaNet, GatedDeltaNet, RWKV7."""

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


def rwkv7(p, carry, x, heads=1):
    """Peng et al. 2025, eqs. 3-17, without the parts that the cell leaves out; the state is transposed."""
    s, last = carry
    z = {n: times(p["W" + n], x + p["m" + n] * (last - x)) + p["b" + n] for n in "rwkva"}
    a, decay = sigmoid(z["a"]), np.exp(-np.exp(-0.5) * sigmoid(z["w"]))
    kappa = unit(in_heads(z["k"] * p["erased"], heads))
    k = in_heads(z["k"] * (1 + (a - 1) * p["replaced"]), heads)
    r, w, v, a = (in_heads(each, heads) for each in (z["r"], decay, z["v"], a))
    rows = np.swapaxes(s, -1, -2)  # values by keys, as in the paper
    matrix = np.eye(w.shape[-1]) * w[..., None, :] - outer(kappa, a * kappa)
    rows = np.einsum("...ij,...jk->...ik", rows, matrix) + outer(v, k)
    s = np.swapaxes(rows, -1, -2)
    return (s, x), under(s, r)


def unpack_delta_net(p):
    return parts("qkv")(p.qkv) | parts("β")(p.beta)


def unpack_gated_delta_net(p):
    return parts("qkv")(p.qkv) | parts("βα")(p.gates) | {"A": p.a_log}


def unpack_rwkv7(p):
    found = {"erased": p.erased, "replaced": p.replaced}
    for place, name in enumerate("rwkva"):
        found |= {"m" + name: p.mix[place], "W" + name: p.w_ih[place].T, "b" + name: p.b[place]}
    return found


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

RWKV7 = Entry(
    laws=[Case(jrnn.RWKV7(4, heads=2), 3)],
    values={
        f"RWKV7-{heads}": Comparison(jrnn.RWKV7(WIDE, heads=heads), partial(rwkv7, heads=heads), unpack_rwkv7)
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.RWKV7(h, heads=2): 5 * i + 5 * read(i, h) + 2 * h},
)
