import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import InputError
from policies.quantizers import (
    activation_scale,
    fake_quantize_activations,
    fake_quantize_weights,
    levels,
    quantize_activations,
    quantize_weights,
    round_half_up,
    weight_scales,
)

SIGNED = {0: [0], 1: [-1, 0], 2: [-1, 0, 1], 3: list(range(-3, 4)), 8: list(range(-127, 128))}
UNSIGNED = {0: [0], 1: [0, 1], 2: [0, 1, 2, 3], 8: list(range(256))}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nearest_level(value, scale, allowed):
    """By definition: the nearest of all levels; of two equally near ones the one whose integer is higher."""
    return min(sorted(allowed, reverse=True), key=lambda level: abs(level - np.float32(value) / np.float32(scale)))


def test_levels_of_every_width():
    for table, signed in ((SIGNED, True), (UNSIGNED, False)):
        for bits, allowed in table.items():
            assert levels(bits, signed) == (allowed[0], allowed[-1])


def test_rounding_takes_the_upper_integer_in_the_middle():
    values = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5, 0.49, -0.51])
    assert round_half_up(values).tolist() == [-1, 0, 1, 2, 3, 0, -1]


@pytest.mark.parametrize("bits", SIGNED)
def test_weights_become_the_nearest_level(bits):
    weights = normal(3, 4, 2, 2)
    widths = (bits,) * 3
    scales = weight_scales(weights, widths)
    integers = quantize_weights(weights, scales, widths)
    assert integers.dtype == torch.int64
    for m in range(3):
        expected = [nearest_level(w, scales[m].item(), SIGNED[bits]) for w in weights[m].flatten().tolist()]
        assert integers[m].flatten().tolist() == expected


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_no_other_threshold_fits_the_weights_better(bits):
    weights = normal(5, 400, seed=bits)
    scales = weight_scales(weights, (bits,) * 5)

    def errors(s):
        return ((fake_quantize_weights(weights, s, (bits,) * 5) - weights) ** 2).sum(1)

    ours = errors(scales)
    largest = weights.abs().amax(1) / max(2 ** (bits - 1) - 1, 1)
    for part in np.linspace(0.03, 1.1, 100):  # a finer grid than the search's: a little better is possible
        assert (ours <= 1.1 * errors(torch.copysign(largest * part, scales))).all()


def test_clipping_beats_the_full_range_at_few_bits():
    weights = normal(1, 1000)
    assert weight_scales(weights, (3,))[0] < 0.8 * weights.abs().max() / 3


def test_widths_may_differ_per_kernel():
    weights = normal(4, 3, 3, 3)
    widths = (8, 0, 1, 3)
    scales = weight_scales(weights, widths)
    integers = quantize_weights(weights, scales, widths)
    for m, bits in enumerate(widths):
        alone = weight_scales(weights[m : m + 1], (bits,))
        assert scales[m] == alone[0]
        assert torch.equal(integers[m : m + 1], quantize_weights(weights[m : m + 1], alone, (bits,)))
        low, high = levels(bits, signed=True)
        assert low <= integers[m].min() <= integers[m].max() <= high
    assert not integers[1].any()
    assert not fake_quantize_weights(weights, scales, widths)[1].any()
    with pytest.raises(InputError, match="expected 4 widths, one per kernel, got 3"):
        weight_scales(weights, (8, 8, 8))


def test_one_bit_keeps_the_side_that_holds_the_weights():
    weights = torch.tensor([[0.5, 0.5, -0.1], [-0.5, -0.5, 0.1]])
    scales = weight_scales(weights, (1, 1))
    assert quantize_weights(weights, scales, (1, 1)).tolist() == [[-1, -1, 0], [-1, -1, 0]]
    values = fake_quantize_weights(weights, scales, (1, 1))
    torch.testing.assert_close(values, torch.tensor([[0.5, 0.5, 0.0], [-0.5, -0.5, 0.0]]), atol=0.02, rtol=0)


def test_zero_kernels_stay_zero():
    weights = torch.zeros(2, 5)
    scales = weight_scales(weights, (4, 1))
    assert (scales > 0).all()
    assert not fake_quantize_weights(weights, scales, (4, 1)).any()


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_activations_become_the_nearest_level(bits, signed):
    values = normal(200, seed=1)
    values = values if signed else values.relu()
    scale = activation_scale(values, bits, signed)
    allowed = (SIGNED if signed else UNSIGNED).get(bits) or list(range(2**bits))
    integers = quantize_activations(values, scale, bits, signed)
    assert integers.tolist() == [nearest_level(v, scale, allowed) for v in values.tolist()]
    faked = fake_quantize_activations(values, torch.tensor(scale), bits, signed)
    assert torch.equal(faked, integers * torch.tensor(scale))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_no_other_step_fits_the_activations_better(bits, signed):
    values = normal(3000, seed=2)
    values = values if signed else values.relu()

    def error(step):
        return float(((quantize_activations(values, step, bits, signed) * step - values) ** 2).sum())

    ours = error(activation_scale(values, bits, signed))
    full = float(values.abs().max()) / levels(bits, signed)[1]
    assert all(ours <= 1.02 * error(full * part) for part in np.linspace(0.02, 1.1, 80))


def test_activations_that_are_all_zero_get_some_positive_step():
    assert activation_scale(torch.zeros(10), 4, False) > 0
    assert activation_scale(-torch.ones(10), 4, False) > 0


@given(st.integers(1, 8), st.booleans(), st.floats(1e-3, 1e3), st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20))
def test_fake_quantization_is_integers_times_scale(bits, signed, scale, values):
    values = torch.tensor(values, dtype=torch.float32)
    integers = quantize_activations(values, scale, bits, signed)
    low, high = levels(bits, signed)
    assert low <= integers.min() <= integers.max() <= high
    faked = fake_quantize_activations(values, torch.tensor(scale), bits, signed)
    assert torch.equal(faked, integers * torch.tensor(scale))
    again = quantize_activations(faked, scale, bits, signed)
    assert torch.equal(again, integers)  # what is quantized stays as it is


def test_gradients_pass_the_rounding_and_stop_where_activations_are_clipped():
    values = torch.tensor([-0.7, -0.2, 0.3, 3.3, 3.7, 9.0], requires_grad=True)
    upstream = torch.arange(1.0, 7.0)
    (fake_quantize_activations(values, torch.tensor(1.0), 2, False) * upstream).sum().backward()
    assert values.grad.tolist() == [0, 2, 3, 4, 0, 0]  # -0.2 rounds to 0 and 3.3 to 3: inside

    weights = normal(2, 6).requires_grad_()
    scales = weight_scales(weights, (2, 2)) / 2  # many weights are clipped
    (fake_quantize_weights(weights, scales, (2, 2)) * upstream).sum().backward()
    assert torch.equal(weights.grad, upstream.expand(2, 6))
