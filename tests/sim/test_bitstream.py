"""Bitstreams of small designs, and what their cells do."""

import dataclasses
from itertools import product
from pathlib import Path

import pytest

from codesign.boards.ecp5 import constraints
from hardware.board import load_board
from hardware.errors import InputError
from hardware.files import cache_directory
from sim.bitstream import Built, build_bitstream
from sim.ecp5_netlist import netlist_verilog
from sim.serial_line import SimulatedLine
from sim.yosys import run_yosys

BOARD = load_board("ulx3s-85f")
SHAPES = ((1, 1), (2, 1), (4, 1), (9, 1), (18, 2), (36, 4), (8, 1), (64, 8))
"""Bits of a word, and how many enables it has: as many as the block RAMs have forms."""


def design() -> str:
    """All forms of block RAMs, with a register behind them and without, and of multipliers.

    A feedback shift register drives them; what they say goes to ``tx``.
    """
    parts, taps = [], []
    for number, ((width, enables), again) in enumerate(product(SHAPES, (False, True))):
        depth, lane = 16384 // max(1, width // 9 * 8 or width), width // enables
        bits = (depth - 1).bit_length()
        parts.append(f"""
    (* no_rw_check *) reg [{width - 1}:0] memory_{number} [0:{depth - 1}];
    reg [{width - 1}:0] read_{number} = 0, again_{number} = 0;
    wire [127:0] seen_{number} = {{random, random}} >> {3 * number};
    integer i_{number};
    always @(posedge clock) begin
        for (i_{number} = 0; i_{number} < {enables}; i_{number} = i_{number} + 1)
            if (seen_{number}[i_{number}])
                memory_{number}[{{1'b0, seen_{number}[{bits + 19}:20] & 15}}][{lane}*i_{number} +: {lane}]
                    <= seen_{number}[{lane}*i_{number} +: {lane}];
        read_{number} <= memory_{number}[{{1'b1, seen_{number}[{bits + 29}:30] & 15}} ^ (16 * later[{number}])];
        again_{number} <= read_{number};
    end""")
        taps.append(f"^again_{number}" if again else f"^read_{number}")
    for number, kind in enumerate(("", "signed ")):
        parts.append(f"""
    reg {kind}[17:0] left_{number} = 0, right_{number} = 0;
    reg {kind}[35:0] product_{number} = 0;
    always @(posedge clock) begin
        left_{number} <= random[17:0];
        right_{number} <= random[40:23];
        product_{number} <= left_{number} * right_{number};
    end""")
        taps.append(f"^(product_{number} & random[35:0])")
    return f"""
module probe(input clock, input rx, output reg tx, output high);
    reg [63:0] random = 64'h0123456789abcdef;
    reg [15:0] later = 0;
    assign high = rx;
    always @(posedge clock) begin
        random <= {{random[62:0], random[63] ^ random[62] ^ random[60] ^ random[59]}};
        later <= later + 1;
        tx <= {" ^ ".join(taps)};
    end
{"".join(parts)}
endmodule
"""


PINS = {"DP16KD": ".CLKA(clock), .CLKB(clock), .DOA0(tx)", "TRELLIS_DPR16X4": ".WCK(clock), .WRE(rx), .DO(tx)"}

SMALL = """
module probe(input clock, input rx, output reg tx, output high);
    reg [31:0] count = 0;
    assign high = count[31];
    always @(posedge clock) begin
        count <= {count[30:0], count[31] ^ count[21] ^ rx} + 7;
        tx <= ^count;
    end
endmodule
"""


def built(verilog: str, lpf: str = "", clock_mhz: float = 25, **more) -> Built:
    return build_bitstream(verilog, "probe", BOARD, lpf or constraints(BOARD), clock_mhz, **more)


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    small = BOARD.model_copy(update={"device": BOARD.device.model_copy(update={"ff": 10})})
    with pytest.raises(
        InputError, match=r"does not fit ulx3s-85f: ff 3\d of 10; make the machine or the memory smaller"
    ):
        build_bitstream(SMALL, "probe", small, constraints(small), 25)


@pytest.mark.slow
def test_a_clock_that_no_placement_meets_and_a_pin_that_is_none_are_refused() -> None:
    fast = constraints(BOARD.model_copy(update={"oscillator_mhz": 900.0}))
    with pytest.raises(InputError, match=r"timing is not met: \d+\.\d MHz is the best of 2 placements, 900 are needed"):
        built(SMALL, fast, 900, seeds=(1, 2))
    with pytest.raises(InputError, match="nextpnr with seed 1 ended"):
        built(SMALL, constraints(BOARD).replace('"G2"', '"Z99"'))


@pytest.mark.slow
def test_two_builds_are_equal_and_say_what_they_take() -> None:
    first, again = built(SMALL, fresh=True), built(SMALL, fresh=True)
    assert first.bitstream == again.bitstream
    assert len(first.bitstream) > 100_000
    assert dataclasses.replace(first, seed=2) != again
    assert first.fmax_mhz > 25
    assert "placement seed 1" in first.timing()
    assert "TRELLIS_FF" in first.utilization()
    assert "timing is met" in first.summary()


@pytest.mark.slow
def test_the_models_of_cells_do_what_the_source_says() -> None:
    """Whatever ``tx`` does reads as bytes: the same ones of the source and of its cells."""
    said = []
    cells = netlist_verilog(built(design()).netlist, "probe")
    for text in (design(), cells):
        with SimulatedLine(text, "probe", 8, 50, timeout=1) as line:
            said.append(line.read(3000))
    assert len(said[0]) == 3000
    assert len(set(said[0])) > 100
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "cell",
    [
        'DP16KD #(.REGMODE_A("OTHER"))',
        'DP16KD #(.CSDECODE_B("0b001"))',
        'DP16KD #(.DATA_WIDTH_A(36), .DATA_WIDTH_B(36), .REGMODE_B("OUTREG"))',
        "DP16KD #(.DATA_WIDTH_A(9), .DATA_WIDTH_B(18))",
        'TRELLIS_DPR16X4 #(.WCKMUX("INV"))',
    ],
)
def test_a_cell_of_a_mode_that_is_not_modelled_is_refused(cell: str, tmp_path: Path) -> None:
    instance = f"{cell} cell_({PINS[cell.split()[0]]});"
    verilog = f"module probe(input clock, input rx, output tx); {instance} endmodule"
    (tmp_path / "probe.v").write_text(verilog)
    run_yosys(tmp_path, "read_verilog probe.v; write_json probe.json")
    cells = netlist_verilog((tmp_path / "probe.json").read_text(), "probe")
    with pytest.raises(InputError, match="verilator failed"):
        SimulatedLine(cells, "probe", 8, 50)
    assert "not modelled" in (cache_directory() / "build-failure.log").read_text()
