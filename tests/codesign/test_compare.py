"""Comparisons: regrets against an independent loop over the table, resumed after a SIGKILL, refused where wrong."""

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from codesign.cli import main

CODESIGN = str(Path(sys.executable).with_name("codesign"))
WIDTHS = (2, 3, 5, 8)
AGENTS = ("random", "uniform", "greedy")
COUNTS = (5, 20)


def accuracy(bits: tuple[int, ...]) -> float:
    """Percent; the middle layer needs its bits most."""
    return round(100 - sum(need * 4.0**-w for need, w in zip((60, 300, 90), bits, strict=True)), 4)


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "three.csv"
    rows = [(*bits, accuracy(bits)) for bits in itertools.product(WIDTHS, repeat=3)]
    pd.DataFrame(rows, columns=["w1", "w2", "w3", "top1_percent"]).to_csv(path, index=False)
    return path


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CODESIGN, "compare", *options], capture_output=True, text=True)


def tabular(table: Path, out: Path, *more: str) -> list[str]:
    counts = ",".join(map(str, COUNTS))
    options = ["--table", str(table), "--reward", "releq", "--budget", "bits=0.6", "--agents", ",".join(AGENTS)]
    return [*options, "--seeds", "3", "--evaluations", counts, "--out", str(out), *more]


@pytest.fixture(scope="module")
def compared(accuracies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("compare") / "run"
    done = run(*tabular(accuracies, directory, "--json", str(directory) + ".json"))
    assert done.returncode == 0, done.stderr
    return directory


def timeless(directory: Path) -> pd.DataFrame:
    return pd.read_csv(directory / "comparison.csv", dtype={"bits": str}).drop(columns=["agent_s", "evaluator_s"])


def plain_reward(bits: tuple[int, ...]) -> float:
    """The paper's reward, written once more."""
    x, y = np.mean(bits) / 8, accuracy(bits) / accuracy((8, 8, 8))
    return -1.0 if y < 0.4 else (1 - x**0.2) * y ** (0.4 / y)


def test_regret_is_the_distance_from_brute_force(compared: Path) -> None:
    result = json.loads(Path(f"{compared}.json").read_text())
    fitting = [bits for bits in itertools.product(WIDTHS, repeat=3) if np.mean(bits) <= 0.6 * 8]
    best = max(map(plain_reward, fitting))
    assert len(result["rows"]) == len(AGENTS) * 3 * len(COUNTS)
    for row in result["rows"]:
        bits = tuple(int(digit) for digit in row["bits"].split())
        assert bits in fitting
        assert row["reward"] == pytest.approx(plain_reward(bits))
        assert row["regret"] == pytest.approx(best - plain_reward(bits))
        assert row["found_best"] == (row["regret"] < 1e-9)
        assert row["asked"] <= row["evaluations"]
    assert f"brute force over the {len(fitting)} of 64 policies" in result["regret_against"]
    rows = pd.DataFrame(result["rows"]).set_index(["agent", "seed", "evaluations"]).regret
    assert all(rows[agent, seed, 20] <= rows[agent, seed, 5] for agent in AGENTS for seed in range(3))
    means = {(one["agent"], one["evaluations"]): one["regret"] for one in result["summary"]}
    for agent in AGENTS:
        assert means[agent, 20] == pytest.approx(np.mean([rows[agent, seed, 20] for seed in range(3)]))
    assert means["greedy", 20] < means["uniform", 20]


def test_it_leaves_what_it_promises(compared: Path) -> None:
    assert len(timeless(compared)) == len(AGENTS) * 3 * len(COUNTS)
    for name in ("regret.png", "pareto.png"):
        assert (compared / name).read_bytes()[:4] == b"\x89PNG"


def test_two_runs_are_equal_but_for_times(compared: Path, accuracies: Path, tmp_path: Path) -> None:
    assert run(*tabular(accuracies, tmp_path / "again")).returncode == 0
    pd.testing.assert_frame_equal(timeless(tmp_path / "again"), timeless(compared))


def test_killed_and_resumed_it_ends_in_the_same_table(compared: Path, accuracies: Path, tmp_path: Path) -> None:
    directory = tmp_path / "killed"
    process = subprocess.Popen([CODESIGN, "compare", *tabular(accuracies, directory)], stderr=subprocess.DEVNULL)
    evaluations = directory / "evaluations.jsonl"
    while not evaluations.exists() or evaluations.stat().st_size < 200:
        assert process.poll() is None, "the comparison ended before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with evaluations.open("a") as file:
        file.write('{"bits": "2 2 ')  # a line that the kill cut short
    assert not (directory / "comparison.csv").exists()
    refused = run(*tabular(accuracies, directory))
    assert refused.returncode == 2
    assert "holds a comparison already: pass --resume" in refused.stderr
    assert run(*tabular(accuracies, directory, "--resume")).returncode == 0
    pd.testing.assert_frame_equal(timeless(directory), timeless(compared))


def test_a_network_is_compared_live_and_its_best_policies_are_ready_to_simulate(tmp_path: Path) -> None:
    quick = "--train-epochs 3 --tune-images 128 --validation-images 120 --test-images 100 --budget latency=0.4"
    options = [*quick.split(), "--agents", "uniform,qpl", "--seeds", "1", "--evaluations", "2,4"]
    done = run(*options, "--out", str(tmp_path / "live"), "--json", str(tmp_path / "live.json"))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "live.json").read_text())
    assert {"latency_ratio", "energy_ratio", "size_ratio", "weight_bits", "accuracy"} <= result["rows"][0].keys()
    assert min(row["regret"] for row in result["rows"]) == 0
    for saved in result["policies"]:
        simulate = ["simulate", "--policy", saved["policy"], "--weights", saved["weights"], "--images", "2"]
        done = subprocess.run(
            [CODESIGN, *simulate, "--json", str(tmp_path / "simulate.json")], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        simulated = json.loads((tmp_path / "simulate.json").read_text())
        assert simulated["mismatches"] == 0
        assert simulated["rtl_cycles"] == simulated["model_cycles"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--table none.csv", "cannot read none.csv"),
        ("--table {table} --network lenet", "is a table of 3 layers, but network 'lenet' has 5"),
        ("--table {table} --tune-epochs 2", "leave out --tune-epochs"),
        ("--table {table} --budget bits=0.1", "the lowest reachable is bits=0.25"),
        ("--table {table} --lowest-bits 9", "Invalid value for '--lowest-bits'"),
        ("--table {wrong}", "expected columns w1, w2, ... and one of top1_percent"),
        ("--table {partial}", "holds 2 of the 4 policies of its widths"),
        ("--evaluations 20,10", "expected rising numbers of 1 or more"),
        ("--evaluations many", "expected rising numbers of 1 or more"),
        ("--agents random,gredy", "unknown agent 'gredy': did you mean 'greedy'"),
        ("--reference 0.9", "--reference belongs to a --table"),
        ("--table {table} --agents random,qpl", "agent 'qpl' needs a network to learn on"),
        ("--agents autoqnn", "agent 'autoqnn' chooses schemes, which is another task"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    accuracies: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    says: str,
) -> None:
    wrong, partial = tmp_path / "wrong.csv", tmp_path / "partial.csv"
    wrong.write_text("a,b\n1,2\n")
    partial.write_text("w1,w2,accuracy\n2,2,0.5\n4,4,0.6\n")
    filled = options.format(table=accuracies, wrong=wrong, partial=partial).split()
    monkeypatch.setattr(sys, "argv", ["codesign", "compare", *filled, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
