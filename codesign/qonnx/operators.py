"""What every operator of a QONNX file becomes, one function each."""

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn

from codesign.qonnx.constants import Quantized, attributes, check_scale, check_zero_point, refuse, rounding_mode, width
from codesign.qonnx.exporting import onnx_windows
from codesign.qonnx.graph import BATCH, MAX_BITS, Builder, Quantizer, Value

ACTIVATION_ROUNDINGS = ("ROUND", "HALF_EVEN", "HALF_UP", "HALF_DOWN")
"""They differ from ours, and from each other, in exact ties only."""


def _layer(graph: Builder, node: onnx.NodeProto) -> Value:
    value, options = graph.input(node), attributes(node)
    source = graph.constants.get(node.input[1])
    if source is None or source.quantized is None:
        raise refuse(node, "its weights are not quantized constants; put a Quant node on them")
    weights = source.quantized
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not options.get("transB", 0)):
        weights = Quantized(weights.integers.T, weights.scale.T, weights.bits.T)
    out_channels = len(weights.integers)
    given = graph.numbers(node, 2)
    try:
        bias = np.zeros(out_channels) if given is None else np.broadcast_to(given.squeeze(), (out_channels,))
    except ValueError as error:
        raise refuse(node, f"its bias is not one number per kernel ({error})") from None
    bias = bias.astype(np.float64)
    if node.op_type != "Conv":
        if weights.integers.ndim != 2 or value.zeros.ndim != 2:
            raise refuse(node, "only a matrix times vectors (images, features) is supported; flatten first")
        if options.get("alpha", 1.0) != 1 or options.get("beta", 1.0) != 1 or options.get("transA", 0):
            raise refuse(node, "alpha and beta must be 1, transA 0")
        module: Any = nn.Linear(weights.integers.shape[1], out_channels)
        return graph.add_layer(node, module, value, weights, bias)
    if weights.integers.ndim != 4 or options.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise refuse(node, "only convolutions of images with explicit pads are supported")
    top, left, bottom, right = options.get("pads", [0] * 4)
    if (top, left) != (bottom, right):
        value = graph.call(node, F.pad, value, (left, right, top, bottom))
        top = left = 0
    groups = options.get("group", 1)
    module = nn.Conv2d(
        weights.integers.shape[1] * groups,
        out_channels,
        weights.integers.shape[2:],
        tuple(options.get("strides", (1, 1))),
        (top, left),
        tuple(options.get("dilations", (1, 1))),
        groups,
    )
    return graph.add_layer(node, module, value, weights, bias)


def _quant(graph: Builder, node: onnx.NodeProto) -> Value:
    value, options = graph.plain(node, graph.input(node)), attributes(node)
    scale, zero_point, bits = (graph.numbers(node, index) for index in (1, 2, 3))
    if scale is None or zero_point is None or bits is None:
        raise refuse(node, "it needs a scale, a zero point and a bit width")
    check_zero_point(node, zero_point)
    check_scale(node, scale)
    if (mode := rounding_mode(node)) not in ACTIVATION_ROUNDINGS:
        raise refuse(node, f"activations are rounded to the nearest level here, not by {mode}")
    if (scale != scale.flat[0]).any():
        raise refuse(node, "activations have one scale per tensor here; quantize per tensor")
    wide, step = width(node, bits), float(np.float32(scale.flat[0]))
    signed, narrow = bool(options.get("signed", 1)), bool(options.get("narrow", 0))
    if wide > MAX_BITS:
        raise refuse(node, f"it has {wide} bits, but the machine's activations at most {MAX_BITS}")
    if signed and wide == 1:
        raise refuse(node, "bipolar activations (one signed bit) are not supported; use two bits")
    if narrow and not signed:
        raise refuse(node, "unsigned levels without the largest one are not supported; use narrow=0")
    turned = wide == 1 and not signed and step < 0 and value.signed  # levels -1 and 0: our signed bit
    if step < 0 and not turned:
        raise refuse(node, "its scale is negative")
    if value.signed and not signed and not turned:
        value = _positive(graph, node, value)
    return replace(value, quantizer=Quantizer(step, wide, signed, narrow), layer=None)


def _affine(graph: Builder, node: onnx.NodeProto) -> Value:
    """Batch norm, or an operation with a constant, into the layer before; or an addition of two tensors."""
    if node.op_type == "Add" and all(name in graph.values for name in node.input):
        first, second = (graph.plain(node, graph.input(node, index)) for index in range(2))
        if first.zeros.shape != second.zeros.shape:
            raise refuse(node, f"{tuple(first.zeros.shape)} and {tuple(second.zeros.shape)} cannot be added")
        made = graph.graph.call_function(operator.add, (first.node, second.node))
        return Value(made, first.zeros + second.zeros, first.signed or second.signed)
    index = next((i for i, name in enumerate(node.input) if name in graph.values), 0)
    value = graph.input(node, index)
    if value.layer is None or value.quantizer or graph.readers[node.input[index]] > 1:
        raise refuse(node, "it scales or shifts what is not a layer's output with one reader; move it into a layer")
    if node.op_type == "BatchNormalization":
        columns = [graph.numbers(node, i) for i in range(1, 5)]
        gain, shift, mean, variance = (np.asarray(column, dtype=np.float64) for column in columns)
        factor = gain / np.sqrt(variance + float(np.float32(attributes(node).get("epsilon", 1e-5))))
        added = shift - mean * factor
    else:
        factor, added = _constant_operation(graph, node, value, index)
    if not np.isfinite(factor).all() or not factor.all() or not np.isfinite(added).all():
        raise refuse(node, "it multiplies a channel with 0 or something that is not finite; prune that kernel instead")
    value.layer.scale = value.layer.scale * factor
    value.layer.bias = value.layer.bias * factor + added
    return value


def _constant_operation(
    graph: Builder, node: onnx.NodeProto, value: Value, index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and summand of every channel, ``(M,)`` each, of an operation whose other operand is a constant."""
    shape = (1, value.zeros.shape[1], *[1] * (value.zeros.ndim - 2))
    numbers = np.asarray(graph.numbers(node, 1 - index), dtype=np.float64)
    try:
        number = np.broadcast_to(numbers, shape).reshape(-1)
    except ValueError:
        raise refuse(node, f"its constant of shape {numbers.shape} is not one number per channel") from None
    one, zero = np.ones(len(number)), np.zeros(len(number))
    if node.op_type == "Mul":
        return number, zero
    if node.op_type == "Div":
        # A constant divided by the values is no affine operation: a factor of 0 is refused.
        return (zero if index or not number.all() else 1 / number), zero
    if node.op_type == "Sub":
        return (-one, number) if index else (one, -number)
    return one, number


def _relu(graph: Builder, node: onnx.NodeProto) -> Value:
    return _positive(graph, node, graph.input(node))


def _positive(graph: Builder, node: onnx.NodeProto, value: Value) -> Value:
    """Values after a ReLU, which any quantizer passes but the one whose levels are -1 and 0."""
    if value.quantizer and value.quantizer.scale < 0:
        value = graph.plain(node, value)
    return replace(graph.call(node, torch.relu, value), signed=False)


def _clip(graph: Builder, node: onnx.NodeProto) -> Value:
    low, high = graph.numbers(node, 1, "min"), graph.numbers(node, 2, "max")
    if low is None or low != 0 or (high is not None and high != 6 and high < 3e38):
        raise refuse(node, f"only clipping from 0 to 6 (ReLU6) or from 0 on is supported, not {low} to {high}")
    if high is None or high != 6:
        return _relu(graph, node)
    return replace(graph.call(node, F.relu6, graph.plain(node, graph.input(node))), signed=False)


def _pool(graph: Builder, node: onnx.NodeProto) -> Value:
    value, options = graph.input(node), attributes(node)
    name = f"pool_{len(graph.graph.nodes)}"
    if node.op_type in ("GlobalAveragePool", "ReduceMean"):
        axes = graph.numbers(node, 1, "axes")
        if node.op_type == "ReduceMean" and (
            axes is None or sorted(int(a) % value.zeros.ndim for a in axes) != [2, 3] or value.zeros.ndim != 4
        ):
            raise refuse(node, "only means over all pixels (axes 2 and 3) are supported")
        made = graph.module(node, name, nn.AdaptiveAvgPool2d(1), graph.plain(node, value))
        keep = node.op_type != "ReduceMean" or options.get("keepdims", 1)
        return made if keep else graph.flatten(node, made)
    kernel, stride = tuple(options["kernel_shape"]), tuple(options.get("strides", (1, 1)))
    top, left, bottom, right = options.get("pads", [0] * 4)
    if len(kernel) != 2 or (top, left) != (bottom, right) or options.get("auto_pad", "NOTSET") == "SAME_UPPER":
        raise refuse(node, "only pooling of images with the same pads on both sides is supported")
    if node.op_type == "AveragePool":
        if top or left or options.get("ceil_mode", 0):
            raise refuse(node, "average pooling with pads or ceil_mode is not supported")
        return graph.module(node, name, nn.AvgPool2d(kernel, stride), graph.plain(node, value))
    dilation, ceil = tuple(options.get("dilations", (1, 1))), bool(options.get("ceil_mode", 0))
    pool = nn.MaxPool2d(kernel, stride, (top, left), dilation, ceil_mode=ceil)
    made = graph.module(node, name, pool, value)
    if ceil and onnx_windows(value.zeros.shape, pool) != made.zeros.shape[2:]:
        raise refuse(node, "its ceil_mode keeps a window that PyTorch drops; write it without")
    return made


def _concatenation(graph: Builder, node: onnx.NodeProto) -> Value:
    values = [graph.input(node, index) for index in range(len(node.input))]
    if attributes(node)["axis"] not in (1, -3) or any(one.zeros.ndim != 4 for one in values):
        raise refuse(node, "only the channels of images can be concatenated")
    if len({one.quantizer for one in values}) > 1:
        values = [graph.plain(node, one) for one in values]
    try:
        zeros = torch.cat([one.zeros for one in values], 1)
    except RuntimeError as error:
        raise refuse(node, f"its tensors cannot be concatenated ({error})") from None
    made = graph.graph.call_function(torch.cat, ([one.node for one in values], 1))
    # All waiting quantizers are the same; what cannot be negative stays so under a signed one.
    return Value(made, zeros, any(one.signed for one in values), values[0].quantizer)


def _pad(graph: Builder, node: onnx.NodeProto) -> Value:
    value, pads, number = graph.input(node), graph.numbers(node, 1, "pads"), graph.numbers(node, 2, "value")
    if attributes(node).get("mode", "constant") != "constant" or (number is not None and number.any()):
        raise refuse(node, "only padding with zeros is supported")
    if pads is None or len(pads) != 2 * value.zeros.ndim or pads[0] or pads[value.zeros.ndim] or len(node.input) > 3:
        raise refuse(node, "expected pads for every axis, none for the images")
    sides = [
        int(size) for pair in zip(pads[: value.zeros.ndim], pads[value.zeros.ndim :], strict=True) for size in pair
    ]
    pairs = [tuple(sides[start : start + 2]) for start in range(0, len(sides), 2)]
    return graph.call(node, F.pad, value, tuple(size for pair in reversed(pairs[1:]) for size in pair))


def _slice(graph: Builder, node: onnx.NodeProto) -> Value:
    value = graph.input(node)
    starts, ends, axes, steps = (
        graph.numbers(node, index + 1, name) for index, name in enumerate(("starts", "ends", "axes", "steps"))
    )
    if starts is None or ends is None:
        raise refuse(node, "it needs starts and ends")
    index = [slice(None)] * value.zeros.ndim
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = int(axes[number]) if axes is not None else number
        step = int(steps[number]) if steps is not None else 1
        if step < 1 or (axis % value.zeros.ndim == 0 and (start, step) != (0, 1)):
            raise refuse(node, "only slices forward, and of all images, are supported")
        if axis % value.zeros.ndim:
            index[axis] = slice(int(start), int(end), step)
    return graph.call(node, operator.getitem, value, tuple(index))


def _reshape(graph: Builder, node: onnx.NodeProto) -> Value:
    value = graph.input(node)
    before = value.zeros.shape
    if node.op_type == "Flatten":
        if attributes(node).get("axis", 1) not in (1, 1 - len(before)):
            raise refuse(node, "only flattening from axis 1 on is supported")
        return graph.flatten(node, value)
    to = graph.numbers(node, 1, "shape")
    if to is None or not len(to) or to[0] not in (0, -1, BATCH, graph.images):
        raise refuse(node, f"it reshapes to {None if to is None else to.tolist()}; the first axis must stay the images")
    rest, features = [int(size) for size in to[1:]], before[1:].numel()
    rest = [before[axis + 1] if size == 0 and axis + 1 < len(before) else size for axis, size in enumerate(rest)]
    if rest.count(-1) == 1:
        rest[rest.index(-1)] = features // max(1, -int(np.prod(rest)))
    if int(np.prod(rest)) != features:
        raise refuse(node, f"it reshapes {tuple(before)} to {to.tolist()}, which mixes images")
    return graph.flatten(node, value) if len(rest) == 1 else graph.call(node, torch.reshape, value, (-1, *rest))


def _same(graph: Builder, node: onnx.NodeProto) -> Value:
    value = graph.input(node)
    return value if graph.readers[node.input[0]] == 1 else replace(value, layer=None)


HANDLERS: dict[str, Callable[[Builder, onnx.NodeProto], Value]] = {
    **dict.fromkeys(("Quant", "IntQuant"), _quant),
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), _layer),
    **dict.fromkeys(("BatchNormalization", "Mul", "Div", "Add", "Sub"), _affine),
    "Relu": _relu,
    "Clip": _clip,
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"), _pool),
    "Concat": _concatenation,
    "Pad": _pad,
    "Slice": _slice,
    **dict.fromkeys(("Flatten", "Reshape"), _reshape),
    **dict.fromkeys(("Identity", "Dropout"), _same),
}
