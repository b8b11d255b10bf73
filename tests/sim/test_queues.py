"""Cycles where a queue is full: tiles between the halves of the fetch stage, words on their way to memory."""

from collections.abc import Callable

import numpy as np
import pytest

from codesign.execution import run_on_rtl
from hardware import cycles
from hardware.accelerator import Accelerator, Memory
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.schedule import schedule
from sim.reference import reference_sums


@pytest.fixture(scope="module")
def check(integers) -> Callable[..., tuple[int, Callable[[], int]]]:
    """Runs a layer of 1-bit weights and activations: the cycles, and what counts them anew."""

    def run(layer: Layer, accelerator: Accelerator, memory: Memory) -> tuple[int, Callable[[], int]]:
        rng = np.random.default_rng(layer.images)
        weights = integers(rng, (layer.out_channels, layer.in_channels, *layer.kernel), 1, True)
        activations = integers(rng, (layer.images, layer.in_channels, layer.in_height, layer.in_width), 1, False)
        work = Operands(layer, weights, activations, (1,) * layer.out_channels, 1)
        (result,) = run_on_rtl([work], accelerator, memory).layers
        assert (result.outputs == reference_sums(work)).all()
        assert result.rtl_cycles == result.model_cycles
        plan = schedule(layer, 1, 1, accelerator)
        assert result.rtl_cycles == cycles.layer_cycles(plan, memory)
        return result.rtl_cycles, lambda: cycles.layer_cycles(plan, memory)

    return run


TINY_TILES = {
    "one word a column": Layer("fc", "linear", 64, 2, images=120),
    "three words a column": Layer("fc", "linear", 150, 2, images=110),
    "two requests a column": Layer("conv", "conv", 40, 2, 2, 160, kernel=(2, 1)),
}


@pytest.mark.parametrize("layer", TINY_TILES.values(), ids=TINY_TILES)
@pytest.mark.parametrize("cycles_per_word", [1, 3])
def test_tiles_that_wait_for_the_queue_of_fetch_are_exact(monkeypatch, tiny, check, layer, cycles_per_word):
    memory = Memory(latency=900, cycles_per_word=cycles_per_word)
    taken, model = check(layer, tiny, memory)
    longer = cycles.LATENCIES._replace(tile_queue=2 * cycles.LATENCIES.tile_queue)
    monkeypatch.setattr(cycles, "LATENCIES", longer)
    assert model() < taken, "the queue was never full"


@pytest.mark.parametrize("cycles_per_word", [2, 3])
def test_long_writes_to_a_slow_memory_are_exact(machine, check, cycles_per_word):
    accelerator = machine(dm=4, dn=4, dk=128, ports=4, lhs_entries=256, rhs_entries=256, plane_words=16)
    layer = Layer("fc", "linear", 64, 40, images=40)
    taken, _ = check(layer, accelerator, Memory(ports=4, latency=5, cycles_per_word=cycles_per_word))
    words = layer.images * layer.out_channels // 2
    assert words * cycles_per_word < taken < words * cycles_per_word + 400  # the writes set the pace
