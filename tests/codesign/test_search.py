"""Search runs: one seed gives one result, also across a SIGKILL."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

CODESIGN = str(Path(sys.executable).with_name("codesign"))
QUICK = (
    "search --agent haq --budget latency=0.4 --episodes 14 --seed 3 --train-epochs 3 --tune-images 128 "
    "--validation-images 120 --test-images 100"
)


def run(directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CODESIGN, *QUICK.split(), "--out", str(directory), *more], capture_output=True, text=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("search") / "whole"
    done = run(directory, "--json", str(directory / "search.json"))
    assert done.returncode == 0, done.stderr
    return directory


def test_it_leaves_what_it_promises(uninterrupted: Path) -> None:
    result = json.loads((uninterrupted / "search.json").read_text())
    rows = pd.read_csv(uninterrupted / "results.csv", dtype={"bits": str})
    assert list(rows.columns) == [
        *("episode", "evaluations", "accuracy", "reward", "cost", "budget_used", "cached", "latency_ratio"),
        *("size_ratio", "bits_ratio", "quantization_ratio", "bits"),
    ]
    assert len(rows) == 14
    assert (rows.budget_used <= 1).all()
    best = rows.sort_values(["reward", "cost"], ascending=[False, True]).iloc[0]
    assert result["cost"] == best.cost
    assert result["validation_accuracy"] == pytest.approx(best.accuracy)
    assert result["evaluations"] == rows.bits.nunique()
    assert result["policy"] == str(uninterrupted / "policy.yaml")
    assert 0 < result["budget_used"] <= 1
    for name in ("learning_curve.png", "bits.png"):
        assert (uninterrupted / name).read_bytes()[:4] == b"\x89PNG"


def test_one_seed_twice_gives_the_same_policy_and_results(uninterrupted: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "again").returncode == 0
    for name in ("policy.yaml", "results.csv", "quantized.pt", "float.pt"):
        assert (tmp_path / "again" / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_killed_and_resumed_it_ends_where_an_uninterrupted_run_ends(uninterrupted: Path, tmp_path: Path) -> None:
    directory = tmp_path / "killed"
    process = subprocess.Popen([CODESIGN, *QUICK.split(), "--out", str(directory)], stderr=subprocess.DEVNULL)
    results = directory / "results.csv"
    while not (results.exists() and len(results.read_text().splitlines()) > 4):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (directory / "policy.yaml").exists()

    refused = run(directory)
    assert refused.returncode == 2
    assert "holds a run already: pass --resume" in refused.stderr
    other = run(directory, "--resume", "--lowest-bits", "3")
    assert other.returncode == 2
    assert "had other settings (lowest_bits 2, now 3)" in other.stderr

    assert run(directory, "--resume").returncode == 0
    for name in ("policy.yaml", "results.csv", "quantized.pt", "float.pt"):
        assert (directory / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_what_was_searched_is_what_is_simulated(uninterrupted: Path, tmp_path: Path) -> None:
    command = [CODESIGN, "simulate", "--policy", str(uninterrupted / "policy.yaml"), "--images", "3"]
    command += ["--weights", str(uninterrupted / "quantized.pt"), "--json", str(tmp_path / "simulate.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    searched = json.loads((uninterrupted / "search.json").read_text())
    simulated = json.loads((tmp_path / "simulate.json").read_text())
    assert simulated["mismatches"] == 0
    assert simulated["rtl_cycles"] == searched["program_cycles"]
    assert 0.5 < searched["cost"] / searched["program_cycles"] < 1  # pools are not the policy's


def test_weights_alone_are_quantized_if_asked_for(tmp_path: Path) -> None:
    more = ("--scheme", "kmeans", "--budget", "size=0.3", "--episodes", "3", "--json", str(tmp_path / "search.json"))
    assert run(tmp_path / "run", *more).returncode == 0
    result = json.loads((tmp_path / "search.json").read_text())
    weights = torch.load(tmp_path / "run" / "weights.pt", weights_only=True)
    assert result["ratios"]["size"] <= 0.3
    assert result["program_cycles"] is None
    for name, (bits, _) in zip(("conv1", "conv2", "fc1", "fc2", "fc3"), result["bits"], strict=True):
        assert len(weights[f"graph_module.{name}.weight"].unique()) <= 2**bits


@pytest.mark.slow
def test_the_machine_is_chosen_together_with_the_bits(tmp_path: Path) -> None:
    more = ("--co-design", "--agent", "greedy", "--episodes", "4", "--json", str(tmp_path / "search.json"))
    assert run(tmp_path / "run", *more).returncode == 0
    result = json.loads((tmp_path / "search.json").read_text())
    found = [str(tmp_path / "run" / name) for name in ("accelerator.yaml", "policy.yaml")]
    for machine, cycles in ((found[0], "chosen"), ("bitserial-tiny", "given")):
        command = [CODESIGN, "cost", "--hardware", machine, "--policy", found[1], "--json", str(tmp_path / cycles)]
        assert subprocess.run(command, capture_output=True).returncode == 0
    prices = {name: json.loads((tmp_path / name).read_text())["cycles"] for name in ("chosen", "given")}
    assert prices["chosen"] == result["cost"] < prices["given"]


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["haq", "releq", "autoq", "greedy", "annealing", "qpl"])
def test_twenty_kills_at_random_moments_lose_nothing(agent: str, tmp_path: Path) -> None:
    more = ("--agent", agent, "--episodes", "300")
    assert run(tmp_path / "whole", *more).returncode == 0
    directory, moments = tmp_path / "killed", np.random.default_rng(0)
    results, kills = directory / "results.csv", 0
    while kills < 20:
        process = subprocess.Popen(
            [CODESIGN, *QUICK.split(), *more, "--out", str(directory), "--resume"], stderr=subprocess.DEVNULL
        )
        lines = len(results.read_text().splitlines()) if results.exists() else 0
        assert lines < 300, "the run ended before it had been killed often enough"
        while process.poll() is None:  # not before it has done something, and then at any moment of an episode or two
            time.sleep(0.01)
            if results.exists() and len(results.read_text().splitlines()) > lines:
                time.sleep(moments.uniform(0, 0.4))
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
    assert run(directory, *more, "--resume").returncode == 0
    for name in ("policy.yaml", "results.csv", "quantized.pt", "float.pt"):
        assert (directory / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
