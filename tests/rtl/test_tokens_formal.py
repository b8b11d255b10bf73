"""Room, tokens and registers proved for ever, unit by unit, and that no unit waits when it has all that it needs.

The accounts in the proofs know the units by their ports. Order and drain are replaced by stand-ins that may do
anything: what holds for those holds for the real ones, whatever the instruction (their own proofs are in
`test_order_formal.py` and `test_handshake_formal.py`).
"""

import inspect
from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

import rtl.execute
import rtl.fetch
import rtl.order
import rtl.result
from hardware.instruction import OPCODE_MATRIX, OPCODE_SUM
from hardware.timing import (
    INSTRUCTION_TO_STAGES,
    ISSUE_LATENCY,
    PENDING_JOBS,
    VECTOR_LATENCY,
    WALK_LATENCY,
    WORD_TO_READY,
    sums_latency,
)
from sim.properties import FreeInstruction, faulty, past, stable_while_stalled, within
from sim.reach import reach

SETTLED = INSTRUCTION_TO_STAGES - 2  # cycles in which the stages see an instruction before they start on it
RING = 4
"""Entries of both rings: fewer than any accelerator has, so that a few tiles fill them and addresses wrap."""
RESULT_COLUMNS = 13
"""Of the result stage's proof: enough for registers that are free two columns too early to be overwritten."""
PATIENCE = 4
"""Cycles in which a unit that waits for nothing must do something."""


def small(machine, dn: int, ports: int):
    """2x64x``dn`` with rings of `RING` entries, which the specification would refuse."""
    accelerator = machine(dm=max(2, ports), dn=dn, ports=ports)
    buffers = accelerator.buffers.model_copy(update={"lhs_entries": RING, "rhs_entries": RING})
    return accelerator.model_copy(update={"buffers": buffers})


class AnyOrder(Component):
    """Stands in for an order inside a unit: after every step any tile may come, and any may be the last.

    What holds for this order holds for `FetchOrder` and `TileOrder`, whatever the instruction. ``next`` is free; it has
    the width of all outputs.
    """

    def __init__(self, order, legal):
        self._real = order(1)  # elaborated as well, or Amaranth warns of it
        signature = self._real.signature
        self._outputs = [name for name, member in signature.members.items() if member.flow is Out]
        self._legal = legal
        super().__init__(dict(signature.members))
        self.next = Signal(sum(len(getattr(self, name)) for name in self._outputs))

    def elaborate(self, platform):
        m = Module()
        m.submodules.real = self._real
        kept = Cat(getattr(self, name) for name in self._outputs)
        loaded = Signal()
        with m.If(self.load | self.step):
            m.d.sync += [kept.eq(self.next), loaded.eq(1)]
        m.d.comb += Assume(~loaded | self._legal(self))
        return m


def with_any_order(module: ModuleType, name: str, legal) -> tuple[ModuleType, AnyOrder]:
    """A copy of a unit's module in which the order called ``name`` is an `AnyOrder`."""
    copy = ModuleType(module.__name__)
    vars(copy).update(vars(module))
    source = getattr(module, "source", None) or inspect.getsource(module)
    exec(source, vars(copy))
    order = AnyOrder(getattr(rtl.order, name), legal)
    setattr(copy, name, lambda dn: order)
    return copy, order


FETCHED = data.StructLayout({"is_lhs": 1, "entries": 3, "columns": 3})
"""A tile that a port fetches: its entries, and the columns that are the port's."""


class RequesterProof(Component):
    """The memory may refuse as it likes; entries of tiles that were wholly asked for are freed at any time.

    Tiles come in any order (`AnyOrder`) and have entries, but no more than the ring. A tile takes its entries when it
    is begun, which is when its first request is offered; ``used`` counts the entries of the tiles begun and not freed.
    """

    def __init__(self, accelerator, port: int, module: ModuleType = rtl.fetch):
        self._accelerator, self._port = accelerator, port
        dn = accelerator.array.dn
        module, self._order = with_any_order(
            module,
            "FetchOrder",
            lambda o: (o.lhs_entries >= 1) & (o.lhs_entries <= RING) & (o.columns >= 1) & (o.columns <= dn),
        )
        self._unit = module.Requester(accelerator, port)
        fields = {"rhs_tile_entries": (1, RING), "kernel_rows": (1, 2), "row_runs": (1, 2), "run_words": (1, 2)}
        self._free = FreeInstruction(fields, settled=SETTLED)
        free = {"request_ready": 1, "lhs_free": 1, "lhs_entries": 3, "rhs_free": 1} | self._free.ports()
        super().__init__({name: In(bits) for name, bits in (free | {"next_tile": len(self._order.next)}).items()})

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


class WriterProof(Component):
    """Words come at any time while tiles are left, but not before the first can have been asked for.

    Tiles come in any order (`AnyOrder`). ``queue`` holds those that the order has shown and whose words have not all
    come, ``base`` is where the current tile's entries begin in its ring.
    """

    def __init__(self, accelerator, port: int, module: ModuleType = rtl.fetch):
        self._accelerator, self._port = accelerator, port
        dn = accelerator.array.dn
        module, self._order = with_any_order(
            module,
            "FetchOrder",
            lambda o: (o.lhs_entries >= 1) & (o.lhs_entries <= RING) & (o.columns >= 1) & (o.columns <= dn),
        )
        self._unit = module.Writer(accelerator, port)
        self._free = FreeInstruction({"activation_bits": (1, 2), "chunks": (1, 2)}, settled=SETTLED)
        free = {"word": 64, "word_valid": 1, "next_tile": len(self._order.next)} | self._free.ports()
        super().__init__({name: In(bits) for name, bits in free.items()})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        free, order, array = self._free, self._order, self._accelerator.array
        ports, port = self._accelerator.memory.ports, self._port
        bits, chunks = free["activation_bits"], free["chunks"]
        size = chunks << (bits == 2)  # of a column tile: one lane, so as many words of a column
        shown, head = Signal(FETCHED), Signal(FETCHED)
        queue, level = [Signal(FETCHED, name=f"tile_{i}") for i in range(2)], Signal(2)
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
            Assume(~self.word_valid | (left & (age == WALK_LATENCY))),
            Assert(unit.word.ready),
            Assert(unit.busy | ~left),
            Assert(order.load == free.start),
            Assert(~(order.step & order.done)),
            Assert(~left | (age != WALK_LATENCY) | (level != 0)),  # whatever comes, its tile is known
            Assert(~(order.step & ~ends) | (level != 2)),
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
                m.d.sync += tile.eq(queue[-1])

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
            lambda o: (o.columns >= 1) & (o.columns <= dn) & (o.bits <= 2) & (o.entries <= RING),
        )
        self._unit = module.Execute(accelerator)
        fields = dict.fromkeys(("matrix", "lhs_resident", "write_sums"), (0, 1))
        fields |= dict.fromkeys(("activation_bits", "chunks", "row_tiles", "taps"), (1, 2))
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
        products = order.bits << (free["activation_bits"] == 2) << (free["chunks"] == 2)
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


class AnyDrain(Component):
    """Stands in for the drain: its proof decides when a job is done."""

    def __init__(self, accelerator):
        self._real = rtl.result.Drain(accelerator)  # elaborated as well, or Amaranth warns of it
        super().__init__(dict(self._real.signature.members))

    def elaborate(self, platform):
        m = Module()
        m.submodules.real = self._real
        return m


class ResultProof(Component):
    """Tiles end whenever the registers are vacant, as execute lets them; jobs are done at any time.

    ``left`` counts the columns that are in the registers.
    """

    def __init__(self, accelerator, module: ModuleType = rtl.result):
        self._accelerator, spies = accelerator, {}
        copy = ModuleType(module.__name__)
        exec(getattr(module, "source", None) or inspect.getsource(module), vars(copy))
        for name, stand_in in (("Drain", AnyDrain), ("PlaneAddress", copy.PlaneAddress)):
            spies[name] = stand_in(accelerator)
            setattr(copy, name, lambda _, name=name: spies[name])
        self._unit, self._drain, self._address = copy.Result(accelerator), spies["Drain"], spies["PlaneAddress"]
        self._free = FreeInstruction(
            dict.fromkeys(("matrix", "write_sums", "write_values", "write_planes"), (0, 1)), {"write_sums": 1}, SETTLED
        )
        free = {"ends": 1, "last": 1, "columns": 8, "last_row_tile": 1, "job_done": 1, "words_left": 1}
        free |= self._free.ports()
        super().__init__({name: In(bits) for name, bits in free.items()})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        free, drain, array = self._free, self._drain, self._accelerator.array
        matrix, latency = free["matrix"], sums_latency(array.dk)
        vacant, left, jobs = Signal(init=1), Signal(8), Signal(3)
        coming = Signal(latency)  # last steps whose sums are not there yet
        sums, active = Signal(), Signal()
        idle = ~active & vacant & (left == 0) & (jobs == 0) & (coming == 0)
        one = free["write_sums"] ^ (free["write_values"] | free["write_planes"])
        free.build(m, self, idle, one, {"opcode": Mux(matrix, OPCODE_MATRIX, OPCODE_SUM)})
        ends = Signal()
        m.d.comb += [
            ends.eq(self.ends & vacant & active),
            sums.eq(Mux(matrix, coming[latency - 1], coming[ISSUE_LATENCY + VECTOR_LATENCY - 1])),
            unit.instruction.eq(free.instruction),
            unit.start.eq(free.start),
            unit.sums_valid.eq(sums & matrix),
            unit.totals_valid.eq(sums & ~matrix),
            drain.job_done.eq(self.job_done),
            drain.empty.eq(~self.words_left),
            Assume(~self.job_done | (jobs != 0)),
            Assume((self.columns >= 1) & (self.columns <= Mux(matrix, array.dn, 1))),
        ]
        m.d.sync += coming.eq(Mux(sums & ~matrix, 0, coming << 1) | ends)
        with m.If(free.start | (ends & self.last)):
            m.d.sync += active.eq(free.start)
        with m.If(ends):
            m.d.sync += [vacant.eq(0), unit.place.columns.eq(self.columns)]
            m.d.sync += unit.place.plane_columns.eq(Mux(self.last_row_tile, self.columns, 0))
        with m.If(unit.free):
            m.d.sync += vacant.eq(1)

        column = self._address.column
        m.d.sync += [
            left.eq(Mux(sums, unit.place.columns, left - column)),
            jobs.eq(jobs + drain.job_valid - self.job_done),
        ]
        m.d.comb += [
            Assert(~sums | (left == column)),  # the registers are never overwritten: their last column leaves now
            Assert(~column | (left != 0)),
            Assert(~unit.free | ~vacant),  # said once for each tile
            Assert(~drain.job_valid | (jobs < PENDING_JOBS)),
            Assert(jobs <= PENDING_JOBS),
            Assert(unit.writing == ((jobs != 0) | self.words_left)),
            Assert(unit.busy | ~self.words_left),
        ]
        within(m, latency + array.dn + 2, ~vacant & (jobs != PENDING_JOBS))
        return m


PROOFS = {
    "requester": lambda machine: RequesterProof(small(machine, 2, 1), 0),
    "requester of the second port": lambda machine: RequesterProof(small(machine, 2, 2), 1),
    "writer": lambda machine: WriterProof(small(machine, 2, 1), 0),
    "writer of the second port": lambda machine: WriterProof(small(machine, 4, 2), 1),
    "execute": lambda machine: ExecuteProof(small(machine, 2, 1)),
    "execute with two ports": lambda machine: ExecuteProof(small(machine, 2, 2)),
    "result": lambda machine: ResultProof(machine(dn=RESULT_COLUMNS)),
}
QUICK_PROOFS = ("requester", "result")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK_PROOFS else pytest.mark.slow) for n in PROOFS])
def test_the_account_holds_for_ever(tmp_path: Path, machine, name: str) -> None:
    assert "proved by PDR" in reach(PROOFS[name](machine), tmp_path)


FAULTS = {  # which proof, what its unit gets instead
    "free strobe dropped": ("requester", lambda unit: unit.rhs_free.eq(0)),
    "one entry too many freed": ("requester", lambda unit: unit.lhs_free_entries.eq(RING)),
    "request moves on without being taken": ("requester", lambda unit: unit.request.ready.eq(1)),
    "start dropped": ("requester", lambda unit: unit.start.eq(0)),
    "word lost": ("writer", lambda unit: unit.word.valid.eq(0)),
    "tile ready without its parts": ("execute", lambda unit: unit.rhs_ready.eq(~0)),
    "ready strobe dropped": ("execute", lambda unit: unit.lhs_ready.eq(0)),
    "registers filled while full": ("execute", lambda unit: unit.result_free.eq(1)),
    "registers never free again": ("execute", lambda unit: unit.result_free.eq(0)),
    "sums come twice": ("result", lambda unit: unit.sums_valid.eq(unit.instruction.opcode == OPCODE_MATRIX)),
}
QUICK = ("free strobe dropped", "tile ready without its parts")


@pytest.mark.parametrize("fault", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FAULTS])
def test_the_proof_fails_for_a_unit_with_a_fault(tmp_path: Path, machine, fault: str) -> None:
    proof, wrong = FAULTS[fault]
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(faulty(PROOFS[proof](machine), wrong), tmp_path)


MUTANTS = {  # text of rtl/result.py, what it becomes
    "one job too many": ("(jobs != PENDING_JOBS)", "(jobs != PENDING_JOBS + 1)"),
    "registers free too early": ("after == in_flight, after <= in", "after == in_flight + 2, after <= 2 + in"),
    "registers free only when empty": (
        "Mux(begun, after == in_flight, after <= in_flight)",
        "Mux(begun, 0, after == 0)",
    ),
}


@pytest.mark.slow  # some seconds each
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_proof_fails_for_a_wrong_result_stage(tmp_path: Path, machine, mutant: str) -> None:
    text, wrong = MUTANTS[mutant]
    source = inspect.getsource(rtl.result)
    assert text in source, "the mutant no longer matches rtl/result.py"
    module = ModuleType("mutant")
    module.source = source.replace(text, wrong)
    exec(module.source, vars(module))
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(ResultProof(machine(dn=RESULT_COLUMNS), module), tmp_path)
