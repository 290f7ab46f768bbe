"""Arrays in IDX files, as the digits of MNIST come."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jrnn.data.files import PathName, read_bytes

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: PathName) -> NDArray[Any]:
    r"""Read the array of an IDX file: images (n, rows, columns), or labels (n,).

        file = 0  0  dtype  ndim · size₁ … size_ndim, 4 bytes each · values, all of them big-endian

    Args:
      path: a file, plain or gzip.

    Returns:
      The array, in its own dtype: 0 to 255 for images of MNIST. Its rows as steps, (n, 28, 28) are n
      sequences of 28 steps.

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: a damaged file, a wrong beginning, or fewer or more values than its sizes say.

    Data sets: MNIST, 60,000 digits to train on and 10,000 to test on:
    `curl -LO "https://github.com/fgnt/mnist/raw/HEAD/{train,t10k}-images-idx3-ubyte.gz"`,
    `curl -LO "https://github.com/fgnt/mnist/raw/HEAD/{train,t10k}-labels-idx1-ubyte.gz"`.

    Reference: LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, 1998,
    doi:10.1109/5.726791.

    >>> import pathlib, tempfile
    >>> from jrnn.data import read_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(b"\0\0\x08\x01" + b"\0\0\0\x03" + b"\x05\x00\x04")
    ...     read_idx(path).tolist()
    [5, 0, 4]
    """
    data = read_bytes(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in DTYPES or data[3] == 0:
        raise ValueError(
            f"{path}: no IDX file, it begins with {data[:4].hex(' ')}, needs 00 00, a dtype and a number of "
            "axes, such as 00 00 08 03 for images and 00 00 08 01 for labels"
        )
    dtype, start = np.dtype(DTYPES[data[2]]), 4 + 4 * data[3]
    if len(data) < start:
        raise ValueError(f"{path}: ends at byte {len(data)}, within the sizes of its {data[3]} axes")
    shape = [int(size) for size in np.frombuffer(data[4:start], ">u4")]
    needed = start + math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise ValueError(
            f"{path}: has {len(data)} bytes, needs {needed} for shape {tuple(shape)}, as its header says"
        )
    values = np.frombuffer(data, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))
