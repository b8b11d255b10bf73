"""``codesign synth``: resources and clock of an accelerator from open synthesis and place-and-route."""

from pathlib import Path
from typing import Annotated, Any

import typer

from codesign.commands.common import HardwareOption, JsonOption, Result, SeedOption, out, progress_bar, say, table
from codesign.synth import (
    amount,
    clock_summary,
    default_device,
    no_clock,
    path_summary,
    steps,
    synthesize_accelerator,
    timing_report,
    utilization_report,
)
from hardware.accelerator import load_accelerator
from hardware.files import check_writable, write_text
from sim.synthesis import COUNTING


def command(
    hardware: HardwareOption = "bitserial-tiny",
    device: Annotated[
        str | None, typer.Option("--device", help="xc7z020 or ecp5-85k; the accelerator's own by default.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Place-and-route runs, each from another start (ECP5).")] = 5,
    jobs: Annotated[int, typer.Option("--jobs", help="Place-and-route runs at a time; each takes 1 GB or more.")] = 1,
    placed_only: Annotated[
        bool, typer.Option("--placed-only", help="Do not route: an estimate of the clock, much sooner (ECP5).")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is in the cache.")] = False,
    directory: Annotated[
        Path | None, typer.Option("--out", help="Write utilization.txt and timing.txt to this folder.")
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Synthesise an accelerator with Yosys; on an ECP5 also place and route it with nextpnr for its clock.

    The first run takes minutes; its result is kept in the cache. A clock is that of the whole engine between
    registers, without pins.
    """
    result = Result("synth", json)
    accelerator = load_accelerator(hardware)
    chosen = default_device(accelerator, device)
    if directory:
        check_writable(directory / "utilization.txt")
    with progress_bar(f"{accelerator.name} on {chosen}", steps(chosen, seeds)) as progress:
        report = synthesize_accelerator(accelerator, chosen, seeds, seed, jobs, fresh, progress, not placed_only)
    _print(accelerator.name, report)
    if directory:
        write_text(directory / "utilization.txt", utilization_report(accelerator, report))
        write_text(directory / "timing.txt", timing_report(accelerator, report))
        say(f"wrote {directory / 'utilization.txt'} and {directory / 'timing.txt'}")
    result.write(report, accelerator, seed if report["seeds"] else None)


def _print(name: str, report: dict[str, Any]) -> None:
    lines = table(f"{name} on {report['device']}", "resource", "used", "of", "share")
    for resource, available in report["available"].items():
        used = report[resource]
        lines.add_row(resource, amount(used), f"{available:,}", f"{used / available:.1%}")
    out.print(lines)
    array = report["array"]
    verdict = "fits" if report["fits"] else "does not fit"
    say(
        f"{verdict}; LUT per binary MAC: {report['lut_per_binary_mac']:.2f}, of the array alone "
        f"{array['lut_per_binary_mac']:.2f} ({array['lut']:,} LUT, {array['ff']:,} FF)"
    )
    say(COUNTING[report["device"]])
    if report["fmax_mhz"] is None:
        say(no_clock(report))
        return
    for run in report["seeds"]:
        say(f"seed {run['seed']}: {run['fmax_mhz']:.2f} MHz, critical path {path_summary(run['critical_path'])}")
    say(f"clock: {clock_summary(report)}")
