"""Files and folders of checkpoints: complete or absent, and verified; independent of arrays."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MANIFEST, DESCRIPTION, ARRAYS = "manifest.json", "checkpoint.json", "arrays"
STEP_DIGITS = 18  # at most, of the step in the name of a checkpoint


class CheckpointError(ValueError):
    """Raised for a missing, damaged or mismatched checkpoint, with one line that says what is wrong."""


def show(value: Any) -> str:
    """Format a value as one line of bounded length, the same in every process."""
    try:
        text = str(value) if isinstance(value, Exception) else repr(value)
    except RecursionError:
        text = "a value nested too deeply"
    text, limit = re.sub(r" at 0x[0-9a-f]+", "", " ".join(text.split())), 1000
    return text if len(text) <= limit else f"{text[:limit]} ..."


def checkpoints(directory: str | os.PathLike[str]) -> list[Path]:
    """List the complete checkpoints of a run, newest first, without verifying their content.

    Args:
      directory: folder of the run.

    Returns:
      Their folders; empty if the run has no folder.
    """
    found = [path for path in Path(directory).glob("step_*") if (path / MANIFEST).is_file()]
    return sorted((path for path in found if step_of(path) >= 0), key=_number, reverse=True)


def step_of(path: Path) -> int:
    """Step in the name of a checkpoint; −1 for other names."""
    return _number(path)[0]


def _name_beside(directory: Path, step: int) -> Path:
    """Find a free name for a checkpoint of this step, since an older one is removed only afterwards."""
    taken = [_number(path)[1] for path in directory.glob("step_*") if step_of(path) == step]
    return directory / (f"step_{step:08d}" + (f"_{max(taken) + 1}" if taken else ""))


def _number(path: Path) -> tuple[int, int]:
    """Step in the name of a checkpoint, and how often it was saved before; −1 for other names."""
    name = re.fullmatch(rf"step_([0-9]{{8,{STEP_DIGITS}}})(?:_([0-9]{{1,9}}))?", path.name)
    return (int(name[1]), int(name[2] or 0)) if name else (-1, 0)


def choose(path: Path, step: int | None) -> Path:
    """Find a checkpoint, given its folder or that of a run."""
    named = step_of(path) >= 0 and not checkpoints(path)  # a run may have the name of a checkpoint
    single = named or (path / MANIFEST).is_file()
    if single and step is None:
        return path
    run = path.parent if single else path
    found = checkpoints(run) or checkpoints(
        run
    )  # list again: one that replaced another meanwhile may have been missed
    for checkpoint in found:
        if step is None or step_of(checkpoint) == step:
            return checkpoint
    wanted = "" if step is None else f" of step {step}"
    others = f", only of step {', '.join(str(step_of(p)) for p in found)}" if found else ""
    raise CheckpointError(f"{run}: no complete checkpoint{wanted}{others}")


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file that names its owner, and is released whenever the process ends.

    Args:
      path: the file; its folder is created.
      what: the locked thing, for the message.

    Raises:
      ValueError: another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if not _lock(file):
            file.seek(0)
            raise ValueError(f"{what} is being written by {file.read(200).strip() or 'another process'}")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _lock(file: Any) -> bool:
    """Lock an open file; False if another process holds the lock. File systems without locks are accepted."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(2**30)  # after the text, which stays readable for others
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
    return True


@contextlib.contextmanager
def turn(directory: Path, *, alone: bool) -> Iterator[None]:
    """Lock the checkpoints of a folder, if the system can lock folders.

    Args:
      directory: the folder; not locked if it does not exist.
      alone: take an exclusive lock, to write; otherwise one shared with other readers.
    """
    if sys.platform == "win32" or not directory.is_dir():
        yield
        return
    import fcntl

    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(directory: Path, step: int, keep: int) -> Iterator[tuple[Path, Path]]:
    """Yield `(new folder to write to, checkpoint that it becomes)`; on success, seal and rename the folder.

    Afterwards, all other checkpoints but the newest `keep - 1` are removed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with turn(directory, alone=True):
        for unfinished in directory.glob(".step_*.tmp"):  # left by a killed process
            shutil.rmtree(unfinished)
        path = _name_beside(directory, step)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.mkdir()
            yield temporary, path
            (temporary / MANIFEST).write_bytes(_manifest(_measure(temporary)))
            _sync([*temporary.rglob("*"), temporary])
            temporary.rename(path)
            _sync([directory])
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _retain(path, keep)


def _retain(path: Path, keep: int) -> None:
    """Remove other checkpoints of the same step as `path`, and of the rest all but the newest `keep - 1`."""
    others = [other for other in checkpoints(path.parent) if other != path]
    again = [other for other in others if step_of(other) == step_of(path)]
    for old in again + [other for other in others if other not in again][keep - 1 :]:
        remove(old)


def remove(path: Path) -> None:
    """Remove a checkpoint, which at no moment looks like one that is complete and is not."""
    doomed = path.with_name(f".{path.name}.old.tmp")
    path.rename(doomed)
    shutil.rmtree(doomed)


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a hidden name, and rename it: under its own it is complete, or what it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder, create it first", str(path.absolute().parent))
    try:
        temporary.write_bytes(data)
        _sync([temporary])
        temporary.replace(path)
        _sync([path.absolute().parent])
    finally:
        temporary.unlink(missing_ok=True)


def require_file(path: Path) -> Path:
    """Return a path, or raise an OSError if it is a pipe, a socket or a device, which block or never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "is a pipe, a socket or a device, needs a file", str(path))
    return path


def verify(path: Path) -> None:
    """Compare every file of a checkpoint with the manifest, and the manifest with its checksum."""
    if not (path / MANIFEST).is_file():
        raise CheckpointError(f"{MANIFEST} is missing: the checkpoint is not complete")
    files = parse(path / MANIFEST).get("files")
    if not isinstance(files, dict) or (path / MANIFEST).read_bytes() != _manifest(files):
        raise CheckpointError(f"{MANIFEST} is corrupted: it does not match its own checksum")
    found = _measure(path)
    for name in sorted(files.keys() | found.keys()):
        if name not in found:
            raise CheckpointError(f"{name} is missing")
        if name not in files:
            raise CheckpointError(f"{name} does not belong to the checkpoint")
        if found[name] != files[name]:
            raise CheckpointError(f"{name} is corrupted: it has {found[name]}, the manifest {files[name]}")


def parse(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        parsed = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is corrupted: {show(error)}") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path.name} is corrupted: not a JSON object")
    return parsed


def offer(path: Path) -> str:
    """Name the newest intact checkpoint before this one."""
    for older in checkpoints(path.parent):
        if step_of(older) < step_of(path):
            with contextlib.suppress(CheckpointError, OSError):
                verify(older)
                return f"; {older.name} is intact: load it with step={step_of(older)}"
    return ""


def _measure(folder: Path) -> dict[str, Any]:
    """Size and sha256 of every file but the manifest."""
    files = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                files[name] = f"{file.tell()} bytes, sha256 {digest}"
    return files


def _manifest(files: dict[str, Any]) -> bytes:
    """Render the manifest, in the only accepted form."""
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": files, "sha256": digest}, indent=1, sort_keys=True).encode()


def _sync(paths: Iterable[Path]) -> None:
    """Sync files and folders to disk."""
    if os.name == "nt":  # folders cannot be opened there
        return
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
