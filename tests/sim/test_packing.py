"""What packing registers into blocks does to small netlists, and that it changes nothing that can be seen."""

import json
from pathlib import Path

import pytest

from sim.packing import MEMORY, MULTIPLIER, REGISTER, pack_registers
from sim.yosys import run_yosys

# Written after Lattice's description of the block (FPGA-TN-02205, registers of operands and product at CLK0).
MODEL = """
module MULT18X18D(input CLK0, CE0, RST0, SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, {inputs}, output {outputs});
    parameter REG_INPUTA_CLK = "NONE", REG_INPUTB_CLK = "NONE", REG_OUTPUT_CLK = "NONE";
    wire [17:0] a = {{{a}}}, b = {{{b}}};
    reg [17:0] ra = 0, rb = 0;
    reg [35:0] rp = 0;
    wire [17:0] x = REG_INPUTA_CLK == "CLK0" ? ra : a, y = REG_INPUTB_CLK == "CLK0" ? rb : b;
    wire [35:0] p = {{{{18{{SIGNEDA & x[17]}}}}, x}} * {{{{18{{SIGNEDB & y[17]}}}}, y}};
    always @(posedge CLK0) if (RST0) begin ra <= 0; rb <= 0; rp <= 0; end
        else if (CE0) begin ra <= a; rb <= b; rp <= p; end
    assign {{{p}}} = REG_OUTPUT_CLK == "CLK0" ? rp : p;
endmodule
""".format(
    inputs=", ".join(f"A{i}, B{i}, C{i}" for i in range(18)),
    outputs=", ".join(f"P{i}" for i in range(36)),
    **{
        name: ", ".join(f"{name.upper()}{i}" for i in reversed(range(bits)))
        for name, bits in (("a", 18), ("b", 18), ("p", 36))
    },
)

SEQUENCE = 5
"""Cycles that are compared: more than any of the units below has registers in a row, and none has feedback."""


def unit(body: str, ports: str = "") -> str:
    """Two operands of four bits come in from registers, a product goes out through registers."""
    return (
        f"module unit(input clk, input signed [3:0] a, b, input other, output reg signed [7:0] q = 0{ports});\n"
        f"reg signed [3:0] x = 0, y = 0; reg signed [7:0] p = 0;\n{body}\nendmodule\n"
    )


PACKED = {  # body, more ports, operands and products packed, registers left
    "signed": ("always @(posedge clk) begin x <= a; y <= b; p <= x * y; q <= p; end", "", 3, 8),
    "unsigned": (
        "always @(posedge clk) begin x <= a; y <= b; p <= $unsigned(x) * $unsigned(y); q <= p; end",
        "",
        3,
        8,
    ),
    "an operand without registers": ("always @(posedge clk) begin y <= b; p <= a * y; q <= p; end", "", 1, 12),
    "an operand that is needed elsewhere": (
        "always @(posedge clk) begin x <= a; y <= b; p <= x * y; q <= p; end assign again = x;",
        ", output [3:0] again",
        3,
        12,
    ),
    "an operand with an enable": (
        "always @(posedge clk) begin if (other) x <= a; y <= b; p <= x * y; q <= p; end",
        "",
        1,
        16,
    ),
    "an operand with a reset": (
        "always @(posedge clk) begin x <= other ? 0 : a; y <= b; p <= x * y; q <= p; end",
        "",
        1,
        16,
    ),
    "a product that is needed at once": (
        "always @(posedge clk) begin x <= a; y <= b; p <= x * y; q <= p; end assign now = x * y;",
        ", output signed [7:0] now",
        2,
        16,
    ),
    "an operand of two multipliers": (
        "always @(posedge clk) begin x <= a; y <= b; p <= x * y; q <= p; end\n"
        "reg signed [7:0] s = 0; always @(posedge clk) begin s <= x * z; r <= s; end\n"
        "reg signed [3:0] z = 0; always @(posedge clk) z <= {other, a[2:0]};",
        ", output reg signed [7:0] r = 0",
        6,
        16,
    ),
    "a product that is an operand": (
        "always @(posedge clk) begin x <= a; y <= b; p <= x * y; q <= r; end reg signed [7:0] r = 0;\n"
        "reg signed [3:0] z = 0; always @(posedge clk) begin z <= b; r <= p * z; end",
        "",
        4,
        12,
    ),
    "a product that is an operand, the other way round": (
        "always @(posedge clk) begin x <= a; y <= b; p <= x * y; q <= r; end reg signed [7:0] r = 0;\n"
        "reg signed [3:0] z = 0; always @(posedge clk) begin z <= b; r <= p * z; end",
        "",
        5,
        8,
    ),
}


def netlist(work: Path, text: str) -> dict:
    (work / "unit.v").write_text(text)
    run_yosys(work, "read_verilog unit.v; synth_ecp5 -top unit; write_json unit.json")
    return json.loads((work / "unit.json").read_text())


def count(module: dict, kind: str) -> int:
    return sum(cell["type"] == kind for cell in module["cells"].values())


def compare(work: Path, module: dict) -> str:
    """What Yosys' SAT solver says of a netlist beside its source, from their first states on."""
    (work / "packed.json").write_text(json.dumps({"modules": {"gate": module}}))
    (work / "model.v").write_text(MODEL)
    commands = (
        "read_verilog -overwrite +/ecp5/cells_sim.v",
        "delete MULT18X18D",
        "read_verilog model.v unit.v",
        "read_json packed.json",
        "hierarchy -check -top gate",
        "design -save gate",
        "design -reset",
        "read_verilog unit.v",
        "design -import gate -as gate gate",
        "proc; flatten gate; opt -full; miter -equiv -flatten unit gate miter; hierarchy -top miter",
        f"proc; opt -full; sat -set-init-zero -seq {SEQUENCE} -prove trigger 0 miter",
    )
    return run_yosys(work, "; ".join(commands))


@pytest.mark.parametrize("name", PACKED)
def test_registers_are_packed_where_that_changes_nothing(tmp_path: Path, name: str):
    body, ports, packed, registers = PACKED[name]
    module = netlist(tmp_path, unit(body, ports))["modules"]["unit"]
    if "other way round" in name:  # what is packed first takes the registers between
        module["cells"] = dict(reversed(module["cells"].items()))
    multipliers = count(module, MULTIPLIER)
    assert multipliers >= 1
    assert pack_registers(module) == packed
    assert (count(module, MULTIPLIER), count(module, REGISTER)) == (multipliers, registers)
    assert "no model found: SUCCESS!" in compare(tmp_path, module)


def test_the_comparison_sees_a_register_too_many(tmp_path: Path):
    body, ports, _, _ = PACKED["an operand without registers"]
    module = netlist(tmp_path, unit(body, ports))["modules"]["unit"]
    pack_registers(module)
    (multiplier,) = (cell for cell in module["cells"].values() if cell["type"] == MULTIPLIER)
    multiplier["parameters"] |= {"REG_INPUTA_CLK": "CLK0", "REG_INPUTB_CLK": "CLK0"}
    assert "no model found: SUCCESS!" not in compare(tmp_path, module)


WORDS = {  # what is behind the block RAM, more ports, bits of a word, words packed, registers left
    "a word": ("always @(posedge clk) q <= word;", "", 18, 1, 0),
    "a word that takes both sides' outputs": ("always @(posedge clk) q <= word;", "", 36, 1, 0),
    "a word of two block RAMs": ("always @(posedge clk) q <= word;", "", 30, 2, 0),
    "a word that is needed at once": (
        "always @(posedge clk) q <= word; assign now = word;",
        ", output [17:0] now",
        18,
        0,
        18,
    ),
    "a bit that goes elsewhere": ("always @(posedge clk) q <= {word[0] ^ word[1], word[17:1]};", "", 18, 0, 18),
    "a register with an enable": ("always @(posedge clk) if (other) q <= word;", "", 18, 0, 18),
    "a register with a reset": ("always @(posedge clk) q <= other ? 0 : word;", "", 18, 0, 18),
    "a register at another clock": ("always @(posedge clk_2) q <= word;", ", input clk_2", 18, 0, 18),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_word_is_packed_where_all_of_it_goes_to_registers(tmp_path: Path, name: str):
    """That it is still the same word: `test_bitstream.py`, on all forms of block RAMs."""
    behind, ports, bits, packed, registers = WORDS[name]
    depth = 512 if bits == 36 else 1024
    module = netlist(
        tmp_path,
        f"""module unit(input clk, other, input [{depth.bit_length() - 2}:0] to, from, input [{bits - 1}:0] d{ports},
            output reg [{bits - 1}:0] q = 0);
        (* ram_style = "block", no_rw_check *) reg [{bits - 1}:0] memory [0:{depth - 1}];
        reg [{bits - 1}:0] word;
        always @(posedge clk) begin memory[to] <= d; word <= memory[from]; end
        {behind}
        endmodule""",
    )["modules"]["unit"]
    assert count(module, MEMORY) >= max(1, packed)
    assert pack_registers(module) == packed
    assert count(module, REGISTER) == registers
    modes = [
        {cell["parameters"][f"REGMODE_{side}"] for side in "AB"}
        for cell in module["cells"].values()
        if cell["type"] == MEMORY
    ]
    assert all(("OUTREG" in mode) == bool(packed) for mode in modes)
    assert bits != 36 or modes == [{"OUTREG"}]
