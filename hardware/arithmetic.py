"""The machine's arithmetic between one layer's sums and the next layer's activations, stated once.

A *value* is an int16 ``v``, saturating, that stands for ``v * 2**-F``; F, the *fraction bits*, is one number for a
whole network. A layer's int32 totals become values by an integer multiplication and a right shift, as in Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 2.2.
Rounding is half up everywhere: a half is added and the fraction dropped by an arithmetic right shift.

========================  ==========================================================================================
layer                     `requantize` of its sums, one multiplier and bias per output channel
addition of two values    `add`; on the machine the total ``a + b`` through `ADDITION`, which gives the same
average pooling           the window's total through `averaging`
max pooling               the largest value of the window; what lies outside the image never wins
ReLU                      ``max(v, 0)``, after all of the above
a layer's input           `to_activations` of values; `image_activations` where the layer reads the image itself
anything else's image     `image_values`
scores                    the last node's values
========================  ==========================================================================================

All functions are exact in int64 NumPy arrays. What is real is float64.
"""

import math
from dataclasses import dataclass

import numpy as np

from hardware.errors import InputError

VALUE_BITS = 16
LOWEST_VALUE, HIGHEST_VALUE = -(2**15), 2**15 - 1
LARGEST_TOTAL = 2**31 - 1
LARGEST_MULTIPLIER = 2**32 - 1
"""Multipliers are unsigned 32-bit numbers."""
SHIFTS = (32, 16)
"""Shifts of a layer, the finer one first."""
BIAS_FRACTION_BITS = 16
"""A bias counts in units of ``2**-16`` of a value and fits signed 32 bits."""
HALF = 1 << (BIAS_FRACTION_BITS - 1)
"""The rounding half, which every bias includes."""
ACTIVATION_SHIFT = 24
LARGEST_ACTIVATION_MULTIPLIER = 2**24 - 1


def saturate(values: np.ndarray) -> np.ndarray:
    """Integers brought into int16's range; the type stays int64."""
    return np.clip(values, LOWEST_VALUE, HIGHEST_VALUE)


def requantize(totals: np.ndarray, multiplier: np.ndarray, bias: np.ndarray, shift: int) -> np.ndarray:
    """Values of totals: ``saturate((totals * multiplier + (bias << (shift - 16))) >> shift)``, whatever its length.

    Parameters
    ----------
    totals:
        int64 within int32's range.
    multiplier, bias:
        int64, broadcast against ``totals``: unsigned 32 bits, and signed 32 bits with the rounding half included.
    shift:
        One of `SHIFTS`.
    """
    # The formula's sum may need 65 bits. Dropping the fraction in two steps changes nothing and stays within 64.
    scaled = (totals * multiplier) >> (shift - BIAS_FRACTION_BITS)
    carry = ((scaled & (2**BIAS_FRACTION_BITS - 1)) + bias) >> BIAS_FRACTION_BITS
    return saturate((scaled >> BIAS_FRACTION_BITS) + carry)


@dataclass(frozen=True, eq=False)
class Requantization:
    """How one node's totals become values: the constants of `requantize`.

    Parameters
    ----------
    multiplier, bias:
        int64, ``(M,)``: one number per output channel, or a single one for all.
    shift:
        One of `SHIFTS`, the same for all channels.
    """

    multiplier: np.ndarray
    bias: np.ndarray
    shift: int

    @classmethod
    def nearest(cls, factors: np.ndarray, biases: np.ndarray, name: str) -> "Requantization":
        """The constants closest to ``value = factor * total + bias``.

        Parameters
        ----------
        factors, biases:
            float64, ``(M,)``, in units of one value (``2**-F``).
        name:
            Who they belong to, for the message.

        Raises
        ------
        InputError
            A negative factor, a factor of ``2**16`` or more, or a bias beyond the values.
        """
        if not (factors >= 0).all():
            raise InputError(
                f"{name} has a scale of {factors.min():g}, but the machine's multipliers are unsigned: "
                "turn the sign of that channel's weights."
            )
        shift = next((one for one in SHIFTS if _rounded(factors, one).max() <= LARGEST_MULTIPLIER), None)
        if shift is None:
            raise InputError(
                f"{name} multiplies its sums by up to {factors.max():g}, but the machine by less than 65536: "
                "calibrate the network on images that reach this layer."
            )
        bias = _rounded(biases, BIAS_FRACTION_BITS) + HALF
        if not (np.abs(bias) < 2.0**31).all():
            raise InputError(
                f"{name} has a bias of {np.abs(biases).max():g} steps between two values, but values end at "
                f"{HIGHEST_VALUE}: choose fewer fraction bits."
            )
        return cls(_rounded(factors, shift).astype(np.int64), bias.astype(np.int64), shift)

    def values(self, totals: np.ndarray) -> np.ndarray:
        """Values of int64 totals ``(N, M, ...)``."""
        shape = (-1, *[1] * (totals.ndim - 2))
        return requantize(totals, self.multiplier.reshape(shape), self.bias.reshape(shape), self.shift)


def _rounded(numbers: np.ndarray, fraction_bits: int) -> np.ndarray:
    """Real numbers in units of ``2**-fraction_bits``, rounded half up; still float64."""
    return np.floor(np.ldexp(numbers, fraction_bits) + 0.5)


ADDITION = Requantization(np.array([1 << 16]), np.array([HALF]), shift=16)
"""Makes ``saturate(a + b)`` of the total ``a + b``: the half alone never reaches the next value."""


def add(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sum of two values, saturating."""
    return saturate(first + second)


def averaging(area: int) -> Requantization:
    """Makes averages of the totals of ``area`` values each.

    Raises
    ------
    InputError
        So many values may leave a total's 32 bits.
    """
    if area * -LOWEST_VALUE > LARGEST_TOTAL:
        raise InputError(
            f"average pooling over {area} values can leave the machine's 32 bits: average over fewer than 65536."
        )
    return Requantization.nearest(np.array([1 / area]), np.zeros(1), "average pooling")


def activation_multiplier(step: float, fraction_bits: int) -> int:
    """The multiplier of `to_activations` nearest to ``2**-F / step``, ``step`` being an activation's unit.

    Values finer than the activations are the rule. A layer whose step is below ``2**-F`` gets the largest multiplier,
    just below 1; one whose step is above ``2**24`` values gets 1, the smallest.
    """
    factor = math.ldexp(1 / step, ACTIVATION_SHIFT - fraction_bits)
    return min(max(math.floor(factor + 0.5), 1), LARGEST_ACTIVATION_MULTIPLIER)


def to_activations(values: np.ndarray, multiplier: int, low: int, high: int) -> np.ndarray:
    """A layer's activations, from ``low`` to ``high``, of int64 values."""
    return np.clip((values * multiplier + (1 << (ACTIVATION_SHIFT - 1))) >> ACTIVATION_SHIFT, low, high)


def image_activations(images: np.ndarray, step: float, low: int, high: int) -> np.ndarray:
    """The host's part: a layer's activations, from ``low`` to ``high``, of a float64 image."""
    return np.clip(np.floor(images / step + 0.5), low, high).astype(np.int64)


def image_values(images: np.ndarray, fraction_bits: int) -> np.ndarray:
    """The host's part: values of a float64 image that something other than a layer reads."""
    return np.clip(_rounded(images, fraction_bits), LOWEST_VALUE, HIGHEST_VALUE).astype(np.int64)


def fraction_bits(largest: float) -> int:
    """F, from 0 to 15, such that twice the largest magnitude still is a value; 15 where all are 0."""
    part, exponent = math.frexp(largest)  # largest = part * 2**exponent, part in [0.5, 1)
    doubled = exponent + (part > 0.5)  # ceil(log2(2 * largest)), exact
    return min(max(VALUE_BITS - 1 - doubled, 0), VALUE_BITS - 1) if largest > 0 else VALUE_BITS - 1
