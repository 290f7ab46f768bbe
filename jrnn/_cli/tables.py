"""`jrnn cells`: a table of all recurrent cells."""

import argparse
import inspect
from typing import Any

import jax

import jrnn
from jrnn.cell import is_linear


def recurrent_cells() -> dict[str, Any]:
    """Every recurrent cell that jrnn exports, by name: the dataclasses with a `hidden` width and a step."""
    kinds = {name: getattr(jrnn, name) for name in dir(jrnn)}
    named = {name: k for name, k in kinds.items() if "hidden" in getattr(k, "__dataclass_fields__", ())}
    return {name: kind for name, kind in named.items() if hasattr(kind, "step")}


def has_heads(cell: Any) -> bool:
    """True for a cell, or its class, that takes a number of heads."""
    return "heads" in getattr(cell, "__dataclass_fields__", ())


def cell_table(hidden: int = 128, in_features: int = 128) -> str:
    """Make a table of all recurrent cells: name, number of parameters, description, paper.

    Args:
      hidden: width of the cells.
      in_features: width of their inputs.

    Returns:
      The table, without a trailing newline.

    >>> [row.split()[:2] for row in cell_table(128, 128).splitlines() if row.startswith("ConvLSTM")]
    [['ConvLSTM', '1,180,160']]
    """
    rows = []
    for name, kind in recurrent_cells().items():
        doc = inspect.getdoc(kind) or ""
        line = doc.split("\n", 1)[0].rstrip(".")
        reference = " ".join(doc.partition("Reference:")[2].split("\n\n")[0].split())
        paper = reference.split(";")[0].rstrip(".")
        try:
            cell = kind(hidden)
            count = f"{count_parameters(cell, in_features):,}"
        except ValueError:  # not at these widths: modules of equal size, an input as wide as the state
            cell, count = kind, "-"
        rows.append((name, line, count, recurrence(cell), paper))
    wide = max(len(row[0]) for row in rows)
    shown = [f"{'cell':{wide}}  parameters  recurrence  hidden={hidden}, in_features={in_features}"]
    for name, line, number, kind, paper in rows:
        shown += [f"{name:{wide}}  {number:>10}  {kind:10}  {line}", f"{'':{wide + 26}}{paper}".rstrip()]
    return "\n".join(shown)


def recurrence(cell: Any) -> str:
    """The kind of recurrence: "linear" (elementwise affine), "diagonal" (unit by unit), or ""."""
    return "linear" if is_linear(cell) else "diagonal" if getattr(cell, "diagonal", False) else ""


def cells(arguments: argparse.Namespace) -> int:
    """Run `jrnn cells`."""
    print(cell_table(arguments.hidden, arguments.in_features))
    return 0


def count_parameters(cell: Any, in_features: int) -> int:
    """Count the trainable parameters of a cell or layer, without initializing them."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), in_features))
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(jrnn.trainable(params)), strict=True)
    return sum(leaf.size for leaf, trains in pairs if trains)
