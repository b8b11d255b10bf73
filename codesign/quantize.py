"""A network with a policy's widths: fake-quantized for accuracy and fine-tuning, with its integers for the machine."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from codesign.tracing import Traced
from hardware.errors import InputError
from hardware.layer import Layer
from policies.policy import SYMMETRIC, UNIFORM, LayerPolicy, Policy
from policies.quantizers import (
    activation_scale,
    fake_quantize_activations,
    fake_quantize_weights,
    quantize_activations,
    quantize_weights,
    weight_scales,
)
from policies.schemes import activation_scheme, weight_scheme

SAMPLES = 16384
"""Values of a layer's input that its scale is chosen from."""


class Calibration:
    """What the float network's layers see and give on some images; a quantized network is fitted to it.

    Parameters
    ----------
    traced:
        The float network.
    images:
        Normalised images ``(N, C, H, W)``, or whatever the network takes; about 100 are enough.

    Attributes
    ----------
    largest_value:
        The largest magnitude anywhere in the float network, the images included; of a network that the host runs, in
        its layers.
    moments:
        Mean and standard deviation of every layer's output channels, ``(M,)`` each, by the layer's name; of layers that
        run once.
    samples:
        Random values of every layer's input, with the extremes.

    Raises
    ------
    InputError
        A layer whose inputs were said to be never negative meets one that is.
    """

    def __init__(self, traced: Traced, images: torch.Tensor) -> None:
        self.images = images
        self.largest_value = 0.0
        self.moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._signed = {layer.name: layer.signed_activations for layer in traced.layers}
        self.samples: dict[str, torch.Tensor] = {}
        self._scales: dict[tuple[str, int], float] = {}
        self._run(traced)

    def _run(self, traced: Traced) -> None:
        module = traced.graph_module
        once = {layer.name for layer in traced.layers if layer.repeats == 1}
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in self._signed}

        def record(name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
            parts[name].append(_some(inputs.flatten()))
            self.largest_value = max(self.largest_value, float(inputs.abs().max()), float(outputs.abs().max()))
            if name in once:
                self.moments[name] = _moments(outputs, module.get_submodule(name))
            return outputs

        with torch.no_grad(), watched(module, parts, record):
            if isinstance(module, fx.GraphModule):
                largest = _Largest(module)
                largest.run(self.images)
                self.largest_value = max(self.largest_value, largest.found)
            else:
                module(self.images)
        for name, values in parts.items():
            self.samples[name] = values[0] if len(values) == 1 else _some(torch.cat(values))
            if not self._signed[name] and float(self.samples[name].min()) < 0:
                raise InputError(
                    f"layer {name!r} met negative inputs, but none on the example that its network was converted on: "
                    "give an example that is typical."
                )

    def scale(self, name: str, bits: int) -> float:
        """Step of the named layer's input activations at a width."""
        key = name, bits
        if key not in self._scales:
            self._scales[key] = activation_scale(self.samples[name], bits, self._signed[name])
        return self._scales[key]


def _some(values: torch.Tensor) -> torch.Tensor:
    """Random ones of many values, always the same, with the extremes."""
    if len(values) <= SAMPLES:
        return values
    chosen = torch.randint(len(values), (SAMPLES,), generator=torch.Generator().manual_seed(0))
    return torch.cat([values[chosen], values.amin()[None], values.amax()[None]])


def _channels_last(outputs: torch.Tensor, module: Any) -> bool:
    """Whether outputs are several positions of a linear layer, ``(N, ..., M)``."""
    return module.weight.ndim == 2 and outputs.ndim > 2


def _moments(outputs: torch.Tensor, module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every output channel, ``(M,)`` each."""
    per_channel = outputs.movedim(-1 if _channels_last(outputs, module) else 1, 0).flatten(1)
    return per_channel.mean(1), per_channel.std(1, correction=0)


@contextmanager
def watched(
    module: nn.Module, names: Iterable[str], see: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """While this lasts, ``see(name, input, output)`` says what the named layers give instead of their outputs."""

    def hook(name: str) -> Any:
        return lambda _, args, output: see(name, args[0], output)

    handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Largest(fx.Interpreter):
    """Finds the largest magnitude of all nodes."""

    found = 0.0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.found = max(self.found, float(result.abs().max()))
        return result


def _match_moments(network: "QuantizedNetwork", calibration: Calibration) -> None:
    """Restore every output channel's mean and deviation, layer after layer, so that errors do not pile up.

    The mean is Nagel et al.'s bias correction (ICCV 2019, arXiv 1906.04721), measured on images; the
    deviation is corrected as Banner et al. (NeurIPS 2019, arXiv 1810.05723) do for weights. It stands in for the
    batch norm that was folded away, and makes most of the accuracy at 2 and 3 bits. Layers that run more than once per
    image, or whose weights something else uses too, are left as they are.
    """

    def match(name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        layer, (mean, deviation) = network.layers[name], calibration.moments[name]
        axes = (-1, *[1] * (0 if _channels_last(outputs, layer) else outputs.ndim - 2))
        now = _moments(outputs, layer)[1]
        factor = torch.where(now > 0, deviation / now, 1.0).clamp(0.5, 2.0)  # a nearly dead channel stays so
        bias = layer.bias.reshape(axes)
        outputs = (outputs - bias) * factor.reshape(axes) + bias
        shift = mean - _moments(outputs, layer)[0]
        layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.weight_scheme is None:
            layer.weight_scales.mul_(factor)
        layer.bias.add_(shift)
        return outputs + shift.reshape(axes)

    names = [name for name in calibration.moments if name not in network.shared]
    with torch.no_grad(), watched(network.graph_module, names, match):
        network(calibration.images)


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
        self, layer: Layer, weight: torch.Tensor, bias: torch.Tensor, choice: LayerPolicy, calibration: "Calibration"
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output, as that of the module in whose place it is: ``(N, M, ...)``, or ``(N, ..., M)``."""
        bits, signed = self.activation_bits, self.layer.signed_activations
        if self.activation_scheme:
            x = self.activation_scheme.fake_quantize(x, bits, self.activation_scale)
        else:
            x = fake_quantize_activations(x, self.activation_scale, bits, signed, self.narrow_activations)
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


def exchange(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, wherever that is, in place."""
    for path in [path for path, child in network.named_modules(remove_duplicate=False) if child is old]:
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, new)


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
