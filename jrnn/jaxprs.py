"""The one file that walks jaxprs: what a step names inside."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.extend.core import jaxpr_as_fun


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
