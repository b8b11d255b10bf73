import sysconfig

import pytest
import torch

from codesign import library_prose
from codesign.data import load_data
from codesign.library_prose import library, words
from codesign.networks import create_network, default_data
from codesign.text import END, TOPIC_WORDS, TOPICS, UNKNOWN, WINDOW, load_text
from hardware.errors import InputError


def write_ptb(folder, **parts):
    folder.mkdir(parents=True, exist_ok=True)
    for part, lines in parts.items():
        (folder / f"ptb.{part}.txt").write_text("".join(f" {line} \n" for line in lines))


def test_words_are_letters_numbers_and_runs_of_marks():
    assert words("Call os.stat_result('x1') -- 2.5 times\n====\n>>> é") == (
        *("call", "os", ".", "stat", "result", "(", "'", "x", "<number>", "'", ")", "--"),
        *("<number>", ".", "<number>", "times", "====", ">>>"),
    )


@pytest.fixture(scope="module", params=["python-topics", "python-text"])
def data(request):
    return load_data(request.param)


def test_python_texts_are_numbered_words_of_the_training_vocabulary(data):
    length = TOPIC_WORDS if data.name == "python-topics" else WINDOW
    assert data.input_shape == (length,)
    assert len(data.vocabulary) == len(set(data.vocabulary)) == 3000
    assert data.vocabulary[:2] == (UNKNOWN, END)
    for split in (data.train, data.validation, data.test):
        tokens = split.batch(slice(300))
        assert tokens.dtype == split.labels.dtype == torch.int64
        assert (int(tokens.min()), tokens.shape[1]) == (0, length)
        assert len(split) > 250
        assert (split.batch() == 0).float().mean() < 0.1  # few unknown words
        assert (split.batch() == 1).float().mean() > 0.005
    seen = torch.bincount(data.train.batch().flatten(), minlength=3000)
    assert (seen > 0).float().mean() > 0.95  # but for what lies in the words that the training texts leave over
    part = data.test.take(torch.tensor([4, 2]))
    assert torch.equal(part.batch(slice(1, 2)), data.test.batch(torch.tensor([2])))
    assert torch.equal(part.labels, data.test.labels[[4, 2]])


def test_topics_are_balanced_and_mixed():
    data = load_data("python-topics")
    assert data.classes == TOPICS
    for split in (data.train, data.validation, data.test):
        assert len(split.labels.bincount().unique()) == 1
        assert len(split.labels[:50].unique()) == len(TOPICS)
    held = {tuple(text) for split in (data.validation, data.test) for text in split.batch().tolist()}
    assert not held & {tuple(text) for text in data.train.batch().tolist()}


def test_a_language_model_learns_the_next_word():
    data = load_data("python-text")
    assert data.classes == data.vocabulary
    for split in (data.train, data.validation, data.test):
        assert torch.equal(split.labels[:, :-1], split.batch()[:, 1:])
        assert torch.equal(split.labels[:-1, -1], split.batch()[1:, 0])


@pytest.mark.parametrize("name", ["lstm-classifier", "lstm-lm"])
def test_networks_fit_their_data(name):
    data, network = load_data(default_data(name)), create_network(name, seed=0)
    assert network.embedding.num_embeddings == len(data.vocabulary)
    assert network(data.test.batch(slice(2))).shape == (*data.test.labels[:2].shape, len(data.classes))


def test_no_paragraph_of_the_library_occurs_twice():
    paragraphs = [paragraph for group in library().values() for document in group for paragraph in document]
    assert len(set(paragraphs)) == len(paragraphs) > 5000
    assert set(TOPICS) < set(library())


SOURCE = '''#!/usr/bin/env python
# -*- coding: latin-1 -*-
"""The first paragraph of {name}.

A second that all of them have."""
PATTERN = "\\d"  # beside code it does not count
class Thing:
    # Above a method there are
    # comments of two lines.

    def method(self):
        """A method of {name} gives \xe9 back."""
        return "# no comment at all"
'''


@pytest.fixture
def own_library(tmp_path, monkeypatch):
    """One module of every group, the mail's as a package with tests."""
    for names in library_prose._MODULES.values():
        name = names.split()[-1]
        (tmp_path / f"{name}.py").write_text(SOURCE.format(name=name), encoding="latin-1")
    (tmp_path / "email" / "tests").mkdir(parents=True)
    (tmp_path / "email" / "__init__.py").write_text("# the package has this comment\n")
    (tmp_path / "email" / "tests" / "thing.py").write_text("# tests do not count as prose\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda which: str(tmp_path))
    return tmp_path


def test_prose_is_docstrings_and_lines_of_comments_once(own_library):
    found = library.__wrapped__()
    assert found["language"] == library()["language"]
    (first,) = found["concurrency"]
    assert [" ".join(paragraph) for paragraph in first] == [
        "/ usr / bin / env python - * - coding : latin - <number> - * -",
        "the first paragraph of weakref .",
        "a second that all of them have .",
        "above a method there are comments of two lines .",
        "a method of weakref gives back .",
    ]
    package, module = found["mail"]
    assert [" ".join(paragraph) for paragraph in package] == ["the package has this comment"]
    assert [" ".join(paragraph) for paragraph in module] == [
        "the first paragraph of smtplib .",
        "a method of smtplib gives back .",
    ]
    assert found == library.__wrapped__()


def test_a_python_without_sources_is_refused(own_library):
    (own_library / "xmlrpc.py").unlink()
    with pytest.raises(InputError, match=r"no sources of ftplib and the like in .*: use a Python whose"):
        library.__wrapped__()


@pytest.mark.parametrize("below", ["ptb", "."])
def test_penn_treebank_from_a_folder(tmp_path, monkeypatch, below):
    train = ["the cat <unk> N times", "the dog the cat"] * 8
    write_ptb(tmp_path / below, train=train, valid=["a cat"] * 20, test=["dog the bird"] * 20)
    monkeypatch.setenv("CODESIGN_DATA", str(tmp_path))
    data = load_data("ptb")
    assert data.vocabulary == ("<unk>", "<eos>", "the", "cat", "N", "dog", "times")
    stream = [[2, 3, 0, 4, 6, 1], [2, 5, 2, 3, 1]] * 8
    flat = torch.tensor([number for line in stream for number in line])
    assert torch.equal(data.train.batch().flatten(), flat[: 2 * WINDOW])
    assert torch.equal(data.train.labels.flatten(), flat[1 : 2 * WINDOW + 1])
    assert data.validation.batch().flatten()[:6].tolist() == [0, 3, 1, 0, 3, 1]  # "a" is not in the training part
    assert data.test.batch().flatten()[:4].tolist() == [5, 2, 0, 1]


def test_missing_and_damaged_texts_say_what_is_expected(tmp_path):
    with pytest.raises(InputError, match=r"no Penn Treebank in .*ptb\.train\.txt, .*CODESIGN_DATA"):
        load_data("ptb", tmp_path)
    with pytest.raises(InputError, match="did you mean 'python-text'"):
        load_text("python-texts", tmp_path)
    write_ptb(tmp_path, train=["a b c"] * 20, valid=["a b"])
    with pytest.raises(InputError, match=r"ptb.valid.txt has 3 words, expected more than 32"):
        load_data("ptb", tmp_path)
    write_ptb(tmp_path, valid=["a b c"] * 20)
    with pytest.raises(InputError, match=r"cannot read .*ptb.test.txt"):
        load_data("ptb", tmp_path)
    (tmp_path / "ptb.test.txt").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match=r"cannot read .*ptb.test.txt .*one sentence a line"):
        load_data("ptb", tmp_path)
