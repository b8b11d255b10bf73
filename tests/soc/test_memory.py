"""Memory on the chip: what it holds, and in which cycle it answers."""

from collections import deque

import numpy as np
import pytest

from hardware.accelerator import Memory
from soc.memory import BANK_WORDS, DECERR, OKAY, READ_LATENCY, OnChipMemory, banks_of

WORDS = 2 * BANK_WORDS
TIMING = Memory(latency=READ_LATENCY, cycles_per_word=1)


class Reader:
    """Asks for bursts, and knows when each word must come: `hardware.accelerator.Memory`."""

    def __init__(self, rng: np.random.Generator, hesitation: float, first: int = 0, last: int = WORDS):
        self.rng, self.hesitation, self.range = rng, hesitation, (first, last)
        self.wanted, self.due, self.free, self.words = None, deque(), 0, 0

    def step(self, ctx, axi, now: int, held: dict[int, int]) -> None:
        if self.wanted is None and self.rng.random() >= self.hesitation:
            self.wanted = int(self.rng.integers(*self.range)), int(self.rng.integers(1, 17))
        ctx.set(axi.arvalid, self.wanted is not None)
        ctx.set(axi.rready, 1)
        if self.wanted:
            ctx.set(axi.araddr, 8 * self.wanted[0])
            ctx.set(axi.arlen, self.wanted[1] - 1)
        assert ctx.get(axi.arready) == (now >= self.free)  # as soon as the burst before is scheduled
        if self.due and self.due[0][0] == now:
            _, address, last = self.due.popleft()
            inside = address < WORDS
            assert (ctx.get(axi.rvalid), ctx.get(axi.rlast)) == (1, last)
            assert ctx.get(axi.rdata) == (held.get(address, 0) if inside else 0)
            assert ctx.get(axi.rresp) == (OKAY if inside else DECERR)
            self.words += 1
        else:
            assert not ctx.get(axi.rvalid)
        if self.wanted and now >= self.free:
            address, beats = self.wanted
            first = now + 1 + TIMING.latency
            self.due.extend((first + k, address + k, k == beats - 1) for k in range(beats))
            self.free, self.wanted = now + beats, None


class Writer:
    """Bursts whose addresses come before their data, after them, or with them."""

    def __init__(self, rng: np.random.Generator, hesitation: float, first: int, last: int):
        self.rng, self.hesitation, self.range = rng, hesitation, (first, last)
        self.addresses, self.beats, self.answers, self.due, self.bursts = deque(), deque(), deque(), deque(), 0

    def step(self, ctx, axi, held: dict[int, int]) -> None:
        rng = self.rng
        if len(self.beats) < 32:
            address, beats = int(rng.integers(*self.range)), int(rng.integers(1, 17))
            self.addresses.append(address)
            words = [(int(rng.integers(1 << 63)), int(rng.integers(256))) for _ in range(beats)]
            self.beats.extend((address + k, *word, k == beats - 1) for k, word in enumerate(words))
            self.answers.append(DECERR if address + beats > WORDS else OKAY)
        offers = [bool(rng.random() >= self.hesitation) for _ in "aw"]
        ctx.set(axi.awvalid, offers[0] and bool(self.addresses))
        ctx.set(axi.awaddr, 8 * self.addresses[0] if self.addresses else 0)
        address, word, strobe, last = self.beats[0]
        ctx.set(axi.wvalid, offers[1])
        ctx.set(axi.wdata, word)
        ctx.set(axi.wstrb, strobe)
        ctx.set(axi.wlast, last)
        ready = bool(rng.random() >= self.hesitation)
        ctx.set(axi.bready, ready)
        if ctx.get(axi.bvalid) and ready:
            assert ctx.get(axi.bresp) == self.answers.popleft()
            self.bursts += 1
        if ctx.get(axi.awvalid) and ctx.get(axi.awready):
            self.addresses.popleft()
        if offers[1] and ctx.get(axi.wready):
            self.beats.popleft()
            if address < WORDS:
                mask = sum(0xFF << 8 * i for i in range(8) if strobe >> i & 1)
                held[address] = (held.get(address, 0) & ~mask) | (word & mask)


@pytest.mark.parametrize("hesitation", [0.0, 0.6])
def test_words_come_back_in_the_models_cycles_while_others_are_written(simulate, hesitation: float) -> None:
    """Reads and writes of different halves, so that no word is read while it is written."""
    rng, held, unit = np.random.default_rng(3), {}, OnChipMemory(WORDS)
    writer = Writer(rng, hesitation, 0, WORDS // 2 - 16)
    reader = Reader(rng, hesitation, WORDS // 2, WORDS + 40)

    async def bench(ctx):
        for now in range(1500):
            reader.step(ctx, unit.read, now, held)
            writer.step(ctx, unit.write, held)
            await ctx.tick()
        for valid in (unit.read.arvalid, unit.write.awvalid, unit.write.wvalid):
            ctx.set(valid, 0)
        await ctx.tick().repeat(40)
        again = Reader(rng, 0.0, 0, WORDS // 2 - 16)
        for now in range(1500):
            again.step(ctx, unit.read, now, held)
            await ctx.tick()
        assert again.words > 1000

    simulate(unit, bench)
    assert reader.words > (1000 if not hesitation else 300)
    assert writer.bursts > 50


def test_writes_beyond_the_end_are_refused_and_those_before_it_done(simulate) -> None:
    rng, held, unit = np.random.default_rng(4), {}, OnChipMemory(WORDS)
    writer = Writer(rng, 0.3, WORDS - 20, WORDS + 20)

    async def bench(ctx):
        for _ in range(800):
            writer.step(ctx, unit.write, held)
            await ctx.tick()
        ctx.set(unit.write.awvalid, 0)
        ctx.set(unit.write.wvalid, 0)
        await ctx.tick().repeat(5)
        reader = Reader(rng, 0.0, WORDS - 20, WORDS)
        for now in range(400):
            reader.step(ctx, unit.read, now, held)
            await ctx.tick()

    simulate(unit, bench)
    assert writer.bursts > 30


@pytest.mark.parametrize("busy", [False, True])
def test_the_side_port_takes_free_cycles_and_delays_nobody(simulate, busy: bool) -> None:
    rng, unit = np.random.default_rng(5), OnChipMemory(WORDS)
    held, reads = {}, 0
    reader = Reader(rng, 0.9 if busy else 1.0, WORDS // 2, 3 * WORDS // 4)
    writer = Writer(rng, 0.5, 3 * WORDS // 4 + 16, WORDS - 16)

    async def bench(ctx):
        nonlocal reads
        access, answer = unit.side.access, unit.side.answer
        due, wanted = deque(), None
        for now in range(2000):
            if wanted is None:
                wanted = bool(rng.random() < 0.5), int(rng.integers(64)), int(rng.integers(1 << 63)), 0xF0
            writes, address, word, strobe = wanted
            ctx.set(access.valid, 1)
            ctx.set(access.payload, {"address": 8 * address, "data": word, "strobe": strobe, "write": writes})
            reader.step(ctx, unit.read, now, {})
            if busy:
                writer.step(ctx, unit.write, {})
            if due and due[0][0] == now:
                assert ctx.get(answer.valid)
                assert ctx.get(answer.payload) == due.popleft()[1]
                reads += 1
            else:
                assert not ctx.get(answer.valid)
            if ctx.get(access.ready):
                if writes:
                    held[address] = (held.get(address, 0) & 0xFFFF_FFFF) | (word >> 32 << 32)
                else:
                    due.append((now + 1 + READ_LATENCY, held.get(address, 0)))
                wanted = None
            await ctx.tick()

    simulate(unit, bench)
    assert reads > 100


def test_only_whole_banks_can_be_had() -> None:
    for words in (0, BANK_WORDS + 1, -BANK_WORDS):
        with pytest.raises(ValueError, match=f"expected a multiple of {BANK_WORDS} words of memory, got {words}"):
            banks_of(words)
