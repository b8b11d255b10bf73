"""The command line: bad input is one sentence and exit code 2, results are complete, nothing is half-written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import sim.toolchain
from codesign.cli import main
from codesign.cycle_calibration import CycleCalibration
from codesign.networks import create_network
from codesign.tracing import trace
from codesign.workload import QUANTIZED
from hardware.accelerator import load_accelerator
from hardware.cost import cost_table
from hardware.cycles import layer_cycles
from policies.policy import Policy
from rtl.verilog import TOP, rtl_hash

COMMON_KEYS = {"command", "version", "hardware", "rtl_hash", "seed", "wall_s"}
LENET = trace(create_network("lenet", 0), (1, 8, 8), signed_input=False)


class Cli:
    """Runs commands in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], directory: Path):
        self.monkeypatch, self.capsys, self.directory = monkeypatch, capsys, directory
        monkeypatch.chdir(directory)

    def __call__(self, command: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        self.monkeypatch.setattr(sys, "argv", ["codesign", *command.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        output = self.capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    def json(self, command: str) -> dict:
        """The ``--json`` file of a command that must succeed."""
        code, _, err = self(f"{command} --json result.json")
        assert code == 0, err
        return json.loads((self.directory / "result.json").read_text())


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    return Cli(monkeypatch, capsys, tmp_path)


def bad_files(directory: Path) -> None:
    """The files that the table below names."""
    good = Policy.uniform("lenet", LENET.layers, 4, 4).as_yaml()
    np.save(directory / "few.npy", np.ones((4, 8, 8)))
    (directory / "short.yaml").write_text("\n".join(good.splitlines()[:-1]) + "\n")
    (directory / "nine.yaml").write_text(good.replace("weights: {bits: 4", "weights: {bits: 9", 1))
    (directory / "field.yaml").write_text(good.replace("scheme", "skeem", 1))
    (directory / "kernels.yaml").write_text(good.replace("weights: {bits: 4", "weights: {bits: [4, 4]", 1))
    (directory / "nothing.yaml").write_text("layers: [")
    source = Path(sys.modules["hardware.accelerator"].__file__ or "").parent / "presets" / "bitserial-tiny.yaml"
    (directory / "machine.yaml").write_text(source.read_text().replace("dm: 2", "dm: 3"))
    network = create_network("lenet", 0)
    torch.save(network.state_dict(), directory / "whole.pt")
    (directory / "truncated.pt").write_bytes((directory / "whole.pt").read_bytes()[:5000])
    torch.save({"other.weight": torch.zeros(3)}, directory / "other.pt")
    torch.save({3: torch.zeros(3)}, directory / "keys.pt")
    torch.save({name: 0 / (0 * value) for name, value in network.state_dict().items()}, directory / "nan.pt")
    torch.save({"format": QUANTIZED, "policy": "", "largest_value": 1.0, "state": {}}, directory / "quantized.pt")
    torch.save({"format": "codesign-quantized-1", "policy": "", "state": {}}, directory / "older.pt")
    (directory / "few.py").write_text(
        "from torch import nn\n\n\ndef scores():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))\n"
    )
    torch.save({"1.weight": torch.zeros(9, 64), "1.bias": torch.zeros(9)}, directory / "few.pt")
    (directory / "named.yaml").write_text(source.read_text().replace("name: bitserial-tiny", "name: a$b[/c]"))
    (directory / "date.yaml").write_text("name: 2024-99-99")
    board = (source.parent.parent / "boards" / "arty-z7-20.yaml").read_text()
    (directory / "board.yaml").write_text(
        board.replace("name: arty-z7-20", "name: mine").replace("xc7z020,", "xcvu9p,")
    )
    (directory / "website").mkdir()
    (directory / "website" / "manifest.json").write_text('{"name": "my site"}')
    (directory / "website" / "index.html").write_text("<html></html>")
    (directory / "file").write_text("in the way")
    (directory / "broken.onnx").write_text("no model")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("cost --bits 4 --network lennet", "unknown network 'lennet': did you mean 'lenet'"),
        (
            "cost --bits 4 --hardware bitserial-tinny",
            "unknown hardware 'bitserial-tinny': did you mean 'bitserial-tiny'",
        ),
        ("search --agent hak", "unknown agent 'hak': did you mean 'haq'"),
        ("search --data digit", "unknown data set 'digit': did you mean 'digits'"),
        ("export --bits 4 --board arty --out package", "unknown board 'arty': did you mean 'arty-z7-20'"),
        ("export --bits 4 --out package --bitstream", "no open tools from PyPI build a bitstream for arty-z7-20"),
        ("export --bits 4 --qonnx net.onnx --bitstream", "--bitstream is part of a package: pass --out, too"),
        ("simulate --bits 4 --netlist", "--netlist is about the cells of a package's bitstream: pass --package, too"),
        ("calibrate --measured date.yaml", "date.yaml is not"),
        ("calibrate --measured machine.yaml", "machine.yaml is not a valid Measured: network: Field required"),
        ("calibrate --measured machine.yaml --energy", "--measured compares what a board did and simulates nothing"),
        ("cost --policy short.yaml", "expected 5 layers in network order, got 4 (missing ['fc3']"),
        ("cost --policy nine.yaml", "layers.0.weights.bits"),
        ("cost --policy field.yaml", "layers.0.weights.skeem: Extra inputs are not permitted"),
        ("cost --policy kernels.yaml", "layer 'conv1' has 8 kernels but the policy gives 2 widths"),
        ("cost --policy nothing.yaml", "nothing.yaml is not YAML"),
        ("cost --policy absent.yaml", "cannot read absent.yaml"),
        ("cost --network resnet20 --policy short.yaml", "the policy is for network 'lenet', not for 'resnet20'"),
        ("cost", "expected exactly one of --policy and --bits"),
        ("simulate --bits 9", "--bits '9': expected N or W,A"),
        ("simulate --bits 4,0", "--bits '4,0': expected N or W,A"),
        ("simulate --bits four", "--bits 'four': expected N or W,A"),
        ("simulate --bits 4 --layers conv3", "unknown layer 'conv3': did you mean"),
        ("simulate --bits 4 --weights truncated.pt", "cannot read weights from truncated.pt"),
        ("simulate --bits 4 --weights other.pt", "the weights in other.pt are not this network's"),
        ("simulate --bits 4 --weights absent.pt", "no weights file at absent.pt"),
        ("simulate --bits 4 --weights whole.pt --images 9999", "digits has 360 test images, asked for 9999"),
        ("simulate --package file", "file is not a complete package"),
        ("simulate --package file --bits 4", "--package brings its own network"),
        ("simulate --bits 4 --weights nan.pt", "hold numbers that are not finite (conv1.weight)"),
        ("simulate --bits 4 --weights keys.pt", "expected a state dict"),
        (
            "simulate --bits 4 --weights older.pt",
            "older.pt is a codesign-quantized-1 file, expected codesign-quantized-2",
        ),
        ("search --weights quantized.pt", "quantized.pt holds a network quantized under a policy: pass float weights"),
        ("search --network few:scores --data digits --weights few.pt", "gives 9 scores, but digits has 10 classes"),
        ("export --bits 4 --out file", "cannot write file"),
        ("export --bits 4", "expected --out for a package, --qonnx for a QONNX file, or both"),
        ("export --bits 4 --out package --exact", "--exact is about the QONNX file: pass --qonnx, too."),
        ("export --bits 4 --qonnx lenet.pb", "--qonnx lenet.pb: expected a name that ends in .onnx"),
        ("export --bits 4 --qonnx file/lenet.onnx", "cannot write file/lenet.onnx"),
        ("export --bits 9 --qonnx lenet.onnx", "--bits '9': expected N or W,A"),
        ("cost --network absent.onnx", "no QONNX file at absent.onnx"),
        ("cost --network broken.onnx", "cannot read broken.onnx"),
        ("search --network broken.onnx --data digits --out run", "cannot read broken.onnx"),
        ("export --bits 4 --out website", "website holds something that is not a package"),
        ("export --bits 4 --out package --board board.yaml", "is meant for xc7z020, but mine has xcvu9p"),
        ("cost --bits 4 --hardware named.yaml", "name: String should match pattern"),
        ("cost --bits 4 --hardware date.yaml", "date.yaml is not YAML"),
        ("cost --bits 4 --hardware machine.yaml", "array: Value error, dm must be a power of two, 2 to 64"),
        ("cost --bits 4 --json file/result.json", "cannot write file/result.json"),
        ("cost --bits 4 --lut file/table.npy", "cannot write file/table.npy"),
        ("search --out file/run", "cannot write file/run"),
        ("export --bits 4 --out file/package", "cannot write file/package"),
        ("search --lut none.npy --out run", "cannot read none.npy"),
        ("search --lut few.npy --out run", "few.npy: expected a cost table of shape (5, 8, 8)"),
        ("search --budget latency=0.01", "cannot be reached: the lowest reachable is latency=0."),
        ("search --budget speed=0.5", "unknown budget metric 'speed'"),
        ("search --budget latency=many", "expected a number for 'latency', got 'many'"),
        ("search --scheme kmean", "unknown scheme 'kmean': did you mean 'kmeans'"),
        ("search --scheme wrpn --lowest-bits 1", "--scheme wrpn takes one width per layer, of at least 2 bits"),
        ("search --scheme kmeans --group 1", "--scheme kmeans takes one width per layer"),
        ("search --co-design --lut few.npy", "leave out one of them"),
        ("search --reward haqq", "unknown reward 'haqq': did you mean 'haq'"),
        ("search --reward autoq:area=0.5 --out run", "the reward counts area"),
        ("search --network resnet20 --data cifar10 --out run", "no CIFAR-10 in"),
        ("search --network resnet18 --train-epochs 1 --out run", "imagenet is an image format without images here"),
        ("calibrate --samples 0", "expected at least 1 sample"),
        ("calibrate --latencies 5", "--latencies '5': expected LOW,HIGH, for example 0,200"),
        ("calibrate --latencies few,many", "--latencies 'few,many': expected LOW,HIGH"),
        ("calibrate --latencies 200,0", "expected two latencies, the lower one first"),
        ("calibrate --ports one", "--ports 'one': expected numbers of ports, for example 1,2,4"),
        ("calibrate --ports 3", "a machine has 1, 2 or 4 memory ports, got 3"),
        ("calibrate --ports 4", "none of --ports 4 divides the 2x64x2 array of bitserial-tiny"),
        ("calibrate --stalls 1", "expected a probability of stalls of 0.002 to 0.9, got 1.0"),
        ("calibrate --stalls 0.5 --store", "measured without stalls: leave out --stalls or --store"),
        ("calibrate --out file/run", "cannot write file/run"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, sentence: str
) -> None:
    bad_files(tmp_path)
    monkeypatch.setenv("CODESIGN_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = cli(command)
    assert code == 2
    assert err.startswith("codesign: ")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before, "something was left behind"


def test_a_missing_tool_names_its_package(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path / "cache"))
    sim.toolchain.find_verilator.cache_clear()
    code, _, err = cli("calibrate --samples 1")
    sim.toolchain.find_verilator.cache_clear()
    assert code == 2
    assert (
        err == "codesign: g++ was not found, and Verilator needs it: install the package g++ (apt-get install g++).\n"
    )


def test_the_lowest_reachable_budget_that_it_names_is_reachable(cli: Cli) -> None:
    _, _, err = cli("search --budget latency=0.01")
    named = err.split("the lowest reachable is ")[1].split(" ")[0]
    quick = "--episodes 1 --train-epochs 1 --tune-epochs 0 --out run"
    assert cli(f"search --budget {named} {quick}")[0] == 0


def test_list_names_everything_that_is_built_in(cli: Cli) -> None:
    result = cli.json("list")
    assert result.keys() >= COMMON_KEYS
    assert {"lenet", "resnet20"} <= set(result["networks"])
    assert {"bitserial-tiny", "bitserial-small"} <= set(result["accelerators"])
    assert {"haq", "random", "uniform"} <= set(result["agents"])
    assert result["boards"] == ["arty-z7-20", "microzed-7020", "pynq-z1", "pynq-z2", "ulx3s-85f", "zedboard"]
    assert "bitfusion-published-edge" in result["published machines"]


def test_cost_agrees_with_the_table_that_it_writes(cli: Cli, tmp_path: Path) -> None:
    result = cli.json("cost --bits 3,5 --lut table.npy")
    table = np.load(tmp_path / "table.npy")
    assert table.shape == (5, 8, 8)
    np.testing.assert_array_equal(table, cost_table(LENET.layers, load_accelerator("bitserial-tiny")))
    assert [row["cycles"] for row in result["layers"]] == table[:, 2, 4].tolist()
    assert result["cycles"] == table[:, 2, 4].sum()
    assert result["latency_s"] == pytest.approx(result["cycles"] / 100e6)
    assert result["energy_j"] == pytest.approx(sum(row["energy_j"] for row in result["layers"]))
    assert result["energy"]["low"] < result["energy_j"] < result["energy"]["high"]
    assert result["energy"]["basis"] == "switching measured on bitserial-tiny"
    assert result.keys() >= COMMON_KEYS | {"resources"}
    assert result["rtl_hash"] == rtl_hash(load_accelerator("bitserial-tiny"))


def test_search_prices_by_the_table_it_is_given(cli: Cli, tmp_path: Path) -> None:
    quick = "search --episodes 1 --train-epochs 1 --tune-epochs 0 --budget latency=0.5"
    table = np.ones((5, 8, 8)) * np.arange(1, 9)[:, None]  # 40 at 8 bits; activations are free
    np.save(tmp_path / "theirs.npy", table.astype(np.int64))
    result = cli.json(f"{quick} --lut theirs.npy --out theirs")
    assert result["lut"] == "theirs.npy"
    assert result["cost"] == sum(w for w, _ in result["bits"]) <= 20
    np.save(tmp_path / "theirs.npy", table + 1)
    code, _, err = cli(f"{quick} --lut theirs.npy --out theirs --resume")
    assert code == 2
    assert "had other settings (lut " in err
    cli("cost --bits 8 --lut ours.npy")
    ours, by_file = (cli.json(f"{quick} --out {name}") for name in ("ours", "file --lut ours.npy"))
    assert ours["cost"] == by_file["cost"]
    assert ours["lut"] is None


def test_cost_of_a_batch_is_that_of_the_larger_layers(cli: Cli) -> None:
    one, four = (cli.json(f"cost --bits 4 --batch {count}")["cycles"] for count in (1, 4))
    assert 3 * one < four < 4 * one


def test_kernel_wise_policies_are_priced_and_pruned_kernels_cost_nothing(cli: Cli, tmp_path: Path) -> None:
    text = Policy.uniform("lenet", LENET.layers, 4, 4).as_yaml()
    (tmp_path / "all.yaml").write_text(text)
    (tmp_path / "half.yaml").write_text(
        text.replace("weights: {bits: 4", "weights: {bits: [4, 0, 4, 0, 4, 0, 4, 0]", 1)
    )
    whole, half = (cli.json(f"cost --policy {name}.yaml")["layers"][0]["cycles"] for name in ("all", "half"))
    assert half < 0.6 * whole


def test_simulate_confirms_a_random_network_and_says_that_it_is_random(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("simulate --bits 2,3 --images 2 --seed 3 --json result.json")
    assert code == 0
    assert "mismatching outputs 0" in out
    assert "weights are random (seed 3)" in err
    result = json.loads((tmp_path / "result.json").read_text())
    assert result.keys() >= COMMON_KEYS | {"cycles_per_second"}
    assert result["mismatches"] == 0
    assert result["rtl_cycles"] == result["model_cycles"] == sum(row["model_cycles"] for row in result["layers"])
    assert (result["instructions"], result["scores"], result["score_mismatches"]) == (7, 20, 0)
    outputs = {row["name"]: row["outputs"] for row in result["layers"]}
    layers = {"conv1": 8 * 64, "conv2": 16 * 16, "fc1": 48, "fc2": 32, "fc3": 10}
    assert outputs == {name: 2 * count for name, count in (layers | {"max_pool2d": 128, "max_pool2d_1": 64}).items()}


def test_simulate_runs_kernel_wise_and_pruned_layers(cli: Cli, tmp_path: Path) -> None:
    text = Policy.uniform("lenet", LENET.layers, 4, 4).as_yaml()
    text = text.replace("weights: {bits: 4", "weights: {bits: [4, 0, 3, 0, 4, 2, 8, 1]", 1)
    head, tail = text.split("name: fc2, weights: {bits: 4")
    (tmp_path / "policy.yaml").write_text(f"{head}name: fc2, weights: {{bits: 0{tail}")
    result = cli.json("simulate --policy policy.yaml")
    assert result["mismatches"] == 0
    assert result["rtl_cycles"] == result["model_cycles"]
    cycles = {row["name"]: row["model_cycles"] for row in result["layers"]}
    whole = {row["name"]: row["model_cycles"] for row in cli.json("simulate --bits 4")["layers"]}
    # Pruned: its instruction is still read, and its biases requantized, row tile by row tile.
    assert cycles["fc2"] < 0.8 * whole["fc2"]


def test_simulate_selects_layers_and_writes_waves(cli: Cli, tmp_path: Path) -> None:
    result = cli.json("simulate --bits 2 --layers fc3,fc2 --waves waves.vcd")
    assert [row["name"] for row in result["layers"]] == ["fc2", "fc3"]
    assert (tmp_path / "waves.vcd").read_text().count("$var") > 100


def test_calibrate_reports_every_sample(cli: Cli) -> None:
    result = cli.json("calibrate --samples 5 --seed 11")
    assert result.keys() >= COMMON_KEYS
    assert (result["max_abs_cycle_error"], result["output_mismatches"], result["samples"]) == (0, 0, 5)
    assert len(result["rows"]) == 5
    assert all(row.keys() >= {"layer", "bits", "rtl_cycles", "model_cycles"} for row in result["rows"])


def test_calibrate_leaves_residuals_plot_and_calibration(cli: Cli, tmp_path: Path) -> None:
    result = cli.json("calibrate --samples 6 --seed 3 --latencies 0,50 --out run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *("calibration.yaml", "cycles.png", "residuals.csv")
    ]
    table = pd.read_csv(tmp_path / "run" / "residuals.csv")
    assert table["rtl_cycles"].tolist() == [row["rtl_cycles"] for row in result["rows"]]
    assert table["latency"].tolist() == [row["latency"] for row in result["rows"]]
    assert not table["error"].any()
    assert (tmp_path / "run" / "cycles.png").read_bytes()[:4] == b"\x89PNG"
    calibration = CycleCalibration.from_yaml(tmp_path / "run" / "calibration.yaml")
    assert (calibration.samples, calibration.latencies, calibration.max_abs_cycle_error) == (6, (0, 50), 0)


def test_calibrate_says_which_ports_do_not_fit(cli: Cli) -> None:
    code, _, err = cli("calibrate --samples 1 --ports 1,4")
    assert code == 0
    assert "memory ports must divide the array, so bitserial-tiny is measured with 1 alone" in err


def test_calibrate_under_stalls_reports_a_distribution(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("calibrate --samples 8 --stalls 0.3 --out run")
    assert code == 0
    assert "relative error, machine minus model: mean " in out
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["cycles.png", "residuals.csv", "stalls.png"]


def test_a_stored_calibration_is_used_until_the_gateware_changes(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("codesign.cycle_calibration.FOLDER", tmp_path / "store")
    code, _, err = cli("cost --bits 4")
    assert (code, "not calibrated: " in err) == (0, True)
    assert cli("calibrate --samples 3 --seed 5 --store")[0] == 0
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["cycles-bitserial-tiny.yaml"]
    assert cli("cost --bits 4")[::2] == (0, "")
    monkeypatch.setattr("codesign.cycle_calibration.gateware_hash", lambda kind: "0123456789abcdef")
    for command in ("cost --bits 4", "search --out run"):
        code, _, err = cli(command)
        assert code == 2
        assert "the calibration of bitserial-tiny was measured on gateware " in err
        assert "renew it with `codesign calibrate --hardware bitserial-tiny --samples 3 --seed 5 --store`" in err
    assert cli("calibrate --samples 3 --seed 5 --store")[0] == 0
    assert cli("cost --bits 4")[::2] == (0, "")


def test_a_calibration_that_found_an_error_is_not_stored(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("codesign.cycle_calibration.FOLDER", tmp_path / "store")
    monkeypatch.setattr("codesign.execution.layer_cycles", lambda plan, memory: layer_cycles(plan, memory) + 1)
    code, out, err = cli("calibrate --samples 2 --store --out run")
    assert code == 1
    assert "largest cycle error 1" in out
    assert "the calibration is not stored" in err
    assert not (tmp_path / "store").exists()
    assert CycleCalibration.from_yaml(tmp_path / "run" / "calibration.yaml").max_abs_cycle_error == 1


def test_somebody_elses_accelerator_is_priced_with_a_note(cli: Cli, tmp_path: Path) -> None:
    built_in = load_accelerator("bitserial-tiny")
    changed = built_in.model_copy(update={"clock_mhz": 50.0})  # even under a built-in name
    (tmp_path / "mine.yaml").write_text(json.dumps(changed.model_dump()))
    code, _, err = cli("cost --bits 4 --hardware mine.yaml")
    assert code == 0
    assert err.startswith("not calibrated: ")
    assert len(err.splitlines()) == 1
    code, _, err = cli("calibrate --samples 1 --hardware mine.yaml --store")
    assert code == 2
    assert "only built-in accelerators have a calibration in the store, and mine.yaml is none: use --out FOLDER" in err


def test_export_writes_a_package_that_simulate_confirms(cli: Cli, tmp_path: Path) -> None:
    exported = cli.json("export --bits 2,4 --out package")
    assert exported["manifest"]["weights_sha256"] is None
    result = cli.json("simulate --package package")
    assert (result["mismatches"], result["rtl_cycles"]) == (0, exported["manifest"]["cycles"])
    shutil.copy(tmp_path / f"package/rtl/{TOP}.v", tmp_path / "kept.v")
    cli.json("export --bits 3,4 --out package")  # an older package is replaced
    assert (tmp_path / f"package/rtl/{TOP}.v").read_text() == (tmp_path / "kept.v").read_text()
    assert "bits: 3" in (tmp_path / "package/policy.yaml").read_text()


def test_a_qonnx_file_of_the_machines_integers_is_for_executing(cli: Cli) -> None:
    assert cli.json("export --bits 3,4 --qonnx lenet.onnx --exact")["qonnx"] == "lenet.onnx"
    code, _, err = cli("cost --network lenet.onnx")
    assert code == 2
    assert "it was exported with --exact" in err


def test_a_qonnx_file_is_a_network_like_any_other(cli: Cli, tmp_path: Path) -> None:
    exported = cli.json("export --bits 3,4 --seed 5 --qonnx lenet.onnx")
    assert (exported["out"], exported["manifest"], exported["qonnx"]) == (None, None, "lenet.onnx")
    assert cli.json("cost --network lenet.onnx")["cycles"] == result_cycles(cli, "3,4")
    original = cli.json("simulate --bits 3,4 --seed 5 --images 2")
    result = cli.json("simulate --network lenet.onnx --images 2")
    assert (result["mismatches"], result["score_mismatches"]) == (0, 0)
    assert result["rtl_cycles"] == original["rtl_cycles"]
    (tmp_path / "policy.yaml").write_text(Policy.uniform("lenet", LENET.layers, 3, 4).as_yaml())
    assert cli.json("cost --network lenet.onnx --policy policy.yaml")["cycles"] == result_cycles(cli, "3,4")
    assert cli.json("cost --network lenet.onnx --bits 2")["cycles"] == result_cycles(cli, "2")


def result_cycles(cli: Cli, bits: str) -> int:
    """Cycles of the built-in LeNet."""
    return cli.json(f"cost --bits {bits}")["cycles"]


def test_brevitas_network_runs_on_the_rtl(cli: Cli) -> None:
    path = Path(__file__).parent / "data" / "brevitas_digits.onnx"
    result = cli.json(f"simulate --network {path} --data digits --images 2")
    assert (result["mismatches"], result["score_mismatches"]) == (0, 0)
    assert result["rtl_cycles"] == result["model_cycles"]
    assert result["accuracy"] > 0.97
    packed = cli.json(f"export --network {path} --data digits --out package --qonnx again.onnx")
    assert len(packed["manifest"]["weights_sha256"]) == 64
    assert cli.json("simulate --network again.onnx --data digits --test-images 50")["mismatches"] == 0


def test_somebody_elses_network_is_found_in_the_current_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n\n\ndef small():\n    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(),"
        " nn.Linear(108, 10))\n"
    )
    result = cli.json("simulate --network my_networks:small --data digits --bits 3")
    assert [row["name"] for row in result["layers"]] == ["0", "3"]
    assert result["mismatches"] == 0
    code, _, err = cli("cost --network my_networks:small --bits 3")
    assert code == 2
    assert "pass --data" in err


def test_the_installed_command_starts(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("codesign")), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("codesign 0.")
