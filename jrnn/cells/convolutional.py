"""Gated cells on images and fields: convolutions in the place of products."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jrnn.cell import Shape, zero_state
from jrnn.cells.gating import GateParams, gates, repeated, tanh
from jrnn.cells.lstm import LSTMCarry
from jrnn.checks import check_in_features, check_width
from jrnn.initializers import glorot


def convolve(x: Array, kernel: Array) -> Array:
    """Cross-correlation over the axes before the channels, of the same size, with zeros around it.

    Args:
      x: (..., *spatial, in).
      kernel: (*size, in, out).

    Returns:
      (..., *spatial, out).

    Raises:
      ValueError: x without spatial axes.
    """
    spatial = kernel.ndim - 2
    if x.ndim <= spatial:
        raise ValueError(
            f"x has shape {x.shape}, a convolution needs (..., {spatial} spatial axes, channels)"
        )
    lead, inner = x.shape[: x.ndim - spatial - 1], x.shape[x.ndim - spatial - 1 :]
    axes = "DHW"[3 - spatial :]
    layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    rows = x if len(lead) == 1 else x.reshape(math.prod(lead), *inner)
    y = jax.lax.conv_general_dilated(rows, kernel, (1,) * spatial, "SAME", dimension_numbers=layout)
    return y if len(lead) == 1 else y.reshape(*lead, *y.shape[1:])


def _draw(key: Array, in_features: int, cell: Any, biases: tuple[float, ...]) -> GateParams:
    check_in_features(in_features)
    size, count = (cell.kernel,) * cell.spatial, len(biases)

    def draw(key: Array, channels: int) -> Array:
        flat = glorot(key, (math.prod(size) * channels, count * cell.hidden), blocks=count)
        return flat.reshape(*size, channels, count * cell.hidden)

    k_ih, k_hh = jax.random.split(key)
    return GateParams(draw(k_ih, in_features), draw(k_hh, cell.hidden), repeated(biases, cell.hidden))


@dataclass(frozen=True)
class ConvLSTM:
    """Convolutional LSTM: each place of a field has a state and sees its neighbourhood.

        iₜ = σ(xₜ ∗ w_i + hₜ₋₁ ∗ u_i + b_i),   f, o likewise,   gₜ = tanh(xₜ ∗ w_g + hₜ₋₁ ∗ u_g + b_g)
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        hₜ = oₜ · tanh(cₜ),   yₜ = hₜ

    ∗ is the cross-correlation of deep-learning libraries, with zeros around the field. x is
    (..., *spatial, channels): places count as batch axes, of which lengths, masks and resets name the leading
    ones. Packed in the order i f g o (Keras alike, flax i g f o with 1 added to f); without the
    paper's peepholes, as in both.

    Args:
      hidden: channels of h and c.
      kernel: length of the kernel along every axis, odd.
      spatial: number of spatial axes, 1 to 3.
      forget_bias: start of b_f.

    Raises:
      ValueError: a width below 1, an even kernel, or another number of axes.

    Reference: Shi et al., Convolutional LSTM network: a machine learning approach for precipitation
    nowcasting, 2015, arXiv:1506.04214.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.ConvLSTM(8)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> jrnn.unroll(cell, params, jnp.ones((5, 2, 16, 16, 3)), lengths=jnp.array([5, 3]))[1].shape
    (5, 2, 16, 16, 8)
    """

    hidden: int
    kernel: int = 3
    spatial: int = 2
    forget_bias: float = 1.0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return _draw(key, in_features, self, biases=(0, self.forget_bias, 0, 0))

    def initial_carry(
        self, params: GateParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LSTMCarry:
        return LSTMCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hc"))

    def step(self, params: GateParams, carry: LSTMCarry, x: Any) -> tuple[LSTMCarry, Array]:
        z = convolve(x, params.w_ih) + convolve(carry.h, params.w_hh) + params.b
        i, f, g, o = gates(z, "ifgo", candidate="g")
        c = f * carry.c + i * g
        h = o * jnp.tanh(c)
        return LSTMCarry(h, c), h


@dataclass(frozen=True)
class ConvGRU:
    """Convolutional GRU, with the reset before the convolution.

        rₜ = σ(xₜ ∗ w_r + hₜ₋₁ ∗ u_r + b_r)
        zₜ = σ(xₜ ∗ w_z + hₜ₋₁ ∗ u_z + b_z)
        nₜ = tanh(xₜ ∗ w_n + (rₜ · hₜ₋₁) ∗ u_n + b_n)
        hₜ = (1 − zₜ) · nₜ + zₜ · hₜ₋₁,   yₜ = hₜ

    Fields and ∗ as in `ConvLSTM`; packed in the order r z n, z keeps the old state as in `GRU`.

    Args:
      hidden: channels of h.
      kernel: length of the kernel along every axis, odd.
      spatial: number of spatial axes, 1 to 3.

    Raises:
      ValueError: a width below 1, an even kernel, or another number of axes.

    Reference: Ballas, Yao, Pal, Courville, Delving deeper into convolutional networks for learning video
    representations, 2016, arXiv:1511.06432.

    >>> import jrnn
    >>> jrnn.ConvGRU(8, kernel=5, spatial=1).out_features
    8
    """

    hidden: int
    kernel: int = 3
    spatial: int = 2

    def __post_init__(self) -> None:
        _check(self)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return _draw(key, in_features, self, biases=(0, 0, 0))

    def initial_carry(
        self, params: GateParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> Array:
        return zero_state(params, batch_shape, self.hidden)

    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        a_rz, a_n = jnp.split(convolve(x, params.w_ih) + params.b, (2 * self.hidden,), axis=-1)
        u_rz, u_n = jnp.split(params.w_hh, (2 * self.hidden,), axis=-1)
        r, z = gates(a_rz + convolve(carry, u_rz), "rz")
        n = tanh(a_n + convolve(r * carry, u_n), "n")
        h = (1 - z) * n + z * carry
        return h, h


def _check(cell: Any) -> None:
    check_width("hidden", cell.hidden)
    check_width("kernel", cell.kernel)
    if cell.kernel % 2 == 0:
        raise ValueError(f"kernel must be odd, got {cell.kernel}")
    check_width("spatial", cell.spatial)
    if cell.spatial > 3:
        raise ValueError(f"spatial must be 1, 2 or 3 axes, got {cell.spatial}")
