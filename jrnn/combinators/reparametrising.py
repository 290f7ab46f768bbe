"""Weights that are computed from others: normalised, of low rank, diagonal, or dropped at random."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jrnn.cell import Cell, Shape, in_ndim, is_linear, key_or_none
from jrnn.checks import brief, check_positive, check_rate, check_width, require_cell
from jrnn.combinators.noise import NoisyCarry, drop
from jrnn.initializers import default_float


class Form(Protocol):
    """How a weight is computed: a frozen dataclass with two methods, and whether it draws noise."""

    @property
    def noisy(self) -> bool: ...

    def init(self, key: Array, w: Array) -> Any:
        """Parameters from which `weight` gives a matrix like `w`, the one that the cell drew."""
        ...

    def weight(self, params: Any, key: Array | None) -> Array:
        """The weight; `key` draws the noise of one sequence, None means none."""
        ...


class Computed(NamedTuple):
    """What stands in params in the place of a weight that is computed."""

    params: Any


@dataclass(frozen=True)
class Reparametrise:
    """A cell some of whose weights are computed from other parameters, anew for every update.

        w = form(θ)   for every parameter of that name, at any depth
        (carryₜ, yₜ) = cell(params with w, carryₜ₋₁, xₜ)

    It stands inside the step, as the equations say, and is run once per call, as nothing in it changes from
    step to step. In params, `Computed(θ)` stands where w stood.

    Args:
      cell: any cell.
      name: of the parameter, as in "w_hh".
      form: `WeightNorm()`, `SpectralNorm()`, `LowRank(rank)`, `Diagonal()`, `DropConnect(rate)`, or your own.

    Raises:
      ValueError: the cell has no such parameter; the message lists those that it has.
      TypeError: no cell, or no form.

    Reference: those of the forms.

    >>> import jax, jrnn
    >>> cell = jrnn.Reparametrise(jrnn.LSTM(8), "w_hh", jrnn.LowRank(2))
    >>> jax.tree.map(lambda leaf: leaf.shape, cell.init(jax.random.key(0), in_features=3).w_hh.params)
    LowRankParams(a=(8, 2), b=(2, 32))
    """

    cell: Cell[Any, Any]
    name: str
    form: Form

    def __post_init__(self) -> None:
        require_cell("Reparametrise: cell", self.cell)
        if isinstance(self.form, type) or not hasattr(self.form, "weight"):
            raise TypeError(f"Reparametrise: form must be one as in WeightNorm(), got {brief(self.form)}")

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def linear(self) -> bool:
        return is_linear(self.cell)

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> Any:
        k_cell, k_form = jax.random.split(key)
        params = self.cell.init(k_cell, in_features)
        paths, _ = jax.tree_util.tree_flatten_with_path(params)
        names = [_last(path) for path, _ in paths]
        if self.name not in names:
            computed = any(getattr(k, "name", None) == self.name for path, _ in paths for k in path)
            present = "it is computed already" if computed else f"it has {', '.join(dict.fromkeys(names))}"
            raise ValueError(f"Reparametrise: {self.cell} has no parameter {self.name!r}, {present}")
        keys = iter(jax.random.split(k_form, names.count(self.name)))

        def replace(path: Any, leaf: Array) -> Any:
            if _last(path) == self.name and leaf.ndim != 2 and not self.form.noisy:
                given = f"{self.name} of {self.cell} has shape {leaf.shape}"
                raise ValueError(f"Reparametrise: {self.form} takes matrices, {given}")
            return Computed(self.form.init(next(keys), leaf)) if _last(path) == self.name else leaf

        return jax.tree_util.tree_map_with_path(replace, params)

    def initial_carry(self, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Any:
        if not self.form.noisy:
            return self.cell.initial_carry(self.weights(params), batch_shape, key=key)
        inner, own = key_or_none(key, 2)
        return NoisyCarry(self.cell.initial_carry(self.weights(params), batch_shape, key=inner), own)

    def step(self, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        if not self.form.noisy:
            return self.cell.step(self.weights(params), carry, x)
        inner, y = self.cell.step(self.weights(params, carry.key), carry.cell, x)
        return NoisyCarry(inner, carry.key), y

    def weights(self, params: Any, key: Array | None = None) -> Any:
        """The parameters of the inner cell, computed ones included."""

        def is_ours(path: Any, leaf: Any) -> bool:
            return isinstance(leaf, Computed) and _last(path) == self.name

        def visit(path: Any, leaf: Any) -> Any:
            if not is_ours(path, leaf):
                return leaf
            own = None if key is None else jax.random.fold_in(key, places.index(path))
            return self.form.weight(leaf.params, own)

        flatten = jax.tree_util.tree_flatten_with_path
        found = flatten(params, is_leaf=is_ours, is_leaf_takes_path=True)[0]
        places = [path for path, leaf in found if is_ours(path, leaf)]
        return jax.tree_util.tree_map_with_path(visit, params, is_leaf=is_ours, is_leaf_takes_path=True)


def _last(path: tuple[Any, ...]) -> str:
    """The last name on the way to a leaf."""
    named = [str(getattr(k, "name", getattr(k, "key", ""))) for k in path]
    return next((name for name in reversed(named) if name), "")


class WeightNormParams(NamedTuple):
    """Parameters of `WeightNorm`."""

    v: Array  # (rows, columns)
    g: Array  # (columns,)


@dataclass(frozen=True)
class WeightNorm:
    """Length and direction of every column apart.

        w_j = g_j · v_j / ‖v_j‖,   v = w and g_j = ‖w_j‖ at the start

    So it starts as the very matrix that the cell drew, and keeps the function of weights that it is put
    around. torch's `weight_norm` starts alike; its matrices are transposed, so that its dim=0 are our
    columns, one length for each unit of each gate. flax's `WeightNorm` starts at g = 1: another function.

    Reference: Salimans, Kingma, Weight normalization, 2016, arXiv:1602.07868.
    """

    noisy = False

    def init(self, key: Array, w: Array) -> WeightNormParams:
        return WeightNormParams(w, jnp.linalg.norm(w, axis=0))

    def weight(self, params: WeightNormParams, key: Array | None) -> Array:
        return params.v * (params.g / jnp.linalg.norm(params.v, axis=0))


class SpectralNormParams(NamedTuple):
    """Parameters of `SpectralNorm`."""

    w: Array  # (rows, columns)
    fixed: Array  # (rows,), where the power iteration starts


@dataclass(frozen=True)
class SpectralNorm:
    """Largest singular value held at a bound, by power iteration.

        v = wᵀ u / ‖wᵀ u‖,   u = w v / ‖w v‖,   `iterations` times
        w̃ = bound · w / (uᵀ w v)

    Args:
      bound: the largest singular value wanted.
      iterations: of the power method, from the same start every time; derivatives go through them.

    Reference: Miyato, Kataoka, Koyama, Yoshida, Spectral normalization for generative adversarial networks,
    2018, arXiv:1802.05957.
    """

    bound: float = 1.0
    iterations: int = 10
    noisy = False

    def __post_init__(self) -> None:
        check_positive("bound", self.bound)
        check_width("iterations", self.iterations)

    def init(self, key: Array, w: Array) -> SpectralNormParams:
        return SpectralNormParams(w, jax.random.normal(key, w.shape[:1], default_float()))

    def weight(self, params: SpectralNormParams, key: Array | None) -> Array:
        w, u = params.w, jax.lax.stop_gradient(params.fixed)
        for _ in range(self.iterations):
            v = u @ w
            v = v / jnp.linalg.norm(v)
            u = w @ v
            u = u / jnp.linalg.norm(u)
        return w * (self.bound / (u @ w @ v))


class LowRankParams(NamedTuple):
    """Parameters of `LowRank`."""

    a: Array  # (rows, rank)
    b: Array  # (rank, columns)


@dataclass(frozen=True)
class LowRank:
    """Product of two thin matrices, the best ones for the matrix that the cell drew.

        w = a b

    Args:
      rank: number of columns of a.

    Reference: Lu, Sindhwani, Sainath, Learning compact recurrent neural networks, 2016, arXiv:1604.02594.
    """

    rank: int
    noisy = False

    def __post_init__(self) -> None:
        check_width("rank", self.rank)

    def init(self, key: Array, w: Array) -> LowRankParams:
        if self.rank > min(w.shape):
            raise ValueError(f"rank must be at most {min(w.shape)} for a matrix {w.shape}, got {self.rank}")
        u, s, v = jnp.linalg.svd(w, full_matrices=False)
        root = jnp.sqrt(s[: self.rank])
        return LowRankParams(u[:, : self.rank] * root, root[:, None] * v[: self.rank])

    def weight(self, params: LowRankParams, key: Array | None) -> Array:
        return params.a @ params.b


@dataclass(frozen=True)
class Diagonal:
    """Square blocks side by side, each a diagonal: units see no state but their own.

        w = [diag(d₁) | diag(d₂) | …]

    The parameters are d, of shape (blocks, rows).

    Reference: for gated cells, Subakan, Smaragdis, Diagonal RNNs in symbolic music modeling, 2017,
    arXiv:1704.05420.
    """

    noisy = False

    def init(self, key: Array, w: Array) -> Array:
        rows, columns = w.shape
        if columns % rows:
            raise ValueError(f"Diagonal needs square blocks side by side, got a matrix {w.shape}")
        return jax.random.uniform(key, (columns // rows, rows), default_float(), -1, 1)

    def weight(self, params: Array, key: Array | None) -> Array:
        eye = jnp.eye(params.shape[1], dtype=params.dtype)
        return jnp.concatenate([eye * block for block in params], axis=1)


@dataclass(frozen=True)
class DropConnect:
    """Weights dropped at random, the same ones for a whole sequence and batch.

        w̃ = m · w,   m ~ Bernoulli(1 − rate) / (1 − rate)

    Without a key (evaluation) w̃ = w.

    Args:
      rate: share of weights dropped, in [0, 1).

    Reference: Wan et al., Regularization of neural networks using DropConnect, 2013; in a recurrence Merity,
    Keskar, Socher, Regularizing and optimizing LSTM language models, 2018, arXiv:1708.02182.
    """

    rate: float
    noisy = True

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)

    def init(self, key: Array, w: Array) -> Array:
        return w

    def weight(self, params: Array, key: Array | None) -> Array:
        return params if key is None else drop(key, self.rate, params)
