import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.networks import create_network
from codesign.tracing import trace
from hardware.errors import InputError
from hardware.layer import Layer


def scrambled(network, seed=0):
    """Batch norms that do something: random statistics and affine parameters."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, *(module.parameters() if module.affine else ())):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


class Net(nn.Module):
    """A network from a function of its modules and the image, after a convolution of 2 to 4 channels."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        for name, module in modules.items():
            setattr(self, name, module)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def scores(x):
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


SAME_RESULT = {
    "relu module, function, method": lambda m, x: scores(torch.relu(F.relu(m.act(m.conv(x)).relu()))),
    "relu in place": lambda m, x: scores(F.relu(F.relu_(m.conv(x)).relu_(), inplace=True)),
    "max pool module and function": lambda m, x: scores(F.max_pool2d(m.pool(m.conv(x)), 2, stride=1)),
    "average pools": lambda m, x: scores(F.avg_pool2d(m.average(m.conv(x)), kernel_size=2, stride=1)),
    "average pool over size()": lambda m, x: over_size(m.conv(x)).view(x.size(0), -1),
    "adaptive module and flatten module": lambda m, x: m.flat(m.adaptive(m.conv(x))),
    "adaptive into equal parts": lambda m, x: F.adaptive_avg_pool2d(m.conv(x), (2, 3)).flatten(1),
    "adaptive that changes nothing": lambda m, x: F.adaptive_avg_pool2d(F.relu(m.conv(x)), (8, 6)).flatten(1),
    "relu6 module and function": lambda m, x: scores(F.relu6(m.loud(x)) + m.six(m.conv(x))),
    "concatenation of channels": lambda m, x: scores(
        torch.cat((torch.concat([m.conv(x), x], dim=1), F.relu(m.other(x))), -3)
    ),
    "reshape by shape": lambda m, x: m.conv(x).reshape(x.shape[0], -1),
    "additions": lambda m, x: scores(
        torch.add(operator.iadd(m.conv(x) + m.other(x), m.third(x)), m.fourth(x).add(x0(x)))
    ),
    "dropout and identity": lambda m, x: scores(F.dropout(m.drop(m.same(m.conv(x))), training=m.training)),
    "batch norm after convolution": lambda m, x: scores(m.norm(m.conv(x))),
    "batch norm after a layer without bias": lambda m, x: m.norm1(m.plain(m.bare(m.conv(x)).flatten(1))),
    "slice and pad": lambda m, x: scores(F.pad(m.conv(x)[:, 1:, ::2], (1, 0, 0, 2, 1, 0))),
    "groups, stride, uneven kernel": lambda m, x: scores(m.grouped(m.conv(x))),
    "dilation": lambda m, x: scores(m.dilated(m.conv(x))),
}


def over_size(x):
    return F.avg_pool2d(x, x.size()[3])


def x0(x):
    return F.pad(x, (0, 0, 0, 0, 1, 1))


def modules():
    torch.manual_seed(0)
    loud = nn.Conv2d(2, 4, 1)
    loud.weight.data *= 20  # beyond ReLU6's 6
    return {
        "loud": loud,
        "act": nn.ReLU(inplace=True),
        "six": nn.ReLU6(inplace=True),
        "pool": nn.MaxPool2d(3, 2, padding=1),
        "average": nn.AvgPool2d((2, 1)),
        "adaptive": nn.AdaptiveAvgPool2d((1, 1)),
        "flat": nn.Flatten(),
        **{name: nn.Conv2d(2, 4, 1) for name in ("other", "third", "fourth")},
        "drop": nn.Dropout(0.5),
        "same": nn.Identity(),
        "norm": nn.BatchNorm2d(4),
        "bare": nn.Conv2d(4, 3, 6, bias=False),
        "plain": nn.Linear(3 * 3 * 1, 5, bias=False),
        "norm1": nn.BatchNorm1d(5, affine=False),
        "grouped": nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(0, 2), groups=2),
        "dilated": nn.Conv2d(4, 2, (3, 2), padding=2, dilation=(2, 3)),
    }


@pytest.mark.parametrize("name", SAME_RESULT)
def test_traced_network_computes_the_same(name):
    network = scrambled(Net(SAME_RESULT[name], **modules()))
    traced = trace(network, (2, 8, 6))
    x = torch.randn(5, 2, 8, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(traced.graph_module(x), network(x), rtol=1e-4, atol=1e-5)
    for layer in traced.layers:
        module = traced.graph_module.get_submodule(layer.name)
        assert module.bias is not None
        assert layer.weight_count == module.weight.numel()
        if layer.kind == "conv":
            assert layer.dilation == module.dilation
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in traced.graph_module.modules())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet", (1, 8, 8)),
        ("mobilenetv1-cifar", (3, 32, 32)),
        ("resnet18", (3, 64, 96)),
        ("resnet20", (3, 32, 32)),
    ],
)
def test_built_in_networks_trace_to_the_same_scores(name, shape):
    network = scrambled(create_network(name, seed=0))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    traced = trace(network, shape)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    expected = network(x).detach()
    torch.testing.assert_close(traced.graph_module(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert x.shape == (3, *shape)


def test_layers_of_lenet():
    layers = trace(create_network("lenet", seed=0), (1, 8, 8), signed_input=False).layers
    assert layers == (
        Layer("conv1", "conv", 1, 8, 8, 8, (3, 3), (1, 1), (1, 1)),
        Layer("conv2", "conv", 8, 16, 4, 4, (3, 3), (1, 1), (1, 1)),
        Layer("fc1", "linear", 16, 48, 2, 2, (2, 2)),  # reads the 16 channels of 2x2 pixels where they lie
        Layer("fc2", "linear", 48, 32),
        Layer("fc3", "linear", 32, 10),
    )


def test_layers_of_resnet20_have_the_shapes_that_run():
    network = create_network("resnet20", seed=0).eval()
    layers = trace(network, (3, 32, 32)).layers
    seen = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, x, y, name=name: seen.append((name, m, x[0].shape, y.shape)))
    network(torch.zeros(1, 3, 32, 32))
    assert [layer.name for layer in layers] == [name for name, *_ in seen]
    for layer, (_, module, inputs, outputs) in zip(layers, seen, strict=True):
        assert inputs[1] == layer.in_channels
        assert outputs[1] == layer.out_channels
        assert layer.weight_count == module.weight.numel()
        if layer.kind == "conv":
            assert tuple(inputs[2:]) == (layer.in_height, layer.in_width)
            assert tuple(outputs[2:]) == (layer.out_height, layer.out_width)
    assert sum(layer.macs for layer in layers) == 40_551_040  # 40.6 million, as published for option A
    assert [layer.signed_activations for layer in layers] == [True] + [False] * 19


def test_signs_follow_the_structure():
    def forward(m, x):
        a = F.relu6(m.conv(x))  # conv sees the image
        b = m.b(F.max_pool2d(a, 2))  # unsigned
        c = m.c(b)  # signed: straight from a layer
        d = m.d(F.relu(c) + F.relu(b))  # unsigned plus unsigned
        e = m.e(F.relu(d) + b)  # unsigned plus signed
        f = m.f(F.pad(F.relu(e)[:, :, ::2], (1, 1)))
        h = m.h(torch.cat((F.relu(f), a[:, :, ::4, :5]), 1))  # unsigned beside unsigned
        i = m.i(torch.cat((F.relu(h), f), 1))  # unsigned beside signed
        return m.g(F.avg_pool2d(i, 2).flatten(1))  # signed through pool and flatten

    layers = {name: nn.Conv2d(4, 4, 1) for name in "bcdef"} | {name: nn.Conv2d(8, 4, 1) for name in "hi"}
    network = Net(forward, **layers, g=nn.Linear(4 * 1 * 2, 2))
    for signed_input in (True, False):
        signs = {x.name: x.signed_activations for x in trace(network, (2, 8, 6), signed_input).layers}
        signed = {"conv": signed_input, "c": True, "e": True, "g": True, "i": True}
        assert signs == dict.fromkeys("bdfh", False) | signed


FLATTENED = {
    "flatten": (lambda m, x: m.plain(m.conv(x).flatten(1)), (4, 4, 3)),
    "relu, dropout and another reshape between": (
        lambda m, x: m.plain(m.drop(F.relu(m.conv(x).flatten(1))).view(-1, 48)),
        (4, 4, 3),
    ),
    "flatten in two steps": (lambda m, x: m.plain(m.conv(x).flatten(2).flatten(1)), (4, 4, 3)),
    "the image": (lambda m, x: m.wide(x.flatten(1)), (2, 4, 3)),
    "sum of two alike": (lambda m, x: m.plain(m.conv(x).flatten(1) + m.other(x).flatten(1)), (4, 4, 3)),
    "sum of two unlike": (lambda m, x: m.plain(m.conv(x).flatten(1) + m.wider(x.flatten(1))), (48, 1, 1)),
    "sum of two unlike images": (lambda m, x: m.plain(m.conv(x).flatten(1) + m.rows(x).flatten(1)), (48, 1, 1)),
    "a slice of the features": (lambda m, x: m.wide(m.conv(x).flatten(1)[:, 24:]), (24, 1, 1)),
    "single pixels": (lambda m, x: m.few(scores(m.conv(x))), (4, 1, 1)),
    "linear after linear": (lambda m, x: m.plain(m.wider(x.flatten(1))), (48, 1, 1)),
}


@pytest.mark.parametrize("name", FLATTENED)
def test_a_linear_layer_is_the_convolution_of_what_was_flattened(name):
    forward, shape = FLATTENED[name]
    network = Net(
        forward,
        other=nn.Conv2d(2, 4, 1),
        rows=nn.Conv2d(2, 12, (1, 3)),
        drop=nn.Dropout(),
        plain=nn.Linear(48, 5),
        wide=nn.Linear(24, 5),
        wider=nn.Linear(24, 48),
        few=nn.Linear(4, 5),
    )
    traced = trace(network, (2, 4, 3))
    layer = traced.layers[-1]
    assert layer.kind == "linear"
    assert (layer.in_channels, layer.in_height, layer.in_width) == shape
    assert layer.kernel == shape[1:]
    assert (layer.out_height, layer.out_width) == (1, 1)


def test_a_flattened_linear_layer_is_a_convolution_with_its_weights_reshaped():
    module = nn.Linear(48, 5)
    layer = trace(nn.Sequential(nn.Flatten(), module), (4, 4, 3)).layers[0]
    x = torch.randn(2, 4, 4, 3)
    kernel = module.weight.reshape(5, layer.in_channels, *layer.kernel)
    torch.testing.assert_close(F.conv2d(x, kernel, module.bias).flatten(1), module(x.flatten(1)))


REFUSED = {
    "sigmoid": (lambda m, x: scores(torch.sigmoid(m.conv(x))), "sigmoid is not supported; supported are Conv2d"),
    "method": (lambda m, x: scores(m.conv(x).tanh()), "tanh is not supported"),
    "module": (lambda m, x: scores(nn.functional.gelu(m.conv(x))), "gelu is not supported"),
    "batch norm alone": (lambda m, x: scores(m.norm(F.relu(m.conv(x)))), "batch norm needs"),
    "batch norm beside another reader": (lambda m, x: scores(add_twice(m.conv(x), m.norm)), "batch norm needs"),
    "batch norm without statistics": (lambda m, x: scores(m.stateless(m.conv(x))), "batch norm needs"),
    "layer used twice": (lambda m, x: scores(m.square(m.square(m.conv(x)))), "'square' is used twice"),
    "in place on what others read": (lambda m, x: scores(add_twice(m.conv(x), F.relu_)), "in place"),
    "scalar added": (lambda m, x: scores(m.conv(x) + 1), "only two tensors"),
    "alpha": (lambda m, x: scores(torch.add(m.conv(x), m.other(x), alpha=2)), "only two tensors"),
    "broadcast": (lambda m, x: scores(m.conv(x) + m.other(x)[:, :1]), "cannot be added"),
    "padding with ones": (lambda m, x: scores(F.pad(m.conv(x), (1, 1), value=1.0)), "padding with zeros"),
    "reflected padding": (lambda m, x: scores(F.pad(m.conv(x), (1, 1, 1, 1), "reflect")), "padding with zeros"),
    "reflecting convolution": (lambda m, x: scores(m.reflect(x)), "pixels"),
    "padding string": (lambda m, x: scores(m.string(x)), "pixels"),
    "averages with padding": (
        lambda m, x: scores(F.avg_pool2d(m.conv(x), 2, padding=1)),
        "average pooling with padding",
    ),
    "adaptive to unequal parts": (
        lambda m, x: F.adaptive_avg_pool2d(m.conv(x), (2, 4)).flatten(1),
        r"adaptive average pooling of \(8, 6\) pixels to \(2, 4\), which are no equal parts",
    ),
    "concatenated rows": (lambda m, x: scores(torch.cat((m.conv(x), m.other(x)), 2)), "only the channels of images"),
    "concatenated features": (
        lambda m, x: torch.cat((m.conv(x).flatten(1), x.flatten(1)), 1),
        "only the channels of images",
    ),
    "index": (lambda m, x: m.conv(x)[:, :, 0, 0], "slices"),
    "mixed images": (lambda m, x: m.conv(x).view(-1, 4), "keep the images|expected one tensor"),
    "four-axis scores": (lambda m, x: m.conv(x), r"expected \(images, classes\)"),
    "two outputs": (lambda m, x: (scores(m.conv(x)), x), "expected one tensor"),
    "linear on pixels": (lambda m, x: scores(m.wide(m.conv(x))), "flatten"),
    "wrong shape": (lambda m, x: m.wide(scores(m.conv(x))), r"cannot take images of shape \(2, 8, 6\)"),
    "depends on values": (lambda m, x: scores(m.conv(x)) if x.sum() > 0 else None, "cannot trace"),
    "no layer": (lambda m, x: scores(x), "nothing to quantize"),
}


def add_twice(x, function):
    return function(x) + x


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_named(name):
    forward, message = REFUSED[name]
    network = Net(
        forward,
        norm=nn.BatchNorm2d(4),
        stateless=nn.BatchNorm2d(4, track_running_stats=False),
        square=nn.Conv2d(4, 4, 1),
        other=nn.Conv2d(2, 4, 1),
        reflect=nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
        string=nn.Conv2d(2, 4, 3, padding="same"),
        wide=nn.Linear(6, 6),
    )
    with pytest.raises(InputError, match=message):
        trace(network, (2, 8, 6))
