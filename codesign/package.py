"""The board package: the machine's Verilog, a network's program and data, a build script, one manifest."""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch

from codesign.integers import IntegerNetwork
from codesign.program import build_program
from codesign.simulate import layer_rows
from hardware.accelerator import Accelerator
from hardware.board import Board
from hardware.errors import InputError
from hardware.files import check_writable, replacing_directory
from hardware.instruction import VALUE_LANES
from policies.policy import Policy
from rtl.verilog import LINT_WAIVERS, TOP, engine_verilog, rtl_hash
from sim.run import Job, MachineError, simulate_jobs

FORMAT = 2
TEMPLATES = Path(__file__).parent / "templates"


def write_package(
    directory: Path,
    policy: Policy,
    accelerator: Accelerator,
    board: Board,
    network: IntegerNetwork,
    image: torch.Tensor,
    origin: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the package of one network and return its manifest.

    Parameters
    ----------
    directory:
        Made anew; a package that is already there is replaced, anything else is refused.
    image:
        The test image, float ``(1, C, H, W)``, whose scores by the integer reference the package holds.
    origin:
        Further manifest entries: where the weights come from.
    """
    check_destination(directory, accelerator, board)
    program = build_program(network, accelerator, (image.shape[1], image.shape[2], image.shape[3]))
    scores = network.run(image).scores[0]
    contents = _machine_files(accelerator, board)
    contents["policy.yaml"] = policy.as_yaml().encode()
    contents["program/memory.bin"] = program.memory.astype("<u8").tobytes()
    contents["program/scores.bin"] = scores.astype("<i2").tobytes()
    loaded = program.with_image(image.double().numpy())
    images = []
    for number, (layer, tensor) in enumerate(program.image_tensors):
        name = f"program/image_{number}.bin"
        contents[name] = loaded[tensor.base : tensor.base + tensor.words].astype("<u8").tobytes()
        step = {"file": name, "address": tensor.base, "words": tensor.words, "bits": layer.activation_bits}
        images.append(step | {"step": layer.step, "layer": layer.layer.name})
    layers = layer_rows(program, network)
    contents["README.md"] = _readme(policy, accelerator, board, layers)
    manifest = {
        "format": FORMAT,
        "codesign": version("codesign"),
        "network": policy.network,
        "board": board.name,
        "accelerator": accelerator.model_dump(mode="json"),
        "rtl_hash": rtl_hash(accelerator),
        **(origin or {}),
        "program": {
            "address": program.address,
            "memory_words": len(program.memory),
            "instructions": len(program.steps),
            "images": images,
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
    values = {
        "board": board.name,
        "part": board.vendor_part,
        "top": TOP,
        "clock_mhz": f"{accelerator.clock_mhz:g}",
        "period_ns": f"{1000 / accelerator.clock_mhz:.3f}",
    }
    return {
        f"rtl/{TOP}.v": engine_verilog(accelerator).encode(),
        "rtl/lint.vlt": LINT_WAIVERS.read_bytes(),
        "vivado/build.tcl": _template("build.tcl", values),
        "vivado/clock.xdc": _template("clock.xdc", values),
    }


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
    return _template("package.md", values)


def _template(name: str, values: dict[str, str]) -> bytes:
    return Template((TEMPLATES / name).read_text(encoding="utf-8")).substitute(values).encode()


@dataclass(frozen=True)
class PackageRun:
    """A package, run again: cycles and class scores that differ; the simulator's seconds."""

    rtl_cycles: int
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
        hashes, program = manifest["sha256"], manifest["program"]
        for name in (
            f"rtl/{TOP}.v",
            "program/memory.bin",
            "program/scores.bin",
            *(i["file"] for i in program["images"]),
        ):
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
    """Run a package's program on the package's own Verilog."""
    manifest = read_manifest(directory)
    program = manifest["program"]
    accelerator = Accelerator.from_mapping(manifest["accelerator"], str(directory / "manifest.json"))
    memory = np.fromfile(directory / "program/memory.bin", dtype="<u8")
    for image in program["images"]:
        memory[image["address"] : image["address"] + image["words"]] = np.fromfile(
            directory / image["file"], dtype="<u8"
        )
    expected = np.fromfile(directory / "program/scores.bin", dtype="<i2")
    words = -(-len(expected) // VALUE_LANES)
    job = Job(memory, program["address"], program["scores_address"], words, 4 * manifest["cycles"] + 100_000)
    verilog = (directory / "rtl" / f"{TOP}.v").read_text(encoding="utf-8")
    simulated = simulate_jobs([job], accelerator, waves=waves, verilog=verilog)
    outcome = simulated.outcomes[0]
    if outcome.error:
        raise MachineError(f"the package's program stopped with error code {outcome.error}")
    wrong = int((outcome.results.view("<i2")[: len(expected)] != expected).sum())
    return PackageRun(outcome.cycles, wrong, simulated.seconds)
