"""`check_cell`: the laws that every cell keeps, for ours and for a user's own."""

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
    """Certify that a cell keeps the laws that everything else in jrnn relies on.

    Sizes are tiny, and a law is one program: all of them take a few seconds, most of it compilation.
    Parameters are drawn by `cell.init` and moved at random, so that a bias that starts at zero still counts.

    Args:
      cell: the cell; a user's own as well.
      in_features: width of x (or number of tokens) to test it at.
      inputs: `(rng, leading_shape) -> xs` for a cell whose x is no single array; `rng` is a
        `numpy.random.Generator`.
      laws: names of the laws to check, all of them if left out; `jrnn.testing.LAWS` lists them.
      exempt: names of laws to leave out, or of parameters that need no gradient.
      verbose: print the law at work, and how long it took.

    Raises:
      LawError: a law is broken; the message starts with its name.
      ValueError: no such law.

    >>> import jrnn
    >>> jrnn.testing.check_cell(jrnn.GRU(4), in_features=2, laws=("scan = loop", "value"))
    """
    require_cell("check_cell: cell", cell)
    if unknown := set(laws or ()) - set(LAWS):
        raise ValueError(f"laws has {sorted(unknown)}, which are none of {list(LAWS)}")
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
