"""Gate statistics: mean activation, saturation, and time scales."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._jaxprs.naming import named_types, named_values
from jrnn.analysis.memory import steps_of_rate
from jrnn.cell import Shape, in_ndim, is_layer
from jrnn.cells._gating import widened
from jrnn.unrolling import unroll
from jrnn.unrolling._boundary import check_inputs, check_runs, promote_carry, starting_carry
from jrnn.unrolling._loops import plain_scan
from jrnn.unrolling.methods import Loop


class GateStatistics(NamedTuple):
    """Statistics of one gate, per unit, over all valid steps of all sequences.

    Fields:
      mean: (units...).
      low: (units...), the fraction of steps with |v| < low: a closed gate.
      high: (units...), the fraction with |v| > high: an open gate, or a saturated candidate in (−1, 1).
      mean_log: (units...), the mean of ln |v|.
      mean_log_rest: (units...), the mean of ln |1 − v|.
    """

    mean: Array
    low: Array
    high: Array
    mean_log: Array
    mean_log_rest: Array

    @property
    def time_scale(self) -> Array:
        """τ = −1 / mean ln |v|, in steps: the time scale of a state that is multiplied by v.

        After n steps the product of n gates, exp Σ ln vₜ, is left, so the rate is the mean of the logarithms.
        −1 / ln of the mean gate would overestimate it: a single gate of 0 already erases everything.
        """
        return steps_of_rate(self.mean_log)

    @property
    def time_scale_of_rest(self) -> Array:
        """The same for 1 − v, if that multiplies the state: (1 − z) hₜ₋₁ + z nₜ."""
        return steps_of_rate(self.mean_log_rest)


def gate_statistics(
    cell: Any,
    params: Any,
    xs: Any,
    carry: Any = None,
    *,
    names: tuple[str, ...] | None = None,
    low: float = 0.1,
    high: float = 0.9,
    lengths: Any = None,
    reverse: bool = False,
    key: Array | None = None,
) -> dict[str, GateStatistics]:
    """Compute statistics of the gates and candidates that a step names, per unit.

        mean = E v,   low = P(|v| < 0.1),   high = P(|v| > 0.9),   mean_log = E ln |v|

    E and P are over all valid steps of all sequences. A plot of the point (low, high) of each unit shows
    which gates are nearly binary and which never move; `.high.mean()` averages over units. For a candidate in
    (−1, 1), low means near 0 and high saturated. The sums are accumulated during the run, so no step is
    stored. For a `Bidirectional`, analyze its cells one by one, the backward one with `reverse`.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs, (time, ..., features), with any number of batch axes, as for `unroll`.
      carry: initial carry; defaults to `cell.initial_carry`.
      names: gates to measure, such as ("f",); defaults to all.
      low: a gate below this counts as closed.
      high: a gate above this counts as open.
      lengths: (...), valid steps of each sequence.
      reverse: visit the steps from the last to the first.
      key: draws the noise; without a key there is none.

    Returns:
      Statistics by name, NaN if no step is valid. A name that occurs several times, as in a `Stack`, is
      numbered, bottom first: "f[0]", "f[1]".

    Raises:
      ValueError: the step names nothing, or not the given names; low above high; or invalid inputs.
      TypeError: a layer, not a cell, or names that are a single string.

    Reference: Karpathy, Johnson, Fei-Fei, Visualizing and understanding recurrent networks, 2015,
    arXiv:1506.02078.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.analysis import gate_statistics
    >>> cell = jrnn.LSTM(3, forget_bias=5.0)
    >>> gates = gate_statistics(cell, cell.init(jax.random.key(0), 2), jnp.zeros((50, 4, 2)))
    >>> print(list(gates), gates["i"].mean, gates["f"].high, jnp.round(gates["f"].time_scale))
    ['i', 'f', 'g', 'o'] [0.5 0.5 0.5] [1. 1. 1.] [149. 149. 149.]
    """
    if is_layer(cell):
        raise TypeError(f"gate_statistics takes cells, and {cell} is a layer: pass one of its cells")
    if isinstance(names, str):
        raise TypeError(f"names must be a tuple of names, got the string {names!r}")
    if not 0 <= low <= high:
        raise ValueError(f"low and high must be in order, 0 ≤ low ≤ high, got {low} and {high}")
    check_runs(cell, _StepByStep(), key)
    batch_shape = check_inputs(cell, xs)[1]
    start = promote_carry(cell, params, starting_carry(cell, params, carry, batch_shape, key), xs)
    places = _places(cell, (params, start, _first(xs)), batch_shape, names)
    measured = _Measured(cell, places, low, high)
    (_, visited, sums), _ = unroll(
        measured,
        params,
        xs,
        measured.around(start, batch_shape),
        lengths=lengths,
        reverse=reverse,
        method=_StepByStep(),
    )
    axes = tuple(range(len(batch_shape)))
    total = visited.sum()
    return {p.label: GateStatistics(*(s.sum(axes) / total for s in sums[p.label])) for p in places}


def has_gates(cell: Any, params: Any, xs: Any) -> bool:
    """True if the step of a cell names values, which `gate_statistics` measures."""
    batch_shape = check_inputs(cell, xs)[1]
    start = promote_carry(cell, params, starting_carry(cell, params, None, batch_shape, None), xs)
    return bool(named_types(cell.step, params, start, _first(xs)))


class _Place(NamedTuple):
    """A name in a step."""

    label: str  # for the user
    name: str
    number: int  # among those of this name
    units: Shape


class _MeasuredCarry(NamedTuple):
    """Carry of `_Measured`: that of the cell, and the sums so far, per sequence."""

    cell: Any
    steps: Array  # (...), number of valid steps
    sums: dict[str, GateStatistics]  # (..., units...)


@dataclass(frozen=True)
class _Measured:
    """A cell that sums its named values in its state, so that lengths and masks apply to them."""

    cell: Any
    places: tuple[_Place, ...]
    low: float
    high: float

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def out_features(self) -> int:
        return 0

    def init(self, key: Array, in_features: int) -> Any:
        return self.cell.init(key, in_features)

    def initial_carry(self, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Any:
        return self.around(self.cell.initial_carry(params, batch_shape, key=key), batch_shape)

    def around(self, carry: Any, batch_shape: Shape) -> _MeasuredCarry:
        """A carry of the cell, with sums of zero."""

        def zeros(place: _Place) -> GateStatistics:
            return GateStatistics(*(jnp.zeros((*batch_shape, *place.units)) for _ in GateStatistics._fields))

        return _MeasuredCarry(carry, jnp.zeros(batch_shape), {p.label: zeros(p) for p in self.places})

    def step(self, params: Any, carry: _MeasuredCarry, x: Any) -> tuple[_MeasuredCarry, tuple[()]]:
        names = tuple(dict.fromkeys(place.name for place in self.places))
        (after, _), inside = named_values(self.cell.step, names, params, carry.cell, x)
        values = {p.label: self._measure(inside[p.name][p.number]) for p in self.places}
        return _MeasuredCarry(after, carry.steps + 1, jax.tree.map(_added, carry.sums, values)), ()

    def _measure(self, value: Array) -> GateStatistics:
        value = widened(value)
        size = jnp.abs(value)
        low, high = (flags.astype(size.dtype) for flags in (size < self.low, size > self.high))
        return GateStatistics(value, low, high, jnp.log(size), jnp.log(jnp.abs(1 - value)))


def _added(total: Array, value: Array) -> Array:
    return total + value.astype(total.dtype)


@dataclass(frozen=True)
class _StepByStep:
    """A plain loop: `Scan` would compute values for all steps in advance, and store them."""

    def run(self, loop: Loop[Any, Any, Any]) -> tuple[Any, Any]:
        return plain_scan(loop.body, loop.reverse)(loop.consts, loop.carry, loop.inputs)


def _first(xs: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)


def _places(
    cell: Any, arguments: tuple[Any, ...], batch_shape: Shape, names: tuple[str, ...] | None
) -> tuple[_Place, ...]:
    """The names in a step, in order, with equal names numbered."""
    found = named_types(cell.step, *arguments)
    present = [name for name, _ in found]
    if not present:
        raise ValueError(f"{cell} has no gates to measure: its step names nothing with checkpoint_name")
    for name in names or ():
        if name not in present:
            raise ValueError(f"{cell} names no {name!r}; it names {list(dict.fromkeys(present))}")
    places = []
    for i, (name, value) in enumerate(found):
        number, lead = present[:i].count(name), len(batch_shape)
        label = name if present.count(name) == 1 else f"{name}[{number}]"
        # values that depend on parameters alone have no batch axes
        units = value.shape[lead:] if value.shape[:lead] == batch_shape else value.shape
        if names is None or name in names:
            places.append(_Place(label, name, number, units))
    return tuple(places)
