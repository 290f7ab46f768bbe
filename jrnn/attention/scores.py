"""Attention scores: how well a query matches each position of a memory, and the resulting weights."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import promoted
from jrnn._checks import brief
from jrnn._fields import Positive, Width, checked
from jrnn.cell import broadcasting
from jrnn.cells._gating import zeros
from jrnn.initializers import glorot


@runtime_checkable
class Score(Protocol):
    """Protocol of an attention score: like a cell, a value with pure methods.

    Members:
      init: `(key, query_features, memory_features) -> params`.
      keys: `(params, memory) -> keys`, (..., S, n): the part of the score that depends on the memory alone,
        computed once per memory.
      weights: `(params, query, keys, valid) -> a`, (..., S), exactly 0 where `valid` is False.

    >>> import jrnn
    >>> isinstance(jrnn.attention.Additive(8), jrnn.attention.scores.Score)
    True
    """

    def init(self, key: Array, query_features: int, memory_features: int) -> Any: ...

    def keys(self, params: Any, memory: Array) -> Array: ...

    def weights(self, params: Any, query: Array, keys: Array, valid: Array) -> Array: ...


def align(scores: Array, valid: Array) -> Array:
    """Softmax over the valid positions, the last axis.

        aᵢ = validᵢ exp sᵢ / Σⱼ validⱼ exp sⱼ

    Args:
      scores: (..., S).
      valid: (..., S), boolean.

    Returns:
      (..., S): exactly 0 where not valid; all 0 if no position is valid.

    >>> import jax.numpy as jnp
    >>> align(jnp.array([0.0, 0.0, 9.0]), jnp.array([True, True, False])).tolist()
    [0.5, 0.5, 0.0]
    """
    scores = jnp.where(valid, scores, -jnp.inf)
    highest = jax.lax.stop_gradient(jnp.max(scores, -1, keepdims=True, initial=-jnp.inf))
    powers = jnp.where(valid, jnp.exp(scores - jnp.where(jnp.isfinite(highest), highest, 0)), 0)
    total = powers.sum(-1, keepdims=True)
    return powers / jnp.where(total == 0, 1, total)


def _product(query: Array, keys: Array) -> Array:
    return jnp.einsum("...n,...sn->...s", query, keys)


class AdditiveParams(NamedTuple):
    """Parameters of `Additive`."""

    w_query: Array  # (query, features)
    w_memory: Array  # (memory, features)
    b: Array  # (features,)
    v: Array  # (features,)


@checked
@dataclass(frozen=True)
class Additive:
    """Additive score of Bahdanau, a layer of hidden units.

        sᵢ = vᵀ tanh(q W_query + mᵢ W_memory + b)
        a = softmax s

    Args:
      features: number of units.

    Reference: Bahdanau, Cho, Bengio, Neural machine translation by jointly learning to align and translate,
    2015, arXiv:1409.0473.

    >>> import jax, jrnn
    >>> jrnn.attention.Additive(8).init(jax.random.key(0), 4, 6).w_memory.shape
    (6, 8)
    """

    features: Width

    def init(self, key: Array, query_features: int, memory_features: int) -> AdditiveParams:
        k_query, k_memory, k_v = jax.random.split(key, 3)
        return AdditiveParams(
            w_query=glorot(k_query, (query_features, self.features)),
            w_memory=glorot(k_memory, (memory_features, self.features)),
            b=zeros(self.features),
            v=glorot(k_v, (self.features, 1))[:, 0],
        )

    @broadcasting
    def keys(self, params: AdditiveParams, memory: Array) -> Array:
        return memory @ params.w_memory + params.b

    def weights(self, params: AdditiveParams, query: Array, keys: Array, valid: Array) -> Array:
        return align(jnp.tanh(keys + (query @ params.w_query)[..., None, :]) @ params.v, valid)


@checked
@dataclass(frozen=True)
class Dot:
    """Inner product of query and memory, which must have the same width n.

        sᵢ = q · mᵢ          (scaled: / √n, so that the variance does not grow with n)
        a = softmax s

    Args:
      scaled: divide by √n.

    Raises:
      ValueError: at `init`, a query that is not as wide as the memory.

    Reference: Luong, Pham, Manning, Effective approaches to attention-based neural machine translation,
    2015, arXiv:1508.04025; scaled: Vaswani et al., Attention is all you need, 2017, arXiv:1706.03762.

    >>> import jrnn
    >>> jrnn.LuongAttention(jrnn.GRU(8), jrnn.attention.Dot(), memory_features=8, features=8).out_features
    8
    """

    _: KW_ONLY
    scaled: bool = False

    def init(self, key: Array, query_features: int, memory_features: int) -> tuple[()]:
        if query_features != memory_features:
            raise ValueError(
                f"{self} needs a query as wide as the memory, got {query_features} and {memory_features}: "
                "use General(), or a Dense after the encoder"
            )
        return ()

    def keys(self, params: tuple[()], memory: Array) -> Array:
        return memory / memory.shape[-1] ** 0.5 if self.scaled else memory

    def weights(self, params: tuple[()], query: Array, keys: Array, valid: Array) -> Array:
        return align(_product(query, keys), valid)


class GeneralParams(NamedTuple):
    """Parameters of `General`."""

    w_memory: Array  # (memory, query)


@checked
@dataclass(frozen=True)
class General:
    """Inner product of the query with the memory, projected to the width of the query.

        sᵢ = q · (mᵢ W_memory)
        a = softmax s

    Reference: Luong, Pham, Manning, Effective approaches to attention-based neural machine translation,
    2015, arXiv:1508.04025.

    >>> import jax, jrnn
    >>> jrnn.attention.General().init(jax.random.key(0), 4, 6).w_memory.shape
    (6, 4)
    """

    def init(self, key: Array, query_features: int, memory_features: int) -> GeneralParams:
        return GeneralParams(glorot(key, (memory_features, query_features)))

    def keys(self, params: GeneralParams, memory: Array) -> Array:
        return memory @ params.w_memory

    def weights(self, params: GeneralParams, query: Array, keys: Array, valid: Array) -> Array:
        return align(_product(query, keys), valid)


class LocationParams(NamedTuple):
    """Parameters of `Location`."""

    w: Array  # (query, length)


@checked
@dataclass(frozen=True)
class Location:
    """Score by the query alone: it depends on positions, not on the content of the memory.

        s = q W,   one column for each position
        a = softmax s

    Args:
      length: number of positions with parameters, the maximal length of a memory.

    Raises:
      ValueError: a longer memory.

    Reference: Luong, Pham, Manning, Effective approaches to attention-based neural machine translation,
    2015, arXiv:1508.04025.

    >>> import jax, jrnn
    >>> jrnn.attention.Location(50).init(jax.random.key(0), 4, 6).w.shape
    (4, 50)
    """

    length: Width

    def init(self, key: Array, query_features: int, memory_features: int) -> LocationParams:
        return LocationParams(glorot(key, (query_features, self.length)))

    def keys(self, params: LocationParams, memory: Array) -> Array:
        if memory.shape[-2] > self.length:
            raise ValueError(f"{self} has {self.length} positions, the memory has {memory.shape[-2]}")
        return memory[..., :0]  # its content is not used

    def weights(self, params: LocationParams, query: Array, keys: Array, valid: Array) -> Array:
        return align((query @ params.w)[..., : valid.shape[-1]], valid)


class LocalParams(NamedTuple):
    """Parameters of `Local`."""

    score: Any
    w: Array  # (query, query)
    v: Array  # (query,)


@checked
@dataclass(frozen=True)
class Local:
    """Local attention with a predicted center (local-p): another score, within a window.

        p = n · σ(vᵀ tanh(q W)),   n valid positions
        aᵢ = softmax over |i − p| ≤ D of sᵢ, times exp(−(i − p)² / (2 (D/2)²))

    As in the paper, weights are not normalized after the Gaussian and sum to at most 1. Scores outside the
    window are computed as well, so the cost is that of full attention.

    Args:
      score: the score inside the window.
      window: D, at least 1.

    Raises:
      TypeError: `score` is not a score.
      ValueError: `window` is below 1, so that it could contain no position.

    Reference: Luong, Pham, Manning, Effective approaches to attention-based neural machine translation,
    2015, arXiv:1508.04025, section 3.2.

    >>> import jrnn
    >>> jrnn.attention.Local(jrnn.attention.General(), window=5)
    Local(score=General(), window=5)
    """

    score: Score
    window: Positive

    def __post_init__(self) -> None:
        require_score("Local: score", self.score)
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")

    def init(self, key: Array, query_features: int, memory_features: int) -> LocalParams:
        k_score, k_w, k_v = jax.random.split(key, 3)
        return LocalParams(
            score=self.score.init(k_score, query_features, memory_features),
            w=glorot(k_w, (query_features, query_features)),
            v=glorot(k_v, (query_features, 1))[:, 0],
        )

    def keys(self, params: LocalParams, memory: Array) -> Array:
        return self.score.keys(params.score, memory)

    def weights(self, params: LocalParams, query: Array, keys: Array, valid: Array) -> Array:
        wide = promoted(query.dtype, jnp.float32)  # bfloat16 cannot represent odd positions beyond 256
        center = jax.nn.sigmoid((jnp.tanh(query @ params.w) @ params.v).astype(wide))
        center = valid.sum(-1).astype(wide) * center
        positions = jnp.arange(valid.shape[-1], dtype=wide)
        distance = jnp.expand_dims(positions, range(valid.ndim - 1)) - center[..., None]
        near = valid & (jnp.abs(distance) <= self.window)
        gaussian = jnp.exp(-2 * (distance / self.window) ** 2).astype(query.dtype)
        return self.score.weights(params.score, query, keys, near) * gaussian


def require_score(where: str, value: Any) -> None:
    """Raise a TypeError unless `value` is a score."""
    if isinstance(value, type):
        raise TypeError(f"{where} must be a score, got the class {value.__name__}: call it, as in General()")
    if not isinstance(value, Score):
        raise TypeError(f"{where} must be a score such as Additive(128) or General(), got {brief(value)}")
