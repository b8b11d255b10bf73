"""The two walks through the schedule's loop nest against plain nested loops."""

import numpy as np
import pytest

from rtl.order import FetchOrder, TileOrder

# row tiles, column tiles, column tiles of a group, weights resident
NESTS = [
    (1, 1, 1, 1),
    (1, 1, 1, 0),
    (4, 1, 1, 1),
    (1, 5, 1, 1),
    (1, 5, 2, 0),
    (3, 5, 5, 0),
    (3, 6, 2, 0),
    (4, 7, 3, 0),
    (3, 4, 1, 1),
]
RANDOM = np.random.default_rng(0)
NESTS += [(int(r), int(c), int(RANDOM.integers(1, c + 1)), 0) for r, c in RANDOM.integers(1, 9, size=(10, 2))]
LAST_COLUMNS, DN = 2, 3


def nest_of(row_tiles, column_tiles, group_tiles, resident):
    fields = {"row_tiles": row_tiles, "column_tiles": column_tiles, "group_tiles": group_tiles}
    return fields | {"lhs_resident": resident, "last_columns": LAST_COLUMNS}


def groups(column_tiles: int, group_tiles: int):
    return [list(range(column_tiles))[start : start + group_tiles] for start in range(0, column_tiles, group_tiles)]


def ref_fetch(row_tiles, column_tiles, group_tiles, resident):
    """(row tile, None) or (None, columns), in the order in which tiles are fetched."""
    for number, group in enumerate(groups(column_tiles, group_tiles)):
        rows = range(row_tiles) if number == 0 or not resident else []
        for row in rows[:1]:
            yield (row, None)
        for tile in group:
            yield (None, LAST_COLUMNS if tile == column_tiles - 1 else DN)
        for row in rows[1:]:
            yield (row, None)


def rtl_fetch(ctx, order, row):
    """The same from the gateware; it tells a row tile's number only by its being the last one."""
    if not ctx.get(order.is_lhs):
        return (None, ctx.get(order.columns))
    last = ctx.get(order.last_row_tile)
    return (row, None) if last == (row == ctx.get(order.instruction.row_tiles) - 1) else "wrong end"


@pytest.mark.parametrize("hesitation", [0.0, 0.6])
def test_tiles_are_fetched_in_the_order_of_the_loops(simulate, hesitation):
    rng = np.random.default_rng(1)

    async def testbench(ctx):
        assert ctx.get(order.done)  # nothing to do before the first instruction
        for nest in NESTS:
            ctx.set(order.instruction, nest_of(*nest))
            ctx.set(order.load, 1)
            await ctx.tick()
            ctx.set(order.load, 0)
            fetched, row = [], 0
            while not ctx.get(order.done):
                fetched.append(rtl_fetch(ctx, order, row))
                row = (row + 1) % nest[0] if ctx.get(order.is_lhs) else row
                while rng.random() < hesitation:
                    await ctx.tick()
                    assert not ctx.get(order.done)
                ctx.set(order.step, 1)
                await ctx.tick()
                ctx.set(order.step, 0)
            assert fetched == list(ref_fetch(*nest)), nest

    order = FetchOrder(DN)
    simulate(order, testbench)


OUTPUTS = ("first_group", "first_row_tile", "last_row_tile", "first_in_group", "last_in_group", "columns", "last")


def ref_tiles(row_tiles, column_tiles, group_tiles, _resident):
    nest = groups(column_tiles, group_tiles)
    for group in nest:
        for row in range(row_tiles):
            for tile in group:
                yield (
                    group is nest[0],
                    row == 0,
                    row == row_tiles - 1,
                    tile == group[0],
                    tile == group[-1],
                    LAST_COLUMNS if tile == column_tiles - 1 else DN,
                    (row, tile) == (row_tiles - 1, column_tiles - 1),
                )


@pytest.mark.parametrize("hesitation", [0.0, 0.6])
def test_output_tiles_are_walked_in_the_order_of_the_loops(simulate, hesitation):
    rng = np.random.default_rng(2)

    async def testbench(ctx):
        for nest in NESTS:
            ctx.set(order.instruction, nest_of(*nest))
            ctx.set(order.load, 1)
            await ctx.tick()
            ctx.set(order.load, 0)
            for expected in ref_tiles(*nest):
                while rng.random() < hesitation:
                    await ctx.tick()
                assert tuple(ctx.get(getattr(order, name)) for name in OUTPUTS) == expected, nest
                ctx.set(order.step, 1)
                await ctx.tick()
                ctx.set(order.step, 0)

    order = TileOrder(DN)
    simulate(order, testbench)
