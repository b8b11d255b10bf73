"""Integer inference against plain Python: loops, integers without a width, and fractions."""

import operator
from fractions import Fraction
from itertools import product
from math import floor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.data import load_data
from codesign.integers import IntegerNetwork
from codesign.networks import create_network
from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.tracing import trace
from codesign.training import train
from hardware.errors import InputError
from policies.policy import Policy
from policies.quantizers import levels
from sim.reference import integer_convolution


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

    make.traced = traced
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


def saturated(value):
    return min(max(value, -(2**15)), 2**15 - 1)


def mapped(values, function):
    """A list of lists of lists with a function of every number."""
    return [[[function(value) for value in row] for row in plane] for plane in values]


class SlowResidual:
    """`Residual`'s forward for one image in Python's integers; images and values are lists ``[channel][row][column]``.

    Its constants come straight from the quantized layers, as fractions.
    """

    def __init__(self, quantized, fraction_bits):
        self.layers, self.one = quantized.layers, 2**fraction_bits
        self.scale = {}
        for name, layer in quantized.layers.items():
            step = Fraction(float(layer.activation_scale))
            self.scale[name] = self.to_activations(step), step

    def to_activations(self, step):
        """The unsigned 24-bit multiplier nearest to a value's size in steps."""
        return min(max(floor(Fraction(2**24, self.one) / step + Fraction(1, 2)), 1), 2**24 - 1)

    def image(self, image):
        step = self.scale["first"][1]
        return mapped(image, lambda x: floor(Fraction(x) / step + Fraction(1, 2)))

    def activations(self, name, values):
        return mapped(values, lambda v: (v * self.scale[name][0] + 2**23) >> 24)

    def convolve(self, name, activations):
        """A layer's values; activations are clamped here."""
        source, (multiplier, step) = self.layers[name], self.scale[name]
        layer = source.layer
        low, high = levels(source.activation_bits, layer.signed_activations)
        if name != "first":
            step = Fraction(2**24, self.one * multiplier)  # what the rounded multiplier stands for
        factors = [Fraction(float(scale)) * step * self.one for scale in source.weight_scales]
        fits = all(floor(factor * 2**32 + Fraction(1, 2)) < 2**32 for factor in factors)
        shift = 32 if fits else 16
        result = []
        for m, kernel in enumerate(source.machine_weights().integers.tolist()):
            multiplier = floor(factors[m] * 2**shift + Fraction(1, 2))
            bias = floor(Fraction(float(source.bias[m].detach())) * self.one * 2**16 + Fraction(1, 2)) + 2**15
            plane = [[0] * layer.out_width for _ in range(layer.out_height)]
            for y, x in product(range(layer.out_height), range(layer.out_width)):
                total = 0
                for c, i, j in product(range(layer.in_channels), *map(range, layer.kernel)):
                    row = y * layer.stride[0] - layer.padding[0] + i
                    column = x * layer.stride[1] - layer.padding[1] + j
                    if 0 <= row < layer.in_height and 0 <= column < layer.in_width:
                        total += kernel[c][i][j] * min(max(activations[c][row][column], low), high)
                plane[y][x] = saturated((total * multiplier + (bias << (shift - 16))) >> shift)
            result.append(plane)
        return result

    def add(self, first, second):
        return [
            [[saturated(a + b) for a, b in zip(*rows, strict=True)] for rows in zip(*planes, strict=True)]
            for planes in zip(first, second, strict=True)
        ]

    def max_pool(self, values):
        """3x3, stride 1, padding 1."""
        height, width = len(values[0]), len(values[0][0])
        near = lambda centre, size: range(max(centre - 1, 0), min(centre + 2, size))  # noqa: E731
        return [
            [[max(p[i][j] for i, j in product(near(y, height), near(x, width))) for x in range(width)]
             for y in range(height)]
            for p in values
        ]  # fmt: skip

    def average_pool(self, values):
        """3x2, stride 2."""
        height, width = len(values[0]), len(values[0][0])
        multiplier = floor(Fraction(2**32, 6) + Fraction(1, 2))
        result = []
        for p in values:
            plane = []
            for y, x in product(range(0, height - 2, 2), range(0, width - 1, 2)):
                total = sum(p[y + i][x + j] for i, j in product(range(3), range(2)))
                plane.append((total * multiplier + (2**15 << 16)) >> 32)
            columns = len(range(0, width - 1, 2))
            result.append([plane[start : start + columns] for start in range(0, len(plane), columns)])
        return result

    def scores(self, image):
        relu = lambda values: mapped(values, lambda v: max(v, 0))  # noqa: E731
        x = relu(self.convolve("first", self.image(image)))
        zeros = [[[0] * len(x[0][0][::2]) for _ in x[0][::2]] for _ in range(2)]
        shortcut = zeros + [[row[::2] for row in plane[::2]] for plane in x] + zeros
        x = relu(self.add(self.convolve("down", self.activations("down", x)), shortcut))
        x = self.max_pool(self.add(x, self.convolve("same", self.activations("same", x))))
        x = self.average_pool(x)
        return [plane[0][0] for plane in self.convolve("last", self.activations("last", x))]


@pytest.mark.parametrize(
    ("bits", "narrower"), [((8, 8), 1), ((4, 3), 1), ((2, 2), 1), ((3, 4), 16), ((8, 8), 16), ((8, 8), 1 / 64)]
)
def test_scores_are_those_of_plain_python_to_the_bit(residual, images, bits, narrower):
    """Also where values saturate, and where they are so coarse that sums are multiplied by more than 1."""
    quantized = residual(*bits)
    quantized.largest_value /= narrower
    network = IntegerNetwork(quantized)
    run = network.run(images[:3], record=True)
    slow = SlowResidual(quantized, network.fraction_bits)
    assert run.scores.tolist() == [slow.scores(image) for image in images[:3].double().tolist()]
    extremes = [values.max() == 2**15 - 1 or values.min() == -(2**15) for values in run.values.values()]
    assert any(extremes) == (narrower > 1)


def test_every_nodes_values_are_recorded(residual, images):
    network = IntegerNetwork(residual(4, 4))
    run = network.run(images[:2], record=True)
    names = [node.name for node in network.graph_module.graph.nodes if node.op not in ("placeholder", "output")]
    assert list(run.values) == names
    for number, layer in enumerate(network.layers.values()):
        values, sums = run.values[layer.layer.name], run.layers[number].sums
        assert np.array_equal(values, layer.requantization.values(sums).reshape(values.shape))
    assert np.array_equal(run.values[names[-1]], run.scores)
    assert all(values.dtype == np.int64 and np.abs(values).max() <= 2**15 for values in run.values.values())
    assert not network.run(images[:2]).values


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
        if bits[0] != 1:  # see the test of positive weights
            assert work.weight_bits == (bits[0],) * work.layer.out_channels
        assert work.activation_bits == bits[1]
        for array, range_ in (
            (work.weights, levels(max(work.weight_bits), signed=True)),
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
def test_values_of_16_bits_change_the_scores_less_than_the_quantization(residual, images, bits):
    quantized = residual(*bits)
    network = IntegerNetwork(quantized)
    scores = network.run(images).scores * 2.0**-network.fraction_bits
    with torch.no_grad():
        fake = quantized(images).numpy()
        exact = residual.traced.graph_module(images).numpy()
    assert np.square(scores - fake).mean() < 0.5 * np.square(fake - exact).mean()


def test_a_kernel_of_one_bit_with_positive_weights_takes_two(images):
    """The machine's multipliers are unsigned, and one bit in two's complement is -1 or 0."""
    module = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module[0].weight.data = torch.tensor([[0.5, 0.5, 0.0], [-0.5, 0.0, -0.5]]).reshape(2, 3, 1, 1)
    traced = trace(module, (3, 9, 8))
    quantized = QuantizedNetwork(traced, Policy.uniform("p", traced.layers, 1, 8), Calibration(traced, images))
    network = IntegerNetwork(quantized)
    layer = network.layers["0"]
    assert layer.weight_bits == (2, 1)
    assert layer.weights[..., 0, 0].tolist() == [[1, 1, 0], [-1, 0, -1]]
    assert (layer.requantization.multiplier > 0).all()
    expected = quantized(images).detach().numpy()
    assert np.abs(network.run(images).scores * 2.0**-network.fraction_bits - expected).max() < 2.0**-9


def test_a_pruned_kernel_does_not_coarsen_the_others(images):
    """Its scale is 1, which would ask for the short shift."""
    traced = trace(nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (3, 9, 8))
    policy = Policy.uniform("p", traced.layers, 8, 8)
    entry = policy.layers[0]
    weights = entry.weights.model_copy(update={"bits": (8, 0)})
    policy = policy.model_copy(update={"layers": (entry.model_copy(update={"weights": weights}),)})
    layer = IntegerNetwork(QuantizedNetwork(traced, policy, Calibration(traced, images))).layers["0"]
    assert (layer.weight_bits, layer.requantization.shift) == ((8, 0), 32)
    assert layer.requantization.multiplier[1] == 0


def test_a_layer_whose_input_is_much_smaller_than_the_largest_value_keeps_its_range():
    """Its activations are finer than values: they then are the values themselves, and nothing is scaled down."""
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for parameter, value in zip(module.parameters(), (0.01, 0.0, [1.0, 500.0], 0.0), strict=True):
        parameter.data.copy_(torch.tensor(value).reshape(-1, *[1] * (parameter.ndim - 1)))
    traced = trace(module, (1, 4, 4), signed_input=False)
    images = torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    network = IntegerNetwork(
        QuantizedNetwork(traced, Policy.uniform("s", traced.layers, 8, 8), Calibration(traced, images))
    )
    assert network.layers["2"].activation_multiplier == 2**24 - 1
    scores = network.run(images).scores * 2.0**-network.fraction_bits
    expected = traced.graph_module(images).detach().numpy()
    assert np.abs(scores / expected - 1)[:, 1].max() < 0.1


def test_digits_accuracy_is_that_of_the_fake_quantized_network(digits):
    data, make = digits
    for bits in ([(8, 8)] * 5, [(4, 4)] * 5, [(8, 8), (3, 2), (2, 4), (5, 3), (8, 8)]):
        quantized = make(bits)
        network = IntegerNetwork(quantized)
        with torch.no_grad():
            expected = quantized(data.test.batch()).argmax(1).numpy()
        scores = network.run(data.test.batch()).scores
        assert (scores.argmax(1) == expected).mean() >= 0.97
        assert network.accuracy(data.test, batch=100) == (scores.argmax(1) == data.test.labels.numpy()).mean()


def test_an_image_far_outside_the_calibration_saturates(residual, images):
    network = IntegerNetwork(residual(4, 4))
    wild = torch.where(images[:4] > 0, 1e9, -1e9)
    step = network.layers["first"].step
    assert np.array_equal(network.run(wild).scores, network.run(wild.clamp(-7 * step, 7 * step)).scores)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_image_reaches_layers_as_activations_and_other_nodes_as_values(images, bits):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            # Names that nodes have, too.
            self.x, self.output = nn.Conv2d(3, 3, 1), nn.Linear(3 * 9 * 8, 3)

        def forward(self, x):
            pooled = F.adaptive_avg_pool2d(x + self.x(x), 1).flatten(1)
            return pooled + self.output(x.flatten(1))

    traced = trace(Both(), (3, 9, 8))
    quantized = QuantizedNetwork(traced, Policy.uniform("b", traced.layers, bits, bits), Calibration(traced, images))
    network = IntegerNetwork(quantized)
    run = network.run(images[:4], record=True)
    for layer in run.layers:
        source = quantized.layers[layer.operands.layer.name]
        limit = 2 ** (bits - 1) - 1
        expected = np.floor(images[:4].double().numpy() / float(source.activation_scale) + 0.5).clip(-limit, limit)
        assert np.array_equal(layer.operands.activations, expected)
    values = np.floor(images[:4].double().numpy() * 2.0**network.fraction_bits + 0.5)
    added = next(node.name for node in network.graph_module.graph.nodes if node.target is operator.add)
    of_layer = network.layers["x"].values(run.layers[0].sums)
    assert np.array_equal(run.values[added], (values + of_layer).clip(-(2**15), 2**15 - 1))
    assert network.layers["output"].weights.shape == (3, 3, 9, 8)


def test_dilated_convolutions_read_every_second_pixel(images):
    module = nn.Sequential(nn.Conv2d(3, 2, 3, dilation=(2, 1), bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    traced = trace(module, (3, 9, 8))
    quantized = QuantizedNetwork(traced, Policy.uniform("d", traced.layers, 6, 6), Calibration(traced, images))
    (run,) = IntegerNetwork(quantized).run(images[:2], record=True).layers
    weights, pixels = run.operands.weights, run.operands.activations
    for y, x in ((0, 0), (4, 5), (3, 2)):
        window = pixels[:, :, y : y + 5 : 2, x : x + 3]
        assert np.array_equal(run.sums[:, :, y, x], np.einsum("ncij,mcij->nm", window, weights))
    fake = quantized.layers["0"](images[:2]).detach().numpy()
    scale = quantized.layers["0"].weight_scales.numpy()[:, None, None] * float(quantized.layers["0"].activation_scale)
    bias = quantized.layers["0"].bias.detach().numpy()[:, None, None]
    np.testing.assert_allclose(run.sums * scale + bias, fake, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "shape"), [("mobilenetv1-cifar", (3, 32, 32)), ("resnet18", (3, 224, 224))])
def test_networks_with_random_weights_run_in_integers(name, shape):
    traced = trace(create_network(name, seed=0), shape)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    quantized = QuantizedNetwork(traced, Policy.uniform(name, traced.layers, 8, 8), Calibration(traced, images))
    network = IntegerNetwork(quantized.eval())
    run = network.run(images[:1], record=True)
    assert len(run.layers) == len(traced.layers)
    with torch.no_grad():
        expected = quantized(images[:1]).numpy()
    scores = run.scores * 2.0**-network.fraction_bits
    assert np.abs(scores - expected).max() < 0.05 * np.abs(expected).max()


def test_relu6_ends_at_six_and_concatenation_keeps_the_values(images):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Linear(9, 2)
            self.one.weight.data *= 20

        def forward(self, x):
            x = torch.cat((nn.functional.relu6(self.one(x)), self.two(x)), 1)
            return self.last(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        traced = trace(Net(), (3, 9, 8))
    quantized = QuantizedNetwork(traced, Policy.uniform("n", traced.layers, 8, 8), Calibration(traced, images))
    network = IntegerNetwork(quantized.eval())
    run = network.run(images[:2], record=True)
    six = 6 << network.fraction_bits
    ones, twos = (network.layers[name].values(one.sums) for name, one in zip(("one", "two"), run.layers, strict=False))
    assert ones.min() < 0
    assert ones.max() > six
    (clipped,) = (values for name, values in run.values.items() if name.startswith("relu6"))
    assert np.array_equal(clipped, ones.clip(0, six))
    assert np.array_equal(run.values["cat"], np.concatenate([ones.clip(0, six), twos], axis=1))
    with torch.no_grad():
        expected = quantized(images[:2]).numpy()
    np.testing.assert_allclose(run.scores * 2.0**-network.fraction_bits, expected, atol=0.05 * np.abs(expected).max())


def test_constants_are_taken_when_the_network_is_made(residual, images):
    quantized = residual(4, 4)
    network = IntegerNetwork(quantized)
    before = network.run(images[:4]).scores
    for parameter in quantized.parameters():
        parameter.data.mul_(-2)
    assert np.array_equal(network.run(images[:4]).scores, before)


def test_a_bias_that_fine_tuning_moved_beyond_the_range_still_fits(residual, images):
    quantized = residual(8, 8)
    quantized.layers["last"].bias.data[0] = 20 * quantized.largest_value
    network = IntegerNetwork(quantized)
    with torch.no_grad():
        expected = quantized(images[:4]).numpy()
    assert np.abs(network.run(images[:4]).scores * 2.0**-network.fraction_bits - expected)[:, 0].max() < 0.2


def test_sums_beyond_the_machines_32_bits_are_refused():
    module = nn.Sequential(nn.Linear(70_000, 2, bias=False))
    module[0].weight.data.fill_(1.0)
    traced = trace(nn.Sequential(nn.Flatten(), module), (1, 1, 70_000), signed_input=False)
    policy = Policy.uniform("wide", traced.layers, 8, 8)
    quantized = QuantizedNetwork(traced, policy, Calibration(traced, torch.rand(2, 1, 1, 70_000)))
    with pytest.raises(InputError, match="32 bits: give it fewer bits"):
        IntegerNetwork(quantized)
