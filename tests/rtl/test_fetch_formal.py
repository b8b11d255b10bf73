"""Room in the rings and tiles on their way proved for ever of fetch; no unit waits when it has all that it needs.

For the stand-ins see `sim.stand_ins`.
"""

from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In

import rtl.fetch
from hardware.timing import WALK_LATENCY, WORD_TO_READY
from sim.properties import FreeInstruction, faulty, past, stable_while_stalled, within
from sim.reach import reach
from sim.stand_ins import PATIENCE, RING, SETTLED, mutant_of, with_any_order, with_small_rings

KNOWN_TILES = 3
"""Tiles that the writer knows ahead, the current one included."""
FETCHED = data.StructLayout({"is_lhs": 1, "entries": 3, "columns": 3})
"""A tile that a port fetches: its entries, and the columns that are the port's."""


class FetchProof(Component):
    """A unit of a port, ``UNIT``, whose tiles come in any order (`AnyOrder`) and have entries, but no more than a ring.

    ``FIELDS`` of its instruction are free, so are ``INPUTS``.
    """

    UNIT: str
    FIELDS: dict[str, tuple[int, int]]
    INPUTS: dict[str, int]

    def __init__(self, accelerator, port: int, module: ModuleType = rtl.fetch):
        self._accelerator, self._port, dn = accelerator, port, accelerator.array.dn
        module, self._order = with_any_order(
            module,
            "FetchOrder",
            lambda o: (o.lhs_entries >= 1) & (o.lhs_entries <= RING) & (o.columns >= 1) & (o.columns <= dn),
        )
        self._unit = getattr(module, self.UNIT)(accelerator, port)
        self._free = FreeInstruction(self.FIELDS, settled=SETTLED)
        free = self.INPUTS | self._free.ports() | {"next_tile": len(self._order.next)}
        super().__init__({name: In(bits) for name, bits in free.items()})


class RequesterProof(FetchProof):
    """The memory may refuse as it likes; entries of tiles that were wholly asked for are freed at any time.

    A tile takes its entries when it is begun, which is when its first request is offered; ``used`` counts the entries
    of the tiles begun and not freed.
    """

    UNIT = "Requester"
    FIELDS = {"rhs_tile_entries": (1, RING), "kernel_rows": (1, 2), "row_runs": (1, 2), "run_words": (1, 2)}
    INPUTS = {"request_ready": 1, "lhs_free": 1, "lhs_entries": 3, "rhs_free": 1}

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        free, request, array, order = self._free, unit.request, self._accelerator.array, self._order
        ports, port = self._accelerator.memory.ports, self._port
        places = {"lhs_base": 0x1000, f"port_{port}_start": 0x55, "port_step": 7, "run_step": 1, "window_row_step": 3}
        places |= {"out_width": 2, "out_height": 2, "port_columns": 1, "row_correction": 5}
        used = {side: Signal(4, name=f"{side}_used") for side in ("lhs", "rhs")}
        done = Signal(init=1)
        free.build(m, self, done, 1, places)

        # The order goes on when a tile is begun: ``kept`` is the tile that it showed then, as long as it is ``open``.
        shown, kept, tile, is_open = Signal(FETCHED), Signal(FETCHED), Signal(FETCHED), Signal()
        begins, size = Signal(), {"lhs": order.lhs_entries, "rhs": free["rhs_tile_entries"]}
        m.d.comb += [
            shown.is_lhs.eq(order.is_lhs),
            shown.entries.eq(Mux(order.is_lhs, size["lhs"], size["rhs"])),
            shown.columns.eq(sum((order.columns > column) for column in range(port, array.dn, ports))),
            begins.eq(request.valid & ~is_open),
            tile.eq(Mux(is_open, kept, shown)),
        ]

        # A tile's requests: one for a row tile, for a column tile one for each run of each of the port's windows.
        columns, kernel_rows, runs = Signal(4), Signal(2), Signal(2)  # of the current tile, asked for
        last_run, last_row = runs == free["row_runs"] - 1, kernel_rows == free["kernel_rows"] - 1
        last_column = columns == Mux(tile.columns == 0, 1, tile.columns) - 1
        asked, tile_ends = Signal(), Signal()
        m.d.comb += [
            order.next.eq(self.next_tile),
            asked.eq(request.valid & self.request_ready),
            tile_ends.eq(asked & (tile.is_lhs | (last_run & last_row & last_column))),
        ]
        with m.If(begins):
            m.d.sync += [kept.eq(shown), is_open.eq(1)]
        with m.If(tile_ends):
            m.d.sync += is_open.eq(0)
        with m.If(asked & ~tile.is_lhs):
            m.d.sync += runs.eq(Mux(last_run, 0, runs + 1))
            with m.If(last_run):
                m.d.sync += kernel_rows.eq(Mux(last_row, 0, kernel_rows + 1))
                with m.If(last_row):
                    m.d.sync += columns.eq(Mux(last_column, 0, columns + 1))
        row_words = array.dm // ports * self._accelerator.lanes
        words = Mux(tile.is_lhs, tile.entries * row_words, free["run_words"])
        m.d.comb += done.eq(order.done & ~unit.busy)

        whole = {side: used[side] - Mux(is_open & (kept.is_lhs == (side == "lhs")), kept.entries, 0) for side in used}
        frees = {
            "lhs": Mux(self.lhs_free, self.lhs_entries, 0),
            "rhs": Mux(self.rhs_free, free["rhs_tile_entries"], 0),
        }
        m.d.comb += [
            unit.instruction.eq(free.instruction),
            unit.start.eq(free.start),
            unit.lhs_free.eq(self.lhs_free),
            unit.lhs_free_entries.eq(self.lhs_entries),
            unit.rhs_free.eq(self.rhs_free),
            request.ready.eq(self.request_ready),
            Assume(~done | ~(self.lhs_free | self.rhs_free)),
            Assume(~self.lhs_free | (self.lhs_entries <= whole["lhs"])),
            Assume(~self.rhs_free | (free["rhs_tile_entries"] <= whole["rhs"])),
            Assert(order.step == begins),  # the order goes on once for each tile, neither before nor later
            Assert(order.load == free.start),
            Assert(~begins | ~order.done),
        ]
        for side, mine in (("lhs", order.is_lhs), ("rhs", ~order.is_lhs)):
            taken = Mux(begins & mine, size[side], 0)
            m.d.sync += used[side].eq(Mux(free.start, 0, used[side] + taken - frees[side]))
            m.d.comb += Assert(~(begins & mine) | (used[side] + size[side] <= RING))
        stable_while_stalled(m, request.valid, self.request_ready, request.payload)
        with m.If(request.valid):
            m.d.comb += [Assert(request.payload.words == words), Assert(unit.busy)]
        fits = shown.entries + Mux(order.is_lhs, used["lhs"], used["rhs"]) <= RING
        waits, first = ~order.done & (is_open | fits) & ~request.valid, Signal(init=1)
        with m.If(free.start | begins):
            m.d.sync += first.eq(free.start)
        within(m, WALK_LATENCY, waits)  # who has room asks
        within(m, PATIENCE, waits & ~first)
        within(m, PATIENCE, order.done & is_open & ~request.valid)
        within(m, PATIENCE, order.done & ~is_open & unit.busy & ~free.start)  # who has asked for all is done
        return m


class WriterProof(FetchProof):
    """Words come at any time while tiles are left, but not before the first can have been asked for.

    ``queue`` holds the tiles that the order has shown and whose words have not all come, ``base`` is where the current
    tile's entries begin in its ring.
    """

    UNIT = "Writer"
    FIELDS = {"activation_bits": (1, 2), "chunks": (1, 2)}
    INPUTS = {"word": 64, "word_valid": 1}

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        free, order, array = self._free, self._order, self._accelerator.array
        ports, port = self._accelerator.memory.ports, self._port
        bits, chunks = free["activation_bits"], free["chunks"]
        size = chunks << (bits == 2)  # of a column tile: one lane, so as many words of a column
        shown, head = Signal(FETCHED), Signal(FETCHED)
        queue, level = [Signal(FETCHED, name=f"tile_{i}") for i in range(KNOWN_TILES)], Signal(range(KNOWN_TILES + 1))
        age, left, ends = Signal(range(WALK_LATENCY + 1), init=WALK_LATENCY), Signal(), Signal()
        idle = ~unit.busy & ~left
        free.build(m, self, idle, 1, {"rhs_tile_entries": size, "window_words": chunks})
        m.d.comb += [
            order.next.eq(self.next_tile),
            unit.instruction.eq(free.instruction),
            unit.start.eq(free.start),
            unit.word.valid.eq(self.word_valid),
            unit.word.payload.eq(self.word),
            left.eq(~order.done | (level != 0)),
            Assume(~past(m, free.start) | ~order.done),  # a pass has a tile, says FetchOrder's proof
            Assume(~self.word_valid | (left & (age == WALK_LATENCY))),
            Assert(unit.word.ready),
            Assert(unit.busy | ~left),
            Assert(order.load == free.start),
            Assert(~(order.step & order.done)),
            Assert(~left | (age != WALK_LATENCY) | (level != 0)),  # whatever comes, its tile is known
            Assert(~(order.step & ~ends) | (level != KNOWN_TILES)),
        ]
        within(m, PATIENCE, unit.busy & ~left & ~free.start)
        with m.If(free.start):
            m.d.sync += age.eq(1)
        with m.Elif(age != WALK_LATENCY):
            m.d.sync += age.eq(age + 1)

        m.d.comb += [
            shown.is_lhs.eq(order.is_lhs),
            shown.entries.eq(Mux(order.is_lhs, order.lhs_entries, size)),
            shown.columns.eq(sum((order.columns > column) for column in range(port, array.dn, ports))),
            head.eq(queue[0]),
        ]
        m.d.sync += level.eq(level + order.step - ends)
        for i, tile in enumerate(queue):
            with m.If(order.step & (level == i + ends)):
                m.d.sync += tile.eq(shown)
            with m.Elif(ends):
                m.d.sync += tile.eq(queue[min(i + 1, KNOWN_TILES - 1)])

        entries, own = head.entries, head.columns
        vectors = Mux(head.is_lhs, array.dm // ports, Mux(own == 0, 1, own))
        entry, vector = Signal(3), Signal(4)  # of the next word; entries do not come in order
        last_entry = entry == entries - 1
        m.d.comb += ends.eq(self.word_valid & last_entry & (vector == vectors - 1))
        with m.If(self.word_valid):
            m.d.sync += entry.eq(Mux(last_entry, 0, entry + 1))
            with m.If(last_entry):
                m.d.sync += vector.eq(Mux(ends, 0, vector + 1))
        word, came = past(m, self.word), {}
        for side, mine, write, ready in (
            ("lhs", head.is_lhs, unit.lhs_write, unit.lhs_ready),
            ("rhs", ~head.is_lhs, unit.rhs_write, unit.rhs_ready),
        ):
            base, due = Signal(2, name=f"{side}_base"), Signal(2, name=f"{side}_due")
            m.d.sync += [
                base.eq(Mux(free.start, 0, base + Mux(ends & mine, entries, 0))),
                due.eq(due + (ends & mine) - ready),
            ]
            came[side] = past(m, self.word_valid & mine)
            begins, many, which = past(m, base), past(m, entries), past(m, vector)
            with m.If(came[side]):  # into the tile's own vector and entries
                m.d.comb += [
                    Assert(write.select == 1 << which),
                    Assert((write.entry - begins)[:2] < many),
                    Assert(write.word == word),
                ]
            with m.Else():
                m.d.comb += Assert(write.select == 0)
            m.d.comb += Assert(~ready | (due != 0))  # no tile is ready before its last word
            within(m, WORD_TO_READY, (due != 0) & ~ready)
        return m


def small(machine, dn: int, ports: int):
    return with_small_rings(machine(dm=max(2, ports), dn=dn, ports=ports))


PROOFS = {
    "requester": lambda machine, module=rtl.fetch: RequesterProof(small(machine, 2, 1), 0, module),
    "requester of the second port": lambda machine: RequesterProof(small(machine, 2, 2), 1),
    "writer": lambda machine, module=rtl.fetch: WriterProof(small(machine, 2, 1), 0, module),
    "writer of the second port": lambda machine: WriterProof(small(machine, 4, 2), 1),
}
QUICK_PROOFS = ("requester",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK_PROOFS else pytest.mark.slow) for n in PROOFS])
def test_the_account_of_fetch_holds_for_ever(tmp_path: Path, machine, name: str) -> None:
    assert "proved by PDR" in reach(PROOFS[name](machine), tmp_path)


FAULTS = {  # which proof, what its unit gets instead
    "free strobe dropped": ("requester", lambda unit: unit.rhs_free.eq(0)),
    "one entry too many freed": ("requester", lambda unit: unit.lhs_free_entries.eq(RING)),
    "request moves on without being taken": ("requester", lambda unit: unit.request.ready.eq(1)),
    "start dropped": ("requester", lambda unit: unit.start.eq(0)),
    "word lost": ("writer", lambda unit: unit.word.valid.eq(0)),
}
QUICK = ("free strobe dropped",)


@pytest.mark.parametrize("fault", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FAULTS])
def test_the_proof_of_fetch_fails_for_a_unit_with_a_fault(tmp_path: Path, machine, fault: str) -> None:
    proof, wrong = FAULTS[fault]
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(faulty(PROOFS[proof](machine), wrong), tmp_path)


MUTANTS = {  # which proof, text of rtl/fetch.py, what it becomes
    "tile brought forgotten": ("writer", "Mux(bring, ordered, after_next)", "after_next"),
    "tile left out": ("writer", "Mux(bring, ordered, after_next)", "ordered"),
    "two tiles known ahead": ("writer", "starting = Signal(3)", "starting = Signal(2)"),
    "begun before the room is looked at": ("requester", "began | looking | order", "began | order"),
    "begun twice": ("requester", "began | looking | order", "looking | order"),
    "begun a cycle late": ("requester", "WALK_LATENCY - 2", "WALK_LATENCY - 1"),
    "room for ever": ("requester", "free + change", "free"),
}


@pytest.mark.slow  # some seconds each
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_proof_fails_for_a_wrong_fetch_stage(tmp_path: Path, machine, mutant: str) -> None:
    proof, text, wrong = MUTANTS[mutant]
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(PROOFS[proof](machine, mutant_of(rtl.fetch, text, wrong)), tmp_path)
