"""The environment against Gymnasium's checker, hand-written observations and plain sums."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.budget import parse_budgets
from policies.costs import Costs
from policies.environment import BitWidthEnv
from policies.observations import layer_features
from policies.policy import Policy
from policies.space import Space
from policies.task import Task

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


def environment(ratio=1.0, pin_ends=True, lowest=2, highest=8, layers=LAYERS, costs=COSTS, every_step=False):
    widths = range(lowest, highest + 1)
    space = Space("net", layers, weight_widths=widths, activation_widths=widths, pin_ends=pin_ends)
    priced = Costs(space, Oracle(layers, load_accelerator("bitserial-tiny"), costs))
    task = Task(priced, MeanBits(), parse_budgets(f"latency={ratio}"))
    return BitWidthEnv(task, every_step=every_step)


def policy(outcome, env):
    return widths(env.task.space.policy(outcome.vector))


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
    env = environment(layers=layers, costs=COSTS[:2], pin_ends=False)
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
    env = environment(lowest=lowest, highest=highest, pin_ends=False)
    grid = (np.arange(70000) + 0.5) / 70000
    got = np.array([env.task.space.width(0, action) for action in grid])
    choices = highest - lowest + 1
    assert (got == lowest + np.floor(grid * choices)).all()
    assert tuple(env.task.space.width(0, action) for action in (0.0, 1.0)) == (lowest, highest)


def test_haqs_rounding_at_the_borders_is_half_to_even():
    env = environment(pin_ends=False)
    assert [env.task.space.width(0, k / 7) for k in range(8)] == [2, 2, 4, 4, 6, 6, 8, 8]


def test_actions_become_weight_then_activation_bits_and_ends_are_pinned():
    actions = [0.0, 0.0, 0.0, 1.0, 0.5, 0.2, 0.0, 0.0]
    env = environment()
    *_, info = play(env, actions)
    assert policy(info["outcome"], env) == [(8, 8), (2, 8), (5, 3), (8, 8)]
    env = environment(pin_ends=False)
    *_, info = play(env, actions)
    assert policy(info["outcome"], env) == [(2, 2), (2, 8), (5, 3), (2, 2)]


def test_the_reward_is_a_tenth_of_the_change_in_percentage_points():
    _, reward, terminated, truncated, info = play(environment(), [0.5] * 8)
    assert info["outcome"].accuracy == (4 * 8 + 4 * 5) / 8 / 8
    assert reward == pytest.approx(0.1 * (81.25 - 90.0))
    assert (terminated, truncated) == (True, False)


def test_every_step_is_evaluated_with_the_rest_at_its_widest_if_asked_for():
    env = environment(every_step=True, pin_ends=False)
    env.reset()
    rewards = [env.step(np.array([0.0], dtype=np.float32))[1] for _ in range(8)]
    accuracies = [(2 * step + 8 * (8 - step)) / 8 / 8 for step in range(1, 9)]
    assert rewards == pytest.approx([10 * (accuracy - 0.9) for accuracy in accuracies])
    assert [widths(asked)[0] for asked in env.task.evaluator.asked[:2]] == [(2, 8), (2, 2)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8), st.floats(0.66, 1.0), st.integers(2, 4))
def test_every_policy_fits_the_budget_and_costs_what_is_said(actions, ratio, lowest):
    env = environment(ratio, lowest=lowest)
    outcome = play(env, actions)[4]["outcome"]
    bits = policy(outcome, env)
    cost = sum(scale * w * a for scale, (w, a) in zip((5, 2, 3, 1), bits, strict=True))
    full = 64 * (5 + 2 + 3 + 1)
    assert outcome.cost == cost
    assert outcome.ratios["latency"] == pytest.approx(cost / full)
    assert outcome.budget_used == pytest.approx(cost / full / ratio)
    assert outcome.budget_used <= 1
    assert bits[0] == bits[-1] == (8, 8)
    assert min(min(pair) for pair in bits) >= lowest


def test_a_repeated_policy_is_evaluated_once():
    env = environment()
    outcomes = [play(env, actions)[4]["outcome"] for actions in ([0.5] * 8, [0.1] * 8, [0.51] * 8)]
    assert [outcome.cached for outcome in outcomes] == [False, False, True]
    assert outcomes[0].accuracy == outcomes[2].accuracy
    assert len(env.task.evaluator.asked) == len(env.task.asked) == 2


def test_a_resumed_task_answers_from_the_saved_evaluations():
    env = environment()
    before = play(env, [0.5] * 8)[4]["outcome"]
    assert env.task.evaluations == {"88 55 55 88": before.accuracy}
    resumed = environment()
    resumed.task.evaluations = dict(env.task.evaluations)
    after = play(resumed, [0.5] * 8)[4]["outcome"]
    assert after.row(env.task.space) == before.row(env.task.space)
    assert resumed.task.evaluator.asked == []


def test_a_step_after_the_end_asks_for_a_reset():
    env = environment()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1, dtype=np.float32))
    play(env, [0.5] * 8)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1, dtype=np.float32))


def test_an_impossible_budget_is_refused_before_the_first_episode():
    # Of 64 * 11 cycles the pinned layers cost 64 * 6 and the others, at 2 bits, 4 * 5: 404 / 704 = 0.57386.
    with pytest.raises(InputError, match=r"lowest reachable is latency=0\.574 "):
        environment(0.5)
    environment(0.574)


def test_accuracies_in_percent_are_refused():
    env = environment()
    env.task.evaluator.accuracy = lambda policy: 71.2
    with pytest.raises(InputError, match=r"fraction in \[0, 1\], got 71\.2"):
        play(env, [0.5] * 8)


def test_kernels_take_a_step_each():
    space = Space("net", LAYERS[:2], weight_widths=(0, 4, 8), activation_widths=(8,), group=1)
    task = Task(Costs(space, Oracle(LAYERS[:2], load_accelerator("bitserial-tiny"))), MeanBits())
    assert BitWidthEnv(task).steps_per_episode == 8 + 1 + 8 + 1


def test_somebody_elses_agent_learns_in_it():
    from stable_baselines3 import PPO

    env = environment(pin_ends=False)
    env.task.reward = lambda accuracy, reference, ratios: -ratios["latency"]  # the narrowest is the best
    agent = PPO("MlpPolicy", env, n_steps=64, batch_size=32, learning_rate=3e-3, seed=0, device="cpu")
    before = play(env, [0.5] * 8)[1]
    agent.learn(2048)
    observation, _ = env.reset()
    over = False
    while not over:
        action, _ = agent.predict(observation, deterministic=True)
        observation, reward, over, *_ = env.step(action)
    assert reward > before / 2
