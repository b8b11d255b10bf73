"""Integer inference: the machine's sums, and what an edge host does between two layers without any float.

Between layers a value is an int64 ``v`` that stands for ``v * 2**-F``, with one F for the whole network, chosen so
that no value can leave `VALUE_BITS` bits (a bound over all possible images, walked through the graph). A layer takes
its activations from such values and gives its sums back to them by a multiplication with an integer and a right
shift, after Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, section 2.2. Rounding is half up everywhere.
"""

import math
import operator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from codesign.data import Split
from codesign.quantize import QuantizedLayer, QuantizedNetwork
from hardware.errors import InputError
from hardware.operands import Operands
from policies.quantizers import levels, round_half_up

VALUE_BITS = 38
"""Width of fixed-point values, sign included: times a multiplier they fit 63 bits."""
MULTIPLIER_BITS = 24
"""Precision of multipliers: as good as float32."""
_LONGEST_SHIFT = 62


@dataclass(frozen=True, eq=False)
class Requantizer:
    """Multiplication by constant reals in integers: ``(v * multiplier + half) >> shift``.

    Parameters
    ----------
    multiplier, shift:
        int64 arrays, one entry per channel or a single one.
    """

    multiplier: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def nearest(cls, factors: np.ndarray) -> "Requantizer":
        """The closest multipliers of `MULTIPLIER_BITS` bits; a larger factor becomes an integer."""
        _, exponents = np.frexp(factors)  # |factors| = fraction * 2**exponents, fraction in [0.5, 1)
        shifts = np.clip(MULTIPLIER_BITS - exponents.astype(np.int64), 0, _LONGEST_SHIFT)
        multipliers = np.floor(np.ldexp(factors, shifts) + 0.5).astype(np.int64)
        return cls(torch.from_numpy(multipliers), torch.from_numpy(shifts))

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Scaled values, int64, rounded half up. Axis 1 of ``values`` is the channels."""
        shape = (-1, *[1] * (values.ndim - 2))
        multiplier, shift = self.multiplier.reshape(shape), self.shift.reshape(shape)
        half = (torch.ones_like(shift) << shift) >> 1
        return (values * multiplier + half) >> shift


@dataclass(frozen=True, eq=False)
class LayerRun:
    """What one layer was given and what the machine must answer, bit for bit.

    Parameters
    ----------
    operands:
        Integers of the layer; ``operands.layer.images`` is the number of images.
    sums:
        int64, ``(N, M, out height, out width)``.
    """

    operands: Operands
    sums: np.ndarray


@dataclass(frozen=True, eq=False)
class IntegerRun:
    """Scores int64 ``(N, classes)``, and every layer's run where it was asked for."""

    scores: np.ndarray
    layers: tuple[LayerRun, ...]


class IntegerLayer:
    """One layer: values to activations, activations to sums (the machine's part), sums to values."""

    def __init__(self, source: QuantizedLayer, fraction_bits: int) -> None:
        self.layer = source.layer
        self.weight_bits, self.activation_bits = source.weight_bits, source.activation_bits
        self.levels = levels(source.activation_bits, source.layer.signed_activations)
        self.weights = source.integer_weights()
        step, scales, bias = _constants(source)
        # Any factor above 2**24 lifts every positive value beyond the highest level, and so does 2**24.
        self.to_activations = Requantizer.nearest(np.minimum(2.0**-fraction_bits / step, 2.0**MULTIPLIER_BITS))
        self.to_values = Requantizer.nearest(np.ldexp(scales * step, fraction_bits))
        self.bias = torch.from_numpy(np.floor(np.ldexp(bias, fraction_bits) + 0.5).astype(np.int64))

    def activations(self, values: torch.Tensor) -> torch.Tensor:
        """int64, ``(N, C, H, W)``: what the machine is given."""
        layer = self.layer
        integers = self.to_activations(values).clamp(*self.levels)
        return integers.reshape(len(values), layer.in_channels, layer.in_height, layer.in_width)

    def sums(self, activations: torch.Tensor) -> torch.Tensor:
        """int64, ``(N, M, out height, out width)``: what the machine answers."""
        layer = self.layer
        # Exact: in float64 every product and every partial sum is an integer below 2**53.
        sums = F.conv2d(
            activations.double(), self.weights.double(), None, layer.stride, layer.padding, groups=layer.groups
        )
        return sums.long()

    def values(self, sums: torch.Tensor) -> torch.Tensor:
        """Fixed-point output, ``(N, M, H, W)`` or, of a linear layer, ``(N, M)``."""
        values = self.to_values(sums) + self.bias.reshape(-1, 1, 1)
        return values.flatten(1) if self.layer.kind == "linear" else values

    def operands(self, activations: torch.Tensor) -> Operands:
        """The machine's work on some images' activations."""
        return Operands(
            layer=replace(self.layer, images=len(activations)),
            weights=self.weights.numpy(),
            activations=activations.numpy(),
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
        )


def _constants(layer: QuantizedLayer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activation step (one entry), weight scales and bias in float64."""
    step, scales, bias = layer.activation_scale.reshape(1), layer.weight_scales, layer.bias.detach()
    return step.double().numpy(), scales.double().numpy(), bias.double().numpy()


def _largest_value(network: QuantizedNetwork) -> float:
    """The largest magnitude that any node's value can have, over all images."""
    bounds: dict[fx.Node, float] = {}
    for node in network.graph_module.graph.nodes:
        if node.op == "placeholder":
            bounds[node] = network.largest_input
        elif node.op == "call_module" and node.target in network.layers:
            bounds[node] = _largest_output(network.layers[node.target])
        elif node.target is operator.add:
            bounds[node] = sum(bounds[operand] for operand in node.args)
        else:
            bounds[node] = max(bounds[one] for one in node.all_input_nodes)
    return max(bounds.values())


def _largest_output(layer: QuantizedLayer) -> float:
    low, high = levels(layer.activation_bits, layer.layer.signed_activations)
    sums = layer.integer_weights().abs().flatten(1).sum(1).numpy() * max(-low, high)
    if sums.max() >= 2**31:
        raise InputError(
            f"layer {layer.layer.name!r} can sum up to {sums.max()}, but the machine's results have 32 bits: "
            "give it fewer bits."
        )
    step, scales, bias = _constants(layer)
    return float((sums * np.abs(scales) * step + np.abs(bias)).max())


def average_pool(values: torch.Tensor, pool: nn.AvgPool2d) -> torch.Tensor:
    """Averages of int64 values ``(N, C, H, W)``, rounded half up."""
    size = pool.kernel_size
    area = size * size if isinstance(size, int) else math.prod(size)
    totals = F.avg_pool2d(values, size, pool.stride, divisor_override=1)
    return torch.div(2 * totals + area, 2 * area, rounding_mode="floor")


class _Inference(fx.Interpreter):
    """Walks the graph with fixed-point values; what is neither a layer nor an average does the same to integers."""

    def __init__(self, network: "IntegerNetwork", record: bool) -> None:
        super().__init__(network.graph_module)
        self.layers = network.layers
        self.runs: list[LayerRun] = []
        self.record = record

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in self.layers:
            layer = self.layers[target]
            activations = layer.activations(args[0])
            sums = layer.sums(activations)
            if self.record:
                self.runs.append(LayerRun(layer.operands(activations), sums.numpy()))
            return layer.values(sums)
        module = self.fetch_attr(target)
        if isinstance(module, nn.AvgPool2d):
            return average_pool(args[0], module)
        return super().call_module(target, args, kwargs)


class IntegerNetwork:
    """A quantized network in integers only; its constants are taken when it is made.

    Parameters
    ----------
    quantized:
        The fake-quantized network. It is left as it is; training it further does not change this one.

    Raises
    ------
    InputError
        A layer's sums can exceed the machine's 32 bits.
    """

    def __init__(self, quantized: QuantizedNetwork) -> None:
        largest = max(_largest_value(quantized), 2.0**-VALUE_BITS)
        self.fraction_bits = VALUE_BITS - 2 - math.ceil(math.log2(largest))  # one bit of margin for the roundings
        self.graph_module = quantized.graph_module
        self.layers = {name: IntegerLayer(layer, self.fraction_bits) for name, layer in quantized.layers.items()}
        self._limit = math.ldexp(quantized.largest_input, self.fraction_bits)

    def run(self, images: torch.Tensor, record: bool = False) -> IntegerRun:
        """Infer.

        Parameters
        ----------
        images:
            Normalised float images ``(N, C, H, W)``. They saturate at the largest magnitude among the calibration's.
        record:
            Keep every layer's integers and sums.
        """
        inference = _Inference(self, record)
        with torch.no_grad():
            values = round_half_up(torch.ldexp(images.double(), torch.tensor(self.fraction_bits)))
            scores = inference.run(values.clamp(-self._limit, self._limit).long())
        return IntegerRun(scores.numpy(), tuple(inference.runs))

    def accuracy(self, split: Split, batch: int = 250) -> float:
        """Part of the images whose highest score is their label's."""
        correct = 0
        for start in range(0, len(split), batch):
            part = slice(start, start + batch)
            correct += int((self.run(split.batch(part)).scores.argmax(1) == split.labels[part].numpy()).sum())
        return correct / len(split)
