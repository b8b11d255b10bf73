"""What the commands share: options, progress bars, the JSON result."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from codesign.cycle_calibration import check_cycle_calibration
from hardware.accelerator import Accelerator, load_accelerator
from hardware.errors import InputError
from hardware.files import check_writable, write_text
from rtl.verilog import rtl_hash

NetworkOption = Annotated[
    str,
    typer.Option("--network", help="A built-in network (see `codesign list`), package.module:callable, or file.onnx."),
]
DataOption = Annotated[str | None, typer.Option("--data", help="Data set; the network's own by default.")]
WeightsOption = Annotated[
    Path | None,
    typer.Option("--weights", help="State dict of the network, or the quantized.pt that `codesign search` left."),
]
HardwareOption = Annotated[
    str, typer.Option("--hardware", help="A built-in accelerator (see `codesign list`) or a YAML file.")
]
PolicyOption = Annotated[Path | None, typer.Option("--policy", help="Policy file.")]
BitsOption = Annotated[
    str | None, typer.Option("--bits", help="Instead of a policy: N bits everywhere, or W,A (weights, activations).")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**62, help="Every random choice follows from it.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the results to this file, too.")]

out = Console(markup=False, emoji=False)  # names are names, whatever brackets they hold
_errors = Console(stderr=True, markup=False, emoji=False)


def say(text: str) -> None:
    """Print results: one line is one line, however wide the terminal."""
    out.print(text, soft_wrap=True, highlight=False)


def note(text: str) -> None:
    """Print to standard error what is not a result."""
    _errors.print(text, soft_wrap=True, highlight=False)


class Result:
    """Times a command and writes its ``--json`` file, with the keys that every command has."""

    def __init__(self, command: str, path: Path | None):
        self._command, self._path, self._begin = command, path, time.perf_counter()
        if path:
            check_writable(path)

    def write(self, values: dict[str, Any], accelerator: Accelerator | None = None, seed: int | None = None) -> None:
        """Write ``values`` after the common keys; nothing without ``--json``."""
        if self._path is None:
            return
        common = {
            "command": self._command,
            "version": version("codesign"),
            "hardware": accelerator.name if accelerator else None,
            "rtl_hash": rtl_hash(accelerator) if accelerator else None,
            "seed": seed,
            "wall_s": round(time.perf_counter() - self._begin, 3),
        }
        write_text(self._path, json.dumps(common | values, indent=2) + "\n")


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar on standard error while the block runs; call it with what is done so far, and a remark if there is one."""
    columns = (
        TextColumn("{task.description}"),
        TextColumn("{task.fields[remark]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal) as bars:
        task = bars.add_task(title, total=total, remark="")
        yield lambda done, remark="": bars.update(task, completed=done, remark=remark)


def table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are right-aligned."""
    made = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    return made


def priced_accelerator(hardware: str) -> Accelerator:
    """The accelerator of a command that goes by the cycle model: a note if it has no calibration.

    Raises
    ------
    InputError
        There is no such accelerator, or its calibration is stale.
    """
    accelerator = load_accelerator(hardware)
    if lacking := check_cycle_calibration(accelerator):
        note(lacking)
    return accelerator


def parse_bits(text: str) -> tuple[int, int]:
    """Weight and activation bits from ``N`` or ``W,A``."""
    parts = text.split(",")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not 0 <= numbers[0] <= 8 or not 1 <= numbers[-1] <= 8:
        raise InputError(
            f"--bits {text!r}: expected N or W,A (weights 0 to 8 bits, activations 1 to 8), for example 4,8."
        )
    return numbers[0], numbers[-1]


def bits_text(bits: list[Any]) -> str:
    """``[weights, activations]`` of a result row, for a table."""
    return f"{bits[0] if isinstance(bits[0], int) else 'per kernel'},{bits[1]}"
