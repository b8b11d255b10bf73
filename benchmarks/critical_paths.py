"""All paths of a placed accelerator that are too long for a clock: what to shorten next.

`codesign synth` gives the clock and its one path; this gives the slowest path between any two units.
"""

import argparse
import tempfile
from pathlib import Path

import pandas as pd
from common import markdown, write_report

from hardware.accelerator import load_accelerator
from rtl.verilog import TOP, engine_verilog
from sim.paths import Timing
from sim.place import NOT_ROUTED, run_nextpnr, synthesize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hardware", default="bitserial-small")
    parser.add_argument("--mhz", type=float, default=120.0)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--placed-only", action="store_true", help="do not route: minutes, with estimated wires")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        synthesize(work, engine_verilog(load_accelerator(options.hardware)), TOP)
        run_nextpnr(work, options.seed, "--sdf", "paths.sdf", *([NOT_ROUTED] if options.placed_only else []))
        timing = Timing((work / "paths.sdf").read_text(encoding="utf-8"))
    paths, delays = timing.slowest_paths(), timing.input_delays()
    late = sum(1000 / delay < options.mhz for delay in delays)
    long = [path for path in paths if path.mhz < options.mhz]
    rows = [
        {"ns": f"{path.delay_ns:.2f}", "MHz": f"{path.mhz:.0f}", "cells": path.cells, "path": " > ".join(path.signals)}
        for path in long[: options.rows]
    ]
    how = "placed, not routed" if options.placed_only else "routed"
    write_report(
        "critical_paths",
        "Paths that are too long",
        [
            f"{options.hardware} on the LFE5U-85F, speed grade 6, seed {options.seed}, {how}: the slowest path between "
            f"any two units, of those that do not allow {options.mhz:g} MHz. There are {len(long)} such pairs of "
            f"{len(paths)}; the slowest {len(rows)} are shown. {late:,} of {len(delays):,} register inputs are late.",
            markdown(pd.DataFrame(rows)),
        ],
    )


if __name__ == "__main__":
    main()
