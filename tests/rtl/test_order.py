"""The walks through the schedule's loop nest against plain nested loops, in steps as close together as may be."""

from dataclasses import dataclass

import numpy as np
import pytest
from amaranth.hdl import Module, Signal

from hardware.instruction import FIELDS, OPCODE_MATRIX, OPCODE_MAXIMUM, OPCODE_SUM, SEGMENTS
from rtl.order import FetchOrder, RowWidths, TileOrder

LAST_COLUMNS, DN = 2, 3
LARGEST = {"dn": DN, "lhs_entries": 32768, "rhs_entries": 32768}


@dataclass(frozen=True)
class Nest:
    """Loop bounds; ``segments`` are (bits, row tiles, entries)."""

    segments: tuple[tuple[int, int, int], ...]
    column_tiles: int
    group_tiles: int
    resident: bool
    opcode: int = OPCODE_MATRIX

    @property
    def rows(self) -> list[tuple[int, int]]:
        """(bits, entries) of every row tile."""
        return [(bits, entries) for bits, tiles, entries in self.segments for _ in range(tiles)]

    @property
    def groups(self) -> list[list[int]]:
        tiles = list(range(self.column_tiles))
        return [tiles[start : start + self.group_tiles] for start in range(0, len(tiles), self.group_tiles)]

    def columns(self, tile: int) -> int:
        return LAST_COLUMNS if tile == self.column_tiles - 1 else DN

    def fields(self) -> dict[str, int]:
        fields = dict.fromkeys(FIELDS, 0) | {
            "opcode": self.opcode,
            "row_tiles": len(self.rows),
            "groups": -(-self.column_tiles // self.group_tiles),
            "group_tiles": self.group_tiles,
            "last_group_tiles": (self.column_tiles - 1) % self.group_tiles + 1,
            "lhs_resident": self.resident,
            "last_columns": LAST_COLUMNS,
        }
        for i, (bits, tiles, entries) in enumerate(self.segments):
            fields |= {f"segment_{i}_bits": bits, f"segment_{i}_tiles": tiles, f"segment_{i}_entries": entries}
            fields[f"segment_{i}_single"] = int(tiles == 1)
        return fields


def nests() -> list[Nest]:
    rng = np.random.default_rng(0)
    found = [
        Nest(((3, 1, 7),), 1, 1, True),
        Nest(((3, 1, 7),), 1, 1, False),
        Nest(((8, 4, 65535),), 5, 2, True),
        Nest(((8, 65535, 1),), 1, 1, True),
        Nest(tuple((8 - i, 1, 9 - i) for i in range(SEGMENTS)), 2, 1, False),
        Nest(tuple((8 - i, 2, 100 * i + 1) for i in range(SEGMENTS)), 3, 2, True),
        Nest(((0, 3, 0),), 4, 1, True, OPCODE_SUM),  # a vector pass has groups of channels for row tiles
        Nest(((0, 1, 0),), 1, 1, True, OPCODE_MAXIMUM),
    ]
    for number in range(24):
        segments = tuple(
            (int(rng.integers(9)), int(rng.integers(1, 4)), int(rng.integers(1, 3000)))
            for _ in range(rng.integers(1, SEGMENTS + 1))
        )
        columns = int(rng.integers(1, 10))
        found.append(Nest(segments, columns, int(rng.integers(1, columns + 1)), bool(number % 2)))
    return found


async def load(ctx, order, nest: Nest) -> None:
    """A new instruction is there no longer than it must be before the order is loaded."""
    ctx.set(order.instruction, nest.fields())
    await ctx.tick()
    await strobe(ctx, order.load)


async def strobe(ctx, signal) -> None:
    ctx.set(signal, 1)
    await ctx.tick()
    ctx.set(signal, 0)


async def wait(ctx, rng, hesitation: float) -> None:
    """Steps come two cycles behind a load, a restart or another step, or later: the stage may wait."""
    await ctx.tick()
    while rng.random() < hesitation:
        await ctx.tick()


def short(nest: Nest) -> bool:
    return len(nest.rows) < 100


@pytest.mark.parametrize("hesitation", [0.0, 0.5])
def test_row_tiles_have_their_segments_width_and_entries(simulate, machine, hesitation):
    rng = np.random.default_rng(3)
    widths = RowWidths(machine(**LARGEST))

    async def testbench(ctx):
        for nest in filter(short, nests()):
            await load(ctx, widths, nest)
            for stop in (len(nest.rows), int(rng.integers(1, len(nest.rows) + 1)), len(nest.rows)):
                for number, row in enumerate(nest.rows[:stop]):
                    assert (ctx.get(widths.bits), ctx.get(widths.entries)) == row
                    await wait(ctx, rng, hesitation)
                    assert (ctx.get(widths.bits), ctx.get(widths.entries)) == row
                    if number < stop - 1:
                        await strobe(ctx, widths.step)
                await strobe(ctx, widths.restart)  # from the last row tile or before

    simulate(widths, testbench)


def ref_fetch(nest: Nest):
    """("row", entries, whether it is the last) or ("column", columns), in the order in which tiles are fetched."""
    for number, group in enumerate(nest.groups):
        fetched = nest.opcode == OPCODE_MATRIX and (number == 0 or not nest.resident)
        rows = [("row", entries, i == len(nest.rows) - 1) for i, (_, entries) in enumerate(nest.rows) if fetched]
        yield from rows[:1]
        yield from (("column", nest.columns(tile)) for tile in group)
        yield from rows[1:]


@pytest.mark.parametrize("hesitation", [0.0, 0.5])
def test_tiles_are_fetched_in_the_order_of_the_loops(simulate, machine, hesitation):
    rng = np.random.default_rng(1)
    order = FetchOrder(machine(**LARGEST))

    def shown(ctx):
        assert not ctx.get(order.done)
        if ctx.get(order.is_lhs):
            return "row", ctx.get(order.lhs_entries), bool(ctx.get(order.last_row_tile))
        return "column", ctx.get(order.columns)

    async def testbench(ctx):
        assert ctx.get(order.done)  # nothing to do before the first instruction
        for nest in filter(short, nests()):
            await load(ctx, order, nest)
            for expected in ref_fetch(nest):
                assert shown(ctx) == expected, nest
                await wait(ctx, rng, hesitation)
                assert shown(ctx) == expected, nest
                await strobe(ctx, order.step)
            assert ctx.get(order.done)

    simulate(order, testbench)


OUTPUTS = ("first_group", "first_row_tile", "last_row_tile", "first_in_group", "last_in_group", "columns", "last")


def ref_tiles(nest: Nest):
    """(`OUTPUTS`), (bits, entries) of every output tile; of a vector pass: of every column tile."""
    rows = nest.rows if nest.opcode == OPCODE_MATRIX else nest.rows[:1]
    for group in nest.groups:
        for number, row in enumerate(rows):
            for tile in group:
                last_row = number == len(rows) - 1
                position = group[0] == 0, number == 0, last_row, tile == group[0], tile == group[-1]
                yield (*position, nest.columns(tile), last_row and tile == nest.column_tiles - 1), row


@pytest.mark.parametrize("hesitation", [0.0, 0.5])
def test_output_tiles_are_walked_in_the_order_of_the_loops(simulate, machine, hesitation):
    rng = np.random.default_rng(2)
    order = TileOrder(machine(**LARGEST))

    def shown(ctx):
        outputs = tuple(ctx.get(getattr(order, name)) for name in OUTPUTS)
        return outputs, (ctx.get(order.bits), ctx.get(order.entries))

    async def testbench(ctx):
        for nest in filter(short, nests()):
            await load(ctx, order, nest)
            for outputs, row in ref_tiles(nest):
                assert shown(ctx) == (outputs, row), nest
                await wait(ctx, rng, hesitation)
                assert shown(ctx) == (outputs, row), nest
                await strobe(ctx, order.step)

    simulate(order, testbench)


def test_the_counters_hold_the_largest_row_tile_number(simulate, machine):
    nest = next(nest for nest in nests() if not short(nest))
    order = TileOrder(machine(**LARGEST))
    m = Module()
    m.submodules.order = order
    runs, steps = Signal(), Signal()
    m.d.comb += order.step.eq(runs & steps)
    m.d.sync += steps.eq(runs & ~steps)

    async def testbench(ctx):
        await load(ctx, order, nest)
        ctx.set(runs, 1)  # a step in every second cycle
        await ctx.tick().repeat(2 * (len(nest.rows) - 2))
        assert not ctx.get(order.last_row_tile)
        await ctx.tick().repeat(2)
        assert ctx.get(order.last_row_tile)
        assert ctx.get(order.last)
        assert ctx.get(order.bits) == 8

    simulate(m, testbench)
