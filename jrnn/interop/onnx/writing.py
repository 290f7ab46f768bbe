"""Writing a model as an ONNX graph of recurrent operators."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jrnn.cell import in_ndim
from jrnn.cells._activations import Function, constants_of
from jrnn.cells.maps import Dense, Embed, Map
from jrnn.combinators import LearnedCarry, Stack
from jrnn.interop._weights import array_of
from jrnn.interop.onnx._operators import (
    ACTIVATIONS,
    FUNCTIONS,
    Operator,
    attributes_of,
    import_onnx,
    operator_of,
)
from jrnn.layers import Bidirectional, Reversed, Sequential
from jrnn.paradigms import ManyToOne

OPSET, IR = 14, 8  # the first opset with the current inputs of the operators, supported by all runtimes
MERGES = {"sum": "Add", "mul": "Mul", "mean": "Mean"}


def to_onnx(model: Any, params: Any, *, lengths: bool = False, carry: bool = False) -> Any:
    """Write a model as an ONNX graph of the operators RNN, GRU and LSTM.

    Time and batch are dynamic axes. With `carry` the model can be run as a stream, one step at a time: its
    output `last.h` is the input `carry.h` of the next step. Dropout is omitted.

    Inputs: `xs` (time, batch, features), or (time, batch) of int32 for a model that starts with `Embed`; with
    `lengths` also `lengths` (batch,) of int32; with `carry` each leaf of the model's carry by its path:
    `carry.cells.0.h` (batch, hidden). Outputs: `ys` (time, batch, features), and the last carry:
    `last.cells.0.h`.

    Supported are `Elman`, `GRU`, `LSTM`, `LSTMVariant`, `Embed`, `Dense`, `Map`, and `Stack`, `Sequential`,
    `Bidirectional`, `Reversed`, `LearnedCarry` and, outermost, `ManyToOne` of them, whose `ys` has no time.
    For other models use `jrnn.export.onnx`, which also keeps the carry of rows of length 0.

    In onnxruntime, a row of length 0 has a zero last carry, where jrnn keeps the initial one; it runs only
    float32; and a negative token counts from the end of the vocabulary, where jrnn has NaN.

    Args:
      model: a cell or a layer.
      params: its parameters.
      lengths: add an input for the number of valid steps of each sequence.
      carry: add inputs for the initial carry, which is otherwise zero, or that of `LearnedCarry`.

    Returns:
      An `onnx.ModelProto`, to be written by `onnx.save(proto, "model.onnx")`.

    Raises:
      ValueError: a model that these operators cannot compute, with the weight or option that is the reason;
        parameters of several dtypes; `LearnedCarry` together with `carry`.
      ModuleNotFoundError: onnx is not installed.

    >>> import jax, jrnn
    >>> model = jrnn.Stack((jrnn.Embed(4), jrnn.GRU(8), jrnn.Dense(10)))
    >>> proto = jrnn.interop.to_onnx(model, model.init(jax.random.key(0), 10), carry=True)
    >>> [i.name for i in proto.graph.input], [o.name for o in proto.graph.output]
    (['xs', 'carry.cells.1'], ['ys', 'last.cells.1'])
    """
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(params)})
    if len(dtypes) != 1 or dtypes[0] not in ("float16", "float32", "float64"):
        raise ValueError(f"params must have one dtype, of float16, float32 or float64, got {dtypes}")
    graph = _Graph(np.dtype(dtypes[0]), lengths, carry)
    timeless = isinstance(model, ManyToOne)
    if (
        lengths
        and timeless
        and isinstance(model.model, Stack)
        and not _states(model.model.cells[-1], params[-1])
    ):
        raise ValueError(
            "ManyToOne of a Stack that ends without a state reads zeros in rows of no steps, where these "
            "operators give its bias: write ManyToOne(Sequential(...)), or lengths=False"
        )
    inner, at = (model.model, _Place("xs", read=model.read)) if timeless else (model, _Place("xs"))
    ys = _write(graph, inner, params, _states(model, params), at)
    if lengths and not timeless and ys not in graph.zeroed:
        ys = graph.node("Where", [graph.valid(), ys, graph.constant("zero", np.zeros((), graph.dtype))])
    graph.node("Identity", [ys], ["ys"])
    return graph.proto(in_ndim(model), [*([] if timeless else ["time"]), "batch", model.out_features])


@dataclass(frozen=True)
class _State:
    """A leaf of the carry, instead of the array."""

    path: str
    width: int
    start: Any = None  # (width,); zeros if None


@dataclass(frozen=True)
class _Place:
    """The context of a part of the model: its input, its direction, and the path of its parameters."""

    x: str
    path: str = ""
    reverse: bool = False
    read: str = ""  # how `ManyToOne` reads it

    def into(self, *names: Any) -> "_Place":
        """Step into a part."""
        return replace(self, path=".".join(filter(None, [self.path, *map(str, names)])))


class _Graph:
    """Nodes, constants, inputs and outputs of the graph being written."""

    def __init__(self, dtype: np.dtype[Any], lengths: bool, carry: bool) -> None:
        self.onnx = import_onnx()
        self.dtype, self.lengths, self.carry = dtype, lengths, carry
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.width = 0  # of xs
        self.starts: list[_State] = []
        self.ends: list[_State] = []
        self.zeroed: set[str] = set()  # values that are zero in padding

    def node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Add a node, and name its first output."""
        outputs = outputs or [f"{kind.lower()}_{len(self.nodes)}"]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0]

    def constant(self, name: str, value: Any) -> str:
        """Add a constant, or find the one with this name."""
        self.constants.setdefault(name, np.asarray(value))
        return name

    def whole(self, *numbers: int) -> str:
        """Add integers."""
        return self.constant("_".join(["whole", *map(str, numbers)]), np.array(numbers, np.int64))

    def size(self, axis: int) -> str:
        """The size of xs along an axis, of shape (1,)."""
        return self.node("Gather", [self.node("Shape", ["xs"]), self.whole(axis)])

    def valid(self) -> str:
        """Flags of valid steps, (time, batch, 1)."""
        zero, one = (self.constant(f"index_{n}", np.array(n, np.int64)) for n in (0, 1))
        steps = self.node("Range", [zero, self.node("Squeeze", [self.size(0), self.whole(0)]), one])
        column = self.node("Unsqueeze", [steps, self.whole(1)])
        ends = self.node("Cast", ["lengths"], to=self.onnx.TensorProto.INT64)
        return self.node("Unsqueeze", [self.node("Less", [column, ends]), self.whole(2)])

    def proto(self, axes: int, shape: list[Any]) -> Any:
        """The whole model."""
        helper = self.onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        integers = self.onnx.TensorProto.INT32

        def states(name: str, found: list[_State]) -> list[tuple[Any, ...]]:
            return [(_joined(name, state.path), kind, ["batch", state.width]) for state in found]

        inputs = [("xs", kind if axes else integers, ["time", "batch", self.width][: 2 + axes])]
        inputs += [("lengths", integers, ["batch"])] if self.lengths else []
        inputs += states("carry", self.starts) if self.carry else []
        outputs = [("ys", kind, shape), *states("last", self.ends)]
        graph = helper.make_graph(
            self.nodes,
            "jrnn",
            [helper.make_tensor_value_info(*given) for given in inputs],
            [helper.make_tensor_value_info(*given) for given in outputs],
            [self.onnx.numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, producer_name="jrnn", opset_imports=opsets, ir_version=IR)
        self.onnx.checker.check_model(model, full_check=True)
        return model


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))


def _states(model: Any, params: Any) -> Any:
    """The carry, with each leaf replaced by its path and width."""

    def state(path: Any, leaf: Any) -> _State:
        return _State(jax.tree_util.keystr(path, simple=True, separator="."), leaf.shape[-1])

    spec = jax.eval_shape(lambda p: model.initial_carry(p, (1,)), params)
    return jax.tree_util.tree_map_with_path(state, spec)


def _write(graph: _Graph, model: Any, params: Any, states: Any, at: _Place) -> str:
    """Add the nodes of a model, and return the name of its output."""
    if at.read in ("mean", "max") and not isinstance(model, Sequential):
        if graph.lengths:
            raise ValueError(
                f"ManyToOne: read={at.read!r} of rows of several lengths: ONNX has no operator for it"
            )
        y = _write(graph, model, params, states, replace(at, read=""))
        return graph.node({"mean": "ReduceMean", "max": "ReduceMax"}[at.read], [y], axes=[0], keepdims=0)
    if isinstance(model, Stack | Sequential):
        parts = model.cells if isinstance(model, Stack) else model.layers
        inner = states.cells if isinstance(model, Stack) else states
        final = max((i for i, state in enumerate(inner) if jax.tree.leaves(state)), default=0)
        x = at.x
        for index, part in enumerate(zip(parts, params, inner, strict=True)):
            x = _write(graph, *part, replace(at.into(index), x=x, read=at.read if index == final else ""))
        return x
    if isinstance(model, Bidirectional):
        return _write_both(graph, model, params, states, at)
    if isinstance(model, Reversed):
        return _write(graph, model.cell, params, states, replace(at, reverse=True))
    if isinstance(model, LearnedCarry):
        starts = jax.tree.map(lambda state, start: replace(state, start=start), states, params.carry)
        return _write(graph, model.cell, params.cell, starts, at.into("cell"))
    if isinstance(model, Embed | Dense | Map):
        return _write_map(graph, model, params, at)
    try:
        operator = operator_of(model, params)
    except ValueError as error:
        raise ValueError(f"{at.path or 'model'}: {error}") from error
    return _write_operator(graph, [operator], [jax.tree.leaves(states)], at)


def _write_map(graph: _Graph, model: Any, params: Any, at: _Place) -> str:
    if at.read:
        raise ValueError(
            f"ManyToOne reads {model}: ONNX has the last state of a layer, and this one has none"
        )
    if isinstance(model, Embed):
        return graph.node("Gather", [graph.constant(_joined(at.path, "table"), params.table), at.x], axis=0)
    if isinstance(model, Map):
        graph.width = model.features if at.x == "xs" else graph.width
        return _write_function(graph, model, model.function, at)
    graph.width = params.w.shape[0] if at.x == "xs" else graph.width
    y = graph.node("MatMul", [at.x, graph.constant(_joined(at.path, "w"), params.w)])
    if params.b is not None:
        y = graph.node("Add", [y, graph.constant(_joined(at.path, "b"), params.b)])
    return _write_function(graph, model, model.activation, replace(at, x=y))


def _write_function(graph: _Graph, model: Any, function: str | Function, at: _Place) -> str:
    """Add an activation outside of a recurrence."""
    if function == "identity":
        return at.x
    if function == "hard_tanh":
        bounds = [graph.constant(f"bound_{n}", np.array(n, graph.dtype)) for n in (-1, 1)]
        return graph.node("Clip", [at.x, *bounds])
    for kind, known in FUNCTIONS.items():
        if function == known:
            return graph.node(kind, [at.x], axis=-1)
    name, constants = constants_of(function) if isinstance(function, str) else ("", ())
    if name not in ACTIVATIONS or name in ("affine", "scaled_tanh"):
        raise ValueError(f"{at.path or 'model'}: {model}: ONNX has no operator for {function!r}")
    attributes: dict[str, Any] = dict(zip(("alpha", "beta"), constants, strict=False))
    return graph.node(ACTIVATIONS[name], [at.x], **attributes)


def _write_both(graph: _Graph, model: Bidirectional, params: Any, states: Any, at: _Place) -> str:
    """Add one node for both directions, or two whose outputs are merged."""
    if not (isinstance(model.merge, str)):
        raise ValueError(
            f"{at.path or 'model'}: merge={model.merge!r}, and ONNX has no operator for a function"
        )
    cells, sides = (model.forward, model.backward), model.sides(params)
    try:
        operators = [operator_of(cell, p) for cell, p in zip(cells, sides, strict=True)]
    except ValueError:
        operators = []  # not a cell of one node: if none at all, the message comes below
    if operators and model.merge == "concat" and _alike(*operators):
        return _write_operator(graph, operators, [jax.tree.leaves(s) for s in states], at)
    a, b = (
        _write(graph, cell, p, s, replace(at.into(name), reverse=name == "backward"))
        for name, cell, p, s in zip(("forward", "backward"), cells, sides, states, strict=True)
    )
    together = {a, b} <= graph.zeroed
    attributes: dict[str, Any] = {"axis": -1} if model.merge == "concat" else {}
    y = graph.node(MERGES.get(model.merge, "Concat"), [a, b], **attributes)
    graph.zeroed |= {y} if together else set()
    return y


def _alike(a: Operator, b: Operator) -> bool:
    """True if two operators can be the directions of one node."""

    def key(one: Operator) -> Any:
        given = one._replace(w=one.w.shape, r=one.r.shape, activations=())
        return given._replace(b=one.b is None, p=one.p is None)

    return key(a) == key(b)


def _write_operator(graph: _Graph, operators: list[Operator], states: list[list[_State]], at: _Place) -> str:
    """Add a node of one or two directions, with what comes before and after it."""
    first, both = operators[0], len(operators) == 2
    graph.width = first.w.shape[1] if at.x == "xs" else graph.width
    given = {
        "X": at.x,
        **{key: _stacked(graph, operators, key, at) for key in "WRB"},
        "sequence_lens": "lengths" if graph.lengths else "",
        **{
            f"initial_{n}": _start(graph, one, at)
            for n, one in zip("hc", zip(*states, strict=True), strict=False)
        },
        "P": _stacked(graph, operators, "P", at),
    }
    last = [_joined(at.path, name) for name in ("Y_h", "Y_c")[: len(states[0])]]
    direction = "bidirectional" if both else "reverse" if at.reverse else "forward"
    inputs = list(given.values())
    y = graph.node(
        first.kind,
        inputs if given["P"] else inputs[:-1],
        [_joined(at.path, "Y"), *last],
        direction=direction,
        **attributes_of(operators),
    )
    for index, found in enumerate(states):
        place = graph.constant(f"index_{index}", np.array(index, np.int64))
        for name, state in zip(last, found, strict=True):
            graph.node("Gather", [name, place], [_joined("last", state.path)], axis=0)
    graph.starts += [state for found in states for state in found]
    graph.ends += [state for found in states for state in found]
    if at.read:  # (directions, batch, hidden)
        y = graph.node("Transpose", [last[0]], perm=[1, 0, 2])
        return graph.node("Reshape", [y, graph.whole(0, len(operators) * first.hidden)])
    if both:  # (time, 2, batch, hidden)
        y = graph.node("Transpose", [y], perm=[0, 2, 1, 3])
        y = graph.node("Reshape", [y, graph.whole(0, 0, 2 * first.hidden)])
    else:
        y = graph.node("Squeeze", [y, graph.whole(1)])
    graph.zeroed.add(y)
    return y


def _stacked(graph: _Graph, operators: list[Operator], key: str, at: _Place) -> str:
    """The weights of all directions as one constant; "" for none."""
    found = [getattr(one, key.lower()) for one in operators]
    return "" if found[0] is None else graph.constant(_joined(at.path, key), np.stack(found))


def _start(graph: _Graph, states: tuple[_State, ...], at: _Place) -> str:
    """The states of all directions that a node starts from, (directions, batch, hidden); "" for zeros."""
    learned = [state.path for state in states if state.start is not None]
    if graph.carry:
        if learned:
            raise ValueError(
                f"LearnedCarry holds the start of carry.{learned[0]}, and carry=True makes it an input: "
                "write the cell inside, or carry=False"
            )
        parts = [graph.node("Unsqueeze", [_joined("carry", s.path), graph.whole(0)]) for s in states]
        return parts[0] if len(parts) == 1 else graph.node("Concat", parts, axis=0)
    if not learned:
        return ""
    zeros = np.zeros(states[0].width, graph.dtype)
    rows = np.stack([zeros if state.start is None else array_of(state.start, "carry") for state in states])
    start = graph.constant(_joined(at.path, "start", states[0].path), rows[:, None])
    ends = graph.whole(len(states)), graph.size(1), graph.whole(states[0].width)
    return graph.node("Expand", [start, graph.node("Concat", ends, axis=0)])
