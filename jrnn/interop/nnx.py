"""Weights from and to Flax NNX."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from jrnn._checks import brief
from jrnn.cells.elman import Elman
from jrnn.cells.gru import GRU, GRUParams
from jrnn.cells.lstm import LSTM, LSTMParams
from jrnn.interop import _flax
from jrnn.interop._conventions import no_form, own_gru, own_lstm
from jrnn.interop._flax import Part, activation_of, by_gate, expect, read_simple, side_by_side, write_simple
from jrnn.interop._models import chained
from jrnn.interop._weights import Weights, to_jax

LIBRARY = "Flax NNX"
INPUTS, STATES = ("ii", "if_", "ig", "io"), ("hi", "hf", "hg", "ho")


def from_nnx(source: Any, *, unused: bool = False) -> tuple[Any, Any]:
    """Read a model from Flax NNX.

    ==================================  ==========================================================
    NNX                                 jrnn
    ==================================  ==========================================================
    SimpleCell                          Elman; a residual one is the identity added to `w_hh`
    LSTMCell, OptimizedLSTMCell         LSTM
    GRUCell                             GRU, its `b_hn` 0: NNX has no such bias
    RNN                                 the cell; Reversed with reverse=True, keep_order=True
    Bidirectional                       Bidirectional
    Sequential                          Stack, or Sequential if there are layers
    Embed, Linear                       Embed, Dense
    ==================================  ==========================================================

    Args:
      source: a module, or its state (`nnx.state(module)`, also as pure dictionaries), whose names identify
        the cell. Settings that are not in a state (activations, `residual`, `reverse`, the merge, functions
        in a `Sequential`) are Flax's defaults. For a custom module, a list of modules or states is a sequence
        of parts, first to last. A module's `dtype` is ignored: jrnn computes in that of the parameters
        (`Cast`). `Dropout` and RNG streams are omitted.
      unused: ignore weights that have no place in the model.

    Returns:
      `(model, params)`, with unchanged dtypes.

    Raises:
      ValueError: a missing, unused or misshapen weight, or a module without an equivalent in jrnn.

    >>> import jax.numpy as jnp, jrnn
    >>> from flax import nnx
    >>> from jrnn.interop import from_nnx
    >>> module, xs = nnx.RNN(nnx.LSTMCell(3, 8, rngs=nnx.Rngs(0))), jnp.ones((2, 5, 3))  # batch first
    >>> cell, params = from_nnx(module)
    >>> cell
    LSTM(hidden=8)
    >>> carry, ys = jrnn.unroll(cell, params, jnp.swapaxes(xs, 0, 1))
    >>> bool(jnp.allclose(jnp.swapaxes(ys, 0, 1), module(xs), atol=1e-6))
    True
    """
    if isinstance(source, list | tuple):
        arrays = {
            f"layers/{i}/{name}": a for i, part in enumerate(source) for name, a in _arrays(part).items()
        }
        modules = [None if isinstance(part, Mapping) else part for part in source]
        weights = Weights(arrays, LIBRARY)
        parts = [_flax.read(weights, f"layers/{i}/", module, FLAVOR) for i, module in enumerate(modules)]
        model, read = chained(parts)
    else:
        weights = Weights(_arrays(source), LIBRARY)
        model, read = _flax.read(weights, "", None if isinstance(source, Mapping) else source, FLAVOR)
    weights.finish(unused)
    return model, to_jax(read)


def _arrays(source: Any) -> dict[str, Any]:
    """The arrays of a module or state by path, without RNG streams."""
    from flax import nnx  # imported here since it takes a second

    if not isinstance(source, Mapping | nnx.Module):
        raise TypeError(f"source must be an NNX module or its state, got {brief(source)}")
    leaves = _flax.flattened(source if isinstance(source, Mapping) else nnx.state(source))
    return {
        name: leaf[...] if isinstance(leaf, nnx.Variable) else leaf
        for name, leaf in leaves.items()
        if not isinstance(leaf, nnx.RngState)
    }


def to_nnx(model: Any, params: Any, *, optimized: bool = False) -> dict[str, Any]:
    """Write parameters as the state of an NNX module.

    The module is `nnx.RNN` for a cell (with `reverse=True, keep_order=True` for `Reversed`),
    `nnx.Bidirectional`, `nnx.Sequential` for `Stack` and `Sequential`, `nnx.Embed` and `nnx.Linear`.
    Activations, merges, functions and dropout have no parameters: specify them in the module. Cells are
    `nnx.SimpleCell` for `Elman`, `nnx.LSTMCell` for `LSTM`, `nnx.GRUCell` for `GRU`.

    Args:
      model: a cell or layer in the table of `from_nnx`.
      params: its parameters.
      optimized: write an `LSTM` for `nnx.OptimizedLSTMCell`, which has different names.

    Returns:
      Nested dictionaries of NumPy arrays, for `nnx.update(module, tree)`. `from_nnx` restores the same
      parameters, bit for bit.

    Raises:
      ValueError: NNX has no equivalent of the model, e.g. of a GRU whose `b_hn` is not 0.

    >>> import jax, jrnn
    >>> from flax import nnx
    >>> from jrnn.interop import to_nnx
    >>> cell = jrnn.LSTM(8)
    >>> params = cell.init(jax.random.key(0), 3)
    >>> module = nnx.RNN(nnx.OptimizedLSTMCell(3, 8, rngs=nnx.Rngs(0)))
    >>> nnx.update(module, to_nnx(cell, params, optimized=True))
    >>> bool((module.cell.dense_i.kernel[...] == params.w_ih).all())
    True
    """
    return _flax.write(model, params, FLAVOR._replace(write=partial(_write_cell, optimized=optimized)))


def _read_cell(weights: Weights, path: str, children: set[str], module: Any) -> Part | None:
    if {"ii", "hi"} <= children:
        expect(module, "LSTMCell")
        inputs, states = ([f"{path}{name}" for name in names] for names in (INPUTS, STATES))
        w_ih = side_by_side(weights, inputs, "kernel", ("in", "hidden"))
        hidden = w_ih.shape[1] // 4
        w_hh = side_by_side(weights, states, "kernel", (hidden, hidden))
        b = side_by_side(weights, states, "bias", (hidden,))
        return LSTM(hidden, activation=activation_of(module)), LSTMParams(w_ih, w_hh, b)
    if not {"dense_i", "dense_h"} <= children:
        return None
    name = f"{path}dense_h/kernel"
    hidden, columns = weights.shape(name)[0], weights.shape(name)[-1]
    if columns == hidden:
        expect(module, "SimpleCell")
        return read_simple(weights, f"{path}dense_i", f"{path}dense_h", module)
    if columns not in (3 * hidden, 4 * hidden):
        raise ValueError(f"{name} must be for 1, 3 or 4 gates of {hidden} units, got ({hidden}, {columns})")
    return _read_side_by_side(weights, path, module, hidden, columns)


def _read_side_by_side(weights: Weights, path: str, module: Any, hidden: int, columns: int) -> Part:
    """Read packed gates, which are in jrnn's order."""
    w_hh: Any = weights.take(f"{path}dense_h/kernel", (hidden, columns))
    w_ih: Any = weights.take(f"{path}dense_i/kernel", ("in", columns))
    if columns == 4 * hidden:
        expect(module, "OptimizedLSTMCell")
        b = weights.take(f"{path}dense_h/bias", (columns,))
        return LSTM(hidden, activation=activation_of(module)), LSTMParams(w_ih, w_hh, b)
    expect(module, "GRUCell")
    b = weights.take(f"{path}dense_i/bias", (columns,))
    cell = GRU(hidden, activation=activation_of(module))
    return cell, GRUParams(w_ih, w_hh, b, np.zeros(hidden, w_ih.dtype))


def _write_cell(cell: Any, params: Any, optimized: bool = False) -> dict[str, Any]:
    if isinstance(cell, Elman):
        return write_simple(cell, params, LIBRARY, "dense_i", "dense_h")
    if isinstance(cell, LSTM):
        w_ih, w_hh, b = own_lstm(cell, params, LIBRARY, "activation")
        if optimized:
            return {"dense_i/kernel": w_ih, "dense_h/kernel": w_hh, "dense_h/bias": b}
        kernels = by_gate(INPUTS, "kernel", w_ih) | by_gate(STATES, "kernel", w_hh)
        return kernels | by_gate(STATES, "bias", b)
    if isinstance(cell, GRU):
        w_ih, w_hh, b, b_hn = own_gru(cell, params, LIBRARY, "activation")
        if np.any(b_hn):
            raise ValueError(
                f"b_hn of {brief(cell)} must be 0: GRUCell of Flax NNX has no bias in the product that "
                "its reset gate multiplies"
            )
        return {"dense_i/kernel": w_ih, "dense_i/bias": b, "dense_h/kernel": w_hh}
    raise no_form(cell, LIBRARY)


FLAVOR = _flax.Flavor(LIBRARY, "layers/", _read_cell, _write_cell)
