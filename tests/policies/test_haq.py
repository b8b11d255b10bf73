"""HAQ's agent: it learns, the same seed gives the same run, and a saved agent goes on where it was."""

import io
import math

import numpy as np
import pytest
import torch

from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.baselines import RandomAgent
from policies.budget import parse_budgets
from policies.costs import Costs
from policies.environment import BitWidthEnv
from policies.haq import Critic, HaqAgent, HaqOptions, truncated_normal
from policies.space import Space
from policies.task import Task

SMALL = HaqOptions(hidden=32)
WIDTHS = np.arange(1, 9)


class Sensitive:
    """Some weights and activations need their bits more than others; a deterministic, known accuracy."""

    reference_accuracy = 1.0

    def __init__(self, layers):
        self.sensitivity = np.exp(1.5 * np.random.default_rng(1).standard_normal((layers, 2)))

    def accuracy(self, policy):
        bits = np.array([(entry.weights.bits, entry.activations.bits) for entry in policy.layers])
        return math.exp(-(self.sensitivity * 4.0**-bits).sum())


def task(layers=5):
    shapes = [Layer(f"layer{i}", "linear", 8 * (i + 1), 8) for i in range(layers)]
    table = np.random.default_rng(0).integers(1, 5, (layers, 1, 1)) * WIDTHS[:, None] * WIDTHS.astype(float)
    costs = Costs(Space("net", shapes), Oracle(shapes, load_accelerator("bitserial-tiny"), table))
    return Task(costs, Sensitive(layers), parse_budgets("latency=0.25"))


def run(agent, episodes, layers=5):
    """Rewards and actions of ``episodes`` further episodes, two steps per layer."""
    env = BitWidthEnv(task(layers))
    rewards, actions = [], []
    for _ in range(episodes):
        observation, _ = env.reset()
        terminated = False
        while not terminated:
            actions.append(float(agent.act(observation)[0]))
            observation, reward, terminated, *_ = env.step(np.array(actions[-1:]))
        agent.finish_episode([reward])
        rewards.append(reward)
    return rewards, actions


def through_a_file(state):
    """The state after ``torch.save`` and a load that refuses everything but plain data."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_haq_learns_what_random_search_does_not_find():
    # Without the first episode, which is not learned: the widest bits, backed off.
    haq = [run(HaqAgent(16, 50, seed, SMALL), 50, layers=8)[0][1:] for seed in range(5)]
    chance = []
    for seed in range(5):
        agent = RandomAgent(task(8), seed)
        chance.append([agent.episode().reward for _ in range(50)])
    assert np.mean([max(rewards) for rewards in haq]) > np.mean([max(rewards) for rewards in chance]) + 0.5
    # And it is the policy that has improved: the last ten episodes against the random ones of the warm-up.
    assert np.mean([rewards[-10:] for rewards in haq]) > np.mean([rewards[:9] for rewards in haq]) + 1


def test_the_critic_learns_the_rewards_that_follow_an_action():
    # Four remembered episodes of two steps, all pairs of the actions 0 and 1; rewards -1, 0, 0 and 1, mean 0.
    options = HaqOptions(
        hidden=16, critic_rate=1e-2, actor_rate=1e-3, soft_update=0.05, warm_up=1, updates_per_step=300
    )
    agent = HaqAgent(2, 10, 0, options)
    observations = torch.tensor([[0.0] * 10, [1.0] * 10])
    state = agent.state_dict() | {"stored": 4}
    state["observations"][:4] = observations
    state["actions"][:4] = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    state["rewards"][:4] = torch.tensor([-1.0, 0.0, 0.0, 1.0])
    agent.load_state_dict(state)
    agent.finish_episode([0.0])
    critic = Critic(10, 16)
    critic.load_state_dict(agent.state_dict()["critic"])
    values = [[critic(observation, torch.tensor([a])).item() for a in (0.0, 1.0)] for observation in observations]
    # Last step: the mean reward of the action. First step: the same again, and the best of the last step, 0.5.
    assert np.allclose(values, [[0.0, 1.0], [-0.5, 0.5]], atol=0.25)


def test_the_first_episode_is_not_remembered():
    agent = HaqAgent(10, 15, 3, SMALL)
    run(agent, 1)
    assert agent.state_dict()["stored"] == 0
    run(agent, 1)
    assert agent.state_dict()["stored"] == 1


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    first, again, other = (run(HaqAgent(10, 15, seed, SMALL), 15) for seed in (3, 3, 4))
    assert first == again
    assert first[1] != other[1]


@pytest.mark.parametrize("episodes_before", [0, 2, 8])
def test_a_saved_agent_continues_bit_for_bit(episodes_before):
    options = HaqOptions(hidden=16, memory_episodes=5)  # the memory wraps around
    agent, resumed = HaqAgent(10, 15, 3, options), HaqAgent(10, 15, 99, options)
    run(agent, episodes_before)
    resumed.load_state_dict(through_a_file(agent.state_dict()))
    assert run(agent, 6) == run(resumed, 6)


def test_a_state_is_a_copy_even_in_the_middle_of_an_episode():
    agent, resumed = HaqAgent(10, 15, 3, SMALL), HaqAgent(10, 15, 99, SMALL)
    run(agent, 5)
    observation = np.full(10, 0.5, dtype=np.float32)
    for _ in range(4):
        agent.act(observation)
    state = agent.state_dict()

    def rest_of_the_episode_and_more(player):
        actions = [float(player.act(observation)[0]) for _ in range(6)]
        player.finish_episode([-1.0])
        return actions, run(player, 3)

    expected = rest_of_the_episode_and_more(agent)
    resumed.load_state_dict(through_a_file(state))
    assert rest_of_the_episode_and_more(resumed) == expected


def test_a_state_of_another_agent_is_refused():
    state = HaqAgent(10, 15, 3, SMALL).state_dict()
    for agent in (HaqAgent(12, 15, 3, SMALL), HaqAgent(10, 15, 3, HaqOptions(hidden=16))):
        with pytest.raises(InputError, match="resume with the network and the agent of the saved run"):
            agent.load_state_dict(state)
    with pytest.raises(InputError, match="expected the state of a HAQ agent"):
        HaqAgent(10, 15, 3, SMALL).load_state_dict(RandomAgent(task(), 0).state_dict())


def test_the_global_random_generator_is_not_touched():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(HaqAgent(10, 10, 3, SMALL), 4)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("episodes", "expected"), [(600, 20), (100, 20), (30, 6), (3, 1)])
def test_the_warm_up_fits_the_run(episodes, expected):
    assert HaqAgent(10, episodes, 0, SMALL).warm_up == expected


def test_the_first_episode_asks_for_the_widest_bits_and_the_warm_up_is_random():
    actions = np.reshape(run(HaqAgent(10, 200, 0, SMALL), 20)[1], (20, 10))
    assert (actions[0] == 1.0).all()
    assert len(np.unique(actions[1:])) == 190
    assert abs(actions[1:].mean() - 0.5) < 5 / np.sqrt(12 * 190)


def test_noise_falls_from_the_first_sigma_to_the_last_over_the_run():
    agent, sigmas = HaqAgent(10, 30, 0, HaqOptions(hidden=8, batch=4)), []
    for _ in range(24):
        sigmas += run(agent, 1) and [agent.sigma]
    after_warm_up = sigmas[5:]  # sigma of episode 6 onwards
    assert after_warm_up[0] == pytest.approx(0.5)
    assert np.allclose(np.diff(np.log(after_warm_up)), np.log(0.1) / 23)


def test_the_asked_number_of_steps_explores_on_average():
    options = HaqOptions(hidden=8, batch=4, warm_up=1, noisy_steps=100)
    agent = HaqAgent(400, 100, 0, options)
    observation = np.full(10, 0.5, dtype=np.float32)
    for _ in range(400):
        agent.act(observation)
    agent.finish_episode([0.0])
    actions = [float(agent.act(observation)[0]) for _ in range(400)]
    without_noise = max(actions.count(action) for action in actions)
    assert 300 - 5 * math.sqrt(75) < without_noise < 300 + 5 * math.sqrt(75)


@pytest.mark.parametrize(("mean", "sigma"), [(0.5, 0.1), (0.0, 0.3), (0.9, 0.5), (1.0, 0.01), (0.3, 2.0)])
def test_exploration_is_a_normal_distribution_cut_to_the_interval(mean, sigma):
    generator = torch.Generator().manual_seed(1)
    drawn = np.array([truncated_normal(mean, sigma, generator) for _ in range(4000)])
    normal = mean + sigma * np.random.default_rng(2).standard_normal(400_000)
    expected = normal[(normal >= 0) & (normal <= 1)]
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert abs(drawn.mean() - expected.mean()) < 5 * expected.std() / math.sqrt(len(drawn))
    grid = np.linspace(0, 1, 41)
    distance = abs((drawn[:, None] <= grid).mean(axis=0) - (expected[:, None] <= grid).mean(axis=0)).max()
    assert distance < 2 / math.sqrt(len(drawn))  # Kolmogorov-Smirnov, far beyond the 0.1 % level
