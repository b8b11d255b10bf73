"""What a layer's energy is: the measured or estimated switching of a machine, and the integers that it works on."""

from collections.abc import Sequence

import numpy as np

from codesign.resources import resource_law
from codesign.streams import layer_switching
from hardware.accelerator import Accelerator, accelerator_names, load_accelerator
from hardware.cycles import layer_cycles
from hardware.energy import Energy, EnergyCalibration, layer_energy, load_energy, scaled
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.schedule import Schedule
from rtl.verilog import gateware_hash

MEASURED = "bitserial-tiny"
"""The machine that estimates for others start from."""
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
        calibration.check(gateware_hash(), f"the switching of {name}")
        return calibration, f"switching measured on {name}"
    measured, law = load_energy(MEASURED), resource_law(LAW)
    if measured is None or law is None:
        return None
    measured.check(gateware_hash(), f"the switching of {MEASURED}")
    used = law.predict(accelerator)
    return scaled(measured, accelerator, used.ff, used.bram36), f"switching scaled from {MEASURED}: an estimate"


def energy_of(plan: Schedule, calibration: EnergyCalibration, operands: Operands, seed: int = 0) -> Energy:
    """Dynamic energy of a layer that works on these integers.

    Parameters
    ----------
    seed:
        Draws the tiles whose streams are followed.
    """
    return layer_energy(plan, layer_cycles(plan), layer_switching(operands, plan, seed), calibration)


def typical_operands(layer: Layer, weight_bits: Sequence[int], activation_bits: int, seed: int = 0) -> Operands:
    """Integers for a layer whose own are not known: normal weights, half-normal activations (signed: normal ones).

    Three standard deviations are the largest integer; what lies beyond is clipped.
    """
    rng = np.random.default_rng(seed)
    widths = np.array(weight_bits, dtype=np.int16)[:, None, None, None]
    shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
    weights = np.where(widths > 0, normal_integers(rng, shape, np.maximum(widths, 1), True), 0)
    image = (layer.images, layer.in_channels, layer.in_height, layer.in_width)
    activations = normal_integers(rng, image, np.int16(activation_bits), layer.signed_activations)
    return Operands(layer, weights, activations, tuple(weight_bits), activation_bits)


def normal_integers(
    rng: np.random.Generator, shape: Sequence[int], bits: np.ndarray | np.int16, signed: bool
) -> np.ndarray:
    """int16 integers of a width, or of widths that broadcast to the shape, see `typical_operands`."""
    one = np.int16(1)
    low, high = (-(one << bits - one), (one << bits - one) - one) if signed else (bits * 0, (one << bits) - one)
    drawn = rng.standard_normal(tuple(shape), dtype=np.float32)
    drawn *= np.maximum(one, high) / np.float32(3)
    np.round(drawn, out=drawn)
    return np.clip(drawn if signed else np.abs(drawn), low, high).astype(np.int16)
