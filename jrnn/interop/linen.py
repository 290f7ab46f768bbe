"""Weights from and to Flax Linen."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jrnn._checks import brief
from jrnn.cells._gating import GateParams
from jrnn.cells.convolutional import ConvLSTM
from jrnn.cells.elman import Elman
from jrnn.cells.gru import GRU, GRUParams
from jrnn.cells.lstm import LSTM, LSTMParams
from jrnn.cells.single_gate import UGRNN
from jrnn.interop import _flax
from jrnn.interop._conventions import (
    no_form,
    own_gru,
    own_lstm,
    read_convolutional,
    refuse_options,
    write_convolutional,
)
from jrnn.interop._flax import Part, activation_of, by_gate, expect, read_simple, side_by_side, write_simple
from jrnn.interop._weights import Weights, own_weights, to_jax

LIBRARY = "Flax Linen"


def from_linen(params: Any, module: Any = None, *, unused: bool = False) -> tuple[Any, Any]:
    """Read the parameters of a Linen module.

    ==================================  ==========================================================
    Linen                               jrnn
    ==================================  ==========================================================
    SimpleCell                          Elman; a residual one is the identity added to `w_hh`
    LSTMCell, OptimizedLSTMCell         LSTM
    GRUCell                             GRU
    MGUCell                             GRU whose r and z are equal; UGRNN with reset_gate=False
    ConvLSTMCell                        ConvLSTM: both biases, and 1 for the forget gate, are added
    RNN                                 the cell; Reversed with reverse=True, keep_order=True
    Bidirectional                       Bidirectional
    Sequential                          Stack, or Sequential if there are layers
    Embed, Dense                        Embed, Dense
    ==================================  ==========================================================

    Args:
      params: the tree of parameters, or the variables with the collection "params". Names identify the cell;
        for a custom module, a list of trees is a sequence of parts, first to last.
      module: the Linen module, for settings that are not in its parameters: activations, `residual`,
        `reverse`, merge, functions in a `Sequential`; `Dropout` is omitted. Without a module these are Flax's
        defaults. Its `dtype` is ignored: jrnn computes in that of the parameters (`Cast`).
      unused: ignore weights that have no place in the model.

    Returns:
      `(model, params)`, with unchanged dtypes.

    Raises:
      ValueError: a missing, unused or misshapen weight, or a module without an equivalent in jrnn.
      TypeError: not a tree.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from flax import linen as nn
    >>> from jrnn.interop import from_linen
    >>> module, xs = nn.RNN(nn.GRUCell(8)), jnp.ones((2, 5, 3))  # batch first
    >>> variables = module.init(jax.random.key(0), xs)
    >>> cell, params = from_linen(variables, module)
    >>> cell
    GRU(hidden=8)
    >>> carry, ys = jrnn.unroll(cell, params, jnp.swapaxes(xs, 0, 1))
    >>> bool(jnp.allclose(jnp.swapaxes(ys, 0, 1), module.apply(variables, xs), atol=1e-6))
    True
    """
    if not isinstance(params, Mapping | list | tuple):
        raise TypeError(f"params must be a tree of parameters, or a list of them, got {brief(params)}")
    arrays: dict[str, Any] = {}
    tree: Any = params
    if isinstance(params, Mapping) and "params" in params:
        tree = params["params"]
        arrays = _flax.flattened({f"collection {k}": v for k, v in params.items() if k != "params"})
    if isinstance(tree, list | tuple):
        tree = {f"layers_{index}": part for index, part in enumerate(tree)}
    weights = Weights(_flax.flattened(tree) | arrays, LIBRARY)
    model, read = _flax.read(weights, "", module, FLAVOR)
    weights.finish(unused)
    return model, to_jax(read)


def to_linen(model: Any, params: Any) -> dict[str, Any]:
    """Write parameters as those of a Linen module.

    The module is `nn.RNN` for a cell (with `reverse=True, keep_order=True` for `Reversed`),
    `nn.Bidirectional`, `nn.Sequential` for `Stack` and `Sequential`, `nn.Embed` and `nn.Dense`. Activations,
    merges, functions and dropout have no parameters: specify them in the module. Cells are `nn.SimpleCell`
    for `Elman`, `nn.LSTMCell` or `nn.OptimizedLSTMCell` for `LSTM`, `nn.GRUCell` for `GRU`,
    `nn.MGUCell(reset_gate=False)` for `UGRNN`, `nn.ConvLSTMCell` for `ConvLSTM`.

    Args:
      model: a cell or layer in the table of `from_linen`.
      params: its parameters.

    Returns:
      The tree, for `module.apply({"params": tree}, xs)`: nested dictionaries of NumPy arrays. `from_linen`
      restores the same parameters, bit for bit.

    Raises:
      ValueError: Linen has no equivalent of the model, e.g. of a GRU with `reset_after=False`.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.interop import to_linen
    >>> model = jrnn.Stack((jrnn.Embed(4), jrnn.LSTM(8), jrnn.Dense(10)))
    >>> tree = to_linen(model, model.init(jax.random.key(0), 10))
    >>> sorted(tree), sorted(tree["layers_1"]["cell"])
    (['layers_0', 'layers_1', 'layers_2'], ['hf', 'hg', 'hi', 'ho', 'if', 'ig', 'ii', 'io'])
    """
    return _flax.write(model, params, FLAVOR)


def _read_cell(weights: Weights, path: str, children: set[str], module: Any) -> Part | None:
    for names, (classes, reader) in READERS.items():
        if names <= children:
            expect(module, *classes)
            return reader(weights, path, module)
    return None


def _read_lstm(weights: Weights, path: str, module: Any) -> Part:
    inputs, states = _names(path, "ifgo")
    w_ih = side_by_side(weights, inputs, "kernel", ("in", "hidden"))
    hidden = w_ih.shape[1] // 4
    w_hh = side_by_side(weights, states, "kernel", (hidden, hidden))
    b = side_by_side(weights, states, "bias", (hidden,))
    return LSTM(hidden, activation=activation_of(module)), LSTMParams(w_ih, w_hh, b)


def _read_gates(weights: Weights, path: str, order: str) -> GateParams:
    """Take the parameters that GRU and MGU share: gates with input biases."""
    inputs, states = _names(path, order)
    w_ih = side_by_side(weights, inputs, "kernel", ("in", "hidden"))
    hidden = w_ih.shape[1] // len(order)
    w_hh = side_by_side(weights, states, "kernel", (hidden, hidden))
    return GateParams(w_ih, w_hh, side_by_side(weights, inputs, "bias", (hidden,)))


def _read_gru(weights: Weights, path: str, module: Any) -> Part:
    gates = _read_gates(weights, path, "rzn")
    hidden = gates.w_hh.shape[0]
    b_hn = weights.take(f"{path}hn/bias", (hidden,))
    return GRU(hidden, activation=activation_of(module)), GRUParams(*gates, b_hn)


def _read_mgu(weights: Weights, path: str, module: Any) -> Part:
    gates: Any = _read_gates(weights, path, "fn")
    activation = activation_of(module)
    hidden = gates.w_hh.shape[0]
    if f"{path}hn/bias" in weights:  # resets after the product: a GRU whose r and z are the same gate
        twice: Any = [np.concatenate([array[..., :hidden], array], -1) for array in gates]
        twice.append(weights.take(f"{path}hn/bias", (hidden,)))
        return GRU(hidden, activation=activation), GRUParams(*twice)
    if activation != "tanh":
        raise ValueError(
            f"activation_fn of MGUCell(reset_gate=False) must be tanh, as in UGRNN, got {activation}"
        )
    return UGRNN(hidden), gates


def _read_simple(weights: Weights, path: str, module: Any) -> Part:
    return read_simple(weights, f"{path}i", f"{path}h", module)


def _read_conv(weights: Weights, path: str, module: Any) -> Part:
    padding = "SAME"
    if module is not None:
        padding, strides = module.padding, np.atleast_1d(module.strides or 1)
        if padding not in ("SAME", "CIRCULAR") or (strides != 1).any():
            raise ValueError(
                f"padding of ConvLSTMCell must be 'SAME' or 'CIRCULAR' and strides 1, as of the state in "
                f"jrnn.ConvLSTM, got {padding!r} and {module.strides}"
            )
        activation_of(module)
    return read_convolutional(weights, f"{path}ih/", f"{path}hh/", ("kernel", "bias"), padding)


def _names(path: str, order: str) -> tuple[list[str], list[str]]:
    """Paths of the input weights and of the recurrent weights of gates."""
    return [f"{path}i{gate}" for gate in order], [f"{path}h{gate}" for gate in order]


# names of parts that identify a cell, and the classes that have them
READERS = {
    frozenset({"ii", "hi"}): (("LSTMCell", "OptimizedLSTMCell"), _read_lstm),
    frozenset({"ir", "hr"}): (("GRUCell",), _read_gru),
    frozenset({"if", "hf"}): (("MGUCell",), _read_mgu),
    frozenset({"ih", "hh"}): (("ConvLSTMCell",), _read_conv),
    frozenset({"i", "h"}): (("SimpleCell",), _read_simple),
}


def _write_cell(cell: Any, params: Any) -> dict[str, Any]:
    if isinstance(cell, Elman):
        return write_simple(cell, params, LIBRARY, "i", "h")
    if isinstance(cell, LSTM):
        lstm, (inputs, states) = own_lstm(cell, params, LIBRARY, "activation"), _names("", "ifgo")
        biases = by_gate(states, "bias", lstm.b)
        return by_gate(inputs, "kernel", lstm.w_ih) | by_gate(states, "kernel", lstm.w_hh) | biases
    if isinstance(cell, GRU):
        gru = own_gru(cell, params, LIBRARY, "activation")
        return _write_gates(gru[:3], "rzn") | {"hn/bias": gru.b_hn}
    if isinstance(cell, UGRNN):
        own = own_weights("", cell, params, {}, LIBRARY)
        w_ih = own.take("w_ih", ("in", 2 * cell.hidden))
        w_hh, b = own.take("w_hh", (cell.hidden, 2 * cell.hidden)), own.take("b", (2 * cell.hidden,))
        return _write_gates((w_ih, w_hh, b), "fn")
    if isinstance(cell, ConvLSTM):
        allowed = () if cell.padding == "VALID" else ("padding",)
        refuse_options(cell, LIBRARY, "kernel", "spatial", *allowed)
        return write_convolutional(cell, params, LIBRARY, ("ih/", "hh/"), ("kernel", "bias"))
    raise no_form(cell, LIBRARY)


def _write_gates(gates: Any, order: str) -> dict[str, Any]:
    inputs, states = _names("", order)
    kernels = by_gate(inputs, "kernel", gates[0]) | by_gate(states, "kernel", gates[1])
    return kernels | by_gate(inputs, "bias", gates[2])


FLAVOR = _flax.Flavor(LIBRARY, "layers_", _read_cell, _write_cell)
