"""Keras 3: layers, models and configurations in, configurations and weights out.

Keras has matrices of the same shape, (in, gates · hidden), and the same gate order for the LSTM. Its GRU has
the order z r n, so blocks are swapped; its two biases are added where only their sum matters.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jrnn._checks import brief
from jrnn.cells.convolutional import ConvLSTM
from jrnn.cells.elman import Elman
from jrnn.cells.gru import GRU
from jrnn.cells.lstm import LSTM
from jrnn.cells.lstm_variant import LSTMVariant
from jrnn.cells.maps import Dense, Embed, Map
from jrnn.combinators import Dropout, Stack
from jrnn.interop._keras import ACTIVATIONS, MERGES, Z_R_N, Listed, Part, Reader, chain_of, opened
from jrnn.interop._models import chained
from jrnn.interop._weights import keeping, own_weights, reordered, to_jax
from jrnn.layers import Bidirectional, Reversed, Sequential
from jrnn.paradigms import ManyToOne

KINDS = (ConvLSTM, Elman, GRU, LSTM, LSTMVariant)  # recurrent layers; all but ConvLSTM are also cells
FUNCTIONS = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
KNOWN = tuple(FUNCTIONS)

# requirements for a Keras equivalent: field -> (the weight concerned, allowed values)
NEEDS: dict[type, dict[str, tuple[Any, ...]]] = {
    Elman: {"activation": ("w_ih", *KNOWN), "clip": ("w_ih", None)},
    GRU: {"activation": ("w_ih", *KNOWN), "gate_activation": ("w_ih", *KNOWN), "clip": ("w_ih", None)},
    LSTM: {"activation": ("w_ih", *KNOWN)},
    LSTMVariant: {
        "peepholes": ("p", None),
        "gate_recurrence": ("w_gh", False),
        "projection": ("w_hr", None),
        "gates": ("w_ih", "ifo"),
        "coupled": ("w_ih", False),
        "activation": ("w_ih", *KNOWN),
        "gate_activation": ("w_ih", *KNOWN),
        "cell_clip": ("w_hh", None),
        "clip": ("w_ih", None),
    },
    ConvLSTM: {"padding": ("w_ih", "SAME", "VALID")},
    Dense: {"activation": ("w", *KNOWN)},
    Embed: {},
}


def from_keras(source: Any, weights: Sequence[Any] | None = None) -> tuple[Any, Any]:
    """Read a model from Keras 3: a layer, a cell, or a chain of layers, `Sequential` or functional.

    Supported: `SimpleRNN`, `GRU`, `LSTM`, `RNN` of their cells and of `StackedRNNCells`, `Bidirectional`,
    `ConvLSTM1D` to `3D`, `Embedding`, `Dense`, `TimeDistributed(Dense)` and `Activation`. One layer becomes a
    cell, several a `Stack` or `Sequential`; if the last recurrent one has `return_sequences=False`, a
    `ManyToOne`. To read a file, call `model.load_weights("x.weights.h5")` in Keras first.

    jrnn is time-first, Keras batch-first. A mask is an argument of `jrnn.apply`, not a layer: for
    `Embedding(mask_zero=True)` pass `mask=tokens != 0`, for `Masking(v)` `mask=(xs != v).any(-1)`, or
    `lengths=`. At masked steps jrnn returns zeros, as Keras does with `zero_output_for_mask=True`. `dropout`
    and `recurrent_dropout` become `jrnn.Dropout` around the cell (one mask for all gates of a `ConvLSTM`);
    the layers `Dropout` and `SpatialDropout1D` do nothing in evaluation, and are omitted. `stateful` and
    `return_state` are not needed: calls always return the carry, and accept one.

    Args:
      source: a layer or model that is built, or its configuration: from `keras.saving.serialize_keras_object`
        or `json.loads(model.to_json())`, or the configuration of a model.
      weights: the result of `get_weights()`; only with a configuration.

    Returns:
      `(model, params)`, for `jrnn.apply` and, unless it is a layer, `jrnn.unroll`.

    Raises:
      ValueError: a layer or option without an equivalent in jrnn; too few or too many weights, or wrong
        shapes.
      TypeError: neither a layer nor a configuration; a configuration without weights.

    >>> import jrnn, numpy as np
    >>> config = {"units": 5, "activation": "softmax", "use_bias": False}
    >>> layer = {"class_name": "Dense", "config": config}
    >>> jrnn.interop.from_keras(layer, [np.ones((3, 5), np.float32)])[0]
    Dense(features=5, activation='softmax', bias=False)
    """
    if hasattr(source, "get_config") and hasattr(source, "weights"):
        if weights is not None:
            raise TypeError("weights must be None with a layer, which has its own")
        source, weights = _described(source), source.weights
    if not isinstance(source, Mapping) or weights is None:
        raise TypeError(f"source must be a layer, or its configuration and weights, got {brief(source)}")
    listed = Listed(weights)
    reader, parts = Reader(listed), list[Part]()
    for layer in _flattened(source):
        try:
            part = reader.part(layer, parts[-1].model.out_features if parts else None)
        except KeyError as error:
            raise ValueError(f"the configuration {brief(layer)} has no {error}") from error
        parts += [part] if part else []
    listed.finish()
    model, params = _chained(parts)
    return model, to_jax(params)


def _described(layer: Any) -> dict[str, Any]:
    kind = next((c.__name__ for c in type(layer).__mro__ if c.__module__.startswith("keras.")), "")
    return {"class_name": kind, "config": layer.get_config()}


def _flattened(source: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The layers of a `Sequential` or a functional model, and of those inside it, in order."""
    config = source if "layers" in source else opened(source)[1]
    for layer in chain_of(config) if "input_layers" in config else config.get("layers", ()):
        yield from _flattened(layer)
    if "layers" not in config:
        yield source


def _chained(parts: list[Part]) -> tuple[Any, Any]:
    """Compose one model from all layers, which returns the last step if the last recurrent one does."""
    if not parts:
        raise ValueError("source has no layer that computes anything")
    model, params = chained((part.model, part.params) for part in parts)
    last = next((index for index, part in enumerate(parts) if not part.returns_sequences), None)
    if last is None:
        return model, params
    for part in parts[last + 1 :]:
        if not isinstance(part.model, Dense | Map):
            raise ValueError(
                f"{part.name} follows {parts[last].name}, which returns only its last output: jrnn allows "
                "only Dense after it"
            )
    return ManyToOne(
        Sequential(model.cells) if isinstance(model, Stack) and len(parts) > 1 else model
    ), params


def to_keras(model: Any, params: Any) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
    """Write a model for Keras 3, as the configuration of a `keras.Sequential` and the list of its weights.

        theirs = keras.Sequential.from_config(config)
        theirs.set_weights(weights)

    A model with a `ConvLSTM` needs the size of its field in between,
    `theirs.build((None, None, *field, channels))`. Layers return sequences, except the last recurrent one in
    a `ManyToOne`. The dropout of a stack becomes `Dropout` layers. Of two biases the recurrent one is 0,
    except for the n of a GRU, where it is `b_hn`.

    Args:
      model: any of `Elman`, `GRU`, `LSTM`, `LSTMVariant`, `ConvLSTM`, `Embed`, `Dense`, `Map`, `Dropout` of
        such a cell, and `Bidirectional`, `Stack`, `Sequential`, or `ManyToOne` of them.
      params: its parameters.

    Returns:
      `(config, weights)`, with the dtype of the parameters.

    Raises:
      ValueError: Keras has no such cell, e.g. with peepholes, coupled gates, clipping, a projection, or other
        activations; the message names the weight and the field.
      TypeError: Keras has no equivalent of the model.

    >>> import jax, jrnn
    >>> model = jrnn.ManyToOne(jrnn.Sequential((jrnn.Embed(4), jrnn.LSTM(3), jrnn.Dense(2))))
    >>> config, weights = jrnn.interop.to_keras(model, model.init(jax.random.key(0), in_features=7))
    >>> [layer["class_name"] for layer in config["layers"]]
    ['InputLayer', 'Embedding', 'LSTM', 'Dense']
    """
    reads_last = isinstance(model, ManyToOne)
    if reads_last and model.read != "ends":
        raise ValueError(f"{model}: a recurrent layer of Keras has no read={model.read!r}, only 'ends'")
    parts = list(_parts(model.model if reads_last else model, params))
    stateful = [
        index for index, (part, _) in enumerate(parts) if not isinstance(part, float | Embed | Dense | Map)
    ]
    if reads_last and not stateful:
        raise ValueError(f"{model} has no recurrent layer, whose last step could be read")
    layers, weights = list[Any](), list[np.ndarray[Any, Any]]()
    for index, (part, own) in enumerate(parts):
        returns_sequences = not reads_last or index != stateful[-1]
        layer, arrays = _layer(f"{index}.", part, own, returns_sequences)
        layers.append(layer)
        weights += [np.array(array, order="C") for array in arrays]
    if "ConvLSTM" not in repr(model):
        layers.insert(0, _input(parts[0][0], weights))
    return {"name": "sequential", "layers": layers}, weights


def _parts(model: Any, params: Any) -> Iterator[tuple[Any, Any]]:
    """Layers in sequence, with dropout between them."""
    if not isinstance(model, Stack | Sequential):
        yield model, params
        return
    inside = model.cells if isinstance(model, Stack) else model.layers
    for index, (part, own) in enumerate(zip(inside, params, strict=True)):
        if index and model.dropout:
            yield model.dropout, ()
        yield from _parts(part, own)


def _input(first: Any, weights: list[np.ndarray[Any, Any]]) -> dict[str, Any]:
    """The input layer of a model: tokens, or features."""
    if isinstance(first, Embed):
        return _serialized("InputLayer", {"batch_shape": [None, None], "dtype": "int32"})
    width = first.features if isinstance(first, Map) else len(weights[0])
    return _serialized("InputLayer", {"batch_shape": [None, None, width]})


def _serialized(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}


def _layer(where: str, part: Any, params: Any, returns_sequences: bool) -> tuple[dict[str, Any], list[Any]]:
    """The Keras layer, and its weights in order."""
    if isinstance(part, float):
        return _serialized("Dropout", {"rate": part}), []
    if isinstance(part, Map):
        if part.function not in FUNCTIONS:
            raise ValueError(f"{where[:-1]}: Keras has no {part} by that name")
        return _serialized("Activation", {"activation": FUNCTIONS[part.function]}), []
    options = {"return_sequences": returns_sequences, "go_backwards": False}
    if isinstance(part, Reversed):
        if returns_sequences:
            raise ValueError(
                f"{where[:-1]}: {part} aligns ys[t] with xs[t], a layer that goes backwards returns them "
                "reversed: remove it from the model, or read its last step by ManyToOne"
            )
        return _recurrent(where, part.cell, params, options | {"go_backwards": True})
    if isinstance(part, Bidirectional):
        merge = next((theirs for theirs, ours in MERGES.items() if ours == part.merge), None)
        if merge is None:
            raise ValueError(f"{where[:-1]}: Keras has no merge={part.merge!r}, only {', '.join(MERGES)}")
        first, second = part.sides(params)
        forward, w_forward = _recurrent(f"{where}forward.", part.forward, first, options)
        options |= {"go_backwards": True}
        backward, w_backward = _recurrent(f"{where}backward.", part.backward, second, options)
        config = {"layer": forward, "backward_layer": backward, "merge_mode": merge}
        config |= {"dtype": forward["config"]["dtype"]}
        return _serialized("Bidirectional", config), w_forward + w_backward
    if isinstance(part, Embed | Dense):
        kind, config, arrays = _cell(where, part, params)
        return _serialized(kind, config), arrays
    return _recurrent(where, part, params, options)


def _recurrent(
    where: str, cell: Any, params: Any, options: dict[str, Any]
) -> tuple[dict[str, Any], list[Any]]:
    """A recurrent layer of a cell, or of a stack of cells."""
    inside = [one.cell if isinstance(one, Dropout) else one for one in getattr(cell, "cells", (cell,))]
    if not all(isinstance(one, KINDS[isinstance(cell, Stack) :]) for one in inside):
        raise TypeError(f"{where[:-1]}: Keras has no recurrent layer of {brief(cell)}")
    if not isinstance(cell, Stack):
        kind, config, arrays = _cell(where, cell, params)
        return _serialized(kind, config | options), arrays
    if cell.dropout:
        raise ValueError(f"{where[:-1]}: StackedRNNCells has no dropout={cell.dropout} between its cells")
    pairs = zip(cell.cells, params, strict=True)
    found = [_cell(f"{where}{index}.", one, own) for index, (one, own) in enumerate(pairs)]
    cells = [_serialized(f"{kind}Cell", config) for kind, config, _ in found]
    dtype = {"dtype": found[0][1]["dtype"]}
    stacked = _serialized("StackedRNNCells", {"cells": cells} | dtype)
    arrays = [array for *_, arrays in found for array in arrays]
    return _serialized("RNN", {"cell": stacked} | options | dtype), arrays


def _cell(where: str, cell: Any, params: Any) -> tuple[str, dict[str, Any], list[Any]]:
    """Class, configuration and weights of a cell."""
    if isinstance(cell, Dropout):
        if cell.output or cell.candidate or isinstance(cell.state, tuple):
            raise ValueError(
                f"{where[:-1]}: Keras drops only the input and the state of {cell}, at one rate each"
            )
        kind, config, arrays = _cell(where, cell.cell, params)
        return kind, config | {"dropout": cell.input, "recurrent_dropout": cell.state}, arrays
    if type(cell) not in NEEDS:
        raise TypeError(f"{where[:-1]}: Keras has no layer for {brief(cell)}")
    own = own_weights(where, cell, params, NEEDS[type(cell)], "Keras")
    if isinstance(cell, Embed):
        table = own.take("table", ("words", cell.features))
        config = {"input_dim": len(table), "output_dim": cell.features, "dtype": table.dtype.name}
        return "Embedding", config, [table]
    use_bias = getattr(cell, "bias", True)
    if isinstance(cell, Dense):
        arrays = [own.take("w", ("in", cell.features))]
        arrays += [own.take("b", (cell.features,))] if use_bias else []
        config = {"units": cell.features, "activation": FUNCTIONS[str(cell.activation)]}
        return "Dense", config | {"use_bias": use_bias, "dtype": arrays[0].dtype.name}, arrays
    kind, config, size = _options(where, cell)
    columns = {"SimpleRNN": 1, "GRU": 3}.get(kind, 4) * cell.hidden
    arrays = [own.take("w_ih", (*size, "in", columns)), own.take("w_hh", (*size, cell.hidden, columns))]
    arrays += [own.take("b", (columns,))] if use_bias else []
    if isinstance(cell, GRU):
        arrays = [reordered(array, Z_R_N) for array in keeping(cell, arrays)]
        if use_bias and cell.reset_after:
            recurrent = np.zeros_like(arrays[2])
            recurrent[2 * cell.hidden :] = own.take("b_hn", (cell.hidden,))
            arrays[2] = np.stack([arrays[2], recurrent])
    own.finish()
    dtype = arrays[0].dtype
    if dtype.itemsize < 4:  # Keras cannot draw its initial orthogonal matrix in these
        config["recurrent_initializer"] = "glorot_uniform"
    return kind, config | {"use_bias": use_bias, "dtype": dtype.name}, arrays


def _options(where: str, cell: Any) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    """Class and configuration of a recurrent layer, and the size of its kernel."""
    if isinstance(cell, ConvLSTM):
        each = {"kernel_size": cell.kernel, "strides": cell.strides, "dilation_rate": cell.dilation}
        sizes = {k: list(v) if isinstance(v, tuple) else [v] * cell.spatial for k, v in each.items()}
        config = {"filters": cell.hidden, "padding": cell.padding.lower(), "data_format": "channels_last"}
        return f"ConvLSTM{cell.spatial}D", config | sizes, tuple(sizes["kernel_size"])
    config = {"units": cell.hidden, "activation": FUNCTIONS[str(cell.activation)]}
    gate = getattr(cell, "gate_activation", None)
    config |= {"recurrent_activation": FUNCTIONS[gate]} if gate else {}
    if isinstance(cell, GRU):
        return "GRU", config | {"reset_after": cell.reset_after}, ()
    if isinstance(cell, LSTMVariant):
        if cell.output_activation != cell.activation:
            raise ValueError(f"{where}w_ih of {cell}: Keras has one activation for g and for h")
        return "LSTM", config, ()
    return "SimpleRNN" if isinstance(cell, Elman) else "LSTM", config, ()
