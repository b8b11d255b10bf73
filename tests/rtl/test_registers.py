"""The register file on AXI4-Lite against a plain table of bits, whatever order and pace the master chooses."""

import numpy as np
import pytest

from hardware.registers import ADDRESS_BITS, FORMAT, MAGIC, REGISTERS, Access
from rtl.registers import RegisterFile

OKAY, SLVERR = 0, 2
FIELDS = [(register, field) for register in REGISTERS for field in register.fields]
PLACES = [register.offset + 4 * place for register in REGISTERS for place in range(register.places)]
HOLES = [*sorted(set(range(0, 0x100, 4)) - set(PLACES)), (1 << ADDRESS_BITS) - 4]


def of(access: Access):
    return [(register, field, register.port(field)) for register, field in FIELDS if field.access is access]


class Master:
    """Reads and writes, one at a time, hesitating on every channel; checks that answers stay until they are taken."""

    def __init__(self, file, hesitation: float = 0.0, seed: int = 0):
        self.file, self.axi, self.hesitation = file, file.axi, hesitation
        self.rng = np.random.default_rng(seed)
        self.strobes: dict[str, int] = {}
        """Cycles in which each strobe port was one since it was last cleared."""

    def hesitates(self) -> bool:
        return self.rng.random() < self.hesitation

    async def tick(self, ctx) -> None:
        for _, _, name in of(Access.STROBE):
            self.strobes[name] = self.strobes.get(name, 0) + ctx.get(getattr(self.file, name))
        await ctx.tick()

    async def send(self, ctx, channels: dict[str, dict[str, int]]) -> None:
        """Offer every channel's payload, each from its own cycle on, until all are taken."""
        offered = set()
        while channels:
            for channel, payload in channels.items():
                if channel not in offered and not self.hesitates():
                    offered.add(channel)
                    ctx.set(getattr(self.axi, f"{channel}valid"), 1)
                    for name, value in payload.items():
                        ctx.set(getattr(self.axi, channel + name), value)
            taken = [c for c in offered if c in channels and ctx.get(getattr(self.axi, f"{c}ready"))]
            await self.tick(ctx)
            for channel in taken:
                del channels[channel]
                ctx.set(getattr(self.axi, f"{channel}valid"), 0)
                for name in ("addr", "data", "strb"):  # nothing to rely on after the handshake
                    if hasattr(self.axi, channel + name):
                        ctx.set(getattr(self.axi, channel + name), int(self.rng.integers(16)))

    async def answer(self, ctx, channel: str, names: tuple[str, ...]) -> tuple[int, ...]:
        before = None
        for _ in range(100):
            ready = not self.hesitates()
            ctx.set(getattr(self.axi, f"{channel}ready"), ready)
            valid = ctx.get(getattr(self.axi, f"{channel}valid"))
            values = tuple(ctx.get(getattr(self.axi, channel + name)) for name in names)
            assert before is None or (valid and values == before), "an answer changed while it waited"
            before = values if valid else None
            await self.tick(ctx)
            ctx.set(getattr(self.axi, f"{channel}ready"), 0)
            if valid and ready:
                return values
        raise AssertionError(f"no answer on {channel}")

    async def read(self, ctx, address: int) -> tuple[int, int]:
        """Data and response."""
        await self.send(ctx, {"ar": {"addr": address}})
        return await self.answer(ctx, "r", ("data", "resp"))

    async def write(self, ctx, address: int, value: int, strobe: int = 0xF) -> int:
        """Response."""
        await self.send(ctx, {"aw": {"addr": address}, "w": {"data": value, "strb": strobe}})
        return (await self.answer(ctx, "b", ("resp",)))[0]


def run(simulate, body, hesitation: float = 0.0) -> None:
    file = RegisterFile()
    master = Master(file, hesitation)

    async def testbench(ctx):
        await body(ctx, file, master)

    simulate(file, testbench)


def test_constants_and_reset_values(simulate):
    async def body(ctx, file, master):
        assert await master.read(ctx, 0x00) == (MAGIC, OKAY)
        assert await master.read(ctx, 0x04) == (FORMAT, OKAY)
        for register, field, name in of(Access.READ_WRITE):
            assert ctx.get(getattr(file, name)) == field.reset
            value, response = await master.read(ctx, register.offset)
            assert (value & field.mask, response) == (field.reset << field.low, OKAY)

    run(simulate, body)


@pytest.mark.parametrize("hesitation", [0.0, 0.7])
def test_inputs_are_read_where_the_map_says(simulate, hesitation):
    rng = np.random.default_rng(1)

    async def body(ctx, file, master):
        values = {}
        for register, field, name in of(Access.READ):
            value = int.from_bytes(rng.bytes(8), "little") % (1 << field.bits)
            ctx.set(getattr(file, name), value)
            values[register.offset] = values.get(register.offset, 0) | value << field.low
        for offset, value in values.items():
            register = next(r for r in REGISTERS if r.offset == offset)
            data, response = await master.read(ctx, offset)
            assert (data, response) == (value & 0xFFFF_FFFF, OKAY)
            if register.places > 1:
                assert await master.read(ctx, offset + 4) == (value >> 32, OKAY)

    run(simulate, body, hesitation)


def test_both_halves_of_a_counter_are_of_one_moment(simulate):
    async def body(ctx, file, master):
        offset = next(register.offset for register in REGISTERS if register.name == "cycles")
        ctx.set(file.cycles, 0x1234_FFFF_FFFF)
        assert await master.read(ctx, offset) == (0xFFFF_FFFF, OKAY)
        ctx.set(file.cycles, 0x1235_0000_0000)
        assert await master.read(ctx, offset + 4) == (0x1234, OKAY)

    run(simulate, body)


@pytest.mark.parametrize("hesitation", [0.0, 0.7])
def test_written_bytes_are_held_and_the_others_stay(simulate, hesitation):
    rng = np.random.default_rng(2)

    async def body(ctx, file, master):
        held = {name: field.reset for _, field, name in of(Access.READ_WRITE)}
        for _ in range(60):
            register, field, name = of(Access.READ_WRITE)[rng.integers(len(held))]
            value, strobe = int(rng.integers(1 << 32)), int(rng.integers(16))
            assert await master.write(ctx, register.offset, value, strobe) == OKAY
            mask = sum(0xFF << (8 * i) for i in range(4) if strobe >> i & 1)
            whole = held[name] << field.low
            held[name] = ((whole & ~mask | value & mask) & field.mask) >> field.low
            for _, _, other in of(Access.READ_WRITE):
                assert ctx.get(getattr(file, other)) == held[other]
            data, _ = await master.read(ctx, register.offset)
            assert (data & field.mask) >> field.low == held[name]

    run(simulate, body, hesitation)


@pytest.mark.parametrize("hesitation", [0.0, 0.7])
def test_a_written_one_strobes_for_one_cycle(simulate, hesitation):
    async def body(ctx, file, master):
        for register, field, name in of(Access.STROBE):
            for value, strobe, cycles in (
                (field.mask, 0xF, 1),
                (0, 0xF, 0),
                (field.mask, 0b1110, 0),
                (field.mask, 1, 1),
            ):
                master.strobes.clear()
                assert await master.write(ctx, register.offset, value, strobe) == OKAY
                await master.tick(ctx)
                expected = {other: cycles if other == name else 0 for _, _, other in of(Access.STROBE)}
                assert master.strobes == expected
                assert (await master.read(ctx, register.offset))[0] & field.mask == 0

    run(simulate, body, hesitation)


def test_events_stay_until_cleared_and_raise_the_interrupt(simulate):
    async def body(ctx, file, master):
        for register, field, name in of(Access.EVENT):
            assert not ctx.get(file.interrupt)
            ctx.set(getattr(file, f"{name}_set"), 1)
            await master.tick(ctx)
            ctx.set(getattr(file, f"{name}_set"), 0)
            assert not ctx.get(file.interrupt)  # not enabled
            await master.write(ctx, 0x10, 1 << 8)
            assert ctx.get(file.interrupt)
            everything_else = 0xFFFF_FFFF ^ field.mask
            assert await master.write(ctx, register.offset, everything_else) == OKAY
            data, _ = await master.read(ctx, register.offset)
            assert data & field.mask
            assert data >> 3 & 1  # interrupt pending
            assert await master.write(ctx, register.offset, field.mask) == OKAY
            assert not ctx.get(file.interrupt)
            assert not (await master.read(ctx, register.offset))[0] & (field.mask | 1 << 3)
            await master.send(ctx, {"aw": {"addr": register.offset}, "w": {"data": field.mask, "strb": 0xF}})
            ctx.set(getattr(file, f"{name}_set"), 1)  # set in the cycle that clears: the event is not lost
            await master.tick(ctx)
            ctx.set(getattr(file, f"{name}_set"), 0)
            await master.answer(ctx, "b", ("resp",))
            assert (await master.read(ctx, register.offset))[0] & field.mask
            await master.write(ctx, register.offset, field.mask)
            await master.write(ctx, 0x10, 0)

    run(simulate, body)


@pytest.mark.parametrize("hesitation", [0.0, 0.7])
def test_what_is_not_there_and_what_cannot_be_written_gets_slverr(simulate, hesitation):
    async def body(ctx, file, master):
        read_only = [r.offset + 4 * p for r in REGISTERS for p in range(r.places) if not r.writable]
        for address in HOLES + read_only:
            assert await master.write(ctx, address, 0xFFFF_FFFF) == SLVERR
        for address in HOLES:
            await master.read(ctx, 0x00)  # nothing of it may be left
            assert await master.read(ctx, address) == (0, SLVERR)
        assert not any(master.strobes.values())
        for _, field, name in of(Access.READ_WRITE):
            assert ctx.get(getattr(file, name)) == field.reset

    run(simulate, body, hesitation)


@pytest.mark.parametrize("hesitation", [0.0, 0.5, 0.9])
def test_writes_that_overtake_their_answers_are_done_in_order(simulate, hesitation):
    rng = np.random.default_rng(3)
    offsets = [register.offset for register, _, _ in of(Access.READ_WRITE) if len(register.fields) == 1]
    writes = [(int(rng.choice([*offsets, HOLES[0]])), int(rng.integers(1 << 32))) for _ in range(60)]

    async def body(ctx, file, master):
        axi, sent, answers = file.axi, {"aw": 0, "w": 0}, []
        for _ in range(4000):
            for channel, signal in (("aw", axi.awaddr), ("w", axi.wdata)):
                wanted = ctx.get(getattr(axi, f"{channel}valid")) or not master.hesitates()
                ctx.set(getattr(axi, f"{channel}valid"), wanted and sent[channel] < len(writes))
                if sent[channel] < len(writes):
                    ctx.set(signal, writes[sent[channel]][channel == "w"])
            ctx.set(axi.wstrb, 0xF)
            ctx.set(axi.bready, not master.hesitates())
            if ctx.get(axi.bvalid) and ctx.get(axi.bready):
                answers.append(ctx.get(axi.bresp))
            taken = [c for c in sent if ctx.get(getattr(axi, f"{c}valid")) and ctx.get(getattr(axi, f"{c}ready"))]
            await master.tick(ctx)
            for channel in taken:
                sent[channel] += 1
                ctx.set(getattr(axi, f"{channel}valid"), 0)
        assert answers == [SLVERR if address in HOLES else OKAY for address, _ in writes]
        last = dict(writes)
        for register, field, name in of(Access.READ_WRITE):
            if register.offset in last:
                assert ctx.get(getattr(file, name)) == (last[register.offset] & field.mask) >> field.low

    run(simulate, body, hesitation)


def test_a_read_takes_three_cycles_and_a_write_two(simulate):
    async def body(ctx, file, master):
        axi, reads, writes = file.axi, [], []
        for signal, value in ((axi.arvalid, 1), (axi.rready, 1), (axi.awvalid, 1), (axi.wvalid, 1), (axi.bready, 1)):
            ctx.set(signal, value)
        for cycle in range(40):
            if ctx.get(axi.rvalid):
                reads.append(cycle)
            if ctx.get(axi.bvalid):
                writes.append(cycle)
            await ctx.tick()
        assert reads == list(range(2, 40, 3))  # the first address is taken in cycle 0
        assert writes == list(range(2, 40, 2))

    run(simulate, body)


def test_a_strobe_comes_with_the_response_and_values_are_there(simulate):
    async def body(ctx, file, master):
        axi = file.axi
        for register, field, name in of(Access.STROBE):
            ctx.set(axi.awaddr, register.offset)
            for signal, value in ((axi.wdata, field.mask | 1 << 8), (axi.wstrb, 3), (axi.awvalid, 1), (axi.wvalid, 1)):
                ctx.set(signal, value)
            strobes = []
            for cycle in range(6):
                strobes.append((ctx.get(getattr(file, name)), ctx.get(axi.bvalid)))
                ctx.set(axi.bready, cycle == 5)
                await ctx.tick()
                ctx.set(axi.awvalid, 0)
                ctx.set(axi.wvalid, 0)
            ones = field.mask >> field.low
            assert strobes == [(0, 0), (0, 0), (ones, 1), (0, 1), (0, 1), (0, 1)]

    run(simulate, body)
