"""What a QONNX file's graph computes from constants alone: weights, their integers, scales and widths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from hardware.errors import InputError

QUANTS = ("Quant", "IntQuant", "BipolarQuant")
ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **dict.fromkeys(("ROUND", "HALF_EVEN"), np.round),
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}
"""QONNX's rounding modes by name; "up" is away from zero there."""
_MOVES = ("Concat", "Flatten", "Gather", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that move numbers about and leave each as it is."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """How a constant was quantized: ``integers * scale``, everything shaped as the constant itself.

    Parameters
    ----------
    integers:
        float64, whole numbers.
    scale:
        float64, of either sign.
    bits:
        Width that our signed weights need for these levels: one more than an unsigned ``Quant`` of more than one bit
        says, and 2 for bipolar ones, +-1. Levels 0 and 1 are one bit, see `policies.quantizers.weight_scales`.
    """

    integers: np.ndarray
    scale: np.ndarray
    bits: np.ndarray


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on the image."""

    value: np.ndarray
    quantized: Quantized | None = None


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name; text as `str`."""
    found = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def describe(node: onnx.NodeProto) -> str:
    """How a message calls a node."""
    return f"{node.op_type} node {node.name or (node.output[0] if node.output else '')!r}"


def refuse(node: onnx.NodeProto, problem: str) -> InputError:
    """The error for a node that cannot be taken."""
    return InputError(f"{describe(node)}: {problem}.")


def rounding_mode(node: onnx.NodeProto) -> str:
    """A ``Quant`` node's rounding; InputError where QONNX does not know it."""
    mode = str(attributes(node).get("rounding_mode", "ROUND")).upper()
    if mode not in ROUNDINGS:
        raise refuse(node, f"rounding mode {mode!r} is unknown, expected one of {', '.join(ROUNDINGS)}")
    return mode


def width(node: onnx.NodeProto, bits: np.ndarray) -> int:
    """The one width of a ``Quant`` node."""
    widths = np.unique(bits)
    if len(widths) != 1 or not widths[0] >= 1 or widths[0] != np.floor(widths[0]):
        raise refuse(node, f"its bit width is {bits.tolist()}, expected one whole number from 1 up")
    return int(widths[0])


def check_zero_point(node: onnx.NodeProto, zero_point: np.ndarray) -> None:
    """Raise `InputError` unless zero stands for zero."""
    if zero_point.any():
        raise refuse(node, "its zero point is not 0; only symmetric quantization is supported")


def check_scale(node: onnx.NodeProto, scale: np.ndarray) -> None:
    """Raise `InputError` unless one can divide by it."""
    if not np.isfinite(scale).all() or not scale.all():
        raise refuse(node, "its scale holds 0 or is not finite; calibrate the network again")


def evaluate(node: onnx.NodeProto, inputs: Sequence[Constant | None], opsets: Sequence[Any]) -> list[Constant]:
    """A node's outputs, all its inputs being constants (None: left out).

    Raises
    ------
    InputError
        It cannot be computed, or is a ``Quant`` with a zero point or an odd width.
    """
    given = [one for one in inputs if one is not None]
    if node.op_type in QUANTS:
        return [_quantize(node, [one.value for one in given])]
    outputs = [Constant(value) for value in _run(node, [_value(one) for one in inputs], opsets)]
    if node.op_type in _MOVES and any(one.quantized for one in given):
        parts = [_parts(one) for one in given] if node.op_type == "Concat" else [_parts(given[0])]
        if all(part is not None for part in parts):
            rest = [] if node.op_type == "Concat" else [_value(one) for one in inputs[1:]]
            columns = [[getattr(part, field) for part in parts] + rest for field in ("integers", "scale", "bits")]
            outputs = [Constant(outputs[0].value, Quantized(*(_run(node, column, opsets)[0] for column in columns)))]
    return outputs


def _value(constant: Constant | None) -> np.ndarray | None:
    return None if constant is None else constant.value


def _parts(constant: Constant) -> Quantized | None:
    """How it was quantized; zeros need no ``Quant``, they are kernels without bits."""
    zeros = np.zeros(constant.value.shape)
    return constant.quantized or (Quantized(zeros, zeros + 1, zeros) if not constant.value.any() else None)


def _quantize(node: onnx.NodeProto, inputs: list[np.ndarray]) -> Constant:
    bipolar = node.op_type == "BipolarQuant"
    if len(inputs) != (2 if bipolar else 4):
        raise refuse(node, f"it has {len(inputs)} inputs, expected {2 if bipolar else 4}")
    values, scale = inputs[0], inputs[1]
    check_scale(node, scale)
    bits, options = 1, attributes(node)
    signed, narrow = bool(options.get("signed", 1)), bool(options.get("narrow", 0))
    if not bipolar:
        check_zero_point(node, inputs[2])
        bits = width(node, inputs[3])
    quotients = values / scale  # as the file's executor computes it, in its own precision
    if bipolar or (signed and bits == 1):
        integers, needed = np.where(quotients >= 0, 1.0, -1.0), 2
    else:
        low = -(2 ** (bits - 1)) + narrow if signed else 0
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
        integers = ROUNDINGS[rounding_mode(node)](quotients.clip(low, high)).astype(np.float64)
        needed = bits if signed or bits == 1 else bits + 1
    scales = np.broadcast_to(scale.astype(np.float64), integers.shape)
    value = (integers * scales).astype(values.dtype)
    if not signed and bits == 1:
        integers, scales = -integers, -scales
    return Constant(value, Quantized(integers, scales, np.full(integers.shape, float(needed))))


def _run(node: onnx.NodeProto, inputs: Sequence[np.ndarray | None], opsets: Sequence[Any]) -> list[np.ndarray]:
    present = {name: array for name, array in zip(node.input, inputs, strict=True) if array is not None}
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in present.items()
    ]
    made = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    try:
        model = helper.make_model(helper.make_graph([node], "constant", declared, made), opset_imports=opsets)
        return [np.asarray(one) for one in ReferenceEvaluator(model).run(None, present)]
    except Exception as error:  # whatever an operator that is unknown or given nonsense makes of it
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise refuse(node, f"it cannot be computed from constants ({first})") from None
