"""A quantized network as a QONNX model: ONNX whose ``Quant`` nodes say how wide every value is.

QONNX (Pappalardo et al., arXiv 2206.07527) is what Brevitas, FINN and hls4ml exchange. Its ``Quant`` clips
``x / scale`` to the levels of a width, rounds, and multiplies with the scale again: our fake quantization but for the
rounding. We round half up; QONNX knows ``ROUND`` (half to even), ``CEIL``, ``FLOOR`` and, since lately, ``HALF_UP``,
which is half *away from zero*. Every node here says ``ROUND``, the default and the only one that qonnx can turn into
standard ONNX. It differs from ours where an activation is exactly in the middle between two levels. Weights lie on
their levels already, so that any rounding gives the same.

==========================  ==========================================================================================
here                        there
==========================  ==========================================================================================
a layer's input             one ``Quant``, scale a number; signed ones are narrow (symmetric) as ours are
weights of one width        a ``Quant`` with one scale per kernel
kernels of several widths   a ``Quant`` for each width, ``Concat`` and ``Gather``: executors take one width per node
a kernel of no bits         zeros without ``Quant``
one signed bit              an unsigned ``Quant`` of one bit with the scale's sign turned: QONNX's signed bit is +-1
==========================  ==========================================================================================
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

from codesign.quantize import QuantizedNetwork
from codesign.quantized_layer import QuantizedLayer
from codesign.tracing import node_kind
from hardware.errors import InputError
from hardware.files import replacing
from policies.policy import SYMMETRIC, UNIFORM

DOMAIN = "qonnx.custom_op.general"
ROUNDING = "ROUND"
OPSET, IR_VERSION = 13, 8
"""Old enough for tools of recent years; `Clip`, `Pad` and `Slice` take their numbers as inputs."""
NETWORK, POLICY, LARGEST = "codesign_network", "codesign_policy", "codesign_largest_value"
"""Metadata: what the policy file says, and the values' range in the machine."""
ARITHMETIC = "codesign_arithmetic"
"""Metadata: whether the file computes what was ``trained`` or the ``machine``'s integers."""


def export_qonnx(quantized: QuantizedNetwork, input_shape: tuple[int, ...], batch: int = 1) -> onnx.ModelProto:
    """The QONNX model of a quantized network; the same network gives the same bytes.

    Parameters
    ----------
    quantized:
        Left as it is.
    input_shape:
        ``(channels, height, width)`` of one image.
    batch:
        Images per run: QONNX's executor wants every shape fixed.

    Raises
    ------
    InputError
        Max pooling with ``ceil_mode`` whose output ONNX would make larger, a network of which the host runs a part, or
        schemes of AutoQNN, which QONNX has no operator for.
    """
    return Exporter(quantized).model(torch.zeros(batch, *input_shape))


def save_qonnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model by renaming.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


class Exporter(fx.Interpreter):
    """Runs zeros through the graph, for the shapes, and writes a node for every node.

    Raises
    ------
    InputError
        See `export_qonnx`.
    """

    arithmetic = "trained"
    six = 6.0
    """Where `relu6` ends."""

    def __init__(self, quantized: QuantizedNetwork) -> None:
        if quantized.host:
            raise InputError(
                f"only networks that the machine runs as one program are exported as QONNX: {quantized.host}"
            )
        for entry in quantized.policy.layers:
            if (entry.weights.scheme, entry.activations.scheme) != (SYMMETRIC, UNIFORM):
                raise InputError(
                    f"layer {entry.name!r} has schemes {entry.weights.scheme!r} and {entry.activations.scheme!r}, but "
                    f"QONNX's operator knows {SYMMETRIC!r} and {UNIFORM!r} levels only: export a policy of these."
                )
        assert isinstance(quantized.graph_module, fx.GraphModule)
        super().__init__(quantized.graph_module)
        self.quantized, self.graph_module = quantized, quantized.graph_module
        self.extra_traceback = False
        self.layers = quantized.layers
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.values: list[onnx.ValueInfoProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def model(self, images: torch.Tensor) -> onnx.ModelProto:
        """The model for images of this shape, ``(N, C, H, W)``."""
        with torch.no_grad():
            self.run(images)
        policy, constants = self.quantized.policy, list(self.constants.values())
        inner = [value for value in self.values if value.name != self.outputs[0].name]
        graph = helper.make_graph(self.nodes, policy.network, self.inputs, self.outputs, constants, value_info=inner)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
        model = helper.make_model(graph, producer_name="codesign", opset_imports=opsets, ir_version=IR_VERSION)
        largest = repr(float(self.quantized.largest_value))
        notes = {NETWORK: policy.network, POLICY: policy.as_yaml(), LARGEST: largest, ARITHMETIC: self.arithmetic}
        helper.set_model_props(model, notes)
        return model

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if not isinstance(result, torch.Tensor):
            return result  # a size, on its way into a reshape
        name, inputs = n.name, [self._read(node, n) for node in n.all_input_nodes]
        if n.op == "output":
            self.outputs.append(_value(inputs[0], result.shape))
        elif n.op == "placeholder":
            self.inputs.append(_value(name, result.shape))
        elif n.target in self.layers:
            self._layer(name, inputs[0], str(n.target), self.env[n.all_input_nodes[0]].shape, result.shape)
        else:
            self._operation(n, inputs, result)
        return result

    def _read(self, source: fx.Node, reader: fx.Node) -> str:
        """The name of what a node reads of another."""
        return source.name

    def _write(self, kind: str, inputs: Sequence[str], name: str, shape: Sequence[int], **attributes: Any) -> str:
        """A node whose only output has its name; returns it."""
        label, number = attributes.pop("label", name), attributes.pop("number", TensorProto.FLOAT)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=label, **attributes))
        self.values.append(_value(name, shape, number))
        return name

    def _constant(self, name: str, numbers: Any, kind: type = np.float32) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(numbers, dtype=kind), name)
        return name

    def _quant(
        self, source: str, name: str, shape: Sequence[int], scale: torch.Tensor, bits: int, signed: bool, narrow: bool
    ) -> str:
        if bits == 1 and signed:
            signed, scale = False, -scale
        names = (self._constant(f"{name}.scale", scale.numpy()), self._constant("zero_point", 0.0))
        return self._write(
            "Quant",
            (source, *names, self._constant(f"bits_{bits}", float(bits))),
            name,
            shape,
            domain=DOMAIN,
            signed=int(signed),
            narrow=int(signed and narrow),
            rounding_mode=ROUNDING,
        )

    def _layer(self, name: str, source: str, target: str, given: torch.Size, made: torch.Size) -> None:
        layer = self.layers[target]
        signed = layer.layer.signed_activations
        step, narrow = layer.activation_scale, layer.narrow_activations
        activations = self._quant(source, f"{target}.input", given, step, layer.activation_bits, signed, narrow)
        weights = self._weights(target, layer, layer.quantized_weight().detach(), layer.weight_scales)
        bias = self._constant(f"{target}.bias", layer.bias.detach())
        self._multiply(target, (activations, weights, bias), name, made)

    def _multiply(self, target: str, operands: Sequence[str], name: str, made: torch.Size) -> str:
        """A layer's product of activations and weights, and its bias if there is one."""
        shape = self.layers[target].layer
        if shape.kind == "linear":
            return self._write("Gemm", operands, name, made, label=target, transB=1)
        return self._write(
            "Conv",
            operands,
            name,
            made,
            label=target,
            kernel_shape=shape.kernel,
            strides=shape.stride,
            pads=shape.padding * 2,
            dilations=shape.dilation,
            group=shape.groups,
        )

    def _weights(self, target: str, layer: QuantizedLayer, weights: torch.Tensor, scales: torch.Tensor) -> str:
        scales = scales.reshape(-1, *[1] * (weights.ndim - 1))
        widths = sorted(set(layer.weight_bits))
        parts, kernels = [], []
        for bits in widths:
            chosen = [kernel for kernel, width in enumerate(layer.weight_bits) if width == bits]
            name = f"{target}.weight" if len(widths) == 1 else f"{target}.weight_{bits}"
            if bits:
                floats = self._constant(f"{name}.float", weights[chosen])
                one = scales[chosen]
                name = self._quant(floats, name, weights[chosen].shape, one, bits, True, layer.narrow_weights)
            else:
                self._constant(name, weights[chosen])
            parts.append(name)
            kernels += chosen
        if len(parts) == 1:
            return parts[0]
        sorted_name = self._write("Concat", parts, f"{target}.weight_sorted", weights.shape, axis=0)
        order = self._constant(f"{target}.order", np.argsort(kernels), np.int64)
        return self._write("Gather", (sorted_name, order), f"{target}.weight", weights.shape, axis=0)

    def _operation(self, node: fx.Node, inputs: list[str], result: torch.Tensor) -> None:
        kind, name, shape = node_kind(node, self.graph_module), node.name, result.shape
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        module: Any = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        if kind == "relu":
            self._write("Relu", inputs, name, shape)
        elif kind == "relu6":
            limits = (self._constant("zero", 0.0), self._constant("six", self.six))
            self._write("Clip", (inputs[0], *limits), name, shape)
        elif kind == "add":
            operands = [self._read(one, node) for one in node.args if isinstance(one, fx.Node)]  # x + x has one input
            self._add(operands, name, shape)
        elif kind == "concatenation":
            parts: Any = node.args[0] if node.args else node.kwargs["tensors"]
            self._write("Concat", [self._read(part, node) for part in parts], name, shape, axis=1)
        elif kind == "average pool":
            self._average(inputs[0], name, shape, _pair(module.kernel_size), _pair(module.stride))
        elif kind == "max pool":
            self._max_pool(node, module or nn.MaxPool2d(*args[1:], **kwargs), inputs, args[0].shape, shape)
        elif kind == "pad":
            sides = list(args[1] if len(args) > 1 else kwargs["pad"])
            sides += [0] * (2 * result.ndim - len(sides))
            pads = [*sides[-2::-2], *sides[::-2]]  # pairs from the last axis on; ONNX wants all starts, then all ends
            self._write("Pad", (inputs[0], self._constant(f"{name}.pads", pads, np.int64)), name, shape)
        elif kind == "item":
            self._slice(name, inputs[0], args, shape)
        elif result.ndim == 2:
            self._write("Flatten", inputs, name, shape, axis=1)
        else:
            to = self._constant(f"{name}.shape", [0, *shape[1:]], np.int64)  # 0: as many images as there are
            self._write("Reshape", (inputs[0], to), name, shape)

    def _add(self, operands: list[str], name: str, shape: torch.Size) -> None:
        self._write("Add", operands, name, shape)

    def _average(
        self, source: str, name: str, shape: torch.Size, kernel: tuple[int, int], stride: tuple[int, int]
    ) -> None:
        self._write("AveragePool", (source,), name, shape, kernel_shape=kernel, strides=stride)

    def _max_pool(
        self, node: fx.Node, pool: nn.MaxPool2d, inputs: list[str], given: torch.Size, made: torch.Size
    ) -> None:
        kernel, stride, padding, dilation = map(_pair, (pool.kernel_size, pool.stride, pool.padding, pool.dilation))
        if pool.ceil_mode and onnx_windows(given, pool) != (made[2], made[3]):
            raise InputError(
                f"node {node.name!r} of the network: max pooling with ceil_mode drops a window that ONNX keeps; "
                "write it without ceil_mode."
            )
        options = {"kernel_shape": kernel, "strides": stride, "pads": padding * 2, "dilations": dilation}
        self._write("MaxPool", inputs, node.name, made, ceil_mode=int(pool.ceil_mode), **options)

    def _slice(self, name: str, source: str, args: Any, made: torch.Size) -> None:
        before = args[0].shape
        index = args[1] if isinstance(args[1], tuple) else args[1:]
        ranges = [one.indices(size) for one, size in zip(index, before, strict=False)]
        columns = [*zip(*ranges, strict=True)]
        starts, ends, steps = columns
        numbers = {"starts": starts, "ends": ends, "axes": range(len(ranges)), "steps": steps}
        inputs = [self._constant(f"{name}.{key}", list(value), np.int64) for key, value in numbers.items()]
        self._write("Slice", (source, *inputs), name, made)


def onnx_windows(given: torch.Size, pool: nn.MaxPool2d) -> tuple[int, int]:
    """Rows and columns that ONNX's ``ceil_mode`` makes of images ``(N, C, H, W)``: PyTorch may make one less."""
    kernel, stride, padding, dilation = map(_pair, (pool.kernel_size, pool.stride, pool.padding, pool.dilation))
    spare = [given[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1 for i in range(2)]
    return -(-spare[0] // stride[0]) + 1, -(-spare[1] // stride[1]) + 1


def _value(name: str, shape: Sequence[int], number: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, number, list(shape))


def _pair(number: Any) -> tuple[int, int]:
    return (number, number) if isinstance(number, int) else (number[0], number[1])
