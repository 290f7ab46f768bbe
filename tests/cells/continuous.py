"""Discretized differential equations: LeakyRNN, AntisymmetricRNN, LipschitzRNN."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, packed, read, split
from tests.references import FUNCTIONS, sigmoid, tanh, times


def leaky_rnn(p, carry, x, *, alpha, f=tanh, potential=False):
    """Leaky integrators, after Jaeger et al. 2007: of the rate f(a), or of the potential under it."""
    if potential:
        v = carry
        v = (1 - alpha) * v + alpha * (times(p["W"], x) + times(p["U"], f(v)) + p["b"])
        return v, f(v)
    h = carry
    h = (1 - alpha) * h + alpha * f(times(p["W"], x) + times(p["U"], h) + p["b"])
    return h, h


def compared(name, potential=False):
    """A leaky unit whose noise is off."""
    state = "potential" if potential else "rate"
    cell = jrnn.LeakyRNN(HIDDEN, tau=10.0, dt=3.0, activation=name, noise=0.1, state=state)
    step = partial(leaky_rnn, alpha=0.3, f=FUNCTIONS[name], potential=potential)
    return Comparison(cell, step, packed(""), theirs=lambda carry: carry.h)


LeakyRNN = Entry(
    laws=[
        Case(jrnn.LeakyRNN(4, activation="softplus", noise=0.1), 2),
        Case(jrnn.LeakyRNN(4, activation="tanh", state="potential"), 2),
    ],
    values={
        "LeakyRNN-rate": compared("softplus"),
        "LeakyRNN-potential": compared("tanh", potential=True),
    },
    counts=lambda i, h: {jrnn.LeakyRNN(h): gate(i, h)},
)


def antisymmetric_rnn(p, h, x, *, gamma, epsilon):
    """Chang et al. 2019: an Euler step of size ε with the matrix U - Uᵀ - γ I."""
    recurrent = times(p["U"], h) - times(p["U"].T, h) - gamma * h
    h = h + epsilon * tanh(recurrent + times(p["W"], x) + p["b"])
    return h, h


def gated_antisymmetric_rnn(p, h, x, *, gamma, epsilon):
    """Chang et al. 2019: the step gated, the gate seeing h by the same antisymmetric matrix."""
    recurrent = times(p["U"], h) - times(p["U"].T, h) - gamma * h
    z = sigmoid(recurrent + times(p["Wz"], x) + p["bz"])
    h = h + epsilon * z * tanh(recurrent + times(p["W"], x) + p["b"])
    return h, h


def unpack_antisymmetric(p):
    return {"U": p.w_hh.T} | split(p.w_ih, "W", ("",)) | split(p.b, "b", ("",))


def unpack_gated_antisymmetric(p):
    return {"U": p.w_hh.T} | split(p.w_ih, "W", ("z", "")) | split(p.b, "b", ("z", ""))


EULER = {"gamma": 0.3, "epsilon": 0.7}


AntisymmetricRNN = Entry(
    laws=[
        Case(jrnn.AntisymmetricRNN(4, epsilon=0.5), 2),
        Case(jrnn.AntisymmetricRNN(4, epsilon=0.5, gated=True), 2),
    ],
    values={
        "AntisymmetricRNN": Comparison(
            jrnn.AntisymmetricRNN(HIDDEN, **EULER), partial(antisymmetric_rnn, **EULER), unpack_antisymmetric
        ),
        "AntisymmetricRNN-gated": Comparison(
            jrnn.AntisymmetricRNN(HIDDEN, **EULER, gated=True),
            partial(gated_antisymmetric_rnn, **EULER),
            unpack_gated_antisymmetric,
        ),
    },
    counts=lambda i, h: {
        jrnn.AntisymmetricRNN(h): gate(i, h),  # of h², h (h - 1) / 2 are free
        jrnn.AntisymmetricRNN(h, gated=True): gate(i, h) + read(i, h),
    },
)


def lipschitz_rnn(p, h, x, *, beta, gamma, epsilon):
    """Erichson et al. 2021: an Euler step of dh/dt = A h + tanh(W h + U x + b)."""
    diffusion = gamma * np.eye(h.shape[-1])
    a, w = ((1 - beta) * (m + m.T) + beta * (m - m.T) - diffusion for m in (p["MA"], p["MW"]))
    h = h + epsilon * times(a, h) + epsilon * tanh(times(w, h) + times(p["U"], x) + p["b"])
    return h, h


def unpack_lipschitz(p):
    return {"MA": p.w_a.T, "MW": p.w_hh.T, "U": p.w_ih.T, "b": p.b}


MIXED = {"beta": 0.6, "gamma": 0.3, "epsilon": 0.7}


LipschitzRNN = Entry(
    laws=[Case(jrnn.LipschitzRNN(4, epsilon=0.3), 2)],
    values={
        "LipschitzRNN": Comparison(
            jrnn.LipschitzRNN(HIDDEN, **MIXED), partial(lipschitz_rnn, **MIXED), unpack_lipschitz
        )
    },
    counts=lambda i, h: {jrnn.LipschitzRNN(h): i * h + 2 * h**2 + h},
)
