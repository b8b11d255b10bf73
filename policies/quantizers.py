"""Quantizers: floats to the integers the machine multiplies, and fake quantization to fine-tune through.

A quantized value is ``integer * scale``. Rounding is half up everywhere, which integer arithmetic can repeat exactly.
Scales minimize the mean squared error over a grid of clipping thresholds, which matters from 4 bits down (HAQ, Wang
et al., CVPR 2019, searches a threshold there too, by divergence). Gradients pass the rounding unchanged: the
straight-through estimator (Bengio et al., arXiv 1308.3432).
"""

from collections.abc import Sequence
from typing import Any

import torch

from hardware.errors import InputError

_GRID = torch.linspace(0.1, 1.0, 37)
"""Clipping thresholds that are tried, as parts of the largest magnitude."""
_FINE_GRID = torch.linspace(0.02, 1.0, 99)
"""The same for activations, whose tails are longer."""


def levels(bits: int, signed: bool, narrow: bool = True) -> tuple[int, int]:
    """Smallest and largest integer of a width.

    Unsigned: 0 to ``2**bits - 1``. Signed: symmetric, ``+-(2**(bits - 1) - 1)``, so that zero is in the middle, or, if
    not narrow, from ``-2**(bits - 1)`` on, as imported networks may be; one signed bit in two's complement can only be
    -1 or 0. Zero bits: only 0.
    """
    if bits == 0:
        return 0, 0
    if not signed:
        return 0, 2**bits - 1
    high = 2 ** (bits - 1) - 1
    return (-high, high) if high and narrow else (-high - 1, high)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, scale: Any, low: Any, high: Any, clip_gradient: bool) -> torch.Tensor:
        integers = round_half_up(values / scale)
        if clip_gradient:
            ctx.save_for_backward((integers >= low) & (integers <= high))
        return integers.clamp(low, high) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        inside = ctx.saved_tensors
        return (gradients[0] * inside[0] if inside else gradients[0]), None, None, None, None


def round_half_up(values: torch.Tensor) -> torch.Tensor:
    """The nearest integer, the upper one in the middle: what adding a half and dropping the fraction gives."""
    return torch.floor(values + 0.5)


# Weights: scheme "symmetric", one scale per output channel.


def _per_channel(weights: torch.Tensor, bits: Sequence[int], narrow: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    if len(bits) != len(weights):
        raise InputError(f"expected {len(weights)} widths, one per kernel, got {len(bits)}: give one for each.")
    pairs = torch.tensor([levels(width, True, narrow) for width in bits], dtype=weights.dtype)
    shape = (-1, *[1] * (weights.ndim - 1))
    return pairs[:, 0].reshape(shape), pairs[:, 1].reshape(shape)


def weight_scales(weights: torch.Tensor, bits: Sequence[int]) -> torch.Tensor:
    """The scale of every output channel that makes the squared error least.

    Parameters
    ----------
    weights:
        Float, ``(M, ...)``.
    bits:
        Width of every output channel, length M; 0 prunes it.

    Returns
    -------
    ``(M,)``. Positive, but for one-bit channels whose weights are rather positive: their levels, -1 and 0, then stand
    for a positive weight and zero. 1 where the channel is pruned or zero.
    """
    low, high = _per_channel(weights, bits)
    flat, low, high = weights.detach().flatten(1), low.reshape(-1, 1), high.reshape(-1, 1)
    energy = flat.clamp(min=0).square().sum(1, keepdim=True) - flat.clamp(max=0).square().sum(1, keepdim=True)
    sign = torch.where((low + high < 0) & (energy > 0), -1.0, 1.0)
    flat = flat * sign
    largest = flat.abs().amax(1, keepdim=True) / low.abs().clamp(min=1)
    largest = torch.where((largest > 0) & (low < 0), largest, 1.0)
    best, least = largest, torch.full_like(largest, torch.inf)
    for part in _GRID.tolist():
        scale = largest * part
        error = (round_half_up(flat / scale).clamp(low, high) * scale - flat).square().sum(1, keepdim=True)
        # From small to large, "<=": among equal errors the largest scale, which clips least.
        best, least = torch.where(error <= least, scale, best), torch.minimum(error, least)
    return (best * sign).reshape(-1)


def quantize_weights(
    weights: torch.Tensor, scales: torch.Tensor, bits: Sequence[int], narrow: bool = True
) -> torch.Tensor:
    """Integers int64, shaped as ``weights``: the nearest levels at the given scales."""
    low, high = _per_channel(weights, bits, narrow)
    return round_half_up(weights.detach() / scales.reshape(low.shape)).clamp(low, high).long()


def fake_quantize_weights(
    weights: torch.Tensor, scales: torch.Tensor, bits: Sequence[int], narrow: bool = True
) -> torch.Tensor:
    """``quantize_weights(...) * scales`` as floats; the gradient passes to ``weights`` everywhere, as in HAQ."""
    low, high = _per_channel(weights, bits, narrow)
    return _FakeQuantize.apply(weights, scales.reshape(low.shape), low, high, False)


# Activations: scheme "uniform", one scale per tensor.


def activation_scale(values: torch.Tensor, bits: int, signed: bool) -> float:
    """The step between two levels that makes the squared error least over sample values; positive."""
    low, high = levels(bits, signed)
    flat = values.detach().flatten()
    largest = float((flat.abs() if signed else flat).max())
    if largest <= 0:
        return 1.0
    scales = _FINE_GRID[:, None] * (largest / max(-low, high))
    errors = (round_half_up(flat / scales).clamp(low, high) * scales - flat).square().sum(1)
    return float(scales[errors.argmin()])


def quantize_activations(
    values: torch.Tensor, scale: float, bits: int, signed: bool, narrow: bool = True
) -> torch.Tensor:
    """Integers int64: the nearest levels at the given step."""
    return round_half_up(values.detach() / scale).clamp(*levels(bits, signed, narrow)).long()


def fake_quantize_activations(
    values: torch.Tensor, scale: torch.Tensor, bits: int, signed: bool, narrow: bool = True
) -> torch.Tensor:
    """``quantize_activations(...) * scale`` as floats; no gradient passes where a value is clipped."""
    low, high = levels(bits, signed, narrow)
    return _FakeQuantize.apply(values, scale, low, high, True)
