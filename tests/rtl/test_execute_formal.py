"""Tokens and result registers proved for ever of execute; it does not wait when it has all that a tile needs.

For the stand-ins see `sim.stand_ins`.
"""

from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In

import rtl.execute
from hardware.instruction import OPCODE_MATRIX, OPCODE_SUM
from sim.properties import FreeInstruction, faulty, past, within
from sim.reach import reach
from sim.stand_ins import PATIENCE, RING, SETTLED, mutant_of, with_any_order, with_small_rings

TILE = data.StructLayout(
    {"lhs": 1, "rhs": 1, "lhs_ends": 1, "rhs_ends": 1, "last": 1, "entries": 3, "columns": 3, "steps": 4}
)
"""An output tile in a proof: whether it is the first to need its row tile or column tile, and the last; the pass's
last; its row tile's entries, its columns, its steps."""


class ExecuteProof(Component):
    """Parts of tiles arrive at any time, result frees its registers at any time after they were filled.

    Tiles are needed in any order (`AnyOrder`). ``queue`` holds the tiles that the order has shown and that are not
    done, ``tokens`` counts the parts that have arrived for tiles that have not begun.
    """

    def __init__(self, accelerator, module: ModuleType = rtl.execute):
        self._accelerator, dn = accelerator, accelerator.array.dn
        module, self._order = with_any_order(
            module,
            "TileOrder",
            accelerator,
            lambda o: (
                (o.columns >= 1)
                & (o.columns <= dn)
                & (o.bits <= 2)
                & (o.entries <= RING)
                & (
                    (o.bits == 0)
                    | (o.entries >= (2 if accelerator.traits.packed else 0))  # weights, and maybe constants
                )
            ),
        )
        self._unit = module.Execute(accelerator)
        fields = dict.fromkeys(("matrix", "lhs_resident", "write_sums"), (0, 1))
        fields |= dict.fromkeys(("chunks", "row_tiles", "taps"), (1, 2))
        # Of packed operands: half of their bits.
        halves = ("activation_half", "weight_half") if accelerator.traits.packed else ("activation_bits",)
        fields |= dict.fromkeys(halves, (1, 2))
        self._free = FreeInstruction(fields, {"lhs_resident": 1}, SETTLED)
        ports = accelerator.memory.ports
        free = {"lhs_ready": ports, "rhs_ready": ports, "result_free": 1, "next_tile": len(self._order.next)}
        super().__init__({name: In(bits) for name, bits in (free | self._free.ports()).items()})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        free, order, ports = self._free, self._order, self._accelerator.memory.ports
        matrix, left = free["matrix"], Signal()  # the pass is not at its end
        fields = {"opcode": Mux(matrix, OPCODE_MATRIX, OPCODE_SUM), "rhs_tile_entries": 2, "pixel_words": 1}
        if self._accelerator.traits.packed:
            fields |= {"activation_bits": free["activation_half"] << 1, "segment_0_bits": free["weight_half"] << 1}
        free.build(m, self, ~unit.busy & ~left, matrix | free["lhs_resident"], fields)
        m.d.comb += [
            order.next.eq(self.next_tile),
            unit.instruction.eq(free.instruction),
            unit.start.eq(free.start),
            unit.lhs_ready.eq(self.lhs_ready),
            unit.rhs_ready.eq(self.rhs_ready),
            unit.result_free.eq(self.result_free),
        ]

        # The tiles: what the order shows goes to the queue's end, what has had its last step leaves its head.
        shown, head, queue, level = (
            Signal(TILE),
            Signal(TILE),
            [Signal(TILE, name=f"tile_{i}") for i in range(3)],
            Signal(2),
        )
        if self._accelerator.traits.packed:
            of_weights = order.entries - ~free["write_sums"] << (free["activation_half"] == 2)
            of_activations = free["chunks"] << (free["weight_half"] == 2)
            products = Mux(of_weights < of_activations, of_weights, of_activations)
        else:
            planes = (free["activation_bits"] == 2) & (self._accelerator.planes == 1)  # else one step takes both
            products = order.bits << planes << (free["chunks"] == 2)
        constants = ~free["write_sums"] & order.first_in_group
        m.d.comb += [
            head.eq(queue[0]),
            shown.lhs.eq(matrix & order.first_in_group & (order.first_group | ~free["lhs_resident"])),
            shown.rhs.eq(order.first_row_tile),
            shown.lhs_ends.eq(matrix & order.last_in_group & ~free["lhs_resident"]),
            shown.rhs_ends.eq(order.last_row_tile),
            shown.last.eq(order.last),
            shown.entries.eq(order.entries),
            shown.columns.eq(order.columns),
            shown.steps.eq(Mux(order.bits == 0, 1, products + constants)),
        ]
        push, step, sums, ends = past(m, order.load | (order.step & ~order.last)), Signal(), Signal(), Signal()
        steps, column, channels = Signal(4), Signal(3), Signal(2)  # of the current tile, or of its current channels
        whole = (column == head.columns - 1) & (channels == free["row_tiles"] - 1)
        m.d.comb += [
            step.eq(unit.step_valid | unit.vector_valid),
            sums.eq(Mux(matrix, unit.step_valid & unit.step.last, unit.vector_valid & unit.vector_step.done)),
            ends.eq(sums & (matrix | whole)),
            Assert(~(unit.step_valid & ~matrix) & ~(unit.vector_valid & matrix)),
            Assert(~step | (left & (level != 0))),
            Assert(~step | (sums == (steps == Mux(matrix, head.steps, free["taps"]) - 1))),
        ]
        m.d.sync += level.eq(level + push - ends)
        for i, tile in enumerate(queue):
            with m.If(push & (level == i + ends)):
                m.d.sync += tile.eq(shown)
            with m.Elif(ends):
                m.d.sync += tile.eq(queue[min(i + 1, 2)])
        with m.If(step):
            m.d.sync += steps.eq(Mux(sums, 0, steps + 1))
        with m.If(sums & ~matrix):
            m.d.sync += channels.eq(Mux(channels == free["row_tiles"] - 1, 0, channels + 1))
            with m.If(channels == free["row_tiles"] - 1):
                m.d.sync += column.eq(Mux(column == head.columns - 1, 0, column + 1))
        with m.If(free.start | (ends & head.last)):
            m.d.sync += left.eq(free.start)

        # A tile's first step takes its tokens.
        begun, there = Signal(), []
        with m.If(step):
            m.d.sync += begun.eq(~ends)
        for side, strobes, needed in (("lhs", self.lhs_ready, head.lhs), ("rhs", self.rhs_ready, head.rhs)):
            for port in range(ports):
                tokens = Signal(range(RING + 2), name=f"{side}_tokens_{port}")
                m.d.sync += tokens.eq(tokens + strobes[port] - (step & ~begun & needed))
                m.d.comb += Assume(~strobes[port] | (tokens < RING))  # a ring holds no more
                m.d.comb += Assert(~(step & ~begun & needed) | (tokens != 0))  # no tile before all of it has come
                there.append(~needed | (tokens != 0))

        # Row and column tiles are given back once, after the last step that reads them.
        for side, ending, strobe in (("lhs", head.lhs_ends, unit.lhs_free), ("rhs", head.rhs_ends, unit.rhs_free)):
            owed, entries = Signal(2, name=f"{side}_owed"), Signal(3, name=f"{side}_entries")
            now = ends & ending
            m.d.sync += owed.eq(owed + now - strobe)
            with m.If(now):
                m.d.sync += entries.eq(head.entries)
            m.d.comb += Assert(~strobe | now | (owed != 0))
            if side == "lhs":
                m.d.comb += Assert(~strobe | (unit.lhs_free_entries == Mux(owed != 0, entries, head.entries)))
            within(m, 2, (owed != 0) & ~strobe)

        # The result registers: filled only when they are free.
        vacant = Signal(init=1)
        with m.If(sums):
            m.d.sync += vacant.eq(0)
        with m.If(self.result_free):
            m.d.sync += vacant.eq(1)
        m.d.comb += [Assume(~self.result_free | ~vacant), Assert(~sums | vacant)]

        waits = (~begun & ~Cat(there).all()) | ~vacant
        within(m, PATIENCE, left & (level != 0) & ~waits & ~step)  # who has all that the tile needs goes on
        m.d.comb += Assert(unit.busy | ~left | (ends & head.last))  # to the cycle of its last step
        within(m, PATIENCE, unit.busy & ~left & ~free.start)
        return m


def small(machine, dn: int, ports: int, kind: str = "bit_serial"):
    return with_small_rings(machine(kind=kind, dm=max(2, ports), dn=dn, ports=ports))


PROOFS = {
    "execute": lambda machine, module=rtl.execute: ExecuteProof(small(machine, 2, 1), module),
    "execute with two ports": lambda machine: ExecuteProof(small(machine, 2, 2)),
    "execute, planes side by side": lambda machine: ExecuteProof(small(machine, 2, 1, "serial_weight")),
    "execute, packed values": lambda machine: ExecuteProof(small(machine, 2, 1, "bit_fusion")),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in PROOFS])
def test_the_account_of_execute_holds_for_ever(tmp_path: Path, machine, name: str) -> None:
    assert "proved by PDR" in reach(PROOFS[name](machine), tmp_path)


FAULTS = {  # which proof, what its unit gets instead
    "tile ready without its parts": ("execute", lambda unit: unit.rhs_ready.eq(~0)),
    "ready strobe dropped": ("execute", lambda unit: unit.lhs_ready.eq(0)),
    "registers filled while full": ("execute", lambda unit: unit.result_free.eq(1)),
    "registers never free again": ("execute", lambda unit: unit.result_free.eq(0)),
}
QUICK = ("tile ready without its parts",)


@pytest.mark.parametrize("fault", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FAULTS])
def test_the_proof_of_execute_fails_for_a_unit_with_a_fault(tmp_path: Path, machine, fault: str) -> None:
    proof, wrong = FAULTS[fault]
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(faulty(PROOFS[proof](machine), wrong), tmp_path)


MUTANTS = {  # which proof, text of rtl/execute.py, what it becomes
    "taken before it is counted": ("execute", "dispatched | counted", "dispatched"),
    "taken while its parts are missing": ("execute", "~Cat(missing).any()", "~Cat(missing).all()"),
}


@pytest.mark.slow  # some seconds each
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_proof_fails_for_a_wrong_execute_stage(tmp_path: Path, machine, mutant: str) -> None:
    proof, text, wrong = MUTANTS[mutant]
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(PROOFS[proof](machine, mutant_of(rtl.execute, text, wrong)), tmp_path)
