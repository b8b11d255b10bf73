"""The weight quantizers of ReLeQ's experiments: WRPN's and DoReFa's, as fake quantization and as integers.

One scale per tensor, fixed by the width: there is no threshold to search, unlike `policies.quantizers`. A quantized
weight is ``integer * scale``; a straight-through estimator passes the gradient through the rounding, and everything
else is differentiated as it stands. Rounding is half up, as everywhere here; PyTorch's and TensorFlow's, which the
published code used, is half to even.

==========  =================================  =======================================================
            integers                           planes of a bit-serial machine
==========  =================================  =======================================================
WRPN        all, +-(2**(bits - 1) - 1)         ``bits`` in two's complement; mid-tread (zero is a level)
DoReFa      the odd ones, +-(2**bits - 1)      ``bits`` bipolar ones (each bit +-1), which hold exactly these, or
                                               ``bits + 1`` in two's complement; mid-rise (no zero)
==========  =================================  =======================================================

So at 2 bits WRPN has three levels and DoReFa four.
"""

from typing import Any

import torch

from hardware.errors import InputError
from hardware.schedule import MAX_BITS
from policies.quantizers import round_half_up


class _Round(torch.autograd.Function):
    """Rounds half up; the gradient passes unchanged (Bengio et al., arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return round_half_up(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


def _wrpn(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, float]:
    _check(bits, 2)
    steps = 2 ** (bits - 1) - 1
    return _Round.apply(weights.clamp(-1, 1) * steps), 1 / steps


def _dorefa(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, float]:
    _check(bits, 1)
    steps, squashed = 2**bits - 1, torch.tanh(weights)
    largest = squashed.abs().max()
    share = squashed / (2 * torch.where(largest > 0, largest, 1.0)) + 0.5  # of the way from the lowest level up
    return 2 * _Round.apply(share * steps) - steps, 1 / steps


def fake_wrpn(weights: torch.Tensor, bits: int) -> torch.Tensor:
    """``round(s * clamp(w, -1, 1)) / s`` with ``s = 2**(bits - 1) - 1`` (Mishra et al., arXiv 1709.01134; recalled).

    Without WRPN's wider layers, as in ReLeQ. Weights are expected to lie mostly within -1 to 1; outside no gradient
    passes.

    Parameters
    ----------
    weights:
        Float, any shape.
    bits:
        2 to 8: one bit would leave only zero.

    Returns
    -------
    Float, shaped as ``weights``, within -1 to 1.

    Raises
    ------
    InputError
        Bits out of range.
    """
    integers, scale = _wrpn(weights, bits)
    return integers * scale


def wrpn_integers(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, float]:
    """`fake_wrpn` as integers (int64, shaped as ``weights``) and their scale, ``1 / (2**(bits - 1) - 1)``."""
    integers, scale = _wrpn(weights.detach(), bits)
    return integers.long(), scale


def fake_dorefa(weights: torch.Tensor, bits: int) -> torch.Tensor:
    """``2 * q(tanh(w) / (2 * max|tanh(w)|) + 1/2) - 1`` with ``q(x) = round(n * x) / n`` and ``n = 2**bits - 1``.

    Zhou et al., arXiv 1606.06160, eq. 9; the maximum is over the tensor. The result fills -1 to 1 however small the
    weights are, so something after the layer, as a batch norm, has to take the scale back. For one bit the paper has
    another formula too (sign times mean magnitude); this is eq. 9 also there.

    Parameters
    ----------
    weights:
        Float, any shape; not empty.
    bits:
        1 to 8.

    Returns
    -------
    Float, shaped as ``weights``, within -1 to 1. Where all weights are zero: the lowest positive level.

    Raises
    ------
    InputError
        Bits out of range.
    """
    integers, scale = _dorefa(weights, bits)
    return integers * scale


def dorefa_integers(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, float]:
    """`fake_dorefa` as odd integers (int64, shaped as ``weights``) and their scale, ``1 / (2**bits - 1)``."""
    integers, scale = _dorefa(weights.detach(), bits)
    return integers.long(), scale


def _check(bits: int, lowest: int) -> None:
    if not lowest <= bits <= MAX_BITS:
        raise InputError(f"expected {lowest} to {MAX_BITS} weight bits for this quantizer, got {bits}: choose another.")
