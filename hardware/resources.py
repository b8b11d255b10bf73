"""What an accelerator takes of a 7-series FPGA, in microseconds: counted where its structure tells, fitted elsewhere.

Memories, multipliers, sums and the registers of operands are counted, and popcounts were synthesised alone. The logic
around them is a sum of terms: each is a number of things that the machine has, times what synthesis makes of one of
them. These factors are fitted to machines that Yosys has synthesised, see `benchmarks/resource_law.py`.
"""

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Self

import numpy as np
from pydantic import model_validator

from hardware.accelerator import Accelerator, Array, Buffers, Memory
from hardware.board import Device
from hardware.calibration import FOLDER, Calibration
from hardware.errors import InputError
from hardware.instruction import WORD_BITS
from hardware.memories import memory_cells
from hardware.specification import Name, Specification
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

    Two registers stand behind a block RAM, a shift register (a LUT per bit) behind a memory in LUTs; in the array, one
    more behind each operand. A sum's accumulator takes a LUT per bit; another register holds it for the result stage.
    """
    array, buffers, ports = accelerator.array, accelerator.buffers, accelerator.memory.ports
    sums = SUM_BITS * array.dn * (array.dm + 1)  # the columns' counters included
    luts, registers, blocks = sums, 2 * sums + (array.dm + array.dn) * array.dk, 0.0
    for count, width, depth, part in (
        (array.dm, array.dk, buffers.lhs_entries, WORD_BITS),
        (array.dn, array.dk, buffers.rhs_entries, WORD_BITS),
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


TERMS = ("machine", "port", "port_address_bit", "row", "column", "unit", "column_bit")
"""What the other logic is proportional to: the machine itself, memory ports, their bits of buffer addresses, array
rows, array columns, dot-product units, bits of columns."""


class Popcounts(Specification):
    """LUTs and flip-flops of one popcount by ``dk``: of a dot-product unit, of a column's counter."""

    unit: dict[int, tuple[int, int]]
    column: dict[int, tuple[int, int]]

    def of(self, accelerators: Sequence[Accelerator]) -> np.ndarray:
        """LUTs and flip-flops of all popcounts of each accelerator: ``len(accelerators) x 2``."""
        arrays = [one.array for one in accelerators]
        units, columns = (
            np.array([kind[array.dk] for array in arrays]).reshape(-1, 2) for kind in (self.unit, self.column)
        )
        dm, dn = np.array([(array.dm, array.dn) for array in arrays]).reshape(-1, 2, 1).transpose(1, 0, 2)
        return dm * dn * units + dn * columns


def _terms(accelerators: Sequence[Accelerator]) -> np.ndarray:
    """``len(accelerators) x len(TERMS)`` amounts."""
    sizes = [
        (one.array.dm, one.array.dk, one.array.dn, one.buffers.lhs_entries, one.buffers.rhs_entries, one.memory.ports)
        for one in accelerators
    ]
    dm, dk, dn, lhs, rhs, ports = np.array(sizes, dtype=float).reshape(-1, 6).T
    address_bits = np.log2(lhs) + np.log2(rhs)
    return np.stack([np.ones_like(dm), ports, ports * address_bits, dm, dn, dm * dn, dn * dk], axis=1)


def _known(accelerators: Sequence[Accelerator], popcounts: Popcounts) -> np.ndarray:
    """What is counted and what popcounts take: ``len(accelerators) x 4``, in the order of `Resources`."""
    known = np.array([astuple(counted(one)) for one in accelerators], dtype=float).reshape(-1, 4)
    known[:, :2] += popcounts.of(accelerators)
    return known


def fit(
    accelerators: Sequence[Accelerator], measured: Sequence[Resources], popcounts: Popcounts
) -> tuple[dict[str, float], dict[str, float]]:
    """LUTs and flip-flops of each of `TERMS`: least squares of the relative error, none below zero."""
    from scipy.optimize import nnls  # half a second, and only for those who fit

    amounts = np.array([(one.lut, one.ff) for one in measured], dtype=float)
    shares = 1 - _known(accelerators, popcounts)[:, :2] / amounts
    laws = [nnls(_terms(accelerators) / amounts[:, [i]], shares[:, i])[0] for i in range(2)]
    lut, ff = (dict(zip(TERMS, map(float, law.round(4)), strict=True)) for law in laws)
    return lut, ff


class Sample(Specification):
    """A machine that Yosys synthesised: its sizes, what it took, and by how much the law is off."""

    name: Name
    array: Array
    buffers: Buffers
    memory: Memory
    lut: int
    ff: int
    bram36: float
    dsp: int
    lut_error: float
    """Prediction over measurement, less 1."""
    ff_error: float

    @property
    def accelerator(self) -> Accelerator:
        """The machine, with a clock that does not matter here."""
        return Accelerator(
            name=self.name,
            kind="bit_serial",
            array=self.array,
            buffers=self.buffers,
            memory=self.memory,
            clock_mhz=100,
            device="any",
        )

    @property
    def measured(self) -> Resources:
        """What synthesis counted."""
        return Resources(lut=self.lut, ff=self.ff, bram36=self.bram36, dsp=self.dsp)


class ResourceLaw(Calibration):
    """Resources of any accelerator on one device.

    Parameters
    ----------
    device:
        A name in `hardware.device.DEVICES`.
    popcounts:
        What synthesis makes of the array's popcounts alone.
    lut, ff:
        LUTs and flip-flops of each of `TERMS`, beside popcounts and what is `counted`.
    fitted, held_out:
        Machines that the law was fitted to, and others, drawn with another seed, that it is judged by.
    """

    device: str
    popcounts: Popcounts
    lut: dict[str, float]
    ff: dict[str, float]
    fitted: list[Sample]
    held_out: list[Sample]

    @model_validator(mode="after")
    def _all_terms(self) -> Self:
        if set(self.lut) != set(TERMS) or set(self.ff) != set(TERMS):
            raise ValueError(f"lut and ff need a number each for {', '.join(TERMS)}")
        return self

    def predict_all(self, accelerators: Sequence[Accelerator]) -> np.ndarray:
        """LUTs, flip-flops, 36 Kbit blocks and multipliers: ``len(accelerators) x 4``, in the order of `Resources`."""
        known = _known(accelerators, self.popcounts)
        factors = np.array([[law[name] for name in TERMS] for law in (self.lut, self.ff)])
        known[:, :2] += _terms(accelerators) @ factors.T
        return known

    def predict(self, accelerator: Accelerator) -> Resources:
        """What an accelerator takes."""
        lut, ff, bram36, dsp = self.predict_all([accelerator])[0]
        return Resources(lut=round(lut), ff=round(ff), bram36=float(bram36), dsp=int(dsp))

    def error(self, accelerator: Accelerator, measured: Resources) -> tuple[float, float]:
        """Of LUTs and flip-flops, prediction over measurement, less 1."""
        lut, ff, *_ = self.predict_all([accelerator])[0]
        return float(lut) / measured.lut - 1, float(ff) / measured.ff - 1


def check_fit(accelerator: Accelerator, device: Device, used: Resources) -> None:
    """Raise `InputError` that names every resource of which the device has less than ``used``."""
    if short := used.too_large(device):
        found = "; ".join(
            f"{name} {amount:,.10g} of {getattr(device, name):,} (make {REMEDIES[name]} smaller)"
            for name, amount in short.items()
        )
        raise InputError(f"{accelerator.name} does not fit the {device.part}: {found}.")


def load_resource_law(device: str, kind: str = "bit_serial") -> ResourceLaw | None:
    """The law of a device; None if it has none."""
    path = FOLDER / f"resources-{kind}-{device}.yaml"
    return ResourceLaw.from_yaml(path) if path.exists() else None
