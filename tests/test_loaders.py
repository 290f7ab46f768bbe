"""Loaders of text and numbers: what stands in a file comes out, and what is wrong with it is said where."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jrnn.data import corpus
from jrnn.data.columns import Sentence, TaggedSentence, read_columns, read_conllu
from jrnn.data.files import read_lines
from jrnn.data.lines import read_labelled, read_pairs
from jrnn.data.series import read_csv, read_ts

DATA = Path(__file__).parents[2] / "shared/data"
real = pytest.mark.skipif(not DATA.exists(), reason=f"no data sets at {DATA}")


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


LOADERS = [read_conllu, read_columns, read_pairs, read_labelled, read_ts, read_csv]


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


def test_members_of_zip_files(tmp_path, write):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_about.txt", "about")
        archive.writestr("fra.txt", "Go.\tVa !\n" * 50)
    assert read_pairs(path, "fra.txt") == [("Go.", "Va !")] * 50
    fails(f"{path}: has no member 'deu.txt', but _about.txt, fra.txt", read_pairs, path, "deu.txt")
    fails(f"{path}: a zip file of _about.txt, fra.txt: give one of them as member", read_pairs, path)
    plain = write("a\tb\n", "plain")
    fails(f"{plain}: no zip file, yet member='fra.txt' was given", read_pairs, plain, "fra.txt")
    cut = write(path.read_bytes()[:-30], "cut.zip")
    fails(f"{cut}: damaged zip file, get it again: File is not a zip file", read_pairs, cut, "fra.txt")
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/a.txt", "a\tb")
    assert read_pairs(tmp_path / "one.zip") == [("a", "b")]


# ---------------------------------------------------------------- columns


def conllu(*rows):
    return "".join("\t".join([*row.split(), *"_____"]) + "\n" if row else "\n" for row in rows)


def test_conllu_keeps_words_and_their_tags(write):
    first = conllu("1-2 don't _ _ _", "1 do do AUX VBP", "2 n't not PART RB", "2.1 go go VERB VB", "", "")
    second = "# text = 3 x\n" + conllu("1 3 3 NUM CD")
    assert read_conllu(write(first + second)) == [
        Sentence(("do", "n't"), ("AUX", "PART"), ("VBP", "RB")),
        Sentence(("3",), ("NUM",), ("CD",)),
    ]


def test_conllu_errors(write):
    good = conllu("1 a a DET DT")
    path = write(good + good.replace("\t_\n", "\n"))
    fails(f"{path}, line 2: 9 columns, needs the 10 of CoNLL-U, parted by tabs", read_conllu, path)
    path = write(good.replace("\t", " "))
    fails(f"{path}, line 1: 1 column, needs the 10 of CoNLL-U, parted by tabs", read_conllu, path)
    path = write(good + "\n\n" + good + good)
    fails(f"{path}, line 5: word '1', needs number 2: an empty line ends a sentence", read_conllu, path)
    path = write(good.replace("DET", ""))
    fails(f"{path}, line 1: column UPOS is empty, needs a value or _", read_conllu, path)
    path = write("# only a comment\n\n")
    fails(f"{path}: has no sentence", read_conllu, path)


def test_columns(write):
    text = "-DOCSTART- -X- O\n\n\nEU NNP  B-ORG\nrejects\tVBZ O\n\n\n. . O"
    both = [("EU", "rejects"), (".",)]
    assert read_columns(write(text)) == list(map(TaggedSentence, both, [("B-ORG", "O"), ("O",)]))
    assert read_columns(write(text), tag=1) == list(map(TaggedSentence, both, [("NNP", "VBZ"), (".",)]))
    assert read_columns(write("a b\tX\n"), separator="\t") == [TaggedSentence(("a b",), ("X",))]
    assert read_columns(write("X Y a\n"), word=-1, tag=0) == [TaggedSentence(("a",), ("X",))]
    path = write("a A\nb B\n\nc\n")
    fails(f"{path}, line 4: 1 column, the first line has 2", read_columns, path)
    fails(f"{path}, line 1: 2 columns, tag=2 is none of them", read_columns, path, tag=2)
    fails(f"{path}, line 1: 2 columns, word=-3 is none of them", read_columns, path, word=-3)


# ---------------------------------------------------------------- pairs and labels


def test_pairs(write):
    path = write("Go.\tVa\u202f!\tCC-BY 2.0\tmore\r\n\n \nHi.\tSalut.\n")
    assert read_pairs(path) == [("Go.", "Va\u202f!"), ("Hi.", "Salut.")]
    path = write("a\tb\n\nc d\n")
    fails(f"{path}, line 3: 1 column, needs source and target, parted by a tab", read_pairs, path)
    path = write("a\t \tc\n")
    fails(f"{path}, line 1: the target is empty, needs text on both sides of the tab", read_pairs, path)
    path = write("a\tb\n\tb\n")
    fails(f"{path}, line 2: the source is empty, needs text on both sides of the tab", read_pairs, path)


def test_labelled_texts(write):
    path = write("b one  two \n\na\tthree\nb 4\n")
    found = read_labelled(path)
    assert found.texts == ["one  two", "three", "4"] and found.classes == ("a", "b")
    assert found.labels.tolist() == [1, 0, 1] and found.labels.dtype == np.int32
    found = read_labelled(path, classes=["c", "b", "a"])
    assert found.labels.tolist() == [1, 2, 1] and found.classes == ("c", "b", "a")
    fails(f"{path}, line 3: class 'a' is none of b, c", read_labelled, path, ("b", "c"))
    names = tuple("abcdefgh")
    assert read_labelled(write("".join(f"{name} x\n" for name in reversed(names)))).classes == names
    path = write("a x\nb \n")
    fails(f"{path}, line 2: nothing but 'b', needs a label, a space and a text", read_labelled, path)
    path = write("0 caf\u00e9".encode("latin-1"))
    assert read_labelled(path, encoding="latin-1").texts == ["café"]
    fails("encoding must be one that Python knows, got 'klingon'", read_labelled, path, encoding="klingon")


# ---------------------------------------------------------------- the data sets themselves


@real
@pytest.mark.parametrize(("part", "sentences", "words"), [("dev", 2001, 25_147), ("test", 2077, 25_094)])
def test_english_web_treebank(part, sentences, words):
    found = read_conllu(DATA / f"ud_english_ewt/en_ewt-ud-{part}.conllu.gz")
    assert (len(found), sum(len(sentence.words) for sentence in found)) == (sentences, words)
    assert all(len(s.words) == len(s.upos) == len(s.xpos) for s in found)
    assert len({tag for sentence in found for tag in sentence.upos}) == 17


@real
def test_tatoeba():
    pairs = read_pairs(DATA / "tatoeba_fra_eng/fra-eng.zip", "fra.txt")
    assert len(pairs) == 142_787 and pairs[0] == ("Go.", "Va !")


@real
def test_labelled_sets():
    found = [read_labelled(DATA / f"sentiment/stsa.binary.{part}") for part in ("train", "dev", "test")]
    assert [len(part.texts) for part in found] == [6920, 872, 1821]
    assert {part.classes for part in found} == {("0", "1")} and found[2].labels.sum() == 909
    trec = DATA / "sentiment/TREC.train.all"
    assert len(read_labelled(trec, encoding="latin-1").texts) == 5452
    with pytest.raises(ValueError, match="not UTF-8, byte 0xf0 at offset 3173, line 66: "):
        read_labelled(trec)
