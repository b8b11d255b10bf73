"""The same machine driven by a plain C++ loop (bare_loop.cpp): what the bench's speed is compared with."""

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardware.accelerator import Accelerator
from hardware.errors import InputError
from rtl.verilog import TOP, engine_verilog
from sim.build import MACHINE_OPTIONS, register_macros, verilate
from sim.job import Job

MAIN = Path(__file__).parent / "bare_loop.cpp"
WRAPPER = "bare_loop"


def wrapper_verilog(machine: str) -> str:
    """The module that the loop drives: the machine's ports, but reset and memory inputs pass a register.

    Verilator computes the logic behind inputs in every evaluation, twice a cycle. Without these registers that is
    nearly all logic, and the loop is the slower one of the two.
    """
    text = machine[machine.index(f"module {TOP}(") :]
    ports = re.findall(r"^  (input|output) (\[\d+:0\] )?(\w+);", text[: text.index("endmodule")], re.MULTILINE)
    declarations = ", ".join(f"{direction} {width}{name}" for direction, width, name in ports)
    late = {name: width for direction, width, name in ports if direction == "input" and re.match("rst|m_axi", name)}
    lines = [f"module {WRAPPER}({declarations});"]
    lines += [f"reg {width}late_{name}; always @(posedge clk) late_{name} <= {name};" for name, width in late.items()]
    connections = ", ".join(f".{name}({'late_' if name in late else ''}{name})" for _, _, name in ports)
    return "\n".join([*lines, f"{TOP} machine ({connections});", "endmodule", ""])


@dataclass(frozen=True, eq=False)
class BareRun:
    """Result words, cycles as the machine's register says, wall time of the process in seconds."""

    results: np.ndarray
    cycles: int
    seconds: float


class BareLoop:
    """An accelerator with one memory port, compiled in the folder ``work`` with the options of `sim.build`.

    Raises `InputError` for a machine with more ports, and where `sim.build.verilate` does.
    """

    def __init__(self, accelerator: Accelerator, work: Path):
        if accelerator.memory.ports != 1:
            raise InputError(f"the bare loop has one memory port, but {accelerator.name} has more: take another one.")
        self._accelerator, self._work = accelerator, work
        constants = "".join(f"constexpr unsigned {name} = {value};\n" for name, value in register_macros().items())
        (work / "registers.h").write_text(f"#pragma once\nnamespace registers {{\n{constants}}}\n")
        machine = engine_verilog(accelerator)
        (work / "engine.v").write_text(machine + wrapper_verilog(machine))
        options = [*MACHINE_OPTIONS, "--top-module", WRAPPER, "-o", "bare_loop", "-CFLAGS", f"-I{work.absolute()}"]
        verilate(work / "build", options, [str(MAIN), str(work / "engine.v")])

    def run(self, job: Job) -> BareRun:
        """Run a job without stalls and errors; raises `InputError` where the loop ends with an error."""
        image, result, memory = self._work / "image.bin", self._work / "result.bin", self._accelerator.memory
        job.image.astype("<u8").tofile(image)
        numbers = (job.program_address, len(job.image), job.result_address, job.result_words)
        command = [str(self._work / "build" / "bare_loop"), str(image), str(result)]
        command += map(str, (*numbers, memory.latency, memory.cycles_per_word))
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - begin
        if done.returncode:
            raise InputError(f"the bare loop ended with exit code {done.returncode}: {done.stderr.strip()}")
        error, cycles = map(int, done.stdout.split())
        if error:
            raise InputError(f"the machine stopped with error code {error}")
        return BareRun(np.fromfile(result, dtype="<u8"), cycles, seconds)
