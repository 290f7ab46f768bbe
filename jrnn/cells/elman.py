"""Simple recurrent networks, in which a hidden layer, its positive part, or the output is fed back."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Positive, Width, checked, one_of
from jrnn.cell import Shape, broadcasting, zero_carry, zero_state
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import cut, plus
from jrnn.initializers import default_float, glorot, identity, orthogonal, ring

RECURRENT = {"orthogonal": orthogonal, "identity": identity, "ring": ring}


class ElmanParams(NamedTuple):
    """Parameters of `Elman`."""

    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden, hidden)
    b: Any  # (hidden,); None without a bias


@checked
@dataclass(frozen=True)
class Elman:
    """Simple recurrent network: the hidden layer sees the input and itself one step ago.

        hₜ = f(xₜ w_ih + hₜ₋₁ w_hh + b)
        yₜ = hₜ

    The carry is h, of shape (..., hidden). One bias, where torch adds two that only ever appear as a
    sum. An output layer yₜ = g(hₜ v + c) is `Stack((Elman(hidden), Dense(width)))`.

    Args:
      hidden: width of h and of the output.
      activation: f, by name: "tanh", "relu", "sigmoid", "identity", ... (`jrnn.cells._activations`).
      recurrent_init: start of w_hh: "orthogonal", "identity" (with relu an IRNN) or "ring".
      bias: whether there is b.
      clip: bound on what f reads, as ONNX has it.

    Reference: Elman, Finding structure in time, 1990, doi:10.1207/s15516709cog1402_1.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Elman(3, activation="relu")
    >>> params = cell.init(jax.random.key(0), in_features=2)
    >>> carry, y = cell.step(params, cell.initial_carry(params, (4,)), jnp.ones((4, 2)))
    >>> y.shape
    (4, 3)
    """

    hidden: Width
    _: KW_ONLY
    activation: Activation = "tanh"
    recurrent_init: Annotated[str, one_of(RECURRENT)] = "orthogonal"
    bias: bool = True
    clip: Positive | None = None

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> ElmanParams:
        k_ih, k_hh = jax.random.split(key)
        return ElmanParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            w_hh=RECURRENT[self.recurrent_init](k_hh, (self.hidden, self.hidden)),
            b=jnp.zeros(self.hidden, default_float()) if self.bias else None,
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: ElmanParams, carry: Array, x: Any) -> tuple[Array, Array]:
        z = plus(x @ params.w_ih + carry @ params.w_hh, params.b)
        h = checkpoint_name(activation(self.activation)(cut(z, self.clip)), "h")
        return h, h


class JordanParams(NamedTuple):
    """Parameters of `Jordan`."""

    w_ih: Array  # (in, hidden)
    w_yh: Array  # (outputs, hidden)
    b: Array  # (hidden,)
    w_hy: Array  # (hidden, outputs)
    c: Array  # (outputs,)


@checked
@dataclass(frozen=True)
class Jordan:
    """Simple recurrent network whose memory is its own last output.

        hₜ = f(xₜ w_ih + yₜ₋₁ w_yh + b)
        yₜ = g(hₜ w_hy + c)

    The carry is y, of shape (..., outputs); y₋₁ is zero unless a carry is given. Teacher forcing, where
    the true output is fed back instead, is `Feedback` around a `Stack` of `Dense`.

    Args:
      outputs: width of y; the width of h if left out.
      activation: f, by name: "tanh", "relu", "sigmoid", "identity", ... (`jrnn.cells._activations`).
      output_activation: g, likewise.

    Reference: Jordan, Serial order: a parallel distributed processing approach, 1986 (reprinted 1997,
    doi:10.1016/S0166-4115(97)80111-2).

    >>> import jrnn
    >>> jrnn.Jordan(5, outputs=2).out_features
    2
    """

    hidden: Width
    _: KW_ONLY
    outputs: Width | None = None
    activation: Activation = "tanh"
    output_activation: Activation = "identity"

    @property
    def out_features(self) -> int:
        return self.hidden if self.outputs is None else self.outputs

    def init(self, key: Array, in_features: int) -> JordanParams:
        k_ih, k_yh, k_hy = jax.random.split(key, 3)
        return JordanParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            w_yh=glorot(k_yh, (self.out_features, self.hidden)),
            b=jnp.zeros(self.hidden, default_float()),
            w_hy=glorot(k_hy, (self.hidden, self.out_features)),
            c=jnp.zeros(self.out_features, default_float()),
        )

    def initial_carry(
        self, params: JordanParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> Array:
        return zero_state(params, batch_shape, self.out_features)

    @broadcasting
    def step(self, params: JordanParams, carry: Array, x: Any) -> tuple[Array, Array]:
        f, g = activation(self.activation), activation(self.output_activation)
        h = checkpoint_name(f(x @ params.w_ih + carry @ params.w_yh + params.b), "h")
        y = g(h @ params.w_hy + params.c)
        return y, y


class PLRNNParams(NamedTuple):
    """Parameters of `PLRNN`."""

    w_ih: Array  # (in, hidden)
    a: Array  # (hidden,), how much of itself a unit keeps
    w_hh: Array  # (hidden, hidden), of which the diagonal does not count
    b: Array  # (hidden,)


@checked
@dataclass(frozen=True)
class PLRNN:
    """Piecewise linear RNN: units that decay on their own and act on others where they are positive.

        zₜ = a · zₜ₋₁ + relu(zₜ₋₁) W + xₜ w_ih + b,   yₜ = zₜ

    W is w_hh with zeros on its diagonal: what a unit does to itself is in a. As long as no unit changes sign,
    the network is linear, so that its fixed points and cycles can be computed. The paper adds noise to z.

    Reference: Koppe, Toutounji, Kirsch, Lis, Durstewitz, Identifying nonlinear dynamical systems via
    generative recurrent neural networks with applications to fMRI, 2019, doi:10.1371/journal.pcbi.1007263.

    >>> import jax, jrnn
    >>> jrnn.PLRNN(8).init(jax.random.key(0), in_features=3).a.shape
    (8,)
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> PLRNNParams:
        k_ih, k_a, k_hh = jax.random.split(key, 3)
        return PLRNNParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            a=jax.random.uniform(k_a, (self.hidden,), default_float(), 0.5, 0.9),
            w_hh=0.1 * glorot(k_hh, (self.hidden, self.hidden)),
            b=jnp.zeros(self.hidden, default_float()),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: PLRNNParams, carry: Array, x: Any) -> tuple[Array, Array]:
        others = params.w_hh * (1 - jnp.eye(self.hidden, dtype=params.w_hh.dtype))
        z = params.a * carry + jax.nn.relu(carry) @ others + x @ params.w_ih + params.b
        z = checkpoint_name(z, "z")
        return z, z
