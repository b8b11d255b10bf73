"""``codesign calibrate``: random layers on the RTL against the model and an independent reference."""

from pathlib import Path
from typing import Annotated, Any

import typer

from codesign.calibrate import bits_range, calibrate, relative_errors, residual_table, variants
from codesign.commands.common import (
    HardwareOption,
    JsonOption,
    Result,
    SeedOption,
    note,
    out,
    progress_bar,
    say,
    table,
)
from codesign.commands.energy import calibrate_switching
from codesign.commands.measured import compare_measured
from codesign.cycle_calibration import cycle_calibration, store_path
from codesign.plots import error_histogram, model_against_rtl
from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.files import check_writable, write_text

SHOWN = 20


def command(
    hardware: HardwareOption = "bitserial-tiny",
    samples: Annotated[int, typer.Option("--samples", help="Random layers to measure on each machine.")] = 100,
    latencies: Annotated[
        str | None,
        typer.Option("--latencies", help="LOW,HIGH: each layer has its own memory latency, drawn from these (cycles)."),
    ] = None,
    ports: Annotated[
        str | None,
        typer.Option("--ports", help="Numbers of memory ports, for example 1,2,4: a machine for each that fits."),
    ] = None,
    stalls: Annotated[
        float | None,
        typer.Option("--stalls", help="Probability that a channel of the memory hesitates in a cycle, see above."),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--out", help="Write residuals, plots and calibration to this folder.")
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Keep the calibration of a built-in accelerator for cost and search.")
    ] = False,
    energy: Annotated[
        bool,
        typer.Option("--energy", help="Measure what switches in the mapped netlist, not cycles."),
    ] = False,
    measured: Annotated[
        Path | None,
        typer.Option("--measured", help="The measured.json that a package's driver left on a board: compare that."),
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Measure random layers on the RTL: cycles against the model, outputs against plain integer convolution.

    --out leaves residuals.csv, cycles.png and calibration.yaml. With --stalls cycles are random: the model counts what
    the memory's mean hesitation lets expect, and the relative error is reported as a distribution (stalls.png).
    Exit code 1 if an output is wrong, or, without --stalls, a cycle.
    """
    result = Result("calibrate", json)
    if measured:
        if energy or store or directory or stalls is not None or latencies or ports:
            raise InputError("--measured compares what a board did and simulates nothing: leave out the other options.")
        compare_measured(result, measured)
        return
    if energy:
        if latencies or ports or stalls is not None:
            raise InputError("--energy measures the accelerator as it is: leave out --latencies, --ports and --stalls.")
        calibrate_switching(result, hardware, samples, seed, directory, store)
        return
    accelerator = load_accelerator(hardware)
    span, counts = _span(latencies), _counts(ports)
    path = store_path(hardware) if store else None
    if store and stalls is not None:
        raise InputError("a calibration is measured without stalls: leave out --stalls or --store.")
    for file in (*([directory / "residuals.csv"] if directory else []), *([path] if path else [])):
        check_writable(file)
    machines = variants(accelerator, counts)
    if len(machines) < len(set(counts)):
        fitting = ", ".join(str(machine.memory.ports) for machine in machines)
        note(f"memory ports must divide the array, so {accelerator.name} is measured with {fitting} alone")
    with progress_bar("layers on the RTL", samples * len(machines)) as progress:
        report = calibrate(accelerator, samples, seed, progress, span, counts, stalls)
    _print(accelerator.name, report)
    calibration = cycle_calibration(accelerator, report, seed, span, counts, hardware) if stalls is None else None
    if directory:
        write_text(directory / "residuals.csv", residual_table(report["rows"]).to_csv(index=False))
        title = f"{accelerator.name}: {report['samples']} random layers"
        model_against_rtl(report["rows"], title, directory / "cycles.png")
        if calibration:
            calibration.save(directory / "calibration.yaml")
        else:
            errors = relative_errors(report["rows"])
            error_histogram(errors, f"{title}, stalls {stalls:g}", directory / "stalls.png")
        say(f"wrote {directory}: residuals.csv, cycles.png, {'calibration.yaml' if calibration else 'stalls.png'}")
    wrong = bool(report["output_mismatches"] or (calibration and report["max_abs_cycle_error"]))
    if calibration and path:
        if wrong:
            note("the calibration is not stored: machine, model and reference disagree")
        else:
            calibration.save(path)
            say(f"stored {path.name}")
    result.write(report, accelerator, seed)
    if wrong:
        raise typer.Exit(1)


def _print(name: str, report: dict[str, Any]) -> None:
    lines = table(
        f"{name}: {report['samples']} random layers",
        *("layer", "bits W,A", "ports", "latency", "RTL cycles", "model", "wrong"),
    )
    rows = report["rows"]
    for row in rows[:SHOWN]:
        cycles = f"{row['rtl_cycles']:,}", f"{row['model_cycles']:,}"
        numbers = row["ports"], row["latency"], *cycles, row["mismatches"]
        lines.add_row(row["layer"], bits_range(row["bits"]), *map(str, numbers))
    if len(rows) > SHOWN:
        lines.add_row(f"... and {len(rows) - SHOWN} more")
    out.print(lines)
    say(
        f"largest cycle error {report['max_abs_cycle_error']}, mismatching outputs {report['output_mismatches']}, "
        f"{report['cycles_per_second']:,.0f} cycles per second"
    )
    if errors := report.get("stalls"):
        say(
            f"stalls with probability {errors['probability']:g}: what comes waits {errors['hesitation']:.3f} cycles on "
            f"average; relative error, machine minus model: mean {errors['mean']:+.2%}, standard deviation "
            f"{errors['std']:.2%}, percentiles 5, 50 and 95 {errors['p5']:+.2%}, {errors['p50']:+.2%}, "
            f"{errors['p95']:+.2%}"
        )


def _span(text: str | None) -> tuple[int, int] | None:
    """Two latencies from ``LOW,HIGH``."""
    if text is None:
        return None
    numbers = _integers(text)
    if len(numbers) != 2:
        raise InputError(f"--latencies {text!r}: expected LOW,HIGH, for example 0,200.")
    return numbers[0], numbers[1]


def _counts(text: str | None) -> list[int]:
    """Numbers of ports, none if they are not given."""
    numbers = _integers(text or "")
    if text is not None and not numbers:
        raise InputError(f"--ports {text!r}: expected numbers of ports, for example 1,2,4.")
    return numbers


def _integers(text: str) -> list[int]:
    """The numbers between commas; none if one of them is no integer."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        return []
