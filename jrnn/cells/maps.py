"""Maps without memory: stateless maps as cells with an empty carry, so that a model is one cell."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import looked_up
from jrnn._checks import brief, check_given_width, check_in_features, check_multiple, require_tuple
from jrnn._fields import Check, Positive, Width, checked
from jrnn.cell import Shape, broadcasting
from jrnn.cells._activations import Activation, activation, is_function
from jrnn.cells._gating import plus
from jrnn.cells.normalized import normalize
from jrnn.initializers import default_float, glorot


class DenseParams(NamedTuple):
    """Parameters of `Dense`."""

    w: Array  # (in, features)
    b: Any  # (features,); None without a bias


@checked
@dataclass(frozen=True)
class Dense:
    """Fully connected layer at every step.

        yₜ = f(xₜ w + b)

    Args:
      features: width of y.
      activation: f, by name: "identity", "tanh", "relu", "gelu", ...
      bias: add b.

    Reference: the multilayer perceptron of any textbook.

    >>> import jrnn
    >>> jrnn.Stack((jrnn.Elman(8), jrnn.Dense(2))).out_features
    2
    """

    features: Width
    _: KW_ONLY
    activation: Activation = "identity"
    bias: bool = True
    linear: ClassVar[bool] = True  # there is no state

    @property
    def out_features(self) -> int:
        return self.features

    def init(self, key: Array, in_features: int) -> DenseParams:
        b = jnp.zeros(self.features, default_float()) if self.bias else None
        return DenseParams(w=glorot(key, (in_features, self.features)), b=b)

    def initial_carry(
        self, params: DenseParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> tuple[()]:
        del params, batch_shape, key
        return ()

    @broadcasting
    def step(self, params: DenseParams, carry: tuple[()], x: Any) -> tuple[tuple[()], Array]:
        return carry, activation(self.activation)(plus(x @ params.w, params.b))


class NormParams(NamedTuple):
    """Parameters of `Norm`."""

    gain: Array  # (features,), γ
    b: Any  # (features,); None unless centered


@checked
@dataclass(frozen=True)
class Norm:
    """Normalization of the features, of all together or of each head (RMSNorm, LayerNorm, GroupNorm).

        z = xₜ per head,   less its mean if centered
        yₜ = γ · z / √(mean z² + ε) + b

    RMSNorm, without a b; centered, LayerNorm, and with heads GroupNorm. γ and b have a number per feature.

    Args:
      features: width of x and y.
      heads: number of parts that are normalized on their own.
      centered: subtract the mean, and add b.
      epsilon: ε.

    Raises:
      ValueError: a width that the heads cannot share; at `init`, an input of another width.

    Reference: Zhang, Sennrich, Root mean square layer normalization, 2019, arXiv:1910.07467; Ba, Kiros,
    Hinton, Layer normalization, 2016, arXiv:1607.06450; Wu, He, Group normalization, 2018, arXiv:1803.08494.

    >>> import jrnn
    >>> jrnn.Residual(jrnn.Stack((jrnn.Norm(8), jrnn.GRU(8)))).out_features
    8
    """

    features: Width
    _: KW_ONLY
    heads: Width = 1
    centered: bool = False
    epsilon: Positive = 1e-6
    linear: ClassVar[bool] = True  # there is no state

    def __post_init__(self) -> None:
        check_multiple("features", self.features, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.features

    def init(self, key: Array, in_features: int) -> NormParams:
        check_given_width(self, in_features, self.features)
        zeros = jnp.zeros(self.features, default_float())
        return NormParams(gain=zeros + 1, b=zeros if self.centered else None)

    def initial_carry(
        self, params: NormParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> tuple[()]:
        del params, batch_shape, key
        return ()

    @broadcasting
    def step(self, params: NormParams, carry: tuple[()], x: Any) -> tuple[tuple[()], Array]:
        z = x.reshape(*x.shape[:-1], self.heads, self.features // self.heads)
        return carry, plus(params.gain * normalize(z, self.epsilon, self.centered).reshape(x.shape), params.b)


@checked
@dataclass(frozen=True)
class Map:
    """A function of the features at every step, without parameters.

        yₜ = f(xₜ)

    A function among the cells of a `Stack` or `Sequential` becomes a `Map`.

    Args:
      function: f, the name of an activation, or any function that keeps the axes before the features.
      features: width of x.

    Raises:
      ValueError: a function that changes other axes; at `init`, an input of a different width.

    Reference: none.

    >>> import jax, jrnn
    >>> jrnn.Stack((jrnn.GRU(8), jax.nn.relu, jrnn.Dense(3)))
    Stack(cells=(GRU(hidden=8), Map(function='relu', features=8), Dense(features=3)))
    """

    function: Activation
    features: Width
    linear: ClassVar[bool] = True  # there is no state

    def __post_init__(self) -> None:
        given = jax.ShapeDtypeStruct((2, self.features), default_float())
        returned = jax.eval_shape(activation(self.function), given)
        if getattr(returned, "ndim", 0) != 2 or returned.shape[0] != 2:
            raise ValueError(f"Map: function must keep all axes but the last, maps {given} to {returned}")

    @property
    def out_features(self) -> int:
        given = jax.ShapeDtypeStruct((self.features,), default_float())
        return int(jax.eval_shape(activation(self.function), given).shape[-1])

    def init(self, key: Array, in_features: int) -> tuple[()]:
        del key
        check_given_width(self, in_features, self.features)
        return ()

    def initial_carry(
        self, params: tuple[()], batch_shape: Shape = (), *, key: Array | None = None
    ) -> tuple[()]:
        del params, batch_shape, key
        return ()

    def step(self, params: tuple[()], carry: tuple[()], x: Any) -> tuple[tuple[()], Array]:
        return carry, activation(self.function)(x)


def check_chain(entry: Check) -> Check:
    """Make a check for a chain of cells or layers, each checked by `entry`; functions become a `Map`."""

    def check(name: str, given: Any) -> tuple[Any, ...]:
        chain: list[Any] = []
        for index, value in enumerate(require_tuple(name, given)):
            where = f"{name}[{index}]"
            if is_function(value):
                if not chain:
                    raise TypeError(f"{where} needs the width of its input: Map({brief(value)}, features)")
                value = Map(value, chain[-1].out_features)
            chain.append(entry(where, value))
        return tuple(chain)

    return check


class EmbedParams(NamedTuple):
    """Parameters of `Embed`."""

    table: Array  # (vocabulary, features)


@checked
@dataclass(frozen=True)
class Embed:
    """Embedding: a learned vector for every token.

        yₜ = table[xₜ]

    `in_features` of `init` is the size of the vocabulary. x is an integer array without a feature axis.
    The table starts as N(0, 1), as in torch; flax divides by √features. A token out of range (negative ones
    too) is an error if `unroll` gets concrete tokens; under jit its vector is NaN, as in JAX's gather with
    mode="fill".

    Args:
      features: width of y.

    Raises:
      ValueError: at `init`, an empty vocabulary.
      TypeError: x is not an integer array.

    Reference: Bengio et al., A neural probabilistic language model, 2003.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> model = jrnn.Stack((jrnn.Embed(4), jrnn.LSTM(8), jrnn.Dense(10)))
    >>> params = model.init(jax.random.key(0), in_features=10)
    >>> jrnn.unroll(model, params, jnp.array([[1], [2], [3]]))[1].shape
    (3, 1, 10)
    """

    features: Width
    in_ndim: ClassVar[int] = 0
    linear: ClassVar[bool] = True  # there is no state

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
        return carry, looked_up(params.table, x)
