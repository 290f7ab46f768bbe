"""An experiment as a user writes it: type checkers know every name in it. `test_types` runs them."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

import jrnn
from jrnn.cells.gru import GRUParams
from jrnn.cells.lstm import LSTMCarry, LSTMParams

key = jax.random.key(0)
xs = jax.random.normal(key, (20, 4, 3))

cell = jrnn.LSTM(8, forget_bias=1.0)
params: LSTMParams = cell.init(key, in_features=3)
carry, ys = jrnn.unroll(cell, params, xs, lengths=jnp.array([20, 5, 1, 0]))
h: Array = carry.h
width: int = ys.shape[-1] + cell.out_features
start: LSTMCarry = cell.initial_carry(params, (4,))
carry, ys = jrnn.unroll(cell, params, xs, start, reverse=True, method=jrnn.Scan(memory="sqrt"))

residual = jrnn.Residual(jrnn.GRU(3))
inner: GRUParams = residual.init(key, 3)
state, outputs = jrnn.unroll(residual, inner, xs)
norm: Array = jnp.linalg.norm(state)

noisy = jrnn.Dropout(jrnn.LSTM(8), output=0.5)
weights = noisy.init(key, 3)
end, _ = jrnn.unroll(noisy, weights, xs, key=key)
memory: Array = end.cell.c


class DecayParams(NamedTuple):
    """Parameters of a cell of the user's own."""

    rate: Array


class Decay:
    """A cell of the user's own: no base class."""

    out_features = 3

    def init(self, key: Array, in_features: int) -> DecayParams:
        return DecayParams(jax.random.uniform(key, (in_features,)))

    def initial_carry(
        self, params: DecayParams, batch_shape: tuple[int, ...] = (), *, key: Array | None = None
    ) -> Array:
        return jnp.zeros((*batch_shape, 3))

    def step(self, params: DecayParams, carry: Array, x: Array) -> tuple[Array, Array]:
        carry = params.rate * carry + x
        return carry, carry


own: jrnn.Cell[DecayParams, Array] = Decay()
last, _ = jrnn.unroll(own, own.init(key, 3), xs)
total: Array = last.sum()


def batches() -> Iterator[jrnn.Batch]:
    """Batches to train on."""
    yield jrnn.Batch(xs, targets=jnp.zeros((20, 4, 8)))


loss = jrnn.PerStep(jrnn.losses.mean_squared_error)
result = jrnn.fit(cell, list(batches()), loss, optimizer=optax.adam(1e-3), key=key, in_features=3)
trained: LSTMParams = result.params
held_out: float = jrnn.evaluate(cell, trained, list(batches()), loss)
both = jrnn.Bidirectional(jrnn.GRU(4), jrnn.GRU(4))
ends, _ = jrnn.apply(both, both.init(key, 3), xs)
forwards = ends.forward
