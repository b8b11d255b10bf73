"""The calibration store of the cycle model: what was measured on which gateware, and what remained.

Nothing of the model is fitted: its constants are the latencies in `hardware.timing` that the gateware is built with.
So a calibration says which machine has confirmed them, on which layers, and how far model and machine were apart.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from codesign.calibrate import residual_table
from hardware import timing
from hardware.accelerator import Accelerator, Array, Buffers, accelerator_names, load_accelerator
from hardware.calibration import FOLDER, Calibration
from hardware.errors import InputError
from hardware.files import write_text
from hardware.specification import Name
from rtl.verilog import gateware_hash
from sim.toolchain import find_verilator

COLUMNS = ["ports", "latency", "layer", "bits", "rtl_cycles", "model_cycles"]


class CycleCalibration(Calibration):
    """What `codesign calibrate` leaves of an accelerator."""

    accelerator: Name
    array: Array
    buffers: Buffers
    constants: dict[str, int]
    """Latencies in cycles, by their names in `hardware.timing`, that the machine has confirmed."""
    seed: int
    samples: int
    """Layers measured on each machine."""
    latencies: tuple[int, int]
    """Lowest and highest latency of the memory, in cycles."""
    ports: tuple[int, ...]
    """Memory ports, a machine for each number."""
    max_abs_cycle_error: int
    mean_abs_cycle_error: float
    output_mismatches: int
    measured: str
    """A line of comma-separated `COLUMNS` per layer; those of one machine after those of the other."""

    def as_yaml(self) -> str:
        """YAML, the layers as a block of lines."""
        head = yaml.safe_dump(
            self.model_dump(mode="json", exclude={"measured"}), sort_keys=False, default_flow_style=None, width=120
        )
        return f"{head}measured: |\n" + "".join(f"  {line}\n" for line in self.measured.splitlines())

    def save(self, path: Path) -> None:
        """Write the YAML file; `from_yaml` reads it."""
        write_text(path, self.as_yaml())


def cycle_calibration(
    accelerator: Accelerator,
    report: dict[str, Any],
    seed: int,
    latencies: tuple[int, int] | None,
    ports: Sequence[int],
    hardware: str,
) -> CycleCalibration:
    """The calibration that a report of `codesign.calibrate.calibrate` amounts to.

    Parameters
    ----------
    seed, latencies, ports:
        As `codesign.calibrate.calibrate` was given them.
    hardware:
        The accelerator's name or path, for the command that measures again.
    """
    measured_ports = tuple(dict.fromkeys(row["ports"] for row in report["rows"]))
    samples = report["samples"] // len(measured_ports)
    options = [f"--hardware {hardware} --samples {samples} --seed {seed}"]
    options += [f"--latencies {latencies[0]},{latencies[1]}"] if latencies else []
    options += [f"--ports {','.join(map(str, measured_ports))}"] if ports else []
    options += ["--store"] if hardware in accelerator_names() else []
    return CycleCalibration(
        gateware=gateware_hash(accelerator.kind),
        tools={
            "amaranth": version("amaranth"),
            "cocotb": version("cocotb"),
            "verilator": find_verilator().version.split()[0],
        },
        renew=f"codesign calibrate {' '.join(options)}",
        accelerator=accelerator.name,
        array=accelerator.array,
        buffers=accelerator.buffers,
        constants=_constants(accelerator),
        seed=seed,
        samples=samples,
        latencies=latencies or (accelerator.memory.latency, accelerator.memory.latency),
        ports=measured_ports,
        max_abs_cycle_error=report["max_abs_cycle_error"],
        mean_abs_cycle_error=report["mean_abs_cycle_error"],
        output_mismatches=report["output_mismatches"],
        measured=residual_table(report["rows"])[COLUMNS].to_csv(index=False),
    )


def store_path(hardware: str) -> Path:
    """Where the calibration of a built-in accelerator is kept; `InputError` for others."""
    if hardware not in accelerator_names():
        raise InputError(
            f"only built-in accelerators have a calibration in the store, and {hardware} is none: use --out FOLDER."
        )
    return FOLDER / f"cycles-{hardware}.yaml"


def check_cycle_calibration(accelerator: Accelerator) -> str | None:
    """See to it that the accelerator's cycles may be used.

    Returns
    -------
    A note if it has no calibration: only built-in ones do, and `bitserial-cloud` has not been measured.

    Raises
    ------
    InputError
        The calibration is of other gateware or another machine than today's, or its file is damaged.
    """
    name = accelerator.name
    if name not in accelerator_names() or load_accelerator(name) != accelerator or not store_path(name).exists():
        return f"not calibrated: no machine like {name} was measured; `codesign calibrate` compares it with the model"
    calibration = CycleCalibration.from_yaml(store_path(name))
    calibration.check(gateware_hash(accelerator.kind), f"the calibration of {name}")
    same = (calibration.array, calibration.buffers) == (accelerator.array, accelerator.buffers)
    if not same or accelerator.memory.ports not in calibration.ports:
        raise InputError(
            f"the calibration of {name} was measured on another array, other buffers or other memory ports: "
            f"renew it with `{calibration.renew}`."
        )
    return None


def _constants(accelerator: Accelerator) -> dict[str, int]:
    numbers = {name: value for name, value in vars(timing).items() if name.isupper()}
    return numbers | {"ARRAY_LATENCY": timing.array_latency(accelerator.array.dk, accelerator.kind)}
