"""Snapshots of a run, saved and loaded."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import jax

from jrnn.cell import carry_spec, is_slot
from jrnn.checkpoint._arrays import Leaves, is_key, leaf_to_json, read_arrays, write_arrays
from jrnn.checkpoint._optimizers import check_optimizer, is_described, optimizer_to_json
from jrnn.checkpoint.cells import agreed_cell, cell_to_json
from jrnn.checkpoint.files import (
    ARRAYS,
    DESCRIPTION,
    MANIFEST,
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

TYPES: dict[str, tuple[type, ...]] = {  # of what checkpoint.json holds
    "format": (int,),
    "cell": (dict,),
    "in_features": (int,),
    "batch_shape": (list, NoneType),  # of the carry, None without one
    "opt_state": (bool,),  # whether there is one: it may have no leaves
    "optimizer": (list, NoneType),  # the transformations that it is made of
    "step": (int,),
    "position": (dict,),
    "meta": (dict,),
    "leaves": (dict,),
}


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a run needs to go on.

    Args:
      cell: a cell or layer.
      in_features: the width that `cell.init` was called with.
      params: its parameters, in whatever dtype they are held.
      opt_state: state of the optimizer, or None.
      carry: where a stream stands, of any batch shape, with or without noise, or None.
      key: a typed PRNG key, or None.
      step: number of steps done.
      position: where the data stands, as JSON: `{"epoch": 3, "batch": 17}`.
      meta: what else is worth keeping, as JSON: vocabulary, arguments. Tuples come back as lists.
      optimizer: the optax optimizer of `opt_state`, or None. Stored are the transformations that it is made
        of, not their numbers, so that `load` can refuse another one.
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
    """Write a checkpoint; on return it is on disk. One of the same step is replaced.

    Args:
      directory: folder of the run, made if need be; one process at a time writes to it.
      snapshot: what to save.
      keep: how many checkpoints to leave there, this one included; others go once it is complete.

    Returns:
      The folder of the checkpoint.

    Raises:
      OSError: no space left, or not writable; the earlier checkpoints stand as they were.
      TypeError: the key is not typed, or position, meta or a field of the cell is not JSON.
      ValueError: params or carry are not those of the cell (`CheckpointError`); `keep` is below 1.

    >>> import jax, jrnn, tempfile
    >>> cell = jrnn.LSTM(3)
    >>> snapshot = Snapshot(cell, 2, cell.init(jax.random.key(0), 2), step=7, position={"epoch": 1})
    >>> save(tempfile.mkdtemp(), snapshot).name
    'step_00000007'
    """
    if not isinstance(snapshot, Snapshot):
        hint = "save(directory, jrnn.Snapshot(cell, in_features, params))"
        raise TypeError(f"save: snapshot must be a Snapshot, got {show(snapshot)[:80]}: {hint}")
    if keep < 1:
        raise ValueError(f"save: keep must be at least 1, got {keep}")
    description, leaves = _describe(snapshot)
    try:
        text = json.dumps(description, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"Snapshot: position and meta must be JSON: {error}") from None
    _checked(json.loads(text), Path())
    with writing(Path(directory), description["step"], keep) as (folder, path):
        write_arrays(folder / ARRAYS, leaves)
        (folder / DESCRIPTION).write_text(text)
    return path


def load(
    directory: str | os.PathLike[str],
    *,
    best: bool = False,
    cell: Any = None,
    optimizer: Any = None,
    step: int | None = None,
) -> Snapshot:
    """Read a checkpoint, after every byte of it has been verified.

    `load(out)` is where a run of `fit(out=out)` stands, and `load(out, best=True)` its best epoch: the
    parameters that `fit` returns.

    Args:
      directory: folder of a run, of which the newest complete checkpoint is taken, or of a checkpoint.
      best: take the parameters of the best epoch, which `fit` keeps where it is given `validation`.
      cell: the cell that was saved; needed where it is, or holds, one of a class that is not jrnn's.
      optimizer: the optax optimizer whose state was saved; without it `opt_state` is None. Its numbers may
        differ from those of the one that was saved with, the transformations that it is made of may not.
      step: take the checkpoint of this step.

    Returns:
      What was saved, bit for bit, on the default device.

    Raises:
      CheckpointError: there is none; it is corrupted, truncated or malformed (the message names the file, and
        an older checkpoint that is intact); or it is of another cell or optimizer (it names what differs).

    >>> import jax, jrnn, tempfile
    >>> cell, run = jrnn.GRU(3), tempfile.mkdtemp()
    >>> path = save(run, Snapshot(cell, 2, cell.init(jax.random.key(0), 2), step=7))
    >>> load(run).cell, load(run).step
    (GRU(hidden=3), 7)
    """
    folder = Path(directory) / "best" if best else Path(directory)
    if best and not folder.exists():
        raise CheckpointError(f"{folder}: there is none: fit keeps the best epoch where it has validation")
    run = folder.parent if (folder / MANIFEST).is_file() else folder
    with turn(run, alone=False):  # what a run replaces meanwhile must not vanish half read
        return _read(choose(folder, step), cell, optimizer)


def _read(path: Path, cell: Any, optimizer: Any) -> Snapshot:
    """Verify one checkpoint, and read it."""
    try:
        verify(path)
        description = _checked(parse(path / DESCRIPTION), path)
    except (CheckpointError, RecursionError) as error:
        raise CheckpointError(f"{path}: {show(error)}{offer(path)}") from error
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
    """Return the content of checkpoint.json if it is what jrnn writes."""
    for name in sorted(description.keys() ^ TYPES.keys()):
        raise CheckpointError(f"{DESCRIPTION}: {show(name)} is {'missing' if name in TYPES else 'unknown'}")
    for name, types in TYPES.items():
        if type(description[name]) not in types:
            raise CheckpointError(f"{DESCRIPTION}: {name} is {show(description[name])}")
    if not is_described(description["optimizer"]):
        raise CheckpointError(f"{DESCRIPTION}: optimizer is {show(description['optimizer'])}")
    if description["format"] != FORMAT:
        raise CheckpointError(f"{DESCRIPTION}: format {description['format']} is unknown to this jrnn")
    if step_of(path) not in (-1, description["step"]):
        raise CheckpointError(f"{DESCRIPTION}: step is {description['step']}, not that of the folder")
    return description


def _describe(snapshot: Snapshot) -> tuple[dict[str, Any], Leaves]:
    """Content of checkpoint.json and the leaves by name; what could not be loaded again is refused."""
    if snapshot.key is not None and not is_key(jax.typeof(snapshot.key)):
        raise TypeError("Snapshot: key must be a typed key, such as jax.random.key(0) makes")
    if snapshot.step < 0:
        raise ValueError(f"Snapshot: step must be at least 0, got {snapshot.step}")
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
        "step": int(snapshot.step),
        "position": snapshot.position,
        "meta": snapshot.meta,
        "leaves": {name: leaf_to_json(leaf) for name, leaf in leaves.items()},
    }
    types = {name: jax.typeof(leaf) for name, leaf in leaves.items()}
    _trees(snapshot.cell, description, types, optimizer=None)
    return description, leaves


def _batch_shape(snapshot: Snapshot) -> list[int] | None:
    """The axes by which the carry exceeds that of a single sequence."""
    if snapshot.carry is None:
        return None
    carry = _flatten("carry", snapshot.carry)
    for name, single in _flatten("carry", carry_spec(snapshot.cell, snapshot.params)).items():
        if name in carry:
            return list(carry[name].shape[: carry[name].ndim - single.ndim])
    return []


def _trees(cell: Any, description: dict[str, Any], leaves: Leaves, optimizer: Any) -> dict[str, Any]:
    """Arrange leaves as params, opt_state and carry; they must be those of the cell and the optimizer."""
    width, batch_shape = description["in_features"], description["batch_shape"]
    whose = f"{show(cell)} with in_features={width}"
    needed = _abstract(whose, lambda: cell.init(jax.random.key(0), width))
    params = _match("params", needed, leaves, whose)
    opt_state = carry = None
    if optimizer is not None:
        if not description["opt_state"]:
            raise CheckpointError("opt_state was not saved: load it without optimizer=")
        needed = jax.eval_shape(optimizer.init, params)
        opt_state = _match("opt_state", needed, leaves, "the optimizer given", dtypes=True)
    if batch_shape is not None:
        needed = _carry_needed(cell, params, tuple(batch_shape), leaves)
        carry = _match("carry", needed, leaves, f"{show(cell)} with batch_shape={tuple(batch_shape)}")
    return {"params": params, "opt_state": opt_state, "carry": carry}


def _carry_needed(cell: Any, params: Any, batch_shape: tuple[int, ...], leaves: Leaves) -> Any:
    """Shapes of the carry: its state, noise and context only where they were saved."""

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
    except Exception as error:  # whatever a cell makes of a width or a batch that is not its own
        raise CheckpointError(f"{what}: {show(error)}") from error


def _match(part: str, needed: Any, leaves: Leaves, whose: str, *, dtypes: bool = False) -> Any:
    """Put the leaves of one part in place of those needed; the same names, shapes and dtypes or an error."""
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
        raise ValueError(f"{part} has two leaves of one name, such as under 'a/b' and under 'b' in 'a'")
    return named


def _name(part: str, path: tuple[Any, ...]) -> str:
    return "/".join([part, *(jax.tree_util.keystr((entry,), simple=True) for entry in path)])
