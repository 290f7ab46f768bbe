"""Memories that are matrices: rows found by what they hold, by the order of writing, or as they are free."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._checks import check_in_features
from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import sigmoid
from jrnn.cells._memory import joined, outer, unit
from jrnn.cells.lstm import LSTM, LSTMCarry, LSTMParams
from jrnn.cells.minimal import InputParams, draw_input


class DNCParams(NamedTuple):
    """Parameters of `DNC`."""

    lstm: LSTMParams  # (in + reads·width, hidden), the controller
    interface: InputParams  # (hidden, ·), side by side in the order q k e v β f π b a g
    out: InputParams  # (hidden + reads·width, hidden)


class DNCCarry(NamedTuple):
    """State of `DNC`."""

    h: Array  # (..., hidden)
    c: Array  # (..., hidden)
    memory: Array  # (..., rows, width), M
    usage: Array  # (..., rows), u
    link: Array  # (..., rows, rows), L[i, j]: row i was written after row j
    last: Array  # (..., rows), p: how much each row was the last to be written
    write: Array  # (..., rows), w
    read: Array  # (..., reads, rows), r


@checked
@dataclass(frozen=True)
class DNC:
    """Differentiable neural computer: an LSTM with a memory that it writes and reads by attention.

        h, c = LSTM(h, c, [xₜ, rₜ₋₁ Mₜ₋₁])
        q, k, e, v, β, f, π, b, a, g = h w + w₀;   e, f, a, g by σ, β and b by 1 + softplus, π by softmax
        u = (uₜ₋₁ + wₜ₋₁ − uₜ₋₁ · wₜ₋₁) · Π (1 − f · rₜ₋₁),   the product over the reads
        w = g · (a · free(u) + (1 − a) · C(Mₜ₋₁, k, b)),   C(M, k, b) = softmax(b · cos(M, k)) over the rows
        Mₜ = Mₜ₋₁ · (1 − w eᵀ) + w vᵀ
        L[i, j] = (1 − w[i] − w[j]) · Lₜ₋₁[i, j] + w[i] · pₜ₋₁[j],   0 for i = j
        p = (1 − Σ w) · pₜ₋₁ + w
        rₜ = π₁ Lᵀ rₜ₋₁ + π₂ C(Mₜ, q, β) + π₃ L rₜ₋₁
        yₜ = [h, rₜ Mₜ] w_out + b_out

    free(u)[i] = (1 − u[i]) Π u[j] over all rows j that are used less; of equals, over those before i. This
    order has no gradient, as in the paper. There is one q, β, f, π and r for every read. cos adds 1e-6 to the
    squares of both lengths, since the memory starts at zero.

    Args:
      hidden: width of the LSTM and of y.
      rows: number of rows of the memory.
      width: their width.
      reads: number of reads at a step.

    Reference: Graves, Wayne, Reynolds, Harley et al., Hybrid computing using a neural network with dynamic
    external memory, 2016, doi:10.1038/nature20101.

    >>> import jax, jrnn
    >>> cell = jrnn.DNC(8, rows=5, width=4)
    >>> cell.initial_carry(cell.init(jax.random.key(0), in_features=3)).memory.shape
    (5, 4)
    """

    hidden: Width
    _: KW_ONLY
    rows: Width = 16
    width: Width = 16
    reads: Width = 1

    @property
    def out_features(self) -> int:
        return self.hidden

    @property
    def _sizes(self) -> tuple[int, ...]:
        """Numbers of the interface, letter by letter."""
        n, w = self.reads, self.width
        return n * w, w, w, w, n, n, 3 * n, 1, 1, 1

    def init(self, key: Array, in_features: int) -> DNCParams:
        check_in_features(in_features)
        k_lstm, k_interface, k_out = jax.random.split(key, 3)
        read = self.reads * self.width
        return DNCParams(
            lstm=LSTM(self.hidden).init(k_lstm, in_features + read),
            interface=draw_input(k_interface, self.hidden, sum(self._sizes), 1),
            out=draw_input(k_out, self.hidden + read, self.hidden, 1),
        )

    def initial_carry(
        self, params: DNCParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> DNCCarry:
        def zero(*shape: int) -> Array:
            return zero_state(params, (*batch_shape, *shape[:-1]), shape[-1])

        n, w = self.rows, self.width
        h, c, u, p, write = (zero(size) for size in (self.hidden, self.hidden, n, n, n))
        return DNCCarry(h, c, zero(n, w), u, zero(n, n), p, write, zero(self.reads, n))

    @broadcasting
    def step(self, params: DNCParams, carry: DNCCarry, x: Any) -> tuple[DNCCarry, Array]:
        seen = jnp.concatenate([x, joined(carry.read @ carry.memory)], -1)
        (h, c), _ = LSTM(self.hidden).step(params.lstm, LSTMCarry(carry.h, carry.c), seen)
        z = h @ params.interface.w_ih + params.interface.b
        ends = np.cumsum(self._sizes)[:-1]
        q, k, e, v, beta, f, pi, b, a, g = jnp.split(z, ends, axis=-1)
        e, f, a, g = sigmoid(e, "e"), sigmoid(f, "f"), sigmoid(a, "a"), sigmoid(g, "g")
        kept = product((1 - f[..., None] * carry.read).swapaxes(-1, -2))
        usage = (carry.usage + carry.write - carry.usage * carry.write) * kept
        found = by_content(carry.memory, k[..., None, :], b)[..., 0, :]
        write = g * (a * free(usage) + (1 - a) * found)
        memory = carry.memory * (1 - outer(write, e)) + outer(write, v)
        link = (1 - write[..., None] - write[..., None, :]) * carry.link + outer(write, carry.last)
        link = link * (1 - jnp.eye(self.rows, dtype=link.dtype))
        last = (1 - jnp.sum(write, -1, keepdims=True)) * carry.last + write
        q = q.reshape(*q.shape[:-1], self.reads, self.width)
        pi = jax.nn.softmax(pi.reshape(*pi.shape[:-1], self.reads, 3), -1)[..., None, :]
        before, after = carry.read @ link, carry.read @ link.swapaxes(-1, -2)
        read = pi[..., 0] * before + pi[..., 1] * by_content(memory, q, beta) + pi[..., 2] * after
        y = jnp.concatenate([h, joined(read @ memory)], -1) @ params.out.w_ih + params.out.b
        return DNCCarry(h, c, memory, usage, link, last, write, read), y


def by_content(memory: Array, keys: Array, strength: Array) -> Array:
    """Attention of every key to the rows of a memory, by the cosine, (..., keys, rows)."""
    alike = unit(keys) @ unit(memory).swapaxes(-1, -2)
    return jax.nn.softmax((1 + jax.nn.softplus(strength))[..., None] * alike, -1)


def free(usage: Array) -> Array:
    """Attention to the row that is used least: in the order of use, what those before it leave."""
    place, mine, others = jnp.arange(usage.shape[-1]), usage[..., :, None], usage[..., None, :]
    before = (others < mine) | ((others == mine) & (place < place[:, None]))
    return (1 - usage) * product(jnp.where(before, others, 1))


def product(a: Array) -> Array:
    """The product over the last axis: the gradient of `jnp.prod` reshapes, which a mesh refuses."""
    while a.shape[-1] > 1:
        half = a.shape[-1] // 2
        a = jnp.concatenate([a[..., :half] * a[..., half : 2 * half], a[..., 2 * half :]], -1)
    return a[..., 0]
