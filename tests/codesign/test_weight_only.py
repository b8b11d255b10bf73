"""Networks with quantized weights and float activations."""

import numpy as np
import pytest
import torch

from codesign.data import load_data
from codesign.networks import create_network
from codesign.tracing import trace
from codesign.training import FineTune, FineTuneEvaluator, train
from codesign.weight_only import WeightOnlyNetwork
from hardware.errors import InputError
from policies.policy import Policy
from policies.space import Space

DATA = load_data("digits")
SCHEMES = ("kmeans", "wrpn", "dorefa")


@pytest.fixture(scope="module")
def traced():
    module = create_network("lenet", 0)
    train(module, DATA, epochs=3, seed=0)
    return trace(module, DATA.input_shape, DATA.signed_input)


def uniform(traced, bits):
    return Policy.uniform("lenet", traced.layers, bits, 8)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_at_8_bits_it_is_nearly_the_float_network(traced, scheme):
    images = DATA.validation.batch(slice(100))
    with torch.no_grad():
        exact = traced.graph_module(images)
        found = WeightOnlyNetwork(traced, uniform(traced, 8), scheme)(images)
    assert float((found - exact).abs().max()) < 0.05 * float(exact.abs().max())


@pytest.mark.parametrize(("scheme", "most"), [("kmeans", lambda bits: 2**bits), ("wrpn", lambda bits: 2**bits - 1)])
def test_layers_have_no_more_values_than_their_bits_allow(traced, scheme, most):
    network = WeightOnlyNetwork(traced, uniform(traced, 3), scheme)
    for layer in network.layers.values():
        weights = layer.quantized_weight().detach()
        groups = [weights] if scheme == "kmeans" else list(weights)  # those scale every kernel by itself
        assert max(len(group.unique()) for group in groups) <= most(3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_fine_tuning_helps_and_keeps_the_codebook(traced, scheme):
    policy = uniform(traced, 2)
    accuracies = []
    for epochs in (0, 3):
        options = FineTune(epochs=epochs, learning_rate=1e-2, images=512)
        evaluator = FineTuneEvaluator(traced, DATA, options, seed=0, scheme=scheme)
        accuracies.append(evaluator.accuracy(policy))
    assert accuracies[1] > accuracies[0]
    network = evaluator.tuned(policy)
    if scheme == "kmeans":
        for layer in network.layers.values():
            assert len(layer.weight.unique()) <= 4
    with pytest.raises(InputError, match="use another scheme"):
        evaluator.quantized(policy)


def test_kernels_of_different_widths_are_refused(traced):
    space = Space("lenet", traced.layers, group=1)
    vector = space.widest.copy()
    WeightOnlyNetwork(traced, space.policy(vector), "wrpn")
    vector[0] = 4
    with pytest.raises(InputError, match="kernels of different widths"):
        WeightOnlyNetwork(traced, space.policy(vector), "wrpn")


def test_a_pruned_layer_is_refused(traced):
    with pytest.raises(InputError, match="got 0"):
        WeightOnlyNetwork(traced, Policy.from_bits("lenet", traced.layers, [(0, 8)] * len(traced.layers)), "kmeans")


def test_the_same_seed_gives_the_same_accuracy(traced):
    options = FineTune(epochs=1, images=256)
    found = [
        FineTuneEvaluator(traced, DATA, options, seed=0, scheme="kmeans").accuracy(uniform(traced, 3)) for _ in range(2)
    ]
    assert found[0] == found[1]
    assert np.isfinite(found[0])
