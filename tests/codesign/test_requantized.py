"""Single layers that write values, planes or both: exact on the machine, and a wrong one is found."""

from dataclasses import replace

import numpy as np
import pytest

from codesign.requantized import RequantizedLayer, lower_requantized, random_rules
from codesign.sampling import random_operands
from hardware.accelerator import Accelerator
from hardware.arithmetic import SHIFTS, Requantization
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.instruction import SEGMENTS
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.passes import Output
from sim.job import Job, Stalls
from sim.reference import reference_sums
from sim.run import simulate_jobs

OUTPUTS = [Output(values=True), Output(plane_bits=3), Output(values=True, plane_bits=8), Output(plane_bits=1)]


def run(lowered: list[RequantizedLayer], accelerator: Accelerator, stalls: Stalls | None = None) -> list[np.ndarray]:
    """Results of layers that take their time: what the model says, and longer where the channels hesitate."""
    jobs = [
        Job(
            one.image,
            0,
            one.result_address,
            one.result_words,
            1 << 20,
            write_range=(one.result_address, len(one.image)),
            stalls=stalls or Stalls(),
        )
        for one in lowered
    ]
    outcomes = simulate_jobs(jobs, accelerator).outcomes
    for one, outcome in zip(lowered, outcomes, strict=True):
        assert outcome.error == 0
        cycles = layer_cycles(one.schedule)
        assert outcome.cycles > cycles if stalls else outcome.cycles == cycles, one.schedule.layer
    return [outcome.results for outcome in outcomes]


@pytest.fixture(scope="module")
def ran(smallest) -> list[tuple[Operands, RequantizedLayer, np.ndarray]]:
    """Random layers, a quarter of them bipolar and a quarter of several widths, and their results."""
    rng = np.random.default_rng(3)
    drawn = [random_operands(rng, smallest, number) for number in range(24)]
    work, lowered = [], []
    for number, operands in enumerate(drawn):
        output = OUTPUTS[number % len(OUTPUTS)]
        rules = random_rules(rng, operands, reference_sums(operands), output.plane_bits)
        try:
            one = lower_requantized(operands, smallest, output, rules, in_order=bool(number // 4 % 2))
        except InputError:  # weights that fill their buffer and leave no room for the constants
            continue
        work.append(operands)
        lowered.append(one)
    assert len(work) > 20
    return list(zip(work, lowered, run(lowered, smallest), strict=True))


def test_values_and_planes_are_exact(ran, smallest):
    for operands, lowered, results in ran:
        sums = reference_sums(operands)
        per_output = bool(lowered.values) + bool(lowered.planes)
        assert lowered.count_mismatches(results, sums) == (per_output * sums.size, 0), operands.layer
    kinds = {"bipolar": any(operands.bipolar for operands, _, _ in ran) or smallest.traits.packed}
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


def pointwise(integers, rng: np.random.Generator, inputs: int, kernels: int, height: int, width: int) -> Operands:
    layer = Layer("pointwise", "conv", inputs, kernels, height, width)
    weights = integers(rng, (kernels, inputs, 1, 1), 3, True)
    return Operands(layer, weights, integers(rng, (1, inputs, height, width), 3, False), (3,) * kernels, 3)


@pytest.mark.parametrize("channel", ["w", "b", "r"])
def test_values_and_planes_are_exact_while_a_channel_hesitates(ran, smallest, integers, channel):
    both = [(operands, lowered) for operands, lowered, _ in ran if lowered.values and lowered.planes]
    # Tiles with so much to write that both that may be pending have their planes before the first one's values are out.
    rng = np.random.default_rng(8)
    operands = pointwise(integers, rng, 5, 2, 4, 5)
    rules = random_rules(rng, operands, reference_sums(operands), 8)
    both.append((operands, lower_requantized(operands, smallest, Output(values=True, plane_bits=8), rules)))
    results = run([lowered for _, lowered in both], smallest, Stalls(**{channel: 248}, seed=1))
    for (operands, lowered), words in zip(both, results, strict=True):
        assert lowered.count_mismatches(words, reference_sums(operands))[1] == 0, operands.layer


def test_a_layer_of_all_nine_widths_is_exact(tiny, integers):
    rng, widths = np.random.default_rng(9), tuple(range(9)) * 4
    operands = pointwise(integers, rng, 5, len(widths), 2, 2)
    weights = np.stack([integers(rng, (5, 1, 1), bits, True) if bits else np.zeros((5, 1, 1), int) for bits in widths])
    operands = replace(operands, weights=weights, weight_bits=widths)
    rules = random_rules(rng, operands, reference_sums(operands), 4)
    one = lower_requantized(operands, tiny, Output(values=True, plane_bits=4), rules, in_order=False)
    assert len(one.schedule.passes[0].segments) == SEGMENTS
    (results,) = run([one], tiny)
    assert one.count_mismatches(results, reference_sums(operands))[1] == 0


def test_channels_that_are_not_there_are_zero_in_all_planes(tiny, integers):
    # What the layer before left in the plane buffer must not be seen.
    rng = np.random.default_rng(4)
    work = [pointwise(integers, rng, 5, kernels, 2, 3) for kernels in (128, *range(63, 0, -1))]
    lowered = []
    for operands in work:
        rules = random_rules(rng, operands, reference_sums(operands), 8)
        lowered.append(lower_requantized(operands, tiny, Output(plane_bits=8), rules))
    for operands, one, results in zip(work, lowered, run(lowered, tiny), strict=True):
        assert one.count_mismatches(results, reference_sums(operands))[1] == 0, operands.layer


@pytest.mark.parametrize("shift", SHIFTS)
def test_sums_at_and_just_below_the_next_value_are_exact(tiny, integers, shift):
    rng = np.random.default_rng(shift)
    work, lowered = [], []
    for _ in range(4):
        operands = pointwise(integers, rng, 40, 64, 2, 4)
        sums = reference_sums(operands)[0].reshape(64, -1)
        # A kernel's bias brings one of its sums to a value's end, or one below; each to both rows of the array.
        multiplier = rng.integers(1, 1 << 15, size=64) << (shift - 16)
        chosen = sums[np.arange(64), rng.integers(sums.shape[1], size=64)]
        below = np.arange(64) // tiny.array.dm % 2
        bias = -(chosen * (multiplier >> (shift - 16))) % (1 << 16) - below
        rules = replace(
            random_rules(rng, operands, reference_sums(operands), 8),
            requantization=Requantization(multiplier, bias + (rng.integers(-50, 50, size=64) << 16), shift),
            relu=False,
        )
        work.append(operands)
        lowered.append(lower_requantized(operands, tiny, Output(values=True, plane_bits=8), rules))
    for operands, one, results in zip(work, lowered, run(lowered, tiny), strict=True):
        assert one.count_mismatches(results, reference_sums(operands))[1] == 0, operands.layer
