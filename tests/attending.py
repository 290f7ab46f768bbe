"""The equations of attention in NumPy, for one sequence, and a cell with a memory from the start."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jrnn
from jrnn.attention import Additive, Dot, General, Location


@dataclass(frozen=True)
class Attending:
    """A cell with attention to a fixed memory, which counts as state: so the laws of cells hold for it."""

    cell: Any
    memory_features: int
    positions: int = 3

    @property
    def timed(self):
        return self.cell.timed

    @property
    def out_features(self):
        return self.cell.out_features

    def init(self, key, in_features):
        return self.cell.init(key, in_features)

    def initial_carry(self, params, batch_shape=(), *, key=None):
        shape = (self.positions, *batch_shape, self.memory_features)
        dtype = jax.tree.leaves(params)[0].dtype
        memory = jnp.cos(jnp.arange(self.positions * self.memory_features, dtype=dtype))
        memory = memory.reshape(self.positions, *(1,) * len(batch_shape), self.memory_features)
        carry = self.cell.initial_carry(params, batch_shape, key=key)
        return jrnn.attach(self.cell, params, carry, jnp.broadcast_to(memory, shape))

    def step(self, params, carry, x):
        return self.cell.step(params, carry, x)


def scores(score, p, q, m):
    """One score for each of the positions m, (n, features), of a query q."""
    if isinstance(score, Additive):
        return np.array([p.v @ np.tanh(p.w_query.T @ q + p.w_memory.T @ mi + p.b) for mi in m])
    if isinstance(score, Dot):
        return np.array([q @ mi for mi in m]) / (np.sqrt(len(q)) if score.scaled else 1)
    if isinstance(score, General):
        return np.array([(mi @ p.w_memory) @ q for mi in m])
    assert isinstance(score, Location)
    return np.array([p.w[:, i] @ q for i in range(len(m))])


def softmax(s):
    """aᵢ = exp sᵢ / Σⱼ exp sⱼ; analytic, so that a complex step gives its derivative."""
    powers = np.exp(s - np.max(s.real, initial=0))
    return powers / powers.sum()


def weights(score, p, q, m):
    """Shares of the n positions; the softmax, or that of a window around a center."""
    if not isinstance(score, jrnn.attention.Local):
        return softmax(scores(score, p, q, m))
    n, half = len(m), score.window / 2
    center = n / (1 + np.exp(-(p.v @ np.tanh(p.w.T @ q))))
    s, inside = scores(score.score, p.score, q, m), abs(np.arange(n) - center.real) <= score.window
    a = np.zeros(n, np.result_type(s, center))
    a[inside] = softmax(s[inside])
    return a * np.exp(-((np.arange(n) - center) ** 2) / (2 * half**2))


def attend(cell, params, q, memories):
    """Weights and contexts of every memory; a memory without a position gives zeros."""
    given = cell.score if isinstance(cell.score, tuple) else (cell.score,)
    shares = [
        weights(score, p, q, m) if len(m) else np.zeros(0)
        for score, p, m in zip(given, params, memories, strict=True)
    ]
    return shares, [a @ m for a, m in zip(shares, memories, strict=True)]


def project(p, h, x):
    """An Elman cell and a projection: the output is not the state."""
    h = np.tanh(x @ p.cell.w_ih + h @ p.cell.w_hh + p.cell.b)
    return h, h @ p.w


def decode(cell, params, carry, xs, memories):
    """One sequence: outputs, weights of every step and memory, and the last (state, query)."""
    (h, last), ys, found = carry, [], []
    for x in xs:
        if isinstance(cell, jrnn.BahdanauAttention):
            shares, contexts = attend(cell, params.scores, last, memories)
            h, last = project(params.cell, h, np.concatenate([x, *contexts]))
            y = np.concatenate([last, *contexts])
        else:
            h, s = project(params.cell, h, np.concatenate([x, last]) if cell.input_feeding else x)
            shares, contexts = attend(cell, params.scores, s, memories)
            last = y = np.tanh(np.concatenate([*contexts, s]) @ params.w)
        ys.append(y)
        found.append(shares)
    return np.array(ys), found, (h, last)
