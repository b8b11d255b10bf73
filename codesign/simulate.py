"""A network's layers on the RTL, image by image, against the integer reference and the cycle model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codesign.execution import run_on_rtl
from codesign.integers import IntegerRun
from hardware.accelerator import Accelerator
from hardware.errors import InputError, unknown
from hardware.layer import Layer
from hardware.operands import Operands
from sim.reference import integer_convolution


def select_layers(layers: Sequence[Layer], wanted: str | None) -> list[str]:
    """Names of the layers to run, from a comma-separated list; all without one."""
    known = [layer.name for layer in layers]
    if wanted is None:
        return known
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


def simulate(
    run: IntegerRun,
    names: Sequence[str],
    accelerator: Accelerator,
    waves: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Run the named layers of a recorded integer run, each image as a program of its own.

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
        # Two references: the integer network's sums, which its accuracy rests on, and plain convolution by definition.
        operands = layer.operands
        expected = integer_convolution(operands.weights, operands.activations, operands.layer)
        wrong = [(r.outputs[0] != e) | (s != e) for r, s, e in zip(mine, layer.sums, expected, strict=True)]
        widths = sorted(set(layer.operands.weight_bits))
        rows.append(
            {
                "name": layer.operands.layer.name,
                "bits": [
                    widths[0] if len(widths) == 1 else list(layer.operands.weight_bits),
                    layer.operands.activation_bits,
                ],
                "rtl_cycles": worst.rtl_cycles,
                "model_cycles": worst.model_cycles,
                "outputs": int(layer.sums.size),
                "mismatches": sum(int(one.sum()) for one in wrong),
            }
        )
    totals = {key: sum(row[key] for row in rows) for key in ("rtl_cycles", "model_cycles", "mismatches")}
    return {"layers": rows, **totals, "cycles_per_second": execution.cycles_per_second}
