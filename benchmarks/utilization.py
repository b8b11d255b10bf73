"""How busy ResNet-18's 3x3 layers keep an array, beside the bound of BISMO's schedule.

Cycles come from the cycle model, which equals the RTL (`codesign calibrate`, `codesign simulate`).
"""

import argparse
from dataclasses import replace

import pandas as pd
from common import markdown, write_report

from codesign.networks import create_network
from codesign.tracing import trace
from hardware.accelerator import Accelerator, load_accelerator
from hardware.cycles import layer_cycles
from hardware.layer import Layer
from hardware.passes import Output
from hardware.schedule import schedule


def bismo_bound(accelerator: Accelerator, bits: int) -> float:
    """BISMO v2 fetches a left-hand tile again for every right-hand tile, through one 64-bit port."""
    return min(1.0, 64 * bits / (accelerator.array.dm * accelerator.array.dk))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hardware", default="bitserial-edge")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 2])
    options = parser.parse_args()
    accelerator = load_accelerator(options.hardware)
    layers = [
        replace(layer, signed_activations=False)
        for layer in trace(create_network("resnet18", 0), (3, 224, 224)).layers
        if layer.kernel == (3, 3)
    ]
    text = [
        f"{options.hardware}: {accelerator.array.dm}x{accelerator.array.dk}x{accelerator.array.dn}, "
        f"{accelerator.memory.ports} ports of 64 bits, {accelerator.memory.latency} cycles of memory latency. Useful "
        "plane products (weight bit times activation bit of every multiply-accumulate) over what the array could have "
        "done in the layer's cycles, from start to the last word written, results written as bit planes of the same "
        "width. *K fill* and *N fill* say what the shape alone allows: windows are whole numbers of 64-channel words, "
        "an array step takes several, and the last pixels rarely fill the columns."
    ]
    for bits in options.bits:
        rows, useful, cycles = [], 0, 0
        for layer in layers:
            row, row_useful, row_cycles = measure(layer, bits, accelerator)
            rows.append(row)
            useful, cycles = useful + row_useful, cycles + row_cycles
        total = useful / (cycles * accelerator.peak_binary_macs)
        text += [
            f"## {bits}/{bits} bits",
            markdown(pd.DataFrame(rows)),
            f"All layers together: **{total:.1%}**. BISMO v2's bound for this array at {bits} bits: "
            f"{bismo_bound(accelerator, bits):.1%}.",
        ]
    write_report("utilization", "Array utilization", text)


def measure(layer: Layer, bits: int, accelerator: Accelerator) -> tuple[dict[str, str], int, int]:
    """A row of the table, useful plane products, cycles."""
    plan = schedule(layer, bits, bits, accelerator, output=Output(plane_bits=bits))
    cycles, useful = layer_cycles(plan), layer.macs * bits * bits
    work = plan.passes[0]
    row = {
        "layer": layer.name,
        "channels": f"{layer.in_channels} to {layer.out_channels}",
        "output": f"{layer.out_height}x{layer.out_width}",
        "cycles": f"{cycles:,}",
        "utilization": f"{useful / (cycles * accelerator.peak_binary_macs):.1%}",
        "K fill": f"{layer.reduction / (64 * work.lanes * work.chunks):.1%}",
        "N fill": f"{layer.pixels / (work.column_tiles * work.dn):.1%}",
        "column tiles together": str(work.group_tiles),
        "BISMO's bound": f"{bismo_bound(accelerator, bits):.1%}",
    }
    return row, useful, cycles


if __name__ == "__main__":
    main()
