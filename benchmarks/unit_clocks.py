"""The clock of every unit placed and routed alone on the ECP5: half a minute each, where the whole machine takes many.

It says what a unit's own paths allow. Paths that cross units show only in `codesign synth`.
"""

import argparse
from collections.abc import Callable

import pandas as pd
from amaranth.back import verilog
from amaranth.lib.wiring import Component
from common import markdown, write_report

from codesign.synth import path_summary
from hardware.accelerator import Accelerator, load_accelerator
from rtl.array import BitSerialArray
from rtl.axi import AxiReader, AxiWriter
from rtl.control import Control
from rtl.drain import Drain
from rtl.engine import Sequencer
from rtl.execute import Execute
from rtl.fetch import Requester, Writer
from rtl.registers import RegisterFile
from rtl.requantize import Requantize
from rtl.vector import VectorUnit
from sim.flat import Flat
from sim.place import place

TOP = "unit_top"
UNITS: dict[str, Callable[[Accelerator], Component]] = {
    "Sequencer": lambda accelerator: Sequencer(),
    "Requester": lambda accelerator: Requester(accelerator, 0),
    "Writer": Writer,
    "Execute": Execute,
    "BitSerialArray, 2 x 2": lambda accelerator: BitSerialArray(2, accelerator.array.dk, 2),
    "VectorUnit": VectorUnit,
    "Requantize, 2 rows": lambda accelerator: Requantize(2),
    "Drain": Drain,
    "AxiReader": lambda accelerator: AxiReader(),
    "AxiWriter": lambda accelerator: AxiWriter(),
    "RegisterFile": lambda accelerator: RegisterFile(),
    "Control": lambda accelerator: Control(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hardware", default="bitserial-small")
    parser.add_argument("--units", nargs="+", default=list(UNITS), choices=list(UNITS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    accelerator, rows = load_accelerator(options.hardware), []
    for name in options.units:
        unit = Flat(UNITS[name](accelerator))
        text = verilog.convert(unit, name=TOP, emit_src=False, strip_internal_attrs=True)
        placement = place(text, TOP, [options.seed])
        (run,) = placement.runs
        path = path_summary(run["critical_path"])
        used = placement.resources
        rows.append(
            {"unit": name, "MHz": f"{run['fmax_mhz']:.1f}", "LUT": used.lut, "FF": used.ff, "critical path": path}
        )
        print(f"{name}: {rows[-1]['MHz']} MHz, {path}", flush=True)
    write_report(
        "unit_clocks",
        "Clock of the units alone",
        [
            f"Units of {accelerator.name} on the LFE5U-85F, speed grade 6, each in a harness of registers, seed "
            f"{options.seed}. The array is placed with 2 rows and columns of its own length.",
            markdown(pd.DataFrame(rows)),
        ],
    )


if __name__ == "__main__":
    main()
