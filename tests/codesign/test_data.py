import os
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from codesign.data import CIFAR10_CLASSES, data_names, image_format, load_data, stratified
from hardware.errors import InputError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CODESIGN_DATA", raising=False)


def image_folders(root, per_class=2, seed=0):
    """PNG images (lossless) in train/ and test/; returns the pixels by (part, class, number)."""
    rng = np.random.default_rng(seed)
    pixels = {}
    for part in ("train", "test"):
        for name in CIFAR10_CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                pixels[part, name, number] = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels[part, name, number]).save(folder / f"{number:04}.png")
    return pixels


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did, as CIFAR-10's batches hold them."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(b"T" + struct.pack("<i", len(value)) + value)

    dispatch[bytes] = save_bytes


def pickled_batches(folder, write, key=lambda text: text):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    content = {}
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        pixels, labels = rng.integers(0, 256, (4, 3072), dtype=np.uint8), rng.integers(0, 10, 4).tolist()
        content[name] = pixels, labels
        with (folder / name).open("wb") as file:
            write(file, {key("batch_label"): key("a batch"), key("labels"): labels, key("data"): pixels})
    return content


def test_digits_are_all_there_once_and_stratified():
    data, bunch = load_data("digits"), load_digits()
    parts = (data.train, data.validation, data.test)
    assert [len(part) for part in parts] == [1077, 360, 360]
    assert data.input_shape == (1, 8, 8)
    assert not data.signed_input
    assert data.classes == tuple("0123456789")
    ours = np.concatenate([np.c_[p.pixels.flatten(1).numpy(), p.labels.numpy()] for p in parts])
    theirs = np.c_[bunch.data, bunch.target].astype(int)
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    for part in parts:
        share = part.labels.bincount().numpy() / len(part) - np.bincount(bunch.target) / 1797
        assert np.abs(share).max() < 0.004


def test_a_batch_is_normalised_and_a_loaded_set_is_the_same_again():
    data, again = load_data("digits"), load_data("digits")
    batch = data.test.batch(torch.tensor([3, 1]))
    assert batch.dtype == torch.float32
    assert torch.equal(batch * 16, data.test.pixels[[3, 1]].float())
    assert torch.equal(data.test.take(slice(5, 9)).batch(), data.test.batch(slice(5, 9)))
    assert torch.equal(data.validation.pixels, again.validation.pixels)


def test_stratified_takes_exact_counts():
    labels = np.repeat([0, 1, 2], [5, 10, 20])
    chosen, rest = stratified(labels, 9, np.random.default_rng(0))
    assert sorted([*chosen, *rest]) == list(range(35))
    counts = np.bincount(labels[chosen])
    assert counts.sum() == 9
    assert (np.abs(counts - 9 * np.array([5, 10, 20]) / 35) < 1).all()


@pytest.mark.parametrize("below", ["cifar10", "."])
def test_cifar10_from_image_folders(tmp_path, monkeypatch, below):
    pixels = image_folders(tmp_path / below)
    monkeypatch.setenv("CODESIGN_DATA", str(tmp_path))
    data = load_data("cifar10")
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 20)
    assert data.input_shape == (3, 32, 32)
    assert data.signed_input
    assert data.classes == CIFAR10_CLASSES
    assert sorted(data.test.labels.tolist()) == [label for label in range(10) for _ in range(2)]
    assert data.test.labels.tolist() != sorted(data.test.labels.tolist())  # no class comes after the other
    bird = pixels["test", "bird", 1].transpose(2, 0, 1)
    (index,) = (i for i in range(20) if np.array_equal(data.test.pixels[i], bird))
    assert data.classes[data.test.labels[index]] == "bird"
    expected = (pixels["test", "bird", 1] / 255 - MEAN) / STD
    np.testing.assert_allclose(data.test.batch()[index].numpy(), expected.transpose(2, 0, 1), atol=1e-5)
    seen = {part.pixels[i].numpy().tobytes() for part in (data.train, data.validation) for i in range(len(part))}
    assert seen == {p.transpose(2, 0, 1).tobytes() for (part, *_), p in pixels.items() if part == "train"}


def test_decoded_images_are_cached_until_a_file_changes(tmp_path, monkeypatch):
    image_folders(tmp_path)
    first = load_data("cifar10", tmp_path)
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or real(path))
    assert torch.equal(load_data("cifar10", tmp_path).train.pixels, first.train.pixels)
    assert not opened
    (stored,) = (tmp_path / "cache").glob("cifar10-*.npz")
    stored.write_bytes(stored.read_bytes()[:1000])  # a damaged cache is made again
    assert torch.equal(load_data("cifar10", tmp_path).train.pixels, first.train.pixels)
    assert len(opened) == 40
    Image.new("RGB", (32, 32), (1, 2, 3)).save(tmp_path / "test" / "cat" / "0000.png")
    os.utime(tmp_path / "test" / "cat" / "0000.png", ns=(1, 1))
    assert [1, 2, 3] in load_data("cifar10", tmp_path).test.pixels[:, :, 0, 0].tolist()


def test_cifar10_without_a_writable_cache(tmp_path, monkeypatch):
    image_folders(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path / "file" / "below"))
    assert len(load_data("cifar10", tmp_path).test) == 20


@pytest.mark.parametrize(
    ("write", "key"),
    [
        (lambda file, content: Python2Pickler(file, 2).dump(content), str.encode),
        (lambda file, content: pickle.dump(content, file, protocol=2), str.encode),
        (lambda file, content: pickle.dump(content, file, protocol=2), str),
    ],
    ids=["python 2, as published", "python 3, byte keys", "python 3, text keys"],
)
def test_cifar10_from_pickled_batches(tmp_path, write, key):
    content = pickled_batches(tmp_path / "cifar-10-batches-py", write, key)
    data = load_data("cifar10", tmp_path)
    pixels, labels = content["test_batch"]
    found = {
        (label, image.tobytes())
        for label, image in zip(data.test.labels.tolist(), data.test.pixels.numpy(), strict=True)
    }
    assert found == {(label, image.tobytes()) for label, image in zip(labels, pixels, strict=True)}
    assert (len(data.train), len(data.validation)) == (18, 2)


def test_a_batch_file_cannot_run_code(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    pickled_batches(tmp_path / "cifar10", lambda file, content: pickle.dump(content | {"x": Harmful()}, file))
    with pytest.raises(InputError, match="mkdir"):
        load_data("cifar10", tmp_path)
    assert not (tmp_path / "harm").exists()


def test_missing_and_damaged_data_say_what_is_expected(tmp_path):
    with pytest.raises(InputError, match=r"train/<class>.*cifar-10-batches-py.*CODESIGN_DATA"):
        load_data("cifar10", tmp_path)
    with pytest.raises(InputError, match="did you mean 'digits'"):
        load_data("digit")
    assert data_names() == ["cifar10", "digits", "ptb", "python-text", "python-topics"]
    with pytest.raises(InputError, match="imagenet is an image format without images here"):
        load_data("imagenet")
    assert image_format("imagenet") == ((3, 224, 224), True)
    with pytest.raises(InputError, match="python-text holds texts, expected images: name one of cifar10, digits, imag"):
        image_format("python-text")

    image_folders(tmp_path / "a", per_class=1)
    path = tmp_path / "a" / "test" / "dog" / "0000.png"
    Image.new("RGB", (31, 32)).save(path)
    with pytest.raises(InputError, match="31x32 pixels, expected 32x32"):
        load_data("cifar10", tmp_path / "a")
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot read the image"):
        load_data("cifar10", tmp_path / "a")
    path.unlink()
    with pytest.raises(InputError, match=r"no .jpg or .png image in .*dog"):
        load_data("cifar10", tmp_path / "a")
    path.parent.rmdir()
    with pytest.raises(InputError, match="should hold the folders"):
        load_data("cifar10", tmp_path / "a")

    pickled_batches(tmp_path / "b", lambda file, content: pickle.dump(content, file, protocol=2))
    (tmp_path / "b" / "data_batch_3").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"data_batch_3.*unpack it again"):
        load_data("cifar10", tmp_path / "b")
    (tmp_path / "b" / "data_batch_3").unlink()
    with pytest.raises(InputError, match="data_batch_3"):
        load_data("cifar10", tmp_path / "b")
