"""Combinators that change the carry: learned start, casting, feedback, tapping."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import joined, select
from jrnn._checks import require_cell
from jrnn._fields import checked, one_of
from jrnn._jaxprs.naming import named_values
from jrnn._states import state_of
from jrnn._timing import timed_inside
from jrnn.cell import C, Cell, P, Shape, carry_spec, float_dtype, in_ndim, is_linear, is_slot, map_state


class LearnedCarryParams(NamedTuple, Generic[P]):
    """Parameters of `LearnedCarry`."""

    cell: P
    carry: Any  # initial state, without batch axes; complex as (2, ...); None for slots and integers


@checked
@dataclass(frozen=True)
class LearnedCarry(Generic[P, C]):
    """Trainable initial state.

        s₋₁ = params.carry,   the same for every sequence

    It is initialized to the cell's own initial state. Its gradient is the sum over all starts, resets
    included, and zero where a carry was given. Integer entries, such as a step counter, are not learned.

    Args:
      cell: any cell.

    Reference: Forcada, Carrasco, Learning the initial state of a second-order recurrent neural network
    during regular-language inference, 1995.

    >>> import jax, jrnn
    >>> cell = jrnn.LearnedCarry(jrnn.GRU(3))
    >>> cell.init(jax.random.key(0), 2).carry.shape
    (3,)
    """

    cell: Annotated[Cell[P, C], require_cell]
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

    def init(self, key: Array, in_features: int) -> LearnedCarryParams[P]:
        params = self.cell.init(key, in_features)
        return LearnedCarryParams(params, jax.tree.map(_as_real, self.cell.initial_carry(params)))

    def initial_carry(
        self, params: LearnedCarryParams[P], batch_shape: Shape = (), *, key: Array | None = None
    ) -> C:
        carry = self.cell.initial_carry(params.cell, batch_shape, key=key)
        spec = carry_spec(self.cell, params.cell)
        starts = jax.tree.map(_from_real, spec, params.carry, is_leaf=is_slot)
        return map_state(_start, spec, carry, starts)

    def step(self, params: LearnedCarryParams[P], carry: C, x: Any) -> tuple[C, Any]:
        return self.cell.step(params.cell, carry, x)


def _as_real(entry: Array) -> Array | None:
    """The learned part of an entry: floats; complex ones as two real parts, since optimizers expect reals."""
    if jnp.issubdtype(entry.dtype, jnp.complexfloating):
        return jnp.stack([entry.real, entry.imag])
    return entry if jnp.issubdtype(entry.dtype, jnp.floating) else None


def _from_real(spec: Any, learned: Array | None) -> Any:
    if learned is None or spec is None:
        return ()
    return jax.lax.complex(*learned) if jnp.issubdtype(spec.dtype, jnp.complexfloating) else learned


def _start(given: Array, start: Any) -> Array:
    return given if isinstance(start, tuple) else jnp.broadcast_to(start, given.shape)


Float = Literal["bfloat16", "float16", "float32", "float64"]


@checked
@dataclass(frozen=True)
class Cast(Generic[P, C]):
    """Mixed precision: the step runs in one dtype, the state is stored in another.

        (s, yₜ) = cell(compute(params), compute(sₜ₋₁), compute(xₜ))
        sₜ = carry(s)

    Only float leaves are cast. y has the dtype that the cell computes. Parameters are those of the cell and
    keep their dtype.

    Args:
      cell: any cell.
      compute: name of the dtype of the step.
      carry: name of the dtype of the state between steps; defaults to `compute`.

    Raises:
      ValueError: not the name of a float dtype.

    Reference: Micikevicius et al., Mixed precision training, 2018, arXiv:1710.03740.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Cast(jrnn.GRU(3), compute="bfloat16", carry="float32")
    >>> h, ys = jrnn.unroll(cell, cell.init(jax.random.key(0), 2), jnp.ones((5, 2)))
    >>> h.dtype, ys.dtype
    (dtype('float32'), dtype(bfloat16))
    """

    cell: Annotated[Cell[P, C], require_cell]
    _: KW_ONLY
    compute: Float = "bfloat16"
    carry: Float | None = None
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

    def initial_carry(self, params: P, batch_shape: Shape = (), *, key: Array | None = None) -> C:
        carry = self.cell.initial_carry(params, batch_shape, key=key)
        return self._keep(params, carry, self.carry or self.compute)

    def step(self, params: P, carry: C, x: Any) -> tuple[C, Any]:
        low, x = (jax.tree.map(lambda a: _cast(a, self.compute), tree) for tree in (params, x))
        carry, y = self.cell.step(low, self._keep(params, carry, self.compute), x)
        return self._keep(params, carry, self.carry or self.compute), y

    def _keep(self, params: Any, carry: Any, dtype: str) -> Any:
        # state only: casting a slot would turn a constant of the loop into a loop variable
        return map_state(lambda entry: _cast(entry, dtype), carry_spec(self.cell, params), carry)


def _cast(leaf: Array, dtype: str) -> Array:
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


EMIT: dict[str, Callable[[Array], Array]] = {
    "identity": lambda y: y,
    "softmax": lambda y: jax.nn.softmax(y, axis=-1),
    "argmax": lambda y: jnp.argmax(y, axis=-1).astype(jnp.int32),
    "one_hot": lambda y: jax.nn.one_hot(jnp.argmax(y, axis=-1), y.shape[-1], dtype=y.dtype),
}


class FeedbackCarry(NamedTuple, Generic[C]):
    """Carry of `Feedback`."""

    cell: C
    y: Array  # (..., out), the last output


@checked
@dataclass(frozen=True)
class Feedback(Generic[P, C]):
    """Closed loop: a cell that reads its own previous output, or a given value instead.

        uₜ = givenₜ where use_givenₜ, else emit(yₜ₋₁)
        yₜ = cell([externalₜ, uₜ])

    x is `(given, use_given)`, or `(given, use_given, external)` with an additional input. `use_given` is a
    boolean without a feature axis: all True is teacher forcing, all False free running, a random mask
    scheduled sampling, True at the first step only one-to-many. y₋₁ is zero unless a carry is given.
    Parameters are those of the cell; the `in_features` of `init` counts everything that the cell reads.

    Args:
      cell: any cell; with `emit="identity"` its output must be as wide as `given`.
      emit: the function of the output that is fed back: "identity", "softmax", "argmax" (an integer token)
        or "one_hot".

    Raises:
      ValueError: an unknown name, or widths that do not match.

    Reference: Williams, Zipser, A learning algorithm for continually running fully recurrent neural
    networks, 1989; scheduled sampling: Bengio et al., 2015, arXiv:1506.03099.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> loop = jrnn.Feedback(jrnn.Stack((jrnn.Elman(8), jrnn.Dense(2))))
    >>> first = (jnp.ones((5, 2)), jnp.arange(5) == 0)
    >>> jrnn.unroll(loop, loop.init(jax.random.key(0), 2), first)[1].shape
    (5, 2)
    """

    cell: Annotated[Cell[P, C], require_cell]
    _: KW_ONLY
    emit: Annotated[str, one_of(EMIT)] = "identity"

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> P:
        return self.cell.init(key, in_features)

    def initial_carry(
        self, params: Any, batch_shape: Shape = (), *, key: Array | None = None
    ) -> FeedbackCarry[C]:
        y = jnp.zeros((*batch_shape, self.out_features), float_dtype(params))
        return FeedbackCarry(self.cell.initial_carry(params, batch_shape, key=key), y)

    def step(self, params: P, carry: FeedbackCarry[C], x: Any) -> tuple[FeedbackCarry[C], Array]:
        if not isinstance(x, tuple) or len(x) not in (2, 3):
            raise ValueError(
                "Feedback: xs must be (given, use_given) or (given, use_given, external); a Stack with a "
                "cell that takes dt reads a pair as (values, dt): pass ((given, use_given), dt)"
            )
        given, use_given, *external = x
        own = EMIT[self.emit](carry.y)
        if own.shape != given.shape:
            raise ValueError(
                f"Feedback: given has shape {given.shape}, the fed back output has shape {own.shape} "
                f"({self.cell} with emit={self.emit!r})"
            )
        fed = select(use_given, given, own)
        u = joined(*external, fed) if external else fed
        inner, y = self.cell.step(params, carry.cell, u)
        return FeedbackCarry(inner, y.astype(carry.y.dtype)), y


@checked
@dataclass(frozen=True)
class Tap(Generic[P, C]):
    """Return intermediate values of a cell together with its output.

        yₜ ↦ (yₜ, carryₜ)           without names; the state only, slots are None
        yₜ ↦ (yₜ, {name: value})    with names

    Names are those that the step assigns with `jax.ad_checkpoint.checkpoint_name`: the gates i f g o of an
    LSTM, r z n of a GRU, or those of your own step. A name that occurs several times (in a `Stack`) gives a
    tuple, bottom first.

    Args:
      cell: any cell.
      names: the intermediates to return; empty for the carry.

    Raises:
      ValueError: the step has no such name; the message lists those that exist.

    Reference: none; the names are those of the equations of the cell.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Tap(jrnn.LSTM(3), ("f",))
    >>> _, (ys, inside) = jrnn.unroll(cell, cell.init(jax.random.key(0), 2), jnp.ones((5, 2)))
    >>> inside["f"].shape
    (5, 3)
    """

    cell: Annotated[Cell[P, C], require_cell]
    names: tuple[str, ...] = ()
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

    def initial_carry(self, params: P, batch_shape: Shape = (), *, key: Array | None = None) -> C:
        return self.cell.initial_carry(params, batch_shape, key=key)

    def step(self, params: P, carry: C, x: Any) -> tuple[C, Any]:
        if not self.names:
            carry, y = self.cell.step(params, carry, x)
            return carry, (y, state_of(carry_spec(self.cell, params), carry))
        (carry, y), inside = named_values(self.cell.step, self.names, params, carry, x)
        single = {name: v[0] if len(v) == 1 else v for name, v in inside.items()}
        return carry, (y, single)
