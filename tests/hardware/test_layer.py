"""Layer shapes against torch."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from hardware.errors import InputError
from hardware.layer import Layer

PAIR = st.tuples(st.integers(1, 5), st.integers(1, 5))


@given(
    images=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    groups=st.integers(1, 3),
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    kernel=PAIR,
    stride=PAIR,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_shapes_and_counts_are_those_of_a_torch_convolution(
    images, channels, groups, size, kernel, stride, padding, dilation
):
    assume(all(d * (k - 1) < s + 2 * p for d, k, s, p in zip(dilation, kernel, size, padding, strict=True)))
    inputs, outputs = channels[0] * groups, channels[1] * groups
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer = Layer("x", "conv", inputs, outputs, *size, kernel=kernel, images=images, **options)
    weights = torch.empty(outputs, inputs // groups, *kernel, device="meta")
    result = torch.nn.functional.conv2d(torch.empty(images, inputs, *size, device="meta"), weights, **options)
    assert (images, outputs, layer.out_height, layer.out_width) == tuple(result.shape)
    assert layer.pixels == result.numel() // outputs
    assert layer.reduction == weights[0].numel()
    assert layer.weight_count == weights.numel()
    assert layer.macs == result.numel() * weights[0].numel()


@pytest.mark.parametrize(("features", "units", "batch"), [(1, 1, 1), (64, 10, 1), (100, 7, 5)])
def test_a_linear_layer_is_a_convolution_of_one_pixel(features, units, batch):
    layer = Layer("fc", "linear", features, units, images=batch)
    assert (layer.out_height, layer.out_width, layer.pixels) == (1, 1, batch)
    assert (layer.reduction, layer.weight_count) == (features, features * units)
    assert layer.macs == batch * features * units


@pytest.mark.parametrize(("channels", "size"), [(16, (2, 2)), (5, (1, 3))])
def test_a_linear_layer_after_a_flatten_is_a_convolution_of_the_whole_image(channels, size):
    layer = Layer("fc", "linear", channels, 7, *size, kernel=size, images=4)
    assert (layer.out_height, layer.out_width, layer.pixels) == (1, 1, 4)
    assert layer.reduction == channels * size[0] * size[1]


def test_sizes_that_cannot_be_are_refused():
    for wrong in ({"dilation": (0, 1)}, {"stride": (1, 0)}, {"padding": (-1, 0)}, {"images": 0}):
        with pytest.raises(InputError, match="layer 'x' needs channels, sizes, kernel, stride, dilation"):
            Layer("x", "conv", 1, 1, 3, 3, **wrong)
