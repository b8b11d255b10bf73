"""How one layer runs on one accelerator: the object that lowering, cycle model and event counts all read.

A layer is M x K weights times K x N activation windows. Weights (left-hand side) are cut in row tiles of
``dm`` kernels, activations (right-hand side) in column tiles of ``dn`` output pixels. Both buffers are
rings of entries. The loop nest of a matrix pass is::

    for group in column tiles, group_tiles at a time:      fetch order within a group:
        for row tile:                                          row tile 0,
            for column tile in group:                          every column tile of the group,
                for diagonal, plane pair, chunk: one step      row tiles 1, 2, ...
                requantize dm x dn sums

A column tile stays in its buffer for all row tiles. Row tiles stream past, or, when all fit at once, stay resident
and are fetched only for the first group. A row tile runs at its own weight width (kernel-wise bits, AutoQ, arXiv
1902.05690): kernels are sorted by width, so that equal ones share a tile. With its last entry a row tile brings its
kernels' requantization constants, which one more step reads once per group.

Other kinds of arrays (`hardware.kinds`) take other steps per tile and other entries; the loop nest is the same.

A vector pass (pooling, addition, conversion) has no weights: it adds up, or takes the maximum of, windows of values,
``dm`` channels after another.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Literal

from hardware.accelerator import Accelerator
from hardware.errors import InputError
from hardware.instruction import SEGMENTS, VALUE_LANES
from hardware.layer import Layer
from hardware.passes import RAW_SUMS, Output, Pass

MAX_BITS = 8
"""Widest operand."""
LARGEST_RESULT = 2**31 - 1
LARGEST_WINDOW = 1024
"""Values that a vector pass adds up: their totals have 26 bits (`rtl.vector.TOTAL_BITS`)."""
RESIDENT_GROUP = 8
"""Column tiles per group where weights are resident: enough to hide the constants' step, few enough to start soon."""
PLANE_SLOTS_BEYOND_GROUP = 2
"""Column tiles whose planes may still be on their way to memory while the next group's come."""


@dataclass(frozen=True)
class Schedule:
    """A layer at given bits on one accelerator: its passes, one after the other."""

    layer: Layer
    accelerator: Accelerator
    passes: tuple[Pass, ...]


def schedule(
    layer: Layer,
    weight_bits: int | Sequence[int],
    activation_bits: int,
    accelerator: Accelerator,
    signed_weights: bool = True,
    bipolar: bool = False,
    output: Output = RAW_SUMS,
    order: Sequence[int] | None = None,
) -> Schedule:
    """Plan a layer.

    Parameters
    ----------
    weight_bits:
        One width, or one per kernel (AutoQ, arXiv 1902.05690). Pruned kernels (width 0) have no raw sums; values and
        planes they have, because of their biases.
    signed_weights, bipolar:
        See `hardware.operands.Operands`.
    output:
        What is written.
    order:
        Kernels in the order in which they shall lie in the output's channels; by default sorted by width; where
        channel groups take several passes, within each pass.

    Raises
    ------
    InputError
        Bits out of range, a dot product too long for the buffers, or sums beyond 32 bits.
    """
    per_kernel: tuple[int, ...] = ()
    if isinstance(weight_bits, Iterable):
        per_kernel = tuple(weight_bits)
        widths, count = set(per_kernel), len(per_kernel)
    else:  # a cost table plans thousands of layers of one width: their kernels, a thousand in some, are not looked at
        widths, count = {weight_bits}, layer.out_channels
    if count != layer.out_channels or not all(b in range(MAX_BITS + 1) for b in widths):
        raise InputError(
            f"layer {layer.name!r} expects weight bits 0 to {MAX_BITS}, one number or one per kernel "
            f"({layer.out_channels}), got {weight_bits!r}."
        )
    if activation_bits not in range(1, MAX_BITS + 1):
        raise InputError(f"layer {layer.name!r} expects activation bits 1 to {MAX_BITS}, got {activation_bits!r}.")
    _check_shape(layer)
    if bipolar and layer.groups > 1:
        raise InputError(
            f"layer {layer.name!r} has {layer.groups} channel groups and bipolar weights, but the machine adds up a "
            "bipolar layer's activations over all channels: give its weights one more bit instead."
        )
    _check_sums(layer, max(widths), activation_bits, signed_weights, bipolar)
    traits = accelerator.traits
    activation_bits = traits.padded(activation_bits)
    if traits.packed:
        if bipolar:
            raise InputError(
                f"layer {layer.name!r} has bipolar weights, which {accelerator.name} does not take: give them one more "
                "bit instead."
            )
        widths = {traits.padded(max(widths))}  # its array is set to one width for all kernels
    kernels = _all_kernels(layer.out_channels) if order is None else tuple(order)
    if per_kernel and output.sums:
        kernels = tuple(kernel for kernel in kernels if per_kernel[kernel])
    segments: list[tuple[tuple[int, int], ...]]
    if len(widths) == 1:
        parts = _parts(layer, kernels if max(widths) or not output.sums else (), accelerator, output)
        segments = [((max(widths), -(-len(part) // accelerator.array.dm)),) for part in parts]
    else:
        if order is None and not reads_apart(layer):
            kernels = _by_width(kernels, per_kernel)
        parts = _parts(layer, kernels, accelerator, output)
        if order is None and reads_apart(layer):  # sorted as a whole, every pass would read all channels' words
            parts = [_by_width(part, per_kernel) for part in parts]
        segments = [_segments([per_kernel[kernel] for kernel in part], accelerator.array.dm) for part in parts]
    kind = (signed_weights, bipolar)
    passes = tuple(
        _plan("matrix", layer, *part, activation_bits, accelerator, kind, output, *_reads(layer, part[0]))
        for part in zip(parts, segments, strict=True)
    )
    return Schedule(layer, accelerator, passes)


def passes_of_widths(
    layer: Layer, widths: Iterable[tuple[int, int]], accelerator: Accelerator, output: Output
) -> Iterator[tuple[Pass, ...] | InputError]:
    """The passes of a layer at many pairs of widths, for those who only want to know what they cost.

    As `schedule` plans them, but that passes which differ only in which channels they read and write are one object.

    Parameters
    ----------
    widths:
        Weight bits 0 to 8 and activation bits 1 to 8, as ints.

    Returns
    -------
    By pair the passes, or the error that `schedule` raises.

    Raises
    ------
    InputError
        What `schedule` raises at any width.
    """
    _check_shape(layer)
    parts = _parts(layer, _all_kernels(layer.out_channels), accelerator, output)
    reads = [_reads(layer, part) for part in parts]
    alike: dict[tuple[int, int, bool], int] = {}
    keys = [(len(part), last - first, dense) for part, ((first, last), dense) in zip(parts, reads, strict=True)]
    for index, key in enumerate(keys):
        alike.setdefault(key, index)
    row_tiles = [-(-len(part) // accelerator.array.dm) for part in parts]
    for w, a in widths:
        try:
            _check_sums(layer, w, a, True, False)
            bits = accelerator.traits.padded(w), accelerator.traits.padded(a)
            planned = {
                key: _plan(
                    "matrix",
                    layer,
                    parts[i],
                    ((bits[0], row_tiles[i]),),
                    bits[1],
                    accelerator,
                    (True, False),
                    output,
                    *reads[i],
                )
                for key, i in alike.items()
            }
        except InputError as error:
            yield error
        else:
            yield tuple([planned[key] for key in keys]) if w or not output.sums else ()


def vector_passes(
    operation: Literal["sum", "maximum"], layer: Layer, accelerator: Accelerator, output: Output
) -> tuple[Pass, ...]:
    """Plan a pooling, an addition or a conversion of values: in several passes where windows do not fit the buffer.

    Parameters
    ----------
    layer:
        Its windows; ``out_channels == in_channels``.

    Raises
    ------
    InputError
        A window too large even for 64 channels at a time.
    """
    taps = layer.kernel[0] * layer.kernel[1]
    if taps > LARGEST_WINDOW:
        raise InputError(
            f"layer {layer.name!r} has windows of {taps} pixels, but the machine adds up at most "
            f"{LARGEST_WINDOW} values: pool in two steps."
        )
    words, dm = value_words(layer.in_channels, accelerator), accelerator.array.dm
    # 64 channels fill a word of a bit plane, which no two passes may share.
    unit = 64 // VALUE_LANES if output.plane_bits else max(1, dm // VALUE_LANES)
    room = accelerator.buffers.rhs_entries // 2 * accelerator.lanes // taps
    if output.plane_bits:
        room = min(room, unit * _plane_words_per_pixel(layer, accelerator))
    part = max(unit, room // unit * unit)
    passes = []
    for first in range(0, words, part):
        last = min(first + part, words)
        channels = range(first * VALUE_LANES, min(last * VALUE_LANES, layer.out_channels))
        passes.append(
            _plan(
                operation,
                layer,
                tuple(channels),
                ((0, -(-len(channels) // dm)),),
                1,
                accelerator,
                (False, False),
                output,
                (first, last),
                (first, last) == (0, words),
            )
        )
    return tuple(passes)


def value_words(channels: int, accelerator: Accelerator) -> int:
    """Memory words of one pixel's values."""
    multiple = max(accelerator.array.dm, VALUE_LANES)
    return -(-channels // multiple) * multiple // VALUE_LANES


def _plane_words_per_pixel(layer: Layer, accelerator: Accelerator) -> int:
    """Words of one bit plane of one pixel for which the plane buffer has room."""
    slots, columns = 1 + PLANE_SLOTS_BEYOND_GROUP, accelerator.array.dn
    if accelerator.buffers.plane_words < slots * columns:
        raise InputError(
            f"layer {layer.name!r} needs {slots * columns} plane_words for {columns} columns, but {accelerator.name} "
            f"has {accelerator.buffers.plane_words}: give it more."
        )
    return accelerator.buffers.plane_words // (slots * columns)


def reads_apart(layer: Layer) -> bool:
    """Whether channel groups read words of their own, 64 kernels' in a pass."""
    return layer.groups > 1 and layer.in_channels > 64


@lru_cache(maxsize=64)
def _all_kernels(count: int) -> tuple[int, ...]:
    return tuple(range(count))


def _by_width(kernels: tuple[int, ...], per_kernel: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(kernels, key=lambda kernel: -per_kernel[kernel]))


def _parts(layer: Layer, kernels: tuple[int, ...], accelerator: Accelerator, output: Output) -> list[tuple[int, ...]]:
    """Kernels of one pass each: all, unless the planes' buffer is too small or channel groups read other words.

    A part is a whole number of 64 output channels, so that no two passes write into one word.
    """
    if not kernels:
        return []
    per_part = len(kernels)
    if output.plane_bits:
        per_part = 64 * _plane_words_per_pixel(layer, accelerator)
    if reads_apart(layer):
        per_part = 64
    return [kernels[start : start + per_part] for start in range(0, len(kernels), per_part)]


def _reads(layer: Layer, kernels: tuple[int, ...]) -> tuple[tuple[int, int], bool]:
    """First and behind the last word of a pixel's channels that kernels read, and whether a kernel row is one run."""
    channel_words, dense = (0, -(-layer.in_channels // 64)), layer.dilation[1] == 1
    if layer.groups == 1:
        return channel_words, dense
    inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    first, last = min(kernels) // outputs, max(kernels) // outputs
    read = first * inputs // 64, -(-(last + 1) * inputs // 64)
    return read, dense and read == channel_words


def _segments(widths: list[int], dm: int) -> tuple[tuple[int, int], ...]:
    """(weight bits, row tiles) of kernels whose widths come in this order."""
    tiles = [max(widths[start : start + dm]) for start in range(0, len(widths), dm)]
    segments = tuple((bits, len(list(equal))) for bits, equal in groupby(tiles))
    # Kernels in an order that is not by width: all row tiles at the widest.
    return segments if len(segments) <= SEGMENTS else ((max(tiles), len(tiles)),)


def _plan(
    operation: Literal["matrix", "sum", "maximum"],
    layer: Layer,
    kernels: tuple[int, ...],
    segments: tuple[tuple[int, int], ...],
    activation_bits: int,
    accelerator: Accelerator,
    weight_kind: tuple[bool, bool],
    output: Output,
    channel_words: tuple[int, int],
    dense_rows: bool,
) -> Pass:
    array, lanes, buffers = accelerator.array, accelerator.lanes, accelerator.buffers
    traits = accelerator.traits
    window_words = layer.kernel[0] * layer.kernel[1] * (channel_words[1] - channel_words[0])
    column_tiles = -(-layer.pixels // array.dn)
    matrix = operation == "matrix"
    entries = [traits.weight_entries(bits, window_words, lanes) + output.requantized for bits, _ in segments]
    entries = entries if matrix else [0]
    _check_fit(layer, "weight", max(entries), buffers.lhs_entries)
    column_entries = traits.activation_entries(activation_bits, window_words, lanes)
    _check_fit(layer, "activation", column_entries, buffers.rhs_entries)
    row_tiles = sum([tiles for _, tiles in segments])
    needed = sum([size * tiles for size, (_, tiles) in zip(entries, segments, strict=True)])
    lhs_resident = needed <= buffers.lhs_entries
    fit = buffers.rhs_entries // column_entries
    group = column_tiles if fit >= column_tiles else max(1, fit // 2)  # half works while the other half fills
    if lhs_resident:
        group = min(group, RESIDENT_GROUP if matrix and output.requantized else 1)
    if output.plane_bits:
        slots = buffers.plane_words // (array.dn * -(-row_tiles * array.dm // 64))
        if slots < column_tiles or group < column_tiles:  # slots are used again by the next group
            group = min(group, max(1, slots - PLANE_SLOTS_BEYOND_GROUP))
    return Pass(
        operation=operation,
        kernels=kernels,
        segments=segments,
        activation_bits=activation_bits,
        signed_weights=weight_kind[0],
        bipolar=weight_kind[1],
        signed_activations=layer.signed_activations,
        chunks=column_entries if traits.packed else -(-window_words // lanes),
        column_tiles=column_tiles,
        last_columns=layer.pixels - (column_tiles - 1) * array.dn,
        group_tiles=group,
        lhs_resident=lhs_resident,
        channel_words=channel_words,
        kernel=layer.kernel,
        dense_rows=dense_rows,
        output=output,
        dm=array.dm,
        dn=array.dn,
        lanes=lanes,
        kind=accelerator.kind,
        ports=accelerator.memory.ports,
        lhs_depth=buffers.lhs_entries,
        rhs_depth=buffers.rhs_entries,
    )


def _check_shape(layer: Layer) -> None:
    if min(layer.out_height, layer.out_width) < 1:
        raise InputError(f"layer {layer.name!r} has no output pixels: its kernel is larger than its padded input.")


def _check_sums(layer: Layer, weight_bits: int, activation_bits: int, signed_weights: bool, bipolar: bool) -> None:
    largest_sum = layer.reduction * _largest(weight_bits, signed_weights)
    largest_sum = 2 * largest_sum + layer.reduction if bipolar else largest_sum
    largest_sum *= _largest(activation_bits, layer.signed_activations)
    if largest_sum > LARGEST_RESULT:
        raise InputError(
            f"layer {layer.name!r} can sum up to {largest_sum}, but the machine's results have 32 bits: "
            "use fewer bits or split the layer."
        )


def _largest(bits: int, signed: bool) -> int:
    """The largest magnitude of an operand."""
    return (1 << bits) - 1 if not signed else (1 << bits) // 2


def _check_fit(layer: Layer, operand: str, entries: int, depth: int) -> None:
    if entries > depth:
        raise InputError(
            f"layer {layer.name!r} needs {entries} entries for one {operand} tile, but the {operand} buffer has "
            f"{depth}: use fewer bits or an accelerator with deeper buffers."
        )
