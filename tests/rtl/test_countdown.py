"""The countdown against a plain counter."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import Component, In

from rtl.countdown import Countdown

BITS = 4


class Rounds(Component):
    """A countdown between ports."""

    begin: In(1)
    step: In(1)
    rounds: In(BITS)

    def __init__(self):
        self.countdown = Countdown("rounds", BITS)
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        cycles = Signal(8)  # a clock domain needs a register even where nothing is counted
        m.d.sync += cycles.eq(cycles + 1)
        with m.If(self.begin):
            m.d.sync += self.countdown.begin(self.rounds)
        with m.Elif(self.step):
            m.d.sync += self.countdown.step()
        return m


@pytest.mark.parametrize("pause", [0, 2])
def test_the_last_round_is_announced_when_it_begins(simulate, pause):
    dut = Rounds()

    async def testbench(ctx):
        for rounds in (1, 2, 3, 7, (1 << BITS) - 1, 1, 5):  # each begins in the last round of the one before
            ctx.set(dut.rounds, rounds)
            ctx.set(dut.begin, 1)
            await ctx.tick()
            ctx.set(dut.begin, 0)
            ctx.set(dut.rounds, 0)
            for number in range(rounds):
                for waited in range(pause + 1):
                    assert ctx.get(dut.countdown.last) == (number == rounds - 1)
                    assert ctx.get(dut.countdown.left) == rounds - number
                    ctx.set(dut.step, waited == pause and number < rounds - 1)
                    if number < rounds - 1 or waited < pause:
                        await ctx.tick()
                ctx.set(dut.step, 0)

    simulate(dut, testbench)


def test_a_new_count_may_begin_at_any_time(simulate):
    dut = Rounds()

    async def testbench(ctx):
        for rounds, steps in ((5, 2), (3, 0), (1, 0), (4, 3)):
            ctx.set(dut.rounds, rounds)
            ctx.set(dut.begin, 1)
            await ctx.tick()
            ctx.set(dut.begin, 0)
            ctx.set(dut.step, 1)
            for _ in range(steps):
                await ctx.tick()
            ctx.set(dut.step, 0)
            assert ctx.get(dut.countdown.last) == (rounds - steps == 1)

    simulate(dut, testbench)
