"""A serial line: bytes with one start bit, eight data bits, the lowest first, and one stop bit (8N1)."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

BYTE_BITS = 8
FRAME_BITS = BYTE_BITS + 2
FEWEST_CYCLES = 8
"""Clock cycles of a bit: with fewer, sampling in its middle is no longer that."""


def bit_cycles(clock_mhz: float, baud: int) -> int:
    """Clock cycles per bit.

    Raises
    ------
    ValueError
        The nearest rate is more than 1 % off, or a bit has fewer cycles than `FEWEST_CYCLES`. Both ends together may
        be 5 % apart: half a bit in the ten of a byte.
    """
    cycles = round(clock_mhz * 1e6 / baud)
    if cycles < FEWEST_CYCLES or abs(clock_mhz * 1e6 / cycles / baud - 1) > 0.01:
        raise ValueError(f"{clock_mhz:g} MHz gives no {baud} baud: the nearest bit is {cycles} cycles long")
    return cycles


class UartReceiver(Component):
    """Bytes from a line.

    Members
    -------
    line: the pin, not synchronised.
    byte: offered for one bit's duration at least, then overwritten by the next one.
    overrun: strobe, a byte came while the one before still waited; that one is lost.

    Latency: 9.5 bits and 3 cycles from a start bit's edge. A byte without its stop bit is dropped.
    """

    def __init__(self, cycles: int):
        self._cycles = cycles
        super().__init__({"line": In(1, init=1), "byte": Out(stream.Signature(BYTE_BITS)), "overrun": Out(1)})

    def elaborate(self, platform):
        m = Module()
        synchronised = Signal(2, init=0b11)
        wait = Signal(range(self._cycles))
        frame = Signal(FRAME_BITS)  # the start bit is the lowest when the stop bit has come
        bits = Signal(range(FRAME_BITS + 1))  # still to come
        line = synchronised[-1]
        m.d.sync += synchronised.eq(Cat(self.line, synchronised))
        with m.If(self.byte.ready):
            m.d.sync += self.byte.valid.eq(0)
        with m.If(bits == 0), m.If(~line):
            m.d.sync += [bits.eq(FRAME_BITS), wait.eq(self._cycles // 2 - 1)]
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Else():
            m.d.sync += [wait.eq(self._cycles - 1), frame.eq(Cat(frame[1:], line)), bits.eq(bits - 1)]
            with m.If((bits == FRAME_BITS) & line):
                m.d.sync += bits.eq(0)  # too short for a start bit
            with m.If((bits == 1) & line):
                m.d.comb += self.overrun.eq(self.byte.valid & ~self.byte.ready)
                m.d.sync += [self.byte.valid.eq(1), self.byte.payload.eq(frame[2:])]
        return m


class UartTransmitter(Component):
    """Bytes to a line, ten bits each without a pause between them."""

    def __init__(self, cycles: int):
        self._cycles = cycles
        super().__init__({"line": Out(1, init=1), "byte": In(stream.Signature(BYTE_BITS))})

    def elaborate(self, platform):
        m = Module()
        wait = Signal(range(self._cycles))
        frame = Signal(FRAME_BITS - 1, init=-1)
        bits = Signal(range(FRAME_BITS + 1))
        m.d.comb += self.byte.ready.eq((bits == 0) | ((bits == 1) & (wait == 0)))
        with m.If(self.byte.valid & self.byte.ready):
            m.d.sync += [
                self.line.eq(0),
                frame.eq(Cat(self.byte.payload, Const(1, 1))),
                bits.eq(FRAME_BITS),
                wait.eq(self._cycles - 1),
            ]
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Elif(bits != 0):
            m.d.sync += [
                self.line.eq(frame[0]),
                frame.eq(Cat(frame[1:], Const(1, 1))),
                wait.eq(self._cycles - 1),
                bits.eq(bits - 1),
            ]
        return m
