"""Sharing parameters: one model in one safetensors file, which other libraries can read."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrnn._alignment import on_device
from jrnn._checks import check_path, require_model
from jrnn.checkpoint.cells import agreed_cell, cell_to_json
from jrnn.checkpoint.files import CheckpointError, require_file, show, write_file
from jrnn.unrolling._rounding import native

FORMAT = "1"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
DTYPES |= {"I64": "int64", "I32": "int32", "U32": "uint32", "U8": "uint8", "BOOL": "bool"}

Arrays = dict[str, np.ndarray[Any, Any]]  # "0.forward.w_ih": a leaf of params


def save_params(
    path: str | os.PathLike[str], cell: Any, params: Any, *, in_features: int | None = None
) -> Path:
    """Write a cell or layer with its parameters to a safetensors file, which is on disk on return.

    Leaves are named by their paths in the tree, such as "0.forward.w_ih", and keep their dtypes; the cell is
    JSON in the metadata. `load_params` reads the file, and so does any reader of safetensors; matrices are
    (in, gates · hidden), as documented for each cell. For the layout and names of PyTorch use
    `safetensors.numpy.save_file(jrnn.interop.to_torch(cell, params), path)`.

    Args:
      path: the file, in an existing folder; an existing file is replaced atomically.
      cell: a cell or layer; if jrnn does not export its class, `load_params` needs the cell again.
      params: its parameters.
      in_features: the width that `cell.init` was called with, if the shapes do not determine it.

    Returns:
      The path.

    Raises:
      ValueError: params do not match `cell.init` for any width (or for `in_features`).
      TypeError: a field of the cell is not JSON, or a leaf is complex or a PRNG key.
      OSError: the file cannot be written.

    >>> import jax, jrnn, tempfile
    >>> cell = jrnn.Stack((jrnn.Embed(4), jrnn.GRU(3)))
    >>> file = tempfile.mkdtemp() + "/model.safetensors"
    >>> path = jrnn.save_params(file, cell, cell.init(jax.random.key(0), in_features=9))
    >>> jrnn.load_params(file)[0]
    Stack(cells=(Embed(features=4), GRU(hidden=3)))
    """
    import safetensors.numpy

    path = check_path("save_params: path", path)
    require_model("save_params: cell", cell)
    leaves = _named(params)
    arrays = {name: np.array(native(jax.device_get(leaf)), order="C") for name, leaf in leaves.items()}
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES.values():
            raise TypeError(
                f"save_params: {name} is {array.dtype}, needs one of {', '.join(DTYPES.values())}"
            )
    width = _width(cell, params, in_features)
    described = json.dumps(cell_to_json(cell), allow_nan=False)
    metadata = {"jrnn": FORMAT, "cell": described, "in_features": str(width)}
    metadata["sha256"] = _digest(metadata, arrays)
    write_file(path, safetensors.numpy.save(arrays, metadata=metadata))
    return path


def load_params(path: str | os.PathLike[str], *, cell: Any = None) -> tuple[Any, Any]:
    """Read a file of `save_params`, after verifying every byte; no code in the file is executed.

    Args:
      path: the file.
      cell: the saved cell; needed if it is, or contains, a cell of a class that is not jrnn's.

    Returns:
      `(cell, params)`, bit for bit, on the default device.

    Raises:
      CheckpointError: no file; a truncated, corrupted or foreign file; leaves that are missing, unexpected or
        of a wrong shape; a cell unknown to this version of jrnn, or other than the given one; float64 without
        `jax_enable_x64`.

    >>> import jax, jrnn, tempfile
    >>> file = tempfile.mkdtemp() + "/model.safetensors"
    >>> path = jrnn.save_params(file, jrnn.GRU(3), jrnn.GRU(3).init(jax.random.key(0), 2))
    >>> cell, params = jrnn.load_params(file)
    >>> cell, params.w_ih.shape
    (GRU(hidden=3), (2, 9))
    """
    try:
        metadata, arrays = _verified(require_file(check_path("load_params: path", path)).read_bytes())
        cell = agreed_cell(json.loads(metadata["cell"]), cell)
        width = int(metadata["in_features"])
        return cell, _tree(f"{show(cell)} with in_features={width}", _spec(cell, width), arrays)
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{os.fspath(path)}: {show(error)}") from error


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {_name(path): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("params has two leaves of the same name, such as 'a.b' and 'b' in 'a'")
    return named


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _spec(cell: Any, width: int) -> Any:
    """Shapes of the parameters for a width; any error of the cell becomes a CheckpointError."""
    try:
        return jax.eval_shape(lambda: cell.init(jax.random.key(0), width))
    except Exception as error:
        raise CheckpointError(f"{show(cell)} with in_features={width}: {show(error)}") from error


def _width(cell: Any, params: Any, given: int | None) -> int:
    """Infer the width that a cell was initialized with from the shapes of its parameters."""
    shapes = _shapes(params)
    for width in (given,) if given is not None else _widths(params):
        with contextlib.suppress(CheckpointError):  # the cell does not accept this width
            if _shapes(_spec(cell, width)) == shapes:
                return width
    of = f"with in_features={given}" if given is not None else "for any in_features that was tried"
    raise ValueError(f"save_params: params are not those of {show(cell)} {of}, they are {show(shapes)}")


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {name: jnp.shape(leaf) for name, leaf in _named(params).items()}


def _widths(params: Any) -> Iterator[int]:
    """Candidate widths: the lengths of all axes, then those that could be a part of them."""
    lengths = {length for leaf in jax.tree.leaves(params) for length in jnp.shape(leaf)} - {0}
    yield from sorted(lengths)
    parts = {length // count for length in lengths for count in range(2, 65) if length % count == 0}
    parts |= {long - short for long in lengths for short in lengths if long > short}
    yield from sorted((parts | set(range(1, 65))) - lengths)


def _digest(metadata: dict[str, str], arrays: Arrays) -> str:
    """The checksum of metadata and arrays."""
    digest = hashlib.sha256(json.dumps([metadata[name] for name in ("jrnn", "cell", "in_features")]).encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _verified(data: bytes) -> tuple[dict[str, str], Arrays]:
    """Metadata and arrays of a file, after comparing their checksum."""
    from safetensors import SafetensorError, deserialize

    try:
        found = deserialize(data)
    except SafetensorError as error:
        raise CheckpointError(f"truncated, or no safetensors file: {show(error)}") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__") or {}
    if not {"jrnn", "cell", "in_features", "sha256"} <= metadata.keys():
        raise CheckpointError(
            "no file of save_params: its metadata name no cell. Weights of PyTorch: read it by "
            "safetensors.numpy.load_file, and give that to jrnn.interop.from_torch"
        )
    if metadata["jrnn"] != FORMAT:
        raise CheckpointError(f"format {show(metadata['jrnn'])} is unknown to this jrnn")
    arrays = {name: _array(name, value) for name, value in found}
    if _digest(metadata, arrays) != metadata["sha256"]:
        raise CheckpointError("corrupted: it does not match its own checksum")
    return metadata, arrays


def _array(name: str, stored: dict[str, Any]) -> np.ndarray[Any, Any]:
    if stored["dtype"] not in DTYPES:
        raise CheckpointError(f"{show(name)} is {stored['dtype']}, which jrnn does not write")
    dtype = jnp.dtype(DTYPES[stored["dtype"]])
    return np.frombuffer(stored["data"], dtype).reshape(stored["shape"])


def _tree(whose: str, needed: Any, arrays: Arrays) -> Any:
    """Arrange arrays like the needed parameters, and check their names and shapes."""
    wanted = _named(needed)
    for name in sorted(wanted.keys() ^ arrays.keys()):
        what = ("missing", "needs it") if name in wanted else ("unexpected", "has no such leaf")
        raise CheckpointError(f"{show(name)} is {what[0]}: {whose} {what[1]}")
    for name, spec in wanted.items():
        array = arrays[name]
        if array.shape != spec.shape:
            raise CheckpointError(f"{name} has shape {array.shape}, {whose} needs {spec.shape}")
        if (dtype := jax.dtypes.canonicalize_dtype(array.dtype)) != array.dtype:
            raise CheckpointError(
                f"{name} is {array.dtype}, of which JAX makes {dtype}: turn on jax_enable_x64"
            )
    return jax.tree_util.tree_map_with_path(lambda path, _: on_device(arrays[_name(path)]), needed)
