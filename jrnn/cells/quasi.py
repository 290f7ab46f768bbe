"""Linear recurrences: gates by convolution over time, then pooling."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from jrnn._alignment import aligned
from jrnn._checks import check_in_features
from jrnn._fields import Width, checked, one_of
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import sigmoid, split, tanh, zeros
from jrnn.initializers import glorot

GATES = {"f": "nf", "fo": "nfo", "ifo": "nfoi"}


class QRNNParams(NamedTuple):
    """Parameters of `QRNN`; order: n f o i, those that the pooling needs."""

    w_ih: Array  # (window, in, gates · hidden); [0] for xₜ, [1] for xₜ₋₁
    b: Array  # (gates · hidden,)


class QRNNCarry(NamedTuple):
    """State of `QRNN`."""

    past: tuple[Array, ...]  # window − 1 inputs, (..., in), latest first
    c: Array  # (..., hidden)


@checked
@dataclass(frozen=True)
class QRNN:
    """Quasi-recurrent network: convolutions over the last `window` inputs, pooled over time by gates.

        nₜ = tanh(Σ_j xₜ₋ⱼ w_n[j] + b_n),   fₜ, oₜ, iₜ = σ(Σ_j xₜ₋ⱼ w[j] + b),   j = 0 … window − 1
        cₜ = fₜ · cₜ₋₁ + (1 − fₜ) · nₜ,   yₜ = cₜ             pooling="f"
        cₜ = fₜ · cₜ₋₁ + (1 − fₜ) · nₜ,   yₜ = oₜ · cₜ        pooling="fo"
        cₜ = fₜ · cₜ₋₁ + iₜ · nₜ,         yₜ = oₜ · cₜ        pooling="ifo"

    Inputs before the first step are zero.

    Args:
      hidden: width of c.
      window: number of inputs that a gate sees.
      pooling: "f", "fo" or "ifo".

    Reference: Bradbury, Merity, Xiong, Socher, Quasi-recurrent neural networks, 2017, arXiv:1611.01576.

    >>> import jax, jrnn
    >>> jrnn.QRNN(8, window=2).init(jax.random.key(0), in_features=3).w_ih.shape
    (2, 3, 24)
    """

    hidden: Width
    _: KW_ONLY
    window: Width = 2
    pooling: Annotated[str, one_of(GATES)] = "fo"
    linear: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> QRNNParams:
        check_in_features(in_features)
        count = len(GATES[self.pooling])
        w = glorot(key, (self.window * in_features, count * self.hidden), blocks=count)
        return QRNNParams(
            w.reshape(self.window, in_features, count * self.hidden), zeros(count * self.hidden)
        )

    def initial_carry(
        self, params: QRNNParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> QRNNCarry:
        width = params.w_ih.shape[1]
        past = tuple(zero_state(params, batch_shape, width) for _ in range(self.window - 1))
        return QRNNCarry(past, zero_state(params, batch_shape, self.hidden))

    @broadcasting
    def step(self, params: QRNNParams, carry: QRNNCarry, x: Any) -> tuple[QRNNCarry, Array]:
        seen = aligned(x, *carry.past)
        z = jnp.concatenate(seen, -1) @ params.w_ih.reshape(-1, params.w_ih.shape[-1]) + params.b
        names = GATES[self.pooling]
        n, f, *rest = split(z, len(names))
        n, f = tanh(n, "n"), sigmoid(f, "f")
        given = {name: sigmoid(gate, name) for name, gate in zip(names[2:], rest, strict=True)}
        o, i = given.get("o", 1.0), given.get("i", 1 - f)
        c = f * carry.c + i * n
        return QRNNCarry(tuple(seen[:-1]), c), o * c
