"""Many-to-one models: a sequence is summarized by the last output, both ends, a mean or a maximum."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._alignment import expand, promoted, select
from jrnn._checks import check_choice
from jrnn._fields import AnyModel, checked, one_of
from jrnn._timing import is_timed, values_and_dt, with_dt
from jrnn._traits import is_noisy, require_time
from jrnn.cell import Shape, carry_spec, in_ndim, key_or_none
from jrnn.layers import Bidirectional, BidirectionalCarry, Reversed, apply
from jrnn.layers.sequential import Sequential, once
from jrnn.unrolling import Scan, unroll
from jrnn.unrolling._masking import schedule
from jrnn.unrolling.methods import Method

READS = ("ends", "mean", "max")


def last(ys: Any, lengths: Any = None, *, mask: Any = None) -> Any:
    """Output at the last valid step of each sequence.

        y = ys[lengths − 1],   0 where no step is valid

    Args:
      ys: (time, batch..., features), or a pytree of such arrays.
      lengths: (batch...) or its leading axes, integers in [0, T]; defaults to all T steps. Other values raise
        if they are concrete, and are clipped under jit.
      mask: (time, batch...) or its leading axes, boolean, False at steps to skip.

    Returns:
      (batch..., features), or a pytree of such arrays.

    Raises:
      ValueError: lengths or mask of a wrong batch shape or dtype, or lengths out of range.

    >>> import jax.numpy as jnp, jrnn
    >>> jrnn.last(jnp.array([[1.0, 2.0], [3.0, 4.0]]), lengths=jnp.array([2, 1])).tolist()
    [3.0, 2.0]
    """
    return _end(ys, lengths, mask, first=False)


def _end(ys: Any, lengths: Any, mask: Any, first: bool) -> Any:
    """Outputs at the last or first valid step."""

    def pick(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        if leaf.ndim == 0:
            raise ValueError("ys must have a leading time axis, got a scalar")
        steps = leaf.shape[0]
        if lengths is not None and np.shape(lengths) != leaf.shape[1 : 1 + np.ndim(lengths)]:
            raise ValueError(
                f"lengths has shape {np.shape(lengths)}, needs the leading batch axes of ys of shape "
                f"{leaf.shape}: (time, batch..., features)"
            )
        valid = schedule(steps, leaf.shape[1:], lengths, mask, None, reverse=False).valid
        if steps == 0:
            return jnp.zeros_like(leaf, shape=leaf.shape[1:])
        if valid is None:
            return leaf[0 if first else -1]
        index = jnp.argmax(valid, 0) if first else steps - 1 - jnp.argmax(valid[::-1], 0)
        picked = jnp.take_along_axis(leaf, expand(index[None], leaf.ndim), axis=0)[0]
        return select(valid.any(0), picked, jnp.zeros_like(picked))

    return jax.tree.map(pick, ys)


def many_to_one(
    model: Any,
    params: Any,
    xs: Any,
    carry: Any = None,
    *,
    read: str = "ends",
    lengths: Any = None,
    mask: Any = None,
    key: Array | None = None,
    method: Method = Scan(),
) -> tuple[Any, Any]:
    """Run a model over a sequence, and return the output where each direction has seen all of it.

        y = f(y_T)                        for a cell, with its last valid step T
        y = f(y₁)                         for a `Reversed` cell
        y = f(merge(a_T, b₁))             for a `Bidirectional`: each direction at its own end
        y = f(mean or max over t of yₜ)   with `read`

    f stands for the stateless cells (`Dense`) at the end of a `Sequential`, which are applied to that output.

    Args:
      model: a cell or a layer.
      params: its parameters.
      xs: inputs, (time, batch..., features).
      carry: initial carry.
      read: "ends"; "mean" or "max" over the valid steps.
      lengths: (batch...), valid steps of each sequence. A row without valid steps reads zeros.
      mask: (time, batch...), False at steps to skip.
      key: draws the noise; without a key there is none.
      method: how the loop is run.

    Returns:
      `(carry, y)`, y of shape (batch..., out).

    Raises:
      ValueError: an unknown `read`, or invalid inputs, as for `jrnn.apply`.

    Reference: for both ends, Graves, Schmidhuber, Framewise phoneme classification with bidirectional LSTM,
    2005, doi:10.1016/j.neunet.2005.06.042.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> model = jrnn.Sequential((jrnn.Embed(4), jrnn.Bidirectional(jrnn.LSTM(8)), jrnn.Dense(2)))
    >>> params = model.init(jax.random.key(0), in_features=9)
    >>> jrnn.many_to_one(model, params, jnp.ones((7, 3), int), lengths=jnp.array([7, 2, 5]))[1].shape
    (3, 2)
    """
    check_choice("read", read, READS)
    require_time("many_to_one", model)
    options: dict[str, Any] = {"lengths": lengths, "mask": mask, "method": method}
    if isinstance(model, Sequential):
        return _read_sequential(model, params, xs, carry, read=read, key=key, options=options)
    if isinstance(model, Bidirectional) and read == "ends":
        starts = zip(
            model._cells, model.sides(params), carry or (None, None), key_or_none(key, 2), strict=True
        )
        (values, dt), ends, reads = values_and_dt(model, xs), [], []
        for (cell, p, start, k), reverse in zip(starts, (False, True), strict=True):
            end, ys = unroll(cell, p, with_dt(cell, values, dt), start, reverse=reverse, key=k, **options)
            ends.append(end)
            reads.append(_end(ys, lengths, mask, first=reverse))
        return BidirectionalCarry(*ends), model.merged(*reads)
    end, ys = apply(model, params, xs, carry, key=key, **options)
    if read == "ends":
        return end, _end(ys, lengths, mask, first=isinstance(model, Reversed))
    return end, _pool(ys, lengths, mask, read)


def _read_sequential(
    model: Sequential, params: Any, xs: Any, carry: Any, *, read: str, key: Any, options: Any
) -> tuple[Any, Any]:
    """Apply layers to all steps, read the last one that has a state, and apply the rest to the result."""
    layers = list(zip(model.layers, params, strict=True))
    stateful = [i for i, (layer, p) in enumerate(layers) if jax.tree.leaves(carry_spec(layer, p))]
    final = stateful[-1] if stateful else 0
    carries, ends = carry or (None,) * len(layers), []
    xs, dt = values_and_dt(model, xs)
    steps = zip(layers, carries, model.keys(key), strict=True)
    for index, ((layer, p), start, (k, between)) in enumerate(steps):
        xs = model.drop(between, xs)
        if index < final:
            end, xs = apply(layer, p, with_dt(layer, xs, dt), start, key=k, **options)
        elif index == final:
            end, xs = many_to_one(layer, p, with_dt(layer, xs, dt), start, read=read, key=k, **options)
        else:
            end, xs = once(layer, p, xs, key=k, method=options["method"])
        ends.append(end)
    return tuple(ends), xs


def _pool(ys: Array, lengths: Any, mask: Any, read: str) -> Array:
    """Mean or maximum over the valid steps; zeros if there are none."""
    valid = schedule(ys.shape[0], ys.shape[1:-1], lengths, mask, None, reverse=False).valid
    valid = jnp.ones(ys.shape[:1], bool) if valid is None else valid
    flags = expand(valid, ys.ndim)
    if read == "mean":
        wide = promoted(ys.dtype, jnp.float32)  # a sum in float16 ends at 65,504
        counts = jnp.maximum(flags.sum(0), 1).astype(wide)
        return (jnp.where(flags, ys, 0).astype(wide).sum(0) / counts).astype(ys.dtype)
    highest = jnp.max(jnp.where(flags, ys, -jnp.inf), 0, initial=-jnp.inf)
    return jnp.where(flags.any(0), highest, 0)


@checked
@dataclass(frozen=True)
class ManyToOne:
    """Layer with one output per sequence, for classification or regression.

        y = many_to_one(model, xs)

    Parameters and carry are those of the model. The output has no time axis: train with `PerSequence(loss)`.

    Args:
      model: a cell or a layer.
      read: "ends", "mean" or "max".

    Raises:
      TypeError: neither a cell nor a layer.
      ValueError: an unknown `read`.

    Reference: see `many_to_one`.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> model = jrnn.ManyToOne(jrnn.Sequential((jrnn.Bidirectional(jrnn.GRU(8)), jrnn.Dense(2))))
    >>> model.apply(model.init(jax.random.key(0), 3), jnp.ones((7, 4, 3)))[1].shape
    (4, 2)
    """

    model: AnyModel
    _: KW_ONLY
    read: Annotated[str, one_of(READS)] = "ends"
    out_axes: ClassVar[None] = None  # the output has no time axis

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.model)

    @property
    def timed(self) -> bool:
        return is_timed(self.model)

    @property
    def out_features(self) -> int:
        return int(self.model.out_features)

    def init(self, key: Array, in_features: int) -> Any:
        return self.model.init(key, in_features)

    def initial_carry(self, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Any:
        return self.model.initial_carry(params, batch_shape, key=key)

    def is_noisy(self, params: Any) -> bool:
        """True if a key draws noise."""
        return is_noisy(self.model, params)

    def apply(
        self,
        params: Any,
        xs: Any,
        carry: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        key: Array | None = None,
        method: Method = Scan(),
    ) -> tuple[Any, Any]:
        """Return one output per sequence; see `jrnn.many_to_one`."""
        if resets is not None:
            raise ValueError("ManyToOne takes no resets: there is one output per sequence")
        options: dict[str, Any] = {"lengths": lengths, "mask": mask, "key": key, "method": method}
        return many_to_one(self.model, params, xs, carry, read=self.read, **options)
