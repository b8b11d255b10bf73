"""Simulated clock cycles per second of the built-in accelerators, on the random layers of `codesign calibrate`."""

import argparse

import pandas as pd
from common import markdown, write_report

from codesign.calibrate import calibrate
from hardware.accelerator import load_accelerator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    for name in ("bitserial-tiny", "bitserial-small"):
        accelerator = load_accelerator(name)
        calibrate(accelerator, 1, 0)  # compiles the simulator
        report = calibrate(accelerator, options.samples, options.seed)
        cycles = sum(row["rtl_cycles"] for row in report["rows"])
        rows.append(
            {
                "accelerator": name,
                "binary MACs per cycle": accelerator.peak_binary_macs,
                "cycles": f"{cycles:,}",
                "cycles per second": f"{report['cycles_per_second']:,.0f}",
                "largest cycle error": report["max_abs_cycle_error"],
                "mismatching outputs": report["output_mismatches"],
            }
        )
    write_report(
        "simulation_speed",
        "Simulation speed",
        [
            f"{options.samples} random layers, seed {options.seed}; start of the simulator and loading of memory "
            "included, its compilation not.",
            markdown(pd.DataFrame(rows)),
        ],
    )


if __name__ == "__main__":
    main()
