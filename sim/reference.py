"""What the machine should compute: a plain integer convolution that shares no code with the lowering."""

import numpy as np

from hardware.layer import Layer


def integer_convolution(weights: np.ndarray, activations: np.ndarray, layer: Layer) -> np.ndarray:
    """Sums of a convolution or linear layer, by definition.

    Parameters
    ----------
    weights:
        int64, ``(M, C, kernel rows, kernel columns)``.
    activations:
        int64, ``(images, C, height, width)``.

    Returns
    -------
    int64, ``(images, M, out height, out width)``.
    """
    (top, left), (down, across) = layer.padding, layer.stride
    images, channels, height, width = activations.shape
    field = np.zeros((images, channels, height + 2 * top, width + 2 * left), dtype=np.int64)
    field[:, :, top : top + height, left : left + width] = activations
    sums = np.zeros((images, layer.out_channels, layer.out_height, layer.out_width), dtype=np.int64)
    for y in range(layer.out_height):
        for x in range(layer.out_width):
            window = field[:, :, y * down : y * down + layer.kernel[0], x * across : x * across + layer.kernel[1]]
            sums[:, :, y, x] = np.einsum("ncij,mcij->nm", window, weights)
    return sums
