"""Layers that read sequences backwards: `Bidirectional` and `Reversed`."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import select
from jrnn._checks import check_choice
from jrnn._fields import AnyCell, checked
from jrnn._timing import is_timed, timed_inside, values_and_dt, with_dt
from jrnn.cell import Shape, in_ndim, key_or_none
from jrnn.cells._activations import is_function
from jrnn.initializers import default_float
from jrnn.unrolling import Scan, unroll
from jrnn.unrolling._masking import schedule
from jrnn.unrolling.methods import Method


class BidirectionalParams(NamedTuple):
    """Parameters of `Bidirectional`."""

    forward: Any
    backward: Any


class BidirectionalCarry(NamedTuple):
    """Carry of `Bidirectional`."""

    forward: Any  # after the last valid step
    backward: Any  # after the first valid step


Merge = Callable[[Array, Array], Array]
MERGES: dict[str, Merge] = {
    "concat": lambda a, b: jnp.concatenate([a, b], -1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "mean": lambda a, b: (a + b) / 2,
}


def check_merge(argument: str, given: Any) -> str | Merge:
    """Check a merge: one of the names, or a function."""
    return given if is_function(given) else check_choice(argument, given, tuple(MERGES))


@checked
@dataclass(frozen=True)
class Bidirectional:
    """Two cells, one forward and one backward; with lengths, backward from the last valid step.

        (aₜ) = forward over t = 0 … T−1
        (bₜ) = backward over t = T−1 … 0
        yₜ = merge(aₜ, bₜ)

    Of xs = `(values, dt)`, both cells read the same dtₜ at step t. Backward goes from t + 1 to t, so that the
    time since t − 1 is right for forward alone; a `Reversed` cell can be given the other times.

    Args:
      forward: any cell.
      backward: any cell; defaults to the forward one, with separate parameters.
      tied: one set of parameters for both directions, whose gradients are added; in params, `backward` is
        None.
      merge: "concat", "sum", "mul" or "mean"; or any function of two arrays (..., features) that keeps the
        axes before the features. A function compares by identity, and cannot be saved in a checkpoint.

    Raises:
      TypeError: not a cell.
      ValueError: an unknown merge, different widths for "sum", "mul" or "mean", or different cells that are
        tied.

    Reference: Schuster, Paliwal, Bidirectional recurrent neural networks, 1997, doi:10.1109/78.650093.

    >>> import jrnn
    >>> jrnn.Bidirectional(jrnn.LSTM(8), jrnn.GRU(4)).out_features
    12
    """

    forward: AnyCell
    backward: AnyCell | None = None
    _: KW_ONLY
    merge: Annotated[str | Merge, check_merge] = "concat"
    tied: bool = False

    def __post_init__(self) -> None:
        if self.backward is None:
            object.__setattr__(self, "backward", self.forward)
        if self.tied and self.backward != self.forward:
            raise ValueError(f"Bidirectional: tied needs equal cells, got {self.forward} and {self.backward}")
        widths = [cell.out_features for cell in self._cells]
        if self.merge in ("sum", "mul", "mean") and widths[0] != widths[1]:
            raise ValueError(f"Bidirectional: merge={self.merge!r} needs equal widths, got {widths}")
        found = self._merged()
        if not isinstance(found, jax.ShapeDtypeStruct) or found.shape[:-1] != (2,):
            raise ValueError(
                f"Bidirectional: merge must return one array and keep all axes but the last, got {found}"
            )

    @property
    def _cells(self) -> tuple[Any, Any]:
        return self.forward, self.backward

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.forward)

    @property
    def timed(self) -> bool:
        return any(is_timed(cell) for cell in self._cells)

    @property
    def out_features(self) -> int:
        return int(self._merged().shape[-1])

    def _merged(self) -> Any:
        """The type of two merged rows of outputs."""
        rows = (jax.ShapeDtypeStruct((2, cell.out_features), default_float()) for cell in self._cells)
        return jax.eval_shape(self.merged, *rows)

    def merged(self, forward: Array, backward: Array) -> Array:
        """Merge the outputs of both directions."""
        return (MERGES[self.merge] if isinstance(self.merge, str) else self.merge)(forward, backward)

    def init(self, key: Array, in_features: int) -> BidirectionalParams:
        keys = jax.random.split(key)
        forward, backward = (c.init(k, in_features) for c, k in zip(self._cells, keys, strict=True))
        return BidirectionalParams(forward, None if self.tied else backward)

    def sides(self, params: BidirectionalParams) -> tuple[Any, Any]:
        """The parameters of both cells, the same ones if they are tied."""
        return params[0], params[0] if self.tied else params[1]

    def initial_carry(
        self, params: BidirectionalParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> BidirectionalCarry:
        keys = key_or_none(key, 2)
        starts = zip(self._cells, self.sides(params), keys, strict=True)
        return BidirectionalCarry(*(c.initial_carry(p, batch_shape, key=k) for c, p, k in starts))

    def apply(
        self,
        params: BidirectionalParams,
        xs: Any,
        carry: BidirectionalCarry | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        key: Array | None = None,
        method: Method = Scan(),
    ) -> tuple[BidirectionalCarry, Array]:
        """Run both cells over `xs`: see `jrnn.apply`."""
        _check_pair("params", self, params)
        if carry is not None:
            _check_pair("carry", self, carry)
        options: dict[str, Any] = {"lengths": lengths, "mask": mask, "resets": resets, "method": method}
        (values, dt), ends, ys = values_and_dt(self, xs), [], []
        keys = key_or_none(key, 2)
        starts = zip(self._cells, self.sides(params), carry or (None, None), keys, strict=True)
        for (cell, p, start, k), reverse in zip(starts, (False, True), strict=True):
            end, y = unroll(cell, p, with_dt(cell, values, dt), start, reverse=reverse, key=k, **options)
            ends.append(end)
            ys.append(y)
        merged = self.merged(*ys)
        if not isinstance(self.merge, str):  # which need not give zeros for two zeros, as the names do
            flags = schedule(ys[0].shape[0], ys[0].shape[1:-1], lengths, mask, None, reverse=False).valid
            merged = merged if flags is None else select(flags, merged, jnp.zeros_like(merged))
        return BidirectionalCarry(*ends), merged


def _check_pair(name: str, layer: Any, value: Any) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise ValueError(f"{name} of {layer} must be (forward, backward), got a {type(value).__name__}")


@checked
@dataclass(frozen=True)
class Reversed:
    """A cell that reads sequences backwards; with lengths, from the last valid step of each.

        (carryₜ, yₜ) = cell(carryₜ₊₁, xₜ),   t = T−1 … 0

    This is `unroll(..., reverse=True)` as a layer: ys[t] belongs to xs[t], and the returned carry is the one
    after reading xs[0]. Of xs = `(values, dt)`, dt[t] is the time between t and t + 1, where the cell comes
    from. Parameters and carry are those of the cell.

    Args:
      cell: any cell.

    Raises:
      TypeError: not a cell; the layers of a `Sequential` must be reversed one by one.

    Reference: Sutskever, Vinyals, Le, Sequence to sequence learning with neural networks, 2014,
    arXiv:1409.3215, for the encoder.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> layer, xs = jrnn.Reversed(jrnn.GRU(3)), jnp.ones((5, 2))
    >>> params = layer.init(jax.random.key(0), 2)
    >>> carry, ys = layer.apply(params, xs)
    >>> bool(jnp.allclose(ys, jrnn.unroll(layer.cell, params, xs[::-1])[1][::-1]))
    True
    """

    cell: AnyCell
    timed = timed_inside

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def out_features(self) -> int:
        return int(self.cell.out_features)

    def init(self, key: Array, in_features: int) -> Any:
        return self.cell.init(key, in_features)

    def initial_carry(self, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Any:
        return self.cell.initial_carry(params, batch_shape, key=key)

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
        """Run the cell over `xs`, last step first: see `jrnn.apply`."""
        options: dict[str, Any] = {"lengths": lengths, "mask": mask, "resets": resets, "method": method}
        return unroll(self.cell, params, xs, carry, reverse=True, key=key, **options)
