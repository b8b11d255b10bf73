"""Integer inference, node by node: the independent reference of what the machine makes of a quantized network.

Between two nodes there are values, int16 numbers that stand for ``v * 2**-F`` with one F for the whole network. How
sums become values and values become activations is the machine's arithmetic, `hardware.arithmetic`.
"""

import operator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from codesign.data import Split
from codesign.quantize import QuantizedNetwork
from codesign.quantized_layer import QuantizedLayer
from codesign.tracing import node_kind
from hardware.arithmetic import (
    ACTIVATION_SHIFT,
    Requantization,
    activation_multiplier,
    add,
    averaging,
    fraction_bits,
    image_activations,
    image_values,
    to_activations,
)
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.operands import Operands
from policies.quantizers import levels


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
    """What some images gave.

    Parameters
    ----------
    scores:
        int64 ``(N, classes)``: the last node's values.
    layers:
        Every layer's integers and sums, in network order; empty where they were not asked for.
    values:
        Every node's values by the node's name, int64; the same. The image and what flattens it are no values.
    """

    scores: np.ndarray
    layers: tuple[LayerRun, ...]
    values: dict[str, np.ndarray]


class IntegerLayer:
    """One layer's constants: values or images to activations, activations to sums, sums to values.

    Attributes
    ----------
    layer:
        Its shape.
    weights:
        int64, ``(M, C / groups, kernel rows, kernel columns)``.
    weight_bits, activation_bits:
        Width of every kernel, and of the activations.
    bipolar:
        Whether ``2 * weights + 1`` multiplies, see `hardware.operands.Operands`.
    levels:
        Smallest and largest activation.
    reads_image:
        Whether the input is the network's image, which the host quantizes in steps of ``step``.
    activation_multiplier:
        Constant of `to_activations` where the input is values.
    requantization:
        Constants that make values of the sums.
    """

    def __init__(self, source: QuantizedLayer, fraction_bits: int, reads_image: bool) -> None:
        self.layer = source.layer
        self.activation_bits = source.activation_planes
        self.levels = levels(source.activation_planes, source.layer.signed_activations, source.narrow_activations)
        self.reads_image = reads_image
        self.step = source.rounding_step()
        self.activation_multiplier = activation_multiplier(self.step, fraction_bits)
        weights = source.machine_weights()
        self.weights, self.weight_bits, self.bipolar = weights.integers, weights.bits, weights.bipolar
        self._products = weights.products
        # The step that the multiplier really makes: where values are coarser than activations, it differs much.
        step = self.step if reads_image else 2.0 ** (ACTIVATION_SHIFT - fraction_bits) / self.activation_multiplier
        # A kernel of zeros has no scale: it must not make the others' coarser.
        factors = np.where(self._products.any((1, 2, 3)), weights.scales, 0.0) * step
        bias = source.bias.detach().double().numpy()
        self.requantization = Requantization.nearest(
            np.ldexp(factors, fraction_bits), np.ldexp(bias, fraction_bits), f"layer {self.layer.name!r}"
        )
        check_sums(self.layer.name, self._products, max(-self.levels[0], self.levels[1]))

    def activations(self, inputs: np.ndarray) -> np.ndarray:
        """int64, ``(N, C, H, W)``, of int64 values, or of the float64 image where the layer reads it."""
        layer = self.layer
        if self.reads_image:
            integers = image_activations(inputs, self.step, *self.levels)
        else:
            integers = to_activations(inputs, self.activation_multiplier, *self.levels)
        return integers.reshape(len(inputs), layer.in_channels, layer.in_height, layer.in_width)

    def sums(self, activations: np.ndarray) -> np.ndarray:
        """int64, ``(N, M, out height, out width)``."""
        return exact_sums(activations, self._products, self.layer)

    def values(self, sums: np.ndarray) -> np.ndarray:
        """int64, ``(N, M, H, W)`` or, of a linear layer, ``(N, M)``."""
        values = self.requantization.values(sums)
        return values.reshape(values.shape[:2]) if self.layer.kind == "linear" else values

    def operands(self, activations: np.ndarray) -> Operands:
        """The layer's work on some images' activations."""
        return Operands(
            layer=replace(self.layer, images=len(activations)),
            weights=self.weights,
            activations=activations,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            bipolar=self.bipolar,
        )


def check_sums(name: str, products: np.ndarray, largest: int) -> None:
    """Raise `InputError` if a layer's sums, of activations up to ``largest``, may not fit the machine's 32 bits."""
    most = np.abs(products).sum((1, 2, 3)).max() * largest
    if most >= 2**31:
        raise InputError(
            f"layer {name!r} can sum up to {most}, but the machine's results have 32 bits: give it fewer bits."
        )


def exact_sums(activations: np.ndarray, weights: np.ndarray, layer: Layer) -> np.ndarray:
    """Sums of a layer's products: int64, ``(N, M, out height, out width)``, of ``(N, C, H, W)`` activations."""
    # Exact: in float64 every product and every partial sum is an integer below 2**53.
    inputs, kernels = torch.from_numpy(activations).double(), torch.from_numpy(weights).double()
    sums = F.conv2d(inputs, kernels, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return sums.long().numpy()


def average_pool(values: torch.Tensor, pool: nn.AvgPool2d) -> torch.Tensor:
    """Averages of int64 values ``(N, C, H, W)``."""
    rows, columns = (pool.kernel_size,) * 2 if isinstance(pool.kernel_size, int) else pool.kernel_size
    totals = F.avg_pool2d(values, (rows, columns), pool.stride, divisor_override=1)
    return torch.from_numpy(averaging(rows * columns).values(totals.numpy()))


class _Inference(fx.Interpreter):
    """Walks the graph with values; what is no layer, addition or average does the same to integers as to floats."""

    def __init__(self, network: "IntegerNetwork", record: bool) -> None:
        super().__init__(network.graph_module)
        self.network, self.record = network, record
        self.runs: list[LayerRun] = []
        self.values: dict[str, np.ndarray] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        # A float is the image, or flattened image; what is no tensor is a size.
        if self.record and n.op != "output" and isinstance(result, torch.Tensor) and not result.is_floating_point():
            self.values[n.name] = result.numpy()
        return result

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        if n.target in self.network.layers or n in self.network.image_nodes:
            return args, kwargs
        return fx.node.map_aggregate(args, self._as_values), fx.node.map_aggregate(kwargs, self._as_values)

    def _as_values(self, argument: Any) -> Any:
        if not isinstance(argument, torch.Tensor) or not argument.is_floating_point():
            return argument
        return torch.from_numpy(image_values(argument.numpy(), self.network.fraction_bits))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is operator.add:
            return torch.from_numpy(add(args[0].numpy(), args[1].numpy()))
        if target is F.relu6:
            return args[0].clamp(0, 6 << self.network.fraction_bits)
        return super().call_function(target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in self.network.layers:
            layer = self.network.layers[target]
            activations = layer.activations(args[0].numpy())
            sums = layer.sums(activations)
            if self.record:
                self.runs.append(LayerRun(layer.operands(activations), sums))
            return torch.from_numpy(layer.values(sums))
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

    Attributes
    ----------
    fraction_bits:
        F: the values of all nodes stand for ``v * 2**-F``.
    graph_module:
        The traced graph; the node of a layer has the layer's name as its target.
    layers:
        Every layer's constants by its name, in network order.
    image_nodes:
        The image and what flattens it. A layer that reads one of them gets activations from the host, any other node
        `hardware.arithmetic.image_values`.

    Raises
    ------
    InputError
        A layer's sums can exceed the machine's 32 bits, or its constants do not fit.
    """

    def __init__(self, quantized: QuantizedNetwork) -> None:
        # Fine-tuning may have moved a bias beyond what the calibration saw, and a bias must fit by itself.
        biases = (float(layer.bias.detach().abs().max()) for layer in quantized.layers.values())
        self.fraction_bits = fraction_bits(max(quantized.largest_value, *biases))
        if quantized.host:
            raise InputError(
                f"the machine cannot run the network as one program, only its layers one by one: {quantized.host}"
            )
        assert isinstance(quantized.graph_module, fx.GraphModule)
        self.graph_module = quantized.graph_module
        self.image_nodes: set[fx.Node] = set()
        self.layers: dict[str, IntegerLayer] = {}
        for node in self.graph_module.graph.nodes:
            if node.op == "call_module" and node.target in quantized.layers:
                reads_image = node.all_input_nodes[0] in self.image_nodes
                self.layers[node.target] = IntegerLayer(quantized.layers[node.target], self.fraction_bits, reads_image)
            elif node.op == "placeholder" or (
                node_kind(node, self.graph_module) == "flatten" and node.all_input_nodes[0] in self.image_nodes
            ):
                self.image_nodes.add(node)

    def run(self, images: torch.Tensor, record: bool = False) -> IntegerRun:
        """Infer.

        Parameters
        ----------
        images:
            Normalised float images ``(N, C, H, W)``.
        record:
            Keep every layer's integers and sums, and every node's values.
        """
        inference = _Inference(self, record)
        with torch.no_grad():
            scores = inference.run(images.double())
        return IntegerRun(scores.numpy(), tuple(inference.runs), inference.values)

    def accuracy(self, split: Split, batch: int = 250) -> float:
        """Part of the images whose highest score is their label's."""
        correct = 0
        for start in range(0, len(split), batch):
            part = slice(start, start + batch)
            correct += int((self.run(split.batch(part)).scores.argmax(1) == split.labels[part].numpy()).sum())
        return correct / len(split)
