"""The one file that walks jaxprs: the ops of a traced function, and what it names inside."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from jrnn._caching import cached


@dataclass(frozen=True, eq=False)
class Op:
    """One equation of a traced function: values in, values out."""

    run: Callable[..., Any]  # the values of `inputs` -> a list, the values of `outputs`
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    linear: bool  # a sum or a change of shape: its tangents are the op itself
    cheap: bool  # fuses into its neighbours; a product, a gather or anything unknown is not
    quick: bool  # besides, its result is sooner computed again than read back; a tanh is not
    product: bool  # of matrices
    reverse_only: bool  # differentiated in reverse mode alone, as a custom_vjp is
    part: tuple[int, int, int] | None  # (axis, start, stop) of a slice along one axis
    primitive: str  # its name
    params: Any  # of the primitive
    operands: tuple[Any, ...]  # all in order: the number of a value, or a literal, which has a `val`


@dataclass(frozen=True, eq=False)
class Program:
    """A traced function as a list of ops over numbered values, calls to inner functions written out."""

    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    types: dict[int, Any]  # value -> shape and dtype
    known: dict[int, Any]  # values that are known already: literals, and constants of inner functions
    pure: bool  # False: it prints, or calls back; then the order and the number of its steps count


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
_QUICK = _LINEAR | frozenset(_ARITHMETIC.split())
_CHEAP = _QUICK | frozenset(_TRANSCENDENTAL.split())


def trace(function: Callable[..., Any], *types: Any) -> tuple[Program, list[Any], Any]:
    """Trace a function of trees into a program; a function that stays the same is traced once.

    Args:
      function: any traceable function.
      *types: its arguments, or their types.

    Returns:
      `(program, constants, result)`: the program's inputs are `constants`, the values that the function
      closes over, then the leaves of the arguments; `result` is the tree of the result's types.
    """
    closed, result = jax.make_jaxpr(function, return_shape=True)(*types)
    return _program(closed.jaxpr), list(closed.consts), result


@cached
def _program(jaxpr: Any) -> Program:
    """Number the values of a jaxpr."""
    ops: list[Op] = []
    types: dict[int, Any] = {}
    known: dict[int, Any] = {}
    taken: dict[Any, tuple[int, ...]] = {}

    def number(aval: Any) -> int:
        types[len(types)] = aval
        return len(types) - 1

    def constant(value: Any, aval: Any) -> int:
        found = number(aval)
        known[found] = value
        return found

    def visit(inner: Any, names: dict[Any, int]) -> tuple[int, ...]:
        def name(atom: Any) -> int:
            return constant(atom.val, atom.aval) if isinstance(atom, Literal) else names[atom]

        for eqn, *more in _together(inner.eqns, jaxpr):
            called = eqn.params.get("jaxpr") if not more else None
            if eqn.primitive.name in ("jit", "pjit", "closed_call") and isinstance(called, ClosedJaxpr):
                given = dict(zip(called.jaxpr.invars, map(name, eqn.invars), strict=True))
                held = zip(called.jaxpr.constvars, called.consts, strict=True)
                given |= {var: constant(value, var.aval) for var, value in held}
                names.update(zip(eqn.outvars, visit(called.jaxpr, given), strict=True))
                continue
            read, made = _ends([eqn, *more])
            key = tuple(names[v] for v in read), _part(eqn) or id(eqn)
            same = (name(eqn.invars[0]),) if eqn.primitive.name == "name" else taken.get(key)
            if same is None:
                names.update({v: number(v.aval) for v in made})
                taken[key] = tuple(names[v] for v in made)
                ops.append(_op(jaxpr, [eqn, *more], (read, made), (key[0], taken[key])))
            else:  # a name is for others to read, and an equal slice has been taken
                names.update(zip(eqn.outvars, same, strict=True))
        return tuple(map(name, inner.outvars))

    inputs = {v: number(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars)}
    outputs = visit(jaxpr, dict(inputs))
    return Program(tuple(ops), tuple(inputs.values()), outputs, types, known, not jaxpr.effects)


def _part(eqn: Any) -> tuple[int, int, int] | None:
    """(axis, start, stop) of an equation that takes a slice of numbers along one axis."""
    if eqn.primitive.name != "slice" or any(step != 1 for step in eqn.params["strides"] or ()):
        return None
    if not jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.number):  # of keys, a split counts as a use
        return None
    shape = eqn.invars[0].aval.shape
    bounds = zip(eqn.params["start_indices"], eqn.params["limit_indices"], shape, strict=True)
    cut = [(axis, a, b) for axis, (a, b, size) in enumerate(bounds) if b - a < size]
    return cut[0] if len(cut) == 1 else None


def joined(ops: list[Op], types: dict[int, Any]) -> list[Op]:
    """Make one split of the slices of a value, where all of them along an axis follow on one another.

    The adjoint of a split joins the parts again; that of each slice fills it up with zeros, and all of them
    are added. A split stands where the first slice stood, so before all that reads its parts.
    """
    found: dict[tuple[int, int], list[Op]] = {}
    for op in ops:
        if op.part:
            found.setdefault((op.inputs[0], op.part[0]), []).append(op)
    splits: dict[Op, Op] = {}
    for (value, axis), slices in found.items():
        parts = sorted(slices, key=lambda op: op.part or ())
        starts, stops = zip(*(op.part[1:] for op in parts if op.part), strict=True)
        if (*starts, types[value].shape[axis]) == (0, *stops):
            sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
            run = functools.partial(lax.split, sizes=sizes, axis=axis)
            split = replace(slices[0], run=run, outputs=tuple(op.outputs[0] for op in parts), part=None)
            splits |= dict.fromkeys(slices, split)
    return list(dict.fromkeys(splits.get(op, op) for op in ops))


def _mesh(variable: Any) -> Any:
    mesh = getattr(getattr(variable.aval, "sharding", None), "mesh", None)
    return None if mesh is None or mesh.empty else mesh


def _together(eqns: Iterable[Any], outer: Any) -> Iterator[list[Any]]:
    """Equations one by one; those between two changes of mesh, as `auto_axes` makes them, as one list.

    What such a part computes inside cannot be handed out: no loop carries values of two meshes. A later part
    that reads it, as a derivative does, computes it again. The mesh of all others is that of `outer`, the
    jaxpr that they come from.
    """
    home = next((mesh for v in (*outer.constvars, *outer.invars) if (mesh := _mesh(v))), None)

    def foreign(variables: list[Any]) -> set[Any]:
        return {v for v in variables if not isinstance(v, Literal) and _mesh(v) not in (None, home)}

    part: list[Any] = []
    inside: dict[int, Any] = {}  # equations of all parts so far
    for eqn in [*eqns, None]:
        if part and (eqn is None or (not foreign(eqn.invars) and not foreign(part[-1].outvars))):
            needed = set().union(*(foreign(e.invars) for e in part)).difference(*(e.outvars for e in part))
            for earlier in reversed(inside.values()):
                if needed.intersection(earlier.outvars):
                    part.insert(0, earlier)
                    needed |= foreign(earlier.invars)
            yield part
            inside |= {id(e): e for e in part}
            part = []
        if eqn is not None and (foreign(eqn.invars) or foreign(eqn.outvars)):
            part.append(eqn)
        elif eqn is not None:
            yield [eqn]


def _ends(eqns: list[Any]) -> tuple[list[Any], list[Any]]:
    """Variables that equations read, and those that they hand out, the last of a change of mesh alone."""
    made = [v for eqn in eqns for v in eqn.outvars]
    read = [v for eqn in eqns for v in eqn.invars if not isinstance(v, Literal)]
    outer = list(dict.fromkeys(v for v in read if v not in made))
    return outer, made if len(eqns) == 1 else [v for v in made if _mesh(v) == _mesh(made[-1])]


def _op(jaxpr: Any, eqns: list[Any], ends: tuple[list[Any], list[Any]], names: tuple[Any, Any]) -> Op:
    read, made = ends
    info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    parts = {"constvars": [], "invars": read, "outvars": made, "eqns": eqns}
    effects = frozenset().union(*(eqn.effects for eqn in eqns))
    run = jaxpr_as_fun(ClosedJaxpr(jaxpr.replace(**parts, effects=effects, debug_info=info), ()))
    kind = eqns[0].primitive.name if len(eqns) == 1 else ""
    inexact = all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in (*read, *made))
    numbers = dict(zip(read, names[0], strict=True))
    return Op(
        run,
        *names,
        kind in _LINEAR and inexact,
        kind in _CHEAP,
        kind in _QUICK,
        kind == "dot_general",
        any(map(_is_reverse_only, eqns)),
        _part(eqns[0]) if kind else None,
        kind,
        eqns[0].params,
        tuple(v if isinstance(v, Literal) else numbers.get(v) for v in eqns[0].invars),
    )


def _is_reverse_only(eqn: Any) -> bool:
    """True for a custom_vjp, and for what holds one: in a branch, in the body of a loop, in a call."""
    if eqn.primitive.name.startswith("custom_vjp_call"):
        return True
    params = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda value: hasattr(value, "jaxpr"))
    inner = [getattr(value, "jaxpr", value) for value in params]
    return any(_is_reverse_only(eqn) for jaxpr in inner for eqn in getattr(jaxpr, "eqns", ()))


def named_values(
    function: Callable[..., Any], names: tuple[str, ...], *args: Any
) -> tuple[Any, dict[str, tuple[Array, ...]]]:
    """Call `function(*args)` and also return what it named with `checkpoint_name`.

    Names inside a nested `jit` or loop of the function are not seen.

    Args:
      function: any traceable function.
      names: the names to collect.
      *args: its arguments.

    Returns:
      `(result, {name: values in order of appearance})`.

    Raises:
      ValueError: a name does not occur; the message lists those that do.
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
    """Call `function(*args)` with what it names replaced by `change(number in order of appearance, value)`.

    Names inside a nested `jit` or loop of the function are not seen.

    Args:
      function: any traceable function.
      names: the names of what is replaced.
      change: what stands in its place.
      *args: its arguments.

    Returns:
      The result.

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
    values = dict(
        zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *jax.tree.leaves(args)), strict=True)
    )
    begin = 0
    for number, place in enumerate((*places, len(jaxpr.eqns))):
        _run_part(jaxpr, begin, place, values)
        if place < len(jaxpr.eqns):
            eqn = jaxpr.eqns[place]
            named_value = eqn.invars[0]
            known = named_value.val if isinstance(named_value, Literal) else values[named_value]
            values[eqn.outvars[0]] = change(number, known)
        begin = place + 1
    flat = [v.val if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(out_shape), flat)


def shifted(function: Callable[..., Any], by: Mapping[int, Array], *args: Any) -> Any:
    """Call `function(*args)` with something added to leaves of its result, where they are computed.

    All that the function computes of such a leaf afterwards sees the sum.

    Args:
      function: any traceable function.
      by: what is added to the leaf of each number.
      *args: its arguments.

    Returns:
      The result.
    """
    program, constants, result = trace(function, *args)
    values = dict(program.known)
    values.update(zip(program.inputs, [*constants, *jax.tree.leaves(args)], strict=True))
    inside: dict[int, int] = {}  # value -> place; of two leaves that are one value, the first
    for place in by:
        inside.setdefault(program.outputs[place], place)
    waiting = {value: by[place] for value, place in inside.items()}
    for op in program.ops:
        values.update(zip(op.outputs, op.run(*(values[i] for i in op.inputs)), strict=True))
        values.update({o: values[o] + waiting.pop(o) for o in op.outputs if o in waiting})
    after = {inside[value]: shift for value, shift in waiting.items()}  # handed on as it came
    after |= {place: shift for place, shift in by.items() if place not in inside.values()}
    leaves = [values[o] for o in program.outputs]
    leaves = [leaf + after[i] if i in after else leaf for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(jax.tree.structure(result), leaves)


def _run_part(jaxpr: Any, begin: int, end: int, values: dict[Any, Any]) -> None:
    """Run some equations one after the other, and add what is read later to `values`."""
    eqns = jaxpr.eqns[begin:end]
    later = [v for eqn in jaxpr.eqns[end:] for v in eqn.invars] + list(jaxpr.outvars)
    read = {v for v in later if not isinstance(v, Literal)}
    made = [v for eqn in eqns for v in eqn.outvars if v in read]
    used = {v for eqn in eqns for v in eqn.invars if not isinstance(v, Literal)}
    given = [v for v in values if v in used]
    info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    parts = {"constvars": [], "invars": given, "outvars": made, "eqns": eqns}
    run = jaxpr_as_fun(ClosedJaxpr(jaxpr.replace(**parts, debug_info=info), ()))
    values.update(zip(made, run(*(values[v] for v in given)), strict=True))


def named_types(function: Callable[..., Any], *args: Any) -> list[tuple[str, Any]]:
    """What `function(*args)` names with `checkpoint_name`: names and types, in order of appearance.

    Names inside a nested `jit` or loop of the function are not seen.
    """
    eqns = jax.make_jaxpr(function)(*args).jaxpr.eqns
    return [(eqn.params["name"], eqn.outvars[0].aval) for eqn in eqns if eqn.primitive.name == "name"]
