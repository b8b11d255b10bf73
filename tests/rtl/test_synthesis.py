"""Yosys on the generated Verilog: no latch, no combinational loop, no net with two drivers."""

from pathlib import Path

import pytest

from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from rtl.verilog import TOP, engine_verilog
from sim.yosys import run_yosys


def problems(directory: Path, verilog: str) -> str:
    """What `check` says before anything is optimized away: processes are cells, hierarchy is flat."""
    (directory / "machine.v").write_text(verilog)
    script = f"read_verilog machine.v; hierarchy -check -top {TOP}; proc -noopt; flatten"
    return run_yosys(directory, f"{script}; select -assert-none t:$dlatch t:$adlatch t:$_DLATCH_*; check -assert")


def test_no_latch_no_loop_no_second_driver(tmp_path: Path) -> None:
    output = problems(tmp_path, engine_verilog(load_accelerator("bitserial-tiny")))
    assert "Found and reported 0 problems." in output


@pytest.mark.parametrize(
    "fault",
    [
        "  reg fault; always @* if (start) fault = busy;\n",
        "  wire fault, again; assign fault = ~again; assign again = ~fault;\n",
        "  wire fault; assign fault = busy & start; assign fault = busy | start;\n",
    ],
    ids=["latch", "loop", "two drivers"],
)
def test_the_check_can_fail(tmp_path: Path, fault: str) -> None:
    head, tail = engine_verilog(load_accelerator("bitserial-tiny")).rsplit("endmodule", 1)
    with pytest.raises(InputError, match="Yosys ended with exit code"):
        problems(tmp_path, f"{head}{fault}endmodule{tail}")


@pytest.mark.slow  # a minute and more of synthesis
@pytest.mark.parametrize("name", ["bitserial-tiny", "bitserial-small"])
def test_synthesis_for_7_series_leaves_no_latch(tmp_path: Path, name: str) -> None:
    (tmp_path / "machine.v").write_text(engine_verilog(load_accelerator(name)))
    latches = "select -assert-none t:LDCE t:LDPE t:$dlatch t:$_DLATCH_*"
    output = run_yosys(
        tmp_path,
        f"read_verilog machine.v; synth_xilinx -family xc7 -flatten -top {TOP}; {latches}; check -assert; stat",
    )
    assert "Found and reported 0 problems." in output
    assert "RAMB36E1" in output
