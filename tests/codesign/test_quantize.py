import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.tracing import trace
from hardware.errors import InputError
from policies.policy import ActivationChoice, LayerPolicy, Policy, WeightChoice
from policies.quantizers import activation_scale


class Small(nn.Module):
    """Convolution, dilated depthwise convolution, residual addition, linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False), nn.BatchNorm2d(4))
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.relu(x + self.body(x))
        return self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture(scope="module")
def traced():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Small().eval()
        network.body[1].running_var.uniform_(0.2, 0.6)
    return trace(network, (2, 6, 5))


@pytest.fixture(scope="module")
def images():
    return torch.randn(64, 2, 6, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def calibration(traced, images):
    return Calibration(traced, images)


def uniform(traced, weight_bits, activation_bits):
    return Policy.uniform("small", traced.layers, weight_bits, activation_bits)


def test_every_layer_holds_its_policys_integers(traced, calibration):
    bits = [(8, 7), (3, 2), (5, 4)]
    network = QuantizedNetwork(traced, Policy.from_bits("small", traced.layers, bits), calibration)
    assert list(network.layers) == ["first", "body.0", "last"]
    for layer, (w, a) in zip(network.layers.values(), bits, strict=True):
        integers = layer.machine_weights().integers
        assert integers.dtype == np.int64
        assert integers.shape == (
            layer.layer.out_channels,
            layer.layer.in_channels // layer.layer.groups,
            *layer.layer.kernel,
        )
        assert np.abs(integers).max() == 2 ** (w - 1) - 1
        assert layer.weight_bits == (w,) * layer.layer.out_channels
        assert layer.activation_bits == a


def test_forward_is_the_network_of_quantized_values(traced, calibration, images):
    """An independent forward, written out with the layers' integers and scales in float64."""
    network = QuantizedNetwork(traced, uniform(traced, 4, 5), calibration).eval()

    def run(layer, x):
        step = layer.activation_scale.item()
        signed = layer.layer.signed_activations
        x = np.clip(np.floor(x.numpy() / step + 0.5), -15 if signed else 0, 15 if signed else 31) * step
        weight = torch.from_numpy(layer.machine_weights().integers) * layer.weight_scales.double().reshape(-1, 1, 1, 1)
        bias = layer.bias.detach().double()
        if layer.layer.kind == "linear":
            return torch.from_numpy(x) @ weight[:, :, 0, 0].T + bias
        around = 2 if layer is body else 1
        return F.conv2d(torch.from_numpy(x), weight, bias, 1, around, around, layer.layer.groups)

    first, body, last = network.layers.values()
    x = run(first, images.double()).relu()
    x = (x + run(body, x)).relu().mean((2, 3))
    torch.testing.assert_close(network(images).double(), run(last, x), rtol=1e-4, atol=1e-5)


def test_more_bits_come_closer_to_the_float_network(traced, calibration, images):
    scores = traced.graph_module(images).detach()

    def error(bits):
        network = QuantizedNetwork(traced, uniform(traced, bits, bits), calibration)
        with torch.no_grad():
            return float((network(images) - scores).square().mean())

    errors = [error(bits) for bits in (2, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 * float(scores.var())


def test_activation_scales_fit_what_the_float_layers_see(traced, calibration, images):
    seen = {}
    for layer in traced.layers:
        module = traced.graph_module.get_submodule(layer.name)
        module.register_forward_pre_hook(lambda m, x, name=layer.name: seen.update({name: x[0].detach()}))
    traced.graph_module(images)
    for layer in traced.layers:
        ours, best = calibration.scale(layer.name, 3), activation_scale(seen[layer.name], 3, layer.signed_activations)
        assert ours == pytest.approx(best, rel=0.1)  # samples of a large tensor


def test_the_largest_value_is_that_of_all_nodes(traced, calibration, images):
    first, body, last = (traced.graph_module.get_submodule(layer.name) for layer in traced.layers)
    a = first(images)
    b = body(a.relu())
    c = a.relu() + b
    d = c.relu().mean((2, 3))
    largest = max(float(x.detach().abs().max()) for x in (images, a, b, c, d, last(d)))
    assert calibration.largest_value == pytest.approx(largest)
    assert Calibration(traced, 1e-3 * images).largest_value < largest
    assert QuantizedNetwork(traced, uniform(traced, 3, 3), calibration).largest_value == calibration.largest_value


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_output_moments_of_every_layer_are_the_float_ones(traced, calibration, images, bits):
    network = QuantizedNetwork(traced, uniform(traced, bits, 8), calibration)

    def outputs(graph, name):
        kept = []
        hook = graph.get_submodule(name).register_forward_hook(lambda module, inputs, result: kept.append(result))
        graph(images)
        hook.remove()
        return kept[0]

    for layer in traced.layers:
        ours, theirs = (outputs(graph, layer.name) for graph in (network.graph_module, traced.graph_module))
        axes = [0, 2, 3][: ours.ndim - 1]
        torch.testing.assert_close(ours.mean(axes), theirs.mean(axes), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours.std(axes), theirs.std(axes), rtol=1e-3, atol=1e-4)


def test_kernels_get_their_own_widths_and_pruned_ones_answer_their_mean(traced, calibration, images):
    entries = [
        LayerPolicy(name=layer.name, weights=WeightChoice(bits=8), activations=ActivationChoice(bits=8))
        for layer in traced.layers
    ]
    entries[0] = entries[0].model_copy(update={"weights": WeightChoice(bits=(4, 0, 2, 8))})
    network = QuantizedNetwork(traced, Policy(network="small", layers=tuple(entries)), calibration)
    first = network.layers["first"]
    assert np.abs(first.machine_weights().integers).max((1, 2, 3)).tolist() == [7, 0, 1, 127]
    pruned = first(images)[:, 1]
    mean = traced.graph_module.first(images)[:, 1].mean()
    torch.testing.assert_close(pruned, mean.expand_as(pruned), rtol=1e-4, atol=1e-4)


def test_all_kernels_pruned_still_gives_scores(traced, calibration, images):
    assert torch.isfinite(QuantizedNetwork(traced, uniform(traced, 0, 1), calibration)(images)).all()


def test_gradients_reach_every_weight_and_the_float_network_stays(traced, calibration, images):
    before = {key: value.clone() for key, value in traced.graph_module.state_dict().items()}
    network = QuantizedNetwork(traced, uniform(traced, 3, 3), calibration)
    network(images).square().sum().backward()
    for layer in network.layers.values():
        assert layer.weight.grad.abs().sum() > 0
        assert layer.bias.grad.abs().sum() > 0
    assert all(torch.equal(value, before[key]) for key, value in traced.graph_module.state_dict().items())


def test_same_inputs_give_the_same_network(traced, images):
    first, second = (
        QuantizedNetwork(traced, uniform(traced, 3, 3), Calibration(traced, images)).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_saved_state_restores_the_network(traced, calibration, images):
    network = QuantizedNetwork(traced, uniform(traced, 3, 3), calibration)
    network.layers["first"].weight.data += 0.1
    again = QuantizedNetwork(traced, uniform(traced, 3, 3), calibration)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(images), network(images))


def test_a_policy_for_another_network_is_refused(traced, calibration):
    with pytest.raises(InputError, match="missing"):
        QuantizedNetwork(traced, Policy.uniform("small", traced.layers[:2], 4, 4), calibration)
