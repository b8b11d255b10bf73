"""Whole networks as one program each on the RTL: cycles, mismatches, simulated cycles per second."""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import markdown, write_report

from codesign.integers import IntegerNetwork
from codesign.simulate import simulate_network
from codesign.workload import Workload, load_workload, quantized_network
from hardware.accelerator import load_accelerator
from policies.policy import Policy

RUNS = {
    "lenet": ("bitserial-tiny", 20),
    "resnet20": ("bitserial-small", 20),
    "mobilenetv1-cifar": ("bitserial-small", 20),
    "resnet18": ("bitserial-small", 1),
}
"""Accelerator and images."""


def mixed(workload: Workload, seed: int) -> Policy:
    """Random widths of 2 to 8 bits for every layer."""
    rng = np.random.default_rng(seed)
    bits = [(int(w), int(a)) for w, a in rng.integers(2, 9, size=(len(workload.traced.layers), 2))]
    return Policy.from_bits(workload.network, workload.traced.layers, bits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--weights", type=Path, help="of resnet20, with CIFAR-10 in $CODESIGN_DATA; else random ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    for name in options.networks:
        hardware, images = RUNS[name]
        weights = options.weights if name == "resnet20" else None
        workload = load_workload(name, options.seed, weights=weights)
        policy = Policy.uniform(name, workload.traced.layers, 4, 4)
        if name != "resnet18":
            policy = mixed(workload, options.seed)
        network = IntegerNetwork(quantized_network(workload, policy, weights))
        begin = time.perf_counter()
        report = simulate_network(network, workload.images(images), load_accelerator(hardware))
        seconds = time.perf_counter() - begin
        rows.append(
            {
                "network": name,
                "weights": "trained" if weights else "random",
                "accelerator": hardware,
                "bits (W, A)": "4, 4" if name == "resnet18" else "mixed, 2 to 8",
                "instructions": report["instructions"],
                "images": images,
                "cycles per image": f"{report['rtl_cycles']:,}",
                "cycle error": report["rtl_cycles"] - report["model_cycles"],
                "mismatching scores": f"{report['score_mismatches']} of {report['scores']:,}",
                "mismatches in all tensors": report["mismatches"],
                "cycles per second": f"{report['cycles_per_second']:,.0f}",
                "seconds in all": f"{seconds:.0f}",
            }
        )
    write_report(
        "whole_networks",
        "Whole networks on the RTL",
        [
            "Each network is one program: the host writes an image's bit planes and starts the machine, which leaves "
            "the class scores. Scores, and every tensor that the program leaves in memory, are compared with the "
            "integer network. The cycle error is machine minus model. Seconds include building the program, the "
            "comparison and, in a first run, compiling the simulator.",
            markdown(pd.DataFrame(rows)),
        ],
    )


if __name__ == "__main__":
    main()
