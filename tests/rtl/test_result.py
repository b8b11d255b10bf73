"""The result stage against plain loops over tiles, columns and rows."""

import numpy as np
import pytest

from hardware.instruction import FIELDS
from hardware.timing import ARRAY_LATENCY, LAST_STEP_TO_RESULT, RESULT_TO_END
from rtl.result import Result

BASE = 5000


def ref_words(array, row_tiles, column_tiles, group_tiles, last_columns):
    """Lists of word addresses, one list per output tile, in the order in which the tiles are computed."""
    for group in range(0, column_tiles, group_tiles):
        for row in range(row_tiles):
            for tile in range(column_tiles)[group : group + group_tiles]:
                columns = last_columns if tile == column_tiles - 1 else array.dn
                yield [
                    BASE + ((tile * array.dn + column) * row_tiles + row) * array.dm // 2 + word
                    for column in range(columns)
                    for word in range(array.dm // 2)
                ]


@pytest.mark.parametrize("refuse", [0.0, 0.6])
@pytest.mark.parametrize(("dm", "dn"), [(2, 1), (2, 3), (8, 2)])
def test_every_sum_is_written_once_where_it_belongs(simulate, machine, plain_memory, dm, dn, refuse):
    rng = np.random.default_rng(dn)
    accelerator = machine(dm=dm, dn=dn)
    result = Result(accelerator)
    # row tiles, column tiles, group tiles, last columns
    nests = [(1, 1, 1, dn), (3, 1, 1, 1), (1, 4, 1, dn), (2, 5, 2, 1), (3, 6, 3, dn), (2, 3, 3, 1)]

    async def testbench(ctx):
        for nest in nests:
            memory = plain_memory(np.zeros(10_000), refuse=refuse)
            row_tiles, column_tiles, group_tiles, last_columns = nest
            ctx.set(
                result.instruction,
                dict.fromkeys(FIELDS, 0)
                | {"row_tiles": row_tiles, "column_tiles": column_tiles, "group_tiles": group_tiles}
                | {"last_columns": last_columns, "result_base": BASE, "result_column_step": row_tiles * dm // 2},
            )
            ctx.set(result.start, 1)
            await memory.tick(ctx)
            ctx.set(result.start, 0)
            for addresses in ref_words(accelerator.array, *nest):
                assert ctx.get(result.busy)
                for _ in range(int(rng.integers(4))):
                    memory.write(ctx, result.word)
                    await memory.tick(ctx)
                sums = rng.integers(-(2**31), 2**31, size=dm * dn)
                for i, value in enumerate(sums):
                    ctx.set(result.sums[i], int(value) & 0xFFFFFFFF)
                ctx.set(result.sums_valid, 1)
                offered = memory.now + LAST_STEP_TO_RESULT - ARRAY_LATENCY
                freed = False
                while not freed:
                    memory.write(ctx, result.word)
                    assert ctx.get(result.word.valid) == (memory.now >= offered)
                    freed = ctx.get(result.free)
                    await memory.tick(ctx)
                    ctx.set(result.sums_valid, 0)
                    for i in range(dm * dn):  # the array goes on while the registers drain
                        ctx.set(result.sums[i], int(rng.integers(2**32)))
                written = memory.writes[-len(addresses) :]
                assert [address for _, address in written] == addresses
                assert written[-1][0] == memory.now - 1  # `free` comes with the last word
                if not refuse:
                    assert [cycle for cycle, _ in written] == list(range(offered, offered + len(addresses)))
                words = np.array([memory.words[address] for address in addresses], dtype="<u8")
                assert (words.view("<i4") == sums[: 2 * len(words)]).all()
            assert memory.now == memory.writes[-1][0] + RESULT_TO_END
            assert not ctx.get(result.busy)
            assert len(memory.writes) == sum(map(len, ref_words(accelerator.array, *nest)))

    simulate(result, testbench)
