"""The result registers proved never to be overwritten, and to become free in time, whatever the drain does."""

from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from amaranth.lib.wiring import Component, In

import rtl.result
from hardware.instruction import OPCODE_MATRIX, OPCODE_SUM
from hardware.timing import ISSUE_LATENCY, PENDING_JOBS, VECTOR_LATENCY, sums_latency
from sim.properties import FreeInstruction, faulty, within
from sim.reach import reach
from sim.stand_ins import SETTLED, copy_of, mutant_of

RESULT_COLUMNS = 13
"""Enough for registers that are free two columns too early to be overwritten."""


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
        self._accelerator, spies, copy = accelerator, {}, copy_of(module)
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


def test_the_account_of_result_holds_for_ever(tmp_path: Path, machine) -> None:
    assert "proved by PDR" in reach(ResultProof(machine(dn=RESULT_COLUMNS)), tmp_path)


@pytest.mark.slow  # some seconds, as those below
def test_the_proof_of_result_fails_for_sums_that_come_twice(tmp_path: Path, machine) -> None:
    proof = ResultProof(machine(dn=RESULT_COLUMNS))
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(faulty(proof, lambda unit: unit.sums_valid.eq(unit.instruction.opcode == OPCODE_MATRIX)), tmp_path)


MUTANTS = {  # text of rtl/result.py, what it becomes
    "one job too many": ("next_jobs != PENDING_JOBS", "next_jobs != PENDING_JOBS + 1"),
    "registers free too early": (
        "sums_latency(self._accelerator.array.dk)",
        "sums_latency(self._accelerator.array.dk) + 2",
    ),
    "registers free only when empty": ("column & frees", "column & ~begun & last_column"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_proof_fails_for_a_wrong_result_stage(tmp_path: Path, machine, mutant: str) -> None:
    module = mutant_of(rtl.result, *MUTANTS[mutant])
    with pytest.raises(AssertionError, match="proof failed within"):
        reach(ResultProof(machine(dn=RESULT_COLUMNS), module), tmp_path)
