"""A page per cell, from its docstring, its parameters and its trace."""

import ast
import inspect
import re
import sys
from typing import Any

import jax

import jrnn
from benchmarks.peers_cells import steps
from docs.catalog import cells, example
from docs.diagrams import draw, step_graph

_LISTED = re.search(r"one of\n\n(.*?)\.\n", inspect.getdoc(jrnn.cells) or "", re.S)
FAMILIES = [" ".join(name.split()) for name in _LISTED[1].split(",")] if _LISTED else []


def family_of(kind: type) -> str:
    """The heading under which a cell is listed: how the docstring of its file begins."""
    return (sys.modules[kind.__module__].__doc__ or "").partition(":")[0]


def field_comments(kind: type) -> dict[str, str]:
    """What the trailing comments of a NamedTuple say of its fields."""
    source = inspect.getsource(kind)
    fields = [node.target.id for node in ast.parse(source).body[0].body if isinstance(node, ast.AnnAssign)]
    found = {name: re.search(rf"^    {name}:[^#\n]*# (.*)$", source, re.M) for name in fields}
    return {name: match[1] if match else "" for name, match in found.items()}


def cell_page(name: str) -> str:
    """The page of one cell, in Markdown."""
    kind = cells()[name]
    small = example(name)
    nodes, edges = step_graph(small.cell, small.params, small.carry, small.x)
    parts = [f"# {name}", f"```{{eval-rst}}\n.. autoclass:: jrnn.{name}\n```"]
    if edges:
        parts += [
            "## One step",
            f'```{{raw}} html\n<div class="scrolls">{draw(nodes, edges, name)}</div>\n```',
        ]
        parts += [_caption(small.cell, nodes, edges)]
    parts += ["## Weights", _parameters(name, kind, small)]
    if state := _state(small):
        parts += ["## Carry", state]
    parts += ["## Use", _use(name, small)]
    return "\n\n".join(parts) + "\n"


def _caption(cell: Any, nodes: Any, edges: Any) -> str:
    gates = any(node.kind == "gate" for node in nodes)
    weighted = [] if not any(edges.values()) else ["A solid line leads through a weight matrix."]
    plain = [] if all(edges.values()) else ["A dashed line is elementwise."]
    looked = f"Read off the trace of `{cell!r}`." + (
        " `Tap` hands out every gate by its name." if gates else ""
    )
    return " ".join([*weighted, *plain, looked])


def _rows(tree: Any) -> list[tuple[str, Any]]:
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in paths]


def _comment(tree: Any, path: str) -> str:
    """The trailing comment of the field that a path names."""
    head, _, rest = path.partition(".")
    if not hasattr(tree, "_fields") or head not in tree._fields:
        return ""
    inner = getattr(tree, head)
    return (
        _comment(inner, rest)
        if rest and hasattr(inner, "_fields")
        else field_comments(type(tree)).get(head, "")
    )


def _sized(name: str, kind: type, small: Any) -> tuple[Any, int, Any]:
    """A cell of 128 units over 64 inputs, or over 128; else the small one of the tests."""
    for width in (64, 128):
        try:
            cell = kind(128)
            return cell, width, jax.eval_shape(lambda c=cell, w=width: c.init(jax.random.key(0), w))
        except (ValueError, TypeError):
            continue
    return small.cell, small.in_features, small.params


def _parameters(name: str, kind: type, small: Any) -> str:
    cell, width, params = _sized(name, kind, small)
    rows = _rows(params)
    if not rows:
        return "None: nothing is learned."
    trains = jax.tree.leaves(jrnn.trainable(params))
    lines = ["| parameter | | shape | numbers |", "| --- | --- | --- | ---: |"]
    for (path, leaf), learned in zip(rows, trains, strict=True):
        label = path or "the array"
        said = _comment(params, path).replace("|", "\\|") + ("" if learned else " (fixed)")
        lines.append(f"| `{label}` | {said} | {tuple(leaf.shape)} | {leaf.size:,} |")
    total = sum(leaf.size for (_, leaf), learned in zip(rows, trains, strict=True) if learned)
    lines.append(f"| **learned** | | | **{total:,}** |")
    return f"Of `{cell!r}` over {width} inputs:\n\n" + "\n".join(lines)


def _state(small: Any) -> str:
    rows = _rows(small.carry)
    if not rows:
        return "Empty: the cell has no memory."
    kind = type(small.carry).__name__
    if not hasattr(small.carry, "_fields"):
        if len(rows) > 1 or rows[0][0]:
            return f"A `{kind}`."
        shape = rows[0][1].shape[1:]  # without the batch
        if len(shape) == 1:
            return "One array, `(..., hidden)`."
        return f"One array, for `{small.cell!r}` of shape `(..., {', '.join(map(str, shape))})`."
    said = [f"* `{path}`: {_comment(small.carry, path) or 'state'}" for path, _ in rows]
    return f"`{kind}`:\n\n" + "\n".join(said)


def _use(name: str, small: Any) -> str:
    module = cells()[name].__module__.split(".")[-1]
    others = [
        other for other, kind in cells().items() if kind.__module__.endswith(f".{module}") and other != name
    ]
    links = ", ".join(f"[{other}]({other}.md)" for other in others)
    lines = [
        "`jrnn.unroll(cell, params, xs)` runs it over a sequence; every [combinator](../combinators.md),",
        "every [method](../methods.md) and every option of `unroll` takes it.",
    ]
    if getattr(small.cell, "linear", False):
        lines.append("Its next state is affine in its state: `Associative()` computes all steps at once.")
    if getattr(small.cell, "diagonal", False):
        lines.append("No unit sees another unit's past.")
    if links:
        lines.append(f"\n\nIn the same file: {links}.")
    return "\n".join(lines)


def overview() -> str:
    """The list of cells, with their first sentences and sizes."""
    lines = sorted(steps().values())
    parts = [
        "# Cells",
        f"There are {len(lines)} cells and combinators. Half of their steps have at most "
        f"{lines[len(lines) // 2]} lines, the longest {lines[-1]}.",
        "The first argument of nearly all, `hidden`, is the number of units: the width of the state and of "
        "the output, where the page of a cell says nothing else. "
        "Numbers of learned parameters are for 128 units and 64 inputs (128 where the width must be equal). "
        "A *linear* recurrence is elementwise affine in its state, so that [`Associative`](../methods.md) "
        "solves it for all steps at once; in a *diagonal* one no unit sees another one's past.",
    ]
    groups: dict[str, list[str]] = {title: [] for title in FAMILIES}
    for name, kind in cells().items():
        groups[family_of(kind)].append(_overview_row(name, kind))
    for title, rows in groups.items():
        if rows:
            parts += [
                f"## {title}",
                "\n".join(["| cell | | learned | |", "| --- | --- | ---: | --- |", *rows]),
            ]
    toctree = ["```{toctree}", ":hidden:", "", *cells(), "```"]
    return "\n\n".join([*parts, "\n".join(toctree)]) + "\n"


def _overview_row(name: str, kind: type) -> str:
    cell, _, params = _sized(name, kind, example(name))
    trains = jax.tree.leaves(jrnn.trainable(params))
    total = sum(leaf.size for leaf, learned in zip(jax.tree.leaves(params), trains, strict=True) if learned)
    said = (inspect.getdoc(kind) or "").split("\n", 1)[0].replace("|", "\\|")
    marks = [mark for mark in ("linear", "diagonal") if getattr(cell, mark, False)]
    return f"| [{name}]({name}.md) | {said} | {total:,} | {', '.join(marks)} |"
