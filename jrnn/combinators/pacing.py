"""When and on what a cell steps: dilated, skipped, fast and slow, multiplied, mixed."""

from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._alignment import expand, select
from jrnn._checks import require_cell
from jrnn._fields import AnyCell, Width, checked
from jrnn._timing import is_timed, timed_inside, values_and_dt, with_dt
from jrnn.cell import C, Cell, P, Shape, carry_spec, float_dtype, in_ndim, key_or_none, map_state
from jrnn.cells.lstm import LSTM, LSTMCarry, LSTMParams
from jrnn.cells.maps import Dense, DenseParams
from jrnn.initializers import glorot, orthogonal


class DilatedCarry(NamedTuple, Generic[C]):
    """Carry of `Dilated`."""

    cells: tuple[C, ...]  # of the last `dilation` steps, oldest first


@checked
@dataclass(frozen=True)
class Dilated(Generic[P, C]):
    """Dilated recurrence: a step continues from `dilation` steps before, not from the last one.

        (sₜ, yₜ) = cell(sₜ₋d, xₜ),   d = dilation

    These are d interleaved recurrences with the same weights, each a d-th as long. Parameters are those of
    the cell. The paper stacks them with dilations 1, 2, 4, …

    Args:
      cell: any cell.
      dilation: d.

    Raises:
      ValueError: at a step, x = `(values, dt)`: the last step is not the one that the cell continues from.

    Reference: Chang et al., Dilated recurrent neural networks, 2017, arXiv:1710.02224.

    >>> import jrnn
    >>> jrnn.Stack(tuple(jrnn.Dilated(jrnn.GRU(8), d) for d in (1, 2, 4))).out_features
    8
    """

    cell: Annotated[Cell[P, C], require_cell]
    dilation: Width
    timed = timed_inside  # so that dt arrives, and is refused

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> P:
        return self.cell.init(key, in_features)

    def initial_carry(
        self, params: P, batch_shape: Shape = (), *, key: Array | None = None
    ) -> DilatedCarry[C]:
        keys = key_or_none(key, self.dilation)
        return DilatedCarry(tuple(self.cell.initial_carry(params, batch_shape, key=k) for k in keys))

    def step(self, params: P, carry: DilatedCarry[C], x: Any) -> tuple[DilatedCarry[C], Any]:
        _refuse_dt(self, x)
        new, y = self.cell.step(params, carry.cells[0], x)
        states, slots = (*carry.cells[1:], new), (new, *carry.cells[1:])
        spec = carry_spec(self.cell, params)  # states move on; noise does not, nor does it at invalid steps
        pairs = zip(slots, states, strict=True)
        return DilatedCarry(tuple(map_state(lambda own, state: state, spec, *pair) for pair in pairs)), y


def _refuse_dt(cell: Any, x: Any) -> None:
    """Raise for a dt: it is the time since the last step, not since the step that the cell continues from."""
    if values_and_dt(cell, x)[1] is not None:
        raise ValueError(
            f"{type(cell).__name__}: x must be values without dt, the time since the step before, from which "
            f"{cell.cell} does not continue: put the times among the values"
        )


class SkipRNNParams(NamedTuple, Generic[P]):
    """Parameters of `SkipRNN`."""

    cell: P
    gate: DenseParams  # (out, 1)


class SkipRNNCarry(NamedTuple, Generic[C]):
    """Carry of `SkipRNN`."""

    cell: C
    y: Array  # (..., out), the last output
    u: Array  # (...), in [0, 1], how due an update is


@checked
@dataclass(frozen=True)
class SkipRNN(Generic[P, C]):
    """Skip RNN: a cell that learns at which steps to update its state, and keeps it at the others.

        ũ = 1 where uₜ₋₁ > ½, else 0
        (sₜ, yₜ) = cell(sₜ₋₁, xₜ) where ũ = 1, else (sₜ₋₁, yₜ₋₁)
        δ = σ(yₜ w + b)
        uₜ = δ where ũ = 1, else min(uₜ₋₁ + δ, 1),   u₋₁ = 1

    The gradient of ũ with respect to u is taken to be 1 (straight through). The paper reads δ from the state
    c of an LSTM; here it is read from y. Charge for updates with the mean of ũ, as `Tap(cell, ("update",))`
    returns it.

    Args:
      cell: any cell.

    Raises:
      ValueError: at a step, x = `(values, dt)`: the last update may be longer ago than the last step.

    Reference: Campos, Jou, Giró-i-Nieto, Torres, Chang, Skip RNN: learning to skip state updates in recurrent
    neural networks, 2018, arXiv:1708.06834.

    >>> import jrnn
    >>> jrnn.SkipRNN(jrnn.GRU(8))
    SkipRNN(cell=GRU(hidden=8))
    """

    cell: Annotated[Cell[P, C], require_cell]
    timed = timed_inside

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> SkipRNNParams[P]:
        k_cell, k_gate = jax.random.split(key)
        w, b = Dense(1).init(k_gate, self.out_features)
        return SkipRNNParams(self.cell.init(k_cell, in_features), DenseParams(w, b + 1))

    def initial_carry(
        self, params: SkipRNNParams[P], batch_shape: Shape = (), *, key: Array | None = None
    ) -> SkipRNNCarry[C]:
        inner = self.cell.initial_carry(params.cell, batch_shape, key=key)
        dtype = float_dtype(params)
        y = jnp.zeros((*batch_shape, self.out_features), dtype)
        return SkipRNNCarry(inner, y, jnp.ones(batch_shape, dtype))

    def step(self, params: SkipRNNParams[P], carry: SkipRNNCarry[C], x: Any) -> tuple[SkipRNNCarry[C], Array]:
        _refuse_dt(self, x)
        u = carry.u
        due = jax.lax.stop_gradient(jnp.round(u)) + (u - jax.lax.stop_gradient(u))  # 0 or 1, exactly
        due = checkpoint_name(due, "update")
        inner, y = self.cell.step(params.cell, carry.cell, x)
        spec = carry_spec(self.cell, params.cell)
        inner = map_state(lambda new, old: _mixed(due, new, old), spec, inner, carry.cell)
        y = _mixed(due, y, carry.y)
        delta = jax.nn.sigmoid((y @ params.gate.w)[..., 0] + params.gate.b[0])
        u = due * delta + (1 - due) * jnp.minimum(u + delta, 1)
        return SkipRNNCarry(inner, y, u), y


def _mixed(share: Array, new: Array, old: Array) -> Array:
    """`share` of the new and the rest of the old, a share for each batch element; integers are selected."""
    if not jnp.issubdtype(new.dtype, jnp.inexact):
        return select(share > 0.5, new, old)
    share = expand(share, new.ndim).astype(new.dtype)
    return share * new + (1 - share) * old


class FastSlowParams(NamedTuple):
    """Parameters of `FastSlow`."""

    fast: tuple[Any, ...]
    slow: Any


class FastSlowCarry(NamedTuple):
    """Carry of `FastSlow`."""

    fast: Any  # of the last fast cell
    slow: Any


@checked
@dataclass(frozen=True)
class FastSlow:
    """Fast-slow RNN: several fast cells work on one state, and a slow one between the first and the second.

        (f, y) = fast₁(fₜ₋₁, xₜ)
        (sₜ, z) = slow(sₜ₋₁, y)
        (f, y) = fast₂(f, z)
        (f, y) = fastᵢ(f, without input),   i = 3 … k
        fₜ = f,   yₜ = y

    Of x = `(values, dt)`, every cell that takes dt moves by dt, each fast one again.

    Args:
      fast: two or more cells with carries of the same shapes.
      slow: any cell.

    Raises:
      ValueError: fewer than two fast cells; at `init`, carries that differ.

    Reference: Mujika, Meier, Steger, Fast-slow recurrent neural networks, 2017, arXiv:1705.08639.

    >>> import jrnn
    >>> jrnn.FastSlow((jrnn.LSTM(8),) * 3, jrnn.LSTM(4)).out_features
    8
    """

    fast: tuple[AnyCell, ...]
    slow: AnyCell

    def __post_init__(self) -> None:
        if len(self.fast) < 2:
            raise ValueError(f"FastSlow: fast needs at least two cells, got {len(self.fast)}")

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.fast[0])

    @property
    def timed(self) -> bool:
        return any(is_timed(cell) for cell in (*self.fast, self.slow))

    @property
    def out_features(self) -> int:
        return self.fast[-1].out_features

    def init(self, key: Array, in_features: int) -> FastSlowParams:
        k_slow, *keys = jax.random.split(key, 1 + len(self.fast))
        widths = in_features, self.slow.out_features, *(0 for _ in self.fast[2:])
        fast = tuple(cell.init(k, n) for cell, k, n in zip(self.fast, keys, widths, strict=True))
        carries = [carry_spec(cell, p) for cell, p in zip(self.fast, fast, strict=True)]
        if any(carry != carries[0] for carry in carries):
            raise ValueError(f"FastSlow: the fast cells share a state, but they have {carries}")
        return FastSlowParams(fast, self.slow.init(k_slow, self.fast[0].out_features))

    def initial_carry(
        self, params: FastSlowParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> FastSlowCarry:
        k_fast, k_slow = key_or_none(key, 2)
        fast = self.fast[0].initial_carry(params.fast[0], batch_shape, key=k_fast)
        return FastSlowCarry(fast, self.slow.initial_carry(params.slow, batch_shape, key=k_slow))

    def step(self, params: FastSlowParams, carry: FastSlowCarry, x: Any) -> tuple[FastSlowCarry, Any]:
        values, dt = values_and_dt(self, x)
        fast, y = self.fast[0].step(params.fast[0], carry.fast, with_dt(self.fast[0], values, dt))
        slow, z = self.slow.step(params.slow, carry.slow, with_dt(self.slow, y, dt))
        for cell, p in zip(self.fast[1:], params.fast[1:], strict=True):
            fast, y = cell.step(p, fast, with_dt(cell, z, dt))
            z = y[..., :0]  # the third and later ones have no input
        return FastSlowCarry(fast, slow), y


class MultiplicativeParams(NamedTuple, Generic[P]):
    """Parameters of `Multiplicative`."""

    cell: P
    w_xm: Array  # (in, hidden)
    w_hm: Array  # (hidden, hidden)


@checked
@dataclass(frozen=True)
class Multiplicative(Generic[P, C]):
    """Multiplicative RNN: the input scales the state that the cell reads.

        m = (xₜ w_xm) · (hₜ₋₁ w_hm)
        (sₜ, yₜ) = cell(sₜ₋₁ with m in the place of h, xₜ)

    h is the state if it is one array, else its entry `h`. Around an `LSTM` this is `MultiplicativeLSTM`.

    Args:
      cell: a cell with such a state.

    Raises:
      ValueError: at `init`, a state without h.

    Reference: Sutskever, Martens, Hinton, Generating text with recurrent neural networks, 2011.

    >>> import jrnn
    >>> jrnn.Multiplicative(jrnn.Elman(8))
    Multiplicative(cell=Elman(hidden=8))
    """

    cell: Annotated[Cell[P, C], require_cell]
    timed = timed_inside

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> MultiplicativeParams[P]:
        k_cell, k_x, k_h = jax.random.split(key, 3)
        params = self.cell.init(k_cell, in_features)
        spec = carry_spec(self.cell, params)
        h = getattr(spec, "h", spec)
        if not hasattr(h, "shape"):
            raise ValueError(
                f"Multiplicative: {self.cell} has the state {spec}, needs one array or an entry h"
            )
        width = h.shape[-1]
        return MultiplicativeParams(
            params, glorot(k_x, (in_features, width)), orthogonal(k_h, (width, width))
        )

    def initial_carry(
        self, params: MultiplicativeParams[P], batch_shape: Shape = (), *, key: Array | None = None
    ) -> C:
        return self.cell.initial_carry(params.cell, batch_shape, key=key)

    def step(self, params: MultiplicativeParams[P], carry: Any, x: Any) -> tuple[Any, Any]:
        values, _ = values_and_dt(self, x)
        m = (values @ params.w_xm) * (getattr(carry, "h", carry) @ params.w_hm)
        return self.cell.step(params.cell, carry._replace(h=m) if hasattr(carry, "h") else m, x)


class MixedMemoryParams(NamedTuple, Generic[P]):
    """Parameters of `MixedMemory`."""

    lstm: LSTMParams
    cell: P


class MixedMemoryCarry(NamedTuple):
    """Carry of `MixedMemory`."""

    h: Array  # (..., n), the state of the cell
    c: Array  # (..., n), the cell state of the LSTM


@checked
@dataclass(frozen=True)
class MixedMemory(Generic[P]):
    """Mixed memory: an LSTM and a cell work on one state in turn, which gives the cell a long memory.

        (h, cₜ) = LSTM(hₜ₋₁, cₜ₋₁, xₜ)
        (hₜ, yₜ) = cell(h, xₜ)

    Of x = `(values, dt)`, the LSTM reads the values.

    Args:
      cell: a cell whose state is one array, such as `CfC` or `LTC`.

    Raises:
      ValueError: at `init`, another state.

    Reference: Lechner, Hasani, Learning long-term dependencies in irregularly-sampled time series, 2020,
    arXiv:2006.04418.

    >>> import jrnn
    >>> jrnn.MixedMemory(jrnn.CfC(8)).out_features
    8
    """

    cell: Annotated[Cell[P, Array], require_cell]
    timed = timed_inside

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> MixedMemoryParams[P]:
        k_lstm, k_cell = jax.random.split(key)
        params = self.cell.init(k_cell, in_features)
        spec = carry_spec(self.cell, params)
        if not hasattr(spec, "shape") or len(spec.shape) != 1:
            raise ValueError(f"MixedMemory: {self.cell} has the state {spec}, needs one vector")
        return MixedMemoryParams(LSTM(spec.shape[0]).init(k_lstm, in_features), params)

    def initial_carry(
        self, params: MixedMemoryParams[P], batch_shape: Shape = (), *, key: Array | None = None
    ) -> MixedMemoryCarry:
        h = self.cell.initial_carry(params.cell, batch_shape, key=key)
        return MixedMemoryCarry(h, jnp.zeros_like(h))

    def step(
        self, params: MixedMemoryParams[P], carry: MixedMemoryCarry, x: Any
    ) -> tuple[MixedMemoryCarry, Any]:
        values, _ = values_and_dt(self, x)
        (h, c), _ = LSTM(carry.h.shape[-1]).step(params.lstm, LSTMCarry(*carry), values)
        h, y = self.cell.step(params.cell, h, x)
        return MixedMemoryCarry(h, c), y
