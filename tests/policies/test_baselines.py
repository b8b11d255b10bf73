"""The agents that do not learn, and making agents by name."""

import io

import numpy as np
import pytest
import torch

from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.agent import agent_names, make_agent
from policies.baselines import RandomAgent, UniformAgent
from policies.budget import parse_budgets
from policies.costs import Costs
from policies.space import Space
from policies.task import Task

WIDTHS = np.arange(1, 9)


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


def task(budget="latency=0.8", layers=3, **options):
    shapes = [Layer(f"l{i}", "linear", 8, 8) for i in range(layers)]
    table = np.ones((layers, 1, 1)) * WIDTHS[:, None] * WIDTHS
    space = Space("net", shapes, **options)
    return Task(Costs(space, Oracle(shapes, load_accelerator("bitserial-tiny"), table)), Half(), parse_budgets(budget))


def played(agent, episodes):
    return [agent.episode().vector.tolist() for _ in range(episodes)]


def test_an_unknown_agent_gives_near_names():
    with pytest.raises(InputError, match=r"unknown agent 'hak': did you mean 'haq'\? Known: .*haq.*, random"):
        make_agent("hak", task(), episodes=10, seed=0)


@pytest.mark.parametrize("name", agent_names())
def test_every_named_agent_keeps_the_budget_and_repeats_itself_under_its_seed(name):
    runs = []
    for _ in range(2):
        problem = task()
        agent = make_agent(name, problem, episodes=6, seed=3)
        outcomes = [agent.episode() for _ in range(6)]
        assert all(outcome.budget_used <= 1 for outcome in outcomes)
        assert 1 <= len(problem.asked) <= 6 * len(problem.space.variables)
        runs.append([outcome.vector.tolist() for outcome in outcomes])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", agent_names())
def test_every_named_agent_continues_where_it_was_saved(name):
    problem, twin = task(), task()
    agent = make_agent(name, problem, episodes=9, seed=3)
    played(agent, 4)
    resumed = make_agent(name, twin, episodes=9, seed=3)
    resumed.load_state_dict(saved(agent))
    twin.evaluations, twin.asked = dict(problem.evaluations), set(problem.asked)
    assert played(agent, 5) == played(resumed, 5)


def test_random_widths_are_all_alike_likely_and_follow_the_seed():
    agents = [RandomAgent(task("none"), seed) for seed in (5, 5, 6)]
    first, twin, other = (np.array(played(agent, 1000)) for agent in agents)
    counts = np.bincount(first.reshape(-1))
    assert (counts[:2] == 0).all()
    assert (abs(counts[2:] - 6000 / 7) < 5 * np.sqrt(6000 / 7)).all()
    assert (first == twin).all()
    assert (first != other).any()


def test_uniform_widths_go_from_8_to_2_bits_and_start_again():
    found = played(UniformAgent(task("none", layers=1)), 9)
    assert found == [[width, width] for width in (8, 7, 6, 5, 4, 3, 2, 8, 7)]


def test_uniform_ranks_of_other_widths():
    found = played(UniformAgent(task("none", layers=1, weight_widths=(2, 3, 4, 5, 8), activation_widths=None)), 5)
    assert found == [[8], [5], [4], [3], [2]]
