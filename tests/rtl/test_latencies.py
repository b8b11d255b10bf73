"""Latencies of the execute and the result stage and of the AXI units, each measured; what they do is tested elsewhere.

The others of `hardware.timing` are measured in `test_fetch`, `test_drain`, `test_engine`, `test_walk`, `test_vector`,
`test_popcount` and `test_array`, those of the simulated memory in `tests/sim/test_dram`.
"""

import numpy as np
import pytest

from hardware.instruction import FIELDS, OPCODE_MATRIX, OPCODE_SUM
from hardware.timing import (
    COLUMN_TO_FREE,
    COLUMN_TO_PLANE_WORD,
    COLUMN_TO_SUM_WORD,
    COLUMN_TO_VALUE_WORD,
    DISPATCH_INTERVAL,
    ISSUE_LATENCY,
    ISSUE_TO_WRITER,
    NEXT_JOB,
    PENDING_JOBS,
    READY_TO_STEP,
    REQUEST_TO_ADDRESS,
    RESPONSE_TO_END,
    STEP_TO_FREE,
    SUMS_TO_COLUMN,
    VALUES_TO_PLANES,
    WALK_LATENCY,
    WORD_TO_READY,
    WRITE_QUEUE,
    WRITER_TO_BEAT,
    sums_latency,
)
from rtl.axi import AxiReader, AxiWriter
from rtl.execute import Execute
from rtl.result import Result


def column_tiles(fields: dict[str, int]) -> int:
    return (fields["groups"] - 1) * fields["group_tiles"] + fields["last_group_tiles"]


def issued_cycles(simulate, machine, fields: dict[str, int], free_from: int) -> list[int]:
    """Cycles with a step; the tiles' strobes begin in cycle 0, from ``free_from`` on the registers are free."""
    execute, issued = Execute(machine(dm=4, dn=4, lhs_entries=64, rhs_entries=128)), []

    async def testbench(ctx):
        ctx.set(execute.instruction, dict.fromkeys(FIELDS, 0) | fields)
        await ctx.tick()
        ctx.set(execute.start, 1)
        await ctx.tick()
        ctx.set(execute.start, 0)
        for cycle in range(100):
            ctx.set(execute.lhs_ready, cycle < fields["row_tiles"])
            ctx.set(execute.rhs_ready, cycle < column_tiles(fields))
            ctx.set(execute.result_free, cycle >= free_from)
            if ctx.get(execute.step_valid) | ctx.get(execute.vector_valid):
                issued.append(cycle)
            await ctx.tick()

    simulate(execute, testbench)
    return issued


FIRST_STEP = WORD_TO_READY - 1 + READY_TO_STEP + ISSUE_LATENCY
"""From a ready strobe, which comes one cycle after the word (see test_fetch), to the first step at the buffers."""


def one_step_tiles(tiles: int) -> dict[str, int]:
    """Raw sums of row tiles of one bit and one chunk, a column tile each."""
    fields = {"opcode": OPCODE_MATRIX, "row_tiles": 1, "groups": tiles, "group_tiles": 1, "last_group_tiles": 1}
    fields |= {"last_columns": 1, "write_sums": 1, "activation_bits": 1, "chunks": 1, "rhs_tile_entries": 1}
    return fields | {"segment_0_bits": 1, "segment_0_tiles": 1, "segment_0_single": 1, "segment_0_entries": 1}


def test_tiles_of_one_step_come_dispatch_interval_cycles_apart(simulate, machine):
    execute, seen = Execute(machine(dm=4, dn=4, lhs_entries=64, rhs_entries=128)), []

    async def testbench(ctx):
        ctx.set(execute.instruction, dict.fromkeys(FIELDS, 0) | one_step_tiles(4))
        await ctx.tick()
        ctx.set(execute.start, 1)
        await ctx.tick()
        ctx.set(execute.start, 0)
        ctx.set(execute.result_free, 1)
        for cycle in range(40):
            ctx.set(execute.lhs_ready, cycle < 4)
            ctx.set(execute.rhs_ready, cycle < 4)
            signals = execute.has_tile, execute.step_valid, execute.lhs_free, execute.rhs_free
            seen.append([ctx.get(signal) for signal in signals])
            await ctx.tick()

    simulate(execute, testbench)
    # A tile is worked on in the cycle in which its only step is taken.
    taken, issued, lhs_freed, rhs_freed = (np.flatnonzero(signal).tolist() for signal in zip(*seen, strict=True))
    assert taken == [FIRST_STEP - ISSUE_LATENCY + DISPATCH_INTERVAL * tile for tile in range(4)]
    assert issued == [cycle + ISSUE_LATENCY for cycle in taken]
    assert lhs_freed == rhs_freed == [cycle + STEP_TO_FREE for cycle in taken]


def test_matrix_tiles_that_are_ready_follow_without_a_gap(simulate, machine):
    fields = {"opcode": OPCODE_MATRIX, "row_tiles": 2, "groups": 1, "group_tiles": 3, "last_columns": 4}
    fields["last_group_tiles"] = 3
    fields |= {"activation_bits": 2, "chunks": 2, "rhs_tile_entries": 4}
    for i, bits in enumerate((3, 1)):
        fields |= {
            f"segment_{i}_bits": bits,
            f"segment_{i}_tiles": 1,
            f"segment_{i}_entries": bits * 2 + 1,
            f"segment_{i}_single": 1,
        }
    steps = sum(3 * bits * 2 * 2 + 1 for bits in (3, 1))  # each row tile has one step for its constants
    assert issued_cycles(simulate, machine, fields, 0) == list(range(FIRST_STEP, FIRST_STEP + steps))


def test_vector_tiles_that_are_ready_follow_without_a_gap(simulate, machine):
    fields = {"opcode": OPCODE_SUM, "row_tiles": 2, "groups": 2, "group_tiles": 1, "last_columns": 2, "taps": 2}
    fields["last_group_tiles"] = 1
    fields |= {"lhs_resident": 1, "activation_bits": 1, "chunks": 4, "rhs_tile_entries": 4, "pixel_words": 2}
    assert issued_cycles(simulate, machine, fields, 0) == list(range(FIRST_STEP, FIRST_STEP + (4 + 2) * 2 * 2))


@pytest.mark.parametrize("chunks", [1, 5])
def test_the_last_step_comes_when_the_registers_are_free(simulate, machine, chunks):
    fields = {"opcode": OPCODE_MATRIX, "row_tiles": 1, "groups": 1, "group_tiles": 2, "last_columns": 4}
    fields["last_group_tiles"] = 2
    fields |= {"write_sums": 1, "activation_bits": 1, "chunks": chunks, "rhs_tile_entries": chunks}
    fields |= {"segment_0_bits": 1, "segment_0_tiles": 1, "segment_0_single": 1, "segment_0_entries": chunks}
    issued = issued_cycles(simulate, machine, fields, free_from=40)
    assert len(issued) == 2 * chunks
    # The strobe is given in the cycle in which a column leaves.
    assert issued[-1] == 40 + COLUMN_TO_FREE + ISSUE_LATENCY
    assert all(cycle < 20 for cycle in issued[:-1])


def send_tiles(simulate, accelerator, memory, tiles: int, columns: int, **fields: int) -> list[tuple[int, int]]:
    """Cycles of every tile's sums and of ``free``; the next sums come as soon as the execute stage can have them."""
    result, times, in_flight = Result(accelerator), [], sums_latency(accelerator.array.dk)
    dm, bits = accelerator.array.dm, fields.get("plane_bits", 0)
    fields |= {"opcode": OPCODE_MATRIX, "row_tiles": 1, "out_width": 1000, "out_height": 1, "last_segments": 64 // dm}
    fields |= {"write_planes": bits > 0, "plane_words": 1, "plane_tile_words": accelerator.array.dn}
    fields |= {"result_step": dm, "plane_base": 3000, "plane_step": bits}

    async def testbench(ctx):
        ctx.set(result.instruction, dict.fromkeys(FIELDS, 0) | fields)
        await ctx.tick()
        ctx.set(result.start, 1)
        await memory.tick(ctx)
        ctx.set(result.start, 0)
        for _ in range(WALK_LATENCY):  # no machine is faster with its first sums
            await memory.tick(ctx)
        place = {"columns": columns, "plane_columns": columns, "last_in_group": 1, "last_row_tile": 1}
        sums_at = memory.now
        while ctx.get(result.busy):
            if memory.now == sums_at:
                ctx.set(result.place, place | {"last": len(times) == tiles - 1})
            ctx.set(result.sums_valid, memory.now == sums_at and len(times) < tiles)
            if ctx.get(result.free):
                times.append((sums_at, memory.now))
                sums_at = memory.now + 1 + in_flight
            memory.write(ctx, result)
            await memory.tick(ctx)
            assert memory.now < 5000, "the stage hangs"
        assert memory.now == memory.taken[-1][0] + 1
        while not memory.idle:
            memory.write(ctx, result)
            await memory.tick(ctx)

    simulate(result, testbench)
    assert len(times) == tiles
    return times


@pytest.mark.parametrize(("dn", "columns"), [(1, 1), (4, 3), (4, 4), (16, 16)])
@pytest.mark.parametrize(
    ("kind", "to_word"),
    [
        ({"write_sums": 1}, COLUMN_TO_SUM_WORD),
        ({"write_values": 1}, COLUMN_TO_VALUE_WORD),
        ({"plane_bits": 3}, None),
        ({"write_values": 1, "plane_bits": 3}, COLUMN_TO_VALUE_WORD),
    ],
)
@pytest.mark.parametrize(("dm", "dk"), [(4, 64), (16, 64), (2, 512)])
def test_one_tile_takes_its_latencies(simulate, machine, plain_memory, dm, dk, dn, columns, kind, to_word):
    memory = plain_memory(np.zeros(4000))
    ((sums, free),) = send_tiles(simulate, machine(dm=dm, dk=dk, dn=dn), memory, 1, columns, **kind)
    column = sums + SUMS_TO_COLUMN
    # The execute stage sees the strobe one cycle later.
    assert free + 1 == column + max(0, columns - 1 - sums_latency(dk)) + COLUMN_TO_FREE
    expected, planes_from = [], column + columns - 1 + COLUMN_TO_PLANE_WORD
    if to_word is not None:
        words = columns * (dm // 2 if "write_sums" in kind else max(1, dm // 4))
        expected = [column + to_word + i for i in range(words)]
        planes_from = max(planes_from, expected[-1] + VALUES_TO_PLANES)
    expected += [planes_from + i for i in range(columns * kind.get("plane_bits", 0))]
    assert [cycle for cycle, _, _ in memory.taken] == [cycle + ISSUE_TO_WRITER for cycle in expected]


@pytest.mark.parametrize("plane_bits", [0, 2])
def test_at_most_two_jobs_wait(simulate, machine, plain_memory, plane_bits):
    memory = plain_memory(np.zeros(4000), interval=3)
    kind = {"write_values": 1, "plane_bits": plane_bits}
    times = send_tiles(simulate, machine(dm=16, dn=4), memory, 6, 4, **kind)
    cycles = np.array([cycle for cycle, _, _ in memory.writes]).reshape(6, -1)  # [job][word]
    assert (np.diff(cycles.reshape(-1)) == 3).all()  # the channel's own pace

    def asked(job: int) -> int:
        """Cycle in which a job's last word is asked for: a word has left the queue, which is full."""
        return memory.taken[(job + 1) * cycles.shape[1] - 1 - WRITE_QUEUE][0] + 1

    for number, (sums, free) in enumerate(times):
        column = sums + SUMS_TO_COLUMN
        if number >= PENDING_JOBS:
            column = max(column, asked(number - PENDING_JOBS) + 1)
        assert free + 1 == column + COLUMN_TO_FREE
    assert times[3][1] > times[3][0] + SUMS_TO_COLUMN  # one really waited


def test_a_complete_job_follows_next_job_cycles_later(simulate, machine, plain_memory):
    memory = plain_memory(np.zeros(4000))
    send_tiles(simulate, machine(dm=16, dn=4), memory, 4, 4, write_values=1)
    cycles = np.array([cycle for cycle, _, _ in memory.writes]).reshape(4, -1)
    assert (np.diff(cycles, axis=1) == 1).all()
    assert (cycles[1:, 0] - cycles[:-1, -1] == NEXT_JOB).all()


def test_a_request_is_on_the_bus_request_to_address_cycles_later(simulate):
    reader, seen = AxiReader(), []

    async def testbench(ctx):
        ctx.set(reader.limit, 100)
        ctx.set(reader.request.valid, 1)
        ctx.set(reader.request.payload, {"address": 5, "words": 3})
        for _ in range(4):
            seen.append(ctx.get(reader.axi.arvalid))
            ctx.set(reader.axi.arready, 1)
            await ctx.tick()
            ctx.set(reader.request.valid, 0)

    simulate(reader, testbench)
    assert seen.index(1) == REQUEST_TO_ADDRESS


def test_a_word_is_on_the_bus_and_its_response_ends_the_program(simulate):
    writer, cycles = AxiWriter(), {}

    def first(name: str, cycle: int, happens: bool) -> None:
        if happens:
            cycles.setdefault(name, cycle)

    async def testbench(ctx):
        ctx.set(writer.limit, 100)
        ctx.set(writer.request.payload, {"address": 5, "words": 1})
        ctx.set(writer.axi.awready, 1)
        ctx.set(writer.axi.wready, 1)
        for cycle in range(20):
            ctx.set(writer.request.valid, cycle == 0)
            ctx.set(writer.word.valid, 1)
            ctx.set(writer.axi.bvalid, cycle == 12)
            first("taken", cycle, ctx.get(writer.word.ready))
            first("beat", cycle, ctx.get(writer.axi.wvalid))
            first("busy", cycle, not ctx.get(writer.idle))
            first("idle", cycle, "busy" in cycles and ctx.get(writer.idle))
            await ctx.tick()

    simulate(writer, testbench)
    assert cycles["beat"] == cycles["taken"] + WRITER_TO_BEAT
    # The sequencer sees ``idle`` a cycle later (see test_engine).
    assert cycles["idle"] + 1 == 12 + RESPONSE_TO_END
