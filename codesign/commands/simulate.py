"""``codesign simulate``: a network, or an exported package, on the RTL."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from codesign.boards.running import read_manifest, run_package
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
    bits_text,
    note,
    out,
    parse_bits,
    progress_bar,
    say,
    table,
)
from codesign.host_network import executable
from codesign.integers import IntegerNetwork
from codesign.simulate import select_layers, simulate_layers, simulate_network
from codesign.workload import choose_policy, load_workload, quantized_network
from hardware.accelerator import Accelerator, load_accelerator
from hardware.errors import InputError


def command(
    network: NetworkOption = "lenet",
    hardware: HardwareOption = "bitserial-tiny",
    data: DataOption = None,
    weights: WeightsOption = None,
    policy: PolicyOption = None,
    bits: BitsOption = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Test images to run.")] = 1,
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Only these layers, comma-separated, each as a program of its own: raw sums."),
    ] = None,
    waves: Annotated[
        Path | None,
        typer.Option(
            "--waves",
            help="Write a waveform (.vcd, .fst) or toggle counts (.saif) to this file (slower; choose few --layers).",
        ),
    ] = None,
    test_images: Annotated[
        int | None,
        typer.Option("--test-images", min=0, help="Measure the accuracy on this many test images (default: all)."),
    ] = None,
    package: Annotated[
        Path | None, typer.Option("--package", help="Run an exported package on its own Verilog instead.")
    ] = None,
    netlist: Annotated[
        bool, typer.Option("--netlist", help="With --package: on the cells of its bitstream (ECP5) instead.")
    ] = False,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Run a network on the RTL as one program: cycles beside the model's, all tensors against the integer reference.

    Without --weights the network has random weights from --seed, and without --data too its images are random. Cycles
    are per image; outputs and mismatches count all images. Exit code 1 if anything differs.
    """
    result = Result("simulate", json)
    if package:
        others = {"--policy": policy, "--bits": bits, "--weights": weights, "--layers": layers, "--data": data}
        if given := [option for option, value in others.items() if value is not None]:
            raise InputError(
                f"--package brings its own network, so it does not go with {', '.join(given)}: leave one out."
            )
        _simulate_package(package, waves, netlist, result)
        return
    if netlist:
        raise InputError("--netlist is about the cells of a package's bitstream: pass --package, too.")
    accelerator = load_accelerator(hardware)
    workload = load_workload(network, seed, data, weights)
    chosen = choose_policy(workload, policy, parse_bits(bits) if bits else None)
    names = select_layers(workload.traced.layers, layers) if layers is not None else None
    integers = executable(quantized_network(workload, chosen, weights))
    pictures = workload.images(images)
    if isinstance(integers, IntegerNetwork) and names is None:
        with progress_bar("images on the RTL", images) as progress:
            report = simulate_network(integers, pictures, accelerator, waves, progress)
    else:
        if names is None:
            note(f"the host runs the network, the machine its layers one by one: {workload.traced.host}")
            names = [layer.name for layer in workload.traced.layers]
        run = integers.run(pictures, record=True)
        count = sum(layer.operands.layer.images for layer in run.layers if layer.operands.layer.name in names)
        with progress_bar("layers on the RTL", count) as progress:
            report = simulate_layers(run, names, accelerator, waves, progress)
    _print_layers(f"{network} on {accelerator.name}, {images} image(s)", report)
    accuracy = None
    if (weights or workload.imported) and workload.data and test_images != 0:
        test = workload.data.test.take(slice(test_images))
        accuracy = integers.accuracy(test)
        say(f"accuracy on {len(test):,} held-out test images, by the same integer arithmetic: {accuracy:.2%}")
    elif not weights and not workload.imported:
        note(f"weights are random (seed {seed}): pass --weights for a trained network")
    result.write({"network": network, "images": images, "accuracy": accuracy, **report}, accelerator, seed)
    _exit(report)


def _simulate_package(package: Path, waves: Path | None, netlist: bool, result: Result) -> None:
    manifest = read_manifest(package)
    accelerator = Accelerator.from_mapping(manifest["accelerator"], str(package))
    of = "its bitstream's cells" if netlist else "its own Verilog"
    with progress_bar(f"images on {of}", len(np.load(package / "selftest/scores.npy"))) as progress:
        run = run_package(package, waves, netlist, progress)
    report: dict[str, Any] = {
        "layers": [
            {
                "name": row["name"],
                "bits": row["bits"],
                "rtl_cycles": None,
                "model_cycles": row["cycles"],
                "outputs": 0,
                "mismatches": 0,
            }
            for row in manifest["layers"]
        ],
        "rtl_cycles": max(run.rtl_cycles, key=lambda cycles: abs(cycles - manifest["cycles"])),
        "model_cycles": manifest["cycles"],
        "mismatches": run.mismatches,
        "cycles_per_second": run.simulated_cycles / run.seconds,
        "instructions": manifest["program"]["instructions"],
        "scores": run.images * manifest["program"]["scores"],
        "score_mismatches": run.mismatches,
    }
    _print_layers(f"package {package}: {manifest['network']} on {of}", report)
    values = {
        "rtl_hash": manifest["rtl_hash"],
        "network": manifest["network"],
        "package": str(package),
        "images": run.images,
    }
    result.write({**values, **report}, accelerator)
    _exit(report)


def _print_layers(title: str, report: dict[str, Any]) -> None:
    lines = table(title, "layer", "bits W,A", "RTL cycles", "model cycles", "outputs", "mismatches")
    for row in report["layers"]:
        numbers = (row["rtl_cycles"], row["model_cycles"], row["outputs"], row["mismatches"])
        bits = bits_text(row["bits"]) if row["bits"] else ""
        lines.add_row(row["name"], bits, *("" if number is None else f"{number:,}" for number in numbers))
    total = (
        report["rtl_cycles"],
        report["model_cycles"],
        sum(r["outputs"] for r in report["layers"]),
        report["mismatches"],
    )
    lines.add_section()
    lines.add_row("all", "", *(f"{number:,}" for number in total))
    out.print(lines)
    if "scores" in report:
        say(
            f"one program of {report['instructions']} instructions: "
            f"{report['score_mismatches']} of {report['scores']} class scores differ"
        )
    say(
        f"largest cycle error {_cycle_error(report)}, mismatching outputs {report['mismatches']}, "
        f"{report['cycles_per_second']:,.0f} simulated cycles per second"
    )


def _cycle_error(report: dict[str, Any]) -> int:
    """The largest difference between machine and model, of a layer where layers were run one by one."""
    pairs = [report, *(row for row in report["layers"] if row["rtl_cycles"] is not None)]
    return max(abs(pair["rtl_cycles"] - pair["model_cycles"]) for pair in pairs)


def _exit(report: dict[str, Any]) -> None:
    """Exit code 1 where machine, model and reference disagree."""
    if _cycle_error(report) or report["mismatches"]:
        raise typer.Exit(1)
