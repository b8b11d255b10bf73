"""Energy of the published BitFusion model: 45 nm constants of the authors' simulator, times what was counted.

SRAM costs what CACTI says of a bank of its size. The sizes that the authors' sweep uses are known; between them, and
beyond, energy per bit is taken as a power of the size, which `sram_basis` says.
"""

from dataclasses import dataclass

import numpy as np

from hardware.bitfusion_published import PublishedMachine

FUSION_UNIT_PICOJOULES = 1e12 * 3_673_500e-9 / 500e6 / 16
"""Per cycle: 16 units take 3,673,500 nW at 500 MHz. Charged whatever the widths, but not while memory is awaited."""
DRAM_PICOJOULES = 15.0
"""Per bit; the simulator's own comment says 6."""


def _per_bit(nanojoules_per_word: float) -> float:
    return 1e3 * nanojoules_per_word / 32


SINGLE_PORT = {
    128: (0.0214, 0.0289),
    1024: (_per_bit(0.00113), _per_bit(0.00330)),
    2048: (0.0595, 0.1137),
    4096: (_per_bit(0.00343), _per_bit(0.00431)),
    8192: (_per_bit(0.00639), _per_bit(0.00556)),
    16384: (_per_bit(0.00998), _per_bit(0.00842)),
}
"""Bytes of a bank of weights or inputs: picojoules per bit read, and written. 128 and 2048 are the edge machine's."""
READ_WRITE_PORT = {512: (0.0332, 0.0731), 4096: (_per_bit(0.00398), _per_bit(0.00505))}
"""The same for a bank of outputs. 512 is the edge machine's."""


@dataclass(frozen=True)
class PublishedEnergy:
    """Joules by part: the array, the three buffers, DRAM."""

    array: float
    wbuf: float
    ibuf: float
    obuf: float
    dram: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.array + self.wbuf + self.ibuf + self.obuf + self.dram

    def __add__(self, other: "PublishedEnergy") -> "PublishedEnergy":
        return PublishedEnergy(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __mul__(self, times: int) -> "PublishedEnergy":
        return PublishedEnergy(*(times * getattr(self, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class EnergyConstants:
    """Picojoules: per cycle of the whole array, and ``(read, written)`` per bit of every memory."""

    array: float
    wbuf: tuple[float, float]
    ibuf: tuple[float, float]
    obuf: tuple[float, float]
    dram: tuple[float, float] = (DRAM_PICOJOULES, DRAM_PICOJOULES)


def energy_constants(machine: PublishedMachine) -> EnergyConstants:
    """What things cost on a machine, by the size of its array and its banks."""
    return EnergyConstants(
        machine.rows * machine.columns * FUSION_UNIT_PICOJOULES,
        _of_bank(SINGLE_PORT, machine.wbuf_bank_bytes),
        _of_bank(SINGLE_PORT, machine.ibuf_bank_bytes),
        _of_bank(READ_WRITE_PORT, machine.obuf_bank_bytes),
    )


def sram_basis(machine: PublishedMachine) -> str:
    """Whether the authors' simulator gives the SRAM constants, or which buffers' are estimates, and from what."""
    banks = {
        "WBUF": (SINGLE_PORT, machine.wbuf_bank_bytes),
        "IBUF": (SINGLE_PORT, machine.ibuf_bank_bytes),
        "OBUF": (READ_WRITE_PORT, machine.obuf_bank_bytes),
    }
    guessed = [f"{name} (banks of {size:g} bytes)" for name, (table, size) in banks.items() if size not in table]
    return f"energy per bit estimated from other banks: {', '.join(guessed)}" if guessed else "published constants"


def _of_bank(table: dict[int, tuple[float, float]], size: float) -> tuple[float, float]:
    """The table's figures; between its sizes and beyond a straight line through the nearest two, in logarithms."""
    if size in table:
        return table[int(size)]
    sizes = sorted(table)
    upper = min(max(int(np.searchsorted(sizes, size)), 1), len(sizes) - 1)
    low, high = sizes[upper - 1], sizes[upper]
    place = np.log(size / low) / np.log(high / low)
    read, written = (a * (b / a) ** place for a, b in zip(table[low], table[high], strict=True))
    return float(read), float(written)
