"""Memories that are matrices: fast and forgetful, or stable, for reinforcement learning."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn._timing import values_and_time
from jrnn.cell import Shape, broadcasting, complex_state, key_or_none, zero_state
from jrnn.cells._gating import sigmoid, split, widened, zeros
from jrnn.cells._memory import outer
from jrnn.cells.minimal import InputParams, draw_input
from jrnn.cells.normalized import normalize
from jrnn.initializers import default_float, glorot


class FFMParams(NamedTuple):
    """Parameters of `FFM`."""

    write: InputParams  # (in, 2·memory), order v i
    read: InputParams  # (in, 2·hidden), order o s
    mix: InputParams  # (2·memory·context, hidden); of a row of the memory real before imaginary parts
    rate: Array  # (memory,), log of the rate of forgetting
    frequency: Array  # (context,), ω


@checked
@dataclass(frozen=True)
class FFM:
    """Fast and forgetful memory: traces that fade at different rates and rotate at different frequencies.

        v, s = affine maps of xₜ;   i, o = σ of affine maps of xₜ
        Sₜ = exp(dt · (−exp(rate) + iω)) · Sₜ₋₁ + (v · i) 1ᵀ
        yₜ = o · LN([Re Sₜ, Im Sₜ] w + b) + (1 − o) · s

    S is complex, of shape (memory, context), with a rate for every row and a frequency for every column. x is
    values or `(values, dt)`. LN has no gain and no bias. The slowest trace keeps 1 % after `max_period` steps
    at the start, the fastest forgets 15 times as fast; the periods are 1 … `max_period`, evenly spaced. The
    authors bound the rates, since their parallel form divides by the traces.

    Args:
      hidden: width of y.
      memory: number of rows.
      context: number of columns.
      max_period: longest dependency at the start, in steps.

    Reference: Morad, Kortvelesy, Liwicki, Prorok, Reinforcement learning with fast and forgetful memory,
    2023, arXiv:2310.04128.

    >>> import jax, jrnn
    >>> cell = jrnn.FFM(8)
    >>> cell.initial_carry(cell.init(jax.random.key(0), in_features=3)).shape
    (32, 4)
    """

    hidden: Width
    _: KW_ONLY
    memory: Width = 32
    context: Width = 4
    max_period: Width = 1024
    linear: ClassVar[bool] = True
    timed: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> FFMParams:
        k_write, k_read, k_mix = jax.random.split(key, 3)
        slowest = math.log(100) / self.max_period
        periods = jnp.linspace(1.0, self.max_period, self.context, dtype=default_float())
        return FFMParams(
            write=draw_input(k_write, in_features, self.memory, 2),
            read=draw_input(k_read, in_features, self.hidden, 2),
            mix=draw_input(k_mix, 2 * self.memory * self.context, self.hidden, 1),
            rate=jnp.log(jnp.linspace(15 * slowest, slowest, self.memory, dtype=periods.dtype)),
            frequency=2 * math.pi / periods,
        )

    def initial_carry(self, params: FFMParams, batch_shape: Shape = (), *, key: Array | None = None) -> Array:
        return complex_state(params, (*batch_shape, self.memory), self.context)

    @broadcasting
    def step(self, params: FFMParams, carry: Array, x: Any) -> tuple[Array, Array]:
        (x, dt), wide = values_and_time(self, x), carry.real.dtype
        v, i = split(x @ params.write.w_ih + params.write.b, 2)
        o, s = split(x @ params.read.w_ih + params.read.b, 2)
        i, o = sigmoid(i, "i"), sigmoid(o, "o")
        dt = jnp.asarray(dt, wide)[..., None]
        rate, frequency = jnp.exp(params.rate.astype(wide))[:, None], params.frequency.astype(wide)
        exponent = jax.lax.complex(*jnp.broadcast_arrays(-rate * dt, frequency * dt))
        written = (v * i).astype(wide)[..., None]
        m = jnp.exp(exponent) * carry + jax.lax.complex(written, jnp.zeros_like(written))
        z = jnp.concatenate([m.real, m.imag], -1).astype(x.dtype)
        z = z.reshape(*z.shape[:-2], -1) @ params.mix.w_ih + params.mix.b
        return m, o * normalize(z, 1e-6) + (1 - o) * s


class SHMParams(NamedTuple):
    """Parameters of `SHM`."""

    gain: Array  # (in,), of the norm of x
    bias: Array  # (in,)
    w_ih: Array  # (in, 4·hidden + 1), order v k q c and η
    table: Array  # (rows, hidden), θ
    out: InputParams  # (hidden, hidden)


class SHMCarry(NamedTuple):
    """Carry of `SHM`."""

    m: Array  # (..., hidden, hidden), values by keys
    key: Array | None  # noise key, advanced at every step; None without noise


@checked
@dataclass(frozen=True)
class SHM:
    """Stable Hadamard memory: a matrix whose entries are each strengthened or weakened, and written.

        x̃ = γ · LN(xₜ) + β;   v, c = x̃ w;   k, q = relu(x̃ w), divided by their sums;   η = σ(x̃ w)
        Mₜ = Mₜ₋₁ · (1 + tanh(θ cᵀ)) + η v kᵀ
        yₜ = (Mₜ q) w_out + b_out

    θ is a row of a table, drawn at random at every step if the initial carry was given a key, so that
    calibrations of successive steps are independent, and their product neither explodes nor vanishes in the
    mean. Without a key it is the first row at every step: hundreds of similar inputs overflow the memory, so
    give long sequences a key in evaluation too.

    Args:
      hidden: width of y, and of keys and values.
      rows: number of rows of the table.

    Reference: Le, Do, Nguyen, Gupta, Venkatesh, Stable Hadamard memory: revitalizing memory-augmented agents
    for reinforcement learning, 2025, arXiv:2410.10132.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.SHM(8)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> jrnn.unroll(cell, params, jnp.ones((5, 3)), key=jax.random.key(1))[1].shape
    (5, 8)
    """

    hidden: Width
    _: KW_ONLY
    rows: Width = 128
    linear: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> SHMParams:
        k_ih, k_eta, k_table, k_out = jax.random.split(key, 4)
        packed = glorot(k_ih, (in_features, 4 * self.hidden), blocks=4), glorot(k_eta, (in_features, 1))
        return SHMParams(
            gain=zeros(in_features) + 1,
            bias=zeros(in_features),
            w_ih=jnp.concatenate(packed, -1),
            table=glorot(k_table, (self.rows, self.hidden)),
            out=draw_input(k_out, self.hidden, self.hidden, 1),
        )

    def initial_carry(
        self, params: SHMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> SHMCarry:
        return SHMCarry(zero_state(params, (*batch_shape, self.hidden), self.hidden), key)

    @broadcasting
    def step(self, params: SHMParams, carry: SHMCarry, x: Any) -> tuple[SHMCarry, Array]:
        key, draw = key_or_none(carry.key, 2)
        seen = params.gain * normalize(x, 1e-5) + params.bias
        packed, eta = jnp.split(seen @ params.w_ih, (4 * self.hidden,), axis=-1)
        v, k, q, c = split(packed, 4)
        k, q = (_shares(jax.nn.relu(part)) for part in (k, q))
        theta = params.table[0]
        if draw is not None:
            theta = params.table[jax.random.randint(draw, c.shape[:-1], 0, self.rows)]
        strength = checkpoint_name(1 + jnp.tanh(outer(theta, c)), "c")
        m = strength * carry.m + outer(sigmoid(eta, "eta") * v, k)
        y = jnp.sum(m * q[..., None, :], -1) @ params.out.w_ih + params.out.b
        return SHMCarry(m, key), y


def _shares(k: Array) -> Array:
    """Nonnegative numbers divided by their sum, and zeros as they are; in float32 at least."""
    wide = widened(k)
    return (wide / (jnp.sum(wide, -1, keepdims=True) + 1e-5)).astype(k.dtype)
