"""The operators RNN, GRU and LSTM of ONNX as values, each one direction, and the cells that they are.

ONNX keeps gates by rows, in the order z r h (GRU) or i o f c (LSTM), peepholes i o f. It has two biases, of
which only the sum counts, except in a GRU that resets after the product.
"""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jrnn.cells._activations import CONSTANTS, constants_of, with_constants
from jrnn.cells.elman import Elman, ElmanParams
from jrnn.cells.gru import GRU, GRUParams
from jrnn.cells.lstm import LSTM, LSTMParams
from jrnn.cells.lstm_variant import LSTMVariant, LSTMVariantParams
from jrnn.interop._weights import array_of

Weight = Any  # a NumPy array

ACTIVATIONS = {
    "affine": "Affine",
    "elu": "Elu",
    "hard_sigmoid": "HardSigmoid",
    "leaky_relu": "LeakyRelu",
    "relu": "Relu",
    "scaled_tanh": "ScaledTanh",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "tanh": "Tanh",
    "thresholded_relu": "ThresholdedRelu",
}
USUAL = {  # constants that go without saying in ONNX; Affine and ScaledTanh have none
    "elu": (1.0,),
    "hard_sigmoid": (0.2, 0.5),
    "leaky_relu": (0.01,),
    "thresholded_relu": (1.0,),
}
FUNCTIONS: dict[str, Any] = {"Softmax": "softmax", "LogSoftmax": jax.nn.log_softmax}  # of read-outs only
DEFAULTS = {"RNN": ("tanh",), "GRU": ("sigmoid", "tanh"), "LSTM": ("sigmoid", "tanh", "tanh")}
OURS, THEIRS = {"RNN": "h", "GRU": "rzn", "LSTM": "ifgo"}, {"RNN": "h", "GRU": "zrn", "LSTM": "iofg"}
CELLS = Elman | GRU | LSTM | LSTMVariant


class Operator(NamedTuple):
    """One direction of an operator."""

    kind: str  # "RNN", "GRU" or "LSTM"
    activations: tuple[str, ...]  # by our names
    w: Weight  # (gates · hidden, in)
    r: Weight  # (gates · hidden, hidden)
    b: Weight  # None, or (2 · gates · hidden,)
    p: Weight = None  # or (3 · hidden,)
    clip: float | None = None
    reset_after: bool = False  # linear_before_reset
    coupled: bool = False  # input_forget

    @property
    def hidden(self) -> int:
        """Width of the state."""
        return int(self.r.shape[1])


def import_onnx() -> Any:
    """Import the package onnx, or say how to install it."""
    try:
        return importlib.import_module("onnx")
    except ModuleNotFoundError as error:
        message = "reading and writing ONNX needs the package onnx: pip install 'jrnn[peers]'"
        raise ModuleNotFoundError(message, name="onnx") from error


def operator_of(cell: Any, params: Any) -> Operator:
    """Say a cell as the operator that computes it.

    Raises:
      ValueError: no operator does, because of what the message names.
    """
    if not isinstance(cell, CELLS):
        raise ValueError(f"{cell}: ONNX has operators for Elman (RNN), GRU, LSTM and LSTMVariant only")
    for reason in _reasons_against(cell):
        raise ValueError(f"{cell}: {reason}")
    kind = {Elman: "RNN", GRU: "GRU"}.get(type(cell), "LSTM")
    ours = OURS[kind].replace("f", "") if getattr(cell, "coupled", False) else OURS[kind]

    def rows(name: str) -> Weight:
        parts = _arranged(array_of(getattr(params, name), name), ours, THEIRS[kind])
        if not getattr(cell, "z_keeps", True):  # 1 − σ(a) = σ(−a), and z comes first
            parts = np.concatenate([-parts[..., : cell.hidden], parts[..., cell.hidden :]], -1)
        return np.ascontiguousarray(parts.T)

    p = getattr(params, "p", None)
    names = _activation_fields(cell)
    return Operator(
        kind,
        tuple(_named(cell, name) for name in names),
        w=rows("w_ih"),
        r=rows("w_hh"),
        b=None if params.b is None else _two_biases(rows("b"), getattr(params, "b_hn", None)),
        p=None if p is None else _arranged(array_of(p, "p"), ours.replace("g", ""), "iof"),
        clip=getattr(cell, "clip", None),
        reset_after=getattr(cell, "reset_after", False),
        coupled=getattr(cell, "coupled", False),
    )


def _reasons_against(cell: Any) -> Iterator[str]:
    """List what a cell has and its operator has not."""
    if isinstance(cell, GRU) and not cell.z_keeps and cell.gate_activation != "sigmoid":
        yield "z_keeps=False, and z of ONNX weighs the old state; only of σ it is known that 1 − σ(a) = σ(−a)"
    if not isinstance(cell, LSTMVariant):
        return
    if cell.gates != "ifo":
        yield f"gates={cell.gates!r}, and ONNX's LSTM has weights for all of i, f and o"
    if cell.projection is not None:
        yield f"projection={cell.projection}, and ONNX's LSTM has no w_hr"
    if cell.gate_recurrence:
        yield "gate_recurrence=True, and ONNX's LSTM has no w_gh"
    if cell.peepholes == "full":
        yield "peepholes='full', and ONNX has vectors as p"
    if cell.cell_clip is not None:
        yield f"cell_clip={cell.cell_clip}, and ONNX clips what gates read, never c"


def _activation_fields(cell: Any) -> tuple[str, ...]:
    if isinstance(cell, LSTMVariant):
        return "gate_activation", "activation", "output_activation"
    fields = {Elman: ("activation",), GRU: ("gate_activation", "activation")}
    return fields.get(type(cell), ("sigmoid", "activation", "activation"))


def _named(cell: Any, field: str) -> str:
    """An activation of a cell by name, if ONNX has it."""
    name = getattr(cell, field, field)
    if not isinstance(name, str) or constants_of(name)[0] not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS.values())
        raise ValueError(f"{cell}: {field}={name!r} is none of ONNX's activations, {known}")
    return name


def _arranged(packed: Weight, ours: str, theirs: str) -> Weight:
    """Gates side by side in another order; zeros for one that is missing, as nothing reads it."""
    parts: dict[str, Weight] = dict(zip(ours, np.split(packed, len(ours), axis=-1), strict=True))
    missing = np.zeros_like(parts[ours[0]])
    return np.concatenate([parts.get(gate, missing) for gate in theirs], axis=-1)


def _two_biases(b: Weight, b_hn: Any) -> Weight:
    second = np.zeros_like(b)
    if b_hn is not None:
        second[-len(b_hn) :] = array_of(b_hn, "b_hn")
    return np.concatenate([b, second])


def cell_of(operator: Operator) -> tuple[Any, Any]:
    """Make the cell that an operator is, and its parameters, as NumPy arrays."""
    kind, hidden = operator.kind, operator.hidden
    coupled = "f" if operator.coupled else ""
    ours = OURS[kind].replace(coupled, "") if coupled else OURS[kind]
    packed = operator.w, operator.r, _one_bias(operator)
    arranged: list[Any] = [a if a is None else _arranged(a.T, THEIRS[kind], ours) for a in packed]
    w, r, b = arranged
    *gate, activation = operator.activations
    if kind == "RNN":
        cell = Elman(hidden, activation=activation, bias=b is not None, clip=operator.clip)
        return cell, ElmanParams(w, r, b)
    if kind == "GRU":
        gru = GRU(
            hidden,
            reset_after=operator.reset_after,
            activation=activation,
            gate_activation=gate[0],
            bias=b is not None,
            clip=operator.clip,
        )
        after = operator.reset_after and operator.b is not None
        return gru, GRUParams(w, r, b, operator.b[-hidden:] if after else None)
    return _lstm_of(operator, ours, (w, r, b))


def _one_bias(operator: Operator) -> Weight:
    """The sum of both biases; without the second one of n where it stands inside the reset."""
    if operator.b is None:
        return None
    first, second = np.split(operator.b, 2)
    if operator.reset_after:
        second = np.concatenate([second[: -operator.hidden], np.zeros_like(second[-operator.hidden :])])
    return np.where(second == 0, first, first + second)


def _lstm_of(operator: Operator, parts: str, packed: Any) -> tuple[Any, Any]:
    """The plain LSTM where it is one, and the variant otherwise."""
    w, r, b = packed
    gate, activation, output = operator.activations
    plain = gate == "sigmoid" and activation == output and operator.clip is None and not operator.coupled
    if plain and operator.p is None:
        cell = LSTM(operator.hidden, activation=activation, bias=b is not None)
        return cell, LSTMParams(w, r, b)
    variant = LSTMVariant(
        operator.hidden,
        coupled=operator.coupled,
        peepholes=None if operator.p is None else "diagonal",
        activation=activation,
        output_activation=output,
        gate_activation=gate,
        clip=operator.clip,
    )
    p = None if operator.p is None else _arranged(operator.p, "iof", parts.replace("g", ""))
    zeros: Any = np.zeros(w.shape[1], w.dtype)
    return variant, LSTMVariantParams(w, r, zeros if b is None else b, p, None, None)


def attributes_of(operators: Sequence[Operator]) -> dict[str, Any]:
    """Say all but weights and direction of a node, of one operator or of one per direction."""
    first = operators[0]
    attributes: dict[str, Any] = {"hidden_size": first.hidden}
    names = [constants_of(name) for one in operators for name in one.activations]
    if [one.activations for one in operators] != [DEFAULTS[first.kind]] * len(operators):
        attributes["activations"] = [ACTIVATIONS[name] for name, _ in names]
    for place, key in enumerate(("activation_alpha", "activation_beta")):
        values = [constants[place] for _, constants in names if len(constants) > place]
        attributes |= {key: values} if values else {}
    attributes |= {"clip": first.clip} if first.clip is not None else {}
    attributes |= {"linear_before_reset": 1} if first.reset_after else {}
    return attributes | ({"input_forget": 1} if first.coupled else {})


def activations_of(kind: str, directions: int, attributes: dict[str, Any]) -> list[tuple[str, ...]]:
    """Read the activations of every direction from the attributes of a node.

    Raises:
      ValueError: an unknown one, or too many or too few of them or of their constants.
    """
    count = len(DEFAULTS[kind])
    given = attributes.get("activations") or [ACTIVATIONS[name] for name in DEFAULTS[kind]] * directions
    if len(given) != count * directions:
        raise ValueError(f"activations must be {count} for each direction, got {given}")
    ours = {theirs.lower(): name for name, theirs in ACTIVATIONS.items()}
    left = [list(attributes.get(key, [])) for key in ("activation_alpha", "activation_beta")]
    names = []
    for theirs in given:
        if theirs.lower() not in ours:
            raise ValueError(f"unknown activation {theirs!r}, ONNX has {', '.join(ACTIVATIONS.values())}")
        names.append(_with_constants(ours[theirs.lower()], left))
    if any(left):
        raise ValueError(f"constants {left} are left over, for which activations {given} have no use")
    return [tuple(names[k * count : (k + 1) * count]) for k in range(directions)]


def _with_constants(name: str, left: list[list[float]]) -> str:
    """An activation with its constants, which are taken off the front of those that are left."""
    if name not in CONSTANTS:
        return name
    constants = []
    for place, usual in enumerate(CONSTANTS[name][1].values()):
        if not left[place] and name not in USUAL:
            raise ValueError(f"{ACTIVATIONS[name]} needs its constants, activation_alpha and activation_beta")
        value = left[place].pop(0) if left[place] else USUAL[name][place]
        constants.append(usual if np.float32(value) == np.float32(usual) else shortest(value))
    return with_constants(name, tuple(constants))


def shortest(value: float) -> float:
    """The number of fewest digits that is this one in float32, in which ONNX keeps it."""
    return float(str(np.float32(value)))
