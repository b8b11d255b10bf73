"""Random layers while every channel of the bus hesitates at random: exact outputs, no hang."""

import numpy as np
import pytest

from codesign.lowering import lower
from codesign.sampling import random_operands
from hardware.cycles import layer_cycles
from sim.job import Job, Stalls
from sim.reference import reference_sums
from sim.run import simulate_jobs

ALL = {"ar": 128, "r": 128, "aw": 128, "w": 128, "b": 128}


def check(accelerator, seed: int, count: int, **stalls: int) -> None:
    """Random layers are exact and take longer than without stalls."""
    rng = np.random.default_rng(seed)
    work = [random_operands(rng, accelerator, number) for number in range(count)]
    lowered = [lower(operands, accelerator) for operands in work]
    model = [layer_cycles(one.schedule) for one in lowered]
    jobs = [
        Job(
            *(one.image, 0, one.result_address, one.result_words),
            cycle_limit=100 * cycles + 100_000,
            write_range=(one.result_address, one.result_address + one.result_words),
            stalls=Stalls(**stalls, seed=seed * 1000 + number),
        )
        for number, (one, cycles) in enumerate(zip(lowered, model, strict=True))
    ]
    outcomes = simulate_jobs(jobs, accelerator).outcomes
    for operands, one, outcome, cycles in zip(work, lowered, outcomes, model, strict=True):
        assert outcome.error == 0
        assert (one.outputs(outcome.results) == reference_sums(operands)).all(), operands.layer
        assert outcome.cycles >= cycles
    assert sum(outcome.cycles for outcome in outcomes) > sum(model), "nothing stalled"


@pytest.mark.parametrize("channel", ["ar", "r", "aw", "w", "b"])
def test_one_hesitating_channel_changes_nothing_but_time(tiny, channel):
    check(tiny, 1, 6, **{channel: 240})


@pytest.mark.parametrize("seed", [2, 3])
def test_all_channels_hesitating_change_nothing_but_time(smallest, seed):
    check(smallest, seed, 15, **ALL)


def test_small_buffers_and_all_channels_hesitating(machine):
    check(machine(lhs_entries=32, rhs_entries=64), 4, 10, **ALL)


@pytest.mark.slow  # compiles a machine with four ports
def test_ports_that_hesitate_each_on_its_own(machine):
    check(machine(dm=4, dn=4, ports=4), 5, 20, **ALL)
