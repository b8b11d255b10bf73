"""The board package: the machine's Verilog, a network's program and data, a driver, a build script, one manifest."""

import hashlib
import io
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codesign.boards.ecp5 import build, check_system, ecp5_flow
from codesign.boards.flow import DRIVER, Flow
from codesign.boards.running import FORMAT
from codesign.boards.zynq import zynq_flow
from codesign.integers import IntegerNetwork
from codesign.program import Program, build_program
from codesign.simulate import layer_rows
from codesign.templates import filled
from hardware.accelerator import Accelerator
from hardware.board import Board, Ecp5Board, ZynqBoard
from hardware.device import DEVICES
from hardware.errors import InputError
from hardware.files import check_writable, replacing_directory
from hardware.register_header import register_header
from hardware.registers import register_json, register_table
from policies.policy import Policy
from rtl.verilog import LINT_WAIVERS, TOP, rtl_hash


def write_package(
    directory: Path,
    policy: Policy,
    accelerator: Accelerator,
    board: ZynqBoard | Ecp5Board,
    network: IntegerNetwork,
    images: torch.Tensor,
    origin: dict[str, Any] | None = None,
    bitstream: bool = False,
    progress: Callable[[int], None] | None = None,
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
    bitstream:
        Build it, where open tools can: minutes.
    progress:
        Called with the number of finished steps of that, of `sim.bitstream.STEPS`.

    Raises
    ------
    InputError
        What cannot be: the folder, the machine on this board, a network that its memory does not hold, a bitstream.
    """
    check_destination(directory, accelerator, board, bitstream)
    shape = images.shape[1], images.shape[2], images.shape[3]
    program = build_program(network, accelerator, shape, compact=True)
    if isinstance(board, Ecp5Board):
        if len(program.memory) > board.memory_words:
            raise InputError(
                f"the network needs {len(program.memory):,} words of memory, {board.name} has {board.memory_words:,} "
                "on the chip: take fewer bits or a smaller network."
            )
        flow = ecp5_flow(accelerator, board, build(accelerator, board, progress) if bitstream else None)
    else:
        flow = zynq_flow(accelerator, board)
    contents = flow.files | _common_files()
    contents["policy.yaml"] = policy.as_yaml().encode()
    contents["program/memory.bin"] = program.memory.astype("<u8").tobytes()
    contents["selftest/images.npy"] = _npy(images.float().numpy())
    contents["selftest/scores.npy"] = _npy(network.run(images).scores.astype(np.int16))
    layers = layer_rows(program, network)
    contents["README.md"] = _readme(policy, accelerator, board, flow, layers)
    manifest = {
        "format": FORMAT,
        "codesign": version("codesign"),
        "network": policy.network,
        "board": board.name,
        "accelerator": accelerator.model_dump(mode="json"),
        "rtl_hash": rtl_hash(accelerator),
        "top": flow.top,
        "bitstream": flow.bitstream,
        **flow.manifest,
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


def check_destination(
    directory: Path, accelerator: Accelerator, board: ZynqBoard | Ecp5Board, bitstream: bool = False
) -> None:
    """Raise `InputError` where no package may be written, or not this one: asked before long work.

    Only an empty folder or an older package with no file beside its own is replaced.
    """
    device = DEVICES.get(accelerator.device)
    if board.device.part not in (accelerator.device, device.part if device else None):
        raise InputError(
            f"{accelerator.name} is meant for {accelerator.device}, but {board.name} has {board.device.part}: "
            "choose another --board or --hardware."
        )
    if isinstance(board, Ecp5Board):
        check_system(accelerator, board)
    elif bitstream:
        raise InputError(
            f"no open tools from PyPI build a bitstream for {board.name}: leave out --bitstream and run Vivado on the "
            "package, or take ulx3s-85f."
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


def _common_files() -> dict[str, bytes]:
    """What every board's package holds."""
    return {
        "rtl/lint.vlt": LINT_WAIVERS.read_bytes(),
        "driver/machine.py": (DRIVER / "machine.py").read_bytes(),
        "driver/registers.json": register_json().encode(),
        "driver/registers.md": register_table().encode(),
        "driver/registers.h": register_header().encode(),
    }


def _readme(policy: Policy, accelerator: Accelerator, board: Board, flow: Flow, layers: list[dict[str, Any]]) -> bytes:
    values = {
        "network": policy.network,
        "accelerator": accelerator.name,
        "board": board.name,
        "top": flow.top,
        "what": "the machine" if flow.top == TOP else "all that is on the FPGA",
        "notes": flow.notes,
        "rows": "\n".join(
            f"| {row['name']} | {'' if row['bits'] is None else row['bits']} | {row['model_cycles']:,} |"
            for row in layers
        ),
    }
    return filled("package.md", values)
