"""Packages for ECP5 boards: what is exported is what was simulated, down to the serial line and the cells."""

import hashlib
import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer

from codesign.boards.ecp5 import SYSTEM, build, constraints
from codesign.boards.package import check_destination, write_package
from codesign.boards.running import read_manifest, run_package
from codesign.commands.common import Result
from codesign.commands.measured import compare_measured
from codesign.driver.line import MEMORY, Line, SerialMemory, SerialRegisters
from codesign.integers import IntegerNetwork
from codesign.workload import load_workload, quantized_network
from hardware.accelerator import Accelerator, load_accelerator
from hardware.board import Ecp5Board, load_board
from hardware.errors import InputError
from policies.policy import Policy
from sim.serial_line import PLL_MODEL, SimulatedLine

ULX3S = load_accelerator("bitserial-ulx3s")
# As fast a line and as small a machine as can be, so that most cycles are not the line's.
SMALL = ULX3S.model_copy(update={"array": load_accelerator("bitserial-tiny").array, "name": "small"})
BOARD = load_board("ulx3s-85f")
QUICK = BOARD.model_copy(update={"baud": 6_250_000, "memory_words": 4096})


def write(directory: Path, accelerator: Accelerator, board: Ecp5Board, images: int = 2, bits=(3, 2), **more) -> Path:
    workload = load_workload("lenet", seed=5)
    policy = Policy.uniform("lenet", workload.traced.layers, *bits)
    network = IntegerNetwork(quantized_network(workload, policy, None))
    write_package(directory, policy, accelerator, board, network, workload.images(images), **more)
    return directory


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet with random weights on the small machine behind the quick line, two images."""
    return write(tmp_path_factory.mktemp("export") / "package", SMALL, QUICK)


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    """A package to change."""
    shutil.copytree(package, tmp_path / "copy")
    return tmp_path / "copy"


def line_of(package: Path, deviation: float = 0.0, verilog: str | None = None) -> SimulatedLine:
    """The package's board; the host's clock may be a little off."""
    settings = json.loads((package / "manifest.json").read_text())["line"]
    text = verilog or (package / f"rtl/{SYSTEM}.v").read_text() + PLL_MODEL.read_text()
    cycles = settings["clock_mhz"] * 1e6 / settings["baud"] * (1 + deviation)
    return SimulatedLine(text, SYSTEM, cycles, settings["clock_mhz"], timeout=0.05)


def run_driver(package: Path, monkeypatch: pytest.MonkeyPatch, before: bytes = b"", **how) -> int:
    """The package's own driver, unmodified, in a world with pyserial; somebody has sent ``before``."""
    settings = json.loads((package / "manifest.json").read_text())["line"]

    def serial(port: str, baud: int, timeout: float) -> SimulatedLine:
        assert (port, baud) == ("/dev/ttyUSB0", settings["baud"])
        line = line_of(package, **how)
        line.write(before)
        return line

    monkeypatch.setitem(sys.modules, "serial", SimpleNamespace(Serial=serial))
    for name in ("machine", "line"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(package / "driver"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    try:
        return runpy.run_path(str(package / "driver/serial_board.py"))["main"](["/dev/ttyUSB0"], package)
    finally:
        for name in ("machine", "line"):
            sys.modules.pop(name, None)


def test_its_program_over_its_line_gives_the_reference_scores_in_the_models_cycles(package: Path) -> None:
    run, manifest = run_package(package), read_manifest(package)
    assert (run.mismatches, run.rtl_cycles) == (0, [manifest["cycles"]] * 2)


def test_the_drivers_own_code_runs_on_the_simulated_board(copy: Path, monkeypatch, capsys) -> None:
    assert run_driver(copy, monkeypatch, deviation=0.01) == 0
    measured, manifest = (json.loads((copy / f"{name}.json").read_text()) for name in ("measured", "manifest"))
    assert [run["cycles"] for run in measured["runs"]] == [manifest["cycles"]] * 2
    assert (measured["wrong_images"], measured["clock_mhz"]) == (0, 50)
    assert "2 of 2 images have the expected scores" in capsys.readouterr().out
    compare_measured(Result("calibrate", None), copy / "measured.json")
    assert "2 images, cycles +0.00% to +0.00% of the model's; 0 images with wrong scores" in capsys.readouterr().out
    measured["wrong_images"], measured["runs"][1]["cycles"] = 1, 2 * manifest["cycles"]
    (copy / "measured.json").write_text(json.dumps(measured))
    with pytest.raises(typer.Exit):
        compare_measured(Result("calibrate", None), copy / "measured.json")
    assert "cycles +0.00% to +100.00% of the model's; 1 images with wrong" in capsys.readouterr().out


@pytest.mark.slow  # a quarter of a second of a board's life
def test_the_driver_recovers_what_somebody_left_on_the_line(copy: Path, monkeypatch) -> None:
    assert run_driver(copy, monkeypatch, before=b"W\0\0\0\x80\xff\xff half a reque") == 0


def test_the_driver_says_what_is_wrong(copy: Path, monkeypatch, capsys, complaint: str) -> None:
    assert run_driver(copy, monkeypatch) == 2
    assert re.search(f"^error: {complaint}", capsys.readouterr().err)


def test_the_driver_says_that_a_network_is_too_large_for_the_board(copy: Path, monkeypatch, capsys) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["line"]["memory_words"] = 10
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert run_driver(copy, monkeypatch) == 2
    assert re.search(r"^error: the network needs \d+ words of memory .*, got 10", capsys.readouterr().err)


def test_registers_and_memory_at_the_end_of_the_line(package: Path) -> None:
    places = {
        one["name"]: one["offset"] for one in json.loads((package / "driver/registers.json").read_text())["registers"]
    }
    with line_of(package) as port:
        line = Line(port)
        registers, memory = SerialRegisters(line), SerialMemory(line, 4096)
        registers.write(places["watchdog"], 0xDEADBEEF)
        assert registers.read(places["watchdog"]) == 0xDEADBEEF
        with pytest.raises(ConnectionError, match="refused address 0xff0: there is no such register"):
            registers.read(0xFF0)
        words = np.random.default_rng(0).integers(1 << 63, size=1100).astype(np.uint64)  # more than a request has
        memory.write(4096 - 1100, words)
        assert (memory.read(4096 - 1100, 1100) == words).all()
        with pytest.raises(ConnectionError, match="does not hold what was written"):
            memory.write(4090, words[:20])
        line.write(MEMORY, b"")
        port.close()
        with pytest.raises((InputError, ValueError)):
            registers.read(0)


def test_a_board_that_is_silent_is_said_so(package: Path) -> None:
    with line_of(package, deviation=0.5) as port, pytest.raises(ConnectionError, match=r"the board gave \d of 5 bytes"):
        SerialRegisters(Line(port)).read(0)


def test_what_cannot_be_is_refused_in_a_sentence(tmp_path: Path) -> None:
    zynq = load_board("arty-z7-20")
    for accelerator, board, bitstream, sentence in (
        (load_accelerator("bitserial-tiny"), BOARD, False, "meant for xc7z020, but ulx3s-85f has LFE5U-85F"),
        (ULX3S, zynq, False, "meant for ecp5-85k, but arty-z7-20 has xc7z020"),
        (load_accelerator("bitserial-tiny"), zynq, True, "no open tools from PyPI build a bitstream for arty-z7-20"),
        (_with_memory(ports=2), BOARD, False, "has ports: 1, latency: 2, .* has 2, 2, 1: change its memory"),
        (_with_memory(latency=3), BOARD, False, "but bitserial-ulx3s has 1, 3, 1"),
        (ULX3S.model_copy(update={"clock_mhz": 51.0}), BOARD, False, "no divider makes 51 MHz of 25 MHz"),
        (ULX3S, BOARD.model_copy(update={"baud": 9_600_000}), False, "50 MHz gives no 9600000 baud"),
        (ULX3S, BOARD.model_copy(update={"memory_words": 5000}), False, "a multiple of 4096 words of memory, got 5000"),
    ):
        with pytest.raises(InputError, match=sentence):
            check_destination(tmp_path / "package", accelerator, board, bitstream)
    with pytest.raises(InputError, match=r"needs .* words of memory, ulx3s-85f has 4,096 on the chip: take fewer bits"):
        write(tmp_path / "package", SMALL, QUICK, bits=(8, 8))
    assert not list(tmp_path.iterdir())


def _with_memory(**changes: int) -> Accelerator:
    return ULX3S.model_copy(update={"memory": ULX3S.memory.model_copy(update=changes)})


def test_constraints_place_every_port_once(package: Path) -> None:
    text = (package / "ecp5/board.lpf").read_text()
    top = (package / f"rtl/{SYSTEM}.v").read_text().split(f"module {SYSTEM}(")[1].split(")")[0]
    assert sorted(re.findall(r'LOCATE COMP "(\w+)" SITE "\w+";', text)) == sorted(top.split(", "))
    several = BOARD.model_copy(update={"pins": BOARD.pins.model_copy(update={"high": ("L2", "B2")})})
    assert 'LOCATE COMP "high[1]" SITE "B2";' in constraints(several)


@pytest.mark.slow  # a quarter of an hour
def test_the_bitstream_is_made_the_same_twice_and_its_cells_answer_as_the_rtl_does(tmp_path: Path) -> None:
    board = BOARD.model_copy(update={"memory_words": 4096})
    package = write(tmp_path / "package", SMALL, board, bitstream=True)
    manifest = read_manifest(package)
    bitstream = (package / manifest["bitstream"]).read_bytes()
    assert manifest["rtl_hash"] in manifest["bitstream"]
    again = build(SMALL, board, fresh=True)
    assert hashlib.sha256(again.bitstream).digest() == hashlib.sha256(bitstream).digest()
    assert again.fmax_mhz >= 50
    assert "MHz" in (package / "ecp5/timing.txt").read_text()
    run = run_package(package, netlist=True)
    assert (run.mismatches, run.rtl_cycles) == (0, [manifest["cycles"]] * 2)


@pytest.mark.slow
def test_a_clock_that_is_not_met_leaves_nothing(tmp_path: Path) -> None:
    fast = SMALL.model_copy(update={"clock_mhz": 300.0})
    with pytest.raises(InputError, match=r"timing is not met: \d+\.\d MHz is the best of 3 placements, 300 are needed"):
        write(tmp_path / "package", fast, BOARD.model_copy(update={"memory_words": 4096}), bitstream=True)
    assert not list(tmp_path.iterdir())
