"""What the simulated machine is asked to do, what its memory does meanwhile, and what came of it."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hardware.accelerator import Memory
from hardware.errors import InputError
from hardware.registers import ErrorCode

CYCLE_LIMIT = 1 << 40  # used when the caller knows no better; a hung machine then ends after this many cycles
CHANNELS = ("AR", "R", "AW", "W", "B")
FOREVER = (1 << 32) - 1
RESPONSES = {"SLVERR": 2, "DECERR": 3}
COUNTERS = ("fetch_busy", "execute_busy", "array_steps", "result_busy", "read_stall", "write_stall")


@dataclass(frozen=True)
class Stalls:
    """Probability, in 1/256, that a channel hesitates in a cycle; all ports alike. ``seed`` draws the cycles."""

    ar: int = 0
    r: int = 0
    aw: int = 0
    w: int = 0
    b: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(0 <= one < 256 for one in (self.ar, self.r, self.aw, self.w, self.b)):
            raise InputError(f"a channel stalls with a probability of 0 to 255 in 256, got {self}: change it.")


@dataclass(frozen=True)
class BusError:
    """The ``burst``-th read or write burst (from 1) of a port after the last reset is answered with an error."""

    access: Literal["read", "write"]
    burst: int
    response: Literal["SLVERR", "DECERR"]
    port: int = 0


@dataclass(frozen=True)
class BusStop:
    """A channel of `CHANNELS` does nothing from cycle ``at`` after the last reset on, for ``cycles`` or `FOREVER`."""

    channel: Literal["AR", "R", "AW", "W", "B"]
    at: int
    cycles: int = FOREVER
    port: int = 0


@dataclass(frozen=True)
class Intrusion:
    """A second start or a soft reset, written so many cycles after the start."""

    what: Literal["start", "soft reset"]
    at: int


@dataclass(frozen=True, eq=False)
class Job:
    """One program to run: a memory image that holds it, and where its results will lie.

    Parameters
    ----------
    image:
        uint64 memory words from address 0, program, operands and room for the results included.
    program_address, result_address, result_words:
        Word addresses and length.
    cycle_limit:
        After this many cycles the machine counts as hung.
    memory_words:
        What the machine may touch; by default the image.
    origin:
        Word address at which the machine finds the image's first word, a multiple of 512; all other addresses of the
        job count from there, those in the image do not.
    write_range:
        First word address that the program may write, and the one behind the last; by default the image.
    watchdog:
        Cycles without progress after which the machine stops; 0 is never.
    stalls, bus_error, bus_stop, intrusion:
        What disturbs it.
    reset:
        Reset machine and memory first; otherwise they are as the job before left them.
    may_hang:
        A machine that hangs is an outcome, not a `sim.run.MachineError`.
    memory:
        Latency and bandwidth, if not those of the other jobs.
    """

    image: np.ndarray
    program_address: int
    result_address: int
    result_words: int
    cycle_limit: int = CYCLE_LIMIT
    memory_words: int | None = None
    origin: int = 0
    write_range: tuple[int, int] | None = None
    watchdog: int = 0
    stalls: Stalls = Stalls()
    bus_error: BusError | None = None
    bus_stop: BusStop | None = None
    intrusion: Intrusion | None = None
    reset: bool = True
    may_hang: bool = False
    memory: Memory | None = None

    def parameters(self, memory: Memory) -> dict[str, int]:
        """The bench's public signals, by name; ``memory`` is that of a job without its own."""
        memory = self.memory or memory
        words = len(self.image)
        low, high = self.write_range or (0, words)
        stalls, error, stop, intrusion = self.stalls, self.bus_error, self.bus_stop, self.intrusion
        return {
            "reset_first": int(self.reset),
            "image_words": words,
            "program_address": self.program_address,
            "memory_words": words if self.memory_words is None else self.memory_words,
            "origin": self.origin,
            "watchdog": self.watchdog,
            "result_address": self.result_address,
            "result_words": self.result_words,
            "write_low": low,
            "write_high": high,
            "latency": memory.latency,
            "cycles_per_word": memory.cycles_per_word,
            "cycle_limit": self.cycle_limit,
            "second_start": int(intrusion is not None and intrusion.what == "start"),
            "soft_reset": int(intrusion is not None and intrusion.what == "soft reset"),
            "intrude_at": intrusion.at if intrusion else 0,
            "seed": stalls.seed & (2**31 - 1),
            "stalls": sum(one << 8 * i for i, one in enumerate((stalls.ar, stalls.r, stalls.aw, stalls.w, stalls.b))),
            "stop_channel": 1 << CHANNELS.index(stop.channel) if stop else 0,
            "stop_port": stop.port if stop else 0,
            "stop_at": stop.at if stop else 0,
            "stop_cycles": stop.cycles if stop else 0,
            "fault_burst": error.burst if error else 0,
            "fault_write": int(error is not None and error.access == "write"),
            "fault_port": error.port if error else 0,
            "fault_response": RESPONSES[error.response] if error else 0,
        }


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the machine did, as its registers say.

    Parameters
    ----------
    results:
        uint64 words.
    cycles:
        Cycles in which the program ran.
    error:
        One of `hardware.registers.ErrorCode`; 0: none.
    error_address, error_instruction:
        The registers of these names.
    counters:
        Cycles by the names in `COUNTERS`.
    status, first_status:
        The register at the end (``error`` also if it was cleared meanwhile), and when the interrupt came first; both
        without ``interrupt_pending``.
    build_hash:
        The register of this name.
    hung:
        The job ended because of its ``cycle_limit``.
    """

    results: np.ndarray
    cycles: int
    error: int
    error_address: int = 0
    error_instruction: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    status: int = 0
    first_status: int = 0
    build_hash: int = 0
    hung: bool = False

    @property
    def error_name(self) -> str:
        """``NONE`` or what stopped the machine."""
        return ErrorCode(self.error).name
