"""Calibration: random layers on the RTL against the cycle model and against an independent reference."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from codesign.execution import run_on_rtl
from codesign.sampling import random_operands
from codesign.stalls import hesitation, uniform_stalls
from hardware.accelerator import Accelerator, Memory
from hardware.errors import InputError
from hardware.operands import Operands
from sim.reference import reference_sums

LARGEST_LATENCY = 1000
PORTS = (1, 2, 4)


def calibrate(
    accelerator: Accelerator,
    samples: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
    latencies: tuple[int, int] | None = None,
    ports: Sequence[int] = (),
    stalls: float | None = None,
) -> dict[str, Any]:
    """Measure ``samples`` random layers on each machine.

    Nothing is fitted: the model has no free constant, so every sample is held out.

    Parameters
    ----------
    progress:
        Called with the number of finished samples.
    latencies:
        Lowest and highest latency of the memory, in cycles; each sample draws its own. By default the accelerator's.
    ports:
        See `variants`.
    stalls:
        Probability with which every channel of the memory hesitates in a cycle. The model then counts what is to be
        expected, see `codesign.stalls`.

    Returns
    -------
    ``samples``, ``max_abs_cycle_error``, ``mean_abs_cycle_error``, ``output_mismatches``, ``cycles_per_second`` and
    ``rows``, one per sample, those of one machine after those of the other; with ``stalls`` also that: the probability,
    the mean hesitation in cycles, and of the relative errors (see `relative_errors`) mean, deviation and percentiles.

    Raises
    ------
    InputError
        A number is out of range.
    """
    if samples < 1:
        raise InputError(f"expected at least 1 sample, got {samples}: raise --samples.")
    rows: list[dict[str, Any]] = []
    cycles, seconds = 0, 0.0
    for machine in variants(accelerator, ports):
        drawn = draw_samples(machine, samples, seed, latencies)
        rng = np.random.default_rng([seed, 2])
        execution = run_on_rtl(
            [operands for operands, _ in drawn],
            machine,
            [memory for _, memory in drawn],
            progress=progress and partial(_report_sum, progress, len(rows)),
            stalls=() if stalls is None else [uniform_stalls(stalls, int(rng.integers(2**30))) for _ in drawn],
        )
        cycles, seconds = cycles + execution.rtl_cycles, seconds + execution.seconds
        for (operands, memory), result in zip(drawn, execution.layers, strict=True):
            wrong = int((result.outputs != reference_sums(operands)).sum())
            rows.append(_row(operands, memory, result.rtl_cycles, result.model_cycles, wrong))
    errors = [abs(row["rtl_cycles"] - row["model_cycles"]) for row in rows]
    report = {
        "samples": len(rows),
        "max_abs_cycle_error": max(errors),
        "mean_abs_cycle_error": float(np.mean(errors)),
        "output_mismatches": sum(row["mismatches"] for row in rows),
        "cycles_per_second": cycles / seconds,
        "rows": rows,
    }
    return report if stalls is None else report | {"stalls": _distribution(rows, stalls)}


def variants(accelerator: Accelerator, ports: Sequence[int] = ()) -> list[Accelerator]:
    """The accelerator with each of these numbers of memory ports that divides its array; by default as it is.

    Raises
    ------
    InputError
        None of them does, or no machine has so many.
    """
    if not ports:
        return [accelerator]
    array = accelerator.array
    if wrong := [count for count in ports if count not in PORTS]:
        raise InputError(f"a machine has 1, 2 or 4 memory ports, got {wrong[0]}: change --ports.")
    fitting = [count for count in dict.fromkeys(ports) if array.dm % count == array.dn % count == 0]
    if not fitting:
        raise InputError(
            f"none of --ports {','.join(map(str, ports))} divides the {array.dm}x{array.dk}x{array.dn} array of "
            f"{accelerator.name}: add 1."
        )
    memory = accelerator.memory
    return [accelerator.model_copy(update={"memory": memory.model_copy(update={"ports": count})}) for count in fitting]


def draw_samples(
    machine: Accelerator, samples: int, seed: int, latencies: tuple[int, int] | None = None
) -> list[tuple[Operands, Memory]]:
    """The layers that `calibrate` measures on a machine, and the memory that each has."""
    low, high = latencies or (machine.memory.latency, machine.memory.latency)
    if not 0 <= low <= high <= LARGEST_LATENCY:
        raise InputError(
            f"expected two latencies, the lower one first, of 0 to {LARGEST_LATENCY} cycles, got {low},{high}: "
            "change --latencies."
        )
    rng = np.random.default_rng(seed)
    drawn = [random_operands(rng, machine, number) for number in range(samples)]
    latency = np.random.default_rng([seed, 1]).integers(low, high + 1, size=samples)
    return [
        (operands, machine.memory.model_copy(update={"latency": int(cycles)}))
        for operands, cycles in zip(drawn, latency, strict=True)
    ]


def relative_errors(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Machine minus model, divided by the machine's cycles."""
    rtl, model = (np.array([row[key] for row in rows], dtype=float) for key in ("rtl_cycles", "model_cycles"))
    return (rtl - model) / rtl


def residual_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A line per sample; ``error`` is machine minus model, in cycles."""
    table = pd.DataFrame(rows)
    table["bits"] = [bits_range(row["bits"]) for row in rows]
    table["error"] = table["rtl_cycles"] - table["model_cycles"]
    return table[["layer", "bits", "latency", "ports", "rtl_cycles", "model_cycles", "error", "mismatches"]]


def bits_range(bits: list[Any]) -> str:
    """``W,A``, with ``lowest-highest`` for weights whose width is each kernel's own."""
    weights, activations = bits
    return f"{weights if isinstance(weights, int) else f'{min(weights)}-{max(weights)}'},{activations}"


def _report_sum(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def _row(operands: Operands, memory: Memory, rtl_cycles: int, model_cycles: int, wrong: int) -> dict[str, Any]:
    layer = operands.layer
    return {
        "layer": f"{layer.kind} C{layer.in_channels} M{layer.out_channels} {layer.in_height}x{layer.in_width} "
        f"k{_by(layer.kernel)} s{_by(layer.stride)} p{_by(layer.padding)} d{_by(layer.dilation)} "
        f"g{layer.groups} images{layer.images}",
        "m": layer.out_channels,
        "k": layer.reduction,
        "n": layer.pixels,
        "bits": [_compact(operands.weight_bits), operands.activation_bits],
        "signed": [operands.signed_weights, layer.signed_activations],
        "bipolar": operands.bipolar,
        "latency": memory.latency,
        "ports": memory.ports,
        "rtl_cycles": rtl_cycles,
        "model_cycles": model_cycles,
        "mismatches": wrong,
    }


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


def _distribution(rows: Sequence[dict[str, Any]], probability: float) -> dict[str, float]:
    errors = relative_errors(rows)
    low, median, high = np.percentile(errors, [5, 50, 95])
    return {
        "probability": probability,
        "hesitation": hesitation(uniform_stalls(probability, 0)),
        "mean": float(errors.mean()),
        "std": float(errors.std()),
        "p5": float(low),
        "p50": float(median),
        "p95": float(high),
    }


def _compact(bits: tuple[int, ...]) -> int | list[int]:
    """One width, or one per kernel."""
    return bits[0] if len(set(bits)) == 1 else list(bits)
