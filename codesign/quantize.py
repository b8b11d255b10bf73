"""A network with a policy's widths: fake-quantized for accuracy and fine-tuning, with its integers for the machine."""

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from codesign.tracing import Traced
from hardware.layer import Layer
from policies.policy import Policy
from policies.quantizers import (
    activation_scale,
    fake_quantize_activations,
    fake_quantize_weights,
    quantize_weights,
    weight_scales,
)

SAMPLES = 16384
"""Values of a layer's input that its scale is chosen from."""


class Calibration:
    """What the float network's layers see, to choose activation scales from.

    Parameters
    ----------
    traced:
        The float network.
    images:
        Normalised images ``(N, C, H, W)``; 64 to 256 are plenty.
    """

    def __init__(self, traced: Traced, images: torch.Tensor) -> None:
        recorder = _InputRecorder(traced)
        with torch.no_grad():
            recorder.run(images)
        self._layers = {layer.name: layer for layer in traced.layers}
        self._samples = recorder.samples
        self._scales: dict[tuple[str, int], float] = {}
        self.largest_input = float(images.abs().max())

    def scale(self, name: str, bits: int) -> float:
        """Step of the named layer's input activations at a width."""
        key = name, bits
        if key not in self._scales:
            signed = self._layers[name].signed_activations
            self._scales[key] = activation_scale(self._samples[name], bits, signed)
        return self._scales[key]


class _InputRecorder(fx.Interpreter):
    """Keeps random values (always the same ones), and the extremes, of every layer's input."""

    def __init__(self, traced: Traced) -> None:
        super().__init__(traced.graph_module)
        self.names = {layer.name for layer in traced.layers}
        self.samples: dict[str, torch.Tensor] = {}

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in self.names:
            values = args[0].flatten()
            if len(values) > SAMPLES:
                chosen = torch.randint(len(values), (SAMPLES,), generator=torch.Generator().manual_seed(0))
                values = torch.cat([values[chosen], values.amin()[None], values.amax()[None]])
            self.samples[target] = values
        return super().call_module(target, args, kwargs)


class QuantizedLayer(nn.Module):
    """A convolution or linear layer whose weights and input pass through the quantizers; its bias stays float.

    Weight scales are fitted once, to the weights it is made from; fine-tuning then moves the float weights.
    """

    weight_scales: torch.Tensor
    activation_scale: torch.Tensor

    def __init__(
        self,
        layer: Layer,
        weight: torch.Tensor,
        bias: torch.Tensor,
        weight_bits: tuple[int, ...],
        activation_bits: int,
        activation_scale: float,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.weight_bits = weight_bits
        self.activation_bits = activation_bits
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.register_buffer("weight_scales", weight_scales(self.weight, weight_bits))
        self.register_buffer("activation_scale", torch.tensor(activation_scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output, ``(N, M, H, W)`` or ``(N, M)``."""
        layer = self.layer
        x = fake_quantize_activations(x, self.activation_scale, self.activation_bits, layer.signed_activations)
        weight = fake_quantize_weights(self.weight, self.weight_scales, self.weight_bits)
        if layer.kind == "linear":
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, layer.stride, layer.padding, groups=layer.groups)

    def integer_weights(self) -> torch.Tensor:
        """int64, ``(M, C / groups, kernel rows, kernel columns)``; a linear layer's kernel is 1x1."""
        integers = quantize_weights(self.weight, self.weight_scales, self.weight_bits)
        return integers.reshape(*integers.shape[:2], *self.layer.kernel)


class QuantizedNetwork(nn.Module):
    """The traced network with every layer quantized as a policy says.

    Parameters
    ----------
    traced:
        The float network; it is left as it is.
    policy:
        Widths, one entry per layer.
    calibration:
        Made from the same traced network.

    Raises
    ------
    InputError
        The policy does not name the network's layers.
    """

    def __init__(self, traced: Traced, policy: Policy, calibration: Calibration) -> None:
        super().__init__()
        policy.check(policy.network, traced.layers)
        self.policy = policy
        self.largest_input = calibration.largest_input
        self.graph_module = deepcopy(traced.graph_module)
        self.layers: dict[str, QuantizedLayer] = {}
        for layer, entry in zip(traced.layers, policy.layers, strict=True):
            module: Any = traced.graph_module.get_submodule(layer.name)
            bits = entry.activations.bits
            self.layers[layer.name] = QuantizedLayer(
                layer,
                module.weight,
                module.bias,
                entry.weights.per_kernel(layer.out_channels),
                bits,
                calibration.scale(layer.name, bits),
            )
            parent, _, name = layer.name.rpartition(".")
            setattr(self.graph_module.get_submodule(parent), name, self.layers[layer.name])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores ``(N, classes)`` of normalised images ``(N, C, H, W)``."""
        return self.graph_module(images)
