"""Loaders of text and numbers: what stands in a file comes out, and what is wrong with it is said where."""

import gzip

import pytest

from jrnn.data import corpus
from jrnn.data.files import read_lines
from jrnn.data.series import read_csv, read_ts


@pytest.fixture
def write(tmp_path):
    """Writes a file of the given content, and returns its path."""

    def write(content, name="file"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def fails(message, call, *args, error=ValueError, **options):
    with pytest.raises(error) as caught:
        call(*args, **options)
    assert str(caught.value) == message


# ---------------------------------------------------------------- opening


def test_lines_end_with_line_feeds_alone(write):
    text = "\ufeffa\r\nb\x0bc\x85d\u2028e\rf\n\n g "
    lines = ["a", "b\x0bc\x85d\u2028e\rf", "", " g "]
    assert read_lines(write(text)) == lines
    assert read_lines(write(gzip.compress(text.encode()), "named.gz")) == lines
    assert read_lines(write(gzip.compress(text.encode()), "unnamed")) == lines
    assert read_lines(write("é\n".encode("latin-1")), "latin-1") == ["é"]
    assert read_lines(write("é\n".encode("utf-16")), "utf-16") == ["é"]


LOADERS = [read_ts, read_csv]


@pytest.mark.parametrize("read", LOADERS, ids=lambda read: read.__name__)
def test_every_loader_says_what_is_wrong_with_the_file_itself(read, write, tmp_path):
    fails(f"{tmp_path}/none: no such file", read, tmp_path / "none", error=FileNotFoundError)
    fails(f"{tmp_path}: is a directory, needs a text file", read, str(tmp_path), error=IsADirectoryError)
    fails(f"{tmp_path}/empty: the file is empty", read, write("", "empty"))
    fails(f"{tmp_path}/empty.gz: the file is empty", read, write(gzip.compress(b""), "empty.gz"))
    fails(
        f"{tmp_path}/a.gz: not a gzip file, though so named: it begins with b'line'",
        read,
        write("lines", "a.gz"),
    )
    packed = gzip.compress(b"".join(b"line %d\n" % i for i in range(5000)))
    with pytest.raises(
        ValueError, match=r"a\.gz: truncated gzip, readable up to byte \d+ of its content, in"
    ):
        read(write(packed[:-600], "a.gz"))
    fails(
        f"{tmp_path}/latin: not UTF-8, byte 0xe9 at offset 8, line 3: invalid continuation byte; "
        "is it in another encoding, such as latin-1?",
        read,
        write("ä\nb\nc d".encode() + b"\xe9 x\n", "latin"),
    )
    blank = write("\n \n\n", "blank")
    with pytest.raises(ValueError, match=f"^{blank}: (has no|the header has no)"):
        read(blank)


def test_damaged_gzip_says_how_far_it_reads(write):
    packed = gzip.compress(b"a\nb\nc\n", mtime=0)
    end = "of its content, in line 4: get the file again"
    path = write(packed[:-3])
    fails(f"{path}: truncated gzip, readable up to byte 6 {end}", read_lines, path)
    write(packed[:-8] + b"\0\0\0\0" + packed[-4:])
    with pytest.raises(ValueError, match=f"{path}: damaged gzip, readable up to byte "):
        read_lines(path)


def test_text_may_be_gzip(write):
    path = write(gzip.compress("ä\r\n".encode()))
    assert corpus.read_text([path, path]) == "ä\r\n\nä\r\n"
