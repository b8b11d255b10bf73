"""Codebooks: few values, near the weights, kept while training."""

import pytest
import torch

from hardware.errors import InputError
from policies.codebook import Codebook


def weights(count=4000, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).reshape(-1, 10, 2)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_layer_has_so_many_values_and_each_is_its_clusters_mean(bits):
    float_weights = weights()
    shared = float_weights.clone()
    codebook = Codebook(float_weights, bits)
    codebook.project(shared)
    assert len(shared.unique()) == codebook.size == 2**bits
    for value in shared.unique():
        assert float_weights[shared == value].mean() == pytest.approx(float(value), abs=1e-6)
    again = shared.clone()
    codebook.project(again)
    assert torch.equal(again, shared)


def test_more_bits_are_nearer_and_better_than_even_steps():
    float_weights, errors = weights(), []
    for bits in (2, 3, 4):
        shared = float_weights.clone()
        Codebook(float_weights, bits).project(shared)
        errors.append(float((shared - float_weights).square().mean()))
        step = 2 * float_weights.abs().max() / (2**bits - 1)
        even = (torch.floor(float_weights / step) + 0.5) * step
        assert errors[-1] < float((even - float_weights).square().mean())
    assert errors == sorted(errors, reverse=True)


def test_few_different_weights_are_kept_as_they_are():
    few = torch.tensor([0.5, -1.0, 0.5, 3.0])
    shared = few.clone()
    Codebook(few, 2).project(shared)
    assert torch.equal(shared, few)


def test_clusters_move_with_their_weights_and_the_seed_decides():
    float_weights = weights()
    codebook, moved = Codebook(float_weights, 3), float_weights + 0.25
    before = float_weights.clone()
    codebook.project(before)
    codebook.project(moved)
    assert torch.allclose(moved, before + 0.25, atol=1e-6)
    assert torch.equal(Codebook(float_weights, 3).labels, codebook.labels)


@pytest.mark.parametrize("bits", [0, 9])
def test_other_widths_are_refused(bits):
    with pytest.raises(InputError, match=f"codebooks of 1 to 8 bits, got {bits}"):
        Codebook(weights(), bits)
