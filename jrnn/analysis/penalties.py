"""Penalties for `fit(penalties=...)`: on gradients that vanish or explode, and on activations."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import expand, promoted
from jrnn._checks import check_width, require_cell
from jrnn.analysis._probing import gradients_of_states
from jrnn.analysis.exponents import lyapunov
from jrnn.analysis.states import state_leaves, state_places
from jrnn.cell import in_ndim
from jrnn.data import Batch
from jrnn.losses import length_mask
from jrnn.training import steps as training
from jrnn.training.objectives import Loss
from jrnn.unrolling import Scan, unroll


def recurrent_matrices(params: Any) -> dict[str, Array]:
    """Find the recurrent matrices of a model: the parameters `w_hh`, one square block per gate.

    Args:
      params: parameters of a cell or a layer.

    Returns:
      Blocks (gates, hidden, hidden) by path; `w_hh` that are not matrices (convolutions, heads) are skipped.

    >>> import jax, jrnn
    >>> model = jrnn.Stack((jrnn.LSTM(4), jrnn.Elman(3)))
    >>> found = jrnn.analysis.recurrent_matrices(model.init(jax.random.key(0), 2))
    >>> {path: blocks.shape for path, blocks in found.items()}
    {'[0].w_hh': (4, 4, 4), '[1].w_hh': (1, 3, 3)}
    """
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path).lstrip(".")
        if name.endswith("w_hh") and leaf.ndim == 2 and leaf.shape[1] % leaf.shape[0] == 0:
            found[name] = jnp.stack(jnp.split(leaf, leaf.shape[1] // leaf.shape[0], 1))
    return found


@dataclass(frozen=True)
class OrthogonalPenalty:
    """Soft orthogonality of the recurrent matrices.

        penalty = weight · Σ ‖Uᵀ U − I‖²_F   over the square blocks U of every `w_hh`

    It draws all singular values towards 1. It depends on weights only, not on gates or slopes of activations.

    Args:
      weight: weight of the penalty.

    Raises:
      ValueError: when called, if params have no `w_hh`.

    Reference: Vorontsov, Trabelsi, Kadoury, Pal, On orthogonality and learning recurrent networks with long
    term dependencies, 2017, arXiv:1702.00071.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> params = jrnn.Elman(2).init(jax.random.key(0), 1)._replace(w_hh=2 * jnp.eye(2))
    >>> float(jrnn.analysis.OrthogonalPenalty(0.5)(params, None))
    9.0
    """

    weight: float

    def __call__(self, params: Any, batch: Any) -> Array:
        """The penalty of parameters."""
        blocks = recurrent_matrices(params)
        if not blocks:
            raise ValueError("OrthogonalPenalty: params have no recurrent matrix named w_hh")
        grams = [jnp.swapaxes(u, 1, 2) @ u - jnp.eye(u.shape[1], dtype=u.dtype) for u in blocks.values()]
        return self.weight * jnp.stack([jnp.square(gram).sum() for gram in grams]).sum()


@dataclass(frozen=True)
class ActivationPenalty:
    """Penalty on the outputs of a cell, and on how much they change from step to step (AR and TAR).

        penalty = size · mean hₜ² + change · mean (hₜ − hₜ₋₁)²   over the valid steps of all sequences

    h is the output of the cell, such as all of a language model but its read-out, which is run once more for
    it: from its initial state, and without noise, where the paper takes h from the training step itself, in
    the first term after dropout.

    Args:
      cell: any cell.
      size: weight of the squares; 2 in the paper.
      change: weight of the squared changes; 1 in the paper.

    Raises:
      TypeError: not a cell.

    Reference: Merity, McCann, Socher, Revisiting activation regularization for language RNNs, 2017,
    arXiv:1708.01009.

    >>> import jax.numpy as jnp, jrnn
    >>> penalty = jrnn.analysis.ActivationPenalty(jrnn.Map("identity", 1), size=2.0, change=1.0)
    >>> float(penalty((), jrnn.Batch(jnp.array([[[1.0]], [[3.0]]]), None)))  # 2 · (1 + 9) / 2 + 2²
    14.0
    """

    cell: Any
    size: float
    change: float

    def __post_init__(self) -> None:
        require_cell("ActivationPenalty: cell", self.cell)

    def __call__(self, params: Any, batch: Batch) -> Array:
        """The penalty of parameters on a batch."""
        ys = unroll(self.cell, params, batch.xs, lengths=batch.lengths, resets=batch.resets)[1]
        steps, rows = ys.shape[:2]
        valid = jnp.ones((steps, rows), bool)
        valid = valid if batch.lengths is None else length_mask(batch.lengths, steps)
        follows = valid[1:] if batch.resets is None else valid[1:] & ~jnp.asarray(batch.resets)[1:]
        size, change = _mean_square(ys, valid), _mean_square(jnp.diff(ys, axis=0), follows)
        return self.size * size + self.change * change


def _mean_square(values: Array, counts: Array) -> Array:
    """Mean over the steps that count, and over features; 0 if none counts."""
    wide = promoted(values.dtype, jnp.float32)  # a sum in float16 ends at 65,504
    squares = jnp.square(values.astype(wide)).mean(tuple(range(2, values.ndim)))
    return jnp.where(counts, squares, 0).sum() / jnp.maximum(counts.sum(), 1).astype(wide)


@dataclass(frozen=True)
class VanishingGradientPenalty:
    """Penalty on gradients that grow or shrink from one step to the one before.

        Ω = weight · mean over t of (‖λₜ Jₜ‖ / ‖λₜ‖ − 1)²,   λₜ = ∂L/∂hₜ,   Jₜ = ∂hₜ/∂hₜ₋₁

    Unlike orthogonality, it only constrains the direction of the gradient of the loss. As in the paper, λₜ
    and hₜ₋₁ are constants, so that the gradient of Ω is that of Jₜ with respect to its weights, without a
    second pass through time; the paper sums over t. Steps with a gradient of exactly 0, such as padding, are
    ignored. The cost is about that of two training steps, and T · B · D stored numbers.

    Args:
      cell: the trained cell.
      loss: its loss, `PerStep(...)`, `AtLast(...)` or any `Loss`.
      weight: weight of the penalty.

    Raises:
      TypeError: not a cell.

    Reference: Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, 2013,
    arXiv:1211.5063, section 3.3.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell, loss = jrnn.Elman(2, activation="identity"), jrnn.AtLast(jrnn.losses.mean_squared_error)
    >>> params = cell.init(jax.random.key(0), 1)
    >>> params = params._replace(w_hh=0.5 * params.w_hh)
    >>> batch = jrnn.Batch(jnp.ones((5, 3, 1)), jnp.ones((3, 2)))
    >>> float(jrnn.analysis.VanishingGradientPenalty(cell, loss, 4.0)(params, batch).round(6))
    1.0
    """

    cell: Any
    loss: Loss
    weight: float

    def __post_init__(self) -> None:
        require_cell("VanishingGradientPenalty: cell", self.cell)

    def __call__(self, params: Any, batch: Batch) -> Array:
        """The penalty of parameters on a batch."""
        held = lax.stop_gradient(params)

        def run(method: Any) -> Array:
            function = training.model_function(self.cell, method)
            return self.loss.mean(function(held, batch, None, None)[1], batch)

        _, (adjoints,), (ranks,) = gradients_of_states(run, Scan())
        seen = unroll(_Seen(self.cell), held, batch.xs, lengths=batch.lengths, resets=batch.resets)[1]

        def ratio(step: tuple[Any, Any], adjoint: dict[str, Array]) -> tuple[Array, Array]:
            adjoint = _rescaled(adjoint, ranks)  # keeps the ratio; squares of 1e-20 would underflow
            by = _pulled(self.cell, params, *step, adjoint)
            before, after = (_norm(leaves, ranks) for leaves in (by, adjoint))
            return jnp.square(before / jnp.where(after > 0, after, 1) - 1), after > 0

        errors, counts = jax.vmap(ratio)(seen, adjoints)
        return self.weight * jnp.where(counts, errors, 0).sum() / jnp.maximum(counts.sum(), 1)


@dataclass(frozen=True)
class _Seen:
    """A cell whose output is the input of its step: the carry and x."""

    cell: Any

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def out_features(self) -> int:
        return int(self.cell.out_features)

    def init(self, key: Array, in_features: int) -> Any:
        return self.cell.init(key, in_features)

    def initial_carry(self, params: Any, batch_shape: Any = (), *, key: Array | None = None) -> Any:
        return self.cell.initial_carry(params, batch_shape, key=key)

    def step(self, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        return self.cell.step(params, carry, x)[0], (carry, x)


def _pulled(cell: Any, params: Any, carry: Any, x: Any, adjoint: dict[str, Array]) -> dict[str, Array]:
    """λ J: pull the gradients with respect to the state after a step back to the state before it."""
    leaves, structure = jax.tree.flatten(carry)
    places = state_places(cell, params, carry)

    def advance(moved: dict[str, Array]) -> dict[str, Array]:
        given = {places[name]: leaf for name, leaf in moved.items()}
        start = jax.tree.unflatten(structure, [given.get(i, leaf) for i, leaf in enumerate(leaves)])
        return state_leaves(cell, params, cell.step(params, start, x)[0])

    (by,) = jax.vjp(advance, {name: leaves[place] for name, place in places.items()})[1](adjoint)
    return dict(by)


def _rescaled(leaves: dict[str, Array], ranks: dict[str, int]) -> dict[str, Array]:
    """Divide the state of each sequence by its largest entry."""
    sizes = [
        jnp.abs(a).max(tuple(range(a.ndim - ranks[name], a.ndim)), initial=0) for name, a in leaves.items()
    ]
    top = functools.reduce(jnp.maximum, sizes)
    scale = lax.stop_gradient(jnp.where(top > 0, top, 1))
    return {name: leaf / expand(scale, leaf.ndim) for name, leaf in leaves.items()}


def _norm(leaves: dict[str, Array], ranks: dict[str, int]) -> Array:
    """Norm of the state of each sequence, with derivative 0 at 0."""
    squares = {name: jnp.square(jnp.abs(leaf)) for name, leaf in leaves.items()}
    total = sum(s.sum(tuple(range(s.ndim - ranks[name], s.ndim))) for name, s in squares.items())
    return jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1)), 0)


@dataclass(frozen=True)
class GradientFlossing:
    """Penalty that draws Lyapunov exponents towards 0, so that gradients survive many steps.

        penalty = weight · mean over sequences of Σᵢ λᵢ²,   i = 1 … exponents

    λᵢ are the exponents of `lyapunov` along the first sequences of each batch; the gradient flows through its
    QR. A few are enough: one for each direction to remember. It is often used before training only, as the
    whole loss, with `jax.grad`; `fit` adds it to a loss.

    Args:
      cell: the trained cell.
      weight: weight of the penalty.
      exponents: number of exponents, from the largest.
      sequences: number of sequences of a batch, with all steps, padding included.
      discard: number of first steps to ignore.
      every: steps from one QR to the next.

    Raises:
      TypeError: not a cell.
      ValueError: a width below 1; when called, as `lyapunov`.

    Reference: Engelken, Gradient flossing: improving gradient descent through dynamic control of Jacobians,
    2023, arXiv:2312.17306.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.IndRNN(1, activation="identity")
    >>> params = cell.init(jax.random.key(0), 1)._replace(w_hh=jnp.array([0.5]))
    >>> penalty = jrnn.analysis.GradientFlossing(cell, 1.0)(params, jrnn.Batch(jnp.ones((9, 2, 1)), None))
    >>> f"{penalty:.4f}"  # (ln 2)²
    '0.4805'
    """

    cell: Any
    weight: float
    exponents: int = 1
    sequences: int = 1
    discard: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        require_cell("GradientFlossing: cell", self.cell)
        check_width("exponents", self.exponents)
        check_width("sequences", self.sequences)

    def __call__(self, params: Any, batch: Batch) -> Array:
        """The penalty of parameters on a batch."""
        options: dict[str, Any] = {"exponents": self.exponents, "discard": self.discard, "every": self.every}

        def squares(xs: Any) -> Array:
            found = lyapunov(self.cell, params, xs, **options).exponents
            return jnp.square(jnp.where(jnp.isfinite(found), found, 0)).sum()

        first = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, : self.sequences], batch.xs)
        return self.weight * jax.vmap(squares, in_axes=1)(first).mean()
