"""Where Yosys puts a memory on a 7-series FPGA: into block RAM or into LUTs, and how much of them it takes.

Every geometry has a price, and the cheapest is taken. Geometries and prices are those of Yosys 0.70's
share/xilinx/brams_xc4v.txt and lutrams_xc5v.txt, the rule is that of its passes/memory/memory_libmap.cc.
"""

from functools import cache

# RAMB36 and RAMB18: price, size in 36 Kbit, address bits at one bit of width, widths, of which each halves the depth.
_BLOCKS = ((257, 1.0, 15, (1, 2, 4, 9, 18, 36, 72)), (129, 0.5, 14, (1, 2, 4, 9, 18, 36)))
_BLOCK_BYTE = 9
"""Bits under one write enable of a block."""
# RAM32M and RAM64M: address bits, width. Of a price of 8 one is for the cell, 7 are for the share of its bits in use.
_LUT_MEMORIES = ((5, 6), (6, 3))
_LUT_MEMORY_LUTS, _LUT_MEMORY_PRICE, _LUT_MEMORY_BITS_PRICE = 4, 1, 7


@cache
def memory_cells(width: int, depth: int, part: int) -> tuple[int, float]:
    """LUTs and 36 Kbit blocks that Yosys' ``memory_libmap`` makes of a memory with a write and a read port.

    Parameters
    ----------
    width, depth:
        ``depth`` words of ``width`` bits.
    part:
        Bits under one write enable; it divides ``width``.
    """
    parts = width // part
    found: list[tuple[float, int, tuple[int, float]]] = []
    for kind, (price, blocks, address_bits, widths) in enumerate(_BLOCKS):
        for log_width, unit in enumerate(widths):
            rows = -(-depth // (1 << (address_bits - log_width)))
            byte = min(_BLOCK_BYTE, unit)
            cells = -(-rows * parts * -(-part // byte) * byte // unit)
            found.append((price * cells + _selection(rows, width, parts), kind, (0, blocks * cells)))
    for address_bits, unit in _LUT_MEMORIES:
        rows = -(-depth // (1 << address_bits))
        cells = rows * parts * -(-part // unit)
        of_cells = _LUT_MEMORY_PRICE * cells + _LUT_MEMORY_BITS_PRICE * rows * width / unit
        multiplexers = width * -(-(rows - 1) // 3)  # a LUT6 selects among four
        found.append((of_cells + _selection(rows, width, parts), 2, (_LUT_MEMORY_LUTS * cells + multiplexers, 0.0)))
    return min(found)[2]


def _selection(rows: int, width: int, parts: int) -> float:
    """Price of multiplexers and decoders in front of several rows of cells."""
    return ((rows - 1) * width + (rows * parts if rows > 1 else 0)) / 2
