"""Shapes that more than one unit speaks: the instruction and the memory channels."""

from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out, Signature

from hardware.instruction import FIELDS, WORD_BITS

ADDRESS_BITS = 32
LENGTH_BITS = 24
VALUE_BITS = 16
ACCUMULATOR_BITS = 32

INSTRUCTION = data.StructLayout(dict(FIELDS))
"""One decoded instruction; see `hardware.instruction.FIELDS`."""

READ_REQUEST = data.StructLayout({"address": ADDRESS_BITS, "words": LENGTH_BITS})
"""``words`` consecutive 64-bit words from word address ``address``."""

WRITE_WORD = data.StructLayout({"address": ADDRESS_BITS, "data": WORD_BITS, "strobe": WORD_BITS // 8})
"""One 64-bit word to write, and which of its bytes."""

READ_CHANNEL = Signature(
    {
        "request": Out(stream.Signature(READ_REQUEST)),
        "word": In(stream.Signature(WORD_BITS)),
    }
)
"""Requests out, words back in request order. Every word is taken in the cycle in which it comes: a request is
made only when its words have room."""

WRITE_CHANNEL = Signature({"word": Out(stream.Signature(WRITE_WORD))})
"""Words out; a word counts as written when it is accepted."""
