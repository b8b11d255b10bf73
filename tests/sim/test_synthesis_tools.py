"""Synthesis, the harness and place-and-route, on designs small enough to count by hand."""

import json
import re
from pathlib import Path

import pytest

import sim.place
import sim.synthesis
from hardware.board import load_board
from hardware.device import DEVICES, load_device
from hardware.errors import InputError
from sim.harness import Port, harness_verilog, module_ports
from sim.paths import signal_name
from sim.place import critical_path, place, read_report, run_nextpnr
from sim.synthesis import Resources, keep, machine_cells, recall, resources, synthesize

COUNTER = """
module counter(input clk, input rst, input enable, output reg [15:0] count);
  always @(posedge clk) if (rst) count <= 0; else if (enable) count <= count + 1;
endmodule
"""

# One of each: 6-input gate, 17 bits of delay, 32 x 6 distributed RAM, 36 and 18 Kbit of block RAM, a 16 x 16 product.
PARTS = """
module parts(input clk, input we, input [9:0] write, read, input [15:0] a, b, input [31:0] word, input [7:0] byte,
             output reg gate, output delayed, output [5:0] small, output reg [31:0] large, output reg [15:0] half,
             output reg [31:0] product);
  reg [16:0] line;
  reg [5:0] few [0:31];
  reg [31:0] many [0:1023];
  reg [15:0] some [0:1023];
  assign delayed = line[16];
  assign small = few[read[4:0]];
  always @(posedge clk) begin
    gate <= &byte[5:0];
    line <= {line[15:0], byte[7]};
    if (we) few[write[4:0]] <= byte[5:0];
    if (we) many[write] <= word;
    large <= many[read];
    if (we) some[write] <= a;
    half <= some[read];
    product <= a * b;
  end
endmodule
"""


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path / "cache"))


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no tool may run."""

    def refuse(*arguments, **options):
        raise AssertionError("a tool ran although its result was kept")

    for module in (sim.synthesis, sim.place):
        monkeypatch.setattr(module, "run_yosys", refuse)
    monkeypatch.setattr(sim.place, "run_nextpnr", refuse)


def test_7_series_cells_are_counted_at_the_luts_they_occupy():
    cells = synthesize(PARTS, "parts", "xc7z020")
    # The gate is one LUT6, 16 of the 17 delays one SRL16E, the distributed RAM one RAM32M of four LUTs.
    assert resources(cells, "xc7z020") == Resources(lut=1 + 1 + 4, ff=1 + 1, bram36=1.5, dsp=1), cells
    assert cells["RAM32M"] == cells["SRL16E"] == cells["RAMB18E1"] == 1


@pytest.mark.parametrize(
    ("device", "cells", "lut"),
    [
        ("xc7z020", {"LUT1": 1, "LUT2": 1, "LUT3": 1, "LUT4": 1, "LUT5": 1, "LUT6": 1, "INV": 3, "CARRY4": 9}, 9),
        ("xc7z020", {"RAM64M": 2, "RAM64X1D": 3, "RAM128X1D": 1, "SRLC32E": 1, "MUXF7": 1, "MUXF8": 1}, 19),
        ("ecp5-85k", {"LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 2, "PFUMX": 4, "L6MUX21": 2}, 28),
    ],
    ids=["7-series logic", "7-series memories", "ecp5"],
)
def test_luts_of_a_netlist(device: str, cells: dict[str, int], lut: int):
    assert resources(cells, device) == Resources(lut=lut, ff=0, bram36=0, dsp=0)


def test_flip_flops_block_rams_and_multipliers_of_a_netlist():
    cells = {"FDRE": 1, "FDSE": 2, "FDCE": 3, "FDPE": 4, "RAMB36E1": 2, "RAMB18E1": 3, "DSP48E1": 5}
    assert resources(cells, "xc7z020") == Resources(lut=0, ff=10, bram36=3.5, dsp=5)
    assert resources({"TRELLIS_FF": 7, "DP16KD": 5, "MULT18X18D": 2}, "ecp5-85k") == Resources(0, 7, 2.5, 2)


def test_a_cell_of_unknown_cost_is_no_cheap_cell():
    with pytest.raises(ValueError, match=r"unknown cost on xc7z020: LDCE, \$_AND_"):
        resources({"LUT6": 1, "LDCE": 1, "$_AND_": 1}, "xc7z020")


@pytest.mark.parametrize("resource", ["lut", "ff", "bram36", "dsp"])
def test_every_resource_can_be_the_one_that_does_not_fit(resource: str):
    device = load_device("xc7z020")
    all_of_it = device.model_dump(exclude={"part"})
    assert Resources(**all_of_it).fits(device)
    assert not Resources(**all_of_it | {resource: all_of_it[resource] + 0.5}).fits(device)


def test_devices_and_boards_agree():
    assert load_board("arty-z7-20").device == DEVICES["xc7z020"]
    with pytest.raises(InputError, match="unknown device 'ecp5-85': did you mean 'ecp5-85k'"):
        load_device("ecp5-85")


def test_a_net_with_two_drivers_ends_in_an_error():
    with pytest.raises(InputError, match="Yosys ended"):
        synthesize("module two(input a, b, output c); assign c = ~a; assign c = ~b; endmodule", "two", "ecp5-85k")


def test_the_harness_connects_every_port(tmp_path: Path):
    (tmp_path / "counter.v").write_text(COUNTER)
    ports = module_ports(tmp_path, "counter.v", "counter")
    assert ports == [
        Port("clk", "input", 1),
        Port("rst", "input", 1),
        Port("enable", "input", 1),
        Port("count", "output", 16),
    ]
    text = harness_verilog("counter", ports)
    for connection in (
        ".clk(clk)",
        ".\\rst (stimulus[0:0])",
        ".\\enable (stimulus[1:1])",
        ".\\count (response[15:0])",
    ):
        assert connection in text


@pytest.mark.parametrize(
    "ports",
    [
        [Port("clock", "input", 1), Port("a", "input", 1), Port("b", "output", 1)],
        [Port("clk", "input", 1), Port("b", "output", 1)],
        [Port("clk", "input", 1), Port("a", "input", 1)],
        [Port("clk", "input", 1), Port("a", "input", 1), Port("b", "output", 1), Port("c", "inout", 1)],
    ],
    ids=["another clock", "no input", "no output", "inout"],
)
def test_what_cannot_be_wrapped_is_refused(ports: list[Port]):
    with pytest.raises(InputError, match="cannot wrap module top"):
        harness_verilog("top", ports)


def test_place_and_route_of_a_counter_loses_nothing_and_is_kept(monkeypatch: pytest.MonkeyPatch):
    steps: list[int] = []
    first = place(COUNTER, "counter", [3, 4], jobs=2, progress=steps.append)
    assert steps == [1, 2]
    # The machine in the harness is the machine alone: no logic is lost in it, none of the harness is counted.
    assert first.cells == synthesize(COUNTER, "counter", "ecp5-85k")
    assert (first.resources.ff, first.resources.bram36, first.resources.dsp) == (16, 0, 0)
    # As placed: what was synthesised, two LUTs each to feed the one carry chain in and out, and at most two constants.
    alone = resources(first.cells, "ecp5-85k").lut
    assert alone <= first.resources.lut <= alone + 6
    assert [run["seed"] for run in first.runs] == [3, 4]
    for run in first.runs:
        path = run["critical_path"]
        assert sum(step["logic_ns"] + step["routing_ns"] for step in path) == pytest.approx(
            1000 / run["fmax_mhz"], abs=0.01
        )
        assert 100 < run["fmax_mhz"] < 1000
    assert first.runs[0]["fmax_mhz"] != first.runs[1]["fmax_mhz"], "the seed changed nothing"

    with monkeypatch.context() as patch:
        forbid(patch)
        assert place(COUNTER, "counter", [3, 4]) == first
        for changed in ({"text": COUNTER + "// more\n"}, {"seeds": [3, 5]}, {"fresh": True}):
            with pytest.raises(AssertionError, match="a tool ran"):
                place(**{"text": COUNTER, "top": "counter", "seeds": [3, 4]} | changed)


def test_without_routing_the_clock_is_the_placer_s_own_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    placed = place(COUNTER, "counter", [3], routed=False)
    sim.place.synthesize(tmp_path, COUNTER, "counter")
    run_nextpnr(tmp_path, 3, "--no-route")
    (said,) = re.findall(r"Max frequency for clock '.*': ([\d.]+) MHz", (tmp_path / "nextpnr-3.log").read_text())
    (run,) = placed.runs
    assert run["fmax_mhz"] == pytest.approx(float(said), abs=0.01)
    assert sum(step["logic_ns"] + step["routing_ns"] for step in run["critical_path"]) == pytest.approx(
        1000 / run["fmax_mhz"], abs=0.01
    )
    assert placed.resources.ff == 16
    with monkeypatch.context() as patch:
        forbid(patch)
        assert place(COUNTER, "counter", [3], routed=False) == placed
        with pytest.raises(AssertionError, match="a tool ran"):
            place(COUNTER, "counter", [3])  # is not routed yet


def test_a_failing_placer_ends_in_an_error_with_its_log(tmp_path: Path):
    (tmp_path / "netlist.json").write_text("{")
    with pytest.raises(InputError, match=r"(?s)nextpnr with seed 7 ended with exit code .*ERROR"):
        run_nextpnr(tmp_path, 7)


def test_a_design_that_does_not_fit_is_not_placed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sim.place, "run_nextpnr", lambda *arguments: pytest.fail("placed"))
    small = load_device("ecp5-85k").model_copy(update={"ff": 15})
    monkeypatch.setattr(sim.place, "load_device", lambda name: small)
    placement = place(COUNTER, "counter", [0])
    assert placement.runs == []
    assert placement.resources == resources(placement.cells, "ecp5-85k")


def test_what_was_synthesised_is_not_synthesised_again(monkeypatch: pytest.MonkeyPatch):
    first = machine_cells(COUNTER, "counter", "ecp5-85k")
    forbid(monkeypatch)
    assert machine_cells(COUNTER, "counter", "ecp5-85k") == first
    monkeypatch.setattr(sim.synthesis, "tool_version", lambda tool: "another")
    with pytest.raises(AssertionError, match="a tool ran"):
        machine_cells(COUNTER, "counter", "ecp5-85k")


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff"], ids=["empty", "half", "list", "binary"])
def test_a_damaged_result_is_no_result(tmp_path: Path, damage: bytes):
    keep("key", {"LUT4": 1})
    (kept,) = (tmp_path / "cache").rglob("key.json")
    assert recall("key") == {"LUT4": 1}
    kept.write_bytes(damage)
    assert recall("key") is None


CLOCK = "$glbnet$clk$TRELLIS_IO_IN"


def report() -> dict:
    """A report of nextpnr, shortened: two paths, of which the first has no clock at its start."""

    def step(kind: str, delay: float, cell: str) -> dict:
        return {"type": kind, "delay": delay, "from": {"cell": "x", "port": "Q"}, "to": {"cell": cell, "port": "A"}}

    path = [
        step("clk-to-q", 0.5, "machine.a.count_TRELLIS_FF_Q_3"),
        step("routing", 1.25, "machine.a.count_LUT4_A"),
        step("logic", 0.25, "machine.a.count_LUT4_A"),
        step("routing", 2.0, "machine.b.sum_CCU2C_S0$CCU2_COMB1"),
        step("logic", 0.5, "machine.b.sum_CCU2C_S0$CCU2_COMB1"),
        step("setup", 0.0, "machine.b.sum_TRELLIS_FF_Q_1_DI_LUT4_Z"),
    ]
    paths = [{"from": "<async>", "to": f"posedge {CLOCK}", "path": [step("routing", 9.0, "stimulus_TRELLIS_FF_Q")]}]
    paths.append({"from": f"posedge {CLOCK}", "to": f"posedge {CLOCK}", "path": path})
    return {
        "fmax": {CLOCK: {"achieved": 222.2, "constraint": 200}},
        "critical_paths": paths,
        "utilization": {"TRELLIS_COMB": {"used": 12, "available": 83640}},
    }


def test_a_report_gives_the_clock_the_path_and_the_cells():
    assert read_report(report()) == {
        "fmax_mhz": 222.2,
        "critical_path": [
            {"at": "a.count", "logic_ns": 0.75, "routing_ns": 1.25},
            {"at": "b.sum", "logic_ns": 0.5, "routing_ns": 2.0},
        ],
        "utilization": {"TRELLIS_COMB": 12},
    }


@pytest.mark.parametrize("clocks", [{}, {"clk2": {"achieved": 1.0}}], ids=["none", "another"])
def test_a_report_without_the_clock_is_refused(clocks: dict):
    with pytest.raises(InputError, match="expected one clock 'clk'"):
        read_report(report() | {"fmax": clocks})


def test_a_path_may_pass_a_name_twice():
    cells = ["a_TRELLIS_FF_Q", "b_LUT4_A", "a_LUT4_B"]
    steps = [{"type": "logic", "delay": 1.0, "to": {"cell": f"machine.{cell}"}} for cell in cells]
    assert [step["at"] for step in critical_path(json.loads(json.dumps(steps)))] == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("cell", "signal"),
    [
        ("machine.result.order.tiles_left_TRELLIS_FF_Q_15_DI_LUT4_Z_D_CCU2C_S1_B1", "result.order.tiles_left"),
        ("machine.lhs_buffer.bank_3.0.0", "lhs_buffer.bank_3"),
        ("held_TRELLIS_FF_Q_7", "held"),
        ("machine.result.$signal$48_LUT4_B_Z_PFUMX_ALUT", "result.$signal$48"),
        ("machine.a.sum_CCU2C$CCU2_COMB1", "a.sum"),
        ("$nextpnr_CCU2C_191$CCU2_COMB0", "$nextpnr"),
    ],
)
def test_signal_of_a_cell(cell: str, signal: str):
    assert signal_name(cell) == signal
