"""What all of AutoQNN's quantization schemes have in common, see `policies.schemes`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hardware.errors import InputError
from hardware.schedule import MAX_BITS


class _StraightThrough(torch.autograd.Function):
    """The gradient passes unchanged (Bengio et al., arXiv 1308.3432), for some schemes only within their range."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scheme: "Scheme", bits: int, parameters: torch.Tensor) -> torch.Tensor:
        inside = scheme.inside(x, bits, parameters)
        if inside is not None:
            ctx.save_for_backward(inside)
        return scheme.quantize(x, bits, parameters)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        inside = ctx.saved_tensors
        return (gradients[0] * inside[0] if inside else gradients[0]), None, None, None


@dataclass(frozen=True)
class Scheme(ABC):
    """One scheme. ``signed=False`` is its variant for tensors without negative values, after a ReLU."""

    signed: bool = True

    name: ClassVar[str]
    letter: ClassVar[str]
    widths: ClassVar[tuple[int, ...]] = tuple(range(2, MAX_BITS + 1))
    momentum: ClassVar[float] = 0.9
    """Share of the old value in the moving average of an activation's parameters."""

    def fit(self, x: torch.Tensor, bits: int, per_channel: bool = False) -> torch.Tensor:
        """The statistics that fix the levels: a constant, without gradient.

        Parameters
        ----------
        x:
            Float, any shape, not empty.
        bits:
            One of `widths`.
        per_channel:
            One set of parameters for each index of x's first dimension, M of them.

        Returns
        -------
        ``(P,)``, or ``(M, P)`` per channel; P depends on the scheme and, for res, on the bits. Parameters of several
        batches may be averaged.

        Raises
        ------
        InputError
            A width that the scheme does not have, or no values.
        """
        self._check(bits)
        if not x.numel():
            raise InputError(f"expected values to fit scheme {self.name!r} to, got none: give a tensor that has some.")
        rows = x.detach().reshape(len(x), -1) if per_channel else x.detach().reshape(-1)
        return torch.stack(self._statistics(rows, bits), -1)

    @abstractmethod
    def quantize(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        """The level of every value: float, shaped as x, without gradient."""

    @abstractmethod
    def levels(self, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        """All levels, rising: ``(levels,)``, or ``(M, levels)`` of parameters per channel. All 0 for a zero tensor."""

    def fake_quantize(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor:
        """`quantize`, whose gradient is that of x; with clip none where x lies beyond the outer levels."""
        result: torch.Tensor = _StraightThrough.apply(x, self, bits, parameters)
        return result

    def inside(self, x: torch.Tensor, bits: int, parameters: torch.Tensor) -> torch.Tensor | None:
        """Where a gradient passes: bool, shaped as x; None for everywhere."""
        return None

    def bipolar(self, grouped: bool = False) -> bool:
        """Whether the machine's weights stand for ``2 u + 1``, see `hardware.operands.Operands`."""
        return False

    @abstractmethod
    def machine_bits(self, bits: int, grouped: bool = False) -> int:
        """Bit planes that the quantized values take on the bit-serial machine.

        Parameters
        ----------
        bits:
            One of `widths`.
        grouped:
            A layer with channel groups, whose weights cannot be bipolar there; nor can activations.

        Returns
        -------
        1 to 8: of two's complement, which is `bipolar` or not, and of plain binary numbers where not `signed`.

        Raises
        ------
        InputError
            A width that the scheme does not have, or the machine has no such weights.
        """

    @abstractmethod
    def integers(
        self, x: torch.Tensor, bits: int, parameters: torch.Tensor, grouped: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the machine multiplies, and its step.

        Returns
        -------
        u int64, shaped as x, which fits `machine_bits`, and a float step, ``()`` or ``(M,)``: `quantize` is
        ``step * u``, or ``step * (2 u + 1)`` if `bipolar`.

        Raises
        ------
        InputError
            As `machine_bits`.
        """

    @abstractmethod
    def _statistics(self, rows: torch.Tensor, bits: int) -> list[torch.Tensor]:
        """Parameters over the last dimension of rows."""

    def _check(self, bits: int) -> None:
        if bits not in self.widths:
            known = f"{self.widths[0]} to {self.widths[-1]} bits" if len(self.widths) > 1 else f"{self.widths[0]} bits"
            raise InputError(f"scheme {self.name!r} has {known}, got {bits}: choose a width that it has.")


def spread(parameters: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Parameters ``(P,)`` or ``(M, P)`` as ``(1 or M, 1, .., 1, P)``: every ``[..., i]`` is broadcast over x."""
    channels = parameters.shape[:-1]
    return parameters.reshape(*channels, *[1] * (x.ndim - len(channels)), parameters.shape[-1])


def divisor(step: torch.Tensor) -> torch.Tensor:
    """The step, or 1 where it is 0."""
    return torch.where(step > 0, step, 1.0)


def sign(x: torch.Tensor) -> torch.Tensor:
    """+-1, of zero -1."""
    return (x > 0).to(x.dtype) * 2 - 1
