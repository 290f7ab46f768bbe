"""The values that a function names with `checkpoint_name`, and those that it returns: read or changed.

Names inside a nested `jit` or loop of the function are not seen.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array
from jax.extend.core import Literal, jaxpr_as_fun

from jrnn._jaxprs.programs import as_function, trace


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
    values = dict(
        zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *jax.tree.leaves(args)), strict=True)
    )
    begin = 0
    for number, place in enumerate((*places, len(jaxpr.eqns))):
        _run_part(jaxpr, begin, place, values)
        if place < len(jaxpr.eqns):
            eqn = jaxpr.eqns[place]
            named_value = eqn.invars[0]
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
    values = dict(program.literals)
    values.update(zip(program.inputs, [*constants, *jax.tree.leaves(args)], strict=True))
    inside: dict[int, int] = {}  # value -> leaf index; the first if several leaves are the same value
    for place in by:
        inside.setdefault(program.outputs[place], place)
    waiting = {value: by[place] for value, place in inside.items()}
    for op in program.ops:
        values.update(zip(op.outputs, op.fun(*(values[i] for i in op.inputs)), strict=True))
        values.update({o: values[o] + waiting.pop(o) for o in op.outputs if o in waiting})
    after = {inside[value]: shift for value, shift in waiting.items()}  # leaves that are inputs, unchanged
    after |= {place: shift for place, shift in by.items() if place not in inside.values()}
    leaves = [values[o] for o in program.outputs]
    leaves = [leaf + after[i] if i in after else leaf for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(jax.tree.structure(result), leaves)


def _run_part(jaxpr: Any, begin: int, end: int, values: dict[Any, Any]) -> None:
    """Run some equations in order, and add the results that are read later to `values`."""
    eqns = jaxpr.eqns[begin:end]
    later = [v for eqn in jaxpr.eqns[end:] for v in eqn.invars] + list(jaxpr.outvars)
    read = {v for v in later if not isinstance(v, Literal)}
    made = [v for eqn in eqns for v in eqn.outvars if v in read]
    used = {v for eqn in eqns for v in eqn.invars if not isinstance(v, Literal)}
    needed = [v for v in values if v in used]
    fun = as_function(jaxpr, eqns, needed, made)
    values.update(zip(made, fun(*(values[v] for v in needed)), strict=True))


def named_types(function: Callable[..., Any], *args: Any) -> list[tuple[str, Any]]:
    """The names and types of values that `function(*args)` names with `checkpoint_name`, in order.

    Names inside a nested `jit` or loop of the function are not seen.
    """
    eqns = jax.make_jaxpr(function)(*args).jaxpr.eqns
    return [(eqn.params["name"], eqn.outvars[0].aval) for eqn in eqns if eqn.primitive.name == "name"]
