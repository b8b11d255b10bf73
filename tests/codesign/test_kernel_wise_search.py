"""A kernel-wise search by AutoQ, pruned kernels included: what was priced and searched is what the machine does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codesign.workload import load_workload
from hardware.accelerator import load_accelerator
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.costs import Costs
from policies.policy import Policy
from policies.space import Space

CODESIGN = str(Path(sys.executable).with_name("codesign"))
SEARCH = (
    "search --network lenet --agent autoq --group 1 --lowest-bits 0 --budget latency=0.5 --episodes 4 --seed 1 "
    "--hardware bitserial-tiny --train-epochs 2 --tune-images 128 --validation-images 120 --test-images 100"
)


def run(command: str, *more: str) -> None:
    done = subprocess.run([CODESIGN, *command.split(), *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kernel_wise") / "run"
    run(SEARCH, "--out", str(directory), "--json", str(directory / "search.json"))
    return directory


def test_it_finds_a_policy_of_single_kernels_within_the_budget(searched: Path) -> None:
    result = json.loads((searched / "search.json").read_text())
    layers = load_workload("lenet", 0).traced.layers
    widths = [entry.weights.bits for entry in Policy.load(searched / "policy.yaml", "lenet", layers).layers]
    assert [len(kernels) for kernels in widths if isinstance(kernels, tuple)] == [
        layer.out_channels for layer in layers
    ]
    assert len({width for kernels in widths if isinstance(kernels, tuple) for width in kernels}) > 1
    assert result["budget_used"] <= 1
    assert result["evaluations"] == 4


def test_what_it_finds_runs_on_the_machine_as_it_was_computed(searched: Path, tmp_path: Path) -> None:
    command = "simulate --network lenet --images 2 --hardware bitserial-tiny"
    report = tmp_path / "simulate.json"
    files = ("--policy", searched / "policy.yaml", "--weights", searched / "quantized.pt", "--json", report)
    run(command, *map(str, files))
    simulated = json.loads(report.read_text())
    assert simulated["mismatches"] == 0
    assert simulated["rtl_cycles"] == simulated["model_cycles"]
    assert simulated["rtl_cycles"] == json.loads((searched / "search.json").read_text())["program_cycles"]


@pytest.mark.parametrize("hardware", ["bitserial-tiny", "bitserial-small"])
def test_the_search_prices_single_kernels_close_to_their_schedule(hardware: str) -> None:
    layers = [
        Layer("a", "conv", 3, 24, 10, 10, (3, 3), (1, 1), (1, 1)),
        Layer("b", "conv", 24, 40, 10, 10, (3, 3), (2, 2), (1, 1)),
        Layer("c", "linear", 1000, 10),
    ]
    space = Space("net", layers, weight_widths=range(9), activation_widths=range(1, 9), group=1)
    oracle = Oracle(layers, load_accelerator(hardware))
    costs, generator = Costs(space, oracle), np.random.default_rng(0)
    errors = []
    for _ in range(20):
        vector = np.array([generator.choice(variable.widths) for variable in space.variables])
        entries = space.policy(vector).layers
        exact = oracle.exact(
            [np.atleast_1d(entry.weights.bits).tolist() for entry in entries],
            [entry.activations.bits for entry in entries],
        )
        errors.append(costs.cost("latency", vector) / exact - 1)
    assert np.abs(errors).mean() < 0.05
    assert np.abs(errors).max() < 0.1  # a small network: its layers have two to twenty row tiles
