"""Resources and clock of a whole accelerator from open tools, as figures and as text."""

import statistics
from collections.abc import Callable
from typing import Any

from hardware.accelerator import Accelerator
from hardware.device import DEVICES, load_device
from hardware.errors import InputError
from rtl.verilog import TOP, engine_verilog
from sim.place import DEVICE as PLACEABLE
from sim.place import place
from sim.synthesis import COUNTING, array_cells, machine_cells, resources, tool_version


def synthesize_accelerator(
    accelerator: Accelerator,
    device: str,
    seeds: int = 5,
    first_seed: int = 0,
    jobs: int = 1,
    fresh: bool = False,
    progress: Callable[[int], None] | None = None,
    routed: bool = True,
) -> dict[str, Any]:
    """Measure the engine and its array alone on a device.

    Parameters
    ----------
    device:
        A name in `hardware.device.DEVICES`. On ``ecp5-85k`` the engine is placed and routed; on ``xc7z020`` it is
        synthesised only, because no open place-and-route for it can be installed with pip.
    seeds, first_seed:
        Number of place-and-route runs, each from another start, and the first one's seed.
    jobs:
        Runs at a time.
    fresh:
        Use nothing that was kept.
    progress:
        Called with the number of finished steps, of `steps`.
    routed:
        False: stop after placement. A clock is nextpnr's estimate then.

    Returns
    -------
    ``device, part, available, lut, ff, bram36, dsp, fits, cells, binary_macs, lut_per_binary_mac`` (whole engine),
    ``array`` (``lut, ff, lut_per_binary_mac``), ``fmax_mhz`` (median of the seeds; None without place-and-route),
    ``fmax_best_mhz``, ``routed``, ``seeds`` (``seed, fmax_mhz, critical_path`` of each) and ``tools`` (versions).

    Raises
    ------
    InputError
        The device is unknown or not placed and ``routed`` is False, a number is below 1, or a tool failed.
    """
    target = load_device(device)
    if seeds < 1:
        raise InputError(f"expected at least 1 seed, got {seeds}: raise --seeds.")
    if jobs < 1:
        raise InputError(f"expected at least 1 job, got {jobs}: raise --jobs.")
    if not routed and device != PLACEABLE:
        raise InputError(f"expected --device {PLACEABLE} with --placed-only, got {device}, which is not placed at all.")
    say = progress or (lambda done: None)
    text, macs, runs = engine_verilog(accelerator), accelerator.peak_binary_macs, list[dict[str, Any]]()
    array = resources(array_cells(accelerator, device, fresh), device)
    say(1)
    tools = {"yosys": tool_version("yosys")}
    if device == PLACEABLE:
        numbers = range(first_seed, first_seed + seeds)
        placement = place(text, TOP, numbers, jobs, fresh, lambda done: say(1 + done), routed)
        cells, used, runs = placement.cells, placement.resources, placement.runs
        tools["nextpnr-ecp5"] = tool_version("nextpnr-ecp5")
    else:
        cells = machine_cells(text, TOP, device, fresh)
        used = resources(cells, device)
        say(2)
    clocks = [run["fmax_mhz"] for run in runs]
    return {
        "device": device,
        "part": target.part,
        "available": target.model_dump(exclude={"part"}),
        "lut": used.lut,
        "ff": used.ff,
        "bram36": used.bram36,
        "dsp": used.dsp,
        "fits": used.fits(target),
        "cells": cells,
        "binary_macs": macs,
        "lut_per_binary_mac": used.lut / macs,
        "array": {"lut": array.lut, "ff": array.ff, "lut_per_binary_mac": array.lut / macs},
        "fmax_mhz": statistics.median(clocks) if clocks else None,
        "fmax_best_mhz": max(clocks, default=None),
        "routed": routed and bool(clocks),
        "seeds": [{key: run[key] for key in ("seed", "fmax_mhz", "critical_path")} for run in runs],
        "tools": tools,
    }


def steps(device: str, seeds: int) -> int:
    """Steps of `synthesize_accelerator`: the array, then the engine or its place-and-route runs."""
    return 1 + (seeds if device == PLACEABLE else 1)


def path_summary(path: list[dict[str, Any]]) -> str:
    """One line for a critical path: where it starts, where it ends, and what its nanoseconds are spent on."""
    logic, routing = (sum(step[key] for step in path) for key in ("logic_ns", "routing_ns"))
    return f"{path[0]['at']} -> {path[-1]['at']}: {logic + routing:.2f} ns, {logic:.2f} logic and {routing:.2f} routing"


def amount(used: float) -> str:
    """A number of resources; halves exist for block RAM only."""
    return f"{used:,.1f}".removesuffix(".0")


def utilization_report(accelerator: Accelerator, report: dict[str, Any]) -> str:
    """Resources as text, with the cells they come from."""
    array = report["array"]
    lines = [f"{accelerator.name} on {report['device']} ({report['part']})", ""]
    for resource, available in report["available"].items():
        used = report[resource]
        lines.append(f"{resource:<10}{amount(used):>10} of {available:>8,}  {used / available:>7.1%}")
    lines += [
        "",
        f"fits: {'yes' if report['fits'] else 'no'}",
        f"LUT per binary MAC: {report['lut_per_binary_mac']:.2f}",
        f"array alone: {array['lut']:,} LUT, {array['ff']:,} FF, {array['lut_per_binary_mac']:.2f} LUT per binary MAC",
        "",
        "cells after synthesis:",
    ]
    lines += [f"{cell:<18}{count:>10,}" for cell, count in sorted(report["cells"].items())]
    lines += ["", COUNTING[report["device"]], "", *(f"{tool} {number}" for tool, number in report["tools"].items())]
    return "\n".join(lines) + "\n"


def timing_report(accelerator: Accelerator, report: dict[str, Any]) -> str:
    """Clock of every seed as text, and the critical path of each, signal by signal."""
    lines = [f"{accelerator.name} on {report['device']} ({report['part']})", ""]
    if report["fmax_mhz"] is None:
        return "\n".join([*lines, no_clock(report)]) + "\n"
    lines += [
        clock_summary(report),
        "stimulus, held and folded are registers of the harness around the machine",
    ]
    for run in report["seeds"]:
        lines += ["", f"seed {run['seed']}: {run['fmax_mhz']:.2f} MHz", path_summary(run["critical_path"])]
        for step in run["critical_path"]:
            lines.append(f"{step['logic_ns']:>8.2f} logic {step['routing_ns']:>8.2f} routing  {step['at']}")
    return "\n".join(lines) + "\n"


def clock_summary(report: dict[str, Any]) -> str:
    """The seeds' clocks in a line."""
    how = "" if report["routed"] else ", estimated after placement, not routed"
    return f"median {report['fmax_mhz']:.2f} MHz, best {report['fmax_best_mhz']:.2f} MHz{how}"


def no_clock(report: dict[str, Any]) -> str:
    """Why a report has no clock."""
    if report["device"] == PLACEABLE:
        return "no clock: it does not fit, so it was not placed"
    return (
        f"no clock: no open place-and-route for {report['device']} can be installed with pip; "
        f"--device {PLACEABLE} gives one"
    )


def default_device(accelerator: Accelerator, chosen: str | None) -> str:
    """The device to measure on: the chosen one, else the accelerator's.

    Raises
    ------
    InputError
        Nothing was chosen and the accelerator's device is none that open tools support.
    """
    if chosen is None and accelerator.device not in DEVICES:
        raise InputError(
            f"{accelerator.name} is meant for {accelerator.device}, which open tools do not support here: "
            f"pass --device {' or '.join(DEVICES)}."
        )
    return chosen or accelerator.device
