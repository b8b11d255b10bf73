"""A board's end of a serial line: the machine's registers and memory. It needs NumPy.

A request is ``W`` or ``R``, a byte address (four bytes), a number of 32-bit words (two bytes), for ``W`` the words; an
answer the words asked for, then a byte that is 0 if all is well. The lowest byte of a number comes first.
"""

import struct
from typing import Any

import numpy as np

MEMORY = 1 << 31
"""Address of the machine's memory on the line; for the machine itself it begins at 0."""
MOST_WORDS = 1024
"""64-bit words of a request: a lost byte costs no more than that."""
SILENCE = 0.15
"""Seconds without a byte after which the board has forgotten an unfinished request."""
PROBLEMS = {1: "there is no such register", 2: "a byte was lost"}


class Line:
    """Requests and answers; `ConnectionError` for what goes wrong.

    Parameters
    ----------
    port:
        A `serial.Serial`, or anything with its ``read``, ``write`` and ``timeout``.
    """

    def __init__(self, port: Any) -> None:
        self._port = port

    def recover(self) -> None:
        """Be understood again, whatever was on the line before."""
        timeout, self._port.timeout = self._port.timeout, SILENCE
        while self._port.read(1 << 16):
            pass
        self._port.timeout = timeout

    def read(self, address: int, count: int) -> bytes:
        """So many 32-bit words."""
        return self._answer(b"R" + struct.pack("<IH", address, count), address, 4 * count)

    def write(self, address: int, data: bytes) -> None:
        """Set 32-bit words."""
        self._answer(b"W" + struct.pack("<IH", address, len(data) // 4) + data, address, 0)

    def _answer(self, request: bytes, address: int, size: int) -> bytes:
        self._port.write(request)
        answer = self._port.read(size + 1)
        if len(answer) != size + 1:
            raise ConnectionError(
                f"the board gave {len(answer)} of {size + 1} bytes: check the port, its rate, and that the package's "
                "bitstream is loaded."
            )
        if problem := answer[-1]:
            raise ConnectionError(f"the board refused address {address:#x}: {PROBLEMS.get(problem, problem)}.")
        return bytes(answer[:-1])


class SerialRegisters:
    """The machine's registers; see `machine.Registers`."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def read(self, offset: int) -> int:
        """A register."""
        return int(struct.unpack("<I", self._line.read(offset, 1))[0])

    def write(self, offset: int, value: int) -> None:
        """Set it."""
        self._line.write(offset, struct.pack("<I", value))


class SerialMemory:
    """The machine's memory; see `machine.Memory`.

    Parameters
    ----------
    verify:
        Read back what was written.
    """

    def __init__(self, line: Line, words: int, verify: bool = True) -> None:
        self._line, self.words, self._verify = line, words, verify

    def read(self, first: int, count: int) -> np.ndarray:
        """uint64 words, as the machine left them."""
        parts = [
            self._line.read(MEMORY + 8 * at, 2 * min(MOST_WORDS, first + count - at))
            for at in range(first, first + count, MOST_WORDS)
        ]
        return np.frombuffer(b"".join(parts), dtype="<u8")

    def write(self, first: int, words: np.ndarray) -> None:
        """Set uint64 words, for the machine to see."""
        data = np.ascontiguousarray(words, dtype="<u8")
        for at in range(0, len(data), MOST_WORDS):
            self._line.write(MEMORY + 8 * (first + at), data[at : at + MOST_WORDS].tobytes())
        if self._verify and (self.read(first, len(data)) != data).any():
            raise ConnectionError("the memory does not hold what was written: check the line, and try a shorter cable.")
