"""Budgets: reading them, pricing policies, and backing off, against plain loops and a hand-worked example."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from hardware.sums import total_cost
from policies.budget import Budget, Limits, parse_budgets
from policies.costs import Costs
from policies.space import Space


def product_table(scales):
    """Cycles that are scale * weight bits * activation bits."""
    widths = np.arange(1, 9)
    return np.array(scales, dtype=float)[:, None, None] * widths[:, None] * widths


def limits(table, ratio=1.0, lowest=2, pin_ends=False, text=None):
    """Limits of a network of linear layers that costs this table."""
    layers = [Layer(f"l{index}", "linear", 8, 4 + index) for index in range(len(table))]
    widths = range(lowest, 9)
    space = Space("net", layers, weight_widths=widths, activation_widths=widths, pin_ends=pin_ends)
    costs = Costs(space, Oracle(layers, load_accelerator("bitserial-tiny"), np.asarray(table, dtype=float)))
    return Limits(parse_budgets(text) if text else (Budget((("latency", 1.0),), ratio),), costs)


@st.composite
def tables(draw, infinite=False):
    """Any table of whole cycles, more bits not always dearer; 8/8 always finite."""
    layers = draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    table = generator.integers(1, 1000, (layers, 8, 8)).astype(float)
    if infinite:
        table[generator.random(table.shape) < 0.2] = np.inf
        table[:, 7, 7] = 500.0
        table[:, :4, :4][np.isinf(table[:, :4, :4])] = 300.0  # lowest widths run
    return table


def policies(layers, lowest=1):
    return st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).integers(lowest, 9, (layers, 2)))


def haq_sequence(bits, lowest, pinned):
    """Every policy that HAQ's sweep goes through, from ``bits`` to all free layers at ``lowest``."""
    bits = [list(pair) for pair in bits.tolist()]
    yield bits
    for _ in range(8):
        for layer in range(len(bits) - 1, -1, -1):
            for operand in (1, 0):
                if not pinned[layer] and bits[layer][operand] > lowest:
                    bits[layer][operand] -= 1
                    yield bits


def plain_cost(bits, table):
    return sum(table[layer][w - 1][a - 1] for layer, (w, a) in enumerate(bits))


@pytest.mark.parametrize("text", ["latency=0.6", " latency = 0.60 ", "latency=6e-1"])
def test_a_budget_is_read(text):
    (budget,) = parse_budgets(text)
    assert budget == Budget((("latency", 1.0),), 0.6)
    assert parse_budgets(str(budget)) == (budget,)


def test_mixes_and_several_budgets_and_none_are_read():
    assert parse_budgets("none") == ()
    both = parse_budgets("latency=0.6, 0.25*size + 0.75*bits = 0.4")
    assert [budget.shares for budget in both] == [(("latency", 1.0),), (("size", 0.25), ("bits", 0.75))]
    assert parse_budgets(",".join(map(str, both))) == both


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.6", "expected a budget as metric=ratio, got '0.6'"),
        ("", "expected a budget as metric=ratio, got ''"),
        ("latancy=0.6", "unknown budget metric 'latancy': did you mean 'latency'"),
        ("0.5*latancy=0.6", "unknown budget metric 'latancy': did you mean 'latency'"),
        ("latency=fast", "expected a number for 'latency', got 'fast'"),
        ("latency=", "expected a number for 'latency', got ''"),
        ("half*latency=0.6", "expected a number for 'latency', got 'half'"),
        ("-1*latency=0.6", "the share of latency in a budget is above 0, got -1"),
        ("latency=0", "above 0 and at most 1, got 0"),
        ("latency=60", "above 0 and at most 1, got 60"),
        ("latency=-0.5", "above 0 and at most 1, got -0.5"),
        ("latency=nan", "above 0 and at most 1, got nan"),
    ],
)
def test_a_wrong_budget_says_what_was_expected(text, message):
    with pytest.raises(InputError) as caught:
        parse_budgets(text)
    assert message in str(caught.value)


def test_a_budget_made_in_code_is_checked_too():
    with pytest.raises(InputError, match=r"at most 1, got 1\.5"):
        Budget((("latency", 1.0),), 1.5)


@given(st.data())
def test_a_policy_costs_the_sum_of_its_layers_alone_and_in_a_batch(data):
    table = data.draw(tables(infinite=True))
    batch = np.stack([data.draw(policies(len(table))) for _ in range(4)])
    expected = [plain_cost(bits, table) for bits in batch]
    assert total_cost(batch, table).tolist() == expected
    assert [float(total_cost(bits, table)) for bits in batch] == expected


@pytest.mark.parametrize("wrong", [0, 9])
def test_widths_outside_the_table_are_refused(wrong):
    with pytest.raises(InputError, match="widths 1 to 8"):
        total_cost(np.array([[8, 8], [wrong, 8], [8, 8]]), product_table([1, 1, 1]))


def test_the_sweep_worked_by_hand():
    # From 4/4 everywhere at w*a cycles. The last layer is pinned at 64, so is the first; between them the last free
    # layer goes 4/3 (28), 3/3 (25), the one before 4/3 (21), 3/3 (18). Second sweep: last 3/2 (15), which meets 15.
    there = limits(product_table([1, 1, 1, 1]), (128 + 15) / 256, pin_ends=True)
    bits = there.back_off(np.array([8, 8, 4, 4, 4, 4, 8, 8]))
    assert bits.tolist() == [8, 8, 3, 3, 3, 2, 8, 8]


def test_a_policy_that_fits_is_left_alone():
    given_bits = np.array([4, 4, 8, 2, 2, 8])
    assert limits(product_table([1, 1, 1]), 48 / 192).back_off(given_bits).tolist() == given_bits.tolist()


def test_back_off_does_not_change_its_argument():
    given_bits = np.full(6, 8)
    limits(product_table([1, 1, 1]), 20 / 192).back_off(given_bits)
    assert (given_bits == 8).all()


@given(st.data(), st.integers(1, 4), st.floats(0.01, 1.0), st.booleans())
def test_back_off_stops_at_the_first_policy_of_haqs_sweep_that_fits(data, lowest, share, pin_ends):
    table = data.draw(tables(infinite=True))
    pinned = [pin_ends and layer in (0, len(table) - 1) for layer in range(len(table))]
    bits = data.draw(policies(len(table), lowest))
    bits[pinned] = 8
    try:
        there = limits(table, share, lowest, pin_ends)
    except InputError:  # not reachable
        return
    full = plain_cost([(8, 8)] * len(table), table)
    expected = None
    for expected in haq_sequence(bits, lowest, pinned):
        if plain_cost(expected, table) / full / share <= 1:
            break
    assert there.back_off(bits.reshape(-1)).reshape(-1, 2).tolist() == expected


def test_all_of_several_budgets_are_met_and_the_tightest_is_told():
    there = limits(product_table([1, 3, 1]), text="latency=0.5,bits=0.5")
    found = there.back_off(np.full(6, 8))
    ratios = there.costs.ratios(found)
    assert max(ratios["latency"], ratios["bits"]) <= 0.5
    assert there.used(found) == max(ratios["latency"], ratios["bits"]) / 0.5
    # Activation bits cost no weight bits: alone, the second budget would have left more latency.
    assert ratios["bits"] == np.mean(found[::2]) / 8


def test_a_mix_limits_the_weighted_sum():
    there = limits(product_table([1, 1]), text="0.25*latency+0.75*bits=0.5")
    vector = np.array([4, 8, 4, 8])
    assert there.used(vector) == pytest.approx((0.25 * 0.5 + 0.75 * 0.5) / 0.5)


def test_without_a_budget_all_that_runs_fits():
    table = product_table([1, 1])
    table[0, 6, :] = np.inf
    there = limits(table, text="none")
    assert there.used(np.array([[8, 8, 8, 8], [7, 8, 8, 8]])).tolist() == [0, math.inf]
    assert there.back_off(np.array([7, 8, 8, 8])).tolist() == [6, 7, 7, 7]


@given(st.data(), st.integers(1, 7))
def test_the_budget_named_as_lowest_reachable_is_reachable(data, lowest):
    table = np.sort(np.sort(data.draw(tables()), axis=1), axis=2)
    with pytest.raises(InputError, match="cannot be reached") as caught:
        limits(table, 1e-9, lowest)
    named = str(caught.value).split("lowest reachable is ")[1].split(" ")[0]
    there = limits(table, lowest=lowest, text=named)
    assert there.used(there.back_off(np.full(2 * len(table), 8))) <= 1
    below = parse_budgets(named)[0].ratio - 0.002
    if below > 0:  # and it is no coarser than it says
        with pytest.raises(InputError, match="cannot be reached"):
            limits(table, below, lowest)


def test_an_impossible_budget_names_the_lowest_reachable_one():
    # 64 cycles per layer at 8 bits; with both ends pinned 64 + 4 + 64 of 192: 0.6875.
    with pytest.raises(InputError) as caught:
        limits(product_table([1, 1, 1]), 0.1, pin_ends=True)
    assert str(caught.value) == (
        "budget latency=0.1 cannot be reached: the lowest reachable is latency=0.688 "
        "(every variable at its lowest bits, pinned layers at 8); ask for that or more."
    )


def test_a_layer_that_does_not_fit_at_8_bits_leaves_nothing_to_take_a_share_of():
    table = product_table([1, 1, 1])
    table[1, 7, 7] = np.inf
    with pytest.raises(InputError, match="buffers are too small for 8 bits"):
        limits(table, 0.5)


def test_a_real_machines_table_is_backed_off_to_the_budget():
    layers = [Layer("a", "conv", 8, 16, 8, 8, (3, 3), (1, 1), (1, 1)), Layer("b", "linear", 128, 10)]
    costs = Costs(Space("net", layers), Oracle(layers, load_accelerator("bitserial-tiny")))
    bits = Limits(parse_budgets("latency=0.4"), costs).back_off(np.full(4, 8))
    table = costs.oracle.table
    full = table[0, 8, 7] + table[1, 8, 7]
    assert table[0, bits[0], bits[1] - 1] + table[1, bits[2], bits[3] - 1] <= 0.4 * full


@pytest.mark.parametrize(
    ("entry", "says"), [((1, 1), "no finite cost at its lowest bits"), ((7, 7), "give a table of real costs")]
)
def test_a_table_without_real_costs_is_refused(entry, says):
    table = np.ones((3, 8, 8))
    table[:, *entry] = np.inf if entry == (1, 1) else 0.0
    with pytest.raises(InputError, match=says):
        limits(table, 0.5)


def test_a_budget_on_energy_needs_energies():
    with pytest.raises(InputError, match="no energies are known for this accelerator"):
        limits(product_table([1]), text="energy=0.5")
