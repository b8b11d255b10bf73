"""The serial line's two ends, at rates that are a little off."""

import numpy as np
import pytest
from amaranth.hdl import Module

from soc.uart import UartReceiver, UartTransmitter, bit_cycles


def line_levels(data: bytes, period: float) -> list[int]:
    """The line in every cycle: idle, the bytes without a pause, idle. Written from the definition of 8N1."""
    bits = [bit for byte in data for bit in (0, *(byte >> i & 1 for i in range(8)), 1)]
    return [1] * 20 + [bits[int(cycle / period)] for cycle in range(int(len(bits) * period))] + [1] * int(12 * period)


@pytest.fixture
def receive(simulate):
    """``receive(levels, cycles)``: bytes and overruns of a line."""

    def run(levels: list[int], cycles: int, takes: bool = True) -> tuple[list[int], int]:
        unit, got, lost = UartReceiver(cycles), [], 0

        async def bench(ctx):
            nonlocal lost
            ctx.set(unit.byte.ready, takes)
            for level in levels:
                ctx.set(unit.line, level)
                if takes and ctx.get(unit.byte.valid):
                    got.append(ctx.get(unit.byte.payload))
                lost += ctx.get(unit.overrun)
                await ctx.tick()
            if not takes and ctx.get(unit.byte.valid):
                got.append(ctx.get(unit.byte.payload))

        simulate(unit, bench)
        return got, lost

    return run


@pytest.mark.parametrize("cycles", [8, 50, 51])
@pytest.mark.parametrize("deviation", [-0.03, 0, 0.03])
def test_the_receiver_takes_every_byte_of_a_line_three_percent_off(receive, cycles: int, deviation: float) -> None:
    data = bytes(np.random.default_rng(cycles).integers(0, 256, 40, dtype=np.uint8))
    assert receive(line_levels(data, cycles * (1 + deviation)), cycles) == (list(data), 0)


def test_a_byte_that_is_not_taken_is_overwritten_and_said_so(receive) -> None:
    assert receive(line_levels(b"abc", 8), 8, takes=False) == ([ord("c")], 2)


def test_neither_a_short_pulse_nor_a_byte_without_its_stop_bit_is_one(receive) -> None:
    pulse = [1] * 20 + [0] * 3 + [1] * 200
    without_stop = [1] * 20 + [0] * 16 * 10 + [1] * 200
    assert receive(pulse, 16) == ([], 0)
    assert receive(without_stop, 16) == ([], 0)


def test_the_transmitter_sends_ten_bits_a_byte_and_no_pause(simulate) -> None:
    cycles, data, unit, line = 9, b"\x00\xff\x5aU", UartTransmitter(9), []

    async def bench(ctx):
        left = list(data)
        for _ in range(cycles * 10 * len(data) + 30):
            ctx.set(unit.byte.valid, bool(left))
            ctx.set(unit.byte.payload, left[0] if left else 0)
            taken = left and ctx.get(unit.byte.ready)
            line.append(ctx.get(unit.line))
            await ctx.tick()
            if taken:
                left.pop(0)

    simulate(unit, bench)
    expected = line_levels(data, cycles)[20:]
    assert line[1 : 1 + cycles * 10 * len(data)] == expected[: cycles * 10 * len(data)]
    assert set(line[1 + cycles * 10 * len(data) :]) == {1}


def test_both_ends_understand_each_other(simulate) -> None:
    module = Module()
    module.submodules.transmitter = transmitter = UartTransmitter(8)
    module.submodules.receiver = receiver = UartReceiver(8)
    module.d.comb += [receiver.line.eq(transmitter.line), receiver.byte.ready.eq(1)]
    data, got = bytes(range(0, 256, 5)), []

    async def bench(ctx):
        left = list(data)
        while len(got) < len(data):
            ctx.set(transmitter.byte.valid, bool(left))
            ctx.set(transmitter.byte.payload, left[0] if left else 0)
            taken = left and ctx.get(transmitter.byte.ready)
            if ctx.get(receiver.byte.valid):
                got.append(ctx.get(receiver.byte.payload))
            await ctx.tick()
            if taken:
                left.pop(0)

    simulate(module, bench)
    assert bytes(got) == data


def test_rates_that_the_clock_does_not_give_are_refused() -> None:
    assert bit_cycles(50, 1_000_000) == 50
    assert bit_cycles(25, 115_200) == 217
    for clock, baud in ((50, 12_000_000), (50, 4_700_000)):
        with pytest.raises(ValueError, match=f"{clock} MHz gives no {baud} baud"):
            bit_cycles(clock, baud)
