"""Single layers that write values, planes or both: exact on the machine, and a wrong one is found."""

from dataclasses import replace

import numpy as np
import pytest

from codesign.requantized import RequantizedLayer, lower_requantized, random_rules
from codesign.sampling import random_operands
from hardware.cycles import layer_cycles
from hardware.operands import Operands
from hardware.schedule import Output
from sim.job import Job
from sim.reference import reference_sums
from sim.run import simulate_jobs

OUTPUTS = [Output(values=True), Output(plane_bits=3), Output(values=True, plane_bits=8), Output(plane_bits=1)]


@pytest.fixture(scope="module")
def ran(tiny) -> list[tuple[Operands, RequantizedLayer, np.ndarray]]:
    """Random layers, a quarter of them bipolar and a quarter of several widths, and their results."""
    rng = np.random.default_rng(3)
    drawn = [random_operands(rng, tiny, number) for number in range(24)]
    lowered = []
    for number, operands in enumerate(drawn):
        output = OUTPUTS[number % len(OUTPUTS)]
        rules = random_rules(rng, operands, reference_sums(operands), output.plane_bits)
        lowered.append(lower_requantized(operands, tiny, output, rules, in_order=bool(number // 4 % 2)))
    jobs = [
        Job(
            one.image,
            0,
            one.result_address,
            one.result_words,
            1 << 20,
            write_range=(one.result_address, len(one.image)),
        )
        for one in lowered
    ]
    outcomes = simulate_jobs(jobs, tiny).outcomes
    for one, outcome in zip(lowered, outcomes, strict=True):
        assert outcome.error == 0
        assert outcome.cycles == layer_cycles(one.schedule), one.schedule.layer
    return [(*pair, outcome.results) for *pair, outcome in zip(drawn, lowered, outcomes, strict=True)]


def test_values_and_planes_are_exact(ran):
    for operands, lowered, results in ran:
        sums = reference_sums(operands)
        per_output = bool(lowered.values) + bool(lowered.planes)
        assert lowered.count_mismatches(results, sums) == (per_output * sums.size, 0), operands.layer
    kinds = {"bipolar": any(operands.bipolar for operands, _, _ in ran)}
    kinds["pruned"] = any(0 in operands.weight_bits for operands, _, _ in ran)
    kinds["passes"] = any(len(lowered.schedule.passes) > 1 for _, lowered, _ in ran)
    assert all(kinds.values()), kinds


def test_random_rules_use_the_range_and_leave_it(ran):
    values = np.concatenate([lowered.rules.values(reference_sums(operands)).ravel() for operands, lowered, _ in ran])
    assert (values.min(), values.max()) == (-(2**15), 2**15 - 1)
    assert 0.5 < (np.abs(values) < 2**15 - 1).mean() < 1


def test_one_wrong_bit_is_found(ran):
    for operands, lowered, results in ran:
        sums = reference_sums(operands)
        wrong = results.copy()
        wrong[0] ^= np.uint64(1 << 15)
        if lowered.values is not None or lowered.planes.border == (0, 0):
            assert lowered.count_mismatches(wrong, sums)[1] == 1
        if lowered.planes is not None:
            wrong = results.copy()
            wrong[-1] ^= np.uint64(1 << 63)  # a channel that is not used, or the border
            assert lowered.count_mismatches(wrong, sums)[1] == 1


def test_other_rules_give_other_results(ran):
    for operands, lowered, results in (one for one in ran if one[1].values is not None):
        sums = reference_sums(operands)
        other = replace(lowered, rules=replace(lowered.rules, relu=not lowered.rules.relu))
        assert other.count_mismatches(results, sums)[1] > 0
