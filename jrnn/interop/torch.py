"""PyTorch: modules and state dicts in, state dicts out.

PyTorch stores gates as rows, in the gate orders of jrnn (i f g o, r z n), so matrices are transposed. Its two
biases become their sum, except those of n in a GRU, whose reset gate multiplies only the recurrent one.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jrnn._checks import brief, check_choice
from jrnn.cells.elman import Elman
from jrnn.cells.gru import GRU
from jrnn.cells.lstm import LSTM
from jrnn.cells.lstm_variant import LSTMVariant
from jrnn.cells.maps import Dense, Embed, Map
from jrnn.combinators import Stack
from jrnn.combinators.reparametrizing import Tie
from jrnn.interop._models import chained
from jrnn.interop._torch import Part, Reader
from jrnn.interop._weights import Weights, keeping, own_weights, to_jax
from jrnn.layers import Bidirectional

WEIGHT = re.compile(r"(.*\.)?((?:weight|bias)_(?:ih|hh|hr)(?:_l\d+(?:_reverse)?)?|weight|bias)")
GATES = {Elman: 1, GRU: 3, LSTM: 4, LSTMVariant: 4}

# requirements for a PyTorch equivalent: field -> (the weight concerned, allowed values)
NEEDS: dict[type, dict[str, tuple[Any, ...]]] = {
    Elman: {"activation": ("w_ih", "tanh", "relu"), "clip": ("w_ih", None)},
    GRU: {
        "reset_after": ("w_hh", True),
        "activation": ("w_ih", "tanh"),
        "gate_activation": ("w_ih", "sigmoid"),
        "clip": ("w_ih", None),
    },
    LSTM: {"activation": ("w_ih", "tanh")},
    LSTMVariant: {
        "peepholes": ("p", None),
        "gate_recurrence": ("w_gh", False),
        "gates": ("w_ih", "ifo"),
        "coupled": ("w_ih", False),
        "activation": ("w_ih", "tanh"),
        "output_activation": ("w_hr", "tanh"),
        "gate_activation": ("w_ih", "sigmoid"),
        "cell_clip": ("w_hh", None),
        "clip": ("w_ih", None),
    },
    Dense: {"activation": ("w", "identity")},
    Embed: {},
}


def from_torch(
    source: Any, *, prefix: str = "", nonlinearity: str = "tanh", unused: bool = False
) -> tuple[Any, Any]:
    """Read a model from PyTorch: `nn.RNN`, `nn.GRU`, `nn.LSTM`, their cells, `nn.Embedding`, `nn.Linear`.

    Modules are recognized by names and shapes. One layer becomes a cell, several become a `Stack`, two
    directions `Bidirectional` and, with several layers, a `Sequential` of them; `proj_size` becomes
    `LSTMVariant`. Several modules become one `Stack` or `Sequential` if their widths match, in the order of
    the state dict, in which the module registers them. `forward` is not read: anything else that it does,
    such as taking the last step, is up to you.

    jrnn is time-first, regardless of `batch_first`. The two biases become their sum, which is equivalent. A
    weight that an embedding shares with a later linear layer stays shared, by `Tie`, in a `Stack`; in a
    `Sequential`, as of two directions, it becomes two equal ones. If a module is given,
    `dropout` between layers is kept; `nn.Dropout` does nothing in evaluation, and is omitted.

    Args:
      source: a module, or its state dict of tensors or NumPy arrays, as from
        `torch.load(..., weights_only=True)` or safetensors.
      prefix: read only the weights under this name, such as "encoder.rnn".
      nonlinearity: of `nn.RNN`, "tanh" or "relu", if `source` is a state dict, which does not contain it.
      unused: ignore weights that have no place in the model, such as those of a `LayerNorm`.

    Returns:
      `(model, params)`, for `jrnn.apply` and, unless it is a layer, `jrnn.unroll`.

    Raises:
      ValueError: no such weights, inconsistent shapes, modules that do not form a chain (the message lists
        their prefixes, to be read one by one), unused weights, or numbers that are not floating-point, such
        as quantized weights.

    >>> import jax.numpy as jnp, jrnn, numpy as np
    >>> state = {"rnn.weight_ih_l0": np.ones((12, 2)), "rnn.weight_hh_l0": np.ones((12, 3))}
    >>> state = {name: array.astype(np.float32) for name, array in state.items()}
    >>> model, params = jrnn.interop.from_torch(state, prefix="rnn")
    >>> model, params.w_ih.shape
    (LSTM(hidden=3, bias=False), (2, 12))
    """
    check_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
    prefix = _dotted(prefix)
    # a module that is used twice has two names, as in the state dict
    modules = dict(source.named_modules(remove_duplicate=False)) if hasattr(source, "named_modules") else None
    state = source.state_dict() if modules is not None else source
    if not isinstance(state, Mapping):
        raise TypeError(f"source must be a module or a state dict, got {brief(source)}")
    weights = Weights(state, "the state dict", prefix)
    places = _places(weights, prefix, modules)
    reader = Reader(weights, prefix, nonlinearity, unused)
    parts: list[Part] = []
    for index, (path, module) in reversed(list(enumerate(places))):  # needs the following part
        part = reader.part(path, module, parts[-1] if parts else None, first=index == 0)
        parts += [part] if part else []
    parts.reverse()
    model, params = _chained(parts, prefix)
    weights.finish(unused)
    model, params = _tied(model, params, parts, state, prefix)
    return model, to_jax(params)


def _dotted(prefix: str) -> str:
    return prefix if not prefix or prefix.endswith(".") else f"{prefix}."


def _places(weights: Weights, prefix: str, modules: Any) -> list[tuple[str, Any]]:
    """The path of every module without submodules, and the module itself if given."""
    if modules is None:
        found = (WEIGHT.fullmatch(name) for name in weights.names())
        return list(dict.fromkeys((match[1] or "", None) for match in found if match))
    under = {_dotted(name): module for name, module in modules.items()}
    return [
        (name.removeprefix(prefix), module)
        for name, module in under.items()
        if name.startswith(prefix) and not any(True for _ in module.children())
    ]


def _chained(parts: list[Part], prefix: str) -> tuple[Any, Any]:
    """Compose one model from all parts."""
    if not parts:
        raise ValueError("the state dict has no weights of an RNN, GRU, LSTM, Embedding or Linear")
    listed = ", ".join(f"{prefix + part.path[:-1]!r} ({_described(part)})" for part in parts)
    no_chain = f"these do not form a chain; convert each with prefix=: {listed}"
    if any(isinstance(part.model, Embed) for part in parts[1:]):
        raise ValueError(no_chain)
    try:
        return chained(part.model if callable(part.model) else (part.model, part.params) for part in parts)
    except ValueError as error:
        raise ValueError(f"{no_chain}. {error}") from error


def _described(part: Part) -> str:
    if callable(part.model):
        return "a function"
    kind, width = type(part.model).__name__, part.in_features
    return (
        f"{kind} to {part.model.out_features}"
        if width is None
        else f"{kind}, {width} to {part.model.out_features}"
    )


def _tied(model: Any, params: Any, parts: list[Part], state: Any, prefix: str) -> tuple[Any, Any]:
    """Let a read-out share the table of an embedding if it did in PyTorch."""
    if not (isinstance(model, Stack) and isinstance(parts[0].model, Embed)):
        return model, params
    table = state[f"{prefix}{parts[0].path}weight"]
    address = getattr(table, "data_ptr", lambda: None)()
    for place, part in enumerate(parts):
        if not isinstance(part.model, Dense):
            continue
        read_out = state[f"{prefix}{part.path}weight"]
        if table is read_out or (address is not None and address == read_out.data_ptr()):
            tied = (*params[:place], params[place]._replace(w=None), *params[place + 1 :])
            return Tie(model, "0.table", f"{place}.w", transposed=True), tied
    return model, params


def to_torch(model: Any, params: Any, *, prefix: str = "") -> dict[str, np.ndarray[Any, Any]]:
    """Write a model for PyTorch, as a state dict of NumPy arrays.

    A cell is written for a module of one layer; a `Stack` of equal cells, or a `Sequential` of equal
    `Bidirectional`, for one of several layers; any other chain for an `nn.Sequential` or `nn.ModuleList`,
    its parts under "0.", "1.", ... Create the module with `bidirectional`, `num_layers`, `proj_size`,
    `nonlinearity` and `dropout` of the model, then call

        module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})

    (in bfloat16, which NumPy does not have, `torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)`).
    PyTorch's second bias is 0, except for the n of a GRU, where it is `b_hn`. `LSTMVariant` always has a
    bias.

    Args:
      model: any of `Elman`, `GRU`, `LSTM`, `LSTMVariant` with a projection, `Embed`, `Dense`, `Map`, and
        `Bidirectional`, `Stack`, `Sequential` or `Tie` of them.
      params: its parameters.
      prefix: prefix of every name, such as "encoder.rnn".

    Returns:
      Contiguous copies of the arrays by PyTorch's names, with unchanged dtypes.

    Raises:
      ValueError: PyTorch has no such cell, e.g. a GRU that resets before the product, or with peepholes,
        coupled gates, clipping, other activations or merges; the message names the weight and the field.
      TypeError: PyTorch has no equivalent of the model.

    >>> import jax, jrnn
    >>> model = jrnn.Stack((jrnn.Embed(4), jrnn.GRU(3), jrnn.Dense(5)))
    >>> state = jrnn.interop.to_torch(model, model.init(jax.random.key(0), in_features=7))
    >>> [(name, array.shape) for name, array in state.items()][:3]
    [('0.weight', (7, 4)), ('1.weight_ih_l0', (9, 4)), ('1.weight_hh_l0', (9, 3))]
    """
    state: dict[str, np.ndarray[Any, Any]] = {}
    _write(state, _dotted(prefix), model, params)
    return {name: np.array(array, order="C") for name, array in state.items()}


def _write(state: dict[str, Any], path: str, model: Any, params: Any) -> None:
    """Write a model and its parts under a path."""
    if isinstance(model, Tie):
        return _write(state, path, model.cell, model.weights(params))
    if isinstance(model, Map):
        return None
    inside = _inside(model)
    alike = {_module_of(part) for part in inside}
    if inside and (len(alike) > 1 or None in alike):
        for index, (part, own) in enumerate(zip(inside, params, strict=True)):
            _write(state, f"{path}{index}.", part, own)
        return None
    layers = list(zip(inside, params, strict=True)) if inside else [(model, params)]
    for number, (layer, own) in enumerate(layers):
        if isinstance(layer, Bidirectional):
            if layer.merge != "concat" or _module_of(layer) is None:
                raise ValueError(
                    f"{path}weight_ih_l{number}: PyTorch has no {layer}: it joins two equal cells"
                )
            for cell, direction, end in zip(
                (layer.forward, layer.backward), layer.sides(own), ("", "_reverse"), strict=True
            ):
                state |= _arrays(path, f"_l{number}{end}", cell, direction)
        else:
            state |= _arrays(path, f"_l{number}", layer, own)
    return None


def _inside(model: Any) -> tuple[Any, ...]:
    return getattr(model, "cells" if isinstance(model, Stack) else "layers", ())


def _module_of(model: Any) -> Any:
    """The properties that layers of one module share; None if not a layer of one."""
    if isinstance(model, Bidirectional):
        pair = {_module_of(model.forward), _module_of(model.backward)}
        return None if len(pair) > 1 or None in pair else (*pair, "bidirectional")
    if type(model) not in GATES:
        return None
    bias = getattr(model, "bias", True)
    return type(model), model.hidden, model.out_features, model.activation, bias


def _arrays(path: str, end: str, cell: Any, params: Any) -> dict[str, Any]:
    """The weights of one cell by PyTorch's names."""
    if type(cell) not in NEEDS:
        raise TypeError(f"PyTorch has no module for {brief(cell)}")
    own = own_weights(path, cell, params, NEEDS[type(cell)], "PyTorch")
    if isinstance(cell, Embed):
        return {f"{path}weight": own.take("table", ("words", cell.features))}
    if isinstance(cell, Dense):
        found = {f"{path}weight": own.take("w", ("in", cell.features)).T}
        return found | ({f"{path}bias": own.take("b", (cell.features,))} if cell.bias else {})
    rows, out = GATES[type(cell)] * cell.hidden, cell.out_features
    w_ih, w_hh = own.take("w_ih", ("in", rows)), own.take("w_hh", (out, rows))
    biases = [own.take("b", (rows,))] if getattr(cell, "bias", True) else []
    b_hh = np.zeros_like(biases[0]) if biases else None
    if isinstance(cell, GRU):
        w_ih, w_hh, *biases = keeping(cell, [w_ih, w_hh, *biases])
        if b_hh is not None:
            b_hh[2 * cell.hidden :] = own.take("b_hn", (cell.hidden,))
    found = {f"{path}weight_ih{end}": w_ih.T, f"{path}weight_hh{end}": w_hh.T}
    if biases:
        found |= {f"{path}bias_ih{end}": biases[0], f"{path}bias_hh{end}": b_hh}
    if isinstance(cell, LSTMVariant) and cell.projection is not None:
        found[f"{path}weight_hr{end}"] = own.take("w_hr", (cell.hidden, out)).T
    own.finish()
    return found
