"""A package, run again by its own driver on its own Verilog, or on its bitstream's cells."""

import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """A package, run again: images, the network's cycles for each, class scores that differ; what was simulated."""

    images: int
    rtl_cycles: list[int]
    mismatches: int
    seconds: float
    simulated_cycles: int


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


def run_package(
    directory: Path,
    waves: Path | None = None,
    netlist: bool = False,
    progress: Callable[[int], None] = lambda images: None,
) -> PackageRun:
    """Run a package's images with its driver on its own Verilog.

    Parameters
    ----------
    netlist:
        On the cells of its bitstream instead.
    progress:
        Called with the number of images that are done.

    Raises
    ------
    InputError
        It is not complete, or has no such cells.
    MachineFault
        The machine stopped with an error.
    """
    manifest = read_manifest(directory)
    images, expected = (np.load(directory / f"selftest/{name}.npy") for name in ("images", "scores"))
    runs = []
    with _simulated(directory, manifest, waves, netlist) as (machine, spent):
        for image in images:
            runs.append(machine.run(image, seconds=float("inf")))
            progress(len(runs))
        seconds, cycles = spent()
    wrong = sum(int((run.scores != scores).sum()) for run, scores in zip(runs, expected, strict=True))
    rtl_cycles = [run.cycles for run in runs]
    return PackageRun(len(runs), rtl_cycles, wrong, seconds, cycles or sum(rtl_cycles))


@contextmanager
def _simulated(
    directory: Path, manifest: dict[str, Any], waves: Path | None, netlist: bool
) -> Iterator[tuple[Machine, Callable[[], tuple[float, int]]]]:
    """The package's driver with its simulated machine; the simulator's seconds so far and cycles, if counted.

    A serial line has its real rate; memory is not read back after it was written.
    """
    verilog, flags = (directory / "rtl" / f"{manifest['top']}.v").read_text(encoding="utf-8"), COMPILER_FLAGS
    if netlist:
        if NETLIST not in manifest["sha256"]:
            raise InputError(f"{directory} holds no {NETLIST}: export it for an ECP5 board with --bitstream.")
        cells = gzip.decompress((directory / NETLIST).read_bytes()).decode()
        verilog, flags = netlist_verilog(cells, manifest["top"]), FLAGS_FOR_CELLS
    if "line" not in manifest:
        accelerator = Accelerator.from_mapping(manifest["accelerator"], str(directory / "manifest.json"))
        memory = SimulatedBuffer.of(manifest["program"]["memory_words"])
        registers = SimulatedRegisters(accelerator, verilog, memory, 4 * manifest["cycles"] + 100_000, waves)
        yield Machine(directory, registers, SharedMemory(memory), memory.device_address), lambda: (registers.seconds, 0)
        return
    line, top = manifest["line"], manifest["top"]
    cycles_per_bit = line["clock_mhz"] * 1e6 / line["baud"]
    if not netlist:
        verilog += PLL_MODEL.read_text(encoding="utf-8")
    with SimulatedLine(verilog, top, cycles_per_bit, line["clock_mhz"], waves=waves, compiler_flags=flags) as port:
        begin = time.perf_counter()
        ends = Line(port)
        words = SerialMemory(ends, line["memory_words"], verify=False)
        yield Machine(directory, SerialRegisters(ends), words, 0), lambda: (time.perf_counter() - begin, port.cycles)
