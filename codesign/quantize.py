"""A network with a policy's widths: fake-quantized for accuracy and fine-tuning, with its integers for the machine."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from codesign.quantized_layer import QuantizedLayer
from codesign.quantizer_fit import Calibration, channels_last, moments_of, watched
from codesign.tracing import Traced
from policies.policy import Policy

_SIZES = ("in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride", "padding", "groups")


def exchange(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, wherever that is, in place."""
    for path in [path for path, child in network.named_modules(remove_duplicate=False) if child is old]:
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, new)
    for name in _SIZES:  # which a forward may read
        if hasattr(old, name):
            setattr(new, name, getattr(old, name))


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
    host:
        Why the machine cannot run it as one program; None if it can.
    shared:
        Names of layers whose float weights another module uses too, such as an embedding.

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
        self.host = traced.host
        self.graph_module = deepcopy(traced.graph_module)
        self.layers: dict[str, QuantizedLayer] = {}
        self.shared: set[str] = set()
        for layer, entry in zip(traced.layers, policy.layers, strict=True):
            module: Any = self.graph_module.get_submodule(layer.name)
            self.layers[layer.name] = own = QuantizedLayer(layer, module.weight, module.bias, entry, calibration)
            exchange(self.graph_module, module, own)
            if self._tie(module.weight, own.weight):
                self.shared.add(layer.name)
        _match_moments(self, calibration)

    def _tie(self, old: nn.Parameter, new: nn.Parameter) -> bool:
        """Give the new weights to every other module that uses the old ones; whether any does."""
        users = [
            (module, name)
            for module in self.graph_module.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if parameter is old
        ]
        for module, name in users:
            setattr(module, name, new)
        return bool(users)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores ``(N, classes)`` of normalised images ``(N, C, H, W)``."""
        return self.graph_module(images)


def _match_moments(network: QuantizedNetwork, calibration: Calibration) -> None:
    """Restore every output channel's mean and deviation, layer after layer, so that errors do not pile up.

    The mean is Nagel et al.'s bias correction (ICCV 2019, arXiv 1906.04721), measured on images; the
    deviation is corrected as Banner et al. (NeurIPS 2019, arXiv 1810.05723) do for weights. It stands in for the
    batch norm that was folded away, and makes most of the accuracy at 2 and 3 bits. Layers that run more than once per
    image, or whose weights something else uses too, are left as they are.
    """

    def match(name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        layer, (mean, deviation) = network.layers[name], calibration.moments[name]
        axes = (-1, *[1] * (0 if channels_last(outputs, layer) else outputs.ndim - 2))
        now = moments_of(outputs, layer)[1]
        factor = torch.where(now > 0, deviation / now, 1.0).clamp(0.5, 2.0)  # a nearly dead channel stays so
        if layer.choice.weights.scheme == "fixed":  # whose steps, powers of two, do not follow the weights
            factor = torch.ones_like(factor)
        bias = layer.bias.reshape(axes)
        outputs = (outputs - bias) * factor.reshape(axes) + bias
        shift = mean - moments_of(outputs, layer)[0]
        layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.weight_scheme is None:
            layer.weight_scales.mul_(factor)
        layer.bias.add_(shift)
        return outputs + shift.reshape(axes)

    names = [name for name in calibration.moments if name not in network.shared]
    with torch.no_grad(), watched(network.graph_module, names, match):
        network(calibration.images)
