"""Models as ONNX graphs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrnn.export._signature import Written, named, signature


def onnx(
    model: Any,
    params: Any,
    xs: Any,
    *,
    lengths: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Export a cell or a layer as an ONNX model, for any number of steps and rows.

    The loop is one `Scan`, its body the operations of the step. Parameters are baked in. A model with noise
    is exported as it is evaluated, without.

    Input is `xs`, (time, batch, ...). Two more have a default, so that they may be left out: `lengths`,
    (batch,), and the carry to start from, a tensor for each leaf: `carry.h`, `carry.0.c`, or `carry` where
    there is one. Outputs are `ys`, and the carry after the last step as `carry_out.h` and so on. Complex
    entries are two tensors, `.real` and `.imag`. To stream, run it on one step (1, batch, ...) at a time and
    hand the carry on. onnxruntime takes no sequence of 0 steps.

    Args:
      model: a cell or a layer, of anybody.
      params: its parameters.
      xs: inputs, or their shapes and dtypes; the sizes of the first two axes are of no account.
      lengths: False: all rows are read to the end, and the graph is simpler.
      metadata: texts that are stored with it, by name.

    Returns:
      An `onnx.ModelProto`; `onnx.save(it, "model.onnx")` writes it.

    Raises:
      ImportError: the package onnx is not installed.
      TypeError: no model.
      ValueError: a primitive that ONNX cannot express, with the line of the step that it comes from.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.MGU(3)
    >>> params = cell.init(jax.random.key(0), in_features=2)
    >>> proto = jrnn.export.onnx(cell, params, jnp.ones((1, 1, 2)))
    >>> [value.name for value in (*proto.graph.input, *proto.graph.output)]
    ['xs', 'lengths', 'carry', 'ys', 'carry_out']
    """
    from jrnn.export import _writing

    params = jax.tree.map(jnp.asarray, params)
    given = signature("onnx", model, params, xs, Written())

    def run(*args: Any) -> Any:
        carry, ys = given.run(params, *args)
        return ys, carry

    types = given.xs, given.lengths if lengths else None, given.carry
    closed, (ys, after) = jax.make_jaxpr(run, return_shape=True)(*types)
    inputs = named("xs", given.xs)
    if lengths:
        inputs["lengths"] = given.lengths
    carry = named("carry", given.carry)
    start = named("carry", jax.device_get(jax.jit(given.start)(params)))
    defaults = {name: np.asarray(start[name], aval.dtype) for name, aval in carry.items()}
    if lengths:
        defaults["lengths"] = np.array([np.iinfo(np.int32).max], np.int32)
    outputs = {**named("ys", ys), **named("carry_out", after)}
    return _writing.write_model(closed, {**inputs, **carry}, outputs, defaults, dict(metadata or {}))
