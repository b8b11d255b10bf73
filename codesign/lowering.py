"""Lowering: a layer's schedule and integers become instructions and a memory image.

Memory holds, from address 0: the program, every pass's row tiles, the padded activations, the results.
"""

from dataclasses import dataclass

import numpy as np

from codesign.tensors import Tensor, activation_words, instruction, row_tile_words
from hardware.accelerator import Accelerator
from hardware.errors import InputError
from hardware.instruction import INSTRUCTION_WORDS, encode
from hardware.operands import Operands
from hardware.schedule import Schedule, schedule

POISON = 0xDEADBEEF_DEADBEEF
"""What result memory holds before the run, so that a result that was never written cannot look right."""


@dataclass(frozen=True, eq=False)
class LoweredLayer:
    """A layer ready to run.

    Parameters
    ----------
    image:
        uint64 memory words from address 0. Empty when all kernels are pruned: there is nothing to run.
    weights_address, activations_address:
        Where the program ends and the row tiles begin, and where they end and the padded activations begin.
    result_address, result_words:
        Where the results will lie: pass after pass, ``[pixel][row, padded to dm]``, two int32 per word.
    """

    schedule: Schedule
    image: np.ndarray
    weights_address: int
    activations_address: int
    result_address: int
    result_words: int

    def outputs(self, results: np.ndarray) -> np.ndarray:
        """The layer's sums from the result words: int64, ``(images, M, out height, out width)``."""
        layer = self.schedule.layer
        sums = np.zeros((layer.out_channels, layer.pixels), dtype=np.int64)
        values = results.view("<i4")
        start = 0
        for work in self.schedule.passes:
            rows = work.row_tiles * work.dm
            block = values[start : start + layer.pixels * rows].reshape(layer.pixels, rows)
            sums[list(work.kernels)] = block[:, : len(work.kernels)].T
            start += layer.pixels * rows
        shape = (layer.out_channels, layer.images, layer.out_height, layer.out_width)
        return sums.reshape(shape).transpose(1, 0, 2, 3)

    def results(self, sums: np.ndarray) -> np.ndarray:
        """The result words that hold these sums, the inverse of `outputs`; rows of no kernel are 0."""
        by_kernel = sums.transpose(1, 0, 2, 3).reshape(self.schedule.layer.out_channels, -1)
        blocks = []
        for work in self.schedule.passes:
            block = np.zeros((by_kernel.shape[1], work.row_tiles * work.dm), dtype="<i4")
            block[:, : len(work.kernels)] = by_kernel[list(work.kernels)].T
            blocks.append(block.reshape(-1))
        return np.concatenate(blocks).view("<u8") if blocks else np.zeros(0, dtype="<u8")


def lower(operands: Operands, accelerator: Accelerator) -> LoweredLayer:
    """Build the program and the memory image of one layer, whose sums are written as they are."""
    layer, bits = operands.layer, operands.activation_bits
    check_ranges(operands)
    plan = schedule(layer, operands.weight_bits, bits, accelerator, operands.signed_weights, operands.bipolar)
    weights = [row_tile_words(operands.weights, work, layer.groups) for work in plan.passes]
    bits = accelerator.traits.padded(bits)
    activations = activation_words(operands.activations, bits, layer.padding, accelerator.traits)
    weights_base = lhs_base = len(plan.passes) * INSTRUCTION_WORDS
    rhs_base = lhs_base + sum(len(tiles) for tiles in weights)
    result_base = rhs_base + len(activations)
    source = Tensor(
        rhs_base, layer.images, layer.in_height, layer.in_width, bits * -(-layer.in_channels // 64), layer.padding
    )

    program, result = [], result_base
    for number, work in enumerate(plan.passes):
        sums = Tensor(result, layer.images, layer.out_height, layer.out_width, work.row_tiles * work.dm // 2)
        fields = instruction(work, layer, source, lhs_base, results=sums)
        program.append(encode(fields | {"last": number == len(plan.passes) - 1}))
        lhs_base += len(weights[number])
        result += sums.words
    poison = np.full(result - result_base, POISON, dtype=np.uint64)
    image = np.concatenate([*program, *weights, activations, poison]) if program else np.zeros(0, dtype=np.uint64)
    return LoweredLayer(plan, image, weights_base, rhs_base, result_base, result - result_base)


def check_ranges(operands: Operands) -> None:
    """Integers that do not fit their width would lose their upper planes without a word."""
    layer = operands.layer
    widths = np.array(operands.weight_bits)[:, None, None, None]
    for what, values, bits, signed in (
        ("weights", operands.weights, widths, operands.signed_weights),
        ("activations", operands.activations, np.array(operands.activation_bits), layer.signed_activations),
    ):
        span = np.int64(1) << bits
        low, high = (-(span // 2), (span + 1) // 2 - 1) if signed else (0 * span, span - 1)
        if ((values < low) | (values > high)).any():
            raise InputError(
                f"layer {layer.name!r} has {what} from {values.min()} to {values.max()}, which do not fit their width: "
                "quantize them first."
            )
