"""A Zynq board: the machine beside a processor that shares its memory, built by Vivado or openXC7, driven by PYNQ."""

import re

from amaranth.back import verilog as amaranth_verilog

from codesign.boards.flow import DRIVER, Flow
from codesign.templates import filled
from hardware.accelerator import Accelerator
from hardware.board import ZynqBoard
from rtl.verilog import TOP, engine_verilog, rtl_hash
from soc.zynq import ZynqSystem

WRAPPER = "codesign_machine"
"""The machine with its interfaces named, for block designs."""
SYSTEM = "codesign_zynq"
"""Processing system and machine, top module of a bitstream without a block design."""
PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", re.MULTILINE)


def zynq_flow(accelerator: Accelerator, board: ZynqBoard) -> Flow:
    """Verilog of the machine, Vivado's scripts, a Makefile for openXC7, the driver for PYNQ."""
    verilog, build = engine_verilog(accelerator), f"codesign_{rtl_hash(accelerator)}"
    return Flow(
        {
            f"rtl/{TOP}.v": verilog.encode(),
            "driver/zynq.py": (DRIVER / "zynq.py").read_bytes(),
            **{f"vivado/{name}": content for name, content in vivado_files(accelerator, board, verilog, build).items()},
            **{f"openxc7/{name}": content for name, content in openxc7_files(accelerator, board, build).items()},
        },
        top=TOP,
        bitstream=f"vivado/{build}.bit",
        notes=filled(
            "zynq.md", {"part": board.vendor_part, "clock_mhz": f"{accelerator.clock_mhz:g}", "name": build}
        ).decode(),
    )


def vivado_files(accelerator: Accelerator, board: ZynqBoard, verilog: str, build: str) -> dict[str, bytes]:
    """Scripts and sources by their names in ``vivado/``.

    Parameters
    ----------
    verilog:
        Of the machine.
    build:
        Name of the bitstream.
    """
    values = {
        "name": build,
        "board": board.name,
        "part": board.vendor_part,
        "vendor_board": board.vendor_board or "none",
        "top": TOP,
        "wrapper": WRAPPER,
        "ports": str(accelerator.memory.ports),
        "buses": str(accelerator.memory.ports + len(("s_axi", "clk", "rst", "interrupt"))),
        "clock_mhz": f"{accelerator.clock_mhz:g}",
        "period_ns": f"{1000 / accelerator.clock_mhz:.3f}",
    }
    files = {name: filled(name, values) for name in ("build.tcl", "clock.xdc", "package_ip.tcl", "project.tcl")}
    return files | {f"{WRAPPER}.v": wrapper_verilog(accelerator, verilog).encode()}


def openxc7_files(accelerator: Accelerator, board: ZynqBoard, build: str) -> dict[str, bytes]:
    """A Makefile and Verilog of all that is on the FPGA, by their names in ``openxc7/``."""
    values = {
        "name": build,
        "board": board.name,
        "part": board.vendor_part,
        "body": board.vendor_part.removeprefix("xc7z020").partition("-")[0],
        "top": SYSTEM,
        "clock_mhz": f"{accelerator.clock_mhz:g}",
    }
    system = ZynqSystem(accelerator, int(rtl_hash(accelerator), 16))
    text = amaranth_verilog.convert(system, name=SYSTEM, emit_src=False, strip_internal_attrs=True)
    return {"Makefile": filled("openxc7.mk", values), f"{SYSTEM}.v": str(text).encode()}


def wrapper_verilog(accelerator: Accelerator, verilog: str) -> str:
    """The machine once more, with attributes by which block designs know clock, reset, interrupt and AXI ports.

    Memory ports are AXI3's: bursts of at most 16 words, four bits of length. All but the first only read.
    """
    start = verilog.index(f"module {TOP}(")
    ports = PORT.findall(verilog[start : verilog.index("endmodule", start)])
    memory_ports = [f"m_axi_{port}" for port in range(accelerator.memory.ports)]
    buses = ["s_axi", *memory_ports]
    parameters = {
        "clk": f"ASSOCIATED_BUSIF {':'.join(buses)}, ASSOCIATED_RESET rst",
        "rst": "POLARITY ACTIVE_HIGH",
        "interrupt": "SENSITIVITY LEVEL_HIGH",
        "s_axi_awaddr": "PROTOCOL AXI4LITE, DATA_WIDTH 32",
    }
    writes = {name.removesuffix("_awaddr") for _, _, name in ports if name.endswith("_awaddr")}
    for bus in memory_ports:
        mode = "READ_WRITE" if bus in writes else "READ_ONLY"
        parameters[f"{bus}_araddr"] = f"PROTOCOL AXI3, DATA_WIDTH 64, MAX_BURST_LENGTH 16, READ_WRITE_MODE {mode}"
    signals = {"clk": "signal:clock:1.0 clk CLK", "rst": "signal:reset:1.0 rst RST"}
    signals["interrupt"] = "signal:interrupt:1.0 interrupt INTERRUPT"
    lines = []
    for direction, high, name in ports:
        bus = next((bus for bus in buses if name.startswith(f"{bus}_")), "")
        info = signals[name] if name in signals else f"interface:aximm:1.0 {bus} {name.removeprefix(bus + '_').upper()}"
        attributes = [f'X_INTERFACE_INFO = "xilinx.com:{info}"']
        attributes += [f'X_INTERFACE_PARAMETER = "{parameters[name]}"'] if name in parameters else []
        width = f"[{high}:0] " if high else ""
        lines.append(f"    (* {', '.join(attributes)} *)\n    {direction} {width}{name}")
    connections = ", ".join(f".{name}({name})" for _, _, name in ports)
    body = ",\n".join(lines)
    return f"module {WRAPPER} (\n{body}\n);\n    {TOP} inside ({connections});\nendmodule\n"
