"""Saving and loading snapshots of a run."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import jax

from jrnn._checks import check_in_features, check_lag, check_path, check_width, require_model
from jrnn.cell import carry_spec, is_slot
from jrnn.checkpoint._arrays import Leaves, is_key, leaf_to_json, read_arrays, write_arrays
from jrnn.checkpoint._optimizers import check_optimizer, is_described, optimizer_to_json
from jrnn.checkpoint.cells import agreed_cell, cell_to_json
from jrnn.checkpoint.files import (
    ARRAYS,
    DESCRIPTION,
    MANIFEST,
    STEP_DIGITS,
    CheckpointError,
    choose,
    offer,
    parse,
    show,
    step_of,
    turn,
    verify,
    writing,
)

FORMAT = 2

TYPES: dict[str, tuple[type, ...]] = {  # types of the entries of checkpoint.json
    "format": (int,),
    "cell": (dict,),
    "in_features": (int,),
    "batch_shape": (list, NoneType),  # of the carry, None without one
    "opt_state": (bool,),  # True if there is one, since it may have no leaves
    "optimizer": (list, NoneType),  # its transformations
    "step": (int,),
    "position": (dict,),
    "meta": (dict,),
    "leaves": (dict,),
}


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything needed to resume a run.

    Args:
      cell: a cell or layer.
      in_features: the width that `cell.init` was called with.
      params: its parameters, of any dtype.
      opt_state: state of the optimizer, or None.
      carry: the current carry of a stream, of any batch shape, with or without noise, or None.
      key: a typed PRNG key, or None.
      step: number of completed steps.
      position: position in the data, as JSON: `{"epoch": 3, "batch": 17}`.
      meta: further metadata as JSON: vocabulary, arguments. Tuples are loaded as lists.
      optimizer: the optax optimizer of `opt_state`, or None. Its transformations are stored, without their
        numbers, so that `load` can reject a different optimizer.
    """

    cell: Any
    in_features: int
    params: Any
    opt_state: Any = None
    carry: Any = None
    key: Any = None
    step: int = 0
    position: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    optimizer: Any = None


def save(directory: str | os.PathLike[str], snapshot: Snapshot, *, keep: int = 3) -> Path:
    """Write a checkpoint, which is on disk on return, and replaces one of the same step.

    Args:
      directory: folder of the run, created if needed; only one process may write to it at a time.
      snapshot: the snapshot to save.
      keep: number of checkpoints to keep, this one included; older ones are removed once it is complete.

    Returns:
      The folder of the checkpoint.

    Raises:
      OSError: no space left, or not writable; earlier checkpoints are not affected.
      TypeError: the key is not typed, or position, meta or a field of the cell is not JSON.
      ValueError: params or carry do not match the cell (`CheckpointError`); `keep` is below 1.

    >>> import jax, jrnn, tempfile
    >>> cell = jrnn.LSTM(3)
    >>> snapshot = Snapshot(cell, 2, cell.init(jax.random.key(0), 2), step=7, position={"epoch": 1})
    >>> save(tempfile.mkdtemp(), snapshot).name
    'step_00000007'
    """
    if not isinstance(snapshot, Snapshot):
        hint = "save(directory, jrnn.Snapshot(cell, in_features, params))"
        raise TypeError(f"save: snapshot must be a Snapshot, got {show(snapshot)[:80]}: {hint}")
    keep, folder = check_width("save: keep", keep), check_path("save: directory", directory)
    description, leaves = _describe(snapshot)
    try:
        text = json.dumps(description, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"Snapshot: position and meta must be JSON: {error}") from None
    _checked(json.loads(text), Path())
    with writing(folder, description["step"], keep) as (fresh, path):
        write_arrays(fresh / ARRAYS, leaves)
        (fresh / DESCRIPTION).write_text(text)
    return path


def load(
    directory: str | os.PathLike[str],
    *,
    best: bool = False,
    cell: Any = None,
    optimizer: Any = None,
    step: int | None = None,
) -> Snapshot:
    """Read a checkpoint, after verifying every byte.

    `load(out)` is the current state of a run of `fit(out=out)`, and `load(out, best=True)` its best epoch,
    with the parameters that `fit` returns.

    Args:
      directory: folder of a checkpoint, or of a run, whose newest complete checkpoint is read.
      best: read the parameters of the best epoch, which `fit` keeps if it has `validation` or a `criterion`.
      cell: the saved cell; needed if it is, or contains, a cell of a class that is not jrnn's.
      optimizer: the optax optimizer whose state was saved; without it `opt_state` is None. Its numbers may
        differ from those of the saved one, its transformations may not.
      step: read the checkpoint of this step.

    Returns:
      The saved snapshot, bit for bit, on the default device.

    Raises:
      CheckpointError: no checkpoint; a corrupted, truncated or malformed one (the message names the file, and
        an older intact checkpoint); or one of another cell or optimizer (the message names the difference).

    >>> import jax, jrnn, tempfile
    >>> cell, run = jrnn.GRU(3), tempfile.mkdtemp()
    >>> path = save(run, Snapshot(cell, 2, cell.init(jax.random.key(0), 2), step=7))
    >>> load(run).cell, load(run).step
    (GRU(hidden=3), 7)
    """
    folder = check_path("load: directory", directory) / ("best" if best else "")
    step = None if step is None else check_lag("load: step", step)
    if optimizer is not None and not hasattr(optimizer, "init"):
        raise TypeError(f"load: optimizer must be as optax.adam(1e-3) returns it, got {show(optimizer)[:80]}")
    if best and not folder.exists():
        hint = "fit keeps the best epoch if it has validation or a criterion"
        raise CheckpointError(f"{folder}: does not exist: {hint}")
    run = folder.parent if (folder / MANIFEST).is_file() else folder
    with turn(run, alone=False):  # so that a running fit does not replace the checkpoint being read
        return _read(choose(folder, step), cell, optimizer)


def _read(path: Path, cell: Any, optimizer: Any) -> Snapshot:
    """Verify one checkpoint, and read it."""
    try:
        verify(path)
        description = parse(path / DESCRIPTION)
        swept = description.get("tree") is True
        description = description if swept else _checked(description, path)
    except (CheckpointError, RecursionError) as error:
        raise CheckpointError(f"{path}: {show(error)}{offer(path)}") from error
    if swept:
        hint = "jrnn.sweep(..., resume=True) continues it, its table.csv holds the numbers"
        raise CheckpointError(f"{path}: this is a sweep, not a single run: {hint}")
    try:
        cell = agreed_cell(description["cell"], cell)
        check_optimizer(description["optimizer"], optimizer)
        leaves = read_arrays(path / ARRAYS, description["leaves"])
        trees = _trees(cell, description, leaves, optimizer)
    except (CheckpointError, RecursionError) as error:
        raise CheckpointError(f"{path}: {show(error)}") from error
    rest = {name: description[name] for name in ("in_features", "step", "position", "meta")}
    return Snapshot(cell, **trees, optimizer=optimizer, key=leaves.get("key"), **rest)


def _checked(description: dict[str, Any], path: Path) -> dict[str, Any]:
    """Check the content of checkpoint.json, and return it."""
    for name in sorted(description.keys() ^ TYPES.keys()):
        raise CheckpointError(f"{DESCRIPTION}: {show(name)} is {'missing' if name in TYPES else 'unknown'}")
    for name, types in TYPES.items():
        if type(description[name]) not in types:
            raise CheckpointError(f"{DESCRIPTION}: {name} is {show(description[name])}")
    if not is_described(description["optimizer"]):
        raise CheckpointError(f"{DESCRIPTION}: optimizer is {show(description['optimizer'])}")
    if description["format"] != FORMAT:
        raise CheckpointError(f"{DESCRIPTION}: format must be {FORMAT}, got {description['format']}")
    if step_of(path) not in (-1, description["step"]):
        raise CheckpointError(f"{DESCRIPTION}: step is {description['step']}, unlike that of the folder")
    return description


def _describe(snapshot: Snapshot) -> tuple[dict[str, Any], Leaves]:
    """Content of checkpoint.json, and the leaves by name; raises if they could not be loaded again."""
    if snapshot.key is not None and not is_key(jax.typeof(snapshot.key)):
        raise TypeError("Snapshot: key must be a typed key, as in jax.random.key(0)")
    require_model("Snapshot: cell", snapshot.cell)
    step = check_lag("Snapshot: step", snapshot.step)
    if step >= 10**STEP_DIGITS:
        raise ValueError(f"Snapshot: step must be below 10**{STEP_DIGITS}, got {step}")
    check_in_features(snapshot.in_features)
    _check_names("position", snapshot.position)
    _check_names("meta", snapshot.meta)
    leaves: Leaves = {}
    for part in ("params", "opt_state", "carry", "key"):
        leaves |= _flatten(part, getattr(snapshot, part))
    description = {
        "format": FORMAT,
        "cell": cell_to_json(snapshot.cell),
        "in_features": int(snapshot.in_features),
        "batch_shape": _batch_shape(snapshot),
        "opt_state": snapshot.opt_state is not None,
        "optimizer": optimizer_to_json(snapshot.optimizer),
        "step": step,
        "position": snapshot.position,
        "meta": snapshot.meta,
        "leaves": {name: leaf_to_json(leaf) for name, leaf in leaves.items()},
    }
    types = {name: jax.typeof(leaf) for name, leaf in leaves.items()}
    _trees(snapshot.cell, description, types, optimizer=None)
    return description, leaves


def _check_names(where: str, value: Any) -> None:
    """Raise for a key of a dict that JSON would turn into a string, and might thus lose."""
    if isinstance(value, dict):
        for name, inside in value.items():
            if not isinstance(name, str):
                raise TypeError(f"Snapshot: {where} must be JSON: a key is {show(name)}, needs a string")
            _check_names(f"{where}[{name!r}]", inside)
    elif isinstance(value, list | tuple):
        for index, inside in enumerate(value):
            _check_names(f"{where}[{index}]", inside)


def _batch_shape(snapshot: Snapshot) -> list[int] | None:
    """The batch axes of the carry: those that the carry of a single sequence lacks."""
    if snapshot.carry is None:
        return None
    carry = _flatten("carry", snapshot.carry)
    for name, single in _flatten("carry", carry_spec(snapshot.cell, snapshot.params)).items():
        if name in carry:
            return list(carry[name].shape[: carry[name].ndim - single.ndim])
    return []


def _trees(cell: Any, description: dict[str, Any], leaves: Leaves, optimizer: Any) -> dict[str, Any]:
    """Arrange leaves as params, opt_state and carry, and check that they match the cell and the optimizer."""
    width, batch_shape = description["in_features"], description["batch_shape"]
    whose = f"{show(cell)} with in_features={width}"
    needed = _abstract(whose, lambda: cell.init(jax.random.key(0), width))
    params = _match("params", needed, leaves, whose)
    opt_state = carry = None
    if optimizer is not None:
        if not description["opt_state"]:
            raise CheckpointError("opt_state was not saved: load without optimizer=")
        needed = jax.eval_shape(optimizer.init, params)
        opt_state = _match("opt_state", needed, leaves, "the given optimizer", dtypes=True)
    if batch_shape is not None:
        needed = _carry_needed(cell, params, tuple(batch_shape), leaves)
        carry = _match("carry", needed, leaves, f"{show(cell)} with batch_shape={tuple(batch_shape)}")
    return {"params": params, "opt_state": opt_state, "carry": carry}


def _carry_needed(cell: Any, params: Any, batch_shape: tuple[int, ...], leaves: Leaves) -> Any:
    """Shapes of the carry: its state, with noise and context if they were saved."""

    def start(params: Any, key: Any) -> Any:
        return cell.initial_carry(params, batch_shape, key=key)

    what = f"{show(cell)} with batch_shape={batch_shape}"
    plain = _abstract(what, start, params, None)
    noisy = _abstract(what, lambda params: start(params, jax.random.key(0)), params)

    def visit(path: tuple[Any, ...], state: Any, noise: Any) -> Any:
        name = _name("carry", path)
        if state is not None or not any(f"{leaf}/".startswith(f"{name}/") for leaf in leaves):
            return state
        return leaves.get(name) if noise is None else noise

    return jax.tree_util.tree_map_with_path(visit, plain, noisy, is_leaf=is_slot)


def _abstract(what: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return jax.eval_shape(function, *args)
    except Exception as error:  # any error that a wrong width or batch shape causes in a cell
        raise CheckpointError(f"{what}: {show(error)}") from error


def _match(part: str, needed: Any, leaves: Leaves, whose: str, *, dtypes: bool = False) -> Any:
    """Arrange the leaves of one part like `needed`; raise if names, shapes or dtypes differ."""
    wanted = _flatten(part, needed)
    given = {name for name in leaves if name.split("/")[0] == part}
    for name in sorted(wanted.keys() ^ given):
        what = ("missing", "needs it") if name in wanted else ("unexpected", "has no such leaf")
        raise CheckpointError(f"{name} is {what[0]}: {whose} {what[1]}")
    for name, spec in wanted.items():
        leaf = leaves[name]
        if leaf.shape != spec.shape:
            raise CheckpointError(f"{name} has shape {leaf.shape}, {whose} needs {spec.shape}")
        if is_key(leaf) != is_key(spec) or (dtypes and not is_key(leaf) and leaf.dtype != spec.dtype):
            raise CheckpointError(f"{name} has dtype {leaf.dtype}, {whose} needs {spec.dtype}")
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(part, path)], needed)


def _flatten(part: str, tree: Any) -> Leaves:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {_name(part, path): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError(f"{part} has two leaves of the same name, such as 'a/b' and 'b' in 'a'")
    return named


def _name(part: str, path: tuple[Any, ...]) -> str:
    return "/".join([part, *(jax.tree_util.keystr((entry,), simple=True) for entry in path)])
