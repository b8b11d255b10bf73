"""Simulated clock cycles per second of the built-in accelerators.

First on the random layers of `codesign calibrate`, then on one layer of ResNet-18's size, in turns with the same
machine driven by a bare C++ loop.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from bare_loop import BareLoop
from common import markdown, write_report

from codesign.calibrate import calibrate
from codesign.lowering import lower
from hardware.accelerator import Accelerator, load_accelerator
from hardware.layer import Layer
from hardware.operands import Operands
from sim.job import Job
from sim.run import simulate_jobs

BITS = 4
CHANNELS = {"bitserial-tiny": 16, "bitserial-small": 64}
"""Of the layer, so that it takes between one and six million cycles; 64 are those of ResNet-18's first stage."""


def random_speed(accelerator: Accelerator, samples: int, seed: int) -> dict:
    """A row about random layers."""
    calibrate(accelerator, 1, 0)  # compiles the simulator
    report = calibrate(accelerator, samples, seed)
    cycles = sum(row["rtl_cycles"] for row in report["rows"])
    return {
        "accelerator": accelerator.name,
        "binary MACs per cycle": accelerator.peak_binary_macs,
        "cycles": f"{cycles:,}",
        "cycles per second": f"{report['cycles_per_second']:,.0f}",
        "largest cycle error": report["max_abs_cycle_error"],
        "mismatching outputs": report["output_mismatches"],
    }


def long_job(accelerator: Accelerator, seed: int) -> Job:
    """A 3x3 convolution of 56x56 pixels, three images, 4-bit weights and activations."""
    channels = CHANNELS[accelerator.name]
    layer = Layer("conv", "conv", channels, channels, 56, 56, (3, 3), padding=(1, 1), images=3)
    rng = np.random.default_rng(seed)
    weights = rng.integers(-(1 << BITS - 1), 1 << BITS - 1, size=(channels, channels, 3, 3))
    activations = rng.integers(0, 1 << BITS, size=(layer.images, channels, 56, 56))
    lowered = lower(Operands(layer, weights, activations, (BITS,) * channels, BITS), accelerator)
    return Job(lowered.image, 0, lowered.result_address, lowered.result_words)


def compare(accelerator: Accelerator, runs: int, seed: int) -> dict:
    """A row about the bench and the bare loop, which take turns at one job."""
    job = long_job(accelerator, seed)
    simulate_jobs([job], accelerator)  # compiles the simulator
    bench: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory(prefix="codesign-") as name:
        loop = BareLoop(accelerator, Path(name))
        for _ in range(runs):
            simulated, plain = simulate_jobs([job], accelerator), loop.run(job)
            (outcome,) = simulated.outcomes
            if outcome.error or outcome.cycles != plain.cycles or (outcome.results != plain.results).any():
                raise SystemExit(f"{accelerator.name}: the bench and the bare loop differ")
            bench.append(outcome.cycles / simulated.seconds)
            bare.append(plain.cycles / plain.seconds)
    return {
        "accelerator": accelerator.name,
        "cycles of both": f"{plain.cycles:,}",
        "bench, cycles per second": ", ".join(f"{one:,.0f}" for one in bench),
        "bare loop, cycles per second": ", ".join(f"{one:,.0f}" for one in bare),
        "ratio of medians": f"{statistics.median(bench) / statistics.median(bare):.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3, help="of the bench and of the bare loop, in turns")
    options = parser.parse_args()
    accelerators = [load_accelerator(name) for name in CHANNELS]
    compared = [compare(one, options.runs, options.seed) for one in accelerators]
    drawn = [random_speed(one, options.samples, options.seed) for one in accelerators]
    write_report(
        "simulation_speed",
        "Simulation speed",
        [
            "One 3x3 convolution of 56x56 pixels, three images, 4-bit weights and activations, "
            f"{CHANNELS['bitserial-small']} channels on bitserial-small and {CHANNELS['bitserial-tiny']} on "
            "bitserial-tiny. The bench (memory in SystemVerilog, driven by cocotb) and a bare C++ loop around the same "
            "Verilog (clock, memory and registers in C++; no VPI, no timing; the same optimization) take turns. Both "
            "leave the same results in the same cycles. Each figure is one process: its start and loading of memory "
            "included, compilation not.",
            markdown(pd.DataFrame(compared)),
            f"{options.samples} random layers, seed {options.seed}, in one process.",
            markdown(pd.DataFrame(drawn)),
        ],
    )


if __name__ == "__main__":
    main()
