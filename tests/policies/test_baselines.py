"""The agents that do not learn, and making agents by name."""

import io

import numpy as np
import pytest
import torch

from hardware.errors import InputError
from hardware.layer import Layer
from policies.agent import agent_names, make_agent
from policies.baselines import RandomAgent, UniformAgent
from policies.budget import Budget
from policies.environment import BitWidthEnv

OBSERVATION = np.zeros(10, dtype=np.float32)


def saved(agent):
    """The agent's state after a round trip through a file."""
    buffer = io.BytesIO()
    torch.save(agent.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


class Half:
    reference_accuracy = 0.5

    def accuracy(self, policy):
        return 0.5


def test_agents_are_made_by_name():
    assert agent_names() == ["haq", "random", "uniform"]
    for name in agent_names():
        agent = make_agent(name, steps_per_episode=4, episodes=10, seed=0)
        action = agent.act(OBSERVATION)
        assert action.shape == (1,)
        assert action.dtype == np.float32
        assert 0 <= action[0] <= 1


def test_an_unknown_agent_gives_near_names():
    with pytest.raises(InputError, match=r"unknown agent 'hak': did you mean 'haq'\? Known: haq, random, uniform"):
        make_agent("hak", steps_per_episode=4, episodes=10, seed=0)


@pytest.mark.parametrize("name", ["haq", "random", "uniform"])
def test_the_environment_and_a_named_agent_play_together(name):
    layers = [Layer(f"l{i}", "linear", 8, 8) for i in range(3)]
    widths = np.arange(1, 9)
    costs = np.ones((3, 1, 1)) * widths[:, None] * widths
    env = BitWidthEnv("net", layers, costs, Budget("latency", 0.8), Half())
    agent = make_agent(name, steps_per_episode=env.steps_per_episode, episodes=3, seed=0)
    for _ in range(3):
        observation, _ = env.reset()
        terminated = False
        while not terminated:
            observation, reward, terminated, _, info = env.step(agent.act(observation))
        agent.finish_episode(reward)
        assert info["budget_used"] <= 1
    assert env.new_evaluations + env.repeated_policies == 3


def test_random_actions_fill_the_interval_evenly_and_follow_the_seed():
    agent, twin, other = RandomAgent(5), RandomAgent(5), RandomAgent(6)
    actions = np.array([agent.act(OBSERVATION)[0] for _ in range(7000)])
    counts = np.histogram(actions, bins=7, range=(0, 1))[0]
    assert (abs(counts - 1000) < 5 * np.sqrt(1000)).all()
    assert (actions[:50] == [twin.act(OBSERVATION)[0] for _ in range(50)]).all()
    assert (actions[:50] != [other.act(OBSERVATION)[0] for _ in range(50)]).any()


def test_a_saved_random_agent_continues_where_it_was():
    agent, resumed = RandomAgent(5), RandomAgent(0)
    agent.act(OBSERVATION)
    resumed.load_state_dict(saved(agent))
    assert [agent.act(OBSERVATION)[0] for _ in range(20)] == [resumed.act(OBSERVATION)[0] for _ in range(20)]


def test_uniform_widths_go_from_8_to_2_bits_and_start_again():
    layers = [Layer("only", "linear", 8, 8)]
    env = BitWidthEnv("net", layers, np.ones((1, 8, 8)), Budget("latency", 1.0), Half())
    agent, widths = UniformAgent(), []
    for _ in range(9):
        episode = [env.width(float(agent.act(OBSERVATION)[0])) for _ in range(6)]
        agent.finish_episode(0.0)
        assert len(set(episode)) == 1
        widths.append(episode[0])
    assert widths == [8, 7, 6, 5, 4, 3, 2, 8, 7]


def test_a_saved_uniform_agent_continues_where_it_was():
    agent, resumed = UniformAgent(), UniformAgent()
    for _ in range(3):
        agent.finish_episode(0.0)
    resumed.load_state_dict(saved(agent))
    assert resumed.act(OBSERVATION)[0] == agent.act(OBSERVATION)[0] == np.float32(3.5 / 7)
