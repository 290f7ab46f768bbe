"""Gradients forward in time: the gradient of each step's loss at that step, in constant memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import brief, require_cell, require_key
from jrnn._jaxprs.programs import is_inexact, trace
from jrnn.cell import Shape, batch_shape_of, is_layer
from jrnn.online._rows import (
    Flags,
    Row,
    filled,
    learned,
    pulled_step,
    start_learns,
    vector_of,
    where_valid,
    whole_step,
    with_learned,
)
from jrnn.online.exact import RTRL
from jrnn.online.moments import Moment, OnlineMethod
from jrnn.unrolling._boundary import promote_carry, starting_carry


class Influence(NamedTuple):
    """The past, as an online method remembers it: a pytree of constant size.

    Fields:
      first: (rows,), True while a row has the initial carry of the cell; None if no parameter enters that.
      memory: of the method.
    """

    first: Array | None
    memory: Any


@dataclass(frozen=True)
class Online:
    """Gradients forward in time, for any cell: one pure step, after which parameters may change.

        (sₜ, yₜ) = step(θ, sₜ₋₁, xₜ),   Lₜ = loss(yₜ, targetₜ),   gₜ = ∂Lₜ/∂θ + ∂Lₜ/∂sₜ₋₁ Pₜ₋₁

    P, the influence ∂s/∂θ, is what `method` keeps instead of the past: all of it, `RTRL()`; a part,
    `SnAp(n)`; a random product with its mean, `UORO()` or `KroneckerRTRL()`; traces within units, `EProp()`
    or `RFLO()`; or the last steps themselves, `Truncated(k)`. Memory does not depend on how long a stream has
    run. `step` runs under `jit`, `vmap` and `lax.scan`.

    A batch has its rows along the first axis, and each row is a stream with an influence of its own. Each
    leaf of the carry has that axis first, its noise too: what `init` returns, or the state of `unroll`.
    Parameters under `fixed`, and those that are not floats, have a gradient of zeros. An influence is that
    under the parameters of each step: if they change slowly, the gradient is nearly exact.

    Args:
      cell: the cell, with its readout, such as a `Stack` that ends in `Dense`.
      loss: `(y, target, mask) -> mean` over rows, as in `jrnn.losses`; y is that of one step, (rows, ...),
        and mask is `valid`.
      method: what is kept of the past.

    Raises:
      TypeError: cell, loss or method is of another kind.

    Reference: Marschall, Cho, Savin, A unified framework of online learning algorithms for training recurrent
    neural networks, 2020, arXiv:1907.02649.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> online = jrnn.Online(jrnn.GRU(4), jrnn.losses.mean_squared_error, jrnn.SnAp(1))
    >>> params, x, target = online.cell.init(jax.random.key(0), 3), jnp.ones((2, 3)), jnp.zeros((2, 4))
    >>> influence, carry = online.init(params, x)
    >>> influence, carry, loss, gradient = jax.jit(online.step)(influence, carry, params, x, target)
    >>> gradient.w_hh.shape, influence.memory[1][0].shape  # of each weight, on one number, in two rows
    ((4, 12), (2, 4, 12))
    """

    cell: Any
    loss: Callable[..., Array]
    method: OnlineMethod = field(default_factory=RTRL)

    def __post_init__(self) -> None:
        if is_layer(self.cell):
            raise TypeError(
                f"Online takes a cell, got the layer {brief(self.cell)}, which sees whole sequences"
            )
        require_cell("Online: cell", self.cell)
        if not callable(self.loss):
            raise TypeError(f"loss must be a function (y, target, mask) -> mean, got {brief(self.loss)}")
        if isinstance(self.method, type) or not hasattr(self.method, "learn"):
            raise TypeError(f"method must be an online method such as SnAp(1), got {brief(self.method)}")

    def init(
        self, params: Any, x: Any, *, carry: Any = None, key: Array | None = None
    ) -> tuple[Influence, Any]:
        """Start a stream.

        Args:
          params: the parameters.
          x: the input of a step, of which only shapes and dtypes count.
          carry: the carry before the first step, which is held constant, but for the noise that a key draws
            anew; None: that of the cell, which is differentiated if it is learned.
          key: for the noise of the cell, drawn for each row; None: no noise.

        Returns:
          `(influence, carry)` before the first step.

        Raises:
          ValueError: params, x or carry do not fit the cell, or its step has no backward derivative, as one
            with a `lax.while_loop`.
        """
        require_key(key)
        shape = batch_shape_of(self.cell, x)
        x = jax.tree.map(_array, x)
        first = None
        if start_learns(self.cell, params, shape[1:]):  # a given carry may be reset to such a one
            first = jnp.full(shape[:1], carry is None)
        carry = self._carry(params, x, carry, key)
        moment = self._moment(params, carry, x, Flags(None, None, first), None)
        try:
            trace(pulled_step(self.cell, moment.shape), *moment.types())
        except ValueError as error:
            raise ValueError(
                f"Online cannot run {brief(self.cell)}: its step has no backward derivative: {error}"
            ) from error
        return Influence(first, self.method.start(moment)), carry

    def step(
        self,
        influence: Influence,
        carry: Any,
        params: Any,
        x: Any,
        target: Any,
        *,
        valid: Array | None = None,
        reset: Array | None = None,
    ) -> tuple[Influence, Any, Array, Any]:
        """Take one step, and return the gradient of its loss.

        Args:
          influence: the influence before the step.
          carry: the carry before the step.
          params: the parameters.
          x: the input, (rows, ...).
          target: handed to the loss.
          valid: (rows,), False for rows in which nothing happens; x may hold anything there.
          reset: (rows,), True for rows in which a new sequence begins: the state starts anew before the step.

        Returns:
          `(influence, carry, loss, gradient)`, the gradient in the structure of params.

        Raises:
          ValueError: a wrong shape.
          TypeError: the loss is not one real number.
        """
        rows = batch_shape_of(self.cell, x)[:1]
        flags = Flags(_checked("valid", valid, rows), _checked("reset", reset, rows), influence.first)
        moment = self._moment(params, carry, filled(flags.valid, x), flags, target)

        def objective(theta: list[Array], v: Array) -> tuple[Array, Any]:
            step = whole_step(self.cell, moment.shape)
            after, y = moment.at(v, moment.row).each(lambda v, row: step(theta, v, row))
            return moment.loss(y), after

        derivative = jax.value_and_grad(objective, (0, 1), has_aux=True)
        (loss, after), slopes = derivative(moment.theta, moment.v)
        happens = None if flags.valid is None else flags.valid.any()
        direct, adjoint = where_valid(happens, slopes, jax.tree.map(jnp.zeros_like, slopes))
        memory, theta = self.method.learn(moment, influence.memory, direct, adjoint)
        first = influence.first
        if first is not None:
            first = jnp.zeros_like(first) if valid is None else first & ~valid
        return Influence(first, memory), after, loss, with_learned(params, theta, jnp.zeros_like)

    def influence_bytes(self, params: Any, x: Any) -> int:
        """Bytes of the influence, predicted; for `RTRL` of a dense cell, p · D numbers per row."""
        influence, _ = jax.eval_shape(self.init, params, x)
        return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(influence))

    def _carry(self, params: Any, x: Any, given: Any, key: Array | None) -> Any:
        """The initial carry, in the dtypes that a step returns, with an axis of rows."""
        shape = batch_shape_of(self.cell, x)
        _check_rows(self.cell, given, x, shape[:1])
        xs = jax.tree.map(lambda a: jnp.zeros((1, *a.shape[len(shape[:1]) :]), a.dtype), x)

        def start(given: Any, key: Array | None) -> Any:
            carry = starting_carry(self.cell, params, given, shape[1:], key)
            return promote_carry(self.cell, params, carry, xs)

        if not shape:
            return start(given, key)
        if key is not None or given is not None:
            keys = None if key is None else jax.random.split(key, shape[0])
            return jax.vmap(start, axis_size=shape[0])(given, keys)
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (*shape[:1], *a.shape)), start(None, None))

    def _moment(self, params: Any, carry: Any, x: Any, flags: Flags, target: Any) -> Moment:
        shape = batch_shape_of(self.cell, x)
        _check_rows(self.cell, carry, x, shape[:1])
        theta = learned(params)
        if any(jnp.iscomplexobj(leaf) for leaf in theta):
            raise ValueError("params hold complex numbers, Online needs real ones: keep both parts")

        def vector(carry: Any) -> Array:
            return vector_of(self.cell, params, shape[1:], carry)

        v = jax.vmap(vector, axis_size=shape[0])(carry) if shape else vector(carry)

        def loss(y: Any) -> Array:
            value = self.loss(y, target, flags.valid)
            if jnp.shape(value) != () or not is_inexact(jnp.asarray(value)):
                raise TypeError(f"loss must return one real number, a mean over rows, got {brief(value)}")
            return value

        return Moment(self.cell, shape[1:], bool(shape), theta, v, Row(params, carry, x, flags), loss)


def _array(x: Any) -> Any:
    return jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x


def _checked(name: str, flags: Any, rows: Shape) -> Array | None:
    if flags is None:
        return None
    flags = jnp.asarray(flags)
    if flags.dtype != jnp.bool_ or flags.shape != rows:
        raise ValueError(
            f"{name} must be boolean, of shape {rows}, one for each row of x, got {flags.dtype}{flags.shape}"
        )
    return flags


def _check_rows(cell: Any, carry: Any, x: Any, rows: Shape) -> None:
    """Raise unless all leaves of the carry and of x have the axis of rows."""
    for name, tree in (("x", x), ("carry", carry)):
        for leaf in jax.tree.leaves(tree):
            if jnp.shape(leaf)[: len(rows)] != rows:
                given = f"a leaf of {jnp.shape(leaf)}"
                raise ValueError(f"{name} of {brief(cell)} has {given}, needs the {rows[0]} rows of x first")
