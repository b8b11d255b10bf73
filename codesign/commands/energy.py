"""``codesign calibrate --energy``: what switches in the mapped machine, and the energy model fitted to it."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd
import yaml

from codesign.commands.common import Result, out, progress_bar, say, table
from codesign.energy_calibration import calibrate_energy, check_samples
from codesign.plots import energy_against_netlist
from hardware.accelerator import accelerator_names, load_accelerator
from hardware.calibration import FOLDER
from hardware.energy import BLOCK_RAM_PICOJOULES, DRAM_PICOJOULES_PER_BIT, PARTS, PIN_PICOJOULES, Constant
from hardware.errors import InputError
from hardware.files import check_writable, write_text


def calibrate_switching(
    result: Result, hardware: str, samples: int, seed: int, directory: Path | None, store: bool
) -> None:
    """Fit to ``samples`` layers and test on as many others; print, write to ``directory``, keep with ``store``."""
    accelerator = load_accelerator(hardware)
    if store and hardware not in accelerator_names():
        raise InputError(f"only built-in accelerators are stored, and {hardware} is none: use --out FOLDER.")
    path = FOLDER / f"energy-{accelerator.name}.yaml"
    for file in (*([directory / "switching.csv"] if directory else []), *([path] if store else [])):
        check_writable(file)
    check_samples(samples, samples)
    say("mapping the machine and compiling its netlist take minutes, the first time")
    with progress_bar("layers on the netlist", 2 * samples) as progress:
        renew = f"codesign calibrate --hardware {hardware} --energy --samples {samples} --seed {seed}"
        renew += " --store" if hardware in accelerator_names() else ""
        calibration, rows = calibrate_energy(accelerator, samples, samples, seed, progress, renew)
    lines = table(f"{accelerator.name}: {samples} held-out layers", "part", "median error", "largest error")
    for part in PARTS:
        fit = getattr(calibration, part)
        lines.add_row(f"{part}: pins that toggle", f"{fit.median_error:.2%}", f"{fit.max_error:.2%}")
    lines.add_row("array and buffers: energy", *(f"{error:.2%}" for error in calibration.dynamic_error))
    out.print(lines)
    for name, constant in (
        ("pJ per pin", PIN_PICOJOULES),
        ("pJ per block RAM and cycle", BLOCK_RAM_PICOJOULES),
        ("pJ per DRAM bit", DRAM_PICOJOULES_PER_BIT),
    ):
        say(anchor(name, constant))
    text = yaml.safe_dump(calibration.model_dump(mode="json"), sort_keys=False, width=110)
    if directory:
        write_text(directory / "switching.csv", pd.DataFrame(rows).to_csv(index=False))
        write_text(directory / "energy.yaml", text)
        energy_against_netlist(rows, accelerator.name, directory / "energy.png")
        say(f"wrote {directory}: switching.csv, energy.yaml, energy.png")
    if store:
        write_text(path, text)
        say(f"stored {path.name}")
    report = {"samples": samples, "calibration": calibration.model_dump(mode="json"), "rows": rows}
    report["constants"] = {
        "pin_pj": asdict(PIN_PICOJOULES),
        "block_ram_pj": asdict(BLOCK_RAM_PICOJOULES),
        "dram_pj_per_bit": asdict(DRAM_PICOJOULES_PER_BIT),
    }
    result.write(report, accelerator, seed)


def anchor(name: str, constant: Constant) -> str:
    """A constant with its range and source, as a line."""
    return f"{name}: {constant.value:g} ({constant.low:g} to {constant.high:g}), {constant.source}"
