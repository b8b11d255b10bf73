"""The board package: what is exported is what was simulated, and a changed file is noticed."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codesign.package import read_manifest, run_package, write_package
from codesign.sampling import random_operands
from hardware.accelerator import load_accelerator
from hardware.board import load_board
from hardware.errors import InputError
from policies.policy import ActivationChoice, LayerPolicy, Policy, WeightChoice
from sim.lint import lint
from sim.reference import integer_convolution

TINY = load_accelerator("bitserial-tiny")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three random layers, one of them with pruned kernels, and a fourth with nothing but pruned kernels."""
    rng = np.random.default_rng(5)
    work = [random_operands(rng, TINY, number) for number in range(3)]
    widths = tuple(0 if kernel % 3 == 0 else work[1].weight_bits[0] for kernel in range(work[1].layer.out_channels))
    weights = work[1].weights * (np.array(widths) > 0)[:, None, None, None]
    work[1] = replace(work[1], weights=weights, weight_bits=widths)
    pruned = replace(work[0], layer=replace(work[0].layer, name="pruned"), weights=0 * work[0].weights)
    work.append(replace(pruned, weight_bits=(0,) * pruned.layer.out_channels))
    sums = [integer_convolution(one.weights, one.activations, one.layer) for one in work]
    policy = Policy(
        network="random",
        layers=tuple(
            LayerPolicy(
                name=one.layer.name,
                weights=WeightChoice(bits=one.weight_bits),
                activations=ActivationChoice(bits=one.activation_bits),
            )
            for one in work
        ),
    )
    directory = tmp_path_factory.mktemp("export") / "package"
    write_package(directory, policy, TINY, load_board("arty-z7-20"), work, sums)
    return directory


def test_its_programs_on_its_verilog_give_the_reference_outputs_in_the_models_cycles(package: Path) -> None:
    runs, _ = run_package(package)
    assert [run.entry["name"] for run in runs] == ["sample0", "sample1", "sample2"]
    assert all(run.mismatches == 0 and run.entry["outputs"] > 0 for run in runs)
    assert [run.rtl_cycles for run in runs] == [run.entry["cycles"] for run in runs]


def test_wrong_expectations_would_be_noticed(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    name = f"{manifest['layers'][0]['folder']}/expected.bin"
    content = bytearray((copy / name).read_bytes())
    content[0] ^= 1
    (copy / name).write_bytes(content)
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    runs, _ = run_package(copy)
    assert [run.mismatches for run in runs] == [1, 0, 0]


def test_verilator_has_nothing_to_say_about_its_verilog(package: Path) -> None:
    assert lint(package / "rtl" / "codesign_engine.v") == []


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("  reg [3:0] fault; always @(posedge clk) fault <= cycles;\n", "WIDTHTRUNC"),
        ("  wire [63:0] fault = cycles[3:0];\n", "WIDTHEXPAND"),
        ("  reg fault; always @* if (start) fault = busy;\n", "LATCH"),
    ],
)
def test_the_waivers_hide_no_width_and_no_latch(package: Path, tmp_path: Path, fault: str, rule: str) -> None:
    source = (package / "rtl" / "codesign_engine.v").read_text()
    head, tail = source.rsplit("endmodule", 1)
    broken = tmp_path / "codesign_engine.v"
    broken.write_text(f"{head}{fault}endmodule{tail}")
    assert any(line.startswith(f"%Warning-{rule}") for line in lint(broken))


def test_the_build_script_is_complete_tcl_for_the_boards_part(package: Path) -> None:
    script = (package / "vivado" / "build.tcl").read_text()
    commands = script.split("\n")
    assert "synth_design -top codesign_engine -part xc7z020clg400-1 -mode out_of_context" in commands
    tkinter = pytest.importorskip("tkinter", reason="Python's Tcl interpreter, Debian's package python3-tk")
    called: list[str] = []
    tcl = tkinter.Tcl()
    tcl.createcommand("unknown", lambda *words: called.append(words[0]) or "1.5")
    tcl.eval(script.replace("[info script]", "{build.tcl}"))  # every Vivado command is answered with 1.5 ns of slack
    assert called.count("route_design") == 1
    assert {"read_verilog", "read_xdc", "report_timing_summary", "report_utilization"} <= set(called)


def test_a_changed_file_is_refused(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    with (copy / "policy.yaml").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(InputError, match=r"policy.yaml is not the file that was exported: export the package again"):
        read_manifest(copy)
    (copy / "policy.yaml").unlink()
    with pytest.raises(InputError, match="is not a complete package"):
        read_manifest(copy)


def test_a_folder_with_other_things_is_not_replaced(package: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    policy = Policy.from_yaml(package / "policy.yaml")
    with pytest.raises(InputError, match="holds something that is not a package"):
        write_package(tmp_path, policy, TINY, load_board("arty-z7-20"), [], [])
    assert (tmp_path / "thesis.tex").exists()
