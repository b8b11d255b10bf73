"""The two orders of tiles proved equal to plain loops; fetching and computing in them never block each other."""

from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from amaranth.hdl import Assert, Module, Mux, Signal
from amaranth.lib.wiring import Component, In

import rtl.order
from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.instruction import OPCODE_MATRIX, OPCODE_SUM
from hardware.layer import Layer
from hardware.passes import RAW_SUMS, Output
from hardware.schedule import schedule
from sim.properties import FreeInstruction, past
from sim.reach import reach
from sim.stand_ins import SETTLED, mutant_of

ACCELERATOR, DN = "bitserial-tiny", 2
LOOPS = {
    "matrix": (0, 1),
    "lhs_resident": (0, 1),
    "segment_0_tiles": (1, 2),
    "segment_1_tiles": (0, 1),
    "groups": (1, 3),
    "group_tiles": (1, 2),
    "last_group_tiles": (1, 2),
}
"""The loop nest: up to 3 row tiles of two widths, up to 3 groups of up to 2 column tiles."""


def loop_fields(free: FreeInstruction) -> dict:
    """What follows from them."""
    return {
        "opcode": Mux(free["matrix"], OPCODE_MATRIX, OPCODE_SUM),
        "row_tiles": free["segment_0_tiles"] + free["segment_1_tiles"],
        "segment_0_single": free["segment_0_tiles"] == 1,
        "segment_1_single": free["segment_1_tiles"] == 1,
    }


class Account:
    """Loop bounds of a free instruction, and where a walk through them stands."""

    def __init__(self, free: FreeInstruction, name: str):
        self.free = free
        self.group, self.row, self.tile = (Signal(3, name=f"{name}_{n}") for n in ("group", "row", "tile"))
        self.done = Signal(init=1, name=f"{name}_done")
        self.rows = free["segment_0_tiles"] + free["segment_1_tiles"]
        self.last_group = self.group == free["groups"] - 1
        self.tiles = Mux(self.last_group, free["last_group_tiles"], free["group_tiles"])
        self.rows_come = free["matrix"] & ((self.group == 0) | ~free["lhs_resident"])  # row tiles with this group
        self.last_row, self.last_tile = self.row == self.rows - 1, self.tile == self.tiles - 1

    def entries(self, row):
        """Of a row tile."""
        return Mux(row < self.free["segment_0_tiles"], self.free["segment_0_entries"], self.free["segment_1_entries"])


class OrderProof(Component):
    """An order, ``UNIT``, beside the ``ACCOUNT`` of it. Its tiles are taken at any time ``apart`` cycles or more apart,
    and behind a load; what it shows is right in every cycle."""

    UNIT: str
    ACCOUNT: type[Account]

    def __init__(self, module: ModuleType = rtl.order, apart: int = 2):
        self._unit, self._apart = getattr(module, self.UNIT)(load_accelerator(ACCELERATOR)), apart
        entries = {"segment_0_entries": (1, 4), "segment_1_entries": (1, 4), "last_columns": (1, DN)}
        self._free = FreeInstruction(LOOPS | entries, {"lhs_resident": 1}, SETTLED)
        super().__init__({name: In(bits) for name, bits in ({"take": 1} | self._free.ports()).items()})

    def check(self, m: Module, unit, free: FreeInstruction, account) -> None:
        """Assert that both say the same."""
        raise NotImplementedError

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        free, step = self._free, Signal()
        account = self.ACCOUNT(m, free, step)
        free.build(m, self, account.done, free["matrix"] | free["lhs_resident"], loop_fields(free))
        moved = past(m, step | free.start)
        m.d.comb += [
            step.eq(self.take & ~account.done & ~(moved & (self._apart == 2))),
            unit.instruction.eq(free.instruction),
            unit.load.eq(free.start),
            unit.step.eq(step),
        ]
        self.check(m, unit, free, account)
        return m


class FetchAccount(Account):
    """Walks the tiles in the order in which they are to be fetched; ``step`` takes the current one."""

    def __init__(self, m: Module, free: FreeInstruction, step, name: str = "fetch"):
        super().__init__(free, name)
        self.is_lhs = Signal(name=f"{name}_is_lhs")
        ends = Signal(name=f"{name}_group_ends")
        with m.If(step):
            with m.If(self.is_lhs & (self.row == 0)):
                m.d.sync += self.is_lhs.eq(0)
            with m.Elif(self.is_lhs & ~self.last_row):
                m.d.sync += self.row.eq(self.row + 1)
            with m.Elif(~self.is_lhs & ~self.last_tile):
                m.d.sync += self.tile.eq(self.tile + 1)
            with m.Elif(~self.is_lhs & self.rows_come & (self.rows > 1)):
                m.d.sync += [self.is_lhs.eq(1), self.row.eq(1)]
            with m.Else():
                m.d.comb += ends.eq(1)
        with m.If(ends):
            m.d.sync += [self.group.eq(self.group + 1), self.row.eq(0), self.tile.eq(0), self.done.eq(self.last_group)]
            m.d.sync += self.is_lhs.eq(free["matrix"] & ~free["lhs_resident"])
        with m.If(free.start):
            m.d.sync += [self.group.eq(0), self.row.eq(0), self.tile.eq(0), self.done.eq(0)]
            m.d.sync += self.is_lhs.eq(free["matrix"])


class FetchOrderProof(OrderProof):
    UNIT, ACCOUNT = "FetchOrder", FetchAccount

    def check(self, m: Module, unit, free: FreeInstruction, account: FetchAccount) -> None:
        m.d.comb += Assert(unit.done == account.done)
        with m.If(~account.done):
            m.d.comb += Assert(unit.is_lhs == account.is_lhs)
            with m.If(unit.is_lhs):
                m.d.comb += [
                    Assert(unit.lhs_entries == account.entries(account.row)),
                    Assert(unit.last_row_tile == account.last_row),
                ]
            with m.Else():
                last = account.last_group & account.last_tile
                m.d.comb += Assert(unit.columns == Mux(last, free["last_columns"], DN))


class TileAccount(Account):
    """Walks the output tiles in the order in which they are to be computed."""

    def __init__(self, m: Module, free: FreeInstruction, step, name: str = "tile"):
        super().__init__(free, name)
        self.last_row = self.last_row | ~free["matrix"]  # a vector pass has one tile for all its channels
        with m.If(step):
            m.d.sync += self.tile.eq(self.tile + 1)
            with m.If(self.last_tile):
                m.d.sync += [self.tile.eq(0), self.row.eq(self.row + 1)]
                with m.If(self.last_row):
                    m.d.sync += [self.row.eq(0), self.group.eq(self.group + 1), self.done.eq(self.last_group)]
        with m.If(free.start):
            m.d.sync += [self.group.eq(0), self.row.eq(0), self.tile.eq(0), self.done.eq(0)]


class TileOrderProof(OrderProof):
    UNIT, ACCOUNT = "TileOrder", TileAccount

    def check(self, m: Module, unit, free: FreeInstruction, account: TileAccount) -> None:
        last_tile = account.last_group & account.last_tile
        with m.If(~account.done):
            m.d.comb += [
                Assert(unit.first_row_tile == (account.row == 0)),
                Assert(unit.last_row_tile == account.last_row),
                Assert(unit.first_in_group == (account.tile == 0)),
                Assert(unit.last_in_group == account.last_tile),
                Assert(unit.last == (account.last_row & last_tile)),
                Assert(unit.columns == Mux(last_tile, free["last_columns"], DN)),
            ]
            with m.If(free["matrix"]):
                m.d.comb += [
                    Assert(unit.first_group == (account.group == 0)),
                    Assert(unit.entries == account.entries(account.row)),
                ]


PROOFS = {
    "fetch order": lambda module=rtl.order: FetchOrderProof(module),
    "tile order": lambda module=rtl.order: TileOrderProof(module),
}


@pytest.mark.parametrize("name", PROOFS)
def test_the_order_is_that_of_plain_loops_for_ever(tmp_path: Path, name: str) -> None:
    assert "proved by PDR" in reach(PROOFS[name](), tmp_path)


MUTANTS = {  # which proof, text of rtl/order.py, what it becomes
    "column tile left out": ("fetch order", "left.eq(left - 1), self.last.eq(left == 2)", "self.last.eq(1)"),
    "resident rows fetched again": ("fetch order", "(rows_follow | ~resident))", "(rows_follow | 1))"),
    "resident rows fetched with every group": ("fetch order", "(groups.first_group | ~resident)", "1"),
    "row tile 0 behind the last": (
        "fetch order",
        "group_ends.eq(Mux(self.is_lhs, ~rows.first & rows.last",
        "group_ends.eq(Mux(self.is_lhs, rows.last",
    ),
    "decided a tile too late": (
        "tile order",
        "restarts.eq(groups.last & self.last_row_tile)",
        "restarts.eq(row_follows & self.last_row_tile)",
    ),
    "segment behind not looked up": (
        "tile order",
        "m.d.sync += ahead.eq(table[following])",
        "m.d.sync += ahead.eq(table[0])",
    ),
    "last group as large as the others": ("tile order", "*begin(next_is_last)", "*begin(0)"),
    "width of the row tile before": ("tile order", "with m.If(~last):", "with m.If(1):"),
}
QUICK = ("resident rows fetched again",)


@pytest.mark.parametrize(
    "mutant", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MUTANTS]
)
def test_the_proof_fails_for_a_wrong_order(tmp_path: Path, mutant: str) -> None:
    proof, text, wrong = MUTANTS[mutant]
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(PROOFS[proof](mutant_of(rtl.order, text, wrong)), tmp_path)


def test_the_column_tiles_of_a_group_are_fetched_but_once(tmp_path: Path) -> None:
    # Whatever `Groups` does where a group's first column tile comes again, the order of fetching is the same.
    again = "m.d.sync += [left.eq(size), self.last.eq(single), self.first.eq(1)]"
    wrong = mutant_of(rtl.order, again, "m.d.sync += [left.eq(~size), self.last.eq(~single), self.first.eq(0)]")
    assert "proved by PDR" in reach(PROOFS["fetch order"](wrong), tmp_path / "fetch")
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(PROOFS["tile order"](wrong), tmp_path / "tile")


@pytest.mark.parametrize("unit", [FetchOrderProof, TileOrderProof])
def test_steps_in_consecutive_cycles_would_be_wrong(tmp_path: Path, unit: type[OrderProof]) -> None:
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(unit(apart=1), tmp_path)


def fetches(rows: list[int], groups: list[int], resident: bool):
    """(side, entries) of the tiles in the order in which they are fetched; column tiles have 0 here."""
    for number, tiles in enumerate(groups):
        come = [("lhs", entries) for entries in rows] if number == 0 or not resident else []
        yield from (*come[:1], *[("rhs", 0)] * tiles, *come[1:])


def computations(rows: list[int], groups: list[int], resident: bool):
    """What an output tile needs that none before it needed, and what is free after it: (lhs, rhs), (entries, rhs)."""
    for number, tiles in enumerate(groups):
        for row, entries in enumerate(rows):
            for tile in range(tiles):
                needs = tile == 0 and (number == 0 or not resident), row == 0
                yield needs, (entries if tile == tiles - 1 and not resident else 0, row == len(rows) - 1)


def stuck(rows: list[int], groups: list[int], resident: bool, size: int, rings: tuple[int, int], every: bool) -> bool:
    """Whether some interleaving of fetching and computing comes to a point where neither can go on.

    ``size``: entries of a column tile. ``every``: look at every interleaving, not only at one. (One shows as much:
    nothing that fetch does keeps execute from what it could do, nor the other way round.)
    """
    order, work = list(fetches(rows, groups, resident)), list(computations(rows, groups, resident))
    order = [(side, entries or size) for side, entries in order]
    sides = ("lhs", "rhs")
    taken = [dict(zip(sides, (0, 0), strict=True))]
    came = [dict(zip(sides, (0, 0), strict=True))]
    for side, entries in order:
        taken.append(taken[-1] | {side: taken[-1][side] + entries})
        came.append(came[-1] | {side: came[-1][side] + 1})
    needed, freed = [(0, 0)], [(0, 0)]
    for (lhs, rhs), (entries, column) in work:
        needed.append((needed[-1][0] + lhs, needed[-1][1] + rhs))
        freed.append((freed[-1][0] + entries, freed[-1][1] + column * size))
    seen, waiting = set(), [(0, 0)]
    while waiting:
        fetched, computed = state = waiting.pop()
        if state in seen:
            continue
        seen.add(state)
        assert all(taken[fetched][side] - freed[computed][i] <= rings[i] for i, side in enumerate(sides))
        following = []
        if fetched < len(order):
            after = taken[fetched + 1]
            if all(after[side] - freed[computed][i] <= rings[i] for i, side in enumerate(sides)):
                following.append((fetched + 1, computed))
        if computed < len(work) and all(needed[computed + 1][i] <= came[fetched][side] for i, side in enumerate(sides)):
            following.append((fetched, computed + 1))
        if not following and computed < len(work):
            return True
        waiting += following if every else following[:1]
    return False


def legal(rows: list[int], groups: list[int], resident: bool, size: int, ring: int) -> bool:
    """What `hardware.schedule` promises of every pass."""
    return max(*rows, size) <= ring and max(groups) * size <= ring and (not resident or sum(rows) <= ring)


def every_small_pass(ring: int):
    sizes = range(1, ring + 1)
    for first, second, groups, tiles in product((1, 2), (0, 1), (1, 2, 3), (1, 2, 3)):
        for entries, other, size, resident in product(sizes, sizes if second else (1,), sizes, (False, True)):
            for last in range(1, tiles + 1):
                yield [entries] * first + [other] * second, [tiles] * (groups - 1) + [last], resident, size


def test_no_small_pass_can_block_itself_whatever_the_interleaving() -> None:
    ring, passes = 5, 0
    for work in every_small_pass(ring):
        if legal(*work, ring):
            assert not stuck(*work, (ring, ring), every=True), work
            passes += 1
    assert passes > 1000


def test_a_pass_that_breaks_a_promise_of_the_schedule_can_block_itself() -> None:
    assert stuck([1, 1], [3], False, 2, (4, 4), every=True)  # a group of three tiles of 2 entries in a ring of 4
    assert not stuck([1], [3], False, 2, (4, 4), every=True)  # which does no harm with a single row tile
    assert stuck([5], [1], False, 1, (4, 4), every=True)
    assert stuck([3, 3], [1, 1], True, 1, (4, 4), every=True)  # resident rows that do not fit together


def test_no_pass_that_is_scheduled_can_block_itself(machine) -> None:
    rng, passes = np.random.default_rng(5), 0
    for _ in range(150):
        lhs, rhs = (int(2 ** rng.integers(4, 9)) for _ in range(2))
        accelerator = machine(lhs_entries=lhs, rhs_entries=rhs, dm=4, dn=int(rng.integers(1, 7)))
        size, kernel = int(rng.integers(3, 9)), int(rng.integers(1, 4))
        channels = int(rng.integers(1, 200)), int(rng.integers(1, 40))
        layer = Layer("c", "conv", *channels, size, size, kernel=(kernel, kernel))
        output = (RAW_SUMS, Output(values=True), Output(plane_bits=3))[int(rng.integers(3))]
        try:
            plan = schedule(layer, int(rng.integers(1, 9)), int(rng.integers(1, 9)), accelerator, output=output)
        except InputError:  # one tile is larger than the ring
            continue
        for work in plan.passes:
            rows = [work.lhs_tile_entries(bits) for bits, tiles in work.segments for _ in range(tiles)]
            groups = [work.group_tiles] * (work.groups - 1)
            groups.append(work.column_tiles - sum(groups))
            entries = work.rhs_tile_entries
            passes += 1
            assert not stuck(rows, groups, work.lhs_resident, entries, (lhs, rhs), every=False), work
            assert max(rows) <= lhs
            assert max(groups) * entries <= rhs
            assert not work.lhs_resident or sum(rows) <= lhs
    assert passes > 60
