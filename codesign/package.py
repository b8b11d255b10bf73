"""The board package: the machine's Verilog, a network's program and data, a driver, a build script, one manifest."""

import hashlib
import io
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codesign.driver.machine import Machine
from codesign.integers import IntegerNetwork
from codesign.program import Program, build_program
from codesign.simulate import layer_rows
from codesign.simulated_board import SimulatedBuffer, SimulatedRegisters
from codesign.templates import filled
from codesign.vivado import vivado_files
from hardware.accelerator import Accelerator
from hardware.board import Board
from hardware.errors import InputError
from hardware.files import check_writable, replacing_directory
from hardware.register_header import register_header
from hardware.registers import register_json, register_table
from policies.policy import Policy
from rtl.verilog import LINT_WAIVERS, TOP, engine_verilog, rtl_hash

FORMAT = 3
DRIVER = Path(__file__).parent / "driver"
NEEDED = (f"rtl/{TOP}.v", "driver/registers.json", "program/memory.bin", "selftest/images.npy", "selftest/scores.npy")
"""Files without which a package cannot be run."""


def write_package(
    directory: Path,
    policy: Policy,
    accelerator: Accelerator,
    board: Board,
    network: IntegerNetwork,
    images: torch.Tensor,
    origin: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the package of one network and return its manifest.

    Parameters
    ----------
    directory:
        Made anew; a package that is already there is replaced, anything else is refused.
    images:
        Test images, float ``(N, C, H, W)``, whose scores by the integer reference the package holds.
    origin:
        Further manifest entries: where the weights come from.
    """
    check_destination(directory, accelerator, board)
    program = build_program(network, accelerator, (images.shape[1], images.shape[2], images.shape[3]))
    contents = _machine_files(accelerator, board)
    contents["policy.yaml"] = policy.as_yaml().encode()
    contents["program/memory.bin"] = program.memory.astype("<u8").tobytes()
    contents["selftest/images.npy"] = _npy(images.float().numpy())
    contents["selftest/scores.npy"] = _npy(network.run(images).scores.astype(np.int16))
    layers = layer_rows(program, network)
    contents["README.md"] = _readme(policy, accelerator, board, layers)
    manifest = {
        "format": FORMAT,
        "codesign": version("codesign"),
        "network": policy.network,
        "board": board.name,
        "accelerator": accelerator.model_dump(mode="json"),
        "rtl_hash": rtl_hash(accelerator),
        "bitstream": f"vivado/{_build(accelerator)}.bit",
        **(origin or {}),
        "program": {
            "address": program.address,
            "memory_words": len(program.memory),
            "instructions": len(program.steps),
            "images": image_readers(program),
            "scores_address": program.scores.base,
            "scores": program.classes,
            "fraction_bits": network.fraction_bits,
        },
        "cycles": program.cycles(),
        "layers": [{"name": row["name"], "bits": row["bits"], "cycles": row["model_cycles"]} for row in layers],
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())},
    }
    contents["manifest.json"] = (json.dumps(manifest, indent=2) + "\n").encode()
    with replacing_directory(directory) as temporary:
        for name, content in contents.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return manifest


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def image_readers(program: Program) -> list[dict[str, Any]]:
    """For every layer that reads the image, where it wants it and how; see `codesign.driver.machine.image_words`."""
    traits = program.accelerator.traits
    return [
        {
            "layer": layer.layer.name,
            "address": tensor.base,
            "shape": [layer.layer.in_channels, layer.layer.in_height, layer.layer.in_width],
            "step": layer.step,
            "levels": list(layer.levels),
            "bits": traits.padded(layer.activation_bits),
            "border": list(tensor.border),
            "packed": traits.packed,
        }
        for layer, tensor in program.image_tensors
    ]


def check_destination(directory: Path, accelerator: Accelerator, board: Board) -> None:
    """Raise `InputError` where no package may be written: asked before long work.

    Only an empty folder or an older package with no file beside its own is replaced.
    """
    if accelerator.device != board.device.part:
        raise InputError(
            f"{accelerator.name} is meant for {accelerator.device}, but {board.name} has {board.device.part}: "
            "choose another --board or --hardware."
        )
    if directory.exists() and not directory.is_dir():
        raise InputError(f"cannot write {directory}: it is a file; give a folder's name.")
    check_writable(directory / "manifest.json")
    here = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
    if here - {"manifest.json"} - set(_listed(directory)):
        raise InputError(f"{directory} holds something that is not a package: choose another --out.")


def _listed(directory: Path) -> dict[str, str]:
    """SHA-256 of the files that a folder's manifest lists; nothing if it holds no package."""
    try:
        listed = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return listed if isinstance(listed, dict) else {}


def _machine_files(accelerator: Accelerator, board: Board) -> dict[str, bytes]:
    verilog = engine_verilog(accelerator)
    vivado = vivado_files(accelerator, board, verilog, _build(accelerator))
    return {
        f"rtl/{TOP}.v": verilog.encode(),
        "rtl/lint.vlt": LINT_WAIVERS.read_bytes(),
        "driver/registers.json": register_json().encode(),
        "driver/registers.md": register_table().encode(),
        "driver/registers.h": register_header().encode(),
        **{f"driver/{name}": (DRIVER / name).read_bytes() for name in ("machine.py", "zynq.py")},
        **{f"vivado/{name}": content for name, content in vivado.items()},
    }


def _build(accelerator: Accelerator) -> str:
    """Name of the bitstream: another machine has another, or PYNQ would take the one that it knows."""
    return f"codesign_{rtl_hash(accelerator)}"


def _readme(policy: Policy, accelerator: Accelerator, board: Board, layers: list[dict[str, Any]]) -> bytes:
    values = {
        "network": policy.network,
        "accelerator": accelerator.name,
        "board": board.name,
        "part": board.vendor_part,
        "top": TOP,
        "clock_mhz": f"{accelerator.clock_mhz:g}",
        "rows": "\n".join(
            f"| {row['name']} | {'' if row['bits'] is None else row['bits']} | {row['model_cycles']:,} |"
            for row in layers
        ),
    }
    return filled("package.md", values)


@dataclass(frozen=True)
class PackageRun:
    """A package, run again: images, cycles of each, class scores that differ, the simulator's seconds."""

    images: int
    rtl_cycles: list[int]
    mismatches: int
    seconds: float


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a package whose files are all there and unchanged."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("format") != FORMAT:
            raise InputError(
                f"{directory} has package format {manifest.get('format')!r}, expected {FORMAT}: export it again."
            )
        hashes = manifest["sha256"]
        for name in NEEDED:
            if name not in hashes:
                raise ValueError(f"its manifest does not list {name}")
        Accelerator.from_mapping(manifest["accelerator"], str(directory / "manifest.json"))
        for name, digest in hashes.items():
            if hashlib.sha256((directory / name).read_bytes()).hexdigest() != digest:
                raise InputError(f"{directory / name} is not the file that was exported: export the package again.")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{directory} is not a complete package ({error}): export it again.") from None
    return manifest


def run_package(directory: Path, waves: Path | None = None) -> PackageRun:
    """Run a package's images with its driver on its own Verilog.

    Raises
    ------
    MachineFault
        The machine stopped with an error.
    """
    manifest = read_manifest(directory)
    accelerator = Accelerator.from_mapping(manifest["accelerator"], str(directory / "manifest.json"))
    memory = SimulatedBuffer.of(manifest["program"]["memory_words"])
    verilog = (directory / "rtl" / f"{TOP}.v").read_text(encoding="utf-8")
    registers = SimulatedRegisters(accelerator, verilog, memory, 4 * manifest["cycles"] + 100_000, waves)
    machine = Machine(directory, registers, memory, memory.device_address)
    images, expected = (np.load(directory / f"selftest/{name}.npy") for name in ("images", "scores"))
    runs = [machine.run(image, seconds=float("inf")) for image in images]
    wrong = sum(int((run.scores != scores).sum()) for run, scores in zip(runs, expected, strict=True))
    return PackageRun(len(runs), [run.cycles for run in runs], wrong, registers.seconds)
