"""Tiles of packed operands that end before their activations do: the machine's promise, which no lowered layer needs.

Of packed operands a tile ends with the shorter one. With one memory word an entry, weights and activations are
equally long in every layer; here row tiles are cut.
"""

from itertools import product

import numpy as np
import pytest

from codesign.lowering import lower
from hardware.accelerator import Accelerator, load_accelerator
from hardware.cycles import layer_cycles
from hardware.instruction import FIELDS, INSTRUCTION_WORDS, encode
from hardware.layer import Layer
from hardware.operands import Operands
from sim.job import Job
from sim.reference import reference_sums
from sim.run import simulate_jobs

WORDS = 17
"""Of 64 channels."""
LENGTHS = (1, 2, 3, 5, 6, 10, 17, 33)
WIDTHS = tuple(product((2, 4, 8), repeat=2))


def decoded(image: np.ndarray) -> dict[str, int]:
    """Fields of the instruction at address 0."""
    word, fields = sum(int(w) << (64 * i) for i, w in enumerate(image[:INSTRUCTION_WORDS])), {}
    for name, bits in FIELDS.items():
        fields[name], word = word & ((1 << bits) - 1), word >> bits
    return fields


def cut(accelerator: Accelerator, weight_bits: int, activation_bits: int, entries: int):
    """A layer whose row tiles have so many entries: its lowering, the job, and the sums of what is left."""
    rng, channels, kernels = np.random.default_rng(entries), 64 * WORDS, 5
    layer = Layer("cut", "linear", channels, kernels, images=3)
    half = 1 << weight_bits - 1
    weights = rng.integers(-half, half, size=(kernels, channels, 1, 1))
    activations = rng.integers(1 << activation_bits, size=(3, channels, 1, 1))
    operands = Operands(layer, weights, activations, (weight_bits,) * kernels, activation_bits)
    lowered = lower(operands, accelerator)
    image, fields = lowered.image.copy(), decoded(lowered.image)
    base, tiles, dm, whole = fields["lhs_base"], fields["row_tiles"], accelerator.array.dm, fields["segment_0_entries"]
    assert whole == WORDS * weight_bits > entries
    rows = image[base : base + tiles * dm * whole].reshape(tiles, dm, whole)[:, :, :entries].ravel()
    image[base : base + len(rows)] = rows
    image[:INSTRUCTION_WORDS] = encode(fields | {"segment_0_entries": entries})
    left = weights.copy()
    left[:, entries * 64 // weight_bits :] = 0
    job = Job(image, 0, lowered.result_address, lowered.result_words, 4 * layer_cycles(lowered.schedule) + 10_000)
    expected = reference_sums(Operands(layer, left, activations, operands.weight_bits, activation_bits))
    return lowered, job, expected


def check(accelerator: Accelerator) -> None:
    every = [cut(accelerator, *widths, entries) for widths in WIDTHS for entries in LENGTHS]
    outcomes = simulate_jobs([job for _, job, _ in every], accelerator).outcomes
    for (lowered, _, expected), outcome in zip(every, outcomes, strict=True):
        assert outcome.error == 0
        assert (lowered.outputs(outcome.results) == expected).all()


@pytest.mark.parametrize("name", ["fusion-tiny"])
def test_a_tile_ends_with_its_weights(name):
    check(load_accelerator(name))
