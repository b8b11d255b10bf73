"""Gathers output bit planes: row tiles bring a few channels of a pixel each, memory words hold 64."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hardware.accelerator import Accelerator
from hardware.instruction import WORD_BITS
from rtl.datapath import NO_COLLISIONS
from rtl.interface import INSTRUCTION
from rtl.requantize import ACTIVATION_BITS


class PlaneAddress(Component):
    """Where a column's channels belong in the plane buffer.

    Members
    -------
    start: a new instruction.
    column: strobe, a column leaves; ``place`` of `rtl.execute.PLACE` says with which tile, ``last_column`` that it is
        the tile's last.
    word, segment: the column's word and its part of it.

    Latency: none. Throughput: one column per cycle.
    """

    def __init__(self, accelerator: Accelerator):
        self._segments = WORD_BITS // accelerator.array.dm
        self._depth = accelerator.buffers.plane_words
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "column": In(1),
                "last_column": In(1),
                "vector": In(1),
                "last_in_group": In(1),
                "last_row_tile": In(1),
                "word": Out(range(self._depth)),
                "segment": Out(range(max(self._segments, 2))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        # Ring addresses: the current group of column tiles, the current tile, the current column; channel word.
        group, tile, column, next_tile = (
            Signal(range(self._depth), name=n, reset_less=True) for n in ("group", "tile", "col", "next")
        )
        channel_word = Signal(8)
        m.d.comb += [
            next_tile.eq(tile + Mux(self.vector, instr.plane_words, instr.plane_tile_words)),
            self.word.eq(column + channel_word),
        ]
        with m.If(self.column):
            m.d.sync += column.eq(column + instr.plane_words)
            with m.If(self.last_column):
                m.d.sync += [a.eq(next_tile) for a in (tile, column)]
                with m.If(self.last_in_group & ~self.last_row_tile):
                    m.d.sync += [a.eq(group) for a in (tile, column)]
                    m.d.sync += self.segment.eq(self.segment + 1)
                    with m.If(self.segment == self._segments - 1):
                        m.d.sync += [self.segment.eq(0), channel_word.eq(channel_word + 1)]
                with m.Elif(self.last_in_group):
                    m.d.sync += [group.eq(next_tile), self.segment.eq(0), channel_word.eq(0)]
        with m.If(self.start):
            m.d.sync += [a.eq(0) for a in (group, tile, column, self.segment, channel_word)]
        return m


class PlaneBuffer(Component):
    """One memory of 64-bit words for each of the 8 planes.

    Members
    -------
    write: ``activations`` of ``dm`` channels go to ``segment`` of ``word`` in every plane's memory.
    read_word, plane, masked: read a word of one plane, or, where operands are packed, one of as many words of values;
        ``masked`` keeps only the channels of its first ``last_segments`` parts.
    data: the word, three cycles after ``read_word``: the memory's and two registers', because block RAMs are slow and
        where they are. ``plane`` and ``masked`` come with it and select without delay.

    Latency: a word may be read two cycles after its ``write``. Throughput: one write and one read per cycle.
    """

    def __init__(self, accelerator: Accelerator):
        self._dm, self._depth = accelerator.array.dm, accelerator.buffers.plane_words
        self._traits = accelerator.traits
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "write": In(1),
                "word": In(range(self._depth)),
                "segment": In(range(max(WORD_BITS // self._dm, 2))),
                "activations": In(data.ArrayLayout(ACTIVATION_BITS, self._dm)),
                "read_word": In(range(self._depth)),
                "plane": In(range(ACTIVATION_BITS)),
                "masked": In(1),
                "data": Out(WORD_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        segments = WORD_BITS // self._dm
        enable = Signal(segments)
        address = Signal.like(self.word)
        m.d.sync += [enable.eq(Mux(self.write, Const(1, segments) << self.segment, 0)), address.eq(self.word)]
        words = []
        for plane in range(ACTIVATION_BITS):
            memory = m.submodules[f"plane_{plane}"] = Memory(
                shape=unsigned(WORD_BITS), depth=self._depth, init=[], attrs=NO_COLLISIONS
            )
            write, read = memory.write_port(granularity=self._dm), memory.read_port()
            bits = Signal(self._dm, name=f"bits_{plane}", reset_less=True)
            m.d.sync += bits.eq(Cat(activation[plane] for activation in self.activations))
            beside, word = (Signal(WORD_BITS, name=f"{n}_{plane}", reset_less=True) for n in ("beside", "word"))
            m.d.comb += [
                write.en.eq(enable),
                write.addr.eq(address),
                write.data.eq(bits.replicate(segments)),
                read.en.eq(1),
                read.addr.eq(self.read_word),
            ]
            m.d.sync += [beside.eq(read.data), word.eq(beside)]
            words.append(word)
        valid = Signal(segments)
        m.d.sync += valid.eq(Cat(i < self.instruction.last_segments for i in range(segments)))
        mask = Cat((one | ~self.masked).replicate(self._dm) for one in valid)
        if self._traits.packed:
            valid_words = [Signal(WORD_BITS, name=f"valid_{plane}") for plane in range(ACTIVATION_BITS)]
            m.d.comb += [valid_word.eq(word & mask) for valid_word, word in zip(valid_words, words, strict=True)]
            with m.Switch(self.instruction.plane_bits):
                for bits in self._traits.widths:
                    packed = Signal(data.ArrayLayout(WORD_BITS, bits), name=f"packed_{bits}")
                    values = (word[channel] for channel in range(WORD_BITS) for word in valid_words[:bits])
                    m.d.comb += packed.as_value().eq(Cat(values))
                    with m.Case(bits):
                        m.d.comb += self.data.eq(packed[self.plane[: (bits - 1).bit_length()]])
        else:
            m.d.comb += self.data.eq(Array(words)[self.plane] & mask)
        return m
