"""Kernel-wise prices against the schedule of every kernel's width."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import InputError
from hardware.kernel_wise import histogram, row_tiles
from hardware.layer import Layer
from hardware.oracle import Oracle
from hardware.schedule import schedule

CONV = Layer("conv", "conv", in_channels=16, out_channels=20, in_height=6, in_width=6, kernel=(3, 3), padding=(1, 1))
LINEAR = Layer("fc", "linear", in_channels=300, out_channels=11, images=6)
DEPTHWISE = Layer("dw", "conv", 150, 150, 6, 6, kernel=(3, 3), padding=(1, 1), groups=150)
LAYERS = [CONV, LINEAR, DEPTHWISE]


@pytest.fixture(scope="module")
def oracle(machine) -> Oracle:
    return Oracle(LAYERS, machine(dm=4, dn=4))


def counts_of(widths):
    return np.stack([histogram(one) for one in widths])


def random_widths(rng, layers=LAYERS):
    """Of every layer: around any mean, most kernels within two bits."""
    return [
        np.clip(np.rint(rng.normal(rng.integers(1, 8), 1, layer.out_channels)), 0, 8).astype(int) for layer in layers
    ]


def test_a_histogram_counts_kernels_of_one_policy_and_of_many():
    assert histogram([8, 0, 3, 3]).tolist() == [1, 0, 0, 2, 0, 0, 0, 0, 1]
    rng = np.random.default_rng(0)
    many = rng.integers(0, 9, (5, 2, 7))
    assert histogram(many).shape == (5, 2, 9)
    assert histogram(many)[3, 1].tolist() == np.bincount(many[3, 1], minlength=9).tolist()
    for wrong in ([4, 9], [-1, 4], [0.5, 1.0]):
        with pytest.raises(InputError, match="expected w"):
            histogram(wrong)


def test_one_width_in_every_layer_costs_what_the_table_says(oracle):
    for w, a in itertools.product(range(9), (1, 4, 8)):
        counts = counts_of([np.full(layer.out_channels, w) for layer in LAYERS])
        cost = oracle.kernel_wise_cost(counts, np.full(3, a))
        assert cost == pytest.approx(oracle.cost(np.full((3, 2), (w, a))), rel=1e-9)


def test_the_mean_over_tiles_worked_by_hand(machine):
    # Two row tiles of four, nothing else to wait for: 8 and 2 bits (a tile runs at its widest kernel).
    accelerator = machine(dm=4, dn=4)
    oracle = Oracle([Layer("fc", "linear", 640, 8, images=400)], accelerator)
    counts = histogram([8, 3, 1, 1, 1, 1, 1, 0])[None]
    table = oracle.table[0, :, 5]
    assert oracle.kernel_wise_cost(counts, np.array([6])) == (table[8] + table[1]) / 2
    assert oracle.kernel_wise_cost(histogram([8, 8, 8, 8, 8, 2, 2, 2])[None], np.array([6])) == table[8]


def test_a_batch_costs_what_its_policies_cost_alone(oracle):
    rng = np.random.default_rng(1)
    counts = np.stack([counts_of(random_widths(rng)) for _ in range(6)])
    activations = rng.integers(1, 9, (6, 3))
    costs = oracle.kernel_wise_cost(counts, activations)
    assert costs.shape == (6,)
    alone = [oracle.kernel_wise_cost(*policy) for policy in zip(counts, activations, strict=True)]
    assert costs.tolist() == alone
    assert oracle.kernel_wise_cost(counts.astype(np.int16), activations.astype(np.uint8)).tolist() == alone


@pytest.mark.parametrize("changes", [{}, {"dm": 8, "lhs_entries": 128}, {"dm": 2, "dn": 8, "dk": 128, "latency": 64}])
def test_random_policies_cost_nearly_what_their_schedules_do(machine, changes):
    oracle, rng = Oracle(LAYERS, machine(**{"dm": 4, "dn": 4} | changes)), np.random.default_rng(2)
    errors = []
    for _ in range(25):
        widths, activations = random_widths(rng), rng.integers(1, 9, 3)
        exact = oracle.exact([one.tolist() for one in widths], activations.tolist())
        errors.append(abs(oracle.kernel_wise_cost(counts_of(widths), activations) / exact - 1))
    assert np.mean(errors) < 0.03
    assert max(errors) < 0.08


def test_whether_weights_stay_is_the_whole_layers_affair(machine):
    # Four row tiles: at 4 bits 4 * (4 * 5 + 1) = 84 entries, at 2 bits 44. 64 hold a mean width of 3, not of 3.25.
    accelerator = machine(dm=4, dn=1, lhs_entries=64, rhs_entries=32, latency=0)
    oracle = Oracle([Layer("fc", "linear", 300, 16, images=40)], accelerator)
    for widths in ([4] * 8 + [2] * 8, [4] * 8 + [3] * 4 + [2] * 4):
        (work,) = schedule(oracle.layers[0], widths, 2, accelerator).passes
        exact = oracle.exact([widths], [2])
        cost = oracle.kernel_wise_cost(histogram(widths)[None], np.array([2]))
        assert work.lhs_resident == (sum(widths) <= 48)
        assert cost == pytest.approx(exact, rel=0.03)
    table = oracle.table[0, :, 1]
    assert (table[4] + table[2]) / 2 > 1.2 * oracle.exact([[4] * 8 + [2] * 8], [2])  # what the table alone would say


def test_layers_beyond_the_buffers_cost_infinitely_much(machine):
    oracle = Oracle([LINEAR], machine(dm=4, dn=4, lhs_entries=32, rhs_entries=32))  # 5 entries per bit: 6 bits at most
    fits, wide = (histogram([w] + [2] * 10)[None] for w in (6, 7))
    assert np.isfinite(oracle.kernel_wise_cost(fits, np.array([6])))
    assert np.isinf(oracle.kernel_wise_cost(wide, np.array([6])))
    assert np.isinf(oracle.kernel_wise_cost(fits, np.array([7])))


@given(kernels=st.integers(1, 40), dm=st.sampled_from([2, 4, 8]))
def test_row_tiles_of_a_layer_sorted_as_a_whole_are_counted(kernels, dm):
    tiles = row_tiles([Layer("x", "linear", 8, kernels), Layer("y", "linear", 8, 41)], dm)
    assert tiles.shape == (2, 42)
    assert tiles[0, : kernels + 1].tolist() == [math.ceil(count / dm) for count in range(kernels + 1)]


def test_row_tiles_of_a_depthwise_layer_are_the_mean_over_its_passes():
    layer, rng = DEPTHWISE, np.random.default_rng(3)
    tiles = row_tiles([layer], 4)[0]
    assert tiles[[0, 1, 150]] == pytest.approx([0, 1, 16 + 16 + 6])
    for count in (5, 40, 120):
        drawn = []
        for _ in range(3000):
            widest = rng.permutation(150) < count
            drawn.append(sum(math.ceil(widest[start : start + 64].sum() / 4) for start in (0, 64, 128)))
        assert tiles[count] == pytest.approx(np.mean(drawn), abs=5 * np.std(drawn) / math.sqrt(3000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda counts, bits: (counts[:2], bits[:2]), r"expected counts of shape \(policies, 3, 9\)"),
        (lambda counts, bits: (counts, bits[:2]), r"got \(3, 9\) and \(2,\)"),
        (lambda counts, bits: (counts[:, :8], bits), r"got \(3, 8\)"),
        (lambda counts, bits: (counts + np.eye(3, 9, dtype=int), bits), "every kernel of every layer counted once"),
        (lambda counts, bits: (counts - np.eye(3, 9, 4, dtype=int), bits), "counted once"),
        (lambda counts, bits: (counts + np.eye(3, 9) * 0.0, bits), "expected whole numbers"),
        (lambda counts, bits: (counts, bits * 0), "expected activation bits of 1 to 8"),
        (lambda counts, bits: (counts, bits + 5), "expected activation bits of 1 to 8"),
    ],
)
def test_wrong_counts_are_refused(oracle, change, message):
    counts, bits = counts_of([np.full(layer.out_channels, 4) for layer in LAYERS]), np.full(3, 4)
    with pytest.raises(InputError, match=message):
        oracle.kernel_wise_cost(*change(counts, bits))
