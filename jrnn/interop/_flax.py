"""Code shared by Linen and NNX: trees of weights, and the modules that hold cells."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jrnn._checks import brief
from jrnn.cells._activations import check_activation
from jrnn.cells.elman import Elman, ElmanParams
from jrnn.cells.maps import Dense, DenseParams, Embed, EmbedParams, Map
from jrnn.interop._conventions import or_zeros, refuse_options
from jrnn.interop._models import chained, parts_of, without_noise
from jrnn.interop._weights import Weights, own_weights
from jrnn.layers import Bidirectional, BidirectionalParams, Reversed

Part = tuple[Any, Any]  # (model, params)


class Flavor(NamedTuple):
    """One of Flax's two module systems."""

    library: str
    entry: str  # prefix of the numbers of entries of a Sequential
    read: Callable[[Weights, str, set[str], Any], Part | None]  # a cell, or None
    write: Callable[[Any, Any], dict[str, Any]]


def flattened(tree: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries and lists, by their paths: "cell/hi/kernel"."""
    if isinstance(tree, Mapping):
        items = list(tree.items())
    elif isinstance(tree, list | tuple):
        items = list(enumerate(tree))
    else:
        return {path: tree}
    found: dict[str, Any] = {}
    for name, value in items:
        found |= flattened(value, f"{path}/{name}" if path else str(name))
    return found


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries from leaves by their paths: the inverse of `flattened`."""
    tree: dict[Any, Any] = {}
    for path, leaf in leaves.items():
        *above, name = (int(part) if part.isdigit() else part for part in path.split("/"))
        inner = tree
        for part in above:
            inner = inner.setdefault(part, {})
        inner[name] = leaf
    return tree


def read(weights: Weights, path: str, module: Any, flavor: Flavor) -> Part:
    """Read the cell, container of cells, or map under a path."""
    children = {name[len(path) :].split("/")[0] for name in weights.names() if name.startswith(path)}
    if "cell" in children:
        expect(module, "RNN")
        model, params = read(weights, f"{path}cell/", field(module, "cell"), flavor)
        return (_reversed(model, module), params)
    if children & {"forward_rnn", "backward_rnn"}:
        return _read_bidirectional(weights, path, module, flavor)
    if _entries(weights, path + flavor.entry):
        return _read_sequential(weights, path, module, flavor)
    if "embedding" in children:
        expect(module, "Embed")
        table: Any = weights.take(f"{path}embedding", ("vocabulary", "features"))
        return Embed(table.shape[1]), EmbedParams(table)
    if children <= {"kernel", "bias"} and "kernel" in children:
        expect(module, "Dense", "Linear")
        w: Any = weights.take(f"{path}kernel", ("in", "features"))
        b = weights.take(f"{path}bias", w.shape[1:]) if f"{path}bias" in weights else None
        return Dense(w.shape[1], bias=b is not None), DenseParams(w, b)
    found = flavor.read(weights, path, children, module)
    if found is None:
        where = f"under {path[:-1]!r}" if path else "at the top"
        raise ValueError(
            f"{weights.source}: the part {where} is not a cell, RNN, Bidirectional, Sequential, Embed or "
            f"dense layer of Flax: it has {', '.join(sorted(children)) or 'no weights'}. Parameters of other "
            "models do not tell the order of their parts: pass a list of the parts, first to last"
        )
    return found


def _read_bidirectional(weights: Weights, path: str, module: Any, flavor: Flavor) -> Part:
    expect(module, "Bidirectional")
    sides = []
    for name in ("forward_rnn", "backward_rnn"):
        rnn = field(module, name)  # its own direction is ignored
        inner = f"{path}{name}/cell/"
        if not any(known.startswith(inner) for known in weights.names()):
            raise ValueError(f"{weights.source} has no weights under {inner[:-1]!r}")
        expect(rnn, "RNN")
        sides.append(read(weights, inner, field(rnn, "cell"), flavor))
    (forward, first), (backward, second) = sides
    same = module is None or module.merge_fn is type(module).merge_fn
    merge = "concat" if same else module.merge_fn
    return Bidirectional(forward, backward, merge=merge), BidirectionalParams(first, second)


def _read_sequential(weights: Weights, path: str, module: Any, flavor: Flavor) -> Part:
    expect(module, "Sequential")
    start = path + flavor.entry
    found = _entries(weights, start)
    entries: Any = [None] * (1 + max(found)) if module is None else module.layers
    parts: list[Any] = []
    for index, entry in enumerate(entries):
        if index in found:
            parts.append(read(weights, f"{start}{index}/", entry, flavor))
        elif callable(entry) and hasattr(entry, "__name__"):
            parts.append(entry)
        elif type(entry).__name__ != "Dropout":
            what = "no weights" if entry is None else f"no weights of {type(entry).__name__}"
            raise ValueError(
                f"{weights.source} has {what} under {start}{index}: pass the module if this is a function; "
                "nothing else without weights can be converted"
            )
    return chained(parts)


def _entries(weights: Weights, start: str) -> set[int]:
    """Numbers that follow the start of a path."""
    found = (name[len(start) :].split("/")[0] for name in weights.names() if name.startswith(start))
    return {int(number) for number in found if number.isdigit()}


def _reversed(cell: Any, module: Any) -> Any:
    """A cell in the direction of the RNN around it."""
    if module is None or not module.reverse:
        return cell
    if not module.keep_order:
        raise ValueError(
            f"an RNN with reverse=True and keep_order=False returns its outputs last step first, Reversed in "
            f"the order of its inputs: pass the module of {brief(cell)} with keep_order=True"
        )
    return Reversed(cell)


def expect(module: Any, *names: str) -> None:
    """Raise unless a module, if given, is of one of the classes to which its weights belong."""
    if module is not None and not any(kind.__name__ in names for kind in type(module).__mro__):
        raise ValueError(
            f"the module is a {type(module).__name__}, the weights are those of {' or '.join(names)}"
        )


def field(module: Any, name: str) -> Any:
    """A field of a module; None without a module."""
    return None if module is None else getattr(module, name)


def activation_of(module: Any) -> Any:
    """The activation of a cell, from its module; defaults to Flax's."""
    if module is None:
        return "tanh"
    gate = check_activation("gate_fn", getattr(module, "gate_fn", "sigmoid"))
    if gate != "sigmoid":
        raise ValueError(f"gate_fn of {type(module).__name__} must be sigmoid, as in jrnn, got {brief(gate)}")
    start = getattr(module, "carry_init", None)
    if start is not None and getattr(start, "__name__", "") != "zeros":
        raise ValueError(
            f"carry_init of {type(module).__name__} must be zeros: cells of jrnn start there, "
            f"or from a given carry; got {brief(start)}"
        )
    return check_activation("activation_fn", getattr(module, "activation_fn", "tanh"))


def side_by_side(weights: Weights, names: Sequence[str], leaf: str, shape: tuple[int | str, ...]) -> Any:
    """Take the arrays of all gates and concatenate them."""
    arrays: list[np.ndarray[Any, Any]] = []
    for name in names:
        arrays.append(weights.take(f"{name}/{leaf}", arrays[0].shape if arrays else shape))
    return np.concatenate(arrays, -1)


def write(model: Any, params: Any, flavor: Flavor) -> dict[str, Any]:
    """The tree of a model: the inverse of `read`."""
    model = without_noise(model)
    parts = parts_of(model, params)
    if parts is not None:
        trees = [(i, write(m, p, flavor)) for i, (m, p) in enumerate(parts) if not isinstance(m, Map)]
        return nested({f"{flavor.entry}{i}": tree for i, tree in trees})
    if isinstance(model, Bidirectional):
        cells, each = (model.forward, model.backward), model.sides(params)
        sides = zip(("forward_rnn", "backward_rnn"), cells, each, strict=True)
        return {name: {"cell": nested(flavor.write(without_noise(c), own))} for name, c, own in sides}
    if isinstance(model, Embed | Dense):
        return _write_map(model, params, flavor)
    cell = without_noise(model.cell) if isinstance(model, Reversed) else model
    return {"cell": nested(flavor.write(cell, params))}


def _write_map(model: Embed | Dense, params: Any, flavor: Flavor) -> dict[str, Any]:
    own = own_weights("", model, params, {}, flavor.library)
    if isinstance(model, Embed):
        return {"embedding": own.take("table", ("vocabulary", model.features))}
    refuse_options(model, flavor.library, "bias")
    kernel = own.take("w", ("in", model.features))
    return {"kernel": kernel, **({"bias": own.take("b", (model.features,))} if "b" in own else {})}


def read_simple(weights: Weights, inputs: str, states: str, module: Any) -> Part:
    """Read a SimpleCell; a residual one adds its state to the recurrent product."""
    w_ih: Any = weights.take(f"{inputs}/kernel", ("in", "hidden"))
    hidden = w_ih.shape[1]
    w_hh: Any = weights.take(f"{states}/kernel", (hidden, hidden))
    b = weights.take(f"{inputs}/bias", (hidden,))
    if module is not None and module.residual:
        w_hh = w_hh + np.eye(hidden, dtype=w_hh.dtype)
    return Elman(hidden, activation=activation_of(module)), ElmanParams(w_ih, w_hh, b)


def write_simple(cell: Elman, params: Any, library: str, inputs: str, states: str) -> dict[str, Any]:
    """Write an Elman network as a SimpleCell without a residual."""
    refuse_options(cell, library, "activation", "bias")
    own = own_weights("", cell, params, {}, library)
    w_ih, w_hh = own.take("w_ih", ("in", cell.hidden)), own.take("w_hh", (cell.hidden, cell.hidden))
    return {
        f"{inputs}/kernel": w_ih,
        f"{inputs}/bias": or_zeros(own, "b", w_ih),
        f"{states}/kernel": w_hh,
    }


def by_gate(names: Sequence[str], leaf: str, array: Any) -> dict[str, Any]:
    """Split an array by gate, each under its path: the inverse of `side_by_side`."""
    parts = np.split(array, len(names), axis=-1)
    return {f"{name}/{leaf}": part for name, part in zip(names, parts, strict=True)}
