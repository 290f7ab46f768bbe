"""The influence in a random form of low rank, whose mean is exact."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import promoted, zeros_like_type
from jrnn._checks import check_whole
from jrnn._jaxprs.programs import Op, dce, read
from jrnn.cell import Shape
from jrnn.online._influence import Derivative
from jrnn.online._rows import Row
from jrnn.online.moments import Moment, require_forward

TINY = 1e-7  # added to norms


class RankOne(NamedTuple):
    """An influence s θᵀ.

    Fields:
      state: (rows..., D).
      params: (rows..., *shape) of each parameter that reaches the state.
      key: (rows...) keys of the signs.
    """

    state: Array
    params: list[Array]
    key: Array


@dataclass(frozen=True)
class UORO:
    """Unbiased online recurrent optimization: the influence as the product of two vectors, for any cell.

        s̃ ← ρ₀ J s̃ + ρ₁ ν,   θ̃ ← θ̃ / ρ₀ + νᵀ I / ρ₁,   E[s̃ θ̃ᵀ] = P,   ν = ±1 at random
        ρ₀ = √(‖θ̃‖ / ‖J s̃‖),   ρ₁ = √(‖νᵀ I‖ / ‖ν‖)

    A gradient is a random one, with the mean of `RTRL`, and takes one forward and one backward derivative
    more. Memory is one number for each parameter and row. The variance grows with the state and with how
    long it remembers; average it over rows, or learn slowly. The gradient of the step itself is exact, where
    the paper has it within the random product.

    Args:
      seed: of the signs ν, for which the influence carries keys.

    Raises:
      ValueError: in `Online.init`, a cell whose step has no forward derivative (a custom_vjp).

    Reference: Tallec, Ollivier, Unbiased online recurrent optimization, 2017, arXiv:1702.05043.

    >>> import jrnn
    >>> jrnn.Online(jrnn.GRU(8), jrnn.losses.mean_squared_error, jrnn.UORO()).method
    UORO(seed=0)
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("seed", self.seed)

    def start(self, moment: Moment) -> RankOne:
        """The influence before the first step: zero."""
        theta, v, row = moment.types()
        require_forward(self, moment, moment.derivative(v, row))
        params = [jnp.zeros(theta[n].shape, _wide(theta[n])) for n in moment.reaching()]
        zero = moment.started(jnp.zeros(v.shape, _wide(v)))
        return RankOne(zero, jax.tree.map(moment.started, params), moment.keys(self.seed))

    def learn(
        self, moment: Moment, influence: RankOne, direct: list[Array], adjoint: Array
    ) -> tuple[RankOne, list[Array]]:
        """The influence after a step, and the gradient."""
        numbers = moment.reaching()
        if not numbers:
            return influence, direct
        gradient = list(direct)
        rows, adjoints = moment.rows((influence.state, influence.params)), moment.rows(adjoint)
        scale = (rows[0] * adjoints).sum(-1)
        for n, p in zip(numbers, rows[1], strict=True):
            gradient[n] = gradient[n] + jnp.tensordot(scale, p, 1).astype(direct[n].dtype)

        def after(v: Array, row: Row, influence: RankOne) -> RankOne:
            state, params, key = influence
            key, draw = jax.random.split(key)
            signs = _signs(draw, v.shape, v.dtype)
            forward = functools.partial(jax.jvp, lambda b: moment.state_step(moment.theta, b, row), (v,))
            pushed = forward((state.astype(v.dtype),))[1].astype(state.dtype)
            pulled = jax.vjp(lambda a: moment.state_step(a, v, row), moment.theta)[1](signs)[0]
            added = [pulled[n].astype(p.dtype) for n, p in zip(numbers, params, strict=True)]
            old, new = _ratio(params, pushed), _ratio(added, signs)
            params = [
                a / old.astype(a.dtype) + b / new.astype(a.dtype) for a, b in zip(params, added, strict=True)
            ]
            found = old * pushed + new * signs
            return RankOne(found.astype(state.dtype), params, key)

        return moment.moved(after, influence), gradient


def _signs(key: Array, shape: Shape, dtype: Any) -> Array:
    """±1 at random, from bits: `rademacher` draws others under x64."""
    return 1 - 2 * (jax.random.bits(key, shape, "uint8") & 1).astype(dtype)


def _wide(leaf: Any) -> Any:
    """The dtype in which a sum over many steps of numbers like these is kept."""
    return promoted(leaf.dtype, jnp.float32)


def _ratio(a: Any, b: Any) -> Array:
    """The square root of a ratio of norms."""
    return jnp.sqrt((_norm(a) + TINY) / (_norm(b) + TINY))


def _norm(tree: Any) -> Array:
    return jnp.sqrt(functools.reduce(jnp.add, [(leaf**2).sum() for leaf in jax.tree.leaves(tree)]))


class Kronecker(NamedTuple):
    """An influence of Kronecker products, u Aᵀ for each weight matrix.

    Fields:
      vectors: u, (rows..., m) for each weight matrix (m, n).
      matrices: A, (rows..., D, n) for each of them.
      others: (rows..., D, *shape), the exact influence of each other parameter that reaches the state.
      key: (rows...) keys of the signs.
    """

    vectors: list[Array]
    matrices: list[Array]
    others: list[Array]
    key: Array


class _Product(NamedTuple):
    """The only op that reads the tangent of a weight matrix: its product with a vector."""

    number: int  # of the parameter
    op: Op
    vector: int  # the value that it is multiplied with
    axis: int  # of the parameter along which it is


@dataclass(frozen=True)
class KroneckerRTRL:
    """Kronecker-factored real-time recurrent learning (KF-RTRL): random, with the mean of `RTRL`.

        P ≈ u ⊗ A for each weight matrix, I = a ⊗ D:   u ← s p u + r q a,   A ← s J A / p + r D / q
        p = √(‖J A‖ / ‖u‖),   q = √(‖D‖ / ‖a‖),   s, r = ±1 at random

    a is what the matrix is multiplied with in the step, and D the derivative of the state by that product;
    both are found in the traced step. What acts in another way, as biases do, or a matrix behind a norm, has
    its influence stored in full. With D numbers in the state it takes D backward derivatives and a product of
    D × D matrices a step, and less variance than `UORO`. The paper has one u for all matrices, here each has
    one of its own.

    Args:
      seed: of the signs, for which the influence carries keys.

    Raises:
      ValueError: in `Online.init`, a cell whose step has no forward derivative (a custom_vjp).

    Reference: Mujika, Meier, Steger, Approximating real-time recurrent learning with random Kronecker
    factors, 2018, arXiv:1805.10842.

    >>> import jrnn
    >>> jrnn.Online(jrnn.GRU(8), jrnn.losses.mean_squared_error, jrnn.KroneckerRTRL()).method
    KroneckerRTRL(seed=0)
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("seed", self.seed)

    def start(self, moment: Moment) -> Kronecker:
        """The influence before the first step: zero."""
        theta, v, row = moment.types()
        derivative = require_forward(self, moment, moment.derivative(v, row))
        products = _products_of(derivative, len(theta))
        others = _others(moment, products)
        dtype, size = promoted(v.dtype, jnp.float32, *(leaf.dtype for leaf in theta)), v.shape[0]
        vectors = [jnp.zeros(theta[p.number].shape[p.axis], dtype) for p in products]
        matrices = [jnp.zeros((size, theta[p.number].shape[1 - p.axis]), dtype) for p in products]
        exact = [jnp.zeros((size, *theta[n].shape), dtype) for n in others]
        vectors, matrices, exact = jax.tree.map(moment.started, (vectors, matrices, exact))
        return Kronecker(vectors, matrices, exact, moment.keys(self.seed))

    def learn(
        self, moment: Moment, influence: Kronecker, direct: list[Array], adjoint: Array
    ) -> tuple[Kronecker, list[Array]]:
        """The influence after a step, and the gradient."""
        _, v, row = moment.types()
        derivative = require_forward(self, moment, moment.derivative(v, row))
        products = _products_of(derivative, len(moment.theta))
        others = _others(moment, products)
        if not products and not others:
            return influence, direct
        gradient = list(direct)
        rows, delta = moment.rows(influence), moment.rows(adjoint)
        for product, u, a in zip(products, rows.vectors, rows.matrices, strict=True):
            read_out = jnp.einsum("rd,rdn->rn", delta, a)
            pair = jnp.einsum("rm,rn->mn" if product.axis == 0 else "rm,rn->nm", u, read_out)
            gradient[product.number] = gradient[product.number] + pair.astype(direct[product.number].dtype)
        for n, p in zip(others, rows.others, strict=True):
            gradient[n] = gradient[n] + jnp.tensordot(delta, p, 2).astype(direct[n].dtype)

        def after(v: Array, row: Row, influence: Kronecker) -> Kronecker:
            return _moved(moment, influence, others, v, row)

        return moment.moved(after, influence), gradient


def _others(moment: Moment, products: list[_Product]) -> list[int]:
    known = {product.number for product in products}
    return [n for n in moment.reaching() if n not in known]


def _products_of(derivative: Derivative, learned: int) -> list[_Product]:
    """The weight matrices that act through a single product with a vector."""
    program = derivative.program
    ops = dce(program.ops, program.outputs)
    moved = set(program.inputs[-1 - learned :])
    for op in ops:
        if moved.intersection(op.inputs):
            moved.update(op.outputs)
    found = []
    for number, value in enumerate(program.inputs[-1 - learned : -1]):
        readers = [op for op in ops if value in op.inputs]
        if len(readers) == 1 and _contracts_once(readers[0]) and len(program.types[value].shape) == 2:
            product = _product(number, value, readers[0])
            shape = program.types[product.vector].shape if product.vector not in moved else ()
            if len(shape) == 1:
                found.append(product)
    return found


def _contracts_once(op: Op) -> bool:
    if not op.matmul:
        return False
    (contracted, _), (batch, _) = op.params["dimension_numbers"]
    return len(contracted) == 1 and not batch


def _product(number: int, value: int, op: Op) -> _Product:
    side = op.operands.index(value)
    (axis,) = op.params["dimension_numbers"][0][side]
    return _Product(number, op, op.operands[1 - side], axis)


def _moved(moment: Moment, influence: Kronecker, others: list[int], v: Array, row: Row) -> Kronecker:
    """The influence after a step."""
    derivative = require_forward(None, moment, moment.derivative(v, row))
    products = _products_of(derivative, len(moment.theta))
    dtype = jax.tree.leaves(influence[:-1])[0].dtype
    factors = _factors(moment, derivative, (products, others), v, row)
    jacobian, sites, exact, vectors = jax.tree.map(lambda a: a.astype(dtype), factors)
    key, draw = jax.random.split(influence.key)
    signs = _signs(draw, (len(products), 2), jacobian.dtype)
    us, matrices = [], []
    for u, a, site, vector, (s, r) in zip(
        influence.vectors, influence.matrices, sites, vectors, signs, strict=True
    ):
        pushed = jacobian @ a
        old, new = _ratio(pushed, u), _ratio(site, vector)
        us.append(s * old * u + r * new * vector.astype(u.dtype))
        matrices.append(s * pushed / old + r * site / new)
    rest = [jnp.tensordot(jacobian, p, 1) + i for p, i in zip(influence.others, exact, strict=True)]
    return Kronecker(us, matrices, rest, key)


def _factors(
    moment: Moment, derivative: Derivative, which: tuple[list[_Product], list[int]], v: Array, row: Row
) -> tuple[Array, list[Array], list[Array], list[Array]]:
    """J, the derivatives by the products and by other parameters, and the vectors of the products."""
    products, others = which
    program = derivative.program

    def linear(v_dot: Array, sites: list[Array], theta_dot: list[Array]) -> tuple[Array, list[Array]]:
        tangents = [jnp.zeros_like(leaf) for leaf in moment.theta]
        for n, tangent in zip(others, theta_dot, strict=True):
            tangents[n] = tangent
        arrays = [*derivative.closed_over, *jax.tree.leaves((moment.theta, v, row)), *tangents, v_dot]
        env = program.literals | dict(zip(program.inputs, arrays, strict=True))
        given: Mapping[Op, Array] = {p.op: site for p, site in zip(products, sites, strict=True)}
        for op in program.ops:
            found = [given[op]] if op in given else op.fun(*read(env, op.inputs))
            env.update(zip(op.outputs, found, strict=True))
        return env[program.outputs[0]], [env[p.vector] for p in products]

    sites = [zeros_like_type(program.types[p.op.outputs[0]]) for p in products]
    zeros = [jnp.zeros_like(moment.theta[n]) for n in others]
    _, pull, vectors = jax.vjp(linear, jnp.zeros_like(v), sites, zeros, has_aux=True)
    return *jax.vmap(pull)(jnp.eye(len(v), dtype=v.dtype)), vectors
