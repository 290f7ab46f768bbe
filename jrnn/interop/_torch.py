"""Reading PyTorch module by module, recognized by names and shapes, or from the module itself."""

import re
from typing import Any, NamedTuple

import jax
import numpy as np

from jrnn.cells._activations import ACTIVATIONS
from jrnn.cells.elman import Elman, ElmanParams
from jrnn.cells.gru import GRU, GRUParams
from jrnn.cells.lstm import LSTM, LSTMParams
from jrnn.cells.lstm_variant import LSTMVariant, LSTMVariantParams
from jrnn.cells.maps import Dense, DenseParams, Embed, EmbedParams
from jrnn.combinators import Stack
from jrnn.interop._weights import Size, Weights
from jrnn.layers import Bidirectional, BidirectionalParams, Sequential

EMBEDDING = re.compile(r"(^|_)emb(ed(ding)?)?s?$")  # usual names of an `nn.Embedding`
NAMED = {"Tanh": "tanh", "ReLU": "relu", "Sigmoid": "sigmoid", "SiLU": "silu"}
SILENT = {"Dropout", "Identity"}  # modules that do nothing in evaluation


class Part(NamedTuple):
    """One module of a state dict."""

    path: str
    model: Any  # a cell, a layer or a function
    params: Any
    in_features: int | None  # None for any width


class Reader(NamedTuple):
    """Converts modules to parts of a jrnn model."""

    weights: Weights
    prefix: str
    nonlinearity: str
    unused: bool

    def part(self, path: str, module: Any, following: Part | None, *, first: bool) -> Part | None:
        """The part at a path; None if there is nothing to convert, or if `finish` will raise."""
        if any(f"{path}weight_ih{end}" in self.weights for end in ("", "_l0")):
            return self._recurrent(path, module)
        if module is not None and not module.state_dict():
            return self._function(path, module)
        if f"{path}weight" not in self.weights or _kind(module) not in {"", "Embedding", "Linear"}:
            return None
        if len(self.weights.shape(f"{path}weight")) != 2:
            return None
        if self._is_embedding(path, module, following, first=first):
            if getattr(module, "max_norm", None) is not None:
                raise ValueError(f"{self.prefix}{path}weight: Embed has no max_norm={module.max_norm}")
            table = self.weights.take(f"{path}weight", ("words", "features"))
            return Part(path, Embed(table.shape[1]), EmbedParams(table), None)
        w = self.weights.take(f"{path}weight", ("out", "in"))
        has_bias = f"{path}bias" in self.weights
        b = self.weights.take(f"{path}bias", w.shape[:1]) if has_bias else None
        return Part(path, Dense(len(w), bias=has_bias), DenseParams(w.T, b), w.shape[1])

    def _function(self, path: str, module: Any) -> Part | None:
        """A module without weights."""
        kind = type(module).__name__
        if kind in SILENT or (self.unused and kind not in NAMED):
            return None
        if kind not in NAMED:
            raise ValueError(
                f"{self.prefix}{path[:-1]} is a {kind}, for which jrnn has no cell; unused=True ignores it"
            )
        return Part(path, ACTIVATIONS[NAMED[kind]], (), None)

    def _is_embedding(self, path: str, module: Any, following: Part | None, *, first: bool) -> bool:
        """True if a matrix is of an `nn.Embedding`, not of an `nn.Linear`, whose names and axes are equal."""
        if module is not None:
            return _kind(module) == "Embedding"
        if f"{path}bias" in self.weights:
            return False
        rows, columns = self.weights.shape(f"{path}weight")
        fits = [following is not None and following.in_features == width for width in (rows, columns)]
        if fits[0] != fits[1]:
            return fits[1]
        full = self.prefix + path[:-1] if path else self.prefix[:-1]
        if EMBEDDING.search(full.rpartition(".")[2]):
            return True
        if not first:  # only the first part reads tokens
            return False
        raise ValueError(
            f"{self.prefix}{path}weight of shape ({rows}, {columns}) may be an Embedding or a Linear without "
            "a bias: pass the module instead of its state dict"
        )

    def _recurrent(self, path: str, module: Any) -> Part:
        """A recurrent module of any number of layers, or one of PyTorch's cells."""
        nonlinearity = getattr(module, "nonlinearity", self.nonlinearity)
        is_cell = f"{path}weight_ih" in self.weights
        two = f"{path}weight_ih_l0_reverse" in self.weights
        layers: list[tuple[Any, Any]] = []
        width: Size = "in"
        while is_cell or f"{path}weight_ih_l{len(layers)}" in self.weights:
            end = "" if is_cell else f"_l{len(layers)}"
            ends = (end, f"{end}_reverse") if two else (end,)
            pairs = [_cell(self.weights, path, end, width, nonlinearity) for end in ends]
            width = sum(cell.out_features for cell, _ in pairs)
            layers.append(
                (Bidirectional(pairs[0][0]), BidirectionalParams(pairs[0][1], pairs[1][1]))
                if two
                else (pairs[0])
            )
            if len({cell for cell, _ in pairs} | {_forward(layers[0][0])}) > 1:
                raise ValueError(f"{self.prefix}{path}: layers and directions must be alike, got {pairs}")
            if is_cell:
                break
        in_features = jax.tree.leaves(layers[0][1])[0].shape[0]
        if len(layers) == 1:
            return Part(path, *layers[0], in_features)
        models, params = zip(*layers, strict=True)
        dropout = float(getattr(module, "dropout", 0.0))
        model = Sequential(models, dropout=dropout) if two else Stack(models, dropout=dropout)
        return Part(path, model, params, in_features)


def _kind(module: Any) -> str:
    """The PyTorch class of a module; "" if it has none."""
    if module is None:
        return ""
    names = [kind.__name__ for kind in type(module).__mro__]
    return next((name for name in names if name in ("Embedding", "Linear")), names[0])


def _forward(model: Any) -> Any:
    return model.forward if isinstance(model, Bidirectional) else model


def _cell(weights: Weights, path: str, end: str, width: Size, nonlinearity: str) -> tuple[Any, Any]:
    """One direction of one layer: rows are gates, columns the units that they read."""
    name = f"{path}weight_hh{end}"
    w_hh = weights.take(name, ("gates · hidden", "hidden")).T
    out, rows = w_hh.shape
    projected = f"{path}weight_hr{end}" in weights
    w_hr: Any = weights.take(f"{path}weight_hr{end}", (out, "hidden")) if projected else None
    hidden = w_hr.shape[1] if projected else out
    gates = rows // hidden if rows % hidden == 0 else 0
    if gates not in ((4,) if projected else (1, 3, 4)):
        raise ValueError(
            f"{weights.prefix}{name} has shape ({rows}, {out}), needs rows for 1, 3 or 4 gates "
            f"(RNN, GRU, LSTM) of {hidden} units: is it transposed?"
        )
    w_ih = weights.take(f"{path}weight_ih{end}", (rows, width)).T
    b_ih: Any = None
    b_hh: Any = None
    if has_bias := f"{path}bias_ih{end}" in weights:
        b_ih, b_hh = (weights.take(f"{path}bias_{part}{end}", (rows,)) for part in ("ih", "hh"))
    b = None if b_ih is None else b_ih + b_hh
    if gates == 1:
        return Elman(hidden, activation=nonlinearity, bias=has_bias), ElmanParams(w_ih, w_hh, b)
    if gates == 4 and not projected:
        return LSTM(hidden, bias=has_bias), LSTMParams(w_ih, w_hh, b)
    if gates == 4:
        b = np.zeros_like(w_ih[0]) if b is None else b  # an LSTMVariant always has one
        params = LSTMVariantParams(w_ih, w_hh, b, p=None, w_gh=None, w_hr=w_hr.T)
        return LSTMVariant(hidden, projection=out), params
    if b is None:
        return GRU(hidden, bias=False), GRUParams(w_ih, w_hh, None, None)
    two = 2 * hidden
    b = np.concatenate([b[:two], b_ih[two:]])
    return GRU(hidden), GRUParams(w_ih, w_hh, b, b_hn=b_hh[two:])
