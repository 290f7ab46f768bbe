"""Reservoirs and delay lines: a random, untrained recurrence, and a read-out by least squares."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._alignment import expand
from jrnn._checks import check_in_features
from jrnn._fields import Share, Width, checked
from jrnn.cell import Shape, broadcasting, zero_carry
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import GateParams, widened
from jrnn.cells.maps import DenseParams
from jrnn.initializers import default_float, ring, spectral_radius


class EchoStateParams(NamedTuple):
    """Parameters of `EchoState`, none of them trained."""

    fixed: GateParams


@checked
@dataclass(frozen=True)
class EchoState:
    """Echo-state network: a fixed random reservoir with leaky units.

        hₜ = (1 − a) · hₜ₋₁ + a · f(xₜ w_ih + hₜ₋₁ w_hh + b),   yₜ = hₜ

    The reservoir gets no gradients. `jrnn.ridge_readout` solves a least-squares problem for its read-out,
    and returns parameters of a `Dense` on top.

    Args:
      radius: spectral radius of w_hh; below 1 the state forgets its start.
      density: fraction of nonzero entries of w_hh; None: ten per row.
      topology: "random", or "ring": every unit feeds the next one, with weight `radius`.
      leak: a, in (0, 1].
      input_scale: w_ih ~ U(−input_scale, input_scale).
      bias_scale: b ~ U(−bias_scale, bias_scale).
      activation: f, by name: "tanh", "identity", "relu", ...

    Reference: Jaeger, The echo state approach to analyzing and training recurrent neural networks, 2001;
    leaky units: Jaeger, Lukoševičius, Popovici, Siewert, 2007, doi:10.1016/j.neunet.2007.04.016;
    ring: Rodan, Tiňo, 2011, doi:10.1109/TNN.2010.2089641.

    >>> import jax, jrnn
    >>> jrnn.trainable(jrnn.EchoState(8).init(jax.random.key(0), in_features=1)).fixed.w_hh
    False
    """

    hidden: Width
    _: KW_ONLY
    radius: float = 0.9
    density: Share | None = None
    topology: Literal["random", "ring"] = "random"
    leak: Share = 1.0
    input_scale: float = 1.0
    bias_scale: float = 0.1
    activation: Activation = "tanh"

    @property
    def out_features(self) -> int:
        return self.hidden

    @property
    def _density(self) -> float:
        return min(1.0, 10 / self.hidden) if self.density is None else self.density

    def init(self, key: Array, in_features: int) -> EchoStateParams:
        check_in_features(in_features)
        k_ih, k_hh, k_b = jax.random.split(key, 3)

        def uniform(key: Array, shape: Shape, scale: float) -> Array:
            return jax.random.uniform(key, shape, default_float(), -scale, scale)

        square = self.hidden, self.hidden
        if self.topology == "ring":
            w_hh = ring(k_hh, square, scale=self.radius)
        else:
            w_hh = spectral_radius(k_hh, square, radius=self.radius, density=self._density)
        return EchoStateParams(
            GateParams(
                w_ih=uniform(k_ih, (in_features, self.hidden), self.input_scale),
                w_hh=w_hh,
                b=uniform(k_b, (self.hidden,), self.bias_scale),
            )
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: EchoStateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        w_ih, w_hh, b = jax.lax.stop_gradient(params.fixed)
        n = checkpoint_name(activation(self.activation)(x @ w_ih + carry @ w_hh + b), "n")
        h = (1 - self.leak) * carry + self.leak * n
        return h, h


def ridge_readout(
    features: Array, targets: Array, *, penalty: float = 1e-6, mask: Array | None = None
) -> DenseParams:
    """Solve for the linear read-out by ridge regression.

        w, b = argmin Σ ‖features w + b − targets‖² + penalty · ‖w‖²

    The bias is not penalized. It uses a QR factorization, not the normal equations, so that float32 (the
    least precision used) is enough.

    Args:
      features: (..., hidden), states over any leading axes, without the initial transient.
      targets: (..., out), with the same leading axes.
      penalty: of the squared weights, at least 0; with 0, the solution of minimum norm.
      mask: boolean, with the leading axes of `features`; True at steps that count.

    Returns:
      The parameters of `Dense(out)`.

    Raises:
      ValueError: different leading axes, or a negative penalty.

    Reference: Hoerl, Kennard, Ridge regression: biased estimation for nonorthogonal problems, 1970.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> xs = jax.random.normal(jax.random.key(0), (100, 1))
    >>> reservoir = jrnn.EchoState(50)
    >>> params = reservoir.init(jax.random.key(1), in_features=1)
    >>> _, states = jrnn.unroll(reservoir, params, xs)
    >>> jrnn.ridge_readout(states[10:], xs[8:-2]).w.shape  # what was two steps ago
    (50, 1)
    """
    if features.shape[:-1] != targets.shape[:-1]:
        raise ValueError(
            f"features {features.shape} and targets {targets.shape} differ in their leading axes"
        )
    if penalty < 0:
        raise ValueError(f"penalty must be at least 0, got {penalty}")
    features, targets = widened(features), widened(targets)
    weight = jnp.ones(features.shape[:-1], features.dtype)
    if mask is not None:
        weight = jnp.where(expand(mask, weight.ndim), weight, 0)
    counted = weight[..., None] > 0  # padding must not enter, even if NaN
    flat_f, flat_t = (jnp.where(counted, a, 0).reshape(-1, a.shape[-1]) for a in (features, targets))
    weight = weight.reshape(-1, 1)
    mean_f, mean_t = (a.sum(0) / weight.sum() for a in (flat_f, flat_t))
    if penalty == 0:  # minimum norm if there are fewer states than units, or equal ones
        w = jnp.linalg.lstsq(weight * (flat_f - mean_f), weight * (flat_t - mean_t))[0]
        return DenseParams(w, mean_t - mean_f @ w)
    hidden = features.shape[-1]
    ridge = jnp.sqrt(jnp.asarray(penalty, features.dtype)) * jnp.eye(hidden, dtype=features.dtype)
    q, r = jnp.linalg.qr(jnp.concatenate([weight * (flat_f - mean_f), ridge]))
    right = jnp.concatenate(
        [weight * (flat_t - mean_t), jnp.zeros((hidden, targets.shape[-1]), targets.dtype)]
    )
    w = jax.scipy.linalg.solve_triangular(r, q.T @ right)
    return DenseParams(w, mean_t - mean_f @ w)
