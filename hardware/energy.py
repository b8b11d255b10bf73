"""The energy model: what switches, from the schedule and the data's bit planes, times what a switched pin costs.

What switches is measured on the mapped netlist (`codesign calibrate --energy`) and fitted to what is known of a layer
without it; joules come from constants of others, whose sources and ranges stand beside them. Dynamic energy only: the
board draws `BOARD_IDLE_WATTS` whatever the machine does.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hardware.calibration import FOLDER, Calibration
from hardware.cost import Events, count_events
from hardware.schedule import Schedule
from hardware.specification import Specification

PARTS = ("array", "buffers", "rest")
"""What is told apart: the array, the operand buffers (registers and wires; block RAM is counted apart), all else."""
ARRAY_FEATURES = {
    "bit_serial": (
        *("cycles", "unit_tiles", "row_pins", "column_pins", "threes", "carries", "levels", "counts", "accumulators"),
        *("column_levels", "column_accumulators", "shifts", "negations", "column_shifts", "column_negations"),
    ),
    "serial_weight": (
        *("row_pins", "value_pins", "pair_pins", "chosen", "levels", "accumulators", "results"),
        *("column_levels", "column_accumulators", "shifts", "negations"),
    ),
    "bit_fusion": (
        *("cycles", "unit_tiles", "row_words", "column_words", "row_digit_pins", "column_digit_pins", "products"),
        *("quads", "sums", "accumulators"),
    ),
}
BUFFER_FEATURES = ("cycles", "row_bits", "column_bits", "writes", "words_read")
MORE_BUFFER_FEATURES = {"serial_weight": ("column_writes",)}
REST_FEATURES = (
    *("cycles", "passes", "steps", "tiles", "row_bits", "column_bits", "writes", "accumulators"),
    "words_written",
)
FEATURES = {
    kind: {"array": array, "buffers": BUFFER_FEATURES + MORE_BUFFER_FEATURES.get(kind, ()), "rest": REST_FEATURES}
    for kind, array in ARRAY_FEATURES.items()
}
"""By kind and part, what its switching is fitted to: cycles, events of `hardware.cost.Events`, and toggles that follow
from the streams of operands (`codesign.switching.streams`).

An operand bit of a row that toggles does so at all columns' units (``row_pins``), one of a column at all rows'
(``column_pins``); the same of digits that fusion units get (``row_digit_pins, column_digit_pins``). Activations and
their pairs' sums go to all rows' units and once more to what the column adds up (``value_pins, pair_pins``). A tile
ends in all units (``unit_tiles``), where its sums take the place of the last one's (``results``). Serial weights'
buffers offer every word of activations to all planes' memories (``column_writes``).
"""


@dataclass(frozen=True)
class Constant:
    """A physical constant with the range in which it may lie."""

    value: float
    low: float
    high: float
    source: str


PIN_PICOJOULES = Constant(
    0.09,
    0.06,
    0.13,
    "per toggle of a net and pin it drives, LUT and routing together; nobody has published one for 7-series. High: "
    "BISMO's 8x256x8 at 200 MHz keeps a PYNQ-Z1 below 5 W, 1.5 W of them idle, which leaves 15 nJ per cycle beside its "
    "block RAM for the 120,000 pins that ours toggles at 8 bits. Low: CNV-W1A1 adds 153 mW at 100 MHz to a PYNQ-Z2 "
    "(MLPerf Tiny 0.7), if each of its LUTs (26,000, recalled) toggles a pin per cycle. Value: between them, "
    "geometrically",
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


BOARD_DEVICE = "xc7z020"


class Part(Specification):
    """Pins that toggle per unit of every feature of `FEATURES`, and how well that fits."""

    coefficients: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    median_error: float
    """Median and largest relative error over the held-out samples."""
    max_error: float


class EnergyCalibration(Calibration):
    """Switching of one machine, measured.

    Parameters
    ----------
    hardware, kind, ff:
        The machine's name, its kind of array, and its registers after synthesis.
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
    kind: Literal["bit_serial", "serial_weight", "bit_fusion"]
    ff: Annotated[int, Field(gt=0)]
    array: Part
    buffers: Part
    rest: Part
    clock_pins: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    block_rams: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    dynamic_error: tuple[float, float]
    samples: int
    held_out: int
    seed: int

    @model_validator(mode="after")
    def _all_features(self) -> Self:
        for part, features in FEATURES[self.kind].items():
            if tuple(getattr(self, part).coefficients) != features:
                raise ValueError(f"{part}.coefficients must be those of {', '.join(features)}, in this order")
        return self


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

    def __mul__(self, times: float) -> "Energy":
        return Energy(*(times * getattr(self, name) for name in self.__dataclass_fields__))


def load_energy(hardware: str) -> EnergyCalibration | None:
    """The committed calibration of a machine, None if there is none."""
    path = FOLDER / f"energy-{hardware}.yaml"
    return EnergyCalibration.from_yaml(path) if path.exists() else None


def feature_values(plan: Schedule, switching: Mapping[str, float], cycles: float) -> tuple[dict[str, float], Events]:
    """Everything that `FEATURES` names, of a layer, and its events; see `layer_energy`."""
    events, array = count_events(plan), plan.accelerator.array
    tiles = sum(work.row_tiles * work.column_tiles for work in plan.passes if work.operation == "matrix")
    seen = defaultdict(float, switching)  # a layer without array steps switches nothing
    derived = {"words_read": float(events.words_read), "words_written": float(events.words_written)}
    derived |= {"cycles": float(cycles), "passes": float(len(plan.passes)), "steps": float(events.array_steps)}
    derived |= {"tiles": float(tiles), "unit_tiles": float(array.dm * array.dn * tiles)}
    derived |= {"row_pins": array.dn * seen["row_bits"], "column_pins": array.dm * seen["column_bits"]}
    derived["row_digit_pins"] = array.dn * seen["row_digits"]
    derived["column_digit_pins"] = array.dm * seen["column_digits"]
    derived["value_pins"] = (array.dm + 1) * seen["column_bits"]
    derived["pair_pins"] = (array.dm + 1) * seen["column_pairs"]
    names = [name for part in PARTS for name in FEATURES[plan.accelerator.kind][part]]
    return {name: derived[name] if name in derived else seen[name] for name in names}, events


def layer_energy(plan: Schedule, cycles: int, switching: Mapping[str, float], calibration: EnergyCalibration) -> Energy:
    """Dynamic energy of a layer in joules.

    Parameters
    ----------
    cycles:
        Of `hardware.cycles.layer_cycles`.
    switching:
        Of `codesign.switching.streams.layer_switching`.
    """
    values, events = feature_values(plan, switching, cycles)
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
    return sum(c * values[name] for name, c in getattr(calibration, part).coefficients.items())


def scaled(calibration: EnergyCalibration, ff: int, bram36: float) -> EnergyCalibration:
    """A calibration for a machine that was not measured, from one that was: an estimate.

    What the array and its buffers switch follows from their size; clock pins are taken as proportional to registers.
    All else is as in the measured machine.

    Parameters
    ----------
    ff, bram36:
        That machine's resources, see `hardware.resources`.
    """
    return calibration.model_copy(
        update={
            "clock_pins": calibration.clock_pins * ff / calibration.ff,
            "block_rams": bram36,
            "ff": ff,
        }
    )
