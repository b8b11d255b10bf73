"""A network on the RTL, image by image: as one program, or layer by layer, against reference and cycle model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from codesign.execution import run_on_rtl
from codesign.integers import IntegerNetwork, IntegerRun
from codesign.program import Program, build_program
from hardware.accelerator import Accelerator
from hardware.cycles import program_cycles
from hardware.errors import InputError, unknown
from hardware.layer import Layer
from hardware.operands import Operands
from sim.reference import reference_sums
from sim.run import Job, MachineError, simulate_jobs


def select_layers(layers: Sequence[Layer], wanted: str) -> list[str]:
    """Names of the layers to run, from a comma-separated list."""
    known = [layer.name for layer in layers]
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise unknown("layer", name, known)
    if not names:
        raise InputError("--layers names no layer: give names separated by commas.")
    return [name for name in known if name in names]


def per_image(operands: Operands) -> list[Operands]:
    """One run of the layer per image, as an edge device would see them."""
    layer = replace(operands.layer, images=1)
    return [
        replace(operands, layer=layer, activations=operands.activations[index : index + 1])
        for index in range(operands.layer.images)
    ]


def simulate_layers(
    run: IntegerRun,
    names: Sequence[str],
    accelerator: Accelerator,
    waves: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Run the named layers of a recorded integer run, each image as a program of its own that leaves raw sums.

    Returns
    -------
    ``layers`` (name, bits, rtl_cycles and model_cycles per image, outputs and mismatches over all images), their totals
    ``rtl_cycles``, ``model_cycles``, ``mismatches``, and ``cycles_per_second`` of the simulator. Where images differ in
    cycles, which no schedule lets them, ``rtl_cycles`` is that of the image farthest from the model.
    """
    chosen = [layer for layer in run.layers if layer.operands.layer.name in names]
    split = [per_image(layer.operands) for layer in chosen]
    execution = run_on_rtl([one for images in split for one in images], accelerator, waves=waves, progress=progress)
    results = iter(execution.layers)
    rows: list[dict[str, Any]] = []
    for layer, images in zip(chosen, split, strict=True):
        mine = [next(results) for _ in images]
        worst = max(mine, key=lambda result: abs(result.rtl_cycles - result.model_cycles))
        repeats = layer.operands.layer.repeats
        # Two references: the integer network's sums, which its accuracy rests on, and plain convolution by definition.
        expected = reference_sums(layer.operands)
        wrong = [(r.outputs[0] != e) | (s != e) for r, s, e in zip(mine, layer.sums, expected, strict=True)]
        rows.append(
            {
                "name": layer.operands.layer.name,
                "bits": compact_bits(layer.operands.weight_bits, layer.operands.activation_bits),
                "rtl_cycles": repeats * worst.rtl_cycles,
                "model_cycles": repeats * worst.model_cycles,
                "outputs": int(layer.sums.size),
                "mismatches": sum(int(one.sum()) for one in wrong),
            }
        )
    totals = {key: sum(row[key] for row in rows) for key in ("rtl_cycles", "model_cycles", "mismatches")}
    return {"layers": rows, **totals, "cycles_per_second": execution.cycles_per_second}


def compact_bits(weight_bits: tuple[int, ...], activation_bits: int) -> list[Any]:
    """Weight bits, one number or one per kernel, and activation bits."""
    return [weight_bits[0] if len(set(weight_bits)) == 1 else list(weight_bits), activation_bits]


def simulate_network(
    network: IntegerNetwork,
    images: torch.Tensor,
    accelerator: Accelerator,
    waves: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Run the whole network as one program per image: the host writes the image and starts the machine.

    Every tensor that the program leaves in memory is compared with the integer network's node, not only the scores.

    Returns
    -------
    As `simulate_layers`; a row is a layer, or what else the program computes, in the order of the program. Only the
    program as a whole has ``rtl_cycles``. Also ``scores`` and ``score_mismatches`` over all images, ``instructions``.
    """
    program = build_program(network, accelerator, (images.shape[1], images.shape[2], images.shape[3]))
    model = program.cycles()
    jobs = [
        Job(
            program.with_image(image[None].double().numpy()),
            program.address,
            0,
            len(program.memory),
            cycle_limit=4 * model + 100_000,
        )
        for image in images
    ]
    simulated = simulate_jobs(jobs, accelerator, waves=waves, progress=progress)
    rows = {row["name"]: row for row in layer_rows(program, network)}
    wrong_scores = 0
    cycles = model
    for image, outcome in zip(images, simulated.outcomes, strict=True):
        if outcome.error:
            raise MachineError(f"the program stopped with error code {outcome.error}")
        run = network.run(image[None], record=True)
        for written in program.written:
            outputs, wrong = written.count_mismatches(outcome.results, run.values[written.value])
            rows[written.name]["outputs"] += outputs
            rows[written.name]["mismatches"] += wrong
        scores = program.scores
        wrong_scores += int(
            (program.read_scores(outcome.results[scores.base : scores.base + scores.words]) != run.scores[0]).sum()
        )
        if abs(outcome.cycles - model) >= abs(cycles - model):
            cycles = outcome.cycles
    return {
        "layers": list(rows.values()),
        "rtl_cycles": cycles,
        "model_cycles": model,
        "mismatches": sum(row["mismatches"] for row in rows.values()) + wrong_scores,
        "cycles_per_second": simulated.cycles / simulated.seconds,
        "instructions": len(program.steps),
        "scores": len(images) * program.classes,
        "score_mismatches": wrong_scores,
    }


def layer_rows(program: Program, network: IntegerNetwork) -> list[dict[str, Any]]:
    """What each layer, pool and addition costs by the model, in the order of the program, and no outputs yet."""
    rows: dict[str, dict[str, Any]] = {}
    for step in program.steps:
        layer = network.layers.get(step.name)
        bits = compact_bits(layer.weight_bits, layer.activation_bits) if layer else None
        row = rows.setdefault(
            step.name,
            {"name": step.name, "bits": bits, "rtl_cycles": None, "model_cycles": 0, "outputs": 0, "mismatches": 0},
        )
        row["model_cycles"] += program_cycles((step.work,), program.accelerator.memory)
    return list(rows.values())
