"""An ONNX graph while it is written: values, nodes, constants, and the sizes of symbolic axes."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Shape = tuple[Any, ...]  # whole numbers and symbolic sizes
INT64 = np.dtype(np.int64)
# what is computed at once where the operands are known, as places and sizes are
FOLDED: dict[str, Any] = {
    "Add": np.add, "Max": np.maximum, "Min": np.minimum, "Mul": np.multiply, "Sub": np.subtract
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Value:
    """A real value: a name in the graph, or an array that is known and has no name yet."""

    shape: Shape  # as it stands there: an axis of 1 may stand for a longer one until `Graph.full`
    dtype: Any
    name: str = ""
    array: Array | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """A complex value as two real ones: ONNX has no arithmetic of complex numbers."""

    real: Value
    imag: Value


Operand = Value | Pair


class Graph:
    """Nodes in order; the graph of a loop's body reads values of the graph around it by name."""

    def __init__(self, outer: "Graph | None" = None) -> None:
        self.outer = outer
        self.root: Graph = outer.root if outer else self
        self.nodes: list[NodeProto] = []
        if outer is None:
            self.constants: dict[Any, tuple[str, Array]] = {}
            self.sizes: dict[str, Value] = {}  # of axes, by what they are written as
            self.count = 0

    def fresh(self, hint: str) -> str:
        """Make a name that no other value has."""
        self.root.count += 1
        return f"{hint}_{self.root.count}"

    def name(self, value: Value) -> str:
        """Name a value; one that is known becomes a constant, equal ones the same."""
        if value.array is None:
            return value.name
        array = np.ascontiguousarray(value.array).reshape(value.array.shape)
        key = array.dtype, array.shape, array.tobytes()
        held = self.root.constants.setdefault(key, (f"constant_{len(self.root.constants)}", array))
        return held[0]

    def emit(self, kind: str, *inputs: Value, like: tuple[Shape, Any], **attributes: Any) -> Value:
        """Write a node with one result, of this shape and dtype."""
        return self.emits(kind, inputs, [like], **attributes)[0]

    def emits(
        self, kind: str, inputs: Sequence[Value], like: Sequence[tuple[Shape, Any]], **attributes: Any
    ) -> list[Value]:
        """Write a node with several results."""
        names = [self.fresh(kind.lower()) for _ in like]
        attributes = {name: value for name, value in attributes.items() if value != []}  # has no type
        self.nodes.append(helper.make_node(kind, [self.name(v) for v in inputs], names, **attributes))
        return [Value(tuple(s), np.dtype(d), n) for (s, d), n in zip(like, names, strict=True)]

    def elementwise(self, kind: str, *operands: Value, dtype: Any = None) -> Value:
        """Write a node that broadcasts its operands as NumPy does; nothing is spread out before it."""
        if kind in FOLDED and dtype is None and all(v.array is not None for v in operands):
            return known(FOLDED[kind](*(v.array for v in operands)))
        shape = broadcast(*(v.shape for v in operands))
        return self.emit(kind, *operands, like=(shape, operands[0].dtype if dtype is None else dtype))

    def where(self, flags: Value, chosen: Value, other: Value) -> Value:
        """Choose; of booleans by logic, since onnxruntime chooses among numbers only."""
        if chosen.dtype == bool:
            first = self.elementwise("And", flags, chosen)
            second = self.elementwise("And", self.elementwise("Not", flags), other)
            return self.elementwise("Or", first, second)
        shape = broadcast(flags.shape, chosen.shape, other.shape)
        return self.emit("Where", flags, chosen, other, like=(shape, chosen.dtype))

    def cast(self, value: Value, dtype: Any) -> Value:
        """Convert to a dtype."""
        dtype = np.dtype(dtype)
        if value.dtype == dtype:
            return value
        if value.array is not None:
            return known(value.array.astype(dtype))
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        return self.emit("Cast", value, like=(value.shape, dtype), to=kind)

    def full(self, value: Value, shape: Shape) -> Value:
        """Spread a value out to its whole shape, where a node does not broadcast."""
        if value.shape == shape:
            return value
        if value.array is not None and all(isinstance(n, int) for n in shape):
            return known(np.broadcast_to(value.array, shape))
        return self.emit("Expand", value, self.dims(shape), like=(shape, value.dtype))

    def reshape(self, value: Value, shape: Shape) -> Value:
        """Reshape a value that stands there in full."""
        if value.shape == shape:
            return value
        if value.array is not None and all(isinstance(n, int) for n in shape):
            return known(value.array.reshape(shape))
        for kind, short, long in (("Unsqueeze", value.shape, shape), ("Squeeze", shape, value.shape)):
            if (axes := _inserted(short, long)) is not None:
                return self.emit(kind, value, known(np.array(axes)), like=(shape, value.dtype))
        return self.emit("Reshape", value, self.dims(shape), like=(shape, value.dtype), allowzero=1)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Reorder axes."""
        if list(order) == list(range(len(order))):
            return value
        if value.array is not None:
            return known(np.transpose(value.array, order))
        shape = tuple(value.shape[i] for i in order)
        return self.emit("Transpose", value, like=(shape, value.dtype), perm=[int(i) for i in order])

    def dims(self, shape: Shape) -> Value:
        """Make the vector of sizes; those with symbolic ones are computed once, outside of all loops."""
        if all(isinstance(n, int) for n in shape):
            return known(np.array(shape, np.int64).reshape(len(shape)))
        parts = [self.size(n) for n in shape]
        key = "×".join(map(str, shape))
        root = self.root
        if key not in root.sizes:
            root.sizes[key] = root.emit("Concat", *parts, like=((len(shape),), INT64), axis=0)
        return root.sizes[key]

    def size(self, size: Any) -> Value:
        """Make the vector of one size; a symbolic one is computed as it is written, such as `2*b + 1`."""
        key = str(size)
        if isinstance(size, int):
            return known(np.array([size], np.int64))
        if key not in self.root.sizes:
            tree = ast.parse(key.replace("^", "**"), mode="eval").body
            self.root.sizes[key] = _computed(self.root, tree)
        return self.root.sizes[key]

    def scalar(self, size: Any, dtype: Any = INT64) -> Value:
        """Make a size as a value without axes."""
        if isinstance(size, int):
            return known(np.asarray(size, dtype))
        found = self.size(size)
        return self.cast(self.emit("Squeeze", found, like=((), found.dtype)), dtype)

    def proto(
        self,
        name: str,
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        defaults: Sequence[TensorProto] = (),
    ) -> GraphProto:
        """Make the graph; the outermost holds the constants, and defaults of its inputs."""
        held = [] if self.outer else [numpy_helper.from_array(a, n) for n, a in self.constants.values()]
        return helper.make_graph(self.nodes, name, inputs, outputs, [*held, *defaults])


def known(array: Any) -> Value:
    """Make the value of an array that is known while the graph is written."""
    array = np.asarray(array)
    return Value(array.shape, array.dtype, array=array)


def broadcast(*shapes: Shape) -> Shape:
    """Broadcast shapes as NumPy does; symbolic sizes are longer than 1."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((n for n in sizes if not _is_one(n)), 1) for sizes in zip(*padded, strict=True))


def _inserted(short: Shape, long: Shape) -> list[int] | None:
    """The axes of 1 by which a shape is longer than another; None if they differ by more."""
    axes, rest = [], list(short)
    for axis, size in enumerate(long):
        if rest and size == rest[0]:
            rest.pop(0)
        elif _is_one(size):
            axes.append(axis)
        else:
            return None
    return None if rest else axes


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def typed(name: str, shape: Shape, dtype: Any) -> ValueInfoProto:
    """Type of an input or output of a graph."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, [n if isinstance(n, int) else str(n) for n in shape])


def _computed(graph: Graph, tree: Any) -> Value:
    """Write what a symbolic size is computed by, as a vector of one number."""
    like = (1,), INT64
    if isinstance(tree, ast.Constant):
        return known(np.array([tree.value], np.int64))
    if isinstance(tree, ast.UnaryOp):
        return graph.emit("Neg", _computed(graph, tree.operand), like=like)
    if isinstance(tree, ast.Name):
        return graph.sizes[tree.id]
    if isinstance(tree, ast.BinOp):
        kind = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Pow: "Pow"}[type(tree.op)]
        return graph.emit(kind, _computed(graph, tree.left), _computed(graph, tree.right), like=like)
    name, (a, b) = tree.func.id, (_computed(graph, arg) for arg in tree.args)
    if name in ("max", "min"):
        return graph.emit(name.capitalize(), a, b, like=like)
    left = graph.emit("Mod", a, b, like=like)  # of the sign of b, as in Python
    return left if name == "mod" else graph.emit("Div", graph.emit("Sub", a, left, like=like), b, like=like)


def as_known(value: Operand, aval: Any) -> Any:
    """The array of a value that is known, in its whole shape, complex again if it is a pair."""
    if isinstance(value, Pair):
        parts = np.asarray(value.real.array), np.asarray(value.imag.array)
        return np.broadcast_to(parts[0] + 1j * parts[1], aval.shape).astype(aval.dtype)
    whole: Any = value.array
    return whole if value.shape == aval.shape else np.broadcast_to(whole, aval.shape)


def is_known(value: Operand) -> bool:
    """Whether a value is an array already."""
    parts = (value.real, value.imag) if isinstance(value, Pair) else (value,)
    return all(part.array is not None for part in parts)


def of_array(array: Any) -> Operand:
    """Make a value, or a pair, of an array that is known; a random key stays what it is."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return Value(array.shape, array.dtype, array=array)
    array = np.asarray(jax.device_get(array))
    if np.iscomplexobj(array):
        return Pair(known(array.real), known(array.imag))
    return known(array)


def parts_of(value: Operand) -> list[Value]:
    """The real values that a value consists of."""
    return [value.real, value.imag] if isinstance(value, Pair) else [value]


def is_complex(dtype: Any) -> bool:
    """Whether numbers of a dtype are pairs here."""
    return jnp.issubdtype(dtype, jnp.complexfloating)


def real_dtype(dtype: Any) -> Any:
    """The dtype of the parts of a complex number, or of a real one the same."""
    return np.empty(0, dtype).real.dtype if is_complex(dtype) else np.dtype(dtype)


def result(eqn: Any) -> tuple[tuple[Any, ...], Any]:
    """Shape and dtype of the result."""
    aval = eqn.outputs[0].aval
    return tuple(aval.shape), real_dtype(aval.dtype)


def whole(graph: Graph, eqn: Any, place: int, value: Value) -> Value:
    """An operand in its whole shape."""
    return graph.full(value, tuple(eqn.inputs[place].aval.shape))
