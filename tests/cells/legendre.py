"""A memory in Legendre polynomials: LMU."""

from functools import partial

import jax
import numpy as np

import jrnn
from tests.entries import HIDDEN, IN, Case, Comparison, Entry
from tests.references import exponential, tanh, times


def legendre(theta, order):
    """The memory θ dm/dt = A m + B u over one step of constant u: m becomes Ā m + B̄ u."""
    system = np.zeros((order + 1, order + 1))
    for i in range(order):
        for j in range(order):
            system[i, j] = (2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1))
        system[i, order] = (2 * i + 1) * (-1) ** i
    held = exponential(system / theta)
    return held[:order, :order], held[:order, order]


def lmu(p, carry, x, *, theta, order):
    """Voelker et al. 2019: a linear memory of the last θ steps of one signal u, in Legendre polynomials.

    u is read from x, the hidden layer and the memory; the hidden layer sees the new memory; no biases.
    """
    h, m = carry
    u = (p["ex"] * x).sum(axis=-1) + (p["eh"] * h).sum(axis=-1) + (p["em"] * m).sum(axis=-1)
    state, entry = legendre(theta, order)
    m = times(state, m) + entry * u[..., None]
    h = tanh(times(p["Wx"], x) + times(p["Wh"], h) + times(p["Wm"], m))
    return (h, m), h


def unpack_lmu(p):
    weights = {"ex": p.e_x, "eh": p.e_h, "em": p.e_m}
    return weights | {"Wx": p.w_ih.T, "Wh": p.w_hh.T, "Wm": p.w_mh.T}


SMALL = jrnn.LMU(HIDDEN, order=4, theta=9.0)


def with_memory(params, carry):
    """The memory of `LMU` is what it is, not what was drawn."""
    return params._replace(fixed=SMALL.init(jax.random.key(0), IN).fixed), carry


LMU = Entry(
    laws=[Case(jrnn.LMU(4, order=6, theta=9.0), 2)],
    values={
        "LMU": Comparison(SMALL, partial(lmu, theta=9.0, order=4), unpack_lmu, adapt=with_memory),
    },
    counts=lambda i, h: {jrnn.LMU(h, order=7): i + h + 7 + i * h + h**2 + h * 7},
)
