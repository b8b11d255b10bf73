"""Fixtures of all tests: machines, random integers, the Amaranth simulator."""

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import settings

from hardware.accelerator import Accelerator, load_accelerator

torch.set_num_threads(1)  # as the command line does; two workers of pytest share the cores

# The same examples in every run, and none of them can fail because the computer is slow.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny() -> Accelerator:
    """The preset for tests: 2x64x2."""
    return load_accelerator("bitserial-tiny")


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


class PlainMemory:
    """The memory behind the engine's port, for Amaranth's simulator: `read`, `write`, then `tick` in every cycle.

    As in `sim/dram.sv`: word k of a request accepted in cycle t comes in cycle t + 1 + latency + k * interval,
    and the channel is occupied for words * interval cycles. With ``refuse`` it also hesitates at random.
    """

    def __init__(self, words: np.ndarray, latency: int = 0, interval: int = 1, refuse: float = 0.0, seed: int = 0):
        self.words = [int(word) for word in words]
        self.now = self.words_read = self.words_written = 0
        self._latency, self._interval, self._refuse = latency, interval, refuse
        self._rng = np.random.default_rng(seed)
        self._coming: deque[tuple[int, int]] = deque()  # cycle, address
        self._read_free = self._write_free = 0
        self.requests: list[tuple[int, int, int]] = []
        """Cycle, address and words of every accepted read request."""
        self.arrivals: list[int] = []
        """Cycle in which each word came."""
        self.writes: list[tuple[int, int]] = []
        """Cycle and address of every accepted write."""

    def _hesitates(self) -> bool:
        return self._refuse > 0 and self._rng.random() < self._refuse

    def read(self, ctx, request, word) -> None:
        """Drive and look at the read channel in this cycle."""
        arrives = bool(self._coming) and self._coming[0][0] <= self.now and not self._hesitates()
        ctx.set(word.valid, arrives)
        if arrives:
            ctx.set(word.payload, self.words[self._coming.popleft()[1]])
            self.arrivals.append(self.now)
            assert ctx.get(word.ready), "a word that nobody took"
        ready = self.now >= self._read_free and not self._hesitates()
        ctx.set(request.ready, ready)
        if ready and ctx.get(request.valid):
            address, words = ctx.get(request.payload.address), ctx.get(request.payload.words)
            first = self.now + 1 + self._latency
            self._coming.extend((first + k * self._interval, address + k) for k in range(words))
            self._read_free = self.now + words * self._interval
            self.requests.append((self.now, address, words))
            self.words_read += words

    def write(self, ctx, word) -> None:
        """Drive and look at the write channel in this cycle."""
        ready = self.now >= self._write_free and not self._hesitates()
        ctx.set(word.ready, ready)
        if ready and ctx.get(word.valid):
            self.words[ctx.get(word.payload.address)] = ctx.get(word.payload.data)
            self._write_free = self.now + self._interval
            self.writes.append((self.now, ctx.get(word.payload.address)))
            self.words_written += 1

    async def tick(self, ctx) -> None:
        """End this cycle."""
        await ctx.tick()
        self.now += 1


@pytest.fixture(scope="session")
def plain_memory() -> type[PlainMemory]:
    """The class `PlainMemory`."""
    return PlainMemory
