"""Data sets: scikit-learn's digits, which need no download, CIFAR-10 from the user's disk, and the texts of `text`.

Images stay uint8 until a batch of them is asked for: CIFAR-10 takes 184 MB so, and 737 MB as float32.
"""

import hashlib
import os
import pickle
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from PIL import Image

from hardware.errors import InputError, unknown
from hardware.files import cache_directory, replacing

SPLIT_SEED = 1
"""Which images are for validation is the same in every run, whatever the run's seed."""
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEXTS = ("ptb", "python-text", "python-topics")
"""The data sets of `codesign.text`."""

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training images uint8 ``(N, C, H, W)``, training labels int64 ``(N,)``, test images, test labels."""


class Split(ABC):
    """Examples and their labels: int64, ``(N,)``, or ``(N, T)`` where every position of a text has its own."""

    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(self, indices: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The network's input, ``(n, ...)``, for some of the examples."""

    @abstractmethod
    def take(self, indices: torch.Tensor | slice) -> Self:
        """A split of some of the examples."""


@dataclass(frozen=True, eq=False)
class ImageSplit(Split):
    """Images and labels.

    Parameters
    ----------
    pixels:
        uint8, ``(N, C, H, W)``.
    labels:
        int64, ``(N,)``.
    white:
        The brightest pixel's value, which `batch` maps to 1.
    mean, std:
        Per channel, float32, ``(C, 1, 1)``: an image is ``(pixels / white - mean) / std``.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    white: int
    mean: torch.Tensor
    std: torch.Tensor

    def batch(self, indices: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The network's input, float32 ``(n, C, H, W)``, for some of the images."""
        return (self.pixels[indices].float() / self.white - self.mean) / self.std

    def take(self, indices: torch.Tensor | slice) -> "ImageSplit":
        """A split of some of the images."""
        return ImageSplit(self.pixels[indices], self.labels[indices], self.white, self.mean, self.std)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three parts: train on one, search on the second, report the third once.

    ``signed_input`` is True where a normalised image can be negative. A network gives one score per class.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    signed_input: bool

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(channels, height, width)`` of one image, or ``(tokens,)`` of one text."""
        return tuple(self.train.batch(slice(1)).shape[1:])


def data_names() -> list[str]:
    """The known data sets."""
    return sorted(_LOADERS)


def image_format(name: str) -> tuple[tuple[int, int, int], bool]:
    """``(channels, height, width)`` of a data set's images, and whether they can be negative, without loading it.

    Also of ``imagenet``, which is a format only: it cannot be loaded.

    Raises
    ------
    InputError
        Unknown name, or a data set of texts, which have no such format.
    """
    if name in TEXTS:
        raise InputError(f"{name} holds texts, expected images: name one of {', '.join(sorted(_FORMATS))}.")
    if name not in _FORMATS:
        raise unknown("data set", name, data_names())
    return _FORMATS[name]


def load_data(name: str, root: Path | None = None) -> Data:
    """Load a data set.

    Parameters
    ----------
    root:
        Folder that holds the data sets; by default ``$CODESIGN_DATA``, else the cache folder.

    Raises
    ------
    InputError
        Unknown name, or the data set is not there; the message says where it was sought and how it should lie.
    """
    if name not in {*_FORMATS, *TEXTS}:
        raise unknown("data set", name, data_names())
    if name not in _LOADERS:
        raise InputError(
            f"{name} is an image format without images here: leave --data out where random images will do, or name "
            f"another data set ({', '.join(data_names())})."
        )
    if root is None:
        root = Path(os.environ.get("CODESIGN_DATA") or cache_directory())
    return _LOADERS[name](root)


def stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split indices in two so that each class keeps its share: ``count`` chosen ones, and the rest, both sorted."""
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * count / len(labels)
    quota = np.floor(shares).astype(int)
    quota[np.argsort(quota - shares, kind="stable")[: count - quota.sum()]] += 1  # largest remainders first
    members = [rng.permutation(np.flatnonzero(labels == one)) for one in classes]
    chosen = np.sort(np.concatenate([group[:n] for group, n in zip(members, quota, strict=True)]))
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)


def _digits(root: Path) -> Data:
    from sklearn.datasets import load_digits  # half a second that other data sets need not pay

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images.astype(np.uint8)[:, None])
    labels = bunch.target.astype(np.int64)
    everything = ImageSplit(pixels, torch.from_numpy(labels), 16, torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    rng = np.random.default_rng(SPLIT_SEED)
    test, rest = stratified(labels, 360, rng)
    validation, train = stratified(labels[rest], 360, rng)
    return Data(
        name="digits",
        train=everything.take(torch.from_numpy(rest[train])),
        validation=everything.take(torch.from_numpy(rest[validation])),
        test=everything.take(torch.from_numpy(test)),
        classes=tuple(str(digit) for digit in bunch.target_names),
        signed_input=False,
    )


def _cifar10(root: Path) -> Data:
    # The ImageNet constants, which the usual ResNet-20 recipes keep for CIFAR-10.
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    images, labels, test_images, test_labels = _find_cifar10(root)
    train = ImageSplit(torch.from_numpy(images), torch.from_numpy(labels), 255, mean, std)
    test = ImageSplit(torch.from_numpy(test_images), torch.from_numpy(test_labels), 255, mean, std)
    rng = np.random.default_rng(SPLIT_SEED)
    validation, rest = stratified(labels, max(1, len(labels) // 10), rng)
    # Folders give class after class; mixed, the first images of a part stand for all of it.
    validation, rest, mixed = (rng.permutation(part) for part in (validation, rest, np.arange(len(test_labels))))
    return Data(
        name="cifar10",
        train=train.take(torch.from_numpy(rest)),
        validation=train.take(torch.from_numpy(validation)),
        test=test.take(torch.from_numpy(mixed)),
        classes=CIFAR10_CLASSES,
        signed_input=True,
    )


def _find_cifar10(root: Path) -> Arrays:
    for folder in (root / "cifar10", root):
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return _decoded(folder)
        for batches in (folder / "cifar-10-batches-py", folder):
            if (batches / "data_batch_1").is_file():
                return _read_batches(batches)
    raise InputError(
        f"no CIFAR-10 in {root / 'cifar10'} or {root}: expected train/<class>/*.jpg|png and test/<class>/*.jpg|png, "
        "or the Python version's cifar-10-batches-py/; set $CODESIGN_DATA to the folder that holds it."
    )


def _decoded(folder: Path) -> Arrays:
    """CIFAR-10 from folders of images; decoded once, then kept in the cache while names, sizes and times stay."""
    listing = {part: _list_images(folder / part) for part in ("train", "test")}
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for paths in listing.values():
        for path, _ in paths:
            status = os.stat(path)
            digest.update(f"{path}:{status.st_size}:{status.st_mtime_ns};".encode())
    cached = cache_directory() / f"cifar10-{digest.hexdigest()[:16]}.npz"
    # No cache yet, or a damaged one: decode.
    with (
        suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
        cached.open("rb") as file,
        np.load(file) as stored,
    ):
        return stored["images"], stored["labels"], stored["test_images"], stored["test_labels"]
    images, labels = _decode(listing["train"])
    test_images, test_labels = _decode(listing["test"])
    with suppress(InputError, OSError), replacing(cached) as temporary:  # without a writable cache it only takes longer
        np.savez(temporary, images=images, labels=labels, test_images=test_images, test_labels=test_labels)
    return images, labels, test_images, test_labels


def _list_images(folder: Path) -> list[tuple[str, int]]:
    """Path and label of every image, sorted."""
    have = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if have != list(CIFAR10_CLASSES):
        raise InputError(f"{folder} should hold the folders {', '.join(CIFAR10_CLASSES)}; it holds {', '.join(have)}.")
    found = []
    for label, name in enumerate(CIFAR10_CLASSES):
        files = sorted(f for f in os.listdir(folder / name) if f.lower().endswith((".jpg", ".jpeg", ".png")))
        if not files:
            raise InputError(f"no .jpg or .png image in {folder / name}: put the images of that class there.")
        found += [(str(folder / name / file), label) for file in files]
    return found


def _decode(listing: list[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((len(listing), 3, 32, 32), dtype=np.uint8)
    for index, (path, _) in enumerate(listing):
        try:
            with Image.open(path) as file:
                image = np.asarray(file.convert("RGB"))
        except OSError as error:
            raise InputError(f"cannot read the image {path}: {error}; replace or remove it.") from None
        if image.shape != (32, 32, 3):
            raise InputError(f"{path} is {image.shape[1]}x{image.shape[0]} pixels, expected 32x32: replace it.")
        images[index] = image.transpose(2, 0, 1)
    return images, np.array([label for _, label in listing], dtype=np.int64)


class _BatchUnpickler(pickle.Unpickler):
    """Reads dictionaries, strings, numbers and arrays, and refuses everything that could run code."""

    _RECONSTRUCT: Any = np.empty(0).__reduce__()[0]  # how NumPy pickles begin, whatever NumPy calls it today
    _ALLOWED: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # how Python 3 writes bytes in protocol 2
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no CIFAR-10 batch needs")
        return self._ALLOWED[module, name]


def _read_batch(file: IO[bytes]) -> tuple[np.ndarray, np.ndarray]:
    content = _BatchUnpickler(file, encoding="latin1").load()
    content = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    images = np.asarray(content["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
    labels = np.asarray(content["labels"], dtype=np.int64)
    if len(images) != len(labels) or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{len(images)} images, {len(labels)} labels, or labels outside 0 to 9")
    return images, labels


def _read_batches(folder: Path) -> Arrays:
    """CIFAR-10's Python version: ``data_batch_1`` to ``5`` and ``test_batch``."""
    parts = []
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        try:
            with (folder / name).open("rb") as file:
                parts.append(_read_batch(file))
        except Exception as error:  # a damaged pickle raises nearly anything
            raise InputError(
                f"cannot read {folder / name} ({type(error).__name__}: {error}); "
                "expected CIFAR-10's Python version: unpack it again."
            ) from None
    images, labels = (np.concatenate(column) for column in zip(*parts[:5], strict=True))
    return images, labels, *parts[5]


def _text(name: str, root: Path) -> Data:
    from codesign.text import load_text  # it needs this module first

    return load_text(name, root)


_LOADERS: dict[str, Callable[[Path], Data]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    **{name: partial(_text, name) for name in TEXTS},
}
_FORMATS = {"digits": ((1, 8, 8), False), "cifar10": ((3, 32, 32), True), "imagenet": ((3, 224, 224), True)}
