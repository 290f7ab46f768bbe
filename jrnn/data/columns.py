"""Tagged sentences in columns, one word a line: CoNLL-U, and CoNLL of 2000 and 2003."""

from typing import NamedTuple

from jrnn.data.files import PathName, fault, read_lines

CONLLU = ["ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC"]


class Sentence(NamedTuple):
    """Words of a sentence with their parts of speech."""

    words: tuple[str, ...]
    upos: tuple[str, ...]  # universal, one of 17
    xpos: tuple[str, ...]  # of the language


class TaggedSentence(NamedTuple):
    """Words of a sentence with one tag each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


def read_conllu(path: PathName) -> list[Sentence]:
    r"""Read the words and parts of speech of a CoNLL-U file, as Universal Dependencies has them.

    A word is a line of ten columns, parted by tabs. Left out are comments, ranges of words written as one
    (`1-2`, of which the words 1 and 2 follow) and words that the text has not (`1.1`). Empty lines end a
    sentence; several are as one, and the last may be missing.

    Args:
      path: a file in UTF-8, plain or gzip.

    Returns:
      The sentences in order.

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: a damaged file, another number of columns, an empty column, or words that are not numbered
        1, 2, 3, …, with the line.

    Data sets: English Web Treebank, 12,544, 2,001 and 2,077 sentences:
    `git clone --depth 1 https://github.com/UniversalDependencies/UD_English-EWT`, which holds
    `en_ewt-ud-{train,dev,test}.conllu`. Other languages lie beside it.

    Reference: Nivre et al., Universal Dependencies v2: an evergrowing multilingual treebank collection,
    2020, arXiv:2004.10643.

    >>> import pathlib, tempfile
    >>> from jrnn.data import read_conllu
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "en.conllu")
    ...     _ = path.write_text("# text = Go\n1\tGo\tgo\tVERB\tVB\t_\t0\troot\t_\t_\n\n")
    ...     read_conllu(path)
    [Sentence(words=('Go',), upos=('VERB',), xpos=('VB',))]
    """
    sentences: list[Sentence] = []
    words: list[list[str]] = []
    for number, line in enumerate([*read_lines(path), ""], 1):
        if not line.strip():
            if words:
                _, forms, _, upos, xpos, *_ = zip(*words, strict=True)
                sentences.append(Sentence(forms, upos, xpos))
            words = []
        elif not line.startswith("#"):
            columns = line.split("\t")
            _check_conllu(path, number, columns)
            if "-" not in columns[0] and "." not in columns[0]:
                words.append(columns)
                if columns[0] != str(len(words)):
                    reason = f"word {columns[0]!r}, needs number {len(words)}: an empty line ends a sentence"
                    raise fault(path, number, reason)
    if not sentences:
        raise ValueError(f"{path}: has no sentence")
    return sentences


def _check_conllu(path: PathName, number: int, columns: list[str]) -> None:
    if len(columns) != len(CONLLU):
        reason = f"{_columns(len(columns))}, needs the 10 of CoNLL-U, parted by tabs"
        raise fault(path, number, reason)
    if "" in columns:
        raise fault(path, number, f"column {CONLLU[columns.index('')]} is empty, needs a value or _")


def read_columns(
    path: PathName,
    word: int = 0,
    tag: int = -1,
    *,
    separator: str | None = None,
    encoding: str = "utf-8",
) -> list[TaggedSentence]:
    r"""Read one word and its tag from each line of a file of columns, as CoNLL-2000 and 2003 have them.

    Empty lines end a sentence; several are as one, and the last may be missing. Lines that begin with
    `-DOCSTART-`, between the documents of CoNLL-2003, are left out.

    Args:
      path: a file, plain or gzip.
      word: index of the column of words.
      tag: index of the column of tags; negative ones count from the end.
      separator: of the columns; spaces and tabs, any number of them, if left out.
      encoding: of the text.

    Returns:
      The sentences in order.

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: a damaged file, a column that is not there, or a line with another number of columns than
        the first, with the line.

    Data sets: chunks of CoNLL-2000, 8,936 and 2,012 sentences (word, part of speech, chunk):
    `curl -O "https://www.clips.uantwerpen.be/conll2000/chunking/{train,test}.txt.gz"`.

    Reference: Tjong Kim Sang, Buchholz, Introduction to the CoNLL-2000 shared task: chunking, 2000.

    >>> import pathlib, tempfile
    >>> from jrnn.data import read_columns
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "train.txt")
    ...     _ = path.write_text("He PRP B-NP\nreckons VBZ B-VP\n\n")
    ...     read_columns(path)
    [TaggedSentence(words=('He', 'reckons'), tags=('B-NP', 'B-VP'))]
    """
    sentences: list[TaggedSentence] = []
    pairs: list[tuple[str, str]] = []
    count = None  # columns of the first line, and so of all
    for number, line in enumerate([*read_lines(path, encoding), ""], 1):
        if not line.strip():
            if pairs:
                sentences.append(TaggedSentence(*zip(*pairs, strict=True)))
            pairs = []
        elif not line.startswith("-DOCSTART-"):
            columns = line.split(separator)
            count = count or len(columns)
            if len(columns) != count:
                raise fault(path, number, f"{_columns(len(columns))}, the first line has {count}")
            for name, index in (("word", word), ("tag", tag)):
                if not -count <= index < count:
                    raise fault(path, number, f"{_columns(count)}, {name}={index} is none of them")
            pairs.append((columns[word], columns[tag]))
    if not sentences:
        raise ValueError(f"{path}: has no sentence")
    return sentences


def _columns(count: int) -> str:
    return "1 column" if count == 1 else f"{count} columns"
