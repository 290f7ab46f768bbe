"""Training text: from files, or the Python language reference."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from jrnn._checks import brief

Text = TypeVar("Text", str, NDArray[Any])


def python_reference() -> str:
    """The Python language reference that ships with CPython, about 465,000 characters.

    These are the help topics of `pydoc`, sorted by name. The text differs between Python versions.

    Returns:
      The text.

    >>> from jrnn.data import python_reference
    >>> "assignment" in python_reference()
    True
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def read_text(paths: Iterable[str | PathLike[str]]) -> str:
    """Read text files and join them with newlines, in the given order.

    Args:
      paths: one or more UTF-8 files. Line endings are kept, leading byte-order marks are removed.

    Returns:
      The text.

    Raises:
      FileNotFoundError: a file is missing.
      IsADirectoryError: a path is a directory.
      ValueError: no paths; a pipe, socket or device, which is never opened; an empty file; or a file that is
        not UTF-8, with the offset and line of the first bad byte.

    >>> from jrnn.data import read_text
    >>> read_text(["no/such/file.txt"])
    Traceback (most recent call last):
    FileNotFoundError: no/such/file.txt: no such file
    """
    if isinstance(paths, (str, bytes, PathLike)):
        raise ValueError(
            f"paths must be a list of paths, got the single {brief(str(paths))}: put it in brackets"
        )
    texts = [_read(Path(path)) for path in paths]
    if not texts:
        raise ValueError("paths is empty, needs at least one file")
    return "\n".join(texts)


def split(text: Text, held_out: float = 0.1) -> tuple[Text, Text]:
    """Split a text, or its tokens, into training and validation data; validation data is the end.

        validation = the last round(held_out · len(text)) elements

    Args:
      text: a string, or an array, split along its first axis.
      held_out: fraction of the validation data, in (0, 1).

    Returns:
      `(train, validation)`.

    Raises:
      ValueError: a fraction outside (0, 1), or a text so short that a part would be empty.

    >>> from jrnn.data import split
    >>> split("0123456789", held_out=0.2)
    ('01234567', '89')
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must lie between 0 and 1, got {held_out}")
    count = round(held_out * len(text))
    if count in (0, len(text)):
        raise ValueError(
            f"text has {len(text)} elements, too short to hold out {held_out:.0%}: a part would be empty"
        )
    return text[:-count], text[-count:]


def _read(path: Path) -> str:
    """Text of one file."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory, needs a text file")
    if not path.is_file():  # opening a pipe would wait for a writer, and a device may never end
        raise ValueError(f"{path}: is a pipe, a socket or a device, needs a text file")
    data = path.read_bytes()
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        place = f"byte {data[error.start]:#04x} at offset {error.start}, line {line}"
        raise ValueError(f"{path}: not UTF-8, {place}: {error.reason}") from error
    if not text:
        raise ValueError(f"{path}: the file is empty")
    return text
