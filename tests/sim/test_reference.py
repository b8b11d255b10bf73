"""The integer reference against torch."""

import numpy as np
import pytest
import torch

from hardware.layer import Layer
from hardware.operands import Operands
from sim.reference import integer_convolution, reference_sums

LAYERS = [
    Layer("fc", "linear", 30, 7, images=4),
    Layer("point", "conv", 5, 3, 4, 6, images=2),
    Layer("padded", "conv", 3, 4, 7, 5, kernel=(3, 2), stride=(2, 1), padding=(1, 2), images=2),
    Layer("strided", "conv", 2, 2, 9, 8, kernel=(5, 1), stride=(3, 3), padding=(0, 1)),
    Layer("dilated", "conv", 2, 3, 9, 8, kernel=(3, 2), padding=(1, 2), dilation=(2, 3)),
    Layer("grouped", "conv", 6, 9, 5, 4, kernel=(2, 2), stride=(1, 2), groups=3, images=2),
    Layer("depthwise", "conv", 4, 4, 5, 4, kernel=(3, 3), padding=(1, 1), dilation=(1, 2), groups=4),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_sums_are_those_of_torch(layer):
    rng = np.random.default_rng(0)
    weights = rng.integers(-128, 128, size=(layer.out_channels, layer.in_channels // layer.groups, *layer.kernel))
    activations = rng.integers(0, 256, size=(layer.images, layer.in_channels, layer.in_height, layer.in_width))
    # Every sum is far below 2**53, so double precision is exact.
    expected = torch.nn.functional.conv2d(
        torch.tensor(activations, dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64),
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
    )
    sums = integer_convolution(weights, activations, layer)
    assert sums.dtype == np.int64
    assert (sums == expected.numpy()).all()


def test_bipolar_weights_stand_for_odd_numbers():
    layer = Layer("fc", "linear", 3, 2)
    weights = np.array([[0, -1, 1], [-2, 0, 0]]).reshape(2, 3, 1, 1)  # 1, -1, 3 and -3, 1, 1
    activations = np.array([1, 10, 100]).reshape(1, 3, 1, 1)
    plain = Operands(layer, weights, activations, (2, 2), 7)
    assert reference_sums(plain).reshape(-1).tolist() == [90, -2]
    bipolar = Operands(layer, weights, activations, (2, 2), 7, bipolar=True)
    assert reference_sums(bipolar).reshape(-1).tolist() == [1 - 10 + 300, -3 + 10 + 100]
