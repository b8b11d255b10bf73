"""A board's registers and memory that are a simulation of a package's Verilog, for the driver that runs on the board.

A start writes the machine's registers through AXI4-Lite, runs the program from the memory as it is, and reads all
registers back (`sim/bench.sv`); until the next start they stay as they were. Interrupts and soft resets, which the
driver does not use, are not there. Real DRAM takes longer at times than the
simulated memory: on a board, cycles differ from these by that.
"""

from pathlib import Path

import numpy as np

from hardware.accelerator import Accelerator
from hardware.registers import FORMAT, MAGIC, REGISTERS
from sim.job import Job, Outcome
from sim.run import MachineError, simulate_jobs

ADDRESS = 0x4000_0000
"""Where the bench has its memory."""
PLACES = {register.name: register for register in REGISTERS}
MASKS = {register.port(field): field.mask for register in REGISTERS for field in register.fields}


class SimulatedBuffer(np.ndarray):
    """Memory of processor and machine with a cache between them that keeps nothing up to date by itself.

    Attributes
    ----------
    seen:
        What the machine sees.
    device_address:
        Byte address of the first word, for the machine.
    """

    seen: np.ndarray
    device_address = ADDRESS

    @classmethod
    def of(cls, words: int) -> "SimulatedBuffer":
        """A buffer of 64-bit words."""
        buffer = np.zeros(words, dtype=np.uint64).view(cls)
        buffer.seen = np.zeros(words, dtype=np.uint64)
        return buffer

    def flush(self) -> None:
        """Let the machine see what was written here."""
        self.seen[:] = self

    def invalidate(self) -> None:
        """See what the machine wrote."""
        self[:] = self.seen


class SimulatedRegisters:
    """The machine's registers, by byte offset.

    Parameters
    ----------
    verilog:
        Of the machine.
    waves:
        Where the wave file of the first run goes.

    Attributes
    ----------
    seconds:
        Of the simulator, without its compilation.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        verilog: str,
        memory: SimulatedBuffer,
        cycle_limit: int,
        waves: Path | None = None,
    ) -> None:
        self._accelerator, self._verilog, self._memory = accelerator, verilog, memory
        self._limit, self._waves = cycle_limit, waves
        self._written = dict.fromkeys(("program", "memory_base", "memory_words", "watchdog"), 0)
        self._status, self.seconds = 0, 0.0
        # No program: stopped as an illegal instruction, which is a way to read what the machine is called.
        self._outcome = self._simulate(np.zeros(512, dtype=np.uint64), None)

    def read(self, offset: int) -> int:
        """32 bits of a register; of a wide one ``offset + 4`` is the high half."""
        values = {"magic": MAGIC, "format": FORMAT, "status": self._status, "control": 0} | self._written
        values |= {"build_hash": self._outcome.build_hash, "cycles": self._outcome.cycles} | self._outcome.counters
        values |= {"error_code": self._outcome.error, "error_address": self._outcome.error_address}
        values["error_instruction"] = self._outcome.error_instruction
        for name, register in PLACES.items():
            if register.offset <= offset < register.offset + 4 * register.places:
                return values[name] >> 8 * (offset - register.offset) & 0xFFFFFFFF
        raise MachineError(f"the bus answers a read of {offset:#x} with SLVERR: there is no such register")

    def write(self, offset: int, value: int) -> None:
        """Write a register; ``start`` runs the program."""
        name = next((name for name, one in PLACES.items() if one.offset == offset and one.writable), None)
        if name is None:
            raise MachineError(f"the bus answers a write to {offset:#x} with SLVERR: nothing can be written there")
        if name in self._written:
            self._written[name] = value
        elif name == "status":
            self._status &= ~value
        elif value & MASKS["control_start"]:
            self._start()

    def _start(self) -> None:
        if self._written["memory_base"] != ADDRESS:
            raise MachineError(f"the buffer is at {ADDRESS:#x}, memory_base says {self._written['memory_base']:#x}")
        self._outcome = self._simulate(self._memory.seen, self._waves)
        self._waves = None
        self._memory.seen[:] = self._outcome.results
        self._status = MASKS["status_done"] | (MASKS["status_error"] if self._outcome.error else 0)

    def _simulate(self, memory: np.ndarray, waves: Path | None) -> Outcome:
        words = self._written["memory_words"] or len(memory)
        job = Job(
            memory,
            self._written["program"],
            0,
            len(memory),
            self._limit,
            memory_words=words,
            watchdog=self._written["watchdog"],
        )
        simulated = simulate_jobs([job], self._accelerator, waves=waves, verilog=self._verilog)
        self.seconds += simulated.seconds
        return simulated.outcomes[0]
