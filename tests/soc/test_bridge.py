"""The bridge between a serial line and the machine's registers and memory."""

import struct
from collections import deque

import pytest

from soc.bridge import MEMORY, Bridge, Status

SILENCE = 64


class Surroundings:
    """Registers and memory that take their time, and refuse addresses above 0x100."""

    def __init__(self, unit: Bridge, wait: int):
        self.unit, self.wait = unit, wait
        self.registers, self.memory = {}, {}
        self.read_at = self.write_at = None
        self.answers: deque[tuple[int, int]] = deque()

    def step(self, ctx, now: int) -> None:
        axi, access, answer = self.unit.registers, self.unit.memory.access, self.unit.memory.answer
        ctx.set(axi.awready, now % 3 == 0)
        ctx.set(axi.wready, now % 2 == 0)
        ctx.set(axi.arready, now % 3 == 1)
        ctx.set(axi.bvalid, self.write_at is not None and None not in self.write_at)
        if ctx.get(axi.bvalid):
            offset, value = self.write_at
            ctx.set(axi.bresp, 2 * (offset > 0x100))
            self.registers[offset] = value
            self.write_at = None
        ctx.set(axi.rvalid, self.read_at is not None)
        if self.read_at is not None:
            ctx.set(axi.rdata, self.registers.get(self.read_at, 0))
            ctx.set(axi.rresp, 2 * (self.read_at > 0x100))
            self.read_at = None
        if ctx.get(axi.awvalid) and ctx.get(axi.awready):
            self.write_at = ctx.get(axi.awaddr), (self.write_at or (None, None))[1]
        if ctx.get(axi.wvalid) and ctx.get(axi.wready):
            assert ctx.get(axi.wstrb) == 0xF
            self.write_at = (self.write_at or (None, None))[0], ctx.get(axi.wdata)
        if ctx.get(axi.arvalid) and ctx.get(axi.arready):
            self.read_at = ctx.get(axi.araddr)
        ctx.set(access.ready, now % (self.wait + 1) == self.wait)
        arrives = bool(self.answers) and self.answers[0][0] == now
        ctx.set(answer.valid, arrives)
        ctx.set(answer.payload, self.answers.popleft()[1] if arrives else 0)
        if ctx.get(access.valid) and ctx.get(access.ready):
            word = ctx.get(access.payload.address) // 8
            if ctx.get(access.payload.write):
                mask = sum(0xFF << 8 * i for i in range(8) if ctx.get(access.payload.strobe) >> i & 1)
                self.memory[word] = (self.memory.get(word, 0) & ~mask) | (ctx.get(access.payload.data) & mask)
            else:
                self.answers.append((now + 3, self.memory.get(word, 0)))


@pytest.fixture
def talk(simulate):
    """``talk(requests)``: what the bridge answers, and its surroundings. A number among them is a pause in cycles, a
    tuple of one byte a byte that the receiver lost behind this one."""

    def run(requests: list[bytes | int | tuple], wait: int = 0) -> tuple[bytes, Surroundings]:
        unit = Bridge(silence=SILENCE)
        around, said = Surroundings(unit, wait), bytearray()

        async def cycle(ctx, now):
            around.step(ctx, now)
            ctx.set(unit.send.ready, now % 5 == 0)
            if ctx.get(unit.send.valid) and now % 5 == 0:
                said.append(ctx.get(unit.send.payload))
            await ctx.tick()

        async def bench(ctx):
            now = 0
            for request in requests:
                if isinstance(request, int):
                    for _ in range(request):
                        await cycle(ctx, now := now + 1)
                    continue
                overrun, request = (True, request[0]) if isinstance(request, tuple) else (False, request)
                for byte in request:
                    ctx.set(unit.received.valid, 1)
                    ctx.set(unit.received.payload, byte)
                    while not ctx.get(unit.received.ready):
                        await cycle(ctx, now := now + 1)
                    await cycle(ctx, now := now + 1)
                    ctx.set(unit.received.valid, 0)
                    ctx.set(unit.overrun, overrun)
                    await cycle(ctx, now := now + 1)
                    ctx.set(unit.overrun, 0)
                for _ in range(200):
                    await cycle(ctx, now := now + 1)

        simulate(unit, bench)
        return bytes(said), around

    return run


def write(address: int, *words: int) -> bytes:
    return struct.pack(f"<cIH{len(words)}I", b"W", address, len(words), *words)


def read(address: int, count: int) -> bytes:
    return struct.pack("<cIH", b"R", address, count)


@pytest.mark.parametrize("wait", [0, 7])
def test_registers_and_memory_hold_what_is_written_and_are_read(talk, wait: int) -> None:
    said, around = talk(
        [write(0x24, 7, 8), read(0x24, 2), write(MEMORY + 12, 0x11223344, 0x55667788), read(MEMORY + 8, 3)], wait
    )
    assert around.registers == {0x24: 7, 0x28: 8}
    assert around.memory == {1: 0x11223344_00000000, 2: 0x55667788}
    assert (
        said
        == b"\0" + struct.pack("<II", 7, 8) + b"\0" + b"\0" + struct.pack("<III", 0, 0x11223344, 0x55667788) + b"\0"
    )


def test_a_register_that_refuses_is_said_so_and_the_next_request_is_fine(talk) -> None:
    said, _ = talk([read(0x200, 1), write(0x200, 1), read(0x10, 1)])
    assert said == struct.pack("<IB", 0, Status.REFUSED) + bytes([Status.REFUSED]) + struct.pack("<IB", 0, 0)


def test_a_lost_byte_is_said_so(talk) -> None:
    said, _ = talk([(write(0x10, 1),), read(0x10, 1)])
    assert said == bytes([Status.OVERRUN]) + struct.pack("<IB", 1, 0)


@pytest.mark.parametrize("broken", [b"W", b"R\0\0\0", write(0x10, 5)[:-2], b"hello", b"\xff"])
def test_what_breaks_off_is_forgotten_after_a_silence(talk, broken: bytes) -> None:
    said, around = talk([broken, 2 * SILENCE, write(0x14, 9), read(0x14, 1)])
    assert said == b"\0" + struct.pack("<IB", 9, 0)
    assert around.registers == {0x14: 9}


def test_no_words_are_a_request_too(talk) -> None:
    assert talk([read(0x10, 0), write(0x10)])[0] == b"\0\0"
