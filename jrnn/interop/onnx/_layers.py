"""Nodes that are layers: recurrent operators, embeddings, read-outs and merges of an ONNX graph."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jrnn.cells._activations import CONSTANTS, constants_of, with_constants
from jrnn.cells.maps import Dense, DenseParams, Embed, EmbedParams, Map
from jrnn.combinators import LearnedCarry, LearnedCarryParams, Stack
from jrnn.interop._weights import array_of
from jrnn.interop.onnx._operators import (
    ACTIVATIONS,
    FUNCTIONS,
    OURS,
    USUAL,
    Operator,
    activations_of,
    cell_of,
    shortest,
)
from jrnn.interop.onnx._values import (
    BATCH,
    DIRECTION,
    FEATURES,
    TIME,
    Axis,
    Chain,
    Dim,
    Flow,
    Known,
    Part,
    Tokens,
    Value,
)
from jrnn.layers import Bidirectional, BidirectionalParams

ATTRIBUTES = {  # besides those that give the activations
    "RNN": {"direction", "hidden_size", "clip", "layout"},
    "GRU": {"direction", "hidden_size", "clip", "layout", "linear_before_reset"},
    "LSTM": {"direction", "hidden_size", "clip", "layout", "input_forget"},
}
GIVES_ACTIVATIONS = {"activations", "activation_alpha", "activation_beta"}


@dataclass
class Found:
    """The parts found in the graph so far."""

    parts: list[Part] = field(default_factory=list)  # of recurrent nodes
    # by node, the input that it takes them from
    lengths: dict[str, str] = field(default_factory=dict)
    merged: dict[Any, Chain] = field(default_factory=dict)


@dataclass
class Node:
    """A node with its inputs instead of their names; None for an omitted one."""

    kind: str
    name: str
    inputs: list[Value | None]
    outputs: list[str]
    attributes: dict[str, Any]
    found: Found

    def get(self, place: int) -> Any:
        """An input; None if omitted."""
        return self.inputs[place] if place < len(self.inputs) else None

    def value(self, place: int) -> Any:
        """An input that is an array or depends on the graph's inputs; both have the same methods."""
        found = self.get(place)
        if not isinstance(found, Known | Flow):
            raise ValueError(f"input {place} is not a value that it can be applied to")
        return found

    def known(self, place: int, what: str) -> Any:
        """The array of an input that must not depend on those of the graph; None if omitted."""
        value = self.get(place)
        if value is not None and not isinstance(value, Known):
            raise ValueError(f"{what} must be a constant, and depends on the inputs of the graph")
        return None if value is None else value.array

    def flow(self, place: int) -> Flow:
        """An input that must depend on those of the graph."""
        value = self.get(place)
        if not isinstance(value, Flow):
            raise ValueError(f"input {place} is not a value that it can be applied to")
        if not value.whole:
            raise ValueError(f"it reads a part of the input {value.chain[0].name!r}")
        return value

    def weight(self, place: int, name: str, *shape: int | str) -> Any:
        """A weight; letters among its sizes match any size."""
        array = self.known(place, name)
        if array is None:
            return None
        array = array_of(array, name)
        fits = [isinstance(n, str) or n == size for n, size in zip(shape, array.shape, strict=False)]
        if array.ndim != len(shape) or not all(fits):
            raise ValueError(f"{name} must have shape ({', '.join(map(str, shape))}), got {array.shape}")
        return array


def recurrent(node: Node) -> list[Value | None]:
    """Read one of the three operators: its outputs Y, Y_h and Y_c."""
    kind, attributes = node.kind, node.attributes
    if unknown := attributes.keys() - ATTRIBUTES[kind] - GIVES_ACTIVATIONS:
        raise ValueError(f"attributes {sorted(unknown)} are none of ONNX's {kind}")
    x, layout = node.flow(0), attributes.get("layout", 0)
    time, batch, size = _axes_of(x, layout)
    operators = _operators(node, x.features())
    count = len(operators)
    starts = [
        _start(node, 5 + k, (count, operators[0].hidden), layout) for k in range(2 if kind == "LSTM" else 1)
    ]
    node.found.lengths[node.name] = _lengths(node, size)
    backward = (attributes.get("direction", "forward") == "reverse") ^ x.reverse
    chains = []
    for place, one in enumerate(operators):
        cell, params = cell_of(one)
        found = [None if start is None else start[place] for start in starts]
        if any(start is not None and start.any() for start in found):
            cell, params = _learned(cell, params, found)
        part = Part("backward" if backward ^ (place > 0) else "forward", cell, params, node=node.name)
        node.found.parts.append(part)
        chains.append((*x.chain, part))
    both: Dim = (Axis(DIRECTION, 2),) if count == 2 else ()
    features = (Axis(FEATURES, operators[0].hidden),)
    dims = (batch, time, both, features) if layout else (time, both, batch, features)
    last = (batch, both, features) if layout else (both, batch, features)
    flow = Flow(tuple(chains), dims, reverse=x.reverse)
    ends = dataclasses.replace(flow, dims=last, reverse=False)
    return [flow, *(dataclasses.replace(ends, read=read) for read in ("state", "cell"))]


def _axes_of(x: Flow, layout: int) -> tuple[Dim, Dim, Any]:
    """Time and batch of what a recurrent node reads, either of which may be a size of 1; and the steps."""
    if len(x.dims) != 3:
        raise ValueError(f"X must have 3 axes, got {len(x.dims)}")
    if x.read:
        raise ValueError(
            "it reads what has lost its time: a decoder that starts from the state of an encoder"
        )
    dims = dict(zip((BATCH, TIME) if layout else (TIME, BATCH), x.dims[:2], strict=True))
    for name, dim in dims.items():
        other = {TIME: BATCH, BATCH: TIME}[name]
        if len(dim) > 1 or (dim and dim[0].label in (other, FEATURES, DIRECTION)):
            raise ValueError(f"its {name} axis must be a separate axis throughout the graph, got {x.dims}")
    time, batch = (tuple(Axis(name, axis.size) for axis in dims[name]) for name in (TIME, BATCH))
    return time, batch, time[0].size if time else 1


def _operators(node: Node, width: int) -> list[Operator]:
    """The operator of every direction."""
    attributes, kind = node.attributes, node.kind
    direction = attributes.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"direction must be forward, reverse or bidirectional, got {direction!r}")
    count, gates = 1 + (direction == "bidirectional"), len(OURS[kind])
    r = node.weight(2, "R", count, "gates · hidden", "hidden")
    hidden = r.shape[2]
    if attributes.get("hidden_size", hidden) != hidden:
        raise ValueError(f"hidden_size is {attributes['hidden_size']}, and R has shape {r.shape}")
    r = node.weight(2, "R", count, gates * hidden, hidden)
    w = node.weight(1, "W", count, gates * hidden, width)
    b = node.weight(3, "B", count, 2 * gates * hidden)
    p = node.weight(7, "P", count, 3 * hidden) if kind == "LSTM" else None
    if len({str(a.dtype) for a in (w, r, b, p) if a is not None}) > 1:
        raise ValueError("W, R, B and P must have one dtype")
    if attributes.get("clip", 1) <= 0:
        raise ValueError(f"clip must be positive, got {attributes['clip']}")
    names = activations_of(kind, count, attributes)
    return [
        Operator(
            kind,
            names[place],
            w[place],
            r[place],
            None if b is None else b[place],
            None if p is None else p[place],
            clip=shortest(attributes["clip"]) if "clip" in attributes else None,
            reset_after=bool(attributes.get("linear_before_reset", 0)),
            coupled=bool(attributes.get("input_forget", 0)),
        )
        for place in range(count)
    ]


def _lengths(node: Node, steps: Any) -> str:
    """The input that `sequence_lens` come from, "" for none."""
    value = node.get(4)
    if isinstance(value, Flow):
        if not value.integer() or not value.whole:
            raise ValueError("sequence_lens must be an input of the graph, of integers")
        return str(value.chain[0].name)
    array = node.known(4, "sequence_lens")
    if array is not None and any(length != steps for length in array.ravel()):
        raise ValueError(
            f"sequence_lens are the constants {array.ravel().tolist()}: a model has no place for them, "
            "they must be an input of the graph"
        )
    return ""


def _start(node: Node, place: int, shape: tuple[int, int], layout: int) -> Any:
    """The initial states of all directions, if they are constants; those that are inputs are the caller's."""
    name = ("initial_h", "initial_c")[place - 5]
    value = node.get(place)
    if isinstance(value, Flow):
        if not value.given() or value.integer():
            raise ValueError(f"{name} comes from another node: an encoder and a decoder are two models")
        return None
    if (array := node.known(place, name)) is None:
        return None
    array = array_of(array, name)
    if array.ndim != 3:
        raise ValueError(f"{name} must have 3 axes, got shape {array.shape}")
    array = array.swapaxes(0, 1) if layout else array
    if (array.shape[0], array.shape[2]) != shape:
        raise ValueError(f"{name} must have shape ({shape[0]}, batch, {shape[1]}), got {array.shape}")
    if not (array == array[:, :1]).all():
        raise ValueError(f"{name} differs from row to row of a batch: a model has one start for all of them")
    return array[:, 0] if array.shape[1] else None


def _learned(cell: Any, params: Any, starts: list[Any]) -> tuple[Any, Any]:
    """Wrap a cell whose initial state is not zero."""
    if any(start is None for start in starts):
        raise ValueError("one of initial_h and initial_c is a constant other than 0, the other is not given")
    carry = cell.initial_carry(params)
    leaves, structure = jax.tree.flatten(carry)
    del leaves
    return LearnedCarry(cell), LearnedCarryParams(params, jax.tree.unflatten(structure, starts))


def merged(flow: Flow, merge: str, found: Found) -> Chain:
    """Merge both directions of a value into one layer."""
    if len(flow.chains) != 2:
        raise ValueError(f"it merges {len(flow.chains)} directions, and there must be 2")
    key = (flow.chains, merge)
    if key not in found.merged:
        found.merged[key] = _bidirectional(*flow.chains, merge=merge)
    return found.merged[key]


def _bidirectional(a: Chain, b: Chain, merge: str) -> Chain:
    if merge != "concat" and any(part.kind == "backward" for part in a[1:]):
        a, b = b, a
    if a[0] is not b[0]:
        raise ValueError(f"it merges what comes from {a[0].name!r} and from {b[0].name!r}")
    if a == b:
        raise ValueError("it merges a value with itself")
    count = next(i for i in range(1, 1 + max(len(a), len(b))) if a[i : i + 1] != b[i : i + 1])
    cells, params = [], []
    for kind, rest in (("forward", a[count:]), ("backward", b[count:])):
        kinds = {part.kind for part in rest}
        if kind not in kinds or kinds - {kind, "map"}:
            raise ValueError(
                f"it merges {[part.cell for part in a[count:]]}, which must read forward, and "
                f"{[part.cell for part in b[count:]]}, which must read backward"
            )
        cells.append(rest[0].cell if len(rest) == 1 else Stack(tuple(part.cell for part in rest)))
        params.append(rest[0].params if len(rest) == 1 else tuple(part.params for part in rest))
    both = Part("both", Bidirectional(*cells, merge=merge), BidirectionalParams(*params), halves=(a, b))
    return (*a[:count], both)


def extended(flow: Flow, part: Part, dims: tuple[Dim, ...] | None = None) -> Flow:
    """Extend a value by one more layer."""
    width = (Axis(FEATURES, int(part.cell.out_features)),)
    found = (*flow.dims[:-1], width) if dims is None else (*dims, width)
    return dataclasses.replace(flow, chains=((*flow.chain, part),), dims=found)


def embedded(node: Node) -> Flow:
    """Read a Gather from a known table."""
    table = node.weight(0, "the table", "words", "features")
    if isinstance(given := node.get(1), Tokens):
        words = np.arange(len(table))
        if not np.array_equal(given.function(words), words):
            raise ValueError("it takes rows of its table by other numbers than those of the words")
        node.inputs[1] = given.flow
    tokens = node.flow(1)
    if node.attributes.get("axis", 0) != 0 or not tokens.integer():
        raise ValueError("an embedding takes rows of its table by the integers of an input")
    part = Part("map", Embed(table.shape[1]), EmbedParams(table), node=node.name)
    return extended(tokens, part, tokens.dims)


def dense(node: Node, w: Any, b: Any) -> Flow:
    """Read a product with a known weight, (in, out)."""
    x = node.flow(0)
    if w.shape[0] != x.features():
        raise ValueError(f"a weight of shape {w.shape} for {x.features()} features")
    cell = Dense(w.shape[1], bias=b is not None)
    return extended(x, Part("map", cell, DenseParams(w, b), node=node.name))


def biased(node: Node, x: Flow, b: Any) -> Flow:
    """Read a sum with a bias after a product."""
    *before, part = x.chain
    if not isinstance(getattr(part, "cell", None), Dense) or part.params.b is not None:
        raise ValueError("it adds a constant to something other than a MatMul")
    if part.cell.activation != "identity" or b.size != x.features() or b.shape[-1:] != (b.size,):
        raise ValueError(f"it adds a constant of shape {b.shape} to {x.features()} features")
    params = DenseParams(part.params.w, array_of(b.ravel(), "a bias"))
    biased = Part("map", Dense(part.cell.features), params, node=node.name)
    return dataclasses.replace(x, chains=((*before, biased),))


def activated(node: Node) -> Flow:
    """Read an activation: that of the product before it, or a separate layer."""
    x = node.flow(0)
    function = _function(node, len(x.dims))
    *before, part = x.chain
    if node.kind in FUNCTIONS:
        x.features()  # its last axis is theirs
    if isinstance(getattr(part, "cell", None), Dense) and part.cell.activation == "identity":
        cell = dataclasses.replace(part.cell, activation=function)
        changed = Part("map", cell, part.params, node=node.name)
        return dataclasses.replace(x, chains=((*before, changed),))
    return extended(x, Part("map", Map(function, x.features()), (), node=node.name))


def _function(node: Node, rank: int) -> Any:
    if node.kind in FUNCTIONS:
        if node.attributes.get("axis", -1) not in (-1, rank - 1):
            raise ValueError(f"axis={node.attributes.get('axis')} is not that of the features")
        return FUNCTIONS[node.kind]
    if node.kind == "Clip":
        bounds = [node.attributes.get(k, node.known(i, k)) for i, k in ((1, "min"), (2, "max"))]
        if any(bound is None for bound in bounds) or tuple(map(float, bounds)) != (-1, 1):
            raise ValueError(f"it clips to {bounds}, and an activation clips to -1 and 1")
        return "hard_tanh"
    name = {theirs: ours for ours, theirs in ACTIVATIONS.items()}[node.kind]
    if name not in CONSTANTS:
        return name
    usual = dict(zip(("alpha", "beta"), USUAL[name], strict=False))
    given = (node.attributes.get(key, default) for key, default in usual.items())
    own = constants_of(name)[1]
    constants = (
        o if np.float32(v) == np.float32(o) else shortest(v) for v, o in zip(given, own, strict=True)
    )
    return with_constants(name, tuple(constants))
