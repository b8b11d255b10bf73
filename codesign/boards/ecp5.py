"""An ECP5 board: machine, memory and serial line on the FPGA, built by open tools, driven by pyserial."""

import gzip
import re
from collections.abc import Callable
from functools import lru_cache

from amaranth.back import verilog

from codesign.boards.flow import DRIVER, Flow
from codesign.templates import filled
from hardware.accelerator import Accelerator
from hardware.board import Ecp5Board
from hardware.errors import InputError
from rtl.verilog import rtl_hash
from sim.bitstream import PLACER, Built, build_bitstream
from soc.memory import READ_LATENCY, banks_of
from soc.pll import Pll
from soc.system import Ecp5System, System
from soc.uart import bit_cycles

SYSTEM = "codesign_system"
"""Top module."""
NETLIST = "ecp5/netlist.json.gz"
"""Cells of the bitstream."""
FIRST_CONTENT = re.compile(r"^ *bank_\d+\[\d+\] = 64'h0+;\n", re.MULTILINE)
"""Zeros in the memory, word by word: nothing reads what the host has not written, and Yosys takes minutes for it."""
NOT_BUILT = "This package was exported without `--bitstream`: `make -C ecp5` makes it with native tools."


def check_system(accelerator: Accelerator, board: Ecp5Board) -> None:
    """Raise `InputError` if the machine cannot have that board's memory, clock or line."""
    memory = accelerator.memory
    if (memory.ports, memory.latency, memory.cycles_per_word) != (1, READ_LATENCY, 1):
        raise InputError(
            f"memory on the chip of {board.name} has ports: 1, latency: {READ_LATENCY}, cycles_per_word: 1, but "
            f"{accelerator.name} has {memory.ports}, {memory.latency}, {memory.cycles_per_word}: change its memory, or "
            "take bitserial-ulx3s."
        )
    try:
        bit_cycles(accelerator.clock_mhz, board.baud)
        Pll.find(board.oscillator_mhz, accelerator.clock_mhz)
        banks_of(board.memory_words)
    except ValueError as error:
        raise InputError(f"{accelerator.name} on {board.name}: {error}: change clock_mhz, or the board's.") from None


def _system(accelerator: Accelerator, board: Ecp5Board) -> Ecp5System:
    system = System(accelerator, int(rtl_hash(accelerator), 16), board.memory_words, board.baud)
    return Ecp5System(system, board.oscillator_mhz, accelerator.clock_mhz, len(board.pins.high))


@lru_cache(maxsize=4)
def system_verilog(accelerator: Accelerator, board: Ecp5Board) -> str:
    """Verilog of all that is on the FPGA, top module `SYSTEM`."""
    text = str(verilog.convert(_system(accelerator, board), name=SYSTEM, emit_src=False, strip_internal_attrs=True))
    return FIRST_CONTENT.sub("", text)


def constraints(board: Ecp5Board) -> str:
    """Pins and clock for nextpnr (LPF)."""
    pins = board.pins
    high = {f"high[{number}]" if len(pins.high) > 1 else "high": site for number, site in enumerate(pins.high)}
    lines = ["BLOCK RESETPATHS;", "BLOCK ASYNCPATHS;", f'FREQUENCY PORT "clock" {board.oscillator_mhz:g} MHZ;']
    for name, site in {"clock": pins.clock, "rx": pins.rx, "tx": pins.tx, **high}.items():
        pull = "NONE" if name == "clock" else "UP"
        lines += [f'LOCATE COMP "{name}" SITE "{site}";', f'IOBUF PORT "{name}" PULLMODE={pull} IO_TYPE=LVCMOS33;']
    return "\n".join(lines) + "\n"


def build(
    accelerator: Accelerator, board: Ecp5Board, progress: Callable[[int], None] | None = None, fresh: bool = False
) -> Built:
    """The bitstream; see `sim.bitstream.build_bitstream`."""
    text = system_verilog(accelerator, board)
    return build_bitstream(
        text, SYSTEM, board, constraints(board), accelerator.clock_mhz, fresh=fresh, progress=progress
    )


def ecp5_flow(accelerator: Accelerator, board: Ecp5Board, built: Built | None) -> Flow:
    """What is written.

    Verilog of the whole FPGA, constraints, a Makefile, the driver for pyserial; if ``built``, bitstream and reports.
    """
    bitstream = f"ecp5/codesign_{rtl_hash(accelerator)}.bit"
    values = {
        "top": SYSTEM,
        "board": board.name,
        "name": bitstream.removeprefix("ecp5/").removesuffix(".bit"),
        "bitstream": bitstream,
        "loader": board.loader,
        "placer": " ".join(PLACER),
        "package": board.package,
        "speed": str(board.speed),
        "baud": f"{board.baud:,}",
        "clock_mhz": f"{accelerator.clock_mhz:g}",
        "state": f"The bitstream: {built.summary()}" if built else NOT_BUILT,
    }
    files = {
        f"rtl/{SYSTEM}.v": system_verilog(accelerator, board).encode(),
        "ecp5/board.lpf": constraints(board).encode(),
        "ecp5/Makefile": filled("ecp5.mk", values),
        **{f"driver/{name}": (DRIVER / name).read_bytes() for name in ("line.py", "serial_board.py")},
    }
    if built:
        files |= {bitstream: built.bitstream, "ecp5/timing.txt": built.timing().encode()}
        files["ecp5/utilization.txt"] = built.utilization().encode()
        files[NETLIST] = gzip.compress(built.netlist.encode(), mtime=0)
    line = {"baud": board.baud, "clock_mhz": accelerator.clock_mhz, "memory_words": board.memory_words}
    return Flow(files, SYSTEM, bitstream, filled("ecp5.md", values).decode(), {"line": line})
