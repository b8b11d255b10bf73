"""Learned bits: the gradient against finite differences, slopes against tables, rounding and pinning."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import InputError
from hardware.layer import Layer
from policies.learned_bits import (
    LearnedBits,
    bits_gradient,
    clip_slope,
    element_counts,
    interval_slope,
    outer_slope,
    range_slope,
)
from policies.space import Space

LAYERS = [
    Layer("conv", "conv", 3, 4, 6, 6, (3, 3), padding=(1, 1), signed_activations=True),
    Layer("middle", "linear", 16, 10),
    Layer("end", "linear", 10, 5),
]


def space(**changes):
    return Space("net", LAYERS, **changes)


# Slopes: the table of the paper's facts, to the digits that it has.


def test_slopes_are_those_of_the_table():
    widths = range(2, 9)
    ranges = [0.9242, 0.7922, 0.7394, 0.7155, 0.7041, 0.6986, 0.6959]
    assert [range_slope(b) for b in widths] == pytest.approx(ranges, abs=5e-5)
    assert [interval_slope(b) for b in widths] == pytest.approx([0.6931] * 7, abs=5e-5)
    # The fit gives .61545 at 8 bits, where the table says .616.
    clip = [0.518, 0.545, 0.568, 0.586, 0.600, 0.610, 0.616]
    assert [clip_slope(b) for b in widths] == pytest.approx(clip, abs=6e-4)


@pytest.mark.parametrize(
    ("signed", "steps"),
    [
        (True, [0.995687, 0.586019, 0.335201, 0.188139, 0.104063, 0.056868, 0.030762]),
        (False, [0.650770, 0.353411, 0.193249, 0.105488, 0.057261, 0.030870, 0.016528]),
    ],
)
def test_clip_slopes_are_those_of_the_best_steps(signed, steps):
    # The mean slope between two widths, by Simpson's rule, which is exact for the fit's square.
    for low, (step, finer) in enumerate(itertools.pairwise(steps), start=2):
        mean = (clip_slope(low, signed) + 4 * clip_slope(low + 0.5, signed) + clip_slope(low + 1, signed)) / 6
        assert mean == pytest.approx(math.log(step / finer), abs=2 * 0.0016)


@pytest.mark.parametrize("slope", [range_slope, interval_slope, clip_slope])
def test_the_outer_level_moves_as_levels_times_step(slope):
    def outer(b, symmetric):
        highest = 2 ** (b - 1) - 1 if symmetric else 2 ** (b - 1) - 0.5
        return math.log(highest)

    h = 1e-5
    for b in (2, 3.3, 8):
        for symmetric in (False, True):
            rise = (outer(b + h, symmetric) - outer(b - h, symmetric)) / (2 * h)
            assert outer_slope(b, slope(b), symmetric) == pytest.approx(rise - slope(b), abs=1e-8)
    assert outer_slope(5, range_slope(5)) == 0  # a fixed range


# The gradient.


def step(kind, bits, values):
    """The step of a quantizer at real bits."""
    if kind == "clip":
        cubic = 7.0052e-4 * bits**3 - 0.0185943 * bits**2 - 0.452442 * bits + 0.969911
        return math.exp(cubic) * float(values.std())
    spread = float(values.max() - values.min())
    return spread / (2**bits - 1) if kind == "range" else spread / 2**bits


def mid_rise(values, alpha, bits):
    """Levels +-1/2, +-3/2, ... times alpha; and which values are clipped."""
    highest = 2 ** (bits - 1) - 0.5
    units = torch.floor(values / alpha) + 0.5
    return units.clamp(-highest, highest) * alpha, units.abs() > highest


SLOPES = {"range": range_slope, "interval": interval_slope, "clip": clip_slope}


@pytest.mark.parametrize("kind", SLOPES)
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_the_gradient_is_that_of_frozen_rounding(kind, bits):
    generator = torch.Generator().manual_seed(bits)
    values = torch.randn(400, generator=generator, dtype=torch.float64)
    target = torch.randn(400, generator=generator, dtype=torch.float64)
    values[:20] *= 4  # a tail
    quantized, clipped = mid_rise(values, step(kind, bits, values), bits)
    assert clipped.any() or kind != "clip"

    def loss(result):
        return (torch.sin(result) * target).sum() + (result - target).pow(2).sum()

    def surrogate(b):
        """What rounding adds, in steps, stays; clipped values follow the outermost level."""
        alpha, first = step(kind, b, values), step(kind, bits, values)
        inside = values + (quantized - values) / first * alpha
        outer = values.sign() * (2 ** (b - 1) - 0.5) * alpha
        return loss(torch.where(clipped, outer, inside)).item()

    learned = torch.tensor(float(bits), dtype=torch.float64, requires_grad=True)
    original = values.clone().requires_grad_()
    slope = SLOPES[kind](bits)
    result = bits_gradient(quantized, original, learned, slope, clipped, outer_slope(bits, slope))
    assert torch.equal(result, quantized)
    loss(result).backward()
    h = 2e-4  # a fourth-order difference
    near, far = (surrogate(bits + k * h) - surrogate(bits - k * h) for k in (1, 2))
    assert learned.grad.item() == pytest.approx((8 * near - far) / (12 * h), rel=1e-8)

    leaf = quantized.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.equal(original.grad, leaf.grad.masked_fill(clipped, 0))


def test_squared_errors_fall_by_twice_the_slope():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for bits in range(2, 9):
        quantized, _ = mid_rise(values, step("range", bits, values), bits)
        learned = torch.tensor(float(bits), dtype=torch.float64, requires_grad=True)
        for slope in (range_slope(bits), interval_slope(bits)):
            error = (bits_gradient(quantized, values, learned, slope) - values).square().sum() / 2
            (gradient,) = torch.autograd.grad(error, learned)
            assert (gradient / error).item() == pytest.approx(-2 * slope, rel=1e-12)


def test_without_a_mask_all_gradients_pass_straight_through_in_any_type():
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    learned = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    bits_gradient(torch.zeros(5, 3), values, learned, 0.5).sum().backward()
    assert torch.equal(values.grad, torch.ones(5, 3))
    assert learned.grad.dtype == torch.float64
    assert learned.grad.item() == pytest.approx(0.5 * values.sum().item())


def test_the_gradient_takes_one_tensor_and_its_bits():
    with pytest.raises(InputError, match="one tensor's bits at a time"):
        bits_gradient(torch.zeros(3), torch.zeros(4), torch.tensor(3.0), 1.0)
    with pytest.raises(InputError, match="and 2 numbers"):
        bits_gradient(torch.zeros(3), torch.zeros(3), torch.tensor([3.0, 3.0]), 1.0)


# The master copies.


@given(seed=st.integers(0, 2**32), widths=st.sampled_from([range(1, 9), range(2, 6), (2, 4, 8), (3,)]))
def test_rounding_finds_the_nearest_width_and_passes_gradients(seed, widths):
    here = space(weight_widths=widths, activation_widths=widths)
    generator = np.random.default_rng(seed)
    start = generator.choice([generator.uniform(0, 9), 3.0, 2.5, 6.0], 6)
    bits = LearnedBits(here, start.tolist())
    masters = np.clip(start, widths[0], widths[-1]).astype(np.float32)
    assert bits.bits.tolist() == masters.tolist()
    expected = [max(widths, key=lambda width, b=b: (-abs(width - b), width)) for b in masters]
    assert bits.vector().tolist() == bits.rounded().tolist() == expected
    weights = torch.arange(1.0, 7.0)
    (bits.rounded() * weights).sum().backward()
    assert bits.bits.grad.tolist() == (weights if len(widths) > 1 else 0 * weights).tolist()


def test_pinned_variables_keep_their_width_and_the_others_theirs():
    here = space(weight_widths=range(1, 9), pin_ends=True)
    own = [variable.widths for variable in here.variables]
    bits = LearnedBits(here, 5.0, widths=[own[0], own[1], (1,), (2, 3, 4), own[4], own[5]])
    assert bits.vector().tolist() == [8, 8, 1, 4, 8, 8]
    optimizer = torch.optim.Adam(bits.parameters(), lr=1.0)
    for _ in range(5):
        optimizer.zero_grad()
        bits.rounded().sum().backward()
        optimizer.step()
        bits.clamp_()
    assert bits.vector().tolist() == [8, 8, 1, 2, 8, 8]
    assert bits.bits.grad.tolist() == [0, 0, 0, 1, 0, 0]
    bits.set_(np.array([8, 8, 1, 3, 8, 8]))
    assert bits.vector().tolist() == [8, 8, 1, 3, 8, 8]


def test_layers_get_their_bits_and_8_where_there_is_no_variable():
    bits = LearnedBits(space())
    weights, activations = bits.layer_bits(torch.arange(6.0, requires_grad=True))
    assert (weights.tolist(), activations.tolist()) == ([0, 2, 4], [1, 3, 5])
    only = LearnedBits(space(activation_widths=None), [2, 3, 4])
    weights, activations = only.layer_bits(only.rounded())
    assert (weights.tolist(), activations.tolist()) == ([2, 3, 4], [8, 8, 8])
    (weights * torch.tensor([1.0, 2.0, 3.0]) * activations).sum().backward()
    assert only.bits.grad.tolist() == [8, 16, 24]
    here = space()
    vector = LearnedBits(here, [2, 3, 4, 5, 6, 7]).vector()
    pairs = torch.stack(LearnedBits(here).layer_bits(torch.from_numpy(vector)), dim=-1)
    assert pairs.tolist() == here.pairs(vector).tolist()


def test_scaled_gradients_are_lsqs_and_leave_values_alone():
    here = space()
    bits = LearnedBits(here, [4, 4, 2, 3, 2, 8], scaled=True)
    assert torch.equal(bits.for_quantizers(), bits.rounded())
    bits.for_quantizers().sum().backward()
    # Elements and largest integers: signed weights 2^(b-1)-1; the first layer's input is signed, too.
    expected = [1 / math.sqrt(n * q) for n, q in [(108, 7), (108, 7), (160, 1), (16, 7), (50, 1), (10, 255)]]
    assert bits.bits.grad.tolist() == pytest.approx(expected)
    plain = LearnedBits(here)
    for module, values in [(bits, bits.rounded()), (plain, plain.for_quantizers())]:
        module.bits.grad = None
        values.sum().backward()
        assert module.bits.grad.tolist() == [1] * 6


def test_elements_are_those_of_the_quantized_tensors():
    assert element_counts(space()).tolist() == [108, 108, 160, 16, 50, 10]
    assert element_counts(space(pin_ends=True)).tolist() == [0, 0, 160, 16, 0, 0]


def test_the_state_is_the_master_copies():
    bits, other = LearnedBits(space(), 3.3), LearnedBits(space(), 6.0)
    assert list(bits.state_dict()) == ["bits"]
    other.load_state_dict(bits.state_dict())
    assert torch.equal(other.rounded(), bits.rounded())


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"group": 1}, {}, "bits are learned for whole layers"),
        ({"weight_widths": range(9)}, {}, "leave out --group and 0 bits"),
        ({}, {"initial": [4.0] * 5}, "of 6 variables, got 6 and 5"),
        ({}, {"widths": [(2, 3)] * 4}, "got 4 and 6"),
        ({}, {"widths": [(1, 2)] * 6}, r"expected rising widths among \[2, 3, 4, 5, 6, 7, 8\], got \[1, 2\]"),
        ({}, {"widths": [(3, 2)] * 6}, r"got \[3, 2\]"),
        ({}, {"widths": [()] * 6}, r"got \[\]"),
    ],
)
def test_bits_that_cannot_be_learned_are_refused(changes, arguments, message):
    with pytest.raises(InputError, match=message):
        LearnedBits(space(**changes), **arguments)
