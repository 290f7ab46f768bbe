"""Comparison of a model with its original library on random inputs."""

import importlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jrnn
from jrnn._cli.sampling import one_line
from jrnn.cell import in_ndim
from jrnn.checkpoint.parameters import _width

STEPS, BATCH, FIELD = 6, 3, 8  # of random inputs, FIELD a side of a field
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}  # relative to the largest output; of others 5e-2

# inputs (time, batch, ...) to outputs: one array for each layout that may be meant
Run = Callable[[Any], list[Any]]


class Unverified(Exception):
    """Raised if a library cannot run a model, with the reason."""


def verify(
    model: Any, params: Any, run: Run, sizes: tuple[tuple[int, int], ...] = ((STEPS, BATCH),)
) -> float:
    """The largest difference between outputs of jrnn and of another library on random inputs.

    Args:
      model: the model.
      params: its parameters.
      run: the other library.
      sizes: (steps, batch) that it takes; one pair is enough to agree on.

    Raises:
      Unverified: the other library does not run.
      ValueError: its outputs are others, with the numbers.
    """
    found = []
    for steps, batch in sizes:
        xs = sample(model, params, steps, batch)
        ours = np.asarray(jrnn.apply(model, params, xs)[1]).astype(np.float64)
        relative = TOLERANCE.get(str(jax.tree.leaves(params)[0].dtype), 5e-2)
        limit = relative * max(1, np.abs(ours).max(initial=0))
        for theirs in _outputs(run, xs):
            if (differs := _apart(ours, np.asarray(theirs).astype(np.float64))) <= limit:
                return differs
            found.append(f"outputs {theirs.shape} differ by {differs:.1e}")
    raise ValueError(f"verification failed: from outputs {ours.shape} of jrnn, {' and '.join(found)}")


def _outputs(run: Run, xs: Any) -> list[Any]:
    try:
        return run(xs)
    except Unverified:
        raise
    except Exception as error:  # of whatever class the library has
        raise Unverified(f"it fails on random inputs: {one_line(error)[:300]}") from error


def _apart(ours: Any, theirs: Any) -> float:
    if theirs.shape != ours.shape and theirs.ndim == ours.ndim > 2:  # the batch comes first
        theirs = theirs.swapaxes(0, 1)
    same = theirs.shape == ours.shape
    return float(np.max(np.abs(ours - theirs), initial=0.0)) if same else float("inf")


def sample(model: Any, params: Any, steps: int = STEPS, batch: int = BATCH) -> Any:
    """Random inputs of a model, (time, batch, ...), in the dtype of its parameters."""
    rng, width = np.random.default_rng(0), _width(model, params, None)
    if in_ndim(model) == 0:  # tokens: 0 may be that of padding, which other libraries mask
        return jnp.asarray(rng.integers(min(1, width - 1), width, (steps, batch)))
    sides = [FIELD] * _spatial(model)
    return jnp.asarray(rng.normal(size=(steps, batch, *sides, width)), jax.tree.leaves(params)[0].dtype)


def _spatial(model: Any) -> int:
    """Count the spatial axes of the inputs of a model."""
    inner = getattr(model, "cells", None) or getattr(model, "layers", None)
    for name in ("cell", "forward", "model"):
        inner = inner or (hasattr(model, name) and (getattr(model, name),))
    return _spatial(inner[0]) if inner else getattr(model, "spatial", 0)


def in_torch(state: dict[str, Any], nonlinearity: str) -> Run:
    """Run a state dict as a chain of modules, rebuilt from names and shapes."""

    def run(xs: Any) -> list[Any]:
        try:
            torch = importlib.import_module("torch")
        except ModuleNotFoundError as error:
            raise Unverified("torch is not installed") from error
        groups: dict[str, dict[str, Any]] = {}
        for name, value in state.items():
            module, _, leaf = name.rpartition(".")
            groups.setdefault(module, {})[leaf] = torch.as_tensor(value)
        with torch.no_grad():
            ys = torch.from_numpy(np.asarray(xs).astype(np.int64 if xs.dtype.kind == "i" else np.float64))
            for name, weights in groups.items():
                double = {leaf: value.double() for leaf, value in weights.items()}
                ys = _torch_module(torch, name, double, nonlinearity)(ys)
        return [ys.numpy()]

    return run


def _torch_module(torch: Any, name: str, weights: dict[str, Any], nonlinearity: str) -> Callable[[Any], Any]:
    """A recurrent module, an embedding or a linear layer with these weights."""
    if "weight_ih" in weights:  # a cell runs as a module of one layer
        weights = {f"{leaf}_l0": value for leaf, value in weights.items()}
    if "weight_ih_l0" not in weights:
        if "weight" not in weights or weights["weight"].ndim != 2:
            raise Unverified(f"what module {name!r} is, with {', '.join(weights)}, is not known")
        w, b = weights["weight"], weights.get("bias")
        return lambda xs: w[xs] if not xs.is_floating_point() else torch.nn.functional.linear(xs, w, b)
    rows, out = weights["weight_hh_l0"].shape
    hidden = weights["weight_hr_l0"].shape[1] if "weight_hr_l0" in weights else out
    kind = {1: "RNN", 3: "GRU", 4: "LSTM"}[rows // hidden]
    options: dict[str, Any] = {"nonlinearity": nonlinearity} if kind == "RNN" else {}
    if out != hidden:
        options["proj_size"] = out
    module = getattr(torch.nn, kind)(
        weights["weight_ih_l0"].shape[1],
        hidden,
        num_layers=sum(re.fullmatch(r"weight_ih_l\d+", leaf) is not None for leaf in weights),
        bias="bias_ih_l0" in weights,
        bidirectional="weight_ih_l0_reverse" in weights,
        dtype=torch.float64,
        **options,
    )
    module.load_state_dict(weights)
    return lambda xs: module(xs)[0]


def in_keras(model: Any) -> Run:
    """Run a Keras model, which takes batch-first inputs."""
    return lambda xs: [np.asarray(model(jnp.swapaxes(xs, 0, 1)))]


def in_onnxruntime(proto: Any) -> tuple[Run, tuple[tuple[int, int], ...]]:
    """Run an ONNX graph, time or batch first; also return the (steps, batch) that its shapes allow."""
    given = [
        value for value in proto.graph.input if value.name not in {t.name for t in proto.graph.initializer}
    ]
    dims = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in given]
    one, other = (size or free for size, free in zip(dims[0][:2], (STEPS, BATCH), strict=True))
    sizes = ((one, other), (other, one)) if any(dims[0][:2]) else ((STEPS, BATCH),)

    def run(xs: Any) -> list[Any]:
        try:
            onnxruntime = importlib.import_module("onnxruntime")
        except ModuleNotFoundError as error:
            raise Unverified("onnxruntime is not installed") from error
        found, faults = [], []
        try:
            onnxruntime.set_default_logger_severity(4)
            session = onnxruntime.InferenceSession(
                proto.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            types = {value.name: _numpy_type(value.type) for value in session.get_inputs()}
        except Exception as error:
            raise Unverified(one_line(error)[:300]) from error
        for first in (np.asarray(xs), np.asarray(xs).swapaxes(0, 1)):
            feeds = {given[0].name: first.astype(types[given[0].name])}
            for value, sides in zip(given[1:], dims[1:], strict=True):
                shape = [side or xs.shape[1] for side in sides]
                whole = np.issubdtype(types[value.name], np.integer)
                feeds[value.name] = np.full(shape, xs.shape[0] if whole else 0, types[value.name])
            try:
                found.append(session.run(None, feeds)[0])
            except Exception as error:  # of the layout that is not meant
                faults.append(one_line(error)[:300])
        if not found:
            raise Unverified(faults[0])
        return found

    return run, sizes


def _numpy_type(name: str) -> Any:
    """The NumPy type of an onnxruntime type such as "tensor(float)" or "tensor(int32)"."""
    found = name.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(found, found))
