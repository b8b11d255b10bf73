"""The execute stage against plain nested loops over tiles, bit planes and chunks."""

import numpy as np
import pytest

from hardware.instruction import FIELDS
from hardware.timing import DISPATCH, RESULT_TO_FREE, WORD_TO_READY
from rtl.execute import Execute

# weight bits, activation bits, chunks, row tiles, column tiles, group tiles, weight slots, activation slots
CASES = [
    (1, 1, 1, 1, 1, 1, 1, 1),
    (1, 1, 1, 3, 4, 2, 2, 4),  # every step is a last step
    (2, 3, 2, 1, 5, 1, 3, 2),
    (4, 2, 3, 2, 3, 1, 2, 2),  # resident
    (3, 4, 1, 3, 5, 2, 2, 4),  # streamed in groups
    (8, 8, 1, 4, 2, 2, 1, 2),  # one weight slot
    (5, 1, 2, 2, 3, 3, 1, 3),
]


def fields(w, a, chunks, row_tiles, column_tiles, group_tiles, lhs_slots, rhs_slots, signed=(1, 0)):
    return dict.fromkeys(FIELDS, 0) | {
        "signed_weights": signed[0],
        "signed_activations": signed[1],
        "lhs_resident": row_tiles <= lhs_slots,
        "weight_bits": w,
        "activation_bits": a,
        "chunks": chunks,
        "row_tiles": row_tiles,
        "column_tiles": column_tiles,
        "group_tiles": group_tiles,
        "lhs_slots": lhs_slots,
        "rhs_slots": rhs_slots,
        "lhs_tile_entries": w * chunks,
        "rhs_tile_entries": a * chunks,
    }


def ref_steps(w, a, chunks, row_tiles, column_tiles, group_tiles, lhs_slots, rhs_slots, signed=(1, 0)):
    """(lhs entry, rhs entry, clear, shift, negate, last), (lhs freed, rhs freed), tiles needed, of every step."""
    resident, rows_fetched = row_tiles <= lhs_slots, 0
    for group in range(0, column_tiles, group_tiles):
        tiles = range(column_tiles)[group : group + group_tiles]
        for row in range(row_tiles):
            lhs_tile = row if resident else rows_fetched
            rows_fetched += 1
            for tile in tiles:
                freed = (not resident and tile == tiles[-1], row == row_tiles - 1)
                first = True
                for diagonal in reversed(range(w + a - 1)):
                    pairs = [(i, diagonal - i) for i in reversed(range(w)) if 0 <= diagonal - i < a]
                    for i, j in pairs:
                        for chunk in range(chunks):
                            starts = (i, j, chunk) == (*pairs[0], 0)
                            negate = (signed[0] and i == w - 1) != (signed[1] and j == a - 1)
                            last = (i, j, chunk) == (0, 0, chunks - 1)
                            lhs = (lhs_tile % lhs_slots * w + i) * chunks + chunk
                            rhs = (tile % rhs_slots * a + j) * chunks + chunk
                            step = (lhs, rhs, first, starts and not first, negate, last)
                            yield step, freed if last else (False, False), (lhs_tile + 1, tile + 1)
                            first = False


def look(ctx, execute):
    """The step of this cycle as `ref_steps` writes it."""
    bits = [ctx.get(getattr(execute.step, name)) for name in ("clear", "shift", "negate", "last")]
    step = (ctx.get(execute.lhs_entry), ctx.get(execute.rhs_entry), *map(bool, bits))
    return step, (bool(ctx.get(execute.lhs_free)), bool(ctx.get(execute.rhs_free)))


async def begin(ctx, execute, instruction):
    ctx.set(execute.instruction, instruction)
    ctx.set(execute.start, 1)
    await ctx.tick()
    ctx.set(execute.start, 0)


@pytest.mark.parametrize("signed", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("often", [1.0, 0.1])
def test_steps_are_those_of_the_loops_and_wait_for_their_tokens(simulate, machine, often, signed):
    rng = np.random.default_rng(4)
    execute = Execute(machine(lhs_entries=128, rhs_entries=128))

    async def testbench(ctx):
        for case in CASES:
            row_tiles, column_tiles, group_tiles, lhs_slots = case[3:7]
            lhs_tiles = row_tiles * (1 if row_tiles <= lhs_slots else -(-column_tiles // group_tiles))
            await begin(ctx, execute, fields(*case, signed))
            sent, registers_free, cycles = [0, 0], True, 0
            for expected, freed, needed in ref_steps(*case, signed):
                while True:  # until the step is issued
                    ready = list(sent)  # a tile whose strobe comes in this very cycle is too late for it
                    for side, total in enumerate((lhs_tiles, column_tiles)):
                        arrives = sent[side] < total and rng.random() < often
                        ctx.set((execute.lhs_ready, execute.rhs_ready)[side], arrives)
                        sent[side] += arrives
                    release = not registers_free and rng.random() < often
                    ctx.set(execute.result_free, release)
                    assert ctx.get(execute.busy)
                    issued = ctx.get(execute.step_valid)
                    if issued:
                        assert look(ctx, execute) == (expected, freed)
                        assert ready[0] >= needed[0]
                        assert ready[1] >= needed[1]
                        assert registers_free or not expected[-1]
                        registers_free &= not expected[-1]
                    else:
                        assert look(ctx, execute)[1] == (False, False)
                    registers_free |= release
                    await ctx.tick()
                    cycles += 1
                    assert cycles < 100_000, "the stage hangs"
                    if issued:
                        break
            ctx.set(execute.result_free, not registers_free)
            assert not ctx.get(execute.busy)
            assert sent == [lhs_tiles, column_tiles]
            await ctx.tick()
            ctx.set(execute.result_free, 0)

    simulate(execute, testbench)


def test_nothing_is_lost_but_dispatch_when_nothing_waits(simulate, machine):
    execute, issued = Execute(machine(lhs_entries=128, rhs_entries=128)), []
    case = (3, 4, 2, 1, 3, 1, 1, 3)

    async def testbench(ctx):
        await begin(ctx, execute, fields(*case))
        for cycle in range(100):
            ctx.set(execute.lhs_ready, cycle == 0)
            ctx.set(execute.rhs_ready, cycle < 3)
            ctx.set(execute.result_free, cycle > 4)
            issued.append(ctx.get(execute.step_valid))
            await ctx.tick()

    simulate(execute, testbench)
    steps = 3 * 4 * 2
    first = WORD_TO_READY - 1 + DISPATCH  # the strobe comes one cycle after the word, see test_fetch
    expected = [0] * first + ([1] * steps + [0] * DISPATCH) * 3
    assert issued[: len(expected)] == expected
    assert not any(issued[len(expected) :])


@pytest.mark.parametrize("steps", [1, 5])
def test_the_last_step_comes_result_to_free_cycles_after_the_registers_are_free(simulate, machine, steps):
    execute, issued = Execute(machine(lhs_entries=128, rhs_entries=128)), []

    async def testbench(ctx):
        await begin(ctx, execute, fields(1, 1, steps, 1, 2, 1, 1, 2))
        for cycle in range(60):
            ctx.set(execute.lhs_ready, cycle == 0)
            ctx.set(execute.rhs_ready, cycle < 2)
            ctx.set(execute.result_free, cycle == 40)
            issued.append(cycle if ctx.get(execute.step_valid) else None)
            await ctx.tick()

    simulate(execute, testbench)
    cycles = [cycle for cycle in issued if cycle is not None]
    assert len(cycles) == 2 * steps
    assert cycles[-1] == 40 + RESULT_TO_FREE
    assert all(cycle < 20 for cycle in cycles[:-1])
