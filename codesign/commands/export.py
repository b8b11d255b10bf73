"""``codesign export``: the board package of a network under a policy."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from codesign.commands.common import (
    BitsOption,
    DataOption,
    HardwareOption,
    JsonOption,
    NetworkOption,
    PolicyOption,
    Result,
    SeedOption,
    WeightsOption,
    note,
    parse_bits,
    say,
)
from codesign.integers import IntegerNetwork
from codesign.package import check_destination, write_package
from codesign.resources import accelerator_resources
from codesign.workload import choose_policy, load_workload, quantized_network
from hardware.accelerator import load_accelerator
from hardware.board import load_board


def command(
    directory: Annotated[Path, typer.Option("--out", help="Folder of the package; an older package is replaced.")],
    network: NetworkOption = "lenet",
    hardware: HardwareOption = "bitserial-tiny",
    board: Annotated[str, typer.Option("--board", help="A built-in board (see `codesign list`) or a YAML file.")] = (
        "arty-z7-20"
    ),
    data: DataOption = None,
    weights: WeightsOption = None,
    policy: PolicyOption = None,
    bits: BitsOption = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Write Verilog, the program with its weights, a test image with its scores, a manifest and a Vivado script."""
    result = Result("export", json)
    accelerator, target = load_accelerator(hardware), load_board(board)
    accelerator_resources(accelerator)
    workload = load_workload(network, seed, data, weights)
    chosen = choose_policy(workload, policy, parse_bits(bits) if bits else None)
    check_destination(directory, accelerator, target)
    integers = IntegerNetwork(quantized_network(workload, chosen, weights))
    origin = {"weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest() if weights else None, "seed": seed}
    manifest = write_package(directory, chosen, accelerator, target, integers, workload.images(1), origin)
    if weights is None:
        note(f"weights are random (seed {seed}): pass --weights for a trained network")
    say(
        f"wrote {directory}: {len(manifest['sha256']) + 1} files, a program of "
        f"{manifest['program']['instructions']} instructions, "
        f"{manifest['cycles']:,} cycles per image; check it with `codesign simulate --package {directory}`"
    )
    result.write(
        {"network": network, "board": target.name, "out": str(directory), "manifest": manifest}, accelerator, seed
    )
