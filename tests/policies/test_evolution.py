"""NSGA-II: the optimum of an easy task, its objectives, and going on where a saved run ended."""

import io
import itertools
import math

import numpy as np
import pytest
import torch

from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.agent import make_agent
from policies.budget import Budget
from policies.costs import Costs
from policies.rewards import make_reward
from policies.space import Space
from policies.task import Task

WIDTHS = np.arange(1, 9.0)


class Separable:
    """Every bit taken away multiplies the accuracy; some layers need theirs more than others."""

    reference_accuracy = 1.0

    def __init__(self, layers):
        self.sensitivity = np.exp(np.random.default_rng(1).standard_normal((layers, 2)))

    def accuracy(self, policy):
        bits = np.array([(np.mean(entry.weights.bits), entry.activations.bits) for entry in policy.layers])
        return math.exp(-(self.sensitivity * 4.0**-bits).sum())


def make_task(layers=3, ratio=0.25, widths=range(2, 6), **space):
    """Latencies are products of both widths, times something per layer."""
    shapes = [Layer(f"layer{i}", "linear", 8 * (i + 1), 8) for i in range(layers)]
    table = np.random.default_rng(0).integers(1, 5, (layers, 1, 1)) * WIDTHS[:, None] * WIDTHS
    oracle = Oracle(shapes, load_accelerator("bitserial-tiny"), None if space else table)
    costs = Costs(Space("net", shapes, weight_widths=widths, activation_widths=widths, **space), oracle)
    return Task(costs, Separable(layers), (Budget((("latency", 1.0),), ratio),))


def run(agent, episodes):
    return [agent.episode() for _ in range(episodes)]


def through_a_file(state):
    """The state after ``torch.save`` and a load that refuses everything but plain data."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def texts(task, outcomes):
    return [(task.space.text(outcome.vector), outcome.reward) for outcome in outcomes]


def optimum(task):
    """The highest reward of all policies that fit."""
    candidates = np.array(list(itertools.product(*(variable.widths for variable in task.space.variables))))
    return max(task.evaluate(vector).reward for vector in candidates[task.limits.used(candidates) <= 1])


def test_the_optimum_of_a_separable_task_is_found():
    task = make_task(ratio=0.15, widths=range(2, 5))
    found = run(make_agent("nsga2", task, episodes=200, seed=0), 200)
    assert max(outcome.reward for outcome in found) == pytest.approx(optimum(make_task(ratio=0.15, widths=range(2, 5))))


def test_every_policy_fits_and_none_is_asked_for_twice():
    task = make_task(layers=4)
    found = run(make_agent("nsga2", task, episodes=80, seed=1), 80)
    assert all(task.limits.used(outcome.vector) <= 1 for outcome in found)
    assert len({task.space.text(outcome.vector) for outcome in found}) == 80
    assert not any(outcome.cached for outcome in found)


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    first, again, other = (
        texts(task, run(make_agent("nsga2", task, episodes=50, seed=seed), 50))
        for task, seed in ((make_task(), 3), (make_task(), 3), (make_task(), 4))
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("before", [0, 1, 25])
def test_a_saved_agent_continues_bit_for_bit_and_evaluates_nothing_again(before):
    task, other = make_task(), make_task()
    agent, resumed = (make_agent("nsga2", one, episodes=50, seed=seed) for one, seed in ((task, 3), (other, 99)))
    run(agent, before)
    resumed.load_state_dict(through_a_file(agent.state_dict()))
    assert not other.asked
    assert texts(task, run(agent, 20)) == texts(other, run(resumed, 20))
    assert agent.state_dict() == resumed.state_dict()


def test_a_state_of_another_agent_or_another_task_is_refused():
    agent = make_agent("nsga2", make_task(), episodes=20, seed=0)
    run(agent, 3)
    for state in (
        make_agent("greedy", make_task(), episodes=20, seed=0).state_dict(),
        make_agent("random", make_task(), episodes=20, seed=0).state_dict(),
        make_agent("nsga2", make_task(ratio=0.3), episodes=20, seed=0).state_dict(),
        make_agent("nsga2", make_task(layers=4), episodes=20, seed=0).state_dict(),
    ):
        with pytest.raises(InputError, match="expected the state of agent 'nsga2'"):
            agent.load_state_dict(state)


def test_an_exhausted_space_is_asked_again():
    task = make_task(layers=1, ratio=1.0, widths=(2, 8))
    assert len(run(make_agent("nsga2", task, episodes=20, seed=0), 8)) == 8
    assert len(task.asked) == 4


def test_kernel_wise_spaces_are_searched():
    task = make_task(layers=2, ratio=0.5, widths=range(1, 9), group=1)
    found = run(make_agent("nsga2", task, episodes=30, seed=0), 30)
    assert len(task.asked) == 30
    assert len({outcome.reward for outcome in found}) > 20


def test_a_history_that_this_search_would_not_have_walked_is_refused():
    agent = make_agent("nsga2", make_task(), episodes=20, seed=0)
    run(agent, 5)
    state = agent.state_dict()
    state["history"][3][0] = "22 22 22"
    with pytest.raises(InputError, match="asked for other policies than this one"):
        make_agent("nsga2", make_task(), episodes=20, seed=0).load_state_dict(state)


def test_the_objectives_are_the_loss_of_accuracy_and_the_budget_used():
    task = make_task()
    agent = make_agent("nsga2", task, episodes=10, seed=0)
    outcome = agent.episode()
    answer = next(iter(agent.answers.values()))
    assert agent.objectives(answer) == (-outcome.accuracy, outcome.budget_used)


def test_without_a_budget_the_cost_is_that_of_the_reward():
    budgeted = make_task()
    for reward, metric in (("haq", "latency"), ("releq", "bits")):
        task = Task(budgeted.costs, budgeted.evaluator, (), make_reward(reward))
        agent = make_agent("nsga2", task, episodes=10, seed=0)
        outcome = agent.episode()
        assert agent.objectives(next(iter(agent.answers.values()))) == (-outcome.accuracy, outcome.ratios[metric])


def test_the_global_random_generator_is_not_touched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    run(make_agent("nsga2", make_task(), episodes=40, seed=0), 40)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
