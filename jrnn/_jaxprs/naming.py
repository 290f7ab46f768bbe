"""The values that a function names with `checkpoint_name`, and those that it returns: read or changed.

Names inside a nested `jit` or loop of the function are not seen.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array
from jax.extend.core import Literal, jaxpr_as_fun

from jrnn._jaxprs.programs import Env, as_function, eval_ops, read, trace


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
    variables: dict[str, list[Any]] = {}  # name -> the variables of that name, in order
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "name":
            variables.setdefault(eqn.params["name"], []).append(eqn.outvars[0])
    for name in names:
        if name not in variables:
            raise ValueError(f"the step names no {name!r}; it names {list(variables) or 'nothing'}")
    # The same jaxpr with these variables among its outputs, after its own.
    outvars = list(jaxpr.outvars)
    for name in names:
        outvars += variables[name]
    info = jaxpr.debug_info._replace(result_paths=None)
    extended = closed.replace(jaxpr=jaxpr.replace(outvars=outvars, debug_info=info))
    arrays = iter(jaxpr_as_fun(extended)(*jax.tree.leaves(args)))
    leaves = list(itertools.islice(arrays, len(jaxpr.outvars)))
    values = {name: tuple(itertools.islice(arrays, len(variables[name]))) for name in names}
    return jax.tree.unflatten(jax.tree.structure(out_shape), leaves), values


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
    # The equations from one such name to the next are one function; the last part ends the jaxpr.
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
    program, closed_over, result_types = trace(function, *args)
    arrays = [*closed_over, *jax.tree.leaves(args)]
    env: Env = program.literals | dict(zip(program.inputs, arrays, strict=True))
    inside: dict[int, int] = {}  # value -> leaf index; the first if several leaves are the same value
    for place in by:
        inside.setdefault(program.outputs[place], place)
    waiting = {value: by[place] for value, place in inside.items()}
    for op in program.ops:
        eval_ops([op], env)
        for value in op.outputs:
            if value in waiting:
                env[value] = env[value] + waiting.pop(value)
    # Added at the end: to leaves that are inputs, unchanged, and to further leaves of the same value.
    after = {inside[value]: shift for value, shift in waiting.items()}
    after |= {place: shift for place, shift in by.items() if place not in inside.values()}
    leaves = list(read(env, program.outputs))
    for place, shift in after.items():
        leaves[place] = leaves[place] + shift
    return jax.tree.unflatten(jax.tree.structure(result_types), leaves)


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
