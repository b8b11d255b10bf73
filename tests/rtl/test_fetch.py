"""The fetch stage behind slow and moody memories: every word is asked for once and ends where the array reads it."""

from collections import deque
from itertools import groupby

import numpy as np
import pytest

from hardware.timing import (
    ADDRESS_TO_WORD,
    FREE_TO_REQUEST,
    TILE_INTERVAL,
    TILE_TO_TILE,
    WALK_LATENCY,
    WORD_TO_READY,
)
from rtl.fetch import Fetch

MEMORY = np.arange(8000) + 1


class Observer:
    """Compares what a fetch stage asks for, writes and reports with the geometry."""

    def __init__(self, geometry):
        self.geometry = geometry
        self.expected = deque(geometry.order())  # tiles that are not ready yet
        self.asked = deque(self.expected)  # tiles that are not wholly asked for yet
        self.words_asked = 0  # of the first of these
        self.table = {"lhs": {}, "rhs": {}}
        self.held = {"lhs": deque(), "rhs": deque()}  # (number, ring address) of tiles that are not given back
        self.base = {"lhs": 0, "rhs": 0}
        self.room = {"lhs": geometry.buffers.lhs_entries, "rhs": geometry.buffers.rhs_entries}

    def request(self, address: int, words: int) -> None:
        """A request comes in the loops' order and finds room in the ring."""
        geometry, (side, number) = self.geometry, self.asked[0]
        if self.words_asked == 0:
            self.room[side] -= geometry.entries[side][number]
            assert self.room[side] >= 0, "more entries on their way than the ring has"
        addresses = [address for address, _ in groupby(place[1] for place in geometry.places(side, number))]
        if addresses:
            expected = addresses[self.words_asked : self.words_asked + words]
            assert list(range(address, address + words)) == expected
        else:  # a port without a valid column asks for one window that nobody uses
            addresses = range(geometry.window_words * geometry.work.bits)
            assert geometry.window(0) <= address
            assert address + words <= geometry.window(0) + geometry.work.images * geometry.image_words
        self.words_asked += words
        if self.words_asked == len(addresses):
            self.words_asked = 0
            self.asked.popleft()

    def whole(self, side: str, number: int, base: int) -> None:
        depth = getattr(self.geometry.buffers, f"{side}_entries")
        for (vector, entry, lane), address in self.geometry.places(side, number):
            assert self.table[side][vector, (base + entry) % depth, lane] == address + 1

    def consume(self, ctx, fetch) -> None:
        """Look at the buffer writes and ready strobes of one cycle; a completed tile must lie whole in its ring."""
        for side, write in (("lhs", fetch.lhs_write), ("rhs", fetch.rhs_write)):
            select, lane = ctx.get(write.select), ctx.get(write.lane.as_value())
            if select:
                assert select.bit_count() == 1
                assert lane.bit_count() == 1 or (side == "rhs" and self.geometry.side_by_side > 1)
                for one in range(lane.bit_length()):
                    if lane >> one & 1:
                        place = (select.bit_length() - 1, ctx.get(write.entry), one)
                        self.table[side][place] = ctx.get(write.word)
            if ctx.get(getattr(fetch, f"{side}_ready")):
                expected_side, number = self.expected.popleft()
                assert expected_side == side
                self.whole(side, number, self.base[side])
                self.held[side].append((number, self.base[side]))
                self.base[side] += self.geometry.entries[side][number]

    def give_back(self, side: str) -> int:
        """The oldest tile's entries; it still was whole."""
        number, base = self.held[side].popleft()
        self.whole(side, number, base)
        self.room[side] += self.geometry.entries[side][number]
        return self.geometry.entries[side][number]


WORKS = {  # array and buffers, work
    "fully connected, resident": (
        {},
        {"images": 5, "words": (0, 3, 3), "segments": ((2, 2),), "bits": 3, "constants": True, "resident": True},
    ),
    "resident in groups": (
        {"lhs_entries": 64},
        {"images": 13, "segments": ((2, 1), (1, 2)), "bits": 2, "constants": True, "resident": True, "group_tiles": 2},
    ),
    "window, streamed in groups": (
        {"dk": 128},
        {"size": (5, 4), "kernel": (3, 2), "stride": (2, 1), "images": 3}
        | {"segments": ((3, 1), (1, 2), (0, 1)), "bits": 2, "constants": True, "group_tiles": 2},
    ),
    "dilation": (
        {"dm": 8},
        {"size": (5, 6), "kernel": (2, 3), "dilation": (3, 2), "words": (0, 2, 2), "images": 2, "bits": 2},
    ),
    "some channels of a pixel": (
        {"dk": 256},
        {"size": (4, 4), "kernel": (2, 2), "words": (1, 3, 4), "segments": ((1, 2),), "group_tiles": 3},
    ),
    "planes side by side": (
        {"kind": "serial_weight", "dk": 128},
        {"size": (4, 3), "kernel": (2, 1), "words": (0, 3, 3), "images": 3, "bits": 3, "constants": True},
    ),
    "planes side by side, signed": (
        {"kind": "serial_weight"},
        {"size": (3, 4), "kernel": (1, 2), "images": 2, "segments": ((2, 2),), "bits": 5, "signed": True},
    ),
    "one plane, its own sign": (
        {"kind": "serial_weight", "dk": 128},
        {"images": 5, "words": (0, 3, 3), "group_tiles": 2, "signed": True},
    ),
    "a vector among planes": (
        {"kind": "serial_weight", "dk": 128},
        {"size": (4, 5), "kernel": (2, 2), "stride": (2, 2), "words": (0, 3, 3), "vector": True},
    ),
    "vector": (
        {},
        {"size": (4, 5), "kernel": (2, 2), "stride": (2, 2), "words": (0, 3, 3), "images": 2, "vector": True},
    ),
}


def port_machine(machine, name: str, ports: int):
    """Rings of 16 or 32 entries: tiles wrap around their end."""
    return machine(**{"dm": 4, "dn": 4, "ports": ports, "lhs_entries": 16, "rhs_entries": 32} | WORKS[name][0])


async def begin(ctx, fetch, memory, fields) -> None:
    ctx.set(fetch.instruction, fields)
    await ctx.tick()  # an instruction is there a cycle before its start
    ctx.set(fetch.start, 1)
    await memory.tick(ctx)
    ctx.set(fetch.start, 0)


@pytest.mark.parametrize(("ports", "port"), [(1, 0), (2, 1), (4, 0), (4, 3)])
@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize(("latency", "interval", "refuse"), [(0, 1, 0.0), (30, 3, 0.0), (7, 1, 0.4)])
def test_every_tile_is_asked_for_in_order_and_lies_whole_when_it_is_ready(
    simulate, machine, plain_memory, fetch_geometry, name, ports, port, latency, interval, refuse
):
    accelerator = port_machine(machine, name, ports)
    geometry = fetch_geometry(accelerator, port, **WORKS[name][1])
    memory = plain_memory(MEMORY, latency, interval, refuse)
    requests = memory.ports[0].requests
    rng = np.random.default_rng(3)
    fetch = Fetch(accelerator, port)

    async def testbench(ctx):
        for often in (0.05, 0.9):  # the second start must begin from a clean slate
            observer = Observer(geometry)
            await begin(ctx, fetch, memory, geometry.fields())
            while observer.expected or ctx.get(fetch.busy):
                seen = len(requests)
                memory.read(ctx, fetch)
                for _, address, words in requests[seen:]:
                    observer.request(address, words)
                observer.consume(ctx, fetch)
                for side in ("lhs", "rhs"):
                    resident = side == "lhs" and geometry.work.resident
                    free = bool(observer.held[side]) and not resident and rng.random() < often
                    ctx.set(getattr(fetch, f"{side}_free"), free)
                    if free:
                        entries = observer.give_back(side)
                        ctx.set(fetch.lhs_free_entries, entries if side == "lhs" else 999)
                await memory.tick(ctx)
                assert memory.now < 40_000, f"{len(observer.expected)} tiles never came"
            assert not observer.asked
            ctx.set(fetch.lhs_free, 0)
            ctx.set(fetch.rhs_free, 0)

    simulate(fetch, testbench)


@pytest.mark.parametrize("port", [0, 1])
def test_words_come_every_cycle_and_the_last_makes_the_tile_ready(
    simulate, machine, plain_memory, fetch_geometry, port
):
    accelerator = machine(ports=2, lhs_entries=64, rhs_entries=64)
    work = {"images": 4, "words": (0, 2, 2), "segments": ((2, 1), (3, 1)), "bits": 3, "resident": True}
    geometry = fetch_geometry(accelerator, port, **work)
    memory, fetch, ready_at = plain_memory(MEMORY), Fetch(accelerator, port), []
    arrivals = memory.ports[0].arrivals

    async def testbench(ctx):
        await begin(ctx, fetch, memory, geometry.fields())
        while not arrivals or ctx.get(fetch.busy) or memory.now < arrivals[-1] + WORD_TO_READY:
            memory.read(ctx, fetch)
            ready_at.extend([memory.now] * (ctx.get(fetch.lhs_ready) + ctx.get(fetch.rhs_ready)))
            await memory.tick(ctx)
            assert memory.now < 500, "the stage hangs"

    simulate(fetch, testbench)
    first_request = 1 + WALK_LATENCY  # the stage works from the cycle after the start strobe on, which is cycle 0
    assert memory.ports[0].requests[0][0] == first_request
    first_word = memory.ports[0].addresses[0] + ADDRESS_TO_WORD
    sizes = [2 * 2, 2 * 3, 2 * 3, 3 * 2]  # words of a row of 2 bits, of two columns, of a row of 3 bits
    assert arrivals == list(range(first_word, first_word + sum(sizes)))
    # The strobe comes two cycles before the execute stage sees the tile: it counts, and its decision is a register.
    assert ready_at == [arrivals[end - 1] + WORD_TO_READY - 2 for end in np.cumsum(sizes)]


@pytest.mark.parametrize("side", ["lhs", "rhs"])
def test_freed_entries_are_asked_for_free_to_request_cycles_later(
    simulate, machine, plain_memory, fetch_geometry, side
):
    accelerator = machine(**{"lhs_entries": 64, "rhs_entries": 64} | {f"{side}_entries": 16})
    work = {"images": 12, "words": (0, 3, 3), "segments": ((3, 2),), "bits": 3}
    geometry = fetch_geometry(accelerator, 0, **work)  # 9 entries a tile: the ring of 16 holds one
    memory, fetch = plain_memory(MEMORY), Fetch(accelerator, 0)

    async def testbench(ctx):
        await begin(ctx, fetch, memory, geometry.fields())
        for cycle in range(memory.now, 260):
            memory.read(ctx, fetch)
            ctx.set(getattr(fetch, f"{side}_free"), cycle == 250)
            ctx.set(fetch.lhs_free_entries, 9)
            await memory.tick(ctx)

    simulate(fetch, testbench)
    assert next(cycle for cycle, _, _ in memory.ports[0].requests if cycle > 200) == 250 + FREE_TO_REQUEST


@pytest.mark.parametrize("pause", [0.0, 0.6])
@pytest.mark.parametrize("dn", [1, 2, 3, 8])
def test_tiles_are_asked_for_one_behind_another(simulate, machine, fetch_geometry, dn, pause):
    """Row tiles are one request, column tiles one for each of ``dn`` columns."""
    geometry = fetch_geometry(machine(dn=dn), 0, images=6 * dn, segments=((1, 3),), group_tiles=2)
    fetch, rng, asked = Fetch(machine(dn=dn), 0), np.random.default_rng(dn), []
    requests = [1 if side == "lhs" else dn for side, _ in geometry.order()]

    async def testbench(ctx):
        ctx.set(fetch.instruction, geometry.fields())
        await ctx.tick()
        ctx.set(fetch.start, 1)
        for cycle in range(100 + 4 * sum(requests)):
            ready = rng.random() >= pause
            ctx.set(fetch.request.ready, ready)
            if ctx.get(fetch.request.valid):
                asked.append((cycle, ready))
            await ctx.tick()
            ctx.set(fetch.start, 0)

    simulate(fetch, testbench)
    offered = [1 + WALK_LATENCY]  # cycles in which requests appear ...
    taken = [cycle for cycle, ready in asked if ready]  # ... and in which they are taken
    assert len(taken) == sum(requests)
    firsts = np.cumsum([0, *requests])[:-1].tolist()
    for number in range(1, len(taken)):
        offered.append(taken[number - 1] + 1)
        if number in firsts:
            first = offered[firsts[firsts.index(number) - 1]]
            offered[-1] = max(taken[number - 1] + TILE_INTERVAL, first + TILE_TO_TILE)
    waiting = [range(first, last + 1) for first, last in zip(offered, taken, strict=True)]
    assert [cycle for cycle, _ in asked] == [cycle for cycles in waiting for cycle in cycles]


@pytest.mark.parametrize(
    ("segments", "bits", "lhs_tiles", "rhs_tiles"),
    [
        (
            ((8, 2), (1, 1)),
            1,
            2,
            1,
        ),  # 8 + 8 entries fill the ring of 16, nothing is asked for behind the third row tile
        (((8, 1), (7, 1), (1, 1)), 1, 3, 1),
        (((8, 1), (7, 1), (2, 1)), 1, 2, 1),  # 17 entries
        (((1, 1),), 3, 11, 10),  # 10 * 3 of 32 entries
        (((1, 1),), 4, 9, 8),
    ],
)
def test_no_more_is_asked_for_than_the_rings_hold(
    simulate, machine, plain_memory, fetch_geometry, segments, bits, lhs_tiles, rhs_tiles
):
    accelerator = machine(lhs_entries=16, rhs_entries=32)
    work = {"images": 2 * rhs_tiles + 8, "segments": segments, "bits": bits}
    geometry, memory, fetch = fetch_geometry(accelerator, 0, **work), plain_memory(MEMORY), Fetch(accelerator, 0)

    async def testbench(ctx):
        await begin(ctx, fetch, memory, geometry.fields())
        for _ in range(400):  # nothing is given back
            memory.read(ctx, fetch)
            await memory.tick(ctx)

    simulate(fetch, testbench)
    tiles = list(geometry.order())
    asked = tiles[: lhs_tiles + rhs_tiles]
    assert sum(side == "lhs" for side, _ in asked) == lhs_tiles
    words = sum(len(geometry.places(side, number)) for side, number in asked)
    assert memory.words_read == words
