"""The command line ``codesign``."""

import sys
from importlib.metadata import version
from typing import Annotated

import torch
import typer

from codesign.commands import calibrate, compare, cost, export, listing, search, simulate, synth
from codesign.driver.machine import MachineFault
from hardware.errors import InputError
from sim.run import MachineError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hardware-aware mixed-precision quantization, with the machine itself.",
)
app.command("search")(search.command)
app.command("compare")(compare.command)
app.command("simulate")(simulate.command)
app.command("cost")(cost.command)
app.command("calibrate")(calibrate.command)
app.command("synth")(synth.command)
app.command("export")(export.command)
app.command("list")(listing.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"codesign {version('codesign')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Options of all commands."""


def main() -> None:
    """Run the command line; bad input ends in one sentence and exit code 2, a machine that went wrong in 1."""
    # Small layers gain nothing from more threads, and lose much when another process wants the cores: training the
    # LeNet on a busy two-core machine took 2 s with one thread and 51 s with two.
    torch.set_num_threads(1)
    try:
        app()
    except InputError as error:
        print(f"codesign: {error}", file=sys.stderr)
        sys.exit(2)
    except (MachineError, MachineFault, ConnectionError) as error:
        print(f"codesign: {error}", file=sys.stderr)
        sys.exit(1)
