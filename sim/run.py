"""Runs programs on the simulated machine."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cocotb_tools.config
import find_libpython
import numpy as np

from hardware.accelerator import Accelerator, Memory
from hardware.errors import InputError
from hardware.files import check_writable
from rtl.verilog import engine_verilog
from sim.build import WAVE_OPTIONS, build_simulator
from sim.job import COUNTERS, Job, Outcome
from sim.job import CYCLE_LIMIT as CYCLE_LIMIT  # its users find it beside `Job`

SMALLEST_MEMORY_WORDS = 1 << 18
PLUSARGS: tuple[str, ...] = ()
"""What every simulator process is told beside its jobs; `sim.mutation` chooses a mutant with it."""


class MachineError(RuntimeError):
    """The machine did what it must not: it hung, stopped with an error, or used memory that is not there."""


@dataclass(frozen=True)
class Simulated:
    """Outcomes of all jobs, and the wall time of the simulator process in seconds (build not counted)."""

    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def cycles(self) -> int:
        """Cycles of all jobs together."""
        return sum(o.cycles for o in self.outcomes)


def simulate_jobs(
    jobs: Sequence[Job],
    accelerator: Accelerator,
    memory: Memory | None = None,
    waves: Path | None = None,
    progress: Callable[[int], None] | None = None,
    verilog: str | None = None,
) -> Simulated:
    """Run jobs one after the other in one simulator process.

    Parameters
    ----------
    memory:
        Latency and bandwidth, if not the accelerator's own, of the jobs that have none of their own.
    waves:
        A wave file to write, ``.vcd`` or ``.fst`` (smaller, but needs the system's liblz4-dev).
    progress:
        Called with the number of finished jobs.
    verilog:
        Machine to simulate, if not the one generated for ``accelerator``.

    Raises
    ------
    InputError
        A tool is missing, or the simulator dies.
    MachineError
        The machine hung, broke AXI's rules, or wrote what its program must not write.
    """
    if not jobs:
        return Simulated((), 0.0)
    memory = memory or accelerator.memory
    words = SMALLEST_MEMORY_WORDS
    while words < max(len(job.image) for job in jobs):
        words *= 2
    if waves is not None:
        check_writable(waves)
        if waves.suffix not in WAVE_OPTIONS or not waves.suffix:
            raise InputError(f"waves go to a .vcd, .fst or .saif file, got {waves}: give it one of these endings.")
    executable = build_simulator(verilog or engine_verilog(accelerator), words, waves.suffix if waves else "")
    with tempfile.TemporaryDirectory(prefix="codesign-") as name:
        directory = Path(name)
        for number, job in enumerate(jobs):
            job.image.astype(">u8").tofile(directory / f"image_{number}.bin")  # $fread reads big-endian
        (directory / "jobs.json").write_text(json.dumps([job.parameters(memory) for job in jobs]))
        seconds = _run(executable, directory, waves, progress)
        rows = json.loads((directory / "rows.json").read_text())
        outcomes = []
        for number, row in enumerate(rows):
            if row["hung"] and not jobs[number].may_hang:
                raise MachineError(f"job {number}: the machine did not end within {jobs[number].cycle_limit} cycles")
            if row["memory_fault"]:
                raise MachineError(f"job {number}: the machine made a burst beyond its memory or against AXI's rules")
            if row["stray_write"]:
                raise MachineError(f"job {number}: the machine wrote outside the range that its program may write")
            outcomes.append(_outcome(np.fromfile(directory / f"result_{number}.bin", dtype="<u8"), row))
    return Simulated(tuple(outcomes), seconds)


def _outcome(results: np.ndarray, row: dict[str, int]) -> Outcome:
    same = ("cycles", "error_address", "error_instruction", "status", "first_status", "build_hash")
    return Outcome(
        results,
        error=row["error_code"],
        counters={name: row[name] for name in COUNTERS},
        hung=bool(row["hung"]),
        **{name: row[name] for name in same},
    )


def _run(executable: Path, directory: Path, waves: Path | None, progress: Callable[[int], None] | None) -> float:
    environment = os.environ | {
        "CODESIGN_JOBS": str(directory),
        "COCOTB_TEST_MODULES": "sim.testbench",
        "COCOTB_TOPLEVEL": "bench",
        "TOPLEVEL_LANG": "verilog",
        "COCOTB_RESULTS_FILE": str(directory / "results.xml"),
        "COCOTB_LOG_LEVEL": "WARNING",
        "COCOTB_REWRITE_ASSERTION_FILES": "",  # else pytest rewrites every module: a second per simulator process
        "GPI_USERS": f"{find_libpython.find_libpython()};{cocotb_tools.config.pygpi_entry_point()}",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    command = [str(executable), f"+jobs={directory}", *PLUSARGS]
    if waves is not None:
        waves.parent.mkdir(parents=True, exist_ok=True)
        command += ["--trace", "--trace-file", str(waves.absolute())]
    log = directory / "log.txt"
    begin = time.perf_counter()
    with log.open("w") as output:
        try:
            process = subprocess.Popen(command, env=environment, cwd=directory, stdout=output, stderr=subprocess.STDOUT)
        except OSError as error:
            raise InputError(
                f"the compiled simulator cannot be started ({error}): delete {executable.parent} and run again."
            ) from None
        try:
            while process.poll() is None:
                time.sleep(0.02)
                if progress and (counter := directory / "progress").exists() and (done := counter.read_text()):
                    progress(int(done))  # empty: just being written
        finally:
            process.kill()
            process.wait()
    seconds = time.perf_counter() - begin
    if not (directory / "rows.json").exists():
        reason = " ".join(log.read_text()[-2000:].split()) or "it said nothing"
        raise InputError(
            f"the simulator ended without results: {reason}; if it goes on, delete {executable.parent} and run again."
        )
    if progress:
        progress(int((directory / "progress").read_text() or 0))
    return seconds
