"""LSTMs by the kernel of NVIDIA's cuDNN."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._checks import brief, warn
from jrnn.cells.lstm import LSTM, LSTMCarry, LSTMParams
from jrnn.unrolling.methods import Loop, Method


@dataclass(frozen=True)
class CuDNN:
    """The LSTM kernel of cuDNN, through `jax.experimental.rnn`: one call for all steps.

    It runs a plain `LSTM` in float32 over xs of shape (time, batch, features), without lengths, mask or
    resets, on an NVIDIA GPU, and supports only first derivatives in reverse mode: no jvp, no vmap.

    Args:
      otherwise: the method for everything else, with a warning; None: raise.

    Raises:
      ValueError: in `unroll`, with the reason, if the kernel cannot run and `otherwise` is None.

    Reference: Appleyard, Kocisky, Blunsom, Optimizing performance of recurrent neural networks on GPUs,
    2016, arXiv:1604.01946.

    >>> import jrnn
    >>> jrnn.CuDNN(otherwise=jrnn.Scan())
    CuDNN(otherwise=Scan(memory=None))
    """

    otherwise: Method | None = None

    def run(self, loop: Loop[Any, Any, Any]) -> tuple[Any, Any]:
        """Return the carry after the last step, and the outputs of all steps."""
        reason = _unfit(loop)
        if reason is None:
            return _lstm(loop)
        if self.otherwise is None:
            hint = "CuDNN(otherwise=Scan()) runs the rest by a scan"
            raise ValueError(f"method=CuDNN() {reason}; {hint}")
        warn(f"method=CuDNN() {reason}: running {self.otherwise}")
        return self.otherwise.run(loop)


def _unfit(loop: Loop[Any, Any, Any]) -> str | None:
    """The reason why the kernel cannot run a loop; None if it can."""
    xs = loop.xs
    if not isinstance(loop.cell, LSTM):
        return f"runs only an LSTM, got {brief(loop.cell)}"
    if loop.cell.activation != "tanh":
        return f"supports only tanh, got {brief(loop.cell)}"
    if loop.valid is not None or loop.reset is not None:
        return "takes no lengths, mask or resets"
    leaves = jax.tree.leaves((loop.params, loop.carry, xs))
    if not isinstance(xs, jax.Array | np.ndarray) or xs.ndim != 3 or loop.length == 0:
        return f"needs xs of shape (time, batch, features), got {jax.tree.map(jnp.shape, xs)}"
    if any(leaf.dtype != jnp.float32 for leaf in leaves):
        return f"computes in float32, got {sorted({str(leaf.dtype) for leaf in leaves})}"
    if jax.default_backend() != "gpu":
        return f"needs an NVIDIA GPU, the backend is {jax.default_backend()}"
    return None


def packed(params: LSTMParams) -> Array:
    """Pack parameters into one vector, as the kernel needs them: w_ih, w_hh, gates first, then two biases."""
    none = jnp.zeros(params.w_ih.shape[1:], params.w_ih.dtype)
    parts = params.w_ih.T, params.w_hh.T, none if params.b is None else params.b, none
    return jnp.concatenate([part.ravel() for part in parts])


def _lstm(loop: Loop[Any, Any, Any]) -> tuple[Any, Any]:
    from jax.experimental import rnn

    cell: Any = loop.cell
    xs = loop.xs
    steps, batch, features = xs.shape
    batch_first = jnp.swapaxes(jnp.flip(xs, 0) if loop.reverse else xs, 0, 1)
    start = loop.carry.h[None], loop.carry.c[None]  # (layers, batch, hidden)
    lengths = jnp.full(batch, steps, jnp.int32)
    sizes = (features, cell.hidden, 1, 0.0, False)  # input size, hidden size, layers, dropout, bidirectional
    ys, h, c = rnn.lstm(batch_first, *start, packed(loop.params), lengths, *sizes)
    ys = jnp.swapaxes(ys, 0, 1)
    return LSTMCarry(h[0], c[0]), jnp.flip(ys, 0) if loop.reverse else ys
