"""Room in the rings and tiles on their way proved for ever of fetch; no unit waits when it has all that it needs.

Of the halves together it is proved up to a depth that each tile is with the writer before its words.

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
from sim.stand_ins import PATIENCE, RING, SETTLED, copy_of, mutant_of, with_any_order, with_small_rings

TILES = 3
"""Places in the proof's queue of tiles between the halves."""
FIRST_WORD = 2
"""Cycles from a request's being taken to its first word, at least: fewer than the machine has with a latency of 0."""
DEPTH = 22
"""Cycles that the proof of both halves looks at: the queue is full before them."""
FETCHED = data.StructLayout({"is_lhs": 1, "entries": 3, "columns": 3})
"""A tile that a port fetches: its entries, and the columns that are the port's."""


def tiles_of(m: Module, order, port: int, array, ports: int, size) -> Signal:
    """The tile that an order shows; ``size``: entries of a column tile."""
    shown = Signal(FETCHED)
    m.d.comb += [
        shown.is_lhs.eq(order.is_lhs),
        shown.entries.eq(Mux(order.is_lhs, order.lhs_entries, size)),
        shown.columns.eq(sum((order.columns > column) for column in range(port, array.dn, ports))),
    ]
    return shown


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
            accelerator,
            lambda o: (o.lhs_entries >= 1) & (o.lhs_entries <= RING) & (o.columns >= 1) & (o.columns <= dn),
        )
        self._unit = getattr(module, self.UNIT)(accelerator, port)
        self._free = FreeInstruction(self.FIELDS, settled=SETTLED)
        free = self.INPUTS | self._free.ports() | {"next_tile": len(self._order.next)}
        super().__init__({name: In(bits) for name, bits in free.items()})


class RequesterProof(FetchProof):
    """The memory may refuse as it likes; entries of tiles that were wholly asked for are freed at any time.

    A tile takes its entries when it is begun, which is when its first request is offered; ``used`` counts the entries
    of the tiles begun and not freed. Where ``tile`` is ready, it stays so until a tile is given; for two cycles behind
    that it may be so or not.
    """

    UNIT = "Requester"
    FIELDS = {"rhs_tile_entries": (1, RING)} | dict.fromkeys(
        ("kernel_rows", "row_runs", "run_words", "activation_bits", "window_words"), (1, 2)
    )
    INPUTS = {"request_ready": 1, "lhs_free": 1, "lhs_entries": 3, "rhs_free": 1, "tile_ready": 1}

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
        kept, tile, is_open = Signal(FETCHED), Signal(FETCHED), Signal()
        shown = tiles_of(m, order, port, array, ports, free["rhs_tile_entries"])
        begins, size = Signal(), {"lhs": order.lhs_entries, "rhs": free["rhs_tile_entries"]}
        m.d.comb += [
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
        # The tile is told of in the cycle before, where there is room for it.
        told, given = past(m, unit.tile.valid), unit.tile.payload
        settling = past(m, unit.tile.valid | told)
        has_room = past(m, self.tile_ready & ~unit.tile.valid)
        m.d.comb += [
            unit.tile.ready.eq(self.tile_ready),
            Assume(~has_room | settling | self.tile_ready),
            Assert(~unit.tile.valid | self.tile_ready),
            Assert(told == begins),
        ]
        with m.If(unit.tile.valid):
            m.d.comb += [
                Assert(given.is_lhs == shown.is_lhs),
                Assert(~shown.is_lhs | (given.entries == shown.entries)),
                Assert(shown.is_lhs | (given.columns == Mux(shown.columns == 0, 1, shown.columns))),
                Assert(~shown.is_lhs | (given.one_entry == (shown.entries == 1))),
                Assert(~shown.is_lhs | (given.one_word == (shown.entries * row_words == 1))),
                Assert(
                    shown.is_lhs
                    | (given.one_word == (free["activation_bits"] * free["window_words"] * given.columns == 1))
                ),
            ]
        for side, mine in (("lhs", order.is_lhs), ("rhs", ~order.is_lhs)):
            taken = Mux(begins & mine, size[side], 0)
            m.d.sync += used[side].eq(Mux(free.start, 0, used[side] + taken - frees[side]))
            m.d.comb += Assert(~(begins & mine) | (used[side] + size[side] <= RING))
        stable_while_stalled(m, request.valid, self.request_ready, request.payload)
        with m.If(request.valid):
            m.d.comb += [Assert(request.payload.words == words), Assert(unit.busy)]
        fits = shown.entries + Mux(order.is_lhs, used["lhs"], used["rhs"]) <= RING
        waits, first = ~order.done & (is_open | (fits & self.tile_ready)) & ~request.valid, Signal(init=1)
        with m.If(free.start | begins):
            m.d.sync += first.eq(free.start)
        within(m, WALK_LATENCY, waits)  # who has room asks
        within(m, PATIENCE, waits & ~first)
        within(m, PATIENCE, order.done & is_open & ~request.valid)
        within(m, PATIENCE, order.done & ~is_open & unit.busy & ~free.start)  # who has asked for all is done
        return m


class WriterProof(Component):
    """Tiles come at any time until the pass has its last one, and words at any time while a tile is there.

    ``head`` is the current tile, if it ``has`` one; ``base`` is where its entries begin in its ring.
    """

    def __init__(self, accelerator, module: ModuleType = rtl.fetch):
        self._accelerator, self._unit = accelerator, module.Writer(accelerator)
        own = accelerator.array.dn // accelerator.memory.ports
        ranges = {"activation_bits": (1, 2), "chunks": (1, 2), "signed_activations": (0, 1)}
        self._free = FreeInstruction(ranges, settled=SETTLED)
        self._columns = own
        free = {"word": 64, "word_valid": 1, "tile": FETCHED.size, "tile_valid": 1, "tile_last": 1}
        super().__init__({name: In(bits) for name, bits in (free | self._free.ports()).items()})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        free, array, ports = self._free, self._accelerator.array, self._accelerator.memory.ports
        bits, chunks = free["activation_bits"], free["chunks"]
        size = chunks << (bits == 2)  # words of a column, which has one lane, and so entries of a column tile,
        column_entries = size if self._accelerator.planes == 1 else chunks  # unless they hold both planes
        tile, head, has, left, ends = data.View(FETCHED, self.tile), Signal(FETCHED), Signal(), Signal(), Signal()
        free.build(m, self, ~has & ~left, 1, {"rhs_tile_entries": column_entries, "window_words": chunks})
        taken = self.tile_valid & unit.tile.ready
        m.d.comb += [
            unit.instruction.eq(free.instruction),
            unit.start.eq(free.start),
            unit.word.valid.eq(self.word_valid),
            unit.word.payload.eq(self.word),
            unit.tile.valid.eq(self.tile_valid),
            unit.tile.payload.is_lhs.eq(tile.is_lhs),
            unit.tile.payload.entries.eq(tile.entries),
            unit.tile.payload.columns.eq(tile.columns),
            unit.tile.payload.one_entry.eq(tile.entries == 1),
            unit.tile.payload.one_word.eq(
                Mux(tile.is_lhs, tile.entries * (array.dm // ports), size * tile.columns) == 1
            ),
            Assume(~self.tile_valid | left),
            Assume((tile.entries >= 1) & (tile.entries <= RING)),
            Assume((tile.columns >= 1) & (tile.columns <= self._columns)),
            Assume(~self.word_valid | has),
            Assert(unit.word.ready),
            Assert(unit.busy == has),
            Assert(unit.tile.ready == (~has | ends)),  # the next tile is taken with the last word, or when it comes
        ]
        with m.If(taken | ends):
            m.d.sync += has.eq(taken)
        with m.If(taken):
            m.d.sync += head.eq(tile)
        with m.If(free.start):
            m.d.sync += left.eq(1)
        with m.If(taken & self.tile_last):
            m.d.sync += left.eq(0)

        entries = Mux(head.is_lhs, head.entries, size)
        vectors = Mux(head.is_lhs, array.dm // ports, head.columns)
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
            tile_entries = entries if side == "lhs" else column_entries
            m.d.sync += [
                base.eq(Mux(free.start, 0, base + Mux(ends & mine, tile_entries, 0))),
                due.eq(due + (ends & mine) - ready),
            ]
            came[side] = past(m, self.word_valid & mine)
            begins, many, which = past(m, base), past(m, tile_entries), past(m, vector)
            with m.If(came[side]):  # into the tile's own vector and entries
                m.d.comb += [
                    Assert(write.select == 1 << which),
                    Assert((write.entry - begins)[:2] < many),
                    Assert(write.word == word),
                ]
            with m.Else():
                m.d.comb += Assert(write.select == 0)
            if side == "rhs" and self._accelerator.planes > 1:  # each word in its plane, the last one's sign above it
                plane = past(m, entry[0] & (bits == 2))
                top = past(m, free["signed_activations"] & ((bits == 1) | entry[0]))
                mask = Mux(top, Mux(plane, 0b11111110, 0b11111111), Mux(plane, 0b10, 0b1))
                m.d.comb += Assert(~came[side] | (write.lane.as_value() == mask))
            m.d.comb += Assert(~ready | (due != 0))  # no tile is ready before its last word
            within(m, WORD_TO_READY, (due != 0) & ~ready)
        return m


class StageProof(FetchProof):
    """Both halves and a queue of `TILES` tiles. Words come ``first_word`` cycles behind their request or later, entries
    of a tile that was begun are freed at any time.

    ``queue`` is the account of the tiles begun whose words have not all come, ``due`` counts the words that may come.
    """

    UNIT = "Fetch"
    FIELDS = {"kernel_rows": (1, 2)}
    INPUTS = {"request_ready": 1, "lhs_free": 1, "lhs_entries": 3, "rhs_free": 1, "word_valid": 1}

    def __init__(self, accelerator, module: ModuleType = rtl.fetch, first_word: int = FIRST_WORD, full: bool = False):
        source = copy_of(module).source
        assert "depth=TILE_QUEUE" in source, "the queue has another name"
        module = copy_of(module, source.replace("depth=TILE_QUEUE", f"depth={TILES}"))
        self._first_word, self._full = first_word, full
        super().__init__(accelerator, 0, module)

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        free, request, order, array = self._free, unit.request, self._order, self._accelerator.array
        rows, tile, writer = free["kernel_rows"], unit._requester.tile, unit._writer
        fields = dict.fromkeys(("activation_bits", "row_runs", "run_words"), 1)
        fields |= dict.fromkeys(("chunks", "window_words", "rhs_tile_entries"), rows)
        level, due, fresh = Signal(range(TILES + 2)), Signal(6), Signal(6)
        free.build(m, self, order.done & ~unit.busy, 1, fields)
        asked = Mux(request.valid & self.request_ready, request.payload.words, 0)
        used = {side: Signal(4, name=f"{side}_used") for side in ("lhs", "rhs")}
        frees = {"lhs": Mux(self.lhs_free, self.lhs_entries, 0), "rhs": Mux(self.rhs_free, rows, 0)}
        m.d.comb += [
            order.next.eq(self.next_tile),
            unit.instruction.eq(free.instruction),
            unit.start.eq(free.start),
            unit.lhs_free.eq(self.lhs_free),
            unit.lhs_free_entries.eq(self.lhs_entries),
            unit.rhs_free.eq(self.rhs_free),
            request.ready.eq(self.request_ready),
            unit.word.valid.eq(self.word_valid),
            Assume(~self.word_valid | (due != 0)),
        ]
        came = self.word_valid
        if self._first_word == 2:
            m.d.sync += [fresh.eq(asked), due.eq(due + fresh - came)]
        else:
            m.d.sync += due.eq(due + asked - came)
        for side, mine, entries in (
            ("lhs", tile.payload.is_lhs, tile.payload.entries),
            ("rhs", ~tile.payload.is_lhs, rows),
        ):
            taken = Mux(tile.valid & mine, entries, 0)
            m.d.sync += used[side].eq(Mux(free.start, 0, used[side] + taken - frees[side]))
            m.d.comb += Assume((frees[side] <= used[side]) & (~free.start | (frees[side] == 0)))

        # The account: side and words of each tile that was begun.
        queue = [Signal(data.StructLayout({"is_lhs": 1, "words": 5}), name=f"tile_{i}") for i in range(TILES + 1)]
        head, words, ends = queue[0], Signal(5), Signal()
        m.d.comb += ends.eq(came & (words == head.words - 1))
        m.d.sync += level.eq(level + tile.valid - ends)
        with m.If(came):
            m.d.sync += words.eq(Mux(ends, 0, words + 1))
        for i, kept in enumerate(queue):
            with m.If(tile.valid & (level == i + ends)):
                each = Mux(tile.payload.is_lhs, tile.payload.entries * array.dm, tile.payload.columns * rows)
                m.d.sync += [kept.is_lhs.eq(tile.payload.is_lhs), kept.words.eq(each)]
            with m.Elif(ends):
                m.d.sync += kept.eq(queue[min(i + 1, TILES)])
        for side, mine in (("lhs", head.is_lhs), ("rhs", ~head.is_lhs)):
            written, whole = past(m, came & mine), past(m, ends & mine)
            m.d.comb += [
                Assert(getattr(unit, f"{side}_write").select.any() == written),
                Assert(getattr(unit, f"{side}_ready") == whole),
            ]
        m.d.comb += [
            Assert(~tile.valid | tile.ready),  # the queue never overflows
            Assert(~tile.valid | (level <= TILES)),  # nor is a tile begun before one of its words can be written
            Assert(~came | (writer.busy & (level != 0))),  # a tile is with the writer before its words
        ]
        if self._full:
            m.d.comb += Assert(level != TILES + 1)
        return m


def small(machine, dn: int, ports: int, kind: str = "bit_serial"):
    return with_small_rings(machine(kind=kind, dm=max(2, ports), dn=dn, ports=ports))


PROOFS = {
    "requester": lambda machine, module=rtl.fetch: RequesterProof(small(machine, 2, 1), 0, module),
    "requester of the second port": lambda machine, module=rtl.fetch: RequesterProof(small(machine, 2, 2), 1, module),
    "writer": lambda machine, module=rtl.fetch: WriterProof(small(machine, 2, 1), module),
    "writer of one of two ports": lambda machine: WriterProof(small(machine, 4, 2)),
    "writer of planes side by side": lambda machine, module=rtl.fetch: WriterProof(
        small(machine, 2, 1, "serial_weight"), module
    ),
}
QUICK_PROOFS = ("requester",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK_PROOFS else pytest.mark.slow) for n in PROOFS])
def test_the_account_of_fetch_holds_for_ever(tmp_path: Path, machine, name: str) -> None:
    assert "proved by PDR" in reach(PROOFS[name](machine), tmp_path)


STAGE_MUTANTS = {  # text of rtl/fetch.py, what it becomes
    "queue overflows": ("requester.tile.ready.eq(tiles.w_rdy)", "requester.tile.ready.eq(1)"),
    "tile left out of the queue": ("tiles.r_en.eq(writer.tile.ready)", "tiles.r_en.eq(1)"),
    "told of too late": ("self.tile.valid.eq(begin)", "self.tile.valid.eq(looking)"),
}


def stage(machine, **kind) -> StageProof:
    return StageProof(small(machine, 1, 1), **kind)


@pytest.mark.slow
def test_a_tile_is_with_the_writer_before_its_words_and_the_queue_never_overflows(tmp_path: Path, machine) -> None:
    assert reach(stage(machine), tmp_path, depth=DEPTH, seconds=900) == f"no failure within {DEPTH} cycles"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [{"first_word": 1}, {"full": True}], ids=["words a cycle earlier", "the queue never fills"]
)
def test_the_proof_of_both_halves_looks_far_enough(tmp_path: Path, machine, kind) -> None:
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(stage(machine, **kind), tmp_path, depth=DEPTH)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", STAGE_MUTANTS)
def test_the_proof_of_both_halves_fails_for_a_wrong_stage(tmp_path: Path, machine, mutant: str) -> None:
    module = mutant_of(rtl.fetch, *STAGE_MUTANTS[mutant])
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(stage(machine, module=module), tmp_path, depth=DEPTH + 4, seconds=900)


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
    "plane in the place of the one before": ("writer of planes side by side", "of_plane << 1", "of_plane"),
    "sign left out": ("writer of planes side by side", "& beyond)", "& beyond & 0)"),
    "sign of unsigned ones": ("writer of planes side by side", "planes.last & instr.signed_activations", "planes.last"),
    "tile taken while one is there": ("writer", "tile.ready.eq(tile_end | ~self.busy)", "tile.ready.eq(1)"),
    "tile taken a cycle late": ("writer", "tile.ready.eq(tile_end | ~self.busy)", "tile.ready.eq(~self.busy)"),
    "tile of the columns before": ("writer", "columns.begin(self.tile.payload.columns)", "columns.begin(tile.columns)"),
    "tile that nobody has room for": ("requester", "fits & self.tile.ready & ~(", "fits & ~("),
    "tile told of with its request": ("requester", "self.tile.valid.eq(begin)", "self.tile.valid.eq(began)"),
    "columns of all ports": ("requester of the second port", "own_columns.eq(count)", "own_columns.eq(order.columns)"),
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
