"""A layer under a policy: fake-quantized for training, and its integers for the machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from codesign.quantizer_fit import Calibration
from hardware.errors import InputError
from hardware.layer import Layer
from policies.policy import SYMMETRIC, UNIFORM, LayerPolicy
from policies.quantizers import (
    fake_quantize_activations,
    fake_quantize_weights,
    quantize_activations,
    quantize_weights,
    weight_scales,
)
from policies.schemes import activation_scheme, weight_scheme


@dataclass(frozen=True, eq=False)
class MachineWeights:
    """A layer's weights as integers.

    Parameters
    ----------
    integers:
        int64, ``(M, C / groups, kernel rows, kernel columns)``.
    scales:
        float64, ``(M,)``: a weight is its integer times this.
    bits:
        Width of every kernel. A kernel of one bit whose levels stand for 0 and a positive weight takes two: the
        machine's multipliers are unsigned.
    bipolar:
        A weight is twice its integer plus 1, times the scale: see `hardware.operands.Operands`.
    """

    integers: np.ndarray
    scales: np.ndarray
    bits: tuple[int, ...]
    bipolar: bool = False

    @property
    def products(self) -> np.ndarray:
        """What multiplies: the integers, or twice them plus 1."""
        return 2 * self.integers + 1 if self.bipolar else self.integers


class QuantizedLayer(nn.Module):
    """A convolution or linear layer whose weights and input pass through the quantizers; its bias stays float.

    Symmetric weight scales are fitted once, to the weights it is made from; fine-tuning then moves the float weights.
    AutoQNN's schemes (`policies.schemes`) follow the weights, every output channel by itself.

    Parameters
    ----------
    choice:
        Widths and schemes.
    calibration:
        Knows its input.

    Attributes
    ----------
    narrow_weights, narrow_activations:
        Whether signed levels are symmetric, see `policies.quantizers.levels`; an imported network's may not be.
    """

    weight_scales: torch.Tensor
    activation_scale: torch.Tensor

    def __init__(
        self, layer: Layer, weight: torch.Tensor, bias: torch.Tensor, choice: LayerPolicy, calibration: Calibration
    ) -> None:
        super().__init__()
        self.layer, self.choice = layer, choice
        self.weight_bits = choice.weights.per_kernel(layer.out_channels)
        self.activation_bits = choice.activations.bits
        self.narrow_weights = self.narrow_activations = True
        self._kept: torch.Tensor | None = None
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.weight_scheme = self.activation_scheme = None
        if choice.weights.scheme == SYMMETRIC:
            self.register_buffer("weight_scales", weight_scales(self.weight, self.weight_bits))
        else:
            self.weight_scheme = weight_scheme(choice.weights.scheme)
        if choice.activations.scheme == UNIFORM:
            scale = torch.tensor(calibration.scale(layer.name, self.activation_bits))
        else:
            self.activation_scheme = activation_scheme(choice.activations.scheme, layer.signed_activations)
            scale = self.activation_scheme.fit(calibration.samples[layer.name], self.activation_bits)
        self.register_buffer("activation_scale", scale)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The layer's output, as that of the module in whose place it is: ``(N, M, ...)``, or ``(N, ..., M)``."""
        bits, signed = self.activation_bits, self.layer.signed_activations
        if self.activation_scheme:
            x = self.activation_scheme.fake_quantize(input, bits, self.activation_scale)
        else:
            x = fake_quantize_activations(input, self.activation_scale, bits, signed, self.narrow_activations)
        weight = self.quantized_weight() if self._kept is None else self._kept
        return product(x, weight, self.bias, self.layer)

    def quantized_weight(self) -> torch.Tensor:
        """The weights that the layer multiplies by, shaped as the float ones."""
        if self.weight_scheme is None:
            return fake_quantize_weights(self.weight, self.weight_scales, self.weight_bits, self.narrow_weights)
        return self.weight_scheme.fake_quantize(self.weight, *self._fitted())

    def _fitted(self) -> tuple[int, torch.Tensor]:
        """Width and parameters of the weights' scheme."""
        assert self.weight_scheme is not None
        return self.weight_bits[0], self.weight_scheme.fit(self.weight, self.weight_bits[0], per_channel=True)

    @contextmanager
    def prepared(self) -> Iterator["QuantizedLayer"]:
        """The layer for many steps: while this lasts its weights are those of now, quantized once for all."""
        self._kept = self.quantized_weight()
        try:
            yield self
        finally:
            self._kept = None

    def machine_weights(self) -> MachineWeights:
        """What the machine multiplies by.

        Raises
        ------
        InputError
            It has no such weights.
        """
        bits, layer = self.choice.weights.machine_bits(self.layer), self.layer
        if self.weight_scheme:
            integers, steps = self.weight_scheme.integers(self.weight, *self._fitted(), layer.groups > 1)
            scales, bipolar = steps.double(), self.weight_scheme.bipolar(layer.groups > 1)
        else:
            integers = quantize_weights(self.weight, self.weight_scales, self.weight_bits, self.narrow_weights)
            scales, bipolar = self.weight_scales.detach().double(), False
            flipped = scales < 0  # kernels of one bit only, see `weight_scales`
            bits = tuple(2 if turned else w for turned, w in zip(flipped.tolist(), bits, strict=True))
            integers = torch.where(flipped.reshape(-1, *[1] * (integers.ndim - 1)), -integers, integers)
        integers = integers.reshape(len(integers), -1, *layer.kernel)
        return MachineWeights(integers.numpy(), scales.abs().numpy(), bits, bipolar)

    def machine_activations(self, x: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Integers int64, shaped as x, of `activation_planes` bits, and their step: what the host hands the machine.

        Raises
        ------
        InputError
            The machine has no such activations.
        """
        if self.activation_scheme is None:
            step = float(self.activation_scale)
            bits, signed = self.activation_bits, self.layer.signed_activations
            return quantize_activations(x, step, bits, signed, self.narrow_activations), step
        integers, steps = self.activation_scheme.integers(x, self.activation_bits, self.activation_scale, grouped=True)
        return integers, float(steps)

    @property
    def activation_planes(self) -> int:
        """Bits of the machine's activations; raises as `machine_activations`."""
        return self.choice.activations.machine_bits(self.layer)

    def rounding_step(self) -> float:
        """Step of activations that rounding and clamping make, as the machine does between two layers.

        Raises
        ------
        InputError
            The scheme's integers leave some out.
        """
        scheme, signed = self.choice.activations.scheme, self.layer.signed_activations
        if scheme not in (UNIFORM, "fixed") and (scheme != "clip" or signed):
            raise InputError(
                f"the input of layer {self.layer.name!r} has {'signed ' if signed else ''}scheme {scheme!r}, but the "
                "machine makes equally spaced activations, zero among them: use uniform, fixed, or clip after a ReLU."
            )
        return self.machine_activations(torch.zeros(1))[1]


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layer: Layer) -> torch.Tensor:
    """What a layer does, by the axes of its weights: linear over the last axis, or a convolution of rows or images."""
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    if weight.ndim == 3:
        row = (layer.stride[1], layer.padding[1], layer.dilation[1])
        return F.conv1d(x, weight, bias, *row, layer.groups)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
