"""Conventions that several libraries share, and the options of cells that they do not have."""

import dataclasses
from typing import Any

import numpy as np

from jrnn._checks import brief
from jrnn.cells._gating import GateParams
from jrnn.cells.convolutional import ConvLSTM
from jrnn.cells.gru import GRU, GRUParams
from jrnn.cells.lstm import LSTM, LSTMParams
from jrnn.interop._weights import Weights, keeping, own_weights, reordered

# fields that only say how parameters are drawn
STARTS = {"forget_bias", "max_lag", "recurrent_init", "gate_bias"}
IGFO = (0, 2, 1, 3)  # from the order i f g o of jrnn, and back
Array = np.ndarray[Any, Any]


def refuse_options(cell: Any, library: str, *allowed: str) -> None:
    """Raise a ValueError for an option of a cell that the other library has no form of."""
    for field in dataclasses.fields(cell):
        free = field.name in STARTS or field.name in allowed or field.default is dataclasses.MISSING
        value = getattr(cell, field.name)
        if not free and value != field.default:
            raise ValueError(f"{library} has no {field.name}={value!r}, as in {brief(cell)}")


def no_form(model: Any, library: str) -> ValueError:
    """The error for a model that the other library does not have."""
    return ValueError(f"{library} has no form of {brief(model)}")


def or_zeros(weights: Weights, name: str, like: Array) -> Array:
    """Take a bias for every column of `like`; zeros where there is none."""
    return weights.take(name, like.shape[-1:]) if name in weights else np.zeros(like.shape[-1], like.dtype)


def own_lstm(cell: LSTM, params: Any, library: str, *allowed: str) -> LSTMParams:
    """Parameters of an LSTM, zeros where it has no bias."""
    refuse_options(cell, library, "bias", *allowed)
    own = own_weights("", cell, params, {}, library)
    w_ih: Any = own.take("w_ih", ("in", 4 * cell.hidden))
    w_hh: Any = own.take("w_hh", (cell.hidden, 4 * cell.hidden))
    return LSTMParams(w_ih, w_hh, or_zeros(own, "b", w_ih))


def own_gru(
    cell: GRU, params: Any, library: str, *allowed: str, reset_after: bool = True, z_keeps: bool = True
) -> GRUParams:
    """Parameters of a GRU by the conventions of a library, zeros where it has no bias.

    Which side z weighs is a matter of its sign, σ(−a) = 1 − σ(a).

    Raises:
      ValueError: the cell resets on the other side of the product.
    """
    refuse_options(cell, library, "bias", "reset_after", "z_keeps", *allowed)
    own = own_weights("", cell, params, {"reset_after": ("w_hh", reset_after)}, library)
    w_ih: Any = own.take("w_ih", ("in", 3 * cell.hidden))
    w_hh: Any = own.take("w_hh", (cell.hidden, 3 * cell.hidden))
    b = or_zeros(own, "b", w_ih)
    b_hn = or_zeros(own, "b_hn", w_ih[:, : cell.hidden]) if reset_after else None
    if cell.z_keeps != z_keeps:
        w_ih, w_hh, b = keeping(dataclasses.replace(cell, z_keeps=False), (w_ih, w_hh, b))
    return GRUParams(w_ih, w_hh, b, b_hn)


def forget(b: Array, by: float) -> Array:
    """Add to the biases of the forget gate, second of four."""
    return b + np.repeat(np.array([0, by, 0, 0], b.dtype), b.size // 4)


def read_convolutional(
    weights: Weights, inputs: str, states: str, leaves: tuple[str, str], padding: Any
) -> tuple[Any, Any]:
    """Read a ConvLSTM with gates i g f o, two biases, and 1 that is added to f at every step."""
    kernel, bias = leaves
    w_ih = weights.take(inputs + kernel, (*_sizes(weights, inputs + kernel), "in", "4·hidden"))
    sizes = w_ih.shape[:-2]
    hidden = w_ih.shape[-1] // 4
    w_hh = weights.take(states + kernel, (*sizes, hidden, 4 * hidden))
    b_ih, b_hh = (reordered(or_zeros(weights, part + bias, w_ih), IGFO) for part in (inputs, states))
    size: Any = sizes[0] if len({*sizes}) == 1 else sizes
    cell = ConvLSTM(hidden, kernel=size, spatial=len(sizes), padding=padding)
    return cell, GateParams(reordered(w_ih, IGFO), reordered(w_hh, IGFO), b_ih + forget(b_hh, 1))


def _sizes(weights: Weights, name: str) -> list[str]:
    """Letters for the lengths of a kernel, one for each of its one to three axes."""
    rank = len(weights.shape(name)) - 2
    if not 1 <= rank <= 3:
        raise ValueError(f"{weights.prefix}{name} must be a kernel over 1 to 3 axes, got {rank}")
    return ["size"] * rank


def write_convolutional(
    cell: ConvLSTM, params: Any, library: str, names: tuple[str, str], leaves: tuple[str, str]
) -> dict[str, Array]:
    """The way back from `read_convolutional`, bit for bit: the second bias is the −1 that undoes the 1."""
    own = own_weights("", cell, params, {}, library)
    (inputs, states), (kernel, bias) = names, leaves
    w_ih = own.take("w_ih", (*_sizes(own, "w_ih"), "in", 4 * cell.hidden))
    w_hh = own.take("w_hh", (*w_ih.shape[:-2], cell.hidden, 4 * cell.hidden))
    b = own.take("b", (4 * cell.hidden,))
    return {
        inputs + kernel: reordered(w_ih, IGFO),
        inputs + bias: reordered(b, IGFO),
        states + kernel: reordered(w_hh, IGFO),
        states + bias: reordered(forget(np.zeros_like(b), -1), IGFO),
    }
