"""The machine's arithmetic against Python's integers and fractions, which have no width."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hardware.arithmetic import (
    ADDITION,
    Requantization,
    activation_multiplier,
    add,
    averaging,
    fraction_bits,
    image_activations,
    image_values,
    requantize,
    saturate,
    to_activations,
)
from hardware.errors import InputError

INT32 = st.integers(-(2**31), 2**31 - 1)
VALUES = st.integers(-(2**15), 2**15 - 1)
HALF = Fraction(1, 2)


def saturated(value):
    return min(max(value, -(2**15)), 2**15 - 1)


def one(number):
    return np.array([number], dtype=np.int64)


@given(INT32, st.integers(0, 2**32 - 1), INT32, st.sampled_from([16, 32]))
@example(-(2**31), 2**32 - 1, -(2**31), 16)
@example(-(2**31), 2**32 - 1, -(2**31), 32)
@example(2**31 - 1, 2**32 - 1, 2**31 - 1, 16)
@example(2**31 - 1, 2**32 - 1, 2**31 - 1, 32)
def test_requantize_is_its_formula_without_overflow(total, multiplier, bias, shift):
    expected = saturated((total * multiplier + (bias << (shift - 16))) >> shift)
    assert requantize(one(total), one(multiplier), one(bias), shift).tolist() == [expected]


@given(
    st.integers(-(2**20), 2**20),
    st.lists(st.floats(0, 65535), min_size=1, max_size=4),
    st.lists(st.floats(-32767, 32767), min_size=4, max_size=4),
)
@example(5, [0.5, 0.25, 1.5], [0.0, 0.25, -10.0, 0.0])
def test_values_are_the_affine_function_of_totals_rounded_half_up(total, factors, biases):
    biases = biases[: len(factors)]
    made = Requantization.nearest(np.array(factors), np.array(biases), "it")
    results = made.values(np.full((1, len(factors), 1, 1), total)).reshape(-1).tolist()
    for m, b, factor, bias, result in zip(
        made.multiplier.tolist(), made.bias.tolist(), factors, biases, results, strict=True
    ):
        scale, offset = Fraction(m, 2**made.shift), Fraction(b, 2**16) - HALF
        assert abs(scale - Fraction(factor)) <= Fraction(1, 2 ** (made.shift + 1))
        assert abs(offset - Fraction(bias)) <= Fraction(1, 2**17)
        assert result == saturated(floor(scale * total + offset + HALF))


def test_the_finer_shift_is_taken_while_all_multipliers_fit():
    fine = np.array([1 - 2.0**-32, 2.0**-32, 0.0])
    made = Requantization.nearest(fine, np.zeros(3), "it")
    assert (made.multiplier.tolist(), made.shift) == ([2**32 - 1, 1, 0], 32)
    for largest in (1.0, 1 - 2.0**-34, 65536 - 2.0**-16):  # the second one rounds up to 2**32
        made = Requantization.nearest(np.array([0.5, largest]), np.zeros(2), "it")
        assert (made.multiplier.tolist(), made.shift) == ([2**15, round(largest * 2**16)], 16)


def test_channels_lie_on_the_second_axis():
    made = Requantization.nearest(np.array([1.0, 2.0, 0.5]), np.array([0.0, 10.0, -1.0]), "it")
    totals = np.arange(2 * 3 * 2).reshape(2, 3, 2, 1) - 5
    expected = totals * np.array([1, 2, 0.5]).reshape(1, 3, 1, 1) + np.array([0, 10, -1]).reshape(1, 3, 1, 1)
    assert np.array_equal(made.values(totals), np.floor(expected + 0.5))
    assert np.array_equal(made.values(totals[..., 0, 0]), np.floor(expected + 0.5)[..., 0, 0])


@pytest.mark.parametrize(
    ("factors", "biases", "message"),
    [
        ([0.5, -0.1], [0.0, 0.0], "layer 'x' has a scale of -0.1, but the machine's multipliers are unsigned"),
        ([65536.0, 0.1], [0.0, 0.0], "layer 'x' multiplies its sums by up to 65536"),
        ([0.5, 0.1], [0.0, 32768.0], "layer 'x' has a bias of 32768 steps"),
        ([0.5, 0.1], [-32769.0, 0.0], "layer 'x' has a bias of 32769 steps"),
        ([np.nan, 0.1], [0.0, 0.0], "layer 'x' has a scale"),
        ([0.5, 0.1], [np.nan, 0.0], "layer 'x' has a bias"),
    ],
)
def test_constants_that_do_not_fit_are_refused(factors, biases, message):
    with pytest.raises(InputError, match=message):
        Requantization.nearest(np.array(factors), np.array(biases), "layer 'x'")


@given(VALUES, VALUES)
@example(2**15 - 1, 1)
@example(-(2**15), -1)
@example(-(2**15), -(2**15))
def test_the_machines_addition_is_the_saturated_sum(a, b):
    assert add(one(a), one(b)).tolist() == [saturated(a + b)]
    assert ADDITION.values(one(a + b).reshape(1, 1)).tolist() == [[saturated(a + b)]]


@given(st.integers(1, 300), st.data())
def test_averages_are_means_rounded_half_up(area, data):
    total = sum(data.draw(st.lists(VALUES, min_size=area, max_size=area)))
    (result,) = averaging(area).values(one(total).reshape(1, 1))[0].tolist()
    assert abs(result - Fraction(total, area)) <= HALF + Fraction(area, 2**18)  # the multiplier's own error
    if area & (area - 1) == 0:
        assert result == floor(Fraction(total, area) + HALF)


def test_extreme_averages():
    for area in (1, 49, 65535):
        totals = np.array([[-(2**15) * area, (2**15 - 1) * area]]).T
        assert averaging(area).values(totals).reshape(-1).tolist() == [-(2**15), 2**15 - 1]
    with pytest.raises(InputError, match="average pooling over 65536 values"):
        averaging(65536)


@given(VALUES, st.integers(1, 2**24 - 1), st.sampled_from([(0, 255), (-127, 127), (0, 1), (-1, 0)]))
@example(-3, 2**23, (-127, 127))  # in the middle between -2 and -1
def test_activations_are_scaled_values_rounded_half_up_and_clamped(value, multiplier, levels):
    low, high = levels
    expected = min(max(floor(Fraction(value * multiplier, 2**24) + HALF), low), high)
    assert to_activations(one(value), multiplier, low, high).tolist() == [expected]


@given(st.floats(1e-9, 1e9), st.integers(0, 15))
@example(1.0, 0)
@example(2.0**24, 0)
def test_activation_multipliers_are_the_nearest_that_fit(step, bits):
    exact = Fraction(2**24, 2**bits) / Fraction(step)
    multiplier = activation_multiplier(step, bits)
    assert 1 <= multiplier <= 2**24 - 1
    if 1 <= exact <= 2**24 - 1:
        assert abs(multiplier - exact) <= HALF + Fraction(1, 2**20)
    else:
        assert multiplier == (1 if exact < 1 else 2**24 - 1)


@given(st.one_of(st.floats(1e-12, 1e12), st.integers(-20, 20).map(lambda power: 2.0**power)))
def test_twice_the_largest_magnitude_still_is_a_value(largest):
    bits = fraction_bits(largest)
    assert 0 <= bits <= 15
    assert bits == 0 or 2 * Fraction(largest) * 2**bits <= 2**15
    assert bits == 15 or 2 * Fraction(largest) * 2 ** (bits + 1) > 2**15


def test_a_network_of_zeros_has_all_fraction_bits():
    assert fraction_bits(0.0) == 15


@given(st.integers(-(2**27), 2**27), st.integers(-10, 3), st.sampled_from([(0, 255), (-127, 127), (-1, 0)]))
@example(5 * 2**19, 0, (0, 255))  # 2.5 steps
@example(-5 * 2**19, 0, (-127, 127))
def test_the_host_rounds_images_half_up_and_clamps(pixel, power, levels):
    """Pixels and steps with which float64 is exact."""
    low, high = levels
    nearest = floor(Fraction(pixel, 2**20) / Fraction(2) ** power + HALF)
    result = image_activations(np.array([pixel / 2**20]), 2.0**power, low, high)
    assert (result.dtype, result.tolist()) == (np.int64, [min(max(nearest, low), high)])


@pytest.mark.parametrize(
    ("pixel", "value"), [(0.5, 128), (-0.001953125, 0), (0.001953125, 1), (1e6, 2**15 - 1), (-1e6, -(2**15))]
)
def test_images_as_values_are_rounded_half_up_and_saturate(pixel, value):
    assert image_values(np.array([pixel]), 8).tolist() == [value]


def test_saturation_ends_at_int16():
    assert saturate(np.array([-(2**40), -(2**15), 0, 2**15 - 1, 2**15])).tolist() == [
        -(2**15),
        -(2**15),
        0,
        2**15 - 1,
        2**15 - 1,
    ]
