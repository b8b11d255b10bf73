"""``codesign calibrate``: random layers on the RTL against the model and an independent reference."""

from typing import Annotated

import typer

from codesign.calibrate import calibrate
from codesign.commands.common import HardwareOption, JsonOption, Result, SeedOption, out, progress_bar, say, table
from hardware.accelerator import load_accelerator


def command(
    hardware: HardwareOption = "bitserial-tiny",
    samples: Annotated[int, typer.Option("--samples", help="Random layers to measure.")] = 100,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Measure random layers on the RTL: cycles against the model, outputs against plain integer convolution."""
    result = Result("calibrate", json)
    accelerator = load_accelerator(hardware)
    with progress_bar("layers on the RTL", samples) as progress:
        report = calibrate(accelerator, samples, seed, progress)
    lines = table(f"{accelerator.name}: {samples} random layers", "layer", "bits W,A", "RTL cycles", "model", "wrong")
    shown = report["rows"] if samples <= 20 else report["rows"][:20]
    for row in shown:
        bits = ",".join(map(str, row["bits"]))
        lines.add_row(row["layer"], bits, f"{row['rtl_cycles']:,}", f"{row['model_cycles']:,}", str(row["mismatches"]))
    if len(shown) < samples:
        lines.add_row(f"... and {samples - len(shown)} more")
    out.print(lines)
    say(
        f"largest cycle error {report['max_abs_cycle_error']}, mismatching outputs {report['output_mismatches']}, "
        f"{report['cycles_per_second']:,.0f} cycles per second"
    )
    result.write(report, accelerator, seed)
    if report["max_abs_cycle_error"] or report["output_mismatches"]:
        raise typer.Exit(1)
