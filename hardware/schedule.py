"""How one layer runs on one accelerator: the object that lowering, cycle model and event counts all read.

A layer is M x K weights times K x N activation windows. Weights (left-hand side) are cut in row tiles of
``dm`` kernels, activations (right-hand side) in column tiles of ``dn`` output pixels. Both buffers are
rings of tile slots. The loop nest is::

    for group in column tiles, group_tiles at a time:      fetch order within a group:
        for row tile:                                          row tile 0,
            for column tile in group:                          every column tile of the group,
                for diagonal, plane pair, chunk: one step      row tiles 1, 2, ...
                write dm x dn results

A column tile stays in its slot for all row tiles. Row tiles stream past, or, when all fit at once, stay
resident and are fetched only for the first group. Fetch waits for a free slot, execute waits for a ready
tile and, before its last step, for free result registers: no other synchronization exists.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hardware.accelerator import Accelerator
from hardware.errors import InputError
from hardware.layer import Layer

MAX_BITS = 8
"""Widest operand."""
LARGEST_RESULT = 2**31 - 1


@dataclass(frozen=True)
class Pass:
    """Kernels of one width run through the machine: what one instruction says, without addresses.

    Units: a *word* is 64 memory bits, an *entry* one ``dk``-bit buffer row, a *tile* ``dm`` kernels or ``dn`` pixels.
    """

    kernels: tuple[int, ...]
    """Output channels of this pass, in the order in which they lie in the row tiles."""
    weight_bits: int
    activation_bits: int
    signed_weights: bool
    signed_activations: bool
    chunks: int
    """Entries per bit plane of one dot product."""
    row_tiles: int
    column_tiles: int
    last_columns: int
    """Valid columns of the last column tile."""
    group_tiles: int
    """Column tiles resident together."""
    lhs_slots: int
    rhs_slots: int
    lhs_resident: bool
    channel_words: int
    """Words of one bit plane of one input pixel: ceil(C / 64)."""
    kernel_rows: int
    kernel_columns: int
    dm: int
    dn: int
    lanes: int

    @property
    def lhs_tile_entries(self) -> int:
        """Entries of one row tile in each row's memory."""
        return self.weight_bits * self.chunks

    @property
    def rhs_tile_entries(self) -> int:
        """Entries of one column tile in each column's memory."""
        return self.activation_bits * self.chunks

    @property
    def lhs_tile_words(self) -> int:
        """Memory words of one row tile."""
        return self.dm * self.lhs_tile_entries * self.lanes

    @property
    def run_words(self) -> int:
        """Contiguous memory words of one kernel row of one window."""
        return self.kernel_columns * self.activation_bits * self.channel_words

    @property
    def column_words(self) -> int:
        """Memory words of one output pixel's window."""
        return self.kernel_rows * self.run_words

    @property
    def steps(self) -> int:
        """Array steps (cycles) of one dm x dn output tile."""
        return self.weight_bits * self.activation_bits * self.chunks

    def columns(self, column_tile: int) -> int:
        """Valid columns of a column tile."""
        return self.last_columns if column_tile == self.column_tiles - 1 else self.dn


@dataclass(frozen=True)
class Schedule:
    """A layer at given bits on one accelerator: its passes, one after the other, one per weight width."""

    layer: Layer
    accelerator: Accelerator
    passes: tuple[Pass, ...]


def schedule(
    layer: Layer,
    weight_bits: int | Sequence[int],
    activation_bits: int,
    accelerator: Accelerator,
    signed_weights: bool = True,
) -> Schedule:
    """Plan a layer.

    Parameters
    ----------
    weight_bits:
        One width, or one per kernel (AutoQ, arXiv 1902.05690). Kernels of one width share a pass; width 0 has none.

    Raises
    ------
    InputError
        Bits out of range, grouped convolutions, a dot product too long for the buffers, or sums beyond 32 bits.
    """
    per_kernel = tuple(weight_bits) if isinstance(weight_bits, Iterable) else (weight_bits,) * layer.out_channels
    if len(per_kernel) != layer.out_channels or not all(b in range(MAX_BITS + 1) for b in per_kernel):
        raise InputError(
            f"layer {layer.name!r} expects weight bits 0 to {MAX_BITS}, one number or one per kernel "
            f"({layer.out_channels}), got {weight_bits!r}."
        )
    if activation_bits not in range(1, MAX_BITS + 1):
        raise InputError(f"layer {layer.name!r} expects activation bits 1 to {MAX_BITS}, got {activation_bits!r}.")
    if layer.groups != 1:
        raise InputError(
            f"layer {layer.name!r} has {layer.groups} channel groups, but this machine runs ungrouped "
            "convolutions only: leave grouped layers out."
        )
    if min(layer.out_height, layer.out_width) < 1:
        raise InputError(f"layer {layer.name!r} has no output pixels: its kernel is larger than its padded input.")
    largest_sum = layer.reduction * _largest(max(per_kernel), signed_weights)
    largest_sum *= _largest(activation_bits, layer.signed_activations)
    if largest_sum > LARGEST_RESULT:
        raise InputError(
            f"layer {layer.name!r} can sum up to {largest_sum}, but the machine's results have 32 bits: "
            "use fewer bits or split the layer."
        )
    passes = tuple(
        _plan_pass(
            layer,
            tuple(i for i, b in enumerate(per_kernel) if b == width),
            width,
            activation_bits,
            accelerator,
            signed_weights,
        )
        for width in sorted(set(per_kernel), reverse=True)
        if width > 0
    )
    return Schedule(layer, accelerator, passes)


def _plan_pass(
    layer: Layer,
    kernels: tuple[int, ...],
    weight_bits: int,
    activation_bits: int,
    accelerator: Accelerator,
    signed_weights: bool,
) -> Pass:
    array, lanes = accelerator.array, accelerator.lanes
    channel_words = -(-layer.in_channels // 64)
    chunks = -(-layer.kernel[0] * layer.kernel[1] * channel_words // lanes)
    row_tiles = -(-len(kernels) // array.dm)
    column_tiles = -(-layer.pixels // array.dn)
    lhs_slots = _slots(layer, "weight", weight_bits, chunks, accelerator.buffers.lhs_entries)
    rhs_slots = _slots(layer, "activation", activation_bits, chunks, accelerator.buffers.rhs_entries)
    lhs_resident = lhs_slots >= row_tiles
    # Resident weights leave nothing to re-use a group for. Otherwise half the ring works while the other half fills.
    group_tiles = (
        1 if lhs_resident else min(column_tiles, rhs_slots if rhs_slots >= column_tiles else max(1, rhs_slots // 2))
    )
    return Pass(
        kernels=kernels,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        signed_weights=signed_weights,
        signed_activations=layer.signed_activations,
        chunks=chunks,
        row_tiles=row_tiles,
        column_tiles=column_tiles,
        last_columns=layer.pixels - (column_tiles - 1) * array.dn,
        group_tiles=group_tiles,
        lhs_slots=lhs_slots,
        rhs_slots=rhs_slots,
        lhs_resident=lhs_resident,
        channel_words=channel_words,
        kernel_rows=layer.kernel[0],
        kernel_columns=layer.kernel[1],
        dm=array.dm,
        dn=array.dn,
        lanes=lanes,
    )


def _largest(bits: int, signed: bool) -> int:
    """The largest magnitude of an operand."""
    return (1 << bits) - 1 if not signed else (1 << bits) // 2


def _slots(layer: Layer, operand: str, bits: int, chunks: int, entries: int) -> int:
    if bits * chunks > entries:
        raise InputError(
            f"layer {layer.name!r} needs {bits * chunks} entries for one {operand} tile at {bits} bits, but the "
            f"{operand} buffer has {entries}: use fewer bits or an accelerator with deeper buffers."
        )
    return entries // (bits * chunks)
