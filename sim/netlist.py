"""The machine as Yosys maps it to Xilinx' 7 series, as Verilog that simulates, and where its nets lead.

The same synthesis as `codesign synth`, but that some units keep their borders, so that what switches can be told apart.
Cells become logic again by Yosys' own simulation library; only LUTs (shorter as constants that are shifted) and block
RAMs (`block_ram.v`) are described here.
"""

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware.accelerator import Accelerator
from rtl.verilog import TOP, engine_verilog
from sim.synthesis import cache_key, keep, recall, tool_version
from sim.yosys import run_yosys

UNITS = ("array", "lhs_buffer", "rhs_buffer", "fetch", "execute", "result", "vector", "sequencer", "reader", "writer")
"""Units whose borders are kept, a name for all ports' instances of one; what is left is ``rest``."""
HERE = Path(__file__).parent
CLOCKS = {"C", "CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK"}
"""Pins on the clock's own network."""
PER_SLICE = {"FDRE": 8, "FDSE": 8, "SRL16E": 4, "SRLC32E": 4, "RAM32M": 1, "RAM64M": 1}
"""Cells that share a slice's clock pin (UG474): eight registers, four LUTs; the others have one of their own."""
MAP = """
read_verilog machine.v
hierarchy -top {top}
setattr -mod -set keep_hierarchy 1 {units}
rename -hide */w:*[*
synth_xilinx -family xc7 -flatten -noiopad -noclkbuf -top {top}
delete t:$scopeinfo
delete =$paramod*
rename -hide */w:*
rename -enumerate -pattern n% */w:*
write_json mapped.json
techmap -map luts.v
read_verilog +/xilinx/cells_sim.v
delete RAMB36E1 RAMB18E1
read_verilog -lib +/xilinx/cells_xtra.v
hierarchy -top {top}
proc
flatten
memory -nomap
delete t:$scopeinfo
rename -hide */w:*.*
opt_clean
write_verilog -noattr mapped.v
"""


@dataclass(frozen=True)
class Netlist:
    """A mapped machine.

    Parameters
    ----------
    verilog:
        Top module and all it needs.
    units:
        Unit of every module that kept its borders.
    pins:
        By module and net bit (``name`` or ``name[index]``): pins of the module's own cells that the bit drives, clock
        pins not among them. A net that enters another unit is counted there, too, by that unit's pins.
    clock_pins:
        By module, clock pins of slices, block RAMs and multipliers.
    block_rams:
        By module, in blocks of 36 Kbit.
    ff:
        Registers of the whole machine.
    """

    verilog: str
    units: dict[str, str]
    pins: dict[str, dict[str, int]]
    clock_pins: dict[str, float]
    block_rams: dict[str, float]
    ff: int


def mapped_machine(accelerator: Accelerator) -> Netlist:
    """Map a machine; minutes, kept in the cache.

    Raises
    ------
    InputError
        Yosys failed.
    """
    text = engine_verilog(accelerator)
    modules = [line.split("(")[0].split()[1].lstrip("\\") for line in text.splitlines() if line.startswith("module ")]
    units = {name: unit for name in modules if (unit := unit_of(name))}
    script = MAP.format(top=TOP, units=" ".join(units))
    ram = (HERE / "block_ram.v").read_text(encoding="utf-8")
    key = cache_key(text, script, ram, *Netlist.__dataclass_fields__, tool_version("yosys"))
    kept = recall(key)
    if kept is None:
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            (work / "machine.v").write_text(text, encoding="utf-8")
            (work / "luts.v").write_text("".join(map(_lut, range(1, 7))), encoding="utf-8")
            (work / "script.ys").write_text(script, encoding="utf-8")
            run_yosys(work, "script script.ys")
            mapped = json.loads((work / "mapped.json").read_text())["modules"]
            verilog = (work / "mapped.v").read_text(encoding="utf-8") + ram + _block_ram()
        own = {name: module for name, module in mapped.items() if name in units or name == TOP}
        kept = keep(
            key,
            {
                "verilog": verilog,
                "units": units,
                "pins": {name: _pins(module) for name, module in own.items()},
                "clock_pins": {name: _clock_pins(module) for name, module in own.items()},
                "block_rams": {name: _block_rams(module) for name, module in own.items()},
                "ff": sum(c["type"].startswith("FD") for module in own.values() for c in module["cells"].values()),
            },
        )
    return Netlist(**kept)


def unit_of(module: str) -> str | None:
    """The unit that a module of the generated Verilog is: ``codesign_accelerator.engine.fetch_0`` is ``fetch``."""
    path = module.split(".")[1:]
    if path[:1] == ["engine"]:
        path = path[1:]
    name = path[0].rstrip("_0123456789") if len(path) == 1 else ""
    return name if name in UNITS else None


def _lut(inputs: int) -> str:
    pins = [f"I{i}" for i in range(inputs)]
    return (
        f"module LUT{inputs}(output O, input {', '.join(pins)}); parameter [{2**inputs - 1}:0] INIT = 0;\n"
        f"\\$lut #(.WIDTH({inputs}), .LUT(INIT)) lut (.A({{{', '.join(reversed(pins))}}}), .Y(O));\nendmodule\n"
    )


def _block_ram() -> str:
    """Xilinx' cell around `block_ram.v`: what it does not use are parameters that change nothing."""
    texts = ("WRITE_MODE_A", "WRITE_MODE_B", "RAM_MODE", "RAM_EXTENSION_A", "RAM_EXTENSION_B")
    numbers = ("DOA_REG", "DOB_REG", "INIT_A", "INIT_B", "SRVAL_A", "SRVAL_B")
    widths = ("READ_WIDTH_A", "READ_WIDTH_B", "WRITE_WIDTH_A", "WRITE_WIDTH_B")
    text = ""
    for name, bytes_, lanes, inits in (("RAMB36E1", 4096, 4, 128), ("RAMB18E1", 2048, 2, 64)):
        rows = [f"INIT_{i:02X}" for i in range(inits)] + [f"INITP_{i:02X}" for i in range(inits // 8)]
        parameters = ", ".join(
            [f'parameter {t} = ""' for t in texts] + [f"parameter {n} = 0" for n in (*numbers, *widths, *rows)]
        )
        controls = ("CLKARDCLK", "CLKBWRCLK", "ENARDEN", "ENBWREN", "REGCEAREGCE", "REGCEB")
        resets = ("RSTRAMARSTRAM", "RSTRAMB", "RSTREGARSTREG", "RSTREGB")
        bits = {4096: 16, 2048: 14}[bytes_]
        text += f"""module {name} #({parameters}) (
    input {", input ".join((*controls, *resets))}, input [{lanes - 1}:0] WEA, input [{2 * lanes - 1}:0] WEBWE,
    input [{bits - 1}:0] ADDRARDADDR, input [{bits - 1}:0] ADDRBWRADDR,
    input [{8 * lanes - 1}:0] DIADI, input [{8 * lanes - 1}:0] DIBDI,
    input [{lanes - 1}:0] DIPADIP, input [{lanes - 1}:0] DIPBDIP,
    output [{8 * lanes - 1}:0] DOADO, output [{8 * lanes - 1}:0] DOBDO,
    output [{lanes - 1}:0] DOPADOP, output [{lanes - 1}:0] DOPBDOP);
    codesign_block_ram #(.BYTES({bytes_}), .READ_A(READ_WIDTH_A), .READ_B(READ_WIDTH_B), .WRITE_A(WRITE_WIDTH_A),
        .WRITE_B(WRITE_WIDTH_B)) ram (.clk_a(CLKARDCLK), .clk_b(CLKBWRCLK), .en_a(ENARDEN), .en_b(ENBWREN),
        .we_a(WEA), .we_b(WEBWE[{lanes - 1}:0]), .address_a(ADDRARDADDR[{bits - 2}:3]),
        .address_b(ADDRBWRADDR[{bits - 2}:3]), .di_a(DIADI), .di_b(DIBDI), .dip_a(DIPADIP), .dip_b(DIPBDIP),
        .do_a(DOADO), .do_b(DOBDO), .dop_a(DOPADOP), .dop_b(DOPBDOP));
    if (RAM_MODE != "TDP") $error("a block RAM of a mode that is not modelled");
endmodule
"""
    return text


def _pins(module: dict[str, Any]) -> dict[str, int]:
    """Pins that every net bit of a module in Yosys' JSON drives, by the name the bit has in Verilog."""
    sinks: Counter[int] = Counter()
    for cell in module["cells"].values():
        if "." in cell["type"]:  # another unit
            continue
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input" and port not in CLOCKS:
                sinks.update(bit for bit in bits if isinstance(bit, int))
    pins: dict[str, int] = {}
    seen: set[int] = set()
    for name, net in module["netnames"].items():
        for index, bit in enumerate(net["bits"]):
            if bit in sinks and bit not in seen:
                seen.add(bit)
                pins[f"{name}[{index}]" if len(net["bits"]) > 1 else name] = sinks[bit]
    return pins


def _clock_pins(module: dict[str, Any]) -> float:
    pins = 0.0
    for cell in module["cells"].values():
        if "." not in cell["type"] and CLOCKS & set(cell["connections"]):
            pins += 1 / PER_SLICE.get(cell["type"], 1)
    return pins


def _block_rams(module: dict[str, Any]) -> float:
    types = Counter(cell["type"] for cell in module["cells"].values())
    return types["RAMB36E1"] + types["RAMB18E1"] / 2
