"""Memories by the rule of `hardware.memories`, and by Yosys."""

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hardware.memories import memory_cells
from rtl.datapath import NO_COLLISIONS
from sim.synthesis import resources, synthesize


class Buffer(Component):
    """One memory as the machine has them: a write port with enables, a read port, two registers behind it."""

    def __init__(self, width: int, depth: int, part: int):
        self._shape = (width, depth, part)
        address = range(depth)
        super().__init__(
            {
                "enable": In(width // part),
                "write": In(address),
                "read": In(address),
                "data": In(width),
                "word": Out(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width, depth, part = self._shape
        m.submodules.memory = memory = Memory(shape=unsigned(width), depth=depth, init=[], attrs=NO_COLLISIONS)
        write, read = memory.write_port(granularity=part), memory.read_port()
        beside, word = (Signal(width, name=name, reset_less=True) for name in ("beside", "last"))
        m.d.comb += [
            write.en.eq(self.enable),
            write.addr.eq(self.write),
            write.data.eq(self.data),
            read.en.eq(1),
            read.addr.eq(self.read),
            self.word.eq(word),
        ]
        m.d.sync += [beside.eq(read.data), word.eq(beside)]
        return m


@pytest.mark.parametrize("shape", [(64, 32, 64), (64, 128, 4), (64, 256, 4)])
def test_yosys_makes_of_a_memory_what_the_rule_says(shape):
    text = verilog.convert(Buffer(*shape), name="buffer", emit_src=False, strip_internal_attrs=True)
    cells = synthesize(text, "buffer", "xc7z020")
    luts, blocks = memory_cells(*shape)
    assert resources(cells, "xc7z020").bram36 == blocks
    in_luts = 4 * (cells.get("RAM32M", 0) + cells.get("RAM64M", 0))
    rows = max(1, shape[1] // 64)
    assert in_luts == luts - (shape[0] * -(-(rows - 1) // 3) if luts else 0)
    assert cells.get("SRL16E", 0) == (shape[0] if luts else 0)
    assert resources(cells, "xc7z020").ff == (0 if luts else 2 * shape[0])
