"""The result registers proved never to be overwritten, and to become free in time, whatever the drain does."""

from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from amaranth.lib.wiring import Component, In

import rtl.result
from hardware.instruction import OPCODE_MATRIX, OPCODE_SUM
from hardware.timing import BUFFER_LATENCY, ISSUE_LATENCY, PENDING_JOBS, VECTOR_LATENCY, sums_latency
from sim.properties import FreeInstruction, faulty, past, within
from sim.reach import reach
from sim.stand_ins import SETTLED, StandIn, copy_of, mutant_of

RESULT_COLUMNS = sums_latency(64) + 2
"""Enough for registers that are free one column too early to be overwritten."""
COLUMN_TO_TOTALS = 3
"""Cycles from a column being chosen to its totals."""
CONSTANTS_COME = ISSUE_LATENCY + BUFFER_LATENCY
"""Cycles from a tile's last step being taken, which reads the constants, to these."""


class ResultProof(Component):
    """Tiles end whenever the registers are vacant, as execute lets them; jobs are done at any time.

    ``left`` counts the columns that are in the registers, ``owed`` says that they were not yet said to be free.

    ``data``: also that the right sums and constants come out, by a tile and a column of it, any, that are marked.
    ``ahead`` counts the columns before it. Few bits are compared, because the unit treats all alike.
    """

    BITS = 2

    def __init__(self, accelerator, module: ModuleType = rtl.result, data: bool = False):
        self._accelerator, self._data, copy = accelerator, data, copy_of(module)
        self._drain, self._requantize = StandIn(copy.Drain(accelerator)), StandIn(copy.Requantize(accelerator.array.dm))
        self._address = copy.PlaneAddress(accelerator)
        for name, part in (("Drain", self._drain), ("Requantize", self._requantize), ("PlaneAddress", self._address)):
            setattr(copy, name, lambda _, part=part: part)
        self._unit = copy.Result(accelerator)
        flags = dict.fromkeys(("matrix", "bipolar", "write_sums", "write_values", "write_planes"), (0, 1))
        multiplier = {"multiplier": (0, (1 << self.BITS) - 1)}
        self._free = FreeInstruction(flags | multiplier, {"write_sums": 1}, SETTLED)
        free = {"ends": 1, "last": 1, "columns": 8, "last_row_tile": 1, "job_done": 1, "words_left": 1}
        free |= {"sums": self.BITS * accelerator.array.dn, "column_sums": self.BITS * accelerator.array.dn}
        free |= {"reads": 1, "lhs": self.BITS, "mark": 1, "marked_column": range(accelerator.array.dn)}
        free |= self._free.ports()
        super().__init__({name: In(bits) for name, bits in free.items()})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        free, drain, array = self._free, self._drain, self._accelerator.array
        matrix, latency = free["matrix"], sums_latency(array.dk)
        vacant, left, jobs = Signal(init=1), Signal(8), Signal(3)
        coming = Signal(latency)  # last steps whose sums are not there yet
        sums, active, owed = Signal(), Signal(), Signal()
        column = self._address.column
        leaving = column | past(m, column) | _later(m, column, 2)  # a pass ends later, with its last word
        idle = ~active & vacant & (left == 0) & (jobs == 0) & (coming == 0) & ~leaving
        one = free["write_sums"] ^ (free["write_values"] | free["write_planes"])
        legal = one & (matrix | ~free["bipolar"])
        free.build(m, self, idle, legal, {"opcode": Mux(matrix, OPCODE_MATRIX, OPCODE_SUM)})
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

        m.d.sync += [
            left.eq(Mux(sums, unit.place.columns, left - column)),
            owed.eq(sums | (owed & ~unit.free)),
            jobs.eq(jobs + drain.job_valid - self.job_done),
        ]
        m.d.comb += [
            Assert(~sums | (left == 0)),  # the registers are never overwritten: their last column has been chosen
            Assert(~column | (left != 0)),
            # Said once for each tile, and no later than it must be for the next one to follow without a gap.
            Assert(unit.free == (column & owed & (left <= latency + 1))),
            Assert(~unit.free | ~vacant),
            Assert(~drain.job_valid | (jobs < PENDING_JOBS)),
            Assert(jobs <= PENDING_JOBS),
            Assert(unit.writing == ((jobs != 0) | self.words_left)),
            Assert(unit.busy | ~self.words_left),
        ]
        within(m, latency + array.dn + 2, ~vacant & (jobs != PENDING_JOBS))
        if self._data:
            self._follow(m, sums, column, ends & matrix & self.reads)
        return m

    def _follow(self, m: Module, sums, column, reads) -> None:
        """The marked column's sums, and the constants of its tile, to the requantization."""
        unit, free, array, requantize = self._unit, self._free, self._accelerator.array, self._requantize
        matrix, bits = free["matrix"], self.BITS
        for i in range(array.dn):
            m.d.comb += unit.column_sums[i].eq(self.column_sums.word_select(i, bits))
            m.d.comb += [unit.sums[i * array.dm + row].eq(self.sums.word_select(i, bits)) for row in range(array.dm)]
        m.d.comb += [total.eq(self.sums[:bits]) for total in unit.totals]
        own, of_column = (s.word_select(self.marked_column, bits) for s in (self.sums, self.column_sums))
        expected = Mux(matrix, Mux(free["bipolar"], (own << 1) + of_column, own), self.sums[:bits])[:bits]

        # Constants, if the pass has read any: those that came last before the tile's sums.
        come, came, read = _later(m, reads, CONSTANTS_COME), Signal(bits), Signal()
        m.d.comb += [unit.constants.eq(come), *(lhs.eq(self.lhs) for lhs in unit.lhs)]
        with m.If(come):
            m.d.sync += [came.eq(self.lhs), read.eq(1)]
        with m.If(free.start):
            m.d.sync += read.eq(0)

        marked, inside, ahead = Signal(), Signal(), Signal(range(array.dn))
        kept, kept_constants, has_constants = Signal(bits), Signal(bits), Signal()
        marks = self.mark & sums & ~marked & (self.marked_column < unit.place.columns)
        with m.If(marks):
            m.d.sync += [
                marked.eq(1),
                inside.eq(1),
                ahead.eq(self.marked_column),
                kept.eq(expected),
                kept_constants.eq(Mux(matrix, came, free["multiplier"])),
                has_constants.eq(~matrix | read),
            ]
        with m.Elif(column):
            m.d.sync += [inside.eq(inside & (ahead != 0)), ahead.eq(ahead - 1)]
        comes = _later(m, column & inside & (ahead == 0), COLUMN_TO_TOTALS)
        for total, constants in zip(requantize.sums, requantize.constants, strict=True):
            m.d.comb += [
                Assert(~comes | (total[:bits] == kept)),
                Assert(~comes | ~has_constants | (constants.multiplier[:bits] == kept_constants)),
            ]


def _later(m: Module, signal, cycles: int):
    for _ in range(cycles):
        signal = past(m, signal)
    return signal


@pytest.mark.parametrize("data", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_account_of_result_holds_for_ever(tmp_path: Path, machine, data: bool) -> None:
    assert "proved by PDR" in reach(ResultProof(machine(dn=RESULT_COLUMNS), data=data), tmp_path)


@pytest.mark.slow  # some seconds, as those below
def test_the_proof_of_result_fails_for_sums_that_come_twice(tmp_path: Path, machine) -> None:
    proof = ResultProof(machine(dn=RESULT_COLUMNS))
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(faulty(proof, lambda unit: unit.sums_valid.eq(unit.instruction.opcode == OPCODE_MATRIX)), tmp_path)


MUTANTS = {  # whether the proof follows the data, text of rtl/result.py, what it becomes
    "one job too many": (False, "next_jobs != PENDING_JOBS", "next_jobs != PENDING_JOBS + 1"),
    "registers free too early": (
        False,
        "sums_latency(self._accelerator.array.dk)",
        "sums_latency(self._accelerator.array.dk) + 1",
    ),
    "registers free too late": (
        False,
        "sums_latency(self._accelerator.array.dk)",
        "sums_latency(self._accelerator.array.dk) - 1",
    ),
    "registers free only when empty": (False, "column & frees", "column & ~begun & last_column"),
    "second column first": (True, "following.eq(Mux(vector, 1 << dn, 1))", "following.eq(Mux(vector, 1 << dn, 2))"),
    "columns chosen too early": (True, "m.d.sync += chooses.eq(following)", "m.d.comb += chooses.eq(following)"),
    "columns chosen too late": (True, "+= chooses.eq(following)", "+= chooses.eq(_delayed(m, following, 1, 'late'))"),
    "columns without their sums": (True, "(own << 1) + of_column", "own << 1"),
    "constants of the next tile": (True, "self.sums_valid, TO_TOTALS - 1,", "self.sums_valid, TO_TOTALS - 2,"),
    "constants of the tile before": (True, "self.sums_valid, TO_TOTALS - 1,", "self.sums_valid, TO_TOTALS + 1,"),
    "constants before they come": (
        True,
        "come = _delayed(m, self.constants, 1,",
        "come = _delayed(m, self.constants, 0,",
    ),
    "constants after they came": (
        True,
        "come = _delayed(m, self.constants, 1,",
        "come = _delayed(m, self.constants, 2,",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_proof_fails_for_a_wrong_result_stage(tmp_path: Path, machine, mutant: str) -> None:
    data, text, wrong = MUTANTS[mutant]
    proof = ResultProof(machine(dn=RESULT_COLUMNS), mutant_of(rtl.result, text, wrong), data)
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(proof, tmp_path)
