"""Newton's method: all steps of a nonlinear recurrence at once, with a certificate."""

import contextvars
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._caching import cached
from jrnn._checks import brief, check_choice, check_width
from jrnn._jaxprs.programs import Program, is_inexact, read
from jrnn.cell import batch_shape_of
from jrnn.unrolling._advising import Advice, advise
from jrnn.unrolling._blocks import in_blocks, memory_estimate
from jrnn.unrolling._engine import broadcast_over_steps, prepare, trace_loop
from jrnn.unrolling._fallbacks import can_be_mapped
from jrnn.unrolling._groups import cycles
from jrnn.unrolling._recurrences import Solved, solved
from jrnn.unrolling._staging import Stage
from jrnn.unrolling._systems import Settings, states_of, system_of
from jrnn.unrolling.associative import PartArrays, solve_parts
from jrnn.unrolling.methods import Loop, LoopConsts, Method, Run
from jrnn.unrolling.scan import Scan

PROBE = 128  # steps from which the iterations are predicted
# Trajectories that the compiler keeps at a time, for n numbers that depend on each other; measured.
ELEMENTWISE, DIAGONAL, FULL = 3, 18, (8, 6)  # FULL: 8 + 6 n


class Convergence(NamedTuple):
    """Record of a run by `Newton`: an array for each recurrence in a step, in order of their dependence.

    Fields:
      iterations: (time, rows...), iterations for the window of a step.
      recomputed: (time, rows...), True for a step that was taken by itself, as the iterations ran out.
    """

    iterations: tuple[Array, ...]
    recomputed: tuple[Array, ...]


class _Exchange(NamedTuple):
    """Values that the recurrences of a loop read and report while it is traced."""

    guesses: dict[int, Array]  # entry of the carry -> its states after all steps
    found: list[tuple[Array, Array]]


_EXCHANGE: contextvars.ContextVar[_Exchange] = contextvars.ContextVar("_EXCHANGE")


@dataclass(frozen=True, eq=False)
class Guess:
    """States to start from, (time, batch..., ...) in the structure of a carry; equal to itself alone."""

    states: Any


@dataclass(frozen=True)
class Newton:
    """All steps of a nonlinear recurrence at once, by Newton's method, with a certificate.

        rₜ = f(sₜ₋₁, xₜ) − sₜ,   Jₜ = ∂f(sₜ₋₁, xₜ)/∂sₜ₋₁
        s ← s + δ,   δₜ = Jₜ δₜ₋₁ + rₜ,   until ‖rₜ‖ ≤ tolerance · ‖f(sₜ₋₁, xₜ)‖ at every step

    A few iterations suffice for a cell that forgets, with a largest Lyapunov exponent λ₁ well below 0,
    whatever the number of steps. Each is one step for all times at once, its Jacobian by n forward
    derivatives, and a linear recurrence, which a tree solves in log T passes. For a chaotic cell, λ₁ > 0, the
    iterations grow in number with the steps: see `jrnn.analysis.parallelism`. On a CPU `Scan` is faster, or
    level for a state of one number.

    **Certificate.** Where the residual is not within the tolerance after `iterations`, the rest of the row is
    computed one by one from the last state that is. So a diverging iteration costs time, never correctness;
    a state that is NaN or inf step by step is so here. There is at least one iteration, and what is returned
    is one more step from the certified states. States of less than 32 bits are run by `Scan`: a step can be
    smaller than their rounding.

    **Jacobian.** n is the size of the largest group of numbers of a row that depend on each other, found in
    the derivative of the step: H for a GRU, 2 H for an LSTM, H / heads for block-diagonal weights, 1 for an
    elementwise recurrence. Layers are solved one after the other. Memory is T · n per number of the state.
    With `jacobian="diagonal"` an iteration takes the diagonal alone: more iterations, without the factor n.

    **Derivatives** of every order and mode are those of the solution, δsₜ = Jₜ δsₜ₋₁ + ∂f/∂(θ, xₜ), with the
    full Jacobian; they do not depend on how the states were found. With a diagonal the linear recurrence and
    its transpose are solved by the same iteration, with the same certificate.

    Args:
      jacobian: "full", or "diagonal" for a quasi-Newton iteration.
      tolerance: of the residual, relative to the largest number of an entry in its row; None: 16 roundings.
      iterations: the most before the rest is computed one by one.
      damping: μ ≥ 0, which keeps a step of the iteration short (ELK): δ minimizes Σ‖δₜ − Jₜ δₜ₋₁ − rₜ‖² +
        μ Σ‖δₜ‖² over the steps up to t. Convergence is then linear.
      window: solve this many steps at a time, one window after the other; the backward pass repeats each
        window, so memory is that of one. None: all steps.
      guess: states after all steps to start from: "carry", the carry at all of them; "step", one step from
        the carry, f(s₀, xₜ); or an array or tree of yours in the structure of the carry, (time, batch...,
        ...), such as those of a run with other parameters. Each of the last is a method of its own, so call
        `unroll` inside of jit.
      tree: as for `Associative`.
      otherwise: the method for a step that has effects, no forward derivative, or a transpose of its own, as
        `ClipGradient`; None: that is an error. It also runs a loop of which the first 128 steps predict more
        iterations than `iterations`.

    Raises:
      ValueError: an invalid argument; in `unroll`, such a step where `otherwise` is None, or a guess of
        another structure or shape.

    Reference: Lim, Zhu, Selfridge, Kasim, Parallelizing non-linear sequential models over the sequence
    length, 2023, arXiv:2309.12252; Gonzalez, Warrington, Smith, Linderman, Towards scalable and stable
    parallelization of nonlinear RNNs, 2024, arXiv:2407.19115 (quasi-Newton and damping). Its code takes the
    diagonal in the adjoint of a quasi-Newton iteration too, so that the gradient is not exact; here it is.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.GRU(4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> xs = jax.random.normal(jax.random.key(1), (1000, 3))
    >>> ys = [jrnn.unroll(cell, params, xs, method=m)[1] for m in (jrnn.Scan(), jrnn.Newton())]
    >>> bool(jnp.allclose(*ys, atol=1e-5))
    True
    """

    jacobian: str = "full"
    tolerance: float | None = None
    iterations: int = 32
    damping: float = 0.0
    window: int | None = None
    guess: Any = "carry"
    tree: bool | None = None
    otherwise: Method | None = None

    def __post_init__(self) -> None:
        if isinstance(self.guess, str):
            check_choice("guess", self.guess, ("carry", "step"))
        elif not isinstance(self.guess, Guess):
            object.__setattr__(self, "guess", Guess(self.guess))
        check_choice("jacobian", self.jacobian, ("full", "diagonal"))
        check_width("iterations", self.iterations)
        if self.window is not None:
            check_width("window", self.window)
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must be between 0 and 1, or None, got {self.tolerance!r}")
        if not self.damping >= 0:
            raise ValueError(f"damping must be at least 0, got {self.damping!r}")

    def run(self, loop: Loop[Any, Any, Any]) -> tuple[Any, Any]:
        """Return the carry after the last step, and the outputs of all steps."""
        if self.otherwise is None or _obstacle(loop) is not None:
            return self.solve(loop)[:2]
        few = self.advise(loop).iterations <= self.iterations
        found: tuple[Any, Any] = lax.cond(few, replace(self, otherwise=None).run, self.otherwise.run, loop)
        return found

    def solve(self, loop: Loop[Any, Any, Any]) -> tuple[Any, Any, Convergence]:
        """Run a loop, and say how: return the carry, the outputs and their `Convergence`."""
        why = _obstacle(loop)
        if why is not None:
            return *self._instead(loop, why), Convergence((), ())
        given = loop.inputs, _checked(self.guess, loop)
        run = _window(self._settings(loop), loop.cell, loop.reverse)
        if blocks := self._blocks(loop):
            run = in_blocks(run, blocks[0], loop.reverse)
        carry, (ys, found) = run(loop.consts, loop.carry, given)
        return carry, ys, found

    def advise(self, loop: Loop[Any, Any, Any], probe: int = PROBE) -> Advice:
        """Predict the iterations for a loop from its first `probe` steps."""
        method = replace(self, guess="carry", window=None, otherwise=None, iterations=probe)

        def most(head: Loop[Any, Any, Any]) -> Array:
            counts = [used.max() for used in method.solve(head)[2].iterations]
            return functools.reduce(jnp.maximum, counts, jnp.int32(0))

        return advise(loop, most, probe)

    def gradient_bytes(self, loop: Loop[Any, Any, Any]) -> int:
        """Predict the bytes needed for the gradient of `run` with respect to the constants."""
        if _obstacle(loop) is not None:
            return memory_estimate(loop).bytes((), loop.length)
        blocks = self._blocks(loop)
        estimate = memory_estimate(loop, precompute_all=True)
        steps = blocks[0] if blocks else loop.length
        return estimate.bytes(blocks, loop.length) + steps * self._solver_bytes(loop)

    def _solver_bytes(self, loop: Loop[Any, Any, Any]) -> int:
        """Bytes per step of what is solved: Jacobians, and vectors beside them."""
        traced, found = trace_loop(loop, precompute_all=True), 0
        for stage in traced.staged.stages if traced.staged else ():
            for part in cycles(stage, traced.program) if stage.carry_pairs else ():
                if all(is_inexact(traced.program.types[entry]) for entry in part.carry_in):
                    system = system_of(part, traced.program, self._settings(loop).batch_axes)
                    size = system.groups.size
                    kept = DIAGONAL if self.jacobian == "diagonal" else FULL[0] + FULL[1] * size
                    found = max(found, system.bytes * (ELEMENTWISE if size == 1 else kept))
        return found

    def _blocks(self, loop: Loop[Any, Any, Any]) -> tuple[int, ...]:
        return () if self.window is None or self.window >= loop.length else (self.window,)

    def _settings(self, loop: Loop[Any, Any, Any]) -> Settings:
        diagonal, resets = self.jacobian == "diagonal", loop.reset is not None
        batch_axes = len(batch_shape_of(loop.cell, loop.xs)) - 1
        iterating = self.tolerance, self.iterations, self.damping, self.guess == "step"
        return Settings(diagonal, *iterating, self.tree, resets, batch_axes)

    def _instead(self, loop: Loop[Any, Any, Any], why: str) -> tuple[Any, Any]:
        if self.otherwise is None and why:
            raise ValueError(
                f"method=Newton() cannot run {brief(loop.cell)}: {why}; "
                "Newton(otherwise=Scan()) runs it by Scan"
            )
        return (self.otherwise or Scan()).run(loop)


def _obstacle(loop: Loop[Any, Any, Any]) -> str | None:
    """The obstacle to solving a loop at once; "" for one that is no fault of its step; None: nothing."""
    leaves = jax.tree.leaves((loop.inputs, loop.carry))
    if loop.length == 0 or not all(isinstance(n, int) for leaf in leaves for n in leaf.shape):
        return ""  # no steps, or symbolic axes of jax.export
    if any(n == 0 for leaf in leaves for n in leaf.shape) or any(
        map(_is_narrow, jax.tree.leaves(loop.carry))
    ):
        return ""  # no rows, or states of so few bits that a step may be within rounding of none
    program, _, staged, *_ = trace_loop(loop, precompute_all=True)
    if staged is None:
        return "its step has effects (prints, callbacks)"
    for stage in staged.stages:
        if stage.carry_pairs and any(op.reverse_only for op in stage.ops):
            return "its step has no forward derivative (a custom_vjp)"
        if stage.carry_pairs and any(op.primitive == "custom_linear_solve" for op in stage.ops):
            return "its step has a transpose of its own (a custom_linear_solve, as of ClipGradient)"
        if stage.carry_pairs and not can_be_mapped(stage.ops, stage.consts, program):
            return "its step cannot be mapped over time"
    return None


def _checked(guess: Any, loop: Loop[Any, Any, Any]) -> Any:
    """The caller's states, in the dtypes of the carry; None where there are none."""
    if not isinstance(guess, Guess):
        return None
    given: Any = jax.tree.structure(guess.states)
    needed: Any = jax.tree.structure(loop.carry)
    if given != needed:
        raise ValueError(f"guess has the structure {given}, needs that of the carry, {needed}")
    for a, leaf in zip(jax.tree.leaves(guess.states), jax.tree.leaves(loop.carry), strict=True):
        if jnp.shape(a) != (loop.length, *leaf.shape):
            raise ValueError(f"guess has the shape {jnp.shape(a)}, needs {(loop.length, *leaf.shape)}")
    return jax.tree.map(lambda a, leaf: jnp.asarray(a, leaf.dtype), guess.states, loop.carry)


def _is_narrow(leaf: Any) -> bool:
    return bool(is_inexact(leaf) and jnp.dtype(leaf.dtype).itemsize < 4)


@cached
def _window(settings: Settings, cell: Any, reverse: bool) -> Run:
    """All steps of a window: `(consts, carry, (inputs, guess)) -> (carry, (ys, Convergence))`."""

    def run(consts: LoopConsts, carry: Any, given: Any) -> tuple[Any, Any]:
        (xs, valid, reset), guess = given
        length = len(jax.tree.leaves(xs)[0])
        loop = Loop(cell, consts.params, consts.reset_state, carry, xs, valid, reset, length, reverse)
        signature = trace_loop(loop, precompute_all=True).signature
        guesses = {} if guess is None else dict(zip(signature.carry_in, jax.tree.leaves(guess), strict=True))
        prepared = prepare(loop, _solver(settings), precompute_all=True)
        current = _Exchange(guesses, [])
        token = _EXCHANGE.set(current)
        try:
            after, ys = prepared.finish(*prepared.run_stages(prepared.consts, prepared.carry, prepared.xs))
        finally:
            _EXCHANGE.reset(token)
        iterations = tuple(broadcast_over_steps(used, length) for used, _ in current.found)
        return after, (ys, Convergence(iterations, tuple(recomputed for _, recomputed in current.found)))

    return run


@cached
def _solver(settings: Settings) -> Callable[..., Any]:
    return functools.partial(solve_parts, functools.partial(_solve_part, settings), None)


def _solve_part(
    settings: Settings, part: Stage, program: Program, arrays: PartArrays, length: int, reverse: bool
) -> list[Solved]:
    """The states of a recurrence."""
    consts, start, xs = arrays
    system, current = system_of(part, program, settings.batch_axes), _EXCHANGE.get()
    first = system.vectors(start)
    guess = broadcast_over_steps(first, length)
    if all(entry in current.guesses for entry in part.carry_in):
        guess = jax.vmap(system.vectors)(read(current.guesses, part.carry_in))
    elif settings.guess_a_step:
        guess = system.steps(consts, guess, xs)
    guess = jnp.where(jnp.isfinite(guess), guess, first[None])
    found = states_of(system, settings, reverse)(consts, first, xs, lax.stop_gradient(guess))
    current.found.append((found.iterations, found.recomputed))
    after = jax.vmap(system.leaves)(found.states)
    return [solved(leaf, initial, reverse) for leaf, initial in zip(after, start, strict=True)]
