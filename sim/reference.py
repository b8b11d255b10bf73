"""What the machine should compute: a plain integer convolution that shares no code with the lowering."""

import numpy as np

from hardware.layer import Layer
from hardware.operands import Operands


def integer_convolution(weights: np.ndarray, activations: np.ndarray, layer: Layer) -> np.ndarray:
    """Sums of a convolution or linear layer, by definition.

    Parameters
    ----------
    weights:
        int64, ``(M, C / groups, kernel rows, kernel columns)``.
    activations:
        int64, ``(images, C, height, width)``.

    Returns
    -------
    int64, ``(images, M, out height, out width)``.
    """
    (top, left), (down, across), (rows, columns) = layer.padding, layer.stride, layer.kernel
    images, channels, height, width = activations.shape
    field = np.zeros((images, channels, height + 2 * top, width + 2 * left), dtype=np.int64)
    field[:, :, top : top + height, left : left + width] = activations
    sums = np.zeros((images, layer.out_channels, layer.out_height, layer.out_width), dtype=np.int64)
    kernels, inputs = layer.out_channels // layer.groups, channels // layer.groups
    for y in range(layer.out_height):
        for x in range(layer.out_width):
            ys = y * down + layer.dilation[0] * np.arange(rows)
            xs = x * across + layer.dilation[1] * np.arange(columns)
            window = field[:, :, ys[:, None], xs[None, :]]
            for group in range(layer.groups):
                mine = slice(group * kernels, (group + 1) * kernels)
                part = window[:, group * inputs : (group + 1) * inputs]
                sums[:, mine, y, x] = np.einsum("ncij,mcij->nm", part, weights[mine])
    return sums


def reference_sums(operands: Operands) -> np.ndarray:
    """What the machine must answer: the sums of the layer's true weights, ``2 w + 1`` where they are bipolar."""
    weights = 2 * operands.weights + 1 if operands.bipolar else operands.weights
    return integer_convolution(weights, operands.activations, operands.layer)
