"""A network whose widths are learned along with its weights: QPL's quantizers in the place of its layers.

At every step a layer is quantized at the nearest widths, with the same quantizers as the network that is deployed
(`codesign.quantize`), and passes gradients to the real-valued bits by `policies.learned_bits`.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from codesign.quantize import QuantizedNetwork, exchange
from codesign.quantized_layer import product
from codesign.quantizer_fit import Calibration
from codesign.tracing import Traced
from hardware.layer import Layer
from hardware.schedule import MAX_BITS
from policies.learned_bits import LearnedBits, bits_gradient, clip_slope, interval_slope, outer_slope
from policies.policy import SYMMETRIC, UNIFORM
from policies.quantizers import levels, quantize_activations, quantize_weights, weight_scales
from policies.scheme_base import Scheme
from policies.schemes import activation_scheme, weight_scheme
from policies.space import ACTIVATIONS, WEIGHTS, Schemes


def measured_slope(step: Callable[[int], float], bits: int) -> float:
    """-d ln(step) / d bits at a width, from the steps that are best at its neighbours within 2 to 8."""
    low, high = max(bits - 1, 2), min(bits + 1, MAX_BITS)
    return math.log(step(low) / step(high)) / (high - low) if high > low else interval_slope(bits)


class LearnedLayer(nn.Module):
    """A convolution or linear layer whose weights and input are quantized at learned widths.

    Parameters
    ----------
    weight, bias:
        Where learning starts; copied.
    schemes:
        Of weights and activations, as of `policies.space.Space`.

    Attributes
    ----------
    bits: tuple[torch.Tensor, torch.Tensor]
        Widths of weights and activations: whole numbers, whose gradients are the bits'. To be set before every pass.
    """

    bits: tuple[torch.Tensor, torch.Tensor]

    def __init__(
        self, layer: Layer, weight: torch.Tensor, bias: torch.Tensor, schemes: Schemes, calibration: Calibration
    ) -> None:
        super().__init__()
        self.layer, self._calibration = layer, calibration
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        signed = layer.signed_activations
        self._weights = None if schemes[WEIGHTS] == SYMMETRIC else weight_scheme(schemes[WEIGHTS])
        self._activations = None if schemes[ACTIVATIONS] == UNIFORM else activation_scheme(schemes[ACTIVATIONS], signed)
        self._scales: dict[int, torch.Tensor] = {}
        self._kept: torch.Tensor | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The layer's output, as that of the module in whose place it is."""
        x = input
        weight = self._quantized_weight()
        bits = self.bits[ACTIVATIONS]
        width, signed = int(bits), self.layer.signed_activations
        if self._activations:
            parameters = self._activations.fit(self._calibration.samples[self.layer.name], width)
            return product(_by_scheme(x, self._activations, bits, parameters), weight, self.bias, self.layer)
        step = self._calibration.scale(self.layer.name, width)
        integers = quantize_activations(x, step, width, signed)
        slope = measured_slope(lambda w: self._calibration.scale(self.layer.name, w), width)
        low, high = levels(width, signed)
        clipped = (x < (low - 0.5) * step) | (x >= (high + 0.5) * step)
        x = bits_gradient(integers * step, x, bits, slope, clipped, outer_slope(width, slope, signed and width > 1))
        return product(x, weight, self.bias, self.layer)

    def _quantized_weight(self) -> torch.Tensor:
        bits = self.bits[WEIGHTS]
        width = int(bits)
        if self._weights:
            return _by_scheme(self.weight, self._weights, bits, self._weights.fit(self.weight, width, per_channel=True))
        scales = self._scales_at(width).reshape(-1, *[1] * (self.weight.ndim - 1))
        integers = quantize_weights(self.weight, scales, (width,) * len(scales))
        live = self.weight.detach().flatten(1).any(1)  # channels of zeros have no step
        slope = (
            measured_slope(lambda w: float(self._scales_at(w)[live].abs().log().mean().exp()), width)
            if live.any()
            else 0.0
        )
        high = levels(width, signed=True)[1]
        clipped = self.weight.detach().abs() >= (high + 0.5) * scales if high else None
        outer = outer_slope(width, slope, symmetric=True) if width > 1 else 0.0
        return bits_gradient(integers * scales, self.weight, bits, slope, clipped, outer)

    def _scales_at(self, width: int) -> torch.Tensor:
        if width not in self._scales:
            self._scales[width] = weight_scales(self.weight, (width,) * len(self.weight))
        return self._scales[width]

    def refit(self) -> None:
        """Fit symmetric scales to the weights of now; schemes follow them by themselves."""
        self._scales.clear()


def _by_scheme(x: torch.Tensor, scheme: Scheme, bits: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    width = int(bits)
    slope = clip_slope(width, scheme.signed) if scheme.name == "clip" else interval_slope(width)
    inside = scheme.inside(x, width, parameters)
    clipped = None if inside is None else ~inside
    return bits_gradient(scheme.quantize(x, width, parameters), x, bits, slope, clipped, outer_slope(width, slope))


class LearnedNetwork(nn.Module):
    """The traced network with a `LearnedLayer` for every layer, at the learned bits of a space.

    Parameters
    ----------
    traced:
        The float network; it is left as it is.
    bits:
        Of a layer-wise space of the network's layers; a part of this module.
    calibration:
        Made from the same traced network.
    """

    def __init__(self, traced: Traced, bits: LearnedBits, calibration: Calibration) -> None:
        super().__init__()
        self.bits = bits
        # Weights begin as those of the network under the first bits: with its channels' moments put right.
        start = QuantizedNetwork(traced, bits.space.policy(bits.vector()), calibration)
        self.module = deepcopy(traced.graph_module)
        self.learned: list[LearnedLayer] = []
        for layer, schemes in zip(traced.layers, bits.space.schemes, strict=True):
            own = start.layers[layer.name]
            self.learned.append(LearnedLayer(layer, own.weight, own.bias, schemes, calibration))
            exchange(self.module, self.module.get_submodule(layer.name), self.learned[-1])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of what the network takes."""
        weights, activations = self.bits.layer_bits(self.bits.for_quantizers())
        for layer, w, a in zip(self.learned, weights, activations, strict=True):
            layer.bits = w, a
        scores: Any = self.module(images)
        return scores

    def refit(self) -> None:
        """Fit all scales to the weights of now."""
        for layer in self.learned:
            layer.refit()
