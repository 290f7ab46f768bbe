"""Series of numbers: `.ts` files of classified series, CSV files of one long series, and its blocks."""

import csv
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jrnn.checks import brief, check_choice, check_width
from jrnn.data.files import PathName, fault, read_lines

MISSING = ("", "?", "na", "nan", "null")


class LabelledSeries(NamedTuple):
    """Series, each of one class."""

    sequences: list[NDArray[np.float32]]  # n of (T, channels)
    labels: NDArray[np.int32]  # (n,), indices into classes
    classes: tuple[str, ...]


class Table(NamedTuple):
    """A series, one step a row."""

    names: tuple[str, ...]  # of the features
    values: NDArray[np.float64]  # (T, features)
    times: tuple[str, ...] | None  # of the steps, as they are written


def read_ts(path: PathName, *, missing: str = "error") -> LabelledSeries:
    r"""Read classified series from a `.ts` file, as the archive of time-series classification has them.

    After a header of lines that begin with @, each line is a series: its channels, parted by colons, each
    of them numbers parted by commas, and its class at the end. Series may differ in length. Empty lines
    and those that begin with # are left out.

    Args:
      path: a file, plain or gzip.
      missing: what becomes of a `?` or NaN: `"error"`, or `"nan"`, which keeps it as NaN.

    Returns:
      The series, ready for `padded_batches`; the classes have the order of the header.

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: a damaged file, a header without classes or with time stamps, channels of different
        lengths, a line that contradicts the header, or a value that is missing or no number, with the line.

    Data sets: 158 of them, such as JapaneseVowels, 270 and 370 series of 7 to 29 steps and 12 channels:
    `curl -LO https://timeseriesclassification.com/aeon-toolkit/JapaneseVowels.zip`, unpacked.

    Reference: Bagnall et al., The UEA multivariate time series classification archive, 2018,
    arXiv:1811.00075.

    >>> import pathlib, tempfile
    >>> from jrnn.data import read_ts
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.ts")
    ...     _ = path.write_text("@classLabel true up down\n@data\n1,2,3:4,5,6:up\n9,8:7,6:down\n")
    ...     [series.T.tolist() for series in read_ts(path).sequences]
    [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[9.0, 8.0], [7.0, 6.0]]]
    """
    check_choice("missing", missing, ("error", "nan"))
    lines = [
        (number, line.strip())
        for number, line in enumerate(read_lines(path), 1)
        if line.strip() and not line.startswith("#")
    ]
    header = _read_header(path, lines)
    classes = tuple(header["@classlabel"][1:])
    channels = int(header["@dimensions"][0]) if "@dimensions" in header else None
    if header.get("@univariate") == ["true"]:
        channels = 1
    equal = header.get("@equallength") == ["true"] and "@serieslength" in header
    steps = int(header["@serieslength"][0]) if equal else None
    sequences, labels = [], []
    for number, line in lines[len(header) :]:
        *texts, label = line.split(":")
        if label.strip() not in classes:
            raise fault(path, number, f"class {brief(label.strip())} is none of {', '.join(classes)}")
        channels = channels or max(1, len(texts))
        sequences.append(_read_case(path, number, texts, (steps, channels), missing))
        labels.append(classes.index(label.strip()))
    if not sequences:
        raise ValueError(f"{path}: has no series after @data")
    return LabelledSeries(sequences, np.array(labels, np.int32), classes)


def _read_header(path: PathName, lines: list[tuple[int, str]]) -> dict[str, list[str]]:
    """Words after each keyword, in lower case, `@data` the last; one line each."""
    header: dict[str, list[str]] = {}
    for number, line in lines:
        keyword, *words = line.split()
        keyword = keyword.lower()
        if not keyword.startswith("@") or keyword in header:
            raise fault(path, number, f"{keyword[:20]!r} in the header, needs one line each, up to @data")
        if keyword in ("@dimensions", "@serieslength") and not (len(words) == 1 and words[0].isdecimal()):
            raise fault(path, number, f"{line!r}, needs a whole number")
        if keyword == "@timestamps" and words != ["false"]:
            raise fault(path, number, f"{line!r}, series with time stamps are not read")
        if keyword == "@classlabel" and (words[:1] != ["true"] or len(words) < 2):
            raise fault(path, number, f"{line!r}, needs true and the names of the classes")
        header[keyword] = words if keyword == "@classlabel" else [word.lower() for word in words]
        if keyword == "@data":
            break
    for keyword in ("@data", "@classLabel"):
        if keyword.lower() not in header:
            raise ValueError(f"{path}: the header has no {keyword}")
    return header


def _read_case(
    path: PathName, number: int, texts: list[str], shape: tuple[int | None, int], missing: str
) -> NDArray[np.float32]:
    """The channels of one line as (T, channels); of the shape, T may be free."""
    steps, channels = shape
    if len(texts) != channels:
        raise fault(path, number, f"{len(texts)} channels, needs {channels}, as all have")
    rows = []
    for channel, text in enumerate(texts, 1):
        values = text.split(",")
        steps = steps or len(values)
        if len(values) != steps:
            source = "channel 1 has" if channel > 1 else "the header says"
            raise fault(
                path, number, f"channel {channel} has {len(values)} values, needs {steps}, as {source}"
            )
        row = [_parse(value) for value in values]
        for place, (found, value) in enumerate(zip(row, values, strict=True), 1):
            if found is None or (missing == "error" and math.isnan(found)):
                state = "no finite number" if found is None else 'missing, which missing="nan" allows'
                raise fault(path, number, f"value {place} of channel {channel}, {value!r}, is {state}")
        rows.append(row)
    return np.array(rows, np.float32).T


def _parse(text: str) -> float | None:
    """Value of a text, NaN where it says that there is none; None if it is no finite number."""
    if text.strip().lower() in MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def read_csv(
    path: PathName,
    columns: Sequence[str] | None = None,
    *,
    missing: str = "error",
    separator: str = ",",
    encoding: str = "utf-8",
) -> Table:
    r"""Read a series from a CSV file, one step a row.

    The first row is a header of names if no cell of it is a number; without one, columns are named "0",
    "1", …. The first column that is not of numbers, such as dates, becomes `times`. Empty lines are left
    out. A cell is missing if it is empty, ?, NA, NaN or null. Nothing else is repaired: a cell such as
    `?0.2`, which some copies of the Melbourne temperatures have, is an error.

    Args:
      path: a file, plain or gzip.
      columns: names of the features, in the order wanted; all columns but `times` if left out.
      missing: what becomes of a missing cell: `"error"`, `"nan"`, `"previous"`, the last value before it, or
        `"interpolate"`, the straight line between its neighbours, which looks ahead; beyond the ends, the
        nearest value.
      separator: of the cells, one character.
      encoding: of the text.

    Returns:
      The series; float64, so that large values may be scaled without loss.

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: a damaged file, a row with another number of cells than the first, a cell that is missing
        or no number, with line and column, or a column that is not there.

    Data sets: electricity transformers (ETTh1):
    `curl -LO https://github.com/zhouhaoyi/ETDataset/raw/HEAD/ETT-small/ETTh1.csv`; airline-passengers,
    daily-min-temperatures, monthly-sunspots, shampoo:
    `curl -LO https://github.com/jbrownlee/Datasets/raw/HEAD/airline-passengers.csv`; S&P 500:
    `curl -LO https://github.com/vega/vega-datasets/raw/HEAD/data/sp500-2000.csv`; EEG eye state:
    `curl -LO https://github.com/datasets/eeg-eye-state/raw/HEAD/data/eeg-eye-state.csv`.

    >>> import pathlib, tempfile
    >>> from jrnn.data import read_csv
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "air.csv")
    ...     _ = path.write_text('"Month","Passengers"\n1949-01,112\n1949-02,118\n')
    ...     read_csv(path)
    Table(names=('Passengers',), values=array([[112.], [118.]]), times=('1949-01', '1949-02'))
    """
    check_choice("missing", missing, ("error", "nan", "previous", "interpolate"))
    if isinstance(columns, str):
        raise ValueError(f"columns must be a list of names, got the single {columns!r}: put it in brackets")
    names, rows = _read_rows(path, separator, encoding)
    first = [_parse(cell) for cell in rows[0][1]]
    time = first.index(None) if None in first else None  # the column of times
    if columns is None:
        columns = [name for column, name in enumerate(names) if column != time]
    for name in columns:
        if name not in names:
            raise ValueError(f"{path}: has no column {name!r}, but {', '.join(names)}")
    if not columns:
        raise ValueError(f"{path}: has no column of numbers")
    values = np.array([_read_feature(path, rows, names.index(name), name, missing) for name in columns])
    times = None if time is None else tuple(cells[time] for _, cells in rows)
    return Table(tuple(columns), np.ascontiguousarray(values.T), times)


def _read_rows(
    path: PathName, separator: str, encoding: str
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Names of the columns, and the cells of each row with its line; as many in each."""
    lines = read_lines(path, encoding)
    reader = csv.reader(
        (line + "\n" for line in lines), delimiter=separator, skipinitialspace=True, strict=True
    )
    rows = []
    try:
        for cells in reader:
            if len(cells) > 1 or "".join(cells).strip():
                rows.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise fault(path, reader.line_num, f"no CSV: {error}") from error
    if not rows:
        raise ValueError(f"{path}: has no row")
    names = rows[0][1]
    for number, cells in rows:
        if len(cells) != len(names):
            raise fault(path, number, f"{len(cells)} cells, the first row has {len(names)}")
    found = [_parse(name) for name in names]
    if None in found and all(value is None or math.isnan(value) for value in found):
        rows = rows[1:]
    else:
        names = [str(column) for column in range(len(names))]
    if not rows:
        raise ValueError(f"{path}: has no row but its header")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: has two columns named {name!r}")
    return names, rows


def _read_feature(
    path: PathName, rows: list[tuple[int, list[str]]], column: int, name: str, missing: str
) -> NDArray[np.float64]:
    """The numbers of one column, (T,)."""
    found = []
    for number, cells in rows:
        value = _parse(cells[column])
        if value is None:
            reason = f"column {name!r} has {cells[column]!r}, no finite number: name others as columns"
            raise fault(path, number, reason)
        if missing == "error" and math.isnan(value):
            reason = f'column {name!r} misses its value ({cells[column]!r}), which missing="previous" fills'
            raise fault(path, number, reason)
        found.append(value)
    values, steps = np.array(found), np.arange(len(found))
    known = ~np.isnan(values)
    if missing in ("error", "nan") or known.all():
        return values
    if not known.any():
        raise ValueError(f"{path}: column {name!r} has no value at all")
    if missing == "interpolate":
        return np.interp(steps, steps[known], values[known])
    if not known[0]:
        raise fault(path, rows[0][0], f"column {name!r} misses its value, and no previous one fills it")
    return values[np.maximum.accumulate(np.where(known, steps, 0))]


def blocks(
    length: int, count: int, held_out: float = 0.2
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Cut time into equal blocks, some to train on and some, evenly spread, to test on.

        block i = steps ⌊i · length / count⌋ … ⌊(i + 1) · length / count⌋ − 1
        tested  = blocks ⌊(2j + 1) · count / (2m)⌋,   j < m = round(held_out · count)

    For one long recording, such as EEG: steps beside one another are nearly alike, so that random steps or
    overlapping windows would let a model see what it is tested on. Windows cut within blocks straddle none.

    Args:
      length: T, steps of the series.
      count: of blocks.
      held_out: share of the blocks to test on, in (0, 1).

    Returns:
      `(train, test)`, lists of index arrays, each the steps of one block.

    Raises:
      ValueError: more blocks than steps, or a share that leaves a part without a block.

    >>> from jrnn.data import blocks
    >>> train, test = blocks(10, count=5, held_out=0.4)
    >>> [block.tolist() for block in train], [block.tolist() for block in test]
    ([[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7]])
    """
    check_width("count", count)
    if count > length:
        raise ValueError(f"count must be at most length={length}, got {count}")
    held = round(held_out * count) if 0 < held_out < 1 else 0
    if held in (0, count):
        raise ValueError(f"held_out must leave blocks on both sides of {count}, got {held_out}")
    edges = [i * length // count for i in range(count + 1)]
    tested = {(2 * j + 1) * count // (2 * held) for j in range(held)}
    train: list[NDArray[np.int64]] = []
    test: list[NDArray[np.int64]] = []
    for i in range(count):
        (test if i in tested else train).append(np.arange(edges[i], edges[i + 1]))
    return train, test
