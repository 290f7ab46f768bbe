"""Time that is irregular: cells that read the time since each value was measured."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import GateParams, draw_gates, sigmoid, split, tanh, zeros
from jrnn.initializers import default_float, glorot


class GRUDParams(NamedTuple):
    """Parameters of `GRUD`."""

    gru: GateParams  # r z n
    w_mh: Array  # (in, 3·hidden), of the mask, order r z n
    w_dx: Array  # (in,), decay of inputs
    b_dx: Array  # (in,)
    w_dh: Array  # (in, hidden), decay of the state
    b_dh: Array  # (hidden,)
    fixed: Array  # (in,), the mean of every input, to which a missing one decays


class GRUDCarry(NamedTuple):
    """State of `GRUD`."""

    h: Array  # (..., hidden), also the output
    x: Array  # (..., in), the last measured value of every input


@checked
@dataclass(frozen=True)
class GRUD:
    """GRU with decay, for series with gaps: x is `(values, mask, delta)`.

        γ_x = exp(−relu(δₜ · w_dx + b_dx)),   γ_h = exp(−relu(δₜ w_dh + b_dh))
        x̂ₜ = mₜ · xₜ + (1 − mₜ) · (γ_x · x′ₜ₋₁ + (1 − γ_x) · mean),   ĥ = γ_h · hₜ₋₁
        rₜ = σ(x̂ₜ w_r + ĥ u_r + mₜ v_r + b_r),   zₜ likewise
        nₜ = tanh(x̂ₜ w_n + (rₜ · ĥ) u_n + mₜ v_n + b_n)
        hₜ = (1 − zₜ) · ĥ + zₜ · nₜ,   yₜ = hₜ
        x′ₜ = mₜ · xₜ + (1 − mₜ) · x′ₜ₋₁

    values, mask and delta are (..., in): the measurements (anything where missing, even NaN), whether each
    was made (1 or 0, or boolean), and the time since that input was last measured; `jrnn.data.gaps` makes
    them of `(values, dt)`. The mean is `params.fixed`, initially zero and not trained: set it to that of the
    training data with `params._replace(fixed=mean)`. x′ starts at zero. z takes the new value (in `GRU` it
    keeps the old one).

    Raises:
      ValueError: an input that is not `(values, mask, delta)`.

    Reference: Che, Purushotham, Cho, Sontag, Liu, Recurrent neural networks for multivariate time series with
    missing values, 2018, doi:10.1038/s41598-018-24271-9.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.GRUD(8)
    >>> params = cell.init(jax.random.key(0), in_features=2)
    >>> values = jnp.array([[1.0, jnp.nan], [jnp.nan, 3.0]])
    >>> delta = jnp.array([[0.0, 0.0], [1.5, 1.5]])
    >>> bool(jnp.isfinite(jrnn.unroll(cell, params, (values, ~jnp.isnan(values), delta))[1]).all())
    True
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GRUDParams:
        k_gru, k_mh, k_dx, k_dh = jax.random.split(key, 4)
        return GRUDParams(
            gru=draw_gates(k_gru, in_features, self.hidden, biases=(0, 0, 0)),
            w_mh=glorot(k_mh, (in_features, 3 * self.hidden), blocks=3),
            w_dx=jax.random.uniform(k_dx, (in_features,), default_float(), 0, 1),
            b_dx=zeros(in_features),
            w_dh=jnp.abs(glorot(k_dh, (in_features, self.hidden))),
            b_dh=zeros(self.hidden),
            fixed=zeros(in_features),
        )

    def initial_carry(
        self, params: GRUDParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> GRUDCarry:
        widths = self.hidden, params.w_dx.shape[0]
        return GRUDCarry(*(zero_state(params, batch_shape, width) for width in widths))

    @broadcasting
    def step(self, params: GRUDParams, carry: GRUDCarry, x: Any) -> tuple[GRUDCarry, Array]:
        if not isinstance(x, tuple) or len(x) != 3:
            raise ValueError("GRUD: xs must be (values, mask, delta)")
        values, mask, delta = x
        m, mean = mask.astype(values.dtype), jax.lax.stop_gradient(params.fixed)
        decay_x = jnp.exp(-jax.nn.relu(delta * params.w_dx + params.b_dx))
        decay_h = jnp.exp(-jax.nn.relu(delta @ params.w_dh + params.b_dh))
        values = jnp.where(m > 0, values, 0)
        filled = m * values + (1 - m) * (decay_x * carry.x + (1 - decay_x) * mean)
        h = checkpoint_name(decay_h, "decay") * carry.h
        w_ih, w_hh, b = params.gru
        a_r, a_z, a_n = split(filled @ w_ih + m @ params.w_mh + b, 3)
        u_r, u_z, u_n = split(w_hh, 3)
        r, z = sigmoid(a_r + h @ u_r, "r"), sigmoid(a_z + h @ u_z, "z")
        n = tanh(a_n + (r * h) @ u_n, "n")
        h = (1 - z) * h + z * n
        return GRUDCarry(h, m * values + (1 - m) * carry.x), h
