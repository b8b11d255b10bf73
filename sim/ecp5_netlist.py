"""A netlist of ECP5 cells as Verilog that simulates: what is placed, routed and packed into a bitstream.

LUTs, carries and registers become logic by Yosys' own simulation library; memories and multipliers are described in
`ecp5_cells.v`, the PLL in `ecp5_pll.v`.
"""

import tempfile
from pathlib import Path

from sim.yosys import run_yosys

HERE = Path(__file__).parent
COMPILER_FLAGS = "-O1"
"""For its simulator: a machine's cells are 400,000 lines of C++, which more optimization reads for an hour."""
LUT4 = (
    "module LUT4(output Z, input A, B, C, D); parameter [15:0] INIT = 0;\n"
    "\\$lut #(.WIDTH(4), .LUT(INIT)) lut (.A({D, C, B, A}), .Y(Z));\nendmodule\n"
)
SCRIPT = """
read_json netlist.json
hierarchy -top {top}
techmap -map lut4.v
read_verilog -D NO_INCLUDES +/ecp5/cells_sim.v
delete DP16KD TRELLIS_DPR16X4
read_verilog -lib cells.v
hierarchy -check -top {top}
proc
flatten
delete t:$scopeinfo
splitnets
rename -hide */w:*.*
opt_clean
write_verilog -noattr netlist.v
"""


def netlist_verilog(netlist: str, top: str) -> str:
    """Verilog of a netlist.

    Parameters
    ----------
    netlist:
        Yosys' JSON, see `sim.bitstream.Built`.

    Raises
    ------
    InputError
        It has a cell that is not modelled, or Yosys failed.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "netlist.json").write_text(netlist, encoding="utf-8")
        (work / "lut4.v").write_text(LUT4, encoding="utf-8")
        (work / "cells.v").write_text(_cells(), encoding="utf-8")
        (work / "script.ys").write_text(SCRIPT.format(top=top), encoding="utf-8")
        run_yosys(work, "script script.ys")
        return (work / "netlist.v").read_text(encoding="utf-8") + _cells()


def _pins(name: str, bits: int) -> list[str]:
    """Names of a bus whose bits are ports, the highest first."""
    return [f"{name}{bit}" for bit in reversed(range(bits))]


def _cells() -> str:
    """The vendor's cells around ours: buses are single pins there; parameters that are not modelled must be as here."""
    fixed = {"CSDECODE_A": "0b000", "CSDECODE_B": "0b000"}
    registers = {"REGMODE_A": "NOREG", "REGMODE_B": "NOREG"}
    free = ("RESETMODE", "ASYNC_RESET_RELEASE", "WRITEMODE_A", "WRITEMODE_B", "GSR", "CLKAMUX", "CLKBMUX")
    rows = [f"INITVAL_{row:02X}" for row in range(64)]
    parameters = [f'parameter {name} = "{value}"' for name, value in (fixed | registers).items()]
    parameters += [f'parameter {name} = ""' for name in free] + [f"parameter {name} = 0" for name in rows]
    inputs, outputs, ports = [], [], []
    for side in "AB":
        inputs += [*_pins(f"DI{side}", 18), *_pins(f"AD{side}", 14)]
        inputs += [f"{pin}{side}" for pin in ("CE", "OCE", "CLK", "WE", "RST")] + _pins(f"CS{side}", 3)
        outputs += _pins(f"DO{side}", 18)
        low = side.lower()
        ports += [f".clk_{low}(CLK{side})", f".en_{low}(CE{side})", f".we_{low}(WE{side})", f".out_{low}(OCE{side})"]
        ports += [
            f".{own}_{low}({{{', '.join(_pins(f'{theirs}{side}', bits))}}})"
            for own, theirs, bits in (("ad", "AD", 14), ("di", "DI", 18), ("do", "DO", 18))
        ]
    modes = [f'{name} != "{value}"' for name, value in fixed.items()]
    modes += [f'({name} != "NOREG" && {name} != "OUTREG")' for name in registers]
    shape = ", ".join(f'.WIDTH_{side}(DATA_WIDTH_{side}), .REG_{side}(REGMODE_{side} == "OUTREG")' for side in "AB")
    ram = f"""module DP16KD #(parameter DATA_WIDTH_A = 18, parameter DATA_WIDTH_B = 18, {", ".join(parameters)}) (
    input {", ".join(inputs)}, output {", ".join(outputs)});
    codesign_dp16kd #({shape}) ram ({", ".join(ports)});
    if ({" || ".join(modes)}) $error("a block RAM of a mode that is not modelled");
endmodule
"""
    operands = [*_pins("A", 18), *_pins("B", 18), *_pins("C", 18)]
    controls = ["SIGNEDA", "SIGNEDB", "SOURCEA", "SOURCEB"] + [
        f"{pin}{number}" for pin in ("CE", "CLK", "RST") for number in range(4)
    ]
    product = ", ".join(_pins("P", 36))
    multiplier = f"""module MULT18X18D #(parameter REG_INPUTA_CLK = "NONE", parameter REG_INPUTB_CLK = "NONE",
    parameter REG_OUTPUT_CLK = "NONE") (input {", ".join((*operands, *controls))}, output {product});
    codesign_mult18x18d #(.REG_A(REG_INPUTA_CLK == "CLK0"), .REG_B(REG_INPUTB_CLK == "CLK0"),
        .REG_P(REG_OUTPUT_CLK == "CLK0")) multiplier (.clk(CLK0), .a({{{", ".join(_pins("A", 18))}}}),
        .b({{{", ".join(_pins("B", 18))}}}), .signed_a(SIGNEDA), .signed_b(SIGNEDB), .p({{{product}}}));
endmodule
"""
    own = [(HERE / name).read_text(encoding="utf-8") for name in ("ecp5_cells.v", "ecp5_pll.v")]
    return "".join([*own, ram, multiplier])
