"""A board behind a serial line that is a simulation of its FPGA, with the methods of pyserial's ``Serial``."""

import struct
import subprocess
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from hardware.errors import InputError
from hardware.files import check_writable
from sim.build import COMPILER_FLAGS, MACHINE_OPTIONS, WAVE_OPTIONS, kept_build, verilate

HERE = Path(__file__).parent
MAIN = HERE / "serial_line.cpp"
PLL_MODEL = HERE / "ecp5_pll.v"
"""Verilog of an ECP5's PLL, to simulate with."""
WAVES = (".vcd", ".fst")


class SimulatedLine:
    """The serial line of a simulated FPGA, open until `close`.

    Parameters
    ----------
    verilog:
        Modules with ``top``, whose pins are ``clock``, ``rx`` and ``tx``, and all that they need.
    cycles_per_bit:
        By the host's clock, to 1/256: the line's rate, and how far it is from the FPGA's.
    clock_mhz:
        Turns `timeout` into cycles.
    timeout:
        Simulated seconds that `read` waits.
    waves:
        A wave file to write, ``.vcd`` or ``.fst``.
    compiler_flags:
        For the simulator.

    Raises
    ------
    InputError
        The simulator cannot be built, or ended.
    """

    def __init__(
        self,
        verilog: str,
        top: str,
        cycles_per_bit: float,
        clock_mhz: float,
        timeout: float = 1.0,
        waves: Path | None = None,
        compiler_flags: str = COMPILER_FLAGS,
    ) -> None:
        self.timeout, self.cycles, self._clock_mhz = timeout, 0, clock_mhz
        suffix = waves.suffix if waves else ""
        if waves is not None:
            check_writable(waves)
            if suffix not in WAVES:
                raise InputError(f"waves go to a .vcd or .fst file, got {waves}: give it one of these endings.")
        # Models of cells say what they do not model.
        options = [*MACHINE_OPTIONS, "-Werror-USERERROR", "--top-module", top, "-o", "serial_line"]
        options += WAVE_OPTIONS[suffix]
        parts = (verilog, MAIN.read_text(), *options, compiler_flags)
        compile_it = partial(_compile, verilog=verilog, options=options, waves=suffix, compiler_flags=compiler_flags)
        executable = kept_build("serial_line", parts, compile_it)
        command = [str(executable), str(round(256 * cycles_per_bit)), str(waves.absolute() if waves else "")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def write(self, data: bytes) -> int:
        """Send bytes, one after the other without a pause."""
        self._ask(b"W" + struct.pack("<I", len(data)) + data)
        return len(data)

    def read(self, size: int = 1) -> bytes:
        """So many bytes, fewer if that takes longer than `timeout`."""
        limit = min(2**63, round(self.timeout * self._clock_mhz * 1e6))
        self._ask(b"R" + struct.pack("<IQ", size, limit))
        (count,) = struct.unpack("<I", self._answer(4))
        data = self._answer(count)
        (self.cycles,) = struct.unpack("<Q", self._answer(8))
        return data

    def reset_input_buffer(self) -> None:
        """Forget what has come."""
        timeout, self.timeout = self.timeout, 0.0
        while self.read(1 << 16):
            pass
        self.timeout = timeout

    def close(self) -> None:
        """End the simulation; a wave file is complete then."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: bytes) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise InputError("the simulator of the board ended: run again.") from None

    def _answer(self, size: int) -> bytes:
        assert self._process.stdout
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise InputError("the simulator of the board ended: run again.")
        return data


def _compile(work: Path, verilog: str, options: list[str], waves: str, compiler_flags: str) -> None:
    (work / "system.v").write_text(verilog)
    verilate(work / "build", options, [str(MAIN), str(work / "system.v")], waves, compiler_flags)
