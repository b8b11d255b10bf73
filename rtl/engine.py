"""The whole machine: sequencer, fetch, execute, array, result, on one to four memory ports."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from hardware.accelerator import Accelerator
from hardware.instruction import ERROR_ILLEGAL_INSTRUCTION, INSTRUCTION_WORDS, OPCODES, WORD_BITS
from hardware.timing import BUFFER_LATENCY
from rtl.arrays import ARRAYS
from rtl.buffer import OperandBuffer
from rtl.datapath import without_reset
from rtl.execute import Execute
from rtl.fetch import Fetch
from rtl.interface import ADDRESS_BITS, INSTRUCTION, READ_CHANNEL, READ_REQUEST, WRITE_CHANNEL
from rtl.result import Result
from rtl.skid import Skid
from rtl.vector import VectorUnit

INDEX_BITS = 32


class Sequencer(Component):
    """Reads a program, one instruction at a time, and runs each through the stages.

    It uses the read channel only while the stages are idle, so instruction words never delay operands. ``stages_busy``
    must be right two cycles after ``stages_start``.

    Latency: see `hardware.timing`: `START_TO_REQUEST`, `INSTRUCTION_TO_STAGES`, `RESPONSE_TO_END`.
    """

    start: In(1)
    program: In(ADDRESS_BITS)
    read: Out(READ_CHANNEL)
    instruction: Out(INSTRUCTION)
    stages_start: Out(1)
    stages_busy: In(1)
    busy: Out(1)
    error: Out(4)
    index: Out(INDEX_BITS)
    receives: Out(1)
    """The words on the channel are an instruction's."""

    def elaborate(self, platform):
        m = Module()
        address = Signal(ADDRESS_BITS)
        words = Signal(INSTRUCTION_WORDS * WORD_BITS)
        received = Signal(range(INSTRUCTION_WORDS))
        m.d.sync += self.stages_start.eq(0)
        m.d.comb += [
            self.instruction.eq(words[: INSTRUCTION.size]),
            self.read.request.payload.address.eq(address),
            self.read.request.payload.words.eq(INSTRUCTION_WORDS),
            self.read.word.ready.eq(1),
        ]
        with m.If(self.read.word.valid):
            m.d.sync += words.eq(Cat(words[WORD_BITS:], self.read.word.payload))
        with m.FSM() as fsm:
            m.d.comb += [self.busy.eq(~fsm.ongoing("IDLE")), self.receives.eq(fsm.ongoing("RECEIVE"))]
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [address.eq(self.program), self.error.eq(0), self.index.eq(0)]
                m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += self.read.request.valid.eq(1)
                with m.If(self.read.request.ready):
                    m.next = "RECEIVE"
            with m.State("RECEIVE"), m.If(self.read.word.valid):
                m.d.sync += received.eq(received + 1)
                with m.If(received == INSTRUCTION_WORDS - 1):
                    m.d.sync += received.eq(0)
                    m.next = "START"
            with m.State("START"):
                with m.If(Cat(self.instruction.opcode == one for one in OPCODES).any()):
                    m.d.sync += self.stages_start.eq(1)
                    m.next = "STARTED"
                with m.Else():
                    m.d.sync += self.error.eq(ERROR_ILLEGAL_INSTRUCTION)
                    m.next = "IDLE"
            with m.State("STARTED"):
                m.next = "SETTLE"  # the stages are busy from now on, and seen so a cycle later
            with m.State("SETTLE"):
                m.next = "WAIT"
            with m.State("WAIT"), m.If(~self.stages_busy):
                with m.If(self.instruction.last):
                    m.next = "IDLE"
                with m.Else():
                    m.d.sync += [address.eq(address + INSTRUCTION_WORDS), self.index.eq(self.index + 1)]
                    m.next = "REQUEST"
        return m


ACTIVITY = data.StructLayout(
    {"fetch_busy": 1, "execute_busy": 1, "array_step": 1, "vector_step": 1, "result_busy": 1},
)
"""Fetch has tiles to read; execute works on one; a step is taken; results wait to be written."""


class Engine(Component):
    """A matrix engine that runs programs from memory by itself.

    Members
    -------
    start: strobe, run the program at word address ``program``. Ignored while ``busy``.
    busy: a program runs. When it falls, all results are in memory.
    error: 0, or the code that stopped the last program (`hardware.instruction.ERROR_*`).
    index: of the current or last instruction in its program.
    activity: what the stages do in this cycle, see `ACTIVITY`.
    read_0, read_1, ..., write: the memory ports, see `rtl.interface`. Instructions come through the first.

    Latency and throughput: `hardware.cycles.program_cycles`, behind the AXI units.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        super().__init__(
            {
                "start": In(1),
                "program": In(ADDRESS_BITS),
                "busy": Out(1),
                "error": Out(4),
                "index": Out(INDEX_BITS),
                "activity": Out(ACTIVITY),
                **{f"read_{port}": Out(READ_CHANNEL) for port in range(accelerator.memory.ports)},
                "write": Out(WRITE_CHANNEL),
            }
        )

    def elaborate(self, platform):
        m = Module()
        accelerator = self._accelerator
        shape, buffers, ports = accelerator.array, accelerator.buffers, accelerator.memory.ports
        m.submodules.sequencer = sequencer = Sequencer()
        m.submodules.execute = execute = Execute(accelerator)
        m.submodules.result = result = Result(accelerator)
        datapath = without_reset(m, "operands")
        array, vector = ARRAYS[accelerator.kind](shape.dm, shape.dk, shape.dn), VectorUnit(accelerator)
        m.submodules.array, m.submodules.vector = datapath(array), datapath(vector)
        fetches = []
        for port in range(ports):
            fetch = m.submodules[f"fetch_{port}"] = Fetch(accelerator, port)
            fetches.append(fetch)
            m.d.comb += [
                fetch.lhs_free.eq(execute.lhs_free),
                fetch.lhs_free_entries.eq(execute.lhs_free_entries),
                fetch.rhs_free.eq(execute.rhs_free),
                execute.lhs_ready[port].eq(fetch.lhs_ready),
                execute.rhs_ready[port].eq(fetch.rhs_ready),
            ]
            # The port's rows are neighbours, its columns `ports` apart.
            rows, columns = shape.dm // ports, shape.dn // ports
            lhs = OperandBuffer(rows, buffers.lhs_entries, shape.dk)
            rhs = OperandBuffer(columns, buffers.rhs_entries, shape.dk, accelerator.planes)
            m.submodules[f"lhs_buffer_{port}"], m.submodules[f"rhs_buffer_{port}"] = datapath(lhs), datapath(rhs)
            m.d.comb += [
                lhs.write.eq(fetch.lhs_write),
                rhs.write.eq(fetch.rhs_write),
                lhs.entry.eq(execute.lhs_entry),
                rhs.entry.eq(execute.rhs_entry),
                *(array.lhs[port * rows + i].eq(lhs.vectors[i]) for i in range(rows)),
                *(array.rhs[port + ports * i].eq(rhs.vectors[i]) for i in range(columns)),
            ]

        for stage in (*fetches, execute, result):
            m.d.comb += [stage.instruction.eq(sequencer.instruction), stage.start.eq(sequencer.stages_start)]
        values = array.rhs
        if accelerator.planes > 1:
            values = Cat(entry[: shape.dk] for entry in array.rhs)  # values lie where plane 0 does
            m.d.comb += array.signed_activations.eq(sequencer.instruction.signed_activations)
        if accelerator.traits.packed:
            instruction = sequencer.instruction
            m.d.comb += [
                array.parts.eq(execute.parts),
                array.mode.weight_bits.eq(instruction.segment_0_bits),
                *(
                    array.mode[name].eq(instruction[name])
                    for name in ("activation_bits", "signed_weights", "signed_activations")
                ),
            ]
        constants = Signal(BUFFER_LATENCY)  # steps on their way that read constants
        m.d.sync += [
            constants.eq(Cat(execute.constants, constants)),
            # The next instruction may read what this one writes, so every word must be in memory.
            sequencer.stages_busy.eq(Cat(stage.busy for stage in (*fetches, execute, result)).any() | ~self.write.idle),
        ]
        m.d.comb += [
            sequencer.start.eq(self.start),
            sequencer.program.eq(self.program),
            self.busy.eq(sequencer.busy),
            self.error.eq(sequencer.error),
            self.index.eq(sequencer.index),
            self.activity.fetch_busy.eq(Cat(fetch.busy for fetch in fetches).any()),
            self.activity.execute_busy.eq(execute.has_tile),
            self.activity.array_step.eq(execute.step_valid),
            self.activity.vector_step.eq(execute.vector_valid),
            self.activity.result_busy.eq(result.writing | ~self.write.idle),
            array.step.eq(execute.step),
            array.step_valid.eq(execute.step_valid),
            vector.instruction.eq(sequencer.instruction),
            vector.rhs.eq(values),
            vector.step.eq(execute.vector_step),
            vector.valid.eq(execute.vector_valid),
            result.sums.eq(array.sums),
            result.column_sums.eq(array.column_sums),
            result.sums_valid.eq(array.sums_valid),
            result.totals.eq(vector.totals),
            result.totals_valid.eq(vector.totals_valid),
            result.place.eq(execute.place),
            result.constants.eq(constants[-1]),
            result.lhs.eq(array.lhs),
            execute.result_free.eq(result.free),
        ]
        self._ask(m, "write", result.request, self.write)
        connect(m, flipped(self.write.word), result.word)
        for port, fetch in enumerate(fetches):
            if port:
                self._ask(m, f"{port}", fetch.request, getattr(self, f"read_{port}"))
                self._receive(m, port, fetch.word)
        self._share_first_port(m, sequencer, fetches[0])
        return m

    def _ask(self, m, name: str, request, channel) -> None:
        """Requests to a memory port, which may be long in saying that it is ready."""
        skid = m.submodules[f"skid_{name}"] = Skid(READ_REQUEST)
        connect(m, request, skid.input)
        connect(m, skid.output, flipped(channel.request))

    def _receive(self, m, port: int, word, others=0) -> None:
        """Words from a port but for ``others``, a register later: all of a stage may hang on a word."""
        read = getattr(self, f"read_{port}").word
        m.d.comb += read.ready.eq(1)
        m.d.sync += [word.valid.eq(read.valid & ~others), word.payload.eq(read.payload)]

    def _share_first_port(self, m, sequencer, fetch) -> None:
        """The first read channel is the sequencer's while it reads an instruction, which it does with fetch idle."""
        ask, word = sequencer.read.request, sequencer.read.word
        shared = stream.Signature(READ_REQUEST).create(path=("shared_request",))
        self._ask(m, "0", shared, self.read_0)
        m.d.comb += [
            shared.valid.eq(fetch.request.valid | ask.valid),
            shared.payload.eq(Mux(ask.valid, ask.payload, fetch.request.payload)),
            fetch.request.ready.eq(shared.ready),
            ask.ready.eq(shared.ready),
        ]
        self._receive(m, 0, fetch.word, others=sequencer.receives)
        m.d.comb += word.payload.eq(fetch.word.payload)
        m.d.sync += word.valid.eq(self.read_0.word.valid & sequencer.receives)
