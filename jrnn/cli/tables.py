"""`jrnn cells`: what there is to choose from."""

import argparse
import inspect
from typing import Any

import jax

import jrnn


def recurrent_cells() -> dict[str, Any]:
    """Every recurrent cell that jrnn exports, by name: the dataclasses with a `hidden` width and a step."""
    kinds = {name: kind for name, kind in sorted(vars(jrnn).items()) if hasattr(kind, "step")}
    return {name: k for name, k in kinds.items() if "hidden" in getattr(k, "__dataclass_fields__", ())}


def cell_table(hidden: int = 128, in_features: int = 128, *, markdown: bool = False) -> str:
    """A table of all recurrent cells: name, number of parameters, what it is, paper.

    Args:
      hidden: width of the cells.
      in_features: width of their inputs.
      markdown: whether to write a Markdown table rather than one for a terminal.

    Returns:
      The table, without a line feed at its end.

    >>> print(cell_table(128, 128, markdown=True).splitlines()[2])
    | `Elman` | Simple recurrent network: ... | 32,896 | Elman, Finding structure in time, 1990, ... |
    """
    rows = []
    for name, kind in recurrent_cells().items():
        doc = inspect.getdoc(kind) or ""
        line = doc.split("\n", 1)[0].rstrip(".")
        reference = " ".join(doc.partition("Reference:")[2].split("\n\n")[0].split())
        paper = reference.split(";")[0].rstrip(".")
        rows.append((name, line, f"{count_parameters(kind(hidden), in_features):,}", paper))
    if markdown:
        head = ["| cell | what it is | parameters | paper |", "| --- | --- | ---: | --- |"]
        escaped = ([text.replace("|", "\\|") for text in row] for row in rows)
        return "\n".join([*head, *(f"| `{n}` | {line} | {c} | {p} |" for n, line, c, p in escaped)])
    wide, count = (max(map(len, column)) for column in ([row[0] for row in rows], ["parameters"]))
    shown = [f"{'cell':{wide}}  parameters  hidden={hidden}, in_features={in_features}"]
    for name, line, number, paper in rows:
        shown += [f"{name:{wide}}  {number:>{count}}  {line}", f"{'':{wide}}  {'':{count}}  {paper}".rstrip()]
    return "\n".join(shown)


def cells(arguments: argparse.Namespace) -> int:
    """Run `jrnn cells`."""
    print(cell_table(arguments.hidden, arguments.in_features))
    return 0


def count_parameters(cell: Any, in_features: int) -> int:
    """Count the parameters of a cell or layer at a width, without drawing any."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), in_features))
    return sum(leaf.size for leaf in jax.tree.leaves(params))
