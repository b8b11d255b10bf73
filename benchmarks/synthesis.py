"""Resources of the built-in accelerators from Yosys' synthesis for Xilinx 7-series; no place and route."""

import re
import tempfile
from pathlib import Path

import pandas as pd
from common import markdown, write_report

from hardware.accelerator import accelerator_names, load_accelerator
from rtl.verilog import TOP, engine_verilog
from sim.yosys import run_yosys


def main() -> None:
    rows = []
    for name in accelerator_names():
        accelerator = load_accelerator(name)
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "machine.v").write_text(engine_verilog(accelerator))
            script = f"read_verilog machine.v; synth_xilinx -family xc7 -flatten -top {TOP}; check -assert; stat"
            output = run_yosys(Path(directory), script)
        cells = {cell: int(count) for count, cell in re.findall(r"^ +(\d+) (?:.* )?([A-Z]\w+)$", output, re.MULTILINE)}
        lut = sum(count for cell, count in cells.items() if re.fullmatch(r"LUT\d", cell))
        lutram = sum(count for cell, count in cells.items() if cell.startswith("RAM") and not cell.startswith("RAMB"))
        rows.append(
            {
                "accelerator": name,
                "LUT": lut,
                "LUT RAM cells": lutram,
                "FF": sum(count for cell, count in cells.items() if cell.startswith("FD")),
                "RAMB36": cells.get("RAMB36E1", 0),
                "RAMB18": cells.get("RAMB18E1", 0),
                "DSP": cells.get("DSP48E1", 0),
                "LUT per binary MAC": round(lut / accelerator.peak_binary_macs, 2),
            }
        )
    write_report(
        "synthesis",
        "Resources after synthesis",
        [
            "`synth_xilinx -family xc7` of Yosys; `check -assert` found no latch, no loop and no net with two drivers. "
            "The whole engine is counted, not the array alone. An xc7z020 has 53,200 LUT, 106,400 FF, 140 RAMB36.",
            markdown(pd.DataFrame(rows)),
        ],
    )


if __name__ == "__main__":
    main()
