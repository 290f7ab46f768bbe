"""Files and folders: complete or absent, and verified. Nothing here knows about arrays."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MANIFEST, DESCRIPTION, ARRAYS = "manifest.json", "checkpoint.json", "arrays"


class CheckpointError(ValueError):
    """A checkpoint is absent, damaged, or of something else; one line says what differs."""


def show(value: Any) -> str:
    """Print on one line, of bounded length, the same in every process."""
    try:
        text = str(value) if isinstance(value, Exception) else repr(value)
    except RecursionError:
        text = "something nested too deeply"
    text, limit = re.sub(r" at 0x[0-9a-f]+", "", " ".join(text.split())), 1000
    return text if len(text) <= limit else f"{text[:limit]} ..."


def checkpoints(directory: str | os.PathLike[str]) -> list[Path]:
    """List the complete checkpoints of a run, newest first; their content is not verified.

    Args:
      directory: folder of the run.

    Returns:
      Their folders; none if the run has no folder.
    """
    found = [path for path in Path(directory).glob("step_*") if (path / MANIFEST).is_file()]
    return sorted((path for path in found if step_of(path) >= 0), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Step in the name of a checkpoint; −1 for other names."""
    name = re.fullmatch(r"step_([0-9]{8,18})", path.name)
    return int(name[1]) if name else -1


def choose(path: Path, step: int | None) -> Path:
    """Find the one checkpoint that is meant, given its folder or that of a run."""
    single = step_of(path) >= 0 or (path / MANIFEST).is_file()
    if single and step is None:
        return path
    run = path.parent if single else path
    found = checkpoints(run)
    for checkpoint in found:
        if step is None or step_of(checkpoint) == step:
            return checkpoint
    wanted = "" if step is None else f" of step {step}"
    others = f", only of step {', '.join(str(step_of(p)) for p in found)}" if found else ""
    raise CheckpointError(f"{run}: no complete checkpoint{wanted}{others}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new folder to write to; seal it and rename it to `path` if all went well, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for unfinished in path.parent.glob(".step_*.tmp"):  # of a process that was killed
        shutil.rmtree(unfinished)
    temporary, replaced = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old.tmp")
    try:
        temporary.mkdir()
        yield temporary
        (temporary / MANIFEST).write_bytes(_manifest(_measure(temporary)))
        _sync([*temporary.rglob("*"), temporary])
        if path.exists():
            path.rename(replaced)
        temporary.rename(path)
        _sync([path.parent])
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def retain(path: Path, keep: int) -> None:
    """Remove all checkpoints beside `path` but the newest `keep - 1`."""
    for old in [other for other in checkpoints(path.parent) if other != path][keep - 1 :]:
        doomed = old.with_name(f".{old.name}.old.tmp")
        old.rename(doomed)  # half removed, it must not have the name of a checkpoint
        shutil.rmtree(doomed)


def verify(path: Path) -> None:
    """Compare every file of a checkpoint with its manifest, and that with its own checksum."""
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
        raise CheckpointError(f"{path.name} is corrupted: no JSON object")
    return parsed


def offer(path: Path) -> str:
    """Name the newest checkpoint before this one that is intact."""
    for older in checkpoints(path.parent):
        if step_of(older) < step_of(path):
            with contextlib.suppress(CheckpointError):
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
    """Render the manifest, in the only way that is accepted."""
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": files, "sha256": digest}, indent=1, sort_keys=True).encode()


def _sync(paths: Iterable[Path]) -> None:
    """Hand files and folders to the disk."""
    if os.name == "nt":  # folders cannot be opened there
        return
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
