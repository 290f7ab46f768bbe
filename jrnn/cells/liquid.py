"""Time that is irregular: units whose time constants depend on the input; x is values or `(values, dt)`."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._checks import check_in_features
from jrnn._fields import Width, checked
from jrnn._timing import values_and_time
from jrnn.cell import Shape, broadcasting, zero_carry
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import before_softplus, sigmoid, split, tanh, zeros
from jrnn.cells.maps import DenseParams
from jrnn.cells.wirings import NCP, NCPMasks, Wiring
from jrnn.initializers import default_float, glorot, orthogonal


class Synapses(NamedTuple):
    """Synapses of `LTC`, (sources, hidden) each."""

    w: Array  # conductance, before the softplus
    mu: Array  # threshold
    sigma: Array  # slope
    e: Array  # reversal potential, at the start 1 (excites) or −1 (inhibits)


class LTCFixed(NamedTuple):
    """Connections of a wired `LTC`, 1 or 0, not trained."""

    inputs: Array  # (in, hidden)
    units: Array  # (hidden, hidden)


class LTCParams(NamedTuple):
    """Parameters of `LTC`."""

    inputs: Synapses  # (in, hidden) each
    units: Synapses  # (hidden, hidden) each
    c: Array  # (hidden,), capacitance, before the softplus
    leak: Array  # (hidden,), conductance of the leak, before the softplus
    v_leak: Array  # (hidden,), potential of the leak
    fixed: Any  # connections; None if all units are connected


@checked
@dataclass(frozen=True)
class LTC:
    """Liquid time-constant network: units charged through synapses whose conductance depends on the source.

        gⱼᵢ(u) = softplus(wⱼᵢ) · σ(σⱼᵢ · (uⱼ − μⱼᵢ)),   from source j to unit i
        S = Σⱼ g(xₜ) + Σⱼ g(v),   J = Σⱼ e · g(xₜ) + Σⱼ e · g(v)
        v ← (C v + δ · (G v_leak + J)) / (C + δ · (G + S)),   δ = dt / unfolds,   `unfolds` times
        yₜ = hₜ = v,   of which with a wiring the last `outputs`

    with C = softplus(c) and G = softplus(leak). This is the paper's fused solver, a step of implicit Euler
    that cannot overflow, multiplied by δ: dt = 0 changes nothing. x is values or `(values, dt)`. With a
    `wiring`, g is zero where there is no connection. ncps has the motor units first, scales inputs and
    outputs, for which use a `Dense`, and clips conductances at zero after an update where these are a
    softplus.

    Args:
      unfolds: number of steps of the solver.
      wiring: sparse connections, an `NCP`; None connects all units.

    Reference: Hasani, Lechner, Amini, Rus, Grosu, Liquid time-constant networks, 2021, arXiv:2006.04439.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.LTC(20, wiring=jrnn.NCP(4))
    >>> xs = jnp.ones((5, 3)), jnp.array([0.1, 2.0, 0.5, 0.3, 1.0])
    >>> jrnn.unroll(cell, cell.init(jax.random.key(0), in_features=3), xs)[1].shape
    (5, 4)
    """

    hidden: Width
    _: KW_ONLY
    unfolds: Width = 6
    wiring: Wiring | None = None
    timed: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden if self.wiring is None else self.wiring.outputs

    def init(self, key: Array, in_features: int) -> LTCParams:
        check_in_features(in_features)
        k_inputs, k_units, k_c, k_leak, k_v, k_wiring = jax.random.split(key, 6)
        share = 2 / 3 if self.wiring is None else 0.5  # of the synapses that excite
        return LTCParams(
            inputs=_draw_synapses(k_inputs, (in_features, self.hidden), share),
            units=_draw_synapses(k_units, (self.hidden, self.hidden), share),
            c=before_softplus(_uniform(k_c, (self.hidden,), 0.4, 0.6)),
            leak=before_softplus(_uniform(k_leak, (self.hidden,), 0.001, 1)),
            v_leak=_uniform(k_v, (self.hidden,), -0.2, 0.2),
            fixed=None if self.wiring is None else _wired(self.wiring, k_wiring, in_features, self.hidden),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: LTCParams, carry: Array, x: Any) -> tuple[Array, Array]:
        (x, dt), v = values_and_time(self, x), carry
        masks = LTCFixed(*jax.lax.stop_gradient(params.fixed or (None, None)))
        c, leak = jax.nn.softplus(params.c), jax.nn.softplus(params.leak)
        s_x, j_x = _conducted(params.inputs, masks.inputs, x)
        s_x, j_x = s_x + leak, j_x + leak * params.v_leak
        delta = dt / self.unfolds
        for _ in range(self.unfolds):
            s, j = _conducted(params.units, masks.units, v)
            v = (c * v + delta * (j + j_x)) / (c + delta * (s + s_x))
        v = checkpoint_name(v, "v")
        return v, v[..., -self.out_features :]


def _conducted(synapses: Synapses, mask: Any, u: Array) -> tuple[Array, Array]:
    """Conductance S and current J into every unit, (..., hidden)."""
    g = jax.nn.softplus(synapses.w) * jax.nn.sigmoid(synapses.sigma * (u[..., None] - synapses.mu))
    g = g if mask is None else g * mask
    return g.sum(-2), (g * synapses.e).sum(-2)


def _uniform(key: Array, shape: Shape, low: float, high: float) -> Array:
    return jax.random.uniform(key, shape, default_float(), low, high)


def _draw_synapses(key: Array, shape: Shape, share: float) -> Synapses:
    """Draw synapses as ncps does, a share of which excite."""
    k_w, k_mu, k_sigma, k_e = jax.random.split(key, 4)
    return Synapses(
        w=before_softplus(_uniform(k_w, shape, 0.001, 1)),
        mu=_uniform(k_mu, shape, 0.3, 0.8),
        sigma=_uniform(k_sigma, shape, 3, 8),
        e=2 * jax.random.bernoulli(k_e, share, shape).astype(default_float()) - 1,
    )


def _wired(wiring: NCP, key: Array, in_features: int, hidden: int) -> LTCFixed:
    """Connections among units in the order inter, command, motor."""
    inter, command, motor = wiring.layers(hidden)
    masks = NCPMasks(*(m.astype(default_float()) for m in wiring.masks(key, in_features, hidden)))
    first, second, last = slice(inter), slice(inter, inter + command), slice(inter + command, None)
    units = zeros(hidden, hidden).at[first, second].set(masks.command)
    units = units.at[second, second].set(masks.recurrent).at[second, last].set(masks.motor)
    return LTCFixed(jnp.pad(masks.inter, ((0, 0), (0, command + motor))), units)


class CfCLayer(NamedTuple):
    """Parameters of one layer of `CfC`; heads in the order p q a b, in mode "pure" the only one."""

    w_ih: Array  # (in, first map or heads)
    w_hh: Array  # (width, first map or heads)
    b: Array  # (first map or heads,)
    maps: tuple[DenseParams, ...]  # of the backbone after its first, and the heads
    rate: Any  # (width,), in mode "pure"
    limit: Any  # (width,), in mode "pure"


class CfCParams(NamedTuple):
    """Parameters of `CfC`."""

    layers: tuple[CfCLayer, ...]  # one; with a wiring the inter, command and motor units
    fixed: Any  # with a wiring, the connections into every layer, (in, width), 1 or 0; else None


@checked
@dataclass(frozen=True)
class CfC:
    """Closed-form continuous-time network: an approximate solution of `LTC`, without a solver.

        zₜ = [xₜ, hₜ₋₁] or its image under the backbone: f([xₜ, hₜ₋₁] w + b), f(z w + b), …
        p, q = tanh of two affine maps of zₜ;   a, b = two others;   s = σ(a · dt + b)
        hₜ = (1 − s) · p + s · q                                 mode="gated"
        hₜ = p + s · q                                           mode="no_gate"
        hₜ = limit · (1 − kept · p̃),   kept = exp(−dt · (|rate| + |p̃|))      mode="pure", p̃ = p before tanh
        yₜ = hₜ

    x is values or `(values, dt)`. With a `wiring` the inter, command and motor units are three such layers,
    one after the other, each with all connections within; the connections between them are sparse for p
    and q, and full for a and b, as in ncps. y is then the last layer. In ncps the default is a backbone of
    one layer of 128 units, and `rate` starts at 0, where |rate| has no gradient; here it starts at 0.1.

    Args:
      mode: form of the solution; "gated" is "default" in ncps.
      backbone: widths of the layers before the heads.
      activation: f, by name; ncps has 1.7159 tanh(0.666 z).
      wiring: sparse connections, an `NCP`; None for one layer.

    Raises:
      ValueError: a wiring with a backbone.

    Reference: Hasani, Lechner, Amini, Liebenwein, Ray, Tschaikowski, Teschl, Rus, Closed-form continuous-time
    neural networks, 2022, arXiv:2106.13898.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.CfC(20, backbone=(32, 32))
    >>> xs = jnp.ones((5, 3)), jnp.array([0.1, 2.0, 0.5, 0.3, 1.0])
    >>> jrnn.unroll(cell, cell.init(jax.random.key(0), in_features=3), xs)[1].shape
    (5, 20)
    """

    hidden: Width
    _: KW_ONLY
    mode: Literal["gated", "no_gate", "pure"] = "gated"
    backbone: tuple[Width, ...] = ()
    activation: Activation = "scaled_tanh"
    wiring: Wiring | None = None
    timed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.wiring is not None and self.backbone:
            raise ValueError(f"CfC: a wiring excludes a backbone, got backbone={self.backbone}")

    @property
    def out_features(self) -> int:
        return self.hidden if self.wiring is None else self.wiring.outputs

    @property
    def _widths(self) -> tuple[int, ...]:
        return (self.hidden,) if self.wiring is None else self.wiring.layers(self.hidden)

    def init(self, key: Array, in_features: int) -> CfCParams:
        k_wiring, *keys = jax.random.split(key, 1 + len(self._widths))
        sources = in_features, *self._widths
        layers = (self._draw(k, n, m) for k, n, m in zip(keys, sources, self._widths, strict=False))
        fixed = None
        if self.wiring is not None:
            masks = self.wiring.masks(k_wiring, in_features, self.hidden)
            fixed = tuple(m.astype(default_float()) for m in (masks.inter, masks.command, masks.motor))
        return CfCParams(tuple(layers), fixed)

    def _draw(self, key: Array, inputs: int, width: int) -> CfCLayer:
        k_ih, k_hh, *keys = jax.random.split(key, 2 + len(self.backbone))
        heads = 1 if self.mode == "pure" else 4
        first, *rest = *self.backbone, heads * width
        blocks = [*(1 for _ in self.backbone), heads]
        maps = zip(keys, self.backbone, rest, blocks[1:], strict=True)
        return CfCLayer(
            w_ih=glorot(k_ih, (inputs, first), blocks=blocks[0]),
            w_hh=orthogonal(k_hh, (width, first)),
            b=zeros(first),
            maps=tuple(DenseParams(glorot(k, (n, m), blocks=c), zeros(m)) for k, n, m, c in maps),
            rate=zeros(width) + 0.1 if self.mode == "pure" else None,
            limit=zeros(width) + 1 if self.mode == "pure" else None,
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: CfCParams, carry: Array, x: Any) -> tuple[Array, Array]:
        (x, dt), states, start = values_and_time(self, x), [], 0
        for index, width in enumerate(self._widths):
            layer, h = params.layers[index], carry[..., start : start + width]
            w_ih = layer.w_ih
            if params.fixed is not None:
                w_ih = w_ih * self._head_mask(jax.lax.stop_gradient(params.fixed[index]))
            x = self._solution(layer._replace(w_ih=w_ih), h, x, dt)
            states.append(x)
            start += width
        return jnp.concatenate(states, -1), x

    def _head_mask(self, mask: Array) -> Array:
        """The connections of all heads: sparse for p and q, full for a and b."""
        every = jnp.ones_like(mask)
        return mask if self.mode == "pure" else jnp.concatenate([mask, mask, every, every], -1)

    def _solution(self, layer: CfCLayer, h: Array, x: Array, dt: Any) -> Array:
        """The state of one layer after dt."""
        f, z = activation(self.activation), x @ layer.w_ih + h @ layer.w_hh + layer.b
        for w, b in layer.maps:
            z = f(z) @ w + b
        if self.mode == "pure":
            kept = jnp.exp(-dt * (jnp.abs(layer.rate) + jnp.abs(z)))
            return layer.limit * (1 - checkpoint_name(kept, "kept") * z)
        p, q, a, b = split(z, 4)
        p, q, s = tanh(p, "p"), tanh(q, "q"), sigmoid(a * dt + b, "s")
        return p + s * q if self.mode == "no_gate" else (1 - s) * p + s * q
