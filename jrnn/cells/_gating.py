"""Gates in packed arrays: parameters, initialization, values."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn.cells._activations import Function
from jrnn.cells._activations import activation as function_of
from jrnn.initializers import default_float, glorot, orthogonal


class GateParams(NamedTuple):
    """Parameters of gates that all read the input and the state; their order depends on the cell."""

    w_ih: Array  # (in, gates · hidden)
    w_hh: Array  # (hidden, gates · hidden)
    b: Array  # (gates · hidden,)


def draw_gates(key: Array, in_features: int, hidden: int, biases: tuple[float, ...]) -> GateParams:
    """Initialize each gate: Glorot input weights, orthogonal recurrent weights, a constant bias."""
    k_ih, k_hh = jax.random.split(key)
    count = len(biases)
    return GateParams(
        w_ih=glorot(k_ih, (in_features, count * hidden), blocks=count),
        w_hh=orthogonal(k_hh, (hidden, count * hidden)),
        b=repeated(biases, hidden),
    )


def repeated(biases: tuple[float, ...], hidden: int) -> Array:
    """The bias of each gate repeated `hidden` times, concatenated."""
    return jnp.repeat(jnp.asarray(biases, default_float()), hidden)


def draw_blocks(key: Array, rows: int, columns: int, heads: int, gates: int) -> Array:
    """Initialize a block-diagonal matrix, (heads, rows / heads, columns / heads): Glorot gate by gate."""
    w = glorot(key, (rows // heads, columns), blocks=heads * gates)
    return w.reshape(rows // heads, heads, columns // heads).swapaxes(0, 1)


def times_blocks(x: Array, w: Array, gates: int) -> list[Array]:
    """X W for a block-diagonal W, split by gate, each over all heads: (..., hidden)."""
    if len(w) == 1:  # of one row and one block XLA would make no matmul, but repeated elementwise sums
        return split(x @ w[0], gates)
    blocks = x.reshape(*x.shape[:-1], w.shape[0], w.shape[1])
    parts = split(jnp.einsum("...hi,hij->...hj", blocks, w), gates)
    return [part.reshape(*part.shape[:-2], -1) for part in parts]


def times(x: Any, *factors: Any) -> Any:
    """X W for a W that is a matrix or a product of several; None factors are skipped."""
    for factor in factors:
        x = x if factor is None else x @ factor
    return x


def plus(a: Array, b: Any) -> Array:
    """Add a bias; None for no bias."""
    return a if b is None else a + b


def cut(a: Array, bound: float | None) -> Array:
    """Clip to ±bound; None for no clipping."""
    return a if bound is None else jnp.clip(a, -bound, bound)


def widened(x: Array) -> Array:
    """Upcast to float32 at least."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def shared_out(x: Array) -> Array:
    """Divide x by Σ |x| over the last axis; zeros stay zeros.

    It is divided by its largest entry first, since the derivative of the quotient has the square of the sum.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), -1, keepdims=True))
    x = x / jnp.where(largest > 0, largest, 1)
    total = jnp.sum(jnp.abs(x), -1, keepdims=True)
    return x / jnp.where(total > 0, total, 1)


def zeros(*shape: int) -> Array:
    """Zeros in the default dtype of parameters."""
    return jnp.zeros(shape, default_float())


def before_softplus(positive: Array) -> Array:
    """The x of softplus(x) = positive."""
    return jnp.log(jnp.expm1(positive))


def split(packed: Array, count: int) -> list[Array]:
    """Split a packed array into parts of equal width, one per gate."""
    return jnp.split(packed, count, axis=-1)


def sigmoid(z: Array, name: str) -> Array:
    """σ(z), tagged with `checkpoint_name`, so that `Tap` can find it."""
    return checkpoint_name(jax.nn.sigmoid(z), name)


def tanh(z: Array, name: str) -> Array:
    """Tanh z, tagged with `checkpoint_name`, so that `Tap` can find it."""
    return checkpoint_name(jnp.tanh(z), name)


def gates(
    z: Array,
    names: str,
    candidate: str = "",
    activation: str | Function = "tanh",
    gate: str | Function = "sigmoid",
) -> tuple[Array, ...]:
    """Split the packed pre-activations of all gates, apply σ (f to the candidate) and name each.

        gate = σ(z_gate) = ½ + ½ tanh(z_gate / 2),   candidate = f(z_candidate)

    Args:
      z: (..., gates · hidden), in the order of `names`.
      names: gate names, a letter each: "ifgo".
      candidate: the letter of the candidate.
      activation: f; tanh is computed together with the gates.
      gate: the activation used as σ.

    Returns:
      One (..., hidden) array per name.
    """
    if gate != "sigmoid" or (candidate and activation != "tanh"):
        f, sigma = function_of(activation), function_of(gate)
        packed = zip(names, split(z, len(names)), strict=True)
        return tuple(checkpoint_name((f if n == candidate else sigma)(a), n) for n, a in packed)
    halved = [1.0 if name == candidate else 0.5 for name in names]
    scale = jnp.asarray(np.repeat(halved, z.shape[-1] // len(names)), z.dtype)
    parts = (
        t if n == candidate else 0.5 + 0.5 * t
        for n, t in zip(names, _tanh(scale * z, len(names)), strict=True)
    )
    return tuple(checkpoint_name(part, name) for part, name in zip(parts, names, strict=True))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _tanh(z: Array, parts: int) -> list[Array]:
    """The parts of tanh z, from one tanh over the whole array."""
    return jnp.split(jnp.tanh(z), parts, axis=-1)


@_tanh.defjvp
def _tanh_jvp(parts: int, primals: Any, tangents: Any) -> Any:
    """The derivative (1 + tanh) (1 − tanh) part by part, so that the parts are saved as residuals.

    On a CPU, XLA does not vectorize a loop that reads one array at several offsets; with parts it does.
    """
    values = _tanh(*primals, parts)
    moved = jnp.split(tangents[0], parts, axis=-1)
    return values, [(1 + t) * (1 - t) * m for t, m in zip(values, moved, strict=True)]
