"""Jobs on the simulator: what comes back, and what is said when the machine misbehaves."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest

from codesign.lowering import POISON, LoweredLayer, lower
from codesign.sampling import random_operands
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.instruction import ERROR_ILLEGAL_INSTRUCTION, ERROR_NONE, FIELDS, INSTRUCTION_WORDS, encode
from hardware.registers import ErrorCode
from sim.run import CYCLE_LIMIT, Job, MachineError, simulate_jobs


@pytest.fixture(scope="module")
def lowered(tiny) -> LoweredLayer:
    """Some layer with one pass."""
    return lower(random_operands(np.random.default_rng(1), tiny, 0), tiny)


def job_of(lowered: LoweredLayer, cycle_limit: int = 100_000, **fields: int) -> Job:
    """The layer's job, with other values in some fields of its instruction."""
    image = lowered.image.copy()
    word, position = sum(int(w) << (64 * i) for i, w in enumerate(image[:INSTRUCTION_WORDS])), 0
    values = {}
    for name, bits in FIELDS.items():
        values[name] = word >> position & ((1 << bits) - 1)
        position += bits
    image[:INSTRUCTION_WORDS] = encode(values | fields)
    return Job(image, 0, lowered.result_address, lowered.result_words, cycle_limit)


def test_jobs_run_one_after_the_other_and_report_progress(tiny, lowered):
    counts: list[int] = []
    jobs = [job_of(lowered), job_of(lowered, opcode=9), job_of(lowered)]
    simulated = simulate_jobs(jobs, tiny, progress=counts.append)
    assert [outcome.error for outcome in simulated.outcomes] == [ERROR_NONE, ERROR_ILLEGAL_INSTRUCTION, ERROR_NONE]
    first, stopped, last = simulated.outcomes
    assert first.cycles == last.cycles == layer_cycles(lowered.schedule)
    assert (first.results == last.results).all()
    assert len(first.results) == lowered.result_words
    assert (stopped.results == POISON).all()
    assert simulated.cycles == first.cycles + stopped.cycles + last.cycles
    assert simulated.seconds > 0
    assert counts == sorted(counts)
    assert counts[-1] == 3


def test_a_program_may_lie_anywhere(tiny, lowered):
    room = np.zeros(100, dtype=np.uint64)
    image = np.concatenate([lowered.image, room, lowered.image[:INSTRUCTION_WORDS]])
    moved = Job(image, len(image) - INSTRUCTION_WORDS, lowered.result_address, lowered.result_words)
    (there,) = simulate_jobs([moved], tiny).outcomes
    (here,) = simulate_jobs([job_of(lowered, cycle_limit=CYCLE_LIMIT)], tiny).outcomes
    assert (there.results == here.results).all()
    assert there.cycles == here.cycles


def test_a_result_that_is_never_written_stays_poison(tiny):
    lowered = lower(random_operands(np.random.default_rng(8), tiny, 0), tiny)
    plan = lowered.schedule.passes[0]
    assert plan.row_tiles * plan.column_tiles > 1
    last = plan.column_tiles - (plan.groups - 1) * plan.group_tiles
    one_less = (
        {"last_group_tiles": last - 1}
        if last > 1
        else {"groups": plan.groups - 1, "last_group_tiles": plan.group_tiles}
    )
    whole, cut = simulate_jobs([job_of(lowered), job_of(lowered, **one_less)], tiny).outcomes
    missing = plan.dn * plan.row_tiles * plan.dm // 2  # the tile before now counts as the last, with its columns
    assert (whole.results != POISON).all()
    assert (cut.results[-missing:] == POISON).all()
    assert (cut.results != POISON).any()


@pytest.mark.parametrize(
    ("fields", "limit"), [({}, 20), ({"rhs_tile_entries": 2000}, 5000)], ids=["too slow", "deadlock"]
)
def test_a_machine_that_does_not_end_is_reported_with_the_job_and_the_limit(tiny, lowered, fields, limit):
    jobs = [job_of(lowered), job_of(lowered, cycle_limit=limit, **fields), job_of(lowered)]
    with pytest.raises(MachineError, match=rf"job 1: the machine did not end within {limit} cycles"):
        simulate_jobs(jobs, tiny)


@pytest.mark.parametrize("field", ["lhs_base", "port_0_start", "result_base"])
def test_an_address_beyond_the_memory_stops_the_machine_and_the_next_job_runs(tiny, lowered, field):
    jobs = [job_of(lowered), job_of(lowered, **{field: 0xF000_0000}), job_of(lowered)]
    whole, stopped, again = simulate_jobs(jobs, tiny).outcomes
    assert stopped.error == ErrorCode.ADDRESS_RANGE
    assert stopped.error_address >= 0xF000_0000
    assert (whole.error, again.error) == (ErrorCode.NONE, ErrorCode.NONE)
    assert (whole.results == again.results).all()


def test_a_simulator_that_dies_is_reported_with_its_log(tiny, lowered):
    job = replace(job_of(lowered), cycle_limit=1 << 60)  # more than the bench's signal holds
    with pytest.raises(InputError, match="the simulator ended without results: "):
        simulate_jobs([job], tiny)


def test_waves_are_written_on_demand_and_change_nothing(tiny, lowered, tmp_path):
    (plain,) = simulate_jobs([job_of(lowered)], tiny).outcomes
    assert not list(tmp_path.iterdir())
    (traced,) = simulate_jobs([job_of(lowered)], tiny, waves=tmp_path / "new" / "waves.vcd").outcomes
    header, changes = (tmp_path / "new" / "waves.vcd").read_text().split("$enddefinitions", 1)
    assert "engine" in header
    assert changes.count("\n#") >= 2 * plain.cycles  # a time stamp for every clock edge
    assert (traced.results == plain.results).all()
    assert traced.cycles == plain.cycles


def lz4_is_installed() -> bool:
    """Verilator's FST writer includes its header."""
    command = ["g++", "-x", "c++", "-fsyntax-only", "-"]
    return not subprocess.run(command, input="#include <lz4.h>", text=True, capture_output=True).returncode


@pytest.mark.slow
def test_fst_waves_are_written_or_the_missing_package_is_named(tiny, lowered, tmp_path):
    waves = tmp_path / "waves.fst"
    if lz4_is_installed():
        simulate_jobs([job_of(lowered)], tiny, waves=waves)
        assert waves.stat().st_size > 1000
    else:
        with pytest.raises(InputError, match=r"apt-get install liblz4-dev.*\.vcd"):
            simulate_jobs([job_of(lowered)], tiny, waves=waves)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file/waves.vcd", r"cannot write .*waves\.vcd"),
        ("waves", r"waves go to a \.vcd, \.fst or \.saif file, got .*waves"),
        ("waves.txt", r"waves go to a \.vcd, \.fst or \.saif file, got .*waves\.txt"),
    ],
)
def test_waves_that_cannot_be_written_are_refused_before_the_build(
    tiny, lowered, tmp_path, monkeypatch, place, message
):
    def refuse(*arguments):
        raise AssertionError("built")

    monkeypatch.setattr("sim.run.build_simulator", refuse)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=message):
        simulate_jobs([job_of(lowered)], tiny, waves=tmp_path / place)
