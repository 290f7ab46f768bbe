"""Opening files: plain, gzip or zip, with what is wrong and where."""

import gzip
import io
import zipfile
import zlib
from os import PathLike
from pathlib import Path

PathName = str | PathLike[str]


def fault(path: PathName, line: int, reason: str) -> ValueError:
    """The error that says in which file and line the fault lies.

    Args:
      path: of the file.
      line: counted from 1.
      reason: what is wrong with it, and what was needed.

    Returns:
      The error, to be raised.

    >>> from jrnn.data.files import fault
    >>> fault("a.tsv", 3, "1 column, needs 2")
    ValueError('a.tsv, line 3: 1 column, needs 2')
    """
    return ValueError(f"{path}, line {line}: {reason}")


def read_bytes(path: PathName, kind: str = "file") -> bytes:
    """Content of a file; of a gzip file, what is packed in it.

    A gzip file is known by its first two bytes, so it needs no `.gz` in its name.

    Args:
      path: of the file.
      kind: what it should be, for the message.

    Returns:
      One byte at least.

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: an empty file, a name that ends in `.gz` and a content that is no gzip, or a gzip that
        breaks off or is damaged, with the place.

    >>> from jrnn.data.files import read_bytes
    >>> read_bytes("no/such/file")
    Traceback (most recent call last):
    FileNotFoundError: no/such/file: no such file
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory, needs a {kind}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = _gunzip(path, data)
    elif data and path.suffix == ".gz":
        raise ValueError(f"{path}: not a gzip file, though so named: it begins with {data[:4]!r}")
    if not data:
        raise ValueError(f"{path}: the file is empty")
    return data


def _gunzip(path: Path, data: bytes) -> bytes:
    content = bytearray()
    stream = gzip.GzipFile(fileobj=io.BytesIO(data))
    try:
        while part := stream.read1():
            content += part
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        state = "truncated" if isinstance(error, EOFError) else "damaged"
        line = 1 + content.count(b"\n")
        raise ValueError(
            f"{path}: {state} gzip, readable up to byte {len(content)} of its content, in line {line}: "
            "get the file again"
        ) from error
    return bytes(content)


def read_lines(path: PathName, encoding: str = "utf-8", member: str | None = None) -> list[str]:
    """Lines of a text file, which may be packed with gzip or be a member of a zip file.

    A line ends with a line feed, with or without a carriage return before it; both are taken off, and so
    is a byte-order mark at the start. No other character ends a line.

    Args:
      path: of the file.
      encoding: of its text.
      member: name of the file in a zip file; needed if it holds more than one.

    Returns:
      The lines; line n of the file is lines[n − 1].

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: as `read_bytes` and `decode`, or a zip file without that member.

    >>> from jrnn.data.files import read_lines
    >>> read_lines("no/such/file")
    Traceback (most recent call last):
    FileNotFoundError: no/such/file: no such file
    """
    data = read_bytes(path, "text file")
    if data.startswith(b"PK\x03\x04"):
        data = _unzip(path, data, member)
    elif member is not None:
        raise ValueError(f"{path}: no zip file, yet member={member!r} was given")
    lines = decode(path, data, encoding).removeprefix("\ufeff").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _unzip(path: PathName, data: bytes, member: str | None) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if member is None and len(names) != 1:
                raise ValueError(f"{path}: a zip file of {', '.join(names)}: give one of them as member")
            if member is not None and member not in names:
                raise ValueError(f"{path}: has no member {member!r}, but {', '.join(names)}")
            return archive.read(member or names[0])
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: damaged zip file, get it again: {error}") from error


def decode(path: PathName, data: bytes, encoding: str = "utf-8") -> str:
    r"""Text of bytes, or an error that says which byte is none.

    Args:
      path: where they are from, for the message.
      data: the bytes.
      encoding: of the text.

    Returns:
      The text.

    Raises:
      ValueError: a byte that has no place in the encoding, with its offset and line, or an unknown encoding.

    >>> from jrnn.data.files import decode
    >>> decode("a.txt", b"ab\nc\xe9", "latin-1")
    'ab\ncé'
    """
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise ValueError(
            f"{path}: not {encoding.upper()}, byte {data[error.start]:#04x} at offset {error.start}, "
            f"line {line}: {error.reason}; is it in another encoding, such as latin-1?"
        ) from error
    except LookupError as error:
        raise ValueError(f"encoding must be one that Python knows, got {encoding!r}") from error
