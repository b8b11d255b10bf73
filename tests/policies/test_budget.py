"""The budget: reading it, pricing policies, and backing off, against plain loops and a hand-worked example."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.accelerator import load_accelerator
from hardware.cost import cost_table
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import total_cost
from policies.budget import Budget, back_off, check_budget, parse_budget

FREE = np.zeros(3, dtype=bool)


def product_table(scales):
    """Cycles that are scale * weight bits * activation bits."""
    widths = np.arange(1, 9)
    return np.array(scales, dtype=float)[:, None, None] * widths[:, None] * widths


@st.composite
def tables(draw, infinite=False):
    """Any table of whole cycles, more bits not always dearer; 8/8 always finite."""
    layers = draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    table = generator.integers(1, 1000, (layers, 8, 8)).astype(float)
    if infinite:
        table[generator.random(table.shape) < 0.2] = np.inf
        table[:, 7, 7] = 500.0
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
    assert parse_budget(text) == Budget("latency", 0.6)
    assert parse_budget(str(parse_budget(text))) == Budget("latency", 0.6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.6", "expected a budget as metric=ratio, got '0.6'"),
        ("latancy=0.6", "unknown budget metric 'latancy': did you mean 'latency'"),
        ("latency=fast", "expected a number after 'latency=', got 'fast'"),
        ("latency=", "expected a number after 'latency=', got ''"),
        ("latency=0", "above 0 and at most 1, got 0"),
        ("latency=60", "above 0 and at most 1, got 60"),
        ("latency=-0.5", "above 0 and at most 1, got -0.5"),
        ("latency=nan", "above 0 and at most 1, got nan"),
    ],
)
def test_a_wrong_budget_says_what_was_expected(text, message):
    with pytest.raises(InputError) as caught:
        parse_budget(text)
    assert message in str(caught.value)


def test_a_budget_made_in_code_is_checked_too():
    with pytest.raises(InputError, match=r"at most 1, got 1\.5"):
        Budget("latency", 1.5)


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
    # From 4/4 everywhere at w*a cycles, 48 in all. The last layer goes 4/3 (44), 3/3 (41), the middle one 4/3 (37),
    # 3/3 (34); the first is pinned. Second sweep: last 3/2 (31), which meets 31.
    pinned = np.array([True, False, False])
    bits = back_off(np.full((3, 2), 4), product_table([1, 1, 1]), 31, 2, pinned)
    assert bits.tolist() == [[4, 4], [3, 3], [3, 2]]


def test_a_policy_that_fits_is_left_alone():
    given_bits = np.array([[4, 4], [8, 2], [2, 8]])
    assert back_off(given_bits, product_table([1, 1, 1]), 48, 2, FREE).tolist() == given_bits.tolist()


def test_back_off_does_not_change_its_argument():
    given_bits = np.full((3, 2), 8)
    back_off(given_bits, product_table([1, 1, 1]), 20, 2, FREE)
    assert (given_bits == 8).all()


@given(st.data(), st.integers(1, 4), st.floats(0.0, 1.2))
def test_back_off_stops_at_the_first_policy_of_haqs_sweep_that_fits(data, lowest, share):
    table = data.draw(tables(infinite=True))
    pinned = np.random.default_rng(data.draw(st.integers(0, 99))).random(len(table)) < 0.3
    bits = data.draw(policies(len(table), lowest))
    target = share * 500 * len(table)
    expected = None
    for expected in haq_sequence(bits, lowest, pinned):
        if plain_cost(expected, table) <= target:
            break
    assert back_off(bits, table, target, lowest, pinned).tolist() == expected


@given(st.data(), st.integers(1, 8))
def test_the_budget_named_as_lowest_reachable_is_reachable(data, lowest):
    table = np.sort(np.sort(data.draw(tables()), axis=1), axis=2)
    pinned = np.random.default_rng(data.draw(st.integers(0, 99))).random(len(table)) < 0.3
    with pytest.raises(InputError, match="cannot be reached") as caught:
        check_budget(Budget("latency", 1e-9), table, lowest, pinned)
    named = str(caught.value).split("lowest reachable is ")[1].split(" ")[0]
    target = check_budget(parse_budget(named), table, lowest, pinned)
    reached = back_off(np.full((len(table), 2), 8), table, target, lowest, pinned)
    assert total_cost(reached, table) <= target
    below = parse_budget(named).ratio - 0.002
    if below > 0:  # and it is no coarser than it says
        with pytest.raises(InputError, match="cannot be reached"):
            check_budget(Budget("latency", below), table, lowest, pinned)


def test_the_lowest_reachable_budget_is_rounded_up_even_where_floats_round_down():
    table = np.full((1, 8, 8), 3000.0)
    table[0, 0, 0] = 27.0
    assert 27 / 3000 * 1000 == 9
    assert 0.009 * 3000 < 27
    with pytest.raises(InputError, match=r"latency=0\.01 "):
        check_budget(Budget("latency", 0.009), table, 1, FREE[:1])
    assert check_budget(Budget("latency", 0.01), table, 1, FREE[:1]) == 30


def test_an_impossible_budget_names_the_lowest_reachable_one():
    # 64 + 2 * 64 cycles at 8 bits; 64 + 2 * 4 with the first pinned: 72 / 192 = 0.375.
    with pytest.raises(InputError) as caught:
        check_budget(Budget("latency", 0.1), product_table([1, 1, 1]), 2, np.array([True, False, False]))
    assert str(caught.value) == (
        "budget latency=0.1 cannot be reached: the lowest reachable is latency=0.375 "
        "(all free layers at 2 bits, pinned ones at 8); ask for that or more."
    )


def test_a_layer_that_does_not_fit_at_8_bits_leaves_nothing_to_take_a_share_of():
    table = product_table([1, 1, 1])
    table[1, 7, 7] = np.inf
    with pytest.raises(InputError, match="buffers are too small for 8 bits"):
        check_budget(Budget("latency", 0.5), table, 2, FREE)


def test_a_real_machines_table_is_backed_off_to_the_budget():
    layers = [Layer("a", "conv", 8, 16, 8, 8, (3, 3), (1, 1), (1, 1)), Layer("b", "linear", 128, 10)]
    table = cost_table(layers, load_accelerator("bitserial-tiny"))
    target = check_budget(Budget("latency", 0.4), table, 2, np.zeros(2, dtype=bool))
    bits = back_off(np.full((2, 2), 8), table, target, 2, np.zeros(2, dtype=bool))
    assert target == 0.4 * plain_cost([(8, 8), (8, 8)], table)
    assert plain_cost(bits.tolist(), table) <= target


@pytest.mark.parametrize(
    ("entry", "says"), [((1, 1), "no finite cost at 2 bits"), ((7, 7), "give a table of real costs")]
)
def test_a_table_without_real_costs_is_refused(entry, says):
    table = np.ones((3, 8, 8))
    table[:, *entry] = np.inf if entry == (1, 1) else 0.0
    with pytest.raises(InputError, match=says):
        check_budget(Budget("latency", 0.5), table, 2, np.zeros(3, dtype=bool))
