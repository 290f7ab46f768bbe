"""Models as ONNX graphs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrnn.export._signature import Written, named, signature
from jrnn.interop.onnx._operators import import_onnx


@jax.disable_jit(False)  # without jit a scan is a Python loop, which needs a known number of steps
def onnx(
    model: Any,
    params: Any,
    xs: Any,
    *,
    lengths: bool = False,
    carry: bool = False,
    operators: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Export a cell or a layer as an ONNX model, for any number of steps and rows.

    If ONNX's operators RNN, GRU and LSTM can compute the model, they are used, as in `jrnn.interop.to_onnx`;
    otherwise the loop is a `Scan`, whose body has the operations of the step. Parameters are constants in the
    graph. Noise is not exported.

    Inputs: `xs` (time, batch, ...), or `xs.name` for each leaf of a tree; with `lengths` also `lengths`
    (batch,) of int32; with `carry` each leaf of the model's carry by its path, `carry.h` or
    `carry.cells.0.h`, which are optional and default to `initial_carry`. Outputs: `ys`, and the last carry as
    `last.h` or `last.cells.0.h`. A complex leaf becomes two, `.real` and `.imag`.

    With `carry` the model can be run as a stream, one step at a time: its output `last.h` is the input
    `carry.h` of the next step. onnxruntime does not accept empty sequences.

    Args:
      model: any cell or layer.
      params: its parameters.
      xs: inputs, or their shapes and dtypes; the sizes of the first two axes are ignored.
      lengths: add an input for the number of valid steps of each sequence.
      carry: add inputs for the initial carry.
      operators: False: always use a `Scan`, even if ONNX has operators for the model.
      metadata: texts to store in the model, by name.

    Returns:
      An `onnx.ModelProto`: `onnx.save(proto, "model.onnx")` writes it.

    Raises:
      ModuleNotFoundError: onnx is not installed.
      TypeError: not a model.
      ValueError: a primitive that ONNX cannot express, with its source line; xs without axes of time and
        batch.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.MGU(3)
    >>> params = cell.init(jax.random.key(0), in_features=2)
    >>> proto = jrnn.export.onnx(cell, params, jnp.ones((1, 1, 2)), carry=True)
    >>> [value.name for value in (*proto.graph.input, *proto.graph.output)]
    ['xs', 'carry', 'ys', 'last']
    """
    import_onnx()
    from jrnn.export import _fitting, _writing

    params = jax.tree.map(jnp.asarray, params)
    given = signature("onnx", model, params, xs, Written())
    types = given.xs, given.lengths if lengths else None, given.carry if carry else None
    first = named("carry", jax.device_get(jax.jit(given.start)(params)))
    start = {name: np.asarray(first[name], aval.dtype) for name, aval in named("carry", given.carry).items()}
    options = {"lengths": lengths, "carry": carry}
    proto = _fitting.fitted(model, params, given, start, **options) if operators else None
    if proto is None:

        def run(*args: Any) -> Any:
            last, ys = given.run(params, *args)
            return ys, last

        closed, (ys, last) = jax.make_jaxpr(run, return_shape=True)(*types)
        inputs = {**named("xs", types[0]), **named("lengths", types[1]), **named("carry", types[2])}
        outputs = {**named("ys", ys), **named("last", last)}
        proto = _writing.write_model(closed, inputs, outputs, start if carry else {})
    for name, text in (metadata or {}).items():
        proto.metadata_props.add(key=name, value=text)
    return proto
