"""Simple recurrent networks: an Elman network whose units are independent of each other."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import sigmoid, split, tanh, zeros
from jrnn.cells.normalized import normalize
from jrnn.initializers import default_float, glorot


class IndRNNParams(NamedTuple):
    """Parameters of `IndRNN`."""

    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden,)
    b: Array  # (hidden,)
    gain: Any = None  # (hidden,), γ; None without a norm


@checked
@dataclass(frozen=True)
class IndRNN:
    """Independently recurrent network: each unit sees only the input and its own past.

        hₜ = f(xₜ w_ih + w_hh · hₜ₋₁ + b),   yₜ = hₜ
        hₜ = f(γ · LN(xₜ w_ih) + w_hh · hₜ₋₁ + b)                              with norm=True

    Units are mixed by the next layer of a `Stack`. With activation="identity" the recurrence is linear. w_hh
    starts as U(0, 2^(1/T)) with T = `max_lag`; the paper clips |w_hh| to that bound after every update. The
    norm is that of haste: LN(z) = (z − mean z) / √(var z + 1e-6) of what comes from the input alone, so that
    units stay independent.

    Args:
      activation: f, by name.
      max_lag: T, longest expected dependency, in steps.
      norm: layer normalization of the input's part.

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
    norm: bool = False
    diagonal: ClassVar[bool] = True

    @property
    def linear(self) -> bool:
        return self.activation == "identity"

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
            gain=zeros(self.hidden) + 1 if self.norm else None,
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: IndRNNParams, carry: Array, x: Any) -> tuple[Array, Array]:
        f, u = activation(self.activation), x @ params.w_ih
        if params.gain is not None:
            u = params.gain * normalize(u, 1e-6)
        h = checkpoint_name(f(u + params.w_hh * carry + params.b), "h")
        return h, h


class ELSTMParams(NamedTuple):
    """Parameters of `ELSTM`."""

    w_ih: Array  # (in, 3·hidden), order f g o
    w_hh: Array  # (2·hidden,), order f g
    w_co: Array  # (hidden, hidden), from the cell state to o
    b: Array  # (3·hidden,), order f g o


@checked
@dataclass(frozen=True)
class ELSTM:
    """LSTM with an elementwise recurrence: only the output gate mixes units, outside of the recurrence.

        fₜ = σ(xₜ w_f + u_f · cₜ₋₁ + b_f),   gₜ = tanh(xₜ w_g + u_g · cₜ₋₁ + b_g)
        cₜ = fₜ · cₜ₋₁ + (1 − fₜ) · gₜ
        yₜ = oₜ · cₜ,   oₜ = σ(xₜ w_o + cₜ w_co + b_o)

    `w_hh` is [u_f, u_g]. Real-time recurrent learning costs no more than a step. In torchrecurrent o has two
    biases.

    Args:
      hidden: width of c and y.

    Reference: Irie, Gopalakrishnan, Schmidhuber, Exploring the promise and limits of real-time recurrent
    learning, 2024, arXiv:2305.19044.

    >>> import jrnn
    >>> jrnn.ELSTM(8).out_features
    8
    """

    hidden: Width
    diagonal: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> ELSTMParams:
        k_ih, k_hh, k_co = jax.random.split(key, 3)
        return ELSTMParams(
            w_ih=glorot(k_ih, (in_features, 3 * self.hidden), blocks=3),
            w_hh=jax.random.uniform(k_hh, (2 * self.hidden,), default_float(), -0.1, 0.1),
            w_co=glorot(k_co, (self.hidden, self.hidden)),
            b=zeros(3 * self.hidden),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: ELSTMParams, carry: Array, x: Any) -> tuple[Array, Array]:
        (a_f, a_g, a_o), (u_f, u_g) = split(x @ params.w_ih + params.b, 3), split(params.w_hh, 2)
        f, g = sigmoid(a_f + u_f * carry, "f"), tanh(a_g + u_g * carry, "g")
        c = f * carry + (1 - f) * g
        return c, sigmoid(a_o + c @ params.w_co, "o") * c
