"""Tensors in the machine's memory, and the instruction fields that read and write them."""

from dataclasses import dataclass

import numpy as np

from hardware.instruction import (
    MAX_PORTS,
    OPCODE_MATRIX,
    OPCODE_MAXIMUM,
    OPCODE_SUM,
    SEGMENTS,
)
from hardware.kinds import KINDS, Kind
from hardware.layer import Layer
from hardware.passes import Pass

ADDRESSES = 1 << 32
_OPCODES = {"matrix": OPCODE_MATRIX, "sum": OPCODE_SUM, "maximum": OPCODE_MAXIMUM}


@dataclass(frozen=True)
class Tensor:
    """Pixels in memory, ``[image][row][column]``, with a border around every image.

    Parameters
    ----------
    base:
        Word address of the first pixel, border included.
    pixel_words:
        Words of one pixel: of bit planes ``[channel word][plane]``, of values or sums ``[channel]``.
    border:
        ``(vertical, horizontal)`` pixels on each side.
    """

    base: int
    images: int
    height: int
    width: int
    pixel_words: int
    border: tuple[int, int] = (0, 0)

    @property
    def row_step(self) -> int:
        """Words from a pixel to the one below."""
        return self.pixel_words * (self.width + 2 * self.border[1])

    @property
    def image_step(self) -> int:
        """Words from a pixel to that of the next image."""
        return self.row_step * (self.height + 2 * self.border[0])

    @property
    def words(self) -> int:
        """Words of the whole tensor."""
        return self.images * self.image_step

    def address(self, row: int = 0, column: int = 0) -> int:
        """Word address of a pixel of the first image; negative coordinates lie in the border."""
        return self.base + (row + self.border[0]) * self.row_step + (column + self.border[1]) * self.pixel_words

    def inside(self, words: np.ndarray) -> np.ndarray:
        """The pixels without the border, from this tensor's words: ``(images, height, width, pixel_words)``."""
        top, left = self.border
        shape = self.images, self.height + 2 * top, self.width + 2 * left, self.pixel_words
        return words.reshape(shape)[:, top : top + self.height, left : left + self.width]


def instruction(
    work: Pass,
    layer: Layer,
    source: Tensor,
    lhs_base: int = 0,
    results: Tensor | None = None,
    result_offset: int = 0,
    planes: Tensor | None = None,
    plane_offset: int = 0,
    window_row_step: int | None = None,
) -> dict[str, int]:
    """All fields of a pass's instruction but the end mark and the constants of requantization.

    Parameters
    ----------
    layer:
        The windows: output size, kernel, stride, padding, dilation.
    lhs_base:
        Word address of the row tiles.
    result_offset, plane_offset:
        Words from a pixel's first to the ones that this pass writes.
    window_row_step:
        From one kernel row to the next, if they are not the source's rows: two tensors to add are two kernel rows.
    """
    return {
        "opcode": _OPCODES[work.operation],
        "last": 0,
        "signed_weights": work.signed_weights,
        "signed_activations": work.signed_activations,
        "bipolar": work.bipolar,
        "lhs_resident": work.lhs_resident,
        "activation_bits": work.activation_bits,
        "chunks": work.chunks,
        "row_tiles": work.row_tiles,
        "groups": work.groups,
        "group_tiles": work.group_tiles,
        "last_group_tiles": work.column_tiles - (work.groups - 1) * work.group_tiles,
        "last_columns": work.last_columns,
        "rhs_tile_entries": work.rhs_tile_entries,
        **_segments(work),
        "lhs_base": lhs_base,
        **_windows(work, layer, source, window_row_step),
        "write_sums": work.output.sums,
        "write_values": work.output.values,
        "write_planes": bool(work.output.plane_bits),
        "relu": 0,
        "wide_shift": 0,
        "multiplier": 0,
        "quantizer": 0,
        "clamp_low": 0,
        "clamp_high": 0,
        **_destination("result", layer, results, result_offset),
        **_destination("plane", layer, planes, plane_offset),
        "plane_bits": work.output.plane_bits,
        "plane_words": work.plane_words,
        "plane_tile_words": work.dn * work.plane_words,
        "last_segments": work.row_tiles - (work.plane_words - 1) * (64 // work.dm),
    }


def _segments(work: Pass) -> dict[str, int]:
    fields = {}
    for i in range(SEGMENTS):
        bits, tiles = work.segments[i] if i < len(work.segments) else (0, 0)
        fields[f"segment_{i}_bits"], fields[f"segment_{i}_tiles"] = bits, tiles
        fields[f"segment_{i}_single"] = int(tiles == 1)
        fields[f"segment_{i}_entries"] = work.lhs_tile_entries(bits) if tiles else 0
    return fields


def _windows(work: Pass, layer: Layer, source: Tensor, window_row_step: int | None) -> dict[str, int]:
    pixel, row = layer.stride[1] * source.pixel_words, layer.stride[0] * source.row_step
    width, height = layer.out_width, layer.out_height
    base = source.address(-layer.padding[0], -layer.padding[1]) + work.channel_words[0] * work.activation_bits

    def further(pixels: int) -> tuple[int, int, int]:
        """Column, row and words that lie so many output pixels behind the first one."""
        y, x = divmod(pixels, width)
        image, y = divmod(y, height)
        return x, y, x * pixel + y * row + image * source.image_step

    columns, rows, step = further(work.ports)
    fields = {
        # Of packed operands fetch sees one plane, of so many more words.
        "window_words": work.window_words * (work.activation_bits if KINDS[work.kind].packed else 1),
        "pixel_words": work.pixel_words,
        "taps": work.taps,
        "kernel_rows": work.kernel[0],
        "row_runs": work.row_runs,
        "run_words": work.run_words,
        "run_step": layer.dilation[1] * source.pixel_words,
        "window_row_step": (
            layer.dilation[0] * source.row_step if window_row_step is None else window_row_step % ADDRESSES
        ),
        "out_width": width,
        "out_height": height,
        "port_columns": columns,
        "port_rows": rows,
        "port_step": step,
        "row_correction": (row - width * pixel) % ADDRESSES,
        "image_correction": (source.image_step - height * row) % ADDRESSES,
    }
    for port in range(MAX_PORTS):
        x, y, offset = further(port)
        fields |= {f"port_{port}_x": x, f"port_{port}_y": y, f"port_{port}_start": base + offset}
    return fields


def _destination(prefix: str, layer: Layer, tensor: Tensor | None, offset: int) -> dict[str, int]:
    names = ("base", "step", "row_correction", "image_correction")
    if tensor is None:
        return {f"{prefix}_{name}": 0 for name in names}
    values = (
        tensor.address() + offset,
        tensor.pixel_words,
        (tensor.row_step - layer.out_width * tensor.pixel_words) % ADDRESSES,
        (tensor.image_step - layer.out_height * tensor.row_step) % ADDRESSES,
    )
    return {f"{prefix}_{name}": value for name, value in zip(names, values, strict=True)}


def bit_planes(values: np.ndarray, bits: int) -> np.ndarray:
    """``(bits, ...)`` zeros and ones, plane 0 least significant; two's complement for negative values."""
    planes = np.arange(bits).reshape(-1, *[1] * values.ndim)
    return ((values[None] >> planes) & 1).astype(np.uint8)


def pack_words(bits: np.ndarray) -> np.ndarray:
    """The last axis, a multiple of 64 long, packed into little-endian uint64 words."""
    return np.packbits(bits, axis=-1, bitorder="little").view("<u8").astype(np.uint64)


def activation_words(activations: np.ndarray, bits: int, border: tuple[int, int], traits: Kind) -> np.ndarray:
    """Words ``[image][row][column][channel word][plane]`` of activations ``(images, C, height, width)``; border 0.

    Where operands are packed, the ``bits`` words of 64 channels hold their values, one after another.
    """
    vertical, horizontal = border
    channels = -(-activations.shape[1] // 64) * 64
    padded = np.pad(
        activations,
        ((0, 0), (0, channels - activations.shape[1]), (vertical, vertical), (horizontal, horizontal)),
    )
    if traits.packed:
        values = bit_planes(padded, bits).transpose(1, 3, 4, 2, 0)  # image, row, column, channel, bit
        return pack_words(np.ascontiguousarray(values).reshape(-1, 64)).reshape(-1)
    planes = bit_planes(padded, bits).transpose(1, 3, 4, 0, 2)  # image, row, column, plane, channel
    return np.ascontiguousarray(pack_words(np.ascontiguousarray(planes)).swapaxes(-1, -2)).reshape(-1)


def row_tile_words(weights: np.ndarray, work: Pass, groups: int = 1, constants: np.ndarray | None = None) -> np.ndarray:
    """Words ``[row tile][row][plane][chunk][lane]``, each row's constants behind its planes, or packed values.

    Rows beyond the last kernel and bits beyond the last channel are 0, so what the activations hold there
    does not matter.

    Parameters
    ----------
    weights:
        int64 ``(M, C / groups, kernel rows, kernel columns)``.
    constants:
        uint64 ``(M,)``: bias and multiplier of every output channel, see `rtl.requantize.CONSTANTS`.
    """
    count, inputs = len(work.kernels), weights.shape[1]
    dense = np.zeros((work.row_tiles * work.dm, work.taps, work.pixel_words * 64), dtype=np.int64)
    kernels = weights[list(work.kernels)].transpose(0, 2, 3, 1).reshape(count, work.taps, inputs)
    per_group = len(weights) // groups
    for row, kernel in enumerate(work.kernels):
        first = kernel // per_group * inputs - 64 * work.channel_words[0] if groups > 1 else 0
        dense[row, :, first : first + inputs] = kernels[row]
    tiles, start = [], 0
    for bits, number in work.segments:
        rows = number * work.dm
        part = dense[start : start + rows]
        entries = work.lhs_tile_entries(bits)
        words = np.zeros((rows, entries, work.lanes), dtype=np.uint64)
        if KINDS[work.kind].packed:
            values = np.ascontiguousarray(bit_planes(part, bits).transpose(1, 2, 3, 0))  # row, tap, channel, bit
            words.reshape(rows, -1)[:, : bits * work.window_words] = pack_words(values.reshape(rows, -1))
        else:
            planes = np.zeros((rows, bits, work.chunks * work.lanes), dtype=np.uint64)
            planes[:, :, : work.window_words] = pack_words(bit_planes(part, bits).transpose(1, 0, 2, 3)).reshape(
                rows, bits, work.window_words
            )
            words[:, : bits * work.chunks] = planes.reshape(rows, -1, work.lanes)
        if constants is not None:
            mine = work.kernels[start : start + rows]
            words[: len(mine), -1, 0] = constants[list(mine)]
        tiles.append(words.reshape(-1))
        start += rows
    return np.concatenate(tiles)
