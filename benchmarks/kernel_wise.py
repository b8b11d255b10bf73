"""AutoQ's question: what does a width per kernel save over one per layer, at equal accuracy, on the machine?

The agent searches both under several latency budgets. Of all policies that it asked for, those that are the fastest
within so many points of full precision are compared.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from agents import codesign
from common import add_options, markdown, write_report

from codesign.records import read_records
from codesign.tasks import Choices, LiveTask, Problem
from codesign.training import FineTune
from codesign.workload import load_workload
from hardware.accelerator import load_accelerator

GRANULARITIES = {"layer": Choices(lowest_bits=2), "kernel": Choices(lowest_bits=0, group=1)}


def search(options: argparse.Namespace, granularity: str, budget: float) -> Path:
    """Every policy asked for under a budget, with its accuracy: a file of records."""
    choices = GRANULARITIES[granularity]
    folder: Path = options.out / f"{granularity}-{budget}"
    arguments = ["compare", "--network", options.network, "--hardware", options.hardware, "--data", options.data]
    arguments += ["--weights", str(options.weights), "--agents", options.agent, "--seeds", str(options.seeds)]
    arguments += ["--evaluations", str(options.evaluations), "--budget", f"latency={budget}"]
    arguments += ["--lowest-bits", str(choices.lowest_bits)]
    arguments += ["--group", str(choices.group)] if choices.group else []
    arguments += ["--tune-images", str(options.tune_images), "--validation-images", str(options.validation_images)]
    codesign([*arguments, "--test-images", "1", "--out", str(folder), "--resume"], folder.with_suffix(".json"))
    return folder / "evaluations.jsonl"


def run(options: argparse.Namespace, live: LiveTask, granularity: str, points: float, bits: str) -> dict[str, Any]:
    """A policy's figures: the oracle's, those of test images, and those of the machine."""
    task, folder = live.task, options.out / f"{granularity}-{points:g}"
    vector = task.space.parse(bits)
    integers = live.save(task.space.policy(vector), folder.with_suffix(".yaml"), folder.with_suffix(".pt"))
    arguments = ["simulate", "--network", options.network, "--hardware", options.hardware, "--data", options.data]
    arguments += ["--policy", str(folder.with_suffix(".yaml")), "--weights", str(folder.with_suffix(".pt"))]
    ran = codesign([*arguments, "--images", "1", "--test-images", "0"], folder.with_suffix(".json"))
    arguments = ["cost", "--network", options.network, "--hardware", options.hardware]
    priced = codesign([*arguments, "--policy", str(folder.with_suffix(".yaml"))], folder.with_suffix(".cost.json"))
    counts, activations = task.space.histograms(vector)
    counts = counts / counts.sum(1, keepdims=True)
    return {
        "test": integers.accuracy(live.test_images(options.test_images)),
        "cycles": ran["rtl_cycles"],
        "cycle error": ran["rtl_cycles"] - ran["model_cycles"],
        "mismatches": ran["mismatches"],
        "latency": priced["cycles"] / task.costs.full["latency"],
        "energy": priced["energy_j"] / task.costs.full["energy"],
        "size": float(task.costs.ratio("size", vector)),
        "weight bits": float((counts @ np.arange(counts.shape[1])).mean()),
        "pruned": float(counts[:, 0].mean()),
        "activation bits": float(activations.mean()),
    }


def at_accuracy(found: list[tuple[float, Any]], live: LiveTask, accuracy: float) -> tuple[float, float]:
    """Latency and energy, as shares of 8 bits, at a validation accuracy on the front of some policies."""
    costs, space = live.task.costs, live.task.space
    front: list[tuple[float, float, float]] = []
    for latency, record in sorted(found, key=lambda one: (one[0], -one[1]["accuracy"])):
        if not front or record["accuracy"] > front[-1][0]:
            energy = float(costs.ratio("energy", space.parse(record["bits"])))
            front.append((record["accuracy"], latency, energy))
    accuracies, latencies, energies = zip(*front, strict=True)
    return float(np.interp(accuracy, accuracies, latencies)), float(np.interp(accuracy, accuracies, energies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.35, 0.3, 0.25, 0.18])
    parser.add_argument("--points", type=float, nargs="+", default=[0.5, 1, 2, 5])
    defaults = {"hardware": "bitserial-edge", "agent": "autoq", "seeds": 2, "evaluations": 30}
    defaults |= {"tune_images": 256, "validation_images": 500, "test_images": 2000, "out": Path("runs/kernel_wise")}
    add_options(parser, weights=True, **defaults)
    options = parser.parse_args()

    tune = FineTune(images=options.tune_images, validation_images=options.validation_images)
    layers = load_workload(options.network, 0, options.data).traced.layers
    lives, found = {}, {}
    for name, choices in GRANULARITIES.items():
        space = choices.space(options.network, layers)
        problem = Problem(space, load_accelerator(options.hardware), "none", "haq", energies=True)
        lives[name] = LiveTask(problem, options.data, options.weights, tune, 0)
        found[name] = [
            (float(lives[name].task.costs.ratios(space.parse(record["bits"]))["latency"]), record)
            for budget in options.budgets
            for record in read_records(search(options, name, budget))
        ]
    reference = lives["layer"].task.reference_accuracy
    rows, savings = [], []
    for points in options.points:
        figures = {}
        for name in GRANULARITIES:
            good = [one for one in found[name] if one[1]["accuracy"] >= reference - points / 100 - 1e-9]
            if not good:
                continue
            _, record = min(good, key=lambda one: one[0])
            figures[name] = one = run(options, lives[name], name, points, record["bits"])
            one["validation"] = record["accuracy"]
            rows.append(
                {
                    "points allowed": f"{points:g}",
                    "width per": name,
                    "validation": f"{record['accuracy']:.1%}",
                    "test": f"{one['test']:.2%}",
                    "latency": f"{one['latency']:.1%}",
                    "energy": f"{one['energy']:.1%}",
                    "size": f"{one['size']:.1%}",
                    "weight bits": f"{one['weight bits']:.2f}",
                    "kernels pruned": f"{one['pruned']:.1%}",
                    "activation bits": f"{one['activation bits']:.2f}",
                    "cycles on the RTL": f"{one['cycles']:,}",
                    "cycle error": one["cycle error"],
                    "mismatches": one["mismatches"],
                }
            )
        if "kernel" in figures:
            mine = figures["kernel"]
            latency, energy = at_accuracy(found["layer"], lives["layer"], mine["validation"])
            savings.append(
                {
                    "points allowed": f"{points:g}",
                    "validation": f"{mine['validation']:.1%}",
                    "latency, layer": f"{latency:.1%}",
                    "latency, kernel": f"{mine['latency']:.1%}",
                    "change": f"{mine['latency'] / latency - 1:+.1%}",
                    "energy, layer": f"{energy:.1%}",
                    "energy, kernel": f"{mine['energy']:.1%}",
                    "change of energy": f"{mine['energy'] / energy - 1:+.1%}",
                }
            )
    write_report(
        f"kernel_wise_{options.network}",
        f"A width per kernel against a width per layer: {options.network}",
        [
            f"`{options.agent}` on `{options.hardware}`, latency budgets {', '.join(map(str, options.budgets))} of 8 "
            f"bits, {options.seeds} seeds, {options.evaluations} policies each; widths 2 to 8 per layer, 0 to 8 per "
            "kernel. Of all policies asked for, the fastest that is within so many points of full precision "
            f"({reference:.1%}) on {options.validation_images} validation images, after fine-tuning on "
            f"{options.tune_images} images; test accuracy on {options.test_images:,} images in "
            "integer arithmetic. Latency, energy and "
            "size are shares of 8 bits everywhere; bits are means over layers.",
            markdown(pd.DataFrame(rows)),
            "What a width per kernel changes at equal accuracy: beside the width per layer that the front of all "
            "policies asked for has at the same validation accuracy, by linear interpolation.",
            markdown(pd.DataFrame(savings)),
            "AutoQ (Lou et al., ICLR 2020) has -54 % latency and -51 % energy, on ImageNet and other networks, and on "
            "machines of its own. Cycles are those of the simulated RTL; energy is the event model's for the same "
            "schedule, calibrated on netlists of bitserial-tiny; what these policies switch on this machine is in "
            f"`rtl_energy_{options.network}.md`.",
        ],
    )


if __name__ == "__main__":
    main()
