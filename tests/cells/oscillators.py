"""Oscillators and long expressive memory: CoRNN, UnICORNN, LEM, HeterogeneousCoRNN."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, irregular, split
from tests.references import sigmoid, tanh, times


def timed(step):
    """The same step with Δt of its own for every input, of `(values, dt)`."""
    return lambda p, carry, x, dt, **rest: step(p, carry, x[0], dt=dt * x[1][..., None], **rest)


def cornn(p, carry, x, *, dt, gamma, epsilon):
    """Rusch & Mishra 2021: coupled damped oscillators, velocity z first; the damping sees the old z."""
    h, z = carry
    force = tanh(times(p["W"], x) + times(p["Uz"], z) + times(p["Uh"], h) + p["b"])
    z = z + dt * (force - gamma * h - epsilon * z)
    h = h + dt * z
    return (h, z), h


def unpack_cornn(p):
    u_h, u_z = np.split(p.w_hh, 2)
    return {"W": p.w_ih.T, "Uh": u_h.T, "Uz": u_z.T, "b": p.b}


COUPLED = {"dt": 0.5, "gamma": 0.3, "epsilon": 0.7}


CoRNN = Entry(
    laws=[Case(jrnn.CoRNN(4, dt=0.5), 2)],
    values={
        "CoRNN": Comparison(jrnn.CoRNN(HIDDEN, **COUPLED), partial(cornn, **COUPLED), unpack_cornn),
        "CoRNN-irregular": Comparison(
            jrnn.CoRNN(HIDDEN, **COUPLED), partial(timed(cornn), **COUPLED), unpack_cornn, inputs=irregular
        ),
    },
    counts=lambda i, h: {jrnn.CoRNN(h): i * h + 2 * h**2 + h},
)


def unicornn(p, carry, x, *, dt, alpha):
    """Rusch & Mishra 2021: undamped and uncoupled oscillators, each with a step dt σ(c) of its own."""
    h, z = carry
    step = dt * sigmoid(p["c"])
    z = z - step * (tanh(p["u"] * h + times(p["W"], x) + p["b"]) + alpha * h)
    h = h + step * z
    return (h, z), h


def unpack_unicornn(p):
    return {"W": p.w_ih.T, "u": p.w_hh, "b": p.b, "c": p.c}


UnICORNN = Entry(
    laws=[Case(jrnn.UnICORNN(4, dt=0.5), 2)],
    values={
        "UnICORNN": Comparison(
            jrnn.UnICORNN(HIDDEN, dt=0.5, alpha=1.7), partial(unicornn, dt=0.5, alpha=1.7), unpack_unicornn
        ),
        "UnICORNN-irregular": Comparison(
            jrnn.UnICORNN(HIDDEN),
            partial(timed(unicornn), dt=0.1, alpha=1),
            unpack_unicornn,
            inputs=irregular,
        ),
    },
    counts=lambda i, h: {jrnn.UnICORNN(h): i * h + 3 * h},
)


def lem(p, carry, x, dt=1):
    """Rusch et al. 2022: two time scales, both steps gated by the old h (the paper's y); h sees the new z."""
    h, z = carry
    step_z = dt * sigmoid(times(p["W1"], x) + times(p["U1"], h) + p["b1"])
    step_h = dt * sigmoid(times(p["W2"], x) + times(p["U2"], h) + p["b2"])
    z = (1 - step_z) * z + step_z * tanh(times(p["Wz"], x) + times(p["Uz"], h) + p["bz"])
    h = (1 - step_h) * h + step_h * tanh(times(p["Wy"], x) + times(p["Uy"], z) + p["by"])
    return (h, z), h


def unpack_lem(p):
    weights = split(p.w_ih, "W", "12zy") | split(p.b, "b", "12zy")
    return weights | split(p.w_hh, "U", "12z") | {"Uy": p.w_zh.T}


LEM = Entry(
    laws=[Case(jrnn.LEM(4), 2)],
    values={
        "LEM": Comparison(jrnn.LEM(HIDDEN, dt=0.6), partial(lem, dt=0.6), unpack_lem),
        "LEM-irregular": Comparison(
            jrnn.LEM(HIDDEN, dt=0.6), partial(timed(lem), dt=0.6), unpack_lem, inputs=irregular
        ),
    },
    counts=lambda i, h: {jrnn.LEM(h): 4 * gate(i, h)},  # the authors' code has every bias twice
)


def heterogeneous_cornn(p, carry, x, *, dt):
    """Ceni et al. 2024: γ and ε are vectors, and no velocity enters the force.

    As `cell` of `hcoRNN`, for the experiments of the paper, and of `RandomizedOscillatorsNetwork` in the
    authors' library, whose `diffusive_gamma` is 0 unless given.
    """
    h, z = carry
    force = tanh(times(p["V"], x) + times(p["W"], h) + p["b"])
    z = z + dt * (force - p["gamma"] * h - p["epsilon"] * z)
    h = h + dt * z
    return (h, z), h


def unpack_heterogeneous_cornn(p):
    gamma, epsilon = p.fixed
    return {"V": p.w_ih.T, "W": p.w_hh.T, "b": p.b, "gamma": gamma, "epsilon": epsilon}


HeterogeneousCoRNN = Entry(
    laws=[Case(jrnn.HeterogeneousCoRNN(4, dt=0.5), 2)],
    values={
        "HeterogeneousCoRNN": Comparison(
            jrnn.HeterogeneousCoRNN(HIDDEN, dt=0.5),
            partial(heterogeneous_cornn, dt=0.5),
            unpack_heterogeneous_cornn,
        ),
        "HeterogeneousCoRNN-irregular": Comparison(
            jrnn.HeterogeneousCoRNN(HIDDEN),
            partial(timed(heterogeneous_cornn), dt=0.05),
            unpack_heterogeneous_cornn,
            inputs=irregular,
        ),
    },
    counts=lambda i, h: {jrnn.HeterogeneousCoRNN(h): gate(i, h)},
)
