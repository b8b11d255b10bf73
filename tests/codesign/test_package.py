"""The board package: what is exported is what was simulated, and a changed file is noticed."""

import ast
import hashlib
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from codesign.boards.package import image_readers, write_package
from codesign.boards.running import read_manifest, run_package
from codesign.boards.simulated import SimulatedBuffer, SimulatedRegisters
from codesign.driver.machine import image_words
from codesign.integers import IntegerNetwork
from codesign.program import build_program
from codesign.workload import load_workload, quantized_network
from hardware.accelerator import Accelerator, load_accelerator
from hardware.board import load_board
from hardware.errors import InputError
from policies.policy import Policy
from rtl.verilog import TOP
from sim.lint import lint
from sim.run import MachineError

TINY = load_accelerator("bitserial-tiny")


@pytest.fixture(scope="module")
def lenet() -> tuple[Policy, IntegerNetwork, torch.Tensor]:
    """A LeNet with random weights, its policy, two random images."""
    workload = load_workload("lenet", seed=5)
    policy = Policy.uniform("lenet", workload.traced.layers, 3, 2)
    return policy, IntegerNetwork(quantized_network(workload, policy, None)), workload.images(2)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, lenet: tuple[Policy, IntegerNetwork, torch.Tensor]) -> Path:
    """Its package."""
    policy, network, image = lenet
    directory = tmp_path_factory.mktemp("export") / "package"
    write_package(directory, policy, TINY, load_board("arty-z7-20"), network, image)
    return directory


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    """A package to change."""
    shutil.copytree(package, tmp_path / "copy")
    return tmp_path / "copy"


def test_its_program_on_its_verilog_gives_the_reference_scores_in_the_models_cycles(package: Path) -> None:
    run = run_package(package)
    manifest = read_manifest(package)
    assert (run.mismatches, run.rtl_cycles) == (0, [manifest["cycles"]] * 2)
    assert manifest["program"]["scores"] == 10
    assert sum(layer["cycles"] for layer in manifest["layers"]) == manifest["cycles"]


def replace_file(package: Path, name: str, content: bytes) -> None:
    """A file and its hash in the manifest."""
    manifest = json.loads((package / "manifest.json").read_text())
    (package / name).write_bytes(content)
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (package / "manifest.json").write_text(json.dumps(manifest))


def replace_array(package: Path, name: str, array: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, array)
    replace_file(package, name, file.getvalue())


def test_wrong_expectations_would_be_noticed(copy: Path) -> None:
    scores = np.load(copy / "selftest/scores.npy")
    scores[1, 3] += 1
    replace_array(copy, "selftest/scores.npy", scores)
    assert run_package(copy).mismatches == 1


def test_another_image_gives_other_scores(copy: Path) -> None:
    replace_array(copy, "selftest/images.npy", np.zeros_like(np.load(copy / "selftest/images.npy")))
    assert run_package(copy).mismatches > 10


@pytest.mark.parametrize("kind", ["bit_serial", "bit_fusion"])
def test_the_driver_makes_the_programs_words_of_an_image(
    lenet: tuple[Policy, IntegerNetwork, torch.Tensor], kind: str
) -> None:
    _, network, images = lenet
    program = build_program(network, TINY.model_copy(update={"kind": kind}), tuple(images.shape[1:]))
    loaded = program.with_image(images[:1].double().numpy())
    for reader, (_, tensor) in zip(image_readers(program), program.image_tensors, strict=True):
        words = image_words(images[0].numpy(), reader)
        assert (words == loaded[tensor.base : tensor.base + tensor.words]).all()


def simulated_pynq(package: Path, cycles: int, accelerator: Accelerator = TINY) -> SimpleNamespace:
    """What stands for PYNQ's module: its registers and memory are a simulation of the package's Verilog."""
    memory, cell = SimulatedBuffer.of(0), {"phys_addr": 0x4000_0000, "addr_range": 0x1000}

    def allocate(shape: tuple[int], dtype: type) -> SimulatedBuffer:
        nonlocal memory
        assert dtype is np.uint64
        memory = SimulatedBuffer.of(*shape)
        return memory

    def overlay(bitstream: str) -> SimpleNamespace:
        assert bitstream.startswith(str(package / "vivado/codesign_"))
        return SimpleNamespace(ip_dict={"machine": cell})

    def mmio(address: int, length: int) -> SimulatedRegisters:
        assert (address, length) == tuple(cell.values())
        return SimulatedRegisters(accelerator, (package / f"rtl/{TOP}.v").read_text(), memory, 10 * cycles)

    def bitstream(path: str) -> SimpleNamespace:
        assert path == "openxc7/some.bit"
        return SimpleNamespace(download=lambda: loaded.append((path, clocks.fclk0_mhz)))

    loaded: list[tuple[str, float]] = []
    clocks = SimpleNamespace(fclk0_mhz=50.0)
    return SimpleNamespace(
        allocate=allocate, Overlay=overlay, MMIO=mmio, Clocks=clocks, Bitstream=bitstream, loaded=loaded
    )


def run_driver(package: Path, monkeypatch: pytest.MonkeyPatch, accelerator: Accelerator = TINY, *arguments: str) -> int:
    """The package's own driver, unmodified, in a world with PYNQ."""
    manifest = json.loads((package / "manifest.json").read_text())
    monkeypatch.setitem(sys.modules, "pynq", simulated_pynq(package, manifest["cycles"], accelerator))
    monkeypatch.delitem(sys.modules, "machine", raising=False)
    monkeypatch.syspath_prepend(str(package / "driver"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    try:
        return runpy.run_path(str(package / "driver/zynq.py"))["main"](package, *arguments)
    finally:
        sys.modules.pop("machine", None)


def test_the_drivers_own_code_runs_on_the_simulated_package(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_driver(copy, monkeypatch) == 0
    measured, manifest = (json.loads((copy / f"{name}.json").read_text()) for name in ("measured", "manifest"))
    assert [run["cycles"] for run in measured["runs"]] == [manifest["cycles"]] * 2
    assert (measured["wrong_images"], measured["rtl_hash"]) == (0, manifest["rtl_hash"])
    assert "2 of 2 images have the expected scores" in capsys.readouterr().out


def test_open_tools_get_the_part_and_the_verilog(package: Path) -> None:
    command = ["make", "-n", "-C", str(package / "openxc7"), "CHIPDB=chips", "PRJXRAY_DB_DIR=rays"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    manifest, part = read_manifest(package), load_board("arty-z7-20").vendor_part
    steps = [line for line in said.splitlines() if not line.startswith("make")]
    assert [step.split()[0] for step in steps] == ["yosys", "nextpnr-xilinx", "fasm2frames", "xc7frames2bit"]
    assert f"--part_file rays/zynq7/{part}/part.yaml --part_name {part}" in steps[-1]
    assert steps[-1].endswith(Path(manifest["bitstream"]).name)
    (source,) = re.findall(r"read_verilog (\w+\.v);.* -top (\w+);", steps[0])
    assert f"\nmodule {source[1]}" in (package / "openxc7" / source[0]).read_text()
    assert f"64'h{manifest['rtl_hash']}" in (package / "openxc7" / source[0]).read_text()


def test_the_driver_loads_a_bitstream_without_a_block_design(copy: Path, monkeypatch) -> None:
    assert run_driver(copy, monkeypatch, TINY, "openxc7/some.bit") == 0
    assert sys.modules["pynq"].loaded == [("openxc7/some.bit", TINY.clock_mhz)]
    assert json.loads((copy / "measured.json").read_text())["clock_mhz"] == TINY.clock_mhz


@pytest.mark.slow
def test_the_drivers_own_code_runs_a_resnet_of_mixed_widths(tmp_path: Path, monkeypatch, capsys) -> None:
    small, workload = load_accelerator("bitserial-small"), load_workload("resnet20", seed=1)
    bits = [(2 + number % 4, 3 + number % 3) for number in range(len(workload.traced.layers))]
    policy = Policy.from_bits("resnet20", workload.traced.layers, bits)
    network = IntegerNetwork(quantized_network(workload, policy, None))
    write_package(tmp_path / "package", policy, small, load_board("pynq-z2"), network, workload.images(10))
    assert run_driver(tmp_path / "package", monkeypatch, small) == 0
    measured = json.loads((tmp_path / "package/measured.json").read_text())
    assert {run["cycles"] for run in measured["runs"]} == {measured["expected_cycles"]}
    assert "10 of 10 images have the expected scores" in capsys.readouterr().out


def test_the_driver_says_what_is_wrong(copy: Path, monkeypatch, capsys, complaint: str) -> None:
    assert run_driver(copy, monkeypatch) == 2
    assert re.search(f"^error: {complaint}", capsys.readouterr().err)


def test_simulated_registers_answer_as_the_bus_does(package: Path) -> None:
    memory = SimulatedBuffer.of(512)
    registers = SimulatedRegisters(TINY, (package / f"rtl/{TOP}.v").read_text(), memory, 10_000)
    places = {
        one["name"]: one["offset"] for one in json.loads((package / "driver/registers.json").read_text())["registers"]
    }
    registers.write(places["memory_words"], 512)
    assert registers.read(places["memory_words"]) == 512
    for offset, action in ((0xFF0, registers.read), (places["cycles"], lambda offset: registers.write(offset, 1))):
        with pytest.raises(MachineError, match="with SLVERR"):
            action(offset)
    with pytest.raises(MachineError, match="memory_base says 0x0"):
        registers.write(places["control"], 1)


def test_the_driver_needs_numpy_alone(package: Path) -> None:
    tree = ast.parse((package / "driver/machine.py").read_text())
    imports = {
        one.module if isinstance(one, ast.ImportFrom) else one.names[0].name
        for one in ast.walk(tree)
        if isinstance(one, ast.Import | ast.ImportFrom)
    }
    assert imports - set(sys.stdlib_module_names) == {"numpy"}


def test_the_header_compiles_and_agrees_with_the_map(package: Path, tmp_path: Path) -> None:
    registers = json.loads((package / "driver/registers.json").read_text())
    places = {one["name"]: one["offset"] for one in registers["registers"]}
    lines = [f"static_assert(CODESIGN_{name.upper()} == {offset});" for name, offset in places.items()]
    lines += [f"static_assert(CODESIGN_ERROR_{name} == {code});" for name, code in registers["errors"].items()]
    (tmp_path / "check.cpp").write_text('#include "registers.h"\n' + "\n".join(lines))
    command = ["g++", "-std=c++17", "-Wall", "-Werror", "-fsyntax-only", "-I", str(package / "driver"), "check.cpp"]
    assert subprocess.run(command, cwd=tmp_path).returncode == 0


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
