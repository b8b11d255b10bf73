"""The graph that a QONNX file becomes: values whose quantizers wait for a reader, layers, names.

A ``Quant`` on an activation moves along with the values, through what does the same to integers as to floats, until it
meets the layers that read them; what it says becomes their input quantizer. Where something else reads the quantized
values (an addition, an average, another ``Quant``, the scores) a layer of its own makes them: a depthwise 1x1
convolution, or a diagonal linear layer, with weights of 1 in 2 bits. The machine needs a pass for that, too.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx, nn

from codesign.qonnx.constants import Constant, Quantized, attributes, refuse

MAX_BITS = 8
BATCH = 2
"""Images of zeros that run through the network while it is built."""


@dataclass(frozen=True)
class Quantizer:
    """What a ``Quant`` says about activations; levels as `policies.quantizers.levels` has them."""

    scale: float
    bits: int
    signed: bool
    narrow: bool


@dataclass(eq=False)
class ImportedLayer:
    """One layer's numbers; affine operations that follow change ``scale`` and ``bias``.

    Parameters
    ----------
    node:
        Its node in the file.
    integers:
        float64, ``(M, ...)``.
    scale, bits, bias:
        float64, ``(M,)``; 0 bits prune the kernel.
    """

    node: onnx.NodeProto
    module: nn.Conv2d | nn.Linear
    activations: Quantizer
    integers: np.ndarray
    scale: np.ndarray
    bits: np.ndarray
    bias: np.ndarray
    narrow: bool = True

    def finish(self) -> None:
        """Give the module its float weights, and every scale a sign that our levels allow."""
        axes = tuple(range(1, self.integers.ndim))
        lowest = self.integers.min(axes)
        turned = (self.scale < 0) & (self.bits != 1)
        reach = 2.0 ** np.maximum(self.bits - 1, 1)
        if (turned & (lowest == -reach)).any():
            raise refuse(
                self.node,
                "a negative factor after it turns the sign of weights at the lowest level, which has no counterpart; "
                "make their Quant narrow",
            )
        self.narrow = not ((lowest == -reach) & (self.bits > 1)).any()
        shape = (-1, *[1] * len(axes))
        weights = self.integers * self.scale.reshape(shape)
        self.scale = np.where(turned, -self.scale, self.scale)
        self.module.weight = nn.Parameter(torch.from_numpy(weights).float(), requires_grad=True)
        self.module.bias = nn.Parameter(torch.from_numpy(self.bias).float(), requires_grad=True)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the file: our node for it, its value for images of zeros, and what is still to be done to it."""

    node: fx.Node
    zeros: torch.Tensor
    signed: bool
    quantizer: Quantizer | None = None
    layer: ImportedLayer | None = None
    """The layer that made it, if nothing was done to it since."""


class Builder:
    """Builds our graph; the operators (`codesign.qonnx.operators`) say of what.

    Attributes
    ----------
    constants, values:
        Tensors of the file by name; the name of an input that is left out is empty.
    readers:
        How often every tensor is read, the scores once more.
    images:
        Images per run, as the file has it; 0 where it leaves that open.
    layers:
        By the names of their modules, in network order.
    """

    def __init__(self, file: onnx.GraphProto, constants: dict[str, Constant]) -> None:
        self.constants: dict[str, Constant | None] = {**constants, "": None}
        self.readers = Counter(name for node in file.node for name in node.input)
        self.readers.update(one.name for one in file.output)
        self.images = 0
        self.root, self.graph = nn.Module(), fx.Graph()
        self.layers: dict[str, ImportedLayer] = {}
        self.values: dict[str, Value] = {}
        self._made: dict[tuple[fx.Node, Quantizer], Value] = {}

    def input(self, node: onnx.NodeProto, index: int = 0) -> Value:
        name = node.input[index] if index < len(node.input) else ""
        if name not in self.values:
            raise refuse(node, f"its input {index} is a constant, expected values made from the image")
        return self.values[name]

    def numbers(self, node: onnx.NodeProto, index: int, attribute: str = "") -> np.ndarray | None:
        """A constant input, or the attribute that older operator sets have instead; None where there is neither."""
        if index < len(node.input) and node.input[index]:
            constant = self.constants.get(node.input[index])
            if constant is None:
                raise refuse(node, f"its input {index} depends on the image, expected a constant")
            return constant.value
        found = attributes(node).get(attribute)
        return None if found is None else np.asarray(found)

    def call(
        self, node: onnx.NodeProto, target: Callable[..., torch.Tensor], value: Value, *rest: Any, **options: Any
    ) -> Value:
        """A call of a function; quantizers move along."""
        try:
            zeros = target(value.zeros, *rest, **options)
        except Exception as error:  # whatever PyTorch says of shapes
            raise refuse(node, f"it cannot take {tuple(value.zeros.shape)} ({str(error).splitlines()[0]})") from None
        made = self.graph.call_function(target, (value.node, *rest), options)
        return replace(value, node=made, zeros=zeros, layer=None)

    def module(self, node: onnx.NodeProto, name: str, module: nn.Module, value: Value) -> Value:
        try:
            zeros = module(value.zeros)
        except Exception as error:
            raise refuse(node, f"it cannot take {tuple(value.zeros.shape)} ({str(error).splitlines()[0]})") from None
        parent, _, leaf = name.rpartition(".")
        place = self.root
        for part in parent.split(".") if parent else ():
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.add_module(leaf, module)
        made = self.graph.create_node("call_module", name, (value.node,))
        return replace(value, node=made, zeros=zeros, layer=None)

    def _name(self, node: onnx.NodeProto, suffix: str = "") -> str:
        """A name that modules may have, of the node's own."""
        parts = [
            "".join(c if c.isalnum() else "_" for c in part)
            for part in (node.name or node.output[0]).split(".")
            if part
        ]
        name = ".".join(parts) + suffix if all(parts) and parts else f"layer{suffix}"
        name = f"_{name}" if not (name[0].isalpha() or name[0] == "_") else name
        unique, number = name, 1
        while any(f"{one}.".startswith(f"{unique}.") or f"{unique}.".startswith(f"{one}.") for one in self.layers):
            number += 1
            unique = f"{name.replace('.', '_')}_{number}"
        return unique

    def plain(self, node: onnx.NodeProto, value: Value) -> Value:
        """Values without a quantizer waiting: a layer of ones makes them."""
        if value.quantizer is None:
            return value
        key = value.node, value.quantizer
        if key not in self._made:
            channels, images = value.zeros.shape[1], value.zeros.ndim == 4
            module = nn.Conv2d(channels, channels, 1, groups=channels) if images else nn.Linear(channels, channels)
            ones = np.ones((channels, 1, 1, 1)) if images else np.eye(channels)
            weights = Quantized(ones, np.ones(ones.shape), np.full(ones.shape, 2.0))
            self._made[key] = self.add_layer(node, module, value, weights, np.zeros(channels), "_quantizer")
        return self._made[key]

    def add_layer(
        self, node: onnx.NodeProto, module: Any, value: Value, weights: Quantized, bias: np.ndarray, suffix: str = ""
    ) -> Value:
        one = value.quantizer
        if one is None:
            raise refuse(node, "its input is not quantized; put a Quant node before it")
        if value.signed and not one.signed:  # of one bit and with a negative scale, see `_quant`
            one = Quantizer(-one.scale, 1, True, True)
        elif not value.signed and one.signed:
            one = Quantizer(one.scale, one.bits - 1, False, True)
        per_kernel = []
        for array in (weights.scale, weights.bits):
            flat = array.reshape(len(array), -1)
            if (flat != flat[:, :1]).any():
                raise refuse(node, "its weights' scale or width changes within a kernel; quantize per kernel or tensor")
            per_kernel.append(flat[:, 0].copy())
        if per_kernel[1].max() > MAX_BITS:
            raise refuse(node, f"its weights need {per_kernel[1].max():g} signed bits, but the machine has {MAX_BITS}")
        name = self._name(node, suffix)
        layer = ImportedLayer(node, module, one, weights.integers, per_kernel[0], per_kernel[1], bias)
        made = self.module(node, name, module, replace(value, quantizer=None))
        self.layers[name] = layer
        return replace(made, signed=True, layer=layer)

    def flatten(self, node: onnx.NodeProto, value: Value) -> Value:
        return self.call(node, torch.flatten, value, 1)
