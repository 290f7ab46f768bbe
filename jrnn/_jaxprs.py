"""All traversal of jaxprs: the ops of a traced function, and its named values."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from jrnn._caching import cached
from jrnn._checks import line_of


@dataclass(frozen=True, eq=False)
class Op:
    """One equation of a traced function, on numbered values."""

    run: Callable[..., Any]  # the values of `inputs` -> a list, the values of `outputs`
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    linear: bool  # a sum or a reshape: the tangent of its result is the op applied to the tangents
    fusible: bool  # XLA fuses it into its neighbors; not a matmul, a gather or anything unknown
    recomputable: bool  # fusible, and cheaper to recompute than to load; not a tanh
    product: bool  # a matmul
    reverse_only: bool  # has no forward-mode derivative, e.g. a custom_vjp
    bounds: tuple[int, int, int] | None  # (axis, start, stop) of a slice along one axis
    primitive: str  # its name; "" for more than one equation
    params: Any  # of the primitive
    operands: tuple[Any, ...]  # all in order: the number of a value, or a literal, which has a `val`
    traceback: Any  # of its line; of the call if it is inside one, which may be traced for another line


@dataclass(frozen=True, eq=False)
class Program:
    """A traced function as a list of ops over numbered values, with calls to inner functions inlined.

    h = tanh(x @ w + h)     inputs (0, 1, 2): w, h, x
                            ops 3 = dot_general(2, 0), 4 = add(3, 1), 5 = tanh(4); outputs (5,)
    """

    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    types: dict[int, Any]  # value -> shape and dtype
    literals: dict[int, Any]  # values known while tracing: literals, and constants of inner functions
    names: dict[int, str]  # value -> the name that `checkpoint_name` gives it
    pure: bool  # False: it has effects (prints, callbacks), so the order and number of its steps matter


# Primitives by name; one that is in no list is costly, opaque and not linear, which is always correct.
_SUMS = "add add_any concatenate expand_dims neg reshape slice split squeeze stack sub tile transpose unstack"
_ARITHMETIC = """
    abs and broadcast_in_dim ceil clamp conj convert_element_type copy copy_p div eq floor ge gt imag
    integer_pow iota is_finite le lt max min mul ne nextafter not one_minus_square or pad pvary real
    reduce_and reduce_max reduce_min reduce_or reduce_sum rem rev round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sqrt square stop_gradient xor
"""
_TRANSCENDENTAL = """
    acos acosh asin asinh atan atan2 atanh cbrt cos cosh custom_jvp_call digamma erf erf_inv erfc exp
    exp2 expm1 lgamma log log1p log2 logistic polynomial pow sin sinh tan tanh
"""
_LINEAR = frozenset(_SUMS.split())
_RECOMPUTABLE = _LINEAR | frozenset(_ARITHMETIC.split())
_FUSIBLE = _RECOMPUTABLE | frozenset(_TRANSCENDENTAL.split())


def trace(function: Callable[..., Any], *types: Any) -> tuple[Program, list[Any], Any]:
    """Trace a function of pytrees into a program; the same function is traced once.

    Args:
      function: any traceable function.
      *types: its arguments, or their types.

    Returns:
      `(program, constants, result)`: the inputs of the program are `constants`, the values that the function
      closes over, followed by the leaves of the arguments; `result` is the tree of result types.
    """
    closed, result = jax.make_jaxpr(function, return_shape=True)(*types)
    return _program(closed.jaxpr), list(closed.consts), result


@cached
def _program(jaxpr: Any) -> Program:
    """Number the values of a jaxpr."""
    numbering = _Numbering(jaxpr)
    inputs = {v: numbering.new(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars)}
    outputs = numbering.visit(jaxpr, dict(inputs))
    known = numbering.types, numbering.literals, numbering.names
    return Program(tuple(numbering.ops), tuple(inputs.values()), outputs, *known, not jaxpr.effects)


class _Numbering:
    """The ops of a jaxpr and of the functions that it calls, in one list, over numbered values."""

    def __init__(self, jaxpr: Any) -> None:
        self.jaxpr = jaxpr
        self.ops: list[Op] = []
        self.types: dict[int, Any] = {}
        self.literals: dict[int, Any] = {}
        self.names: dict[int, str] = {}
        self.computed: dict[Any, tuple[int, ...]] = {}  # (inputs, equation or bounds of a slice) -> outputs

    def new(self, aval: Any) -> int:
        """Number a new value."""
        number = len(self.types)
        self.types[number] = aval
        return number

    def literal(self, value: Any, aval: Any) -> int:
        """Number a known value."""
        number = self.new(aval)
        self.literals[number] = value
        return number

    def visit(self, inner: Any, numbers: dict[Any, int], caller: Any = None) -> tuple[int, ...]:
        """Add the ops of a jaxpr whose inputs have `numbers`, and return the numbers of its outputs."""

        def number_of(atom: Any) -> int:
            return self.literal(atom.val, atom.aval) if isinstance(atom, Literal) else numbers[atom]

        # A function that is called, such as jax.nn.silu, is a jaxpr inside: its equations become ops here.
        for eqn, *more in _by_mesh(inner.eqns, self.jaxpr):
            called = eqn.params.get("jaxpr") if not more else None
            if eqn.primitive.name in ("jit", "pjit", "closed_call") and isinstance(called, ClosedJaxpr):
                inputs = dict(zip(called.jaxpr.invars, map(number_of, eqn.invars), strict=True))
                for var, value in zip(called.jaxpr.constvars, called.consts, strict=True):
                    inputs[var] = self.literal(value, var.aval)
                outputs = self.visit(called.jaxpr, inputs, caller or eqn)
                numbers.update(zip(eqn.outvars, outputs, strict=True))
            elif eqn.primitive.name == "name":  # `checkpoint_name`: an alias of its input
                numbers[eqn.outvars[0]] = named = number_of(eqn.invars[0])
                self.names[named] = eqn.params["name"]
            else:
                self.add([eqn, *more], numbers, caller or eqn)
        return tuple(map(number_of, inner.outvars))

    def add(self, eqns: list[Any], numbers: dict[Any, int], caller: Any) -> None:
        """Add an op, unless an equal one exists: a slice, or an equation of a function called twice."""
        read, made = _interface(eqns)
        inputs = tuple(numbers[v] for v in read)
        key = inputs, (_slice_bounds(eqns[0]) if len(eqns) == 1 else None) or eqns[0]
        if key not in self.computed:
            self.computed[key] = tuple(self.new(v.aval) for v in made)
            numbered = inputs, self.computed[key]
            self.ops.append(_op(self.jaxpr, eqns, (read, made), numbered, caller.source_info.traceback))
        numbers.update(zip(made, self.computed[key], strict=True))


def _slice_bounds(eqn: Any) -> tuple[int, int, int] | None:
    """(axis, start, stop) of an equation that slices a numeric array along one axis."""
    if eqn.primitive.name != "slice" or any(step != 1 for step in eqn.params["strides"] or ()):
        return None
    if not jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.number):  # splitting keys counts as a use
        return None
    shape = eqn.invars[0].aval.shape
    bounds = zip(eqn.params["start_indices"], eqn.params["limit_indices"], shape, strict=True)
    cut = [(axis, a, b) for axis, (a, b, size) in enumerate(bounds) if b - a < size]
    return cut[0] if len(cut) == 1 else None


def merge_slices(ops: list[Op], types: dict[int, Any]) -> list[Op]:
    """Replace slices that together cover an axis of a value, without overlap, by one `lax.split`.

        i = z[:, :4]; f = z[:, 4:8]; o = z[:, 8:]    becomes    i, f, o = split(z, (4, 4, 4), axis=1)

    The transpose of a split concatenates the adjoints; that of slices pads each with zeros and adds them. The
    split takes the place of the first slice, and so precedes all ops that read a part.
    """
    slices_of: dict[tuple[int, int], list[Op]] = {}
    for op in ops:
        if op.bounds:
            slices_of.setdefault((op.inputs[0], op.bounds[0]), []).append(op)
    splits: dict[Op, Op] = {}
    for (value, axis), slices in slices_of.items():
        parts = sorted(slices, key=lambda op: op.bounds or ())
        starts, stops = zip(*(op.bounds[1:] for op in parts if op.bounds), strict=True)
        if (*starts, types[value].shape[axis]) == (0, *stops):
            sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
            run = functools.partial(lax.split, sizes=sizes, axis=axis)
            split = replace(slices[0], run=run, outputs=tuple(op.outputs[0] for op in parts), bounds=None)
            splits |= dict.fromkeys(slices, split)
    return list(dict.fromkeys(splits.get(op, op) for op in ops))


def _mesh(variable: Any) -> Any:
    mesh = getattr(getattr(variable.aval, "sharding", None), "mesh", None)
    return None if mesh is None or mesh.empty else mesh


def _by_mesh(eqns: Iterable[Any], outer: Any) -> Iterator[list[Any]]:
    """Equations one by one, except that those between two changes of mesh (`auto_axes`) form one list.

    Values inside such a region cannot be outputs, as a loop cannot carry values of two meshes. A later
    region that reads them, such as a derivative, recomputes them. All other equations have the mesh of
    `outer`, the jaxpr they come from; if that has none, what a `shard_map` returns is not foreign.
    """
    home = next((mesh for v in (*outer.constvars, *outer.invars) if (mesh := _mesh(v))), None)

    def foreign(variables: list[Any]) -> set[Any]:
        return {v for v in variables if home and not isinstance(v, Literal) and _mesh(v) not in (None, home)}

    region: list[Any] = []
    inside: list[Any] = []  # equations of all regions so far
    for eqn in [*eqns, None]:
        if region and (eqn is None or (not foreign(eqn.invars) and not foreign(region[-1].outvars))):
            made = [e.outvars for e in region]
            needed = set().union(*(foreign(e.invars) for e in region)).difference(*made)
            for earlier in reversed(inside):
                if needed.intersection(earlier.outvars):
                    region.insert(0, earlier)
                    needed |= foreign(earlier.invars)
            yield region
            inside += [e for e in region if not any(e is known for known in inside)]
            region = []
        if eqn is not None and (foreign(eqn.invars) or foreign(eqn.outvars)):
            region.append(eqn)
        elif eqn is not None:
            yield [eqn]


def _interface(eqns: list[Any]) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs of some equations; a region outputs only what is back on the mesh outside."""
    made = [v for eqn in eqns for v in eqn.outvars]
    read = [v for eqn in eqns for v in eqn.invars if not isinstance(v, Literal)]
    outer = list(dict.fromkeys(v for v in read if v not in made))
    return outer, made if len(eqns) == 1 else [v for v in made if _mesh(v) == _mesh(made[-1])]


def _op(jaxpr: Any, eqns: list[Any], variables: tuple[Any, Any], numbers: Any, traceback: Any) -> Op:
    read, made = variables
    kind = eqns[0].primitive.name if len(eqns) == 1 else ""
    inexact = all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in (*read, *made))
    number = dict(zip(read, numbers[0], strict=True))
    return Op(
        _function(jaxpr, eqns, read, made),
        inputs=numbers[0],
        outputs=numbers[1],
        linear=kind in _LINEAR and inexact,
        fusible=kind in _FUSIBLE,
        recomputable=kind in _RECOMPUTABLE,
        product=kind == "dot_general",
        reverse_only=any(map(_is_reverse_only, eqns)),
        bounds=_slice_bounds(eqns[0]) if kind else None,
        primitive=kind,
        params=eqns[0].params,
        operands=tuple(v if isinstance(v, Literal) else number.get(v) for v in eqns[0].invars),
        traceback=traceback,
    )


def _function(jaxpr: Any, eqns: list[Any], read: list[Any], made: list[Any]) -> Callable[..., Any]:
    """Some equations of a jaxpr as a function of their inputs."""
    info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    effects = frozenset().union(*(eqn.effects for eqn in eqns))
    parts = {"constvars": [], "invars": read, "outvars": made, "eqns": eqns, "effects": effects}
    function: Callable[..., Any] = jaxpr_as_fun(ClosedJaxpr(jaxpr.replace(**parts, debug_info=info), ()))
    return function


def _is_reverse_only(eqn: Any) -> bool:
    """True for a custom_vjp, and for an equation that contains one: a branch, a loop, a call."""
    if eqn.primitive.name.startswith("custom_vjp_call"):
        return True
    params = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda value: hasattr(value, "jaxpr"))
    inner = [getattr(value, "jaxpr", value) for value in params]
    return any(_is_reverse_only(eqn) for jaxpr in inner for eqn in getattr(jaxpr, "eqns", ()))


def named_values(
    function: Callable[..., Any], names: tuple[str, ...], *args: Any
) -> tuple[Any, dict[str, tuple[Array, ...]]]:
    """Call `function(*args)`, and also return the values that it names with `checkpoint_name`.

    Names inside a nested `jit` or loop of the function are not seen.

    Args:
      function: any traceable function.
      names: the names to collect.
      *args: its arguments.

    Returns:
      `(result, {name: values in order of appearance})`.

    Raises:
      ValueError: an unknown name; the message lists those that occur.
    """
    closed, out_shape = jax.make_jaxpr(function, return_shape=True)(*args)
    jaxpr = closed.jaxpr
    found = [(eqn.params["name"], eqn.outvars[0]) for eqn in jaxpr.eqns if eqn.primitive.name == "name"]
    present = list(dict.fromkeys(name for name, _ in found))
    for name in names:
        if name not in present:
            raise ValueError(f"the step names no {name!r}; it names {present or 'nothing'}")
    wanted = [(name, var) for name, var in found if name in names]
    outvars = [*jaxpr.outvars, *(var for _, var in wanted)]
    info = jaxpr.debug_info._replace(result_paths=None)
    extended = closed.replace(jaxpr=jaxpr.replace(outvars=outvars, debug_info=info))
    flat = jaxpr_as_fun(extended)(*jax.tree.leaves(args))
    result = jax.tree.unflatten(jax.tree.structure(out_shape), flat[: len(jaxpr.outvars)])
    values = list(zip((name for name, _ in wanted), flat[len(jaxpr.outvars) :], strict=True))
    return result, {n: tuple(v for name, v in values if name == n) for n in names}


def replaced_values(
    function: Callable[..., Any], names: tuple[str, ...], change: Callable[[int, Array], Array], *args: Any
) -> Any:
    """Call `function(*args)` with the values of some names replaced by `change(index, value)`.

    Names inside a nested `jit` or loop of the function are not seen.

    Raises:
      ValueError: none of the names occurs; the message lists those that do.
    """
    closed, out_shape = jax.make_jaxpr(function, return_shape=True)(*args)
    jaxpr = closed.jaxpr
    named = [i for i, eqn in enumerate(jaxpr.eqns) if eqn.primitive.name == "name"]
    places = [i for i in named if jaxpr.eqns[i].params["name"] in names]
    if not places:
        present = list(dict.fromkeys(jaxpr.eqns[i].params["name"] for i in named))
        raise ValueError(f"the step names no {' or '.join(names)}; it names {present or 'nothing'}")
    given = (*closed.consts, *jax.tree.leaves(args))
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), given, strict=True))
    begin = 0
    for number, place in enumerate((*places, len(jaxpr.eqns))):
        _run_part(jaxpr, begin, place, values)
        if place < len(jaxpr.eqns):
            eqn = jaxpr.eqns[place]
            (named_value,) = eqn.invars
            before = named_value.val if isinstance(named_value, Literal) else values[named_value]
            values[eqn.outvars[0]] = change(number, before)
        begin = place + 1
    flat = [v.val if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(out_shape), flat)


def shifted(function: Callable[..., Any], by: Mapping[int, Array], *args: Any) -> Any:
    """Call `function(*args)` with `by[i]` added to leaf i of its result, at the op that computes it.

    Everything that the function later computes from that leaf sees the sum.
    """
    program, constants, result = trace(function, *args)
    given = (*constants, *jax.tree.leaves(args))
    values = program.literals | dict(zip(program.inputs, given, strict=True))
    # value -> leaf index; the first if several leaves are the same value
    inside = {program.outputs[place]: place for place in [*by][::-1]}
    waiting = {value: by[place] for value, place in inside.items()}
    for op in program.ops:
        values.update(zip(op.outputs, op.run(*(values[i] for i in op.inputs)), strict=True))
        values.update({o: values[o] + waiting.pop(o) for o in op.outputs if o in waiting})
    after = {inside[value]: shift for value, shift in waiting.items()}  # leaves that are inputs, unchanged
    after |= {place: shift for place, shift in by.items() if place not in inside.values()}
    leaves = [values[o] + after[i] if i in after else values[o] for i, o in enumerate(program.outputs)]
    return jax.tree.unflatten(jax.tree.structure(result), leaves)


def _run_part(jaxpr: Any, begin: int, end: int, values: dict[Any, Any]) -> None:
    """Run some equations in order, and add the results that are read later to `values`."""
    eqns = jaxpr.eqns[begin:end]
    later = [v for eqn in jaxpr.eqns[end:] for v in eqn.invars] + list(jaxpr.outvars)
    read = {v for v in later if not isinstance(v, Literal)}
    made = [v for eqn in eqns for v in eqn.outvars if v in read]
    used = {v for eqn in eqns for v in eqn.invars if not isinstance(v, Literal)}
    needed = [v for v in values if v in used]
    run = _function(jaxpr, eqns, needed, made)
    values.update(zip(made, run(*(values[v] for v in needed)), strict=True))


def named_types(function: Callable[..., Any], *args: Any) -> list[tuple[str, Any]]:
    """The names and types of values that `function(*args)` names with `checkpoint_name`, in order.

    Names inside a nested `jit` or loop of the function are not seen.
    """
    eqns = jax.make_jaxpr(function)(*args).jaxpr.eqns
    return [(eqn.params["name"], eqn.outvars[0].aval) for eqn in eqns if eqn.primitive.name == "name"]


class Equation(NamedTuple):
    """One traced equation, for export to another format."""

    primitive: str
    params: dict[str, Any]
    inputs: list[Any]  # variables, and literals, which have a value `.val`; both have a type `.aval`
    outputs: list[Any]
    run: Callable[..., Any]  # values of the distinct input variables -> values of the outputs
    line: str  # "file:line" of its origin outside JAX; empty if unknown


def equations(closed: Any) -> tuple[list[Any], dict[Any, Any], list[Equation], list[Any]]:
    """Split a traced function into inputs, constants with known values, equations and outputs."""
    jaxpr = closed.jaxpr if isinstance(closed, ClosedJaxpr) else closed
    found = []
    for eqn in jaxpr.eqns:
        run = _function(jaxpr, [eqn], _interface([eqn])[0], eqn.outvars)
        where = line_of(eqn.source_info.traceback)
        found.append(Equation(eqn.primitive.name, eqn.params, eqn.invars, eqn.outvars, run, where))
    constants = zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True)
    return jaxpr.invars, dict(constants), found, jaxpr.outvars
