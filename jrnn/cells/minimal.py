"""Minimal gated cells: gates that see the input alone, so that the state enters linearly."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._gating import sigmoid, split, zeros
from jrnn.initializers import glorot


class InputParams(NamedTuple):
    """Parameters of gates that see the input alone, side by side in the order of the cell."""

    w_ih: Array  # (in, gates · hidden)
    b: Array  # (gates · hidden,)


def draw_input(key: Array, in_features: int, hidden: int, count: int) -> InputParams:
    """Draw the parameters of `count` gates: Glorot gate by gate, zero bias."""
    return InputParams(glorot(key, (in_features, count * hidden), blocks=count), zeros(count * hidden))


@checked
@dataclass(frozen=True)
class MinGRU:
    """Minimal GRU: neither gate nor candidate sees the state.

        zₜ = σ(xₜ w_z + b_z)
        nₜ = xₜ w_n + b_n
        hₜ = (1 − zₜ) · hₜ₋₁ + zₜ · nₜ,   yₜ = hₜ

    Side by side in the order z n. The paper's other form, in logarithms, makes the candidate positive,
    which is another model, and loses digits with the length.

    Reference: Feng, Tung, Ahmed, Bengio, Hajimirsadeghi, Were RNNs all we needed?, 2024, arXiv:2410.01201.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.MinGRU(8)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> jrnn.unroll(cell, params, jnp.ones((1000, 3)), method=jrnn.Associative())[1].shape
    (1000, 8)
    """

    hidden: Width
    linear: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> InputParams:
        return draw_input(key, in_features, self.hidden, 2)

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: InputParams, carry: Array, x: Any) -> tuple[Array, Array]:
        z, n = split(x @ params.w_ih + params.b, 2)
        z, n = sigmoid(z, "z"), checkpoint_name(n, "n")
        h = (1 - z) * carry + z * n
        return h, h


@checked
@dataclass(frozen=True)
class MinLSTM:
    """Minimal LSTM: forget and input gate see the input alone, and share one whole.

        fₜ = σ(xₜ w_f + b_f),   iₜ = σ(xₜ w_i + b_i)
        nₜ = xₜ w_n + b_n
        hₜ = (fₜ · hₜ₋₁ + iₜ · nₜ) / (fₜ + iₜ),   yₜ = hₜ

    Side by side in the order f i n. fₜ / (fₜ + iₜ) is computed as σ(log fₜ − log iₜ), which is finite
    wherever both gates are closed; it is named f.

    Reference: Feng, Tung, Ahmed, Bengio, Hajimirsadeghi, Were RNNs all we needed?, 2024, arXiv:2410.01201.

    >>> import jrnn
    >>> jrnn.MinLSTM(8).out_features
    8
    """

    hidden: Width
    linear: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> InputParams:
        return draw_input(key, in_features, self.hidden, 3)

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: InputParams, carry: Array, x: Any) -> tuple[Array, Array]:
        f, i, n = split(x @ params.w_ih + params.b, 3)
        f = sigmoid(jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i), "f")
        h = f * carry + (1 - f) * checkpoint_name(n, "n")
        return h, h
