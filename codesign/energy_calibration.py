"""Energy calibration: random layers on the mapped machine, and a fit of the energy model to what they switch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codesign.lowering import LoweredLayer, lower
from codesign.requantized import RequantizedLayer, lower_requantized, random_rules
from codesign.sampling import random_operands
from codesign.switching.streams import layer_switching
from hardware.accelerator import Accelerator
from hardware.cycles import layer_cycles
from hardware.energy import (
    BLOCK_RAM_PICOJOULES,
    FEATURES,
    PARTS,
    PIN_PICOJOULES,
    EnergyCalibration,
    Part,
    feature_values,
)
from hardware.errors import InputError
from hardware.operands import Operands
from hardware.passes import Output
from hardware.schedule import Schedule
from rtl.verilog import gateware_hash
from sim.activity import REST, Activity, measure_activity
from sim.job import Job
from sim.netlist import mapped_machine
from sim.reference import reference_sums
from sim.run import MachineError
from sim.synthesis import tool_version

CYCLES = (500, 12_000)
"""Fewest and most cycles of a sample: short ones are mostly start, long ones take minutes."""
OUTPUTS = (Output(sums=True), Output(values=True), Output(plane_bits=4), Output(plane_bits=8))
UNITS = {"array": ("array",), "buffers": ("lhs_buffer", "rhs_buffer")}
"""Units of `sim.netlist` of each part; ``rest`` is all others."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A layer, its data's name, its program and what the model knows of it."""

    operands: Operands
    data: str
    schedule: Schedule
    job: Job
    features: dict[str, float]


def calibrate_energy(
    accelerator: Accelerator,
    samples: int,
    held_out: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
    renew: str = "",
) -> tuple[EnergyCalibration, list[dict[str, Any]]]:
    """Measure, fit, and test on layers that were kept apart.

    Parameters
    ----------
    samples, held_out:
        Layers to fit to, at least 20, and to test on, at least 1.
    renew:
        The command that measures again.

    Returns
    -------
    The calibration, and a row per layer: ``layer, data, bits, cycles, held_out`` and, by part, pins that toggled and
    what the model says.

    Raises
    ------
    MachineError
        The mapped machine computes something else than the model, or takes another time.
    """
    check_samples(samples, held_out)
    from sklearn.linear_model import LinearRegression  # takes a second, which no other command shall

    rng = np.random.default_rng(seed)
    drawn = [draw_sample(rng, accelerator, number) for number in range(samples + held_out)]
    measured: list[Activity] = []
    for one, activity in zip(drawn, measure_activity([s.job for s in drawn], accelerator, progress), strict=True):
        cycles = layer_cycles(one.schedule)
        if activity.outcome.error or activity.outcome.cycles != cycles:
            raise MachineError(
                f"the mapped machine took {activity.outcome.cycles} cycles, the model says {cycles}: "
                f"{one.operands.layer}"
            )
        measured.append(activity)
    values = [one.features | {"cycles": float(a.cycles)} for one, a in zip(drawn, measured, strict=True)]
    truth = {part: np.array([pins(activity, part) for activity in measured]) for part in PARTS}
    parts, predicted = {}, {}
    for part, features in FEATURES[accelerator.kind].items():
        matrix = np.array([[one[name] for name in features] for one in values])
        weights = 1 / truth[part][:samples] ** 2  # relative errors count
        fit = LinearRegression(fit_intercept=False, positive=True)
        fit.fit(matrix[:samples], truth[part][:samples], sample_weight=weights)
        predicted[part] = matrix @ fit.coef_
        errors = np.abs(predicted[part] / truth[part] - 1)[samples:]
        coefficients = {name: float(f"{c:.6g}") for name, c in zip(features, fit.coef_, strict=True)}
        parts[part] = Part(
            coefficients=coefficients, median_error=_short(np.median(errors)), max_error=_short(errors.max())
        )
    netlist = mapped_machine(accelerator)
    rams = sum(netlist.block_rams.values())
    ram_energy = BLOCK_RAM_PICOJOULES.value * rams * np.array([activity.cycles for activity in measured])
    both = [PIN_PICOJOULES.value * (one["array"] + one["buffers"]) + ram_energy for one in (predicted, truth)]
    errors = np.abs(both[0] / both[1] - 1)[samples:]
    calibration = EnergyCalibration(
        gateware=gateware_hash(accelerator.kind),
        tools={"yosys": tool_version("yosys")},
        renew=renew or f"codesign calibrate --hardware {accelerator.name} --energy --samples {samples} --seed {seed}",
        hardware=accelerator.name,
        kind=accelerator.kind,
        ff=netlist.ff,
        **parts,
        clock_pins=sum(netlist.clock_pins.values()),
        block_rams=rams,
        dynamic_error=(_short(np.median(errors)), _short(errors.max())),
        samples=samples,
        held_out=held_out,
        seed=seed,
    )
    rows = [
        {
            "layer": str(one.operands.layer),
            "data": one.data,
            "weight_bits": max(one.operands.weight_bits),
            "activation_bits": one.operands.activation_bits,
            "cycles": activity.cycles,
            "held_out": number >= samples,
            **{f"{part}_pins": int(truth[part][number]) for part in PARTS},
            **{f"{part}_model": round(float(predicted[part][number])) for part in PARTS},
        }
        for number, (one, activity) in enumerate(zip(drawn, measured, strict=True))
    ]
    return calibration, rows


def check_samples(samples: int, held_out: int) -> None:
    """`InputError` if they are too few to fit to and to judge by."""
    if samples < 20 or held_out < 1:
        raise InputError(f"expected at least 20 samples and 1 held out, got {samples} and {held_out}: take more.")


def _short(number: Any) -> float:
    return float(f"{float(number):.4g}")


def pins(activity: Activity, part: str) -> int:
    """Pins that toggled in a part of the machine."""
    named = {unit for units in UNITS.values() for unit in units}
    return sum(
        count
        for unit, count in activity.pins.items()
        if unit in UNITS.get(part, ()) or (part == REST and unit not in named)
    )


def draw_sample(rng: np.random.Generator, accelerator: Accelerator, number: int) -> Sample:
    """A random layer of one width, with uniform, normal or sparse integers, that takes a moment to simulate."""
    while True:
        operands = random_operands(rng, accelerator, number)
        if len(set(operands.weight_bits)) > 1 or operands.bipolar:
            continue
        data = DATA[int(rng.integers(len(DATA)))]
        operands = _with_data(rng, operands, data)
        output = OUTPUTS[int(rng.integers(len(OUTPUTS)))]
        lowered: LoweredLayer | RequantizedLayer
        try:
            if output.sums:
                lowered = lower(operands, accelerator)
            else:
                rules = random_rules(rng, operands, reference_sums(operands), output.plane_bits)
                lowered = lower_requantized(operands, accelerator, output, rules)
        except InputError:  # with constants it does not fit the weight buffer
            continue
        plan = lowered.schedule
        cycles = layer_cycles(plan)
        if not CYCLES[0] <= cycles <= CYCLES[1]:
            continue
        job = Job(
            lowered.image,
            0,
            lowered.result_address,
            lowered.result_words,
            cycle_limit=2 * cycles + 10_000,
            write_range=(lowered.result_address, len(lowered.image)),
        )
        switching = layer_switching(operands, plan, seed=0, everything=True)
        return Sample(operands, data, plan, job, feature_values(plan, switching, 0)[0])


DATA = ("uniform", "normal", "sparse")
"""Uniform integers; normal weights and half-normal activations; these with half of the activations zero."""


def _with_data(rng: np.random.Generator, operands: Operands, data: str) -> Operands:
    if data == "uniform":
        return operands
    bits = max(operands.weight_bits)
    weights = _normal(rng, operands.weights.shape, bits, operands.signed_weights)
    signed = operands.layer.signed_activations
    activations = _normal(rng, operands.activations.shape, operands.activation_bits, signed)
    if data == "sparse":
        activations *= rng.integers(0, 2, size=activations.shape, dtype=np.int16)
    return replace(operands, weights=weights.astype(np.int64), activations=activations.astype(np.int64))


def _normal(rng: np.random.Generator, shape: Sequence[int], bits: int, signed: bool) -> np.ndarray:
    """int16: normal numbers (their magnitudes, if not signed), three standard deviations the largest integer."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    drawn = rng.standard_normal(tuple(shape), dtype=np.float32)
    drawn *= np.float32(max(1, high)) / np.float32(3)
    np.round(drawn, out=drawn)
    return np.clip(drawn if signed else np.abs(drawn), low, high).astype(np.int16)
