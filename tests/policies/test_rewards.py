"""The papers' rewards against figures worked out by hand and on rows of ReLeQ's own table."""

import math
from dataclasses import replace

import pytest

from hardware.errors import InputError
from policies.rewards import REWARDS, Releq, ReleqGrid, make_reward

LENET = {
    (2, 2, 2, 2): 11.4333,
    (2, 2, 2, 3): 9.5667,
    (3, 2, 2, 2): 10.8167,
    (2, 3, 2, 2): 88.9333,
    (2, 2, 3, 2): 93.9167,
    (3, 3, 2, 2): 95.05,
    (2, 2, 4, 2): 97.55,
    (2, 3, 2, 3): 97.9667,
    (2, 3, 3, 2): 98.6,
    (2, 2, 3, 3): 98.65,
    (3, 3, 3, 3): 99.0,
    (2, 3, 3, 4): 99.4,
    (4, 4, 4, 4): 99.5,
    (5, 5, 5, 5): 99.25,
    (8, 8, 8, 8): 99.5333,
}
"""LeNet's top-1 accuracy in percent by the weight bits of its four layers: rows of he-actlab/releq (Apache-2.0)."""
REFERENCE = 0.998
"""Its accuracy before quantization in ReLeQ's code."""


def on_lenet(reward):
    """Policies and what they are worth, the best first."""
    worth = {
        bits: reward(accuracy / 100, REFERENCE, {"bits": sum(bits) / 32, "quantization": math.nan})
        for bits, accuracy in LENET.items()
    }
    return sorted(worth.items(), key=lambda item: -item[1])


def best_three(reward):
    return [(bits, round(worth, 4)) for bits, worth in on_lenet(reward)[:3]]


def test_haqs_reward_is_a_tenth_of_the_change_in_percentage_points():
    assert REWARDS["haq"](0.625, 0.9, {}) == pytest.approx(-2.75)


def test_releqs_reward_by_hand():
    # (1 - .5^.2) * .9^(.4 / .9) = (1 - .870551) * .954261
    assert Releq()(0.45, 0.5, {"bits": 0.5}) == pytest.approx(0.123528, abs=1e-6)
    # x = .5 - .25, (1 - .25^.6) * .9^(3 / .9) = (1 - .435275) * .703852, stretched
    assert REWARDS["releq-lenet"](0.45, 0.5, {"bits": 0.5}) == pytest.approx(2 * (0.397484 - 0.5), abs=1e-4)


def test_releqs_reward_ends_at_the_margin():
    for name, margin in [("releq", 0.4), ("releq-lenet", 0.8), ("releq-cifar", 0.1), ("releq-mobilenet", 0.7)]:
        reward = make_reward(name)
        assert reward(0.99 * margin, 1.0, {"bits": 0.25}) == -1
        assert reward(1.01 * margin, 1.0, {"bits": 0.25}) > -1
    assert make_reward("releq-lstm") == replace(make_reward("releq-mobilenet"), margin=0.6)


def test_releqs_reward_prefers_fewer_bits_and_more_accuracy():
    for reward in (make_reward(name) for name in REWARDS if name.startswith("releq")):
        assert reward(0.9, 1, {"bits": 0.3}) > reward(0.9, 1, {"bits": 0.5}) > reward(0.8, 1, {"bits": 0.5})


def test_the_state_of_quantization_can_be_weighted():
    weighted = replace(Releq(), metric="quantization")
    assert weighted(1.0, 1.0, {"bits": 0.9, "quantization": 0.5}) == pytest.approx(1 - 0.5**0.2)


def test_releqs_rewards_find_what_brute_force_found_in_its_table():
    assert best_three(REWARDS["releq"]) == [((2, 2, 3, 2), 0.2184), ((2, 3, 2, 2), 0.2128), ((2, 2, 3, 3), 0.2066)]
    assert best_three(REWARDS["releq-lenet"]) == [
        ((2, 2, 3, 3), 0.5650),
        ((2, 3, 3, 2), 0.5626),
        ((2, 3, 2, 3), 0.5318),
    ]


@pytest.mark.parametrize("weights", [(0.5, 0.5), (5, 5), (4, 6)])
def test_releqs_grid_cannot_tell_three_policies_apart(weights):
    worth = dict(on_lenet(ReleqGrid(*weights)))
    best = max(worth.values())
    assert {bits for bits, value in worth.items() if value == best} == {(2, 2, 3, 3), (2, 3, 2, 3), (2, 3, 3, 2)}
    # x = .3125 is level 15 of 50, 14 / 49; y = .985 is level 49, 48 / 49
    assert best == pytest.approx(2 * (weights[0] * (0.25 - 14 / 49) + weights[1] * 48 / 49))
    assert worth[2, 2, 2, 2] == 0


def test_releqs_grid_stays_within_its_levels():
    grid = ReleqGrid(0.5, 0.5)
    assert grid(1.0, 0.9, {"bits": 0.5}) == grid(1.0, 1.0, {"bits": 0.5})
    assert grid(0.0, 1.0, {"bits": 1.0}) == 0


def test_an_unknown_reward_gives_near_names():
    with pytest.raises(InputError, match="unknown reward 'releq-lenett': did you mean 'releq-lenet'"):
        make_reward("releq-lenett")
