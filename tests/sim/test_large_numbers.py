"""Counts and addresses that random layers do not reach: every bit that a legal program can need."""

from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest
import torch

from codesign.execution import run_on_rtl
from codesign.integers import IntegerNetwork
from codesign.lowering import lower
from codesign.program import build_program
from codesign.sampling import random_operands
from codesign.workload import load_workload, quantized_network
from hardware.accelerator import Accelerator
from hardware.cycles import layer_cycles
from hardware.instruction import FIELDS, INSTRUCTION_WORDS, MAX_PORTS, encode
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.schedule import schedule
from policies.policy import Policy
from sim.job import Job
from sim.reference import reference_sums
from sim.run import simulate_jobs

LAYERS = {
    "columns": Layer("columns", "linear", 3, 2, images=4001),
    "rows": Layer("rows", "linear", 3, 2200, images=3),
    "chunks": Layer("chunks", "linear", 64 * 500, 3, images=3),
    "wide": Layer("wide", "conv", 3, 2, 2, 2500, kernel=(1, 2)),
    "high": Layer("high", "conv", 3, 2, 2500, 2, kernel=(2, 1)),
    "wide window": Layer("wide window", "conv", 70, 2, 2, 260, kernel=(1, 255)),
    "high window": Layer("high window", "conv", 70, 2, 260, 2, kernel=(255, 1)),
    "far apart": Layer("far apart", "conv", 3, 2, 140, 140, kernel=(2, 2), dilation=(130, 135)),
    "deep": Layer("deep", "conv", 10_000, 2, 1, 5),
    "groups": Layer("groups", "conv", 900, 900, 1, 2, groups=900),
    "runs": Layer("runs", "conv", 3, 2, 2, 520, kernel=(1, 255), dilation=(1, 2)),
}
LONGEST = (  # layer, weight bits
    (Layer("widest", "conv", 3, 2, 1, 43_691), 1),
    (Layer("highest", "conv", 3, 2, 43_691, 1), 1),
    # Weights that do not stay in their buffer, so that many column tiles do: groups of 256, the last one of 20.
    (Layer("streamed", "linear", 128, 130, images=1576), 8),
)
APART = (
    Layer("dilated", "conv", 70, 3, 6, 6, kernel=(2, 3), dilation=(2, 2)),
    Layer("depthwise", "conv", 70, 70, 4, 4, kernel=(2, 3), groups=70),
)
"""Layers whose windows are no runs of whole kernel rows."""
BASES = ("lhs_base", "result_base", "plane_base", *(f"port_{port}_start" for port in range(MAX_PORTS)))
ORIGINS = (0x0AAA_AA00, 0x1555_5400)  # every bit of an address is 0 in one and 1 in the other


def operands_of(layer: Layer, bits: tuple[int, ...], activation_bits: int = 2) -> Operands:
    """Random integers, weights of one width for all or of one per kernel by turns."""
    rng, bits = np.random.default_rng(0), tuple(bits[kernel % len(bits)] for kernel in range(layer.out_channels))
    shape = (layer.in_channels // layer.groups, *layer.kernel)
    weights = np.stack([rng.integers(-(1 << one - 1), 1 << one - 1, size=shape) for one in bits])
    shape = layer.images, layer.in_channels, layer.in_height, layer.in_width
    return Operands(layer, weights, rng.integers(1 << activation_bits, size=shape), bits, activation_bits)


def check(accelerator: Accelerator, work: list[Operands]) -> None:
    for operands, result in zip(work, run_on_rtl(work, accelerator).layers, strict=True):
        assert (result.outputs == reference_sums(operands)).all(), operands.layer
        assert result.rtl_cycles == result.model_cycles, operands.layer


def test_large_counts_are_exact(smallest):
    various = [operands_of(LAYERS["rows"], tuple(range(1, widest + 1))) for widest in (7, 8)]
    check(smallest, [*(operands_of(layer, (2,)) for layer in LAYERS.values()), *various])


def test_tiles_of_as_many_steps_as_a_count_has_bits_are_exact(smallest):
    lengths = [(64 * ((1 << bit) + 1), 2) for bit in range(9)]
    work = [operands_of(Layer(f"{length}", "linear", length, 3), (bits,), bits) for length, bits in lengths]
    fullest = Layer("a whole buffer", "linear", 64 * smallest.buffers.lhs_entries // 8, 2)
    check(smallest, [*work, operands_of(fullest, (8,), 8)])


def test_the_most_row_tiles_of_a_pass_are_exact(tiny):
    tiles = {3: 1, 2: 0x1555, 1: 0xA8A}  # by weight width, widest first; a pixel has 255 words of channels
    assert sum(tiles.values()) == ((1 << FIELDS["plane_words"]) - 1) * 64 // tiny.array.dm
    widths = np.repeat(list(tiles), [tiny.array.dm * count for count in tiles.values()])
    layer = Layer("rows", "linear", 1, len(widths))
    work = operands_of(layer, tuple(widths.tolist()), 1)
    (one,) = schedule(layer, work.weight_bits, 1, tiny).passes
    assert dict(one.segments) == tiles
    check(tiny, [work])


def test_buffers_that_are_filled_again_and_again_are_exact(smallest):
    # Were one of the entries that a tile takes or gives back not counted, there would soon be no room, or too much.
    work = []
    for entries in (1 << bit for bit in range(smallest.buffers.lhs_entries.bit_length() - 1)):
        count = 2 * smallest.buffers.lhs_entries // entries + 2
        for kernels, images in ((2 * count, 1), (2, 2 * count)):
            layer = Layer(f"{entries} entries", "linear", 64 * entries, kernels, images=images)
            work.append(operands_of(layer, (1,), 1))
    check(smallest, work)


def test_the_largest_images_and_groups_are_exact(tiny):
    check(tiny, [operands_of(layer, (bits,), 1) for layer, bits in LONGEST])


def moved(image: np.ndarray, instructions: Iterable[int], origin: int) -> np.ndarray:
    """A memory whose instructions, at these addresses, find everything ``origin`` words further."""
    image = image.copy()
    for address in instructions:
        word = sum(int(w) << (64 * i) for i, w in enumerate(image[address : address + INSTRUCTION_WORDS]))
        fields = {}
        for name, bits in FIELDS.items():
            fields[name], word = word & ((1 << bits) - 1), word >> bits
        fields |= {name: fields[name] + origin for name in BASES}
        image[address : address + INSTRUCTION_WORDS] = encode(fields)
    return image


@cache
def lenet() -> tuple[IntegerNetwork, torch.Tensor]:
    """A network with pools, and an image."""
    workload = load_workload("lenet", 0)
    policy = Policy.uniform("lenet", workload.traced.layers, 3, 3)
    return IntegerNetwork(quantized_network(workload, policy, None)), workload.images(1)


def addresses(first: int, count: int) -> range:
    return range(first, first + count * INSTRUCTION_WORDS, INSTRUCTION_WORDS)


@pytest.mark.parametrize("origin", ORIGINS)
def test_high_addresses_change_nothing(tiny, origin):
    rng = np.random.default_rng(1)
    work = [random_operands(rng, tiny, number) for number in range(8)]
    work += [operands_of(layer, (2,)) for layer in APART]
    lowered = [lower(operands, tiny) for operands in work]
    jobs = [
        Job(
            moved(one.image, addresses(0, len(one.schedule.passes)), origin),
            *(0, one.result_address, one.result_words),
            cycle_limit=4 * layer_cycles(one.schedule) + 10_000,
            origin=origin,
            write_range=(one.result_address, one.result_address + one.result_words),
        )
        for one in lowered
    ]
    network, image = lenet()
    program = build_program(network, tiny, tuple(image.shape[1:]))
    memory = moved(program.with_image(image.double().numpy()), addresses(program.address, len(program.steps)), origin)
    scores, limit = program.scores, 4 * program.cycles() + 10_000
    jobs.append(Job(memory, program.address, scores.base, scores.words, cycle_limit=limit, origin=origin))

    *outcomes, last = simulate_jobs(jobs, tiny).outcomes
    for operands, one, outcome in zip(work, lowered, outcomes, strict=True):
        assert outcome.error == 0
        assert (one.outputs(outcome.results) == reference_sums(operands)).all(), operands.layer
        assert outcome.cycles == layer_cycles(one.schedule)
    assert last.error == 0
    assert program.read_scores(last.results).tolist() == network.run(image).scores[0].tolist()
    assert last.cycles == program.cycles()
