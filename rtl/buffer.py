"""Operand buffers: one memory per array row (weights) or array column (activations)."""

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hardware.instruction import WORD_BITS
from rtl.datapath import NO_COLLISIONS


def buffer_write(vectors: int, entries: int, lanes: int) -> data.StructLayout:
    """One 64-bit word for the lanes ``lane`` of entry ``entry`` of the memory whose bit is set in ``select``.

    A word for the first lane clears those that it is not for, so that lanes that no word follows for hold zeros:
    bipolar layers add up all that lies in an entry.
    """
    return data.StructLayout(
        {
            "select": vectors,
            "entry": range(entries),
            "lane": data.ArrayLayout(1, lanes),  # one bit per lane, several where planes lie side by side
            "word": WORD_BITS,
        }
    )


class OperandBuffer(Component):
    """``vectors`` memories of ``entries`` x ``planes * dk`` bits, written a word at a time, read all at one address.

    Latency: `hardware.timing.BUFFER_LATENCY` cycles from ``entry`` to ``vectors``: a block RAM takes most of a cycle,
    so its output goes to a register beside it and nowhere else, and from there to one beside the array. A word written
    in one cycle is read from the next on.
    Throughput: one write and one read per cycle.
    """

    def __init__(self, vectors: int, entries: int, dk: int, planes: int = 1):
        self._shape, self._one_lane = (vectors, entries, planes * dk), planes == 1
        super().__init__(
            {
                "write": In(buffer_write(vectors, entries, planes * dk // WORD_BITS)),
                "entry": In(range(entries)),
                "vectors": Out(data.ArrayLayout(unsigned(planes * dk), vectors)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        vectors, entries, bits = self._shape
        lanes = bits // WORD_BITS
        clears = self.write.lane[0]
        words = [self.write.word]
        for lane in range(1, lanes):
            blank = clears if self._one_lane else clears & ~self.write.lane[lane]
            words.append(self.write.word & ~blank.replicate(WORD_BITS))
        for i in range(vectors):
            memory = m.submodules[f"memory_{i}"] = Memory(
                shape=unsigned(bits), depth=entries, init=[], attrs=NO_COLLISIONS
            )
            write = memory.write_port(granularity=WORD_BITS)
            read = memory.read_port()
            enable = Signal(lanes)
            m.d.comb += [
                enable.eq(
                    (self.write.lane.as_value() | clears.replicate(lanes)) & self.write.select[i].replicate(lanes)
                ),
                write.en.eq(enable),
                write.addr.eq(self.write.entry),
                write.data.eq(Cat(words)),
                read.en.eq(1),
                read.addr.eq(self.entry),
            ]
            beside = Signal(bits, name=f"beside_{i}")
            m.d.sync += [beside.eq(read.data), self.vectors[i].eq(beside)]
        return m
