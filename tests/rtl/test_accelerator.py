"""The whole machine under its AXI4-Lite registers, with a plain AXI memory, in Amaranth's simulator."""

from collections import deque
from typing import Any

import numpy as np
import pytest

import rtl.accelerator
from codesign.lowering import lower
from hardware.cycles import layer_cycles
from hardware.instruction import FIELDS, encode
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.registers import MAGIC, REGISTERS, ErrorCode
from hardware.timing import VECTOR_LATENCY, sums_latency
from rtl.accelerator import Machine
from rtl.control import FLUSH_CYCLES
from sim.reference import reference_sums

BASE = 0x8000_0000
OFFSETS = {register.name: register.offset for register in REGISTERS}
MASKS = {register.port(field): field.mask for register in REGISTERS for field in register.fields}
START, SOFT_RESET = MASKS["control_start"], MASKS["control_soft_reset"]
ENABLE, DONE, ERROR = MASKS["control_interrupt_enable"], MASKS["status_done"], MASKS["status_error"]
BUSY, PENDING = MASKS["status_busy"], MASKS["status_interrupt_pending"]
RESETTING = MASKS["status_resetting"]


class Bus:
    """Driver of the registers and slave of the first memory port: one call of `tick` per cycle."""

    def __init__(self, dut, words: np.ndarray, latency: int):
        self.dut, self.words, self.latency = dut, [int(word) for word in words], latency
        self.now = 0
        self.beats: deque[tuple[int, int, bool]] = deque()  # cycle, word address, last
        self.read_free = 0
        self.bursts: deque[list[int]] = deque()  # next word address, beats left
        self.responses = 0

    async def tick(self, ctx) -> None:
        def pin(name: str):
            return getattr(self.dut, f"m_axi_0_{name}")

        beat = self.beats.popleft() if self.beats and self.beats[0][0] <= self.now else None
        ctx.set(pin("rvalid"), beat is not None)
        if beat:
            ctx.set(pin("rdata"), self.words[beat[1]])
            ctx.set(pin("rlast"), beat[2])
        ctx.set(pin("bvalid"), self.responses > 0)
        self.responses -= self.responses > 0
        ctx.set(pin("arready"), self.now >= self.read_free)
        ctx.set(pin("awready"), 1)
        ctx.set(pin("wready"), bool(self.bursts))
        if ctx.get(pin("wvalid")) and self.bursts:
            burst = self.bursts[0]
            assert ctx.get(pin("wstrb")) in (0, 0xFF)
            if ctx.get(pin("wstrb")):
                self.words[burst[0]] = ctx.get(pin("wdata"))
            burst[:] = burst[0] + 1, burst[1] - 1
            assert ctx.get(pin("wlast")) == (burst[1] == 0)
            if burst[1] == 0:
                self.bursts.popleft()
                self.responses += 1
        for channel in ("ar", "aw"):
            if ctx.get(pin(f"{channel}valid")) and ctx.get(pin(f"{channel}ready")):
                address, beats = ctx.get(pin(f"{channel}addr")), ctx.get(pin(f"{channel}len")) + 1
                assert address >= BASE
                first = (address - BASE) // 8
                if channel == "aw":
                    self.bursts.append([first, beats])
                else:
                    begin = self.now + 1 + self.latency
                    self.beats.extend((begin + k, first + k, k == beats - 1) for k in range(beats))
                    self.read_free = self.now + beats
        await ctx.tick()
        self.now += 1

    async def write(self, ctx, register: str, value: int) -> None:
        dut = self.dut
        for name, data in (("awaddr", OFFSETS[register]), ("wdata", value), ("wstrb", 15)):
            ctx.set(getattr(dut, f"s_axi_{name}"), data)
        for name in ("awvalid", "wvalid", "bready"):
            ctx.set(getattr(dut, f"s_axi_{name}"), 1)
        assert ctx.get(dut.s_axi_awready)
        assert ctx.get(dut.s_axi_wready)
        await self.tick(ctx)
        ctx.set(dut.s_axi_awvalid, 0)
        ctx.set(dut.s_axi_wvalid, 0)
        while not ctx.get(dut.s_axi_bvalid):
            await self.tick(ctx)
        assert ctx.get(dut.s_axi_bresp) == 0
        await self.tick(ctx)
        ctx.set(dut.s_axi_bready, 0)

    async def read(self, ctx, register: str) -> int:
        dut = self.dut
        ctx.set(dut.s_axi_araddr, OFFSETS[register])
        ctx.set(dut.s_axi_arvalid, 1)
        ctx.set(dut.s_axi_rready, 1)
        await self.tick(ctx)
        ctx.set(dut.s_axi_arvalid, 0)
        while not ctx.get(dut.s_axi_rvalid):
            await self.tick(ctx)
        value = ctx.get(dut.s_axi_rdata)
        assert ctx.get(dut.s_axi_rresp) == 0
        await self.tick(ctx)
        return value

    async def start(self, ctx, program: int = 0, watchdog: int = 0) -> None:
        await self.write(ctx, "memory_base", BASE)
        await self.write(ctx, "memory_words", len(self.words))
        await self.write(ctx, "program", program)
        await self.write(ctx, "watchdog", watchdog)
        await self.write(ctx, "control", ENABLE | START)

    async def interrupt(self, ctx, cycles: int = 3000) -> None:
        for _ in range(cycles):
            if ctx.get(self.dut.interrupt):
                return
            await self.tick(ctx)
        raise AssertionError("no interrupt came")

    async def stopped(self, ctx, reads: int = 100) -> None:
        for _ in range(reads):
            if not await self.read(ctx, "status") & BUSY:
                return
        raise AssertionError("it stays busy")


class Watched(Bus):
    """Looks in every cycle at what passes between the engine and the AXI units."""

    def __init__(self, dut, words: np.ndarray, latency: int, parts: dict[str, Any]):
        super().__init__(dut, words, latency)
        self.parts = parts
        self.halted, self.was_busy = True, False  # a cycle ago
        self.stopped_since_start = True
        self.starts: list[bool] = []
        """For every start that the engine got, whether the machine was busy a cycle before."""

    async def tick(self, ctx) -> None:
        control, reader, writer = (self.parts[name] for name in ("Control", "AxiReader", "AxiWriter"))
        halt, start = ctx.get(control.halt), ctx.get(control.engine_start)
        asks = (reader.request, writer.request, writer.word)
        if ctx.get(control.engine_reset):
            assert halt, "the engine is in reset and a unit could take what it says"
            assert self.halted, "a word may pass while the engine is being reset"
        self.stopped_since_start |= self.halted  # the units see it a cycle later
        if self.stopped_since_start:
            assert not any(ctx.get(one.valid & one.ready) for one in asks), "a stopped program reached a unit"
            assert not ctx.get(reader.word.valid), "a word for a stopped program reached the engine"
            if not halt:
                assert not any(ctx.get(one.valid) for one in asks), "something is left of a stopped program"
                assert ctx.get(reader.idle & writer.idle), "a unit has not ended"
        if start:
            assert not halt
            assert not ctx.get(control.engine_reset)
            self.starts.append(self.was_busy)
            self.stopped_since_start = False
        self.halted, self.was_busy = halt, bool(ctx.get(control.busy))
        await super().tick(ctx)


@pytest.fixture(scope="module")
def accelerator(machine):
    return machine(lhs_entries=16, rhs_entries=16, plane_words=16, latency=3)


@pytest.fixture(scope="module")
def operands(integers):
    layer, rng = Layer("fc", "linear", in_channels=130, out_channels=5, images=3), np.random.default_rng(0)
    weights, activations = integers(rng, (5, 130, 1, 1), 2, True), integers(rng, (3, 130, 1, 1), 2, False)
    return Operands(layer, weights, activations, (2,) * 5, 2)


def test_a_program_runs_from_registers_to_interrupt(simulate, accelerator, operands):
    lowered, dut = lower(operands, accelerator), Machine(accelerator, 0x0123_4567_89AB_CDEF)
    bus = Bus(dut, lowered.image, accelerator.memory.latency)

    async def testbench(ctx):
        assert await bus.read(ctx, "magic") == MAGIC
        assert await bus.read(ctx, "build_hash") == 0x89AB_CDEF
        assert not ctx.get(dut.interrupt)
        await bus.start(ctx)
        assert await bus.read(ctx, "status") == BUSY
        await bus.interrupt(ctx)
        assert await bus.read(ctx, "status") == DONE | PENDING
        results = np.array(bus.words[lowered.result_address :], dtype=np.uint64)
        assert (lowered.outputs(results) == reference_sums(operands)).all()
        cycles = await bus.read(ctx, "cycles")
        await bus.write(ctx, "status", DONE)
        assert not ctx.get(dut.interrupt)
        assert await bus.read(ctx, "status") == 0
        assert cycles == layer_cycles(lowered.schedule)

    simulate(dut, testbench)


def test_it_stops_and_starts_again(simulate, accelerator, operands):
    lowered, dut = lower(operands, accelerator), Machine(accelerator)
    illegal = encode(dict.fromkeys(FIELDS, 0))
    bus = Bus(dut, np.concatenate([lowered.image, illegal]), accelerator.memory.latency)

    async def testbench(ctx):
        await bus.start(ctx, program=len(lowered.image))
        await bus.interrupt(ctx)
        assert await bus.read(ctx, "status") == BUSY | RESETTING | ERROR | PENDING
        await bus.stopped(ctx)
        assert await bus.read(ctx, "status") == DONE | ERROR | PENDING
        assert await bus.read(ctx, "error_code") == ErrorCode.ILLEGAL_INSTRUCTION
        await bus.write(ctx, "status", DONE | ERROR)
        await bus.start(ctx)
        for _ in range(40):
            await bus.tick(ctx)
        assert await bus.read(ctx, "error_code") == ErrorCode.NONE
        await bus.write(ctx, "control", ENABLE | SOFT_RESET)
        assert await bus.read(ctx, "status") == BUSY | RESETTING
        await bus.interrupt(ctx)
        assert await bus.read(ctx, "status") == DONE | PENDING
        assert not bus.beats
        assert not bus.bursts
        await bus.write(ctx, "status", DONE)
        await bus.start(ctx)
        await bus.interrupt(ctx)
        results = np.array(bus.words[lowered.result_address : len(lowered.image)], dtype=np.uint64)
        assert (lowered.outputs(results) == reference_sums(operands)).all()
        assert await bus.read(ctx, "cycles") == layer_cycles(lowered.schedule)

    simulate(dut, testbench)


@pytest.fixture
def parts(monkeypatch) -> dict[str, Any]:
    """The control and the AXI units of the machine that is built next, by their class's name."""
    kept: dict[str, Any] = {}

    def keep(name: str, build):
        def built():
            kept[name] = build()
            return kept[name]

        monkeypatch.setattr(rtl.accelerator, name, built)

    for name in ("Control", "AxiReader", "AxiWriter"):
        keep(name, getattr(rtl.accelerator, name))
    return kept


async def stop_and_start(ctx, bus: Watched, lowered, sums: np.ndarray, at: int, delay: int) -> bool:
    """Stop a program ``at`` cycles after its start; whether the start ``delay`` cycles later was taken at once."""
    await bus.start(ctx)
    for _ in range(at):
        await bus.tick(ctx)
    await bus.write(ctx, "control", ENABLE | SOFT_RESET)
    for _ in range(delay):
        await bus.tick(ctx)
    starts = len(bus.starts)
    await bus.write(ctx, "control", ENABLE | START)
    taken = len(bus.starts) > starts
    if not taken:
        await bus.stopped(ctx)
        assert await bus.read(ctx, "error_code") == ErrorCode.START_WHILE_BUSY
        await bus.write(ctx, "control", ENABLE | START)
    await bus.write(ctx, "status", DONE | ERROR)
    bus.words[lowered.result_address :] = [0] * lowered.result_words
    await bus.interrupt(ctx)
    assert await bus.read(ctx, "status") == DONE | PENDING
    results = np.array(bus.words[lowered.result_address :], dtype=np.uint64)
    assert (lowered.outputs(results) == sums).all(), f"stopped after {at} cycles, started {delay} later"
    await bus.write(ctx, "status", DONE)
    return taken


def test_nothing_of_a_stopped_program_passes_and_a_start_right_behind_it_runs(simulate, accelerator, operands, parts):
    lowered, dut = lower(operands, accelerator), Machine(accelerator)
    bus, sums = Watched(dut, lowered.image, accelerator.memory.latency, parts), reference_sums(operands)

    async def testbench(ctx):
        soonest = FLUSH_CYCLES - 1  # the two writes take three cycles
        assert not await stop_and_start(ctx, bus, lowered, sums, 60, soonest - 1)
        assert await stop_and_start(ctx, bus, lowered, sums, 60, soonest)
        assert bus.starts == [False, False, False, True], "the last start came right behind the stop"
        for at in (0, 3, 33, 120, 132, 140, 150):  # among instruction words, operands, results
            await stop_and_start(ctx, bus, lowered, sums, at, soonest)

    simulate(dut, testbench)


def test_the_pipelines_without_reset_run_empty_while_the_engine_is_reset():
    longest = max(VECTOR_LATENCY, *(sums_latency(dk) for dk in (64, 128, 256, 512)))
    assert longest < FLUSH_CYCLES  # what they get in the first cycle of the reset is from before
