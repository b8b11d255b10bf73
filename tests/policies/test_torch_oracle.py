"""The differentiable oracle against the table, against NumPy's interpolation, and its gradients numerically."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle, total_cost
from policies.torch_oracle import TorchOracle


def random_table(seed, layers=3, rows=9):
    return np.random.default_rng(seed).integers(0, 10**6, (layers, rows, 8)).astype(float)


def real_bits(rng, low, shape):
    """Real and whole widths, both ends included."""
    bits = rng.uniform(low, 8, shape)
    return np.where(rng.random(shape) < 0.4, np.rint(bits), bits)


def numpy_cost(table, weight_bits, activation_bits):
    """One layer after the other: along activations at every weight width, then along weights."""
    lowest = 9 - table.shape[1]
    return sum(
        np.interp(w, range(lowest, 9), [np.interp(a, range(1, 9), row) for row in layer])
        for layer, w, a in zip(table, weight_bits, activation_bits, strict=True)
    )


@given(seed=st.integers(0, 2**32), rows=st.sampled_from([8, 9]), batch=st.sampled_from([(), (4,), (2, 3)]))
def test_it_interpolates_as_numpy_does(seed, rows, batch):
    rng, table = np.random.default_rng(seed), random_table(seed, rows=rows)
    w, a = real_bits(rng, 9 - rows, (*batch, 3)), real_bits(rng, 1, (*batch, 3))
    cycles = TorchOracle(table)(torch.tensor(w), torch.tensor(a))
    assert cycles.shape == batch
    assert cycles.dtype == torch.float64
    expected = [numpy_cost(table, *pair) for pair in zip(w.reshape(-1, 3), a.reshape(-1, 3), strict=True)]
    np.testing.assert_allclose(cycles.numpy().ravel(), expected, rtol=1e-12)


@given(seed=st.integers(0, 2**32), rows=st.sampled_from([8, 9]))
def test_at_whole_bits_it_is_the_oracle_to_the_cycle(seed, rows):
    rng, table = np.random.default_rng(seed), random_table(seed, rows=rows)
    policies = np.stack([rng.integers(9 - rows, 9, (5, 3)), rng.integers(1, 9, (5, 3))], axis=-1)
    w, a = torch.tensor(policies, dtype=torch.float32).unbind(-1)
    assert TorchOracle(table)(w, a).tolist() == total_cost(policies, table).tolist()


def test_a_machines_table_prices_pruned_layers_and_halves_of_bits(tiny):
    oracle = Oracle([Layer("fc", "linear", 70, 10, images=3)], tiny)
    price = TorchOracle(oracle.table)
    assert price(torch.tensor([0.0]), torch.tensor([8.0])).item() == oracle.cost(np.array([[0, 8]]))
    half = price(torch.tensor([3.5]), torch.tensor([2.0])).item()
    assert half == (oracle.cost(np.array([[3, 2]])) + oracle.cost(np.array([[4, 2]]))) / 2


@given(seed=st.integers(0, 2**32))
def test_gradients_are_numerically_right_between_whole_bits(seed):
    rng, table = np.random.default_rng(seed), random_table(seed) / 1e5
    w, a = (
        torch.tensor(rng.integers(low, 8, (2, 3)) + rng.uniform(0.05, 0.95, (2, 3)), requires_grad=True)
        for low in (0, 1)
    )
    assert torch.autograd.gradcheck(TorchOracle(table), (w, a))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_whole_bits_look_upwards_and_at_8_bits_downwards(dtype):
    table = random_table(5, layers=4)
    w = torch.tensor([0, 3, 8, 5], dtype=dtype, requires_grad=True)
    a = torch.tensor([1, 8, 4, 2], dtype=dtype, requires_grad=True)
    TorchOracle(table)(w, a).backward()
    upper, lower = (table[range(4), wide, [0, 7, 3, 1]] for wide in ([1, 4, 8, 6], [0, 3, 7, 5]))
    assert w.grad.tolist() == (upper - lower).tolist()
    upper, lower = (table[range(4), [0, 3, 8, 5], deep] for deep in ([1, 7, 4, 2], [0, 6, 3, 1]))
    assert a.grad.tolist() == (upper - lower).tolist()


def test_descent_reaches_a_target_that_it_is_asked_for(tiny):
    oracle = Oracle([Layer("a", "linear", 128, 8, images=4), Layer("b", "linear", 64, 4, images=4)], tiny)
    price, target = TorchOracle(oracle.table), 0.5 * oracle.cost(np.full((2, 2), 8))
    w, a = torch.full((2,), 8.0, requires_grad=True), torch.full((2,), 8.0, requires_grad=True)
    for _ in range(200):
        cost = price(w, a)
        if cost <= target:
            break
        for bits, slope, low in zip((w, a), torch.autograd.grad(cost, (w, a)), (0, 1), strict=True):
            with torch.no_grad():
                bits.sub_(0.1 * slope / slope.abs().max()).clamp_(low, 8)
    assert price(w, a) <= target


@pytest.mark.parametrize(
    ("weights", "activations", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"of one shape \(\.\.\., 3\), got \(2,\) and \(3,\)"),
        ([[1.0, 2.0]], [[1.0, 2.0]], r"got \(1, 2\)"),
        ([1.0, 2.0, 8.01], [1.0, 2.0, 3.0], "expected weight bits from 0 to 8, got 1 to 8.01"),
        ([-0.1, 2.0, 8.0], [1.0, 2.0, 3.0], "got -0.1 to 8"),
        ([0.0, 2.0, 8.0], [0.9, 2.0, 3.0], "expected activation bits from 1 to 8, got 0.9"),
        ([float("nan"), 2.0, 8.0], [1.0, 2.0, 3.0], "got nan"),
    ],
)
def test_bits_that_no_table_holds_are_refused(weights, activations, message):
    with pytest.raises(InputError, match=message):
        TorchOracle(random_table(1))(torch.tensor(weights), torch.tensor(activations))


def test_haqs_table_has_no_pruned_layers():
    with pytest.raises(InputError, match=r"expected weight bits from 1 to 8, got 0\.5"):
        TorchOracle(random_table(1, rows=8))(torch.full((3,), 0.5), torch.full((3,), 2.0))


def test_a_layer_that_does_not_always_fit_has_no_gradient():
    table = random_table(1)
    table[1, 8, 7] = np.inf
    with pytest.raises(InputError, match="layer 1 does not fit"):
        TorchOracle(table)
