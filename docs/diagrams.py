"""The step of a cell as a diagram: the gates that it names, and how they depend on each other."""

from collections import defaultdict
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

_PRODUCTS = {"dot_general", "conv_general_dilated"}
_FUNCTIONS = {
    "logistic": "σ",
    "sigmoid": "σ",
    "tanh": "tanh",
    "relu": "relu",
    "exp": "exp",
    "softplus": "softplus",
}
_SHAPES = {"slice", "split", "squeeze", "reshape", "broadcast_in_dim", "convert_element_type", "name", "copy"}


class Node(NamedTuple):
    """A value of a step that has a name."""

    label: str
    kind: str  # "input", "gate" or "state"
    function: str  # the last function applied, "" if there is none


Edges = dict[tuple[int, int], bool]  # (from, to) -> whether on the way a weight matrix is applied


def step_graph(cell: Any, params: Any, carry: Any, x: Any) -> tuple[list[Node], Edges]:
    """Read the named values of a step, and what each is computed from, off its trace.

    Args:
      cell: the cell.
      params: its parameters, or their shapes and dtypes, as all that follows.
      carry: its carry.
      x: the input of one step.
    """
    closed, shapes = jax.make_jaxpr(cell.step, return_shape=True)(params, carry, x)
    jaxpr = closed.jaxpr
    nodes: list[Node] = []
    edges: Edges = {}
    reach: dict[Any, dict[int, bool]] = defaultdict(dict)  # variable -> the nodes it is computed from

    def add(node: Node, sources: dict[int, bool]) -> dict[int, bool]:
        nodes.append(node)
        edges.update({(source, len(nodes) - 1): weighted for source, weighted in sources.items()})
        return {len(nodes) - 1: False}

    count = len(jax.tree.leaves(params))
    names = [*_leaf_names(carry, "h", "ₜ₋₁"), *_leaf_names(x, "x", "ₜ")]
    for variable, name in zip(jaxpr.invars[count:], names, strict=True):
        reach[variable] = add(Node(name, "input", ""), {})
    results = defaultdict(list)
    ends = [*_leaf_names(shapes[0], "h", "ₜ"), *_leaf_names(shapes[1], "y", "ₜ")]
    for variable, name in zip(jaxpr.outvars, ends, strict=True):
        if not isinstance(variable, Literal) and variable not in jaxpr.invars:
            results[variable].append(name)
    made = {out: eqn for eqn in jaxpr.eqns for out in eqn.outvars}
    for eqn in jaxpr.eqns:
        sources: dict[int, bool] = {}
        weighted = _multiplies(eqn)
        for variable in eqn.invars:
            for source, already in (
                reach.get(variable, {}) if not isinstance(variable, Literal) else {}
            ).items():
                sources[source] = sources.get(source, False) or already or weighted
        for out in eqn.outvars:
            reach[out] = dict(sources)
        if eqn.primitive.name == "name" and eqn.outvars[0] not in results:
            reach[eqn.outvars[0]] = add(Node(eqn.params["name"], "gate", _function(eqn, made)), sources)
        for out in eqn.outvars:
            if out in results:
                label = " = ".join(results[out])
                reach[out] = add(Node(label, "state", _function(eqn, made)), reach[out])
    return _simplified(nodes, edges)


def _simplified(nodes: list[Node], edges: Edges) -> tuple[list[Node], Edges]:
    """Merge a gate that is handed out as it is with the result, and number equal names."""
    used = {node for edge in edges for node in edge}
    keep = [i for i, node in enumerate(nodes) if i in used]
    place = {old: new for new, old in enumerate(keep)}
    seen: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for i in keep:
        total[nodes[i].label] += 1
    found = []
    for i in keep:
        label = nodes[i].label
        seen[label] += 1
        again = f" ({seen[label]})" if total[label] > 1 else ""
        found.append(nodes[i]._replace(label=label + again))
    return found, {(place[a], place[b]): weighted for (a, b), weighted in edges.items()}


def _leaf_names(tree: Any, alone: str, time: str) -> list[str]:
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = ["".join(f"{getattr(k, 'name', getattr(k, 'idx', ''))}" for k in path[-1:]) for path, _ in paths]
    return [f"{f'{alone}[{n}]' if n.isdigit() else n or alone}{time}" for n in names]


def _multiplies(eqn: Any) -> bool:
    if eqn.primitive.name in _PRODUCTS:
        return True
    inner = [getattr(value, "jaxpr", None) for value in eqn.params.values()]
    return any(_multiplies(e) for jaxpr in inner for e in getattr(jaxpr, "eqns", ()))


def _function(eqn: Any, made: dict[Any, Any]) -> str:
    """The function that a value is the result of; ½ + ½ tanh is σ."""
    halved = False
    while True:
        halves = any(isinstance(v, Literal) and v.val == 0.5 for v in eqn.invars)
        if not halves and eqn.primitive.name not in _SHAPES:
            break
        halved = halved or halves
        source = next((v for v in eqn.invars if not isinstance(v, Literal)), None)
        if source not in made:
            return ""
        eqn = made[source]
    names = [eqn.params.get("name", eqn.primitive.name), eqn.primitive.name]
    inner = getattr(eqn.params.get("call_jaxpr"), "jaxpr", None)
    names += [e.primitive.name for e in getattr(inner, "eqns", ())]
    found = next((_FUNCTIONS[name] for name in names if name in _FUNCTIONS), "")
    return "σ" if halved and found == "tanh" else found if not halved else ""


# drawing

_COLUMN, _ROW, _WIDTH, _HEIGHT = 150, 58, 92, 36


def draw(nodes: list[Node], edges: Edges, title: str) -> str:
    """Draw a graph as an SVG, from left to right; edges through weights are solid, the others dashed."""
    level = _levels(nodes, edges)
    chains, columns = _routed(nodes, edges, level)
    height = max(len(column) for column in columns) * _ROW + 8
    middle = {}
    for number, column in enumerate(columns):
        top = (height - len(column) * _ROW) / 2
        for row, item in enumerate(column):
            middle[item] = number * _COLUMN + _WIDTH / 2 + 4, top + (row + 0.5) * _ROW
    width = (len(columns) - 1) * _COLUMN + _WIDTH + 8
    parts = [
        f'<svg class="step" viewBox="0 0 {width} {height:.0f}" width="{width}" role="img">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
    ]
    for chain, weighted in chains:
        parts.append(f'<path class="{"weighted" if weighted else "plain"}" d="{_path(chain, middle)}"/>')
    for i, node in enumerate(nodes):
        x, y = middle[i]
        label = escape(node.label)
        if node.function:
            label += f' <tspan class="function">{node.function}</tspan>'
        parts.append(
            f'<g class="{node.kind}"><rect x="{x - _WIDTH / 2:.0f}" y="{y - _HEIGHT / 2:.0f}"'
            f' width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>'
            f'<text x="{x:.0f}" y="{y + 5:.0f}">{label}</text></g>'
        )
    return "\n".join([*parts, "</svg>"])


def _levels(nodes: list[Node], edges: Edges) -> list[int]:
    """Columns: inputs first, every other node after what it is computed from."""
    level = [0] * len(nodes)
    for a, b in sorted(edges, key=lambda edge: edge[1]):  # nodes are numbered in the order of the trace
        level[b] = max(level[b], level[a] + 1)
    return level


def _routed(
    nodes: list[Node], edges: Edges, level: list[int]
) -> tuple[list[tuple[list[Any], bool]], list[list[Any]]]:
    """Lead long edges through places of their own, and order the columns by their neighbors."""
    columns: list[list[Any]] = [[] for _ in range(max(level) + 1)]
    for i in range(len(nodes)):
        columns[level[i]].append(i)
    chains = []
    neighbors: dict[Any, list[Any]] = defaultdict(list)
    for (a, b), weighted in edges.items():
        between = [(a, weighted, column) for column in range(level[a] + 1, level[b])]
        for place in between:  # shared by all lines of a kind that come from one node
            if place not in columns[place[2]]:
                columns[place[2]].append(place)
        chain = [a, *between, b]
        chains.append((chain, weighted))
        for left, right in pairwise(chain):
            if right not in neighbors[left]:
                neighbors[left].append(right)
                neighbors[right].append(left)
    for _ in range(4):
        for column in [*columns[1:], *columns[-2::-1]]:
            row = {item: i - len(c) / 2 for c in columns if c is not column for i, item in enumerate(c)}
            near = {item: [row[n] for n in neighbors[item] if n in row] for item in column}
            column.sort(key=lambda item: sum(near[item]) / max(1, len(near[item])))
    return chains, columns


def _path(chain: list[Any], middle: dict[Any, tuple[float, float]]) -> str:
    """A line from node to node: level where it passes a column, bent between columns."""
    d = ""
    for left, right in pairwise(chain):
        (x0, y0), (x1, y1) = middle[left], middle[right]
        x0, x1 = x0 + _WIDTH / 2, x1 - _WIDTH / 2 - (right == chain[-1])
        bend = (x1 - x0) / 2
        d += f"{'L' if d else 'M'}{x0:.0f} {y0:.0f} "
        d += f"C{x0 + bend:.0f} {y0:.0f} {x1 - bend:.0f} {y1:.0f} {x1:.0f} {y1:.0f} "
    return d.rstrip()
