"""Calibration: random layers on the RTL against the cycle model and against an independent reference."""

from collections.abc import Callable
from typing import Any

import numpy as np

from codesign.execution import run_on_rtl
from codesign.sampling import random_operands
from hardware.accelerator import Accelerator
from hardware.errors import InputError
from sim.reference import reference_sums


def calibrate(
    accelerator: Accelerator, samples: int, seed: int, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Measure ``samples`` random layers.

    Nothing is fitted: the model has no free constant, so every sample is held out.

    Returns
    -------
    ``samples``, ``max_abs_cycle_error``, ``mean_abs_cycle_error``, ``output_mismatches``, ``cycles_per_second`` and
    ``rows``, one per sample.
    """
    if samples < 1:
        raise InputError(f"expected at least 1 sample, got {samples}: raise --samples.")
    rng = np.random.default_rng(seed)
    drawn = [random_operands(rng, accelerator, number) for number in range(samples)]
    execution = run_on_rtl(drawn, accelerator, progress=progress)
    rows: list[dict[str, Any]] = []
    for operands, result in zip(drawn, execution.layers, strict=True):
        layer = operands.layer
        expected = reference_sums(operands)
        rows.append(
            {
                "layer": f"{layer.kind} C{layer.in_channels} {layer.in_height}x{layer.in_width} k{layer.kernel[0]}x"
                f"{layer.kernel[1]} s{layer.stride[0]}x{layer.stride[1]} p{layer.padding[0]}x{layer.padding[1]} "
                f"d{layer.dilation[0]}x{layer.dilation[1]} g{layer.groups} images{layer.images}",
                "m": layer.out_channels,
                "k": layer.reduction,
                "n": layer.pixels,
                "bits": [_compact(operands.weight_bits), operands.activation_bits],
                "signed": [operands.signed_weights, layer.signed_activations],
                "bipolar": operands.bipolar,
                "rtl_cycles": result.rtl_cycles,
                "model_cycles": result.model_cycles,
                "mismatches": int((result.outputs != expected).sum()),
            }
        )
    errors = [abs(row["rtl_cycles"] - row["model_cycles"]) for row in rows]
    return {
        "samples": samples,
        "max_abs_cycle_error": max(errors),
        "mean_abs_cycle_error": float(np.mean(errors)),
        "output_mismatches": sum(row["mismatches"] for row in rows),
        "cycles_per_second": execution.cycles_per_second,
        "rows": rows,
    }


def _compact(bits: tuple[int, ...]) -> int | list[int]:
    """One width, or one per kernel."""
    return bits[0] if len(set(bits)) == 1 else list(bits)
