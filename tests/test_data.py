"""Text, vocabularies and batches: nothing is lost, doubled or shifted."""

import dataclasses
import json
import os
import re
import socket
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jrnn.data import (
    CharVocabulary,
    Stream,
    Vocabulary,
    Windows,
    ngrams,
    normalize,
    pad_sequences,
    padded_batches,
    pair_batches,
    python_reference,
    read_text,
    remove_stop_words,
    split,
    synthetic,
    tokenize,
)

# ---------------------------------------------------------------- vocabulary


def test_vocabulary_round_trips_every_known_character():
    text = "".join(map(chr, [*range(0x500), 0x1F600, 0x10FFFF, 0xD800, 0xFEFF]))
    vocabulary = CharVocabulary.from_text(text)
    tokens = vocabulary.encode(text * 2)
    assert vocabulary.decode(tokens) == text * 2
    assert len(vocabulary) == 1 + len(text) == 1 + len(set(tokens.tolist()))
    assert tokens.dtype == np.int32 and tokens.min() == 1


def test_unknown_characters_become_token_zero():
    vocabulary = CharVocabulary("bdx")
    assert vocabulary.encode("abcdxz\U0010ffff\ufffd").tolist() == [0, 1, 0, 2, 3, 0, 0, 0]
    assert vocabulary.decode([0, 2]) == "\ufffdd"
    assert CharVocabulary("", unknown="?").decode(CharVocabulary("", unknown="?").encode("ab")) == "??"


def test_vocabulary_has_a_stable_order_and_leaves_rare_characters_out():
    assert CharVocabulary.from_text("hello") == CharVocabulary.from_text("olleh") == CharVocabulary("ehlo")
    assert CharVocabulary.from_text("aabccc", min_count=2) == CharVocabulary("ac")
    assert CharVocabulary.from_text("a\ufffdb\ufffd") == CharVocabulary("ab")


def test_vocabulary_is_json():
    vocabulary = CharVocabulary.from_text("naïve\n\ud800\U0001f600")
    stored = json.dumps(dataclasses.asdict(vocabulary))
    assert CharVocabulary(**json.loads(stored)) == vocabulary


def test_decode_of_nothing_and_of_one():
    assert CharVocabulary("ab").decode([]) == "" and CharVocabulary("ab").decode(2) == "b"
    assert CharVocabulary("ab").encode("").tolist() == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CharVocabulary("aba"), "symbols must not repeat a character, got 'a' twice"),
        (
            lambda: CharVocabulary("ab", unknown="b"),
            "unknown must be one character outside symbols, got 'b'",
        ),
        (lambda: CharVocabulary("ab", unknown="??"), "unknown must be one character"),
        (lambda: CharVocabulary.from_text(""), "text is empty"),
        (lambda: CharVocabulary("ab").decode([0, 3]), r"tokens must lie in \[0, 3\), got 0 to 3"),
        (lambda: CharVocabulary("ab").decode([-1]), r"tokens must lie in \[0, 3\), got -1"),
        (lambda: CharVocabulary("ab").decode([0.5]), "tokens must be integers, got float64"),
        (lambda: CharVocabulary.from_text(b"ab"), "text must be a string, got b'ab'"),
        (lambda: CharVocabulary("ab").encode(["a"]), r"text must be a string, got \['a'\]"),
        (lambda: CharVocabulary("ab").decode([[1], [2]]), r"tokens has shape \(2, 1\), needs one axis"),
    ],
)
def test_vocabulary_errors(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


# ---------------------------------------------------------------- corpus


def test_python_reference_is_long_text_in_a_stable_order():
    text = python_reference()
    assert len(text) > 100_000 and text == python_reference()
    vocabulary = CharVocabulary.from_text(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_read_text_joins_files_in_order(tmp_path):
    (tmp_path / "b").write_bytes("ä\r\n".encode())
    (tmp_path / "a").write_bytes(b"z")
    assert read_text([tmp_path / "b", str(tmp_path / "a")]) == "ä\r\n\nz"


def test_byte_order_marks_are_left_out_wherever_a_file_begins(tmp_path):
    marked = tmp_path / "marked"
    marked.write_bytes("\ufeffa\ufeffb".encode())  # within a text it is a character like any other
    assert read_text([marked, marked]) == "a\ufeffb\na\ufeffb"
    marked.write_bytes("\ufeff".encode())
    with pytest.raises(ValueError, match="marked: the file is empty"):
        read_text([marked])


def test_what_is_no_file_is_refused_and_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for path in ("pipe", "link", "socket", "/dev/null"):
            errors = []

            def read(path=path, errors=errors):
                try:
                    read_text([path])
                except (ValueError, OSError) as error:
                    errors.append(str(error))

            thread = threading.Thread(target=read, daemon=True)  # an opened pipe waits for ever
            thread.start()
            thread.join(20)
            assert errors == [f"{path}: is a pipe, a socket or a device, needs a text file"]


def test_read_text_errors(tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.bin"
    empty.write_bytes(b"")
    binary.write_bytes("äb".encode() + b"\xff\xfe")
    for path, error, message in [
        (tmp_path / "none.txt", FileNotFoundError, "none.txt: no such file"),
        (tmp_path, IsADirectoryError, "is a directory, needs a text file"),
        (empty, ValueError, "empty.txt: the file is empty"),
        (binary, ValueError, r"binary.bin: not UTF-8, byte 0xff at offset 3, line 1: invalid start byte$"),
    ]:
        with pytest.raises(error, match=message) as caught:
            read_text([path])
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="paths is empty"):
        read_text([])
    with pytest.raises(ValueError, match="put it in brackets") as caught:
        read_text("x" * 10_000)
    assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match="put it in brackets"):
        read_text(b"name")


def test_split_holds_out_the_end():
    train, validation = split("abcdefghijklmno", held_out=0.2)
    assert (train, validation) == ("abcdefghijkl", "mno")
    assert split(np.arange(10))[1].tolist() == [9]
    for share in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="held_out must lie between 0 and 1"):
            split("abcdefghij", held_out=share)
    with pytest.raises(ValueError, match="text has 3 elements, too short to hold out 10%"):
        split("abc")


LONG = "long " * 10_000


@pytest.mark.parametrize(
    "call",
    [
        lambda: read_text(LONG),
        lambda: CharVocabulary("a", unknown=LONG),
        lambda: Vocabulary(LONG),
        lambda: Vocabulary((LONG, LONG)),
        lambda: Vocabulary.from_tokens([LONG]),
        lambda: Vocabulary.from_tokens([["a"]], min_count=LONG),
        lambda: Vocabulary(("a",), ()).encode([LONG]),
        lambda: Vocabulary(("a",)).encode(LONG),
        lambda: Vocabulary(("a",), (LONG,)).stop,
        lambda: normalize([LONG]),
        lambda: tokenize("a", LONG),
        lambda: remove_stop_words(LONG),
        lambda: ngrams("ab", LONG),
        lambda: Stream(np.arange(9), LONG, 2),
        lambda: padded_batches([[1]], [1], 1, bucket=LONG),
        lambda: synthetic.copy_memory(2, 4, LONG),
        lambda: synthetic.ar_process([2.0] * 500, 4, 0),
    ],
)
def test_messages_quote_a_line_at_most(call):
    with pytest.raises((ValueError, TypeError, AttributeError)) as caught:
        call()
    assert 20 < len(str(caught.value)) < 250


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(100, 3, 4), (97, 3, 4), (96, 3, 4), (2, 1, 1)])
def test_stream_uses_every_target_once_and_rows_go_on(count, batch_size, steps):
    stream = Stream(np.arange(count), batch_size, steps)
    batches = list(stream)
    assert len(batches) == len(stream) == (count - 1) // (batch_size * steps)
    xs, targets = (np.concatenate([b[i] for b in batches]) for i in (0, 1))  # (len · T, B)
    assert xs.dtype == targets.dtype == np.int32 and xs.shape[1] == batch_size
    np.testing.assert_array_equal(targets, xs + 1)
    np.testing.assert_array_equal(xs[1:], targets[:-1])
    np.testing.assert_array_equal(np.sort(targets, axis=None), np.arange(1, 1 + targets.size))
    assert count - 1 - targets.size < batch_size * steps


def test_stream_indexes_like_a_list():
    stream = Stream(np.arange(30), 2, 3)
    np.testing.assert_array_equal(stream[-1].xs, stream[len(stream) - 1].xs)
    with pytest.raises(IndexError, match="batch 4 is out of range, there are 4 batches"):
        stream[4]
    assert stream[0].lengths is None and stream[0].target_mask is None


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.arange(12), "tokens has 12 elements, needs 13 for a batch of 3 rows and 4 steps"),
        (np.zeros(99), "tokens must be integers, got float64"),
        (np.zeros((99, 2), int), r"tokens has shape \(99, 2\), needs one axis"),
        ([], "tokens has 0 elements"),
    ],
)
def test_stream_errors(tokens, message):
    with pytest.raises(ValueError, match=message):
        Stream(tokens, 3, 4)
    with pytest.raises(TypeError, match="tokens is a str, needs integers: encode it"):
        Stream("abc", 1, 1)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Stream(np.arange(99), 3, 0)


# ---------------------------------------------------------------- padded batches


def ragged(count=23, longest=20, features=(2,)):
    """Sequences that carry their own number, so that each is recognized wherever it comes out."""
    lengths = np.random.default_rng(0).integers(0, longest + 1, size=count)
    return [np.full((n, *features), i + 1, np.float32) for i, n in enumerate(lengths)]


def unpack(batches):
    """Sequences and targets by row, with the padding checked."""
    found = []
    for batch in batches:
        for row, length in enumerate(batch.lengths):
            assert (batch.xs[length:, row] == 0).all()
            found.append((batch.xs[:length, row], batch, row))
    return found


@pytest.mark.parametrize("bucket", [None, 1, 8])
@pytest.mark.parametrize("epoch", [None, 0, 3])
def test_padded_batches_hold_every_sequence_once_with_its_target(bucket, epoch):
    sequences = ragged()
    targets = np.arange(23) + 1
    batches = padded_batches(sequences, targets, 4, key_seed=1, bucket=bucket)
    batches = batches if epoch is None else batches.epoch(epoch)
    assert len(list(batches)) == len(batches) == 6
    seen = []
    for sequence, batch, row in unpack(batches):
        if batch.target_mask[row]:
            number = batch.targets[row]
            np.testing.assert_array_equal(sequence, sequences[number - 1])
            seen.append(number)
        else:
            assert len(sequence) == 0 and batch.targets[row] == 0
    assert sorted(seen) == list(range(1, 24))


def test_targets_per_step_are_padded_and_masked_with_their_sequence():
    sequences = ragged(features=())
    targets = [100 * sequence.astype(int) + np.arange(len(sequence)) for sequence in sequences]
    batches = padded_batches(sequences, targets, 4)
    total = 0
    for sequence, batch, row in unpack(batches):
        expected = np.zeros(len(batch.xs), int)
        expected[: len(sequence)] = 100 * sequence.astype(int) + np.arange(len(sequence))
        np.testing.assert_array_equal(batch.targets[:, row], expected)
        np.testing.assert_array_equal(batch.target_mask[:, row], np.arange(len(batch.xs)) < len(sequence))
        total += batch.target_mask[:, row].sum()
    assert total == sum(map(len, sequences))


def test_steps_are_rounded_up_but_never_beyond_the_longest():
    sequences = [np.ones((n, 1)) for n in (0, 1, 2, 3, 4, 5, 9, 11)]
    steps = {None: [0, 1, 2, 4, 4, 8, 11, 11], 3: [0, 3, 3, 3, 6, 6, 9, 11], 1: [0, 1, 2, 3, 4, 5, 9, 11]}
    for bucket, expected in steps.items():
        batches = padded_batches(sequences, np.arange(8), 1, bucket=bucket)
        assert [len(batch.xs) for batch in batches] == expected


def test_batches_of_every_epoch_have_the_same_few_shapes():
    batches = padded_batches(ragged(count=200, longest=100), np.zeros(200), 8, key_seed=0)
    shapes = sorted(batch.xs.shape for batch in batches)
    assert len(set(shapes)) <= 8
    shuffled = [batch.xs.shape for batch in batches.epoch(1)]
    assert sorted(shuffled) == shapes and shuffled != shapes


def test_epochs_are_shuffled_by_seed_and_number():
    def order(seed, number):
        batches = padded_batches(ragged(), np.arange(23), 4, key_seed=seed)
        return [batch.targets.tolist() for batch in batches.epoch(number)]

    assert order(0, 0) == order(0, 0)
    assert len({str(order(seed, number)) for seed in (0, 1) for number in (0, 1)}) == 4
    together = [{frozenset(batch) for batch in order(0, number)} for number in (0, 1)]
    assert together[0] != together[1]  # which sequences go together changes, not only the order of batches
    assert [len(b) for b in order(None, 5)] == [4] * 6 and order(None, 5) == order(None, 6)


def test_one_dtype_for_every_batch():
    batches = padded_batches([[1, 2], [], [0.5]], [0, 1, 2], 1)
    assert {batch.xs.dtype for batch in batches} == {np.dtype(np.float64)}
    assert {batch.xs.dtype for batch in padded_batches([[1, 2], []], [0, 1], 1)} == {np.asarray([1]).dtype}


@pytest.mark.parametrize(
    ("sequences", "targets", "message"),
    [
        ([], [], "sequences is empty"),
        ([np.ones((3, 2))], [0, 1], "targets has 2 entries, sequences has 1"),
        (
            [np.ones((3, 2)), np.ones((3, 4))],
            [0, 1],
            r"sequences\[1\] has shape \(3, 4\), sequences\[0\] has \(3, 2\)",
        ),
        ([np.ones((3, 2))], [np.ones(2)], r"targets\[0\] has 2 steps, sequences\[0\] has 3"),
        (
            ["abc"],
            [0],
            r"sequences\[0\] has dtype <U3, needs numbers: encode words with a Vocabulary, dates as numbers",
        ),
        ([np.array(["2001-01-01"], "M8[D]")], [0], r"sequences\[0\] has dtype datetime64\[D\], needs"),
        ([[1], ["a", "b"]], [0, 1], r"sequences\[1\] has dtype <U1, needs numbers"),
        ([[1], [None]], [0, 1], r"sequences\[1\] has dtype object, needs numbers"),
        ([[1], [2]], ["bad", "good"], r"targets has dtype <U4, needs numbers"),
        ([1, 2], [0, 1], r"sequences\[0\] is 1, needs an array with time first"),
        (
            [[[1], [2, 3]]],
            [0],
            r"sequences\[0\] is not an array, its rows differ in length: \[\[1\], \[2, 3\]\]",
        ),
        (None, [0], "sequences must be a list of arrays, got None"),
        ("abc", [0], "sequences must be a list of arrays, got 'abc'"),
    ],
)
def test_padded_batches_errors(sequences, targets, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        padded_batches(sequences, targets, 2)


@pytest.mark.parametrize("pair", [False, True], ids=["padded", "pairs"])
@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"bucket": 0}, {"key_seed": -1}, {"key_seed": "a"}], ids=str
)
def test_options_of_batches_are_checked_at_once(pair, options):
    options = {"batch_size": 1, **options}
    with pytest.raises(ValueError, match=r"^(batch_size|bucket|key_seed) must be .*, got (0|-1|'a')$"):
        if pair:
            pair_batches([[1]], [[1]], start=1, stop=2, **options)
        else:
            padded_batches([[1]], [1], **options)


def test_whole_numbers_of_numpy_are_whole_numbers():
    three = np.int64(3)
    batch = pair_batches([[1]], [[1]], 1, start=three, stop=three, key_seed=three).epoch(0)[0]
    assert batch.xs.inputs.T.tolist() == [[3, 1]] and batch.targets.T.tolist() == [[1, 3]]
    assert len(padded_batches([[1]], [1], 1, key_seed=three).epoch(0)) == 1
    with pytest.raises(ValueError, match="start must be a whole number, 0 or more, got None"):
        pair_batches([[1]], [[1]], 1, start=None, stop=2)


def test_generators_and_every_dtype_of_numbers_go_into_batches():
    batches = padded_batches((s for s in ([1], [2, 3])), (t for t in (0, 1)), 2)
    assert batches[0].xs.T.tolist() == [[1, 0], [2, 3]] and batches[0].targets.tolist() == [0, 1]
    targets = np.empty(2, object)
    targets[:] = [np.arange(1), np.arange(2)]  # one per step, ragged
    assert padded_batches([[1], [2, 3]], targets, 2)[0].targets.T.tolist() == [[0, 0], [0, 1]]
    for dtype in (bool, np.uint8, np.float16, jnp.bfloat16, np.complex64):
        assert pad_sequences([np.ones(2, dtype)])[0].dtype == dtype


def test_pad_sequences_keeps_the_order_and_rounds_up_when_asked():
    sequences = [np.full((n, 2), n, np.float32) for n in (2, 5, 0, 3)]
    xs, lengths = pad_sequences(sequences)
    assert xs.shape == (5, 4, 2) and xs.dtype == np.float32 and lengths.tolist() == [2, 5, 0, 3]
    for row, sequence in enumerate(sequences):
        np.testing.assert_array_equal(xs[: len(sequence), row], sequence)
        assert (xs[len(sequence) :, row] == 0).all()
    assert pad_sequences(sequences, bucket=4)[0].shape == (8, 4, 2)
    with pytest.raises(ValueError, match=r"sequences is empty, needs at least one"):
        pad_sequences([])
    with pytest.raises(ValueError, match="bucket must be at least 1, got 0"):
        pad_sequences(sequences, bucket=0)


def test_streams_and_windows_read_a_file_without_copying_it(tmp_path):
    np.arange(1000, dtype=np.uint16).tofile(tmp_path / "tokens")
    tokens = np.memmap(tmp_path / "tokens", np.uint16, mode="r")
    for batches in (Stream(tokens, 4, 5), Windows(tokens, 4, 5), Windows(tokens, 4, 5).epoch(3)):
        assert np.shares_memory(batches.tokens, tokens)
        assert batches[0].xs.dtype == batches[0].targets.dtype == np.int32
    strided = np.arange(1000)[::2]
    assert Stream(strided, 4, 5)[1].xs[:, 0].tolist() == [10, 12, 14, 16, 18]


def test_only_the_tokens_of_a_batch_are_read_and_checked():
    """A file larger than memory would else be read whole at the start of every epoch."""
    stream, windows = (kind([*range(14), 2**40, *range(15, 29)], 2, 2) for kind in (Stream, Windows))
    for batches in (stream, stream.share(1, 2), windows, windows.epoch(1)):
        refused = 0
        for index in range(len(batches)):
            try:
                assert batches[index].xs.max() < 29
            except ValueError as error:
                assert re.search(r"tokens must fit into int32, got \d+ to 1099511627776", str(error))
                refused += 1
        assert 0 < refused < len(batches)


def test_windows_cover_the_tokens_once_in_an_order_of_seed_and_epoch():
    windows = Windows(np.arange(103), batch_size=3, steps=5, key_seed=7)
    assert len(windows) == 6  # 19 windows, of which one is left out
    orders = {}
    for number in (0, 1, 0):
        starts = [start for batch in windows.epoch(number) for start in batch.xs[0]]
        assert len(set(starts)) == 18 and len({start % 5 for start in starts}) == 1
        for batch in windows.epoch(number):
            np.testing.assert_array_equal(batch.xs, batch.xs[0] + np.arange(5)[:, None])
            np.testing.assert_array_equal(batch.targets, batch.xs + 1)
        assert orders.setdefault(number, starts) == starts
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])
    assert len({windows.epoch(number)[0].xs[0, 0] % 5 for number in range(9)}) > 2  # the borders move
    other = Windows(np.arange(103), batch_size=3, steps=5, key_seed=8)
    assert other[0].xs.tolist() != windows[0].xs.tolist()
    with pytest.raises(ValueError, match="needs 20 for a batch of 3 windows of 5"):
        Windows(np.arange(18), batch_size=3, steps=5)
