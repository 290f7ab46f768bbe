"""Layers that an exporter wrote as a Loop, or once for each step: recognized by what they compute.

The operations between known values and the result are evaluated on random inputs, and on random weights in
place of those stored. The result is compared with every recurrent layer of Keras whose weights could have
these shapes; the one that gives the same at all steps then gets the stored weights. So it does not matter
which operations an exporter chooses, and nothing is taken for a layer that does not compute what it computes.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jrnn.interop._keras import Listed, Reader
from jrnn.interop.onnx._regions import Region, by_step
from jrnn.interop.onnx._values import BATCH, FEATURES, TIME, Axis, Dim, Flow, Part, Unread

CLOSE = 1e-4  # relative, in float32


class Layer(NamedTuple):
    """A layer of Keras: its class and configuration, and the names of its weights in the graph."""

    kind: str
    config: dict[str, Any]
    kernels: tuple[str, ...]
    biases: tuple[str, ...]

    def cell(self, arrays: dict[str, Any]) -> tuple[Any, Any]:
        """The cell, and its parameters from arrays by name."""
        weights = [arrays[name] for name in self.kernels]
        if self.biases:
            rows = np.concatenate([arrays[name].reshape(-1, weights[0].shape[-1]) for name in self.biases])
            weights.append(rows if self.config.get("reset_after") else rows.sum(0))
        layer = {"class_name": self.kind, "config": self.config}
        part: Any = Reader(Listed(weights)).part(layer, None)
        return part.model, part.params


class Sequences(NamedTuple):
    """The input of a layer: a sequence, time first, in the order of visits, and a mask."""

    flow: Flow
    swapped: bool  # time is the second axis of the flow
    backward: bool  # against the order of the flow
    xs: Any
    mask: Any  # (time, batch), or None
    named: str = ""  # the mask


class Found(NamedTuple):
    """Layers, and where the sequence that they give stands among the outputs."""

    given: Sequences
    layers: list[Layer]
    place: int  # of the output that is the sequence
    turned: bool  # it is in the order opposite to that of the visits
    outputs: list[Any]
    ys: Any  # time first, in the order of visits


def recognized(graph: Any, node: Any, name: str) -> dict[str, Flow] | None:
    """Recognize the layers that a Loop computes, or whose steps a Concat joins; None if there are none.

    Args:
      graph: the graph as read so far.
      node: the node.
      name: what its parts are called in messages.

    Returns:
      The values of outputs that are the sequence or a state, and of joined steps that are the state.
    """
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    joined = node.input if node.op_type == "Concat" else ()
    unread = [step for step in joined if isinstance(graph.values.get(step), Unread)]
    longest = float("inf")
    for _ in range(2):  # some exporters take the product with the inputs out of the loop, like a Dense
        region = Region(graph, [*unread, *filter(None, node.output)], longest)
        trial = _Trial(region)
        if trial.names and (found := trial.found(axis)):
            return _values(graph, name, trial, found, axis)
        longest = max((len(flow.chains[0]) for flow in region.flows.values()), default=0)
        if longest < 2:
            break
    return None


class _Trial:
    """Random inputs and weights for a region, and its outputs for them."""

    def __init__(self, region: Region) -> None:
        self.region, self.rng = region, np.random.default_rng(0)
        self.sizes: dict[str, int] = {}
        self.drawn: dict[Any, tuple[list[str], Any]] = {}
        fills = {0.0} | {float(a) for a in region.constants.values() if a.dtype.kind == "f" and a.size == 1}
        self.fills = sorted(fills)
        stored = region.weights()
        self.weights = {name: self._weight(array) for name, array in stored.items()}
        for (copy, a), (name, b) in itertools.permutations(stored.items(), 2):
            if a.ndim > 2 and b.ndim == 1 and a.shape[-1] == b.size and (a == b).all():
                # the first step of PyTorch's RNN: of the product with a state of 0, only the bias is left
                self.weights[copy] = np.broadcast_to(self.weights[name], a.shape)
        self.names, self.functions = tuple(self.weights), region.activations()
        self.fed = {name: self._drawn(flow) for name, flow in region.flows.items()}

    def _weight(self, array: Any) -> Any:
        scale = 1.5 / np.sqrt(np.prod(array.shape[:-1])) if min(array.shape) > 2 else 1.0
        return self.rng.normal(scale=scale, size=array.shape).astype(array.dtype)

    def _drawn(self, flow: Flow) -> Any:
        """Random values; the same for all flows of one value, whatever the order of its axes."""
        axes = [axis for dim in flow.dims for axis in dim]
        sizes = {a.label: self._size(a.size) for a in axes}
        key = flow.chains, flow.reverse, flow.read
        if key not in self.drawn:
            self.drawn[key] = list(sizes), self._values(flow, list(sizes.values()))
        labels, values = self.drawn[key]
        order = [labels.index(axis.label) for axis in axes]
        shape = [int(np.prod([sizes[a.label] for a in dim])) for dim in flow.dims]
        return values.transpose(order).reshape(shape)

    def _size(self, size: Any) -> int:
        return size if isinstance(size, int) else self.sizes.setdefault(size, 4 + len(self.sizes))

    def _values(self, flow: Flow, shape: list[int]) -> Any:
        """Tokens, or features with rows to be masked; steps differ in scale, so that functions saturate."""
        if flow.integer():
            return self.rng.integers(0, 3, shape).astype(np.int32)
        values = self.rng.normal(scale=1.5, size=shape).astype(np.float32)
        if flow.given() and len(shape) > 2:
            rows = self.rng.integers(0, 2 * len(self.fills), shape[:2])
            for index, fill in enumerate(self.fills):
                values[rows == index] = fill
        return values

    def found(self, axis: int) -> Found | None:
        """The layers that give one of the outputs, whose steps lie along an axis."""
        try:
            outputs = [np.asarray(a) for a in self.region.evaluated(self.fed | self.weights)]
        except Exception:  # of the evaluator, for operators or attributes that it lacks
            return None
        for given, index in itertools.product(self._sequences(), range(len(outputs))[::-1]):
            a = outputs[index]
            ys = by_step(np.moveaxis(a, axis, 0) if a.ndim > axis else a, given.xs)
            states = [a for i, a in enumerate(outputs) if i != index]
            for turned in (False, True) if ys is not None else ():
                wanted = ys[::-1] if turned else ys
                if layers := self._layers(given, given.xs, wanted, states, self.names):
                    return Found(given, layers, index, turned, outputs, wanted)
        return None

    def _sequences(self) -> Iterator[Sequences]:
        for name, flow in self.region.flows.items():
            a = self.fed[name]
            plain = all(len(dim) == 1 for dim in flow.dims) and len(flow.chains) == 1 and not flow.read
            if a.dtype.kind != "f" or a.ndim < 3 or not plain:
                continue
            for swapped in (False, True):
                xs = a.swapaxes(0, 1) if swapped else a
                masks = [("", None), *self._masks(xs.shape[:2])]
                for (label, mask), backward in itertools.product(masks, (False, True)):
                    order = slice(None, None, -1 if backward else 1)
                    turned = mask if mask is None else mask[:: -1 if flow.reverse ^ backward else 1]
                    yield Sequences(flow, swapped, backward, xs[order], turned, label)

    def _masks(self, leading: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
        """Parts of an input that Keras masks: tokens of 0, or steps whose features all have one value."""
        for name, flow in self.region.flows.items():
            if not flow.given():
                continue
            a = self.fed[name]
            fills = [0] if flow.integer() else self.fills if a.ndim > 2 else []
            for fill in fills:
                mask = a != fill if flow.integer() else (a != fill).any(-1)
                label = f"{flow.chain[0].name} != {fill:g}"
                yield from (
                    (label, m) for m in (mask, mask.T) if m.shape == leading and m.any() and not m.all()
                )

    def _layers(
        self, given: Sequences, xs: Any, ys: Any, states: list[Any], names: tuple[str, ...]
    ) -> list[Layer]:
        """Layers that compute ys from xs one after another, those before the last with a known state."""
        inner = list[tuple[Layer, tuple[str, ...], Any]]()
        for layer in _possible(xs, self.weights, names, self.functions):
            left = tuple(name for name in names if name not in (*layer.kernels, *layer.biases))
            if _gives(_steps(layer.cell(self.weights), xs, given.mask), ys, given.mask):
                return [layer]
            if len(layer.kernels) > 1 and sum(self.weights[n].ndim == xs.ndim - 1 for n in left) > 1:
                *_, (_, carry) = found = list(_steps(layer.cell(self.weights), xs, given.mask))
                last = jax.tree.leaves(carry)[0]
                if any(a.shape == last.shape and _close(a, last) for a in states):
                    inner.append((layer, left, np.stack([y for y, _ in found])))
        for layer, left, between in inner:
            if rest := self._layers(given, between, ys, states, left):
                return [layer, *rest]
        return []


def _possible(
    xs: Any, arrays: dict[str, Any], names: tuple[str, ...], functions: list[str]
) -> Iterator[Layer]:
    """Layers of Keras whose weights have these shapes."""
    for kernels in (*itertools.permutations(names, 2), *((name,) for name in names)):
        kernel, *recurrent = (arrays[name] for name in kernels)
        *field, width, columns = kernel.shape if kernel.ndim == xs.ndim - 1 else (0, 0)
        hidden = recurrent[0].shape[-2] if recurrent and recurrent[0].ndim > 1 else columns
        fits = all(r.shape == (*field, hidden, columns) for r in recurrent) and hidden
        if not fits or width != xs.shape[-1] or columns % hidden:
            continue
        gates = columns // hidden
        biases = [n for n in names if n not in kernels and arrays[n].size in (columns, 2 * columns)]
        biases = [n for n in biases if arrays[n].shape[-1] == columns]
        for chosen in (c for count in (2, 1, 0) for c in itertools.permutations(biases, count)):
            rows = sum(arrays[n].size for n in chosen) // columns
            shape = gates if recurrent else 0, hidden, rows, tuple(field)
            for kind, config in _options(*shape, functions):
                yield Layer(kind, config, kernels, chosen)


def _options(
    gates: int, hidden: int, rows: int, field: tuple[int, ...], functions: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Classes and configurations of layers with so many gates and biases; without gates a Dense."""
    common = {"units": hidden, "use_bias": rows > 0, "return_sequences": True}
    if field and gates == 4 and rows < 2:
        shape = common | {"filters": hidden, "kernel_size": field}
        yield from ((f"ConvLSTM{len(field)}D", shape | {"padding": p}) for p in ("same", "valid"))
    kind = {0: "Dense", 1: "SimpleRNN", 3: "GRU", 4: "LSTM"}.get(gates)
    if kind is None or field or rows > 2:
        return
    resets = {0: (True, False), 1: (False,), 2: (True,)}[rows] if kind == "GRU" else (False,)
    for gate, function, reset in itertools.product(
        functions if gates > 1 else ["sigmoid"], functions, resets
    ):
        options = {"activation": function, "recurrent_activation": gate, "reset_after": reset}
        yield kind, common | options


def _steps(model: tuple[Any, Any], xs: Any, mask: Any) -> Iterator[tuple[Any, Any]]:
    """The output, and the carry, after each step."""
    cell, params = model
    carry = cell.initial_carry(params, xs.shape[1:-1])
    for step, x in enumerate(xs):
        after, y = cell.step(params, carry, x)
        valid = np.full(len(x), True) if mask is None else mask[step]
        keep = valid.reshape(-1, *[1] * (x.ndim - 1))
        carry = jax.tree.map(lambda new, old, keep=keep: np.where(keep, new, old), after, carry)
        yield np.asarray(y), carry


def _gives(steps: Iterator[tuple[Any, Any]], ys: Any, mask: Any) -> bool:
    """True if all valid outputs are those wanted."""
    valid = np.full(ys.shape[:2], True) if mask is None else mask
    return all(
        y.shape == wanted.shape and _close(y[valid[step]], wanted[valid[step]])
        for step, ((y, _), wanted) in enumerate(zip(steps, ys, strict=True))
    )


def _close(a: Any, b: Any) -> bool:
    return bool(np.allclose(a, b, rtol=CLOSE, atol=CLOSE))


def _values(graph: Any, name: str, trial: _Trial, found: Found, axis: int) -> dict[str, Flow]:
    """The values of the outputs, with the layers as parts."""
    given, xs = found.given, found.given.xs
    backward = given.flow.reverse ^ given.backward
    parts = []
    for layer in found.layers:
        cell, params = layer.cell(trial.region.constants)
        kind = "map" if layer.kind == "Dense" else "backward" if backward else "forward"
        parts.append(Part(kind, cell, params, node=name))
        steps = list(_steps(layer.cell(trial.weights), xs, given.mask))
        xs = np.stack([y for y, _ in steps])
    if parts[-1].kind != "map":
        graph.found.parts += parts
        graph.found.lengths[name] = given.named
    sequence = Flow(((*given.flow.chain, *parts),), _dims(found, axis), reverse=backward ^ found.turned)
    state = dataclasses.replace(
        sequence, dims=sequence.dims[:axis] + sequence.dims[axis + 1 :], reverse=False
    )
    values = dict[str, Flow]()
    for output, a in zip(trial.region.outputs, found.outputs, strict=True):
        step = a.ndim == found.ys.ndim and a.shape[axis] == 1  # before a Concat; the last one is the state
        a = a.squeeze(axis) if step else a
        leaves = zip(("state", "cell"), jax.tree.leaves(steps[-1][1]), strict=False)
        if kinds := [kind for kind, leaf in leaves if a.shape == leaf.shape and _close(a, leaf)]:
            read = dataclasses.replace(state, read=kinds[0])
            values[output] = read.unsqueeze([axis]) if step else read
    values[trial.region.outputs[found.place]] = dataclasses.replace(sequence, repeats=_repeats(found))
    return values


def _dims(found: Found, axis: int) -> tuple[Dim, ...]:
    """The dimensions of the sequence, whose steps lie along an axis."""
    first, second, *rest = found.given.flow.dims
    time, batch = (second, first) if found.given.swapped else (first, second)
    field = [(dim[0]._replace(size=n),) for dim, n in zip(rest[:-1], found.ys.shape[2:-1], strict=True)]
    dims: list[Dim] = [(Axis(BATCH, batch[0].size),), *field, (Axis(FEATURES, found.ys.shape[-1]),)]
    dims.insert(axis, (Axis(TIME, time[0].size),))
    return tuple(dims)


def _repeats(found: Found) -> bool:
    """True if masked steps repeat the output before them, so that the last one is the state."""
    if found.given.mask is None:
        return False
    steps = zip(found.ys, found.ys[1:], found.given.mask[1:], strict=False)
    return all(_close(before[~valid], y[~valid]) for before, y, valid in steps)
