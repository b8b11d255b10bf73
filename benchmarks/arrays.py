"""The three kinds of arrays side by side: their parts alone, arrays of equal throughput, and whole machines at work.

python benchmarks/arrays.py [--seeds N]: parts are synthesised for the xc7z020 and placed on the ECP5 (half a minute
each and seed), arrays and machines synthesised and priced.
"""

import argparse
import statistics
from dataclasses import dataclass
from itertools import product

import pandas as pd
from amaranth.back import verilog
from amaranth.lib.wiring import Component
from common import markdown, write_report

from codesign.energy import energy_of, machine_energy, typical_operands
from hardware.accelerator import Accelerator, Array, Buffers, Memory
from hardware.cost import PRICED_OUTPUT
from hardware.cycles import layer_cycles
from hardware.layer import Layer
from hardware.schedule import schedule
from hardware.timing import popcount_latency
from rtl.arrays import ARRAYS
from rtl.fusion import FusionUnit
from rtl.fusion_routing import ActivationRouter, WeightRouter
from rtl.popcount import Popcount
from rtl.serial_weight import MaskedSum
from rtl.verilog import TOP, engine_verilog
from sim.flat import Flat
from sim.place import place
from sim.synthesis import array_cells, machine_cells, resources

PART = "codesign_part"
DEVICE, PLACEABLE = "xc7z020", "ecp5-85k"
PARTS: dict[str, tuple[Component, str]] = {
    "popcount of 64 products": (Popcount(64, popcount_latency(64)), "64 products of 1 x 1 bit"),
    "masked sum of 64 activations": (MaskedSum(64), "64 products of 1 x 8 bits"),
    "fusion unit": (FusionUnit(), "1 product of 8 x 8 bits, 4 of 4 x 4, 16 of 2 x 2"),
    "router of weights": (WeightRouter(), "a row's fusion units share one"),
    "router of activations": (ActivationRouter(), "a column's fusion units share one"),
    **{
        f"{kind} array of 2 x 2 units": (array(2, 64, 2), "as four units, with operands' registers and accumulators")
        for kind, array in ARRAYS.items()
    },
}
SHAPES = {"bit_serial": (8, 64, 8), "serial_weight": (2, 64, 4), "bit_fusion": (4, 64, 8)}
"""Arrays of 64 products of 8 x 8 bits per cycle."""
WIDTHS = ((8, 8), (4, 8), (2, 8), (4, 4), (3, 3), (2, 2), (1, 1))
LAYER = Layer("conv", "conv", 128, 64, 14, 14, kernel=(3, 3), padding=(1, 1))


def machine(kind: str) -> Accelerator:
    """A machine around one of the arrays; all else is the same."""
    dm, dk, dn = SHAPES[kind]
    return Accelerator(
        name=f"{kind.replace('_', '-')}-{dm}x{dk}x{dn}",
        kind=kind,
        array=Array(dm=dm, dk=dk, dn=dn),
        buffers=Buffers(lhs_entries=1024, rhs_entries=1024),
        memory=Memory(ports=2, latency=32, cycles_per_word=1),
        clock_mhz=100,
        device=DEVICE,
    )


def parts(seeds: int) -> pd.DataFrame:
    """What they take on both devices, and the clock on the ECP5."""
    rows = []
    for name, (part, does) in PARTS.items():
        text = verilog.convert(Flat(part), name=PART, emit_src=False, strip_internal_attrs=True)
        used, placed = resources(machine_cells(text, PART, DEVICE), DEVICE), place(text, PART, range(1, seeds + 1))
        clock = statistics.median(run["fmax_mhz"] for run in placed.runs)
        rows.append({"part": name, "per cycle": does, "LUT": used.lut, "FF": used.ff, "DSP": used.dsp})
        rows[-1] |= {"LUT, ECP5": placed.resources.lut, "FF, ECP5": placed.resources.ff, "MHz, ECP5": f"{clock:.0f}"}
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Measured:
    """A machine, LUTs and registers of its array alone, and LUTs of all of it."""

    accelerator: Accelerator
    array_lut: int
    array_ff: int
    lut: int


def measure(kind: str) -> Measured:
    """Minutes of synthesis, kept in the cache."""
    accelerator = machine(kind)
    array = resources(array_cells(accelerator, DEVICE), DEVICE)
    whole = resources(machine_cells(engine_verilog(accelerator), TOP, DEVICE), DEVICE)
    print(accelerator.name, array, whole, flush=True)
    return Measured(accelerator, array.lut, array.ff, whole.lut)


def products_per_cycle(accelerator: Accelerator, weight_bits: int, activation_bits: int) -> float:
    """Of a long dot product, while the array is busy."""
    array, words = accelerator.array, 1024
    traits = accelerator.traits
    padded = traits.padded(weight_bits), traits.padded(activation_bits)
    return array.dm * array.dn * 64 * words / traits.steps(*padded, words, accelerator.lanes)


def best(figures: dict[str, float], form: str) -> dict[str, str]:
    """As texts, the largest in bold; those within a hundredth of it as well."""
    most = max(figures.values())
    return {
        name: f"**{figure:{form}}**" if figure >= 0.99 * most else f"{figure:{form}}"
        for name, figure in figures.items()
    }


def per_lut(measured: list[Measured]) -> pd.DataFrame:
    """Products per cycle and 1,000 LUTs of the array alone."""
    rows = []
    for widths in WIDTHS:
        found = {
            one.accelerator.kind: 1000 * products_per_cycle(one.accelerator, *widths) / one.array_lut
            for one in measured
        }
        rows.append({"weights x activations": "{} x {}".format(*widths)} | best(found, ".1f"))
    return pd.DataFrame(rows)


def at_work(measured: list[Measured]) -> pd.DataFrame:
    """The layer on whole machines: products per cycle and 1,000 LUTs, and per nanojoule where energy is known."""
    rows = []
    for w, a in WIDTHS:
        work, on_chip, all_of_it = {}, {}, {}
        for one in measured:
            kind, accelerator = one.accelerator.kind, one.accelerator
            plan = schedule(LAYER, w, a, accelerator, output=PRICED_OUTPUT)
            work[kind] = 1000 * LAYER.macs / layer_cycles(plan) / one.lut
            if priced := machine_energy(accelerator):
                joules = energy_of(plan, priced[0], typical_operands(LAYER, (w,) * LAYER.out_channels, a))
                on_chip[kind] = 1e-9 * LAYER.macs / (joules.dynamic - joules.dram)
                all_of_it[kind] = 1e-9 * LAYER.macs / joules.dynamic
        rows.append({"weights x activations": f"{w} x {a}"})
        for text, figures, form in (
            ("per cycle and 1,000 LUT", work, ".2f"),
            ("per nJ on the chip", on_chip, ".2f"),
            ("per nJ with DRAM", all_of_it, ".2f"),
        ):
            known = best(figures, form) if len(figures) == len(measured) else dict.fromkeys(work, "not known")
            rows[-1] |= {f"{kind}: {text}": value for kind, value in known.items()}
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    alone = parts(options.seeds)
    measured = [measure(kind) for kind in SHAPES]
    arrays = pd.DataFrame(
        {
            "array": one.accelerator.kind,
            "dm x dk x dn": "{} x {} x {}".format(*SHAPES[one.accelerator.kind]),
            "LUT": f"{one.array_lut:,}",
            "FF": f"{one.array_ff:,}",
            **{
                f"{w} x {a}": f"{products_per_cycle(one.accelerator, w, a):.0f}"
                for w, a in product((8, 4, 2), (8, 4, 2))
                if a >= w
            },
            "whole machine: LUT": f"{one.lut:,}",
        }
        for one in measured
    )
    write_report(
        "arrays",
        "Three arrays: which wins where",
        [
            "## Parts alone",
            "LUTs, registers and multipliers on the xc7z020 (Yosys), and after place-and-route on the LFE5U-85F, "
            f"speed grade 6, in a harness of registers (nextpnr, median of {options.seeds} seeds). A lane of the "
            "masked sum is one of its 64 activations.",
            markdown(alone),
            "## Arrays of equal throughput",
            "All multiply 64 pairs of 8 x 8 bits per cycle. The array alone on the xc7z020, and products per cycle at "
            "other widths (weights x activations) while it is busy.",
            markdown(arrays),
            "Products per cycle and 1,000 LUTs of the array alone; bold: best, or within 1 % of it.",
            markdown(per_lut(measured)),
            "## Whole machines at work",
            f"{LAYER.in_channels} to {LAYER.out_channels} channels, 3x3, 14x14, two ports, buffers of 1,024 entries, "
            "typical data. LUTs are the whole machine's by synthesis, cycles the model's, energy the model's with the "
            "switching of the smallest machine of each kind, scaled: an estimate, without what the board draws.",
            markdown(at_work(measured)),
        ],
    )


if __name__ == "__main__":
    main()
