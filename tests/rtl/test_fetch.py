"""The fetch stage behind slow and moody memories: every word ends where the array will read it."""

from collections import deque

import numpy as np
import pytest

from hardware.instruction import FIELDS
from hardware.timing import LAST_STEP_TO_FREE, WORD_TO_READY
from rtl.fetch import Fetch

LHS_BASE, RHS_BASE = 40, 700


class Geometry:
    """A made-up layer: sizes in plain numbers, the instruction's fields, and where each word belongs."""

    def __init__(self, accelerator, images, size, kernel, stride, channel_words, bits, row_tiles, group_tiles, slots):
        self.array, lanes = accelerator.array, accelerator.lanes
        self.lanes, self.kernel, self.channel_words, self.bits = lanes, kernel, channel_words, bits
        self.out = [(s - k) // d + 1 for s, k, d in zip(size, kernel, stride, strict=True)]
        self.row_tiles, self.slots = row_tiles, slots
        self.resident = row_tiles <= slots[0]
        self.group_tiles = 1 if self.resident else group_tiles
        self.pixels = images * self.out[0] * self.out[1]
        self.column_tiles = -(-self.pixels // self.array.dn)
        self.chunks = -(-kernel[0] * kernel[1] * channel_words // lanes)
        self.entries = [b * self.chunks for b in bits]
        self.tile_words = self.array.dm * self.entries[0] * lanes
        pixel = bits[1] * channel_words
        self.steps = {
            "pixel_step": stride[1] * pixel,
            "row_step": stride[0] * size[1] * pixel,
            "image_step": size[0] * size[1] * pixel,
            "window_row_step": size[1] * pixel,
        }

    def fields(self):
        return dict.fromkeys(FIELDS, 0) | self.steps | {
            "lhs_resident": self.resident,
            "weight_bits": self.bits[0],
            "activation_bits": self.bits[1],
            "chunks": self.chunks,
            "row_tiles": self.row_tiles,
            "column_tiles": self.column_tiles,
            "group_tiles": self.group_tiles,
            "last_columns": self.pixels - (self.column_tiles - 1) * self.array.dn,
            "lhs_slots": self.slots[0],
            "rhs_slots": self.slots[1],
            "lhs_tile_entries": self.entries[0],
            "rhs_tile_entries": self.entries[1],
            "lhs_tile_words": self.tile_words,
            "channel_words": self.channel_words,
            "taps": self.kernel[0] * self.kernel[1],
            "kernel_rows": self.kernel[0],
            "run_words": self.kernel[1] * self.bits[1] * self.channel_words,
            "out_width": self.out[1],
            "out_height": self.out[0],
            "lhs_base": LHS_BASE,
            "rhs_base": RHS_BASE,
        }  # fmt: skip

    def row_tile(self, row):
        """(vector, entry within the tile, lane) -> address."""
        places = [(r, e, k) for r in range(self.array.dm) for e in range(self.entries[0]) for k in range(self.lanes)]
        return {place: LHS_BASE + row * self.tile_words + i for i, place in enumerate(places)}

    def column_tile(self, tile):
        places = {}
        for column in range(min(self.array.dn, self.pixels - tile * self.array.dn)):
            image, y, x = np.unravel_index(tile * self.array.dn + column, (self.pixels, *self.out))
            window = (
                RHS_BASE + image * self.steps["image_step"] + y * self.steps["row_step"] + x * self.steps["pixel_step"]
            )
            for tap in range(self.kernel[0] * self.kernel[1]):
                row, across = divmod(tap, self.kernel[1])
                for plane in range(self.bits[1]):
                    for word in range(self.channel_words):
                        position = tap * self.channel_words + word
                        entry = plane * self.chunks + position // self.lanes
                        address = window + row * self.steps["window_row_step"]
                        address += (across * self.bits[1] + plane) * self.channel_words + word
                        places[column, entry, position % self.lanes] = int(address)
        return places

    def order(self):
        """Tiles in fetch order, as in the schedule's documentation."""
        for group in range(0, self.column_tiles, self.group_tiles):
            rows = [("lhs", row) for row in range(self.row_tiles)] if group == 0 or not self.resident else []
            yield from rows[:1]
            for tile in range(group, min(group + self.group_tiles, self.column_tiles)):
                yield ("rhs", tile)
            yield from rows[1:]


SHAPES = {  # array; images, size, kernel, stride, channel words, bits, row tiles, group tiles, slots
    "fully connected, resident": ({}, (5, (1, 1), (1, 1), (1, 1), 3, (2, 3), 2, 1, (2, 2))),
    "window, streamed": ({"dn": 3}, (2, (5, 4), (3, 2), (2, 1), 1, (1, 2), 3, 2, (2, 4))),
    "wide entries, one slot": ({"dk": 256, "dn": 1}, (1, (3, 3), (2, 2), (1, 1), 2, (2, 1), 3, 1, (1, 1))),
    "odd words in wide entries": ({"dk": 128, "dm": 4}, (1, (4, 3), (3, 1), (1, 2), 1, (3, 2), 2, 1, (2, 3))),
}


def consume(ctx, fetch, model, slots, tables, expected, held):
    """Look at the buffer writes and ready strobes of one cycle; a completed tile must lie whole in its slot."""
    for side, write in (("lhs", fetch.lhs_write), ("rhs", fetch.rhs_write)):
        select, lane = ctx.get(write.select), ctx.get(write.lane.as_value())
        if select:
            assert select.bit_count() == lane.bit_count() == 1
            place = (select.bit_length() - 1, ctx.get(write.entry), lane.bit_length() - 1)
            tables[side][place] = ctx.get(write.word)
        if ctx.get(getattr(fetch, f"{side}_ready")):
            name, number = expected.popleft()
            assert name == side
            assert len(held[side]) < slots[side], "more tiles than the ring has slots"
            entries = model.entries[side == "rhs"]
            base = held[f"{side}_count"] % slots[side] * entries
            places = model.row_tile(number) if side == "lhs" else model.column_tile(number)
            for (vector, entry, lane_number), address in places.items():
                assert tables[side][vector, base + entry, lane_number] == address + 1
            held[side].append((number, base))
            held[f"{side}_count"] += 1


def check_held(model, tables, held):
    """Tiles that were not given back yet are still whole: nothing was fetched over them."""
    for side, places in (("lhs", model.row_tile), ("rhs", model.column_tile)):
        for number, base in held[side]:
            for (vector, entry, lane), address in places(number).items():
                assert tables[side][vector, base + entry, lane] == address + 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("latency", "interval", "refuse"), [(0, 1, 0.0), (40, 1, 0.0), (3, 5, 0.0), (7, 1, 0.4)])
def test_every_tile_lies_whole_in_its_slot_when_it_is_said_to_be_ready(
    simulate, machine, plain_memory, shape, latency, interval, refuse
):
    accelerator = machine(**SHAPES[shape][0], lhs_entries=64, rhs_entries=64)
    model = Geometry(accelerator, *SHAPES[shape][1])
    slots = dict(zip(("lhs", "rhs"), model.slots, strict=True))
    memory = plain_memory(np.arange(4000) + 1, latency, interval, refuse)
    rng = np.random.default_rng(3)
    fetch = Fetch(accelerator)

    async def testbench(ctx):
        for _ in range(2):  # the second start must begin from a clean slate
            expected = deque(model.order())
            tables, held = {"lhs": {}, "rhs": {}}, {"lhs": deque(), "rhs": deque(), "lhs_count": 0, "rhs_count": 0}
            ctx.set(fetch.instruction, model.fields())
            ctx.set(fetch.start, 1)
            await memory.tick(ctx)
            ctx.set(fetch.start, 0)
            while expected or ctx.get(fetch.busy):
                memory.read(ctx, fetch.request, fetch.word)
                consume(ctx, fetch, model, slots, tables, expected, held)
                for side in ("lhs", "rhs"):
                    give_back = bool(held[side]) and not (side == "lhs" and model.resident) and rng.random() < 0.05
                    ctx.set(getattr(fetch, f"{side}_free"), give_back)
                    if give_back:
                        check_held(model, tables, held)
                        held[side].popleft()
                await memory.tick(ctx)
                assert memory.now < 40_000, f"{len(expected)} tiles never came"
            ctx.set(fetch.lhs_free, 0)
            ctx.set(fetch.rhs_free, 0)

    simulate(fetch, testbench)


def test_words_come_every_cycle_and_the_last_makes_the_tile_ready(simulate, machine, plain_memory):
    accelerator = machine(lhs_entries=64, rhs_entries=64)
    model = Geometry(accelerator, 4, (1, 1), (1, 1), (1, 1), 2, (2, 3), 2, 1, (2, 2))
    memory, fetch, ready_at = plain_memory(np.arange(4000)), Fetch(accelerator), []

    async def testbench(ctx):
        ctx.set(fetch.instruction, model.fields())
        ctx.set(fetch.start, 1)
        await memory.tick(ctx)
        ctx.set(fetch.start, 0)
        while not memory.arrivals or ctx.get(fetch.busy) or memory.now <= memory.arrivals[-1] + 1:
            memory.read(ctx, fetch.request, fetch.word)
            ready_at.extend([memory.now] * (ctx.get(fetch.lhs_ready) + ctx.get(fetch.rhs_ready)))
            await memory.tick(ctx)

    simulate(fetch, testbench)
    rows, columns = 2 * 2 * 2, 2 * 3 * 2  # words of a row tile and of a column tile
    assert memory.requests[0][0] == 1  # the cycle after the start strobe
    assert memory.arrivals == list(range(2, 2 + 2 * rows + 2 * columns))
    ends = np.cumsum([rows, columns, rows, columns])
    # The strobe comes one cycle before the execute stage sees the tile (its counter is a register).
    assert ready_at == [memory.arrivals[end - 1] + WORD_TO_READY - 1 for end in ends]


def test_a_freed_slot_is_asked_for_after_last_step_to_free(simulate, machine, plain_memory):
    accelerator = machine(lhs_entries=64, rhs_entries=64)
    model = Geometry(accelerator, 6, (1, 1), (1, 1), (1, 1), 2, (2, 3), 2, 1, (2, 1))
    memory, fetch = plain_memory(np.arange(4000)), Fetch(accelerator)

    async def testbench(ctx):
        ctx.set(fetch.instruction, model.fields())
        ctx.set(fetch.start, 1)
        for cycle in range(200):
            memory.read(ctx, fetch.request, fetch.word)
            ctx.set(fetch.rhs_free, cycle == 150)
            await memory.tick(ctx)
            ctx.set(fetch.start, 0)

    simulate(fetch, testbench)
    assert next(cycle for cycle, _, _ in memory.requests if cycle > 100) == 150 + LAST_STEP_TO_FREE
