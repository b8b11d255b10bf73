"""The resource law of a kind of accelerators on a 7-series FPGA: what one takes, in microseconds.

What follows from its structure is counted (`hardware.resources.counted`), and what stands at each unit, row and column
of the array was synthesised alone. The logic around them is a sum of terms: each is a number of things that the machine
has, times what synthesis makes of one of them. These factors are fitted to machines that Yosys has synthesised, see
`benchmarks/resource_law.py`. Machines of all kinds are the same around the array, so all factors but one are fitted
once, to bit-serial machines, and given to the laws of the other kinds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Literal, Self

import numpy as np
from pydantic import model_validator

from hardware.accelerator import Accelerator, Array, Buffers, Memory
from hardware.calibration import FOLDER, Calibration
from hardware.resources import Resources, counted
from hardware.specification import Name, Specification

TERMS = ("machine", "port", "port_address_bit", "row", "column", "unit", "column_bit")
"""What the other logic is proportional to: the machine itself, memory ports, their bits of buffer addresses, array
rows, array columns, dot-product units, bits of columns."""


GIVEN = TERMS[1:]
"""The same around and beside every array: the bit-serial law's factors are given to the laws of other kinds. The rest,
the machine itself, has another order of steps and another way from the plane buffer to memory."""


class ArrayParts(Specification):
    """LUTs and flip-flops by ``dk`` of what stands at each unit, row and column of an array.

    Of the bit-serial array they are popcounts: a unit's and a column's counter; of the array of serial weights a unit's
    masked sum, and a column's values, sums of pairs and sum of all; of fusion units a unit's fusion units and the
    adders behind them, a row's and a column's choice of parts and routers.
    """

    unit: dict[int, tuple[int, int]]
    column: dict[int, tuple[int, int]]
    row: dict[int, tuple[int, int]]
    """Empty if nothing stands there."""

    def of(self, accelerators: Sequence[Accelerator]) -> np.ndarray:
        """LUTs and flip-flops of all parts of each accelerator: ``len(accelerators) x 2``."""
        found = np.zeros((len(accelerators), 2))
        for amounts, accelerator in zip(found, accelerators, strict=True):
            dm, dk, dn = accelerator.array.dm, accelerator.array.dk, accelerator.array.dn
            for count, part in ((dm * dn, self.unit), (dn, self.column), (dm, self.row)):
                amounts += count * np.array(part[dk] if part else (0, 0))
        return found


def _terms(accelerators: Sequence[Accelerator]) -> np.ndarray:
    """``len(accelerators) x len(TERMS)`` amounts."""
    sizes = [
        (one.array.dm, one.array.dk, one.array.dn, one.buffers.lhs_entries, one.buffers.rhs_entries, one.memory.ports)
        for one in accelerators
    ]
    dm, dk, dn, lhs, rhs, ports = np.array(sizes, dtype=float).reshape(-1, 6).T
    address_bits = np.log2(lhs) + np.log2(rhs)
    return np.stack([np.ones_like(dm), ports, ports * address_bits, dm, dn, dm * dn, dn * dk], axis=1)


def _known(accelerators: Sequence[Accelerator], parts: ArrayParts) -> np.ndarray:
    """What is counted and what parts of the array take: ``len(accelerators) x 4``, in the order of `Resources`."""
    known = np.array([astuple(counted(one)) for one in accelerators], dtype=float).reshape(-1, 4)
    known[:, :2] += parts.of(accelerators)
    return known


def fit(
    accelerators: Sequence[Accelerator],
    measured: Sequence[Resources],
    parts: ArrayParts,
    given: Sequence[Mapping[str, float]] = ({}, {}),
) -> tuple[dict[str, float], dict[str, float]]:
    """LUTs and flip-flops of each of `TERMS`: least squares of the relative error, none below zero.

    Parameters
    ----------
    given:
        LUTs and flip-flops of those that are not fitted.
    """
    from scipy.optimize import nnls  # half a second, and only for those who fit

    terms, known = _terms(accelerators), _known(accelerators, parts)
    laws = []
    for column, factors in enumerate(given):
        amounts = np.array([astuple(one)[column] for one in measured], dtype=float)
        law = np.array([factors.get(name, 0.0) for name in TERMS])
        free = [term for term, name in enumerate(TERMS) if name not in factors]
        shares = 1 - (known[:, column] + terms @ law) / amounts
        law[free] = nnls(terms[:, free] / amounts[:, np.newaxis], shares)[0].round(4)
        laws.append(dict(zip(TERMS, map(float, law), strict=True)))
    lut, ff = laws
    return lut, ff


class Sample(Specification):
    """A machine that Yosys synthesised: its sizes, what it took, and by how much the law is off."""

    name: Name
    kind: Literal["bit_serial", "serial_weight", "bit_fusion"]
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
            kind=self.kind,
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
    """Resources of any accelerator of one kind on one device.

    Parameters
    ----------
    device:
        A name in `hardware.device.DEVICES`.
    parts:
        What synthesis makes of the array's parts alone.
    given:
        Those of `TERMS` whose factors are the bit-serial law's own.
    lut, ff:
        LUTs and flip-flops of each of `TERMS`, beside the array's parts and what is `counted`.
    fitted, held_out:
        Machines that the law was fitted to, and others that it is judged by.
    """

    device: str
    parts: ArrayParts
    given: list[str]
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
        known = _known(accelerators, self.parts)
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


def load_resource_law(device: str, kind: str = "bit_serial") -> ResourceLaw | None:
    """The law of a device; None if it has none."""
    path = FOLDER / f"resources-{kind}-{device}.yaml"
    return ResourceLaw.from_yaml(path) if path.exists() else None
