"""The integer reference against torch."""

import numpy as np
import pytest
import torch

from hardware.layer import Layer
from sim.reference import integer_convolution

LAYERS = [
    Layer("fc", "linear", 30, 7, images=4),
    Layer("point", "conv", 5, 3, 4, 6, images=2),
    Layer("padded", "conv", 3, 4, 7, 5, kernel=(3, 2), stride=(2, 1), padding=(1, 2), images=2),
    Layer("strided", "conv", 2, 2, 9, 8, kernel=(5, 1), stride=(3, 3), padding=(0, 1)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_sums_are_those_of_torch(layer):
    rng = np.random.default_rng(0)
    weights = rng.integers(-128, 128, size=(layer.out_channels, layer.in_channels, *layer.kernel))
    activations = rng.integers(0, 256, size=(layer.images, layer.in_channels, layer.in_height, layer.in_width))
    # Every sum is far below 2**53, so double precision is exact.
    expected = torch.nn.functional.conv2d(
        torch.tensor(activations, dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64),
        stride=layer.stride,
        padding=layer.padding,
    )
    sums = integer_convolution(weights, activations, layer)
    assert sums.dtype == np.int64
    assert (sums == expected.numpy()).all()
