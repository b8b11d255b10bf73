"""What the published BitFusion model takes: the machine it prices, and a layer as it sees one.

BitFusion (Sharma et al., ISCA 2018, arXiv 1712.01507) is a systolic array of fusion units, each of which multiplies 8x8
bits, or more operands of fewer bits. These are the authors' machines, for their cost model (`hardware.bitfusion_cost`);
nothing here is built in RTL. Machines of this project are `hardware.accelerator.Accelerator`.
"""

import math
from dataclasses import dataclass, fields

from hardware.errors import InputError, unknown

KILOBYTE = 1024
EDGE_CLOCK_MHZ = 500.0
MAX_PUBLISHED_BITS = 8
"""Widest operand: 16-bit ones would get no multiplier (`PublishedLayer.products_per_unit` would be 0)."""


@dataclass(frozen=True)
class PublishedMachine:
    """An array of fusion units with its buffers.

    Parameters
    ----------
    rows, columns:
        Fusion units: N inputs by M outputs.
    wbuf_bytes, ibuf_bytes, obuf_bytes:
        Weight, input and output buffer. Half of each is worked on while the other half is filled.
    dram_bits_per_cycle:
        Width of the DRAM interface.
    clock_mhz:
        Turns cycles into seconds.

    Raises
    ------
    InputError
        A size below 1, or a clock that is no positive number.
    """

    rows: int
    columns: int
    wbuf_bytes: int
    ibuf_bytes: int
    obuf_bytes: int
    dram_bits_per_cycle: int
    clock_mhz: float = EDGE_CLOCK_MHZ

    def __post_init__(self) -> None:
        low = [field.name for field in fields(self) if field.type is int and getattr(self, field.name) < 1]
        if low or not 0 < self.clock_mhz < math.inf:
            raise InputError(f"a published machine needs sizes of at least 1 and a clock above 0 MHz, got {self}.")

    @property
    def wbuf_bank_bytes(self) -> float:
        """Of the weight buffer that every fusion unit has."""
        return self.wbuf_bytes / (self.rows * self.columns)

    @property
    def ibuf_bank_bytes(self) -> float:
        """Of the input buffer that every row has."""
        return self.ibuf_bytes / self.rows

    @property
    def obuf_bank_bytes(self) -> float:
        """Of the output buffer that every column has."""
        return self.obuf_bytes / self.columns


def _sweep(times: int) -> PublishedMachine:
    """One of the published sweep's wider arrays: as many times the edge's buffers and columns; clock as the edge's."""
    wbuf, ibuf, obuf = (times * size * KILOBYTE for size in (64, 32, 16))
    return PublishedMachine(16, 32 * times, wbuf, ibuf, obuf, dram_bits_per_cycle=4096)


PUBLISHED_MACHINES = {
    "bitfusion-published-edge": PublishedMachine(
        16, 32, 64 * KILOBYTE, 32 * KILOBYTE, 16 * KILOBYTE, dram_bits_per_cycle=192
    ),
    "bitfusion-published-server": PublishedMachine(
        16, 32, 128 * KILOBYTE, 128 * KILOBYTE, 128 * KILOBYTE, dram_bits_per_cycle=4096, clock_mhz=980.0
    ),
    "bitfusion-published-small": PublishedMachine(
        8, 8, 256 * KILOBYTE, 64 * KILOBYTE, 16 * KILOBYTE, dram_bits_per_cycle=128
    ),
    "bitfusion-published-16x32": _sweep(1),
    "bitfusion-published-16x64": _sweep(2),
    "bitfusion-published-16x128": _sweep(4),
    "bitfusion-published-16x256": _sweep(8),
}
"""The authors' machines: edge, server and small as in their configuration files (``bf_e_conf.ini``, ``bf_s_conf.ini``,
``conf.ini``), the four others of their sweep by the size of the array. The clock of those four is assumed."""
DEFAULT_PUBLISHED = "bitfusion-published-edge"


def published_machine(name: str) -> PublishedMachine:
    """One of `PUBLISHED_MACHINES` by its name; `InputError` if there is none of that name."""
    if name not in PUBLISHED_MACHINES:
        raise unknown("published machine", name, PUBLISHED_MACHINES)
    return PUBLISHED_MACHINES[name]


@dataclass(frozen=True)
class PublishedLayer:
    """A square convolution or a fully connected layer, as the published model sees one.

    Parameters
    ----------
    kernel, output_size, stride:
        Pixels along one side; 1 for fully connected layers.
    in_channels, out_channels:
        Channels, or features.
    input_bits, weight_bits:
        Stored widths, 1 to 8. They are moved as they are and multiplied as the next power of two from 2 on.
    im2col:
        Whether it reads the network's input: then it is priced as a matrix product, with the kernel's pixels and the
        channels together as one dimension.
    batch:
        Images.

    Raises
    ------
    InputError
        A size below 1 or a width that no fusion unit multiplies.
    """

    kernel: int
    output_size: int
    stride: int
    in_channels: int
    out_channels: int
    input_bits: int
    weight_bits: int
    im2col: bool = False
    batch: int = 1

    def __post_init__(self) -> None:
        sizes = {field.name: getattr(self, field.name) for field in fields(self) if field.type is int}
        if low := [name for name, size in sizes.items() if size < 1]:
            raise InputError(f"expected {low[0]} of at least 1, got {sizes[low[0]]}.")
        for name in ("input_bits", "weight_bits"):
            if sizes[name] > MAX_PUBLISHED_BITS:
                raise InputError(
                    f"expected {name} of 1 to {MAX_PUBLISHED_BITS}, got {sizes[name]}: a fusion unit has no product of "
                    "wider operands, so give the layer fewer bits."
                )

    @property
    def products_per_unit(self) -> int:
        """Products of a fusion unit per cycle: 1 of 8x8 bits to 16 of 2x2."""
        return (8 // max(self.input_bits, 2)) * (8 // max(self.weight_bits, 2))
