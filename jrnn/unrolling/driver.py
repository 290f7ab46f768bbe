"""`unroll`: one step, run over a sequence.

`make_loop` checks the arguments, and makes of them a `Loop`: the cell, its params, the initial carry, and xs
with flags of each step. A method runs that loop; `Scan` is the default.
"""

import functools
from typing import Any

import jax
from jax import Array
from jax.sharding import PartitionSpec

from jrnn._alignment import match_types, sharded_along_time, split_over
from jrnn._caching import cached
from jrnn._checks import brief, check_flag
from jrnn.cell import C, CellOf, P, Shape, Y, carry_spec, map_state
from jrnn.unrolling._boundary import check_inputs, check_runs, promote_carry, starting_carry
from jrnn.unrolling._eager import Call, CompiledCalls, eager_or_none
from jrnn.unrolling._masking import Schedule, fill_padding, schedule
from jrnn.unrolling.methods import Loop, Method
from jrnn.unrolling.newton import Newton
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

    `ys[t]` always belongs to `xs[t]`. A step is valid where `mask` is True and t < lengths. At an invalid
    step the state is kept, y is 0 and a reset is ignored; padding in xs affects neither outputs nor
    gradients. All options compose.

    A call outside of `jax.jit` compiles one program for each shape of its arguments, and its gradient two.
    After sixteen numbers of steps, further ones are rounded up to 1, 2, 3, 4, 6, 8, 12, … with `Scan`,
    without changing the results; where it is differentiated or mapped they are not.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs, (time, ..., features), any number of batch axes; or a pytree of arrays, time first.
      carry: initial carry; defaults to `cell.initial_carry`.
      lengths: (...), number of valid steps of each sequence, between 0 and T.
      mask: (time, ...), boolean, False at steps to skip, anywhere.
      resets: (time, ...), boolean, True at the first step of a sequence (in the order of `xs`, also with
        `reverse`), where the state is set to that of `initial_carry`, never to that of `carry`. If chunks
        of a sequence are run one by one in reverse, do not pass on the carry of a chunk whose first step is
        a reset.
      reverse: visit the steps from the last to the first, in place. Of `(values, dt)`, dt[t] is then the time
        between the steps t and t + 1.
      key: PRNG key for noise, such as dropout; None: no noise. With a carry, its state is kept and new noise
        is drawn.
      method: how to run the loop: `Scan()`, `Scan(memory="sqrt")`, `Scan(memory=64 * 2**20)` for 64 MiB.

    Returns:
      `(carry, ys)`: the carry after the last valid step visited, and the outputs, (time, ..., out).

    Raises:
      ValueError: wrong shapes, lengths or params, or concrete tokens (not under jit) out of range for the
        table of an `Embed`; the message names the argument.
      TypeError: not a cell, key or method; xs holds something other than arrays, or integers or complex
        numbers for a cell that takes floats.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.GRU(3)
    >>> params = cell.init(jax.random.key(0), in_features=2)
    >>> h, ys = jrnn.unroll(cell, params, jnp.ones((5, 4, 2)), lengths=jnp.array([5, 0, 2, 1]))
    >>> bool(jnp.allclose(h[2], ys[1, 2])), bool((ys[2:, 2] == 0).all())
    (True, True)
    """
    check_runs(cell, method, key)
    reverse = check_flag("reverse", reverse)
    call = Call(params, xs, carry, lengths, mask, resets, key)  # a NamedTuple of these seven
    # Under jit the call is part of a program. Else the same function is called, compiled.
    if (eager := eager_or_none(call)) is None:
        return _unroll(call, cell, method, reverse)
    # `_compiled_calls` gets these three as the key of its cache. The call gets them too, because the compiled
    # function does not hold the cell: it would keep it alive.
    return _compiled_calls(cell, method, reverse)(eager, cell, method, reverse)


def _unroll(call: Call, cell: Any, method: Any, reverse: bool) -> tuple[Any, Any]:
    params, xs, carry, lengths, mask, resets, key = call
    # the axis of a mesh over which the steps of xs are split, if they are
    if (axis := split_over(xs)) is not None:
        return _run_stretches(call, cell, method, reverse, axis)
    options = {"lengths": lengths, "mask": mask, "resets": resets, "reverse": reverse, "key": key}
    result: tuple[Any, Any] = method.run(make_loop(cell, params, xs, carry, **options))
    return result


@cached  # an `lru_cache` whose entries are freed with the cell, method or function that they are about
def _compiled_calls(cell: Any, method: Any, reverse: bool) -> CompiledCalls:
    return CompiledCalls(_unroll, rounds=isinstance(method, Scan))


def make_loop(
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
) -> Loop[P, C, Y]:
    """Check the arguments of `unroll`, and make the loop that a method runs."""
    steps, batch_shape = check_inputs(cell, xs)  # for LSTM and xs of (T, B, n): T, (B,)
    reverse = check_flag("reverse", reverse)
    # each (time, leading batch axes); None, None without lengths, mask and resets
    flags = schedule(steps, batch_shape, lengths, mask, resets, reverse)
    return _loop_with_flags(cell, params, xs, carry, flags, reverse=reverse, key=key)


def _loop_with_flags(
    cell: Any, params: Any, xs: Any, carry: Any, flags: Schedule, *, reverse: bool, key: Any, axis: Any = None
) -> Loop[Any, Any, Any]:
    # Order matters: padding is replaced before the step sees xs, and the state of a reset has the types of
    # the promoted carry.
    steps, batch_shape = check_inputs(cell, xs)  # again: of a stretch, which has fewer steps than the call
    if flags.valid is not None:
        xs = fill_padding(xs, flags.valid, axis)
    carry = starting_carry(cell, params, carry, batch_shape, key)
    # One abstract step: shapes are checked, and the carry gets the dtypes that the step returns.
    carry = promote_carry(cell, params, carry, xs, flags)
    reset_state = None if flags.reset is None else _reset_state(cell, params, batch_shape, carry)
    return Loop(cell, params, reset_state, carry, xs, flags.valid, flags.reset, length=steps, reverse=reverse)


def _run_stretches(call: Call, cell: Any, method: Any, reverse: bool, axis: Any) -> Any:
    """`unroll` where the steps of `xs` are split over an axis of a mesh: a stretch on each device.

    Flags look beyond a stretch: in reverse, whether a step is a reset depends on the next one in time. So
    they are made before the split.
    """
    params, xs, carry, lengths, mask, resets, key = call
    if not hasattr(method, "run_stretch"):
        raise ValueError(
            f"xs is sharded along time, over {axis!r} of the mesh, which only Associative() runs, got method="
            f"{brief(method)}: jax.reshard(xs, PartitionSpec(None, ...)) puts whole sequences on a device"
        )
    steps, batch_shape = check_inputs(cell, xs)
    if steps == 0 or not method.splits(cell):  # each device runs all steps
        xs, mask, resets = jax.tree.map(lambda leaf: sharded_along_time(leaf, None), (xs, mask, resets))
        end, ys = _unroll(call._replace(xs=xs, mask=mask, resets=resets), cell, method, reverse)
        return end, jax.tree.map(lambda leaf: sharded_along_time(leaf, axis), ys)
    if reverse and resets is not None:
        mask, resets = (None if flag is None else sharded_along_time(flag, None) for flag in (mask, resets))
    flags = schedule(steps, batch_shape, lengths, mask, resets, reverse)
    flags = jax.tree.map(lambda flag: sharded_along_time(flag, axis), flags)

    def run(params: Any, xs: Any, carry: Any, flags: Schedule, key: Any) -> Any:
        loop = _loop_with_flags(cell, params, xs, carry, flags, reverse=reverse, key=key, axis=axis)
        return method.run_stretch(loop, axis)

    everywhere, split = PartitionSpec(), PartitionSpec(axis)
    specs = everywhere, split, everywhere, split, everywhere
    mapped = jax.shard_map(run, in_specs=specs, out_specs=(everywhere, split), axis_names={axis})
    return mapped(params, xs, carry, flags, key)


def _reset_state(cell: Any, params: Any, batch_shape: Shape, carry: Any) -> Any:
    """The initial state, in the dtypes and sharding of the promoted carry.

    `carry_spec` gives the types of a state, with None in place of noise and context, and `map_state` maps
    over the leaves that are not None there. For LSTM(3) and two rows: LSTMCarry(h=float32[2,3], c=...).
    """
    initial = cell.initial_carry(params, batch_shape)
    spec = carry_spec(cell, params, batch_shape)
    return map_state(lambda s, c: match_types(s, jax.typeof(c)), spec, initial, carry)


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
    method: Scan | Newton = Scan(),
) -> int:
    """Predict the memory of the gradient of `unroll(cell, params, xs, ..., method=method)`.

    Counts the temporaries of the gradient with respect to `params`, in the loop and its blocks; excludes
    memory used by the loss and by masking. To measure it, use
    `jax.jit(jax.grad(loss)).lower(...).compile().memory_analysis().temp_size_in_bytes`.

    Args:
      cell: the cell.
      params: its parameters, or their shapes and dtypes (`jax.eval_shape`).
      xs: inputs, or their shapes and dtypes.
      carry: as for `unroll`.
      lengths: as for `unroll`.
      mask: as for `unroll`.
      resets: as for `unroll`.
      reverse: as for `unroll`.
      key: as for `unroll`.
      method: how to run the loop.

    Returns:
      Bytes.

    Raises:
      ValueError: as for `unroll`; a method other than `Scan` and `Newton`; too few bytes in
        `Scan(memory=bytes)`.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.LSTM(256)
    >>> params = cell.init(jax.random.key(0), in_features=256)
    >>> xs = jax.ShapeDtypeStruct((1000, 32, 256), jnp.float32)
    >>> [jrnn.gradient_memory(cell, params, xs, method=m) >> 20 for m in (jrnn.Scan(), jrnn.Scan("sqrt"))]
    [377, 13]
    """
    if not hasattr(method, "gradient_bytes"):
        raise ValueError(
            f"method must be a Scan or Newton, whose memory can be predicted, got {brief(method)}"
        )
    check_runs(cell, method, key)
    options = {"lengths": lengths, "mask": mask, "resets": resets, "reverse": reverse, "key": key}
    loop = jax.eval_shape(functools.partial(make_loop, cell, **options), params, xs, carry)
    return method.gradient_bytes(loop)
