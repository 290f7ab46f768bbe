"""Any tree of arrays, with its description, as a verified checkpoint: the state of many runs at once."""

import json
from pathlib import Path
from typing import Any

import jax

from jrnn.checkpoint._arrays import leaf_to_json, read_arrays, write_arrays
from jrnn.checkpoint.files import (
    ARRAYS,
    DESCRIPTION,
    CheckpointError,
    choose,
    offer,
    parse,
    show,
    turn,
    verify,
    writing,
)


def save_tree(directory: Path, tree: Any, step: int, position: dict[str, Any], *, keep: int = 2) -> None:
    """Write a checkpoint of a tree, which is complete on disk on return; the newest `keep` are kept."""
    leaves = _flatten(tree)
    described = {name: leaf_to_json(leaf) for name, leaf in leaves.items()}
    text = json.dumps({"tree": True, "position": position, "leaves": described}, allow_nan=False)
    with writing(directory, step, keep) as (folder, _):
        write_arrays(folder / ARRAYS, leaves)
        (folder / DESCRIPTION).write_text(text)


def read_position(directory: Path) -> dict[str, Any]:
    """The position of the newest checkpoint of a tree, after verifying every byte of it."""
    with turn(directory, alone=False):
        position: dict[str, Any] = _described(choose(directory, None))["position"]
        return position


def load_tree(directory: Path, like: Any) -> Any:
    """The tree of the newest checkpoint, with the structure, shapes and dtypes of `like`."""
    with turn(directory, alone=False):
        path = choose(directory, None)
        leaves = read_arrays(path / ARRAYS, _described(path)["leaves"])
    needed = _flatten(like)
    for name in sorted(needed.keys() ^ leaves.keys()):
        what = "missing" if name in needed else "unexpected"
        raise CheckpointError(f"{path}: {name} is {what}: it was saved by other runs")
    for name, spec in needed.items():
        kinds = [(leaf.shape, str(leaf.dtype)) for leaf in (leaves[name], spec)]
        if kinds[0] != kinds[1]:
            raise CheckpointError(f"{path}: {name} is {kinds[0]}, these runs need {kinds[1]}")
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(path)], like)


def _described(path: Path) -> dict[str, Any]:
    """Verify a checkpoint, and read its description."""
    try:
        verify(path)
        described = parse(path / DESCRIPTION)
    except (CheckpointError, RecursionError) as error:
        raise CheckpointError(f"{path}: {show(error)}{offer(path)}") from error
    if described.get("tree") is not True:
        raise CheckpointError(f"{path}: this is a single run of fit, not of sweep")
    return described


def _flatten(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
