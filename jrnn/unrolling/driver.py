"""`unroll`: one step, run over a sequence."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import match, select
from jrnn._caching import cached
from jrnn._checks import brief
from jrnn.cell import C, CellOf, P, Y, carry_spec, map_state
from jrnn.unrolling._boundary import align, check_inputs, check_runs, starting_carry
from jrnn.unrolling._masking import fill_padding, schedule
from jrnn.unrolling.methods import Body, Loop, Method
from jrnn.unrolling.scan import Scan


def unroll(
    cell: CellOf[P, C, Y],
    params: P,
    xs: Any,
    carry: C | None = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reverse: bool = False,
    key: Array | None = None,
    method: Method = Scan(),
) -> tuple[C, Y]:
    """Run a cell over the leading axis of `xs`.

        carryₜ, ysₜ = step(params, carryₜ₋₁, xsₜ),   t = 0 … T−1 (T−1 … 0 with reverse)

    `ys[t]` always belongs to `xs[t]`. A step is valid where `mask` holds and t < lengths; at an invalid
    one nothing happens: the state is kept, y is 0, a reset is ignored, and what stands in xs there
    reaches no output and no gradient. All options compose.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs, (time, ..., features), any number of batch axes; or a pytree of arrays, time first.
      carry: enters before the first valid step visited; a new `cell.initial_carry` if left out.
      lengths: (...), valid steps of each sequence, between 0 and T.
      mask: (time, ...), boolean, False at the steps to skip, anywhere.
      resets: (time, ...), boolean, True at the first step of a sequence (in the order of `xs`, also with
        `reverse`); there the state starts anew from `initial_carry`, never from `carry`. Between chunks
        that are run one by one in reverse, a reset at a chunk's first step means to hand no carry on.
      reverse: visit the steps from the last to the first, in place.
      key: draws the noise of dropout and the like; without one there is none. With a carry, its state is
        kept and its noise drawn anew.
      method: how the loop is run: `Scan()`, `Scan(memory="sqrt")`, `Scan(memory=64 * 2**20)` for 64 MiB.

    Returns:
      `(carry, ys)`: the carry after the last valid step visited, and the outputs, (time, ..., out).

    Raises:
      ValueError: shapes, lengths or params that do not fit, or tokens that are known (not under jit) and
        outside of the table of an `Embed`; the message names the argument.
      TypeError: no cell, key or method; xs holds no arrays, or integers or complex numbers for a cell that
        takes floats.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.GRU(3)
    >>> params = cell.init(jax.random.key(0), in_features=2)
    >>> h, ys = jrnn.unroll(cell, params, jnp.ones((5, 4, 2)), lengths=jnp.array([5, 0, 2, 1]))
    >>> bool(jnp.allclose(h[2], ys[1, 2])), bool((ys[2:, 2] == 0).all())
    (True, True)
    """
    check_runs(cell, method, key)
    steps, batch_shape = check_inputs(cell, xs)
    valid, reset = schedule(steps, batch_shape, lengths, mask, resets, reverse)
    if valid is not None:
        xs = fill_padding(xs, valid)
    carry = starting_carry(cell, params, carry, batch_shape, key)
    carry = align(cell, params, carry, xs, steps, (valid, reset))
    start = None if reset is None else _start(cell, params, batch_shape, carry)
    xs = (xs, valid, reset)
    return method.run(Loop(cell, body_of(cell), (params, start), carry, xs, length=steps, reverse=reverse))


def gradient_memory(
    cell: Any,
    params: Any,
    xs: Any,
    carry: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reverse: bool = False,
    key: Array | None = None,
    method: Scan = Scan(),
) -> int:
    """Predict how many bytes the gradient of `unroll(cell, params, xs, ..., method=method)` takes.

    Counted are the temporaries of the gradient with respect to `params`, those of the loop and its blocks;
    what the loss makes of the outputs and what lengths and masks make of the inputs comes on top.
    `jax.jit(jax.grad(loss)).lower(...).compile().memory_analysis().temp_size_in_bytes` measures it.

    Args:
      cell: the cell.
      params: its parameters, or their shapes and dtypes (`jax.eval_shape`).
      xs: inputs, or their shapes and dtypes.
      carry: as of `unroll`.
      lengths: as of `unroll`.
      mask: as of `unroll`.
      resets: as of `unroll`.
      reverse: as of `unroll`.
      key: as of `unroll`.
      method: how the loop is run.

    Returns:
      Bytes.

    Raises:
      ValueError: as of `unroll`; another method than `Scan`; `Scan(memory=bytes)` into which no blocks of
      the loop fit.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.LSTM(256)
    >>> params = cell.init(jax.random.key(0), in_features=256)
    >>> xs = jax.ShapeDtypeStruct((1000, 32, 256), jnp.float32)
    >>> [jrnn.gradient_memory(cell, params, xs, method=m) >> 20 for m in (jrnn.Scan(), jrnn.Scan("sqrt"))]
    [377, 13]
    """
    if not hasattr(method, "gradient_bytes"):
        raise ValueError(f"method must be a Scan, whose memory can be predicted, got {brief(method)}")
    found: list[int] = []

    class Forecast:
        def run(self, loop: Loop) -> tuple[Any, Any]:
            found.append(method.gradient_bytes(loop))
            return None, None

    def run(params: Any, xs: Any, carry: Any) -> Any:
        options = {"lengths": lengths, "mask": mask, "resets": resets, "reverse": reverse, "key": key}
        return unroll(cell, params, xs, carry, **options, method=Forecast())

    jax.eval_shape(run, params, xs, carry)
    return found[0]


def _start(cell: Any, params: Any, batch_shape: tuple[int, ...], carry: Any) -> Any:
    """The initial state, in the dtypes and sharding of the aligned carry."""
    fresh = cell.initial_carry(params, batch_shape)
    spec = carry_spec(cell, params, batch_shape)
    return map_state(lambda s, c: match(s, jax.typeof(c)), spec, fresh, carry)


@cached
def body_of(cell: Any) -> Body:
    """The loop body; cached, since `lax.scan` compiles anew for every new function."""

    def body(constants: Any, carry: Any, inputs: Any) -> tuple[Any, Any]:
        params, start = constants
        x, valid, reset = inputs
        spec = carry_spec(cell, params)
        if reset is not None:
            carry = map_state(functools.partial(_where, ~reset), spec, carry, start)
        after, y = cell.step(params, carry, x)
        if valid is not None:
            after = map_state(functools.partial(_where, valid), spec, after, carry)
            y = jax.tree.map(lambda leaf: _where(valid, leaf, jnp.zeros_like(leaf)), y)
        return after, y

    return body


def _where(flags: Array, chosen: Array, other: Array) -> Array:
    # an entry that the step hands on unchanged stays a constant of the loop
    return chosen if chosen is other else select(flags, chosen, other)
