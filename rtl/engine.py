"""The whole machine: sequencer, fetch, execute, array, result, on one memory port."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from hardware.accelerator import Accelerator
from hardware.instruction import ERROR_ILLEGAL_INSTRUCTION, INSTRUCTION_WORDS, OPCODE_RUN, WORD_BITS
from rtl.array import BitSerialArray
from rtl.buffer import OperandBuffer
from rtl.execute import Execute
from rtl.fetch import Fetch
from rtl.interface import ADDRESS_BITS, INSTRUCTION, READ_CHANNEL, WRITE_CHANNEL
from rtl.result import Result

CYCLE_BITS = 48


class Sequencer(Component):
    """Reads a program, one instruction at a time, and runs each through the stages.

    It uses the read channel only while the stages are idle, so instruction words never delay operands.

    Latency: see `hardware.timing`: `START_TO_REQUEST`, `INSTRUCTION_TO_STAGES`, `RESULT_TO_END`.
    """

    start: In(1)
    program: In(ADDRESS_BITS)
    read: Out(READ_CHANNEL)
    instruction: Out(INSTRUCTION)
    stages_start: Out(1)
    stages_busy: In(1)
    busy: Out(1)
    error: Out(4)
    cycles: Out(CYCLE_BITS)

    def elaborate(self, platform):
        m = Module()
        address = Signal(ADDRESS_BITS)
        words = Signal(INSTRUCTION_WORDS * WORD_BITS)
        received = Signal(range(INSTRUCTION_WORDS))
        m.d.comb += [
            self.instruction.eq(words[: INSTRUCTION.size]),
            self.read.request.payload.address.eq(address),
            self.read.request.payload.words.eq(INSTRUCTION_WORDS),
            self.read.word.ready.eq(1),
        ]
        with m.If(self.busy):
            m.d.sync += self.cycles.eq(self.cycles + 1)
        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [address.eq(self.program), self.error.eq(0), self.cycles.eq(0)]
                m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += self.read.request.valid.eq(1)
                with m.If(self.read.request.ready):
                    m.next = "RECEIVE"
            with m.State("RECEIVE"), m.If(self.read.word.valid):
                m.d.sync += [
                    words.eq(Cat(words[WORD_BITS:], self.read.word.payload)),
                    received.eq(received + 1),
                ]
                with m.If(received == INSTRUCTION_WORDS - 1):
                    m.d.sync += received.eq(0)
                    m.next = "START"
            with m.State("START"):
                with m.If(self.instruction.opcode == OPCODE_RUN):
                    m.d.comb += self.stages_start.eq(1)
                    m.next = "WAIT"
                with m.Else():
                    m.d.sync += self.error.eq(ERROR_ILLEGAL_INSTRUCTION)
                    m.next = "IDLE"
            with m.State("WAIT"), m.If(~self.stages_busy):
                m.d.sync += address.eq(address + INSTRUCTION_WORDS)
                m.next = "REQUEST"
                with m.If(self.instruction.last):
                    m.next = "IDLE"
        return m


class Engine(Component):
    """A bit-serial matrix engine that runs programs from memory by itself.

    Members
    -------
    start: strobe, run the program at word address ``program``. Ignored while ``busy``.
    busy: a program runs. When it falls, all results have been accepted by the memory.
    error: 0, or the code that stopped the last program (`hardware.instruction.ERROR_*`).
    cycles: cycles the current or last program has been busy.
    read, write: the memory port, see `rtl.interface`.

    Latency and throughput: exactly `hardware.cycles.layer_cycles`.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        super().__init__(
            {
                "start": In(1),
                "program": In(ADDRESS_BITS),
                "busy": Out(1),
                "error": Out(4),
                "cycles": Out(CYCLE_BITS),
                "read": Out(READ_CHANNEL),
                "write": Out(WRITE_CHANNEL),
            }
        )

    def elaborate(self, platform):
        m = Module()
        array_shape, buffers = self._accelerator.array, self._accelerator.buffers
        m.submodules.sequencer = sequencer = Sequencer()
        m.submodules.fetch = fetch = Fetch(self._accelerator)
        m.submodules.execute = execute = Execute(self._accelerator)
        m.submodules.result = result = Result(self._accelerator)
        m.submodules.lhs_buffer = lhs = OperandBuffer(array_shape.dm, buffers.lhs_entries, array_shape.dk)
        m.submodules.rhs_buffer = rhs = OperandBuffer(array_shape.dn, buffers.rhs_entries, array_shape.dk)
        m.submodules.array = array = BitSerialArray(array_shape.dm, array_shape.dk, array_shape.dn)

        for stage in (fetch, execute, result):
            m.d.comb += [stage.instruction.eq(sequencer.instruction), stage.start.eq(sequencer.stages_start)]
        m.d.comb += [
            sequencer.start.eq(self.start),
            sequencer.program.eq(self.program),
            sequencer.stages_busy.eq(fetch.busy | execute.busy | result.busy),
            self.busy.eq(sequencer.busy),
            self.error.eq(sequencer.error),
            self.cycles.eq(sequencer.cycles),
            execute.lhs_ready.eq(fetch.lhs_ready),
            execute.rhs_ready.eq(fetch.rhs_ready),
            fetch.lhs_free.eq(execute.lhs_free),
            fetch.rhs_free.eq(execute.rhs_free),
            lhs.write.eq(fetch.lhs_write),
            rhs.write.eq(fetch.rhs_write),
            lhs.entry.eq(execute.lhs_entry),
            rhs.entry.eq(execute.rhs_entry),
            array.lhs.eq(lhs.vectors),
            array.rhs.eq(rhs.vectors),
            array.step.eq(execute.step),
            array.step_valid.eq(execute.step_valid),
            result.sums.eq(array.sums),
            result.sums_valid.eq(array.sums_valid),
            execute.result_free.eq(result.free),
        ]
        connect(m, flipped(self.write.word), result.word)

        # One read channel: the sequencer's while the stages are idle, fetch's otherwise.
        fetching = Signal()
        m.d.comb += [
            fetching.eq(fetch.busy),
            self.read.request.valid.eq(Mux(fetching, fetch.request.valid, sequencer.read.request.valid)),
            self.read.request.payload.eq(Mux(fetching, fetch.request.payload, sequencer.read.request.payload)),
            fetch.request.ready.eq(self.read.request.ready & fetching),
            sequencer.read.request.ready.eq(self.read.request.ready & ~fetching),
            fetch.word.valid.eq(self.read.word.valid & fetching),
            sequencer.read.word.valid.eq(self.read.word.valid & ~fetching),
            self.read.word.ready.eq(Mux(fetching, fetch.word.ready, sequencer.read.word.ready)),
            fetch.word.payload.eq(self.read.word.payload),
            sequencer.read.word.payload.eq(self.read.word.payload),
        ]
        return m
