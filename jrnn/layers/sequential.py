"""Layers in sequence."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

import jax
from jax import Array

from jrnn._checks import brief, check_flag, require_model
from jrnn._fields import Rate, checked
from jrnn._timing import is_timed, values_and_dt, with_dt
from jrnn._traits import is_noisy, map_time, out_axes
from jrnn.cell import Shape, in_ndim, is_layer, key_or_none
from jrnn.cells.maps import check_chain
from jrnn.combinators.noise import drop
from jrnn.layers.layer import apply
from jrnn.unrolling import Scan
from jrnn.unrolling.methods import Method


@checked
@dataclass(frozen=True)
class Sequential:
    """Layers and cells in sequence, each over the whole input sequence.

        xs⁰ = xs,   xsˡ = layerˡ(xsˡ⁻¹),   ys = xsᴸ

    Parameters and carry are tuples, one entry per layer. A layer after one whose outputs have no time axis
    (`ManyToOne`) reads a sequence of one step. Of xs = `(values, dt)`, dt goes to every layer that takes it,
    as in a `Stack`. `dropout` applies between layers, with a new mask at every
    step (torch's `dropout` of a bidirectional stack).

    Args:
      layers: layers and cells in any mixture, first to last; a list becomes a tuple, a function a `Map`.
      dropout: rate between layers, in [0, 1).

    Raises:
      TypeError: an entry is neither a layer nor a cell.
      ValueError: no layers, or a rate outside [0, 1).

    Reference: Graves, Mohamed, Hinton, Speech recognition with deep recurrent neural networks, 2013,
    arXiv:1303.5778.

    >>> import jrnn
    >>> tagger = jrnn.Sequential((jrnn.Embed(8), jrnn.Bidirectional(jrnn.LSTM(16)), jrnn.Dense(5)))
    >>> tagger.out_features
    5
    """

    layers: Annotated[tuple[Any, ...], check_chain(require_model)]
    _: KW_ONLY
    dropout: Rate = 0.0

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("Sequential: layers is empty, needs at least one layer or cell")

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.layers[0])

    @property
    def timed(self) -> bool:
        return any(is_timed(layer) for layer in self.layers)

    @property
    def out_features(self) -> int:
        return int(self.layers[-1].out_features)

    @property
    def out_axes(self) -> Any:
        return None if any(out_axes(m) is None for m in self.layers) else out_axes(self.layers[-1])

    def init(self, key: Array, in_features: int) -> tuple[Any, ...]:
        widths = [in_features, *(layer.out_features for layer in self.layers)]
        keys = jax.random.split(key, len(self.layers))
        return tuple(m.init(k, n) for m, k, n in zip(self.layers, keys, widths, strict=False))

    def initial_carry(
        self, params: tuple[Any, ...], batch_shape: Shape = (), *, key: Array | None = None
    ) -> tuple[Any, ...]:
        starts = zip(self.layers, params, key_or_none(key, len(self.layers)), strict=True)
        return tuple(m.initial_carry(p, batch_shape, key=k) for m, p, k in starts)

    def apply(
        self,
        params: tuple[Any, ...],
        xs: Any,
        carry: tuple[Any, ...] | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        key: Array | None = None,
        method: Method = Scan(),
    ) -> tuple[tuple[Any, ...], Any]:
        """Run the layers over `xs`: see `jrnn.apply`."""
        count = len(self.layers)
        for name, value in (("params", params), ("carry", carry)):
            if value is not None and (not isinstance(value, tuple) or len(value) != count):
                raise ValueError(f"{name} of {self} must be a tuple of {count}, got {brief(value)}")
        carries, ends = carry or (None,) * count, []
        options: dict[str, Any] = {"lengths": lengths, "mask": mask, "resets": resets, "method": method}
        has_time = True
        xs, dt = values_and_dt(self, xs)
        for layer, p, start, (k, between) in zip(self.layers, params, carries, self.keys(key), strict=True):
            xs = self.drop(between, xs)
            if has_time:
                end, xs = apply(layer, p, with_dt(layer, xs, dt), start, key=k, **options)
            else:
                end, xs = once(layer, p, xs, start, key=k, method=method)
            has_time = has_time and out_axes(layer) is not None
            ends.append(end)
        return tuple(ends), xs

    def keys(self, key: Array | None) -> list[tuple[Array | None, Array | None]]:
        """The keys of each layer and of the dropout before it; None where no noise is drawn."""
        count = len(self.layers)
        if not self.dropout:
            return [(k, None) for k in key_or_none(key, count)]
        keys = key_or_none(key, 2 * count - 1)
        return list(zip(keys[:count], [None, *keys[count:]], strict=True))

    def drop(self, key: Array | None, xs: Any) -> Any:
        """Apply dropout to the input of a layer."""
        return xs if key is None else drop(key, self.dropout, xs)

    def is_noisy(self, params: tuple[Any, ...]) -> bool:
        """True if noise is drawn from a key, in a layer or between two."""
        between = self.dropout > 0 and len(self.layers) > 1
        return between or any(is_noisy(layer, p) for layer, p in zip(self.layers, params, strict=True))


def once(
    model: Any, params: Any, x: Any, carry: Any = None, *, key: Array | None = None, method: Method = Scan()
) -> tuple[Any, Any]:
    """Run a cell or a layer over a single step, without a time axis."""
    xs = jax.tree.map(lambda leaf: leaf[None], x)
    end, ys = apply(model, params, xs, carry, key=key, method=method)
    return end, map_time(lambda leaf: leaf[0], out_axes(model), ys)


def looks_ahead(model: Any) -> bool:
    """True if an output can depend on later inputs: for any layer but a `Sequential` of cells."""
    if isinstance(model, Sequential):
        return any(looks_ahead(layer) for layer in model.layers)
    return is_layer(model)


def check_stateful(stateful: Any, model: Any) -> bool:
    """Return the flag, or raise if the carry of this model cannot be passed on from batch to batch."""
    if check_flag("stateful", stateful) and looks_ahead(model):
        hint = "it looks ahead, so its carry cannot be passed on"
        raise ValueError(f"stateful must be False for {model}: {hint}")
    return bool(stateful)
