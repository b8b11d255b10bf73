"""Mutants: what they change is what they say, 0 changes nothing, and proofs find exactly those that change nothing."""

import re
from itertools import product

import numpy as np
import pytest

from codesign.execution import run_on_rtl
from codesign.sampling import random_operands
from hardware.errors import InputError
from rtl.verilog import TOP, engine_verilog
from sim.equivalence import proved_equivalent
from sim.mutation import GROUPS, Mutant, acting, draw_mutants, mutated_verilog, mutation_commands
from sim.reference import reference_sums
from sim.yosys import run_yosys

# `spare` is never read, and the last term of `odd` adds nothing to it.
SMALL = f"""
module {TOP}(input [1:0] a, input [1:0] b, output [2:0] y, output odd);
  \\{TOP}.engine engine (.a(a), .b(b), .y(y), .odd(odd));
endmodule
module \\{TOP}.engine (input [1:0] a, input [1:0] b, output [2:0] y, output odd);
  wire spare;
  \\{TOP}.engine.array array (.a(a), .b(b), .sum(y), .spare(spare));
  \\{TOP}.engine.fetch_0 fetch_0 (.a(a), .b(b), .odd(odd));
endmodule
module \\{TOP}.engine.array (input [1:0] a, input [1:0] b, output [2:0] sum, output spare);
  assign sum = a + b;
  assign spare = a == b;
endmodule
module \\{TOP}.engine.fetch_0 (input [1:0] a, input [1:0] b, output odd);
  wire differ = a[0] ^ b[0];
  assign odd = differ | (differ & b[1]);
endmodule
"""
TWO = {"array": ("array",), "fetch": ("fetch",)}


def tables(directory, commands: list[str], mutants: int) -> list[list[str]]:
    """Truth tables of the small machine without mutants in front, then of every mutant."""
    (directory / "machine.v").write_text(SMALL)
    script = [*commands, f"select {TOP}"]
    script += [f"log mutant\neval -set mutant {number} -table a,b -show y,odd" for number in range(mutants + 1)]
    (directory / "script.ys").write_text("\n".join(script))
    parts = re.split(r"^mutant$", run_yosys(directory, "script script.ys"), flags=re.MULTILINE)[1:]
    return [re.findall(r"^ *\d'.*\|.*$", part, flags=re.MULTILINE) for part in parts]


@pytest.fixture(scope="module")
def small() -> list[Mutant]:
    """Some mutants of the small machine."""
    return draw_mutants(SMALL, TWO, 24, 1)


def test_mutants_are_drawn_from_every_group_and_only_where_something_depends_on_them(small):
    assert [one.group for one in small] == ["array"] * 12 + ["fetch"] * 12
    assert len(set(small)) == 24
    assert not [one for one in small if "$eq" in one.cell]
    assert small == draw_mutants(SMALL, TWO, 24, 1) != draw_mutants(SMALL, TWO, 24, 2)


def test_a_part_within_another_stages_part_is_not_of_that_stage():
    ports, passed = "(input [1:0] a, input [1:0] b, output [2:0] y)", "(.a(a), .b(b), .y(y))"
    verilog = f"""
module {TOP} {ports}; \\{TOP}.engine engine {passed}; endmodule
module \\{TOP}.engine {ports}; \\{TOP}.engine.array array {passed}; endmodule
module \\{TOP}.engine.array {ports};
  wire [2:0] x;
  \\{TOP}.engine.array.unit_0 unit_0 (.a(a), .b(b), .y(x));
  assign y = x - a;
endmodule
module \\{TOP}.engine.array.unit_0 {ports}; assign y = a ^ b; endmodule
"""
    mutants = draw_mutants(verilog, {"array": ("array",), "own units": ("array.unit",)}, 8, 0)
    assert [(one.group, "unit_0" in one.cell) for one in mutants] == [("array", False)] * 4 + [("own units", True)] * 4


def test_those_proved_to_change_nothing_are_those_with_the_same_truth_table(small, tmp_path):
    numbered = dict(enumerate(small, 1))
    without, *mutated = tables(tmp_path, mutation_commands(numbered), len(small))
    assert len(without) == 16
    for row in without:
        a, b, odd, y = (int(bits, 2) for bits in re.findall(r"\d'([01]+)", row))
        assert (y, odd) == (a + b, (a ^ b) & 1)
    same = {number for number, table in enumerate(mutated, 1) if table == without}
    assert same == proved_equivalent(SMALL, numbered)
    assert 0 < len(same) < 12


@pytest.mark.parametrize("state", ["register", "memory"])
def test_what_goes_into_registers_and_memories_is_compared(state):
    held = {
        "register": "reg held; always @(posedge clk) held <= {}; assign odd = held;",
        "memory": "reg held[0:15]; always @(posedge clk) held[{{a, b}}] <= {}; assign odd = held[{{b, a}}];",
    }
    assign = "assign odd = differ | (differ & b[1]);"
    verilog = SMALL.replace(assign, held[state].format("differ | (differ & b[1])"))
    verilog = verilog.replace("(input [1:0] a", "(input clk, input [1:0] a").replace("(.a(a)", "(.clk(clk), .a(a)")
    mutants = dict(enumerate(draw_mutants(verilog, {"fetch": ("fetch",)}, 12, 0), 1))
    proved = {mutants[number] for number in proved_equivalent(verilog, mutants)}
    last = {"$and": {("B", "inv"), ("B", "const1"), *product("ABY", ["const0"])}, "$or": {("B", "const0")}}
    redundant = {
        one
        for one in mutants.values()
        for kind, some in last.items()
        if kind in one.cell and (one.port, one.mode) in some
    }
    assert proved == redundant != set()
    assert not [one for one in mutants.values() if one.port.endswith("CLK")]


def test_registers_on_which_no_output_depends_are_not_compared():
    held = "reg [2:0] held; always @(posedge clk) held <= held + differ; assign odd = held[0];"
    verilog = SMALL.replace("assign odd = differ | (differ & b[1]);", held)
    verilog = verilog.replace("(input [1:0] a", "(input clk, input [1:0] a").replace("(.a(a)", "(.clk(clk), .a(a)")
    mutants = dict(enumerate(draw_mutants(verilog, {"fetch": ("fetch",)}, 24, 0), 1))
    proved = {mutants[number] for number in proved_equivalent(verilog, mutants)}
    counter = [one for one in mutants.values() if "$add" in one.cell or "$procdff" in one.cell]
    assert {one for one in counter if one.portbit > 0} == proved
    assert {one.portbit for one in counter} == {0, 1, 2}


def test_what_is_not_written_to_a_memory_does_not_count():
    written = "reg held[0:3]; always @(posedge clk) if (b[1]) held[a] <= differ & b[1]; assign odd = held[b];"
    verilog = SMALL.replace("assign odd = differ | (differ & b[1]);", written)
    verilog = verilog.replace("(input [1:0] a", "(input clk, input [1:0] a").replace("(.a(a)", "(.clk(clk), .a(a)")
    mutants = dict(enumerate(draw_mutants(verilog, {"fetch": ("fetch",)}, 30, 0), 1))
    (proved,) = (str(mutants[number]) for number in proved_equivalent(verilog, mutants))
    assert re.fullmatch(r"const1: engine\.fetch_0\.\$and\S* B\[0\]", proved)


def test_too_few_and_too_many_mutants_are_refused():
    with pytest.raises(InputError, match="expected 2 to 65535 mutants, got 1: change the number"):
        draw_mutants(SMALL, TWO, 1, 0)
    with pytest.raises(InputError, match="group 'array' has only 26 mutants, not 500: ask for fewer"):
        draw_mutants(SMALL, TWO, 1000, 0)
    with pytest.raises(InputError, match="Yosys wrote no wire 'mutant': pass at least one mutant"):
        mutated_verilog(SMALL, [])


@pytest.mark.slow  # compiles the machine with its mutants
def test_a_mutant_acts_when_it_is_chosen(tiny):
    verilog = engine_verilog(tiny)
    mutants = draw_mutants(verilog, {"array": GROUPS["bit_serial"]["array"][:1]}, 4, 0)
    carry = Mutant("array", "inv", mutants[0].cell, mutants[0].port, mutants[0].portbit)
    mutated = mutated_verilog(verilog, [carry, *mutants])
    work = [random_operands(np.random.default_rng(1), tiny, number) for number in range(5)]
    plain = run_on_rtl(work, tiny).layers
    with acting(mutated, 0):
        same = run_on_rtl(work, tiny).layers
    with acting(mutated, 1):
        other = run_on_rtl(work, tiny).layers
    for operands, one, two in zip(work, plain, same, strict=True):
        assert (one.outputs == two.outputs).all()
        assert (one.outputs == reference_sums(operands)).all()
        assert one.rtl_cycles == two.rtl_cycles
    assert any((one.outputs != two.outputs).any() for one, two in zip(plain, other, strict=True))
