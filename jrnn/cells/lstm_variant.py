"""Long short-term memory: variants in gates, peepholes, projection and shortcuts."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Positive, Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import GateParams, cut, draw_gates, gates, sigmoid, split, tanh
from jrnn.cells.lstm import LSTMCarry
from jrnn.initializers import default_float, glorot, orthogonal


class LSTMVariantParams(NamedTuple):
    """Parameters of `LSTMVariant`; order of parts: i f g o, of gates: i f o, without those that are off."""

    w_ih: Array  # (in, parts · hidden)
    w_hh: Array  # (out, parts · hidden)
    b: Array  # (parts · hidden,)
    p: Any  # peepholes: (gates · hidden,), (hidden, gates · hidden) if full, or None
    w_gh: Any  # (gates · hidden, gates · hidden), from the previous step's gates; or None
    w_hr: Any  # (hidden, projection); or None


class LSTMVariantCarry(NamedTuple):
    """State of `LSTMVariant`."""

    h: Array  # (..., out), also the output
    c: Array  # (..., hidden)
    gates: Any  # (..., gates · hidden), of the previous step; None without gate recurrence


@checked
@dataclass(frozen=True)
class LSTMVariant:
    """LSTM family: gates on, off or coupled, peepholes, gate recurrence, projection, clipping.

        iₜ = σ(xₜ w_i + hₜ₋₁ u_i + p_i · cₜ₋₁ + Γₜ₋₁ r_i + b_i)     1 if "i" is not in gates
        fₜ = σ(xₜ w_f + hₜ₋₁ u_f + p_f · cₜ₋₁ + Γₜ₋₁ r_f + b_f)     1 if "f" is not
        fₜ = 1 − iₜ   if coupled
        gₜ = g(xₜ w_g + hₜ₋₁ u_g + b_g)
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ                                     clipped to ±cell_clip
        oₜ = σ(xₜ w_o + hₜ₋₁ u_o + p_o · cₜ + Γₜ₋₁ r_o + b_o)       1 if "o" is not
        hₜ = (oₜ · h(cₜ)) w_hr,   yₜ = hₜ                            without w_hr if there is no projection

    p, with `peepholes`, is a vector ("diagonal") or a matrix ("full", cₜ₋₁ p_i). Γ, with `gate_recurrence`,
    concatenates the gates of the previous step. Without options it equals `LSTM`, which is faster.
    `jrnn.ablations` has the published variants by name.

    Args:
      hidden: width of c.
      gates: the gates that exist, a subset of "ifo" in that order.
      coupled: set f = 1 − i.
      peepholes: None, "diagonal" (Gers) or "full".
      gate_recurrence: feed the gates of the previous step to the gates (as in the first LSTM, of 1997).
      projection: width of h, a projection (LSTMP); None: h is not projected, and as wide as c.
      activation: g, by name.
      output_activation: h( ), by name.
      gate_activation: the activation used as σ, by name.
      cell_clip: bound on |c|.
      clip: bound on the arguments of σ and g, as in ONNX.
      forget_bias: start of b_f.

    Raises:
      ValueError: gates in a different order, or coupled gates without i.

    Reference: Greff, Srivastava, Koutník, Steunebrink, Schmidhuber, LSTM: a search space odyssey, 2017,
    arXiv:1503.04069; peepholes: Gers, Schraudolph, Schmidhuber, 2002; projection: Sak, Senior, Beaufays,
    2014, arXiv:1402.1128.

    >>> import jax, jrnn
    >>> cell = jrnn.LSTMVariant(8, peepholes="diagonal", coupled=True)
    >>> jax.tree.map(lambda leaf: leaf.shape, cell.init(jax.random.key(0), in_features=3)._asdict())
    {'b': (24,), 'p': (16,), 'w_gh': None, 'w_hh': (8, 24), 'w_hr': None, 'w_ih': (3, 24)}
    """

    hidden: Width
    _: KW_ONLY
    gates: Literal["", "i", "f", "o", "if", "io", "fo", "ifo"] = "ifo"
    coupled: bool = False
    peepholes: Literal["diagonal", "full"] | None = None
    gate_recurrence: bool = False
    projection: Width | None = None
    activation: Activation = "tanh"
    output_activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    cell_clip: Positive | None = None
    clip: Positive | None = None
    forget_bias: float = 1.0

    def __post_init__(self) -> None:
        if self.coupled and "i" not in self.gates:
            raise ValueError(f"coupled gates need the input gate, got gates={self.gates!r}")

    @property
    def out_features(self) -> int:
        return self.hidden if self.projection is None else self.projection

    @property
    def _gates(self) -> str:
        """The gates with weights."""
        return self.gates.replace("f", "") if self.coupled else self.gates

    @property
    def _parts(self) -> str:
        return "".join(part for part in "ifgo" if part == "g" or part in self._gates)

    def init(self, key: Array, in_features: int) -> LSTMVariantParams:
        k_ih, k_hh, k_p, k_gh, k_hr = jax.random.split(key, 5)
        parts, gates = len(self._parts), len(self._gates)
        b = jnp.zeros((parts, self.hidden), default_float())
        if "f" in self._parts:
            b = b.at[self._parts.index("f")].set(self.forget_bias)
        shape = (gates * self.hidden,) if self.peepholes == "diagonal" else (self.hidden, gates * self.hidden)
        p = 0.1 * jax.random.normal(k_p, shape, default_float()) if self.peepholes and gates else None
        square = (gates * self.hidden,) * 2
        recurs = self.gate_recurrence and gates > 0
        return LSTMVariantParams(
            w_ih=glorot(k_ih, (in_features, parts * self.hidden), blocks=parts),
            w_hh=orthogonal(k_hh, (self.out_features, parts * self.hidden)),
            b=b.ravel(),
            p=p,
            w_gh=glorot(k_gh, square, blocks=gates) if recurs else None,
            w_hr=None if self.projection is None else glorot(k_hr, (self.hidden, self.projection)),
        )

    def initial_carry(
        self, params: LSTMVariantParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LSTMVariantCarry:
        widths = self.out_features, self.hidden, len(self._gates) * self.hidden
        h, c, gates = (zero_state(params, batch_shape, width) for width in widths)
        return LSTMVariantCarry(h, c, None if params.w_gh is None else gates)

    @broadcasting
    def step(
        self, params: LSTMVariantParams, carry: LSTMVariantCarry, x: Any
    ) -> tuple[LSTMVariantCarry, Array]:
        h, c, last = carry
        packed = split(x @ params.w_ih + h @ params.w_hh + params.b, len(self._parts))
        z = dict(zip(self._parts, packed, strict=True))
        if params.w_gh is not None:
            for name, past in zip(self._gates, split(last @ params.w_gh, len(self._gates)), strict=True):
                z[name] = z[name] + past
        i = self._gate("i", z, params, c)
        f = 1 - i if self.coupled else self._gate("f", z, params, c)
        g = checkpoint_name(activation(self.activation)(cut(z["g"], self.clip)), "g")
        c = cut(f * c + i * g, self.cell_clip)
        o = self._gate("o", z, params, c)
        h = o * activation(self.output_activation)(c)
        if params.w_hr is not None:
            h = h @ params.w_hr
        values = [{"i": i, "f": f, "o": o}[name] for name in self._gates]
        return LSTMVariantCarry(h, c, None if last is None else jnp.concatenate(values, -1)), h

    def _gate(self, name: str, z: dict[str, Array], params: LSTMVariantParams, c: Array) -> Any:
        """A gate's value, with its peephole to the cell state c; 1 if the gate is off."""
        if name not in z:
            return 1.0
        value = z[name]
        if params.p is not None:
            p = split(params.p, len(self._gates))[self._gates.index(name)]
            value = value + (p * c if self.peepholes == "diagonal" else c @ p)
        return checkpoint_name(activation(self.gate_activation)(cut(value, self.clip)), name)


class WMCLSTMParams(NamedTuple):
    """Parameters of `WMCLSTM`."""

    lstm: GateParams  # i f g o
    w_ch: Array  # (hidden, 3·hidden), from the cell to i f o


@checked
@dataclass(frozen=True)
class WMCLSTM:
    """LSTM with working memory connections: gates read the cell state through a matrix and a tanh.

        iₜ = σ(xₜ w_i + hₜ₋₁ u_i + tanh(cₜ₋₁ v_i) + b_i)
        fₜ = σ(xₜ w_f + hₜ₋₁ u_f + tanh(cₜ₋₁ v_f) + b_f)
        gₜ = tanh(xₜ w_g + hₜ₋₁ u_g + b_g)
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        oₜ = σ(xₜ w_o + hₜ₋₁ u_o + tanh(cₜ v_o) + b_o)
        hₜ = oₜ · tanh(cₜ),   yₜ = hₜ

    The tanh bounds the effect on a gate of the cell state, which may grow. Without it these are the full
    peepholes of `LSTMVariant`. `w_ch` is [v_i, v_f, v_o]; torchrecurrent has an optional bias in the tanh.

    Args:
      hidden: width of h and c.
      forget_bias: start of b_f.

    Reference: Landi, Baraldi, Cornia, Cucchiara, Working memory connections for LSTM, 2021, arXiv:2109.00020.

    >>> import jax, jrnn
    >>> jrnn.WMCLSTM(8).init(jax.random.key(0), in_features=3).w_ch.shape
    (8, 24)
    """

    hidden: Width
    _: KW_ONLY
    forget_bias: float = 1.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> WMCLSTMParams:
        k_lstm, k_ch = jax.random.split(key)
        return WMCLSTMParams(
            lstm=draw_gates(k_lstm, in_features, self.hidden, biases=(0, self.forget_bias, 0, 0)),
            w_ch=glorot(k_ch, (self.hidden, 3 * self.hidden), blocks=3),
        )

    def initial_carry(
        self, params: WMCLSTMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LSTMCarry:
        return LSTMCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hc"))

    @broadcasting
    def step(self, params: WMCLSTMParams, carry: LSTMCarry, x: Any) -> tuple[LSTMCarry, Array]:
        h, c = carry
        v_if, v_o = params.w_ch[:, : 2 * self.hidden], params.w_ch[:, 2 * self.hidden :]
        z_i, z_f, z_g, z_o = split(x @ params.lstm.w_ih + h @ params.lstm.w_hh + params.lstm.b, 4)
        seen_i, seen_f = split(jnp.tanh(c @ v_if), 2)
        c = sigmoid(z_f + seen_f, "f") * c + sigmoid(z_i + seen_i, "i") * tanh(z_g, "g")
        h = sigmoid(z_o + jnp.tanh(c @ v_o), "o") * jnp.tanh(c)
        return LSTMCarry(h, c), h


class ResidualLSTMParams(NamedTuple):
    """Parameters of `ResidualLSTM`."""

    lstm: GateParams  # i f g o
    p: Array  # (3·hidden,), peepholes, order i f o
    w_ho: Array  # (hidden, hidden), of tanh c
    w_ix: Any  # (in, hidden), of the shortcut; None if in = hidden


@checked
@dataclass(frozen=True)
class ResidualLSTM:
    """Residual LSTM: a shortcut from the input to the output gate, around the cell.

        iₜ = σ(xₜ w_i + hₜ₋₁ u_i + p_i · cₜ₋₁ + b_i)
        fₜ = σ(xₜ w_f + hₜ₋₁ u_f + p_f · cₜ₋₁ + b_f)
        gₜ = tanh(xₜ w_g + hₜ₋₁ u_g + b_g)
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        oₜ = σ(xₜ w_o + hₜ₋₁ u_o + p_o · cₜ + b_o)
        hₜ = oₜ · (tanh(cₜ) w_ho + x̃ₜ),   yₜ = hₜ

    x̃ₜ = xₜ if the input is as wide as the state, else xₜ w_ix (in torchrecurrent always). In a stack, the
    shortcuts of all layers form one path from input to output, through output gates only.

    Args:
      hidden: width of h and c.
      forget_bias: start of b_f.

    Reference: Kim, El-Khamy, Lee, Residual LSTM: design of a deep recurrent architecture for distant speech
    recognition, 2017, arXiv:1701.03360.

    >>> import jax, jrnn
    >>> jrnn.ResidualLSTM(8).init(jax.random.key(0), in_features=3).w_ix.shape
    (3, 8)
    """

    hidden: Width
    _: KW_ONLY
    forget_bias: float = 1.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> ResidualLSTMParams:
        k_lstm, k_p, k_ho, k_ix = jax.random.split(key, 4)
        return ResidualLSTMParams(
            lstm=draw_gates(k_lstm, in_features, self.hidden, biases=(0, self.forget_bias, 0, 0)),
            p=0.1 * jax.random.normal(k_p, (3 * self.hidden,), default_float()),
            w_ho=glorot(k_ho, (self.hidden, self.hidden)),
            w_ix=glorot(k_ix, (in_features, self.hidden)) if in_features != self.hidden else None,
        )

    def initial_carry(
        self, params: ResidualLSTMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LSTMCarry:
        return LSTMCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hc"))

    @broadcasting
    def step(self, params: ResidualLSTMParams, carry: LSTMCarry, x: Any) -> tuple[LSTMCarry, Array]:
        h, c = carry
        p_i, p_f, p_o = split(params.p, 3)
        z_i, z_f, z_g, z_o = split(x @ params.lstm.w_ih + h @ params.lstm.w_hh + params.lstm.b, 4)
        c = sigmoid(z_f + p_f * c, "f") * c + sigmoid(z_i + p_i * c, "i") * tanh(z_g, "g")
        shortcut = x if params.w_ix is None else x @ params.w_ix
        h = sigmoid(z_o + p_o * c, "o") * (jnp.tanh(c) @ params.w_ho + shortcut)
        return LSTMCarry(h, c), h


class ControlledCarry(NamedTuple):
    """State of `MemoryControllerLSTM`."""

    v: Array  # (..., hidden), what the gates read
    c: Array  # (..., hidden)


@checked
@dataclass(frozen=True)
class MemoryControllerLSTM:
    """Memory-controller LSTM: the gates read a state of their own, which is not the output.

        i, f, o, m = σ(xₜ w + vₜ₋₁ u + b),   gₜ = tanh(xₜ w_g + vₜ₋₁ u_g + b_g)
        cₜ = fₜ · cₜ₋₁ + iₜ · gₜ
        vₜ = mₜ · tanh(cₜ)
        yₜ = oₜ · tanh(cₜ)

    Gate order: i f g o m. It is `MCLSTM` in torchrecurrent and RecurrentLayers.jl; what others call MC-LSTM
    is `MassConservingLSTM`.

    Args:
      hidden: width of v, c and y.
      forget_bias: start of b_f.

    Reference: Ben-Ari, Shwartz-Ziv, Sequence modeling using a memory controller extension for LSTM, NIPS time
    series workshop, 2017.

    >>> import jax, jrnn
    >>> jrnn.MemoryControllerLSTM(8).init(jax.random.key(0), in_features=3).w_ih.shape
    (3, 40)
    """

    hidden: Width
    _: KW_ONLY
    forget_bias: float = 1.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return draw_gates(key, in_features, self.hidden, biases=(0, self.forget_bias, 0, 0, 0))

    def initial_carry(
        self, params: GateParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> ControlledCarry:
        return ControlledCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "vc"))

    @broadcasting
    def step(self, params: GateParams, carry: ControlledCarry, x: Any) -> tuple[ControlledCarry, Array]:
        z = x @ params.w_ih + carry.v @ params.w_hh + params.b
        i, f, g, o, m = gates(z, "ifgom", candidate="g")
        c = f * carry.c + i * g
        read = jnp.tanh(c)
        return ControlledCarry(m * read, c), o * read
