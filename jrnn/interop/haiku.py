"""Weights from and to Haiku."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jrnn._checks import brief, check_choice
from jrnn.cells.convolutional import ConvLSTM
from jrnn.cells.elman import Elman, ElmanParams
from jrnn.cells.gru import GRU, GRUParams
from jrnn.cells.lstm import LSTM, LSTMParams
from jrnn.cells.maps import Dense, DenseParams, Embed, EmbedParams, Map
from jrnn.interop._conventions import (
    IGFO,
    forget,
    no_form,
    or_zeros,
    own_gru,
    own_lstm,
    read_convolutional,
    refuse_options,
    write_convolutional,
)
from jrnn.interop._models import chained, parts_of, without_noise
from jrnn.interop._weights import Weights, own_weights, reordered, to_jax

LIBRARY = "Haiku"
RZN = (1, 0, 2)  # from the order z r a of Haiku, and back
# Haiku's names of modules, and of their submodules
NAMES = {
    "vanilla_rnn": ("VanillaRNN", ("linear", "linear_1")),
    "lstm": ("LSTM", ("linear",)),
    "gru": ("GRU", ()),
    "conv1_dlstm": ("Conv1DLSTM", ("input_to_hidden", "hidden_to_hidden")),
    "conv2_dlstm": ("Conv2DLSTM", ("input_to_hidden", "hidden_to_hidden")),
    "conv3_dlstm": ("Conv3DLSTM", ("input_to_hidden", "hidden_to_hidden")),
    "embed": ("Embed", ()),
    "linear": ("Linear", ()),
}
Layer = str | tuple[str, str] | Callable[..., Any]


def from_haiku(
    params: Mapping[str, Any], layers: Sequence[Layer] | None = None, *, unused: bool = False
) -> tuple[Any, Any]:
    """Read the parameters of Haiku modules.

    ====================  ============================================================================
    Haiku                 jrnn
    ====================  ============================================================================
    VanillaRNN            Elman(activation="relu"), its two biases added
    LSTM                  LSTM; the 1 that Haiku adds to the forget gate at every step is in `b`
    GRU                   GRU(reset_after=False, z_keeps=False)
    Conv1DLSTM to 3D      ConvLSTM, both biases and the 1 added
    DeepRNN               Stack
    Embed, Linear         Embed, Dense
    ====================  ============================================================================

    Args:
      params: parameters by module name: `{"lstm/linear": {"w": ..., "b": ...}}`.
      layers: names of the modules, and functions, in the order in which they are applied, which is not in
        `params`. If a name is not Haiku's default, a pair of name and class, `("core", "LSTM")`. Optional for
        a single module with Haiku's default name.
      unused: ignore weights that have no place in the model.

    Returns:
      `(model, params)`, with unchanged dtypes. Adding 1 to a bias is exact up to rounding.

    Raises:
      ValueError: a missing, unused or misshapen weight, an unknown name, or an unknown order.

    >>> import jrnn, numpy as np
    >>> from jrnn.interop import from_haiku
    >>> params = {"embed": {"embeddings": np.ones((7, 2), np.float32)}}
    >>> params |= {"lstm/linear": {"w": np.ones((6, 16), np.float32), "b": np.zeros(16, np.float32)}}
    >>> from_haiku(params, layers=("embed", "lstm"))[0]
    Stack(cells=(Embed(features=2), LSTM(hidden=4)))
    """
    if not isinstance(params, Mapping) or not all(isinstance(inner, Mapping) for inner in params.values()):
        raise TypeError(f"params must be arrays by the names of modules, got {brief(params)}")
    arrays = {f"{name}/{leaf}": a for name, inner in params.items() for leaf, a in inner.items()}
    weights = Weights(arrays, LIBRARY)
    parts = [_read(weights, layer) for layer in (_single(params) if layers is None else layers)]
    weights.finish(unused)
    model, read = chained(parts)
    return model, to_jax(read)


def to_haiku(model: Any, params: Any) -> dict[str, dict[str, Any]]:
    """Write parameters as those of Haiku modules.

    The names are those that Haiku gives to top-level modules created in this order: `hk.VanillaRNN` for
    `Elman`, `hk.LSTM`, `hk.GRU`, `hk.Conv2DLSTM` for `ConvLSTM` over two axes, `hk.Embed`, `hk.Linear` for
    `Dense`; `hk.DeepRNN` for a `Stack`.

    Args:
      model: a cell in the table of `from_haiku`, or a `Stack` of them; functions and dropout have no
        parameters.
      params: its parameters.

    Returns:
      NumPy arrays by module name. `from_haiku` restores the same parameters, bit for bit except for the
      forget gate of an `LSTM`: Haiku adds 1 to it, which rounds.

    Raises:
      ValueError: Haiku has no equivalent of the model, e.g. of a GRU with `reset_after=True`, or of an Elman
        network with tanh.

    >>> import jax, jrnn
    >>> from jrnn.interop import to_haiku
    >>> model = jrnn.Stack((jrnn.LSTM(4), jrnn.LSTM(3), jrnn.Dense(2)))
    >>> list(to_haiku(model, model.init(jax.random.key(0), 5)))
    ['lstm/linear', 'lstm_1/linear', 'linear']
    """
    parts = parts_of(model, params)
    written: dict[str, dict[str, Any]] = {}
    taken: Counter[str] = Counter()
    for cell, own in [(model, params)] if parts is None else parts:
        if isinstance(cell, Map):
            continue
        name, arrays = _write(without_noise(cell), own)
        numbered = f"{name}_{taken[name]}" if taken[name] else name
        taken[name] += 1
        for path, array in arrays.items():
            below, _, leaf = path.rpartition("/")
            written.setdefault(f"{numbered}/{below}" if below else numbered, {})[leaf] = array
    return written


def _single(params: Mapping[str, Any]) -> list[str]:
    """The single module, found by Haiku's default names."""
    found: dict[str, None] = {}
    for name in params:
        above, _, last = name.rpartition("/")
        below = _kind_of(above)
        found[above if below and last in below[1] else name] = None
    if len(found) != 1:
        listed = ", ".join(map(repr, found))
        raise ValueError(
            f"{LIBRARY}: pass layers, the names of modules in the order in which they are applied; "
            f"there are {listed}"
        )
    return list(found)


def _kind_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The class of a module with Haiku's default name, and its submodules."""
    return NAMES.get(re.sub(r"_\d+$", "", name.rpartition("/")[2]))


def _read(weights: Weights, layer: Layer) -> Any:
    if callable(layer):
        return layer
    if isinstance(layer, str):
        name, known = layer, _kind_of(layer)
        if known is None:
            raise ValueError(
                f"{name!r} is not a default name of a Haiku module: pass its class as well, as in "
                f"({name!r}, 'LSTM')"
            )
        kind = known[0]
    else:
        name, kind = layer
    check_choice("class", kind, tuple(READERS))
    return READERS[kind](weights, f"{name}/")


def _read_vanilla(weights: Weights, path: str) -> tuple[Any, Any]:
    w_ih: Any = weights.take(f"{path}linear/w", ("in", "hidden"))
    hidden = w_ih.shape[1]
    w_hh: Any = weights.take(f"{path}linear_1/w", (hidden, hidden))
    b = weights.take(f"{path}linear/b", (hidden,)) + or_zeros(weights, f"{path}linear_1/b", w_hh)
    return Elman(hidden, activation="relu"), ElmanParams(w_ih, w_hh, b)


def _read_lstm(weights: Weights, path: str) -> tuple[Any, Any]:
    """One matrix for [x; h], gates i g f o, and 1 added to f at every step."""
    name = f"{path}linear/w"
    w: Any = weights.take(name, ("in + hidden", "4·hidden"))
    hidden = w.shape[1] // 4
    if w.shape[1] % 4 or len(w) < hidden:
        raise ValueError(f"{name} must have shape (in + hidden, 4·hidden), got {w.shape}")
    w = reordered(w, IGFO)
    b = reordered(weights.take(f"{path}linear/b", (4 * hidden,)), IGFO)
    return LSTM(hidden), LSTMParams(w[:-hidden], w[-hidden:], forget(b, 1))


def _read_gru(weights: Weights, path: str) -> tuple[Any, Any]:
    w_hh = weights.take(f"{path}w_h", ("hidden", "3·hidden"))
    hidden = len(w_hh)
    if w_hh.shape[1] != 3 * hidden:
        raise ValueError(f"{path}w_h must have shape (hidden, 3·hidden), got {w_hh.shape}")
    w_ih = weights.take(f"{path}w_i", ("in", 3 * hidden))
    b = weights.take(f"{path}b", (3 * hidden,))
    return GRU(hidden, reset_after=False, z_keeps=False), GRUParams(
        reordered(w_ih, RZN), reordered(w_hh, RZN), reordered(b, RZN), None
    )


def _read_convolutional(weights: Weights, path: str) -> tuple[Any, Any]:
    return read_convolutional(
        weights, f"{path}input_to_hidden/", f"{path}hidden_to_hidden/", ("w", "b"), "SAME"
    )


def _read_embed(weights: Weights, path: str) -> tuple[Any, Any]:
    table: Any = weights.take(f"{path}embeddings", ("vocabulary", "features"))
    return Embed(table.shape[1]), EmbedParams(table)


def _read_linear(weights: Weights, path: str) -> tuple[Any, Any]:
    w: Any = weights.take(f"{path}w", ("in", "features"))
    b = weights.take(f"{path}b", w.shape[1:]) if f"{path}b" in weights else None
    return Dense(w.shape[1], bias=b is not None), DenseParams(w, b)


READERS = {
    "VanillaRNN": _read_vanilla,
    "LSTM": _read_lstm,
    "GRU": _read_gru,
    "Conv1DLSTM": _read_convolutional,
    "Conv2DLSTM": _read_convolutional,
    "Conv3DLSTM": _read_convolutional,
    "Embed": _read_embed,
    "Linear": _read_linear,
}


def _write(cell: Any, params: Any) -> tuple[str, dict[str, Any]]:
    """Haiku's name of a cell, and its arrays by path."""
    if isinstance(cell, Elman):
        return "vanilla_rnn", _write_vanilla(cell, params)
    if isinstance(cell, LSTM):
        w_ih, w_hh, b = own_lstm(cell, params, LIBRARY)
        w = np.concatenate([reordered(w_ih, IGFO), reordered(w_hh, IGFO)])
        return "lstm", {"linear/w": w, "linear/b": reordered(forget(np.asarray(b), -1), IGFO)}
    if isinstance(cell, GRU):
        gru = own_gru(cell, params, LIBRARY, reset_after=False, z_keeps=False)
        w_i, w_h, b = (reordered(array, RZN) for array in gru[:3])
        return "gru", {"w_i": w_i, "w_h": w_h, "b": b}
    if isinstance(cell, ConvLSTM):
        refuse_options(cell, LIBRARY, "kernel", "spatial")
        names = ("input_to_hidden/", "hidden_to_hidden/")
        return f"conv{cell.spatial}_dlstm", write_convolutional(cell, params, LIBRARY, names, ("w", "b"))
    if isinstance(cell, Embed):
        own = own_weights("", cell, params, {}, LIBRARY)
        return "embed", {"embeddings": own.take("table", ("vocabulary", cell.features))}
    if isinstance(cell, Dense):
        refuse_options(cell, LIBRARY, "bias")
        own = own_weights("", cell, params, {}, LIBRARY)
        w = own.take("w", ("in", cell.features))
        return "linear", {"w": w, **({"b": own.take("b", (cell.features,))} if "b" in own else {})}
    raise no_form(cell, LIBRARY)


def _write_vanilla(cell: Elman, params: Any) -> dict[str, Any]:
    refuse_options(cell, LIBRARY, "activation", "bias")
    own = own_weights("", cell, params, {"activation": ("w_ih", "relu")}, LIBRARY)
    w_ih, w_hh = own.take("w_ih", ("in", cell.hidden)), own.take("w_hh", (cell.hidden, cell.hidden))
    b = or_zeros(own, "b", w_ih)
    return {"linear/w": w_ih, "linear/b": b, "linear_1/w": w_hh, "linear_1/b": np.zeros_like(b)}
