"""WRPN's and DoReFa's quantizers against their formulas in NumPy, and what a bit-serial machine needs for them."""

import itertools

import numpy as np
import pytest
import torch

from hardware.errors import InputError
from policies.weight_quantizers import dorefa_integers, fake_dorefa, fake_wrpn, wrpn_integers


def weights(*shape, seed=0, spread=0.6):
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(values):
    return np.floor(values + 0.5)


def numpy_wrpn(values, bits):
    steps = 2 ** (bits - 1) - 1
    return rounded(np.clip(values, -1, 1) * steps) / steps


def numpy_dorefa(values, bits):
    steps = 2**bits - 1
    squashed = np.tanh(values)
    return 2 * rounded((squashed / (2 * np.abs(squashed).max()) + 0.5) * steps) / steps - 1


@pytest.mark.parametrize("bits", range(2, 9))
def test_wrpn_is_its_formula(bits):
    values = weights(6, 5, 3, 3, seed=bits)
    assert (values.abs() > 1).any()  # some are clipped
    np.testing.assert_allclose(fake_wrpn(values, bits), numpy_wrpn(values.double().numpy(), bits), atol=1e-6)


@pytest.mark.parametrize("bits", range(1, 9))
def test_dorefa_is_its_formula(bits):
    values = weights(6, 5, 3, 3, seed=bits, spread=0.05)
    np.testing.assert_allclose(fake_dorefa(values, bits), numpy_dorefa(values.double().numpy(), bits), atol=1e-6)


def test_by_hand():
    values = torch.tensor([-2.0, -0.5, -0.1, 0.0, 0.2, 0.5, 0.9])
    assert fake_wrpn(values, 2).tolist() == [-1, 0, 0, 0, 0, 1, 1]  # half up
    # tanh: -.964 -.462 -.100 0 .197 .462 .716, over .964: -1 -.479 -.103 0 .205 .479 .743; levels -1 -1/3 1/3 1
    assert dorefa_integers(values, 2)[0].tolist() == [-3, -1, -1, 1, 1, 1, 3]
    assert fake_dorefa(values, 1).tolist() == [-1, -1, -1, 1, 1, 1, 1]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("integers_of", "fake"), [(wrpn_integers, fake_wrpn), (dorefa_integers, fake_dorefa)])
def test_fake_quantization_is_integers_times_scale(integers_of, fake, bits):
    values = weights(4, 50, seed=bits)
    integers, scale = integers_of(values, bits)
    assert integers.dtype == torch.int64
    assert integers.shape == values.shape
    assert torch.equal(integers * scale, fake(values, bits))


@pytest.mark.parametrize("bits", range(2, 9))
def test_wrpns_integers_fill_symmetric_twos_complement(bits):
    integers, scale = wrpn_integers(torch.linspace(-1.5, 1.5, 5000), bits)
    high = 2 ** (bits - 1) - 1
    assert sorted(set(integers.tolist())) == list(range(-high, high + 1))
    assert scale == 1 / high


@pytest.mark.parametrize("bits", range(1, 9))
def test_dorefas_integers_are_what_bipolar_planes_hold(bits):
    integers, scale = dorefa_integers(torch.linspace(-1.5, 1.5, 20000), bits)
    sums = {sum(sign << plane for plane, sign in enumerate(signs)) for signs in itertools.product((-1, 1), repeat=bits)}
    assert set(integers.tolist()) == sums
    assert max(sums) < 2**bits  # so bits + 1 planes of two's complement hold them, and bits do not
    assert max(sums) >= 2 ** (bits - 1)
    assert scale == 1 / (2**bits - 1)


def test_wrpns_gradient_ends_where_weights_are_clipped():
    values = torch.tensor([-1.5, -0.7, 0.1, 0.8, 1.2], requires_grad=True)
    (fake_wrpn(values, 3) * torch.arange(1.0, 6.0)).sum().backward()
    assert torch.allclose(values.grad, torch.tensor([0.0, 2.0, 3.0, 4.0, 0.0]))


def test_dorefas_gradient_is_that_of_the_formula_without_rounding():
    values = weights(20).requires_grad_()
    upstream = torch.arange(20.0)
    (fake_dorefa(values, 2) * upstream).sum().backward()
    smooth = values.detach().clone().requires_grad_()
    squashed = torch.tanh(smooth)
    (squashed / squashed.abs().max() * upstream).sum().backward()
    torch.testing.assert_close(values.grad, smooth.grad)


def test_weights_that_are_all_zero_stay_finite():
    zeros = torch.zeros(4, requires_grad=True)
    assert not fake_wrpn(zeros, 4).any()
    quantized = fake_dorefa(zeros, 4)
    assert torch.allclose(quantized, torch.full((4,), 1 / 15))
    quantized.sum().backward()
    assert torch.isfinite(zeros.grad).all()


@pytest.mark.parametrize(("fake", "bits", "lowest"), [(fake_wrpn, 1, 2), (fake_wrpn, 9, 2), (fake_dorefa, 0, 1)])
def test_bits_out_of_range_are_refused(fake, bits, lowest):
    with pytest.raises(InputError, match=f"expected {lowest} to 8 weight bits for this quantizer, got {bits}"):
        fake(torch.ones(3), bits)
