"""Runs an exported network on its machine: all that the host has to do. It needs NumPy and the package's files.

machine = Machine("package", registers, memory, address)
run = machine.run(image)
print(run.scores.argmax(), run.cycles)
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Registers(Protocol):
    """The machine's registers by byte offset, 32 bits each, as `pynq.MMIO` has them."""

    def read(self, offset: int) -> int:
        """A register."""

    def write(self, offset: int, value: int) -> None:
        """Set it."""


class Memory(Protocol):
    """Memory of the machine, in 64-bit words from 0."""

    words: int

    def read(self, first: int, count: int) -> np.ndarray:
        """uint64 words, as the machine left them."""

    def write(self, first: int, words: np.ndarray) -> None:
        """Set uint64 words, for the machine to see."""


class SharedMemory:
    """Memory that processor and machine share.

    Parameters
    ----------
    array:
        uint64 words. If it has ``flush`` and ``invalidate``, as a `pynq.buffer.PynqBuffer` does, they are called after
        writes and before reads.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.words, self._array = len(array), array

    def read(self, first: int, count: int) -> np.ndarray:
        """uint64 words, as the machine left them."""
        self._synchronize("invalidate")
        return np.array(self._array[first : first + count])

    def write(self, first: int, words: np.ndarray) -> None:
        """Set uint64 words, for the machine to see."""
        self._array[first : first + len(words)] = words
        self._synchronize("flush")

    def _synchronize(self, how: str) -> None:
        if method := getattr(self._array, how, None):
            method()


class MachineFault(RuntimeError):
    """The machine is not the one that the package was made for, or stopped with an error."""


@dataclass(frozen=True, eq=False)
class Run:
    """What came of an image.

    Parameters
    ----------
    scores:
        int16, (classes,): units of ``2**-fraction_bits``.
    counters:
        The machine's counters by their registers' names, ``cycles`` among them.
    """

    scores: np.ndarray
    counters: dict[str, int]

    @property
    def cycles(self) -> int:
        """Clock cycles of the whole network."""
        return self.counters["cycles"]


class Machine:
    """A machine with a network's program in its memory.

    Parameters
    ----------
    package:
        Folder written by ``codesign export``.
    registers:
        See `Registers`.
    memory:
        See `Memory`.
    address:
        Byte address at which the machine finds the first word, a multiple of 4096.

    Raises
    ------
    MachineFault
        Another machine answers, a file of the package was changed, or the memory is too small or lies askew.
    """

    def __init__(self, package: str | Path, registers: Registers, memory: Memory, address: int) -> None:
        self.package, self._registers, self._memory = Path(package), registers, memory
        self.manifest: dict[str, Any] = json.loads((self.package / "manifest.json").read_text(encoding="utf-8"))
        self._program = self.manifest["program"]
        self._map = json.loads(self._file("driver/registers.json"))
        self._places = {one["name"]: one for one in self._map["registers"]}
        self._identify()
        if memory.words < self.words or address % 4096:
            raise MachineFault(
                f"the network needs {self.words} words of memory at a multiple of 4096, got {memory.words} at "
                f"{address:#x}: allocate them so."
            )
        memory.write(0, np.frombuffer(self._file("program/memory.bin"), dtype="<u8"))
        self._write("memory_base", address)
        self._write("memory_words", self.words)
        self._write("program", self._program["address"])

    @property
    def words(self) -> int:
        """64-bit words of memory that the program needs."""
        return int(self._program["memory_words"])

    def run(self, image: np.ndarray, seconds: float = 60.0) -> Run:
        """Run one image.

        Parameters
        ----------
        image:
            ``(C, H, W)`` floats, normalised as in training.
        seconds:
            Give up after this long.

        Raises
        ------
        MachineFault
            The machine stopped with an error, or did not end.
        """
        for reader in self._program["images"]:
            self._memory.write(reader["address"], image_words(image, reader))
        self._write("control", self._mask("control", "start"))
        done, limit = self._mask("status", "done"), time.monotonic() + seconds
        while not self._read("status") & done:
            if time.monotonic() > limit:
                raise MachineFault(f"the machine has not ended after {seconds} s: reset it.")
        self._write("status", done)
        if error := self._read("error_code"):
            names = {code: name for name, code in self._map["errors"].items()}
            self._write("status", self._mask("status", "error"))
            raise MachineFault(
                f"the machine stopped with {names.get(error, error)} at instruction {self._read('error_instruction')}, "
                f"word address {self._read('error_address'):#x}: load the package again."
            )
        counters = {name: self._read(name) for name, one in self._places.items() if one["offset"] >= COUNTERS}
        first, count = self._program["scores_address"], self._program["scores"]
        words = np.ascontiguousarray(self._memory.read(first, -(-count // 4)))
        return Run(words.view("<i2")[:count].copy(), counters)

    def self_test(self, clock_mhz: float) -> int:
        """Run the package's images and leave the counters in ``measured.json``.

        Returns
        -------
        Images with another score than expected.
        """
        images, expected = (np.load(self.package / f"selftest/{name}.npy") for name in ("images", "scores"))
        runs = [self.run(image) for image in images]
        wrong = sum(int((run.scores != scores).any()) for run, scores in zip(runs, expected, strict=True))
        cycles = [run.cycles for run in runs]
        measured = {key: self.manifest[key] for key in ("network", "rtl_hash", "board")}
        measured |= {"clock_mhz": clock_mhz, "expected_cycles": self.manifest["cycles"], "wrong_images": wrong}
        measured["runs"] = [run.counters for run in runs]
        (self.package / "measured.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        print(f"{len(runs) - wrong} of {len(runs)} images have the expected scores")
        print(
            f"{min(cycles):,} to {max(cycles):,} cycles at {clock_mhz:g} MHz, the model's {self.manifest['cycles']:,}"
        )
        return wrong

    def _identify(self) -> None:
        found = {name: self._read(name) for name in ("magic", "format", "build_hash")}
        expected = {name: self._map[name] for name in ("magic", "format")}
        expected["build_hash"] = int(self.manifest["rtl_hash"], 16)
        for name, value in expected.items():
            if found[name] != value:
                raise MachineFault(
                    f"the register {name} reads {found[name]:#x}, expected {value:#x}: load this package's bitstream."
                )

    def _file(self, name: str) -> bytes:
        """A file of the package, unchanged."""
        content = (self.package / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest["sha256"][name]:
            raise MachineFault(f"{name} is not the file that was exported: copy the package again.")
        return content

    def _mask(self, register: str, field: str) -> int:
        (found,) = (one for one in self._places[register]["fields"] if one["name"] == field)
        return ((1 << int(found["bits"])) - 1) << int(found["low"])

    def _read(self, name: str) -> int:
        register = self._places[name]
        value = int(self._registers.read(register["offset"]))
        if (
            max(one["low"] + one["bits"] for one in register["fields"]) > 32
        ):  # the low half first: it keeps the high one
            value |= int(self._registers.read(register["offset"] + 4)) << 32
        return value

    def _write(self, name: str, value: int) -> None:
        self._registers.write(self._places[name]["offset"], value)


COUNTERS = 0x40
"""Offset of the first counter."""


def image_words(image: np.ndarray, reader: dict[str, Any]) -> np.ndarray:
    """An image as one of the layers that read it wants it: uint64 words.

    Parameters
    ----------
    image:
        ``(C, H, W)`` floats.
    reader:
        One of the manifest's ``program.images``: its integers are ``clamp(floor(image / step + 1/2))``; 64 channels'
        words of one pixel are its bit planes or, ``packed``, the channels' values one after another.
    """
    low, high = reader["levels"]
    integers = np.clip(np.floor(np.asarray(image, dtype=np.float64) / reader["step"] + 0.5), low, high).astype(np.int64)
    integers = integers.reshape(reader["shape"])
    (top, left), groups = reader["border"], -(-len(integers) // 64)
    padded = np.pad(integers, ((0, 64 * groups - len(integers)), (top, top), (left, left)))
    bits = (padded >> np.arange(reader["bits"])[:, None, None, None] & 1).astype(np.uint8)  # bit, channel, row, column
    if reader["packed"]:
        ordered = bits.transpose(2, 3, 1, 0)
    else:
        ordered = bits.reshape(len(bits), groups, 64, *bits.shape[2:]).transpose(3, 4, 1, 0, 2)
    return np.packbits(np.ascontiguousarray(ordered).reshape(-1, 64), axis=-1, bitorder="little").view("<u8").ravel()
