"""A quantized network whose layers are the machine's, one by one, and all between them the host's, in floats.

What `codesign.integers` is for networks that the machine runs as one program, this is for all others: a recurrent
network, say, whose gates are squashed by the host. A layer's sums are exact integers, the reference of the RTL.
"""

from dataclasses import replace

import numpy as np
import torch

from codesign.data import Split
from codesign.integers import IntegerNetwork, IntegerRun, LayerRun, check_sums, exact_sums
from codesign.quantize import QuantizedNetwork
from codesign.quantized_layer import QuantizedLayer
from codesign.quantizer_fit import watched
from hardware.errors import InputError
from hardware.operands import Operands


class HostNetwork:
    """Runs the layers of a quantized network in integers, whatever is around them.

    Parameters
    ----------
    quantized:
        It is left as it is; training it further makes this one wrong.

    Raises
    ------
    InputError
        The machine has no such weights, or a layer's sums can exceed its 32 bits.
    """

    def __init__(self, quantized: QuantizedNetwork) -> None:
        self.quantized = quantized
        self.layers = quantized.layers
        self._weights = {name: layer.machine_weights() for name, layer in self.layers.items()}
        for name, source in self.layers.items():
            check_sums(name, self._weights[name].products, 2**source.activation_planes)

    _recording = False

    def run(self, images: torch.Tensor, record: bool = False) -> IntegerRun:
        """Infer.

        Parameters
        ----------
        images:
            What the network takes.
        record:
            Keep every layer's integers and sums; of a layer that runs several times, those of all times, one after
            the other as images.
        """
        runs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in self.layers}

        def compute(name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
            activations, sums, result = self._compute(name, inputs)
            if record:
                runs[name].append((activations, sums))
            return result.reshape(outputs.shape).to(outputs.dtype)

        self.quantized.eval()
        self._recording = record
        with torch.no_grad(), watched(self.quantized.graph_module, self.layers, compute):
            scores = self.quantized(images)
        layers = [self._layer_run(name, parts) for name, parts in runs.items() if parts]
        return IntegerRun(scores.numpy(), tuple(layers), {})

    def _compute(self, name: str, inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
        """Activations, sums, and what the layer gives."""
        source, weights = self.layers[name], self._weights[name]
        integers, step = source.machine_activations(inputs)
        activations = as_image(integers.numpy(), source, self._recording)
        sums = exact_sums(activations, weights.products, source.layer)
        factors = torch.from_numpy(weights.scales * step).reshape(-1, 1, 1)
        values = torch.from_numpy(sums) * factors + source.bias.detach().double().reshape(-1, 1, 1)
        return activations, sums, values.flatten(2).transpose(1, 2) if _linear(source) else values

    def _layer_run(self, name: str, parts: list[tuple[np.ndarray, np.ndarray]]) -> LayerRun:
        source, weights = self.layers[name], self._weights[name]
        activations, sums = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        operands = Operands(
            layer=replace(source.layer, images=len(activations)),
            weights=weights.integers,
            activations=activations,
            weight_bits=weights.bits,
            activation_bits=source.activation_planes,
            bipolar=weights.bipolar,
        )
        return LayerRun(operands, sums)

    def accuracy(self, split: Split, batch: int = 250) -> float:
        """Part of the labels whose score is the highest."""
        correct = 0
        for start in range(0, len(split), batch):
            part = slice(start, start + batch)
            correct += int((self.run(split.batch(part)).scores.argmax(-1) == split.labels[part].numpy()).sum())
        return correct / split.labels.numel()


def executable(quantized: QuantizedNetwork) -> IntegerNetwork | HostNetwork:
    """The network in the machine's arithmetic: all of it, or the layers alone where the host does the rest."""
    return HostNetwork(quantized) if quantized.host else IntegerNetwork(quantized)


def _linear(source: QuantizedLayer) -> bool:
    return source.weight.ndim == 2


def as_image(values: np.ndarray, source: QuantizedLayer, whole: bool) -> np.ndarray:
    """A layer's input as ``(N, C, H, W)``: positions of a linear layer, and a row's, are columns.

    Parameters
    ----------
    whole:
        Put as many positions into an image as the layer was described with; else each is an image of its own.

    Raises
    ------
    InputError
        Not a whole number of images.
    """
    layer = source.layer
    if layer.kind == "conv" and _linear(source):
        rows = values.reshape(-1, layer.in_channels)
        positions = layer.in_width if whole else 1
        if len(rows) % positions:
            raise InputError(
                f"layer {layer.name!r} got {len(rows)} positions, expected {positions} for each example: give examples "
                "as long as the one that the network was converted on."
            )
        return np.ascontiguousarray(rows.reshape(-1, positions, layer.in_channels).swapaxes(1, 2)[:, :, None])
    if _linear(source):
        return values.reshape(-1, layer.in_channels, 1, 1)
    return values[:, :, None] if values.ndim == 3 else values
