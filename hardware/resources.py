"""What a design takes of a 7-series FPGA, how much of it follows from an accelerator's structure alone, and whether
a device holds it. The rest is fitted: see `hardware.resource_law`.
"""

from dataclasses import asdict, dataclass

from hardware.accelerator import Accelerator
from hardware.board import Device
from hardware.errors import InputError
from hardware.instruction import WORD_BITS
from hardware.memories import memory_cells
from hardware.timing import PENDING_JOBS

PLANES = 8
SUM_BITS = 32
MULTIPLIERS_PER_ROW = 6
"""Of a row's requantization: four for 32 x 32 bits, two for 16 x 24."""

REMEDIES = {
    "lut": "array.dm, array.dn or array.dk",
    "ff": "array.dm, array.dn or array.dk",
    "bram36": "buffers.lhs_entries, buffers.rhs_entries or buffers.plane_words",
    "dsp": "array.dm",
}
"""What to make smaller, by resource."""


@dataclass(frozen=True)
class Resources:
    """What a design takes of a device; ``bram36`` in blocks of 36 Kbit, of which an 18 Kbit block is a half."""

    lut: int
    ff: int
    bram36: float
    dsp: int

    def too_large(self, device: Device) -> dict[str, float]:
        """How much it takes of every resource of which the device has less."""
        return {name: used for name, used in asdict(self).items() if used > getattr(device, name)}

    def fits(self, device: Device) -> bool:
        """Whether the device has that much of everything."""
        return not self.too_large(device)


def counted(accelerator: Accelerator) -> Resources:
    """What follows from the structure alone: multipliers, block RAM, and the LUTs and flip-flops of buffers and sums.

    Two registers stand behind a block RAM, a shift register (a LUT per bit) behind a memory in LUTs; in the bit-serial
    array, one more behind each operand. A sum's accumulator takes a LUT per bit; another register holds it for the
    result stage. Where planes lie side by side, every word of an entry is written behind a mask of its own.
    """
    array, buffers, ports, planes = accelerator.array, accelerator.buffers, accelerator.memory.ports, accelerator.planes
    sums = SUM_BITS * array.dn * (array.dm + (not accelerator.traits.packed))  # the columns' counters included
    luts, registers, blocks = sums, 2 * sums, 0.0
    if accelerator.kind == "bit_serial":
        registers += (array.dm + array.dn) * array.dk
    if planes > 1:
        luts += ports * WORD_BITS * (planes * accelerator.lanes - 1)
    for count, width, depth, part in (
        (array.dm, array.dk, buffers.lhs_entries, WORD_BITS),
        (array.dn, planes * array.dk, buffers.rhs_entries, WORD_BITS),
        (PLANES, WORD_BITS, buffers.plane_words, array.dm),
    ):
        of_one, blocks_of_one = memory_cells(width, depth, part)
        in_luts = blocks_of_one == 0
        luts += count * (of_one + width * in_luts)
        registers += count * 2 * width * (not in_luts)
        blocks += count * blocks_of_one
    ring = 1 << (PENDING_JOBS * array.dn - 1).bit_length()
    of_ring, blocks_of_ring = memory_cells(SUM_BITS * array.dm, ring, SUM_BITS * array.dm)
    return Resources(
        lut=luts + of_ring,
        ff=registers,
        bram36=blocks + blocks_of_ring,
        # A bit plane run's words, and the fourth port's place behind three others: the machine's other products.
        dsp=MULTIPLIERS_PER_ROW * array.dm + 1 + (ports == 4),
    )


def check_fit(accelerator: Accelerator, device: Device, used: Resources) -> None:
    """Raise `InputError` that names every resource of which the device has less than ``used``."""
    if short := used.too_large(device):
        found = "; ".join(
            f"{name} {amount:,.10g} of {getattr(device, name):,} (make {REMEDIES[name]} smaller)"
            for name, amount in short.items()
        )
        raise InputError(f"{accelerator.name} does not fit the {device.part}: {found}.")
