from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from codesign.data import load_data
from codesign.integers import MULTIPLIER_BITS, VALUE_BITS, IntegerNetwork, Requantizer, average_pool
from codesign.networks import create_network
from codesign.quantize import Calibration, QuantizedNetwork
from codesign.tracing import trace
from codesign.training import train
from hardware.errors import InputError
from policies.policy import Policy
from policies.quantizers import levels
from sim.reference import integer_convolution

LARGEST = 2 ** (VALUE_BITS - 1)


class Residual(nn.Module):
    """Everything that integer inference meets: residuals, option-A shortcut, max and average pools, pruning."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.same = nn.Conv2d(8, 8, (3, 1), padding=(1, 0))
        self.last = nn.Linear(8 * 2 * 2, 5)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.relu(self.down(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        x = F.max_pool2d(x + self.same(x), 3, stride=1, padding=1)
        x = F.avg_pool2d(x, (3, 2), stride=2)
        return self.last(x.flatten(1))


@pytest.fixture(scope="module")
def images():
    return torch.randn(40, 3, 9, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def residual(images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        traced = trace(Residual().eval(), (3, 9, 8))
    calibration = Calibration(traced, images)

    def make(weight_bits, activation_bits):
        policy = Policy.uniform("residual", traced.layers, weight_bits, activation_bits)
        return QuantizedNetwork(traced, policy, calibration).eval()

    return make


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits")
    network = create_network("lenet", seed=0)
    train(network, data, epochs=5, seed=0)
    traced = trace(network, data.input_shape, data.signed_input)
    calibration = Calibration(traced, data.train.batch(slice(128)))

    def make(bits):
        return QuantizedNetwork(traced, Policy.from_bits("lenet", traced.layers, bits), calibration).eval()

    return data, make


@given(
    st.lists(st.floats(1e-30, 2.0**MULTIPLIER_BITS), min_size=1, max_size=4),
    st.data(),
)
def test_requantizer_is_the_rational_product_rounded_half_up(factors, data):
    signs = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=len(factors), max_size=len(factors)))
    factors = np.array(factors) * signs
    requantizer = Requantizer.nearest(factors)
    integers = st.integers(-LARGEST, LARGEST)
    values = data.draw(st.lists(integers, min_size=len(factors), max_size=len(factors)))
    for value, factor, multiplier, shift, result in zip(
        values,
        factors.tolist(),
        requantizer.multiplier.tolist(),
        requantizer.shift.tolist(),
        requantizer(torch.tensor([values])).tolist()[0],
        strict=True,
    ):
        exact = Fraction(multiplier, 2**shift)
        assert result == floor(value * exact + Fraction(1, 2))
        # The constant itself is as close to the factor as its bits, or the longest shift, let it.
        error = abs(exact - Fraction(factor))
        assert error <= max(abs(Fraction(factor)) / 2**MULTIPLIER_BITS, Fraction(1, 2**63))


def test_requantizer_acts_on_the_channels():
    values = torch.arange(2 * 3 * 2).reshape(2, 3, 2, 1) - 5
    result = Requantizer.nearest(np.array([0.5, 1.0, -3.0]))(values)
    expected = np.floor(values.numpy() * np.array([0.5, 1, -3]).reshape(1, 3, 1, 1) + 0.5)
    assert np.array_equal(result, expected)


@pytest.mark.parametrize(("size", "stride"), [(2, None), ((3, 2), (1, 2)), (3, 1)])
def test_average_pool_is_the_exact_mean_rounded_half_up(size, stride):
    generator = torch.Generator().manual_seed(0)
    for largest in (3, LARGEST):  # small values meet the middle between two integers often
        values = torch.randint(-largest, largest + 1, (2, 3, 6, 5), generator=generator)
        pool = nn.AvgPool2d(size, stride)
        result = average_pool(values, pool)
        (rows, columns), (down, across) = (x if isinstance(x, tuple) else (x, x) for x in (size, stride or size))
        for (n, c, y, x), value in np.ndenumerate(result.numpy()):
            window = values[n, c, y * down : y * down + rows, x * across : x * across + columns]
            mean = Fraction(sum(window.flatten().tolist()), rows * columns)
            assert value == floor(mean + Fraction(1, 2))


@pytest.mark.parametrize("bits", [(8, 8), (4, 3), (2, 5), (1, 1), (0, 4)])
def test_recorded_operands_are_in_range_and_give_the_sums(residual, images, bits):
    network = IntegerNetwork(residual(*bits))
    run = network.run(images[:6], record=True)
    assert [layer.operands.layer.name for layer in run.layers] == ["first", "down", "same", "last"]
    assert run.scores.shape == (6, 5)
    assert run.scores.dtype == np.int64
    for layer in run.layers:
        work = layer.operands
        assert work.layer.images == 6
        assert work.weight_bits == (bits[0],) * work.layer.out_channels
        assert work.activation_bits == bits[1]
        for array, range_ in (
            (work.weights, levels(bits[0], signed=True)),
            (work.activations, levels(bits[1], work.layer.signed_activations)),
        ):
            assert array.dtype == np.int64
            assert range_[0] <= array.min() <= array.max() <= range_[1]
        assert layer.sums.dtype == np.int64
        assert np.array_equal(layer.sums, integer_convolution(work.weights, work.activations, work.layer))
    assert not network.run(images[:2]).layers


def test_grouped_convolutions_sum_within_their_groups(images):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    traced = trace(module.eval(), (3, 9, 8))
    quantized = QuantizedNetwork(traced, Policy.uniform("g", traced.layers, 5, 5), Calibration(traced, images))
    (run,) = IntegerNetwork(quantized).run(images[:3], record=True).layers
    for group in range(3):
        layer = trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), (1, 9, 8)).layers[0]
        kernels = slice(2 * group, 2 * group + 2)
        sums = integer_convolution(run.operands.weights[kernels], run.operands.activations[:, group : group + 1], layer)
        assert np.array_equal(run.sums[:, kernels], sums)


@pytest.mark.parametrize("bits", [(8, 8), (4, 4), (2, 3), (1, 2), (0, 4)])
def test_scores_are_those_of_the_fake_quantized_network(residual, images, bits):
    """In float64 the fake-quantized network rounds as the integers do, so all images agree closely."""
    quantized = residual(*bits)
    network = IntegerNetwork(quantized)
    scores = network.run(images).scores * 2.0**-network.fraction_bits
    with torch.no_grad():
        expected = quantized.double()(images.double()).numpy()
    quantized.float()
    assert np.abs(scores - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


def test_digits_predictions_agree_with_the_fake_quantized_network(digits):
    data, make = digits
    for bits in ([(8, 8)] * 5, [(4, 4)] * 5, [(8, 8), (3, 2), (2, 4), (5, 3), (8, 8)]):
        quantized = make(bits)
        network = IntegerNetwork(quantized)
        with torch.no_grad():
            expected = quantized(data.test.batch()).argmax(1).numpy()
        scores = network.run(data.test.batch()).scores
        assert (scores.argmax(1) == expected).mean() >= 0.99
        assert network.accuracy(data.test, batch=100) == (scores.argmax(1) == data.test.labels.numpy()).mean()


def test_an_image_far_outside_the_calibration_saturates(residual, images):
    network = IntegerNetwork(residual(4, 4))
    largest = float(images.abs().max())
    wild = torch.where(images[:4] > 0, 1e9, -1e9)
    assert np.array_equal(network.run(wild).scores, network.run(wild.clamp(-largest, largest)).scores)


def test_no_value_leaves_its_bits_whatever_the_image(residual, images):
    quantized = residual(8, 8)
    network = IntegerNetwork(quantized)
    largest = float(images.abs().max())
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        wild = torch.randint(0, 2, (8, 3, 9, 8), generator=generator) * 2.0 - 1
        assert np.abs(network.run(wild * largest).scores).max() < LARGEST


def test_constants_are_taken_when_the_network_is_made(residual, images):
    quantized = residual(4, 4)
    network = IntegerNetwork(quantized)
    before = network.run(images[:4]).scores
    for parameter in quantized.parameters():
        parameter.data.mul_(-2)
    assert np.array_equal(network.run(images[:4]).scores, before)


def test_sums_beyond_the_machines_32_bits_are_refused():
    module = nn.Sequential(nn.Linear(70_000, 2, bias=False))
    module[0].weight.data.fill_(1.0)
    traced = trace(nn.Sequential(nn.Flatten(), module), (1, 1, 70_000), signed_input=False)
    policy = Policy.uniform("wide", traced.layers, 8, 8)
    quantized = QuantizedNetwork(traced, policy, Calibration(traced, torch.rand(2, 1, 1, 70_000)))
    with pytest.raises(InputError, match="32 bits: give it fewer bits"):
        IntegerNetwork(quantized)
