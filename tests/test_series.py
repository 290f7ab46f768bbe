"""Loaders of series, and blocks of time."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from jrnn.data.batching import padded_batches
from jrnn.data.series import blocks, read_csv, read_ts

DATA = Path(__file__).parents[2] / "shared/data"
real = pytest.mark.skipif(not DATA.exists(), reason=f"no data sets at {DATA}")


@pytest.fixture
def write(tmp_path):
    """Writes a text file, and returns its path."""

    def write(text):
        (tmp_path / "file").write_bytes(text.encode())
        return tmp_path / "file"

    return write


def fails(message, call, *args, **options):
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    assert str(caught.value) == message


# ---------------------------------------------------------------- .ts

HEADER = "#about\n@problemName A\n@timeStamps false\n@univariate false\n@classLabel true up down\n@data\n"


def test_ts_series_are_time_first_and_numbered_by_the_header(write):
    found = read_ts(write(HEADER + "\n1,2,3:4,5,6e1:down\n#\n-7 : 8 : up\r\n"))
    assert [series.tolist() for series in found.sequences] == [[[1, 4], [2, 5], [3, 60]], [[-7, 8]]]
    assert {series.dtype for series in found.sequences} == {np.dtype(np.float32)}
    assert found.labels.tolist() == [1, 0] and found.classes == ("up", "down")
    batch = padded_batches(found.sequences, found.labels, 2)[0]
    assert (
        batch.xs.shape == (3, 2, 2) and batch.lengths.tolist() == [1, 3] and batch.targets.tolist() == [0, 1]
    )


def test_ts_header_is_kept_to_in_any_case(write):
    fixed = "@UNIVARIATE True\n@equalLength true\n@seriesLength 2\n@classlabel true a\n@Data\n"
    assert read_ts(write(fixed + "1,2:a\n")).sequences[0].tolist() == [[1], [2]]
    path = write(fixed + "1,2:a\n1,2,3:a\n")
    fails(f"{path}, line 7: channel 1 has 3 values, needs 2, as the header says", read_ts, path)
    path = write(fixed + "1,2:1,2:a\n")
    fails(f"{path}, line 6: 2 channels, needs 1, as all have", read_ts, path)
    path = write(HEADER.replace("@data", "@dimensions 3\n@data") + "1:2:3:up\n1:2:up\n")
    fails(f"{path}, line 9: 2 channels, needs 3, as all have", read_ts, path)


def test_ts_needs_a_channel(write):
    path = write(HEADER + "up\n")
    fails(f"{path}, line 7: 0 channels, needs 1, as all have", read_ts, path)


def test_ts_missing_values(write):
    path = write(HEADER + "1,?:4,NaN:up\n")
    expected = [[1, 4], [np.nan, np.nan]]
    np.testing.assert_array_equal(read_ts(path, missing="nan").sequences[0], expected)
    reason = "value 2 of channel 1, '?', is missing, which missing=\"nan\" allows"
    fails(f"{path}, line 7: {reason}", read_ts, path)
    fails("missing must be one of error, nan, got 'zero'", read_ts, path, missing="zero")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,2,3:4,5:up", "channel 2 has 2 values, needs 3, as channel 1 has"),
        ("1,2:3,4:5,6:up", "3 channels, needs 2, as all have"),
        ("up", "0 channels, needs 2, as all have"),
        ("1,2:3,4:left", "class 'left' is none of up, down"),
        ("1,2:3,4", "class '3,4' is none of up, down"),
        ("1,2:3,x:up", "value 2 of channel 2, 'x', is no finite number"),
        ("1,1_0:3,4:up", "value 2 of channel 1, '1_0', is no finite number"),
        ("1,2:-inf,4:up", "value 1 of channel 2, '-inf', is no finite number"),
    ],
)
def test_ts_errors_in_a_series(write, line, reason):
    path = write(HEADER + f"1:2:up\n\n{line}\n")
    fails(f"{path}, line 9: {reason}", read_ts, path)


@pytest.mark.parametrize(
    ("header", "place", "reason"),
    [
        ("1,2:up\n", ", line 1", "'1,2:up' in the header, needs one line each, up to @data"),
        (
            "@missing false\n@Missing true\n",
            ", line 2",
            "'@missing' in the header, needs one line each, up to @data",
        ),
        ("@timeStamps true\n", ", line 1", "'@timeStamps true', series with time stamps are not read"),
        ("@classLabel false\n", ", line 1", "'@classLabel false', needs true and the names of the classes"),
        ("@classLabel true\n", ", line 1", "'@classLabel true', needs true and the names of the classes"),
        ("@dimensions two\n", ", line 1", "'@dimensions two', needs a whole number"),
        ("@missing false\n", "", "the header has no @data"),
        ("@data\n1:up\n", "", "the header has no @classLabel"),
        ("@classLabel true a\n@data\n", "", "has no series after @data"),
    ],
)
def test_ts_errors_in_the_header(write, header, place, reason):
    path = write(header)
    fails(f"{path}{place}: {reason}", read_ts, path)


# ---------------------------------------------------------------- CSV


def test_csv_with_a_header_dates_and_quotes(write):
    path = write('"Date, time","a ""b""", c\r\n"1-01",1, "2.5"\r\n\r\n1-02,-3e2,4\r\n')
    found = read_csv(path)
    assert found.names == ('a "b"', "c") and found.times == ("1-01", "1-02")
    np.testing.assert_array_equal(found.values, [[1, 2.5], [-300, 4]], strict=True)
    found = read_csv(path, ["c"])
    assert found.names == ("c",) and found.values.tolist() == [[2.5], [4]] and found.times == ("1-01", "1-02")
    assert read_csv(path, ["c", 'a "b"']).values.tolist() == [[2.5, 1], [4, -300]]


def test_csv_without_a_header_or_without_dates(write):
    found = read_csv(write("1;2\n3;4\n"), separator=";")
    assert found.names == ("0", "1") and found.times is None
    np.testing.assert_array_equal(found.values, [[1.0, 2.0], [3.0, 4.0]], strict=True)
    found = read_csv(write("2016-07-01,5\n2016-07-02,6\n"))
    assert found == (("1",), found.values, ("2016-07-01", "2016-07-02"))
    assert read_csv(write("5,Mo,a\n6,Tu,b\n"), ["0"]).times == ("Mo", "Tu")
    found = read_csv(write("x\n5\n\n6"))
    assert found.names == ("x",) and found.values.tolist() == [[5], [6]]
    assert read_csv(write("caf\u00e9\n5\n")).names == ("café",)
    assert read_csv(write("n\n4294967297\n")).values[0, 0] == 2**32 + 1


def test_csv_missing_values(write):
    path = write("t,x,y\na,1,?\nb,,5\nc, NaN ,6\nd,7,NA\n")
    expected = {
        "nan": [[1, np.nan], [np.nan, 5], [np.nan, 6], [7, np.nan]],
        "interpolate": [[1, 5], [3, 5], [5, 6], [7, 6]],
    }
    for missing, values in expected.items():
        np.testing.assert_array_equal(read_csv(path, missing=missing).values, values)
    assert read_csv(path, ["x"], missing="previous").values.T.tolist() == [[1, 1, 1, 7]]
    fails(
        f"{path}, line 2: column 'y' misses its value, and no previous one fills it",
        read_csv,
        path,
        missing="previous",
    )
    fails(
        f"{path}, line 3: column 'x' misses its value (''), which missing=\"previous\" fills", read_csv, path
    )
    path = write("x,y\n1,?\n2,?\n")
    fails(f"{path}: column 'y' has no value at all", read_csv, path, missing="interpolate")
    fails(
        "missing must be one of error, nan, previous, interpolate, got 'zero'", read_csv, path, missing="zero"
    )


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("a,b\n1,2\n\n3\n", ", line 4", "1 cells, the first row has 2"),
        ('a,b\n1,"2\n"\n3,4,5\n', ", line 4", "3 cells, the first row has 2"),
        ("d,x\na,1\nb,?0.2\n", ", line 3", "column 'x' has '?0.2', no finite number: name others as columns"),
        ("d,x,c\na,1,Rome\n", ", line 2", "column 'c' has 'Rome', no finite number: name others as columns"),
        ("d,x\na,inf\n", ", line 2", "column 'x' has 'inf', no finite number: name others as columns"),
        ('a\n1\n"2\n', ", line 3", "no CSV: unexpected end of data"),
        ("a,a\n1,2\n", "", "has two columns named 'a'"),
        ("a,b\n", "", "has no row but its header"),
        ("a\nb\n", "", "has no column of numbers"),
    ],
)
def test_csv_errors(write, text, place, reason):
    path = write(text)
    fails(f"{path}{place}: {reason}", read_csv, path)


def test_csv_columns_that_are_not_there(write):
    path = write("d,x\na,1\n")
    fails(f"{path}: has no column 'X', but d, x", read_csv, path, ["X"])
    fails("columns must be a list of names, got the single 'x': put it in brackets", read_csv, path, "x")
    reason = "column 'd' has 'a', no finite number: name others as columns"
    fails(f"{path}, line 2: {reason}", read_csv, path, ["d"])


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize(
    ("length", "count", "share"), [(14980, 50, 0.2), (17, 5, 0.4), (10, 10, 0.3), (7, 2, 0.5)]
)
def test_blocks_are_all_of_time_once_and_contiguous(length, count, share):
    train, test = blocks(length, count, share)
    assert len(test) == round(share * count) and len(train) + len(test) == count
    np.testing.assert_array_equal(np.sort(np.concatenate(train + test)), np.arange(length))
    assert all((np.diff(block) == 1).all() for block in train + test)
    sizes = [len(block) for block in train + test]
    assert max(sizes) - min(sizes) <= 1
    for part in (train, test):
        assert all(before[-1] < after[0] for before, after in pairwise(part))


def test_blocks_to_test_on_are_spread_evenly():
    starts = [block[0] // 10 for block in blocks(200, 20, 0.2)[1]]
    assert starts == [2, 7, 12, 17]


def test_blocks_errors():
    fails("count must be at most length=3, got 4", blocks, 3, 4)
    fails("count must be at least 1, got 0", blocks, 3, 0)
    for share in (0, 1, -0.5, 0.05, 0.95, float("nan")):
        fails(f"held_out must leave blocks on both sides of 4, got {share}", blocks, 30, 4, share)


# ---------------------------------------------------------------- the data sets themselves


@real
@pytest.mark.parametrize(
    ("name", "counts", "steps", "channels", "classes"),
    [
        ("JapaneseVowels", (270, 370), (7, 29), 12, 9),
        ("BasicMotions", (40, 40), (100, 100), 6, 4),
        ("GunPoint", (50, 150), (150, 150), 1, 2),
        ("ItalyPowerDemand", (67, 1029), (24, 24), 1, 2),
    ],
)
def test_ts_archive(name, counts, steps, channels, classes):
    parts = [read_ts(DATA / f"ts_classification/{name}_{part}.ts") for part in ("TRAIN", "TEST")]
    shapes = [series.shape for part in parts for series in part.sequences]
    assert tuple(len(part.sequences) for part in parts) == counts
    assert (min(shapes)[0], max(shapes)[0]) == steps and {shape[1] for shape in shapes} == {channels}
    assert all(len(part.classes) == classes == 1 + part.labels.max() for part in parts)


@real
@pytest.mark.parametrize(
    ("name", "shape", "first", "last"),
    [
        ("forecasting/ETTh1", (17420, 7), "2016-07-01 00:00:00", 9.56700038909912),
        ("forecasting/airline-passengers", (144, 1), "1949-01", 432),
        ("forecasting/daily-min-temperatures", (3650, 1), "1981-01-01", 13),
        ("forecasting/monthly-sunspots", (2820, 1), "1749-01", 33.4),
        ("forecasting/shampoo", (36, 1), "1-01", 646.9),
        ("forecasting/sp500-2000", (5105, 6), "2000-01-03", 5_792_140_000),
        ("eeg/eeg-eye-state", (14980, 15), None, 1),
    ],
)
def test_csv_series(name, shape, first, last):
    found = read_csv(DATA / f"{name}.csv")
    assert found.values.shape == shape and len(found.names) == shape[1]
    assert (found.times and found.times[0]) == first
    assert found.values[-1, -1] == last
