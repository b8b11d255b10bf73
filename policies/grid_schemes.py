"""AutoQNN's schemes whose levels are integers times a step: all but res and zoom, see `policies.schemes`."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from hardware.errors import InputError
from hardware.schedule import MAX_BITS
from policies.quantizers import round_half_up
from policies.scheme_base import Scheme, divisor, sign, spread
from policies.scheme_constants import CLIP, CLIP_UNSIGNED, POT, POT_UNSIGNED, QUATERNARY, Constants

_RELU = 2**0.5
"""Standard deviation of a normal variable over the root mean square of what a ReLU leaves of it."""
_CONSTANT = 1e-5
"""Deviation over magnitude below which values are taken to be constant: rounding alone makes as much."""


class Grid(Scheme):
    """A scheme whose levels are integers, its numerators, times one step."""

    mid_rise: ClassVar[bool] = False
    """If signed, the numerators are all odd numbers within ``+-(2**bits - 1)``."""

    def _numerators(self, bits: int) -> list[int]:
        """Rising; here those of a mid-rise scheme."""
        return list(range(1 - 2**bits, 2**bits, 2))

    @abstractmethod
    def _step(self, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        """Parameters without their last dimension; 0 for a zero tensor."""

    @abstractmethod
    def _round(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        """Numerators, as floats. Parameters are spread over x's dimensions."""

    def quantize(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        self._check(bits)
        x, parameters = x.detach(), spread(parameters.detach(), x)
        return self._round(x, bits, parameters) * self._step(bits, parameters)

    def levels(self, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        self._check(bits)
        return self._step(bits, parameters.detach())[..., None] * parameters.new_tensor(self._numerators(bits))

    def bipolar(self, grouped: bool = False) -> bool:
        return self.signed and self.mid_rise and not grouped

    def machine_bits(self, bits: int, grouped: bool = False) -> int:
        self._check(bits)
        # Bipolar planes count +-1 each: of n of them the largest number is 2**n - 1, and there is no plane of the sign.
        planes = self._numerators(bits)[-1].bit_length() + (self.signed and not self.bipolar(grouped))
        if planes > MAX_BITS:
            raise InputError(
                f"scheme {self.name!r} at {bits} bits needs integers of {planes} bits in this layer, but the machine "
                f"has {MAX_BITS} at most: give it fewer bits."
            )
        return planes

    def integers(
        self, x: torch.Tensor, bits: int, parameters: torch.Tensor, grouped: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.machine_bits(bits, grouped)
        numerators = self._round(x.detach(), bits, spread(parameters.detach(), x)).long()
        u = (numerators - 1) // 2 if self.bipolar(grouped) else numerators
        return u, self._step(bits, parameters.detach())


class Binary(Grid):
    """``a * sign(x)``, a the mean magnitude (XNOR-Net, arXiv 1603.05279)."""

    name, letter, widths, mid_rise = "binary", "B", (1,), True

    def _statistics(self, rows: torch.Tensor, bits: int) -> list[torch.Tensor]:
        return [rows.abs().mean(-1)]

    def _step(self, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        return parameters[..., 0]

    def _round(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        return sign(x)


class Ternary(Grid):
    """0 up to 0.7 of the mean magnitude, beyond it +-a, the mean magnitude there (TWN, arXiv 1605.04711).

    Parameters: twice that threshold, and a.
    """

    name, letter, widths = "ternary", "T", (2,)

    def _statistics(self, rows: torch.Tensor, bits: int) -> list[torch.Tensor]:
        cell = 1.4 * rows.abs().mean(-1)
        signs = _nearest(rows, cell[..., None], -1, 1)
        return [cell, (signs * rows).sum(-1) / signs.abs().sum(-1).clamp(min=1)]

    def _numerators(self, bits: int) -> list[int]:
        return [-1, 0, 1]

    def _step(self, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        return parameters[..., 1]

    def _round(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        return _nearest(x, parameters[..., 0], -1, 1)


class Quaternary(Grid):
    """Clip at 2 bits, but for the gradient, which passes everywhere (VecQ). Parameter: the distance of two levels."""

    name, letter, widths, mid_rise = "quaternary", "Q", (2,), True

    def _statistics(self, rows: torch.Tensor, bits: int) -> list[torch.Tensor]:
        return [QUATERNARY * _deviation(rows)]

    def _step(self, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        return parameters[..., 0] / 2

    def _round(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        return _nearest_odd(x, parameters[..., 0], bits)


class Fixed(Grid):
    """Integers times the power of two that just holds the largest magnitude (T-DLA).

    Parameter: that magnitude, and not the power of two, so that an average over batches gives a power of two too.
    """

    name, letter, momentum = "fixed", "F", 0.99

    def _statistics(self, rows: torch.Tensor, bits: int) -> list[torch.Tensor]:
        return [rows.abs().amax(-1)]

    def _numerators(self, bits: int) -> list[int]:
        high = 2 ** (bits - self.signed) - 1
        return list(range(-high if self.signed else 0, high + 1))

    def _step(self, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        largest = parameters[..., 0]
        # The exponent as it is stored, which is floor(log2) + 1: log2 itself may round up to the next integer.
        exponent = torch.frexp(largest).exponent - (bits - self.signed)
        return torch.where(largest > 0, torch.exp2(exponent.to(largest.dtype)), 0.0)

    def _round(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        integers = self._numerators(bits)
        return _nearest(x, self._step(bits, parameters), integers[0], integers[-1])


class Clip(Grid):
    """The nearest of equally spaced levels, their distance what suits a normal distribution best.

    Parameter: that distance. Signed there is no zero among them; the mean is not taken off.
    """

    name, letter, mid_rise = "clip", "C", True

    def inside(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        levels, step = self._numerators(bits), self._step(bits, spread(parameters, x))
        return (x >= levels[0] * step) & (x <= levels[-1] * step)

    def _statistics(self, rows: torch.Tensor, bits: int) -> list[torch.Tensor]:
        return [CLIP[bits] * _deviation(rows) if self.signed else CLIP_UNSIGNED[bits] * _RELU * _rms(rows)]

    def _numerators(self, bits: int) -> list[int]:
        return super()._numerators(bits) if self.signed else list(range(2**bits))

    def _step(self, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        return parameters[..., 0] / 2 if self.signed else parameters[..., 0]

    def _round(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        cell = parameters[..., 0]
        return _nearest_odd(x, cell, bits) if self.signed else _nearest(x, cell, 0, 2**bits - 1)


@dataclass(frozen=True)
class Pot(Grid):
    """Powers of two times a. Parameter: a. Signed, the logarithm is rounded; unsigned, the value."""

    constants: Constants = "optimal"
    """Of the signed scheme."""

    name, letter, widths = "pot", "P", (2, 3, 4)

    def _statistics(self, rows: torch.Tensor, bits: int) -> list[torch.Tensor]:
        if self.signed:
            return [POT[self.constants][bits] * _deviation(rows)]
        return [POT_UNSIGNED[bits] * _RELU * _rms(rows)]

    def _numerators(self, bits: int) -> list[int]:
        if not self.signed:
            return [0, *(2**n for n in range(2**bits - 1))]
        halves = [1, *(2 ** (n + 1) for n in range(1, 2 ** (bits - 1)))]
        return [*(-n for n in reversed(halves)), *halves]

    def _step(self, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        return parameters[..., 0] / 2 if self.signed else parameters[..., 0]

    def _round(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        ratio = x.abs() / divisor(parameters[..., 0])
        if self.signed:
            power = round_half_up(torch.log2(ratio)).clamp(0, 2 ** (bits - 1) - 1)
            return sign(x) * torch.where(power > 0, torch.exp2(power + 1), 1.0)
        # Between 2**n and 2**(n + 1) the middle is at 1.5 * 2**n; below 1 it is at a half.
        power = (torch.floor(torch.log2(ratio / 1.5)) + 1).clamp(0, 2**bits - 2)
        return torch.where((ratio >= 0.5) & (x > 0), torch.exp2(power), 0.0)


def _nearest(x: torch.Tensor, step: torch.Tensor, low: int, high: int) -> torch.Tensor:
    return round_half_up(x / divisor(step)).clamp(low, high)


def _nearest_odd(x: torch.Tensor, cell: torch.Tensor, bits: int) -> torch.Tensor:
    """The nearest odd number of half cells, of ``2**bits``."""
    return 2 * round_half_up(x / divisor(cell) - 0.5).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) + 1


def _rms(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().mean(-1).sqrt()


def _deviation(rows: torch.Tensor) -> torch.Tensor:
    """Standard deviation; of constant values, which have none, their magnitude: 0 would quantize them to 0."""
    deviation, magnitude = rows.std(-1, correction=0), _rms(rows)
    return torch.where(deviation > _CONSTANT * magnitude, deviation, magnitude)
