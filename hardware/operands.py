"""One layer's work with its integers: what the lowering packs and what the machine multiplies."""

from dataclasses import dataclass

import numpy as np

from hardware.layer import Layer


@dataclass(frozen=True, eq=False)
class Operands:
    """Integer weights and activations of one layer, and their widths.

    Parameters
    ----------
    layer:
        The shape; ``layer.images`` images are processed.
    weights:
        int64, ``(M, C / groups, kernel rows, kernel columns)``.
    activations:
        int64, ``(images, C, height, width)``, not padded.
    weight_bits:
        Width of every output channel's weights, length M; 0 means the kernel is pruned (all its weights are 0).
    activation_bits:
        Width of the activations.
    signed_weights:
        Two's complement weights; unsigned otherwise. Whether activations are signed is the layer's property.
    bipolar:
        The layer's true weights are ``2 * weights + 1``: mid-rise levels (+-1/2, +-3/2, ...) in units of a half.
    """

    layer: Layer
    weights: np.ndarray
    activations: np.ndarray
    weight_bits: tuple[int, ...]
    activation_bits: int
    signed_weights: bool = True
    bipolar: bool = False
