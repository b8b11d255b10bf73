"""Both AXI masters against a slave that checks the protocol by itself, ideal, hesitating and refusing."""

from collections import deque

import numpy as np
import pytest

from hardware.registers import ErrorCode
from rtl.axi import ADDRESS_LATENCY, OUTSTANDING, REQUEST_TO_BEAT, WORD_LATENCY, AxiReader, AxiWriter

BASE, LIMIT = 0x1234_5000, 5000
ADDRESS_PAYLOAD = ("addr", "len", "size", "burst", "cache", "prot")
SLVERR, DECERR = 2, 3


def bursts_of(address: int, words: int, page_words: int = 512):
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

    def __init__(self, unit, prefix: str, hesitation: float, seed: int, latency: int):
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
        return self.rng.random() < self.hesitation

    def handshake(self, ctx, channel: str, names: tuple[str, ...], ready: bool) -> tuple | None:
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

    def address(self, ctx, ready: bool) -> tuple[int, int] | None:
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

    def __init__(self, unit, hesitation=0.0, seed=0, latency=0):
        super().__init__(unit, "ar", hesitation, seed, latency)
        self.coming: deque[tuple[int, int, bool]] = deque()
        self.free = 0
        self.silent = False  # R gives nothing for now

    def word_at(self, address: int) -> int:
        return (address * 0x9E37_79B9_7F4A_7C15) % (1 << (8 * self.word_bytes))

    def step(self, ctx) -> None:
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

    def __init__(self, unit, hesitation=0.0, seed=0, latency=0, ahead=0):
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

    def step(self, ctx) -> None:
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


async def prepare(ctx, unit) -> None:
    ctx.set(unit.base, BASE)
    ctx.set(unit.limit, LIMIT)


def offer(ctx, stream, queue: deque, wanted: bool) -> bool:
    """Offer the first of the queue; whether it is taken in this cycle."""
    ctx.set(stream.valid, bool(queue) and wanted)
    if not (queue and wanted):
        return False
    ctx.set(stream.payload, queue[0])
    return bool(ctx.get(stream.ready))


def request(address: int, words: int) -> dict[str, int]:
    return {"address": address, "words": words}


def random_requests(rng, count: int, largest: int) -> list[tuple[int, int]]:
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

    def __init__(self, unit, slave, hesitation: float = 0.0, seed: int = 1):
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

    async def cycle(self, ctx) -> None:
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

    async def until_idle(self, ctx, limit: int = 20_000) -> None:
        for _ in range(limit):
            if not self.requests and ctx.get(self.unit.idle):
                return
            await self.cycle(ctx)
        raise AssertionError(f"not idle after {limit} cycles")


@pytest.mark.parametrize(("slave_hesitation", "engine_hesitation"), [(0, 0), (0.5, 0), (0, 0.7), (0.8, 0.3)])
@pytest.mark.parametrize(("data_bits", "version", "latency"), [(64, 3, 0), (64, 4, 25), (32, 4, 3)])
def test_words_come_in_order_in_as_few_bursts_as_allowed(
    simulate, data_bits, version, latency, slave_hesitation, engine_hesitation
):
    reader = AxiReader(data_bits, version)
    slave = ReadSlave(reader, slave_hesitation, latency=latency)
    engine = Engine(reader, slave, engine_hesitation)
    requests = random_requests(np.random.default_rng(5), 40, 70)

    async def testbench(ctx):
        await prepare(ctx, reader)
        assert ctx.get(reader.idle)
        engine.requests.extend(request(*r) for r in requests)
        await engine.until_idle(ctx)

    simulate(reader, testbench)
    page = 4096 * 8 // data_bits
    assert slave.bursts == [burst for r in requests for burst in bursts_of(*r, page)]
    expected = [slave.word_at(address + k) for address, words in requests for k in range(words)]
    assert [word for _, word in engine.received] == expected
    assert not engine.errors


def random_words(rng, count: int) -> list[dict[str, int]]:
    return [{"data": int(rng.integers(1 << 62)) * 3, "strobe": int(rng.integers(256))} for _ in range(count)]


def merge(memory: dict[int, int], requests: list[tuple[int, int]], words: list[dict[str, int]]) -> None:
    """Write the words, as far as they go, where the requests say; a word without an enabled byte leaves no trace."""
    places = [address + k for address, count in requests for k in range(count)]
    for place, word in zip(places, words, strict=False):
        if word["strobe"]:
            mask = sum(0xFF << (8 * i) for i in range(8) if word["strobe"] >> i & 1)
            memory[place] = word["data"] & mask


@pytest.mark.parametrize(("slave_hesitation", "engine_hesitation"), [(0, 0), (0.5, 0), (0, 0.7), (0.8, 0.3)])
@pytest.mark.parametrize("latency", [0, 25])
def test_words_are_written_where_asked_and_idle_says_when(simulate, slave_hesitation, engine_hesitation, latency):
    writer = AxiWriter()
    slave = WriteSlave(writer, slave_hesitation, latency=latency)
    engine = Engine(writer, slave, engine_hesitation)
    rng = np.random.default_rng(6)
    requests = random_requests(rng, 40, 70)
    words = random_words(rng, sum(count for _, count in requests))

    async def testbench(ctx):
        await prepare(ctx, writer)
        assert ctx.get(writer.idle)
        engine.requests.extend(request(*r) for r in requests)
        engine.words.extend(words)
        await engine.until_idle(ctx)
        assert not slave.responses
        assert not slave.beats

    simulate(writer, testbench)
    assert slave.bursts == [burst for r in requests for burst in bursts_of(*r)]
    memory: dict[int, int] = {}
    merge(memory, requests, words)
    assert slave.written == memory
    assert not engine.errors


STREAMS = {
    "one word each": [(k * 7, 1) for k in range(60)],
    "long, across pages": [(3, 700), (1400, 300)],
    "mixed": [(510, 4), (0, 16), (9, 1), (500, 12), (511, 1), (77, 33), (100, 17), (0, 1), (1, 15)],
}


@pytest.mark.parametrize("name", STREAMS)
def test_an_ideal_slave_gives_a_word_in_every_cycle(simulate, name):
    reader = AxiReader()
    slave = ReadSlave(reader)
    engine = Engine(reader, slave)

    async def testbench(ctx):
        await prepare(ctx, reader)
        engine.requests.extend(request(*r) for r in STREAMS[name])
        await engine.until_idle(ctx)

    simulate(reader, testbench)
    words = sum(count for _, count in STREAMS[name])
    assert engine.taken_at[0] == 0
    assert slave.first_offered[0] == ADDRESS_LATENCY
    assert [cycle for cycle, _ in engine.received] == [ADDRESS_LATENCY + 1 + k for k in range(words)]


def test_a_read_slave_that_takes_every_address_is_given_one_in_every_cycle(simulate):
    reader = AxiReader()
    slave = ReadSlave(reader)
    slave.silent = True
    engine = Engine(reader, slave)

    async def testbench(ctx):
        await prepare(ctx, reader)
        engine.requests.extend(request(*r) for r in STREAMS["mixed"])
        for _ in range(40):
            slave.free = 0
            await engine.cycle(ctx)

    simulate(reader, testbench)
    bursts = [burst for r in STREAMS["mixed"] for burst in bursts_of(*r)]
    assert slave.bursts == bursts
    assert slave.first_offered == [ADDRESS_LATENCY + k for k in range(len(bursts))]


@pytest.mark.parametrize(
    ("name", "ahead"),
    [("one word each", 1), ("one word each", 9), ("long, across pages", 0), ("mixed", 1), ("mixed", 9)],
)
def test_an_ideal_slave_takes_a_word_in_every_cycle(simulate, name, ahead):
    writer = AxiWriter()
    slave = WriteSlave(writer, ahead=ahead)
    engine = Engine(writer, slave)
    words = sum(count for _, count in STREAMS[name])

    async def testbench(ctx):
        await prepare(ctx, writer)
        engine.requests.extend(request(*r) for r in STREAMS[name])
        engine.words.extend(random_words(np.random.default_rng(7), words))
        await engine.until_idle(ctx)

    simulate(writer, testbench)
    assert slave.first_offered[0] == ADDRESS_LATENCY
    assert slave.beat_cycles == [REQUEST_TO_BEAT + k for k in range(words)]


def test_a_slave_that_waits_for_the_last_beat_takes_two_words_of_their_own_in_three_cycles(simulate):
    writer = AxiWriter()
    slave = WriteSlave(writer)
    engine = Engine(writer, slave)

    async def testbench(ctx):
        await prepare(ctx, writer)
        engine.requests.extend(request(7 * k, 1) for k in range(60))
        engine.words.extend(random_words(np.random.default_rng(7), 60))
        await engine.until_idle(ctx)

    simulate(writer, testbench)
    assert slave.beat_cycles == [REQUEST_TO_BEAT + k + k // 2 for k in range(60)]


def test_a_late_word_is_on_the_bus_after_word_latency(simulate):
    writer = AxiWriter()
    slave = WriteSlave(writer)
    engine = Engine(writer, slave)

    async def testbench(ctx):
        await prepare(ctx, writer)
        engine.requests.append(request(5, 2))
        for _ in range(20):
            await engine.cycle(ctx)
        engine.words.extend(random_words(np.random.default_rng(8), 2))
        await engine.until_idle(ctx)

    simulate(writer, testbench)
    assert slave.beat_cycles == [20 + WORD_LATENCY, 21 + WORD_LATENCY]


@pytest.mark.parametrize("unit", [AxiReader, AxiWriter])
def test_bursts_wait_when_too_many_are_without_an_answer(simulate, unit):
    master = unit()
    slave = {AxiReader: ReadSlave, AxiWriter: WriteSlave}[unit](master)
    engine = Engine(master, slave)

    async def testbench(ctx):
        await prepare(ctx, master)
        slave.silent = True
        engine.requests.extend(request(k, 1) for k in range(OUTSTANDING + 10))
        engine.words.extend(random_words(np.random.default_rng(9), OUTSTANDING + 10))
        for _ in range(2 * OUTSTANDING):
            await engine.cycle(ctx)
        assert len(slave.bursts) == OUTSTANDING
        slave.silent = False
        await engine.until_idle(ctx)
        assert len(slave.bursts) == OUTSTANDING + 10

    simulate(master, testbench)


REFUSED = [(LIMIT - 3, 4), (LIMIT, 1), (0, LIMIT + 1), ((1 << 32) - 1, 2), (7, 0), (1 << 29, 1)]


@pytest.mark.parametrize("unit", [AxiReader, AxiWriter])
@pytest.mark.parametrize("bad", REFUSED)
def test_a_request_beyond_the_limit_is_refused_and_nothing_follows_until_halt(simulate, unit, bad):
    master = unit()
    slave = {AxiReader: ReadSlave, AxiWriter: WriteSlave}[unit](master)
    engine = Engine(master, slave)

    async def testbench(ctx):
        await prepare(ctx, master)
        engine.requests.extend(request(*r) for r in [(LIMIT - 3, 3), bad, (9, 1), (0, 1)])
        engine.words.extend(random_words(np.random.default_rng(10), 10))
        for _ in range(50):
            await engine.cycle(ctx)
        assert slave.bursts == [(LIMIT - 3, 3)]
        assert engine.errors == [(engine.taken_at[1] + 2, ErrorCode.ADDRESS_RANGE, bad[0])]
        assert list(engine.requests) == [request(0, 1)]  # one more is taken, and forgotten by halt
        assert not ctx.get(master.idle)
        ctx.set(master.halt, 1)
        await engine.cycle(ctx)
        ctx.set(master.halt, 0)
        await engine.until_idle(ctx)
        assert slave.bursts == [(LIMIT - 3, 3), (0, 1)]
        assert len(engine.errors) == 1

    simulate(master, testbench)


@pytest.mark.parametrize("unit", [AxiReader, AxiWriter])
def test_a_request_is_refused_when_those_before_it_have_their_addresses(simulate, unit):
    master = unit()
    slave = {AxiReader: ReadSlave, AxiWriter: WriteSlave}[unit](master, hesitation=0.9, seed=3)
    engine = Engine(master, slave)

    async def testbench(ctx):
        await prepare(ctx, master)
        engine.requests.extend(request(*r) for r in [(8, 50), (LIMIT, 1)])
        engine.words.extend(random_words(np.random.default_rng(10), 50))
        while len(slave.bursts) < 4:
            await engine.cycle(ctx)
            assert not engine.errors
        through = slave.now
        for _ in range(10):
            await engine.cycle(ctx)
        assert slave.bursts == list(bursts_of(8, 50))
        assert engine.errors == [(through, ErrorCode.ADDRESS_RANGE, LIMIT)]

    simulate(master, testbench)


@pytest.mark.parametrize("response", [SLVERR, DECERR])
def test_an_error_response_is_reported_and_the_words_still_flow(simulate, response):
    reader = AxiReader()
    slave = ReadSlave(reader)
    slave.error_at = {20: response, 26: 1}  # 1 is EXOKAY: not an error
    engine = Engine(reader, slave)

    async def testbench(ctx):
        await prepare(ctx, reader)
        engine.requests.append(request(10, 30))
        await engine.until_idle(ctx)

    simulate(reader, testbench)
    assert engine.errors == [(ADDRESS_LATENCY + 1 + 10, ErrorCode.READ_ERROR, 0)]
    assert [word for _, word in engine.received] == [slave.word_at(10 + k) for k in range(30)]


@pytest.mark.parametrize("response", [SLVERR, DECERR])
def test_an_error_response_to_a_write_is_reported(simulate, response):
    writer = AxiWriter()
    slave = WriteSlave(writer)
    slave.error_at = {16: response, 32: 1}
    engine = Engine(writer, slave)

    async def testbench(ctx):
        await prepare(ctx, writer)
        engine.requests.append(request(0, 64))
        engine.words.extend(random_words(np.random.default_rng(11), 64))
        await engine.until_idle(ctx)

    simulate(writer, testbench)
    assert [error[1:] for error in engine.errors] == [(ErrorCode.WRITE_ERROR, 0)]


@pytest.mark.parametrize("unit", [AxiReader, AxiWriter])
@pytest.mark.parametrize(("hesitation", "latency"), [(0.0, 0), (0.6, 12), (0.9, 3)])
def test_after_halt_the_unit_finishes_and_starts_afresh(simulate, unit, hesitation, latency):
    """The engine forgets its requests and words at halt, as a soft reset makes it, or a cycle later, when halt acts.

    Nothing that is offered from then on is taken.
    """
    master = unit()
    slave = {AxiReader: ReadSlave, AxiWriter: WriteSlave}[unit](master, hesitation, latency=latency)
    engine = Engine(master, slave, hesitation / 2)
    rng = np.random.default_rng(12)

    async def testbench(ctx):
        await prepare(ctx, master)
        for _ in range(12):
            first = random_requests(rng, 5, 60)
            engine.requests.extend(request(*r) for r in first)
            engine.words.extend(random_words(rng, 5 * 60))
            for _ in range(int(rng.integers(1, 60))):
                await engine.cycle(ctx)
            if rng.integers(2):
                engine.forget()
            ctx.set(master.halt, 1)
            await engine.cycle(ctx)
            engine.forget()
            received, offered = len(engine.received), len(slave.first_offered)
            taken = len(engine.taken_at), len(engine.given)
            engine.requests.append(request(200, 3))
            engine.words.extend(random_words(rng, 2))
            for _ in range(int(rng.integers(3))):
                await engine.cycle(ctx)
            ctx.set(master.halt, int(rng.integers(2)))  # given up early, or held until idle
            while not ctx.get(master.idle):
                await engine.cycle(ctx)
                assert slave.now < 20_000
            for _ in range(3 * ctx.get(master.halt)):
                await engine.cycle(ctx)
            assert len(slave.first_offered) == offered, "a burst was started after halt"
            assert len(engine.received) == received, "a word came out after halt"
            assert (len(engine.taken_at), len(engine.given)) == taken, "something was taken after halt"
            ctx.set(master.halt, 0)
            engine.forget()
            if unit is AxiWriter:
                assert not slave.beats
                assert not slave.expected
                assert not slave.responses
                memory: dict[int, int] = {}
                merge(memory, first, engine.given)
                assert slave.written == memory  # nothing but what was given, all of it
                slave.written.clear()

            last = random_requests(rng, 3, 20)
            words = random_words(rng, sum(count for _, count in last))
            engine.requests.extend(request(*r) for r in last)
            engine.words.extend(words)
            await engine.until_idle(ctx)
            if unit is AxiWriter:
                memory = {}
                merge(memory, last, words)
                assert slave.written == memory
                slave.written.clear()
                engine.given.clear()
            else:
                words = [slave.word_at(address + k) for address, count in last for k in range(count)]
                assert [word for _, word in engine.received[received:]] == words

    simulate(master, testbench)
