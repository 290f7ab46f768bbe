"""The one file that walks jaxprs: the ops of a traced function, and what it names inside."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun


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


@dataclass(frozen=True, eq=False)
class Program:
    """A traced function as a list of ops over numbered values, calls to inner functions written out."""

    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    types: dict[int, Any]  # value -> shape and dtype
    known: dict[int, Any]  # values that are known already: literals, and constants of inner functions
    pure: bool  # False: it prints, or calls back; then the order and the number of its steps count


Slices = dict[tuple[int, int], dict[tuple[int, int], list[Op]]]  # (value, axis) -> (start, stop) -> ops

_SUMS = "add add_any concatenate expand_dims neg reshape slice split squeeze sub transpose"
_ARITHMETIC = """
    abs and broadcast_in_dim ceil clamp conj convert_element_type copy copy_p div eq floor ge gt imag
    integer_pow iota is_finite le lt max min mul ne nextafter not or pvary real reduce_and
    reduce_max reduce_min reduce_or reduce_sum rem rev round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sqrt square stop_gradient xor
"""
_TRANSCENDENTAL = """
    acos acosh asin asinh atan atan2 atanh cbrt cos cosh custom_jvp_call digamma erf erf_inv erfc exp
    exp2 expm1 lgamma log log1p logistic pow sin sinh tan tanh
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


@functools.lru_cache(maxsize=1024)
def _program(jaxpr: Any) -> Program:
    """Number the values of a jaxpr."""
    ops: list[Op] = []
    types: dict[int, Any] = {}
    known: dict[int, Any] = {}
    slices: Slices = {}

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

        for eqn in inner.eqns:
            called = eqn.params.get("jaxpr")
            if eqn.primitive.name in ("jit", "pjit", "closed_call") and isinstance(called, ClosedJaxpr):
                given = dict(zip(called.jaxpr.invars, map(name, eqn.invars), strict=True))
                held = zip(called.jaxpr.constvars, called.consts, strict=True)
                given |= {var: constant(value, var.aval) for var, value in held}
                names.update(zip(eqn.outvars, visit(called.jaxpr, given), strict=True))
                continue
            inputs = tuple(names[v] for v in eqn.invars if not isinstance(v, Literal))
            if eqn.primitive.name == "name":  # for others to read
                names[eqn.outvars[0]] = name(eqn.invars[0])
                continue
            names.update({v: number(v.aval) for v in eqn.outvars})
            ops.append(_op(jaxpr, eqn, inputs, tuple(names[v] for v in eqn.outvars)))
            if place := _place(eqn):
                slices.setdefault((inputs[0], place[0]), {}).setdefault(place[1], []).append(ops[-1])
        return tuple(map(name, inner.outvars))

    inputs = {v: number(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars)}
    outputs = visit(jaxpr, dict(inputs))
    joined = tuple(_joined(ops, slices, types))
    return Program(joined, tuple(inputs.values()), outputs, types, known, not jaxpr.effects)


def _place(eqn: Any) -> tuple[int, tuple[int, int]] | None:
    """(axis, (start, stop)) of an equation that takes a slice along one axis."""
    if eqn.primitive.name != "slice" or eqn.params["strides"] or isinstance(eqn.invars[0], Literal):
        return None
    bounds = list(zip(eqn.params["start_indices"], eqn.params["limit_indices"], strict=True))
    shape = eqn.invars[0].aval.shape
    cut = [(axis, bound) for axis, bound in enumerate(bounds) if bound != (0, shape[axis])]
    return cut[0] if len(cut) == 1 else None


def _joined(ops: list[Op], slices: Slices, types: dict[int, Any]) -> list[Op]:
    """Make slices one split where a value falls into them, one after the other.

    The adjoint of a split joins the parts; those of slices are filled up with zeros, each, and added.
    """
    splits: dict[Op, Op] = {}
    left: set[Op] = set()
    for (value, axis), found in slices.items():
        bounds = sorted(found)
        starts, stops = zip(*bounds, strict=True)
        if (*starts, types[value].shape[axis]) == (0, *stops):
            parts = [op for bound in bounds for op in found[bound]]
            left.update(parts)
            run = functools.partial(_parts, [(b - a, len(found[a, b])) for a, b in bounds], axis)
            first = next(iter(found.values()))[0]
            splits[first] = replace(first, run=run, outputs=tuple(o for op in parts for o in op.outputs))
    return [splits.get(op, op) for op in ops if op in splits or op not in left]


def _parts(sizes: list[tuple[int, int]], axis: int, value: Array) -> list[Array]:
    """Parts of a value along an axis, each given as (its size, how many times it is wanted)."""
    parts = lax.split(value, [size for size, _ in sizes], axis)
    return [part for part, (_, count) in zip(parts, sizes, strict=True) for _ in range(count)]


def _op(jaxpr: Any, eqn: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Op:
    atoms = [v for v in eqn.invars if not isinstance(v, Literal)]
    variables = list(dict.fromkeys(atoms))
    info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    parts = {"constvars": [], "invars": variables, "outvars": list(eqn.outvars), "eqns": [eqn]}
    run = jaxpr_as_fun(ClosedJaxpr(jaxpr.replace(**parts, effects=eqn.effects, debug_info=info), ()))
    distinct = tuple(dict(zip(atoms, inputs, strict=True)).values())
    kind = eqn.primitive.name
    inexact = all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in (*atoms, *eqn.outvars))
    return Op(
        run,
        distinct,
        outputs,
        kind in _LINEAR and inexact,
        kind in _CHEAP,
        kind in _QUICK,
        kind == "dot_general",
    )


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
