"""Reading Keras layer by layer: configurations, with weights from a list."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jrnn._checks import brief
from jrnn.cells._gating import GateParams
from jrnn.cells.convolutional import ConvLSTM
from jrnn.cells.elman import Elman, ElmanParams
from jrnn.cells.gru import GRU, GRUParams
from jrnn.cells.lstm import LSTM, LSTMParams
from jrnn.cells.lstm_variant import LSTMVariant, LSTMVariantParams
from jrnn.cells.maps import Dense, DenseParams, Embed, EmbedParams, Map
from jrnn.combinators import Dropout, Stack
from jrnn.interop._weights import Weights, array_of, reordered
from jrnn.layers import Bidirectional, BidirectionalParams, Reversed

ACTIVATIONS = {  # the functions that are the same in both
    "linear": "identity",
    **{name: name for name in ("tanh", "relu", "sigmoid", "softplus", "softsign", "elu", "silu", "softmax")},
    **{name: name for name in ("hard_sigmoid", "hard_tanh")},
    "leaky_relu": "leaky_relu(0.2)",
}
MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "ave": "mean"}
SILENT = {"InputLayer", "Masking", "Dropout", "SpatialDropout1D"}  # no-ops in evaluation, or only a mask
MASKS = {"NotEqual", "Any"}  # what the masks of Embedding and Masking are in a functional model
DEFAULTS = {  # of options that a configuration may omit
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "use_bias": True,
    "dropout": 0.0,
    "recurrent_dropout": 0.0,
    "return_sequences": False,
    "go_backwards": False,
    "merge_mode": "concat",
    "padding": "valid",
    "data_format": "channels_last",
    "strides": (1,),
    "dilation_rate": (1,),
}
Z_R_N = (1, 0, 2)  # positions of the gates r z n in Keras


class Part(NamedTuple):
    """One layer."""

    name: str
    model: Any
    params: Any
    returns_sequences: bool


class Listed:
    """Weights in the order of `get_weights`, taken one by one, with names for messages."""

    def __init__(self, arrays: Any) -> None:
        self._left = list(arrays)

    def take(self, name: str, shape: tuple[int | str, ...]) -> Any:
        """Take the next one."""
        if not self._left:
            raise ValueError(f"weights ends before {name}: is the layer built?")
        return Weights({name: self._left.pop(0)}, "weights").take(name, shape)

    def finish(self) -> None:
        """Raise if weights remain."""
        if self._left:
            shapes = [array_of(array, "weights").shape for array in self._left]
            raise ValueError(f"weights: {len(shapes)} more than the layers have, of shapes {shapes}")


class Reader(NamedTuple):
    """Converts layers to parts of a jrnn model."""

    weights: Listed

    def part(self, layer: Mapping[str, Any], width: int | None) -> Part | None:
        """Convert a layer with inputs of a width; None for one that does nothing in evaluation."""
        kind, config = opened(layer)
        name = config.get("name", kind)
        if kind in SILENT:
            return None
        if kind == "TimeDistributed":  # layers that act on features act on every step
            inner = self.part(config["layer"], width)
            if inner is not None and not isinstance(inner.model, Dense | Map):
                raise ValueError(
                    f"{name}: TimeDistributed of {inner.model} has no counterpart, only of Dense"
                )
            return inner
        if kind == "Dense":
            return Part(name, *self._dense(name, config), True)
        if kind == "Embedding":
            size = config["input_dim"], config["output_dim"]
            return Part(name, Embed(size[1]), EmbedParams(self._take(name, "embeddings", size)), True)
        if kind == "Activation":
            if width is None:
                raise ValueError(f"{name}: an Activation needs a layer before it")
            return Part(name, Map(function_of(name, config, "activation"), width), (), True)
        if kind == "Bidirectional":
            return self._bidirectional(name, config)
        cell, params = self.recurrent(layer)
        if config["go_backwards"]:
            if config["return_sequences"]:
                raise ValueError(
                    f"{name}: go_backwards=True returns the sequence reversed, where jrnn aligns ys[t] with "
                    "xs[t]: convert it with go_backwards=False, and use Reversed(cell) and ys[::-1]"
                )
            cell = Reversed(cell)
        is_cell = kind.endswith(("Cell", "Cells"))  # which a recurrent layer runs, as jrnn does
        return Part(name, cell, params, is_cell or config["return_sequences"])

    def _dense(self, name: str, config: Mapping[str, Any]) -> tuple[Any, Any]:
        cell = Dense(
            config["units"],
            activation=function_of(name, config, "activation"),
            bias=config["use_bias"],
        )
        w = self._take(name, "kernel", ("in", cell.features))
        return cell, DenseParams(w, self._take(name, "bias", (cell.features,)) if cell.bias else None)

    def _bidirectional(self, name: str, config: Mapping[str, Any]) -> Part:
        """Two recurrent layers, the second backward."""
        if config["merge_mode"] not in MERGES:
            raise ValueError(
                f"{name}: merge_mode must be one of {', '.join(MERGES)}, got {config['merge_mode']}; the two "
                "outputs of None are the halves of the features of 'concat', with the same weights"
            )
        ways = [opened(config[part])[1] for part in ("layer", "backward_layer")]
        if [bool(way["go_backwards"]) for way in ways] != [False, True]:
            raise ValueError(f"{name}: layer must go forwards, and backward_layer backwards")
        pairs = [self.recurrent(config[part]) for part in ("layer", "backward_layer")]
        model = Bidirectional(pairs[0][0], pairs[1][0], merge=MERGES[config["merge_mode"]])
        return Part(name, model, BidirectionalParams(pairs[0][1], pairs[1][1]), ways[0]["return_sequences"])

    def recurrent(self, layer: Mapping[str, Any]) -> tuple[Any, Any]:
        """The cell of a recurrent layer, or of a layer that Keras has no cell for."""
        kind, config = opened(layer)
        name = config.get("name", kind)
        if kind == "RNN":
            return self.recurrent(config["cell"])
        if kind == "StackedRNNCells":
            cells, params = zip(*(self.recurrent(cell) for cell in config["cells"]), strict=True)
            return Stack(cells), params
        readers = {"SimpleRNN": self._elman, "GRU": self._gru, "LSTM": self._lstm}
        readers |= {f"ConvLSTM{axes}D": self._convolutional for axes in (1, 2, 3)}
        read = readers.get(kind.removesuffix("Cell"))
        if read is None:
            raise ValueError(f"{name} is a {kind}, for which jrnn has no cell")
        cell, params = read(name, config)
        rates = config["dropout"], config["recurrent_dropout"]
        return Dropout(cell, input=rates[0], state=rates[1]) if any(rates) else cell, params

    def _take(self, name: str, weight: str, shape: tuple[int | str, ...]) -> Any:
        return self.weights.take(f"{name}/{weight}", shape)

    def _gates(self, name: str, config: Mapping[str, Any], gates: int) -> tuple[Any, Any, Any]:
        """Packed matrices and bias, or None, of all gates; GRUs with two biases have both in one array."""
        hidden = config["units"]
        w_ih = self._take(name, "kernel", ("in", gates * hidden))
        w_hh = self._take(name, "recurrent_kernel", (hidden, gates * hidden))
        shape = (2, gates * hidden) if config.get("reset_after") else (gates * hidden,)
        return w_ih, w_hh, self._take(name, "bias", shape) if config["use_bias"] else None

    def _elman(self, name: str, config: Mapping[str, Any]) -> tuple[Any, Any]:
        function = function_of(name, config, "activation")
        cell = Elman(config["units"], activation=function, bias=config["use_bias"])
        return cell, ElmanParams(*self._gates(name, config, 1))

    def _lstm(self, name: str, config: Mapping[str, Any]) -> tuple[Any, Any]:
        hidden, function = config["units"], function_of(name, config, "activation")
        gate = function_of(name, config, "recurrent_activation")
        w_ih, w_hh, b = self._gates(name, config, 4)
        if gate == "sigmoid":
            return LSTM(hidden, activation=function, bias=config["use_bias"]), LSTMParams(w_ih, w_hh, b)
        cell = LSTMVariant(hidden, activation=function, output_activation=function, gate_activation=gate)
        b = np.zeros_like(w_ih[0]) if b is None else b  # an LSTMVariant always has one
        return cell, LSTMVariantParams(w_ih, w_hh, b, p=None, w_gh=None, w_hr=None)

    def _gru(self, name: str, config: Mapping[str, Any]) -> tuple[Any, Any]:
        cell = GRU(
            config["units"],
            reset_after=config["reset_after"],
            activation=function_of(name, config, "activation"),
            gate_activation=function_of(name, config, "recurrent_activation"),
            bias=config["use_bias"],
        )
        w_ih, w_hh, b = self._gates(name, config, 3)
        w_ih, w_hh, b = (
            reordered(w_ih, Z_R_N),
            reordered(w_hh, Z_R_N),
            b if b is None else reordered(b, Z_R_N),
        )
        if b is None or not cell.reset_after:
            return cell, GRUParams(w_ih, w_hh, b, None)
        two = 2 * cell.hidden
        return cell, GRUParams(w_ih, w_hh, np.concatenate([b[0, :two] + b[1, :two], b[0, two:]]), b[1, two:])

    def _convolutional(self, name: str, config: Mapping[str, Any]) -> tuple[Any, Any]:
        for option, needed in (
            ("data_format", "channels_last"),
            ("activation", "tanh"),
            ("recurrent_activation", "sigmoid"),
        ):
            if config[option] != needed:
                raise ValueError(f"{name}: ConvLSTM has no {option}={config[option]!r}, only {needed!r}")
        size, hidden = tuple(config["kernel_size"]), config["filters"]
        each = {"kernel": size, "strides": config["strides"], "dilation": config["dilation_rate"]}
        sizes: dict[str, Any] = {k: v[0] if len(set(v)) == 1 else tuple(v) for k, v in each.items()}
        cell = ConvLSTM(hidden, spatial=len(size), padding=config["padding"].upper(), **sizes)
        w_ih = self._take(name, "kernel", (*size, "in", 4 * hidden))
        w_hh = self._take(name, "recurrent_kernel", (*size, hidden, 4 * hidden))
        b = (
            self._take(name, "bias", (4 * hidden,))
            if config["use_bias"]
            else np.zeros_like(w_hh[(0,) * (len(size) + 1)])
        )
        return cell, GateParams(w_ih, w_hh, b)


def chain_of(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layers of a functional model in order, if each reads the one before it.

    Raises:
      ValueError: a layer that reads several values or is called several times, or several outputs.
    """
    model = f"the functional model {config.get('name')!r}"
    layers = {layer["config"]["name"]: layer for layer in config["layers"]}
    outputs = config["output_layers"]
    ends = [outputs] if isinstance(outputs[0], str) else list(outputs)
    if len({end[0] for end in ends}) > 1 or not any(end[2] == 0 for end in ends):
        raise ValueError(f"{model} has the outputs {ends}: only one, and its states, has an equivalent")
    found, name = list[Mapping[str, Any]](), str(ends[0][0])
    while nodes := layers[name]["inbound_nodes"]:
        read = [t for node in nodes for t in _tensors(node["args"], _but_masks(node["kwargs"]))]
        if len(nodes) > 1 or len(read) != 1 or read[0][2]:
            raise ValueError(
                f"{model} is no chain: {name} reads {[t[0] for t in read]}; convert its layers one by one"
            )
        found.insert(0, layers[name])
        name = read[0][0]
    kinds = {layer["class_name"] for key, layer in layers.items() if layer not in found and key != name}
    if kinds - MASKS:
        raise ValueError(f"{model} is no chain: {', '.join(sorted(kinds - MASKS))} are beside it")
    return found


def _but_masks(options: Mapping[str, Any]) -> list[Any]:
    return [value for name, value in options.items() if name != "mask"]


def _tensors(*values: Any) -> list[Any]:
    """Layer, call and output of every tensor among the arguments of a call."""
    found = []
    for value in values:
        if isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
            found.append(value["config"]["keras_history"])
        elif isinstance(value, list | tuple):
            found += _tensors(*value)
    return found


def opened(layer: Any) -> tuple[str, Mapping[str, Any]]:
    """The class and configuration of a serialized layer."""
    if not isinstance(layer, Mapping) or not {"class_name", "config"} <= layer.keys():
        raise ValueError(f"a layer is its class_name and its config, got {brief(layer)}")
    kind = layer["class_name"]
    defaults = DEFAULTS | ({"activation": "linear"} if kind == "Dense" else {})
    return kind, defaults | ({"reset_after": True} if kind in ("GRU", "GRUCell") else {}) | layer["config"]


def function_of(name: str, config: Mapping[str, Any], option: str) -> str:
    """The equal activation of jrnn."""
    given = config[option]
    given = "silu" if given == "swish" else given
    if not isinstance(given, str) or given not in ACTIVATIONS:
        raise ValueError(f"{name}: {option} must be one of {', '.join(ACTIVATIONS)}, got {brief(given)}")
    return ACTIVATIONS[given]
