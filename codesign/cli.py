"""The command line ``codesign``."""

import sys
from importlib.metadata import version
from typing import Annotated

import click
import typer

from codesign.commands import calibrate, cost, export, listing, search, simulate
from hardware.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Hardware-aware mixed-precision quantization, with the machine itself.",
)
app.command("search")(search.command)
app.command("simulate")(simulate.command)
app.command("cost")(cost.command)
app.command("calibrate")(calibrate.command)
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
    """Run the command line; bad input ends in one sentence and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except click.ClickException as error:
        _fail(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; a search continues with --resume.", code=130)
    else:
        sys.exit(code or 0)


def _fail(message: str, code: int = 2) -> None:
    print(f"codesign: {message}", file=sys.stderr)
    sys.exit(code)
