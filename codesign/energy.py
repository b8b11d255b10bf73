"""What a layer's energy is: the measured or estimated switching of a machine, and the integers that it works on."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from codesign.resources import resource_law
from codesign.switching.streams import layer_switching
from hardware.accelerator import Accelerator, accelerator_names, load_accelerator
from hardware.cycles import layer_cycles
from hardware.energy import Energy, EnergyCalibration, layer_energy, load_energy, scaled
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.schedule import MAX_BITS, Schedule
from policies.quantizers import activation_scale, levels
from rtl.verilog import gateware_hash

MEASURED = {"bit_serial": "bitserial-tiny", "serial_weight": "stripes-tiny", "bit_fusion": "fusion-tiny"}
"""By kind of array, the machine that estimates for others start from."""
LAW = "xc7z020"
"""The device whose resource law gives other machines' registers and block RAMs."""


def machine_energy(accelerator: Accelerator) -> tuple[EnergyCalibration, str] | None:
    """The calibration to price with, and how it was come by; None if the project holds none.

    Raises
    ------
    InputError
        It was measured on another gateware.
    """
    name = accelerator.name
    own = name in accelerator_names() and load_accelerator(name) == accelerator
    if own and (calibration := load_energy(name)):
        calibration.check(gateware_hash(accelerator.kind), f"the switching of {name}")
        return calibration, f"switching measured on {name}"
    start = MEASURED[accelerator.kind]
    measured, law = load_energy(start), resource_law(LAW, accelerator.kind)
    if measured is None or law is None:
        return None
    measured.check(gateware_hash(accelerator.kind), f"the switching of {start}")
    used = law.predict(accelerator)
    return scaled(measured, used.ff, used.bram36), f"switching scaled from {start}: an estimate"


def energy_of(plan: Schedule, calibration: EnergyCalibration, operands: Operands, seed: int = 0) -> Energy:
    """Dynamic energy of a layer that works on these integers.

    Parameters
    ----------
    seed:
        Draws the tiles whose streams are followed.
    """
    return layer_energy(plan, layer_cycles(plan), layer_switching(operands, plan, seed), calibration)


def typical_operands(layer: Layer, weight_bits: Sequence[int], activation_bits: int, seed: int = 0) -> Operands:
    """Integers for a layer whose own are not known: of one image, which stands for all.

    Normal weights and half-normal activations (signed: normal ones), quantized with the step that makes the squared
    error least, as `policies.quantizers` does.
    """
    rng = np.random.default_rng(seed)
    steps = np.array([1.0, *(_best_step(bits, True) for bits in range(1, MAX_BITS + 1))], dtype=np.float32)
    low, high = np.array([(0, 0), *(levels(bits, True) for bits in range(1, MAX_BITS + 1))], dtype=np.float32).T
    widths = np.array(weight_bits)[:, None, None, None]
    shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
    weights = _quantize(rng.standard_normal(shape, dtype=np.float32), steps[widths], low[widths], high[widths])
    image = rng.standard_normal((1, layer.in_channels, layer.in_height, layer.in_width), dtype=np.float32)
    signed = layer.signed_activations
    step = np.float32(_best_step(activation_bits, signed))
    activations = _quantize(image if signed else np.abs(image), step, *levels(activation_bits, signed))
    return Operands(layer, weights, activations, tuple(weight_bits), activation_bits)


def _quantize(values: np.ndarray, step: Any, low: Any, high: Any) -> np.ndarray:
    """int16 levels nearest to the values, which are overwritten."""
    values /= step
    np.round(values, out=values)
    return np.clip(values, low, high, out=values).astype(np.int16)


@lru_cache(maxsize=32)
def _best_step(bits: int, signed: bool) -> float:
    """For normal numbers; half-normal ones if not signed."""
    values = torch.from_numpy(np.random.default_rng(0).standard_normal(20_000))
    return float(activation_scale(values if signed else values.abs(), bits, signed))
