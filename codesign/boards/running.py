"""A package, run again by its own driver on its own Verilog, or on its bitstream's cells."""

import gzip
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codesign.boards.ecp5 import NETLIST
from codesign.boards.simulated import SimulatedBuffer, SimulatedRegisters
from codesign.driver.line import Line, SerialMemory, SerialRegisters
from codesign.driver.machine import Machine, SharedMemory
from hardware.accelerator import Accelerator
from hardware.errors import InputError
from sim.build import COMPILER_FLAGS
from sim.ecp5_netlist import COMPILER_FLAGS as FLAGS_FOR_CELLS
from sim.ecp5_netlist import netlist_verilog
from sim.serial_line import PLL_MODEL, SimulatedLine

FORMAT = 4
NEEDED = ("driver/registers.json", "program/memory.bin", "selftest/images.npy", "selftest/scores.npy")
"""Files without which a package cannot be run, beside its Verilog."""


@dataclass(frozen=True)
class PackageRun:
    """A package, run again: images, cycles of each, class scores that differ, the simulator's seconds."""

    images: int
    rtl_cycles: list[int]
    mismatches: int
    seconds: float


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a package whose files are all there and unchanged."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("format") != FORMAT:
            raise InputError(
                f"{directory} has package format {manifest.get('format')!r}, expected {FORMAT}: export it again."
            )
        hashes = manifest["sha256"]
        for name in (*NEEDED, f"rtl/{manifest['top']}.v"):
            if name not in hashes:
                raise ValueError(f"its manifest does not list {name}")
        Accelerator.from_mapping(manifest["accelerator"], str(directory / "manifest.json"))
        for name, digest in hashes.items():
            if hashlib.sha256((directory / name).read_bytes()).hexdigest() != digest:
                raise InputError(f"{directory / name} is not the file that was exported: export the package again.")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{directory} is not a complete package ({error}): export it again.") from None
    return manifest


def run_package(directory: Path, waves: Path | None = None, netlist: bool = False) -> PackageRun:
    """Run a package's images with its driver on its own Verilog.

    Parameters
    ----------
    netlist:
        On the cells of its bitstream instead.

    Raises
    ------
    InputError
        It is not complete, or has no such cells.
    MachineFault
        The machine stopped with an error.
    """
    manifest = read_manifest(directory)
    accelerator = Accelerator.from_mapping(manifest["accelerator"], str(directory / "manifest.json"))
    verilog = (directory / "rtl" / f"{manifest['top']}.v").read_text(encoding="utf-8")
    if netlist:
        if NETLIST not in manifest["sha256"]:
            raise InputError(f"{directory} holds no {NETLIST}: export it for an ECP5 board with --bitstream.")
        cells = gzip.decompress((directory / NETLIST).read_bytes()).decode()
        return _run_over_line(directory, manifest, netlist_verilog(cells, manifest["top"]), waves, FLAGS_FOR_CELLS)
    if "line" in manifest:
        return _run_over_line(directory, manifest, verilog + PLL_MODEL.read_text(encoding="utf-8"), waves)
    memory = SimulatedBuffer.of(manifest["program"]["memory_words"])
    registers = SimulatedRegisters(accelerator, verilog, memory, 4 * manifest["cycles"] + 100_000, waves)
    machine = Machine(directory, registers, SharedMemory(memory), memory.device_address)
    return _run_images(directory, machine, lambda: registers.seconds)


def _run_over_line(
    directory: Path, manifest: dict[str, Any], verilog: str, waves: Path | None, flags: str = COMPILER_FLAGS
) -> PackageRun:
    """With the driver for the serial line, at its real rate; memory is not read back after it was written."""
    line = manifest["line"]
    cycles_per_bit = line["clock_mhz"] * 1e6 / line["baud"]
    top, clock_mhz = manifest["top"], line["clock_mhz"]
    with SimulatedLine(verilog, top, cycles_per_bit, clock_mhz, waves=waves, compiler_flags=flags) as port:
        begin = time.perf_counter()
        ends = Line(port)
        machine = Machine(directory, SerialRegisters(ends), SerialMemory(ends, line["memory_words"], verify=False), 0)
        return _run_images(directory, machine, lambda: time.perf_counter() - begin)


def _run_images(directory: Path, machine: Machine, seconds: Callable[[], float]) -> PackageRun:
    images, expected = (np.load(directory / f"selftest/{name}.npy") for name in ("images", "scores"))
    runs = [machine.run(image, seconds=float("inf")) for image in images]
    wrong = sum(int((run.scores != scores).sum()) for run, scores in zip(runs, expected, strict=True))
    return PackageRun(len(runs), [run.cycles for run in runs], wrong, seconds())
