"""Weights from and to Equinox."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jrnn._checks import brief
from jrnn.cells.gru import GRU, GRUParams
from jrnn.cells.lstm import LSTM, LSTMParams
from jrnn.cells.maps import Dense, DenseParams, Embed, EmbedParams, Map
from jrnn.interop._conventions import no_form, own_gru, own_lstm, refuse_options
from jrnn.interop._models import chained, parts_of, without_noise
from jrnn.interop._weights import Weights, own_weights, to_jax

LIBRARY = "Equinox"


def from_equinox(source: Any, *, unused: bool = False) -> tuple[Any, Any]:
    """Read the weights of Equinox modules: `LSTMCell`, `GRUCell`, `Linear` and `Embedding`.

    Their names are those of PyTorch, rows of gates in the orders i f g o and r z n, with one bias: `LSTM`,
    `GRU` (whose `b_hn` is `bias_n`), `Dense` and `Embed`.

    Args:
      source: a module; a dictionary of its arrays by their names; or a list of modules, dictionaries and
        functions, first to last, which becomes a `Stack`.
      unused: whether weights that have no place in the model may be left out.

    Returns:
      `(model, params)`, of the dtype that they had.

    Raises:
      ValueError: a weight is missing, misshapen or left over, or it is no such module.

    >>> import jrnn, numpy as np
    >>> from jrnn.interop import from_equinox
    >>> arrays = {"weight_ih": np.ones((12, 2)), "weight_hh": np.ones((12, 3)), "bias": np.ones(12)}
    >>> arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    >>> cell, params = from_equinox(arrays)  # or an eqx.nn.LSTMCell(2, 3, key=...)
    >>> cell, params.w_ih.shape
    (LSTM(hidden=3), (2, 12))
    """
    sources = source if isinstance(source, list | tuple) else [source]
    parts = [part if _is_function(part) else _read(part, unused) for part in sources]
    model, params = chained(parts)
    return model, to_jax(params)


def to_equinox(model: Any, params: Any) -> Any:
    """Write parameters as the arrays of an Equinox module, by their names.

    A module takes them by

        names, arrays = zip(*to_equinox(cell, params).items())
        module = eqx.tree_at(lambda m: [getattr(m, name) for name in names], module, arrays)

    where `module` is an `eqx.nn.LSTMCell` of `LSTM`, `GRUCell` of `GRU`, `Linear` of `Dense`, `Embedding` of
    `Embed`, with `use_bias=False` of a model without a bias.

    Args:
      model: one of these, or a `Stack` of them; functions and dropout stand in no parameter.
      params: its parameters.

    Returns:
      NumPy arrays by their names; a list of such dictionaries of a `Stack`.

    Raises:
      ValueError: Equinox has no form of the model, such as of a GRU with `reset_after=False`.

    >>> import jax, jrnn
    >>> from jrnn.interop import to_equinox
    >>> cell = jrnn.GRU(4)
    >>> arrays = to_equinox(cell, cell.init(jax.random.key(0), 3))
    >>> {name: array.shape for name, array in arrays.items()}
    {'weight_ih': (12, 3), 'weight_hh': (12, 4), 'bias': (12,), 'bias_n': (4,)}
    """
    parts = parts_of(model, params)
    if parts is None:
        return _write(model, params)
    return [_write(cell, own) for cell, own in parts if not isinstance(cell, Map)]


def _is_function(part: Any) -> bool:
    return callable(part) and not dataclasses.is_dataclass(part)


def _read(part: Any, unused: bool) -> tuple[Any, Any]:
    arrays = _arrays(part)
    weights = Weights(arrays, f"{LIBRARY}'s {type(part).__name__}")
    if "weight_ih" in weights:
        read = _read_cell(weights)
    elif "weight" in weights and type(part).__name__ == "Embedding":
        table: Any = weights.take("weight", ("words", "features"))
        read = Embed(table.shape[1]), EmbedParams(table)
    elif "weight" in weights and (type(part).__name__ == "Linear" or "bias" in weights):
        w = weights.take("weight", ("out", "in"))
        b = weights.take("bias", w.shape[:1]) if "bias" in weights else None
        read = Dense(len(w), bias=b is not None), DenseParams(w.T, b)
    else:
        raise ValueError(
            f"{weights.source} is no LSTMCell, GRUCell, Linear or Embedding: it has {list(arrays)}"
        )
    weights.finish(unused)
    return read


def _arrays(part: Any) -> dict[str, Any]:
    """The arrays of a module by their names."""
    if isinstance(part, Mapping):
        return {name: array for name, array in part.items() if array is not None}
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        raise TypeError(f"source must be an Equinox module or a dictionary of its arrays, got {brief(part)}")
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    found = {name: value for name, value in fields.items() if hasattr(value, "shape")}
    if not found:
        listed = ", ".join(fields)
        raise ValueError(f"{type(part).__name__} has no arrays: give its parts, of {listed}, as a list")
    return found


def _read_cell(weights: Weights) -> tuple[Any, Any]:
    w_hh = weights.take("weight_hh", ("gates · hidden", "hidden"))
    rows, hidden = w_hh.shape
    if rows not in (3 * hidden, 4 * hidden):
        raise ValueError(f"weight_hh must have rows for 3 or 4 gates of {hidden} units, got {w_hh.shape}")
    w_ih = weights.take("weight_ih", (rows, "in"))
    b = weights.take("bias", (rows,)) if "bias" in weights else None
    if rows == 4 * hidden:
        return LSTM(hidden, bias=b is not None), LSTMParams(w_ih.T, w_hh.T, b)
    b_hn = weights.take("bias_n", (hidden,)) if b is not None else None
    return GRU(hidden, bias=b is not None), GRUParams(w_ih.T, w_hh.T, b, b_hn)


def _write(cell: Any, params: Any) -> dict[str, Any]:
    cell = without_noise(cell)
    if isinstance(cell, LSTM | GRU):
        own: Any = (
            own_lstm(cell, params, LIBRARY) if isinstance(cell, LSTM) else own_gru(cell, params, LIBRARY)
        )
        named = zip(("weight_ih", "weight_hh", "bias", "bias_n"), own, strict=False)
        return {name: array.T for name, array in named if cell.bias or name.startswith("weight")}
    if isinstance(cell, Embed):
        weights = own_weights("", cell, params, {}, LIBRARY)
        return {"weight": weights.take("table", ("words", cell.features))}
    if isinstance(cell, Dense):
        refuse_options(cell, LIBRARY, "bias")
        weights = own_weights("", cell, params, {}, LIBRARY)
        bias = {"bias": weights.take("b", (cell.features,))} if "b" in weights else {}
        return {"weight": weights.take("w", ("in", cell.features)).T, **bias}
    raise no_form(cell, LIBRARY)
