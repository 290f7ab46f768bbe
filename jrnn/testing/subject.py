"""The subject of the laws: its parameters and inputs, its programs, and comparisons of trees."""

import functools
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
Inputs = Callable[[np.random.Generator, tuple[int, ...]], Any]

# a law's program runs once on a few numbers, so nearly all its time is compilation, five times faster with:
QUICK: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
READS_VALUES = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)  # raised where NumPy is given a tracer


class LawError(AssertionError):
    """Raised if a cell breaks a law; the message starts with the name of the law."""


@dataclass(frozen=True)
class Subject:
    """A cell under test, with its width and a generator of inputs.

    Arrays are drawn and compared in NumPy, since eager JAX compiles a program for every new operation and
    shape. Everything computed by JAX is one call of `run`, one program.
    """

    cell: Any
    in_features: int
    inputs: Inputs
    ignore: tuple[str, ...] = field(default=())  # names of parameters that need no gradient

    @functools.cached_property
    def draws(self) -> list[Any]:
        """Two draws of `init`, with two keys."""

        def init(key: Array) -> Any:
            return self.cell.init(key, self.in_features)

        with jax.enable_x64(False):  # so that draws do not depend on the order of the laws
            keys = [jax.random.key(1), jax.random.key(2)]
            try:
                return self.run_each(init, keys)
            except READS_VALUES:
                return [jax.device_get(init(key)) for key in keys]

    @functools.cached_property
    def _params(self) -> Any:
        """Perturbed parameters, so that zero biases hide nothing."""
        rng = np.random.default_rng(2)

        def move(leaf: Any, free: bool) -> Any:
            noise = 0.2 * rng.standard_normal(leaf.shape)
            return (leaf + noise).astype(leaf.dtype) if free and is_float(leaf) else leaf

        return jax.tree.map(move, self.draws[0], trainable(self.draws[0]))

    def params(self, dtype: Any = None) -> Any:
        """The parameters, with floats in the given dtype."""
        return jax.tree.map(lambda leaf: cast(leaf, dtype), self._params)

    def xs(self, *lead: int, dtype: Any = "float32", seed: int = 3) -> Any:
        """Random inputs with the given leading axes."""
        drawn = jax.tree.map(np.asarray, self.inputs(np.random.default_rng(seed), lead))

        def visit(leaf: Any) -> Any:
            return leaf.astype(dtype if is_float(leaf) else jax.dtypes.canonicalize_dtype(leaf.dtype))

        return jax.tree.map(visit, drawn)

    def start(self, params: Any, x: Any, key: Array | None = None) -> Any:
        """The initial carry for the batch of one step's inputs."""
        return self.cell.initial_carry(params, batch_shape_of(self.cell, x), key=key)

    def carry(self, params: Any, *batch: int, dtype: Any = "float32") -> Any:
        """A state different from the initial one: after two steps on other inputs."""
        return unroll(self.cell, params, self.xs(2, *batch, dtype=dtype, seed=4))[0]

    def abstractly(self, function: Callable[..., Any], *args: Any) -> Any:
        """Shapes and dtypes of the result of a function; a function that reads values is run instead."""
        try:
            return jax.eval_shape(function, *args)
        except READS_VALUES:
            return function(*args)

    def eagerly(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function eagerly, and return its results in NumPy."""
        return jax.device_get(jax.tree.map(_data, function(*args)))

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function as one program, and return its results in NumPy."""
        return self.run_each(function, [args[0]], *args[1:])[0]

    def run_each(self, function: Callable[..., Any], calls: list[Any], *args: Any) -> list[Any]:
        """Run a function as one program for several first arguments of equal shape; results in NumPy."""
        program = self.program(function, calls[0], *args)
        return [program(first, *args) for first in calls]

    def program(self, function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
        """Compile a function for arguments of these shapes; its results are in NumPy."""
        lowered = jax.jit(lambda *given: jax.tree.map(_data, function(*given))).lower(*args)
        compiled = _compiled(lowered)
        return lambda *given: jax.device_get(compiled(*given))


def _compiled(lowered: Any) -> Callable[..., Any]:
    try:
        return lowered.compile(compiler_options=QUICK)
    except jax.errors.JaxRuntimeError:  # an XLA without these options
        return lowered.compile()


def _data(leaf: Any) -> Any:
    """The data of a random key; anything else unchanged."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def default_inputs(cell: Any, in_features: int) -> Inputs:
    """Standard normal floats, or uniform tokens for a cell without a feature axis."""
    if in_ndim(cell) == 0:
        return lambda rng, lead: rng.integers(0, in_features, lead)
    return lambda rng, lead: rng.standard_normal((*lead, in_features))


def cast(leaf: Any, dtype: Any) -> Any:
    """Cast a float array; others are unchanged."""
    return leaf if dtype is None or not is_float(leaf) else leaf.astype(dtype)


def assert_close(given: Any, needed: Any, what: str, tolerance: float = 2e-5) -> None:
    """Raise a LawError unless two trees agree in structure, shape and value."""
    if structure_of(given) != structure_of(needed):
        raise LawError(f"{what}: structures differ, {jax.tree.structure(given)}")
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
        if a.shape != b.shape:
            raise LawError(f"{what}: shapes {a.shape} and {b.shape} differ")
        wide = np.complex128 if jnp.issubdtype(a.dtype, jnp.complexfloating) else np.float64
        left, right = np.asarray(a, wide), np.asarray(b, wide)
        if not np.allclose(left, right, rtol=tolerance, atol=tolerance):
            raise LawError(f"{what}: values differ by {np.nanmax(np.abs(left - right)):.3g}")


def take(tree: Any, index: Any) -> Any:
    """Index every array of a tree."""
    return jax.tree.map(lambda a: a[index], tree)


def joined(*trees: Any) -> Any:
    """Concatenate trees of arrays along their first axis."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *trees)


def avals(tree: Any) -> Any:
    """Replace every array of a tree by its dtype and shape."""
    return jax.tree.map(lambda a: f"{a.dtype}{a.shape}", tree)


def same_avals(a: Any, b: Any) -> bool:
    """True if two trees agree in structure, dtypes and shapes."""
    return structure_of(a) == structure_of(b) and bool(avals(a) == avals(b))


def identical(a: Any, b: Any) -> bool:
    """True if two trees of the same structure agree bit for bit, without a NaN."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=False) for x, y in pairs)


def poison_padding(leaf: Any, mask: Any, poison: float) -> Any:
    """Fill a float array with `poison` where `mask` is False."""
    if not is_float(leaf):
        return leaf
    return np.where(mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim)), leaf, leaf.dtype.type(poison))


def is_float(leaf: Any) -> bool:
    """True for an array of floats."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def float_leaves(tree: Any) -> list[Array]:
    """The float arrays of a tree."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_float(leaf)]


def refill(tree: Any, floats: list[Array]) -> Any:
    """Replace the float arrays of a tree."""
    values = iter(floats)
    return jax.tree.map(lambda leaf: next(values) if is_float(leaf) else leaf, tree)


def visible_state(cell: Any, params: Any, carry: Any) -> Any:
    """The state of a carry, without its slots."""
    return jax.tree.leaves(map_state(lambda a: a, carry_spec(cell, params), carry))


def weighted_sum(tree: Any) -> Array:
    """A scalar that depends on every float entry of a tree, each with a different weight."""
    weights = (jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in float_leaves(tree))
    return jnp.sum(jnp.stack([jnp.vdot(w, a) for w, a in zip(weights, float_leaves(tree), strict=True)]))


def smooth_loss(subject: Subject, params: Any, xs: Any) -> tuple[Callable[[list[Array]], Array], list[Any]]:
    """A smooth function of all float leaves of (params, xs), and those leaves."""

    @jax.jit  # so that it is traced once, however many derivatives are taken
    def loss(floats: list[Array]) -> Array:
        p, x = refill((params, xs), floats)
        end, ys = unroll(subject.cell, p, x)
        return weighted_sum((visible_state(subject.cell, p, end), ys))

    return loss, float_leaves((params, xs))


def direction(tree: Any) -> list[Any]:
    """A direction in which to move the float arrays of a tree, zero for those under `fixed`."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(trainable(tree)), strict=True)
    return [
        np.asarray(free * np.cos(1.7 * np.arange(leaf.size)).reshape(leaf.shape), leaf.dtype)
        for leaf, free in pairs
        if is_float(leaf)
    ]


def dot(a: list[Array], b: list[Array]) -> Array:
    """Inner product of two lists of arrays."""
    return sum((jnp.vdot(x, y) for x, y in zip(a, b, strict=True)), jnp.zeros(()))
