"""The cycle model against the RTL: random layers, random stalls, whole programs; renews the stored calibrations.

Does what `codesign calibrate --store` does for every built-in accelerator, and for some other seeds; then the same
with stalls, and whole networks at several memory latencies and numbers of ports.
"""

import argparse

import numpy as np
import pandas as pd
from common import markdown, write_report
from whole_networks import mixed

from codesign.calibrate import calibrate, draw_samples, variants
from codesign.cycle_calibration import CycleCalibration, cycle_calibration, store_path
from codesign.integers import IntegerNetwork
from codesign.lowering import lower
from codesign.simulate import simulate_network
from codesign.workload import load_workload, quantized_network
from hardware.accelerator import load_accelerator
from hardware.cycles import layer_cycles
from rtl.verilog import gateware_hash

LAYERS = {
    "bitserial-tiny": (200, (1, 2), (0, 1, 2, 3)),
    "bitserial-small": (200, (1, 2, 4), (0, 1, 2, 3)),
    "bitserial-edge": (20, (1, 2, 4), (0,)),
}
"""Samples, ports and seeds; the first seed's calibration is stored."""
LATENCIES = (0, 200)
STALLED = "bitserial-tiny"
STALLS = (0.05, 0.1, 0.2, 0.5)
PROGRAMS = (("lenet", "bitserial-tiny", (1, 2)), ("resnet20", "bitserial-small", (1, 4)))
PROGRAM_LATENCIES = (0, 16, 32, 200)


def measure_layers(name: str) -> list[dict]:
    """Calibrate an accelerator with each seed and store the first calibration; a row per seed and machine."""
    samples, ports, seeds = LAYERS[name]
    accelerator = load_accelerator(name)
    table = []
    for seed in seeds:
        report = calibrate(accelerator, samples, seed, latencies=LATENCIES, ports=ports)
        calibration = cycle_calibration(accelerator, report, seed, LATENCIES, ports, name)
        clean = not (report["max_abs_cycle_error"] or report["output_mismatches"])
        if seed == seeds[0] and clean:
            calibration.save(store_path(name))
        rows = pd.DataFrame(report["rows"])
        for count, mine in rows.groupby("ports", sort=False):
            errors = (mine["rtl_cycles"] - mine["model_cycles"]).abs()
            table.append(
                {
                    "accelerator": name,
                    "ports": count,
                    "seed": seed,
                    "layers": len(mine),
                    "latencies": f"{mine['latency'].min()} to {mine['latency'].max()}",
                    "cycles of a layer": f"{mine['rtl_cycles'].min():,} to {mine['rtl_cycles'].max():,}",
                    "cycles": f"{mine['rtl_cycles'].sum():,}",
                    "largest cycle error": errors.max(),
                    "mean": f"{errors.mean():g}",
                    "mismatching outputs": mine["mismatches"].sum(),
                }
            )
        print(table[-1], flush=True)
    return table


def measure_stalls(samples: int = 200) -> list[dict]:
    """The distribution of the model's error under random stalls; a row per probability."""
    accelerator = load_accelerator(STALLED)
    drawn = draw_samples(accelerator, samples, 0)
    plain = np.array([layer_cycles(lower(operands, accelerator).schedule, memory) for operands, memory in drawn])
    table = []
    for probability in STALLS:
        report = calibrate(accelerator, samples, 0, stalls=probability)
        errors = report["stalls"]
        rtl = np.array([row["rtl_cycles"] for row in report["rows"]])
        table.append(
            {
                "stalls": probability,
                "hesitation, cycles": f"{errors['hesitation']:.3f}",
                "cycles more than without": f"{rtl.sum() / plain.sum() - 1:.1%}",
                "mean error": f"{errors['mean']:+.2%}",
                "standard deviation": f"{errors['std']:.2%}",
                "5th percentile": f"{errors['p5']:+.2%}",
                "median": f"{errors['p50']:+.2%}",
                "95th percentile": f"{errors['p95']:+.2%}",
                "mean error of the model without stalls": f"{((rtl - plain) / rtl).mean():+.2%}",
                "mismatching outputs": report["output_mismatches"],
            }
        )
        print(table[-1], flush=True)
    return table


def measure_programs() -> list[dict]:
    """Whole networks, one image each, random weights and widths."""
    table = []
    for name, hardware, ports in PROGRAMS:
        workload = load_workload(name, 0)
        network = IntegerNetwork(quantized_network(workload, mixed(workload, 0), None))
        for machine in variants(load_accelerator(hardware), ports):
            for latency in PROGRAM_LATENCIES:
                memory = machine.memory.model_copy(update={"latency": latency})
                report = simulate_network(network, workload.images(1), machine.model_copy(update={"memory": memory}))
                table.append(
                    {
                        "network": name,
                        "accelerator": hardware,
                        "ports": memory.ports,
                        "latency": latency,
                        "instructions": report["instructions"],
                        "cycles": f"{report['rtl_cycles']:,}",
                        "cycle error": report["rtl_cycles"] - report["model_cycles"],
                        "mismatches in all tensors": report["mismatches"],
                    }
                )
                print(table[-1], flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hardware", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    options = parser.parse_args()
    layers = [row for name in options.hardware for row in measure_layers(name)]
    stalls, programs = measure_stalls(), measure_programs()
    stored = [CycleCalibration.from_yaml(store_path(name)) for name in options.hardware]
    write_report(
        "calibration",
        "The cycle model against the RTL",
        [
            "Nothing of the model is fitted, so every layer is held out. Errors are machine minus model. "
            f"Gateware {gateware_hash('bit_serial')}.",
            "## Random layers",
            "Every layer has a memory latency of its own. Outputs are compared with a plain integer convolution. Seed "
            "0 of each accelerator is the calibration that `hardware/calibrations` holds, which `codesign cost` and "
            "`codesign search` look at; one accelerator's is renewed by",
            "\n".join(f"    {calibration.renew}" for calibration in stored),
            "(`--out FOLDER` also leaves the residuals as a table and a plot of model against RTL).",
            markdown(pd.DataFrame(layers)),
            "## Random stalls",
            f"The first 200 layers of seed 0 on {STALLED}, at its own latency, while every channel of its memory "
            "hesitates in each cycle with the probability given (`codesign calibrate --samples 200 --stalls "
            "PROBABILITY`). The model is told the mean hesitation alone, p / (1 - p) cycles, and counts with cycles "
            "per word and a latency that follow from it (`codesign/stalls.py`). Errors are relative to the machine's "
            "cycles, one per layer; positive: the machine is slower.",
            markdown(pd.DataFrame(stalls)),
            "## Whole programs",
            "Random weights, random widths of 2 to 8 bits, one image. `docs/benchmarks/whole_networks.md` has more "
            "networks and trained weights.",
            markdown(pd.DataFrame(programs)),
        ],
    )


if __name__ == "__main__":
    main()
