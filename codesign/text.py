"""Texts as data: the Python standard library's own, which need no download, and Penn Treebank from the user's disk.

The library's texts (see `library_prose`) differ between versions of Python, and so do counts and accuracies; for one
version they are always the same.

Nothing leaks: a paragraph that occurs again is dropped, and of every file the first 75 % of the words are for training,
the next 12.5 % for validation, the rest for the test. The vocabulary is the training part's.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from codesign.data import SPLIT_SEED, TEXTS, Data, Split
from codesign.library_prose import Words, library
from hardware.errors import InputError, unknown

UNKNOWN, END = "<unk>", "<eos>"
"""Stands for a word outside the vocabulary; ends a paragraph, or a line of Penn Treebank."""
VOCABULARY = 3000
"""Words of the library's vocabulary, with these two."""
TOPIC_WORDS, WINDOW = 64, 32
"""Words of a text to classify, and of a language model's window."""
TOPIC_STRIDE = 16
"""Words from one text to classify to the next in training; the others do not overlap."""
TOPICS = ("concurrency", "mail", "web", "numbers", "testing", "language")
"""The classes of ``python-topics``. The other groups are less of one subject and serve the language model only."""
_PTB_FILES = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")

Parts = tuple[list[str], list[str], list[str]]
"""Words for training, validation and test."""


@dataclass(frozen=True, eq=False)
class TextSplit(Split):
    """Texts of equal length.

    Parameters
    ----------
    tokens:
        Words' numbers in the vocabulary, int64, ``(N, T)``.
    labels:
        int64: the class of every text, ``(N,)``, or the word that follows every word, ``(N, T)``.
    """

    tokens: torch.Tensor
    labels: torch.Tensor

    def batch(self, indices: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The network's input, int64 ``(n, T)``, for some of the texts."""
        return self.tokens[indices]

    def take(self, indices: torch.Tensor | slice) -> "TextSplit":
        """A split of some of the texts."""
        return TextSplit(self.tokens[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class TextData(Data):
    """A data set of texts; ``vocabulary`` holds the words by number, ``classes`` the same for a language model."""

    vocabulary: Words


def load_text(name: str, root: Path) -> TextData:
    """Load ``python-topics`` (which subject is it from?), ``python-text`` or ``ptb`` (which word follows?).

    Parameters
    ----------
    root:
        Folder that holds Penn Treebank, or its folder ``ptb``: ``ptb.train.txt``, ``ptb.valid.txt``, ``ptb.test.txt``.

    Raises
    ------
    InputError
        Unknown name, Penn Treebank is not there or unusable, or this Python came without its library's sources.
    """
    if name == "python-topics":
        return _topics()
    if name == "python-text":
        documents = [document for group in library().values() for document in group]
        return _following(name, _joined(documents), VOCABULARY)
    if name == "ptb":
        return _following(name, _penn_treebank(root), None)
    raise unknown("text", name, TEXTS)


def _topics() -> TextData:
    parts = [_joined(library()[topic]) for topic in TOPICS]
    vocabulary = _vocabulary([word for part in parts for word in part[0]], VOCABULARY)
    rng = np.random.default_rng(SPLIT_SEED)
    splits = []
    for part, stride in enumerate((TOPIC_STRIDE, TOPIC_WORDS, TOPIC_WORDS)):
        texts = [_encode(one[part], vocabulary).unfold(0, TOPIC_WORDS, stride) for one in parts]
        count = min(len(group) for group in texts)  # every class has as many
        chosen = torch.cat([group[np.sort(rng.permutation(len(group))[:count])] for group in texts])
        labels = torch.arange(len(TOPICS)).repeat_interleave(count)
        mixed = torch.from_numpy(rng.permutation(len(labels)))  # so that the first ones stand for all
        splits.append(TextSplit(chosen[mixed], labels[mixed]))
    return _data("python-topics", splits, TOPICS, vocabulary)


def _following(name: str, parts: Parts, size: int | None) -> TextData:
    """Windows of a stream of words, one after another, each with the words that follow its own."""
    vocabulary = _vocabulary(parts[0], size)
    splits = []
    for part in parts:
        stream = _encode(part, vocabulary)
        count = (len(stream) - 1) // WINDOW * WINDOW
        splits.append(TextSplit(stream[:count].reshape(-1, WINDOW), stream[1 : count + 1].reshape(-1, WINDOW)))
    return _data(name, splits, vocabulary, vocabulary)


def _data(name: str, splits: list[TextSplit], classes: Words, vocabulary: Words) -> TextData:
    train, validation, test = splits
    return TextData(name, train, validation, test, classes, signed_input=False, vocabulary=vocabulary)


def _vocabulary(training: list[str], size: int | None) -> Words:
    """The most frequent words, at most ``size``, the two marks first; equally frequent ones in the alphabet's order."""
    counts = Counter(training)
    for mark in (UNKNOWN, END):
        counts.pop(mark, None)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return UNKNOWN, END, *(ranked if size is None else ranked[: size - 2])


def _encode(stream: list[str], vocabulary: Words) -> torch.Tensor:
    numbers = {word: number for number, word in enumerate(vocabulary)}
    return torch.tensor([numbers.get(word, 0) for word in stream])


def _joined(documents: list[list[Words]]) -> Parts:
    """Every document's first 75 % of its words, the next 12.5 %, and the rest, each followed by the next document's."""
    parts: Parts = ([], [], [])
    for document in documents:
        total, before = sum(map(len, document)), 0
        for paragraph in document:
            parts[0 if before < 0.75 * total else 1 if before < 0.875 * total else 2].extend((*paragraph, END))
            before += len(paragraph)
    return parts


def _penn_treebank(root: Path) -> Parts:
    folder = next((one for one in (root / "ptb", root) if (one / _PTB_FILES[0]).is_file()), None)
    if folder is None:
        raise InputError(
            f"no Penn Treebank in {root / 'ptb'} or {root}: expected {', '.join(_PTB_FILES)}; set $CODESIGN_DATA to "
            "the folder that holds them."
        )
    parts: Parts = ([], [], [])
    for name, part in zip(_PTB_FILES, parts, strict=True):
        try:
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {folder / name} ({error}): expected text, one sentence a line.") from None
        part += [word for line in lines for word in (*line.split(), END)]
        if len(part) <= WINDOW:
            raise InputError(f"{folder / name} has {len(part)} words, expected more than {WINDOW}: copy it again.")
    return parts
