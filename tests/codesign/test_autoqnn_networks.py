"""The published policies of AutoQNN (Gong et al., JCST 39(2), 2024): their averages tell the networks they are for."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from codesign.networks import create_network
from codesign.tracing import trace
from hardware.layer import Layer


def average(bits, counts):
    return sum(b * n for b, n in zip(bits, counts, strict=True)) / sum(counts)


def average_bits(layers, weight_bits, activation_bits):
    """Over the weights, and over the layers' outputs as they are before a pool."""
    outputs = [layer.out_channels * layer.pixels for layer in layers]
    return average(weight_bits, [layer.weight_count for layer in layers]), average(activation_bits, outputs)


def bit_operations(layers, weight_bits, input_bits):
    return sum(x.macs * w * a for x, w, a in zip(layers, weight_bits, input_bits, strict=True))


@pytest.fixture(scope="module")
def vgg_like():
    return trace(create_network("vgg-like", 0), (3, 32, 32)).layers


def test_vgg_like_has_the_published_layers(vgg_like):
    weights = [1728, 36_864, 73_728, 147_456, 294_912, 589_824, 4_194_304, 10_240]
    assert [layer.weight_count for layer in vgg_like] == weights
    outputs = [layer.out_channels * layer.pixels for layer in vgg_like]
    assert outputs == [65_536, 65_536, 32_768, 32_768, 16_384, 16_384, 1024, 10]
    macs = [1.77, 37.75, 18.87, 37.75, 18.87, 37.75, 4.19]
    assert [round(layer.macs / 1e6, 2) for layer in vgg_like[:-1]] == macs
    assert round(sum(layer.macs for layer in vgg_like) / 1e6, 1) == 157.0
    assert [layer.signed_activations for layer in vgg_like] == [True] + [False] * 7


def test_vgg_like_policy_has_the_published_average_and_twice_the_bit_operations(vgg_like):
    layers = vgg_like[:-1]  # the last classifier is not quantized
    weights, outputs = (7, 8, 6, 6, 7, 5, 2), (2, 3, 3, 4, 5, 4, 6)
    assert average_bits(layers, weights, outputs) == pytest.approx((2.816, 3.084), abs=5e-4)
    learned = bit_operations(layers, weights, (8, *outputs[:-1]))  # images have 8 bits
    uniform = bit_operations(layers, (3,) * 7, (8, *(3,) * 6))
    assert (round(learned / 1e9, 3), round(uniform / 1e9, 3)) == (3.228, 1.439)
    assert round(learned / uniform, 2) == 2.24


def test_vgg_like_folds_into_its_convolutions():
    network = create_network("vgg-like", 0)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-3, 0.01)
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
    images = torch.randn(2, 3, 32, 32, generator=generator)
    folded = trace(network, (3, 32, 32)).graph_module
    assert not any("BatchNorm" in type(module).__name__ for module in folded.modules())
    torch.testing.assert_close(folded(images), network.eval()(images), rtol=1e-4, atol=1e-3)


RESNET = {
    (2.131, 2.493): (
        (4, 3, 4, 4, 3, 3, 4, 4, 2, 2, 4, 2, 2, 2, 2, 2, 2, 4, 2, 2),
        (3, 2, 3, 2, 2, 3, 3, 2, 2, 2, 3, 3, 2, 3, 3, 3, 3, 3, 3, 3),
    ),
    (2.943, 3.067): (
        (*(4,) * 16, 2, 4, 3, 2),
        (4, 3, 3, 2, 2, 4, 4, 2, 2, 3, 4, 4, 2, 3, 4, 5, 6, 4, 5, 4),
    ),
    (4.000, 4.080): ((4,) * 20, (5, 4, 5, 3, 3, 4, 4, 3, 3, 3, 5, 6, 3, 4, 5, 7, 7, 5, 7, 6)),
}


def test_resnet18_policies_have_the_published_averages():
    layers = list(trace(create_network("resnet18", 0), (3, 224, 224)).layers[1:-1])
    names = [layer.name for layer in layers]
    # Theirs has a 1x1 convolution as the first stage's shortcut too, behind the block's others like all shortcuts.
    assert names.index("layer2.0.downsample.0") == names.index("layer2.0.conv2") + 1
    layers.insert(names.index("layer1.0.conv2") + 1, Layer("layer1.0.downsample.0", "conv", 64, 64, 56, 56))
    assert len(layers) == 20
    for published, (weights, outputs) in RESNET.items():
        assert average_bits(layers, weights, outputs) == pytest.approx(published, abs=5e-4)


ALEXNET = {
    (2.127, 2.022): ((4, 4, 4, 4, 2, 2), (2, 2, 2, 2, 3, 3)),
    (3.064, 3.199): ((4, 4, 4, 4, 3, 3), (3, 3, 4, 3, 4, 4)),
    (4.000, 3.280): ((4,) * 6, (3, 3, 3, 5, 5, 5)),  # printed as 4.05, which such bits cannot average
}


def test_alexnet_policies_have_the_published_averages():
    """On 2012's channels without groups, from the second convolution to the second fully connected layer."""
    sizes = ((5, 27), (3, 13), (3, 13), (3, 13))
    layers = [
        Layer(f"conv{number}", "conv", before, after, size, size, (kernel, kernel), padding=(kernel // 2, kernel // 2))
        for number, ((before, after), (kernel, size)) in enumerate(
            zip(pairwise((96, 256, 384, 384, 256)), sizes, strict=True), start=2
        )
    ]
    layers += [Layer("fc6", "linear", 256, 4096, 6, 6, (6, 6)), Layer("fc7", "linear", 4096, 4096)]
    for published, (weights, outputs) in ALEXNET.items():
        assert average_bits(layers, weights, outputs) == pytest.approx(published, abs=5e-4)
