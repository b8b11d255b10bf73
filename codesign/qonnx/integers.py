"""The machine's integers as a QONNX model, bit for bit.

`codesign.qonnx.exporting` writes what was trained, and the machine rounds more often than that: values between layers
have 16 bits. This module writes `codesign.integers` instead, so that whoever executes the file sees the machine's own
scores. All tensors are float32 numbers that are integers; ``Quant`` nodes of scale 1 say how wide they are.

===========================  =========================================================================================
here                         there
===========================  =========================================================================================
activations of a layer       `hardware.arithmetic.to_activations` in float64, then a ``Quant`` that changes nothing
sums                         ``Conv`` or ``Gemm`` of integers, without bias
requantization               multiplier, bias and shift in float64
addition                     ``Add``, and ``Clip`` to 16 bits
average                      ``AveragePool`` times its area, rounded: the total; then requantized
scores                       values times ``2**-F``
===========================  =========================================================================================

Why this is exact: a sum below ``2**24`` is exact in float32 in whatever order it is summed, which is checked here. In
float64 every product is exact or, from ``2**53`` on, so large that the value saturates either way.
"""

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import fx

from codesign.integers import IntegerLayer, IntegerNetwork
from codesign.qonnx.exporting import Exporter
from codesign.quantize import QuantizedNetwork
from hardware.arithmetic import (
    ACTIVATION_SHIFT,
    BIAS_FRACTION_BITS,
    HIGHEST_VALUE,
    LOWEST_VALUE,
    Requantization,
    averaging,
)
from hardware.errors import InputError

EXACT_BELOW = 2**24
"""float32 has all integers up to this one."""


def export_integers(quantized: QuantizedNetwork, input_shape: tuple[int, ...], batch: int = 1) -> onnx.ModelProto:
    """The QONNX model of what the machine computes; the same network gives the same bytes.

    Parameters
    ----------
    quantized, input_shape, batch:
        See `codesign.qonnx.exporting.export_qonnx`.

    Raises
    ------
    InputError
        Where `export_qonnx` and `codesign.integers.IntegerNetwork` do, or a layer's sums may leave float32's integers.
    """
    return IntegerExporter(quantized).model(torch.zeros(batch, *input_shape))


class IntegerExporter(Exporter):
    """Writes integers where `Exporter` writes what they stand for."""

    arithmetic = "machine"

    def __init__(self, quantized: QuantizedNetwork) -> None:
        super().__init__(quantized)
        self.network = IntegerNetwork(quantized)
        self.six = float(6 << self.network.fraction_bits)
        self.converted: set[str] = set()

    def _read(self, source: fx.Node, reader: fx.Node) -> str:
        name, images, value = source.name, self.network.image_nodes, self.env[source]
        if not isinstance(value, torch.Tensor):
            return name  # a size
        shape = value.shape
        if reader.op == "output":
            unit = self._constant("value", 2.0**-self.network.fraction_bits)
            return self._write("Mul", (name, unit), "scores", shape)
        if source not in images or reader in images or reader.target in self.layers:
            return name
        values = f"{name}.values"  # something other than a layer reads the image
        if values not in self.converted:
            self.converted.add(values)
            scaled = self._double(name, f"{values}.scaled", shape, multiplier=2.0**self.network.fraction_bits)
            self._round(scaled, values, shape, LOWEST_VALUE, HIGHEST_VALUE)
        return values

    def _layer(self, name: str, source: str, target: str, given: torch.Size, made: torch.Size) -> None:
        integers, layer = self.network.layers[target], self.layers[target]
        _check_exact(target, integers)
        if integers.reads_image:
            scaled = self._double(source, f"{target}.input.scaled", given, divisor=integers.step)
        else:
            factor = integers.activation_multiplier * 2.0**-ACTIVATION_SHIFT
            scaled = self._double(source, f"{target}.input.scaled", given, multiplier=factor)
        rounded = self._round(scaled, f"{target}.input.rounded", given, *integers.levels)
        one, signed = torch.ones(()), layer.layer.signed_activations
        width = layer.activation_bits, signed, layer.narrow_activations
        activations = self._quant(rounded, f"{target}.input", given, one, *width)
        numbers = torch.from_numpy(integers.weights).float().reshape(layer.weight.shape)
        weights = self._weights(target, layer, numbers, torch.ones(len(numbers)))
        sums = self._multiply(target, (activations, weights), f"{target}.sums", made)
        self._requantize(sums, name, made, integers.requantization)

    def _add(self, operands: list[str], name: str, shape: torch.Size) -> None:
        total = self._write("Add", operands, f"{name}.total", shape)
        limits = (self._constant("lowest", LOWEST_VALUE), self._constant("highest", HIGHEST_VALUE))
        self._write("Clip", (total, *limits), name, shape)

    def _average(
        self, source: str, name: str, shape: torch.Size, kernel: tuple[int, int], stride: tuple[int, int]
    ) -> None:
        area = kernel[0] * kernel[1]
        if area * -LOWEST_VALUE >= EXACT_BELOW // 2:  # half of it: the average is rounded, too
            raise InputError(
                f"node {name!r} averages {area} values, whose total float32 cannot hold: average fewer than 256."
            )
        mean = self._write("AveragePool", (source,), f"{name}.mean", shape, kernel_shape=kernel, strides=stride)
        total = self._write("Mul", (mean, self._constant(f"{name}.area", area)), f"{name}.unrounded", shape)
        self._requantize(self._write("Round", (total,), f"{name}.total", shape), name, shape, averaging(area))

    def _requantize(self, totals: str, name: str, shape: torch.Size, constants: Requantization) -> None:
        """`Requantization.values`: the bias, which has the rounding half, and the shift are exact in float64."""
        columns = (-1, *[1] * (len(shape) - 2))
        factor = np.ldexp(constants.multiplier.astype(np.float64), -constants.shift).reshape(columns)
        bias = np.ldexp(constants.bias.astype(np.float64), -BIAS_FRACTION_BITS).reshape(columns)
        scaled = self._double(totals, f"{name}.scaled", shape, multiplier=factor)
        self._round(scaled, name, shape, LOWEST_VALUE, HIGHEST_VALUE, bias)

    def _double(self, source: str, name: str, shape: Any, multiplier: Any = None, divisor: Any = None) -> str:
        """float64 ``source`` times a number, or divided by it."""
        wide = self._write("Cast", (source,), f"{name}.double", shape, to=TensorProto.DOUBLE, number=TensorProto.DOUBLE)
        operation, number = ("Mul", multiplier) if divisor is None else ("Div", divisor)
        operand = self._constant(f"{name}.by", number, np.float64)
        return self._write(operation, (wide, operand), name, shape, number=TensorProto.DOUBLE)

    def _round(self, source: str, name: str, shape: Any, low: int, high: int, added: Any = 0.5) -> str:
        """float32 integers from ``low`` to ``high``: ``floor(source + added)``."""
        numbers = {"half": added, "low": low, "high": high}
        half, *limits = (self._constant(f"{name}.{key}", one, np.float64) for key, one in numbers.items())
        steps = {"Add": (half,), "Floor": (), "Clip": limits}
        for kind, operands in steps.items():
            source = self._write(kind, (source, *operands), f"{name}.{kind.lower()}", shape, number=TensorProto.DOUBLE)
        return self._write("Cast", (source,), name, shape, label=f"{name}.float", to=TensorProto.FLOAT)


def _check_exact(name: str, layer: IntegerLayer) -> None:
    """Raise `InputError` if a sum of this layer may be no float32 integer."""
    largest = int(np.abs(layer.weights).sum((1, 2, 3)).max()) * max(-layer.levels[0], layer.levels[1])
    if largest >= EXACT_BELOW:
        raise InputError(
            f"layer {name!r} can sum up to {largest:,}, but QONNX's float32 has all integers up to {EXACT_BELOW:,} "
            "only: give it fewer bits, or export without --exact."
        )
