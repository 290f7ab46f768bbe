"""Time mixing of RWKV: RWKV6, RWKV7."""

from functools import partial

import numpy as np

import jrnn
from tests.cells.delta import unit
from tests.cells.linear_attention import outer, under
from tests.entries import WIDE, Case, Comparison, Entry, blocks, read
from tests.references import in_heads, sigmoid, tanh, times


def rwkv6(p, carry, x, heads=1):
    """Peng et al. 2024, eqs. 12-20, numbers of fla's `naive_recurrent_rwkv6` with scale 1."""
    s, last = carry
    base = x + p["shift"] * (last - x)
    mixes = {n: p["λ" + n] + times(p["B" + n], tanh(times(p["A" + n], base))) for n in "rwkv"}
    z = {n: times(p["W" + n], x + mixes[n] * (last - x)) + p["b" + n] for n in "rwkv"}
    r, w, k, v = (in_heads(z[n], heads) for n in "rwkv")
    written = outer(k, v)
    y = under(s + p["u"][..., None] * written, r)
    return (np.exp(-np.exp(w))[..., None] * s + written, x), y


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


def unpack_rwkv6(p):
    found = {"shift": p.shift, "u": p.bonus}
    found |= {name: part.T for name, part in blocks(p.down, "A", "rwkv").items()}
    for place, name in enumerate("rwkv"):
        found |= {"λ" + name: p.mix[place], "B" + name: p.up[place].T}
        found |= {"W" + name: p.w_ih[place].T, "b" + name: p.b[place]}
    return found


def unpack_rwkv7(p):
    found = {"erased": p.erased, "replaced": p.replaced}
    for place, name in enumerate("rwkva"):
        found |= {"m" + name: p.mix[place], "W" + name: p.w_ih[place].T, "b" + name: p.b[place]}
    return found


RWKV6 = Entry(
    laws=[Case(jrnn.RWKV6(4, heads=2, rank=5), 3)],
    values={
        f"RWKV6-{heads}": Comparison(
            jrnn.RWKV6(WIDE, heads=heads, rank=5), partial(rwkv6, heads=heads), unpack_rwkv6
        )
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.RWKV6(h, heads=2, rank=5): 5 * i + 2 * 4 * 5 * i + 4 * read(i, h) + h},
)

RWKV7 = Entry(
    laws=[Case(jrnn.RWKV7(4, heads=2), 3)],
    values={
        f"RWKV7-{heads}": Comparison(jrnn.RWKV7(WIDE, heads=heads), partial(rwkv7, heads=heads), unpack_rwkv7)
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.RWKV7(h, heads=2): 5 * i + 5 * read(i, h) + 2 * h},
)
