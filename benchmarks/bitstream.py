"""Bitstreams for a board from PyPI's tools: how long they take, what they hold, and which networks fit.

python benchmarks/bitstream.py --policies POLICY.yaml ... [--weights WEIGHTS.pt ...]: a package for every policy, run
over its simulated serial line; the bitstream is built again from nothing, and its cells run the first policy, too.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
from common import markdown, write_report

from codesign.boards.ecp5 import build
from codesign.boards.package import write_package
from codesign.boards.running import read_manifest, run_package
from codesign.integers import IntegerNetwork
from codesign.program import build_program
from codesign.workload import choose_policy, load_workload, quantized_network
from hardware.accelerator import load_accelerator
from hardware.board import Ecp5Board, load_board
from hardware.errors import InputError
from hardware.specification import read_yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hardware", default="bitserial-ulx3s")
    parser.add_argument("--board", default="ulx3s-85f")
    parser.add_argument("--policies", type=Path, nargs="+", required=True)
    parser.add_argument("--weights", type=Path, nargs="*", default=[])
    parser.add_argument("--images", type=int, nargs="+", default=[10])
    parser.add_argument("--data")
    options = parser.parse_args()
    accelerator, board = load_accelerator(options.hardware), load_board(options.board)
    if not isinstance(board, Ecp5Board):
        raise InputError(f"no open tools build a bitstream for {board.name}: take an ECP5 board.")
    before = build(accelerator, board)
    begin = time.perf_counter()
    built = build(accelerator, board, fresh=True)
    seconds = time.perf_counter() - begin
    same = "byte-identical" if built.bitstream == before.bitstream else "**different**"
    print(f"{seconds:.0f} s", built.summary(), same, flush=True)
    rows, fits = [], []
    for number, path in enumerate(options.policies):
        weights = options.weights[number] if number < len(options.weights) else None
        workload = load_workload(read_yaml(path)["network"], 0, options.data, weights)
        policy = choose_policy(workload, path, None)
        network = IntegerNetwork(quantized_network(workload, policy, weights))
        images = workload.images(options.images[min(number, len(options.images) - 1)])
        with tempfile.TemporaryDirectory() as name:
            package = Path(name) / "package"
            write_package(package, policy, accelerator, board, network, images, bitstream=True)
            manifest = read_manifest(package)
            for netlist in (False, True) if number == 0 else (False,):
                run = run_package(package, netlist=netlist)
                rows.append(
                    {
                        "network": policy.network,
                        "simulated": "cells of the bitstream" if netlist else "Verilog",
                        "words": f"{manifest['program']['memory_words']:,}",
                        "images": run.images,
                        "scores that differ": run.mismatches,
                        "cycles": f"{max(run.rtl_cycles):,}",
                        "model": f"{manifest['cycles']:,}",
                        "ms at the board's clock": f"{manifest['cycles'] / accelerator.clock_mhz / 1e3:.2f}",
                        "cycles simulated": f"{run.simulated_cycles:,}",
                        "seconds to simulate": f"{run.seconds:.0f}",
                    }
                )
                print(rows[-1], flush=True)
    for name in ("lenet", "resnet20", "mobilenetv1-cifar"):
        workload = load_workload(name, 0)
        shape = tuple(workload.images(1).shape[1:])
        for bits in (2, 3, 4, 8):
            policy = choose_policy(workload, None, (bits, bits))
            network = IntegerNetwork(quantized_network(workload, policy, None))
            words = [len(build_program(network, accelerator, shape, compact).memory) for compact in (False, True)]
            fits.append(
                {
                    "network": name,
                    "bits": bits,
                    "words, tensors apart": f"{words[0]:,}",
                    "words": f"{words[1]:,}",
                    "fits": "yes"
                    if words[1] <= board.memory_words
                    else f"no: {words[1] - board.memory_words:,} too many",
                }
            )
    used = [
        {"cells": cell, "used": f"{count:,}", "of": f"{of:,}", "share": f"{count / of:.1%}"}
        for cell, (count, of) in built.used.items()
        if count
    ]
    write_report(
        "bitstream",
        f"Bitstreams for {board.name} from PyPI's tools",
        [
            f"{accelerator.name} with {board.memory_words:,} words of memory and a serial line of {board.baud:,} baud. "
            f"Built twice, the second time from nothing in {seconds / 60:.1f} minutes; the bitstreams are {same} "
            f"({len(built.bitstream):,} bytes). Clock: {built.fmax_mhz:.1f} MHz by nextpnr (placement seed "
            f"{built.seed}), {built.clock_mhz:g} are needed.",
            markdown(pd.DataFrame(used)),
            "## Packages, run by their driver over the simulated serial line at its real rate",
            "What was written to memory is not read back here, as the driver does on a board. All networks have one "
            "bitstream.",
            markdown(pd.DataFrame(rows)),
            "## Networks that fit",
            "One width for weights and activations everywhere; program, weights, tensors and constants. Packages let "
            "tensors share memory.",
            markdown(pd.DataFrame(fits)),
        ],
    )


if __name__ == "__main__":
    main()
