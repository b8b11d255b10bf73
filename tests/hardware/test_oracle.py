"""The oracle against plain loops over its table, the table against the cycle model, and HAQ's file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.cost import cost_table
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.kernel_wise import histogram
from hardware.layer import Layer
from hardware.oracle import Oracle, read_table, total_cost, write_table
from hardware.passes import Output
from hardware.schedule import schedule

PRICED = Output(plane_bits=8)
LAYERS = [
    Layer("conv", "conv", in_channels=70, out_channels=5, in_height=4, in_width=5, kernel=(3, 2), padding=(1, 0)),
    Layer("dw", "conv", 66, 66, 3, 3, kernel=(3, 3), groups=66),
    Layer("fc", "linear", in_channels=300, out_channels=10, images=6),
]


@pytest.fixture(scope="module")
def oracle(tiny) -> Oracle:
    return Oracle(LAYERS, tiny)


def haq_loop(table, policy):
    """One indexed addition per layer, as HAQ's environment does."""
    cost = 0.0
    for index, (w, a) in enumerate(policy):
        cost += table[index, w - (9 - table.shape[1]), a - 1]
    return cost


def test_the_table_holds_the_cycles_of_every_pair_of_widths_pruned_layers_included(oracle, tiny):
    assert oracle.table.shape == (3, 9, 8)
    assert oracle.lowest == 0
    for index, layer in enumerate(LAYERS):
        for w in range(9):
            for a in (1, 5, 8):
                assert oracle.table[index, w, a - 1] == layer_cycles(schedule(layer, w, a, tiny, output=PRICED))
    np.testing.assert_array_equal(oracle.table[:, 1:], cost_table(LAYERS, tiny))


@given(st.integers(0, 2**32), st.integers(1, 5), st.sampled_from([8, 9]), st.booleans())
def test_policies_cost_what_haqs_loop_says_alone_and_in_a_batch(seed, layers, rows, infinite):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 10**6, (layers, rows, 8)).astype(float)
    table[rng.random(table.shape) < 0.1 * infinite] = np.inf
    batch = np.stack([rng.integers(9 - rows, 9, (4, layers)), rng.integers(1, 9, (4, layers))], axis=-1)
    expected = [haq_loop(table, policy) for policy in batch]
    costs = total_cost(batch, table)
    assert (costs.shape, costs.dtype) == ((4,), np.float64)
    assert costs.tolist() == expected
    assert [total_cost(policy, table) for policy in batch] == expected
    assert total_cost(batch.astype(np.uint8)[::-1], table).tolist() == expected[::-1]
    assert total_cost(batch[0].tolist(), table) == expected[0]
    assert total_cost(batch[:0], table).shape == (0,)


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        (np.full((3, 2), 9), "holds widths 0 to 8 of weights and 1 to 8 of activations, got 9 to 9"),
        ([[4, 4], [4, 0], [4, 4]], "1 to 8 of activations, got 4 to 4 and 0 to 4"),
        ([[4, 4], [-1, 4], [4, 4]], "got -1 to 4"),
        (np.full((3, 2), 4.5), "expected whole numbers of bits or kernels, got float64"),
        (np.full((2, 2), 4), r"expected policies of shape \(policies, 3, 2\), got \(2, 2\)"),
        (np.full((3, 3), 4), r"got \(3, 3\)"),
        (np.full((1, 1, 3, 2), 4), r"got \(1, 1, 3, 2\)"),
        (4, r"got \(1,\)"),
    ],
)
def test_policies_that_the_table_cannot_price_are_refused(oracle, policies, message):
    with pytest.raises(InputError, match=message):
        oracle.cost(policies)


def test_latency_is_cycles_over_the_assumed_clock(oracle, machine):
    policies = np.full((2, 3, 2), 4)
    assert oracle.clock == "assumed"
    assert oracle.latency(policies).tolist() == (oracle.cost(policies) / 100e6).tolist()
    assert Oracle(LAYERS[2:], machine(clock_mhz=50)).latency(policies[0, 2:]) == oracle.table[2, 4, 3] / 50e6


def test_energy_is_the_sum_of_a_table_of_joules_and_refused_without_one(oracle, tiny):
    rng = np.random.default_rng(1)
    joules = rng.random((3, 9, 8))
    priced = Oracle(LAYERS, tiny, oracle.table, joules)
    policies = np.stack([rng.integers(0, 9, (5, 3)), rng.integers(1, 9, (5, 3))], axis=-1)
    expected = [haq_loop(joules, policy) for policy in policies]
    assert priced.energy(policies).tolist() == expected
    assert priced.energy(policies[0]) == expected[0]
    assert priced.cost(policies).tolist() == oracle.cost(policies).tolist()
    with pytest.raises(InputError, match="holds no energies: make it with energy="):
        oracle.energy(policies)
    with pytest.raises(InputError, match=r"expected a cost table of shape \(3, 8, 8\).*got \(2, 9, 8\)"):
        Oracle(LAYERS, tiny, oracle.table, joules[:2])


def test_kernel_wise_energy_is_the_mean_over_kernels(oracle, tiny):
    rng = np.random.default_rng(2)
    joules = rng.random((3, 9, 8))
    joules[0, 7:] = np.inf  # of which no kernel below has any
    priced = Oracle(LAYERS, tiny, oracle.table, joules)
    widths = [[rng.integers(0, 7, layer.out_channels) for layer in LAYERS] for _ in range(4)]
    counts = np.stack([np.stack([histogram(one) for one in policy]) for policy in widths])
    activations = rng.integers(1, 9, (4, 3))
    expected = [
        sum(np.mean([joules[i, w, a[i] - 1] for w in policy[i]]) for i in range(3))
        for policy, a in zip(widths, activations, strict=True)
    ]
    np.testing.assert_allclose(priced.kernel_wise_energy(counts, activations), expected)
    assert priced.kernel_wise_energy(counts[0], activations[0]) == pytest.approx(expected[0])
    for layer in range(3):
        counts[:, layer] = 0
        counts[:, layer, 8 - layer] = LAYERS[layer].out_channels
    assert np.isinf(priced.kernel_wise_energy(counts, activations)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({(0, 4): 6}, "every kernel of every layer counted once"),
        ({(0, 4): 4}, "every kernel of every layer counted once"),
        ({(0, 4): 6, (0, 5): -1}, "every kernel of every layer counted once"),
        ({(0, 4): 4, (0, 0): 1}, "none with less than 1 bits"),
    ],
)
def test_counts_that_are_not_the_layers_kernels_are_refused(tiny, oracle, change, message):
    priced = Oracle(LAYERS, tiny, oracle.table, np.ones((3, 8, 8)))
    counts = np.zeros((3, 9), dtype=int)
    counts[:, 4] = [layer.out_channels for layer in LAYERS]
    assert priced.kernel_wise_energy(counts, np.array([1, 8, 4])) == 3
    for activations in ([0, 8, 4], [1, 9, 4]):
        with pytest.raises(InputError, match="expected activation bits of 1 to 8"):
            priced.kernel_wise_energy(counts, np.array(activations))
    with pytest.raises(InputError, match=r"got \(2, 9\) and \(3,\)"):
        priced.kernel_wise_energy(counts[:2], np.ones(3, dtype=int))
    with pytest.raises(InputError, match="holds no energies"):
        oracle.kernel_wise_energy(counts, np.ones(3, dtype=int))
    for place, count in change.items():
        counts[place] = count
    with pytest.raises(InputError, match=message):
        priced.kernel_wise_energy(counts, np.ones(3, dtype=int))


def test_the_exact_price_is_the_schedules_kernel_by_kernel(oracle, tiny):
    widths = [8, 0, 3, 3, 1], [w % 9 for w in range(66)], 4
    expected = sum(
        layer_cycles(schedule(layer, w, a, tiny, output=PRICED))
        for layer, w, a in zip(LAYERS, widths, [3, 4, 5], strict=True)
    )
    assert oracle.exact(widths, [3, 4, 5]) == expected
    assert oracle.exact([3, 0, 4], [3, 4, 5]) == oracle.cost([[3, 3], [0, 4], [4, 5]])
    with pytest.raises(InputError, match="expected weight and activation bits of 3 layers, got 2 and 3"):
        oracle.exact([1, 2], [3, 4, 5])


def test_what_the_buffers_cannot_hold_is_infinite_and_a_layer_that_never_fits_is_refused(machine):
    small = machine(lhs_entries=32, rhs_entries=16)  # 300 inputs are 5 entries per bit
    table = Oracle(LAYERS[2:], small).table[0]
    w, a = np.indices((9, 8)) + np.array([0, 1])[:, None, None]
    assert (np.isinf(table) == ((5 * w > 32) | (5 * a > 16))).all()
    with pytest.raises(InputError, match="'wide' needs"):
        Oracle([Layer("wide", "linear", 64 * 17, 4)], machine(lhs_entries=16, rhs_entries=4096))


def test_haqs_file_holds_8_by_8_cycles_and_prices_the_same_policies(oracle, tiny, tmp_path):
    oracle.save(tmp_path / "haq.npy")
    stored = np.load(tmp_path / "haq.npy")
    assert (stored.shape, stored.dtype) == ((3, 8, 8), np.float64)
    np.testing.assert_array_equal(stored, cost_table(LAYERS, tiny))
    theirs = Oracle.from_table(tmp_path / "haq.npy", LAYERS, tiny)
    policies = np.random.default_rng(0).integers(1, 9, (20, 3, 2))
    assert theirs.cost(policies).tolist() == oracle.cost(policies).tolist()
    assert theirs.lowest == 1
    with pytest.raises(InputError, match="holds widths 1 to 8 of weights"):
        theirs.cost([[4, 4], [0, 4], [4, 4]])
    with pytest.raises(InputError, match="does not tell what row tiles cost"):
        theirs.kernel_wise_cost(np.zeros((3, 9), dtype=int), np.ones(3, dtype=int))


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.float32])
def test_a_table_of_other_numbers_is_read_as_float64(dtype, tmp_path):
    table = np.arange(128).reshape(2, 8, 8)
    np.save(tmp_path / "table.npy", np.asfortranarray(table.astype(dtype)))
    read = read_table(tmp_path / "table.npy", 2)
    assert read.dtype == np.float64
    assert read.tolist() == table.tolist()


def test_infinite_entries_are_read_back_because_we_write_them(tmp_path):
    table = np.full((1, 8, 8), np.inf)
    table[0, :2] = 5.0
    write_table(tmp_path / "table.npy", table)
    assert read_table(tmp_path / "table.npy", 1).tolist() == table.tolist()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.ones((3, 8, 8)), r"expected a cost table of shape \(2, 8, 8\).*got \(3, 8, 8\): use the table of this"),
        (np.ones((2, 9, 8)), r"got \(2, 9, 8\)"),
        (np.ones(128), r"got \(128,\)"),
        (np.full((2, 8, 8), "4"), "expected a cost table of integers or floats, got <U1"),
        (np.ones((2, 8, 8), dtype=complex), "got complex128"),
        (np.where(np.arange(128).reshape(2, 8, 8) == 77, -1, 1), r"got -1 in layer 1 at index \[1, 5\]"),
        (np.where(np.arange(128).reshape(2, 8, 8) == 3, np.nan, 1), r"got nan in layer 0 at index \[0, 3\]"),
        (np.full((2, 8, 8), -np.inf), "got -inf"),
        (np.full((2, 8, 8), None), "is no .npy file of numbers"),
    ],
)
def test_a_wrong_table_is_refused_by_its_files_name(table, message, tmp_path):
    np.save(tmp_path / "wrong.npy", table)
    with pytest.raises(InputError, match=message) as caught:
        read_table(tmp_path / "wrong.npy", 2)
    assert "wrong.npy" in str(caught.value)


def test_no_file_and_no_table_are_refused(tmp_path):
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "two.npz", a=np.ones(3))
    for name, message in [
        ("none.npy", "cannot read .*none.npy: No such file"),
        ("text.npy", "text.npy is no .npy file"),
        ("empty.npy", "empty.npy is no .npy file"),
        ("two.npz", "two.npz is no .npy file"),
    ]:
        with pytest.raises(InputError, match=message):
            read_table(tmp_path / name, 2)


def test_a_layer_that_runs_several_times_costs_as_many_times(tiny):
    layer = Layer("l", "linear", 64, 20)
    once, thrice = Oracle([layer], tiny), Oracle([Layer("l", "linear", 64, 20, repeats=3)], tiny)
    np.testing.assert_array_equal(thrice.table, 3 * once.table)
    assert thrice.exact([3], [5]) == 3 * once.exact([3], [5]) == thrice.cost(np.array([[3, 5]]))
    counts = histogram(np.array([[3] * 10 + [5] * 10]))
    bits = np.array([4])
    assert thrice.kernel_wise_cost(counts, bits) == pytest.approx(3 * once.kernel_wise_cost(counts, bits))


def test_an_array_of_one_width_per_layer_prices_layers_not_kernels(machine):
    layers = [Layer("fc", "linear", in_channels=100, out_channels=6, images=3)]
    oracle = Oracle(layers, machine(kind="bit_fusion"))
    assert oracle.cost(np.array([[3, 5]])) == oracle.cost(np.array([[4, 8]]))
    assert oracle.cost(np.array([[3, 5]])) < oracle.cost(np.array([[5, 5]]))
    mixed = oracle.exact([(0, 1, 2, 3, 3, 1)], [5])
    assert mixed == oracle.exact([4], [8])
    with pytest.raises(InputError, match="variant computes all kernels of a layer at the widest one's bits"):
        oracle.kernel_wise_cost(np.array([[0, 0, 3, 3, 0, 0, 0, 0, 0]]), np.array([5]))
