"""``codesign calibrate --measured``: what a board's counters said, beside the model."""

from pathlib import Path
from typing import Any

import typer
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from codesign.commands.common import Result, out, say, table
from hardware.specification import Specification, read_yaml

WAITS = ("read_stall", "write_stall")


class Measured(Specification):
    """What a package's driver leaves in ``measured.json``."""

    network: str
    board: str
    rtl_hash: str
    clock_mhz: PositiveFloat
    expected_cycles: PositiveInt
    """The model's."""
    wrong_images: NonNegativeInt
    runs: tuple[dict[str, NonNegativeInt], ...]
    """Counters of each image, by their registers' names."""


def compare_measured(result: Result, path: Path) -> None:
    """Print and report how far a board is from the model; exit code 1 if its scores were wrong.

    A board whose memory is not the model's takes other cycles: those are shown, and the share in which it waited.
    """
    measured = Measured.from_mapping(read_yaml(path), str(path))  # JSON is YAML
    rows = [_row(measured, run) for run in measured.runs]
    lines = table(
        f"{measured.network} on {measured.board}, {measured.clock_mhz:g} MHz, machine {measured.rtl_hash}",
        *("image", "cycles", "model", "error", "ms", "waits for reads", "for writes"),
    )
    for number, row in enumerate(rows):
        waits = (f"{row[name]:.1%}" for name in WAITS)
        figures = f"{row['cycles']:,}", f"{measured.expected_cycles:,}", f"{row['error']:+.2%}", f"{row['ms']:.3f}"
        lines.add_row(str(number), *figures, *waits)
    out.print(lines)
    errors = [row["error"] for row in rows] or [0.0]
    say(
        f"{len(rows)} images, cycles {min(errors):+.2%} to {max(errors):+.2%} of the model's; "
        f"{measured.wrong_images} images with wrong scores"
    )
    result.write({**measured.model_dump(mode="json"), "rows": rows})
    if measured.wrong_images:
        raise typer.Exit(1)


def _row(measured: Measured, run: dict[str, int]) -> dict[str, Any]:
    cycles = run.get("cycles", 0)
    return {
        "cycles": cycles,
        "error": cycles / measured.expected_cycles - 1,
        "ms": cycles / measured.clock_mhz / 1e3,
        **{name: run.get(name, 0) / max(1, cycles) for name in WAITS},
    }
