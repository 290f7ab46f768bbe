"""A jaxpr equation by equation, for export to another format."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr

from jrnn._checks import line_of
from jrnn._jaxprs.programs import as_function
from jrnn._jaxprs.regions import interface


class Equation(NamedTuple):
    """One traced equation, for export to another format."""

    primitive: str
    params: dict[str, Any]
    inputs: list[Any]  # variables, and literals, which have a value `.val`; both have a type `.aval`
    outputs: list[Any]
    fun: Callable[..., Any]  # values of the distinct input variables -> values of the outputs
    line: str  # "file:line" of its origin outside JAX; empty if unknown


def equations(closed: Any) -> tuple[list[Any], dict[Any, Any], list[Equation], list[Any]]:
    """Split a traced function into inputs, constants with known values, equations and outputs."""
    jaxpr = closed.jaxpr if isinstance(closed, ClosedJaxpr) else closed
    found = []
    for eqn in jaxpr.eqns:
        fun = as_function(jaxpr, [eqn], interface([eqn])[0], eqn.outvars)
        where = line_of(eqn.source_info.traceback)
        found.append(Equation(eqn.primitive.name, eqn.params, eqn.invars, eqn.outvars, fun, where))
    constants = zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True)
    return jaxpr.invars, dict(constants), found, jaxpr.outvars
