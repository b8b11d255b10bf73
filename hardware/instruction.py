"""The instruction word: one description that the lowering encodes and the RTL decodes.

A program is a chain of instructions in memory; each runs one pass (see `hardware.schedule`) through fetch, execute
and result, and has written all its results before the next one reads. Addresses and lengths count 64-bit memory
words; steps and corrections are added modulo 2**32, so they may be negative. Fields are packed from bit 0 upwards
in the order below, the whole word padded to full memory words.
"""

from collections.abc import Mapping

import numpy as np

from hardware.errors import InputError

SEGMENTS = 9
"""Runs of row tiles of one weight width: 8 bits down to 0."""
MAX_PORTS = 4
VALUE_LANES = 4
"""16-bit values in a memory word."""

FIELDS: dict[str, int] = {
    "opcode": 8,  # OPCODE_*; everything else stops the machine with ERROR_ILLEGAL_INSTRUCTION
    "last": 1,  # the program ends after this instruction
    # Operands.
    "signed_weights": 1,  # the top weight bit plane counts negative
    "signed_activations": 1,  # the top activation bit plane counts negative
    "bipolar": 1,  # weights are 2u + 1, and their planes those of u: mid-rise levels
    "lhs_resident": 1,  # all row tiles fit the weight buffer: they are fetched once
    "activation_bits": 4,
    "chunks": 16,  # buffer entries per bit plane of one dot product: ceil(K words / lanes)
    "row_tiles": 16,
    "groups": 24,  # of column tiles that stay resident while the row tiles stream past
    "group_tiles": 16,  # column tiles in a group
    "last_group_tiles": 16,  # in the last one
    "last_columns": 8,  # valid columns of the very last column tile, 1..dn
    "rhs_tile_entries": 16,  # activation_bits * chunks
    **{
        name: bits
        for i in range(SEGMENTS)
        for name, bits in (
            (f"segment_{i}_bits", 4),  # weight width of the segment's row tiles
            (f"segment_{i}_tiles", 16),
            (f"segment_{i}_single", 1),  # tiles == 1
            (f"segment_{i}_entries", 16),  # buffer entries of one row tile, its constants included
        )
    },
    # Where the windows lie.
    "lhs_base": 32,
    "window_words": 16,  # words of one bit plane of one window
    "pixel_words": 16,  # of those, words of one pixel (vector operations)
    "taps": 16,  # pixels of one window (vector operations)
    "kernel_rows": 8,
    "row_runs": 8,  # contiguous runs that make up one kernel row
    "run_words": 24,
    "run_step": 32,  # from one run of a kernel row to the next
    "window_row_step": 32,  # from one kernel row to the next
    "out_width": 16,
    "out_height": 16,
    "port_columns": 16,  # a port's next pixel is so many columns ...
    "port_rows": 16,  # ... and rows further,
    "port_step": 32,  # its window so many words,
    "row_correction": 32,  # plus this where the column wraps
    "image_correction": 32,  # and this where the row wraps
    **{
        name: bits
        for port in range(MAX_PORTS)
        for name, bits in ((f"port_{port}_x", 16), (f"port_{port}_y", 16), (f"port_{port}_start", 32))
    },
    # What becomes of the sums.
    "write_sums": 1,
    "write_values": 1,
    "write_planes": 1,
    "relu": 1,
    "wide_shift": 1,  # requantize by 32 bits, otherwise by 16
    "multiplier": 32,  # of vector operations; matrix operations have one per row
    "quantizer": 24,  # values to activations
    "clamp_low": 8,  # magnitude of the smallest activation
    "clamp_high": 8,
    # Sums or values: [pixel][row].
    "result_base": 32,
    "result_step": 32,  # from one output pixel to the next
    "result_row_correction": 32,
    "result_image_correction": 32,
    # Bit planes: [pixel][channel word][plane].
    "plane_base": 32,
    "plane_step": 32,
    "plane_row_correction": 32,
    "plane_image_correction": 32,
    "plane_bits": 4,
    "plane_words": 8,  # words of one bit plane of one output pixel
    "plane_tile_words": 16,  # dn * plane_words
    "last_segments": 6,  # row tiles whose bits lie in a pixel's last channel word
}

WORD_BITS = 64
INSTRUCTION_WORDS = -(-sum(FIELDS.values()) // WORD_BITS)

OPCODE_MATRIX = 1
OPCODE_SUM = 2
OPCODE_MAXIMUM = 3
OPCODES = (OPCODE_MATRIX, OPCODE_SUM, OPCODE_MAXIMUM)

ERROR_NONE = 0
ERROR_ILLEGAL_INSTRUCTION = 1


def encode(fields: Mapping[str, int]) -> np.ndarray:
    """Pack one instruction into ``INSTRUCTION_WORDS`` little-endian uint64 words.

    Raises
    ------
    InputError
        A value that does not fit its field: the layer is too large for the machine's instruction.
    """
    if fields.keys() != FIELDS.keys():
        raise ValueError(f"expected the fields {sorted(FIELDS)}, got {sorted(fields)}")
    word, position = 0, 0
    for name, bits in FIELDS.items():
        value = int(fields[name])
        if not 0 <= value < 1 << bits:
            raise InputError(
                f"the layer needs {name} = {value}, but the instruction holds {bits} bits "
                f"(0 to {(1 << bits) - 1}): split the layer or use a smaller batch."
            )
        word |= value << position
        position += bits
    return np.array([word >> (WORD_BITS * i) & (2**64 - 1) for i in range(INSTRUCTION_WORDS)], dtype=np.uint64)
