"""Nodes that count steps, and choose some of them: by lengths, by tokens, or all in the opposite order."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jrnn.interop.onnx._layers import Node
from jrnn.interop.onnx._values import TIME, Axis, Flow, Known, Size, Steps, Tokens, Value, elementwise


def final(size: Size) -> Size:
    """The number of the last step."""
    return added(size, -1)


def added(a: Size, b: Size) -> Size:
    """Add sizes, of which only one may be unknown.

    >>> added(3, -1), added("xs:0", -1)
    (2, 'xs:0-1')
    """
    return f"{a}{b:+d}" if isinstance(a, str) else a + int(b)


def counted(node: Node) -> Value:
    """Read the numbers of all steps, or of anything else with a known count."""
    start, limit, step = (node.known(i, "limits") for i in range(3))
    if isinstance(limit.item(), str):
        if (start.item(), step.item()) != (0, 1):
            raise ValueError("it does not count all steps of an axis")
        return Steps(((Axis(TIME, limit.item()),),))
    return Known.of(np.arange(start.item(), limit.item(), step.item()))


def visited(value: Any, axis: int, steps: Steps) -> Flow:
    """All steps, in their order or the opposite one."""
    if not isinstance(value, Flow) or steps.lengths or value.sizes[axis] != steps.dims[0][0].size:
        raise ValueError("it takes other steps than all of an input")
    return dataclasses.replace(value, reverse=value.reverse ^ steps.backward)


def backward(node: Node) -> Value:
    """Read the reversal of all steps."""
    flow, lengths = node.flow(0), node.known(1, "sequence_lens").ravel()
    time = int(node.attributes.get("time_axis", 0))
    if any(length != flow.sizes[time] for length in lengths):
        raise ValueError(f"it reverses {lengths.tolist()} of {flow.sizes[time]} steps")
    return dataclasses.replace(flow, reverse=not flow.reverse)


def of_tokens(node: Node, function: Callable[..., Any]) -> Tokens | None:
    """Apply a function to the integers of an input; None for other inputs."""
    values: list[Any] = list(node.inputs)
    flows = [v.flow if isinstance(v, Tokens) else v for v in values if isinstance(v, Flow | Tokens)]
    if not flows or not all(v is flows[0] and v.integer() for v in flows):
        return None
    if any(isinstance(v, Steps) or (isinstance(v, Known) and v.array.size != 1) for v in values):
        return None

    def at(value: Any, tokens: Any) -> Any:
        if isinstance(value, Tokens):
            return value.function(tokens)
        return value.array if isinstance(value, Known) else tokens

    return Tokens(flows[0], lambda tokens: function(*(at(value, tokens) for value in values)))


def negated(node: Node) -> Value:
    """Read the negation of a comparison of tokens."""
    found = of_tokens(node, np.logical_not)
    if found is None:
        raise ValueError("it negates something other than a comparison of tokens")
    return found


def compared(node: Node) -> Value:
    """Read a comparison: of tokens, or of numbers of steps with lengths."""
    if found := of_tokens(node, np.less):
        return found
    steps, lengths = node.get(0), node.get(1)
    counted = isinstance(steps, Steps) and not steps.lengths and isinstance(lengths, Flow)
    if not counted or not lengths.given() or len(lengths.dims) != 1 or [len(d) for d in steps.dims] != [1, 0]:
        raise ValueError("it compares others than numbers of steps, (time, 1), with lengths")
    return Steps((steps.dims[0], lengths.dims[0]), str(lengths.chain[0].name))


def chosen(node: Node) -> Value:
    """Read a choice: between tokens, of outputs within lengths, or of the states of rows with a step."""
    values: list[Any] = list(node.inputs)
    given, value, other = values
    if found := of_tokens(node, np.where):
        return found
    if isinstance(given, Steps) and given.lengths and isinstance(value, Flow) and isinstance(other, Known):
        aligned = len(given.dims) == len(value.dims) == 3 and given.dims[2] == ()
        if aligned and value.dims[0] == given.dims[0] and not np.any(other.array):
            node.found.lengths[node.name] = given.lengths
            return value
    if isinstance(given, Tokens) and isinstance(other, Flow) and other.read in ("state", "cell"):
        return _kept(node, given, value, other)
    if all(isinstance(v, Known) for v in values):
        return elementwise(lambda c, a, b: a if c else b, *values)
    raise ValueError("it chooses by other than lengths, or something else than 0 in padding")


def _kept(node: Node, given: Tokens, start: Any, last: Flow) -> Value:
    """Read the last state of rows, of which those of length 0 keep their initial state."""
    if given.function(np.arange(3)).tolist() != [True, False, False]:
        raise ValueError("it chooses states by something else than a length of 0")
    if not (isinstance(start, Known) or (isinstance(start, Flow) and start.given())):
        raise ValueError("a row without a step keeps the state that it starts from, and no other")
    node.found.lengths[node.name] = str(given.flow.chain[0].name)
    return last
