"""The board package: what is exported is what was simulated, and a changed file is noticed."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from codesign.integers import IntegerNetwork
from codesign.package import read_manifest, run_package, write_package
from codesign.workload import load_workload, quantized_network
from hardware.accelerator import load_accelerator
from hardware.board import load_board
from hardware.errors import InputError
from policies.policy import Policy
from rtl.verilog import TOP
from sim.lint import lint

TINY = load_accelerator("bitserial-tiny")


@pytest.fixture(scope="module")
def lenet() -> tuple[Policy, IntegerNetwork, torch.Tensor]:
    """A LeNet with random weights, its policy, one random image."""
    workload = load_workload("lenet", seed=5)
    policy = Policy.uniform("lenet", workload.traced.layers, 3, 2)
    return policy, IntegerNetwork(quantized_network(workload, policy, None)), workload.images(1)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, lenet: tuple[Policy, IntegerNetwork, torch.Tensor]) -> Path:
    """Its package."""
    policy, network, image = lenet
    directory = tmp_path_factory.mktemp("export") / "package"
    write_package(directory, policy, TINY, load_board("arty-z7-20"), network, image)
    return directory


def test_its_program_on_its_verilog_gives_the_reference_scores_in_the_models_cycles(package: Path) -> None:
    run = run_package(package)
    manifest = read_manifest(package)
    assert (run.mismatches, run.rtl_cycles) == (0, manifest["cycles"])
    assert manifest["program"]["scores"] == 10
    assert sum(layer["cycles"] for layer in manifest["layers"]) == manifest["cycles"]


def replace_file(package: Path, name: str, content: bytes) -> None:
    """A file and its hash in the manifest."""
    manifest = json.loads((package / "manifest.json").read_text())
    (package / name).write_bytes(content)
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (package / "manifest.json").write_text(json.dumps(manifest))


def test_wrong_expectations_would_be_noticed(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    scores = bytearray((copy / "program/scores.bin").read_bytes())
    scores[2] ^= 1
    replace_file(copy, "program/scores.bin", bytes(scores))
    assert run_package(copy).mismatches == 1


def test_another_image_gives_other_scores(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    pixels = (copy / "program/image_0.bin").read_bytes()
    replace_file(copy, "program/image_0.bin", bytes(len(pixels)))
    assert run_package(copy).mismatches > 5


def test_verilator_has_nothing_to_say_about_its_verilog(package: Path) -> None:
    assert lint(package / "rtl" / f"{TOP}.v") == []


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("  reg [3:0] fault; always @(posedge clk) fault <= cycles;\n", "WIDTHTRUNC"),
        ("  wire [63:0] fault = cycles[3:0];\n", "WIDTHEXPAND"),
        ("  reg fault; always @* if (start) fault = busy;\n", "LATCH"),
    ],
)
def test_the_waivers_hide_no_width_and_no_latch(package: Path, tmp_path: Path, fault: str, rule: str) -> None:
    source = (package / "rtl" / f"{TOP}.v").read_text()
    before, top = source.split(f"module {TOP}(", 1)
    head, tail = top.split("endmodule", 1)
    broken = tmp_path / f"{TOP}.v"
    broken.write_text(f"{before}module {TOP}({head}{fault}endmodule{tail}")
    assert any(line.startswith(f"%Warning-{rule}") for line in lint(broken))


def test_the_build_script_is_complete_tcl_for_the_boards_part(package: Path) -> None:
    script = (package / "vivado" / "build.tcl").read_text()
    commands = script.split("\n")
    assert f"synth_design -top {TOP} -part xc7z020clg400-1 -mode out_of_context" in commands
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


def test_a_folder_with_other_things_is_not_replaced(
    lenet: tuple[Policy, IntegerNetwork, torch.Tensor], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    policy, network, image = lenet
    with pytest.raises(InputError, match="holds something that is not a package"):
        write_package(tmp_path, policy, TINY, load_board("arty-z7-20"), network, image)
    assert (tmp_path / "thesis.tex").exists()
