"""An Elman network whose units do not see one another."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import zeros
from jrnn.initializers import default_float, glorot


class IndRNNParams(NamedTuple):
    """Parameters of `IndRNN`."""

    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden,)
    b: Array  # (hidden,)


@checked
@dataclass(frozen=True)
class IndRNN:
    """Independently recurrent network: each unit sees the input and its own past alone.

        hₜ = f(xₜ w_ih + w_hh · hₜ₋₁ + b),   yₜ = hₜ

    Units mix in the next layer of a `Stack`. w_hh starts as U(0, 2^(1/T)) with T = `max_lag`; the paper clips
    |w_hh| to that bound after every update.

    Args:
      activation: f, by name.
      max_lag: T, longest dependency expected, in steps.

    Reference: Li, Li, Cook, Zhu, Gao, Independently recurrent neural network (IndRNN), 2018,
    arXiv:1803.04831.

    >>> import jrnn
    >>> deep = jrnn.Stack((jrnn.IndRNN(8),) * 6)
    >>> deep.out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    activation: Activation = "relu"
    max_lag: Width = 100
    diagonal: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> IndRNNParams:
        k_ih, k_hh = jax.random.split(key)
        bound = 2 ** (1 / self.max_lag)
        return IndRNNParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            w_hh=jax.random.uniform(k_hh, (self.hidden,), default_float(), 0, bound),
            b=zeros(self.hidden),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: IndRNNParams, carry: Array, x: Any) -> tuple[Array, Array]:
        f = activation(self.activation)
        h = checkpoint_name(f(x @ params.w_ih + params.w_hh * carry + params.b), "h")
        return h, h
