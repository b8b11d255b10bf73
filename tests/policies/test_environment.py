"""The environment against Gymnasium's checker, hand-written observations and plain sums."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.errors import InputError
from hardware.layer import Layer
from policies.budget import Budget
from policies.environment import BitWidthEnv, layer_features
from policies.policy import Policy

LAYERS = (
    Layer("stem", "conv", 3, 8, 16, 16, (3, 3), (1, 1), (1, 1)),
    Layer("depthwise", "conv", 8, 8, 16, 16, (5, 5), (2, 2), (2, 2), groups=8),
    Layer("point", "conv", 8, 24, 8, 8),
    Layer("head", "linear", 24, 10),
)
WIDTHS = np.arange(1, 9)
COSTS = np.array([5.0, 2.0, 3.0, 1.0])[:, None, None] * WIDTHS[:, None] * WIDTHS


class MeanBits:
    """Accuracy that is the mean width / 8; remembers what it was asked."""

    reference_accuracy = 0.9

    def __init__(self):
        self.asked = []

    def accuracy(self, policy: Policy) -> float:
        policy.check("net", LAYERS)
        self.asked.append(policy)
        return float(np.mean(widths(policy))) / 8


def widths(policy):
    return [(entry.weights.bits, entry.activations.bits) for entry in policy.layers]


def environment(ratio=1.0, pin_ends=True, **options):
    return BitWidthEnv("net", LAYERS, COSTS, Budget("latency", ratio), MeanBits(), pin_ends=pin_ends, **options)


def play(env, actions):
    """One episode; the last step's answer."""
    env.reset()
    for action in actions[:-1]:
        _, reward, terminated, truncated, info = env.step(np.array([action], dtype=np.float32))
        assert (reward, terminated, truncated, info) == (0.0, False, False, {})
    return env.step(np.array([actions[-1]], dtype=np.float32))


def test_gymnasium_accepts_the_environment():
    check_env(environment(0.6), skip_render_check=True)


def test_observations_are_haqs_ten_dimensions_normalized_over_the_layers():
    env = environment(pin_ends=False)
    seen = [env.reset()[0]]
    for action in (0.0, 1.0, 0.5, 0.5):
        seen.append(env.step(np.array([action], dtype=np.float32))[0])
    # depthwise, c_in 3-24, c_out 8-24, stride 0-2, kernel 1-5, weights 192-240, pixels 1-256, index, bits, weight step
    stem = [0, 0, 0, 0.5, 0.5, (216 - 192) / 48, 1, 0]
    depthwise = [1, 5 / 21, 0, 1, 1, (200 - 192) / 48, 1, 1 / 3]
    point = [0, 5 / 21, 1, 0.5, 0, 0, (64 - 1) / 255, 2 / 3]
    expected = [[*stem, 1, 1], [*stem, 2 / 8, 0], [*depthwise, 1, 1], [*depthwise, 5 / 8, 0], [*point, 5 / 8, 1]]
    assert np.allclose(seen, expected)
    assert all(observation.dtype == np.float32 for observation in seen)


def test_a_linear_layer_is_told_by_its_features_also_after_a_flatten():
    flat, image = Layer("head", "linear", 36, 10), Layer("head", "linear", 4, 10, 3, 3, (3, 3))
    assert np.array_equal(layer_features([*LAYERS[:3], flat]), layer_features([*LAYERS[:3], image]))


def test_a_feature_that_is_the_same_in_all_layers_is_zero():
    layers = [Layer(name, "conv", 1000, 1000, 4, 4, (3, 3)) for name in ("a", "b")]
    env = BitWidthEnv("net", layers, COSTS[:2], Budget("latency", 1.0), MeanBits())
    assert env.reset()[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]


def test_one_input_channel_is_not_depthwise():
    grey, full = Layer("grey", "conv", 1, 4, 4, 4, (3, 3)), Layer("full", "conv", 4, 4, 4, 4, (3, 3))
    assert layer_features([grey, full, replace(full, groups=4)])[:, 0].tolist() == [0, 0, 1]


def test_every_episode_starts_alike():
    env = environment()
    first = env.reset()[0]
    play(env, [0.1] * 8)
    assert (env.reset()[0] == first).all()


def test_a_pinned_layer_shows_the_8_bits_it_got():
    env = environment()
    env.reset()
    observation, *_ = env.step(np.zeros(1, dtype=np.float32))
    assert observation[8] == 1.0


@pytest.mark.parametrize(("lowest", "highest"), [(2, 8), (1, 8), (1, 7), (3, 3), (2, 5)])
def test_equal_shares_of_the_actions_belong_to_every_width(lowest, highest):
    env = environment(lowest_bits=lowest, highest_bits=highest)
    grid = (np.arange(70000) + 0.5) / 70000
    got = np.array([env.width(action) for action in grid])
    choices = highest - lowest + 1
    assert (got == lowest + np.floor(grid * choices)).all()
    assert (env.width(0.0), env.width(1.0)) == (lowest, highest)


def test_haqs_rounding_at_the_borders_is_half_to_even():
    env = environment()
    assert [env.width(k / 7) for k in range(8)] == [2, 2, 4, 4, 6, 6, 8, 8]


def test_actions_become_weight_then_activation_bits_and_ends_are_pinned():
    actions = [0.0, 0.0, 0.0, 1.0, 0.5, 0.2, 0.0, 0.0]
    *_, info = play(environment(), actions)
    assert widths(info["policy"]) == [(8, 8), (2, 8), (5, 3), (8, 8)]
    *_, info = play(environment(pin_ends=False), actions)
    assert widths(info["policy"]) == [(2, 2), (2, 8), (5, 3), (2, 2)]


def test_nothing_is_pinned_unless_asked_for():
    env = BitWidthEnv("net", LAYERS, COSTS, Budget("latency", 1.0), MeanBits())
    *_, info = play(env, [0.0] * 8)
    assert widths(info["policy"]) == [(2, 2)] * 4


def test_the_reward_is_a_tenth_of_the_change_in_percentage_points():
    _, reward, terminated, truncated, info = play(environment(), [0.5] * 8)
    assert info["accuracy"] == (4 * 8 + 4 * 5) / 8 / 8
    assert reward == pytest.approx(0.1 * (81.25 - 90.0))
    assert (terminated, truncated) == (True, False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8), st.floats(0.66, 1.0), st.integers(2, 4))
def test_every_policy_fits_the_budget_and_costs_what_is_said(actions, ratio, lowest):
    *_, info = play(environment(ratio, lowest_bits=lowest), actions)
    bits = widths(info["policy"])
    cost = sum(scale * w * a for scale, (w, a) in zip((5, 2, 3, 1), bits, strict=True))
    full = 64 * (5 + 2 + 3 + 1)
    assert info["cost"] == cost
    assert info["cost_ratio"] == pytest.approx(cost / full)
    assert info["budget_used"] == pytest.approx(cost / full / ratio)
    assert cost <= ratio * full
    assert bits[0] == bits[-1] == (8, 8)
    assert min(min(pair) for pair in bits) >= lowest


def test_a_repeated_policy_is_evaluated_once():
    env = environment()
    infos = [play(env, actions)[4] for actions in ([0.5] * 8, [0.1] * 8, [0.51] * 8)]
    assert [info["cached"] for info in infos] == [False, False, True]
    assert infos[0]["accuracy"] == infos[2]["accuracy"]
    assert len(env.evaluator.asked) == 2
    assert (env.new_evaluations, env.repeated_policies) == (2, 1)


def test_a_resumed_environment_answers_from_the_saved_evaluations():
    env = environment()
    *_, before = play(env, [0.5] * 8)
    assert env.evaluations == {"88 55 55 88": before["accuracy"]}
    resumed = environment()
    resumed.evaluations = dict(env.evaluations)
    *_, after = play(resumed, [0.5] * 8)
    assert after == before | {"cached": True}
    assert resumed.evaluator.asked == []


def test_a_step_after_the_end_asks_for_a_reset():
    env = environment()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1, dtype=np.float32))
    play(env, [0.5] * 8)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1, dtype=np.float32))


@pytest.mark.parametrize(("lowest", "highest"), [(0, 8), (2, 9), (5, 4)])
def test_an_impossible_range_of_widths_is_refused(lowest, highest):
    with pytest.raises(InputError, match=f"got {lowest} and {highest}"):
        environment(lowest_bits=lowest, highest_bits=highest)


def test_a_table_of_other_layers_is_refused():
    with pytest.raises(InputError, match=r"got 4 layers and costs of shape \(3, 8, 8\)"):
        BitWidthEnv("net", LAYERS, COSTS[:3], Budget("latency", 1.0), MeanBits())


def test_an_impossible_budget_is_refused_before_the_first_episode():
    # Of 64 * 11 cycles the pinned layers cost 64 * 6 and the others, at 2 bits, 4 * 5: 404 / 704 = 0.57386.
    with pytest.raises(InputError, match=r"lowest reachable is latency=0\.574 "):
        environment(0.5)
    environment(0.574)


def test_accuracies_in_percent_are_refused():
    env = environment()
    env.evaluator.accuracy = lambda policy: 71.2
    with pytest.raises(InputError, match=r"fraction in \[0, 1\], got 71\.2"):
        play(env, [0.5] * 8)
