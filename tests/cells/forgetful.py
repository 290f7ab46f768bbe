"""Memories of reinforcement learning: FFM, SHM."""

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, irregular, read, split
from tests.references import layer_norm, relu, sigmoid, tanh, times


def ffm(p, carry, x):
    """Morad et al. 2023, eqs. 2-9: S = exp((-α + iω) dt) S + x̃, read by an affine map and a norm, gated.

    The complex memory stands as two real arrays; of every row of it the real parts come first.
    """
    re, im = carry
    x, dt = x if isinstance(x, tuple) else (x, np.ones(x.shape[:-1]))
    dt = dt[..., None, None]
    written = sigmoid(times(p["Wi"], x) + p["bi"]) * (times(p["Wv"], x) + p["bv"])
    decay, angle = np.exp(-np.exp(p["alpha"])[:, None] * dt), p["omega"] * dt
    re, im = (
        decay * (np.cos(angle) * re - np.sin(angle) * im) + written[..., None],
        decay * (np.cos(angle) * im + np.sin(angle) * re),
    )
    seen = np.concatenate([re, im], axis=-1)
    z = times(p["Wm"], seen.reshape(*seen.shape[:-2], -1)) + p["bm"]
    gate = sigmoid(times(p["Wo"], x) + p["bo"])
    return (re, im), gate * layer_norm(z) + (1 - gate) * (times(p["Ws"], x) + p["bs"])


def unpack_ffm(p):
    found = split(p.write.w_ih, "W", "vi") | split(p.write.b, "b", "vi")
    found |= split(p.read.w_ih, "W", "os") | split(p.read.b, "b", "os")
    return found | {"Wm": p.mix.w_ih.T, "bm": p.mix.b, "alpha": p.rate, "omega": p.frequency}


FFM = Entry(
    laws=[Case(jrnn.FFM(4, memory=3, context=2, max_period=9), 2)],
    values={
        "FFM": Comparison(jrnn.FFM(HIDDEN, memory=4, context=2), ffm, unpack_ffm),
        "FFM-irregular": Comparison(jrnn.FFM(HIDDEN, memory=4, context=2), ffm, unpack_ffm, inputs=irregular),
    },
    counts=lambda i, h: {
        jrnn.FFM(h, memory=7, context=2): 2 * read(i, 7) + 2 * read(i, h) + read(28, h) + 7 + 2
    },
)


def shm(p, memory, x):
    """Le et al. 2025, eqs. 3-9: calibration C = 1 + tanh(θ ⊗ v_c), update U = η (v ⊗ k), read M q."""
    x = layer_norm(x, p["gain"], p["bias"], eps=1e-5)
    k, q = relu(times(p["Wk"], x)), relu(times(p["Wq"], x))
    k, q = (a / (a.sum(axis=-1, keepdims=True) + 1e-5) for a in (k, q))
    eta = sigmoid((p["eta"] * x).sum(axis=-1))[..., None, None]
    calibration = 1 + tanh(p["theta"][:, None] * times(p["Wc"], x)[..., None, :])
    memory = memory * calibration + eta * times(p["Wv"], x)[..., :, None] * k[..., None, :]
    return memory, times(p["W"], (memory * q[..., None, :]).sum(axis=-1)) + p["b"]


def unpack_shm(p):
    found = split(p.w_ih[:, :-1], "W", "vkqc") | {"eta": p.w_ih[:, -1], "theta": p.table[0]}
    return found | {"gain": p.gain, "bias": p.bias, "W": p.out.w_ih.T, "b": p.out.b}


SHM = Entry(
    laws=[Case(jrnn.SHM(4, rows=5), 3)],
    values={"SHM": Comparison(jrnn.SHM(HIDDEN, rows=4), shm, unpack_shm, theirs=lambda carry: carry.m)},
    counts=lambda i, h: {jrnn.SHM(h, rows=7): 2 * i + 4 * i * h + i + 7 * h + h**2 + h},
)
