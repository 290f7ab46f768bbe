"""Strongly connected components and minimum cuts of small graphs.

scipy has both, and takes longer to import than it takes to plan a loop.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

Node = TypeVar("Node", bound=Hashable)


def components(edges: Mapping[Node, Iterable[Node]]) -> dict[Node, int]:
    """Number the strongly connected components: nodes from each of which all others of them can be reached.

    Args:
      edges: for each node those that it leads to.

    Reference: Sharir, A strong-connectivity algorithm and its applications in data flow analysis, 1981.
    """
    backwards: dict[Node, list[Node]] = {node: [] for node in edges}
    for node, others in edges.items():
        for other in others:
            backwards[other].append(node)
    # In reverse postorder, the first node that has no number yet leads to no node without one, backwards, but
    # those of its own component.
    found: dict[Node, int] = {}
    seen: set[Node] = set()
    for number, start in enumerate(reversed(_postorder(edges, edges, set()))):
        found.update(dict.fromkeys(_postorder([start], backwards, seen), number))
    return found


def _postorder(starts: Iterable[Node], edges: Mapping[Node, Iterable[Node]], seen: set[Node]) -> list[Node]:
    """The nodes of a depth-first search, each after all that it leads to; those `seen` are left out."""
    order: list[Node] = []
    for start in starts:
        stack = [(start, False)]
        while stack:
            node, left = stack.pop()
            if left:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack += [(other, False) for other in edges[node]]
    return order


def sink_side(capacity: Mapping[tuple[Node, Node], Any], sources: Iterable[Node], sink: Node) -> set[Node]:
    """The nodes on the sink's side of a minimum cut: of several, the one nearest to the sink.

    Args:
      capacity: of each edge `(from, to)`.
      sources: nodes that supply any amount.
      sink: the node to be cut off from them.

    Reference: Ford, Fulkerson, Maximal flow through a network, 1956.
    """
    # What an edge can still take, forwards; and backwards, what it has taken.
    free: dict[Node, dict[Node, Any]] = {sink: {}}
    for (a, b), amount in capacity.items():
        free.setdefault(a, {})[b] = amount
        free.setdefault(b, {}).setdefault(a, 0)
    closed: set[Node] = set()  # nodes from which nothing reaches the sink any more
    for source in sources:
        while path := _path(free, source, sink, closed):
            amount = min(free[a][b] for a, b in path)
            for a, b in path:
                free[a][b] -= amount
                free[b][a] += amount
    # By max-flow min-cut, edges with no capacity left separate sources and sink, and are a minimum cut.
    side, waiting = {sink}, [sink]
    while waiting:
        node = waiting.pop()
        before = [other for other in free[node] if free[other][node] and other not in side]
        side.update(before)
        waiting += before
    return side


def _path(free: Mapping[Node, Mapping[Node, Any]], source: Node, sink: Node, closed: set[Node]) -> list[Any]:
    """The edges of a path with free capacity; [] if there is none, and all nodes reached are `closed`."""
    came: dict[Node, Node] = {}  # node -> the one before it
    waiting = [source] if source in free else []
    while waiting:
        node = waiting.pop()
        for other, amount in free[node].items():
            if amount and other not in came and other not in closed and other != source:
                came[other] = node
                waiting.append(other)
        if sink in came:
            path = []
            while sink != source:
                path.append((came[sink], sink))
                sink = came[sink]
            return path
    closed.update(came, [source])
    return []
