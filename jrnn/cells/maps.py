"""Stateless maps as cells with an empty carry, so that a whole model is one value."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import looked_up
from jrnn._checks import brief, check_in_features, require_tuple
from jrnn._fields import Check, Width, checked
from jrnn.cell import Shape, broadcasting
from jrnn.cells._activations import Activation, activation, is_function
from jrnn.cells._gating import plus
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
      activation: f, by name: "identity", "tanh", "relu", "gelu", ... (`jrnn.cells._activations`).
      bias: whether there is b.

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


@checked
@dataclass(frozen=True)
class Map:
    """A function of the features of every step, without parameters.

        yₜ = f(xₜ)

    A function that stands among the cells of a `Stack` or `Sequential` becomes one.

    Args:
      function: f, by name (`jrnn.cells._activations`), or any that keeps the axes before the features.
      features: width of x.

    Raises:
      ValueError: a function that does not keep the other axes; at `init`, an input of another width.

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
            raise ValueError(f"Map: function must keep all axes but the last, of {given} it makes {returned}")

    @property
    def out_features(self) -> int:
        given = jax.ShapeDtypeStruct((self.features,), default_float())
        return int(jax.eval_shape(activation(self.function), given).shape[-1])

    def init(self, key: Array, in_features: int) -> tuple[()]:
        del key
        check_in_features(in_features)
        if in_features != self.features:
            raise ValueError(f"{self} needs in_features={self.features}, got {in_features}")
        return ()

    def initial_carry(
        self, params: tuple[()], batch_shape: Shape = (), *, key: Array | None = None
    ) -> tuple[()]:
        del params, batch_shape, key
        return ()

    def step(self, params: tuple[()], carry: tuple[()], x: Any) -> tuple[tuple[()], Array]:
        return carry, activation(self.function)(x)


def check_chain(entry: Check) -> Check:
    """The check of cells or layers one after the other, each by `entry`; a function becomes a `Map`."""

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
    """Learned vector for every token.

        yₜ = table[xₜ]

    `in_features` of `init` is the size of the vocabulary. x is an integer array without a feature axis.
    The table starts as N(0, 1), as in torch; flax divides by √features.
    A token outside the vocabulary, a negative one too, is an error where `unroll` knows its tokens; under jit
    its vector is NaN, as of a gather of JAX that is out of bounds, never that of some other token.

    Args:
      features: width of y.

    Raises:
      ValueError: at `init`, a vocabulary without words.
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
