"""Stateless maps as cells with an empty carry, so that a whole model is one value."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jrnn.alignment import sharded_axes
from jrnn.cell import Shape
from jrnn.cells.activations import activation
from jrnn.checks import check_in_features, check_width
from jrnn.initializers import default_float, glorot


class DenseParams(NamedTuple):
    """Parameters of `Dense`."""

    w: Array  # (in, features)
    b: Array  # (features,)


@dataclass(frozen=True)
class Dense:
    """Fully connected layer at every step.

        yₜ = f(xₜ w + b)

    Args:
      features: width of y.
      activation: f, one of "identity", "tanh", "relu", "sigmoid".

    Raises:
      ValueError: a width below 1, or an unknown name.

    Reference: the multilayer perceptron of any textbook.

    >>> import jrnn
    >>> jrnn.Stack((jrnn.Elman(8), jrnn.Dense(2))).out_features
    2
    """

    features: int
    activation: str = "identity"
    linear: ClassVar[bool] = True  # there is no state

    def __post_init__(self) -> None:
        check_width("features", self.features)
        activation(self.activation)

    @property
    def out_features(self) -> int:
        return self.features

    def init(self, key: Array, in_features: int) -> DenseParams:
        zeros = jnp.zeros(self.features, default_float())
        return DenseParams(w=glorot(key, (in_features, self.features)), b=zeros)

    def initial_carry(
        self, params: DenseParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> tuple[()]:
        del params, batch_shape, key
        return ()

    def step(self, params: DenseParams, carry: tuple[()], x: Any) -> tuple[tuple[()], Array]:
        return carry, activation(self.activation)(x @ params.w + params.b)


class EmbedParams(NamedTuple):
    """Parameters of `Embed`."""

    table: Array  # (vocabulary, features)


@dataclass(frozen=True)
class Embed:
    """Learned vector for every token.

        yₜ = table[xₜ]

    `in_features` of `init` is the size of the vocabulary. x is an integer array without a feature axis.
    The table starts as N(0, 1), as in torch; flax divides by √features.
    A token outside the vocabulary, a negative one too, is an error where `unroll` knows its tokens; under jit
    its vector is NaN, as of a gather of JAX that is out of bounds, never that of some other token.

    Args:
      features: width of y.

    Raises:
      ValueError: a width below 1, or at `init` a vocabulary without words.
      TypeError: x is not an integer array.

    Reference: Bengio et al., A neural probabilistic language model, 2003.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> model = jrnn.Stack((jrnn.Embed(4), jrnn.LSTM(8), jrnn.Dense(10)))
    >>> params = model.init(jax.random.key(0), in_features=10)
    >>> jrnn.unroll(model, params, jnp.array([[1], [2], [3]]))[1].shape
    (3, 1, 10)
    """

    features: int
    in_ndim: ClassVar[int] = 0
    linear: ClassVar[bool] = True  # there is no state

    def __post_init__(self) -> None:
        check_width("features", self.features)

    @property
    def out_features(self) -> int:
        return self.features

    def init(self, key: Array, in_features: int) -> EmbedParams:
        check_in_features(in_features, least=1)
        return EmbedParams(jax.random.normal(key, (in_features, self.features), default_float()))

    def initial_carry(
        self, params: EmbedParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> tuple[()]:
        del params, batch_shape, key
        return ()

    def step(self, params: EmbedParams, carry: tuple[()], x: Any) -> tuple[tuple[()], Array]:
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"Embed takes integer tokens, got {x.dtype}")
        sharded = jax.typeof(x).sharding if sharded_axes(jax.typeof(x)) else None
        out = sharded and NamedSharding(sharded.mesh, PartitionSpec(*sharded.spec, None))
        found = params.table.at[x].get(mode="fill", wrap_negative_indices=False, out_sharding=out)
        return carry, found
