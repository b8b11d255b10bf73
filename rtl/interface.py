"""Shapes that more than one unit speaks: the instruction and the memory channels."""

from amaranth.hdl import Array
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out, Signature

from hardware.accelerator import Accelerator
from hardware.instruction import FIELDS, WORD_BITS

ADDRESS_BITS = 32
LENGTH_BITS = 24
VALUE_BITS = 16
ACCUMULATOR_BITS = 32

INSTRUCTION = data.StructLayout(dict(FIELDS))
"""One decoded instruction; see `hardware.instruction.FIELDS`."""

READ_REQUEST = data.StructLayout({"address": ADDRESS_BITS, "words": LENGTH_BITS})
"""``words`` consecutive 64-bit words from word address ``address``."""

WRITE_REQUEST = READ_REQUEST
"""The same for words to write."""

WRITE_WORD = data.StructLayout({"data": WORD_BITS, "strobe": WORD_BITS // 8})
"""One 64-bit word to write, and which of its bytes."""

READ_CHANNEL = Signature(
    {
        "request": Out(stream.Signature(READ_REQUEST)),
        "word": In(stream.Signature(WORD_BITS)),
    }
)
"""Requests out, words back in request order. Every word is taken in the cycle in which it comes: a request is
made only when its words have room."""

WRITE_CHANNEL = Signature(
    {
        "request": Out(stream.Signature(WRITE_REQUEST)),
        "word": Out(stream.Signature(WRITE_WORD)),
        "idle": In(1, init=1),
    }
)
"""Requests out, then as many words as asked for, in order. ``idle`` falls in the cycle after a request is taken and
rises when every word asked for is in memory."""


def entries_bits(accelerator: Accelerator) -> int:
    """Width of a count of buffer entries, and of tiles in a buffer; no tile has more."""
    return max(accelerator.buffers.lhs_entries, accelerator.buffers.rhs_entries).bit_length()


def columns_bits(accelerator: Accelerator) -> int:
    """Width of a count of a tile's columns."""
    return accelerator.array.dn.bit_length()


def part_of(value, index, width: int):
    """Bits ``index * width`` onward of ``value``, ``width`` of them. Unlike `Value.word_select` it makes no shifter."""
    return Array(value[low : low + width] for low in range(0, len(value), width))[index]
