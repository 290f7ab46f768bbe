"""Inputs and outputs of an exported model: names and types of leaves, and the traced function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import export, lax

from jrnn._checks import brief, require_model
from jrnn.cell import in_ndim, structure_of
from jrnn.data import Pair
from jrnn.layers import apply
from jrnn.unrolling import Scan
from jrnn.unrolling.methods import Loop, Method

TIME, BATCH, SOURCE = "time", "batch", "source"  # the last is the time of a pair's source


@dataclass(frozen=True)
class Written:
    """The loop step by step as written, so that the exported graph is readable."""

    def run(self, loop: Loop[Any, Any, Any]) -> tuple[Any, Any]:
        """Run `lax.scan` over the body of a loop."""

        def body(carry: Any, x: Any) -> tuple[Any, Any]:
            return loop.body(loop.consts, carry, x)

        return lax.scan(body, loop.carry, loop.inputs, reverse=loop.reverse)


@dataclass(frozen=True, eq=False)
class Signature:
    """A model as a function of types with symbolic time and batch."""

    xs: Any
    lengths: Any
    carry: Any  # types of the carry
    spatial: tuple[int, ...]  # batch axes after the first
    start: Callable[[Any], Any]  # params -> the initial carry of one row
    run: Callable[..., Any]  # (params, xs, lengths or None, carry or None) -> (carry, ys)


def signature(where: str, model: Any, params: Any, xs: Any, method: Method = Scan()) -> Signature:
    """Derive the signature of a model from inputs, with symbolic sizes of time and batch.

    Raises:
      TypeError: not a model.
      ValueError: inputs without axes of time and batch.
    """
    require_model(f"{where}: model", model)
    leaves = jax.tree.leaves(xs)
    least = 2 + in_ndim(model)
    if not leaves or any(len(getattr(leaf, "shape", ())) < 2 for leaf in leaves) or leaves[0].ndim < least:
        raise ValueError(f"{where}: xs must be inputs (time, batch, ...), got {brief(xs)}")
    time, batch, source = export.symbolic_shape(f"{TIME}, {BATCH}, {SOURCE}")

    def typed(leaf: Any, steps: Any = time) -> Any:
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct((steps, batch, *leaf.shape[2:]), dtype)

    first = leaves[0].shape
    spatial = tuple(first[2 : len(first) - in_ndim(model)])

    def run(params: Any, xs: Any, lengths: Any, carry: Any) -> Any:
        return apply(model, params, xs, carry, lengths=lengths, method=method)

    def start(params: Any, rows: Any = 1) -> Any:
        return model.initial_carry(params, (rows, *spatial))

    types = jax.tree.map(typed, xs)
    if isinstance(xs, Pair):
        read = jax.tree.map(lambda leaf: typed(leaf, source), (xs.source, xs.source_mask))
        types = types._replace(source=read[0], source_mask=read[1])
    carry = jax.eval_shape(lambda p: start(p, batch), params)
    after, _ = jax.eval_shape(run, params, types, None, None)
    if structure_of(after) == structure_of(carry):  # a step may compute in a wider dtype
        carry = jax.tree.map(lambda a, b: jax.ShapeDtypeStruct(a.shape, b.dtype), carry, after)
    return Signature(types, jax.ShapeDtypeStruct((batch,), jnp.int32), carry, spatial, start, run)


def named(name: str, tree: Any) -> dict[str, Any]:
    """Leaves of a tree by names such as `carry.0.h`; for a single array, just the name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(filter(None, (name, _path(path)))): leaf for path, leaf in leaves}


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
