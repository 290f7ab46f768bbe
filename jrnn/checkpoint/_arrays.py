"""Named arrays, written and read by orbax without any change of bits."""

import contextlib
import errno
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrnn.checkpoint.files import ARRAYS, DESCRIPTION, CheckpointError, show

Leaves = dict[str, Any]  # "params/w_hh": an array, or its shape and dtype

KEYS = {"key<fry>": "threefry2x32", "key<rbg>": "rbg", "key<urbg>": "unsafe_rbg"}  # dtype: implementation


def is_key(leaf: Any) -> bool:
    """True for a typed PRNG key."""
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def leaf_to_json(leaf: Any) -> dict[str, Any]:
    """Describe a leaf; `weak` marks a scalar of weak type, such as jnp.asarray(0.9)."""
    kind = jax.typeof(leaf)
    if isinstance(leaf, np.ndarray) and leaf.dtype != kind.dtype:
        hint = "turn on jax_enable_x64, or cast it"
        raise TypeError(f"Snapshot: a leaf is {leaf.dtype}, of which JAX would round the numbers: {hint}")
    if is_key(kind) and str(kind.dtype) not in KEYS:
        raise TypeError(f"PRNG keys of type {kind.dtype} cannot be stored")
    weak = bool(kind.weak_type) and kind.shape == ()
    return {"shape": list(kind.shape), "dtype": str(kind.dtype), "weak": weak}


def write_arrays(folder: Path, leaves: Leaves) -> None:
    """Write all leaves; an OSError if there is no space."""
    if jax.process_index():  # where orbax leaves NumPy arrays to process 0
        raise ValueError("save: of several processes, only the first can write, jax.process_index() == 0")
    import orbax.checkpoint as ocp

    arrays = {name: host(leaf) for name, leaf in leaves.items()}
    arrays = {name: array for name, array in arrays.items() if array.size}  # orbax rejects empty arrays
    if not arrays:
        return
    _require_space(folder.parent, sum(array.nbytes for array in arrays.values()))
    try:
        with _checkpointer() as checkpointer, _plain(folder) as path:
            checkpointer.save(path, args=ocp.args.StandardSave(arrays))
            stored = _restore(checkpointer, path)
    except CheckpointError:
        raise
    except ValueError as error:  # tensorstore's form of an OSError
        code = re.search(r"os.error\D*(\d+)", str(error), re.IGNORECASE)
        number, what = (int(code[1]), os.strerror(int(code[1]))) if code else (errno.EIO, show(error))
        raise OSError(number, what, str(folder.parent)) from error
    for name, array in arrays.items():
        if name not in stored or np.asarray(stored[name]).tobytes() != array.tobytes():
            raise OSError(errno.EIO, f"{name} differs when read back after writing", str(folder.parent))


def read_arrays(folder: Path, described: dict[str, Any]) -> Leaves:
    """Read the described leaves, and compare each with its description."""
    try:
        stored = {}
        if folder.exists():
            with _checkpointer() as checkpointer, _plain(folder) as path:
                stored = _restore(checkpointer, path)
    except CheckpointError:
        raise
    except Exception as error:  # orbax has no exception class
        raise CheckpointError(f"{ARRAYS}: {show(error)}") from error
    return {name: leaf_from(name, stored.get(name), leaf) for name, leaf in described.items()}


def _require_space(folder: Path, size: int) -> None:
    """Detect a full disk here, rather than in tensorstore's threads, which print every error."""
    free = shutil.disk_usage(folder).free
    if free < size + 2**18:  # plus the other files of a checkpoint
        what = f"{os.strerror(errno.ENOSPC)}: {size} bytes needed, {free} free"
        raise OSError(errno.ENOSPC, what, str(folder))


def _restore(checkpointer: Any, path: Path) -> dict[str, Any]:
    """Read all arrays, unless the files are far too small for them, as in a decompression bomb."""
    import orbax.checkpoint as ocp

    described = checkpointer.metadata(path).item_metadata
    shapes = described.tree.values() if described else ()
    size = sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in shapes)
    files = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if size > 2**26 + 2**10 * files:  # the zeros of an initial optimizer state come with random parameters
        raise CheckpointError(
            f"{ARRAYS}: files of {files} bytes claim to hold arrays of {size} bytes, nearly all zeros"
        )
    stored: dict[str, Any] = checkpointer.restore(path, args=ocp.args.StandardRestore())
    return stored


@contextlib.contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    """The absolute path of a folder, through a link if it contains characters that orbax interprets.

    Under `lr[0.1]` orbax does not find its own files, tensorstore converts backslashes to slashes and takes
    UTF-8 only, and `gs:` is another kind of path to them.
    """
    path = folder.absolute()
    if _is_plain(path):
        yield path
        return
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    place = next((place for place in places if _is_plain(place) and os.access(place, os.W_OK)), None)
    if place is None:
        why = f"orbax needs a link to it in a temporary folder, and {places[0]} is no plain one: set TMPDIR"
        raise OSError(errno.EINVAL, why, str(path))
    with tempfile.TemporaryDirectory(dir=place) as short:
        link = Path(short) / "run"
        link.symlink_to(path.parent, target_is_directory=True)
        yield link / path.name


def _is_plain(path: Path) -> bool:
    """True if no character of a path means something to orbax or tensorstore."""
    name = path.relative_to(path.anchor).as_posix()
    return not re.search(r"[\[\]\\*?{}:%\ud800-\udfff]", name)  # bytes that are not UTF-8 are surrogates


def host(leaf: Any) -> np.ndarray[Any, Any]:
    """The array that is stored for a leaf; for a PRNG key, its bits."""
    kind = jax.typeof(leaf)
    leaf = jax.device_get(jax.random.key_data(leaf) if is_key(kind) else leaf)
    return np.asarray(leaf) if is_key(kind) else np.asarray(leaf, kind.dtype)


def leaf_from(name: str, array: Any, described: Any) -> jax.Array:
    """Invert `host` and `leaf_to_json`; the array may be None for an empty leaf."""
    with jax.transfer_guard_host_to_device("allow"):
        return _device(name, array, described)


def _device(name: str, array: Any, described: Any) -> jax.Array:
    try:
        shape, dtype, weak = (described[field] for field in ("shape", "dtype", "weak"))
        impl = KEYS.get(dtype)
        if array is None and 0 in shape:
            one = jax.random.key(0, impl=impl) if impl else jnp.zeros((), dtype)
            leaf = jnp.broadcast_to(one, shape)
        else:
            leaf = jax.random.wrap_key_data(jnp.array(array), impl=impl) if impl else jnp.array(array)
        if weak and jnp.asarray(array.item()).dtype == leaf.dtype:
            leaf = jnp.asarray(array.item())  # a Python number has a weak type
        is_same = leaf_to_json(leaf) | {"weak": weak} == described
    except Exception as error:  # any error that a malformed description causes in NumPy or JAX
        raise CheckpointError(f"{DESCRIPTION}: {show(name)} is not an array: {show(error)}") from error
    if not is_same:
        narrowed = array is not None and dtype == str(array.dtype)
        hint = " (turn on jax_enable_x64, as in the run that saved it)" if narrowed else ""
        raise CheckpointError(f"{show(name)} should be {show(described)}, got {leaf_to_json(leaf)}{hint}")
    return leaf


@contextlib.contextmanager
def _checkpointer() -> Iterator[Any]:
    """A synchronous orbax checkpointer of this process, which does not print the errors that it raises.

    Of several processes (`jax.distributed`) one writes and any reads, so orbax must not wait for the others.
    """
    import orbax.checkpoint as ocp

    mine = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=mine, active_processes={mine} if jax.process_count() > 1 else None
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
            yield checkpointer
    finally:
        logger.setLevel(level)
