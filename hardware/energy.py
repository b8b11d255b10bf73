"""The energy model: what switches, from schedule and bit-plane densities, times what a switched pin costs.

What switches is measured on the mapped netlist (`codesign calibrate --energy`) and fitted to what is expected of a
layer; joules come from constants of others, whose sources and ranges stand beside them. Dynamic energy only: the board
draws `BOARD_IDLE_WATTS` whatever the machine does.
"""

from dataclasses import dataclass

import numpy as np

from hardware.accelerator import Accelerator, load_accelerator
from hardware.calibration import FOLDER, Calibration
from hardware.cost import Events, pass_events
from hardware.schedule import Schedule
from hardware.specification import Specification
from hardware.switching import NAMES, Densities, switching

PARTS = ("array", "buffers", "rest")
"""What is told apart: the array, the operand buffers (registers and wires; block RAM is counted apart), all else."""
ARRAY_FEATURES = ("cycles", "unit_steps", "unit_tiles", "row_pins", "column_pins", "ones", "carries", "counts")
BUFFER_FEATURES = ("cycles", "lhs", "rhs", "words_read")
REST_FEATURES = ("cycles", "steps", "tiles", "lhs", "rhs", "words_read", "words_written", "requantized", "vector_steps")
FEATURES = {"array": ARRAY_FEATURES, "buffers": BUFFER_FEATURES, "rest": REST_FEATURES}
"""By part, what its switching is fitted to: cycles, expected switching, and events of `hardware.cost.Events`.

A step of a dot-product unit is a ``unit_step``; an operand bit of a row that toggles does so at all columns' units
(``row_pins``), one of a column at all rows' (``column_pins``).
"""


@dataclass(frozen=True)
class Constant:
    """A physical constant with the range in which it may lie."""

    value: float
    low: float
    high: float
    source: str


PIN_PICOJOULES = Constant(
    0.13,
    0.06,
    0.27,
    "per toggle of a net and pin it drives, LUT and routing together. No figure for 7-series is published. High: all "
    "of BISMO's 8x256x8 at 200 MHz stays below 5 W on a PYNQ-Z1, 1.5 W of them idle, if it switches as our array does; "
    "low: CNV-W1A1's 153 mW at 100 MHz on a PYNQ-Z2 (MLPerf Tiny 0.7), if its LUTs (26,000, recalled) switch a pin "
    "each per cycle; value: between them, geometrically",
)
BLOCK_RAM_PICOJOULES = Constant(
    17.9, 9.0, 35.8, "per 36 Kbit block and enabled cycle: VTR's 40 nm architecture, dual port, one toggle (high: two)"
)
DRAM_PICOJOULES_PER_BIT = Constant(
    15.0, 6.0, 70.0, "BitFusion's simulator (6 in its comment); high: DDR3 at full use, recalled"
)
BOARD_IDLE_WATTS = Constant(
    1.5, 1.48, 1.53, "PYNQ-Z2, whole board at 5 V, processor busy, bitstream loaded, clock on (MLPerf Tiny 0.7 traces)"
)


class Part(Specification):
    """Pins that toggle per unit of every feature of `FEATURES`, and how well that fits."""

    coefficients: tuple[float, ...]
    median_error: float
    """Median and largest relative error over the held-out samples."""
    max_error: float


class EnergyCalibration(Calibration):
    """Switching of one machine, measured.

    Parameters
    ----------
    hardware, ff:
        The machine's name, and its registers after synthesis.
    array, buffers, rest:
        Parts of the machine.
    clock_pins:
        Clock pins of slices, block RAMs and multipliers, each toggling twice per cycle.
    block_rams:
        36 Kbit blocks, enabled in every cycle.
    dynamic_error:
        Median and largest relative error of array and buffers together, block RAM included, over the held-out samples.
    samples, held_out, seed:
        Layers fitted to, layers kept apart, and what they were drawn with.
    """

    hardware: str
    ff: int
    array: Part
    buffers: Part
    rest: Part
    clock_pins: float
    block_rams: float
    dynamic_error: tuple[float, float]
    samples: int
    held_out: int
    seed: int


@dataclass(frozen=True)
class Energy:
    """Joules of a layer; ``low`` and ``high`` with all constants at the ends of their ranges."""

    array: float
    buffers: float
    rest: float
    clock: float
    block_ram: float
    dram: float
    low: float
    high: float

    @property
    def dynamic(self) -> float:
        """All of it."""
        return self.array + self.buffers + self.rest + self.clock + self.block_ram + self.dram

    def __add__(self, other: "Energy") -> "Energy":
        return Energy(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def load_energy(hardware: str) -> EnergyCalibration | None:
    """The committed calibration of a machine, None if there is none."""
    path = FOLDER / f"energy-{hardware}.yaml"
    return EnergyCalibration.from_yaml(path) if path.exists() else None


def feature_values(plan: Schedule, densities: Densities, cycles: float) -> tuple[dict[str, float], Events]:
    """Everything that `FEATURES` names, of a layer, and its events."""
    expected, events = np.zeros(len(NAMES)), Events()
    for work in plan.passes:
        expected += switching(work, plan.layer, densities)
        events += pass_events(work, plan.layer)
    named = dict(zip(NAMES, map(float, expected), strict=True))
    array = plan.accelerator.array
    named |= {"unit_steps": array.dm * array.dn * named["steps"], "unit_tiles": array.dm * array.dn * named["tiles"]}
    named |= {"row_pins": array.dn * named["lhs"], "column_pins": array.dm * named["rhs"]}
    counted = {
        name: float(getattr(events, name)) for name in ("words_read", "words_written", "requantized", "vector_steps")
    }
    return named | counted | {"cycles": float(cycles)}, events


def layer_energy(plan: Schedule, cycles: int, densities: Densities, calibration: EnergyCalibration) -> Energy:
    """Dynamic energy of a layer in joules.

    Parameters
    ----------
    cycles:
        Of `hardware.cycles.layer_cycles`.
    densities:
        Of the layer's operands, see `typical_densities` if they are not known.
    """
    values, events = feature_values(plan, densities, cycles)
    pins = [toggled_pins(part, values, calibration) for part in PARTS]
    clock = 2 * calibration.clock_pins * cycles
    rams = calibration.block_rams * cycles
    bits = 64 * (events.words_read + events.words_written)

    def joules(pin: float, ram: float, bit: float) -> tuple[float, ...]:
        return (*(1e-12 * pin * number for number in (*pins, clock)), 1e-12 * ram * rams, 1e-12 * bit * bits)

    constants = PIN_PICOJOULES, BLOCK_RAM_PICOJOULES, DRAM_PICOJOULES_PER_BIT
    ends = (sum(joules(*(getattr(constant, end) for constant in constants))) for end in ("low", "high"))
    return Energy(*joules(*(constant.value for constant in constants)), *ends)


def toggled_pins(part: str, values: dict[str, float], calibration: EnergyCalibration) -> float:
    """Pins that toggle in a part of the machine, from the values of its features."""
    coefficients = getattr(calibration, part).coefficients
    return sum(c * values[name] for c, name in zip(coefficients, FEATURES[part], strict=True))


def typical_densities(weight_bits: tuple[int, ...], activation_bits: int, signed_activations: bool) -> Densities:
    """Densities of normally distributed weights and of half-normally (signed: normally) distributed activations.

    Three standard deviations are the largest integer; what lies beyond is clipped.
    """
    widths = {bits for bits in weight_bits if bits}
    return Densities(
        {bits: _normal_density(bits, True) for bits in widths}, _normal_density(activation_bits, signed_activations)
    )


def _normal_density(bits: int, signed: bool) -> np.ndarray:
    """float64, (bits,): density of every plane of rounded normal numbers."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    grid = np.linspace(-6.0, 6.0, 24_001)
    weight = np.exp(-(grid**2) / 2)
    values = np.round(grid * max(1, high) / 3)
    values = np.clip(values if signed else np.abs(values), low, high)
    planes = values.astype(np.int64)[None] >> np.arange(bits)[:, None] & 1
    return np.asarray((planes * weight).sum(axis=1) / weight.sum())


def scaled(calibration: EnergyCalibration, accelerator: Accelerator, ff: int, bram36: float) -> EnergyCalibration:
    """A calibration for a machine that was not measured, from one that was: an estimate.

    What the array and its buffers switch follows from their size; clock pins are taken as proportional to registers,
    and what requantizing a column switches to the rows. All else is as in the measured machine.

    Parameters
    ----------
    ff, bram36:
        The accelerator's resources, see `hardware.resources`.
    """
    measured = load_accelerator(calibration.hardware)
    rows = accelerator.array.dm / measured.array.dm
    rest = tuple(
        c * rows if name == "requantized" else c
        for name, c in zip(REST_FEATURES, calibration.rest.coefficients, strict=True)
    )
    return calibration.model_copy(
        update={
            "rest": calibration.rest.model_copy(update={"coefficients": rest}),
            "clock_pins": calibration.clock_pins * ff / calibration.ff,
            "block_rams": bram36,
            "ff": ff,
        }
    )
