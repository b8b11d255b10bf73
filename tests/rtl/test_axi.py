"""Both AXI masters against a slave that checks the protocol by itself, ideal, hesitating and refusing."""

import numpy as np
import pytest

from hardware.registers import ErrorCode
from rtl.axi import ADDRESS_LATENCY, OUTSTANDING, REQUEST_TO_BEAT, WORD_LATENCY, AxiReader, AxiWriter
from sim.axi_slaves import (
    DECERR,
    LIMIT,
    SLVERR,
    Engine,
    ReadSlave,
    WriteSlave,
    bursts_of,
    prepare,
    random_requests,
    random_words,
    request,
)


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
