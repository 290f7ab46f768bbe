"""Reservoirs and delay lines: NARX, a static network that reads past inputs and past outputs."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from jax import Array

from jrnn._checks import check_in_features
from jrnn._fields import Lag, Width, checked
from jrnn.cell import Cell, Shape
from jrnn.cells._activations import Activation
from jrnn.cells.history import Window
from jrnn.cells.maps import Dense
from jrnn.combinators.carries import Feedback
from jrnn.combinators.stacking import Stack


@checked
@dataclass(frozen=True)
class NARX:
    """Nonlinear autoregressive network with exogenous inputs, one hidden layer.

        yₜ = f([xₜ, …, xₜ₋L, yₜ₋₁, …, yₜ₋M] w + b) v + c

    With M ≥ 1 it is `Feedback(Stack((Window, Dense, Dense)))` and takes `(given, use_given, external)`:
    given is yₜ₋₁, external is xₜ. The open loop (`use_given` all True) reads the true outputs, the closed
    loop (all False) its own, with the same parameters. With M = 0 it is a finite-response model that takes
    x; with L = 0, M = 1 a Jordan network. With L = T − 1, M = T every output reads all earlier inputs and
    outputs of a sequence of T steps, with O(T) parameters. Values before the first step are zero, or those
    of a given carry.

    Args:
      hidden: width of the hidden layer.
      outputs: width of y.
      input_lags: L, number of past inputs in addition to xₜ.
      output_lags: M, number of past outputs.
      activation: f, by name.

    Raises:
      ValueError: a width below 1, a negative number of lags, or an unknown name.

    Reference: Leontaritis, Billings, Input-output parametric models for non-linear systems, 1985; Lin, Horne,
    Tiňo, Giles, Learning long-term dependencies in NARX recurrent neural networks, 1996,
    doi:10.1109/72.548162.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.NARX(10, input_lags=2, output_lags=3)
    >>> params = cell.init(jax.random.key(0), in_features=1)
    >>> x, y = jnp.ones((5, 1)), jnp.zeros((5, 1))
    >>> _, closed = jrnn.unroll(cell, params, (y, jnp.zeros(5, bool), x))
    >>> closed.shape
    (5, 1)
    """

    hidden: Width
    _: KW_ONLY
    outputs: Width = 1
    input_lags: Lag = 1
    output_lags: Lag = 1
    activation: Activation = "tanh"

    @property
    def out_features(self) -> int:
        return self.outputs

    def _cell(self, inputs: int) -> Cell[Any, Any]:
        layers = Dense(self.hidden, activation=self.activation), Dense(self.outputs)
        if self.output_lags == 0:
            return Stack((Window(self.input_lags, inputs), *layers))
        window = Window((self.input_lags, self.output_lags - 1), (inputs, self.outputs))
        return Feedback(Stack((window, *layers)))

    def _inner(self, params: Any) -> Cell[Any, Any]:
        rows = params[1].w.shape[0]  # (L + 1) · inputs + M · outputs
        return self._cell((rows - self.output_lags * self.outputs) // (self.input_lags + 1))

    def init(self, key: Array, in_features: int) -> Any:
        check_in_features(in_features)
        fed = self.outputs if self.output_lags else 0
        return self._cell(in_features).init(key, in_features + fed)

    def initial_carry(self, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Any:
        return self._inner(params).initial_carry(params, batch_shape, key=key)

    def step(self, params: Any, carry: Any, x: Any) -> tuple[Any, Array]:
        if self.output_lags and (not isinstance(x, tuple) or len(x) != 3):
            raise ValueError(
                "NARX: xs must be (given, use_given, external), where given are the previous outputs"
            )
        rows, external = params[1].w.shape[0], x[-1] if self.output_lags else x
        needed = (self.input_lags + 1) * external.shape[-1] + self.output_lags * self.outputs
        if needed != rows:
            width = external.shape[-1]
            raise ValueError(
                f"NARX: an external input of width {width} needs w with {needed} rows, got {rows}"
            )
        return self._inner(params).step(params, carry, x)
