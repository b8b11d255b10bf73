"""The whole simulated machine against the integer reference and, to the cycle, against the cycle model."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from codesign.execution import LayerResult, run_on_rtl
from codesign.sampling import random_operands
from hardware.accelerator import Accelerator, Memory, load_accelerator
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.schedule import schedule
from sim.reference import integer_convolution

MEMORIES = [(0, 1), (1, 1), (0, 7), (200, 1), (33, 3), (1000, 64)]  # latency, cycles per word


@pytest.fixture(scope="module")
def small_buffers(machine) -> Accelerator:
    """Few layers find all their weights resident here."""
    return machine(lhs_entries=32, rhs_entries=48)


@pytest.fixture(scope="module")
def draw() -> Callable[..., list[Operands]]:
    def operands(accelerator: Accelerator, seed: int, count: int) -> list[Operands]:
        rng = np.random.default_rng(seed)
        return [random_operands(rng, accelerator, number) for number in range(count)]

    return operands


@pytest.fixture(scope="module")
def by_kernel() -> Callable[[np.random.Generator, Operands], Operands]:
    """The same layer with a random width for every kernel, 0 (pruned) among them."""

    def rewrite(rng: np.random.Generator, operands: Operands) -> Operands:
        bits = rng.integers(0, operands.weight_bits[0] + 1, size=operands.layer.out_channels)
        weights = operands.weights >> (operands.weight_bits[0] - bits)[:, None, None, None]
        weights[bits == 0] = 0
        return replace(operands, weights=weights, weight_bits=tuple(int(b) for b in bits))

    return rewrite


def check(work: list[Operands], results: tuple[LayerResult, ...]) -> None:
    """No wrong output and no wrong cycle."""
    assert len(work) == len(results)
    for operands, result in zip(work, results, strict=True):
        expected = integer_convolution(operands.weights, operands.activations, operands.layer)
        assert result.outputs.dtype == np.int64
        assert (result.outputs == expected).all(), operands.layer
        assert result.rtl_cycles == result.model_cycles, operands.layer


def runnable(operands: Operands, accelerator: Accelerator) -> tuple:
    """The passes of a layer."""
    return schedule(operands.layer, operands.weight_bits, operands.activation_bits, accelerator).passes


@pytest.mark.parametrize(("latency", "cycles_per_word"), MEMORIES)
def test_random_layers_are_exact_behind_any_memory(tiny, draw, latency, cycles_per_word):
    work = draw(tiny, 1000 * latency + cycles_per_word, 10)
    memory = Memory(latency=latency, cycles_per_word=cycles_per_word)
    check(work, run_on_rtl(work, tiny, memory).layers)


@pytest.mark.parametrize(("latency", "cycles_per_word"), MEMORIES[:5])
def test_layers_that_stream_their_weights_are_exact(small_buffers, draw, latency, cycles_per_word):
    work = draw(small_buffers, latency + cycles_per_word, 25)
    plans = [runnable(operands, small_buffers)[0] for operands in work]
    assert sum(not plan.lhs_resident for plan in plans) >= 3
    assert any(plan.group_tiles < plan.column_tiles and not plan.lhs_resident for plan in plans)
    assert any(plan.lhs_resident for plan in plans)
    check(work, run_on_rtl(work, small_buffers, Memory(latency=latency, cycles_per_word=cycles_per_word)).layers)


@pytest.mark.parametrize(("latency", "cycles_per_word"), MEMORIES[:5])
def test_kernels_of_different_widths_are_exact(small_buffers, draw, by_kernel, latency, cycles_per_word):
    rng = np.random.default_rng(latency)
    work = [by_kernel(rng, operands) for operands in draw(small_buffers, 77, 12)]
    assert max(len(runnable(operands, small_buffers)) for operands in work) >= 4
    assert any(0 in operands.weight_bits for operands in work)
    check(work, run_on_rtl(work, small_buffers, Memory(latency=latency, cycles_per_word=cycles_per_word)).layers)


@pytest.mark.parametrize(
    ("latency", "cycles_per_word"),
    [
        (0, 12),
        (0, 16),
        (0, 64),
        (3, 64),
    ],
)
def test_a_pass_that_follows_while_the_read_channel_is_still_taken_is_exact(
    tiny, integers, draw, by_kernel, latency, cycles_per_word
):
    # The last words of the first pass are computed with and written before their time on the channel is over.
    layer = Layer("short", "linear", in_channels=10, out_channels=3)
    rng = np.random.default_rng(0)
    weights = np.stack([integers(rng, (10, 1, 1), bits, True) for bits in (1, 2, 3)])
    work = [Operands(layer, weights, integers(rng, (1, 10, 1, 1), 1, False), (1, 2, 3), 1)]
    work += [by_kernel(rng, operands) for operands in draw(tiny, 9, 6)]
    check(work, run_on_rtl(work, tiny, Memory(latency=latency, cycles_per_word=cycles_per_word)).layers)


def test_a_pruned_layer_is_zero_and_free_between_others(tiny, draw):
    first, second = draw(tiny, 5, 2)
    pruned = replace(first, weights=0 * first.weights, weight_bits=(0,) * first.layer.out_channels)
    work = [first, pruned, second]
    results = run_on_rtl(work, tiny).layers
    check(work, results)
    assert (results[1].rtl_cycles, results[1].outputs.any()) == (0, False)
    alone = run_on_rtl([pruned], tiny)
    check([pruned], alone.layers)
    assert (alone.rtl_cycles, alone.seconds) == (0, 0.0)


@pytest.mark.parametrize("value", ["least", "most"])
@pytest.mark.parametrize("signed", [False, True])
def test_the_extreme_integers_are_exact(tiny, value, signed):
    layer = Layer("extreme", "linear", in_channels=640, out_channels=3, images=3, signed_activations=signed)
    low, high = (-128, 127) if signed else (0, 255)
    constant = low if value == "least" else high
    weights, activations = np.full((3, 640, 1, 1), constant), np.full((3, 640, 1, 1), constant)
    work = [Operands(layer, weights, activations, (8, 8, 8), 8, signed_weights=signed)]
    (result,) = run_on_rtl(work, tiny).layers
    assert (result.outputs == 640 * constant**2).all()
    check(work, (result,))


def test_two_runs_are_equal_bit_for_bit(tiny, draw):
    work = draw(tiny, 3, 4)
    one, two = run_on_rtl(work, tiny), run_on_rtl(work, tiny)
    for first, second in zip(one.layers, two.layers, strict=True):
        assert (first.outputs == second.outputs).all()
        assert first.rtl_cycles == second.rtl_cycles
    assert one.rtl_cycles == sum(layer.rtl_cycles for layer in one.layers) > 0
    assert one.cycles_per_second == one.rtl_cycles / one.seconds


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"dk": 128, "dn": 3}, {"dm": 4, "dk": 256}, {"dm": 6, "dn": 1}, {"dk": 512}], ids=str
)
def test_odd_arrays_are_exact(machine, draw, by_kernel, changes):
    accelerator = machine(**{"lhs_entries": 48, "rhs_entries": 64} | changes)
    rng = np.random.default_rng(0)
    work = draw(accelerator, 11, 30)
    work += [by_kernel(rng, operands) for operands in work[:10]]
    for memory in (Memory(latency=0, cycles_per_word=1), Memory(latency=33, cycles_per_word=3)):
        check(work, run_on_rtl(work, accelerator, memory).layers)


@pytest.mark.slow
def test_the_preset_with_bismos_array_is_exact(draw):
    accelerator = load_accelerator("bitserial-small")
    work = draw(accelerator, 0, 15)
    check(work, run_on_rtl(work, accelerator).layers)
