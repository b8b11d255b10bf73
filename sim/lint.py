"""Verilator's opinion of Verilog, with the waivers that are shipped beside it."""

import os
import subprocess
from pathlib import Path

from rtl.verilog import LINT_WAIVERS, TOP
from sim.toolchain import find_verilator


def lint(verilog: Path) -> list[str]:
    """Warnings and errors of ``verilator --lint-only -Wall`` beyond ``rtl/lint.vlt``; empty when there are none."""
    verilator = find_verilator()
    command = [verilator.command, "--lint-only", "-Wall", "--top-module", TOP, str(LINT_WAIVERS), str(verilog)]
    environment = os.environ | {"PATH": f"{verilator.path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = [line for line in done.stderr.splitlines() if line.startswith(("%Warning", "%Error"))]
    if done.returncode and not found:
        return [f"verilator ended with {done.returncode}: {done.stderr.strip()}"]
    return found
