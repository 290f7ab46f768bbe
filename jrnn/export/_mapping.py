"""From traced equations to nodes: the table of mappings, and those of primitives with inner functions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jrnn._jaxprs.equations import Equation, equations
from jrnn.export._complex import COMPLEX, PARTWISE
from jrnn.export._graph import (
    Graph,
    Operand,
    Pair,
    Shape,
    Value,
    as_known,
    is_complex,
    is_known,
    known,
    of_array,
    parts_of,
    real_dtype,
    typed,
)
from jrnn.export._primitives import MAPPINGS

# primitives that call a function; their derivative rules are not needed here
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
RANDOM = ("random_", "threefry", "rng_")


def write(graph: Graph, closed: Any, given: Sequence[Operand]) -> list[Operand]:
    """Write the nodes of a traced function; known values are computed now, not by the graph.

    Args:
      graph: receives the nodes.
      closed: the jaxpr.
      given: its inputs.

    Returns:
      Its outputs, which may need broadcasting to their full shapes.

    Raises:
      ValueError: a primitive that ONNX cannot express, with its source line.
    """
    inputs, constants, found, outputs = equations(closed)
    values: dict[Any, Operand] = dict(zip(inputs, given, strict=True))
    values |= {variable: of_array(value) for variable, value in constants.items()}

    def read(atom: Any) -> Operand:
        return of_array(np.asarray(atom.val, atom.aval.dtype)) if hasattr(atom, "val") else values[atom]

    for eqn in found:
        operands = [read(atom) for atom in eqn.inputs]
        results = _evaluated(eqn, values) if _is_static(eqn, operands) else _mapped(graph, eqn, operands)
        values.update(zip(eqn.outputs, results, strict=True))
    return [read(atom) for atom in outputs]


def _is_static(eqn: Equation, operands: list[Operand]) -> bool:
    """True if all operands are known and no shape is symbolic."""
    shapes = [v.aval.shape for v in (*eqn.inputs, *eqn.outputs)]
    concrete = all(isinstance(n, int) for shape in shapes for n in shape)
    return concrete and eqn.primitive not in ("dim_as_value", *CALLS) and all(map(is_known, operands))


def _evaluated(eqn: Equation, values: dict[Any, Operand]) -> list[Operand]:
    variables = dict.fromkeys(v for v in eqn.inputs if not hasattr(v, "val"))
    given = [as_known(values[v], v.aval) for v in variables]
    with jax.transfer_guard("allow"):  # they are NumPy's, as the graph is
        return [of_array(value) for value in eqn.fun(*given)]


def _mapped(graph: Graph, eqn: Equation, operands: list[Operand]) -> list[Operand]:
    name = eqn.primitive
    if name in CALLS:
        return write(graph, eqn.params[CALLS[name]], operands)
    pair = any(isinstance(v, Pair) for v in operands) or any(is_complex(v.aval.dtype) for v in eqn.outputs)
    try:
        if name in LOOPS:
            return LOOPS[name](graph, eqn, operands)
        if pair and name in COMPLEX:
            return [COMPLEX[name](graph, eqn, *operands)]
        if pair and name in PARTWISE:
            sides = ([parts_of(v)[-1 if imag else 0] for v in operands] for imag in (False, True))
            return [
                Pair(*parts) for parts in zip(*(_single(graph, eqn, side) for side in sides), strict=True)
            ]
        if name in MAPPINGS and not pair:
            return _single(graph, eqn, operands)
    except NotImplementedError as error:
        raise ValueError(f"{name}{_at(eqn)} has no ONNX form where {error}") from None
    kind = " of complex numbers" if pair else ""
    hint = ": a model is exported as in evaluation, without noise" if name.startswith(RANDOM) else ""
    raise ValueError(f"ONNX has nothing for the primitive {name!r}{kind}{_at(eqn)}{hint}")


def _single(graph: Graph, eqn: Equation, operands: Sequence[Any]) -> list[Any]:
    found = MAPPINGS[eqn.primitive](graph, eqn, *operands)
    return found if isinstance(found, list) else [found]


def _at(eqn: Equation) -> str:
    return f" at {eqn.line}" if eqn.line else ""


# loops


def _full(graph: Graph, value: Operand, shape: Shape) -> list[Value]:
    """The real parts of a value, each in its full shape."""
    return [graph.full(part, shape) for part in parts_of(value)]


def _entering(graph: Graph, variables: Sequence[Any]) -> tuple[list[Operand], list[Any]]:
    """Inputs of an inner graph for variables, two for a complex one."""
    values: list[Operand] = []
    types = []
    for variable in variables:
        shape, dtype = variable.aval.shape, variable.aval.dtype
        pair = is_complex(dtype)
        parts = [Value(shape, real_dtype(dtype), graph.fresh("in")) for _ in range(2 if pair else 1)]
        types += [typed(part.name, part.shape, part.dtype) for part in parts]
        values.append(Pair(*parts) if pair else parts[0])
    return values, types


def _leaving(graph: Graph, values: Sequence[Operand], variables: Sequence[Any]) -> list[Any]:
    """Types of the outputs of an inner graph, each written there with a unique name."""
    types: dict[str, Any] = {}
    for value, variable in zip(values, variables, strict=True):
        for part in _full(graph, value, variable.aval.shape):
            made = any(part.name in node.output for node in graph.nodes)
            if not made or part.name in types:
                part = graph.emit("Identity", part, like=(part.shape, part.dtype))
            types[part.name] = typed(part.name, part.shape, part.dtype)
    return list(types.values())


def _likes(variables: Sequence[Any]) -> list[tuple[Shape, Any]]:
    """Shapes and dtypes of the results of a loop, two for a complex one."""
    likes = []
    for variable in variables:
        dtype = variable.aval.dtype
        likes += [(variable.aval.shape, real_dtype(dtype))] * (2 if is_complex(dtype) else 1)
    return likes


def _grouped(parts: list[Value], variables: Sequence[Any]) -> list[Operand]:
    """Group the results of a loop, two for a complex one: the inverse of `_likes`."""
    rest = iter(parts)
    pairs = [is_complex(v.aval.dtype) for v in variables]
    return [Pair(next(rest), next(rest)) if pair else next(rest) for pair in pairs]


def _scan(graph: Graph, eqn: Equation, operands: list[Operand]) -> list[Operand]:
    held, carried = eqn.params["num_consts"], eqn.params["num_carry"]
    variables, _, _, results = equations(eqn.params["jaxpr"])
    inner = Graph(graph)
    carry, carry_types = _entering(inner, variables[held : held + carried])
    given, given_types = _entering(inner, variables[held + carried :])
    after = write(inner, eqn.params["jaxpr"], [*operands[:held], *carry, *given])
    leaving = _leaving(inner, after, results)
    inputs = [
        part for v, a in zip(operands, eqn.inputs, strict=True) for part in _full(graph, v, a.aval.shape)
    ]
    inputs = inputs[sum(len(parts_of(v)) for v in operands[:held]) :]
    if not given_types:  # ONNX takes the number of steps from the inputs
        ticks = graph.full(known(np.zeros(1, np.int64)), (eqn.params["length"],))
        inputs.append(ticks)
        given_types = [typed(inner.fresh("in"), (), ticks.dtype)]
    body = inner.proto("step", [*carry_types, *given_types], leaving)
    steps = len(leaving) - len(carry_types)
    back = int(eqn.params["reverse"])
    found = graph.emits(
        "Scan",
        inputs,
        _likes(eqn.outputs),
        body=body,
        num_scan_inputs=len(given_types),
        scan_input_directions=[back] * len(given_types),
        scan_output_directions=[back] * steps,
    )
    return _grouped(found, eqn.outputs)


def _while(graph: Graph, eqn: Equation, operands: list[Operand]) -> list[Operand]:
    asked, held = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    start = operands[asked + held :]
    first = write(graph, test, [*operands[:asked], *start])[0]
    inner = Graph(graph)
    carry, types = _entering(inner, eqn.outputs)
    after = write(inner, body, [*operands[asked : asked + held], *carry])
    flag = write(inner, test, [*operands[:asked], *after])[0]
    out = inner.emit("Identity", *parts_of(flag), like=((), np.dtype(bool)))
    leaving = [typed(out.name, (), bool), *_leaving(inner, after, eqn.outputs)]
    entering = [typed(inner.fresh("turn"), (), np.int64), typed(inner.fresh("go"), (), bool), *types]
    inputs = [p for v, a in zip(start, eqn.outputs, strict=True) for p in _full(graph, v, a.aval.shape)]
    nothing = Value((), np.dtype(np.int64))  # no bound on the number of iterations
    found = graph.emits(
        "Loop",
        [nothing, *parts_of(first), *inputs],
        _likes(eqn.outputs),
        body=inner.proto("turn", entering, leaving),
    )
    return _grouped(found, eqn.outputs)


def _cond(graph: Graph, eqn: Equation, operands: list[Operand]) -> list[Operand]:
    index, *given = operands
    branches = eqn.params["branches"]

    def results(inner: Graph, number: int) -> list[Operand]:
        if number == len(branches) - 1:
            return write(inner, branches[number], given)
        least = known(np.asarray(number + 1, eqn.inputs[0].aval.dtype))
        flag = inner.elementwise("Less", *parts_of(index), least, dtype=bool)
        graphs = {}
        for name in ("then_branch", "else_branch"):
            side = Graph(inner)
            found = write(side, branches[number], given) if name[0] == "t" else results(side, number + 1)
            graphs[name] = side.proto(name, [], _leaving(side, found, eqn.outputs))
        return _grouped(inner.emits("If", [flag], _likes(eqn.outputs), **graphs), eqn.outputs)

    return results(graph, 0)


def _solve(graph: Graph, eqn: Equation, operands: list[Operand]) -> list[Operand]:
    """A custom linear solve: a call of its solver."""
    held = eqn.params["const_lengths"]
    start = held.matvec + held.vecmat
    given = operands[start : start + held.solve] + operands[sum(held) :]
    return write(graph, eqn.params["jaxprs"].solve, given)


LOOPS: dict[str, Callable[[Graph, Equation, list[Operand]], list[Operand]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "custom_linear_solve": _solve,
}
