"""The instruction word: one description that the lowering encodes and the RTL decodes.

A program is a chain of instructions in memory; each runs one pass (see `hardware.schedule`) through
fetch, execute and result. Addresses and lengths count 64-bit memory words. Fields are packed from bit 0
upwards in the order below, the whole word padded to full memory words.
"""

from collections.abc import Mapping

import numpy as np

from hardware.errors import InputError

FIELDS: dict[str, int] = {
    "opcode": 8,  # OPCODE_RUN; everything else stops the machine with ERROR_ILLEGAL_INSTRUCTION
    "last": 1,  # the program ends after this instruction
    "signed_weights": 1,  # the top weight bit plane counts negative
    "signed_activations": 1,  # the top activation bit plane counts negative
    "lhs_resident": 1,  # all row tiles fit the weight buffer: they are fetched once
    "weight_bits": 4,
    "activation_bits": 4,
    "chunks": 16,  # buffer entries per bit plane of one dot product: ceil(K words / lanes)
    "row_tiles": 16,
    "column_tiles": 24,
    "group_tiles": 16,  # column tiles that stay resident while the row tiles stream past
    "last_columns": 8,  # valid columns of the very last column tile, 1..dn
    "lhs_slots": 16,  # the weight buffer is a ring of this many row tiles
    "rhs_slots": 16,  # the activation buffer is a ring of this many column tiles
    "lhs_tile_entries": 16,  # weight_bits * chunks
    "rhs_tile_entries": 16,  # activation_bits * chunks
    "lhs_tile_words": 24,  # dm * lhs_tile_entries * lanes, contiguous in memory
    "channel_words": 16,  # words of one bit plane of one input pixel
    "taps": 16,  # kernel rows * kernel columns
    "kernel_rows": 8,
    "run_words": 24,  # contiguous words of one kernel row: kernel columns * activation_bits * channel_words
    "out_width": 16,
    "out_height": 16,
    "pixel_step": 32,  # from one output pixel's window to the next in the row
    "row_step": 32,  # from the first window of an output row to that of the next
    "image_step": 32,  # from the first window of an image to that of the next
    "window_row_step": 32,  # from one kernel row to the next within a window
    "lhs_base": 32,
    "rhs_base": 32,
    "result_base": 32,
    "result_column_step": 32,  # between the results of neighbouring columns
}

WORD_BITS = 64
INSTRUCTION_WORDS = -(-sum(FIELDS.values()) // WORD_BITS)

OPCODE_RUN = 1

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
