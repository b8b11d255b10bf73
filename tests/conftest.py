"""Fixtures of all tests: machines, random integers, the Amaranth simulator."""

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import settings

from hardware.accelerator import Accelerator, load_accelerator
from rtl.axi import REQUEST_TO_BEAT, WORD_LATENCY

torch.set_num_threads(1)  # as the command line does; two workers of pytest share the cores

# The same examples in every run, and none of them can fail because the computer is slow.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny() -> Accelerator:
    """The preset for tests: 2x64x2."""
    return load_accelerator("bitserial-tiny")


@pytest.fixture(scope="session", params=["bitserial-tiny", "stripes-tiny", "fusion-tiny"])
def smallest(request: pytest.FixtureRequest) -> Accelerator:
    """The smallest preset of every kind of arrays, one after the other: 2x64x2."""
    return load_accelerator(request.param)


@pytest.fixture(scope="session")
def machine(tiny) -> Callable[..., Accelerator]:
    """``machine(dn=3, lhs_entries=32, latency=0)``: `tiny` with other numbers."""

    def build(**changes) -> Accelerator:
        description = tiny.model_dump()
        for part in ("array", "buffers", "memory"):
            for field in description[part]:
                description[part][field] = changes.pop(field, description[part][field])
        return Accelerator.model_validate(description | {"name": "variant"} | changes)

    return build


@pytest.fixture(scope="session")
def integers() -> Callable[..., np.ndarray]:
    """``integers(rng, shape, bits, signed)``: every integer of that width is drawn, the extremes included."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...], bits: int, signed: bool) -> np.ndarray:
        low = -(1 << (bits - 1)) if signed else 0
        return rng.integers(low, low + (1 << bits), size=shape, dtype=np.int64)

    return draw


@pytest.fixture
def simulate() -> Callable[..., None]:
    """``simulate(dut, testbench, ...)``: runs gateware under Amaranth's simulator until all testbenches have ended."""
    from amaranth.sim import Simulator

    def run(dut, *testbenches) -> None:
        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        for testbench in testbenches:
            simulator.add_testbench(testbench)
        simulator.run()

    return run


REQUEST_TO_WORD = REQUEST_TO_BEAT - WORD_LATENCY
"""Write request taken to its first word being taken."""


class ReadPort:
    """One read channel of a `PlainMemory`."""

    def __init__(self) -> None:
        self.next: tuple[int, int] | None = None
        """Address and words of the request in the AXI unit's first register ..."""
        self.held: tuple[int, int] | None = None
        """... and of the one whose address waits on the bus."""
        self.coming: deque[tuple[int, int]] = deque()  # cycle, address
        self.free = 0
        self.requests: list[tuple[int, int, int]] = []
        """Cycle, address and words of every request taken."""
        self.addresses: list[int] = []
        """Cycle in which the memory accepted the address of each."""
        self.arrivals: list[int] = []
        """Cycle in which each word came."""
        self.refused: tuple[int, int] | None = None


class PlainMemory:
    """The memory behind the engine's ports, for Amaranth's simulator: `read`, `write`, then `tick` in every cycle.

    It stands for the AXI units and the memory of `sim/dram.sv`, without bursts. A request's address is on the bus two
    cycles after the request is taken, if none is in the way; word k of an address accepted in cycle t comes in cycle
    t + 1 + latency + k * interval, and the port is occupied for words * interval cycles. A word to write is taken
    `REQUEST_TO_WORD` after its request or later, on the bus one cycle after that or after the one before was accepted,
    and accepted `interval` cycles after that one; one word may wait behind the one on the bus. With ``refuse`` every
    channel also hesitates at random. All read ports see the same words. What it refuses must be offered again,
    unchanged.
    """

    def __init__(self, words: np.ndarray, latency: int = 0, interval: int = 1, refuse: float = 0.0, seed: int = 0):
        self.words = [int(word) for word in words]
        self.now = self.words_read = self.words_written = 0
        self._latency, self._interval, self._refuse = latency, interval, refuse
        self._rng = np.random.default_rng(seed)
        self.ports = [ReadPort() for _ in range(4)]
        self._write_free = 0
        self._offered: dict[str, tuple[int, ...]] = {}
        self._owed: deque[tuple[int, int]] = deque()  # addresses asked for whose words were not taken, and from when
        self._beats: deque[tuple[int, int, int]] = deque()  # on the bus, and behind it: address, strobes, data
        self._idle_from = 0
        self.write_requests: list[tuple[int, int, int]] = []
        """Cycle, address and words of every request to write."""
        self.taken: list[tuple[int, int, int]] = []
        """Cycle, data under the strobes, and strobes of every word taken from the channel."""
        self.writes: list[tuple[int, int, int]] = []
        """Cycle, address and strobes of every word accepted by the memory."""

    def _hesitates(self) -> bool:
        return self._refuse > 0 and self._rng.random() < self._refuse

    def read(self, ctx, channel, port: int = 0) -> None:
        """Drive and look at a read channel in this cycle."""
        request, word, state = channel.request, channel.word, self.ports[port]
        arrives = bool(state.coming) and state.coming[0][0] <= self.now and not self._hesitates()
        ctx.set(word.valid, arrives)
        if arrives:
            ctx.set(word.payload, self.words[state.coming.popleft()[1]])
            state.arrivals.append(self.now)
            assert ctx.get(word.ready), "a word that nobody took"
        if state.held and self.now >= state.free and not self._hesitates():
            address, words = state.held
            first = self.now + 1 + self._latency
            state.coming.extend((first + k * self._interval, address + k) for k in range(words))
            state.free = self.now + words * self._interval
            state.addresses.append(self.now)
            state.held = None
        if state.held is None:
            state.held, state.next = state.next, None
        ready = state.next is None and not self._hesitates()
        ctx.set(request.ready, ready)
        valid, address, words = (ctx.get(s) for s in (request.valid, request.payload.address, request.payload.words))
        assert state.refused is None or (valid and state.refused == (address, words)), "a request that was withdrawn"
        state.refused = (address, words) if valid and not ready else None
        if ready and valid:
            state.next = address, words
            state.requests.append((self.now, address, words))
            self.words_read += words

    @property
    def idle(self) -> bool:
        """Whether every word asked for has been in memory since the cycle before the last, for the response."""
        return not self._owed and not self._beats and self.now >= self._idle_from

    def _handshake(self, ctx, name: str, channel, ready: bool, payload: tuple[int, ...]) -> bool:
        ctx.set(channel.ready, ready)
        valid = bool(ctx.get(channel.valid))
        if name in self._offered:
            assert valid, f"a {name} that was withdrawn"
            assert self._offered.pop(name) == payload, f"a {name} that changed while it waited"
        if valid and not ready:
            self._offered[name] = payload
        return valid and ready

    def write(self, ctx, channel) -> None:
        """Drive and look at the write channel, ``request`` and ``word``, in this cycle."""
        room = len(self._beats) < 2  # whatever the memory accepts in this cycle
        if self._beats and self.now >= self._write_free and not self._hesitates():
            address, strobe, data = self._beats.popleft()
            mask = _bytes_of(strobe)
            self.words[address] = (self.words[address] & ~mask) | data
            self._write_free = self.now + self._interval
            self._idle_from = self.now + 2
            self.writes.append((self.now, address, strobe))
            self.words_written += 1

        strobe = ctx.get(channel.word.payload.strobe)
        data = ctx.get(channel.word.payload.data) & _bytes_of(strobe)
        ready = bool(self._owed) and self._owed[0][1] <= self.now and room and not self._hesitates()
        if self._handshake(ctx, "word", channel.word, ready, (strobe, data)):
            self._beats.append((self._owed.popleft()[0], strobe, data))
            self.taken.append((self.now, data, strobe))

        request = channel.request.payload
        address, words = ctx.get(request.address), ctx.get(request.words)
        if self._handshake(ctx, "write request", channel.request, not self._hesitates(), (address, words)):
            assert words > 0, "a request without words"
            self._owed.extend((address + word, self.now + REQUEST_TO_WORD) for word in range(words))
            self.write_requests.append((self.now, address, words))

    async def tick(self, ctx) -> None:
        """End this cycle."""
        await ctx.tick()
        self.now += 1


def _bytes_of(strobe: int) -> int:
    return sum(0xFF << (8 * byte) for byte in range(8) if strobe >> byte & 1)


@pytest.fixture(scope="session")
def plain_memory() -> type[PlainMemory]:
    """The class `PlainMemory`."""
    return PlainMemory
