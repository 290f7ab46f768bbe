"""Solvers of differential equations, for the time between two inputs."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from jrnn._checks import brief
from jrnn._fields import Positive, Width, checked
from jrnn.cells._gating import widened

Flow = Callable[..., Array]  # dh/dt of h, and of further arguments


def _euler(f: Flow, h: Array, dt: Any, *args: Array) -> Array:
    return h + dt * f(h, *args)


def _midpoint(f: Flow, h: Array, dt: Any, *args: Array) -> Array:
    return h + dt * f(h + dt / 2 * f(h, *args), *args)


def _runge_kutta(f: Flow, h: Array, dt: Any, *args: Array) -> Array:
    k_1 = f(h, *args)
    k_2 = f(h + dt / 2 * k_1, *args)
    k_3 = f(h + dt / 2 * k_2, *args)
    k_4 = f(h + dt * k_3, *args)
    return h + dt / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)


SOLVERS = {"euler": _euler, "midpoint": _midpoint, "rk4": _runge_kutta}


@checked
@dataclass(frozen=True)
class Diffrax:
    """Solver of the package diffrax, with steps that adapt to the equation.

        |error of a step| ≤ atol + rtol · |h|

    Every sequence of a batch has steps of its own. Derivatives, in both modes and to any order, are those of
    the steps taken, whose sizes count as constants (`diffrax.DirectAdjoint`). The first step of an input is
    dt / unfolds of the cell; with `rtol=None` all are.

    Args:
      solver: name of a solver in diffrax: "Tsit5", "Dopri5", "Heun", "Kvaerno3" for stiff equations, …
      rtol: relative tolerance.
      atol: absolute tolerance.
      max_steps: largest number of steps for one input; a state that needs more becomes NaN.

    Raises:
      ModuleNotFoundError: at a step, diffrax is not installed: pip install 'jrnn[diffrax]'.
      ValueError: at a step, diffrax has no solver of that name.

    Reference: Kidger, On neural differential equations, 2021, arXiv:2202.02435.

    >>> import jrnn
    >>> jrnn.ODERNN(8, solver=jrnn.Diffrax("Dopri5", rtol=1e-4))
    ODERNN(hidden=8, solver=Diffrax(solver='Dopri5', rtol=0.0001))
    """

    solver: str = "Tsit5"
    _: KW_ONLY
    rtol: Positive | None = 1e-3
    atol: Positive = 1e-6
    max_steps: Width = 64

    def solve(self, f: Flow, h: Array, dt: Any, unfolds: int, *args: Array) -> Array:
        """The state after dt.

        Args:
          f: the equation, dh/dt = f(h, *args).
          h: state at the start, (..., hidden).
          dt: duration, (..., 1) or a number.
          unfolds: number of steps; of adaptive ones, the first takes this share of dt.
          *args: further arguments of f, with the batch axes of h.

        Returns:
          The state, (..., hidden), in the dtype of h.

        Raises:
          ModuleNotFoundError: diffrax is not installed.
          ValueError: diffrax has no such solver.
        """
        try:
            import diffrax
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{self} needs diffrax: pip install 'jrnn[diffrax]'") from error
        kind = getattr(diffrax, self.solver, None)
        if not (isinstance(kind, type) and issubclass(kind, diffrax.AbstractSolver)):
            raise ValueError(f"Diffrax: solver must be one of diffrax, such as 'Tsit5', got {self.solver!r}")
        constant = diffrax.ConstantStepSize()
        steps = constant if self.rtol is None else diffrax.PIDController(rtol=self.rtol, atol=self.atol)

        def solved(h: Array, dt: Array, *args: Array) -> Array:
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, h, args: dt * f(h, *args)),
                kind(),
                *(0.0, 1.0, 1 / unfolds, h, args),
                stepsize_controller=steps,
                adjoint=diffrax.DirectAdjoint(),
                max_steps=max(self.max_steps, unfolds) if self.rtol is None else self.max_steps,
                throw=False,
            )
            return jnp.where(solution.result == diffrax.RESULTS.successful, solution.ys[0], jnp.nan)

        wide = widened(h)
        dt = jnp.broadcast_to(jnp.asarray(dt, wide.dtype), (*h.shape[:-1], 1))
        axes = ",".join(f"({name})" for name in ("h", "t", *(f"a{i}" for i in range(len(args)))))
        rows = jnp.vectorize(solved, signature=f"{axes}->(h)")
        after: Array = rows(wide, dt, *args)
        return after.astype(h.dtype)


def _check_solver(argument: str, given: Any) -> Any:
    """Return a name of `SOLVERS`, or a `Diffrax`; or raise."""
    if isinstance(given, Diffrax) or (isinstance(given, str) and given in SOLVERS):
        return given
    names = ", ".join(map(repr, SOLVERS))
    raise ValueError(f"{argument} must be one of {names}, or a Diffrax(), got {brief(given)}")


Solver = Annotated[str | Diffrax, _check_solver]


def flowed(cell: Any, f: Flow, h: Array, dt: Any, *args: Array) -> Array:
    """The state after dt, by the cell's solver, in `unfolds` steps if these are fixed."""
    if isinstance(cell.solver, Diffrax):
        return cell.solver.solve(f, h, dt, cell.unfolds, *args)
    for _ in range(cell.unfolds):
        h = SOLVERS[cell.solver](f, h, dt / cell.unfolds, *args)
    return h
