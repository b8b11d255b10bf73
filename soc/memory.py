"""Memory on the chip behind the machine's memory port.

It answers in the cycles that `hardware.accelerator.Memory` describes with `READ_LATENCY` and one cycle per word, so the
cycle model's figures for such a memory are this one's. Somebody else may read and write it in cycles that the machine
leaves free, and never delays it.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out, Signature

from rtl.axi import BYTE_ADDRESS_BITS, axi_read, axi_write
from rtl.datapath import NO_COLLISIONS

WORD_BITS = 64
WORD_BYTES = WORD_BITS // 8
READ_LATENCY = 2
BANK_WORDS = 4096
"""16 block RAMs of an ECP5, each four bits wide, so that words side by side need no further logic."""
BURSTS_AHEAD = 8
"""Write addresses that may wait for their data."""
OKAY, DECERR = 0b00, 0b11

ACCESS = data.StructLayout({"address": BYTE_ADDRESS_BITS, "data": WORD_BITS, "strobe": WORD_BYTES, "write": 1})
"""One word to read or write; ``strobe`` says which bytes of it to write."""
SIDE_PORT = Signature({"access": Out(stream.Signature(ACCESS)), "answer": In(stream.Signature(WORD_BITS))})
"""An access, and `READ_LATENCY` + 1 cycles after it was taken, if it is a read, the word, for one cycle."""


def banks_of(words: int) -> int:
    """Banks that ``words`` are; `ValueError` if that is no whole number."""
    if words % BANK_WORDS or words <= 0:
        raise ValueError(f"expected a multiple of {BANK_WORDS} words of memory, got {words}")
    return words // BANK_WORDS


class OnChipMemory(Component):
    """``words`` 64-bit words from byte address 0, a multiple of `BANK_WORDS`.

    Members
    -------
    read, write: AXI3 slaves for incrementing bursts of full words. A word beyond the end reads as 0 with DECERR; a
        burst that writes one gets DECERR, and the words inside the memory are written.
    side: see `SIDE_PORT`. Words beyond the end are nobody's: they read as 0.

    Throughput: a word read and a word written in every cycle.
    """

    def __init__(self, words: int):
        self._banks = banks_of(words)
        super().__init__({"read": In(axi_read()), "write": In(axi_write()), "side": In(SIDE_PORT)})

    def elaborate(self, platform):
        m = Module()
        read, write = self._banked(m)
        self._read(m, read)
        self._write(m, write)
        asks = self.side.access.payload.write
        m.d.comb += self.side.access.ready.eq(Mux(asks, write.free, read.free))
        return m

    def _banked(self, m: Module):
        """The banks; what is asked of them in this cycle, and what they answer."""
        read = _Lane("read", {"valid": 1, "address": BYTE_ADDRESS_BITS})
        write = _Lane("write", {"valid": 1, "address": BYTE_ADDRESS_BITS, "data": WORD_BITS, "strobe": WORD_BYTES})
        m.d.sync += [read.now.eq(read.asked), write.now.eq(write.asked)]
        low = (BANK_WORDS - 1).bit_length()
        found = []
        for number in range(self._banks):
            bank = m.submodules[f"bank_{number}"] = Memory(
                shape=WORD_BITS, depth=BANK_WORDS, init=[], attrs=NO_COLLISIONS
            )
            reads, writes = bank.read_port(), bank.write_port(granularity=8)
            chosen = write.now.valid & (write.word[low:] == number)
            m.d.comb += [
                reads.addr.eq(read.word[:low]),
                writes.addr.eq(write.word[:low]),
                writes.data.eq(write.now.data),
                writes.en.eq(Mux(chosen, write.now.strobe, 0)),
            ]
            found.append(reads.data)
        bank, inside = Signal(range(self._banks)), Signal()
        m.d.sync += [bank.eq(read.word[low:]), inside.eq(read.word[low:] < self._banks)]
        m.d.sync += read.data.eq(Mux(inside, Array(found)[bank], 0))
        m.d.sync += read.inside.eq(inside)
        m.d.comb += write.inside.eq(write.asked.address[low + 3 :] < self._banks)
        return read, write

    def _read(self, m: Module, lane: "_Lane") -> None:
        axi, side = self.read, self.side
        left, address = Signal(range(16)), Signal(BYTE_ADDRESS_BITS)
        accept, emit, last = Signal(), Signal(), Signal()
        m.d.comb += [
            axi.arready.eq(left == 0),
            accept.eq(axi.arvalid & axi.arready),
            emit.eq(accept | (left != 0)),
            last.eq(Mux(accept, axi.arlen == 0, left == 1)),
            lane.free.eq(~emit),
            lane.asked.valid.eq(emit | side.access.valid),
            lane.asked.address.eq(Mux(accept, axi.araddr, Mux(left != 0, address, side.access.payload.address))),
        ]
        with m.If(emit):
            m.d.sync += [left.eq(Mux(accept, axi.arlen, left - 1)), address.eq(lane.asked.address + WORD_BYTES)]
        side_reads = side.access.valid & ~side.access.payload.write & ~emit
        # Whose the word is, on its way through the banks.
        tags = Signal(3 * (READ_LATENCY + 1))
        tag = tags[-3:]
        m.d.sync += tags.eq(Cat(emit, emit & last, side_reads, tags))
        m.d.comb += [
            Cat(axi.rvalid, axi.rlast, side.answer.valid).eq(tag),
            axi.rdata.eq(lane.data),
            axi.rresp.eq(Mux(lane.inside, OKAY, DECERR)),
            side.answer.payload.eq(lane.data),
        ]

    def _write(self, m: Module, lane: "_Lane") -> None:
        axi, side = self.write, self.side
        m.submodules.bursts = bursts = SyncFIFO(width=BYTE_ADDRESS_BITS, depth=BURSTS_AHEAD)
        m.submodules.answers = answers = SyncFIFO(width=1, depth=BURSTS_AHEAD)
        beat, beats = Signal(range(16)), Signal()
        outside = Signal()  # some word of this burst was
        m.d.comb += [
            axi.awready.eq(bursts.w_rdy),
            bursts.w_en.eq(axi.awvalid),
            bursts.w_data.eq(axi.awaddr),
            axi.wready.eq(bursts.r_rdy & answers.w_rdy),
            beats.eq(axi.wvalid & axi.wready),
            bursts.r_en.eq(beats & axi.wlast),
            answers.w_en.eq(beats & axi.wlast),
            answers.w_data.eq(outside | ~lane.inside),
            axi.bvalid.eq(answers.r_rdy),
            answers.r_en.eq(axi.bready),
            axi.bresp.eq(Mux(answers.r_data, DECERR, OKAY)),
            lane.free.eq(~beats),
            lane.asked.valid.eq(beats | (side.access.valid & side.access.payload.write)),
            lane.asked.address.eq(Mux(beats, bursts.r_data + WORD_BYTES * beat, side.access.payload.address)),
            lane.asked.data.eq(Mux(beats, axi.wdata, side.access.payload.data)),
            lane.asked.strobe.eq(Mux(beats, axi.wstrb, side.access.payload.strobe)),
        ]
        with m.If(beats):
            m.d.sync += [beat.eq(Mux(axi.wlast, 0, beat + 1)), outside.eq(~axi.wlast & (outside | ~lane.inside))]


class _Lane:
    """Of reads or writes: what is ``asked`` in this cycle and with the banks ``now``; the unit's own views of it."""

    def __init__(self, name: str, layout: dict[str, int]):
        shape = data.StructLayout(layout)
        self.asked, self.now = Signal(shape, name=f"{name}_asked"), Signal(shape, name=f"{name}_now")
        self.word = self.now.address[3:]
        self.free = Signal(name=f"{name}_free")
        self.data = Signal(WORD_BITS, name=f"{name}_data")
        self.inside = Signal(init=1, name=f"{name}_inside")
