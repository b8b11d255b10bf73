"""From a serial line to the machine's registers and memory.

The host asks, the bridge answers. A request is seven bytes: ``W`` or ``R``, a byte address (four bytes), a number of
32-bit words (two bytes, at least 1); after a ``W`` follow the words. The answer to an ``R`` are the words. Either ends
with a byte of status. All numbers have their lowest byte first.

Addresses from `MEMORY` on are the memory's, the others the registers'. A register answers in time; the memory is for
times when the machine is idle: it waits for a free cycle. After a request that breaks off, or bytes that are none, be
silent for `SILENCE` cycles: then the bridge waits for a new one.
"""

from enum import IntFlag

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from rtl.registers import AXI_LITE
from soc.memory import SIDE_PORT
from soc.uart import BYTE_BITS

MEMORY = 1 << 31
WRITE, READ = ord("W"), ord("R")
HEADER_BYTES = 7
SILENCE = 1 << 22
"""Cycles without a byte after which a request is forgotten: 84 ms at 50 MHz."""


class Status(IntFlag):
    """The last byte of an answer; 0: all is well."""

    REFUSED = 1
    """A register answered with an error."""
    OVERRUN = 2
    """A byte of the request was lost."""


class Bridge(Component):
    """See the module.

    Members
    -------
    received, overrun: from `soc.uart.UartReceiver`; send: to the transmitter.
    registers: AXI4-Lite master.
    memory: see `soc.memory.SIDE_PORT`.

    Latency: a register's access takes less than ten cycles, fewer than a byte on the line.
    """

    def __init__(self, silence: int = SILENCE):
        self._silence = silence
        byte = stream.Signature(BYTE_BITS)
        super().__init__(
            {
                "received": In(byte),
                "overrun": In(1),
                "send": Out(byte),
                "registers": Out(AXI_LITE),
                "memory": Out(SIDE_PORT),
            }
        )

    def elaborate(self, platform):
        m = Module()
        received, send = self.received, self.send
        header = Signal(8 * HEADER_BYTES)
        command, address, words = header[:8], header[8:40], header[40:]
        count = Signal(range(HEADER_BYTES))  # bytes of the header or of a word
        word, status, silent = Signal(32), Signal(Status), Signal(range(self._silence))
        done, refused, answer = Signal(), Signal(), Signal(32)
        m.d.sync += silent.eq(Mux(received.valid, 0, silent + 1))
        with m.If(self.overrun):
            m.d.sync += status.eq(status | Status.OVERRUN)
        with m.If(done):
            m.d.sync += [address.eq(address + 4), words.eq(words - 1)]
            with m.If(refused):
                m.d.sync += status.eq(status | Status.REFUSED)
        with m.FSM() as fsm:
            with m.State("HEADER"):
                m.d.comb += received.ready.eq(1)
                with m.If(received.valid):
                    m.d.sync += [header.eq(Cat(header[8:], received.payload)), count.eq(count + 1)]
                    with m.If((count == 0) & (received.payload != WRITE) & (received.payload != READ)):
                        m.d.sync += count.eq(0)
                    with m.If(count == HEADER_BYTES - 1):
                        m.d.sync += count.eq(0)
                        m.next = "NEXT"
                with m.Elif(silent == self._silence - 1):
                    m.d.sync += [count.eq(0), status.eq(0)]
            with m.State("NEXT"):
                m.next = "STATUS"
                with m.If(words != 0):
                    m.next = "READ"
                    with m.If(command == WRITE):
                        m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += received.ready.eq(1)
                with m.If(received.valid):
                    m.d.sync += [word.eq(Cat(word[8:], received.payload)), count.eq(count + 1)]
                    with m.If(count == 3):
                        m.d.sync += count.eq(0)
                        m.next = "WRITE"
                with m.Elif(silent == self._silence - 1):
                    m.d.sync += [count.eq(0), status.eq(0)]
                    m.next = "HEADER"
            with m.State("WRITE"), m.If(done):
                m.next = "NEXT"
            with m.State("READ"), m.If(done):
                m.d.sync += word.eq(answer)
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += [send.valid.eq(1), send.payload.eq(word[:8])]
                with m.If(send.ready):
                    m.d.sync += [word.eq(word >> 8), count.eq(count + 1)]
                    with m.If(count == 3):
                        m.d.sync += count.eq(0)
                        m.next = "NEXT"
            with m.State("STATUS"):
                m.d.comb += [send.valid.eq(1), send.payload.eq(status)]
                with m.If(send.ready):
                    m.d.sync += status.eq(0)
                    m.next = "HEADER"
        writes, reads = Signal(), Signal()
        m.d.comb += [writes.eq(fsm.ongoing("WRITE")), reads.eq(fsm.ongoing("READ"))]
        self._access_register(m, writes & ~address[-1], reads & ~address[-1], address, word)
        self._access_memory(m, writes & address[-1], reads & address[-1], address, word)
        axi, memory = self.registers, self.memory
        asked = memory.access.valid & memory.access.ready
        m.d.comb += [
            done.eq(axi.bvalid | axi.rvalid | memory.answer.valid | (asked & writes)),
            refused.eq((axi.bvalid & (axi.bresp != 0)) | (axi.rvalid & (axi.rresp != 0))),
            answer.eq(
                Mux(axi.rvalid, axi.rdata, memory.answer.payload.word_select(address[2], 32)),
            ),
        ]
        return m

    def _access_register(self, m: Module, writes, reads, address, word) -> None:
        axi = self.registers
        taken = {name: Signal(name=f"{name}_taken") for name in ("aw", "w", "ar")}
        for name, asks in (("aw", writes), ("w", writes), ("ar", reads)):
            valid, ready = getattr(axi, f"{name}valid"), getattr(axi, f"{name}ready")
            m.d.comb += valid.eq(asks & ~taken[name])
            m.d.sync += taken[name].eq(asks & ((valid & ready) | taken[name]) & ~(axi.bvalid | axi.rvalid))
        m.d.comb += [
            axi.awaddr.eq(address),
            axi.araddr.eq(address),
            axi.wdata.eq(word),
            axi.wstrb.eq(-1),
            axi.bready.eq(1),
            axi.rready.eq(1),
        ]

    def _access_memory(self, m: Module, writes, reads, address, word) -> None:
        access, taken = self.memory.access, Signal(name="memory_taken")
        m.d.comb += [
            access.valid.eq(writes | (reads & ~taken)),
            access.payload.address.eq(address[:-1]),
            access.payload.data.eq(Cat(word, word)),
            access.payload.strobe.eq(Mux(address[2], 0xF0, 0x0F)),
            access.payload.write.eq(writes),
        ]
        m.d.sync += taken.eq(reads & ((access.valid & access.ready) | taken) & ~self.memory.answer.valid)
