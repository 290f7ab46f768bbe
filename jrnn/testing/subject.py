"""What the laws are checked on, and how trees are compared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn.cell import batch_shape_of, carry_spec, in_ndim, map_state, structure_of, trainable
from jrnn.unrolling import unroll

STEPS, BATCH = 5, 3
Inputs = Callable[[Array, tuple[int, ...]], Any]


class LawError(AssertionError):
    """A cell breaks a law; the message starts with the law's name."""


@dataclass(frozen=True)
class Subject:
    """A cell under test, with the width it is tested at and how its inputs are drawn."""

    cell: Any
    in_features: int
    inputs: Inputs
    ignore: tuple[str, ...] = field(default=())  # names of parameters that need no gradient

    def params(self, dtype: Any = None) -> Any:
        """Parameters moved away from their start, so that zero biases hide nothing."""
        params = self.cell.init(jax.random.key(1), self.in_features)
        keys = iter(jax.random.split(jax.random.key(2), len(jax.tree.leaves(params))))

        def move(leaf: Array, free: bool) -> Array:
            key = next(keys)
            if free and jnp.issubdtype(leaf.dtype, jnp.floating):
                leaf = leaf + 0.2 * jax.random.normal(key, leaf.shape, leaf.dtype)
            return cast(leaf, dtype)

        return jax.tree.map(move, params, trainable(params))

    def xs(self, *lead: int, dtype: Any = None, seed: int = 3) -> Any:
        """Random inputs with the given leading axes."""
        drawn = self.inputs(jax.random.key(seed), lead)
        return jax.tree.map(lambda leaf: cast(leaf, dtype), drawn)

    def start(self, params: Any, x: Any, key: Array | None = None) -> Any:
        """The initial carry for the batch of one step's inputs."""
        return self.cell.initial_carry(params, batch_shape_of(self.cell, x), key=key)

    def carry(self, params: Any, *batch: int, dtype: Any = None) -> Any:
        """A state away from the initial one: that after two steps on other inputs."""
        return unroll(self.cell, params, self.xs(2, *batch, dtype=dtype, seed=4))[0]


def default_inputs(cell: Any, in_features: int) -> Inputs:
    """Standard normal floats, or uniform tokens for a cell without a feature axis."""
    if in_ndim(cell) == 0:
        return lambda key, lead: jax.random.randint(key, lead, 0, in_features)
    return lambda key, lead: jax.random.normal(key, (*lead, in_features))


def cast(leaf: Array, dtype: Any) -> Array:
    """Cast a float array; others stay."""
    return leaf if dtype is None or not jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.astype(dtype)


def assert_close(given: Any, needed: Any, what: str, tolerance: float = 2e-5) -> None:
    """Raise a LawError unless two trees agree in structure, shape and value."""
    if structure_of(given) != structure_of(needed):
        raise LawError(f"{what}: structures differ, {jax.tree.structure(given)}")
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
        if a.shape != b.shape:
            raise LawError(f"{what}: shapes {a.shape} and {b.shape} differ")
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        wide = np.complex128 if jnp.issubdtype(a.dtype, jnp.complexfloating) else np.float64
        left, right = np.asarray(a, wide), np.asarray(b, wide)
        if not np.allclose(left, right, rtol=tolerance, atol=tolerance):
            raise LawError(f"{what}: values differ by {np.nanmax(np.abs(left - right)):.3g}")


def take(tree: Any, index: Any) -> Any:
    """Index every array of a tree."""
    return jax.tree.map(lambda a: a[index], tree)


def avals(tree: Any) -> Any:
    """A tree with the dtype and shape of every array in its place."""
    return jax.tree.map(lambda a: f"{a.dtype}{a.shape}", tree)


def same_avals(a: Any, b: Any) -> bool:
    """Whether two trees agree in structure, dtypes and shapes."""
    return structure_of(a) == structure_of(b) and bool(avals(a) == avals(b))


def identical(a: Any, b: Any) -> bool:
    """Whether two trees of one structure agree bit for bit, without a NaN."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=False) for x, y in pairs)


def poison_padding(leaf: Array, mask: Array, poison: float) -> Array:
    """A float array with `poison` where `mask` is False."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return jnp.where(mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim)), leaf, poison)


def is_float(leaf: Any) -> bool:
    """Whether an array holds floats."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def float_leaves(tree: Any) -> list[Array]:
    """The float arrays of a tree."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_float(leaf)]


def refill(tree: Any, floats: list[Array]) -> Any:
    """The tree with other float arrays in the place of its own."""
    values = iter(floats)
    return jax.tree.map(lambda leaf: next(values) if is_float(leaf) else leaf, tree)


def visible_state(cell: Any, params: Any, carry: Any) -> Any:
    """The state of a carry, without its slots."""
    return jax.tree.leaves(map_state(lambda a: a, carry_spec(cell, params), carry))


def weighted_sum(tree: Any) -> Array:
    """A scalar that depends on every float entry of a tree, on each with another weight."""
    weights = (jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in float_leaves(tree))
    return jnp.sum(jnp.stack([jnp.vdot(w, a) for w, a in zip(weights, float_leaves(tree), strict=True)]))


def smooth_loss(subject: Subject, params: Any, xs: Any) -> tuple[Callable[[list[Array]], Array], list[Array]]:
    """A smooth function of all float leaves of (params, xs), and those leaves."""

    @jax.jit
    def loss(floats: list[Array]) -> Array:
        p, x = refill((params, xs), floats)
        end, ys = unroll(subject.cell, p, x)
        return weighted_sum((visible_state(subject.cell, p, end), ys))

    return loss, float_leaves((params, xs))


def direction(tree: Any) -> list[Array]:
    """A direction to move the float arrays of a tree in; those that are fixed stay where they are."""

    def cosines(leaf: Array, free: bool) -> Array:
        return free * jnp.cos(1.7 * jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)

    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(trainable(tree)), strict=True)
    return [cosines(leaf, free) for leaf, free in pairs if is_float(leaf)]


def dot(a: list[Array], b: list[Array]) -> Array:
    """Inner product of two lists of arrays."""
    return sum((jnp.vdot(x, y) for x, y in zip(a, b, strict=True)), jnp.zeros(()))
