"""`check_cell`: check the laws of cells, for jrnn's cells and your own."""

import time
from typing import Any

from jrnn._checks import require_cell
from jrnn.testing.laws import LAWS
from jrnn.testing.subject import Inputs, LawError, Subject, default_inputs


def check_cell(
    cell: Any,
    in_features: int,
    *,
    inputs: Inputs | None = None,
    laws: tuple[str, ...] | None = None,
    exempt: tuple[str, ...] = (),
    verbose: bool = False,
) -> None:
    """Check that a cell obeys the laws on which everything else in jrnn relies.

    Sizes are tiny, and each law is one program: all of them take a few seconds, mostly for compilation.
    Parameters from `cell.init` are perturbed at random, so that a bias initialized to zero matters.

    Args:
      cell: the cell, of any class.
      in_features: width of x (or number of tokens) for the checks.
      inputs: `(rng, leading_shape) -> xs` for a cell whose x is not a single array; `rng` is a
        `numpy.random.Generator`.
      laws: names of the laws to check; defaults to all, as listed in `jrnn.testing.LAWS`.
      exempt: names of laws to skip, or of parameters that need no gradient.
      verbose: print each law, and how long its check took.

    Raises:
      LawError: a law is broken; the message starts with its name.
      ValueError: an unknown law.

    >>> import jrnn
    >>> jrnn.testing.check_cell(jrnn.GRU(4), in_features=2, laws=("scan = loop", "value"))
    """
    require_cell("check_cell: cell", cell)
    if unknown := set(laws or ()) - set(LAWS):
        raise ValueError(f"laws must be among {list(LAWS)}, got {sorted(unknown)}")
    subject = Subject(cell, in_features, inputs or default_inputs(cell, in_features), exempt)
    for name in laws or LAWS:
        if name in exempt:
            continue
        started = time.perf_counter()
        if verbose:
            print(f"{name:<26}", end="", flush=True)
        try:
            LAWS[name](subject)
        except LawError as error:
            raise LawError(f"{name}: {error} ({cell})") from error
        except Exception as error:
            raise LawError(f"{name}: {type(error).__name__}: {str(error)[:500]} ({cell})") from error
        if verbose:
            print(f"{time.perf_counter() - started:5.2f} s")
