"""Linear recurrences: units of the state are not mixed across time."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._alignment import in_dtype_of, joined
from jrnn._checks import check_in_features
from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_carry, zero_state
from jrnn.cells._gating import sigmoid, split, tanh
from jrnn.cells.minimal import InputParams, draw_input


@checked
@dataclass(frozen=True)
class TRNN:
    """Strongly typed RNN: an average of inputs, weighted by a gate.

        zₜ = xₜ w_z + b_z
        fₜ = σ(xₜ w_f + b_f)
        hₜ = fₜ · hₜ₋₁ + (1 − fₜ) · zₜ,   yₜ = hₜ

    Gate order: z f.

    Reference: Balduzzi, Ghifary, Strongly-typed recurrent neural networks, 2016, arXiv:1602.02218.

    >>> import jrnn
    >>> jrnn.TRNN(8).linear
    True
    """

    hidden: Width
    linear: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> InputParams:
        return draw_input(key, in_features, self.hidden, 2)

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: InputParams, carry: Array, x: Any) -> tuple[Array, Array]:
        z, f = split(x @ params.w_ih + params.b, 2)
        z, f = checkpoint_name(z, "z"), sigmoid(f, "f")
        h = f * carry + (1 - f) * z
        return h, h


class TypedCarry(NamedTuple):
    """State of `TGRU` and `TLSTM`."""

    x: Array  # (..., in), the previous input
    c: Array  # (..., hidden)


@checked
@dataclass(frozen=True)
class TGRU:
    """Strongly typed GRU: gates see the current and the previous input, not the state.

        zₜ = xₜ w_z + xₜ₋₁ v_z + b_z
        fₜ = σ(xₜ w_f + xₜ₋₁ v_f + b_f)
        oₜ = tanh(xₜ w_o + xₜ₋₁ v_o + b_o)
        cₜ = fₜ · cₜ₋₁ + zₜ · oₜ,   yₜ = cₜ

    Gate order: z f o. `w_ih` is [w; v]. The input before the first is zero.

    Args:
      hidden: width of c.

    Reference: Balduzzi, Ghifary, Strongly-typed recurrent neural networks, 2016, arXiv:1602.02218.

    >>> import jax, jrnn
    >>> jrnn.TGRU(8).init(jax.random.key(0), in_features=3).w_ih.shape
    (6, 24)
    """

    hidden: Width
    linear: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> InputParams:
        check_in_features(in_features)
        return draw_input(key, 2 * in_features, self.hidden, 3)

    def initial_carry(
        self, params: InputParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> TypedCarry:
        return _start(params, batch_shape, self.hidden)

    @broadcasting
    def step(self, params: InputParams, carry: TypedCarry, x: Any) -> tuple[TypedCarry, Array]:
        z, f, o = _gates(params, carry, x)
        c = f * carry.c + z * o
        return TypedCarry(in_dtype_of(x, carry.x), c), c


@checked
@dataclass(frozen=True)
class TLSTM:
    """Strongly typed LSTM: gates see the current and the previous input, not the state.

        zₜ = xₜ w_z + xₜ₋₁ v_z + b_z
        fₜ = σ(xₜ w_f + xₜ₋₁ v_f + b_f)
        oₜ = tanh(xₜ w_o + xₜ₋₁ v_o + b_o)
        cₜ = fₜ · cₜ₋₁ + (1 − fₜ) · zₜ
        yₜ = cₜ · oₜ

    Gate order: z f o. `w_ih` is [w; v]. The input before the first is zero.

    Args:
      hidden: width of c.

    Reference: Balduzzi, Ghifary, Strongly-typed recurrent neural networks, 2016, arXiv:1602.02218.

    >>> import jrnn
    >>> jrnn.TLSTM(8).out_features
    8
    """

    hidden: Width
    linear: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> InputParams:
        check_in_features(in_features)
        return draw_input(key, 2 * in_features, self.hidden, 3)

    def initial_carry(
        self, params: InputParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> TypedCarry:
        return _start(params, batch_shape, self.hidden)

    @broadcasting
    def step(self, params: InputParams, carry: TypedCarry, x: Any) -> tuple[TypedCarry, Array]:
        z, f, o = _gates(params, carry, x)
        c = f * carry.c + (1 - f) * z
        return TypedCarry(in_dtype_of(x, carry.x), c), c * o


def _start(params: InputParams, batch_shape: Shape, hidden: int) -> TypedCarry:
    return TypedCarry(*(zero_state(params, batch_shape, n) for n in (params.w_ih.shape[0] // 2, hidden)))


def _gates(params: InputParams, carry: TypedCarry, x: Any) -> tuple[Array, Array, Array]:
    z, f, o = split(joined(x, carry.x) @ params.w_ih + params.b, 3)
    return checkpoint_name(z, "z"), sigmoid(f, "f"), tanh(o, "o")
