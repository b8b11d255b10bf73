"""Control: starts the engine, watches it, counts what it does, and stops it after errors."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hardware.registers import COUNTER_BITS, ErrorCode
from rtl.countdown import Countdown
from rtl.engine import INDEX_BITS
from rtl.interface import ADDRESS_BITS

COUNTERS = ("cycles", "fetch_busy", "execute_busy", "array_steps", "result_busy", "read_stall", "write_stall")
"""Registers that count cycles, see `hardware.registers`; ``cycles`` counts the others' and its own."""
WATCHDOG_BITS = 32
FLUSH_CYCLES = 16
"""The pipelines of array and vector unit have no reset; in so many cycles they run empty."""


class Control(Component):
    """What the registers `control`, `status` and the counters do.

    An error, and a soft reset, stop the program: the AXI units are halted and the engine is reset until all units are
    idle, and for `FLUSH_CYCLES` at least. The engine starts afresh with the next start.

    Members
    -------
    start, soft_reset, watchdog: from the registers.
    busy, resetting, done_set, error_set, error_code, error_address, error_instruction: to the registers.
    engine_start, engine_busy, engine_error, instruction: the engine's; ``engine_error`` is looked at when it ends.
    bus_error, bus_error_code, bus_error_address: strobe and what some AXI unit says with it.
    bus_idle: all AXI units are idle.
    progress: a transfer on a memory port, or a step.
    engine_reset, halt: to the engine and the AXI units; registers, as all of the engine hangs on them. The units see
        ``halt`` a cycle later, with the reset and to its end, so no word of a stopped program reaches them.
    count: strobes of `COUNTERS` but the first, in their order; totals: of all of them.

    Latency: a start reaches the engine in the same cycle; done one cycle after ``engine_busy`` has fallen.
    """

    def __init__(self):
        super().__init__(
            {
                "start": In(1),
                "soft_reset": In(1),
                "watchdog": In(WATCHDOG_BITS),
                "busy": Out(1),
                "resetting": Out(1),
                "done_set": Out(1),
                "error_set": Out(1),
                "error_code": Out(ErrorCode),
                "error_address": Out(ADDRESS_BITS),
                "error_instruction": Out(INDEX_BITS),
                "engine_start": Out(1),
                "engine_busy": In(1),
                "engine_error": In(4),
                "instruction": In(INDEX_BITS),
                "bus_error": In(1),
                "bus_error_code": In(ErrorCode),
                "bus_error_address": In(ADDRESS_BITS),
                "bus_idle": In(1),
                "progress": In(1),
                "engine_reset": Out(1, init=1),
                "halt": Out(1, init=1),
                "count": In(len(COUNTERS) - 1),
                **{f"total_{name}": Out(COUNTER_BITS) for name in COUNTERS},
            }
        )

    def elaborate(self, platform):
        m = Module()
        running = Signal()
        stopped_program = Signal()
        quiet = Signal(WATCHDOG_BITS)
        timeout = Signal()
        failed = Signal()
        code = Signal(ErrorCode)
        m.d.sync += timeout.eq(running & (self.watchdog != 0) & (quiet >= self.watchdog))
        m.d.sync += quiet.eq(Mux(running & ~self.progress, quiet + 1, 0))

        with m.If(self.start & self.busy & ~self.soft_reset):
            m.d.comb += self.error_set.eq(1)
            with m.If(self.error_code == ErrorCode.NONE):
                m.d.sync += self.error_code.eq(ErrorCode.START_WHILE_BUSY)
        stop = Signal()
        stopping = Signal()
        stopped = Countdown("stop", FLUSH_CYCLES.bit_length())
        m.d.sync += [stopping.eq(stop), self.engine_reset.eq(stopping)]
        m.d.sync += self.halt.eq(stop | stopping)
        m.d.comb += self.resetting.eq(stopping)
        with m.FSM() as fsm:
            m.d.comb += [running.eq(fsm.ongoing("RUN")), self.busy.eq(~fsm.ongoing("IDLE"))]
            with m.State("IDLE"):
                m.d.sync += stopped_program.eq(0)
                with m.If(self.soft_reset):
                    m.d.comb += stop.eq(1)
                    m.next = "STOP"
                with m.Elif(self.start):
                    m.d.comb += self.engine_start.eq(1)
                    self._forget_errors(m)
                    m.d.sync += [getattr(self, f"total_{name}").eq(0) for name in COUNTERS]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.sync += stopped_program.eq(1)
                with m.If(self.soft_reset):
                    m.d.comb += stop.eq(1)
                    m.next = "STOP"
                with m.Elif(failed):
                    m.d.comb += self.error_set.eq(1)
                    m.d.sync += [
                        self.error_code.eq(code),
                        self.error_address.eq(Mux(self.bus_error, self.bus_error_address, 0)),
                        self.error_instruction.eq(self.instruction),
                    ]
                    m.d.comb += stop.eq(1)
                    m.next = "STOP"
                with m.Elif(~self.engine_busy):
                    m.d.comb += self.done_set.eq(1)
                    m.next = "IDLE"
            with m.State("STOP"):
                with m.If(~stopped.last):
                    m.d.sync += stopped.step()
                with m.If(self.bus_idle & stopped.last):
                    m.d.comb += self.done_set.eq(stopped_program)
                    m.next = "STOPPED"
                with m.Else():
                    m.d.comb += stop.eq(1)
            with m.State("STOPPED"):  # the engine is still in reset
                m.next = "IDLE"
        with m.If(stop & ~stopping):
            m.d.sync += stopped.begin(FLUSH_CYCLES)
        with m.If(self.soft_reset):
            self._forget_errors(m)

        with m.If(self.bus_error):
            m.d.comb += [failed.eq(1), code.eq(self.bus_error_code)]
        with m.Elif(timeout):
            m.d.comb += [failed.eq(1), code.eq(ErrorCode.TIMEOUT)]
        with m.Elif(~self.engine_busy & (self.engine_error != 0)):
            m.d.comb += [failed.eq(1), code.eq(self.engine_error)]

        for name, strobe in zip(COUNTERS, Cat(self.engine_busy, self.count), strict=True):
            total = getattr(self, f"total_{name}")
            with m.If(running & strobe):
                m.d.sync += total.eq(total + 1)
        return m

    def _forget_errors(self, m) -> None:
        m.d.sync += [self.error_code.eq(ErrorCode.NONE), self.error_address.eq(0), self.error_instruction.eq(0)]
