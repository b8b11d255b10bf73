"""Both halves of an AXI slave for the simulator of Amaranth, which check the protocol, and who asks through a master.

They know `rtl.axi` by its ports, not by what it does: ideal, hesitating at random, or answering with errors.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from rtl.axi import AxiWriter

BASE, LIMIT = 0x1234_5000, 5000
ADDRESS_PAYLOAD = ("addr", "len", "size", "burst", "cache", "prot")
SLVERR, DECERR = 2, 3


def bursts_of(address: int, words: int, page_words: int = 512) -> Iterator[tuple[int, int]]:
    """(address, words) of the bursts of a request: as few as the rules allow."""
    while words:
        beats = min(16, words, page_words - address % page_words)
        yield address, beats
        address, words = address + beats, words - beats


class Slave:
    """Either half of an AXI slave: `step` in every cycle, before the clock's edge.

    With ``hesitation`` 0 it is ideal: it takes an address as soon as the last beat of the burst before is scheduled,
    and the beats follow in the cycle after. Otherwise it hesitates at random on every channel.
    """

    def __init__(self, unit: Any, prefix: str, hesitation: float, seed: int, latency: int):
        self.axi, self.prefix, self.hesitation, self.latency = unit.axi, prefix, hesitation, latency
        self.word_bytes = unit.word_bytes
        self.rng = np.random.default_rng(seed)
        self.now = 0
        self.waiting: dict[str, tuple] = {}
        self.bursts: list[tuple[int, int]] = []
        """Word address (base taken off) and beats of every burst accepted."""
        self.first_offered: list[int] = []
        """Cycle in which each address appeared."""
        self.error_at: dict[int, int] = {}
        """Response other than OKAY: of a word's address when reading, of a burst's first word when writing."""

    def hesitates(self) -> bool:
        return bool(self.rng.random() < self.hesitation)

    def handshake(self, ctx: Any, channel: str, names: tuple[str, ...], ready: bool) -> tuple | None:
        """Offer ``ready``; the payload if it is taken. A payload that waits must not change or go."""
        ctx.set(getattr(self.axi, f"{channel}ready"), ready)
        valid = ctx.get(getattr(self.axi, f"{channel}valid"))
        payload = tuple(ctx.get(getattr(self.axi, channel + name)) for name in names)
        if channel in self.waiting:
            assert valid, f"{channel} was withdrawn"
            assert payload == self.waiting.pop(channel), f"{channel} changed while it waited"
        elif valid and channel == self.prefix:
            self.first_offered.append(self.now)
        if valid and not ready:
            self.waiting[channel] = payload
        return payload if valid and ready else None

    def address(self, ctx: Any, ready: bool) -> tuple[int, int] | None:
        """Word address and beats of the burst taken in this cycle."""
        taken = self.handshake(ctx, self.prefix, ADDRESS_PAYLOAD, ready)
        if taken is None:
            return None
        address, length, size, burst, _, _ = taken
        assert 1 << size == self.word_bytes
        assert burst == 1
        assert length < 16
        assert address % self.word_bytes == 0
        last = address + (length + 1) * self.word_bytes - 1
        assert address // 4096 == last // 4096, "the burst crosses 4 KB"
        self.bursts.append(((address - BASE) // self.word_bytes, length + 1))
        return self.bursts[-1]


class ReadSlave(Slave):
    """Answers with `word_at` the address."""

    def __init__(self, unit: Any, hesitation: float = 0.0, seed: int = 0, latency: int = 0):
        super().__init__(unit, "ar", hesitation, seed, latency)
        self.coming: deque[tuple[int, int, bool]] = deque()
        self.free = 0
        self.silent = False  # R gives nothing for now

    def word_at(self, address: int) -> int:
        return (address * 0x9E37_79B9_7F4A_7C15) % (1 << (8 * self.word_bytes))

    def step(self, ctx: Any) -> None:
        arrives = bool(self.coming) and self.coming[0][0] <= self.now and not self.hesitates() and not self.silent
        _, address, last = self.coming.popleft() if arrives else (0, -1, True)
        ctx.set(self.axi.rvalid, arrives)
        ctx.set(self.axi.rdata, self.word_at(address))
        ctx.set(self.axi.rlast, last)
        ctx.set(self.axi.rresp, self.error_at.get(address, 0))
        assert ctx.get(self.axi.rready)
        taken = self.address(ctx, self.now >= self.free and not self.hesitates())
        if taken:
            address, beats = taken
            cycle = self.now + 1 + self.latency
            self.coming.extend((cycle + k, address + k, k == beats - 1) for k in range(beats))
            self.free = self.now + beats
        self.now += 1


class WriteSlave(Slave):
    """Keeps what is written when it responds. When it hesitates, it may take beats before their address.

    The ideal one takes an address as soon as all but ``ahead`` bursts have their last beat.
    """

    def __init__(self, unit: Any, hesitation: float = 0.0, seed: int = 0, latency: int = 0, ahead: int = 0):
        super().__init__(unit, "aw", hesitation, seed, latency)
        self.ahead = ahead
        self.written: dict[int, int] = {}
        """Address to data, bytes that were not enabled are 0."""
        self.beats: list[tuple[int, int]] = []  # of the burst that is coming
        self.whole: deque[list[tuple[int, int]]] = deque()  # bursts whose last beat has come
        self.expected: deque[tuple[int, int]] = deque()  # bursts whose address has come, not responded to
        self.responses: deque[tuple[int, tuple[int, int], list[tuple[int, int]]]] = deque()
        self.beat_cycles: list[int] = []
        self.silent = False  # B gives nothing for now

    def step(self, ctx: Any) -> None:
        respond = bool(self.responses) and self.responses[0][0] <= self.now and not self.hesitates() and not self.silent
        ctx.set(self.axi.bvalid, respond)
        assert ctx.get(self.axi.bready)
        ctx.set(self.axi.bresp, 0)
        if respond:
            _, (address, _), beats = self.responses.popleft()
            ctx.set(self.axi.bresp, self.error_at.get(address, 0))
            for k, (word, strobe) in enumerate(beats):
                enabled = [0xFF << (8 * i) for i in range(self.word_bytes) if strobe >> i & 1]
                if strobe:
                    self.written[address + k] = word & sum(enabled)
        ideal = self.hesitation == 0
        ready = bool(self.expected) and len(self.expected) > len(self.whole) if ideal else not self.hesitates()
        beat = self.handshake(ctx, "w", ("data", "strb", "last"), ready)
        if beat:
            self.beats.append(beat[:2])
            self.beat_cycles.append(self.now)
            if beat[2]:
                self.whole.append(self.beats)
                self.beats = []
        owed = len(self.expected) - len(self.whole)
        taken = self.address(ctx, owed <= self.ahead if ideal else not self.hesitates())
        if taken:
            self.expected.append(taken)
        for (_, length), beats in zip(self.expected, [*self.whole, self.beats], strict=False):
            assert len(beats) <= length, "more beats than the burst has"
        while self.expected and self.whole:
            burst, beats = self.expected.popleft(), self.whole.popleft()
            assert len(beats) == burst[1], "WLAST is not on the last beat"
            self.responses.append((self.now + 1 + self.latency, burst, beats))
        self.now += 1


async def prepare(ctx: Any, unit: Any) -> None:
    ctx.set(unit.base, BASE)
    ctx.set(unit.limit, LIMIT)


def offer(ctx: Any, stream: Any, queue: deque, wanted: bool) -> bool:
    """Offer the first of the queue; whether it is taken in this cycle."""
    ctx.set(stream.valid, bool(queue) and wanted)
    if not (queue and wanted):
        return False
    ctx.set(stream.payload, queue[0])
    return bool(ctx.get(stream.ready))


def request(address: int, words: int) -> dict[str, int]:
    return {"address": address, "words": words}


def random_requests(rng: np.random.Generator, count: int, largest: int) -> list[tuple[int, int]]:
    """Requests that like the ends of pages and the limit."""
    requests = []
    for _ in range(count):
        words = int(rng.integers(1, largest))
        near = int(rng.choice([0, 512, 1024, LIMIT, int(rng.integers(0, LIMIT))]))
        address = int(np.clip(near + rng.integers(-20, 20), 0, LIMIT - words))
        requests.append((address, words))
    return requests


class Engine:
    """Offers requests and words; whoever waits keeps its offer, except after a halt."""

    def __init__(self, unit: Any, slave: Any, hesitation: float = 0.0, seed: int = 1):
        self.unit, self.slave, self.hesitation = unit, slave, hesitation
        self.rng = np.random.default_rng(seed)
        self.requests: deque = deque()
        self.words: deque = deque()
        self.given: list = []
        """Words taken by the unit."""
        self.taken_at: list[int] = []
        """Cycle in which each request was taken."""
        self.offers = {"request": False, "word": False}
        self.errors: list[tuple[int, int, int]] = []
        """Cycle, code and address of every error strobe."""
        self.received: list[tuple[int, int]] = []
        """Cycle and word of every word that came."""

    def wants(self, kind: str) -> bool:
        self.offers[kind] = self.offers[kind] or self.rng.random() >= self.hesitation
        return self.offers[kind]

    def forget(self) -> None:
        self.requests.clear()
        self.words.clear()
        self.offers = {"request": False, "word": False}

    async def cycle(self, ctx: Any) -> None:
        unit, now = self.unit, self.slave.now
        self.slave.step(ctx)
        if offer(ctx, unit.request, self.requests, self.wants("request")):
            self.requests.popleft()
            self.taken_at.append(now)
            self.offers["request"] = False
        if isinstance(unit, AxiWriter):
            if offer(ctx, unit.word, self.words, self.wants("word")):
                self.given.append(self.words.popleft())
                self.offers["word"] = False
        elif ctx.get(unit.word.valid):
            self.received.append((now, ctx.get(unit.word.payload)))
        if ctx.get(unit.error):
            self.errors.append((now, ctx.get(unit.error_code), ctx.get(unit.error_address)))
        await ctx.tick()

    async def until_idle(self, ctx: Any, limit: int = 20_000) -> None:
        for _ in range(limit):
            if not self.requests and ctx.get(self.unit.idle):
                return
            await self.cycle(ctx)
        raise AssertionError(f"not idle after {limit} cycles")


def random_words(rng: np.random.Generator, count: int) -> list[dict[str, int]]:
    return [{"data": int(rng.integers(1 << 62)) * 3, "strobe": int(rng.integers(256))} for _ in range(count)]
