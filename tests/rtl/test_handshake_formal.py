"""Streams and AXI-Lite proved for ever: what is offered stays until it is taken, and answers have questions."""

from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In

import rtl.engine
import rtl.registers
import rtl.skid
from hardware.registers import ADDRESS_BITS, REGISTER_BITS, REGISTERS, Access
from rtl.interface import READ_REQUEST
from sim.properties import faulty, past, same, stable_while_stalled, within
from sim.reach import reach
from sim.stand_ins import mutant_of


class SkidProof(Component):
    """Both sides are free, the producer may even withdraw what it offers.

    ``kept`` is what came and was not taken, if ``held``: no more than one is.
    """

    LAYOUT = READ_REQUEST
    input: In(READ_REQUEST)
    valid: In(1)
    ready: In(1)

    def __init__(self, module: ModuleType = rtl.skid):
        self._unit = module.Skid(self.LAYOUT)
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        held, kept, begun = Signal(), Signal(self.LAYOUT), Signal()
        m.d.comb += [
            unit.input.valid.eq(self.valid),
            unit.input.payload.eq(self.input),
            unit.output.ready.eq(self.ready),
        ]
        takes, gives = self.valid & unit.input.ready, unit.output.valid & self.ready
        offered = Cat(unit.output.payload)
        m.d.sync += [held.eq(held + takes - gives), begun.eq(1)]
        with m.If(takes & ~(gives & ~held)):
            m.d.sync += kept.eq(self.input)
        m.d.comb += [
            Assert(~(takes & held) | gives),  # room for one
            Assert(
                unit.output.valid == (held | self.valid)
            ),  # nothing waits inside, nothing is offered that did not come
            Assert(~held | (offered == Cat(kept))),  # in order, as it came
            Assert(held | ~self.valid | (offered == Cat(self.input))),
        ]
        before = past(m, self.ready)
        m.d.comb += Assert(unit.input.ready | (begun & ~before))  # who is never refused takes one in every cycle
        stable_while_stalled(m, unit.output.valid, self.ready, unit.output.payload)
        return m


class SequencerProof(Component):
    """The memory and the stages are free, but words come only after their request."""

    start: In(1)
    program: In(32)
    request_ready: In(1)
    word: In(64)
    word_valid: In(1)
    stages_busy: In(1)

    def __init__(self, module: ModuleType = rtl.engine):
        self._unit = module.Sequencer()
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        request = unit.read.request
        owed, started = Signal(8), Signal()
        m.d.comb += [
            unit.start.eq(self.start),
            unit.program.eq(self.program),
            request.ready.eq(self.request_ready),
            unit.read.word.payload.eq(self.word),
            unit.read.word.valid.eq(self.word_valid),
            unit.stages_busy.eq(self.stages_busy),
            Assume(~self.word_valid | (owed != 0)),
        ]
        asked = request.valid & self.request_ready
        m.d.sync += owed.eq(owed + Mux(asked, request.payload.words, 0) - self.word_valid)
        with m.If(unit.stages_start):
            m.d.sync += started.eq(1)
        with m.If(asked):
            m.d.sync += started.eq(0)
        # The stages may take two cycles to say that they are busy: what they say before is not looked at.
        runs, age = Signal(), Signal(2)  # since the start strobe, until the instruction ends
        goes_on = request.valid | ~unit.busy
        done = past(m, ~self.stages_busy)
        with m.If(runs & goes_on):
            m.d.comb += Assert((age == 3) & done)
            m.d.sync += runs.eq(0)
        with m.If(age != 3):
            m.d.sync += age.eq(age + 1)
        with m.If(unit.stages_start):
            m.d.sync += [runs.eq(1), age.eq(1)]
        stable_while_stalled(m, request.valid, self.request_ready, request.payload)
        m.d.comb += [
            Assert(~request.valid | unit.busy),
            Assert(~request.valid | (owed == 0)),  # one request at a time
            Assert(~unit.stages_start | ((owed == 0) & unit.busy & ~started)),  # one start for each instruction
            Assert(unit.read.word.ready),
            Assert(unit.receives == (owed != 0)),  # words are the stages' or the instruction's, not both
        ]
        ends = Cat(unit.instruction.as_value()[i] for i in (0, 63, 64, -1))  # its bits are one shift register
        kept = same(m, ends)
        m.d.comb += Assert(kept | past(m, self.word_valid))
        m.d.comb += Assert(~started | kept)  # the stages never see their instruction change
        idle = past(m, ~unit.busy & ~self.start)
        with m.If(idle):
            m.d.comb += [Assert(~unit.busy), Assert(~request.valid)]
        waits = (request.valid & ~self.request_ready) | ((owed != 0) & ~self.word_valid) | self.stages_busy
        within(m, 2, unit.busy & ~waits & ~asked & ~self.word_valid & ~unit.stages_start)
        return m


class RegistersProof(Component):
    """The host's valid and ready signals are free but for AXI's rules; so is everything that the machine sets.

    ``addresses``, ``words`` and ``reads`` count what was accepted and not answered.
    """

    HOST = {"aw": ("awaddr",), "w": ("wdata", "wstrb"), "ar": ("araddr",)}

    def __init__(self, module: ModuleType = rtl.registers):
        self._unit = module.RegisterFile()
        ports = {name: member for name, member in self._unit.signature.members.items() if name != "axi"}
        self._inputs = [name for name, member in ports.items() if member.flow is In]
        free = {"awaddr": ADDRESS_BITS, "wdata": REGISTER_BITS, "wstrb": 4, "araddr": ADDRESS_BITS}
        free |= dict.fromkeys(("awvalid", "wvalid", "arvalid", "bready", "rready"), 1)
        self._pins = list(free)
        super().__init__({name: In(bits) for name, bits in free.items()} | {name: ports[name] for name in self._inputs})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        axi = unit.axi
        m.d.comb += [getattr(axi, name).eq(getattr(self, name)) for name in self._pins]
        m.d.comb += [getattr(unit, name).eq(getattr(self, name)) for name in self._inputs]
        for channel, payload in self.HOST.items():
            valid, offered = getattr(axi, f"{channel}valid"), Cat(getattr(axi, name) for name in payload)
            waited = past(m, valid & ~getattr(axi, f"{channel}ready"))
            m.d.comb += Assume(~waited | (valid & same(m, offered)))
        stable_while_stalled(m, axi.bvalid, self.bready, axi.bresp)
        stable_while_stalled(m, axi.rvalid, self.rready, axi.rdata, axi.rresp)

        addresses, words, reads = Signal(4), Signal(4), Signal(4)
        answered, read = axi.bvalid & self.bready, axi.rvalid & self.rready
        address, word = axi.awvalid & axi.awready, axi.wvalid & axi.wready
        asked_before = past(m, reads != 0)
        m.d.sync += [
            addresses.eq(addresses + address - answered),
            words.eq(words + word - answered),
            reads.eq(reads + (axi.arvalid & axi.arready) - read),
        ]
        m.d.comb += [
            Assert(~axi.bvalid | ((addresses != 0) & (words != 0))),  # no answer without address and data
            Assert((addresses <= 2) & (words <= 2) & (reads <= 1)),
            Assert(axi.rvalid == ((reads != 0) & asked_before)),  # two cycles after the address
            Assert(~axi.bresp[0] & ~axi.rresp[0]),
        ]
        # Nothing hangs: a write has its response, readiness comes back.
        within(m, 2, (addresses != 0) & (words != 0) & ~axi.bvalid)
        within(m, 2, (addresses == 0) & ~axi.awready)
        within(m, 2, (words == 0) & ~axi.wready)
        within(m, 1, (reads == 0) & ~axi.arready)

        # A strobe belongs to a write of its register: one for each, in the first cycle of the response.
        first = axi.bvalid & ~past(m, axi.bvalid)
        at, data, mask = Signal(ADDRESS_BITS), Signal(REGISTER_BITS), Signal(4)
        with m.If(address):
            m.d.sync += at.eq(self.awaddr)
        with m.If(word):
            m.d.sync += [data.eq(self.wdata), mask.eq(self.wstrb)]
        for register in REGISTERS:
            for field in register.fields:
                name = register.port(field)
                here = (at[2:] == register.offset // 4) & (field.low // 8 == (field.low + field.bits - 1) // 8)
                if field.access is Access.STROBE:
                    strobe = getattr(unit, name)
                    asked = first & here & mask[field.low // 8]
                    m.d.comb += Assert(strobe == Mux(asked, data[field.low : field.low + field.bits], 0))
                    m.d.comb += Assert(~strobe.any() | (axi.bvalid & (addresses != 0) & (words != 0)))
                if field.access is Access.READ_WRITE:
                    value = getattr(unit, name)
                    kept, chosen = same(m, value), past(m, at[2:] == register.offset // 4)
                    with m.If(~kept):
                        m.d.comb += [Assert(axi.bvalid), Assert(axi.bresp == 0), Assert(chosen)]
        return m


PROOFS = {
    "skid": lambda machine: SkidProof(),
    "sequencer": lambda machine: SequencerProof(),
    "registers": lambda machine: RegistersProof(),
}


@pytest.mark.parametrize("name", PROOFS)
def test_what_is_offered_stays_and_nothing_is_answered_unasked(tmp_path: Path, machine, name: str) -> None:
    assert "proved by PDR" in reach(PROOFS[name](machine), tmp_path)


FAULTS = {  # which proof, what its unit gets instead
    "payload torn by the next": ("skid", lambda unit: unit.output.ready.eq(1)),
    "held for ever": ("skid", lambda unit: unit.output.ready.eq(0)),
    "instruction asked for once more": ("sequencer", lambda unit: unit.read.request.ready.eq(0)),
    "words before their request": ("sequencer", lambda unit: unit.read.word.valid.eq(1)),
    "response not waited for": ("registers", lambda unit: unit.axi.bready.eq(1)),
    "read data not waited for": ("registers", lambda unit: unit.axi.rready.eq(1)),
}
QUICK = ("payload torn by the next",)


@pytest.mark.parametrize("fault", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FAULTS])
def test_the_proof_fails_for_a_unit_with_a_fault(tmp_path: Path, machine, fault: str) -> None:
    proof, wrong = FAULTS[fault]
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(faulty(PROOFS[proof](machine), wrong), tmp_path)


MUTANTS = {  # which proof and source, text of it, what it becomes
    "strobe without data": (RegistersProof, rtl.registers, "ones = data[bits] & enable", "ones = enable"),
    "register written at any address": (
        RegistersProof,
        rtl.registers,
        "commit & (address[2:] == register.offset // 4)",
        "commit",
    ),
    "response before the data": (
        RegistersProof,
        rtl.registers,
        "commit.eq(has_address & has_data & ",
        "commit.eq(has_address & ",
    ),
    "two reads at once": (RegistersProof, rtl.registers, "~(axi.rvalid | has_address)", "~axi.rvalid"),
    "address while its data waits": (RegistersProof, rtl.registers, "~(axi.rvalid | has_address)", "~has_address"),
    "response not waited for": (RegistersProof, rtl.registers, "has_data & ~axi.bvalid", "has_data"),
    "strobe before the response": (
        RegistersProof,
        rtl.registers,
        "m.d.sync += getattr(self, name).eq(ones)",
        "m.d.comb += getattr(self, name).eq(ones)",
    ),
    "stages looked at too early": (SequencerProof, rtl.engine, 'm.next = "SETTLE"', 'm.next = "WAIT"'),
    "stages looked at with their start": (SequencerProof, rtl.engine, 'm.next = "STARTED"', 'm.next = "SETTLE"'),
    "words taken while none is asked for": (SequencerProof, rtl.engine, 'fsm.ongoing("RECEIVE"))', "self.busy)"),
    "started twice": (SequencerProof, rtl.engine, "m.d.sync += self.stages_start.eq(0)", ""),
    "second one overwrites the first": (SkidProof, rtl.skid, "input.ready.eq(~held)", "input.ready.eq(1)"),
    "a cycle lost": (SkidProof, rtl.skid, "& ~self.output.ready)", ")"),
    "what is held is forgotten": (SkidProof, rtl.skid, "Mux(held, payload, self.input.payload)", "self.input.payload"),
}


@pytest.mark.slow  # some seconds each
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_proof_fails_for_a_wrong_unit(tmp_path: Path, mutant: str) -> None:
    proof, original, text, wrong = MUTANTS[mutant]
    module = mutant_of(original, text, wrong)
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(proof(module), tmp_path)
