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
    """What the float network's layers see and give on some images; a quantized network is fitted to it.

    Parameters
    ----------
    traced:
        The float network.
    images:
        Normalised images ``(N, C, H, W)``; about 100 are enough.

    Attributes
    ----------
    largest_value:
        The largest magnitude anywhere in the float network, the images included.
    moments:
        Mean and standard deviation of every layer's output channels, ``(M,)`` each, by the layer's name.
    """

    def __init__(self, traced: Traced, images: torch.Tensor) -> None:
        recorder = _Recorder(traced)
        with torch.no_grad():
            recorder.run(images)
        self.images = images
        self.largest_value = recorder.largest
        self.moments = recorder.moments
        self._signed = {layer.name: layer.signed_activations for layer in traced.layers}
        self._samples = recorder.samples
        self._scales: dict[tuple[str, int], float] = {}

    def scale(self, name: str, bits: int) -> float:
        """Step of the named layer's input activations at a width."""
        key = name, bits
        if key not in self._scales:
            self._scales[key] = activation_scale(self._samples[name], bits, self._signed[name])
        return self._scales[key]


def _moments(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every output channel, ``(M,)`` each."""
    per_channel = outputs.transpose(0, 1).flatten(1)
    return per_channel.mean(1), per_channel.std(1, correction=0)


class _Recorder(fx.Interpreter):
    """Keeps every layer's output moments, random values of its input (always the same ones) with the extremes, and the
    largest magnitude of all nodes."""

    def __init__(self, traced: Traced) -> None:
        super().__init__(traced.graph_module)
        self.names = {layer.name for layer in traced.layers}
        self.samples: dict[str, torch.Tensor] = {}
        self.moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.largest = 0.0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, float(result.abs().max()))
        return result

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        outputs = super().call_module(target, args, kwargs)
        if target in self.names:
            values = args[0].flatten()
            if len(values) > SAMPLES:
                chosen = torch.randint(len(values), (SAMPLES,), generator=torch.Generator().manual_seed(0))
                values = torch.cat([values[chosen], values.amin()[None], values.amax()[None]])
            self.samples[target], self.moments[target] = values, _moments(outputs)
        return outputs


class _MomentMatcher(fx.Interpreter):
    """Restores every output channel's mean and deviation, layer after layer, so that errors do not pile up.

    The mean is Nagel et al.'s bias correction (ICCV 2019, arXiv 1906.04721), measured on images; the
    deviation is corrected as Banner et al. (NeurIPS 2019, arXiv 1810.05723) do for weights. It stands in for the
    batch norm that was folded away, and makes most of the accuracy at 2 and 3 bits.
    """

    def __init__(self, network: "QuantizedNetwork", calibration: Calibration) -> None:
        super().__init__(network.graph_module)
        self.layers = network.layers
        self.moments = calibration.moments

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        outputs = super().call_module(target, args, kwargs)
        if target not in self.layers:
            return outputs
        layer, (mean, deviation) = self.layers[target], self.moments[target]
        shape = (-1, *[1] * (outputs.ndim - 2))
        now = _moments(outputs)[1]
        factor = torch.where(now > 0, deviation / now, 1.0).clamp(0.5, 2.0)  # a nearly dead channel stays so
        bias = layer.bias.reshape(shape)
        outputs = (outputs - bias) * factor.reshape(shape) + bias
        shift = mean - _moments(outputs)[0]
        layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        layer.weight_scales.mul_(factor)
        layer.bias.add_(shift)
        return outputs + shift.reshape(shape)


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
        return F.conv2d(x, weight, self.bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    def integer_weights(self) -> torch.Tensor:
        """int64, ``(M, C / groups, kernel rows, kernel columns)``."""
        integers = quantize_weights(self.weight, self.weight_scales, self.weight_bits)
        return integers.reshape(len(integers), -1, *self.layer.kernel)


class QuantizedNetwork(nn.Module):
    """The traced network with every layer quantized as a policy says and fitted to the calibration images.

    Parameters
    ----------
    traced:
        The float network; it is left as it is.
    policy:
        Widths, one entry per layer.
    calibration:
        Made from the same traced network.

    Attributes
    ----------
    largest_value:
        The calibration's, from which the machine's values take their range.
    layers:
        Quantized layers by name, in network order.

    Raises
    ------
    InputError
        The policy does not name the network's layers.
    """

    def __init__(self, traced: Traced, policy: Policy, calibration: Calibration) -> None:
        super().__init__()
        policy.check(policy.network, traced.layers)
        self.policy = policy
        self.largest_value = calibration.largest_value
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
        with torch.no_grad():
            _MomentMatcher(self, calibration).run(calibration.images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores ``(N, classes)`` of normalised images ``(N, C, H, W)``."""
        return self.graph_module(images)
