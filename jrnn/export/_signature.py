"""What an exported model takes and returns: names and types of leaves, and the traced function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import export, lax

from jrnn._checks import brief, require_model
from jrnn.cell import in_ndim, structure_of
from jrnn.layers import apply
from jrnn.unrolling import Scan
from jrnn.unrolling.methods import Loop, Method

TIME, BATCH = "time", "batch"


@dataclass(frozen=True)
class Written:
    """The loop as it is written, one step after the other, for those who read it."""

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
    spatial: tuple[int, ...]  # axes of the batch behind the first
    start: Callable[[Any], Any]  # params -> the initial carry of one row
    run: Callable[..., Any]  # (params, xs, lengths, carry) -> (carry, ys), lengths or carry None: without


def signature(where: str, model: Any, params: Any, xs: Any, method: Method = Scan()) -> Signature:
    """Derive what a model takes from inputs, of which the sizes of time and batch are forgotten.

    Raises:
      TypeError: no model.
      ValueError: inputs without axes of time and batch.
    """
    require_model(f"{where}: model", model)
    leaves = jax.tree.leaves(xs)
    least = 2 + in_ndim(model)
    if not leaves or any(len(getattr(leaf, "shape", ())) < 2 for leaf in leaves) or leaves[0].ndim < least:
        raise ValueError(f"{where}: xs must be inputs (time, batch, ...), got {brief(xs)}")
    time, batch = export.symbolic_shape(f"{TIME}, {BATCH}")

    def typed(leaf: Any) -> Any:
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct((time, batch, *leaf.shape[2:]), dtype)

    first = leaves[0].shape
    spatial = tuple(first[2 : len(first) - in_ndim(model)])

    def run(params: Any, xs: Any, lengths: Any, carry: Any) -> Any:
        return apply(model, params, xs, carry, lengths=lengths, method=method)

    def start(params: Any, rows: Any = 1) -> Any:
        return model.initial_carry(params, (rows, *spatial))

    types = jax.tree.map(typed, xs)
    carry = jax.eval_shape(lambda p: start(p, batch), params)
    after, _ = jax.eval_shape(run, params, types, None, None)
    if structure_of(after) == structure_of(carry):  # a step may compute in a wider dtype
        carry = jax.tree.map(lambda a, b: jax.ShapeDtypeStruct(a.shape, b.dtype), carry, after)
    return Signature(types, jax.ShapeDtypeStruct((batch,), jnp.int32), carry, spatial, start, run)


def named(name: str, tree: Any) -> dict[str, Any]:
    """Leaves of a tree by names such as `carry.0.h`; of a single array by the name alone."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(filter(None, (name, _path(path)))): leaf for path, leaf in leaves}


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
