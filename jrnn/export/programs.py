"""Models as StableHLO programs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from jrnn.cell import is_layer
from jrnn.export._signature import named, signature

PLATFORMS = ("cpu", "cuda", "tpu")


@jax.disable_jit(False)  # without jit a scan is a Python loop, which needs a known number of steps
def stablehlo(
    model: Any,
    params: Any,
    xs: Any,
    *,
    step: bool = False,
    lengths: bool = False,
    carry: bool = False,
    baked: bool = True,
    platforms: Sequence[str] = PLATFORMS,
) -> export.Exported:
    """Export a cell or a layer as a StableHLO program, for any number of steps and rows.

        (carry, ys) = call(xs),   call(xs, lengths),   call(xs, carry)   or   call(xs, lengths, carry)
        (carry, y) = call(carry, x),   with step

    `serialize()` converts it to bytes, and `jax.export.deserialize(bytes).call(...)` runs them without jrnn,
    with jax alone. A tree is passed as its only array, or as a dict of arrays by name: `{"h": ..., "c": ...}`
    is the carry of an `LSTM`, `{"cells.0.h": ...}` that of a `Stack`. A stream starts with the carry that the
    program of a sequence returns for its beginning.

    Args:
      model: any cell or layer; noise is not exported.
      params: its parameters.
      xs: inputs, or their shapes and dtypes; the sizes of the first two axes, time and batch, are ignored.
      step: export a single step, for streams, instead of a sequence: x has no time axis.
      lengths: add an argument for the lengths of sequences, (batch,), int32.
      carry: add an argument for the initial carry.
      baked: store the parameters in the program; False: they are its first argument.
      platforms: the platforms that it can run on.

    Returns:
      A `jax.export.Exported`.

    Raises:
      TypeError: not a model.
      ValueError: xs without axes of time and batch; a layer, which has no step, with `step`; `lengths` or
        `carry` with `step`, which takes no lengths and always a carry.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.LSTM(3)
    >>> params = cell.init(jax.random.key(0), in_features=2)
    >>> stored = jrnn.export.stablehlo(cell, params, jnp.ones((1, 1, 2))).serialize()
    >>> carry, ys = jax.export.deserialize(stored).call(jnp.ones((5, 4, 2)))
    >>> sorted(carry), ys.shape
    (['c', 'h'], (5, 4, 3))
    """
    params = jax.tree.map(jnp.asarray, params)
    given = signature("stablehlo", model, params, xs)
    if step:
        if is_layer(model):
            raise ValueError(f"stablehlo: step=True needs a cell, {model} is a layer, which has none")
        if lengths or carry:
            raise ValueError("stablehlo: step=True takes no lengths, and always a carry: omit both")
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), given.xs)
        taken, run = [given.carry, one], model.step
    else:
        optional = {"lengths": given.lengths if lengths else None, "carry": given.carry if carry else None}
        taken = [given.xs, *(value for value in optional.values() if value is not None)]

        def run(params: Any, xs: Any, *more: Any) -> Any:
            rest = iter(more)
            options = {name: None if value is None else next(rest) for name, value in optional.items()}
            return given.run(params, xs, **options)

    trees = taken if baked else [params, *taken]

    def call(*args: Any) -> Any:
        values = [_unflattened(tree, arg) for tree, arg in zip(trees, args, strict=True)]
        after, ys = run(params, *values) if baked else run(*values)
        return _flattened(after), _flattened(ys)

    return export.export(jax.jit(call), platforms=tuple(platforms))(*map(_flattened, trees))


def _flattened(tree: Any) -> Any:
    """The only array of a tree, or a dict of its arrays by name, without classes of jrnn."""
    leaves = named("", tree)
    return leaves[""] if list(leaves) == [""] else leaves


def _unflattened(tree: Any, given: Any) -> Any:
    leaves = [given[name] for name in named("", tree)] if isinstance(given, dict) else [given]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
