"""Compiles a machine's Verilog into a simulator, once: builds are kept by the hash of all that goes in."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import cocotb_tools.config
from filelock import FileLock

from hardware.errors import InputError
from hardware.files import cache_directory, check_writable
from hardware.registers import REGISTERS
from sim.toolchain import find_verilator

HERE = Path(__file__).parent
BENCH_SOURCES = (HERE / "bench.sv", HERE / "dram.sv")

MACHINE_OPTIONS = (
    *("--cc", "--exe", "--prefix", "Vtop", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert"),
    # Generated Verilog is linted by its own test; here warnings would only hide errors.
    *("-Wno-fatal", "-Wno-lint", "-Wno-style"),
)
"""How the machine is compiled, whatever drives it."""
VERILATOR_OPTIONS = (*MACHINE_OPTIONS, "--timing", "--vpi", "--top-module", "bench", "-o", "bench")
WAVE_OPTIONS = {
    "": (),
    ".vcd": ("--trace-vcd", "--trace-structs"),
    ".fst": ("--trace-fst", "--trace-structs"),
    ".saif": ("--trace-saif",),
}
"""By the wave file's suffix; a .saif file holds numbers of toggles, not waves."""
COMPILER_FLAGS = "-O2"


def build_simulator(verilog: str, memory_words: int, waves: str = "") -> Path:
    """The simulator executable for one machine.

    Parameters
    ----------
    verilog:
        The machine (top module ``codesign_accelerator``).
    memory_words:
        Size of the simulated memory in 64-bit words, a power of two.
    waves:
        A suffix of `WAVE_OPTIONS`: build with tracing, which is about five times slower to run.

    Raises
    ------
    InputError
        A tool is missing, or Verilator or the compiler fails; the message holds the log's path.
    """
    main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
    ports = max(1, len(set(re.findall(r"\bm_axi_(\d)_arvalid\b", verilog))))
    options = [
        *VERILATOR_OPTIONS,
        f"-GWORDS={memory_words}",
        f"-GPORTS={ports}",
        f"-DPORTS_{ports}",
        *(f"-D{name}={value}" for name, value in register_macros().items()),
        *WAVE_OPTIONS[waves],
    ]
    parts = (
        verilog,
        *(p.read_text() for p in (*BENCH_SOURCES, main)),
        *options,
    )
    return kept_build("bench", parts, lambda work: _compile(work, verilog, options, str(main), waves))


def kept_build(name: str, parts: Iterable[str], build: Callable[[Path], None]) -> Path:
    """The executable ``name``, kept in the cache by all that goes into it.

    Parameters
    ----------
    build:
        Leaves the executable in the folder ``build`` of a folder.
    """
    digest = hashlib.sha256()
    libraries = str(cocotb_tools.config.libs_dir)  # the executable finds them there
    for part in (*parts, COMPILER_FLAGS, find_verilator().version, libraries):
        digest.update(part.encode() + b"\0")
    home = cache_directory() / "simulators"
    check_writable(home / "new")
    home.mkdir(parents=True, exist_ok=True)
    final = home / digest.hexdigest()[:24]
    executable = final / name
    with FileLock(f"{final}.lock"):
        if not executable.exists():
            with tempfile.TemporaryDirectory(dir=home) as temporary:
                build(Path(temporary))
                final.mkdir(exist_ok=True)
                shutil.move(Path(temporary) / "build" / name, executable)
    return executable


def register_macros() -> dict[str, int]:
    """Offsets of all registers and masks of their fields, by the names that bench.sv uses."""
    macros = {register.name.upper(): register.offset for register in REGISTERS}
    for register in REGISTERS:
        if len(register.fields) > 1:
            macros |= {register.port(field).upper(): field.mask for field in register.fields}
    return macros


def _compile(work: Path, verilog: str, options: list[str], main: str, waves: str) -> None:
    engine, libraries = work / "engine.v", cocotb_tools.config.libs_dir
    engine.write_text(verilog)
    link = f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator"
    verilate(work / "build", [*options, "-LDFLAGS", link], [main, *map(str, BENCH_SOURCES), str(engine)], waves)


def verilate(
    build: Path, options: list[str], sources: list[str], waves: str = "", compiler_flags: str = COMPILER_FLAGS
) -> None:
    """Compile Verilog and C++ ``sources`` in the folder ``build``; the executable is named by the option ``-o``.

    Parameters
    ----------
    compiler_flags:
        For what runs in every cycle.

    Raises
    ------
    InputError
        A tool is missing, or Verilator or the compiler fails; the message holds the log's path.
    """
    verilator = find_verilator()
    environment = os.environ | {"PATH": f"{verilator.path}{os.pathsep}{os.environ['PATH']}"}
    commands = (
        [verilator.command, *options, "-Mdir", str(build), *sources],
        [
            "make",
            "-j",
            str(os.cpu_count() or 1),
            "-C",
            str(build),
            "-f",
            "Vtop.mk",
            f"VM_TRACE={int(bool(waves))}",
            f"OPT_FAST={compiler_flags}",
            "OPT_SLOW=-O0",  # what runs once, a third of the text: it need only compile fast
            *verilator.make_variables,
        ],
    )
    for command in commands:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            log = cache_directory() / "build-failure.log"
            if waves == ".fst" and "lz4.h" in done.stderr:
                raise InputError(
                    "FST waveforms need lz4.h, which was not found: install the package liblz4-dev "
                    "(apt-get install liblz4-dev), or name the wave file .vcd."
                )
            log.write_text(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
            raise InputError(f"{Path(command[0]).name} failed with exit code {done.returncode}: read {log}.")
