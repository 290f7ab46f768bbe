"""Over space: convolutions in place of matmuls, on images and fields."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._alignment import promoted, sharded_axes
from jrnn._checks import check_in_features
from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import GateParams, gates, repeated, tanh
from jrnn.cells.lstm import LSTMCarry
from jrnn.initializers import glorot


def convolve(x: Array, kernel: Array, padding: str = "SAME", strides: Any = 1, dilation: Any = 1) -> Array:
    """Cross-correlation over the axes before the channels, by default of the same size.

    Args:
      x: (..., *spatial, in).
      kernel: (*size, in, out).
      padding: "SAME" pads with zeros, "CIRCULAR" wraps around, "VALID" does not pad.
      strides: steps between outputs; one number, or one per axis.
      dilation: steps between entries of the kernel, likewise.

    Returns:
      (..., *spatial, out).

    Raises:
      ValueError: x without spatial axes.
    """
    spatial = kernel.ndim - 2
    strides, dilation = _each(strides, spatial), _each(dilation, spatial)
    if x.ndim <= spatial:
        raise ValueError(
            f"x has shape {x.shape}, a convolution needs (..., {spatial} spatial axes, channels)"
        )
    lead, inner = x.shape[: x.ndim - spatial - 1], x.shape[x.ndim - spatial - 1 :]
    axes = "DHW"[3 - spatial :]
    layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    dtype = promoted(x, kernel)
    x, kernel = x.astype(dtype), kernel.astype(dtype)

    def convolved(x: Array, kernel: Array) -> Array:
        rows = x if len(lead) == 1 else x.reshape(math.prod(lead), *inner)
        if padding == "CIRCULAR":
            spans = [(size - 1) * d for size, d in zip(kernel.shape, dilation, strict=False)]
            sides = [(span // 2, span - span // 2) for span in spans]  # as "SAME" does
            rows = jnp.pad(rows, [(0, 0), *sides, (0, 0)], mode="wrap")
        around = "VALID" if padding == "CIRCULAR" else padding
        y = jax.lax.conv_general_dilated(
            rows, kernel, strides, around, rhs_dilation=dilation, dimension_numbers=layout
        )
        return y if len(lead) == 1 else y.reshape(*lead, *y.shape[1:])

    if not sharded_axes(jax.typeof(x)):
        return convolved(x, kernel)
    out = jax.typeof(x).sharding  # vmap reshapes batch axes, which explicit sharding forbids
    return jax.sharding.auto_axes(convolved, out_sharding=out)(x, kernel)


def _each(given: int | tuple[int, ...], spatial: int) -> tuple[int, ...]:
    """One number for every spatial axis."""
    return given if isinstance(given, tuple) else (given,) * spatial


def _places(cell: Any, batch_shape: Shape) -> Shape:
    """The batch shape of the state, with the spatial size of the convolution of x."""
    lead, field = batch_shape[: -cell.spatial], batch_shape[-cell.spatial :]
    if len(batch_shape) < cell.spatial:
        return batch_shape
    sizes = [_each(option, cell.spatial) for option in (cell.kernel, cell.strides, cell.dilation)]
    lost = [(k - 1) * d if cell.padding == "VALID" else 0 for k, _, d in zip(*sizes, strict=True)]
    if any(less and places <= less for places, less in zip(field, lost, strict=True)):
        raise ValueError(f"{cell} needs more than {tuple(lost)} places, got {field}")
    return *lead, *(-((less - n) // s) for n, less, s in zip(field, lost, sizes[1], strict=True))


def _seen(cell: Any, params: GateParams, x: Array) -> Array:
    """The convolution of the input, with the bias."""
    return convolve(x, params.w_ih, cell.padding, cell.strides, cell.dilation) + params.b


def _felt(cell: Any, h: Array, kernel: Array) -> Array:
    """The convolution of the state, which keeps its size."""
    return convolve(h, kernel, "CIRCULAR" if cell.padding == "CIRCULAR" else "SAME")


def _draw(key: Array, in_features: int, cell: Any, biases: tuple[float, ...]) -> GateParams:
    check_in_features(in_features)
    size, count = _each(cell.kernel, cell.spatial), len(biases)

    def draw(key: Array, channels: int) -> Array:
        flat = glorot(key, (math.prod(size) * channels, count * cell.hidden), blocks=count)
        return flat.reshape(*size, channels, count * cell.hidden)

    k_ih, k_hh = jax.random.split(key)
    return GateParams(draw(k_ih, in_features), draw(k_hh, cell.hidden), repeated(biases, cell.hidden))


@checked
@dataclass(frozen=True)
class ConvLSTM:
    """Convolutional LSTM: each position of a field has a state and sees its neighborhood.

        iₜ = σ(xₜ ∗ w_i + hₜ₋₁ ∗ u_i + b_i),   f, o likewise,   gₜ = tanh(xₜ ∗ w_g + hₜ₋₁ ∗ u_g + b_g)
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        hₜ = oₜ · tanh(cₜ),   yₜ = hₜ

    ∗ is the cross-correlation of deep-learning libraries, with zero padding. x is (..., *spatial, channels):
    spatial axes count as batch axes, of which lengths, masks and resets have the leading ones. Gate order:
    i f g o, as in Keras (flax: i g f o with 1 added to f); without the paper's peepholes, as in both. As in
    Keras, padding, strides and dilation apply to x ∗ w, and the state has the spatial size of the result;
    h ∗ u keeps this size, with zero or circular padding.

    Args:
      hidden: channels of h and c.
      kernel: length of the kernel along every axis; or a tuple, one per axis.
      spatial: number of spatial axes, 1 to 3.
      forget_bias: start of b_f.
      padding: "SAME", with zeros; "CIRCULAR", which wraps around; or "VALID", without padding.
      strides: steps in x between positions of the state; one number, or one per axis.
      dilation: steps in x between entries of the kernel, likewise.

    Raises:
      ValueError: a wrong number of axes.

    Reference: Shi et al., Convolutional LSTM network: a machine learning approach for precipitation
    nowcasting, 2015, arXiv:1506.04214.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.ConvLSTM(8)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> jrnn.unroll(cell, params, jnp.ones((5, 2, 16, 16, 3)), lengths=jnp.array([5, 3]))[1].shape
    (5, 2, 16, 16, 8)
    """

    hidden: Width
    _: KW_ONLY
    kernel: Width | tuple[Width, ...] = 3
    spatial: Width = 2
    forget_bias: float = 1.0
    padding: Literal["SAME", "CIRCULAR", "VALID"] = "SAME"
    strides: Width | tuple[Width, ...] = 1
    dilation: Width | tuple[Width, ...] = 1

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
        places = _places(self, batch_shape)
        return LSTMCarry(*(zero_state(params, places, self.hidden) for _ in "hc"))

    @broadcasting
    def step(self, params: GateParams, carry: LSTMCarry, x: Any) -> tuple[LSTMCarry, Array]:
        z = _seen(self, params, x) + _felt(self, carry.h, params.w_hh)
        i, f, g, o = gates(z, "ifgo", candidate="g")
        c = f * carry.c + i * g
        h = o * jnp.tanh(c)
        return LSTMCarry(h, c), h


@checked
@dataclass(frozen=True)
class ConvGRU:
    """Convolutional GRU, with the reset before the convolution.

        rₜ = σ(xₜ ∗ w_r + hₜ₋₁ ∗ u_r + b_r)
        zₜ = σ(xₜ ∗ w_z + hₜ₋₁ ∗ u_z + b_z)
        nₜ = tanh(xₜ ∗ w_n + (rₜ · hₜ₋₁) ∗ u_n + b_n)
        hₜ = (1 − zₜ) · nₜ + zₜ · hₜ₋₁,   yₜ = hₜ

    Fields and ∗ as in `ConvLSTM`. Gate order: r z n; z keeps the old state as in `GRU`.

    Args:
      hidden: channels of h.
      kernel: length of the kernel along every axis; or a tuple, one per axis.
      spatial: number of spatial axes, 1 to 3.
      padding: "SAME", "CIRCULAR" or "VALID", as in `ConvLSTM`.
      strides: steps in x between positions of the state; one number, or one per axis.
      dilation: steps in x between entries of the kernel, likewise.

    Raises:
      ValueError: a wrong number of axes.

    Reference: Ballas, Yao, Pal, Courville, Delving deeper into convolutional networks for learning video
    representations, 2016, arXiv:1511.06432.

    >>> import jrnn
    >>> jrnn.ConvGRU(8, kernel=5, spatial=1).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    kernel: Width | tuple[Width, ...] = 3
    spatial: Width = 2
    padding: Literal["SAME", "CIRCULAR", "VALID"] = "SAME"
    strides: Width | tuple[Width, ...] = 1
    dilation: Width | tuple[Width, ...] = 1

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
        return zero_state(params, _places(self, batch_shape), self.hidden)

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        a_rz, a_n = jnp.split(_seen(self, params, x), (2 * self.hidden,), axis=-1)
        u_rz, u_n = jnp.split(params.w_hh, (2 * self.hidden,), axis=-1)
        r, z = gates(a_rz + _felt(self, carry, u_rz), "rz")
        n = tanh(a_n + _felt(self, r * carry, u_n), "n")
        h = (1 - z) * n + z * carry
        return h, h


@checked
@dataclass(frozen=True)
class ConvRNN:
    """Convolutional Elman network: each position of a field sees its neighborhood.

        hₜ = f(xₜ ∗ w_ih + hₜ₋₁ ∗ w_hh + b),   yₜ = hₜ

    Fields and ∗ as in `ConvLSTM`.

    Args:
      hidden: channels of h.
      activation: f, by name.
      kernel: length of the kernel along every axis; or a tuple, one per axis.
      spatial: number of spatial axes, 1 to 3.
      padding: "SAME", "CIRCULAR" or "VALID", as in `ConvLSTM`.
      strides: steps in x between positions of the state; one number, or one per axis.
      dilation: steps in x between entries of the kernel, likewise.

    Raises:
      ValueError: a wrong number of axes.

    Reference: Spoerer, McClure, Kriegeskorte, Recurrent convolutional neural networks: a better model of
    biological object recognition, 2017, doi:10.3389/fpsyg.2017.01551.

    >>> import jrnn
    >>> jrnn.ConvRNN(8, kernel=5, spatial=1).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    activation: Activation = "tanh"
    kernel: Width | tuple[Width, ...] = 3
    spatial: Width = 2
    padding: Literal["SAME", "CIRCULAR", "VALID"] = "SAME"
    strides: Width | tuple[Width, ...] = 1
    dilation: Width | tuple[Width, ...] = 1

    def __post_init__(self) -> None:
        _check(self)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return _draw(key, in_features, self, biases=(0,))

    def initial_carry(
        self, params: GateParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> Array:
        return zero_state(params, _places(self, batch_shape), self.hidden)

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        z = _seen(self, params, x) + _felt(self, carry, params.w_hh)
        h = checkpoint_name(activation(self.activation)(z), "h")
        return h, h


def _check(cell: Any) -> None:
    if cell.spatial > 3:
        raise ValueError(f"spatial must be 1, 2 or 3 axes, got {cell.spatial}")
    for name in ("kernel", "strides", "dilation"):
        given = getattr(cell, name)
        if isinstance(given, tuple) and len(given) != cell.spatial:
            raise ValueError(f"{name} must have one entry for each of {cell.spatial} axes, got {given}")
