"""Any module's layers: found, described, folded and quantized; what is left is named."""

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from codesign.networks import create_network
from codesign.qag import convert
from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.tracing import trace
from codesign.training import kernel_deviations, weight_deviation
from hardware.errors import InputError
from hardware.layer import Layer
from policies.policy import Policy


class Inception(nn.Module):
    """Four ways side by side, one of them factorized, with batch norm, as in GoogLeNet and its successors."""

    def __init__(self):
        super().__init__()

        def conv(before, after, *size, **options):
            return nn.Sequential(
                nn.Conv2d(before, after, *size, bias=False, **options), nn.BatchNorm2d(after), nn.ReLU()
            )

        self.stem = conv(3, 16, 3, stride=2, padding=1)
        self.one = conv(16, 8, 1)
        self.three = nn.Sequential(
            conv(16, 8, 1), conv(8, 12, (1, 3), padding="same"), conv(12, 12, (3, 1), padding="same")
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(16, 8, 1))
        self.last = nn.Linear(28, 10)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([self.one(x), self.three(x), self.pool(x)], 1)
        return self.last(x.mean((2, 3)))


class Words(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.embedding = nn.Embedding(40, 12)
        self.recurrent = cell(12, 20, num_layers=2, batch_first=True)
        self.last = nn.Linear(20, 40)

    def forward(self, words):
        return self.last(self.recurrent(self.embedding(words))[0])


def settled(module, *shape):
    """Batch norm with statistics that are not those of a new one."""
    torch.manual_seed(1)
    module.train()
    with torch.no_grad():
        for _ in range(10):
            module(torch.randn(*shape))
    return module.eval()


def quantized(module, inputs, bits):
    traced = convert(module, inputs[:8])
    return QuantizedNetwork(
        traced, Policy.uniform("any", traced.layers, bits, bits), Calibration(traced, inputs)
    ).eval()


@pytest.mark.parametrize(
    ("name", "shape"), [("lenet", (1, 8, 8)), ("resnet20", (3, 32, 32)), ("mobilenetv1-cifar", (3, 32, 32))]
)
def test_it_finds_the_layers_that_the_stricter_trace_finds(name, shape):
    module = create_network(name, seed=0)
    strict, general = trace(module, shape), convert(module, torch.randn(4, *shape))
    assert [layer.name for layer in strict.layers] == [layer.name for layer in general.layers]
    for one, other in zip(strict.layers, general.layers, strict=True):
        assert (one.macs, one.weight_count, one.groups, one.stride) == (
            other.macs,
            other.weight_count,
            other.groups,
            other.stride,
        )
        assert one.signed_activations == other.signed_activations
    assert general.unconverted == ()
    assert general.host
    x = torch.randn(4, *shape)
    with torch.no_grad():
        torch.testing.assert_close(general.graph_module(x), strict.graph_module(x), rtol=1e-4, atol=1e-4)


MODULES = {
    "inception": (lambda: settled(Inception(), 32, 3, 16, 16), lambda n: torch.randn(n, 3, 16, 16)),
    "lstm": (lambda: Words(nn.LSTM), lambda n: torch.randint(40, (n, 9))),
    "gru": (lambda: Words(nn.GRU), lambda n: torch.randint(40, (n, 9))),
    # Somebody else's module, of the dependency that plays our environment.
    "nature cnn": (
        lambda: NatureCNN(gymnasium.spaces.Box(0, 1, (1, 36, 36), np.float32), features_dim=16, normalized_image=True),
        lambda n: torch.rand(n, 1, 36, 36),
    ),
    "transformer": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), lambda n: torch.randn(n, 6, 16)),
}


@pytest.mark.parametrize("name", MODULES)
def test_eight_bits_leave_the_outputs_and_two_do_not(name):
    torch.manual_seed(0)
    make, draw = MODULES[name]
    module, inputs = make().eval(), draw(64)
    with torch.no_grad():
        expected = module(inputs)
        eight, two = (quantized(module, inputs, bits)(inputs) for bits in (8, 2))
    error = (eight - expected).norm() / expected.norm()
    assert 0 < error < 0.02
    assert (two - expected).norm() / expected.norm() > 5 * error
    batch = inputs[:8]
    again = [quantized(module, inputs, 3)(batch) for _ in range(2)]
    assert torch.equal(*again)


def test_gate_matrices_are_layers_that_run_once_per_step():
    traced = convert(Words(nn.LSTM), torch.randint(40, (4, 9)))
    assert traced.layers == (
        Layer("recurrent.ih_l0", "conv", 12, 80, 1, 9, signed_activations=True),
        Layer("recurrent.hh_l0", "linear", 20, 80, signed_activations=True, repeats=9),
        Layer("recurrent.ih_l1", "conv", 20, 80, 1, 9, signed_activations=True),
        Layer("recurrent.hh_l1", "linear", 20, 80, signed_activations=True, repeats=9),
        Layer("last", "conv", 20, 40, 1, 9, signed_activations=True),
    )


def test_batch_norm_is_folded_and_the_module_left_as_it_was():
    module = settled(Inception(), 32, 3, 16, 16)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    x = torch.randn(4, 3, 16, 16)
    traced = convert(module, x)
    assert traced.unconverted == ()
    assert not any(isinstance(child, nn.BatchNorm2d) for child in traced.graph_module.modules())
    with torch.no_grad():
        torch.testing.assert_close(traced.graph_module(x), module(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert sum(isinstance(child, nn.BatchNorm2d) for child in module.modules()) == 6


class Padded(nn.Conv1d):
    """A convolution that does more than its class says."""

    def forward(self, x):
        return super().forward(F.pad(x, (1, 0)))


class Doubled(nn.GRU):
    def forward(self, x):
        return (torch.cat([super().forward(x)[0]] * 2, 2),)


class Odd(nn.Module):
    """All that cannot be converted, and a shared layer, tied weights and control flow that can."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.shared = nn.Conv1d(8, 8, 3, padding="same")
        self.norm = nn.BatchNorm1d(8)
        self.circular = nn.Conv1d(8, 8, 3, padding=1, padding_mode="circular")
        self.sizes = nn.Conv1d(8, 8, 2)
        self.free = nn.Parameter(torch.randn(8, 8))
        self.unused = nn.Linear(3, 3)
        self.padded = Padded(8, 8, 2)
        self.doubled = Doubled(8, 4, batch_first=True)
        self.last = nn.Linear(8, 30)
        self.last.weight = self.embedding.weight

    def forward(self, words):
        x = self.embedding(words).transpose(1, 2)
        if float(x.sum()) > 1e9:  # no symbolic trace passes here
            x = -x
        x = self.norm(self.shared(x))
        x = self.circular(torch.relu(self.shared(torch.relu(x))))
        x = self.sizes(self.sizes(x)).transpose(1, 2)
        x = self.padded(self.doubled(x)[0].transpose(1, 2)).transpose(1, 2)
        return self.last(F.linear(x, self.free) @ self.free)


def test_what_is_not_converted_is_named_with_its_path():
    words = torch.randint(30, (4, 9))
    traced = convert(Odd(), words)
    assert [(layer.name, layer.repeats) for layer in traced.layers] == [("shared", 2), ("last", 1)]
    for fragment in (
        "circular: padding_mode 'circular'",
        "sizes: used on inputs of different shapes",
        "the module itself: linear outside a layer",
        "the module itself: matmul outside a layer",
        "unused: never ran",
        "padded: Padded is no plain Conv1d",
        "doubled: Doubled computes in a way of its own",
        "norm: not folded, the module cannot be traced",
    ):
        assert sum(fragment in text for text in traced.unconverted) == 1, fragment
    assert len(traced.unconverted) == 8 + ("gru outside" in " ".join(traced.unconverted))


def test_tied_weights_stay_tied_and_shared_layers_shared():
    words = torch.randint(30, (32, 9))
    network = quantized(Odd(), words, 4)
    module = network.graph_module
    assert network.shared == {"last"}
    assert module.embedding.weight is network.layers["last"].weight
    assert module.shared is network.layers["shared"]
    alias = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    alias.append(alias[0])
    network = quantized(alias, torch.rand(16, 4), 4)
    assert network.graph_module[0] is network.graph_module[2] is network.layers["0"]


def test_a_module_without_layers_and_one_that_fails_are_refused():
    with pytest.raises(InputError, match="no convolution, linear or recurrent layer"):
        convert(nn.Sequential(nn.ReLU()), torch.rand(2, 3))
    with pytest.raises(InputError, match=r"fails on the example of shape \(2, 5\)"):
        convert(nn.Linear(3, 3), torch.rand(2, 5))


def test_a_calibration_that_meets_signs_unknown_so_far_refuses_them():
    module = nn.Sequential(nn.Linear(3, 3))
    traced = convert(module, torch.rand(4, 3))
    with pytest.raises(InputError, match="'0' met negative inputs"):
        Calibration(traced, -torch.rand(4, 3))


class Careless(nn.Module):
    """Passes by keyword, changes values in place afterwards, and asks a layer for its sizes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        y = self.first(input=x)
        z = self.second(y)
        torch.relu_(y)
        return z + y.sum(1, keepdim=True) / self.second.in_features


def test_keywords_sizes_and_values_that_change_in_place_are_met():
    torch.manual_seed(0)
    module, x = Careless(), torch.randn(64, 6)
    traced = convert(module, x[:8])
    assert [layer.signed_activations for layer in traced.layers] == [True, True]
    network = quantized(module, x, 8)
    with torch.no_grad():
        expected = module(x)
        assert (network(x) - expected).norm() < 0.02 * expected.norm()


def test_what_agents_are_told_of_weights_holds_for_tied_ones():
    traced = convert(Odd(), torch.randint(30, (4, 9)))
    tied = traced.graph_module.embedding.weight.detach()
    assert weight_deviation(traced)[1] == pytest.approx(float(tied.std()))
    assert len(kernel_deviations(traced)[1]) == 30
