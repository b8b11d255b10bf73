"""The board package: the machine's Verilog, programs and data of every layer, a build script, one manifest."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from codesign.lowering import POISON, lower
from hardware.accelerator import Accelerator
from hardware.board import Board
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.files import check_writable, replacing_directory
from hardware.operands import Operands
from policies.policy import Policy
from rtl.verilog import LINT_WAIVERS, TOP, engine_verilog, rtl_hash
from sim.run import Job, MachineError, simulate_jobs

FORMAT = 1
TEMPLATES = Path(__file__).parent / "templates"
IMAGES = ("program", "weights", "input", "expected")


def write_package(
    directory: Path,
    policy: Policy,
    accelerator: Accelerator,
    board: Board,
    work: Sequence[Operands],
    sums: Sequence[np.ndarray],
    origin: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the package of one network and return its manifest.

    Parameters
    ----------
    directory:
        Made anew; a package that is already there is replaced, anything else is refused.
    work:
        The layers with one image's integers.
    sums:
        What every layer must compute from them, by the integer reference: int64, ``(1, M, out height, out width)``.
    origin:
        Further manifest entries: where the weights come from.
    """
    check_destination(directory, accelerator, board)
    lowered = [lower(operands, accelerator) for operands in work]
    layers, contents = [], _machine_files(accelerator, board)
    contents["policy.yaml"] = policy.as_yaml().encode()
    for number, (operands, one, reference) in enumerate(zip(work, lowered, sums, strict=True)):
        entry: dict[str, Any] = {
            "name": operands.layer.name,
            "weight_bits": _compact(operands.weight_bits),
            "activation_bits": operands.activation_bits,
            "cycles": layer_cycles(one.schedule),
            "outputs": int(reference.size),
        }
        layers.append(entry)
        if not one.result_words:  # every kernel pruned: there is nothing to run
            continue
        folder = entry["folder"] = f"layers/{number:02d}_{operands.layer.name.replace('.', '_')}"
        addresses = (0, one.weights_address, one.activations_address, one.result_address)
        words = [*np.split(one.image[: one.result_address], addresses[1:3]), one.results(reference)]
        for image, address, values in zip(IMAGES, addresses, words, strict=True):
            contents[f"{folder}/{image}.bin"] = values.astype("<u8").tobytes()
            entry[f"{image}_address"], entry[f"{image}_words"] = address, len(values)
    contents["README.md"] = _readme(policy, accelerator, board, layers)
    manifest = {
        "format": FORMAT,
        "codesign": version("codesign"),
        "network": policy.network,
        "board": board.name,
        "accelerator": accelerator.model_dump(mode="json"),
        "rtl_hash": rtl_hash(accelerator),
        **(origin or {}),
        "cycles": sum(entry["cycles"] for entry in layers),
        "layers": layers,
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
            f"| {e['name']} | {e['weight_bits']} | {e['activation_bits']} | {e['cycles']} |" for e in layers
        ),
    }
    return _template("package.md", values)


def _template(name: str, values: dict[str, str]) -> bytes:
    return Template((TEMPLATES / name).read_text(encoding="utf-8")).substitute(values).encode()


def _compact(bits: tuple[int, ...]) -> int | list[int]:
    return bits[0] if len(set(bits)) == 1 else list(bits)


@dataclass(frozen=True)
class PackageRun:
    """One layer of a package, run again: its manifest entry, cycles now, 32-bit results that differ.

    All results count, those of padding rows, which must be 0, included.
    """

    entry: dict[str, Any]
    rtl_cycles: int
    mismatches: int


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a package whose files are all there and unchanged."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        hashes = manifest["sha256"]
        needed = [
            f"{entry['folder']}/{image}.bin" for entry in manifest["layers"] if "folder" in entry for image in IMAGES
        ]
        for name in (f"rtl/{TOP}.v", *needed):
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
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{directory} has package format {manifest.get('format')!r}, expected {FORMAT}: export it again."
        )
    return manifest


def run_package(
    directory: Path, waves: Path | None = None, progress: Callable[[int], None] | None = None
) -> tuple[list[PackageRun], float]:
    """Run every program of a package on the package's own Verilog; also the simulator's seconds."""
    manifest = read_manifest(directory)
    accelerator = Accelerator.from_mapping(manifest["accelerator"], str(directory / "manifest.json"))
    runnable = [entry for entry in manifest["layers"] if "folder" in entry]
    if not runnable:
        raise InputError(f"{directory} has no layer to run: every kernel of its policy is pruned.")
    jobs, expected = [], []
    for entry in runnable:
        program, weights, values, result = (
            np.fromfile(directory / entry["folder"] / f"{image}.bin", dtype="<u8") for image in IMAGES
        )
        poison = np.full(len(result), POISON, dtype=np.uint64)
        jobs.append(
            Job(
                np.concatenate([program, weights, values, poison]),
                entry["program_address"],
                entry["expected_address"],
                len(result),
                cycle_limit=4 * entry["cycles"] + 100_000,
            )
        )
        expected.append(result)
    verilog = (directory / "rtl" / f"{TOP}.v").read_text(encoding="utf-8")
    simulated = simulate_jobs(jobs, accelerator, waves=waves, progress=progress, verilog=verilog)
    for entry, outcome in zip(runnable, simulated.outcomes, strict=True):
        if outcome.error:
            raise MachineError(f"layer {entry['name']!r} stopped with error code {outcome.error}")
    runs = [
        PackageRun(entry, outcome.cycles, int((outcome.results.view("<i4") != want.view("<i4")).sum()))
        for entry, outcome, want in zip(runnable, simulated.outcomes, expected, strict=True)
    ]
    return runs, simulated.seconds
