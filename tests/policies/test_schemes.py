"""What AutoQNN's schemes make of numbers: levels, integers, planes, gradients."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import InputError
from policies.schemes import ACTIVATION_SCHEMES, WEIGHT_SCHEMES, activation_scheme, weight_scheme

WEIGHTS = {name: weight_scheme(name) for name in WEIGHT_SCHEMES}
UNSIGNED = {name: activation_scheme(name, signed=False) for name in ACTIVATION_SCHEMES}
ALL = [*WEIGHTS.values(), *UNSIGNED.values(), weight_scheme("pot", "paper")]
CASES = [(scheme, bits) for scheme in ALL for bits in scheme.widths]
FEW_CASES = [(scheme, bits) for scheme in ALL for bits in (scheme.widths[0], scheme.widths[-1])]
NEAREST = ("binary", "quaternary", "fixed", "zoom", "clip")
"""Signed schemes that give the nearest level."""


def label(case):
    return f"{case.name}{'' if case.signed else '-unsigned'}" if hasattr(case, "name") else str(case)


def test_value_sets():
    ones = {name: torch.ones(1) for name in ("binary", "quaternary", "fixed", "clip", "pot")}
    assert WEIGHTS["binary"].levels(1, ones["binary"]).tolist() == [-1, 1]
    assert WEIGHTS["ternary"].levels(2, torch.tensor([9.0, 1.0])).tolist() == [-1, 0, 1]
    assert WEIGHTS["quaternary"].levels(2, ones["quaternary"]).tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert WEIGHTS["fixed"].levels(3, torch.tensor([2.0])).tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert WEIGHTS["fixed"].levels(3, torch.tensor([7.9])).tolist() == [-6, -4, -2, 0, 2, 4, 6]
    assert WEIGHTS["clip"].levels(3, ones["clip"]).tolist() == [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]
    for bits, positive in ((2, [0.5, 2]), (3, [0.5, 2, 4, 8]), (4, [0.5, 2, 4, 8, 16, 32, 64, 128])):
        assert WEIGHTS["pot"].levels(bits, ones["pot"]).tolist() == [*(-p for p in reversed(positive)), *positive]
    assert WEIGHTS["res"].levels(2, torch.tensor([4.0, 1.0])).tolist() == [-5, -3, 3, 5]
    assert WEIGHTS["zoom"].levels(2, torch.tensor([-1.0, 2.0])).tolist() == [0, 2, 4, 6]
    assert UNSIGNED["clip"].levels(2, torch.ones(1)).tolist() == [0, 1, 2, 3]
    assert UNSIGNED["fixed"].levels(2, torch.tensor([2.0])).tolist() == [0, 1, 2, 3]
    assert UNSIGNED["pot"].levels(3, torch.ones(1)).tolist() == [0, 1, 2, 4, 8, 16, 32, 64]
    assert UNSIGNED["res"].levels(2, torch.tensor([6.0, 4.0, 1.0])).tolist() == [1, 3, 9, 11]


def test_letters_and_widths():
    assert {s.letter: s.widths for s in WEIGHTS.values()} == {
        **{"B": (1,), "T": (2,), "Q": (2,), "P": (2, 3, 4)},
        **dict.fromkeys("FRZC", tuple(range(2, 9))),
    }
    assert [s.momentum for s in UNSIGNED.values()] == [0.99, 0.9, 0.9, 0.9, 0.9]


def test_zero_and_thresholds():
    x = torch.tensor([-1.0, -0.0, 0.0, 1e-9, 1.0])
    assert WEIGHTS["binary"].quantize(x, 1, torch.tensor([2.0])).tolist() == [-2, -2, -2, 2, 2]
    assert WEIGHTS["pot"].quantize(x, 2, torch.tensor([2.0])).tolist() == [-1, -1, -1, 1, 1]
    assert WEIGHTS["clip"].quantize(x, 2, torch.tensor([2.0])).tolist() == [-1, 1, 1, 1, 1]
    assert WEIGHTS["quaternary"].quantize(x, 2, torch.tensor([2.0])).tolist() == [-1, 1, 1, 1, 1]
    for name in ("fixed", "clip", "pot"):
        assert UNSIGNED[name].quantize(x[1:3], 2, torch.ones(1)).tolist() == [0, 0]
    cells = torch.tensor([-1.1, -1.0, -0.9, 0.9, 1.0, 9.0])
    assert WEIGHTS["ternary"].quantize(cells, 2, torch.tensor([2.0, 5.0])).tolist() == [-5, 0, 0, 0, 5, 5]
    # Powers of two by logarithm: from sqrt(2) on 2, from sqrt(8) on 4.
    logarithms = torch.tensor([1.41, 1.42, 2.82, 2.83, 99.0])
    assert WEIGHTS["pot"].quantize(logarithms, 3, torch.ones(1)).tolist() == [0.5, 2, 2, 4, 8]
    nearest = torch.tensor([0.49, 0.5, 1.49, 1.5, 2.99, 3.0, 99.0])
    assert UNSIGNED["pot"].quantize(nearest, 2, torch.ones(1)).tolist() == [0, 1, 1, 2, 2, 4, 4]


def test_res_takes_one_binary_approximation_after_the_other():
    x = torch.tensor([-3.0, -1.0, 2.0, 6.0])
    assert WEIGHTS["res"].fit(x, 2).tolist() == [3, 1.5]  # what the first leaves: 0, 2, -1, 3
    assert WEIGHTS["res"].quantize(x, 2, torch.tensor([3.0, 1.5])).tolist() == [-4.5, -1.5, 1.5, 4.5]
    assert UNSIGNED["res"].fit(x, 2).tolist() == [1, 3, 1.5]  # what the mean leaves: -4, -2, 1, 5


@pytest.mark.parametrize("largest", [1e-30, 0.124, 0.125, 7.9999995, 8.0, 1.5e30])
@pytest.mark.parametrize("signed", [True, False])
def test_fixed_has_the_power_of_two_that_holds_the_largest(largest, signed):
    fixed = activation_scheme("fixed", signed)
    x = torch.tensor([largest])
    step = fixed.integers(x, 4, fixed.fit(x, 4))[1].item()
    exponent = math.frexp(x.item())[1] - 1  # floor(log2) without rounding
    assert step == 2.0 ** (exponent - (2 if signed else 3))


def test_an_average_over_batches_keeps_the_power_of_two_of_fixed():
    fixed = UNSIGNED["fixed"]
    first, second = (fixed.fit(torch.tensor([largest]), 4) for largest in (5.0, 20.0))
    average = fixed.momentum * first + (1 - fixed.momentum) * second
    assert fixed.levels(4, average)[1] == 0.5


# Properties of all schemes.

values = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)


def tensor(scheme, numbers):
    x = torch.tensor(numbers, dtype=torch.float32)
    return x if scheme.signed else x.abs()


@pytest.mark.parametrize(("scheme", "bits"), FEW_CASES, ids=label)
@given(values)
def test_what_comes_out_is_a_level(scheme, bits, numbers):
    x = tensor(scheme, numbers)
    parameters = scheme.fit(x, bits)
    levels, quantized = scheme.levels(bits, parameters), scheme.quantize(x, bits, parameters)
    assert quantized.shape == x.shape
    assert quantized.isfinite().all()
    assert torch.isin(quantized, levels).all()
    assert (levels.diff() >= 0).all()
    assert len(levels) == {"ternary": 3, "fixed": 2**bits - scheme.signed}.get(scheme.name, 2**bits)
    if scheme.name != "res" and (scheme.name != "zoom" or levels.diff().min() > 1e-3):
        # Greedy: res may take another way from its own level. Zoom's levels may be too close for float32.
        assert torch.equal(scheme.quantize(quantized, bits, parameters), quantized)
    if scheme.name in NEAREST or (not scheme.signed and scheme.name != "res"):
        distance = (levels - x[:, None]).abs().amin(1)
        assert ((quantized - x).abs() <= distance + 1e-6 * (x.abs() + levels.abs().max())).all()


@pytest.mark.parametrize(("scheme", "bits"), CASES, ids=label)
def test_integers_times_the_step_are_the_levels_and_fit_their_planes(scheme, bits):
    x = 0.1 * torch.randn(64, 5, 3, 3, generator=torch.Generator().manual_seed(bits))
    x = x if scheme.signed else x.relu()
    for grouped, per_channel in itertools.product((False, True), repeat=2):
        try:
            planes = scheme.machine_bits(bits, grouped)
        except InputError:
            with pytest.raises(InputError, match=f"scheme '{scheme.name}'"):
                scheme.integers(x, bits, scheme.fit(x, bits), grouped)
            continue
        parameters = scheme.fit(x, bits, per_channel)
        u, step = scheme.integers(x, bits, parameters, grouped)
        assert u.dtype == torch.int64
        assert step.shape == ((64,) if per_channel else ())
        weights = 2 * u + 1 if scheme.bipolar(grouped) else u
        spread = step.reshape(-1, 1, 1, 1) if per_channel else step
        torch.testing.assert_close(weights * spread, scheme.quantize(x, bits, parameters), rtol=1e-6, atol=0)
        # The planes hold all levels, and one less does not.
        levels = (scheme.levels(bits, parameters) / step[..., None]).round().long()
        integers = (levels - 1) // 2 if scheme.bipolar(grouped) else levels
        assert torch.isin(u, integers).all()
        held = (-(2 ** (planes - 1)), 2 ** (planes - 1) - 1) if scheme.signed else (0, 2**planes - 1)
        assert held[0] <= integers.min() <= integers.max() <= held[1]
        assert planes == 1 or integers.max() > 2 ** (planes - 2 if scheme.signed else planes - 1) - 1


def test_planes_of_the_machine():
    def planes(scheme, grouped=False):
        found = {}
        for bits in scheme.widths:
            try:
                found[bits] = scheme.machine_bits(bits, grouped)
            except InputError:
                found[bits] = None
        return found

    same = {bits: bits for bits in range(2, 9)}
    more = {**{bits: bits + 1 for bits in range(2, 8)}, 8: None}
    expected = {  # bits to planes, and those of a grouped layer
        "binary": ({1: 1}, {1: 2}),
        "ternary": ({2: 2}, {2: 2}),
        "quaternary": ({2: 2}, {2: 3}),
        "fixed": (same, same),
        "res": (dict.fromkeys(same), dict.fromkeys(same)),
        "zoom": (dict.fromkeys(same), dict.fromkeys(same)),
        "clip": (same, more),
        "pot": ({2: 4, 3: 6, 4: None}, {2: 4, 3: 6, 4: None}),
    }
    assert {name: (planes(s), planes(s, True)) for name, s in WEIGHTS.items()} == expected
    assert {name for name, s in WEIGHTS.items() if s.bipolar()} == {"binary", "quaternary", "clip"}
    assert not any(scheme.bipolar(grouped=True) for scheme in ALL)
    assert planes(UNSIGNED["clip"]) == planes(UNSIGNED["fixed"]) == same
    assert planes(UNSIGNED["pot"]) == {2: 3, 3: 7, 4: None}
    with pytest.raises(InputError, match=r"'pot' at 4 bits needs integers of 10 bits .*: give it fewer bits"):
        WEIGHTS["pot"].machine_bits(4)
    with pytest.raises(InputError, match=r"'res' is as many binary layers .*: choose another scheme"):
        WEIGHTS["res"].machine_bits(3)
    with pytest.raises(InputError, match=r"'zoom' has an offset, .*: choose another scheme"):
        WEIGHTS["zoom"].machine_bits(3)


@pytest.mark.parametrize(("scheme", "bits"), CASES, ids=label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_channel_is_quantized_as_if_it_were_alone(scheme, bits, dtype):
    x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(bits), dtype=dtype)
    x = x if scheme.signed else x.relu()
    x *= torch.tensor([1.0, 0.01, 0.0, 30.0]).reshape(4, 1, 1, 1).to(dtype)  # a channel of zeros
    parameters = scheme.fit(x, bits, per_channel=True)
    quantized, levels = scheme.quantize(x, bits, parameters), scheme.levels(bits, parameters)
    assert quantized.dtype == levels.dtype == dtype
    assert not quantized[2].any()
    for m in range(4):
        alone = scheme.fit(x[m], bits)
        torch.testing.assert_close(parameters[m], alone)
        torch.testing.assert_close(quantized[m], scheme.quantize(x[m], bits, alone))
        torch.testing.assert_close(levels[m], scheme.levels(bits, alone))


@pytest.mark.parametrize(("scheme", "bits"), CASES, ids=label)
def test_zeros_and_constants(scheme, bits):
    zeros = torch.zeros(3, 4)
    for per_channel in (False, True):
        parameters = scheme.fit(zeros, bits, per_channel)
        assert not scheme.quantize(zeros, bits, parameters).any()
        assert not scheme.levels(bits, parameters).any()
        # Other values with these parameters, as after an average over batches of zeros.
        assert not scheme.quantize(torch.ones(3, 4), bits, parameters).any()
    for constant in (torch.tensor(0.1), torch.full((1,), 0.1), torch.full((1000,), 0.1)):
        quantized = scheme.quantize(constant, bits, scheme.fit(constant, bits))
        assert quantized.shape == constant.shape
        assert ((quantized - 0.1).abs() < 0.07).all()  # not lost: 0 would be 0.1 away


@pytest.mark.parametrize(("scheme", "bits"), CASES, ids=label)
def test_gradients_pass_except_where_clip_clips(scheme, bits):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = (x if scheme.signed else x.abs()).requires_grad_()
    parameters = scheme.fit(x, bits) * (0.5 if scheme.name == "clip" else 1)  # much is clipped
    assert not parameters.requires_grad
    faked = scheme.fake_quantize(x, bits, parameters)
    assert torch.equal(faked, scheme.quantize(x, bits, parameters))
    assert not scheme.quantize(x, bits, parameters).requires_grad
    upstream = torch.arange(1.0, 1001.0, dtype=torch.float64)
    (faked * upstream).sum().backward()
    expected = torch.ones_like(x)
    if scheme.name == "clip":
        outer = (2 ** (bits - 1) - 0.5 if scheme.signed else 2**bits - 1) * parameters
        expected = (x.detach().abs() <= outer).double()
        assert 0 < expected.sum() < 1000 or bits > 4
    assert torch.equal(x.grad, upstream * expected)


def test_what_is_refused():
    with pytest.raises(InputError, match="unknown scheme 'clop': did you mean 'clip'"):
        weight_scheme("clop")
    with pytest.raises(InputError, match="unknown set of constants 'papers'"):
        weight_scheme("pot", "papers")
    with pytest.raises(InputError, match="'clip' has 2 to 8 bits, got 1: choose a width"):
        WEIGHTS["clip"].fit(torch.ones(3), 1)
    with pytest.raises(InputError, match="'ternary' has 2 bits, got 3"):
        WEIGHTS["ternary"].quantize(torch.ones(3), 3, torch.ones(2))
    with pytest.raises(InputError, match="expected values to fit scheme 'pot' to, got none"):
        WEIGHTS["pot"].fit(torch.ones(0, 3), 2)
    for name in ("binary", "ternary", "quaternary"):
        for signed in (True, False):
            with pytest.raises(InputError, match=f"expected a scheme for activations .* got '{name}'"):
                activation_scheme(name, signed)
    with pytest.raises(AttributeError, match="cannot assign"):
        WEIGHTS["clip"].signed = False
