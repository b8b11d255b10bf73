"""``codesign export``: a network under a policy as a board package, or as a QONNX file."""

import hashlib
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from codesign.boards.package import check_destination, write_package
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
    progress_bar,
    say,
)
from codesign.integers import IntegerNetwork
from codesign.networks import is_file
from codesign.resources import accelerator_resources
from codesign.workload import choose_policy, load_workload, quantized_network
from hardware.accelerator import load_accelerator
from hardware.board import load_board
from hardware.errors import InputError
from hardware.files import check_writable
from sim.bitstream import STEPS


def command(
    directory: Annotated[
        Path | None, typer.Option("--out", help="Folder of the package; an older package is replaced.")
    ] = None,
    qonnx: Annotated[
        Path | None, typer.Option("--qonnx", help="Write the quantized network to this .onnx file, for other tools.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="The QONNX file computes the machine's integers, bit for bit.")
    ] = False,
    network: NetworkOption = "lenet",
    hardware: HardwareOption = "bitserial-tiny",
    board: Annotated[str, typer.Option("--board", help="A built-in board (see `codesign list`) or a YAML file.")] = (
        "arty-z7-20"
    ),
    data: DataOption = None,
    weights: WeightsOption = None,
    policy: PolicyOption = None,
    bits: BitsOption = None,
    bitstream: Annotated[
        bool, typer.Option("--bitstream", help="Build it with Yosys, nextpnr and ecppack (ECP5 boards): minutes.")
    ] = False,
    images: Annotated[int, typer.Option("--images", min=1, help="Test images in the package.")] = 10,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Write a package for the board, a QONNX file, or both.

    A package holds Verilog, the program with its weights, a driver, test images with their scores, a manifest, and what
    makes the bitstream: Vivado's scripts, or on an ECP5 the bitstream itself.
    """
    result = Result("export", json)
    if directory is None and qonnx is None:
        raise InputError("expected --out for a package, --qonnx for a QONNX file, or both: pass one.")
    if bitstream and directory is None:
        raise InputError("--bitstream is part of a package: pass --out, too.")
    if exact and not qonnx:
        raise InputError("--exact is about the QONNX file: pass --qonnx, too.")
    if qonnx:
        if not is_file(str(qonnx)):
            raise InputError(f"--qonnx {qonnx}: expected a name that ends in .onnx.")
        check_writable(qonnx)
    accelerator = target = manifest = None
    if directory:
        accelerator, target = load_accelerator(hardware), load_board(board)
        accelerator_resources(accelerator)
    workload = load_workload(network, seed, data, weights)
    if workload.traced.host:
        raise InputError(
            f"only a network that is one program is exported, of this one the layers alone run: {workload.traced.host}"
        )
    chosen = choose_policy(workload, policy, parse_bits(bits) if bits else None)
    if directory and accelerator and target:
        check_destination(directory, accelerator, target, bitstream)
    quantized = quantized_network(workload, chosen, weights)
    if qonnx:
        # Half a second that a package need not pay.
        from codesign.qonnx.exporting import export_qonnx, save_qonnx
        from codesign.qonnx.integers import export_integers

        model = (export_integers if exact else export_qonnx)(quantized, workload.input_shape)
        save_qonnx(model, qonnx)
        say(f"wrote {qonnx}: QONNX, {len(chosen.layers)} layers, {len(model.graph.node)} nodes")
    if directory and accelerator and target:
        integers = IntegerNetwork(quantized)
        source = Path(network) if workload.imported else weights
        origin = {"weights_sha256": hashlib.sha256(source.read_bytes()).hexdigest() if source else None, "seed": seed}
        with progress_bar("bitstream", STEPS) if bitstream else nullcontext() as progress:
            manifest = write_package(
                directory, chosen, accelerator, target, integers, workload.images(images), origin, bitstream, progress
            )
        say(
            f"wrote {directory}: {len(manifest['sha256']) + 1} files, a program of "
            f"{manifest['program']['instructions']} instructions, "
            f"{manifest['cycles']:,} cycles per image; check it with `codesign simulate --package {directory}`"
        )
    if weights is None and not workload.imported:
        note(f"weights are random (seed {seed}): pass --weights for a trained network")
    result.write(
        {
            "network": network,
            "board": target.name if target else None,
            "out": str(directory) if directory else None,
            "manifest": manifest,
            "qonnx": str(qonnx) if qonnx else None,
        },
        accelerator,
        seed,
    )
