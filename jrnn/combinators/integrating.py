"""Sums of products that become products: multiplicative integration."""

import functools
import operator
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._checks import brief
from jrnn._fields import AnyCell, checked
from jrnn._jaxprs.programs import Op, Program, trace
from jrnn._timing import timed_inside
from jrnn.cell import P, Shape, broadcasting, carry_spec, float_dtype, in_ndim, map_state
from jrnn.initializers import default_float


class Integration(NamedTuple):
    """Parameters of one sum of `MultiplicativeIntegration`, (features,) each."""

    alpha: Array
    beta_h: Array
    beta_x: Array


class MultiplicativeIntegrationParams(NamedTuple, Generic[P]):
    """Parameters of `MultiplicativeIntegration`."""

    cell: P
    sums: tuple[Integration, ...]  # in the order in which the step reads them


@checked
@dataclass(frozen=True)
class MultiplicativeIntegration:
    """Multiplicative integration: a product in every place where the step adds input and state.

        x w + h u + b   ↦   α · (x w) · (h u) + β₁ · (h u) + β₂ · (x w) + b

    The sums are found in the traced step. x w is any product of weights and values that depend on the input
    alone, h u one of weights and values that depend on the state, such as (r · h) u. Weights are parameters:
    a matrix, a kernel, or a vector, as in `IndRNN`. Products may be sliced and scaled before they meet, as by
    r in r · (h u + b) of a `GRU`. Several products of one kind are added first, and everything else in the
    sum is b. An `LSTM` has one such sum, for all its gates, a `GRU` three. Of a `Stack`, these are the sums
    of the first cell: wrap its cells instead. `init` traces the step for x of features or tokens, so a cell
    whose x is always a tuple is refused: `GRUD`, `NARX`, `TreeLSTM` and `Feedback`, which takes
    `Feedback(MultiplicativeIntegration(cell))`.

    In params, α, β₁ and β₂ are `alpha`, `beta_h` and `beta_x` of each sum. With α = 1, and with β₁ and β₂ the
    biases of x w and h u, it is `integration_mode=:multiplicative_integration` of RecurrentLayers.jl,
    (x w + β₁) · (h u + β₂), whose b is β₁ · β₂.

    Args:
      cell: any cell with such a sum.
      alpha: start of α.
      beta: start of β₁ and β₂.

    Raises:
      ValueError: at `init`, a cell without such a sum, or one that takes neither features nor tokens.

    Reference: Wu, Zhang, Zhang, Bengio, Salakhutdinov, On multiplicative integration with recurrent neural
    networks, 2016, arXiv:1606.06630.

    >>> import jax, jrnn
    >>> cell = jrnn.MultiplicativeIntegration(jrnn.GRU(8))
    >>> [p.alpha.shape for p in cell.init(jax.random.key(0), in_features=3).sums]
    [(8,), (8,), (8,)]
    """

    cell: AnyCell
    _: KW_ONLY
    alpha: float = 1.0
    beta: float = 1.0
    timed = timed_inside

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> MultiplicativeIntegrationParams[Any]:
        params = self.cell.init(key, in_features)
        field = (99,) * getattr(self.cell, "spatial", 0)  # a convolution needs places
        token = jax.ShapeDtypeStruct(field, jnp.int32)
        features = jax.ShapeDtypeStruct((*field, in_features), float_dtype(params))
        widths: dict[int, Shape] = {}  # number of a sum -> (features,)

        def record(number: int, x_w: Array, h_u: Array) -> Array:
            widths[number] = x_w.shape[-1:]
            return x_w + h_u

        start = carry_spec(self.cell, params, field)
        step = functools.partial(_with_sums, self.cell, record)
        try:
            jax.eval_shape(step, params, start, features if self.in_ndim else token)
        except ValueError as error:
            raise ValueError(
                f"MultiplicativeIntegration: cell must take features or tokens, got {brief(self.cell)} "
                f"({error}): wrap a cell inside of it, if there is one"
            ) from error
        if not widths:
            raise ValueError(
                f"MultiplicativeIntegration: the step of {self.cell} adds no product of weights and input to "
                f"one of weights and state, needs a sum like x w + h u"
            )
        return MultiplicativeIntegrationParams(params, tuple(map(self._start, widths.values())))

    def _start(self, width: Shape) -> Integration:
        return Integration(*(jnp.full(width, a, default_float()) for a in (self.alpha, self.beta, self.beta)))

    def initial_carry(
        self,
        params: MultiplicativeIntegrationParams[Any],
        batch_shape: Shape = (),
        *,
        key: Array | None = None,
    ) -> Any:
        return self.cell.initial_carry(params.cell, batch_shape, key=key)

    def step(self, params: MultiplicativeIntegrationParams[Any], carry: Any, x: Any) -> tuple[Any, Any]:
        seen = set()

        def combine(number: int, x_w: Array, h_u: Array) -> Array:
            seen.add(number)
            alpha, beta_h, beta_x = params.sums[number]
            return (alpha * x_w * h_u + beta_h * h_u + beta_x * x_w).astype(x_w.dtype)

        result: tuple[Any, Any] = _with_sums(self.cell, combine, params.cell, carry, x)
        if len(seen) < len(params.sums):
            raise ValueError(
                f"MultiplicativeIntegration: with this x, the step of {self.cell} has {len(seen)} sums like "
                f"x w + h u, and {len(params.sums)} without times in x: a product with a time is none of "
                "weights and state"
            )
        return result


Combine = Callable[[int, Array, Array], Array]  # (number of the sum, x w, h u) -> what replaces x w + h u


class _Sum(NamedTuple):
    """A value as a sum that is not computed yet; None for no such summand."""

    x: Any  # products of weights and input
    h: Any  # products of weights and state
    rest: Any
    weights: frozenset[int]  # the values u of h u


# ops that act on each summand of a sum alone
_PER_SUMMAND = {
    *("broadcast_in_dim", "convert_element_type", "expand_dims", "neg", "reshape", "slice", "split"),
    *("squeeze", "transpose"),
}
_PRODUCTS = "dot_general", "conv_general_dilated", "mul"
WEIGHTS, STATE, INPUT = frozenset("w"), frozenset("h"), frozenset("x")


@broadcasting
def _with_sums(cell: Any, combine: Combine, params: Any, carry: Any, x: Any) -> Any:
    """Run the step of a cell with `combine(x w, h u)` in the place of every such sum."""
    program, constants, result_types = trace(cell.step, params, carry, x)
    state = map_state(lambda _: STATE, carry_spec(cell, params), carry)
    of_carry = [leaf if isinstance(leaf, frozenset) else frozenset() for leaf in jax.tree.leaves(state)]
    origins: list[frozenset[str]] = [frozenset()] * len(constants)
    origins += [WEIGHTS for _ in jax.tree.leaves(params)] + of_carry + [INPUT for _ in jax.tree.leaves(x)]
    given = (*constants, *jax.tree.leaves((params, carry, x)))
    values = program.literals | dict(zip(program.inputs, given, strict=True))
    run = _Run(program, combine, dict(zip(program.inputs, origins, strict=True)), values)
    for op in program.ops:
        run.add(op)
    return jax.tree.unflatten(jax.tree.structure(result_types), [run.value(o) for o in program.outputs])


class _Run:
    """A program being run, whose sums of products stay open until an op reads them.

    z = x @ w + h @ u + b; i, f = split(z)    z is _Sum(x @ w, h @ u, b) until split reads its value
    a = x @ w + b; n = a + r * (h @ u)        so is a, _Sum(x @ w, None, b), and n is it with r * (h @ u)
    """

    def __init__(
        self,
        program: Program,
        combine: Combine,
        origins: dict[int, frozenset[str]],
        values: dict[int, Any],
    ) -> None:
        self.names, self.types = program.names, program.types
        self.combine = combine
        self.origins = origins  # of each value: what it is computed from
        self.values = values
        self.sums: dict[int, _Sum] = {}
        self.numbers: dict[Any, int] = {}  # of the sums with a product of either kind

    def origin(self, *operands: Any) -> frozenset[str]:
        """The kinds of input that some operands depend on; literals depend on nothing."""
        nothing: frozenset[str] = frozenset()
        return nothing.union(*(self.origins.get(i, nothing) for i in operands if isinstance(i, int)))

    def value(self, operand: Any) -> Any:
        """The value of an operand; that of an open sum is computed here, the first time it is read."""
        if not isinstance(operand, int):
            return operand.val
        if operand not in self.values:
            x, h, rest, weights = self.sums[operand]
            whole = _added(x, h)
            if x is not None and h is not None:
                # two readers of one sum, and the stages of a solver, share its parameters
                number = self.numbers.setdefault((id(x), weights), len(self.numbers))
                whole = self.combine(number, x, h)
            self.put(operand, _added(whole, rest))
        return self.values[operand]

    def put(self, number: int, value: Any) -> None:
        """Keep a value, under its name if it has one."""
        name = self.names.get(number)
        self.values[number] = value if name is None else checkpoint_name(value, name)

    def kept(self, operand: Any) -> _Sum | None:
        """The sum of an operand if all its products are of one kind: ops on summands may go on with it."""
        found = self.sums.get(operand) if isinstance(operand, int) else None
        return found if found is not None and (found.x is None or found.h is None) else None

    def add(self, op: Op) -> None:
        """Run one op, or leave its result open."""
        self.origins.update(dict.fromkeys(op.outputs, self.origin(*op.inputs)))
        found = self.open(op)
        if found is not None:
            self.sums.update(zip(op.outputs, found, strict=True))
            return
        for number, value in zip(op.outputs, op.fun(*map(self.value, op.inputs)), strict=True):
            self.put(number, value)

    def open(self, op: Op) -> list[_Sum] | None:
        """The results of an op as sums; None if it has to be run."""
        kept = [self.kept(operand) for operand in op.operands]
        if op.primitive in ("add", "add_any", "sub"):
            return self.added(op)
        if not any(kept):
            return self.product(op) if op.primitive in _PRODUCTS else None
        if op.primitive in _PER_SUMMAND and kept[0] is not None:
            done = _mapped(op.fun, kept[0])
            return [_mapped(operator.itemgetter(i), done) for i in range(len(op.outputs))]
        if op.primitive == "concatenate":
            return _joined(op, kept)
        for part, other, operand in zip(kept, kept[::-1], op.operands[::-1], strict=True):
            if op.primitive == "mul" and part is not None and other is None:
                return [_mapped(functools.partial(operator.mul, self.value(operand)), part)]
        if op.primitive == "div" and kept[0] is not None:
            return [_mapped(lambda a: a / self.value(op.operands[1]), kept[0])]
        return self.product(op) if op.primitive in _PRODUCTS else None

    def added(self, op: Op) -> list[_Sum] | None:
        """The sum of two operands, if either has a product; what is subtracted has products of one kind."""
        a, b = op.operands
        left = self.sums.get(a) if isinstance(a, int) else None
        right = self.kept(b) if op.primitive == "sub" or not isinstance(b, int) else self.sums.get(b)
        if left is None and right is None:
            return None
        left, right = self.whole(a, left, op), self.whole(b, right, op)
        right = _mapped(operator.neg, right) if op.primitive == "sub" else right
        x, h, rest = map(_added, left[:3], right[:3])
        return [_Sum(x, h, rest, left.weights | right.weights)]

    def whole(self, operand: Any, found: _Sum | None, op: Op) -> _Sum:
        """An operand of an op as a sum: a value without products is a rest, of the shape of the result."""
        shape = self.types[op.outputs[0]].shape
        if found is not None:
            return found
        return _Sum(None, None, jnp.broadcast_to(self.value(operand), shape), frozenset())

    def product(self, op: Op) -> list[_Sum] | None:
        """The product of weights alone and of a value that depends on the input or the state."""
        weights = [operand for operand in op.operands if self.origin(operand) == WEIGHTS]
        origin = self.origin(*op.operands)
        if len(weights) != 1 or not origin & (STATE | INPUT):
            return None
        (made,) = op.fun(*map(self.value, op.inputs))
        if origin & STATE:
            return [_Sum(None, made, None, frozenset(weights))]
        return [_Sum(made, None, None, frozenset())]


def _joined(op: Op, parts: list[_Sum | None]) -> list[_Sum] | None:
    """The concatenation of sums with products of one kind, summand by summand; None for other operands."""
    sums = [part for part in parts if part is not None]
    if len(sums) < len(parts) or len({part.x is None for part in sums}) > 1 or len(op.inputs) < len(parts):
        return None

    def joined(*summands: Any) -> Any:
        if all(summand is None for summand in summands):
            return None
        likes = [part.h if part.x is None else part.x for part in sums]
        filled = (jnp.zeros_like(b) if a is None else a for a, b in zip(summands, likes, strict=True))
        return op.fun(*filled)[0]

    x, h, rest = (joined(*column) for column in zip(*(part[:3] for part in sums), strict=True))
    return [_Sum(x, h, rest, frozenset().union(*(part.weights for part in sums)))]


def _mapped(f: Callable[[Any], Any], parts: _Sum) -> _Sum:
    x, h, rest = (None if summand is None else f(summand) for summand in parts[:3])
    return _Sum(x, h, rest, parts.weights)


def _added(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b
