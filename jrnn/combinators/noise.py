"""Noise inside the recurrence: dropout and zoneout."""

import functools
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import select
from jrnn._checks import require_cell
from jrnn._fields import Rate, checked
from jrnn._jaxprs.naming import replaced_values
from jrnn._jaxprs.programs import trace
from jrnn._states import state_of
from jrnn._timing import timed_inside, values_and_dt, with_dt
from jrnn.cell import C, Cell, P, Shape, carry_spec, in_ndim, is_linear, key_or_none, map_state

Rates = Rate | tuple[Rate, ...]


class NoisyCarry(NamedTuple, Generic[C]):
    """Carry of `Dropout`, `Zoneout` and a noisy `Reparametrize`."""

    cell: C
    key: Array | None  # noise slot: constant, or advanced by each step of Zoneout; None in evaluation


def drop(key: Array, rate: float, tree: Any) -> Any:
    """Zero random entries of float and complex leaves, scale the rest by 1 / (1 − rate); nothing at 0."""
    if rate == 0:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    dropped = [_drop_leaf(k, rate, leaf) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, dropped)


def _drop_leaf(key: Array, rate: float, leaf: Array) -> Array:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    kept = jax.random.bernoulli(key, 1 - rate, leaf.shape)
    return select(kept, leaf / (1 - rate), jnp.zeros_like(leaf))


@checked
@dataclass(frozen=True)
class Dropout(Generic[P, C]):
    """Variational dropout: one mask per sequence, the same at every step.

        x̃ₜ = m_x · xₜ,   s̃ₜ₋₁ = m_s · sₜ₋₁
        (sₜ, yₜ) = cell(s̃ₜ₋₁, x̃ₜ),   with its candidate gₜ replaced by m_g · gₜ
        output = m_y · yₜ,   m ~ Bernoulli(1 − rate) / (1 − rate)

    The key given to `initial_carry` determines the masks; a reset within the sequence keeps them. Without a
    key nothing is dropped. Parameters are those of the cell.

    Args:
      cell: any cell.
      input: rate on x (a cell that takes tokens has none).
      state: rate on the first state entry (h of an LSTM, Keras' `recurrent_dropout`), or a tuple with
        one rate per entry, in the order of the carry.
      candidate: rate on the values that the step names g or n: recurrent dropout without memory loss.
      output: rate on y.

    Raises:
      ValueError: a rate outside [0, 1), more rates than state entries, or a step that names no candidate.

    Reference: Gal, Ghahramani, A theoretically grounded application of dropout in recurrent neural
    networks, 2016, arXiv:1512.05287; candidate: Semeniuta, Severyn, Barth, Recurrent dropout without memory
    loss, 2016, arXiv:1603.05118.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Dropout(jrnn.LSTM(8), output=0.5)
    >>> params = cell.init(jax.random.key(0), 3)
    >>> _, ys = jrnn.unroll(cell, params, jnp.ones((5, 3)), key=jax.random.key(1))
    >>> bool(((ys[0] == 0) == (ys[4] == 0)).all())
    True
    """

    cell: Annotated[Cell[P, C], require_cell]
    _: KW_ONLY
    input: Rate = 0.0
    state: Rates = 0.0
    output: Rate = 0.0
    candidate: Rate = 0.0
    timed = timed_inside

    def __post_init__(self) -> None:
        if self.input and self.in_ndim == 0:
            raise ValueError(
                "Dropout: input must be 0 for a cell that takes tokens: wrap the cell above it instead"
            )

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def linear(self) -> bool:
        return is_linear(self.cell)

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> P:
        return self.cell.init(key, in_features)

    def initial_carry(self, params: P, batch_shape: Shape = (), *, key: Array | None = None) -> NoisyCarry[C]:
        inner, own = key_or_none(key, 2)
        _per_entry("Dropout: state", _as_tuple(self.state or ()), carry_spec(self.cell, params), fill=(0.0,))
        return NoisyCarry(self.cell.initial_carry(params, batch_shape, key=inner), own)

    def step(self, params: P, carry: NoisyCarry[C], x: Any) -> tuple[NoisyCarry[C], Any]:
        if carry.key is None:
            inner, y = self.cell.step(params, carry.cell, x)
            return NoisyCarry(inner, None), y
        k_input, k_state, k_output, k_candidate = jax.random.split(carry.key, 4)
        spec = carry_spec(self.cell, params)
        rates = _per_entry("Dropout: state", _as_tuple(self.state or ()), spec, fill=(0.0,))

        def mask(entry: Array, numbered: tuple[int, float]) -> Array:
            index, rate = numbered
            return drop(jax.random.fold_in(k_state, index), rate, entry)

        masked = map_state(mask, spec, carry.cell, rates)
        step = self.cell.step
        if self.candidate:
            step = functools.partial(
                replaced_values,
                step,
                ("g", "n"),
                lambda number, g: drop(jax.random.fold_in(k_candidate, number), self.candidate, g),
            )
        values, dt = values_and_dt(self, x)
        x = with_dt(self.cell, drop(k_input, self.input, values), dt)
        inner, y = step(params, masked, x)
        return NoisyCarry(inner, carry.key), drop(k_output, self.output, y)


@checked
@dataclass(frozen=True)
class Zoneout(Generic[P, C]):
    """Keep each unit of the state at its previous value with a given probability, at every step.

        (s̃ₜ, yₜ) = cell(sₜ₋₁, xₜ)
        sₜ = m · sₜ₋₁ + (1 − m) · s̃ₜ,   m ~ Bernoulli(rate), drawn at every step
        sₜ = rate · sₜ₋₁ + (1 − rate) · s̃ₜ   without a key (evaluation)

    Where y is an entry of the state (h of an LSTM), the returned y is the zoned entry. Outputs that the cell
    computes from its new state are not zoned: `Project`, `Tap` and the like go around `Zoneout`, not inside.
    Parameters are those of the cell.

    Args:
      cell: any cell.
      rates: one rate for all state entries, or a tuple with one per entry: (h, c) for an LSTM.

    Raises:
      ValueError: a rate outside [0, 1), or a number of rates other than that of the state entries.

    Reference: Krueger et al., Zoneout: regularizing RNNs by randomly preserving hidden activations,
    2017, arXiv:1606.01305.

    >>> import jrnn
    >>> jrnn.Zoneout(jrnn.LSTM(8), rates=(0.05, 0.5)).out_features
    8
    """

    cell: Annotated[Cell[P, C], require_cell]
    rates: Rates = 0.1
    timed = timed_inside

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def linear(self) -> bool:
        return is_linear(self.cell)

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> P:
        return self.cell.init(key, in_features)

    def initial_carry(self, params: P, batch_shape: Shape = (), *, key: Array | None = None) -> NoisyCarry[C]:
        inner, own = key_or_none(key, 2)
        return NoisyCarry(self.cell.initial_carry(params, batch_shape, key=inner), own)

    def step(self, params: P, carry: NoisyCarry[C], x: Any) -> tuple[NoisyCarry[C], Any]:
        key, draw = key_or_none(carry.key, 2)
        spec = carry_spec(self.cell, params)
        given = _as_tuple(self.rates)
        rates = _per_entry("Zoneout: rates", given, spec, fill=given if len(given) == 1 else ())
        proposed, y = self.cell.step(params, carry.cell, x)
        state = map_state(functools.partial(_zone, draw), spec, proposed, carry.cell, rates)
        numbers, in_y = _value_numbers(self.cell, params, carry.cell, x)
        zoned = dict(zip(_entries(spec, numbers), _entries(spec, state), strict=True))
        return NoisyCarry(state, key), jax.tree.map(zoned.get, in_y, y)


def _zone(key: Array | None, new: Array, old: Array, numbered: tuple[int, float]) -> Array:
    index, rate = numbered
    if rate == 0 or not jnp.issubdtype(new.dtype, jnp.inexact):  # a clock or a counter goes on
        return new
    if key is None:
        return rate * old + (1 - rate) * new
    keep = jax.random.bernoulli(jax.random.fold_in(key, index), rate, new.shape)
    return select(~keep, new, old)


def _value_numbers(cell: Any, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
    """The carry and y that a step returns, each leaf as the number of its value in the trace.

    Of an LSTM: `LSTMCarry(h=41, c=38)` and `41`, since y is h.
    """
    program, _, result_types = trace(cell.step, params, carry, x)
    return jax.tree.unflatten(jax.tree.structure(result_types), program.outputs)


def _entries(spec: Any, carry: Any) -> list[Any]:
    return jax.tree.leaves(state_of(spec, carry))


def _as_tuple(rates: Rates) -> tuple[float, ...]:
    return rates if isinstance(rates, tuple) else (rates,)


def _per_entry(where: str, rates: tuple[float, ...], spec: Any, fill: tuple[float, ...]) -> Any:
    """A tree of `(index, rate)`, one for each state entry; `fill` pads the rates."""
    count = len(jax.tree.leaves(spec))
    padded = rates + fill * (count - len(rates))
    if len(padded) != count:
        raise ValueError(f"{where} has {len(rates)} rates, needs {count}: one for each entry of the state")
    return jax.tree.unflatten(jax.tree.structure(spec), list(enumerate(padded)))
