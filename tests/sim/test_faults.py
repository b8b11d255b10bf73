"""Whatever goes wrong, the machine stops in a defined state, says why, and runs the next program right."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from codesign.lowering import LoweredLayer, lower
from codesign.sampling import random_operands
from hardware.cycles import layer_cycles
from hardware.registers import REGISTERS, ErrorCode
from rtl.verilog import rtl_hash
from sim.job import RESPONSES, BusError, BusStop, Intrusion, Job, Outcome, Stalls
from sim.reference import reference_sums
from sim.run import MachineError, simulate_jobs

BITS = {field.name: field.mask for register in REGISTERS if register.name == "status" for field in register.fields}
DONE, ERROR = BITS["done"], BITS["error"]
STOPPING = BITS["busy"] | BITS["resetting"] | ERROR


@pytest.fixture(scope="module")
def program(smallest) -> tuple[LoweredLayer, np.ndarray]:
    """A layer of several tiles, and its sums."""
    rng = np.random.default_rng(5)
    while True:
        operands = random_operands(rng, smallest, 0)
        lowered = lower(operands, smallest)
        if 2000 < layer_cycles(lowered.schedule) < 6000 and lowered.result_words > 50:
            return lowered, reference_sums(operands)


STEPS: dict[str, Callable[[int], int]] = {
    "bit_serial": lambda bits: bits,  # every activation plane
    "serial_weight": lambda bits: 1,  # all of them at once
    "bit_fusion": lambda bits: bits // 2,  # every digit, two of the weights' bits at once
}
"""Array steps for 64 weight bits of a kernel, by activation bits, on an array of 64."""
CHANNELS = ("AR", "R", "AW", "W", "B")
SLOW = {"ar": 60, "r": 100, "aw": 100, "w": 100, "b": 200}
RESETS = (0, 1, 30, 55, 700, 1111)  # cycles after the start: before the first word, among words, among steps


def disturbances(lowered: LoweredLayer) -> dict[str, dict]:
    """What is changed in the job, by name."""
    illegal = lowered.image.copy()
    illegal[0] ^= np.uint64(0x80)
    last = lowered.result_words  # 2x64x2: every word of sums is a burst of its own
    changes: dict[str, dict] = {
        f"read {burst} {response}": {"bus_error": BusError("read", burst, response)}
        for burst in (1, 2, 9, 30)
        for response in RESPONSES
    }
    changes |= {
        f"write {burst} {response}": {"bus_error": BusError("write", burst, response)}
        for burst in (1, 20, last)
        for response in RESPONSES
    }
    changes |= {
        f"{access} error among stalls": {"bus_error": BusError(access, 12, "SLVERR"), "stalls": Stalls(**SLOW, seed=3)}
        for access in ("read", "write")
    }
    for channel in CHANNELS:
        stop = BusStop(channel, at=600, cycles=8000)
        changes[f"{channel} stops"] = {"bus_stop": stop}
        changes[f"{channel} stops, watched"] = {"bus_stop": stop, "watchdog": 500}
    changes |= {f"soft reset {at}": {"intrusion": Intrusion("soft reset", at)} for at in RESETS}
    changes |= {
        f"soft reset among stalls {seed}": {
            "intrusion": Intrusion("soft reset", 1500 + 13 * seed),
            "stalls": Stalls(**SLOW, seed=seed),
        }
        for seed in range(4)
    }
    return changes | {
        "nothing": {},
        "no error after the last": {"bus_error": BusError("write", last + 1, "SLVERR")},
        "illegal": {"image": illegal},
        "no room": {"memory_words": lowered.result_address},
        "no program": {"program_address": len(lowered.image) - 3},
        "start": {"intrusion": Intrusion("start", 700)},
        "start and error": {"intrusion": Intrusion("start", 100), "bus_error": BusError("read", 30, "SLVERR")},
        "slow writes": {"stalls": Stalls(w=200)},
    }


@pytest.fixture(scope="module")
def outcomes(smallest, program) -> dict[str, tuple[Outcome, Outcome]]:
    """By name: the disturbed job, and the undisturbed one that runs behind it without a reset."""
    lowered, sums = program
    cycles = layer_cycles(lowered.schedule)
    plain = Job(lowered.image, 0, lowered.result_address, lowered.result_words, cycle_limit=20 * cycles)
    changes = disturbances(lowered)
    jobs = [job for one in changes.values() for job in (replace(plain, **one), replace(plain, reset=False))]
    done = simulate_jobs(jobs, smallest).outcomes
    for name, after in zip(changes, done[1::2], strict=True):
        assert after.error == ErrorCode.NONE, name
        assert after.status == DONE, name
        assert (lowered.outputs(after.results) == sums).all(), f"{name}: the next program is wrong"
        assert after.cycles == cycles, f"{name}: the next program is slower or faster"
    return dict(zip(changes, zip(done[::2], done[1::2], strict=True), strict=True))


def check_stopped(outcome: Outcome, code: ErrorCode, cycles: int) -> None:
    """Ended by an error, within so many cycles; nothing is left running."""
    assert outcome.error == code
    assert outcome.status == DONE | ERROR
    assert 0 < outcome.cycles < cycles


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("burst", [1, 2, 9, 30])
def test_a_read_error_stops_the_program(outcomes, burst, response):
    outcome, after = outcomes[f"read {burst} {response}"]
    check_stopped(outcome, ErrorCode.READ_ERROR, after.cycles)
    assert outcome.error_address == 0


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("burst", [1, 20, "last"])
def test_a_write_error_stops_the_program(outcomes, program, burst, response):
    last = program[0].result_words
    outcome, after = outcomes[f"write {last if burst == 'last' else burst} {response}"]
    check_stopped(outcome, ErrorCode.WRITE_ERROR, after.cycles + (burst == "last"))


def test_an_error_that_never_comes_stops_nothing(outcomes):
    assert outcomes["no error after the last"][0].error == ErrorCode.NONE


def test_an_error_while_other_words_are_on_their_way_leaves_nothing_behind(outcomes):
    for access, code in (("read", ErrorCode.READ_ERROR), ("write", ErrorCode.WRITE_ERROR)):
        outcome, _ = outcomes[f"{access} error among stalls"]
        assert (outcome.error, outcome.status) == (code, DONE | ERROR)


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_channel_that_stops_for_a_while_is_told_by_the_watchdog(outcomes, channel):
    outcome, after = outcomes[f"{channel} stops, watched"]
    check_stopped(outcome, ErrorCode.TIMEOUT, after.cycles + 501)
    assert outcome.first_status == STOPPING, "it must say that it waits for the bus"


@pytest.mark.parametrize("channel", CHANNELS)
def test_without_a_watchdog_a_channel_that_stops_for_a_while_only_costs_time(outcomes, program, channel):
    lowered, sums = program
    outcome, after = outcomes[f"{channel} stops"]
    assert outcome.status == DONE
    assert (lowered.outputs(outcome.results) == sums).all()
    assert after.cycles < outcome.cycles < after.cycles + 8100


def test_a_channel_that_never_comes_back_leaves_the_machine_resetting(smallest, program):
    lowered, _ = program
    job = Job(lowered.image, 0, lowered.result_address, lowered.result_words, cycle_limit=20_000)
    dead = [replace(job, watchdog=500, bus_stop=BusStop(channel, at=600), may_hang=True) for channel in CHANNELS]
    outcomes = simulate_jobs([*dead, job], smallest).outcomes
    for outcome in outcomes[:-1]:
        assert outcome.hung
        assert outcome.error == ErrorCode.TIMEOUT
        assert outcome.first_status == outcome.status == STOPPING
    assert (outcomes[-1].hung, outcomes[-1].error, outcomes[-1].status) == (False, ErrorCode.NONE, DONE)
    with pytest.raises(MachineError, match="job 1: the machine did not end within 20000 cycles"):
        simulate_jobs([job, replace(dead[0], may_hang=False)], smallest)


def test_an_illegal_instruction_is_named_by_its_index(outcomes):
    outcome, _ = outcomes["illegal"]
    assert (outcome.error, outcome.error_instruction) == (ErrorCode.ILLEGAL_INSTRUCTION, 0)
    assert outcome.status == DONE | ERROR


def test_an_address_out_of_range_is_named(outcomes, program):
    lowered, _ = program
    outcome, after = outcomes["no room"]
    check_stopped(outcome, ErrorCode.ADDRESS_RANGE, after.cycles)
    assert outcome.error_address == lowered.result_address
    outcome, after = outcomes["no program"]
    check_stopped(outcome, ErrorCode.ADDRESS_RANGE, after.cycles)
    assert outcome.error_address == len(lowered.image) - 3


def test_a_start_while_busy_is_reported_and_disturbs_nothing(outcomes, program):
    lowered, sums = program
    outcome, after = outcomes["start"]
    assert outcome.error == ErrorCode.START_WHILE_BUSY
    assert outcome.status == DONE | ERROR
    assert (lowered.outputs(outcome.results) == sums).all()
    assert outcome.cycles == after.cycles


def test_what_stops_the_program_is_more_important_than_a_start_while_busy(outcomes):
    outcome, after = outcomes["start and error"]
    check_stopped(outcome, ErrorCode.READ_ERROR, after.cycles)


def test_a_soft_reset_in_the_middle_ends_the_program_without_an_error(outcomes):
    for at in RESETS:
        outcome, after = outcomes[f"soft reset {at}"]
        assert (outcome.error, outcome.status) == (ErrorCode.NONE, DONE)
        assert outcome.cycles < after.cycles
    for seed in range(4):
        outcome, _ = outcomes[f"soft reset among stalls {seed}"]
        assert (outcome.error, outcome.status) == (ErrorCode.NONE, DONE)


def test_a_write_outside_the_programs_range_is_found(smallest, program):
    lowered, _ = program
    low, words = lowered.result_address, lowered.result_words
    job = Job(lowered.image, 0, low, words, write_range=(low, low + words))
    simulate_jobs([job], smallest)  # exactly this range is written
    for narrow in ((low + 1, low + words), (low, low + words - 1)):
        with pytest.raises(MachineError, match="job 0: the machine wrote outside the range"):
            simulate_jobs([replace(job, write_range=narrow)], smallest)


def test_counters_say_what_the_program_did(smallest, outcomes, program):
    lowered, _ = program
    outcome, _ = outcomes["nothing"]
    passes = lowered.schedule.passes
    steps = sum(
        bits * STEPS[smallest.kind](one.activation_bits) * one.window_words * tiles * one.column_tiles
        for one in passes
        for bits, tiles in one.segments
    )
    counters = outcome.counters
    assert counters["array_steps"] == steps
    assert steps <= counters["execute_busy"] < outcome.cycles
    assert 0 < counters["fetch_busy"] < outcome.cycles
    assert lowered.result_words <= counters["result_busy"] < outcome.cycles
    assert 0 < counters["read_stall"] < outcome.cycles
    assert counters["write_stall"] == 0  # the memory takes a word in every cycle
    assert outcome.build_hash == int(rtl_hash(smallest), 16)
    slow, _ = outcomes["slow writes"]
    assert slow.counters["write_stall"] > lowered.result_words
    assert slow.counters["array_steps"] == steps
