"""Equations that must stay together, as values between them live on another mesh (`auto_axes`)."""

from collections.abc import Iterable, Iterator
from typing import Any

from jax.extend.core import Literal


def regions(eqns: Iterable[Any], outer: Any) -> Iterator[list[Any]]:
    """Equations one by one, except that those between two changes of mesh form one list.

        a = f(x)          mesh of the jaxpr      [a]
        b = reshard(a)    other mesh             [b, c, d]: d is the first that is back, and the only output
        c = g(b)          other mesh
        d = reshard(c)    mesh of the jaxpr

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
        # A region ends where neither the next equation nor the results of the last are foreign.
        if region and (eqn is None or (not foreign(eqn.invars) and not foreign(region[-1].outvars))):
            region = _with_earlier(region, inside, foreign)
            yield region
            inside += [e for e in region if not any(e is known for known in inside)]
            region = []
        if eqn is not None and (foreign(eqn.invars) or foreign(eqn.outvars)):
            region.append(eqn)
        elif eqn is not None:
            yield [eqn]


def _with_earlier(region: list[Any], inside: list[Any], foreign: Any) -> list[Any]:
    """A region, after the equations of earlier ones whose foreign results it reads."""
    needed: set[Any] = set()
    for eqn in region:
        needed |= foreign(eqn.invars)
    needed = needed.difference(*(eqn.outvars for eqn in region))
    for earlier in reversed(inside):
        if needed.intersection(earlier.outvars):
            region = [earlier, *region]
            needed |= foreign(earlier.invars)
    return region


def _mesh(variable: Any) -> Any:
    mesh = getattr(getattr(variable.aval, "sharding", None), "mesh", None)
    return None if mesh is None or mesh.empty else mesh


def interface(eqns: list[Any]) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs of some equations; a region outputs only what is back on the mesh outside."""
    made = [v for eqn in eqns for v in eqn.outvars]
    used = [v for eqn in eqns for v in eqn.invars if not isinstance(v, Literal)]
    inputs = list(dict.fromkeys(v for v in used if v not in made))
    return inputs, made if len(eqns) == 1 else [v for v in made if _mesh(v) == _mesh(made[-1])]
