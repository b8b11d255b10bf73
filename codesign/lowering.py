"""Lowering: a layer's schedule and integers become instructions and a memory image.

Memory holds, from address 0: the program, every pass's row tiles, the padded activations, the results.
"""

from dataclasses import dataclass

import numpy as np

from hardware.accelerator import Accelerator
from hardware.errors import InputError
from hardware.instruction import INSTRUCTION_WORDS, OPCODE_RUN, encode
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.schedule import Pass, Schedule, schedule

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
    """Build the program and the memory image of one layer."""
    layer = operands.layer
    _check_ranges(operands)
    plan = schedule(
        layer, operands.weight_bits, operands.activation_bits, accelerator, signed_weights=operands.signed_weights
    )
    weights = [_row_tiles(operands.weights, work) for work in plan.passes]
    activations = _planes_by_pixel(operands.activations, layer, operands.activation_bits)
    weights_base = lhs_base = len(plan.passes) * INSTRUCTION_WORDS
    rhs_base = lhs_base + sum(len(tiles) for tiles in weights)
    result_base = rhs_base + len(activations)

    program, result = [], result_base
    for number, work in enumerate(plan.passes):
        fields = _instruction(work, layer) | {
            "last": number == len(plan.passes) - 1,
            "lhs_base": lhs_base,
            "rhs_base": rhs_base,
            "result_base": result,
        }
        program.append(encode(fields))
        lhs_base += len(weights[number])
        result += layer.pixels * fields["result_column_step"]
    poison = np.full(result - result_base, POISON, dtype=np.uint64)
    image = np.concatenate([*program, *weights, activations, poison]) if program else np.zeros(0, dtype=np.uint64)
    return LoweredLayer(plan, image, weights_base, rhs_base, result_base, result - result_base)


def _check_ranges(operands: Operands) -> None:
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


def _instruction(work: Pass, layer: Layer) -> dict[str, int]:
    """All fields of a pass's instruction but addresses and the end mark."""
    pixel_words = work.activation_bits * work.channel_words
    row_words = (layer.in_width + 2 * layer.padding[1]) * pixel_words
    return {
        "opcode": OPCODE_RUN,
        "signed_weights": work.signed_weights,
        "signed_activations": work.signed_activations,
        "lhs_resident": work.lhs_resident,
        "weight_bits": work.weight_bits,
        "activation_bits": work.activation_bits,
        "chunks": work.chunks,
        "row_tiles": work.row_tiles,
        "column_tiles": work.column_tiles,
        "group_tiles": work.group_tiles,
        "last_columns": work.last_columns,
        "lhs_slots": work.lhs_slots,
        "rhs_slots": work.rhs_slots,
        "lhs_tile_entries": work.lhs_tile_entries,
        "rhs_tile_entries": work.rhs_tile_entries,
        "lhs_tile_words": work.lhs_tile_words,
        "channel_words": work.channel_words,
        "taps": work.kernel_rows * work.kernel_columns,
        "kernel_rows": work.kernel_rows,
        "run_words": work.run_words,
        "out_width": layer.out_width,
        "out_height": layer.out_height,
        "pixel_step": layer.stride[1] * pixel_words,
        "row_step": layer.stride[0] * row_words,
        "image_step": (layer.in_height + 2 * layer.padding[0]) * row_words,
        "window_row_step": row_words,
        "result_column_step": work.row_tiles * work.dm // 2,
    }


def _bit_planes(values: np.ndarray, bits: int) -> np.ndarray:
    """``(bits, ...)`` zeros and ones, plane 0 least significant; two's complement for negative values."""
    planes = np.arange(bits).reshape(-1, *[1] * values.ndim)
    return ((values[None] >> planes) & 1).astype(np.uint8)


def _pack_words(bits: np.ndarray) -> np.ndarray:
    """The last axis, a multiple of 64 long, packed into little-endian uint64 words."""
    return np.packbits(bits, axis=-1, bitorder="little").view("<u8").astype(np.uint64)


def _planes_by_pixel(activations: np.ndarray, layer: Layer, bits: int) -> np.ndarray:
    """Words of ``[image][row][column][plane][channel]``, the zero padding of the convolution included."""
    vertical, horizontal = layer.padding
    channels = -(-layer.in_channels // 64) * 64
    padded = np.pad(
        activations,
        ((0, 0), (0, channels - layer.in_channels), (vertical, vertical), (horizontal, horizontal)),
    )
    planes = _bit_planes(padded, bits).transpose(1, 3, 4, 0, 2)  # image, row, column, plane, channel
    return _pack_words(np.ascontiguousarray(planes)).reshape(-1)


def _row_tiles(weights: np.ndarray, work: Pass) -> np.ndarray:
    """Words of ``[row tile][row][plane][tap][channel]``, each plane filled up to whole buffer entries.

    Rows beyond the last kernel and bits beyond the last channel are 0, so what the activations hold there
    does not matter.
    """
    kernels = weights[list(work.kernels)].transpose(0, 2, 3, 1)  # kernel, row, column, channel
    count, rows, columns, channels = kernels.shape
    padded = np.zeros((work.row_tiles * work.dm, rows * columns, work.channel_words * 64), dtype=np.int64)
    padded[:count, :, :channels] = kernels.reshape(count, rows * columns, channels)
    words = _pack_words(
        _bit_planes(padded, work.weight_bits).transpose(1, 0, 2, 3).reshape(len(padded), work.weight_bits, -1)
    )
    filled = np.zeros((*words.shape[:2], work.chunks * work.lanes), dtype=np.uint64)
    filled[:, :, : words.shape[2]] = words
    return filled.reshape(-1)
