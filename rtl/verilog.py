"""Verilog of a machine, and the hash that names it."""

import ast
import hashlib
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path

from amaranth.back import verilog

import hardware.instruction
import hardware.registers
import hardware.timing
import rtl.arrays
from hardware.accelerator import Accelerator
from hardware.files import cache_directory, write_text
from hardware.kinds import KINDS
from rtl.accelerator import Machine
from rtl.arrays import OWN_SOURCES

TOP = "codesign_accelerator"

LINT_WAIVERS = Path(__file__).with_name("lint.vlt")
"""Verilator's waivers for Verilog written by Yosys, each with its reason."""

_DESCRIPTIONS = (hardware.instruction, hardware.registers, hardware.timing)
_SOURCES = (*sorted(Path(__file__).parent.glob("*.py")), *(str(module.__file__) for module in _DESCRIPTIONS))


@cache
def gateware_hash(kind: str) -> str:
    """16 hexadecimal digits that name the sources of a kind of machines, whatever their comments and docstrings say.

    Sources that only other kinds are made of are not among them.
    """
    digest = hashlib.sha256(repr(KINDS[kind]).encode())
    others = {name for other, names in OWN_SOURCES.items() if other != kind for name in names}
    for source in _SOURCES:
        if Path(source).name in others or Path(source) == Path(str(rtl.arrays.__file__)):
            continue
        digest.update(_statements(Path(source).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def _statements(source: str) -> str:
    """Python source without empty lines, lines of comment, and strings that stand alone."""
    silent = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return "\n".join(
        line.rstrip()
        for number, line in enumerate(source.splitlines(), start=1)
        if number not in silent and line.strip() and not line.lstrip().startswith("#")
    )


@lru_cache(maxsize=32)
def rtl_hash(accelerator: Accelerator) -> str:
    """16 hexadecimal digits that name one machine: `gateware_hash`, its kind, array and buffers, Amaranth's version.

    Of the memory, only the number of ports is part of it; the clock is not.
    """
    array, buffers = accelerator.array.model_dump_json(), accelerator.buffers.model_dump_json()
    parts = gateware_hash(accelerator.kind), accelerator.kind, array, buffers, str(accelerator.memory.ports)
    return hashlib.sha256("\0".join((*parts, version("amaranth"))).encode()).hexdigest()[:16]


@lru_cache(maxsize=8)
def engine_verilog(accelerator: Accelerator) -> str:
    """Verilog of the whole machine, top module ``codesign_accelerator``; kept in the cache by `rtl_hash`."""
    kept = cache_directory() / "verilog" / f"{rtl_hash(accelerator)}.v"
    seal = kept.with_suffix(".sha256")
    if not (kept.exists() and seal.exists() and seal.read_text() == _sha256(kept)):  # absent, or not as it was written
        machine = Machine(accelerator, int(rtl_hash(accelerator), 16))
        write_text(kept, verilog.convert(machine, name=TOP, emit_src=False, strip_internal_attrs=True))
        write_text(seal, _sha256(kept))
    return kept.read_text(encoding="utf-8")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
