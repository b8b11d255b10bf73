"""AutoQNN's schemes on the simulated machine, at their stated price; the ones it does not have are refused by name."""

import pytest
import torch
from torch import nn

from codesign.host_network import HostNetwork, executable
from codesign.integers import IntegerNetwork
from codesign.program import build_program
from codesign.qag import convert
from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.simulate import simulate_layers, simulate_network
from codesign.tracing import trace
from hardware.accelerator import load_accelerator
from hardware.cost import PRICED_OUTPUT
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.schedule import schedule
from policies.policy import ActivationChoice, LayerPolicy, Policy, WeightChoice

SHAPE = (3, 9, 7)


def network_of():
    """Channels that fill neither words nor row tiles, a depthwise layer, a residual addition, padding everywhere."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 13, 3, padding=1)
            self.second = nn.Conv2d(13, 13, 3, padding=1)
            self.depthwise = nn.Conv2d(13, 13, 3, padding=1, groups=13)
            self.last = nn.Linear(13, 5)

        def forward(self, x):
            x = torch.relu(self.first(x))
            x = torch.relu(self.second(x) + x)
            x = torch.relu(self.depthwise(x))
            return self.last(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))

    torch.manual_seed(0)
    return Small().eval()


def quantized(weights, activations, traced=None, images=None):
    images = torch.randn(32, *SHAPE) if images is None else images
    traced = traced or trace(network_of(), SHAPE)
    entries = tuple(LayerPolicy(name=layer.name, weights=weights, activations=activations) for layer in traced.layers)
    policy = Policy(network="small", layers=entries)
    return QuantizedNetwork(traced, policy, Calibration(traced, images)).eval(), images


WEIGHTS = {
    "binary": (1, 1, 2),
    "ternary": (2, 2, 2),
    "quaternary": (2, 2, 3),
    "clip": (3, 3, 4),
    "fixed": (4, 4, 4),
    "pot": (3, 6, 6),
}
"""Bits of the policy, planes in a dense layer and in a depthwise one."""


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_whole_network_runs_bit_for_bit_with_the_planes_that_the_scheme_states(name):
    bits, dense, depthwise = WEIGHTS[name]
    quantizer, images = quantized(WeightChoice(bits=bits, scheme=name), ActivationChoice(bits=4))
    integers = IntegerNetwork(quantizer)
    planes = [layer.weight_bits[0] for layer in integers.layers.values()]
    assert planes == [dense, dense, depthwise, dense]
    tiny = load_accelerator("bitserial-tiny")
    report = simulate_network(integers, images[:2], tiny)
    assert report["mismatches"] == report["score_mismatches"] == 0
    assert report["rtl_cycles"] == report["model_cycles"] == build_program(integers, tiny, SHAPE).cycles()
    for entry, layer, count in zip(quantizer.policy.layers, integers.layers.values(), planes, strict=True):
        assert entry.weights.machine_bits(layer.layer) == (count,) * layer.layer.out_channels
        # A bipolar weight takes no time of its own.
        plain, own = (
            layer_cycles(schedule(layer.layer, count, 4, tiny, bipolar=bipolar, output=PRICED_OUTPUT))
            for bipolar in (False, layer.bipolar)
        )
        assert plain == own
    bipolar = name in ("binary", "quaternary", "clip")
    assert [layer.bipolar for layer in integers.layers.values()] == [bipolar, bipolar, False, bipolar]


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_integers_are_the_fake_quantized_weights(name):
    quantizer, images = quantized(WeightChoice(bits=WEIGHTS[name][0], scheme=name), ActivationChoice(bits=8))
    for layer in quantizer.layers.values():
        weights = layer.machine_weights()
        products = torch.from_numpy(weights.products * weights.scales.reshape(-1, 1, 1, 1))
        expected = layer.quantized_weight().detach().double().reshape(products.shape)
        torch.testing.assert_close(products, expected, rtol=1e-6, atol=0)
    scores = torch.from_numpy(IntegerNetwork(quantizer).run(images).scores).double()
    with torch.no_grad():
        expected = quantizer(images).double()
    scale = (scores * expected).sum() / scores.square().sum()  # of the fixed point
    assert ((scale * scores - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize("name", ["fixed", "clip"])
def test_activations_of_these_schemes_run_as_a_program_after_a_relu(name):
    traced = trace(network_of(), SHAPE, signed_input=False)
    quantizer, images = quantized(
        WeightChoice(bits=3), ActivationChoice(bits=3, scheme=name), traced, torch.rand(32, *SHAPE)
    )
    report = simulate_network(IntegerNetwork(quantizer), images[:2], load_accelerator("bitserial-tiny"))
    assert report["mismatches"] == report["score_mismatches"] == 0
    assert report["rtl_cycles"] == report["model_cycles"]


def test_signed_clip_activations_run_layer_by_layer_with_one_plane_more():
    traced = convert(nn.Sequential(nn.Linear(20, 6), nn.Tanh(), nn.Linear(6, 4)), torch.randn(8, 20))
    quantizer, x = quantized(
        WeightChoice(bits=2, scheme="ternary"), ActivationChoice(bits=3, scheme="clip"), traced, torch.randn(16, 20)
    )
    host = executable(quantizer)
    assert isinstance(host, HostNetwork)
    run = host.run(x[:3], record=True)
    assert [layer.operands.activation_bits for layer in run.layers] == [4, 4]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(run.scores), quantizer(x[:3]), rtol=1e-4, atol=1e-5)
    report = simulate_layers(run, list(quantizer.layers), load_accelerator("bitserial-tiny"))
    assert report["mismatches"] == 0
    assert report["rtl_cycles"] == report["model_cycles"]


@pytest.mark.parametrize(
    ("weights", "activations", "message"),
    [
        (WeightChoice(bits=3, scheme="res"), ActivationChoice(bits=4), "layer 'first': scheme 'res' is as many binary"),
        (WeightChoice(bits=3, scheme="zoom"), ActivationChoice(bits=4), "layer 'first': scheme 'zoom' has an offset"),
        (WeightChoice(bits=4, scheme="pot"), ActivationChoice(bits=4), "layer 'first': .* integers of 10 bits"),
        (
            WeightChoice(bits=4),
            ActivationChoice(bits=4, scheme="zoom"),
            "the input of layer 'first': scheme 'zoom' has",
        ),
        (
            WeightChoice(bits=4),
            ActivationChoice(bits=4, scheme="clip"),
            "the input of layer 'first' .* signed .*'clip'",
        ),
    ],
)
def test_what_the_machine_does_not_have_is_refused_but_can_be_trained(weights, activations, message):
    quantizer, images = quantized(weights, activations)
    quantizer(images).sum().backward()
    assert all(float(layer.weight.grad.abs().sum()) > 0 for layer in quantizer.layers.values())
    with pytest.raises(InputError, match=message):
        IntegerNetwork(quantizer)


def test_a_scheme_has_its_widths_only():
    for choice in ({"bits": 3, "scheme": "binary"}, {"bits": (3, 3), "scheme": "clip"}, {"bits": 5, "scheme": "pot"}):
        with pytest.raises(ValueError, match="one width for all kernels"):
            WeightChoice(**choice)
    with pytest.raises(ValueError, match="scheme 'clip' has"):
        ActivationChoice(bits=1, scheme="clip")


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_channel_keeps_the_mean_that_it_has_in_full_precision(name):
    """Also where the levels are powers of two, which do not grow with the weights."""
    quantizer, images = quantized(WeightChoice(bits=WEIGHTS[name][0], scheme=name), ActivationChoice(bits=8))
    found, expected = {}, {}
    for network, outputs in ((quantizer.graph_module, found), (trace(network_of(), SHAPE).graph_module, expected)):
        handles = [
            network.get_submodule(layer).register_forward_hook(
                lambda _, args, output, layer=layer, outputs=outputs: outputs.update({layer: output})
            )
            for layer in quantizer.layers
        ]
        with torch.no_grad():
            network(images)
        for handle in handles:
            handle.remove()
    for layer, output in found.items():
        means, float_means = (one.transpose(0, 1).flatten(1).mean(1) for one in (output, expected[layer]))
        torch.testing.assert_close(means, float_means, rtol=0, atol=1e-3 * float(expected[layer].std()))
