"""Losses on bits: published averages and bit operations, budgets, scheme mixtures, and learning into a budget."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.budget import Limits, parse_budgets
from policies.costs import Costs
from policies.hardware_loss import (
    DualAscent,
    HardwareLoss,
    PrecisionLoss,
    Target,
    bit_operations,
    budget_targets,
    expected_cost,
    product_price,
    ramp,
    table_price,
)
from policies.integer_program import solve
from policies.learned_bits import LearnedBits, bits_gradient, clip_slope, outer_slope
from policies.repair import repair
from policies.space import Space
from policies.torch_oracle import TorchOracle


def conv(name, channels, kernels, size):
    return Layer(name, "conv", channels, kernels, size, size, (3, 3), padding=(1, 1))


VGG = [
    conv("conv1", 3, 64, 32),
    conv("conv2", 64, 64, 32),
    conv("conv3", 64, 128, 16),
    conv("conv4", 128, 128, 16),
    conv("conv5", 128, 256, 8),
    conv("conv6", 256, 256, 8),
    Layer("fc7", "linear", 4096, 1024),
]
"""The VGG-like network of AutoQNN's experiments, without its last classifier, which is not quantized there."""
VGG_OUTPUTS = [layer.out_channels * layer.pixels for layer in VGG]
QPL_WEIGHTS, QPL_OUTPUTS = [7, 8, 6, 6, 7, 5, 2], [2, 3, 3, 4, 5, 4, 6]
"""The bits that AutoQNN found, activations' by output."""


def random_costs(seed, layers=3, widths=range(2, 9), falling=True, energy=False, **space):
    """A random machine's costs; with ``falling``, a bit less is never dearer."""
    generator = np.random.default_rng(seed)
    shapes = [Layer(f"l{i}", "linear", 8 + i, 4) for i in range(layers)]
    tables = generator.uniform(1, 100, (2, layers, 8, 8))
    if falling:
        tables = tables.cumsum(2).cumsum(3) * np.exp(generator.normal(size=(layers, 1, 1)))
    oracle = Oracle(shapes, load_accelerator("bitserial-tiny"), tables[0], tables[1] if energy else None)
    return Costs(Space("net", shapes, weight_widths=widths, activation_widths=widths, **space), oracle)


# The precision loss.


def precision(counts=None, **arguments):
    where = Space("vgg", VGG)
    elements = torch.tensor([[layer.weight_count, out] for layer, out in zip(VGG, VGG_OUTPUTS, strict=True)])
    return PrecisionLoss(where, elements.reshape(-1) if counts is None else counts, 3, 3, **arguments)


def test_mean_bits_are_the_published_ones():
    bits = torch.tensor([QPL_WEIGHTS, QPL_OUTPUTS]).T.reshape(-1)
    weights, activations = precision().means(bits).tolist()
    assert weights == pytest.approx(2.816, abs=5e-4)
    assert activations == pytest.approx(3.084, abs=5e-4)
    losses = precision()(bits).tolist()
    assert losses == pytest.approx([(weights - 3) ** 2, (activations - 3) ** 2], rel=1e-12)
    assert precision(norm="absolute")(bits).tolist() == pytest.approx([3 - weights, activations - 3], rel=1e-12)


@pytest.mark.parametrize("norm", ["square", "absolute"])
def test_a_variables_share_of_the_gradient_is_its_share_of_the_elements(norm):
    bits = torch.full((14,), 4.5, requires_grad=True)
    loss = precision(norm=norm)(bits).sum()
    loss.backward()
    weights = np.array([layer.weight_count for layer in VGG]) / sum(layer.weight_count for layer in VGG)
    outer = 2 * 1.5 if norm == "square" else 1
    assert (bits.grad[::2] / outer).tolist() == pytest.approx(weights.tolist(), rel=1e-6)
    assert (bits.grad[1::2] / outer).tolist() == pytest.approx(
        (np.array(VGG_OUTPUTS) / sum(VGG_OUTPUTS)).tolist(), rel=1e-6
    )


def test_an_operand_without_elements_costs_nothing():
    counts = torch.tensor([1.0, 0.0]).repeat(7)
    assert precision(counts)(torch.full((14,), 5.0)).tolist() == pytest.approx([4, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"norm": "cube"}, "unknown norm of the precision loss 'cube'"), ({"counts": torch.ones(3)}, r"14 variables")],
)
def test_a_wrong_precision_loss_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        precision(**arguments)


def test_quantizers_themselves_teach_which_tensor_needs_its_bits():
    # Normal values through ClipQ's quantizer. Errors of the second layer count 16 times: 2 bits, at 4 times per bit.
    layers = [Layer("a", "linear", 50, 40), Layer("b", "linear", 50, 40)]
    where = Space("net", layers, activation_widths=None)
    bits = LearnedBits(where, 4.0)
    mean_bits = PrecisionLoss(where, torch.tensor([2000, 2000]), 4, 4)
    values = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
    steps = {2: 0.995687, 3: 0.586019, 4: 0.335201, 5: 0.188139, 6: 0.104063, 7: 0.056868, 8: 0.030762}
    optimizer = torch.optim.Adam(bits.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss = mean_bits(bits.rounded()).sum()
        for original, learned, weight in zip(values, bits.for_quantizers(), (1, 16), strict=True):
            width = int(learned)
            highest, slope = 2 ** (width - 1) - 0.5, clip_slope(width)
            units = torch.floor(original / steps[width]) + 0.5
            quantized = units.clamp(-highest, highest) * steps[width]
            clipped = units.abs() > highest
            passed = bits_gradient(quantized, original, learned, slope, clipped, outer_slope(width, slope))
            loss = loss + weight * (passed - original).square().mean()
        loss.backward()
        optimizer.step()
        bits.clamp_()
    assert bits.vector().tolist() == [3, 5]


# Prices.


def test_bit_operations_and_weight_memory_of_the_published_network():
    price, size = bit_operations(VGG), product_price([layer.weight_count for layer in VGG], activations=False)
    learned = torch.tensor(QPL_WEIGHTS), torch.tensor([8, *QPL_OUTPUTS[:-1]])  # a layer's input; the image has 8 bits
    uniform = torch.full((7,), 3), torch.tensor([8, *[3] * 6])
    assert price(*learned).sum().item() / 1e9 == pytest.approx(3.228, abs=5e-4)
    assert price(*uniform).sum().item() / 1e9 == pytest.approx(1.439, abs=5e-4)
    assert size(*learned).sum().item() / 8 / 1024 == pytest.approx(1835, abs=0.6)
    assert size(*uniform).sum().item() / 8 / 1024 == pytest.approx(1955, abs=0.6)


def test_a_table_of_three_widths_gives_the_published_cycles():
    # PLiNIO's multiply-accumulates per cycle of MPIC, by activation and weight bits. The widths between are filled in
    # bilinearly, which is what the oracle does between whole bits; those below 2 as 2, and nothing here asks for them.
    rates = {2: (6.5, 4.0, 2.2), 4: (3.9, 3.5, 2.1), 8: (2.5, 2.3, 2.1)}
    cycles = 1 / np.array([rates[a] for a in (2, 4, 8)]).T  # weights first
    along = np.array([np.interp(np.arange(1, 9), (2, 4, 8), row) for row in cycles])
    table = np.array([np.interp(np.arange(1, 9), (2, 4, 8), column) for column in along.T]).T
    price = TorchOracle(table[None])
    for w, a, expected in [(2, 2, 0.1538), (3, 3, 0.2365), (3, 5, 0.3076), (6, 4, 0.3810), (8, 8, 0.4762)]:
        assert price(torch.tensor([float(w)]), torch.tensor([float(a)])).item() == pytest.approx(expected, abs=5e-5)


@given(seed=st.integers(0, 2**32))
def test_below_whole_bits_is_what_a_bit_less_saves(seed):
    table = np.random.default_rng(seed).uniform(1, 9, (3, 8, 8))
    w, a = torch.tensor([1.0, 4.0, 8.0], requires_grad=True), torch.tensor([8.0, 1.0, 5.0], requires_grad=True)
    price = TorchOracle(table, below=True)
    price(w, a).backward()
    assert price(w, a).item() == pytest.approx(TorchOracle(table)(w, a).item())
    rises = [table[0, 1, 7] - table[0, 0, 7], table[1, 3, 0] - table[1, 2, 0], table[2, 7, 4] - table[2, 6, 4]]
    assert w.grad.tolist() == pytest.approx(rises)  # at the lowest width, there is only the cell above
    rises = [table[0, 0, 7] - table[0, 0, 6], table[1, 3, 1] - table[1, 3, 0], table[2, 7, 4] - table[2, 7, 3]]
    assert a.grad.tolist() == pytest.approx(rises)


@given(seed=st.integers(0, 2**32), text=st.sampled_from(["latency=0.3", "0.5*latency+0.5*energy=0.4,size=0.5,bits=1"]))
def test_what_is_used_is_what_the_budgets_say(seed, text):
    costs = random_costs(seed, falling=False, energy=True)
    limits, loss = Limits((), costs), HardwareLoss(budget_targets(parse_budgets(text), costs))
    limits.budgets = parse_budgets(text)  # however low
    bits = LearnedBits(costs.space, np.random.default_rng(seed).uniform(2, 8, 6).tolist())
    used = loss.used(*bits.layer_bits(bits.rounded()))
    assert used.tolist() == pytest.approx(limits.each(bits.vector()).tolist())
    assert used.max().item() == pytest.approx(limits.used(bits.vector()))


# Schemes.


def planes(weight_bits):
    """What three schemes may take: as many planes as bits, one more, one."""
    return torch.stack([weight_bits, (weight_bits + 1).clamp(max=8), torch.ones_like(weight_bits)], dim=1)


def test_a_mixture_costs_its_mean_and_teaches_the_choice():
    generator = torch.Generator().manual_seed(3)
    price = table_price(random_costs(3), "latency")
    bits, activations = torch.tensor([2.0, 5.0, 7.0], dtype=torch.float64), torch.tensor([3.0, 8.0, 4.0]).double()
    theta = torch.randn(3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    temperature = 0.7
    shares = torch.softmax(theta / temperature, dim=1)
    expected = expected_cost(price, planes(bits), activations, shares)
    alone = torch.stack([price(planes(bits)[:, scheme], activations) for scheme in range(3)], dim=1)
    assert torch.allclose(expected, (shares * alone).sum(1), rtol=1e-12)
    expected.sum().backward()
    by_hand = shares / temperature * (alone - expected[:, None])
    assert torch.allclose(theta.grad, by_hand.detach(), rtol=1e-9)


def test_a_mixture_is_differentiable_in_bits_and_shares():
    generator = torch.Generator().manual_seed(4)
    price = table_price(random_costs(4), "latency")

    def cost(weight_bits, activation_bits, weight_theta, activation_theta):
        both = torch.stack([activation_bits, activation_bits / 2 + 1], dim=1)
        mixtures = torch.softmax(weight_theta, 1), torch.softmax(activation_theta, 1)
        return expected_cost(price, planes(weight_bits), both, *mixtures) / 1000

    arguments = [torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in [(3,), (3,), (3, 3), (3, 2)]]
    arguments[0], arguments[1] = arguments[0] * 0.8 + 3.1, arguments[1] * 0.8 + 4.1
    assert torch.autograd.gradcheck(cost, [argument.requires_grad_() for argument in arguments])


def test_a_certain_scheme_costs_what_it_costs_alone():
    price = bit_operations(VGG)
    bits, activations = torch.full((7,), 3.0), torch.full((7,), 4.0)
    shares = torch.zeros(7, 3)
    shares[:, 1] = 1
    loss = HardwareLoss([Target(price, 1e9)])
    assert loss.used(planes(bits), activations, shares).tolist() == loss.used(bits + 1, activations).tolist()


@pytest.mark.parametrize("shares", [None, torch.ones(7, 2)])
def test_every_scheme_needs_bits_and_a_share(shares):
    with pytest.raises(InputError, match="give every scheme both"):
        expected_cost(bit_operations(VGG), planes(torch.ones(7)), torch.ones(7), shares)


# The loss.


def loss_and_gradient(penalty, most):
    bits = torch.full((7,), 4.0, requires_grad=True)
    loss = HardwareLoss([Target(bit_operations(VGG), most)], penalty)
    used = loss.used(bits, bits)
    (value,) = loss(used)
    value.backward()
    return value.item(), used.item(), bits.grad.double()


def test_below_the_budget_a_square_is_silent_and_above_it_pushes():
    macs = torch.tensor([layer.macs for layer in VGG], dtype=torch.float64)
    total = 16 * macs.sum().item()
    value, used, gradient = loss_and_gradient("square", 1.25 * total)
    assert (value, used, gradient.abs().max().item()) == (0, pytest.approx(0.8), 0)
    for most in (0.5 * total, 0.8 * total):
        for penalty, outer in [("square", 2 * (total / most - 1)), ("absolute", 1), ("linear", 1)]:
            value, used, gradient = loss_and_gradient(penalty, most)
            assert used == pytest.approx(total / most)
            assert torch.allclose(gradient, outer * 8 * macs / most, rtol=1e-6)
    value, _, gradient = loss_and_gradient("absolute", 1.25 * total)
    assert value == pytest.approx(0.2)
    assert (gradient < 0).all()  # held to its budget from below, too


def test_the_weight_comes_in_from_a_hundredth_over_the_first_half():
    assert [ramp(p) for p in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([0.01, 0.505, 1, 1, 1])
    assert ramp(0.1, start=0, end=0.2) == pytest.approx(0.5)


def test_dual_weights_grow_above_the_budget_and_never_below_zero():
    dual = DualAscent(2, 0.5)
    for used in ([1.4, 0.6], [1.2, 0.6], [0.9, 1.2]):
        dual.update(torch.tensor(used))
    assert dual.weights.tolist() == pytest.approx([0.25, 0.1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HardwareLoss([Target(bit_operations(VGG), 1.0)], "cube"), "unknown penalty 'cube'"),
        (lambda: HardwareLoss([]), "needs a budget to keep"),
        (lambda: Target(bit_operations(VGG), 0.0), "expected a target above 0"),
        (lambda: table_price(random_costs(0), "energy"), "no energies are known"),
        (lambda: table_price(random_costs(0, group=1), "latency"), "leave out --group"),
        (lambda: table_price(random_costs(0), "beauty"), "unknown metric 'beauty'"),
    ],
)
def test_losses_that_cannot_be_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# All of it: learning bits into a budget.


def learn(costs, limits, sensitivity, dual, steps=300):
    """Descend ``sum(sensitivity * 4 ** -bits)`` and the hardware loss; then repair."""
    bits = LearnedBits(costs.space, 6.0)
    loss = HardwareLoss(budget_targets(limits.budgets, costs), "linear" if dual else "square")
    optimizer, weights = torch.optim.Adam(bits.parameters(), lr=0.05), DualAscent(1, 0.1)
    for step in range(steps):
        optimizer.zero_grad()
        here = bits.rounded()
        used = loss.used(*bits.layer_bits(here))
        task = (torch.from_numpy(sensitivity) * 4.0**-here).sum()
        (task + (loss(used) * (weights.weights if dual else 10 * ramp(step / steps))).sum()).backward()
        optimizer.step()
        bits.clamp_()
        weights.update(used)
    vector = bits.vector()
    return vector, repair(vector, sensitivity * 4.0**-vector, limits, bits.widths, fill=True)


def least_loss(costs, limits, sensitivity):
    """The optimum, by an integer program over both widths of every layer."""
    choices = list(itertools.product(range(2, 9), repeat=2))
    losses = [np.array([w * 4.0**-i + a * 4.0**-j for i, j in choices]) for w, a in sensitivity.reshape(-1, 2)]
    table = costs.tables["latency"]
    prices = [np.array([layer[i - 1, j - 1] for i, j in choices]) for layer in table]
    found = solve(losses, [(prices, costs.full["latency"] * limits.budgets[0].ratio)])
    return sum(loss[index] for loss, index in zip(losses, found, strict=True))


@pytest.mark.parametrize("dual", [False, True])
def test_learning_meets_the_budget_and_comes_near_the_optimum(dual):
    parts = []
    for seed in range(4):
        costs = random_costs(seed, layers=6)
        limits = Limits(parse_budgets("latency=0.3"), costs)
        sensitivity = np.exp(1.5 * np.random.default_rng(100 + seed).normal(size=12))
        learned, repaired = learn(costs, limits, sensitivity, dual)
        assert limits.used(learned) < 1.5  # from 2.0 or so of the start: learning, not the repair, got it here
        assert limits.used(repaired) <= 1
        loss = (sensitivity * 4.0**-repaired).sum()
        parts.append(loss / least_loss(costs, limits, sensitivity))
    assert np.mean(parts) < 1.1  # 1.04 with either
    assert max(parts) < 1.3  # 1.13
