"""Vector steps and the vector unit, on a buffer in plain Python, against NumPy's sums and maxima."""

from itertools import product

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import Component

from hardware.instruction import FIELDS, OPCODE_MAXIMUM, OPCODE_SUM
from hardware.schedule import LARGEST_WINDOW
from hardware.timing import BUFFER_LATENCY, VECTOR_LATENCY
from rtl.vector import TOTAL_BITS, VectorSteps, VectorUnit

LOWEST, HIGHEST = -(2**15), 2**15 - 1
DN = 3


class Vector(Component):
    """Both units, and no ports: the test drives them where they are."""

    def __init__(self, accelerator):
        self.steps, self.unit = VectorSteps(accelerator), VectorUnit(accelerator)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.steps, m.submodules.unit = self.steps, self.unit
        m.d.comb += [self.unit.step.eq(self.steps.step), self.unit.valid.eq(self.steps.advance)]
        return m


def entries_of(windows: np.ndarray, lanes: int) -> np.ndarray:
    """Buffer entries ``(columns, entries, lanes)`` of windows ``(columns, taps, channels)``: [tap][channel]."""
    columns = len(windows)
    flat = windows.reshape(columns, -1).astype("<i2").view("<u8")
    return np.pad(flat, ((0, 0), (0, -flat.shape[1] % lanes))).reshape(columns, -1, lanes)


async def run_tile(ctx, dut, entries, dk, columns, pause, rng, totals, delays) -> None:
    """Issue all steps of a column tile and collect what comes out; what the steps say of the next one comes true."""
    steps = dut.steps
    ctx.set(steps.columns, columns)
    await ctx.tick()
    ctx.set(steps.load, 1)
    said = ctx.get(steps.first_done), ctx.get(steps.first_last)
    await ctx.tick()
    ctx.set(steps.load, 0)
    ctx.set(steps.columns, int(rng.integers(256)))
    begun, running, coming, quiet, cycle = [], True, [None] * BUFFER_LATENCY, 0, 0
    while quiet <= VECTOR_LATENCY:
        offset, *coming = coming
        for column in range(DN):  # the buffer's output: for steps that were taken, otherwise noise
            known = offset is not None and column < columns
            words = entries[column, offset].tobytes() if known else rng.bytes(dk // 8)
            ctx.set(dut.unit.rhs[column], int.from_bytes(words, "little"))
        advance = running and rng.random() >= pause
        ctx.set(steps.advance, advance)
        coming.append(ctx.get(steps.offset) if advance else None)
        done, last = ctx.get(steps.step.done), ctx.get(steps.last)
        if running:
            assert (done, last) == said
            assert last == (done and ctx.get(steps.last_group) and ctx.get(steps.last_column))
        said = ctx.get(steps.next_done), ctx.get(steps.next_last)
        if advance and done:
            begun.append(cycle)
            running = not last
        if ctx.get(dut.unit.totals_valid):
            totals.append([ctx.get(total) for total in dut.unit.totals])
            delays.append(cycle - begun[len(delays)])
        await ctx.tick()
        cycle += 1
        quiet += not running
        assert cycle < 10_000, "a total never came"


def check(simulate, accelerator, opcode, windows, pause=0.0, seed=0):
    """Run windows ``(columns, taps, channels)`` as one column tile and compare."""
    columns, taps, channels = windows.shape
    dm, dut, totals, delays = accelerator.array.dm, Vector(accelerator), [], []
    fields = dict.fromkeys(FIELDS, 0) | {
        "opcode": opcode,
        "taps": taps,
        "pixel_words": channels // 4,
        "row_tiles": channels // dm,
    }

    async def testbench(ctx):
        for unit in (dut.steps, dut.unit):
            ctx.set(unit.instruction, fields)
        await ctx.tick()  # its constants
        entries = entries_of(windows, accelerator.lanes)
        rng = np.random.default_rng(seed)
        await run_tile(ctx, dut, entries, accelerator.array.dk, columns, pause, rng, totals, delays)

    simulate(dut, testbench)
    expected = windows.astype(np.int64).sum(axis=1) if opcode == OPCODE_SUM else windows.max(axis=1)
    assert np.array(totals).reshape(columns, channels).tolist() == expected.tolist()
    assert set(delays) == {VECTOR_LATENCY}


@pytest.mark.parametrize("opcode", [OPCODE_SUM, OPCODE_MAXIMUM])
@pytest.mark.parametrize(("dm", "dk"), [*product((2, 4, 8, 16), (64, 128, 256)), (32, 512), (64, 64)])
def test_totals_are_numpys_and_come_vector_latency_cycles_later(simulate, machine, dm, dk, opcode):
    rng = np.random.default_rng(dm + dk)
    accelerator = machine(dm=dm, dk=dk, dn=DN)
    for taps, channels, columns, pause in (
        (1, max(dm, 4), 1, 0.0),
        (1, max(dm, 4), 2, 0.0),
        (4, max(dm, 16), 3, 0.4),
        (9, 3 * max(dm, 16), 2, 0.0),
    ):
        windows = rng.integers(LOWEST, HIGHEST + 1, size=(columns, taps, channels))
        windows[rng.random(windows.shape) < 0.1] = LOWEST
        windows[rng.random(windows.shape) < 0.1] = HIGHEST
        check(simulate, accelerator, opcode, windows, pause, seed=taps)


@pytest.mark.parametrize(("opcode", "taps"), [(OPCODE_SUM, 1024), (OPCODE_MAXIMUM, 16)])
@pytest.mark.parametrize("value", [LOWEST, HIGHEST])
def test_the_largest_windows_of_extreme_values(simulate, machine, opcode, taps, value):
    assert TOTAL_BITS == 26
    check(simulate, machine(dm=4, dn=DN), opcode, np.full((1, taps, 4), value))


def test_one_step_per_cycle_one_per_tap_and_dm_channels(simulate, machine):
    """Without pauses a column tile takes columns x groups x taps x steps per tap."""
    for dm, dk, per_tap in ((4, 64, 1), (16, 64, 4), (16, 128, 2), (2, 64, 1)):
        accelerator = machine(dm=dm, dk=dk, dn=DN)
        steps, count = VectorSteps(accelerator), []

        async def testbench(ctx, steps=steps, dm=dm, count=count):
            fields = {"opcode": OPCODE_SUM, "taps": 5, "pixel_words": 8, "row_tiles": 32 // dm}
            ctx.set(steps.instruction, dict.fromkeys(FIELDS, 0) | fields)
            ctx.set(steps.columns, 2)
            ctx.set(steps.load, 1)
            await ctx.tick()
            ctx.set(steps.load, 0)
            ctx.set(steps.advance, 1)
            ends = False
            while not ends:
                ends = all(map(ctx.get, (steps.step.done, steps.last_group, steps.last_column)))
                count.append(ends)
                await ctx.tick()

        simulate(steps, testbench)
        assert len(count) == 2 * (32 // dm) * 5 * per_tap


def test_no_pass_adds_more_values_than_a_total_holds():
    assert LARGEST_WINDOW * 2**15 <= 2 ** (TOTAL_BITS - 1)
