"""Liquid networks: LTC, CfC."""

from functools import partial

import jax
import numpy as np

import jrnn
from tests.entries import HIDDEN, IN, Case, Comparison, Entry, gate, irregular, read, split
from tests.references import absolute, scaled_tanh, sigmoid, softplus, tanh, times

WIRED = 8  # units: 3 inter, 2 command, 3 motor
NCP = jrnn.NCP(3)


def ltc(p, v, x, *, unfolds=6, outputs=None):
    """Hasani et al. 2021, algorithm 1, with the synapses of Lechner et al. 2020; cm / dt as ncps has it."""
    x, dt = x if isinstance(x, tuple) else (x, np.ones(x.shape[:-1]))

    def synapses(name, source):
        open_ = sigmoid(p[f"sigma{name}"] * (source[..., None] - p[f"mu{name}"]))
        g = softplus(p[f"w{name}"]) * open_ * p[f"mask{name}"]
        return g.sum(-2), (g * p[f"E{name}"]).sum(-2)

    capacity = softplus(p["cm"]) / (dt[..., None] / unfolds)
    leak = softplus(p["gleak"])
    conductance, current = synapses("x", x)
    for _ in range(unfolds):
        g, i = synapses("v", v)
        v = (capacity * v + leak * p["vleak"] + i + current) / (capacity + leak + g + conductance)
    return v, v[..., -outputs:] if outputs else v


def unpack_ltc(p):
    found = {"cm": p.c, "gleak": p.leak, "vleak": p.v_leak}
    for name, synapses, mask in zip("xv", (p.inputs, p.units), p.fixed or (1, 1), strict=True):
        found |= {f"w{name}": synapses.w, f"mu{name}": synapses.mu, f"sigma{name}": synapses.sigma}
        found |= {f"E{name}": synapses.e, f"mask{name}": mask}
    return found


def connected(cell):
    """The connections are what they are, not what was drawn."""
    return lambda params, carry: (params._replace(fixed=cell.init(jax.random.key(0), IN).fixed), carry)


def compared(cell, step, unpack, **options):
    adapt = {"adapt": connected(cell)} if cell.wiring else {}
    return Comparison(cell, partial(step, **options), unpack, inputs=irregular, **adapt)


LTC = Entry(
    laws=[Case(jrnn.LTC(4, unfolds=2), 2), Case(jrnn.LTC(WIRED, unfolds=2, wiring=NCP), 3, irregular)],
    values={
        "LTC": compared(jrnn.LTC(HIDDEN), ltc, unpack_ltc),
        "LTC-regular": Comparison(jrnn.LTC(HIDDEN, unfolds=2), partial(ltc, unfolds=2), unpack_ltc),
        "LTC-wired": compared(jrnn.LTC(WIRED, wiring=NCP), ltc, unpack_ltc, outputs=3),
    },
    counts=lambda i, h: {jrnn.LTC(h): 4 * (i * h + h**2) + 3 * h},
)


def cfc(p, h, x, *, mode="gated", widths=None):
    """Hasani et al. 2022, eq. 10, and their code; with a wiring three layers, one after the other."""
    x, dt = x
    dt, states = dt[..., None], []
    parts = np.split(h, np.cumsum(widths)[:-1], -1) if widths else [h]
    for layer, h in zip(p, parts, strict=True):
        z = times(layer["W"], x) + times(layer["U"], h) + layer["b"]
        for w, b in layer["maps"]:
            z = times(w, scaled_tanh(z)) + b
        if mode == "pure":
            decay = np.exp(-dt * (absolute(layer["rate"]) + absolute(z)))
            x = -layer["A"] * decay * z + layer["A"]
        else:
            f, g, a, b = np.split(z, 4, axis=-1)
            gate = sigmoid(a * dt + b)
            x = tanh(f) + gate * tanh(g) if mode == "no_gate" else tanh(f) * (1 - gate) + gate * tanh(g)
        states.append(x)
    return np.concatenate(states, axis=-1), x


def unpack_cfc(p):
    layers = []
    for i, layer in enumerate(p.layers):
        w = layer.w_ih
        if p.fixed:  # of the four heads, the first two are sparse
            mask = p.fixed[i]
            w = w * np.concatenate([mask, mask, np.ones_like(mask), np.ones_like(mask)], axis=-1)
        maps = [(m.w.T, m.b) for m in layer.maps]
        found = split(w, "W", ("",)) | {"U": layer.w_hh.T, "b": layer.b, "maps": maps}
        layers.append(found | {"rate": layer.rate, "A": layer.limit})
    return layers


CfC = Entry(
    laws=[
        Case(jrnn.CfC(4, backbone=(7, 6)), 2),
        Case(jrnn.CfC(4, mode="pure"), 3, irregular),
        Case(jrnn.CfC(WIRED, wiring=NCP), 3, irregular),
    ],
    values={
        "CfC": compared(jrnn.CfC(HIDDEN), cfc, unpack_cfc),
        "CfC-backbone": compared(jrnn.CfC(HIDDEN, backbone=(4, 6)), cfc, unpack_cfc),
        "CfC-no_gate": compared(jrnn.CfC(HIDDEN, mode="no_gate"), cfc, unpack_cfc, mode="no_gate"),
        "CfC-pure": compared(jrnn.CfC(HIDDEN, mode="pure"), cfc, unpack_cfc, mode="pure"),
        "CfC-wired": compared(jrnn.CfC(WIRED, wiring=NCP), cfc, unpack_cfc, widths=(3, 2, 3)),
    },
    counts=lambda i, h: {
        jrnn.CfC(h): 4 * gate(i, h),
        jrnn.CfC(h, backbone=(7,)): i * 7 + h * 7 + 7 + 4 * read(7, h),
        jrnn.CfC(h, mode="pure"): gate(i, h) + 2 * h,
    },
)
