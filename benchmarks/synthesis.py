"""Resources and clock of the built-in accelerators: Yosys for the xc7z020, Yosys and nextpnr for the ECP5.

python benchmarks/synthesis.py [SEEDS [ACCELERATOR ...]]: place-and-route runs (default 5) and the accelerators to place
(default bitserial-tiny and bitserial-small). What `codesign synth` has left in the cache is not measured again.
"""

import sys

import pandas as pd
from common import markdown, write_report

from codesign.synth import amount, path_summary, synthesize_accelerator
from hardware.accelerator import accelerator_names, load_accelerator
from hardware.device import DEVICES
from sim.synthesis import COUNTING


def row(name: str, report: dict) -> dict[str, str]:
    """What both tables show of a report."""
    return {
        "accelerator": name,
        "LUT": amount(report["lut"]),
        "FF": amount(report["ff"]),
        "BRAM36": amount(report["bram36"]),
        "DSP": amount(report["dsp"]),
        "fits": "yes" if report["fits"] else "no",
        "LUT per binary MAC": f"{report['lut_per_binary_mac']:.2f}",
        "array: LUT": amount(report["array"]["lut"]),
        "array: LUT per binary MAC": f"{report['array']['lut_per_binary_mac']:.2f}",
    }


def main() -> None:
    """Write ``docs/benchmarks/synthesis.md``."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    placed_names = sys.argv[2:] or ["bitserial-tiny", "bitserial-small"]
    synthesised, placed, paths, tools = [], [], [], {}
    for name in accelerator_names():
        accelerator = load_accelerator(name)
        if accelerator.device == "xc7z020":
            report = synthesize_accelerator(accelerator, "xc7z020")
            synthesised.append(row(name, report))
    for name in placed_names:
        report = synthesize_accelerator(load_accelerator(name), "ecp5-85k", seeds)
        tools = report["tools"]
        clocks = {"median MHz": None, "best MHz": None, "seeds": len(report["seeds"])}
        if report["seeds"]:
            clocks |= {"median MHz": f"{report['fmax_mhz']:.1f}", "best MHz": f"{report['fmax_best_mhz']:.1f}"}
            best = max(report["seeds"], key=lambda run: run["fmax_mhz"])
            paths.append(f"- {name}, seed {best['seed']}: `{path_summary(best['critical_path'])}`")
        placed.append(row(name, report) | clocks)
    devices = {
        name: f"{device.lut:,} LUT, {device.ff:,} FF, {amount(device.bram36)} BRAM36, {device.dsp} DSP"
        for name, device in DEVICES.items()
    }
    write_report(
        "synthesis",
        "Resources after synthesis, clock after place-and-route",
        [
            "What `codesign synth` reports. The whole engine is counted; the array alone (products, popcount, "
            "accumulators, control bits) stands beside it. Tools: "
            + ", ".join(f"{tool} {number}" for tool, number in tools.items())
            + ".",
            f"## xc7z020 ({devices['xc7z020']})",
            f"`synth_xilinx -family xc7 -flatten`, no place-and-route, so no clock. {COUNTING['xc7z020']}.",
            markdown(pd.DataFrame(synthesised)),
            f"## ecp5-85k ({devices['ecp5-85k']})",
            "`synth_ecp5`, then nextpnr for the LFE5U-85F, speed grade 6, in a harness of registers, not counted. "
            f"A block of 18 Kbit is half a BRAM36. {COUNTING['ecp5-85k']}; the array alone is synthesised, not placed.",
            markdown(pd.DataFrame(placed)),
            "The critical path of each one's best seed:",
            "\n".join(paths),
        ],
    )


if __name__ == "__main__":
    main()
