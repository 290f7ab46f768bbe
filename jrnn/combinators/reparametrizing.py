"""Weights computed from other parameters: normalized, low-rank, diagonal, tied, or dropped at random."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import brief
from jrnn._fields import AnyCell, Positive, Rate, Width, checked
from jrnn._timing import timed_inside
from jrnn.cell import Shape, in_ndim, is_linear, key_or_none
from jrnn.cells._gating import widened
from jrnn.combinators.noise import NoisyCarry, drop
from jrnn.initializers import default_float


class Form(Protocol):
    """A way to compute a weight: a frozen dataclass with two methods, and whether it draws noise."""

    @property
    def noisy(self) -> bool: ...
    def init(self, key: Array, w: Array) -> Any:
        """Parameters from which `weight` computes a matrix like `w`, the one that the cell initialized."""

    def weight(self, params: Any, key: Array | None) -> Array:
        """The weight; `key` draws the noise of one sequence, None means no noise."""


class Computed(NamedTuple):
    """The entry of params that replaces a computed weight."""

    params: Any


@checked
@dataclass(frozen=True)
class Reparametrize:
    """A cell with some weights computed from other parameters.

        w = form(θ)   for every parameter of that name, at any depth
        (carryₜ, yₜ) = cell(params with w, carryₜ₋₁, xₜ)

    The computation is part of the step, but `unroll` hoists it out of the loop, since it depends on
    parameters alone. In params, `Computed(θ)` replaces w.

    Args:
      cell: any cell.
      name: name of the parameter, such as "w_hh".
      form: `WeightNorm()`, `SpectralNorm()`, `LowRank(rank)`, `Diagonal()`, `DropConnect(rate)`, or your own.

    Raises:
      ValueError: the cell has no such parameter; the message lists those that exist.
      TypeError: `cell` is not a cell, or `form` is not a form.

    Reference: those of the forms.

    >>> import jax, jrnn
    >>> cell = jrnn.Reparametrize(jrnn.LSTM(8), "w_hh", jrnn.LowRank(2))
    >>> jax.tree.map(lambda leaf: leaf.shape, cell.init(jax.random.key(0), in_features=3).w_hh.params)
    LowRankParams(a=(8, 2), b=(2, 32))
    """

    cell: AnyCell
    name: str
    form: Form
    timed = timed_inside

    def __post_init__(self) -> None:
        if isinstance(self.form, type) or not hasattr(self.form, "weight"):
            raise TypeError(f"Reparametrize: form must be a form like WeightNorm(), got {brief(self.form)}")

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
            raise ValueError(f"Reparametrize: {self.cell} has no parameter {self.name!r}, {present}")
        keys = iter(jax.random.split(k_form, names.count(self.name)))

        def replace(path: Any, leaf: Array) -> Any:
            if _last(path) == self.name and leaf.ndim != 2 and not self.form.noisy:
                given = f"{self.name} of {self.cell} has shape {leaf.shape}"
                raise ValueError(f"Reparametrize: {self.form} takes matrices, {given}")
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

        found = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_ours, is_leaf_takes_path=True)
        places = [path for path, leaf in found if is_ours(path, leaf)]
        return jax.tree_util.tree_map_with_path(visit, params, is_leaf=is_ours, is_leaf_takes_path=True)


def _last(path: tuple[Any, ...]) -> str:
    """The last name in the path of a leaf."""
    named = [str(getattr(k, "name", getattr(k, "key", ""))) for k in path]
    return next((name for name in reversed(named) if name), "")


def _length(v: Array) -> Array:
    """Euclidean norm along the first axis, 1 where it is 0, so that neither value nor gradient is NaN."""
    squares = jnp.square(widened(v)).sum(0)
    return jnp.sqrt(jnp.where(squares > 0, squares, 1)).astype(v.dtype)


@checked
@dataclass(frozen=True)
class Tie:
    """Share weights between two parts of a cell: one set of parameters, whose gradient sums both uses.

        params[target] = params[source]          transposed=False
        params[target] = params[source]ᵀ         transposed=True, matrices only

    Parts have the names that `jrnn.summary` and checkpoints use: "0.table" is the table of the first cell of
    a `Stack`, "2" all parameters of the third. The source is initialized; in params, the target is None.

    Args:
      cell: any cell.
      source: the part that holds the parameters.
      target: the part that uses them too.
      transposed: transpose them for the target, as for an embedding table used by a read-out.

    Raises:
      ValueError: at `init`, parts that do not exist or differ in shape.

    Reference: Press, Wolf, Using the output embedding to improve language models, 2017, arXiv:1608.05859;
    Inan, Khosravi, Socher, Tying word vectors and word classifiers, 2017, arXiv:1611.01462.

    >>> import jax, jrnn
    >>> model = jrnn.Stack((jrnn.Embed(8), jrnn.LSTM(8), jrnn.Dense(20)))
    >>> tied = jrnn.Tie(model, "0.table", "2.w", transposed=True)
    >>> tied.init(jax.random.key(0), in_features=20)[2].w is None
    True
    """

    cell: AnyCell
    source: str
    target: str
    _: KW_ONLY
    transposed: bool = False
    timed = timed_inside

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
        params = self.cell.init(key, in_features)
        leaves = {_name(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
        parts = []
        for part in (self.source, self.target):
            inside = {name for name in leaves if f"{name}.".startswith(f"{part}.")}
            parts.append({name.removeprefix(part): leaves[name] for name in sorted(inside)})
        for part, found in zip((self.source, self.target), parts, strict=True):
            if not found:
                raise ValueError(f"Tie: {self.cell} has no part {part!r}, it has {', '.join(leaves)}")
        taken = {rest: shape[::-1] if self.transposed else shape for rest, shape in parts[0].items()}
        if taken != parts[1] or self.source == self.target:
            fits = {rest: shape[::-1] for rest, shape in taken.items()} == parts[1] != taken
            hint = f": use transposed={not self.transposed}" if fits else ""
            raise ValueError(
                f"Tie: {self.target!r} has shapes {list(parts[1].values())}, {self.source!r} gives "
                f"{list(taken.values())}{' transposed' if self.transposed else ''}{hint}"
            )
        return jax.tree_util.tree_map_with_path(lambda p, leaf: None if self._takes(p) else leaf, params)

    def initial_carry(self, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Any:
        return self.cell.initial_carry(self.weights(params), batch_shape, key=key)

    def step(self, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        return self.cell.step(self.weights(params), carry, x)

    def weights(self, params: Any) -> Any:
        """The parameters of the inner cell, those of the target included."""
        leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

        def visit(path: Any, leaf: Any) -> Any:
            if not self._takes(path):
                return leaf
            given = leaves.get(self.source + _name(path).removeprefix(self.target))
            return given.T if self.transposed and given is not None else given

        return jax.tree_util.tree_map_with_path(visit, params, is_leaf=lambda leaf: leaf is None)

    def _takes(self, path: Any) -> bool:
        """True for a leaf that belongs to the target."""
        return f"{_name(path)}.".startswith(f"{self.target}.")


def _name(path: tuple[Any, ...]) -> str:
    """The path of a leaf, as written in checkpoints."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


class WeightNormParams(NamedTuple):
    """Parameters of `WeightNorm`."""

    v: Array  # (rows, columns)
    g: Array  # (columns,)


@checked
@dataclass(frozen=True)
class WeightNorm:
    """Separate parameters for the length and the direction of each column.

        w_j = g_j · v_j / ‖v_j‖,   0 where v_j = 0;   v = w and g_j = ‖w_j‖ at the start

    It starts as the matrix that the cell initialized, so wrapping a cell does not change its function.
    torch's `weight_norm` starts the same way; its matrices are transposed, so its dim=0 corresponds to our
    columns, with one length for each unit of each gate. flax's `WeightNorm` starts at g = 1, which changes
    the function.

    Reference: Salimans, Kingma, Weight normalization, 2016, arXiv:1602.07868.
    """

    noisy = False

    def init(self, key: Array, w: Array) -> WeightNormParams:
        return WeightNormParams(w, jnp.linalg.norm(w, axis=0))

    def weight(self, params: WeightNormParams, key: Array | None) -> Array:
        return params.v * (params.g / _length(params.v))[None]


class SpectralNormParams(NamedTuple):
    """Parameters of `SpectralNorm`."""

    w: Array  # (rows, columns)
    fixed: Array  # (rows,), start of the power iteration


@checked
@dataclass(frozen=True)
class SpectralNorm:
    """Scale a matrix to a given largest singular value, by power iteration.

        v = wᵀ u / ‖wᵀ u‖,   u = w v / ‖w v‖,   `iterations` times
        w̃ = bound · w / (uᵀ w v),   0 where w = 0

    Args:
      bound: the largest singular value.
      iterations: number of power iterations, always from the same start; gradients flow through them.

    Reference: Miyato, Kataoka, Koyama, Yoshida, Spectral normalization for generative adversarial networks,
    2018, arXiv:1802.05957.
    """

    bound: Positive = 1.0
    _: KW_ONLY
    iterations: Width = 10
    noisy = False

    def init(self, key: Array, w: Array) -> SpectralNormParams:
        return SpectralNormParams(w, jax.random.normal(key, w.shape[:1], default_float()))

    def weight(self, params: SpectralNormParams, key: Array | None) -> Array:
        w, u = params.w, jax.lax.stop_gradient(params.fixed)
        for _ in range(self.iterations):
            v = u @ w
            v = v / _length(v)
            u = w @ v
            u = u / _length(u)
        largest = u @ w @ v
        return w * (self.bound / jnp.where(largest == 0, 1, largest))


class LowRankParams(NamedTuple):
    """Parameters of `LowRank`."""

    a: Array  # (rows, rank)
    b: Array  # (rank, columns)


@checked
@dataclass(frozen=True)
class LowRank:
    """Product of two thin matrices, initialized to the best approximation of the cell's initial matrix.

        w = a b

    Args:
      rank: number of columns of a.

    Reference: Lu, Sindhwani, Sainath, Learning compact recurrent neural networks, 2016, arXiv:1604.02594.
    """

    rank: Width
    noisy = False

    def init(self, key: Array, w: Array) -> LowRankParams:
        if self.rank > min(w.shape):
            most, shape = min(w.shape), w.shape
            raise ValueError(f"rank must be at most {most} for a matrix of shape {shape}, got {self.rank}")
        u, s, v = jnp.linalg.svd(w, full_matrices=False)
        root = jnp.sqrt(s[: self.rank])
        return LowRankParams(u[:, : self.rank] * root[None], root[:, None] * v[: self.rank])

    def weight(self, params: LowRankParams, key: Array | None) -> Array:
        return params.a @ params.b


@checked
@dataclass(frozen=True)
class Diagonal:
    """Diagonal blocks side by side: each unit reads its own state only.

        w = [diag(d₁) | diag(d₂) | …]

    The parameters are d, of shape (blocks, rows).

    Reference: for gated cells, Subakan, Smaragdis, Diagonal RNNs in symbolic music modeling, 2017,
    arXiv:1704.05420.
    """

    noisy = False

    def init(self, key: Array, w: Array) -> Array:
        rows, columns = w.shape
        if columns % rows:
            raise ValueError(f"Diagonal: needs square blocks side by side, got a matrix of shape {w.shape}")
        return jax.random.uniform(key, (columns // rows, rows), default_float(), -1, 1)

    def weight(self, params: Array, key: Array | None) -> Array:
        eye = jnp.eye(params.shape[1], dtype=params.dtype)
        return jnp.concatenate([eye * block[None] for block in params], axis=1)


@checked
@dataclass(frozen=True)
class DropConnect:
    """Drop random weights, the same ones for the whole sequence and batch.

        w̃ = m · w,   m ~ Bernoulli(1 − rate) / (1 − rate)

    Without a key (evaluation) w̃ = w.

    Args:
      rate: fraction of weights dropped, in [0, 1).

    Reference: Wan et al., Regularization of neural networks using DropConnect, 2013; in a recurrence Merity,
    Keskar, Socher, Regularizing and optimizing LSTM language models, 2018, arXiv:1708.02182.
    """

    rate: Rate
    noisy = True

    def init(self, key: Array, w: Array) -> Array:
        return w

    def weight(self, params: Array, key: Array | None) -> Array:
        return params if key is None else drop(key, self.rate, params)
